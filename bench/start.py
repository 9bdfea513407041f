"""Which server belongs to which name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest import SkipTest

from bench.processes import ROOT, SERVER_CORE, BenchError, Process, free_ports
from bench.rivals import programs as rivals
from bench.rivals.install import debian
from bench.rivals.programs import RIVALS
from bench.scenarios import Scenario
from bench.servers import Floor, Server

sys.path.append(str(ROOT / "tests"))  # where the engines are that tests start as well
from tests.support.mariadb_servers import MariaDb
from tests.support.redis_servers import RedisEngine

#: As on a server of one's own: memory for what is in use, and a log that is long enough for checkpoints to be rare.
MARIADB_OPTIONS = ("--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G")


class Echo(Process):
    """A WebSocket echo, with no chat: Mercury's protocol class as the conformance suite has it."""

    def __init__(self, folder: Path) -> None:
        (self.ws_port,) = free_ports(1)
        command = [sys.executable, "-m", "tests.conformance.echo", f"--port={self.ws_port}"]
        self.launch("echo", folder, command, os.environ | {"PYTHONPATH": str(ROOT)}, SERVER_CORE)


class ServerOnMariaDb(Server):
    """Mercury with a MariaDB of its own, which syncs each commit and has the load's core."""

    def __init__(self, folder: Path, profile: str = "") -> None:
        (folder / "mariadb").mkdir(exist_ok=True)
        try:
            self.engine = MariaDb(folder / "mariadb", *MARIADB_OPTIONS)
        except SkipTest as missing:
            raise BenchError(str(missing)) from None
        self.engine.start()
        flags = ["--storage.type=mysql", "--mysql.host=127.0.0.1", f"--mysql.port={self.engine.port}"]
        super().__init__("mariadb", folder, profile, flags)

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self.engine.kill()


class Workers(Server):
    """Mercury with a Redis of its own, which syncs each commit, as store and bus of so many workers, on any core."""

    def __init__(self, count: int, folder: Path, profile: str = "") -> None:
        try:
            self.engine = RedisEngine(folder / "redis", free_ports(1)[0], durable=True)
        except SkipTest as missing:
            raise BenchError(str(missing)) from None
        flags = ["--storage.type=redis", "--redis.host=127.0.0.1", f"--redis.port={self.engine.port}"]
        super().__init__(f"{count} workers", folder, profile, [*flags, f"--workers={count}"], core=None)

    def pids(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self.engine.kill()


def prepare(name: str) -> None:
    """Install what a server needs, unless that is done."""
    if name in RIVALS:
        rivals.prepare(name)
    elif name == "mariadb":
        debian("mariadb-server-core")
    elif name in ("worker", "workers"):
        debian("redis-server")


def start(name: str, scenario: Scenario, folder: Path, profile: str = "", root: Path = ROOT) -> Process:
    """A fresh server for a scenario. `profile`: where Mercury writes its cProfile figures, or empty. `root`: the
    checkout that Mercury in memory and on SQLite is started from."""
    match name:
        case "floor":
            return Floor(folder)
        case "mariadb":
            return ServerOnMariaDb(folder, profile)
        case "worker" | "workers":
            return Workers(2 if name == "workers" else 1, folder, profile)
        case "echo":
            return Echo(folder)
        case _ if name in RIVALS:
            return rivals.start(name, folder, ["--echo"] if scenario.protocol == "echo" else [])
        case _:
            return Server(name, folder, profile, root=root)
