"""The tables, the plot and the query plans of `make bench ARGS="scale"`."""

from __future__ import annotations

from html import escape
from math import log10
from typing import Final

from bench import report
from bench.report import cell, table
from bench.runs import Figures
from bench.scale_client import MEASURES, TRIES, quick
from bench.scale_fill import SIZES, Size

Results = dict[tuple[str, str, int], Figures]  # by store, subject and the number of the size

#: What grows, and how that is said.
SUBJECTS: Final = {
    "rooms": "rooms of one member",
    "members": "members of one room, all connected",
    "messages": "messages in one room",
}
TIMES: Final = 2.0  # what is flat may take so many times as long as with the fewest,
MORE_MS: Final = 1.0  # or so much more: below that it is noise

#: What docs/plans.md begins with.
PLANS: Final = """# What the stores do

`make bench ARGS="scale --write"` made this page, on stores with {rooms:,} rooms of one member, {members:,} members of
one room and {messages:,} messages in another room, which is the room that these calls are about.
[Performance](performance.md) says how long they take. The statements are in mercury/stores/mysql/sql.py, and in sql.py
and room_log.py of mercury/stores/sqlite/, under these names. tests/stores/test_plans.py checks that no statement scans
a whole table or index, or sorts, and that what is read does not grow with the room. What a statement gets as JSON
appears as `asked` for MariaDB, and as a `VIRTUAL TABLE INDEX` for SQLite.

"""

PLOTTED: Final = ("hello", "missed", "unread", "newest", "oldest")
COLOURS: Final = ("#2b6cb0", "#dd8a1f", "#2f855a", "#9b2c2c", "#805ad5")
LEFT, TOP, WIDTH, HEIGHT, GAP = 130, 110, 190, 120, 30
LOWEST, HIGHEST = 0.1, 1000.0  # ms, the ends of the axis; it is logarithmic


def full(results: Results, sizes: int, command: str) -> str:
    """All tables as Markdown."""
    stores = list(dict.fromkeys(store for store, _, _ in results))
    how = f"Medians of {TRIES} tries, in milliseconds: with the fewest / with more / with the most."
    parts = [f"{report.conditions(command)} {how}\n"]
    for subject, title in SUBJECTS.items():
        numbers = " / ".join(f"{getattr(size, subject):,}" for size in SIZES[:sizes])
        rows = []
        for key, words in MEASURES.items():
            found = [[cell(figures.get(key), 2) for figures in of(results, store, subject)] for store in stores]
            rows.append([words, *map(" / ".join, found)])
        parts.append(table([f"{numbers} {title}", *stores], rows, 1))
    if sizes > 1:
        parts += [growth(results, stores), costs(results, stores)]
    return "\n".join(parts)


def of(results: Results, store: str, subject: str) -> list[Figures]:
    """The figures of a subject, by size."""
    return [figures for (at, what, _), figures in results.items() if (at, what) == (store, subject)]


def largest(results: Results) -> Size:
    """The largest size that was measured."""
    return SIZES[max(number for _, _, number in results)]


def growth(results: Results, stores: list[str]) -> str:
    """What has become slower, of all that should stay as it is."""
    rows = []
    for store in stores:
        for subject in ("members", "messages"):
            first, *_, last = of(results, store, subject)
            times = {key: (first[quick(key)], last[quick(key)]) for key in MEASURES if quick(key) in first}
            grown = {key: after / before for key, (before, after) in times.items()}
            worst = max(grown, key=lambda key: grown[key])
            late = [key for key, (before, after) in times.items() if after > max(before * TIMES, before + MORE_MS)]
            verdict = "met" if not late else "missed: " + ", ".join(MEASURES[key] for key in late)
            most = f"{getattr(largest(results), subject):,} {SUBJECTS[subject]}, {store}"
            rows.append([most, f"{grown[worst]:.1f} times ({MEASURES[worst]})", verdict])
    expected = f"expected: at most {TIMES:.0f} times as long as with the fewest, or {MORE_MS:.0f} ms more"
    return table([expected, "slowed down most, in the quickest tenth of the tries", ""], rows, 3)


