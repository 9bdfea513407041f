"""One HTTP connection among many: the time that it has, and what it may take of the reactor's and of memory."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mercury.http.server import LINGER_SECONDS, PIECE, SLOWEST
from mercury.stores.memory.store import MemoryStore
from tests.support.in_process_node import unplugged
from tests.support.turn_clock import Turns

POST = b"POST /api/tokens HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /healthz HTTP/1.1\r\n\r\n"
SECONDS = 10.0  # for a request


def answers(transport: StringTransport) -> int:
    """How many were written so far."""
    written: bytes = transport.value()
    return written.count(b"HTTP/1.1 ")


# Time


def test_a_request_that_drips_in_is_cut_off_in_time() -> None:
    clock = Clock()
    channel, transport = unplugged(clock, request_seconds=SECONDS)
    for byte in POST:
        assert not transport.disconnecting
        channel.dataReceived(bytes((byte,)))
        clock.advance(SECONDS / (len(POST) + 1))
    clock.advance(SECONDS / len(POST))
    assert transport.disconnecting


@pytest.mark.parametrize("length", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_a_body_that_drips_in_is_cut_off_in_time(length: bytes) -> None:
    clock = Clock()
    channel, transport = unplugged(clock, request_seconds=SECONDS)
    channel.dataReceived(POST + length + b"\r\n\r\n")
    for _ in range(10):
        assert not transport.disconnecting
        channel.dataReceived(b"1\r\nx\r\n")
        clock.advance(SECONDS / 10)
    assert transport.disconnecting


def test_a_connection_that_is_kept_has_the_same_time_for_the_next_request() -> None:
    clock = Clock()
    channel, transport = unplugged(clock, request_seconds=SECONDS)
    for _ in range(3):
        clock.advance(SECONDS * 0.9)
        channel.dataReceived(GET)
    assert answers(transport) == 3
    assert not transport.disconnecting
    clock.advance(SECONDS * 1.1)
    assert transport.disconnecting


def test_a_refused_client_gets_a_moment_to_read_why() -> None:
    clock = Clock()
    channel, transport = unplugged(clock)
    channel.dataReceived(b"nonsense\r\n")
    assert transport.value().startswith(b"HTTP/1.1 400 ")
    assert not transport.disconnecting
    clock.advance(LINGER_SECONDS)
    assert transport.disconnecting


def test_an_answer_that_is_not_taken_is_given_up_and_a_long_one_later() -> None:
    """With a socket, `disconnecting` lasts until all is taken; by TLS, until the client has said goodbye too."""
    clock = Clock()
    channel, transport = unplugged(clock, request_seconds=SECONDS)
    channel.dataReceived(b"GET /openapi.json HTTP/1.0\r\n\r\n")
    size = len(transport.value().partition(b"\r\n\r\n")[2])
    assert size > SLOWEST  # else this shows nothing
    assert transport.disconnecting
    clock.advance(SECONDS + size / SLOWEST - 0.1)
    assert not transport.disconnected
    clock.advance(0.1)
    assert transport.disconnected


def test_who_does_not_hang_up_after_a_timeout_is_hung_up_on() -> None:
    clock = Clock()
    _, transport = unplugged(clock, request_seconds=SECONDS)
    clock.advance(SECONDS)
    assert transport.disconnecting
    assert not transport.disconnected
    clock.advance(LINGER_SECONDS)
    assert transport.disconnected


@pytest.mark.parametrize(
    ("sent", "late"),
    [(b"", 1), (b"GET /", 1), (GET[:-2], 1), (GET, 0), (GET + b"GET", 1), (GET + GET[:-2], 1), (b"nonsense\r\n", 0)],
)
def test_a_request_that_does_not_come_is_counted_and_an_idle_connection_is_not(sent: bytes, late: int) -> None:
    clock = Clock()
    channel, transport = unplugged(clock, request_seconds=SECONDS)
    channel.dataReceived(sent)
    clock.pump([1.0] * 20)
    assert transport.disconnected
    assert channel.site.counts.refused["request-seconds"] == late


# Turns


def test_requests_that_are_sent_at_once_are_answered_one_a_turn() -> None:
    clock = Turns()
    channel, transport = unplugged(clock)
    channel.dataReceived(GET * 5)
    for count in range(1, 6):
        assert answers(transport) == count
        clock.turn()
    assert answers(transport) == 5
    channel.dataReceived(GET)
    assert answers(transport) == 6


def test_nothing_is_answered_to_a_client_that_does_not_take_its_answers() -> None:
    clock = Turns()
    channel, transport = unplugged(clock, request_seconds=SECONDS)
    channel.pauseProducing()  # as a transport says whose buffer is full
    channel.dataReceived(GET * 3)
    clock.turn()
    assert answers(transport) == 1
    assert transport.producerState == "paused"  # nor is it read any more
    for count in (2, 3):
        channel.resumeProducing()
        clock.turn()
        assert answers(transport) == count
    assert transport.producerState == "producing"
    channel.pauseProducing()
    channel.dataReceived(GET * 3)
    clock.advance(SECONDS * 1.1)
    assert answers(transport) == 4
    assert transport.disconnecting


class Full(StringTransport):
    """A transport whose buffer is full whatever is written."""

    def write(self, data: bytes) -> None:
        super().write(data)  # type: ignore[no-untyped-call]
        producer: Any = self.producer
        producer.pauseProducing()


def test_a_client_that_has_not_taken_its_answer_is_no_longer_read() -> None:
    channel, transport = unplugged(Turns(), transport=Full())  # type: ignore[no-untyped-call]
    channel.dataReceived(GET)
    assert answers(transport) == 1
    assert transport.producerState == "paused"


def test_nothing_is_answered_after_hanging_up() -> None:
    clock = Turns()
    channel, transport = unplugged(clock)
    channel.dataReceived(GET * 3)
    channel.loseConnection()
    clock.turn()
    assert answers(transport) == 1


def test_a_connection_that_ends_leaves_no_turn_behind() -> None:
    clock = Turns()
    channel, _ = unplugged(clock)
    channel.dataReceived(GET * 3)
    channel.connectionLost(connectionDone)
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("before", [b"", GET])
@pytest.mark.parametrize("chunk", [1, 1000])
def test_a_body_is_taken_a_piece_a_turn_and_what_follows_it_is_another_request(before: bytes, chunk: int) -> None:
    clock, store = Turns(), MemoryStore()
    store.open()
    channel, transport = unplugged(clock, store)
    body = b'{"member":"ann"}'.ljust(2 * PIECE)
    parts = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    channel.dataReceived(before + POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + GET + GET)
    turns = 0
    while answers(transport) < 3 + bool(before):
        assert turns <= len(chunks) // PIECE + 4
        clock.turn()
        turns += 1
    assert turns >= len(chunks) // PIECE
    assert transport.value().count(b"HTTP/1.1 201 ") == 1
    assert transport.value().count(b"HTTP/1.1 200 ") == 2 + bool(before)
