"""The short road in gives what Autobahn alone gives, whatever bytes come and however they are cut."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import pytest
from autobahn.websocket.types import ConnectionRequest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.protocol import connectionDone
from twisted.internet.testing import StringTransport

from mercury.settings.limits import Limits
from mercury.settings.schema import Ws
from mercury.websocket import connection as websocket
from mercury.websocket.connection import WebSocketConnection
from mercury.websocket.factory import WebSocketFactory
from mercury.websocket.fast import frames_in
from tests.support.turn_clock import Turns

LIMIT = 300

REQUEST = (
    b"GET /ws/connect HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Notebook:
    """A handler that lets everybody in and writes down what comes; `stop` closes the connection, `hold` pauses it."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.seen: list[tuple[Any, ...]] = []

    async def admit(self, request: ConnectionRequest) -> str | None:
        return None

    def opened(self, deflate: bool) -> Notebook:
        self.seen.append(("opened",))
        return self

    def on_frame(self, payload: bytes, binary: bool) -> None:
        self.seen.append(("message", payload, binary))
        if payload == b"stop":
            self.connection.close(1000, "")
        elif payload == b"hold":
            self.connection.pause_reading()

    def pong(self, payload: bytes) -> None:
        self.seen.append(("pong", payload))

    def slow(self) -> None:
        self.seen.append(("slow",))

    def drained(self) -> None:
        self.seen.append(("drained",))

    def closed(self, code: int) -> None:
        self.seen.append(("closed",))


class Run:
    """A connection that was let in: what its handler saw, what it wrote."""

    def __init__(self) -> None:
        self.clock = Turns()
        factory: Any = WebSocketFactory(Notebook, reactor=self.clock, limits=Limits(frame_bytes=LIMIT), ws=Ws())
        self.connection: Any = factory.buildProtocol(None)
        self.transport = StringTransport(lenient=True)  # as sockets are, when they are closing
        self.connection.makeConnection(self.transport)
        self.connection.dataReceived(REQUEST)
        self.transport.clear()
        self.seen: list[tuple[Any, ...]] = self.connection.receiver.seen

    def feed(self, chunk: bytes) -> None:
        """Bytes come in and are taken, in as many turns as it needs."""
        self.connection.dataReceived(chunk)
        while self.connection._turn is not None and not self.transport.disconnecting:
            self.clock.turn()
            if self.connection._paused and not self.transport.disconnecting:
                self.connection.resume_reading()


def run(chunks: list[bytes]) -> tuple[list[tuple[Any, ...]], bytes, bool, int]:
    """What a connection made of these chunks: what its handler saw, what it wrote, whether it hung up, its state."""
    one = Run()
    for chunk in chunks:
        if not one.transport.disconnecting:
            one.feed(chunk)
    result = (one.seen, one.transport.value(), one.transport.disconnecting, one.connection.state)
    if not one.transport.disconnecting:
        one.connection.abort()
    return result


def frame(first: int, payload: bytes, *, masked: bool = True, long: int | None = None) -> bytes:
    """A client's frame; `long` forces a 16-bit or 64-bit length."""
    size = len(payload)
    mark = 0x80 if masked else 0
    if long == 8 or size > 65535:
        head = bytes((first, mark | 127)) + size.to_bytes(8, "big")
    elif long == 2 or size > 125:
        head = bytes((first, mark | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, mark | size))
    key = b"\x37\xfa\x21\x3d"
    return head + (key + frames_in.unmask(payload, key) if masked else payload)


payloads = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.just(b"stop"),
    st.just(b"hold"),
    st.binary(max_size=20),
    st.integers(120, 130).map(lambda n: b"x" * n),
    st.integers(LIMIT - 2, LIMIT + 2).map(lambda n: b"y" * n),
)
firsts = st.one_of(
    st.just(0x81), st.just(0x81), st.just(0x8A), st.sampled_from([0x01, 0x80, 0x00, 0x82, 0x88, 0x89, 0xC1, 0x91, 0x83])
)
frames = st.builds(
    frame, firsts, payloads, masked=st.sampled_from([True] * 9 + [False]), long=st.sampled_from([None] * 9 + [2, 8])
)
streams = st.lists(st.one_of(frames, frames, frames, st.binary(max_size=12)), max_size=8).map(b"".join)


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    """A stream of bytes, cut anywhere."""
    stream = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]


