"""The tables and plots of a benchmark, and their place in docs/performance.md."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.expected import EXPECTED
from bench.processes import ROOT, BenchError
from bench.runs import Results
from bench.scenarios import BY_NAME, NAMES, RIVALS, SCENARIOS, Kind, fewer

DOCUMENT = ROOT / "docs" / "performance.md"
DISTURBED = 0.3  # cores
ENGINES = ("mariadb", "worker", "workers")  # whose engine counts among the other programs
PACKAGES = ("Twisted", "autobahn", "klein", "msgspec")


def cell(value: float | None, digits: int = 0) -> str:
    """A figure of the table; a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def table(head: list[str], rows: list[list[str]], words: int = 2) -> str:
    """A Markdown table, empty without rows; so many columns are words, the others figures."""
    if not rows:
        return ""
    rule = ["---" if i < words else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows]) + "\n"


#: What is told of a scenario with traffic: title, figure, digits.
TRAFFIC: Final = [
    ("messages/s", "messages_per_s", 0),
    ("deliveries/s", "deliveries_per_s", 0),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("bytes a frame", "frame_bytes", 0),
    ("deliveries a read", "deliveries_per_read", 1),
    ("server CPU", "server_cpu", 2),
    ("µs of it a delivery", "server_us_per_delivery", 2),
    ("load CPU", "load_cpu", 2),
    ("others' CPU", "others_cpu", 2),
]


def traffic(results: Results, kinds: tuple[Kind, ...]) -> str:
    """Rates, delays and CPU, a row for each scenario and server."""
    rows = [
        [BY_NAME[name].title, NAMES[server], *(cell(results.median(name, server, key), n) for _, key, n in TRAFFIC)]
        for name, server in ordered(results, kinds)
    ]
    return table(["scenario", "server", *(title for title, _, _ in TRAFFIC)], rows)


def connections(results: Results) -> str:
    """Connecting, and being connected."""
    figures = [
        ("seconds in all", "seconds", 2),
        ("connections/s", "connections_per_s", 0),
        ("p50 ms", "p50_ms", 1),
        ("p99 ms", "p99_ms", 1),
        ("KB a connection", "kb_per_connection", 1),
        ("idle CPU", "idle_cpu", 3),
    ]
    rows = [
        [BY_NAME[name].title, NAMES[server], *(cell(results.median(name, server, key), n) for _, key, n in figures)]
        for name, server in ordered(results, ("storm", "idle"))
    ]
    return table(["scenario", "server", *(title for title, _, _ in figures)], rows)


def ordered(results: Results, kinds: tuple[Kind, ...]) -> list[tuple[str, str]]:
    """What was run, in the order of scenarios.py. Rivals stand side by side elsewhere, but for the echo."""
    return [
        (scenario.name, server)
        for scenario in SCENARIOS
        if scenario.kind in kinds
        for server in scenario.servers
        if (scenario.name, server) in results.runs and (server not in RIVALS or scenario.protocol == "echo")
    ]


def expectations(results: Results) -> str:
    """What was expected, what came, and whether that is enough."""
    rows = []
    for wanted in EXPECTED:
        run = wanted.scenario, wanted.server
        value = (
            results.ratio(run, wanted.beside, wanted.figure) if wanted.beside else results.median(*run, wanted.figure)
        )
        if value is not None:
            bound = f"{wanted.sense} {short(wanted.bound)} {wanted.unit}"
            rows.append([wanted.title, bound, short(value), "met" if wanted.is_met(value) else "missed"])
    return table(["what", "expected", "measured", ""], rows)


def short(value: float) -> str:
    """A figure of any size, to three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def conditions(command: str) -> str:
    """Where, with what and when."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpus if "model name" in line), platform.machine())
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"`{command}`, {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, Mercury at {commit()}. "
        f"{model}, {os.cpu_count()} cores; Linux {platform.release()}, files on {file_system(ROOT)}; "
        f"Python {platform.python_version()}, {packages}, SQLite {sqlite3.sqlite_version}."
    )


def commit() -> str:
    """The commit that is checked out, with a + if files differ from it."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "an unknown commit"


def file_system(path: Path) -> str:
    """The kind of file system that holds a path."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(len(point), kind) for point, kind in mounts if path.is_relative_to(point)]
    return max(inside)[1] if inside else "an unknown file system"


def full(results: Results, command: str, rounds: int, side_by_side: str) -> str:
    """All tables as Markdown. `side_by_side`: those with the rivals."""
    how = (
        f"Server on core 0, load on core 1. Medians of {rounds} interleaved rounds ({fewer(rounds)} of the floor, "
        f"python-socketio and Crossbar; of idle connections {fewer(rounds)} on SQLite, else 1).{disturbed(results)}"
    )
    parts = [
        f"{conditions(command)} {how}\n",
        side_by_side,
        traffic(results, ("fanout", "pairs", "alone")),
        connections(results),
        expectations(results),
    ]
    return "\n".join(part for part in parts if part)


def disturbed(results: Results) -> str:
    """A warning, if other programs took much of the machine while this was measured."""
    alone = [run for run in results.runs if run[1] not in ENGINES]
    most = max((results.median(*run, "others_cpu") or 0.0 for run in alone), default=0.0)
    return "" if most < DISTURBED else f" **Other programs took up to {most:.1f} cores meanwhile: measure again.**"


def write(text: str, drawn: dict[str, str], name: str = "bench") -> None:
    """Put the tables between the markers of this name in docs/performance.md, and the plots beside it."""
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = DOCUMENT.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise BenchError(f"{DOCUMENT} has no lines {first} and {last} for the tables to stand between")
    pictures = "\n".join(f"![{file}]({file})" for file in drawn)
    DOCUMENT.write_text(f"{before}{first}\n{text}\n{pictures}\n{last}{after}")
    for file, picture in drawn.items():
        (DOCUMENT.parent / file).write_text(picture)
