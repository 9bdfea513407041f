"""The tables and the plot of `make bench ARGS="cluster"`."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

from bench import report, svg
from bench.report import cell, table
from bench.runs import Figures

Runs = Mapping[str, Sequence[Figures]]  # by the name of the case

#: Title, figure, digits.
WAY: Final = [
    ("messages/s", "messages_per_s", 0),
    ("p50 ms", "p50_ms", 2),
    ("p90 ms", "p90_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("p99.9 ms", "p99.9_ms", 2),
    ("reads/s", "reads_per_s", 1),
    ("commits/s", "commits_per_s", 0),
]
COMMITS: Final = [
    ("messages/s", "messages_per_s", 0),
    ("commits/s", "commits_per_s", 1),
    ("p50 ms", "p50_ms", 0),
    ("p99 ms", "p99_ms", 0),
]
CPU: Final = [
    ("node CPU", "node0_cpu", 2),
    ("its reactor", "reactor_cpu", 2),
    ("2nd node", "node1_cpu", 2),
    ("3rd node", "node2_cpu", 2),
    ("MariaDB", "mariadb_cpu", 2),
    ("Redis", "redis_cpu", 2),
    ("load", "load_cpu", 2),
    ("others", "others_cpu", 2),
]
QUANTILES: Final = ("1", "10", "25", "50", "75", "90", "95", "99", "99.9")

DISTURBED: Final = 0.3  # cores

#: What is expected: case, figure, at least or at most, how much, unit.
EXPECTED: Final = (
    ("relay-mariadb+redis", "p50_ms", "at most", 5.0, "ms (p50)"),
    ("relay-mariadb+redis", "p99_ms", "at most", 25.0, "ms (p99)"),
    ("relay-mariadb+redis", "reads_per_s", "at most", 0.0, "reads/s"),
    ("commit-mariadb", "messages_per_s", "at least", 10_000.0, "messages/s"),
)


def brief(figures: Figures) -> str:
    """One line for a run that has just ended."""
    return ", ".join(f"{title} {figures[key]:,.{digits}f}" for title, key, digits in [*WAY, *CPU] if key in figures)


def median(runs: Runs, name: str, figure: str) -> float | None:
    """Over the rounds; of reads, of which there should be none, the mean, which no round can hide in."""
    values = [figures[figure] for figures in runs.get(name, ()) if figure in figures]
    middle = statistics.mean if figure == "reads_per_s" else statistics.median
    return middle(values) if values else None


def full(titles: Mapping[str, str], runs: Runs, arguments: str) -> str:
    """All tables as Markdown."""
    rounds = max(map(len, runs.values()))
    place = report.conditions(f'make bench ARGS="{arguments}"')
    engines = f"{engine('mariadbd')}; {engine('redis-server')}."
    parts = [f"{place} {engines} Medians of {rounds} interleaved rounds (memory and floor: 1).{disturbed(runs)}\n"]
    for head, start, columns in (
        ("the way from node to node", ("relay", "cross"), WAY),
        ("commits", ("commit",), COMMITS),
    ):
        present = [name for name in runs if name.startswith(start)]
        shown = [column for column in [*columns, *CPU] if any(column[1] in f for name in present for f in runs[name])]
        rows = [
            [titles[name], "", *(cell(median(runs, name, key), digits) for _, key, digits in shown)] for name in present
        ]
        parts.append(table([head, "", *(title for title, _, _ in shown)], rows))
    parts.append(expectations(titles, runs))
    return "\n".join(part for part in parts if part)


def disturbed(runs: Runs) -> str:
    """A warning, if other programs took much of the machine while this was measured."""
    most = max(median(runs, name, "others_cpu") or 0.0 for name in runs)
    return "" if most < DISTURBED else f" **Other programs took up to {most:.1f} cores meanwhile: measure again.**"


def engine(program: str) -> str:
    """Its name and version, in its own words."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return " ".join(["MariaDB", said[2]] if program == "mariadbd" else ["Redis", said[2].removeprefix("v=")])


def expectations(titles: Mapping[str, str], runs: Runs) -> str:
    """What was expected, what came, and whether that is enough."""
    rows = []
    for name, figure, sense, bound, unit in EXPECTED:
        value = median(runs, name, figure)
        if value is not None:
            met = "met" if (value >= bound if sense == "at least" else value <= bound) else "missed"
            rows.append([titles[name], f"{sense} {bound:,.0f} {unit}", cell(value, 1), met])
    return table(["what", "expected", "measured", ""], rows)


def plot(titles: Mapping[str, str], runs: Runs) -> str:
    """How the delays from node to node are spread: SVG."""
    lines = []
    for name in runs:
        if name.startswith(("relay", "cross")):
            lines.append((titles[name], [median(runs, name, f"p{quantile}_ms") or 0.0 for quantile in QUANTILES]))
    places = [f"{quantile}%" for quantile in QUANTILES]
    return svg.curves("So many of the messages are on the other node within: ms (logarithmic)", places, lines)


def write(text: str, titles: Mapping[str, str], runs: Runs) -> None:
    """Put tables and plot into docs/performance.md."""
    report.write(text, {"performance-nodes.svg": plot(titles, runs)}, "nodes")
