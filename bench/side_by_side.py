"""Mercury and the others beside each other: a row for each server, a column for each scenario; and as plots."""

from __future__ import annotations

from typing import Final

from bench import svg
from bench.report import cell, table
from bench.rivals.programs import RIVALS, versions
from bench.runs import Results
from bench.scenarios import NAMES

#: What each server keeps of a message before anybody sees it.
KEEPS: Final = {"sqlite": "on disk", "mariadb": "on disk", "memory": "in memory", "nchan": "the last ones, in memory"}

#: Scenario, heading, figure, digits.
COLUMNS: Final = (
    ("fanout-1000-1", "1,000 members, 1 in flight: deliveries/s", "deliveries_per_s", 0),
    ("fanout-1000-16", "1,000 members, 16 in flight: deliveries/s", "deliveries_per_s", 0),
    ("fanout-1000-64", "1,000 members, 64 in flight: deliveries/s", "deliveries_per_s", 0),
    ("fanout-5000-16", "5,000 members, 16 in flight: deliveries/s", "deliveries_per_s", 0),
    ("pairs-100", "100 pairs: messages/s", "messages_per_s", 0),
    ("pairs-1000", "1,000 pairs: messages/s", "messages_per_s", 0),
    ("storm-2000", "2,000 connect: s", "seconds", 2),
    ("idle-5000", "an idle connection: KB", "kb_per_connection", 1),
)
PLOTS: Final = (
    ("performance-fanout.svg", "One sender, a room of many", ("fanout",)),
    ("performance-pairs.svg", "Rooms of two", ("pairs",)),
    ("performance-connections.svg", "Connecting, and being connected (less is better)", ("storm", "idle")),
)


def servers(results: Results) -> list[str]:
    """Those that were run in one of the columns, the floor last."""
    columns = {name for name, _, _, _ in COLUMNS}
    measured = {server for name, server in results.runs if name in columns}
    return [name for name in NAMES if name in measured]


def named(server: str) -> str:
    """With what it is made of."""
    return versions(server) if server in RIVALS else NAMES[server]


def tables(results: Results) -> str:
    """How much, and how soon; empty if no rival was measured."""
    if not RIVALS.keys() & {server for _, server in results.runs}:
        return ""
    columns = [column for column in COLUMNS if any(name == column[0] for name, _ in results.runs)]
    much = [
        [
            named(server),
            KEEPS.get(server, "no"),
            *(cell(results.median(name, server, key), digits) for name, _, key, digits in columns),
        ]
        for server in servers(results)
    ]
    timed = [column for column in columns if column[0].startswith(("fanout", "pairs"))]
    soon = [[NAMES[server], *(delays(results, name, server) for name, _, _, _ in timed)] for server in servers(results)]
    return "\n".join(
        [
            table(["server", "keeps messages", *(heading for _, heading, _, _ in columns)], much),
            table(["p50 / p99 ms", *(heading.partition(":")[0] for _, heading, _, _ in timed)], soon, 1),
        ]
    )


def delays(results: Results, name: str, server: str) -> str:
    """Half of the deliveries, and 99% of them, took at most so long."""
    p50, p99 = (results.median(name, server, key) for key in ("p50_ms", "p99_ms"))
    return f"{cell(p50, 1)} / {cell(p99, 1)}" if p50 else "-"


def plots(results: Results) -> dict[str, str]:
    """File name -> SVG, for what was run."""
    drawn = {}
    for file, title, kinds in PLOTS:
        groups = []
        for name, heading, figure, _ in COLUMNS:
            bars = [(server, results.median(name, server, figure)) for server in servers(results)]
            present = [(NAMES[server], value, colour(server)) for server, value in bars if value is not None]
            if present and name.startswith(kinds):
                groups.append((heading, present))
        if groups:
            drawn[file] = svg.bars(title, groups)
    return drawn


def colour(server: str) -> str:
    """Of a server's bars."""
    return svg.RIVAL if server in RIVALS else svg.FLOOR if server == "floor" else svg.OURS
