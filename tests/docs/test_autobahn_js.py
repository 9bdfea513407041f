"""What docs/autobahn-js.md has one run is run, in its order, on a real server, and prints what the page says.

A page's section that begins a program of its own is a chapter: one test each. A block of code goes to the chapter's
program, and is run when the page has come to it; `sh` is typed into a shell; `text` is what has been printed since.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple, cast

import pytest
import pytest_twisted
from twisted.internet.utils import getProcessOutputAndValue

from tests.support.child_programs import Program
from tests.support.paths import ROOT
from tests.support.recorder import Record
from tests.support.recording_clients import V2Client
from tests.support.server_process import Server
from tests.support.wamp_programs import CLIENTS, needs_node, until

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs/autobahn-js.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$|^<!-- test: ([^\n]+) -->$", re.MULTILINE | re.DOTALL)
PREPARATION = "Autobahn JS"  # the heading of what comes first, whoever speaks then
CHAPTERS = ("Where it runs", "wampy.js", "Autobahn Python")

#: Before each block of JavaScript: wait until the page has come there. Imports are done before all else in any case.
TURNS = """import {createInterface} from "node:readline";
const turns = createInterface({input: process.stdin})[Symbol.asyncIterator]();
"""
TURN = "await turns.next();\n"


class Part(NamedTuple):
    """A block of code or text, or a stage direction, whose kind is "test"."""

    kind: str
    content: str


def parts(text: str) -> list[Part]:
    """What stands in a part of the page that is to be run or compared, in its order."""
    return [Part(found[1] or "test", found[2] or found[3]) for found in BLOCK.finditer(text)]


def chapters(text: str) -> dict[str, list[Part]]:
    """The page's chapters, each with the sections that belong to its program, and first the preparation."""
    found: dict[str, list[Part]] = {}
    current = PREPARATION
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        current = heading if heading in CHAPTERS else current
        found.setdefault(current, []).extend(parts(section))
    return found


def settled(lines: list[str]) -> tuple[list[str], int]:
    """Lines without those that say how far a room has caught up, and how many these are: a message that is sent at once
    may come before its room has caught up, or after that."""
    others = [line for line in lines if not line.endswith(" caught_up")]
    return others, len(lines) - len(others)