def costs(results: Results, stores: list[str]) -> str:
    """What one more room of a member, and one more member that a message has to reach, costs."""
    rows = []
    for store in stores:
        first, *_, last = of(results, store, "rooms")
        more = largest(results).rooms - SIZES[0].rooms
        keys = map(quick, ("hello", "live", "unread"))
        by_room = [cell((last[key] - first[key]) / more * 1000, 1) for key in keys]
        first, *_, last = of(results, store, "members")
        more = largest(results).members - SIZES[0].members
        by_member = (last["say"] - first["say"]) / more * 1000
        rows.append([store, *by_room, cell(by_member, 1)])
    head = ["one more costs, in µs", "a room, until `hello`", "a room, until live", "a room, in `rooms`"]
    return table([*head, "a member, for a message to all"], rows, 1)


def plot(results: Results) -> str:
    """A panel for each store and subject, with a line for each of PLOTTED: SVG."""
    stores = list(dict.fromkeys(store for store, _, _ in results))
    width, height = LEFT + len(SUBJECTS) * (WIDTH + GAP), TOP + len(stores) * (HEIGHT + GAP) + 10
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="12" fill="#1a202c">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="22" font-size="15" font-weight="bold">Milliseconds (logarithmic) as rooms, members and '
        "messages grow</text>",
    ]
    for number, key in enumerate(PLOTTED):
        x, y = 16 + 380 * (number % 2), 42 + 16 * (number // 2)
        body.append(f'<rect x="{x}" y="{y - 9}" width="12" height="10" fill="{COLOURS[number]}"/>')
        body.append(f'<text x="{x + 18}" y="{y}">{escape(MEASURES[key].replace("`", ""))}</text>')
    for row, store in enumerate(stores):
        for column, subject in enumerate(SUBJECTS):
            left, top = LEFT + column * (WIDTH + GAP), TOP + row * (HEIGHT + GAP)
            body += panel(of(results, store, subject), subject, left, top)
            if not row:
                body.append(f'<text x="{left}" y="{top - 8}" font-size="11">{SUBJECTS[subject]}</text>')
            if not column:
                body.append(f'<text x="16" y="{top + HEIGHT / 2}" font-weight="bold">{escape(store)}</text>')
    return "\n".join([*body, "</svg>\n"])


def panel(found: list[Figures], subject: str, left: int, top: int) -> list[str]:
    """One store's figures for one subject."""

    def at(ms: float) -> float:
        share = (log10(ms) - log10(LOWEST)) / (log10(HIGHEST) - log10(LOWEST))
        return top + HEIGHT * (1 - min(max(share, 0), 1))

    body = [f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="#f7fafc" stroke="#cbd5e0"/>']
    for ms in (0.1, 1, 10, 100, 1000):
        body.append(f'<line x1="{left}" y1="{at(ms)}" x2="{left + WIDTH}" y2="{at(ms)}" stroke="#cbd5e0"/>')
        if left == LEFT:
            body.append(f'<text x="{left - 6}" y="{at(ms) + 4}" text-anchor="end" font-size="10">{ms:g}</text>')
    places = [left + WIDTH * (0.1 + 0.8 * number / max(len(found) - 1, 1)) for number in range(len(found))]
    for x, size in zip(places, SIZES, strict=False):
        count = f"{getattr(size, subject):,}"
        body.append(f'<text x="{x:.0f}" y="{top + HEIGHT + 13}" text-anchor="middle" font-size="10">{count}</text>')
    for number, key in enumerate(PLOTTED):
        colour = COLOURS[number]
        points = " ".join(f"{x:.0f},{at(figures[key]):.1f}" for x, figures in zip(places, found, strict=True))
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    return body


def write(text: str, results: Results, plans: dict[str, str]) -> None:
    """Put tables and plot into docs/performance.md, and the plans into docs/plans.md."""
    report.write(text, {"performance-scale.svg": plot(results)}, "scale")
    most = SIZES[-1]
    (report.DOCUMENT.parent / "plans.md").write_text(
        PLANS.format(rooms=most.rooms, members=most.members, messages=most.messages) + "\n".join(plans.values())
    )
