"""What a JSON subprotocol is, and what they share: how a frame that is no command is refused.

Decoding never raises: a frame that cannot be understood becomes commands.Bad, which is answered like any other command.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec

from mercury.domain import commands, events
from mercury.domain.model import Entry
from mercury.errors import MercuryError


class PayloadEncoder(Protocol):
    """Payloads (without framing) for what a session says. `name`: the protocol, as operators know it. `acknowledges`:
    whether it has one for a SendOk."""

    name: str
    acknowledges: bool

    def entry(self, entry: Entry) -> bytes:
        """The payload for a log entry; empty if the protocol has none."""

    def event(self, event: events.Event) -> Sequence[bytes]:
        """The payloads for an event, in order; none if the protocol has none."""


class Codec(PayloadEncoder, Protocol):
    """One protocol, both ways."""

    def decode(self, payload: bytes, binary: bool) -> commands.Command:
        """The command in a client's frame, or Bad."""


# A string that does not end matches too: else it would be looked through again from each quote within.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


class _Ref(msgspec.Struct):
    ref: commands.Ref = None


_find_ref = msgspec.json.Decoder(_Ref).decode


def refused_binary() -> commands.Bad:
    """The answer to a binary frame: these subprotocols have none."""
    return commands.Bad(error=MercuryError("bad_request", "send text frames; this one is binary"))


def bad(payload: bytes, reason: str) -> commands.Bad:
    """A frame that is no command: bad_request with the reason, and the frame's ref where one can be found."""
    try:
        ref = _find_ref(payload).ref
    except (ValueError, RecursionError):
        ref = None
    return commands.Bad(ref=ref, error=MercuryError("bad_request", reason))


def refused_depth(payload: bytes, limit: int) -> commands.Bad | None:
    """The answer to JSON that nests deeper than `limit`; None if it does not.

    Call it only for a frame with more brackets than the limit: most have few, and counting them is faster than this.
    """
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", payload)):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            return bad(payload, f"the frame is nested deeper than {limit} (--limits.json-depth)")
    return None


def refused_json(payload: bytes, error: Exception) -> commands.Bad:
    """The answer to a frame that could not be decoded: says why, to the person who wrote the client."""
    is_json = isinstance(error, msgspec.ValidationError)
    return bad(payload, str(error) if is_json else f"the frame is not JSON: {error}")
