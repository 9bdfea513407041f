"""Encoders: a protocol's payloads in WebSocket frames (RFC 6455, section 5), made once for all connections of a kind.

Frames from a server are not masked and carry no state of the connection, so the same bytes go to everyone; Autobahn,
which would make them for each peer, is not used. With per-message deflate (RFC 7692) that holds too: a message that is
compressed with a window of its own refers to nothing sent before, and any peer can inflate it, whatever windows were
agreed on.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from zope.interface import implementer

from mercury.domain.events import Event
from mercury.domain.model import Entry
from mercury.interfaces import IFrameEncoder
from mercury.websocket.subprotocols.codec import PayloadEncoder

TEXT: Final = 0x81  # FIN and opcode 1
BINARY: Final = 0x82  # FIN and opcode 2
DEFLATED: Final = 0x40  # RSV1
PING: Final = 0x89
WORTHWHILE: Final = 100  # bytes: what is shorter hardly shrinks
WINDOW: Final = -9  # raw deflate with the smallest window, which every agreement on window bits allows


def frame(first: int, payload: bytes) -> bytes:
    """One unmasked frame that is a whole message."""
    return _head(first, len(payload)) + payload


def deflated(first: int, payload: bytes) -> bytes:
    """The same, compressed if that is worthwhile."""
    if len(payload) < WORTHWHILE:
        return frame(first, payload)
    deflate = zlib.compressobj(6, zlib.DEFLATED, WINDOW)
    data = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(first | DEFLATED, data[:-4])  # RFC 7692, 7.2.1: the tail 00 00 ff ff is left out


@lru_cache(maxsize=4096)
def _head(first: int, size: int) -> bytes:
    """A frame's first bytes. Sizes repeat, and a cache is four times as fast as making them."""
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return bytes((first, 126, size >> 8, size & 255))
    return bytes((first, 127)) + size.to_bytes(8, "big")


@implementer(IFrameEncoder)
class FrameEncoder:
    """A codec's payloads in plain frames, `first` being their first byte.

    entries() and event() make frames in place, by frame()'s one line: they are called for each message.
    """

    def __init__(self, codec: PayloadEncoder, first: int = TEXT) -> None:
        self.name = codec.name
        self.acknowledges = codec.acknowledges
        self._codec = codec
        self._first = first

    def entries(self, entries: Sequence[Entry]) -> bytes:
        encode, first = self._codec.entry, self._first
        return b"".join([_head(first, len(data)) + data for entry in entries if (data := encode(entry))])

    def event(self, event: Event) -> bytes:
        first, payloads = self._first, self._codec.event(event)
        if len(payloads) == 1:  # as nearly always
            data = payloads[0]
            return _head(first, len(data)) + data
        return b"".join([_head(first, len(data)) + data for data in payloads])

    def frame(self, payload: bytes) -> bytes:
        """A payload as it goes to the peer."""
        return frame(self._first, payload)


class DeflatedFrameEncoder(FrameEncoder):
    """The same for peers that agreed on permessage-deflate."""

    def entries(self, entries: Sequence[Entry]) -> bytes:
        return b"".join([self.frame(data) for entry in entries if (data := self._codec.entry(entry))])

    def event(self, event: Event) -> bytes:
        return b"".join([self.frame(data) for data in self._codec.event(event)])

    def frame(self, payload: bytes) -> bytes:
        return deflated(self._first, payload)


@implementer(IFrameEncoder)
class CombinedEncoder:
    """What several encoders say of a room, one after the other; nothing if there are none."""

    acknowledges = False

    def __init__(self, name: str, encoders: Sequence[FrameEncoder]) -> None:
        self.name = name
        self._encoders = encoders

    def entries(self, entries: Sequence[Entry]) -> bytes:
        return b"".join([encoder.entries(entries) for encoder in self._encoders])

    def event(self, event: Event) -> bytes:
        return b"".join([encoder.event(event) for encoder in self._encoders])
