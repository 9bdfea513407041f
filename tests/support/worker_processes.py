"""A Mercury with several workers: the process that supervises them, as a server, and each worker's process."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
from twisted.internet.threads import deferToThread

from mercury.net.worker_pipe import VARIABLE, WorkerSlot
from tests.support.metrics_watch import Numbers
from tests.support.recording_clients import until
from tests.support.server_process import Server


class Several(Server):
    """`mercury --workers`. Its process is that of the supervisor; kill() ends only that."""

    def __init__(self, folder: Path, ports: tuple[int, int], workers: int, *flags: str) -> None:
        super().__init__(folder, ports, f"--workers={workers}", *flags)
        self.count = workers

    def workers(self) -> dict[int, int]:
        """The process numbers of the workers that run, by the workers' numbers."""
        return workers_of(self.pid)

    def strike(self, worker: int, name: str = "KILL") -> int:
        """Send a signal to a worker; its process number."""
        pid = self.workers()[worker]
        os.kill(pid, signal.Signals[f"SIG{name}"])
        return pid

    async def renewed(self, worker: int, pid: int) -> None:
        """Wait until a worker runs as another process, and all are ready."""
        await until(lambda: self.workers().get(worker, pid) != pid, f"another process of worker {worker}")
        while not await self._is_ready():
            pass

    async def numbers(self) -> Numbers:
        """Its metrics."""
        return Numbers((await deferToThread(self._page)).decode())

    def _page(self) -> bytes:
        page: Any = urlopen(f"http://{self.where.host}:{self.where.api}/metrics", timeout=20)
        return bytes(page.read())


def workers_of(pid: int) -> dict[int, int]:
    """The process numbers of the workers that a process supervises, by the workers' numbers; none if it is gone."""
    found = {}
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return {}
    for child in children:
        if (number := _number(int(child))) is not None:
            found[number] = int(child)
    return found


def _number(pid: int) -> int | None:
    """Which worker a process is, if it has got that far."""
    try:
        environ: Mapping[bytes, bytes] = dict(
            line.partition(b"=")[::2] for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        )
    except OSError:
        return None
    slot = environ.get(VARIABLE.encode())
    return msgspec.json.decode(slot, type=WorkerSlot).number if slot else None