class Reading:
    """Reads a chapter, and does what it says. `elsewhere`: the same server, with another port for clients. `program`:
    what has been started."""

    def __init__(self, server: Server, elsewhere: Server, folder: Path) -> None:
        self.server = server
        self.elsewhere = elsewhere
        self.folder = folder
        self.token = ""
        self.program: Program | None = None
        self._compared = 0  # how many lines of its output

    def here(self, text: str) -> str:
        """With this server's ports."""
        return text.replace(":6010", f":{self.server.where.ws}").replace(":6009", f":{self.server.where.api}")

    async def shell(self, commands: str) -> None:
        """Type them into a shell. A token that is answered is the one that the program will have."""
        script = f"set -e\n{self.here('API=http://127.0.0.1:6009')}\n{self.here(commands)}"
        argv = ["-c", script.replace("curl", "curl --silent --show-error --fail")]
        answered = await getProcessOutputAndValue("/bin/bash", argv, {"PATH": "/usr/bin:/bin"})
        out, err, code = cast(tuple[bytes, bytes, int], answered)
        assert (err, code) == (b"", 0), out
        if made := re.search(rb'"token":"([^"]+)"', out):
            self.token = made[1].decode()

    def start(self, chapter: list[Part]) -> None:
        """Start the chapter's program."""
        (kind,) = {part.kind for part in chapter} - {"sh", "text", "test"}
        blocks = [self.here(part.content) for part in chapter if part.kind == kind]
        if kind == "python":
            path = self.folder / "page.py"
            path.write_text(blocks[0])
            argv = [sys.executable, "-u", path]
        else:
            (self.folder / "node_modules").symlink_to(CLIENTS / "node_modules")
            path = self.folder / "page.mjs"
            path.write_text(TURNS + "".join(TURN + block for block in blocks))
            argv = [shutil.which("node") or "node", path]
        self.program = Program([*argv, self.token])

    def printed(self) -> list[str]:
        """The whole lines that the program has printed and nobody has compared."""
        assert self.program is not None
        return self.program.out.decode().split("\n")[self._compared : -1]

    async def compare(self, text: str) -> None:
        """What was printed since is this; it may take a while to come."""
        expected = text.splitlines()
        assert self.program is not None
        ended = self.program.ended
        await until(
            lambda: len(self.printed()) >= len(expected) or ended.called,
            lambda: f"it says {self.printed()}, not yet {expected}",
        )
        assert settled(self.printed()[: len(expected)]) == settled(expected), self.program.err.decode()
        self._compared += len(expected)

    async def direct(self, direction: str) -> None:
        """What happens beside the program."""
        if direction == "the server is killed, and up at another address":
            await self.server.kill()
            await self.elsewhere.start()
        elif direction == "the server is back":
            await self.elsewhere.kill()
            await self.server.start()
        elif direction == "the program ends":
            await until(lambda: self.program and self.program.ended.called, lambda: "the program goes on")
        else:
            assert direction == "ben comes, types, reads 5 and goes", direction
            ben = V2Client(Record(), self.server.where, "ben", await self.server.token("ben"))
            await ben.connect()
            ben.write(type="typing", rid="lobby")
            ben.write(type="read", rid="lobby", seq=5)
            await until(lambda: b"ben has read" in self.program.out, lambda: "ben is not heard")  # type: ignore[union-attr]
            await ben.close()

    async def read(self, chapter: list[Part], preparation: list[Part]) -> None:
        """The whole chapter. In the end all that was printed has been compared."""
        for part in preparation:
            await self.shell(part.content)
        self.start(chapter)
        assert self.program is not None
        for part in chapter:
            if part.kind == "sh":
                await self.shell(part.content)
            elif part.kind == "text":
                await self.compare(part.content)
            elif part.kind == "test":
                await self.direct(part.content)
            else:
                self.program.type("go on\n")
        assert self.printed() == []


@pytest_twisted.async_yield_fixture
async def reading(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Reading]:
    api = free_port()
    reading = Reading(Server(tmp_path, (free_port(), api)), Server(tmp_path, (free_port(), api)), tmp_path)
    await reading.server.start()
    yield reading
    for server in (reading.server, reading.elsewhere):
        if server.processes:
            await server.kill()
    if (program := reading.program) is not None:
        program.signal("KILL")
        await until(lambda: program.ended.called, lambda: "the program cannot be killed")


WAYS = [
    pytest.param("Where it runs", "", id="autobahn_js", marks=needs_node),
    pytest.param("wampy.js", "", id="wampy_js", marks=needs_node),
    pytest.param("Autobahn Python", "autobahn.twisted", id="autobahn_python_on_twisted"),
    pytest.param("Autobahn Python", "autobahn.asyncio", id="autobahn_python_on_asyncio"),
]


@pytest.mark.parametrize(("chapter", "package"), WAYS)
@pytest_twisted.ensureDeferred
async def test_the_page_says_what_happens(chapter: str, package: str, reading: Reading) -> None:
    page = chapters(PAGE.read_text("utf-8"))
    told = [Part(kind, content.replace("autobahn.twisted", package)) for kind, content in page[chapter]]
    await reading.read(told, page[PREPARATION])


def test_all_of_the_page_belongs_to_a_chapter() -> None:
    text = PAGE.read_text("utf-8")
    page = chapters(text)
    assert set(page) == {PREPARATION, *CHAPTERS}
    assert sum(map(len, page.values())) == text.count("\n```\n") + text.count("<!-- test:")
    assert {part.kind for part in page[PREPARATION]} == {"sh"}


def test_blocks_and_directions_are_found_in_their_order() -> None:
    text = "# One\n```sh\na\n```\nb `c`\n<!-- test: d -->\n```text\ne\nf\n```\n"
    assert parts(text) == [Part("sh", "a\n"), Part("test", "d"), Part("text", "e\nf\n")]
