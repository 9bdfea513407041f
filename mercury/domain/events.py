"""What a session tells its client. Every protocol encodes these; `mercury.v2.json` speaks them as they are.

Each Struct is one frame type of docs/protocol.md: the tag is the frame's `type`. Keys that hold their default are left
out of a frame, and so is `cid` where the sender gave none. `ctime` is RFC 3339 in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from msgspec import Struct

from mercury.domain.commands import Ref
from mercury.domain.model import Entry, Lost, Membership
from mercury.errors import Code

#: What a person reads in place of a text that is lost.
WHY_LOST: Final[dict[Lost, str]] = {
    "no_key": "[This message cannot be read: its key is missing.]",
    "damaged": "[This message cannot be read: it is damaged.]",
}

EPOCH_1970 = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=64)
def _seconds(whole: int) -> str:
    return (EPOCH_1970 + timedelta(seconds=whole)).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=64)  # a batch has one time for all of its messages
def rfc3339(micros: int) -> str:
    """Microseconds since 1970 as RFC 3339 in UTC with microseconds: 2026-11-22T05:32:54.000001Z."""
    whole, fraction = divmod(micros, 1_000_000)
    return f"{_seconds(whole)}.{fraction:06d}Z"


class RoomState(Struct, frozen=True):
    """One of the member's rooms: its head (last seq), the member's read mark, and how many messages are above it."""

    rid: str
    head: int
    read: int
    unread: int


class Message(Struct, tag="message", omit_defaults=True, gc=False):
    """A message, live or from the log. `history` returns the same object. `lost`: why the text is missing."""

    rid: str
    seq: int
    id: int
    mid: str
    text: str
    ctime: str
    cid: str | None = None
    lost: Lost = ""


class Joined(Struct, tag="joined", gc=False):
    """These members joined the room at this seq."""

    rid: str
    seq: int
    members: tuple[str, ...]
    ctime: str


class Left(Struct, tag="left", gc=False):
    """These members left the room at this seq. A member listed here gets nothing more from the room."""

    rid: str
    seq: int
    members: tuple[str, ...]
    ctime: str


class Hello(Struct, tag="hello"):
    """The login succeeded. Next come the missed entries of each room, one `caught_up` per room, then live entries."""

    member: str
    device: str
    epoch: str
    heartbeat: float
    rooms: list[RoomState]


class Typing(Struct, tag="typing", gc=False):
    """A member is typing."""

    rid: str
    mid: str


class Presence(Struct, tag="presence", gc=False):
    """A member opened their first connection, or closed their last one a second ago and has not come back."""

    rid: str
    mid: str
    online: bool


class Read(Struct, tag="read", gc=False):
    """A member's read mark moved to `seq`. Sent to the other members and to the member's own other devices."""

    rid: str
    mid: str
    seq: int


class Reset(Struct, tag="reset", gc=False):
    """The client's copy of this room cannot be continued: discard it. The next entries start above `floor`."""

    rid: str
    floor: int


class CaughtUp(Struct, tag="caught_up", gc=False):
    """Everything up to `seq` has been sent on this connection. What follows is live."""

    rid: str
    seq: int


class Bye(Struct, tag="bye", gc=False):
    """The server is stopping. Reconnect after `retry_after` seconds. Commands sent from now on get no answer."""

    retry_after: float


class Ok(Struct, tag="ok", omit_defaults=True, gc=False):
    """Done. The answer to `read`, `ack`, `typing` and `leave`."""

    ref: Ref = None


class SendOk(Struct, tag="ok", omit_defaults=True, gc=False, kw_only=True):
    """Committed: the answer to `send`. `duplicate`: the cid was sent before; `id` and `seq` are the first message's."""

    ref: Ref = None
    id: int
    seq: int
    duplicate: bool


class HistoryOk(Struct, tag="ok", omit_defaults=True, kw_only=True):
    """The answer to `history`: messages, oldest first. `more`: there are more in the requested direction."""

    ref: Ref = None
    messages: list[Message]
    more: bool


class PresenceOk(Struct, tag="ok", omit_defaults=True, kw_only=True):
    """The answer to `presence`: the members who are connected now, sorted by name."""

    ref: Ref = None
    online: list[str]


class RoomsOk(Struct, tag="ok", omit_defaults=True, kw_only=True):
    """The answer to `rooms`: the member's rooms."""

    ref: Ref = None
    rooms: list[RoomState]


class Error(Struct, tag="error", omit_defaults=True, kw_only=True):
    """The command failed. `code` is from the error table; `retry_after`, in seconds, is set when a retry can help."""

    ref: Ref = None
    code: Code
    reason: str
    retry_after: float | None = None


Event = (
    Message | Joined | Left | Hello | Typing | Presence | Read | Reset | CaughtUp | Bye
    | Ok | SendOk | HistoryOk | PresenceOk | RoomsOk | Error
)  # fmt: skip


def message(entry: Entry) -> Message:
    """The event of a log entry that is a message."""
    return Message(entry.rid, entry.seq, entry.id, entry.mid, entry.text, rfc3339(entry.ctime), entry.cid, entry.lost)


def readable(message: Message | Entry) -> str:
    """Its text, or words in brackets that say why there is none: for protocols and pages that know nothing of that."""
    return WHY_LOST[message.lost] if message.lost else message.text


def of_entry(entry: Entry) -> Message | Joined | Left:
    """The event of any log entry."""
    if entry.kind == "message":
        return message(entry)
    kind = Joined if entry.kind == "joined" else Left
    return kind(entry.rid, entry.seq, entry.members, rfc3339(entry.ctime))


def room_state(membership: Membership) -> RoomState:
    """What a client is told of its place in a room."""
    return RoomState(membership.rid, membership.head, membership.read, membership.unread)
