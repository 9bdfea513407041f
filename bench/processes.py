"""A server that is measured, as a process: started and pinned to a core, watched, and stopped."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from bench.scenarios import Scenario

ROOT = Path(__file__).resolve().parent.parent
BINARIES = ROOT / "build" / "bench"
SERVER_CORE, LOAD_CORE = 0, 1
START_SECONDS = 30.0
STOP_SECONDS = 30.0


class BenchError(Exception):
    """The benchmark cannot go on, or what it measured is wrong. Its text is for the person who runs it."""


def pin(core: int | None) -> None:
    """Keep this process, and what it starts from now on, to one core, where there are two; None: let it go."""
    cores = set(range(os.cpu_count() or 1))
    os.sched_setaffinity(0, cores & {core} or cores)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Process:
    """A server on a port of 127.0.0.1. launch() it in the constructor, and use it as a context manager."""

    store: str  # what it is called, in messages
    pid: int  # of the process that does the work
    ws_port: int

    def launch(
        self,
        store: str,
        folder: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        core: int | None,
        sockets: Sequence[int] = (),
    ) -> None:
        """Start the process. Its standard input stays open until it is stopped, or until the benchmark has gone.

        `sockets`: file descriptors that it gets as well.
        """
        self.store = store
        self.log = folder / "server.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: pin(core),
                pass_fds=sockets,
            )
        self.pid = self.process.pid

    def speaks(self, protocol: str) -> str:
        """The dialect (bench/dialects.c) in which it takes part in what is measured in this protocol."""
        return protocol

    def pids(self) -> list[int]:
        """All processes whose CPU time is its own."""
        return [self.pid]

    def __enter__(self) -> Self:
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self) -> None:
        """Return when the server serves."""
        end = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None:
                raise BenchError(f"the {self.store} server ended with status {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > end:
                raise BenchError(f"the {self.store} server was not ready within {START_SECONDS:.0f} s:\n{self.tail()}")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Whether it accepts connections."""
        try:
            socket.create_connection(("127.0.0.1", self.ws_port), 1).close()
        except OSError:
            return False
        return True

    def wait_for_child(self) -> None:
        """Return when it has started the one process that does the work, and take that one's pid."""
        end = time.monotonic() + START_SECONDS
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (pids := children.read_text().split()):
            if time.monotonic() > end:
                raise BenchError(f"the {self.store} server started no process of its own:\n{self.tail()}")
            time.sleep(0.05)
        (self.pid,) = map(int, pids)

    def stop(self) -> None:
        """Ask it to end; insist after STOP_SECONDS."""
        self.process.terminate()
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise BenchError(f"the {self.store} server did not end in {STOP_SECONDS:.0f} s:\n{self.tail()}") from None

    def tail(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def resident_kb(self) -> int:
        """The resident memory of its processes."""
        return sum(map(self._resident_kb, self.pids()))

    def _resident_kb(self, pid: int) -> int:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise BenchError(f"the {self.store} server has gone:\n{self.tail()}")

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used, user and system."""
        return sum(cpu_seconds(Path(f"/proc/{pid}/stat")) for pid in self.pids())

    def make_members(self, scenario: Scenario, path: Path, port_of: Callable[[int], int] | None = None) -> None:
        """Make what the scenario's members need, and write the lines that bench/load reads.

        port_of(index): where a member connects, if not to this server.
        """
        self.write_members(scenario, path, self.make_tokens(scenario), port_of)

    def make_tokens(self, scenario: Scenario) -> list[str]:
        """Nobody needs one here: a member brings the name of its room instead."""
        return [scenario.room(i) for i in range(scenario.connections)]

    def write_members(
        self, scenario: Scenario, path: Path, tokens: Sequence[str], port_of: Callable[[int], int] | None = None
    ) -> None:
        """A line for each member of the scenario."""
        ports = [port_of(i) if port_of else self.ws_port for i in range(len(tokens))]
        lines = [f"{token} member{i} {scenario.room(i)} {ports[i]}\n" for i, token in enumerate(tokens)]
        path.write_text("".join(lines))


def cpu_seconds(stat: Path) -> float:
    """CPU time of a process or thread, user and system."""
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
