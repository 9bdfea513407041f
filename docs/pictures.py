"""Draws two-terminals.svg, the README's picture, from the screens of two real terminals.

It starts a server and two shells, types into them as two people would, restarts the server in between, and draws what
pyte, a terminal emulator, then has on its screens: no line in the picture was written by hand. It needs what the tests
need: `.venv/bin/python docs/pictures.py`.
"""

from __future__ import annotations

import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater, react

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "tests")]

from pyte.screens import Char, Screen  # noqa: E402
from wcwidth import wcwidth  # noqa: E402

from tests.support.chatting_person import until  # noqa: E402
from tests.support.child_programs import CLIENT, SERVER, Program  # noqa: E402

COLUMNS, LINES = 56, 16
CELL, LINE, SIZE = 8.0, 19, 13.3  # pixels; the letters of monospaced fonts are 0.6 times as wide as their size
PAD, BAR, GAP = 14, 30, 16

INK = {"default": "#d8dee9", "brightblack": "#8b95a7", "green": "#a3d38a", "cyan": "#7cc7e8"}
PAPER, FRAME, TITLE = "#1e222a", "#5b6372", "#2a303b"
FONT = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Noto Sans Mono CJK SC', monospace"


async def main(_reactor: object) -> None:
    """Play the scene and draw it."""
    with tempfile.TemporaryDirectory() as folder:
        ann, bob = await play(Path(folder))
    (DOCS / "two-terminals.svg").write_text("\n".join(drawing([("ann", ann), ("bob", bob)])) + "\n", "utf-8")


async def play(folder: Path) -> tuple[Screen, Screen]:
    """Two people chat through a restart of the server; their screens."""
    ports = [free_port(), free_port()]
    flags = [f"--server.api.port={ports[0]}", f"--server.ws.port={ports[1]}", f"--sqlite.path={folder / 'mercury.db'}"]
    serve = [*SERVER, "--storage.type=sqlite", "--server.ws.address=127.0.0.1/32", *flags]
    client = shlex.join([*CLIENT, f"--api.port={ports[0]}", f"--ws.port={ports[1]}"])
    (folder / "profile").write_text(f"PS1='$ '\nmercury() {{ {client} \"$@\"; }}\nalias mercury-client=mercury\n")

    server = Program(serve)
    await until(lambda: accepts(ports[1]))
    shell = ["/usr/bin/env", f"ENV={folder / 'profile'}", "/bin/sh", "-i"]
    ann, bob = people = Program(shell, (COLUMNS, LINES)), Program(shell, (COLUMNS, LINES))
    try:
        for name, person in zip(("ann", "bob"), people, strict=True):
            await until(lambda person=person: person.screen()[-1:] == ["$"])
            await type_in(person, f"mercury-client --member={name}\r")
            await until(lambda person=person: "-- connected" in person.out.decode())
        await say(people, ann, "Good morning! Is the bread ready?")
        await say(people, bob, "Доброе утро! 早上好! In five minutes.")
        await say(people, ann, "Time to restart the server.")
        server.signal("TERM")
        await server.ended
        for person in people:
            await until(lambda person=person: "reconnecting" in person.out.decode())
        await type_in(bob, "Warm bread!\r")
        server = Program(serve)
        await until(lambda: all("<bob> Warm bread!" in "".join(person.screen()) for person in people))
        await say(people, ann, "Not a crumb was lost.")
        await type_in(bob, "I'll keep you one")
        return ann.terminal, bob.terminal
    finally:
        for program in (ann, bob, server):
            program.signal("KILL")


async def say(people: tuple[Program, Program], speaker: Program, text: str) -> None:
    """Type it, and wait until both have read it."""
    await type_in(speaker, text + "\r")
    await until(lambda: all(f"> {text}" in "".join(person.screen()) for person in people))


async def type_in(person: Program, text: str) -> None:
    """Type as a person does, if a fast one."""
    for letter in text:
        person.type(letter)
        await deferLater(reactor, 0.02)


def accepts(port: int) -> bool:
    """Does somebody listen there?"""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def drawing(screens: list[tuple[str, Screen]]) -> Iterator[str]:
    """The screens side by side, as the lines of an SVG file. The colours are its own: it reads well on any page."""
    rows = max(row for _, screen in screens for row in screen.buffer if screen.display[row].strip()) + 1
    wide = COLUMNS * CELL + 2 * PAD
    high = BAR + rows * LINE + 2 * PAD
    total = len(screens) * (wide + GAP) - GAP
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total + 2:g} {high + 2:g}" width="{total + 2:g}"'
    yield f'  font-family="{FONT}" font-size="{SIZE}">'
    yield "<title>Two terminals: ann and bob chat by mercury-client while the server restarts</title>"
    for number, (name, screen) in enumerate(screens):
        yield f'<g transform="translate({1 + number * (wide + GAP):g} 1)">'
        yield f'<rect width="{wide:g}" height="{high:g}" rx="9" fill="{PAPER}" stroke="{FRAME}"/>'
        yield f'<path d="M0 {BAR}V9a9 9 0 0 1 9-9H{wide - 9:g}a9 9 0 0 1 9 9V{BAR}z" fill="{TITLE}" stroke="{FRAME}"/>'
        yield f'<text x="{wide / 2:g}" y="20" text-anchor="middle" fill="{INK["brightblack"]}">{name}</text>'
        yield from contents(screen, rows)
        yield "</g>"
    yield "</svg>"


def contents(screen: Screen, rows: int) -> Iterator[str]:
    """A screen's lines; each run of one look is put exactly over its cells, whatever the font. And the cursor."""
    for row in range(rows):
        y = BAR + PAD + row * LINE + SIZE
        cells = [(column, screen.buffer[row][column]) for column in range(COLUMNS)]
        for (ink, is_bold, _), group in groupby(cells, lambda cell: look(cell[1])):
            run = list(group)
            text = "".join(cell.data for _, cell in run)
            if text.strip():
                bold = ' font-weight="bold"' if is_bold else ""
                place = f'x="{PAD + run[0][0] * CELL:g}" y="{y:g}" textLength="{len(run) * CELL:g}"'
                yield f'<text {place} xml:space="preserve" fill="{ink}"{bold}>{escape(text)}</text>'
    x, y = PAD + screen.cursor.x * CELL, BAR + PAD + screen.cursor.y * LINE
    yield f'<rect x="{x:g}" y="{y - 1:g}" width="{CELL:g}" height="{LINE - 2}" fill="{INK["default"]}"/>'


def look(cell: Char) -> tuple[str, bool, bool]:
    """What is the same within a run: colour, weight, whether letters take two cells (the second one is empty)."""
    is_wide = not cell.data or wcwidth(cell.data) == 2
    return INK[cell.fg], cell.bold, is_wide


if __name__ == "__main__":
    react(main)
