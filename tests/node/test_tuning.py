"""The shorter way out of epoll does what Twisted's way does; Python collects garbage seldom, but still does."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from mercury.node.tuning import NEW_OBJECTS, fast_poll, tune_gc


class Reader:
    """One end of a connection, in the reactor's hands. `read` is done when there is something to read."""

    def __init__(self, reactor: Any, read: Callable[[], object] | None = None) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.got = b""
        self.writes = 0
        self.lost: list[Any] = []
        self.reactor = reactor
        self.doRead = read or self._read
        reactor.addReader(self)

    def _read(self) -> object:
        data = self.near.recv(100)
        self.got += data
        return None if data else ConnectionDone()

    def doWrite(self) -> None:
        self.writes += 1
        self.reactor.removeWriter(self)

    def fileno(self) -> int:
        return self.near.fileno()

    def logPrefix(self) -> str:
        return "reader"

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason.type)
        self.close()

    def readConnectionLost(self, reason: Failure) -> None:
        self.connectionLost(reason)

    def close(self) -> None:
        self.reactor.removeReader(self)
        self.near.close()
        self.far.close()


@pytest.fixture
def reactor() -> Iterator[Any]:
    """An epoll reactor that is not the one which the tests run in."""
    reactor = EPollReactor()
    before = reactor.doIteration
    fast_poll(reactor)
    assert reactor.doIteration != before
    yield reactor
    for reader in reactor.removeAll():
        if isinstance(reader, Reader):
            reader.close()
    reactor._poller.close()


def test_what_comes_is_read_in_turns(reactor: Any) -> None:
    one, other = Reader(reactor), Reader(reactor)
    one.far.send(b"a")
    reactor.doIteration(1)
    assert (one.got, other.got) == (b"a", b"")
    one.far.send(b"b")
    other.far.send(b"c")
    reactor.doIteration(1)
    assert (one.got, other.got) == (b"ab", b"c")
    reactor.doIteration(0)
    assert not one.lost
    assert not other.lost


def test_who_can_write_is_told_and_read_too(reactor: Any) -> None:
    reader = Reader(reactor)
    reactor.addWriter(reader)
    reader.far.send(b"a")
    reactor.doIteration(1)
    assert (reader.got, reader.writes) == (b"a", 1)


def test_who_fails_to_read_loses_its_connection_and_nobody_else_does(reactor: Any) -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    one, other = Reader(reactor, fail), Reader(reactor)
    one.far.send(b"a")
    other.far.send(b"b")
    with capturedLogs() as events:
        reactor.doIteration(1)
    assert [event["log_failure"].type for event in events] == [ValueError]
    assert one.lost == [ValueError]
    assert other.got == b"b"
    assert not other.lost


@pytest.mark.parametrize("said", [b"", b"the last words"])
def test_an_end_is_noticed_after_all_was_read(reactor: Any, said: bytes) -> None:
    reader = Reader(reactor)
    reader.far.send(said)
    reader.far.shutdown(socket.SHUT_WR)
    for _ in range(3):
        if not reader.lost:
            reactor.doIteration(1)
    assert reader.got == said
    assert reader.lost
    assert issubclass(reader.lost[0], ConnectionDone | ConnectionLost)


def test_who_was_closed_by_another_in_the_same_turn_is_not_read(reactor: Any) -> None:
    readers: list[Reader] = []

    def close_all() -> None:
        for reader in readers:
            reader.close()

    readers += [Reader(reactor, close_all), Reader(reactor, close_all)]
    for reader in readers:
        reader.far.send(b"a")
    reactor.doIteration(1)
    assert not any(isinstance(reader, Reader) for reader in reactor.getReaders())  # and close() failed for nobody


def test_other_reactors_are_left_alone() -> None:
    other = SelectReactor()
    fast_poll(other)
    assert "doIteration" not in vars(other)


# Garbage


@pytest.fixture
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


class Cycle:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.me = self


@pytest.mark.usefixtures("thresholds")
def test_garbage_is_collected_only_when_there_is_much_new() -> None:
    tune_gc()
    gone = weakref.ref(Cycle())
    some = [[] for _ in range(NEW_OBJECTS // 2)]  # type: ignore[var-annotated]
    assert gone() is not None
    some += [[] for _ in range(NEW_OBJECTS)]
    assert gone() is None


@pytest.mark.usefixtures("thresholds")
def test_what_was_there_is_not_looked_at_again() -> None:
    before = gc.get_freeze_count()
    tune_gc()
    assert gc.get_freeze_count() > before
