"""The server under test: Mercury's WebSocket factory, options, protocol class and framing, with an echo for a chat.

It runs as a process of its own, so that it is not touched by what a fuzzing client brings along, and has a processor
for itself. It prints its port, then serves on 127.0.0.1 until its standard input is closed: it cannot outlive the run
that started it, even if that is killed.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any

from autobahn.websocket.types import ConnectionRequest
from twisted.internet import reactor, stdio
from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from mercury.node.tuning import fast_poll
from mercury.settings.limits import Limits
from mercury.settings.schema import Config, Ws
from mercury.websocket.connection import WebSocketConnection
from mercury.websocket.factory import WebSocketFactory
from mercury.websocket.framing import TEXT, DeflatedFrameEncoder, FrameEncoder
from mercury.websocket.subprotocols.v1 import V1

BINARY = 0x82  # FIN and opcode 2; Mercury itself sends none
HANDSHAKE_SECONDS = 60  # not Mercury's 5: on a busy machine, beside a case that sends 16 MiB, one waits that long
NO_CODEC = V1(Limits())  # a wire needs one; the echo needs only its frames


class EchoHandler:
    """Lets everyone in and sends back what came, framed as Mercury frames it."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        self.frame = FrameEncoder(NO_CODEC).frame

    async def admit(self, request: ConnectionRequest) -> str | None:
        return None

    def opened(self, deflate: bool) -> EchoHandler:
        if deflate:
            self.frame = DeflatedFrameEncoder(NO_CODEC).frame
        return self

    def on_frame(self, payload: bytes, binary: bool) -> None:
        framed = self.frame(payload)
        if binary:  # the opcode is all that differs
            framed = bytes([framed[0] - TEXT + BINARY]) + framed[1:]
        self._connection.write(framed)

    def pong(self, payload: bytes) -> None:
        """Nothing waits for one."""

    def slow(self) -> None:
        """What waits is one case's messages: bounded."""

    def drained(self) -> None:
        """See slow()."""

    def closed(self, code: int) -> None:
        """Nothing is held."""


class UntilClosed(Protocol):
    """Stops the reactor when standard input is closed."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        with suppress(ReactorNotRunning):  # after Ctrl-C, which reaches both processes
            reactor.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="echo", description=__doc__)
    parser.add_argument("--frame-bytes", type=int, default=Config().limits.frame_bytes)
    parser.add_argument("--compression", action="store_true")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; default: a free one")
    options = parser.parse_args()
    factory = WebSocketFactory(
        EchoHandler,
        reactor=reactor,
        limits=Limits(frame_bytes=options.frame_bytes, handshake_seconds=HANDSHAKE_SECONDS),
        ws=Ws(compression=options.compression),
    )
    address: Any = reactor.listenTCP(options.port, factory, interface="127.0.0.1").getHost()
    print(address.port, flush=True)
    stdio.StandardIO(UntilClosed())
    fast_poll(reactor)
    reactor.run()


if __name__ == "__main__":
    main()
