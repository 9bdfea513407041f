"""Many sends in one system call: what goes to each socket is what would have gone there by itself."""

from __future__ import annotations

import ctypes
import errno
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest
from twisted.logger import capturedLogs

from mercury.core.delivery.outbox import MANY, Outbox
from mercury.net import io_uring
from mercury.net.io_uring import BUFFER_BYTES, ENTRIES, IoUring, UringBroadcaster, make_broadcaster, send_sqe
from tests.support.open_connection import QueueingTransport, open_connection


@pytest.fixture
def ring() -> Iterator[IoUring]:
    try:
        ring = IoUring()
    except OSError as error:
        pytest.skip(f"there is no io_uring here: {error}")
    yield ring
    ring.close()


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with ExitStack() as stack:
        made = [socket.socketpair() for _ in range(100)]
        for near, far in made:
            stack.enter_context(near)
            stack.enter_context(far)
            near.setblocking(False)
            far.setblocking(False)
        yield made


Pairs = list[tuple[socket.socket, socket.socket]]


def test_all_get_the_same_however_often(ring: IoUring, pairs: Pairs) -> None:
    """Also where the queues' ends meet their beginnings, which they do within 30 rounds."""
    sqes = [send_sqe(near.fileno()) for near, _ in pairs]
    for number in range(60):
        data = b"%d" % number * (number + 1)
        some = sqes[: 100 - number]
        assert ring.send(some, data) == []
        for _, far in pairs[: len(some)]:
            assert far.recv(1000) == data


