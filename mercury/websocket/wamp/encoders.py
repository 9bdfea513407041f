"""The wires of WAMP sessions: what a session hears of a room depends on its subscriptions.

Sessions with the same serialization and the same subscriptions to a room share one wire there, so a batch is encoded
once for all of them.
"""

from __future__ import annotations

from functools import lru_cache

from autobahn.wamp import message as wamp

from mercury.interfaces import IFrameEncoder
from mercury.websocket.framing import BINARY, TEXT, CombinedEncoder, DeflatedFrameEncoder, FrameEncoder
from mercury.websocket.wamp.messages import Answers, LogCodec, Packer, Signals
from mercury.websocket.wamp.topics import ALL, LOG


class WampEncoders:
    """All wires of one serialization, deflated or not. `answers`: the one of what sessions tell their own clients."""

    def __init__(self, packer: Packer, deflate: bool) -> None:
        self.packer = packer
        self._first = BINARY if packer.binary else TEXT
        self._encoder = DeflatedFrameEncoder if deflate else FrameEncoder
        self.answers: FrameEncoder = self._encoder(Answers(packer), self._first)
        self.in_room = lru_cache(maxsize=None)(self._in_room)  # there are 32 at most

    def message(self, message: wamp.Message) -> bytes:
        """One message as it goes to the peer."""
        return self.answers.frame(self.packer.pack(message))

    def _in_room(self, kinds: frozenset[str]) -> IFrameEncoder:
        """The wire of a session with subscriptions of these kinds (topics.py) to a room."""
        return CombinedEncoder(self.packer.name, [self._of(kind) for kind in sorted(kinds)])

    def _of(self, kind: str) -> FrameEncoder:
        codec = LogCodec(self.packer, kind == ALL) if kind in (ALL, LOG) else Signals(self.packer, kind)
        return self._encoder(codec, self._first)
