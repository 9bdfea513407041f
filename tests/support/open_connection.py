"""A WebSocketConnection that is open, over a transport of the test's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection

from mercury.settings.limits import Limits
from mercury.settings.schema import Ws
from mercury.websocket.connection import WebSocketConnection
from mercury.websocket.factory import WebSocketFactory


class QueueingTransport(Connection):
    """Twisted's connection as far as its queue goes: what is written to it waits until a test lets it go on."""

    connected = True

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.queued: list[bytes] = []
        self._tempDataBuffer = cast(Any, self.queued)

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.7", 4711)

    def write(self, data: bytes) -> None:
        self.queued.append(data)


def open_connection(transport: QueueingTransport) -> WebSocketConnection:
    """The connection, after its handshake."""
    names = ("admit", "opened", "message", "pong", "slow", "drained", "closed")
    handler: Any = SimpleNamespace(**dict.fromkeys(names, lambda *_: None))
    limits = Limits(handshake_seconds=0)
    factory = WebSocketFactory(lambda _: handler, reactor=Clock(), limits=limits, ws=Ws())
    connection = cast(WebSocketConnection, factory.buildProtocol(None))
    connection.makeConnection(transport)  # type: ignore[no-untyped-call]
    connection.state = connection.STATE_OPEN
    return connection
