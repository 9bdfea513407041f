"""Mercury and the floor as processes: started as they are for use, with files and ports of their own."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import BINARIES, ROOT, SERVER_CORE, BenchError, Process, free_ports
from bench.scenarios import Scenario


class Floor(Process):
    """bench/floor.c. It speaks the seed protocol, or echoes."""

    def __init__(self, folder: Path, core: int | None = SERVER_CORE) -> None:
        (self.ws_port,) = free_ports(1)
        self.launch("floor", folder, [str(BINARIES / "floor"), str(self.ws_port)], os.environ, core)

    def speaks(self, protocol: str) -> str:
        return protocol if protocol == "echo" else "seed"


class Server(Process):
    """Mercury. `store`: memory or sqlite, or with `flags`, which then choose it, the name of another one."""

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
        # The benchmark's own settings only: not the user's, from the environment or from a file beside the project.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MERCURY_")} | {"PYTHONPATH": str(ROOT)}
        self.launch(store, folder, self.mercury(flags, profile), environment, core)

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
        api = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=30)
        tokens = [str(call(api, "GET", f"/api/token/{member}")["body"]["token"]) for member in members]
        for room, inside in rooms.items():
            for start in range(0, len(inside), 100):
                names = "-".join(inside[start : start + 100])
                call(api, "POST", f"/api/room/add?room={room}&member={names}")
        api.close()
        return tokens


def call(api: http.client.HTTPConnection, method: str, path: str) -> dict[str, dict[str, object]]:
    """One REST call on a connection that stays open."""
    api.request(method, path, headers={"Content-Length": "0"} if method == "POST" else {})
    response = api.getresponse()
    body = response.read()
    if response.status != 200:
        raise BenchError(f"{method} {path}: {response.status} {body.decode(errors='replace')[:300]}")
    answer: dict[str, dict[str, object]] = json.loads(body)
    return answer
