"""One run: a fresh server, its members, the load, and the figures that come of it."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from bench.processes import BINARIES, LOAD_CORE, ROOT, BenchError, Process, pin
from bench.scenarios import Scenario
from bench.start import start

Figures = dict[str, float]
SETTLE_SECONDS = 5.0


@dataclass
class Results:
    """The figures of every run so far, by scenario and server, in the order of the rounds."""

    runs: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)

    def add(self, scenario: str, server: str, figures: Figures) -> None:
        """Keep one run's figures."""
        self.runs.setdefault((scenario, server), []).append(figures)

    def median(self, scenario: str, server: str, figure: str) -> float | None:
        """The median over the rounds; None if it was not measured."""
        values = [run[figure] for run in self.runs.get((scenario, server), []) if figure in run]
        return statistics.median(values) if values else None

    def ratio(self, one: tuple[str, str], other: tuple[str, str], figure: str) -> float | None:
        """The median over the rounds of one's figure divided by the other's, each compared within its round."""
        pairs = zip(self.runs.get(one, []), self.runs.get(other, []), strict=False)
        ratios = [a[figure] / b[figure] for a, b in pairs if figure in a and b.get(figure)]
        return statistics.median(ratios) if ratios else None


@dataclass(frozen=True)
class Settings:
    """What the command line chose for every run. `profile`: a file for the server's cProfile figures, or empty.
    `root`: the checkout that Mercury is started from."""

    seconds: float
    warm_up: float
    profile: str = ""
    root: Path = ROOT


def run(scenario: Scenario, name: str, settings: Settings, results: Results) -> Figures:
    """Measure a scenario on a server once, with everything fresh. Raises BenchError if a single message went wrong."""
    pin(None if scenario.together else LOAD_CORE)
    scratch = ROOT / "var"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=scratch) as scratch_name:
        folder = Path(scratch_name)
        members = folder / "members"
        if scenario.kind == "idle":
            with start(name, scenario, folder, root=settings.root) as server:
                tokens = server.make_tokens(scenario)
            with start(
                name, scenario, folder, settings.profile, settings.root
            ) as server:  # nothing is left over from making them
                server.write_members(scenario, members, tokens)
                return idle(scenario, server, members)
        with start(name, scenario, folder, settings.profile, settings.root) as server:
            server.make_members(scenario, members)
            command = load_command(scenario, server, members)
            if scenario.kind != "storm":
                command += [f"--seconds={settings.seconds * scenario.longer}", f"--warm-up={settings.warm_up}"]
            if scenario.half_of:
                scenario = replace(scenario, rate=results.runs[scenario.half_of, name][-1]["messages_per_s"] / 2)
            if scenario.rate:
                command.append(f"--rate={scenario.rate}")
            load = subprocess.run(command, stdout=subprocess.PIPE, check=False)
            check_status(scenario, server, load.returncode, load.stdout)
            return read_figures(load.stdout)


def load_command(scenario: Scenario, server: Process, members: Path) -> list[str]:
    """bench/load for this scenario."""
    return [
        str(BINARIES / "load"),
        f"--scenario={scenario.kind}",
        f"--protocol={server.speaks(scenario.protocol)}",
        f"--members={members}",
        f"--in-flight={scenario.in_flight}",
        f"--handshakes={scenario.handshakes}",
        f"--server-pid={','.join(map(str, server.pids()))}",
        *([f"--hamper={scenario.hamper}"] if scenario.hamper else []),
    ]


def idle(scenario: Scenario, server: Process, members: Path) -> Figures:
    """What connections that are only there cost: resident memory before and after, and the CPU that they use."""
    time.sleep(1)
    before = server.resident_kb()
    load = subprocess.Popen(load_command(scenario, server, members), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    standard_in, standard_out = pipes(load)
    try:
        figures = read_figures(standard_out.readline())
        time.sleep(SETTLE_SECONDS)
        figures["kb_per_connection"] = (server.resident_kb() - before) / scenario.connections
        cpu = server.cpu_seconds()
        time.sleep(SETTLE_SECONDS)
        figures["idle_cpu"] = (server.cpu_seconds() - cpu) / SETTLE_SECONDS
    finally:
        standard_in.close()
        status = load.wait()
        standard_out.close()
    check_status(scenario, server, status, b"")
    return figures


def pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """The pipes of a process that was started with them."""
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def read_figures(said: bytes) -> Figures:
    """The report of bench/load, which is the last line that it says."""
    if not said.strip():
        raise BenchError("the load generator ended without a report; see above")
    figures: Figures = json.loads(said.splitlines()[-1])
    return figures


def check_status(scenario: Scenario, server: Process, status: int, report: bytes) -> None:
    """A run that lost, doubled or spoilt anything is no run."""
    if status:
        where = f"{scenario.name} on {server.store} failed its checks (status {status})"
        raise BenchError(f"{where}: {report.decode().strip()}\nThe server's last lines:\n{server.tail()}")