@settings(max_examples=750)
@given(chunks=cut_streams(), frames=st.integers(1, 4))
def test_all_roads_lead_to_the_same(chunks: list[bytes], frames: int) -> None:
    """The short one, Autobahn's, and either of them with a few frames a turn."""
    short = run(chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WebSocketConnection, "frames_per_turn", frames)
        assert short == run(chunks)
        patch.setattr(websocket, "parse_small_frames", lambda *_: (0, False))
        assert short == run(chunks)
        patch.undo()
        patch.setattr(websocket, "parse_small_frames", lambda *_: (0, False))
        assert short == run(chunks)


def test_the_parse_small_frames_is_taken() -> None:
    """Else the test above would compare Autobahn with itself."""
    seen: list[bytes] = []
    data = frame(0x81, b"one") + frame(0x81, "zwei ü".encode()) + frame(0x81, b"x" * 200) + frame(0x8A, b"p")
    rest = frame(0x01, b"part")
    taken, are_many = frames_in.parse_small_frames(
        data + rest, LIMIT, 5, lambda: True, lambda text, _: seen.append(text), seen.append
    )
    assert (taken, are_many) == (len(data), False)
    assert seen == [b"one", "zwei ü".encode(), b"x" * 200, b"p"]


@pytest.mark.parametrize("first", [0x81, 0x8A, 0x89, 0x82])
@pytest.mark.parametrize("payload", [b"", b"x"])
def test_a_flood_of_frames_is_taken_some_a_turn_and_meanwhile_nothing_is_read(first: int, payload: bytes) -> None:
    one = Run()
    count = 5 * WebSocketConnection.frames_per_turn
    one.connection.dataReceived(frame(first, payload) * count)
    came_in = one.connection.bytes_in

    def done() -> int:
        written: bytes = one.transport.value()
        return len(one.seen) - 1 + written.count(b"\x8a")

    turns = 1
    while done() < count:
        assert done() <= turns * 2 * WebSocketConnection.frames_per_turn
        assert one.transport.producerState == "paused"
        one.clock.turn()
        turns += 1
    assert one.transport.producerState == "producing"
    assert done() == count
    assert one.connection.bytes_in == came_in == len(REQUEST) + count * len(frame(first, payload))


def test_a_turn_may_end_within_a_frame_of_which_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebSocketConnection, "frames_per_turn", 1)
    one = Run()
    pings = frame(0x89, b"x") + frame(0x89, b"")
    one.connection.dataReceived(pings[:6])
    one.connection.dataReceived(pings[6:])
    one.clock.turn()
    assert one.transport.value() == b"\x8a\x01x\x8a\x00"
    assert one.transport.producerState == "producing"


@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_fragments_take_about_as_much_as_they_are_long(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And come together to what was sent."""
    monkeypatch.setattr(sys.modules[__name__], "LIMIT", 60_000)
    one = Run()
    pieces = [bytes([n % 128]) * size for n in range(10_000 // max(1, size))]
    sent = b"".join(frame(0x00, piece) for piece in pieces)
    tracemalloc.start()
    try:
        one.feed(frame(0x01, b"begin "))
        one.feed(sent)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 40_000
    one.feed(frame(0x80, b" end"))
    assert one.seen[-1] == ("message", b"begin " + b"".join(pieces) + b" end", False)


def test_who_is_held_is_not_read_nor_what_came_before_and_waits_its_turn() -> None:
    one = Run()
    many = WebSocketConnection.frames_per_turn
    one.connection.dataReceived(frame(0x81, b"hold") + frame(0x81, b"x") * 2 * many)
    for _ in range(3):
        one.clock.turn()
        assert len(one.seen) == 1 + many
    one.connection.resume_reading()
    assert one.transport.producerState == "paused"
    one.clock.turn()
    assert len(one.seen) == 1 + 2 * many
    assert one.transport.producerState == "paused"
    one.clock.turn()
    assert len(one.seen) == 2 + 2 * many
    assert one.transport.producerState == "producing"
    one.connection.dataReceived(frame(0x81, b"x") * 2 * many)
    one.connection.connectionLost(connectionDone)
    assert one.clock.getDelayedCalls() == []


@given(payload=st.binary(max_size=300), key=st.binary(min_size=4, max_size=4))
def test_unmasking_is_xor(payload: bytes, key: bytes) -> None:
    assert frames_in.unmask(payload, key) == bytes(b ^ key[i % 4] for i, b in enumerate(payload))
