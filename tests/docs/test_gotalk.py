"""What docs/gotalk.md has one type into a shell is typed, and answers as the page says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.utils import getProcessOutputAndValue

from tests.support.gotalk_http_client import GotalkWithEngine
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs/gotalk.md"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def typed(text: str) -> list[tuple[str, str]]:
    """The commands of the page's blocks, each with what it prints."""
    found: list[tuple[str, str]] = []
    for line in re.findall(r"^    (.*)$", text, re.MULTILINE):
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


@ensureDeferred
async def test_the_page_says_what_happens(tmp_path: Path, free_port: Callable[[], int]) -> None:
    commands = typed(PAGE.read_text("utf-8"))
    assert len(commands) > 10

    def no_mariadb() -> None:
        raise AssertionError

    async with GotalkWithEngine(tmp_path, "memory", free_port, no_mariadb) as town:  # type: ignore[arg-type]
        script = "\n".join(f"{command}\necho; echo ---" for command, _ in commands)
        script = script.replace("127.0.0.1:9000", f"127.0.0.1:{town.gotalk}")
        out, err, code = await getProcessOutputAndValue("/bin/bash", ["-c", script], {"PATH": "/usr/bin:/bin"})
    assert (err, code) == (b"", 0)
    printed = [TIME.sub("then", part.strip()) for part in out.decode().split("---")][: len(commands)]
    for (command, expected), got in zip(commands, printed, strict=True):
        assert got == TIME.sub("then", expected), command


def test_the_pages_commands_are_found() -> None:
    assert typed("text\n\n    $ one\n    {1}\n    $ two\n\nmore\n\n    $ three\n    x\n    y\n") == [
        ("one", "{1}"),
        ("two", ""),
        ("three", "xy"),
    ]
