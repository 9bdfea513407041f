"""The servers that are measured, as processes: Mercury as it is started for use, and the floor that stores nothing."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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


class Server:
    """A server process on `core`, fresh, with its files in `folder`. Use it as a context manager.

    `store`: memory, sqlite or floor, or with `flags`, which then choose it, the name of another one.
    """

    def __init__(
        self,
        store: str,
        folder: Path,
        profile: str = "",
        flags: Sequence[str] = (),
        core: int | None = SERVER_CORE,
    ) -> None:
        self.ws_port, self.api_port = free_ports(2)
        flags = flags or [f"--storage.type={store}", f"--sqlite.path={folder / 'mercury.sqlite'}"]
        floor = [str(BINARIES / "floor"), str(self.ws_port)]
        command = floor if store == "floor" else self.mercury(flags, profile)
        # The benchmark's own settings only: not the user's, from the environment or from a file beside the project.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MERCURY_")} | {"PYTHONPATH": str(ROOT)}
        self.launch(store, folder, command, environment, core)

    def launch(
        self, store: str, folder: Path, command: Sequence[str], environment: Mapping[str, str], core: int | None
    ) -> None:
        """Start the process."""
        self.store = store
        self.log = folder / "server.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: pin(core),
            )
        self.pid = self.process.pid

    def mercury(self, flags: Sequence[str], profile: str) -> list[str]:
        """The command line of Mercury with nothing but its defaults, its store, and ports of its own."""
        profiling = ["--profiler=cprofile", "--savestats", f"--profile={Path(profile).resolve()}"] if profile else []
        return [
            str(Path(sys.executable).parent / "twistd"),
            *("-n", "--pidfile=", *profiling, "mercury"),
            *flags,
            f"--server.ws.port={self.ws_port}",
            f"--server.api.port={self.api_port}",
            "--server.ws.address=127.0.0.1/32",
        ]

    def __enter__(self) -> Server:
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
        """Whether Mercury says so, or another server accepts connections."""
        try:
            if self.store in ("floor", "crossbar"):
                socket.create_connection(("127.0.0.1", self.ws_port), 1).close()
                return True
            api = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=5)
            api.request("GET", "/readyz")
            return api.getresponse().status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """Ask it to end; insist after STOP_SECONDS."""
        self.process.terminate()
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
        """The process's resident memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise BenchError(f"the {self.store} server has gone:\n{self.tail()}")

    def cpu_seconds(self) -> float:
        """CPU time that the process has used, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def make_members(self, scenario: Scenario, path: Path, port_of: Callable[[int], int] | None = None) -> None:
        """Make the scenario's tokens and rooms over REST; write the lines that bench/load reads.

        port_of(index): where a member connects; to this server if it is not given.
        """
        members = [f"member{i}" for i in range(scenario.connections)]
        rooms: dict[str, list[str]] = {}
        for i, member in enumerate(members):
            rooms.setdefault(scenario.room(i), []).append(member)
        if self.store == "floor":
            tokens = [scenario.room(i) for i in range(len(members))]
        else:
            api = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=30)
            tokens = [str(call(api, "GET", f"/api/token/{member}")["body"]["token"]) for member in members]
            for room, inside in rooms.items():
                for start in range(0, len(inside), 100):
                    names = "-".join(inside[start : start + 100])
                    call(api, "POST", f"/api/room/add?room={room}&member={names}")
            api.close()
        ports = [port_of(i) if port_of else self.ws_port for i in range(len(members))]
        lines = [f"{token} {members[i]} {scenario.room(i)} {ports[i]}\n" for i, token in enumerate(tokens)]
        path.write_text("".join(lines))


def call(api: http.client.HTTPConnection, method: str, path: str) -> dict[str, dict[str, object]]:
    """One REST call on a connection that stays open."""
    api.request(method, path, headers={"Content-Length": "0"} if method == "POST" else {})
    response = api.getresponse()
    body = response.read()
    if response.status != 200:
        raise BenchError(f"{method} {path}: {response.status} {body.decode(errors='replace')[:300]}")
    answer: dict[str, dict[str, object]] = json.loads(body)
    return answer
