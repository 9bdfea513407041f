"""Real WAMP clients in the tests: Autobahn's and wampy.js, in programs and pages of their own (tests/wamp/programs/).

Each talks in a room until somebody says "stop" there, comes back when it is disconnected, and says in lines of JSON
what it sees. wamp_judge.py judges that.
"""

from __future__ import annotations

import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tests.support.browser import chromium
from tests.support.child_programs import Program
from tests.support.paths import ROOT

CLIENTS = ROOT / "tests/wamp/programs"
MODULES = CLIENTS / "node_modules"
PATIENCE = 60.0  # seconds until a client that does not get on is given up

needs_node = pytest.mark.skipif(
    not (shutil.which("node") and MODULES.exists()),
    reason="there is no node, or no tests/wamp/programs/node_modules: `make test` brings both, where it can",
)

Task = dict[str, str]  # what a client is told: see wamp_clients/autobahn_client.js


async def until(what: Callable[[], object], why: Callable[[], str]) -> None:
    """Wait until `what` is true."""
    waited = 0.0
    while not what():
        assert waited < PATIENCE, why()
        waited += 0.05
        await deferLater(reactor, 0.05)


class Client(ABC):
    """A client that talks in a room."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @property
    @abstractmethod
    def said(self) -> list[dict[str, Any]]:
        """What it saw, as it said it."""

    def saw(self, what: str) -> list[dict[str, Any]]:
        return [said for said in self.said if said["saw"] == what]

    @abstractmethod
    def has_ended(self) -> bool:
        """Whether it is done."""

    @abstractmethod
    def complaint(self) -> str:
        """What went wrong with the program itself, if anything did."""


class ProgramClient(Client):
    """A client in a process of its own."""

    def __init__(self, task: Task, argv: Sequence[str]) -> None:
        super().__init__(task)
        self.program = Program([*argv, json.dumps(task)])
        self._said: list[dict[str, Any]] = []
        self._read = 0  # how much of its output is in there

    @property
    def said(self) -> list[dict[str, Any]]:
        end = self.program.out.rfind(b"\n") + 1
        lines = self.program.out[self._read : end].splitlines()
        self._said += [json.loads(line) for line in lines]
        self._read = max(self._read, end)
        return self._said

    def has_ended(self) -> bool:
        return self.program.ended.called

    def complaint(self) -> str:
        code = getattr(self.program.ended, "result", None)
        return "" if code == 0 else f"it ended with {code}:\n{self.program.err.decode()}"


class PageClient(Client):
    """A client in a page of a browser: what it sees it writes to the console."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._said: list[dict[str, Any]] = []
        self._errors: list[str] = []

    def open(self, browser: Browser, site: str) -> Page:
        """Begin. Only in the thread from which the browser is driven."""
        page = browser.new_context().new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.goto(site)
        page.evaluate("task => begin(task)", self.task)
        return page

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "log":
            self._said.append(json.loads(message.text))

    @property
    def said(self) -> list[dict[str, Any]]:
        return self._said

    def has_ended(self) -> bool:
        return bool(self._errors or self.saw("end"))

    def complaint(self) -> str:
        return "\n".join(self._errors)


PAGE = b"""<!doctype html>
<script src="autobahn.js"></script>
<script src="autobahn_client.js"></script>
<script>
   const say = (what) => console.log(JSON.stringify(what));
   const begin = (task) => talk(autobahn, task, say, () => say({saw: "end"}));
</script>
"""


class Fixed(Resource):
    """Something to get."""

    def __init__(self, kind: bytes, content: bytes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind = kind
        self._content = content

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", self._kind)
        return self._content


class Programs:
    """A kind of clients that are programs: `argv` without the task."""

    def __init__(self, *argv: str) -> None:
        self._argv = argv
        self._clients: list[ProgramClient] = []

    async def begin(self, tasks: Sequence[Task]) -> Sequence[Client]:
        """Start one client for each task."""
        self._clients = [ProgramClient(task, self._argv) for task in tasks]
        return self._clients

    async def end(self) -> None:
        """Whatever still runs does so no more."""
        for client in self._clients:
            client.program.signal("KILL")
            await until(client.has_ended, lambda: "a client cannot be killed")


class Pages:
    """The clients that are pages in Chromium, with Autobahn JS in one file, served from here."""

    def __init__(self) -> None:
        self._enough = False
        self._done: Deferred[None] | None = None
        self._port: Any = None

    async def begin(self, tasks: Sequence[Task]) -> Sequence[Client]:
        """Open one page for each task."""
        site = Resource()
        site.putChild(b"", Fixed(b"text/html", PAGE))
        site.putChild(b"autobahn.js", Fixed(b"text/javascript", await bundle("autobahn")))
        talk = (CLIENTS / "autobahn_client.js").read_bytes()
        site.putChild(b"autobahn_client.js", Fixed(b"text/javascript", talk))
        self._port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Site(site))
        clients = [PageClient(task) for task in tasks]
        self._done = deferToThread(self._drive, clients, f"http://127.0.0.1:{self._port.getHost().port}/")
        return clients

    def _drive(self, clients: Sequence[PageClient], site: str) -> None:
        with chromium() as browser:
            pages = [client.open(browser, site) for client in clients]
            while not self._enough:
                pages[0].wait_for_timeout(50)  # meanwhile what the pages say comes in

    async def end(self) -> None:
        self._enough = True
        if self._done is not None:
            await self._done
        if self._port is not None:
            await self._port.stopListening()


async def bundle(package: str) -> bytes:
    """A package of node_modules, with all that it needs, as one script for a browser."""
    argv = [str(MODULES / ".bin/browserify"), str(MODULES / package), "--standalone", package]
    out, err, code = cast(
        tuple[bytes, bytes, int], await getProcessOutputAndValue(shutil.which("node") or "node", argv)
    )
    assert code == 0, err.decode()
    return out


def kinds() -> dict[str, Callable[[], Programs | Pages]]:
    """All kinds of clients."""
    node = shutil.which("node") or "node"
    return {
        "autobahn_js_in_node": lambda: Programs(node, str(CLIENTS / "autobahn_node.js")),
        "autobahn_js_in_chromium": Pages,
        "autobahn_python_on_twisted": lambda: Programs(sys.executable, str(CLIENTS / "autobahn_twisted.py")),
        "autobahn_python_on_asyncio": lambda: Programs(sys.executable, str(CLIENTS / "autobahn_asyncio.py")),
        "wampy_js_in_node": lambda: Programs(node, str(CLIENTS / "wampy_node.mjs")),
    }
