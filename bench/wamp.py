"""The same fan-out three times: in v2, in WAMP, and by Crossbar, a WAMP router that stores nothing.
`make bench ARGS="wamp"`.

One member sends to 1,000, itself included. Mercury stores each message in SQLite before it answers; Crossbar only hands
it on. Both acknowledge each message to its sender.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from bench import report
from bench.processes import LOAD_CORE, ROOT, BenchError, pin
from bench.report import TRAFFIC, cell, table
from bench.rivals.crossbar import VERSION, Crossbar, install
from bench.runs import Figures, check_status, load_command, read_figures
from bench.scenarios import Scenario
from bench.servers import Server

Who = Literal["v2", "wamp", "crossbar"]
Runs = dict[tuple[Who, int], list[Figures]]  # by who it was and how many messages were on the way

WHO: Final[dict[Who, str]] = {"v2": "Mercury, v2", "wamp": "Mercury, WAMP", "crossbar": f"Crossbar {VERSION}"}
IN_FLIGHT: Final = (1, 16, 64)
MEMBERS: Final = 1000
WARM_UP: Final = 1.0  # seconds

#: WAMP's deliveries a second, beside whose, and how much of them at least.
EXPECTED: Final[tuple[tuple[Who, float], ...]] = (("v2", 0.8), ("crossbar", 5.0))


def measure(who: Who, in_flight: int, seconds: float, members: int, profile: str = "") -> Figures:
    """One run, with everything fresh. Raises BenchError if a single message went wrong."""
    fanout = Scenario(f"{who}-{in_flight}", "", "fanout", members, (), in_flight)
    fanout = replace(fanout, protocol="router" if who == "crossbar" else who)
    scratch = ROOT / "var"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as name:
        folder = Path(name)
        with Crossbar(folder) if who == "crossbar" else Server("sqlite", folder, profile) as server:
            server.make_members(fanout, folder / "members")
            command = load_command(fanout, server, folder / "members")
            command += [f"--seconds={seconds}", f"--warm-up={WARM_UP}"]
            load = subprocess.run(command, stdout=subprocess.PIPE, check=False)
            check_status(fanout, server, load.returncode, load.stdout)
            return read_figures(load.stdout)


def brief(figures: Figures) -> str:
    """One line for a run that has just ended."""
    return ", ".join(f"{title} {figures[key]:,.{digits}f}" for title, key, digits in TRAFFIC)


def median(runs: Runs, who: Who, in_flight: int, figure: str) -> float | None:
    """Over the rounds; None if it was not measured."""
    values = [figures[figure] for figures in runs.get((who, in_flight), ())]
    return statistics.median(values) if values else None


def share(runs: Runs, of: Who, in_flight: int) -> float | None:
    """How much of another's deliveries WAMP makes: the median over the rounds, each compared within itself."""
    pairs = zip(runs.get(("wamp", in_flight), ()), runs.get((of, in_flight), ()), strict=False)
    shares = [ours["deliveries_per_s"] / theirs["deliveries_per_s"] for ours, theirs in pairs]
    return statistics.median(shares) if shares else None


def full(runs: Runs, arguments: Sequence[str], members: int) -> str:
    """All tables as Markdown."""
    place = report.conditions(f'make bench ARGS="{" ".join(["wamp", *arguments])}"')
    how = f"Crossbar {VERSION}. Server on core 0, load on core 1. Medians of {max(map(len, runs.values()))} rounds."
    rows = [
        [WHO[who], str(in_flight), *(cell(median(runs, who, in_flight, key), digits) for _, key, digits in TRAFFIC)]
        for in_flight in IN_FLIGHT
        for who in WHO
        if (who, in_flight) in runs
    ]
    titles = [f"1 sender to {members:,} members", "in flight", *(title for title, _, _ in TRAFFIC)]
    return "\n".join([f"{place} {how}\n", table(titles, rows), expectations(runs)])


def expectations(runs: Runs) -> str:
    """What was expected, what came, and whether that is enough."""
    rows = []
    for of, bound in EXPECTED:
        for in_flight in IN_FLIGHT:
            if (value := share(runs, of, in_flight)) is not None:
                what = f"deliveries/s in WAMP, compared with {WHO[of]}, {in_flight} in flight"
                rows.append([what, f"at least {bound:.1f}", f"{value:.2f}", "met" if value >= bound else "missed"])
    return table(["what", "expected", "measured", ""], rows)


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog='make bench ARGS="wamp ..."', description=__doc__)
    parser.add_argument("--only", metavar="WHO-N[,WHO-N]", help=f"WHO is {', '.join(WHO)}; N is {IN_FLIGHT}")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (5)")
    parser.add_argument("--seconds", type=float, default=3, help="measured seconds of a run (3)")
    parser.add_argument("--members", type=int, default=MEMBERS, help=f"({MEMBERS})")
    parser.add_argument("--server-profile", default="", metavar="FILE", help="write Mercury's cProfile figures there")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write if asked to."""
    chosen = options(arguments)
    names = [f"{who}-{in_flight}" for in_flight in IN_FLIGHT for who in WHO]
    wanted = chosen.only.split(",") if chosen.only else names
    if unknown := set(wanted) - set(names):
        raise BenchError(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if chosen.write and chosen.only:
        raise BenchError("--write puts the whole into docs/performance.md: leave out --only")
    install()
    if os.getloadavg()[0] > 0.5:
        print(f"Other programs keep this machine busy (load {os.getloadavg()[0]:.1f}): figures suffer", file=sys.stderr)
    pin(LOAD_CORE)
    begun = time.monotonic()
    runs: Runs = {}
    for number in range(1, chosen.rounds + 1):
        for in_flight in IN_FLIGHT:
            for who in WHO:
                if f"{who}-{in_flight}" in wanted:
                    figures = measure(who, in_flight, chosen.seconds, chosen.members, chosen.server_profile)
                    runs.setdefault((who, in_flight), []).append(figures)
                    line = f"{number}/{chosen.rounds} {who}, {in_flight} in flight: {brief(figures)}"
                    print(line, file=sys.stderr, flush=True)
    text = full(runs, arguments, chosen.members)
    print(f"{text}\n{time.monotonic() - begun:.0f} s. Every message came exactly once, in order and unharmed.")
    if chosen.write:
        report.write(text, {}, "wamp")
