"""The picture of the road of one message, docs/road.svg, drawn from docs/road.json: no file in it was written by hand.

A box is a part of Mercury on the way in or on the way out, with the files that the message passes there. The numbers
are those of the stations in the table below the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby
from typing import NamedTuple

from mercury.reference.road import Profile, Station, read, spoken, stations

WIDTH, MARGIN, GAP, COLUMNS = 900, 14, 66, 3
WIDE = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
TITLE, FILE, PAD, BETWEEN = 44, 37, 10, 62  # heights: a box's title, a file in it, what is left free; between rows
SOCKET = 30
LETTERS = 33  # of the small monospaced font in a line of a box

INK, GREY, LINE, PAPER, BLUE = "#1a202c", "#5a6577", "#a8b3c2", "#ffffff", "#2b6cb0"
EDGE, CORE, STORE, BUS = "#e8f1fb", "#fdf3e1", "#e9f6ec", "#f3ecfa"
MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Box(NamedTuple):
    """A part of the picture: its place, its colour, its folder, what is done there, and the stations that it has."""

    column: int
    top: float
    colour: str
    folder: str
    what: str
    stations: list[Station]

    @property
    def x(self) -> float:
        return MARGIN + self.column * (WIDE + GAP)

    @property
    def height(self) -> float:
        return TITLE + FILE * len({station.file for station in self.stations}) + PAD

    @property
    def foot(self) -> float:
        return self.top + self.height

    @property
    def middle(self) -> float:
        return self.x + WIDE / 2


def picture() -> str:
    """The whole SVG file."""
    return "\n".join(_drawn(read())) + "\n"


def _drawn(profile: Profile) -> Iterator[str]:
    parts = _parts(stations(profile.node))
    elsewhere = _until_hub(stations(profile.receiver))
    top = MARGIN + SOCKET + BETWEEN
    edge_in = Box(0, top, EDGE, "websocket/", "from bytes to a command", parts["edge in"])
    core_in = Box(1, top, CORE, "core/", "checks it, gathers a batch", parts["core in"])
    store = Box(2, top, STORE, "stores/", "one transaction a batch", parts["store"])
    low = max(box.foot for box in (edge_in, core_in, store)) + BETWEEN
    edge_out = Box(0, low, EDGE, "websocket/", "encodes once, writes to each socket", parts["edge out"])
    core_out = Box(1, low, CORE, "core/", "answers, then tells the room", parts["core out"])
    bus = Box(2, low, BUS, "bus/", "tells the other nodes", parts["bus"])
    other = Box(2, bus.foot + BETWEEN, BUS, "bus/", "on another node (see its own table)", elsewhere)
    foot = edge_out.foot + BETWEEN
    height = max(foot + SOCKET, core_out.foot, other.foot) + MARGIN
    yield _heading(height)
    yield from _socket(edge_in.x, MARGIN, "the sender's socket")
    yield from _socket(edge_out.x, foot, "the receivers' sockets")
    for box in (edge_in, core_in, store, edge_out, core_out, bus, other):
        yield from _box(box)
    yield from _arrow([(edge_in.middle, MARGIN + SOCKET), (edge_in.middle, edge_in.top)], "bytes")
    yield from _across(edge_in, core_in, "command")
    yield from _across(core_in, store, "drafts")
    turn = low - BETWEEN / 2
    yield from _arrow(
        [(store.middle, store.foot), (store.middle, turn), (core_out.middle, turn), (core_out.middle, low)],
        "outcomes: each entry's id and seq",
    )
    yield from _across(core_out, edge_out, "entries")
    yield from _across(core_out, bus, "entries")
    yield from _arrow([(bus.middle, bus.foot), (bus.middle, other.top)], "by Redis pub/sub")
    yield from _across(other, core_out, "entries")
    yield from _arrow([(edge_out.middle, edge_out.foot), (edge_out.middle, foot)], "bytes")
    yield "</svg>"


def _parts(road: list[Station]) -> dict[str, list[Station]]:
    """The stations of each box. What all parts share, domain/, stands where it is used."""
    parts: dict[str, list[Station]] = {}
    way, part = "in", "edge"
    for station in road:
        folder = station.file.split("/")[1]
        if folder == "stores":
            way, part = "out", "store"
        elif folder in ("websocket", "net"):
            part = "edge"
        elif folder in ("core", "bus"):
            part = folder
        parts.setdefault(f"{part} {way}" if part in ("edge", "core") else part, []).append(station)
    return parts


def _until_hub(road: list[Station]) -> list[Station]:
    """The stations on the receiver's node before it does what the sender's does."""
    return road[: [station.file.endswith("/hub.py") for station in road].index(True)]


def _names(those: list[Station]) -> str:
    """As many of the functions as fit in a line."""
    names = list(dict.fromkeys(spoken(function).rpartition(".")[2] for one in those for function in one.functions))
    line = names[0]
    for name in names[1:]:
        if len(line) + len(name) + 5 > LETTERS:
            return line + ", …"
        line += f", {name}"
    return line


def _numbers(those: list[Station], room: int) -> str:
    """2, 5, 6, 7 as `2, 5–7`; if there is no room for so many letters, the first and the last one."""
    numbers = [one.number for one in those]
    plain = [int(number) for number in numbers if number.isdigit()]
    spans = []
    for _, run in groupby(enumerate(plain), lambda pair: pair[1] - pair[0]):
        first, *others = [number for _, number in run]
        spans.append(f"{first}–{others[-1]}" if others else f"{first}")
    line = ", ".join([*spans, *(number for number in numbers if not number.isdigit())])
    return line if len(line) <= room else f"{numbers[0]} … {numbers[-1]}"


def _heading(height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
        f' font-family="sans-serif" font-size="13" fill="{INK}">\n'
        "<title>The road of one message, from the sender's socket to the receivers'</title>\n"
        f'<rect width="{WIDTH}" height="{height:g}" fill="{PAPER}"/>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{BLUE}"/></marker></defs>'
    )


def _socket(x: float, y: float, text: str) -> Iterator[str]:
    yield f'<rect x="{x:g}" y="{y:g}" width="{WIDE:g}" height="{SOCKET}" rx="15" fill="{INK}"/>'
    yield f'<text x="{x + WIDE / 2:g}" y="{y + 20:g}" text-anchor="middle" fill="{PAPER}">{escape(text)}</text>'


def _box(box: Box) -> Iterator[str]:
    x, y = box.x, box.top
    size = f'width="{WIDE:g}" height="{box.height:g}"'
    yield f'<rect x="{x:g}" y="{y:g}" {size} rx="6" fill="{box.colour}" stroke="{LINE}"/>'
    yield f'<text x="{x + PAD}" y="{y + 19:g}" font-weight="bold">{box.folder}</text>'
    yield f'<text x="{x + PAD}" y="{y + 36:g}" font-size="12" fill="{GREY}">{box.what}</text>'
    files: dict[str, list[Station]] = {}
    for station in box.stations:
        files.setdefault(station.file, []).append(station)
    for row, (file, those) in enumerate(files.items()):
        line = y + TITLE + row * FILE + 17
        name = file.removeprefix("mercury/").removeprefix(box.folder)
        yield f'<text x="{x + PAD}" y="{line:g}" font-family="{MONO}" font-size="12">{escape(name)}</text>'
        yield (
            f'<text x="{x + WIDE - PAD:g}" y="{line:g}" font-size="11" text-anchor="end" fill="{BLUE}"'
            f' font-weight="bold">{_numbers(those, LETTERS - len(name))}</text>'
        )
        yield (
            f'<text x="{x + PAD}" y="{line + 15:g}" font-family="{MONO}" font-size="11" fill="{GREY}">'
            f"{escape(_names(those))}</text>"
        )


def _across(one: Box, other: Box, text: str) -> Iterator[str]:
    """An arrow from a box to one beside it."""
    y = max(one.top, other.top) + TITLE / 2
    ends = (one.x + WIDE, other.x) if one.column < other.column else (one.x, other.x + WIDE)
    yield from _arrow([(ends[0], y), (ends[1], y)], text)


def _arrow(points: list[tuple[float, float]], text: str) -> Iterator[str]:
    """An arrow by way of these points; its text stands beside the middle of it."""
    way = "L".join(f"{x:g} {y:g}" for x, y in points)
    yield f'<path d="M{way}" fill="none" stroke="{BLUE}" stroke-width="1.6" marker-end="url(#tip)"/>'
    (x, y), (x_to, y_to) = points[(len(points) - 1) // 2 : (len(points) - 1) // 2 + 2]
    if x == x_to:
        place = f'x="{x + 8:g}" y="{(y + y_to) / 2 + 4:g}"'
    else:
        place = f'x="{(x + x_to) / 2:g}" y="{y - 6:g}" text-anchor="middle"'
    yield f'<text {place} font-size="12" fill="{BLUE}">{escape(text)}</text>'
