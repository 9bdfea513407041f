"""Measure Mercury: `make bench`, or `make bench ARGS="--quick"`. The tables are printed as Markdown.

`make bench ARGS="check"`, "cluster", "compare", "scale" and "wamp" do something else: see the modules of these names.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable

from bench import check, cluster, compare, report, scale, side_by_side, wamp
from bench.processes import BINARIES, LOAD_CORE, BenchError, pin
from bench.runs import Figures, Results, Settings, run
from bench.scenarios import BY_NAME, NAMES, QUICK, QUICK_ON, SCENARIOS, Scenario, takes_part
from bench.start import prepare

WARM_UP = 0.5  # seconds
Plan = list[tuple[Scenario, list[str]]]  # scenarios, each with its servers
PARTS = {
    "check": check.main,
    "cluster": cluster.main,
    "compare": compare.main,
    "scale": scale.main,
    "wamp": wamp.main,
}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}, without rivals, 3 rounds")
    parser.add_argument("--only", metavar="NAME[,NAME]", help=f"of {', '.join(BY_NAME)}")
    parser.add_argument("--store", "--server", metavar="NAME[,NAME]", help=f"only on these, of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, help="runs of each scenario and store (5)")
    parser.add_argument("--seconds", type=float, default=2, help="measured seconds of a run (2)")
    parser.add_argument(
        "--server-profile", default="", metavar="FILE", help="write the server's cProfile figures there"
    )
    parser.add_argument("--write", action="store_true", help="put tables and plots into docs/performance.md")
    return parser.parse_args()


def names(said: str | None, known: Iterable[str], option: str) -> list[str]:
    """What was said to an option, or all that there is. Raises BenchError for what there is not."""
    wanted = said.split(",") if said else list(known)
    if unknown := set(wanted) - set(known):
        raise BenchError(f"{option}: there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return wanted


def chosen(arguments: argparse.Namespace) -> Plan:
    """The scenarios to run, in their order, each with its servers. Half of something needs that something first."""
    wanted = names(arguments.only or (",".join(QUICK) if arguments.quick else None), BY_NAME, "--only")
    servers = names(arguments.store or (",".join(QUICK_ON) if arguments.quick else None), NAMES, "--store")
    needed = {BY_NAME[name].half_of for name in wanted} | set(wanted)
    plan = [(s, [server for server in s.servers if server in servers]) for s in SCENARIOS if s.name in needed]
    if not (plan := [(scenario, on) for scenario, on in plan if on]):
        raise BenchError("these scenarios are run on others only: see SCENARIOS in bench/scenarios.py")
    return plan


def progress(label: str, figures: Figures) -> None:
    """One line for a run that has just ended."""
    wanted = {
        "messages_per_s": "{:,.0f} messages/s",
        "deliveries_per_s": "{:,.0f} deliveries/s",
        "connections_per_s": "{:,.0f} connections/s",
        "seconds": "{:.2f} s in all",
        "p50_ms": "p50 {:.2f} ms",
        "p99_ms": "p99 {:.2f} ms",
        "kb_per_connection": "{:.1f} KB a connection",
        "server_cpu": "server CPU {:.2f}",
        "load_cpu": "load {:.2f}",
        "others_cpu": "others {:.2f}",
    }
    said = ", ".join(text.format(figures[key]) for key, text in wanted.items() if key in figures)
    print(f"{label}: {said}", file=sys.stderr, flush=True)


def measure(plan: Plan, rounds: int, settings: Settings) -> Results:
    """Run everything once a round, so that a change of the machine's mood falls on all alike."""
    results = Results()
    for number in range(1, rounds + 1):
        for scenario, servers in plan:
            for server in servers:
                if takes_part(scenario, server, number, rounds):
                    figures = run(scenario, server, settings, results)
                    results.add(scenario.name, server, figures)
                    progress(f"{number}/{rounds} {scenario.name} {server}", figures)
    return results


def main() -> None:
    """Measure, print, and write if asked to."""
    arguments = options()
    for program in ("load", "floor"):
        if not (BINARIES / program).exists():
            raise BenchError(f"{BINARIES / program} is missing: start this with make bench, which needs gcc")
    if arguments.write and (arguments.only or arguments.store):
        raise BenchError("--write puts the whole table into docs/performance.md: leave out --only and --store")
    if os.getloadavg()[0] > 0.5:
        print(f"Other programs keep this machine busy (load {os.getloadavg()[0]:.1f}): figures suffer", file=sys.stderr)
    pin(LOAD_CORE)
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    settings = Settings(arguments.seconds, WARM_UP, arguments.server_profile)
    plan = chosen(arguments)
    for server in {server for _, servers in plan for server in servers}:
        prepare(server)
    begun = time.monotonic()
    results = measure(plan, rounds, settings)
    command = "make bench" + (f' ARGS="{" ".join(sys.argv[1:])}"' if sys.argv[1:] else "")
    text = report.full(results, command, rounds, side_by_side.tables(results))
    print(f"{text}\n{time.monotonic() - begun:.0f} s. Every message came exactly once, in order and unharmed.")
    if arguments.write:
        report.write(text, side_by_side.plots(results))


if __name__ == "__main__":
    try:
        part = PARTS.get("".join(sys.argv[1:2]))
        part(sys.argv[2:]) if part else main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
