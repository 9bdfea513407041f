"""Plays faults in rounds, and prints what came of them: make faults, or python -m promises.play --help"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Final

from twisted.internet.task import react

from tests.promises import crowd, cuts, kills
from tests.promises.checker import summary
from tests.promises.cluster import Cluster
from tests.promises.faults import FAULTS

FIGURES: Final = ("first_ok_s", "resumed_s", "resident_mb", "descriptors")
CUT: Final = "responses-cut"  # goTalk's answers; its rounds are of another kind (cuts.py)
KILLED: Final = "server-killed"  # a single one (kills.py)
OTHERS: Final = (KILLED, *crowd.STRIKES, CUT)  # that are not done to a cluster
CUTS_A_ROUND: Final = 5


def kinds_of(name: str) -> tuple[str, ...]:
    """The stores on which a fault is played."""
    return FAULTS[name].kinds if name in FAULTS else ("sqlite",)


async def play(
    folder: Path, names: Sequence[str], kind: str, rounds: int, seed: int
) -> tuple[list[str], dict[str, float]]:
    """Some rounds of each of these faults, one after the other on one new cluster; all need the same rig. What was
    wrong in any, and of each figure the greatest."""
    cluster = Cluster(folder, kind, seed, **FAULTS[names[0]].rig)
    found: list[str] = []
    most: dict[str, float] = {}
    name = names[0]
    try:
        await cluster.begin()
        for number, name in enumerate([name for name in names for _ in range(rounds)]):
            wrong = await cluster.round(number, FAULTS[name].strike)
            shown = " ".join(f"{figure}={value:.4g}" for figure, value in cluster.figures.items())
            print(f"{name} on {kind}, round {number}: {cluster.record.counts()}, {shown}, {summary(wrong)}", flush=True)
            found += [f"{what} ({name})" for what in wrong]
            most = {f: max(value, most.get(f, 0.0)) for f, value in cluster.figures.items()}
    except AssertionError as why:  # something never came, so it makes no sense to go on
        found += [f"{what} ({name})" for what in (*cluster.wrong, str(why))]
        print(f"{name} on {kind} broke off: {why}\n{cluster.last_words()}", flush=True)
    finally:
        await cluster.close()
    return found, most


# As a program


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m promises.play", description=__doc__)
    parser.add_argument(
        "faults", nargs="*", metavar="FAULT", help=f"{', '.join([*FAULTS, *OTHERS])}; all if none is named"
    )
    parser.add_argument(
        "--on", choices=("mysql", "redis", "sqlite"), help="MariaDB with Redis, or Redis alone; all if not given"
    )
    parser.add_argument("--rounds", type=int, default=20, help="of each fault (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another one is another run (%(default)s)")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.faults) - FAULTS.keys() - set(OTHERS):
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    return chosen


async def main(_: object, *arguments: str) -> None:
    """Play what is chosen, print a table, and exit with 1 if anything was wrong."""
    chosen = parse(arguments)
    names = chosen.faults or [*FAULTS, *OTHERS]
    table = [f"{'':32}{'first ok (I6)':>16}{'all resumed':>14}{'memory (I5)':>14}{'descriptors':>13}{'violations':>12}"]
    bad = 0
    for name in names:
        for kind in [kind for kind in kinds_of(name) if chosen.on in (None, kind)]:
            with tempfile.TemporaryDirectory(prefix="mercury-faults-") as folder:
                if name == CUT:
                    found, most = await cuts.play(Path(folder), CUTS_A_ROUND * chosen.rounds, chosen.seed)
                elif name == KILLED:
                    found, most = await kills.play(Path(folder), chosen.rounds, chosen.seed)
                elif name in crowd.STRIKES:
                    found, most = await crowd.play(Path(folder), [name], chosen.rounds, chosen.seed)
                else:
                    found, most = await play(Path(folder), [name], kind, chosen.rounds, chosen.seed)
            bad += len(found)
            first, resumed, memory, descriptors = (most.get(figure, nan) for figure in FIGURES)
            table.append(
                f"{f'{name} on {kind}':32}{first:14.2f} s{resumed:12.2f} s{memory:11.0f} MB{descriptors:13.0f}"
                f"{len(found):12}"
            )
    print("\nThe greatest of each, over the rounds:\n\n" + "\n".join(table))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    react(main, sys.argv[1:])
