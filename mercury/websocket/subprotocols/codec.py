"""What a protocol is, and how untrusted JSON becomes a command.

A codec never raises: a frame that cannot be understood becomes commands.Bad, which is answered like any other command.
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

    def decode(self, payload: bytes) -> commands.Command:
        """The command in a client's frame, or Bad."""


# A string that does not end matches too: else it would be looked through again from each quote within.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


class _Ref(msgspec.Struct):
    ref: commands.Ref = None


_find_ref = msgspec.json.Decoder(_Ref).decode


def bad(payload: bytes, reason: str) -> commands.Bad:
    """A frame that is no command: bad_request with the reason, and the frame's ref where one can be found."""
    try:
        ref = _find_ref(payload).ref
    except (ValueError, RecursionError):
        ref = None
    return commands.Bad(ref=ref, error=MercuryError("bad_request", reason))


def too_deep(payload: bytes, limit: int) -> bool:
    """Whether JSON nests deeper than `limit`. Exact, and cheap for what is not: most frames have few brackets."""
    if payload.count(b"[") + payload.count(b"{") <= limit:
        return False
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", payload)):
        depth += 1 if bracket in b"[{" else -1
        if depth > limit:
            return True
    return False


def explain(error: Exception) -> str:
    """Why a frame could not be decoded, for the person who wrote the client."""
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    return f"the frame is not JSON: {error}"
