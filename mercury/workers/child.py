"""One worker, as its supervisor sees it: started, listened to, sent orders, ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from signal import SIGTERM, Signals
from typing import Any, Final, Literal, Protocol

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from mercury.net.worker_pipe import (
    FIRST_SOCKET,
    FROM_WORKER,
    TO_WORKER,
    VARIABLE,
    PipeMessage,
    Unpacker,
    WorkerOrder,
    WorkerSlot,
    pack,
)

#: What systemd tells the supervisor, and the supervisor tells its workers in other ways.
NOT_PASSED_ON: Final = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID")
TWISTD: Final = "from twisted.scripts.twistd import run; run()"

State = Literal["starting", "ready", "stopping", "hung"]


class WorkerObserver(Protocol):
    """What a worker calls when something happens."""

    def received(self, worker: Worker, message: PipeMessage) -> None:
        """It sent this message."""

    def ended(self, worker: Worker, how: str) -> None:
        """Its process has ended; `how` is empty if it ended well."""


class Worker(ProcessProtocol):
    """One process of the worker `number`. `started_at`, `heard_at`: when it was started, and when it sent something
    last. `status`: what it said last of itself in words."""

    def __init__(self, number: int, now: float, supervisor: WorkerObserver) -> None:
        self.number = number
        self.state: State = "starting"
        self.started_at = self.heard_at = now
        self.status = ""
        self._supervisor = supervisor
        self._unpacker = Unpacker()
        self._reloading: Deferred[None] | None = None
        self._process: Any = None

    def start(
        self, reactor: Any, count: int, sockets: Mapping[str, int], watchdog: float, arguments: Sequence[str]
    ) -> None:
        """Start it, one of `count`. `arguments`: of the command twistd."""
        files: dict[int, Any] = {TO_WORKER: "w", 1: 1, 2: 2, FROM_WORKER: "r"}
        files.update(enumerate(sockets.values(), FIRST_SOCKET))
        slot = WorkerSlot(self.number, count, dict(zip(sockets, range(FIRST_SOCKET, max(files) + 1), strict=True)))
        environ = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        environ |= {
            VARIABLE: msgspec.json.encode(slot).decode(),
            "WATCHDOG_USEC": str(round(watchdog * 1_000_000)),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # -P: the current directory is not searched
        }
        command = [sys.executable, "-P", "-c", TWISTD, *arguments]
        self._process = reactor.spawnProcess(self, sys.executable, command, environ, childFDs=files)

    def send(self, message: PipeMessage) -> None:
        """Send it a message, if it still reads."""
        if TO_WORKER in self._process.pipes:
            self._process.writeToChild(TO_WORKER, pack(message))

    def signal(self, which: Signals) -> None:
        """Send a signal, if it still runs."""
        with suppress(ProcessExitedAlready):
            self._process.signalProcess(int(which))

    def reload(self) -> Deferred[None]:
        """Have it reload; fires when it has, or is gone."""
        if self.state != "ready":
            return succeed(None)  # it has yet to read the settings, or does not need them any more
        if self._reloading is None:
            self._reloading = Deferred()
        done: Deferred[None] = Deferred()
        self._reloading.addCallback(lambda _: done.callback(None))
        self.send(WorkerOrder("reload"))
        return done

    def has_reloaded(self) -> None:
        """Its reload is done."""
        if (reloading := self._reloading) is not None:
            self._reloading = None
            reloading.callback(None)

    # From Twisted

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        try:
            for message in self._unpacker.feed(data):
                self._supervisor.received(self, message)
        except (ValueError, msgspec.MsgspecError):
            self.signal(Signals.SIGKILL)  # what it sends is no message

    def processEnded(self, reason: Failure) -> None:
        self.has_reloaded()
        status: Any = reason.value
        how = ""
        if status.signal == SIGTERM:
            pass  # it was told to end before it had its own handler, or after it was done
        elif status.signal is not None:
            how = f"by signal {status.signal}"
        elif status.exitCode:
            how = f"with exit code {status.exitCode}"
        self._supervisor.ended(self, how)
