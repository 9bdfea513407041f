"""Writing through: whatever a socket takes and however it is written to, the bytes arrive in their order, and once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from mercury.core.delivery.listeners import Sink
from mercury.core.delivery.outbox import Outbox
from tests.support.open_connection import QueueingTransport, open_connection


class Socket:
    """Takes as many bytes as `takes` says next, 0 being none at all, and everything when that has come to its end."""

    def __init__(self, takes: list[int]) -> None:
        self.takes = takes
        self.took = b""

    def fileno(self) -> int:
        return 0

    def send(self, data: bytes) -> int:
        most = self.takes.pop(0) if self.takes else len(data)
        if not most:
            raise BlockingIOError
        self.took += data[:most]
        return min(most, len(data))


class Transport(QueueingTransport):
    def drain(self) -> None:
        """The reactor's turn: the socket has room again, and all that waits goes there."""
        self.socket.took += b"".join(self.queued)  # type: ignore[attr-defined]
        self.queued.clear()


#: What is done with a connection: a room is told, something is written to it alone, Autobahn queues, a turn ends.
STEPS = st.lists(st.sampled_from(["tell", "write", "autobahn", "turn"]), max_size=30)


@given(STEPS, st.lists(st.sampled_from([0, 5, 1000, 1000, 1000]), max_size=30))
def test_the_bytes_arrive_in_their_order_and_once(steps: list[str], takes: list[int]) -> None:
    transport = Transport(Socket(takes))
    connection = open_connection(transport)
    session = SimpleNamespace(connection=connection, out=[], rooms={1: 1}, write=connection.write, served=None)
    outbox = Outbox()
    wanted = b""
    for number, step in enumerate(steps):
        data = b"<%d %s>" % (number, step.encode())
        match step:
            case "tell":
                outbox.cork()
                outbox.broadcast([cast(Sink, session)], data)
                outbox.uncork()
            case "write":
                connection.write(data)
            case "autobahn":
                connection.sendData(data)
            case "turn":
                transport.drain()
                continue
        wanted += data
    transport.drain()
    assert transport.socket.took == wanted  # type: ignore[attr-defined]


def test_bytes_are_counted_once() -> None:
    transport = Transport(Socket([3, 0, 100]))
    connection = open_connection(transport)
    session = SimpleNamespace(connection=connection, out=[], rooms={1: 1}, write=connection.write, served=None)
    outbox = Outbox()
    for size in (10, 20, 30):
        outbox.cork()
        outbox.broadcast([cast(Sink, session)], b"x" * size)
        outbox.uncork()
        assert outbox.delivered_bytes + connection.bytes_out == {10: 10, 20: 30, 30: 60}[size]
        transport.drain()


def test_a_room_tells_the_socket_itself_while_nothing_waits() -> None:
    """The gain: no function of ours is called for a delivery."""
    transport = Transport(Socket([]))
    connection = open_connection(transport)
    connection.write(b"hello")
    assert connection.direct is not None
    assert connection.direct.send == transport.socket.send
    connection.sendData(b"a pong")
    assert connection.direct is None
    connection.write(b"behind it")
    assert connection.direct is None
    transport.drain()
    connection.write(b"and again")
    assert connection.direct is not None


def test_nothing_is_written_when_the_connection_is_no_longer_open() -> None:
    transport = Transport(Socket([]))
    connection = open_connection(transport)
    connection.state = connection.STATE_CLOSING
    connection.write(b"x")
    assert connection.direct is None
    assert not transport.socket.took  # type: ignore[attr-defined]
    assert not transport.queued


def test_who_is_cut_off_is_sent_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until Twisted says that the connection is gone, which it does a turn later."""
    transport = Transport(Socket([]))
    monkeypatch.setattr(transport, "abortConnection", lambda: None)
    monkeypatch.setattr(transport, "unregisterProducer", lambda: None)
    connection = open_connection(transport)
    connection.wasClean, connection.is_closed = True, cast(Any, Deferred())
    connection.write(b"before")
    assert connection.direct
    connection.abort()
    assert connection.direct is None
    connection.write(b"after")
    assert transport.socket.took == b"before"
    assert not transport.queued
