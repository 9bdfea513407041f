"""A worker as the process that supervises it sees it: how it is started, what it says, and that it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
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
    Message,
    Order,
    Place,
    Unpacker,
    packed,
)

#: What systemd tells the supervisor, and the supervisor tells its workers in other ways.
NOT_PASSED_ON: Final = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID")
TWISTD: Final = "from twisted.scripts.twistd import run; run()"

State = Literal["starting", "ready", "stopping", "hung"]


class Supervisor(Protocol):
    """Who is told of it."""

    def heard(self, worker: Worker, message: Message) -> None:
        """It said this."""

    def ended(self, worker: Worker, how: str) -> None:
        """Its process is gone; `how` is empty if it ended well."""


class Worker(ProcessProtocol):
    """One process of the worker `number`. `since`: when it was started; `last`: when it was heard of."""

    def __init__(self, number: int, now: float, supervisor: Supervisor) -> None:
        self.number = number
        self.state: State = "starting"
        self.since = self.last = now
        self.status = ""
        self._supervisor = supervisor
        self._unpacker = Unpacker()
        self._reloading: Deferred[None] | None = None
        self._process: Any = None

    def begin(
        self, reactor: Any, count: int, sockets: Mapping[str, int], watchdog: float, words: Sequence[str]
    ) -> None:
        """Start it, one of `count`. `words`: the command line behind twistd's name."""
        files: dict[int, Any] = {TO_WORKER: "w", 1: 1, 2: 2, FROM_WORKER: "r"}
        files.update(enumerate(sockets.values(), FIRST_SOCKET))
        place = Place(self.number, count, dict(zip(sockets, range(FIRST_SOCKET, max(files) + 1), strict=True)))
        environ = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        environ |= {
            VARIABLE: msgspec.json.encode(place).decode(),
            "WATCHDOG_USEC": str(round(watchdog * 1_000_000)),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # -P: what else might lie about is not looked at
        }
        command = [sys.executable, "-P", "-c", TWISTD, *words]
        self._process = reactor.spawnProcess(self, sys.executable, command, environ, childFDs=files)

    def send(self, message: Message) -> None:
        """Say something to it, if it can still hear."""
        if TO_WORKER in self._process.pipes:
            self._process.writeToChild(TO_WORKER, packed(message))

    def signal(self, which: Signals) -> None:
        """Send a signal, if it still runs."""
        with suppress(ProcessExitedAlready):
            self._process.signalProcess(int(which))

    def reload(self) -> Deferred[None]:
        """Have it reload; fires when it has, or is gone."""
        if self.state != "ready":
            return succeed(None)  # it reads them yet, or needs them no more
        if self._reloading is None:
            self._reloading = Deferred()
        done: Deferred[None] = Deferred()
        self._reloading.addCallback(lambda _: done.callback(None))
        self.send(Order("reload"))
        return done

    def is_told(self, lines: Sequence[str]) -> Iterator[str]:
        """What it told in the words of sd_notify(3), one word after the other; keeps its status."""
        for line in lines:
            name, _, value = line.partition("=")
            if name == "STATUS":
                self.status = value
            yield name

    def has_reloaded(self) -> None:
        """It said so."""
        if (reloading := self._reloading) is not None:
            self._reloading = None
            reloading.callback(None)

    # From Twisted

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        try:
            for message in self._unpacker.feed(data):
                self._supervisor.heard(self, message)
        except (ValueError, msgspec.MsgspecError):
            self.signal(Signals.SIGKILL)  # it is none of ours any more

    def processEnded(self, reason: Failure) -> None:
        self.has_reloaded()
        status: Any = reason.value
        how = ""
        if status.signal == SIGTERM:
            pass  # somebody told it to end, before it could heed that, or when it was done
        elif status.signal is not None:
            how = f"by signal {status.signal}"
        elif status.exitCode:
            how = f"with exit code {status.exitCode}"
        self._supervisor.ended(self, how)
