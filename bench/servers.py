"""Mercury and the floor as processes: started as they are for use, with files and ports of their own."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.processes import BINARIES, ROOT, SERVER_CORE, BenchError, Process, free_ports
from bench.scenarios import Scenario

Answer = dict[str, dict[str, object]]
AT_ONCE = 8  # so that Mercury's commits are shared by several calls


class Floor(Process):
    """bench/floor.c. It speaks the seed protocol, or echoes. `fault`: what it does wrong once, or empty."""

    def __init__(self, folder: Path, core: int | None = SERVER_CORE, fault: str = "") -> None:
        (self.ws_port,) = free_ports(1)
        command = [str(BINARIES / "floor"), str(self.ws_port), *([fault] if fault else [])]
        self.launch("floor", folder, command, os.environ, core)

    def speaks(self, protocol: str) -> str:
        return protocol if protocol == "echo" else "seed"


class Server(Process):
    """Mercury. `store`: memory or sqlite, or with `flags`, which then choose it, the name of another one.
    `root`: the checkout that is measured, with its own .venv if it is not this one."""

    def __init__(
        self,
        store: str,
        folder: Path,
        profile: str = "",
        flags: Sequence[str] = (),
        core: int | None = SERVER_CORE,
        root: Path = ROOT,
    ) -> None:
        self._bin = Path(sys.executable).parent if root == ROOT else root / ".venv/bin"
        self.ws_port, self.api_port = free_ports(2)
        flags = flags or [f"--storage.type={store}", f"--sqlite.path={folder / 'mercury.sqlite'}"]
        # The benchmark's own settings only: not the user's, from the environment or from a file beside the project.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MERCURY_")} | {"PYTHONPATH": str(root)}
        self.launch(store, folder, self.mercury(flags, profile), environment, core)

    def mercury(self, flags: Sequence[str], profile: str) -> list[str]:
        """The command line of Mercury with nothing but its defaults, its store, and ports of its own."""
        profiling = ["--profiler=cprofile", "--savestats", f"--profile={Path(profile).resolve()}"] if profile else []
        return [
            str(self._bin / "twistd"),
            *("-n", "--pidfile=", *profiling, "mercury"),
            *flags,
            f"--server.ws.port={self.ws_port}",
            f"--server.api.port={self.api_port}",
            "--server.ws.address=127.0.0.1/32",
        ]

    def is_ready(self) -> bool:
        """Whether it says so."""
        api = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=5)
        try:
            api.request("GET", "/readyz")
            return api.getresponse().status == 200
        except OSError:
            return False
        finally:
            api.close()

    def make_tokens(self, scenario: Scenario) -> list[str]:
        """Make the members' tokens, and the rooms that they are in, over REST."""
        members = [f"member{i}" for i in range(scenario.connections)]
        rooms: dict[str, list[str]] = {}
        for i, member in enumerate(members):
            rooms.setdefault(scenario.room(i), []).append(member)
        made = self.calls("GET", [f"/api/token/{member}" for member in members])
        adding = [
            f"/api/room/add?room={room}&member={'-'.join(inside[start : start + 100])}"
            for room, inside in rooms.items()
            for start in range(0, len(inside), 100)
        ]
        self.calls("POST", adding)
        return [str(answer["body"]["token"]) for answer in made]

    def calls(self, method: str, paths: Sequence[str]) -> list[Answer]:
        """Several calls over several connections. The answers, in their order."""

        def some(first: int) -> list[Answer]:
            api = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=30)
            try:
                return [call(api, method, path) for path in paths[first::AT_ONCE]]
            finally:
                api.close()

        with ThreadPoolExecutor(AT_ONCE) as threads:
            answers = list(threads.map(some, range(AT_ONCE)))
        return [answers[i % AT_ONCE][i // AT_ONCE] for i in range(len(paths))]


def call(api: http.client.HTTPConnection, method: str, path: str) -> Answer:
    """One REST call on a connection that stays open."""
    api.request(method, path, headers={"Content-Length": "0"} if method == "POST" else {})
    response = api.getresponse()
    body = response.read()
    if response.status != 200:
        raise BenchError(f"{method} {path}: {response.status} {body.decode(errors='replace')[:300]}")
    answer: Answer = json.loads(body)
    return answer