def test_who_takes_a_part_or_nothing_is_named(ring: IoUring, pairs: Pairs) -> None:
    sqes = [send_sqe(near.fileno()) for near, _ in pairs]
    full, gone = pairs[7][0], pairs[9][1]
    already = 0
    while True:
        try:
            already += full.send(b"x" * 1000)
        except BlockingIOError:
            break
    gone.close()
    assert ring.send(sqes, b"hello") == [(7, 0), (9, 0)]
    pairs[3][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    big = b"y" * 100_000
    short = dict(ring.send(sqes[:5], big))
    assert 0 < short[3] < len(big)
    assert pairs[4][1].recv(9) == b"helloyyyy"


class Transport(QueueingTransport):
    """It drains when a test says so."""

    def drain(self) -> None:
        waiting = b"".join(self.queued)
        self.queued.clear()
        try:
            sent = self.socket.send(waiting)
        except BlockingIOError:
            sent = 0
        if waiting[sent:]:
            self.queued.append(waiting[sent:])


class Member:
    """A session as the outbox knows one, with a real socket that holds little."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        self.far = far
        self.transport = Transport(near)
        self.connection = connection = open_connection(self.transport)
        self.write = connection.write
        self.out: list[bytes] = []
        self.rooms = {1: 1}
        self.log_context = None
        self.heard = b""

    def hear(self, most: int) -> None:
        with suppress(BlockingIOError):
            self.heard += self.far.recv(most)
        if self.transport.queued:
            self.transport.drain()


@pytest.mark.parametrize("seed", range(3))
def test_each_socket_gets_all_in_order_at_its_own_pace(ring: IoUring, pairs: Pairs, seed: int) -> None:
    chance = random.Random(seed)
    members = [Member(*pair) for pair in pairs[: 3 * MANY]]
    outbox = Outbox(UringBroadcaster(ring))
    wanted = b""
    for number in range(300):
        data = b"%d," % number * chance.randrange(1, 300)
        wanted += data
        outbox.cork()
        outbox.broadcast(cast(Any, members), data)
        outbox.uncork()
        for place, member in enumerate(members):
            if place % 3 or chance.random() < 0.2:  # a third reads seldom
                member.hear(chance.randrange(1, 20_000))
    assert any(member.transport.queued for member in members)
    assert any(member.connection.direct for member in members)
    for member in members:
        while len(member.heard) < len(wanted):
            member.hear(1 << 20)
        assert member.heard == wanted
    written = sum(member.connection.bytes_out for member in members)
    assert outbox.delivered_bytes + written == len(wanted) * len(members)


def receivers(*sqes: bytes) -> Any:
    """Sessions whose sockets take nothing but by io_uring, and who write down that they were hung up on."""

    def session(sqe: bytes) -> Any:
        connection = SimpleNamespace(direct=SimpleNamespace(sqe=sqe, send=lambda data: 0), aborted=False)
        connection.abort = lambda: setattr(connection, "aborted", True)
        return SimpleNamespace(connection=connection)

    return [session(sqe) for sqe in sqes]


def test_there_may_be_more_than_a_ring_holds() -> None:
    asked: list[int] = []

    def note(sqes: list[bytes], data: bytes) -> list[tuple[int, int]]:
        asked.append(len(sqes))
        return [(1, 0)]

    sessions = receivers(*[b""] * (2 * ENTRIES + 5))
    left = UringBroadcaster(cast(IoUring, SimpleNamespace(send=note))).send(sessions, b"x")
    assert left == [(sessions[1], 0), (sessions[ENTRIES + 1], 0), (sessions[2 * ENTRIES + 1], 0)]
    assert asked == [ENTRIES, ENTRIES, 5]


def test_a_session_for_which_bytes_wait_is_left_to_its_write(ring: IoUring, pairs: Pairs) -> None:
    sessions = receivers(*[send_sqe(near.fileno()) for near, _ in pairs[:MANY]])
    sessions[2].connection.direct = None
    assert UringBroadcaster(ring).send(sessions, b"x") == [(sessions[2], 0)]
    assert pairs[4][1].recv(9) == b"x"


@pytest.mark.parametrize(("count", "size"), [(MANY, BUFFER_BYTES + 1)])
def test_what_is_too_long_or_for_a_few_is_sent_one_by_one(count: int, size: int) -> None:
    sessions = receivers(*[b""] * count)
    left = UringBroadcaster(cast(IoUring, SimpleNamespace())).send(sessions, b"x" * size)
    assert list(left) == [(session, 0) for session in sessions]


@pytest.mark.parametrize("fault", [OSError(errno.EBADF, "broken on purpose"), KeyError("ours, on purpose")])
def test_a_ring_that_breaks_loses_nobody_a_message(fault: Exception) -> None:
    """What it has sent is not known: connections end, so that their clients read on from where they are."""

    def broken(sqes: object, data: object) -> Any:
        raise fault

    sessions = receivers(*[b"x"] * (ENTRIES + 3))
    broadcaster = UringBroadcaster(cast(IoUring, SimpleNamespace(send=broken)))
    with capturedLogs() as events:
        left = broadcaster.send(sessions, b"x")
    assert left == [(session, 0) for session in sessions[ENTRIES:]], "these one by one"
    assert [session.connection.aborted for session in sessions] == [True] * ENTRIES + [False] * 3
    assert [event["log_failure"].value for event in events] == [fault]
    assert list(broadcaster.send(sessions, b"x")) == [(session, 0) for session in sessions]


def test_where_there_is_no_io_uring_the_log_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> int:
        ctypes.set_errno(errno.EPERM)
        return -1

    monkeypatch.setattr(io_uring, "_libc", SimpleNamespace(syscall=forbidden))
    with capturedLogs() as events:
        assert not isinstance(make_broadcaster(), UringBroadcaster)
    assert "Operation not permitted" in str(events[0]["error"])


def test_a_ring_that_was_seen_to_work(ring: IoUring) -> None:
    assert isinstance(make_broadcaster(), UringBroadcaster)


def test_a_ring_that_does_nothing_holds_nobody(ring: IoUring, pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at the start nor later."""
    monkeypatch.setattr(io_uring, "_libc", SimpleNamespace(syscall=lambda *args: 0))
    with pytest.raises(OSError, match="does not complete"):
        ring.send([send_sqe(pairs[0][0].fileno())], b"x")
    monkeypatch.setattr(io_uring, "IoUring", lambda: ring)
    assert not isinstance(make_broadcaster(), UringBroadcaster)
