"""The short road in gives what Autobahn alone gives, whatever bytes come and however they are cut."""

from __future__ import annotations

from typing import Any

import pytest
from autobahn.websocket.types import ConnectionRequest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.testing import StringTransport

from mercury.config import Limits, Ws
from mercury.transports import inbound
from mercury.transports.websocket import WebSocketConnection, WebSocketFactory

LIMIT = 300

REQUEST = (
    b"GET /ws/connect HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Notebook:
    """A door that lets everybody in and writes down what comes; `stop` closes the connection."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.seen: list[tuple[Any, ...]] = []

    async def admit(self, request: ConnectionRequest) -> str | None:
        return None

    def opened(self, deflate: bool) -> None:
        self.seen.append(("opened",))

    def message(self, payload: bytes, binary: bool) -> None:
        self.seen.append(("message", payload, binary))
        if payload == b"stop":
            self.connection.close(1000, "")

    def pong(self, payload: bytes) -> None:
        self.seen.append(("pong", payload))

    def slow(self) -> None:
        self.seen.append(("slow",))

    def drained(self) -> None:
        self.seen.append(("drained",))

    def closed(self) -> None:
        self.seen.append(("closed",))


def run(chunks: list[bytes]) -> tuple[list[tuple[Any, ...]], bytes, bool, int]:
    """What a connection made of these chunks: what its door saw, what it wrote, whether it hung up, its state."""
    factory = WebSocketFactory(Notebook, reactor=reactor, limits=Limits(frame_bytes=LIMIT), ws=Ws())
    connection: Any = factory.buildProtocol(None)
    transport = StringTransport()
    connection.makeConnection(transport)
    connection.dataReceived(REQUEST)
    transport.clear()
    for chunk in chunks:
        if not transport.disconnecting:
            connection.dataReceived(chunk)
    written = transport.value()
    result = (connection.door.seen, written, transport.disconnecting, connection.state)
    if not transport.disconnecting:
        connection.abort()
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
    return head + (key + inbound.unmask(payload, key) if masked else payload)


payloads = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.just(b"stop"),
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


@settings(max_examples=1500)
@given(chunks=cut_streams())
def test_both_roads_lead_to_the_same(chunks: list[bytes]) -> None:
    short = run(chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mercury.transports.websocket.short_road", lambda *_: 0)
        assert short == run(chunks)


def test_the_short_road_is_taken() -> None:
    """Else the test above would compare Autobahn with itself."""
    seen: list[bytes] = []
    data = frame(0x81, b"one") + frame(0x81, "zwei ü".encode()) + frame(0x81, b"x" * 200) + frame(0x8A, b"p")
    rest = frame(0x01, b"part")
    taken = inbound.short_road(data + rest, LIMIT, lambda: True, lambda text, _: seen.append(text), seen.append)
    assert taken == len(data)
    assert seen == [b"one", "zwei ü".encode(), b"x" * 200, b"p"]


@given(payload=st.binary(max_size=300), key=st.binary(min_size=4, max_size=4))
def test_unmasking_is_xor(payload: bytes, key: bytes) -> None:
    assert inbound.unmask(payload, key) == bytes(b ^ key[i % 4] for i, b in enumerate(payload))
