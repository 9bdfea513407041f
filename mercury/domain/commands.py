"""What a client may ask of its session. Every protocol decodes into these; `mercury.v2.json` speaks them as they are.

Each Struct is one frame type of docs/protocol.md: the tag is the frame's `type`, the fields its keys. `ref` is the
client's own: the answer repeats it. Sequence numbers that a client sends are bounded, so that no store ever meets an
integer that it cannot hold.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from mercury.errors import MercuryError

Seq = Annotated[int, Meta(ge=0, le=2**53 - 1, description="a position in a room's log")]
Ref = Annotated[str, Meta(max_length=128)] | Annotated[int, Meta(ge=-(2**53), le=2**53)] | None
Limit = Annotated[
    int, Meta(ge=1, le=1000, description="the most messages to return; --limits.history-page applies too")
]


class Command(Struct, kw_only=True, gc=False):
    """What all commands have in common."""

    ref: Ref = None


class Resume(Struct, kw_only=True):
    """What the client already has: the epoch from `hello`, and the last seq of each room."""

    epoch: str
    rooms: dict[str, Seq] = {}


class Connect(Command, tag="connect", kw_only=True):
    """Log in. The first frame on a connection without a token in its URL, within --limits.handshake-seconds."""

    token: str
    member: str
    device: str = ""
    resume: Resume | None = None


class Send(Command, tag="send", kw_only=True, gc=False):
    """Send `text` to a room. A repeated `cid` stores nothing and gets the answer of the first send."""

    rid: str
    text: str
    cid: str | None = None


class History(Command, tag="history", kw_only=True, gc=False):
    """Get messages of a room, oldest first: the last ones before `before`, the first after `after`, or the newest."""

    rid: str
    before: Seq | None = None
    after: Seq | None = None
    limit: Limit = 50


class HistoryById(Command, tag="history_by_id", kw_only=True, gc=False):
    """History in the original protocol: `offset` messages before the id `msgid`, in `rid` or in that message's room."""

    msgid: Seq | None = None
    rid: str | None = None
    offset: Annotated[int, Meta(ge=1, le=2**53 - 1)] = 10


class Read(Command, tag="read", kw_only=True, gc=False):
    """Set the member's read mark in the room to `seq`. It never moves backwards."""

    rid: str
    seq: Seq


class Ack(Command, tag="ack", kw_only=True, gc=False):
    """This device has received the room up to `seq`. Its next connection starts after it."""

    rid: str
    seq: Seq


class Typing(Command, tag="typing", kw_only=True, gc=False):
    """The member is typing in the room. Sent to the members who are connected; never stored."""

    rid: str


class Presence(Command, tag="presence", kw_only=True, gc=False):
    """Ask which of the room's members are connected now."""

    rid: str


class Rooms(Command, tag="rooms", kw_only=True, gc=False):
    """List the member's rooms, with their heads, read marks and unread counts."""


class Leave(Command, tag="leave", kw_only=True, gc=False):
    """Leave the room, on all of the member's devices."""

    rid: str


class Bad(Command, kw_only=True):
    """A frame that is no command, and why. It waits for its turn and is answered like the others."""

    error: MercuryError


#: What a client of mercury.v2.json may send.
Any = Connect | Send | History | Read | Ack | Typing | Presence | Rooms | Leave
