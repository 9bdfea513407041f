"""Does the load generator notice what goes wrong, and does it understand everybody? `make bench ARGS="check"`; half a
minute.

The floor commits each fault once, and the run has to fail with the violation that is due. Then each server plays rooms
of two for a moment, and that has to pass.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.processes import LOAD_CORE, ROOT, BenchError, Process, pin
from bench.rivals.programs import RIVALS
from bench.runs import load_command
from bench.scenarios import Scenario
from bench.servers import Floor
from bench.start import prepare, start

FANOUT: Final = Scenario("check", "", "fanout", 5, (), in_flight=16)
PAIRS: Final = Scenario("check", "", "pairs", 10, ())
ECHO: Final = Scenario("check", "", "alone", 5, (), protocol="echo")

#: What the floor does once, and what is found to be wrong then.
FAULTS: Final = {
    "lose": "gaps",
    "double": "duplicates",
    "swap": "duplicates",
    "alter": "damaged",
    "stray": "damaged",
    "cut": "closed",
}
#: An echo has neither a seq nor a room.
ECHO_FAULTS: Final = {"double": "duplicates", "alter": "damaged", "cut": "closed"}


def played(scenario: Scenario, server: Process, folder: Path) -> tuple[int, dict[str, float], str]:
    """A short run: exit status, report, and what the load generator said of it."""
    server.make_members(scenario, folder / "members")
    command = [*load_command(scenario, server, folder / "members"), "--seconds=0.3", "--warm-up=0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr


def check_fault(scenario: Scenario, fault: str, violation: str, folder: Path) -> None:
    """The run must fail, and say why."""
    with Floor(folder, fault=fault) as server:
        status, figures, said = played(scenario, server, folder)
    if status != 1 or not figures.get(violation):
        raise BenchError(f"a floor that does {fault} passes in {scenario.kind}: status {status}, {figures}\n{said}")
    print(f"{scenario.kind}: {fault} is noticed ({violation})", file=sys.stderr, flush=True)


def check_server(name: str, scenario: Scenario, folder: Path) -> None:
    """The run must pass, and have brought messages."""
    prepare(name)
    with start(name, scenario, folder) as server:
        status, figures, said = played(scenario, server, folder)
        tail = server.tail()
    if status or not figures.get("checked"):
        raise BenchError(f"{name} fails in {scenario.kind}: status {status}, {figures}\n{said}\n{tail}")
    print(f"{scenario.kind}: {name} is understood", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> None:
    """All faults, then all servers."""
    if arguments:
        raise BenchError("check takes no arguments")
    scratch = ROOT / "var"
    scratch.mkdir(exist_ok=True)
    pin(LOAD_CORE)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as name:
        for scenario, faults in ((FANOUT, FAULTS), (ECHO, ECHO_FAULTS)):
            for fault, violation in faults.items():
                check_fault(scenario, fault, violation, Path(name))
        for scenario, servers in ((PAIRS, ("floor", "memory", *RIVALS)), (ECHO, ("floor", "echo", "autobahn"))):
            for server in servers:
                check_server(server, scenario, Path(name))
