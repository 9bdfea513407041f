"""This checkout beside another one, taking turns: `make bench ARGS="compare --beside ../before"`.

Both are started afresh for each run, in turns, so that a change of the machine's speed falls on both alike. Within a
round one's figure is divided by the other's; the median of these ratios is the answer, and their spread says how much
it may be trusted. The other checkout needs a .venv of its own: `make .venv/run` there.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from bench.processes import LOAD_CORE, ROOT, BenchError, pin
from bench.runs import Results, Settings, run
from bench.scenarios import BY_NAME

SCENARIOS = ("fanout-1000-1", "fanout-1000-16", "fanout-1000-64", "pairs-100", "idle-5000")
SERVER = "sqlite"
IDLE_ROUNDS = 3  # memory hardly varies
#: What is compared, the first one of these that a scenario has.
FIGURES = ("kb_per_connection", "deliveries_per_s", "messages_per_s", "connections_per_s")


def main(words: list[str]) -> None:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(prog='make bench ARGS="compare ..."', description=__doc__)
    parser.add_argument("--beside", type=Path, required=True, metavar="FOLDER", help="the other checkout")
    parser.add_argument("--only", metavar="NAME[,NAME]", default=",".join(SCENARIOS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each, for each checkout (9)")
    parser.add_argument("--seconds", type=float, default=2, help="measured seconds of a run (2)")
    arguments = parser.parse_args(words)
    other = arguments.beside.resolve()
    if not (other / ".venv/bin/twistd").exists():
        raise BenchError(f"{other} has no .venv: make it by `make -C {other} .venv/run`")
    scenarios = arguments.only.split(",")
    if unknown := set(scenarios) - set(BY_NAME):
        raise BenchError(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(BY_NAME)}")
    pin(LOAD_CORE)
    results = {root: Results() for root in (ROOT, other)}
    for number in range(arguments.rounds):
        for name in scenarios:
            if BY_NAME[name].kind == "idle" and number >= IDLE_ROUNDS:
                continue
            for root in (ROOT, other) if number % 2 else (other, ROOT):
                settings = Settings(arguments.seconds, 0.5, root=root)
                results[root].add(name, SERVER, run(BY_NAME[name], SERVER, settings, results[root]))
        print(f"round {number + 1} of {arguments.rounds}", flush=True)
    print(table(scenarios, results[ROOT], results[other]))


def table(scenarios: list[str], ours: Results, theirs: Results) -> str:
    """The ratios of both as Markdown: median, and from where to where they went."""
    lines = ["| scenario | figure | other | this | this / other | lowest to highest |", "|---|---|---:|---:|---:|---|"]
    for name in scenarios:
        key = (name, SERVER)
        figure = next(figure for figure in FIGURES if figure in ours.runs[key][0])
        pairs = [(a[figure], b[figure]) for a, b in zip(ours.runs[key], theirs.runs[key], strict=True)]
        ratios = sorted(a / b for a, b in pairs)
        medians = [statistics.median(values) for values in zip(*pairs, strict=True)]
        lines.append(
            f"| {name} | {figure} | {medians[1]:,.1f} | {medians[0]:,.1f} | {statistics.median(ratios):.3f} "
            f"| {ratios[0]:.2f} to {ratios[-1]:.2f} |"
        )
    return "\n".join(lines)
