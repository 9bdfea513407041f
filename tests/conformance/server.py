"""Start the server under test (echo.py) as a process, for as long as cases are played on it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from twisted.internet import defer
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from .prepare import ConformanceError

START_SECONDS: Final = 30
STOP_SECONDS: Final = 10


class EchoProcess(ProcessProtocol):
    """The parent's end of the process: `port` fires with what it listens on, `ended` when it is gone."""

    def __init__(self) -> None:
        self.port: defer.Deferred[int] = defer.Deferred()
        self.ended: defer.Deferred[None] = defer.Deferred()
        self._printed = b""

    def outReceived(self, data: bytes) -> None:
        self._printed += data
        if not self.port.called and b"\n" in self._printed:
            self.port.callback(int(self._printed))

    def processEnded(self, reason: Failure) -> None:
        if not self.port.called:
            self.port.errback(
                ConformanceError(f"the echo server did not start; its errors stand above ({reason.value})")
            )
        self.ended.callback(None)


@asynccontextmanager
async def running_echo(reactor: PosixReactorBase, options: Sequence[str]) -> AsyncIterator[str]:
    """Give the URL of an echo server with these options; it is stopped when the context ends."""
    process = EchoProcess()
    module = f"{__package__}.echo"
    # Its errors go where ours go; its input is the leash that ends it.
    transport = reactor.spawnProcess(
        process,
        sys.executable,
        [sys.executable, "-m", module, *options],
        env=os.environ,
        childFDs={0: "w", 1: "r", 2: 2},
    )
    try:
        port = await process.port.addTimeout(START_SECONDS, reactor)
        yield f"ws://127.0.0.1:{port}"
    finally:
        transport.closeStdin()
        try:
            await process.ended.addTimeout(STOP_SECONDS, reactor)
        except defer.TimeoutError:
            transport.signalProcess("KILL")
