"""The values that Mercury is about: what a room's log holds, and how far a member is in it.

A room is an append-only log. Each Entry has a `seq`: 1, 2, 3 … without holes within its room, given out in the
transaction that stores it. Messages are entries, and so are joins and leaves. An `id` is unique across rooms and
grows with `seq` within a room; it exists because clients of the first Mercury page by it. Times are integers:
microseconds since 1970 in UTC. These Structs are values: they are never changed after they were made.
"""

from __future__ import annotations

import unicodedata
from typing import Final, Literal

from msgspec import Struct

from mercury.errors import MercuryError

Kind = Literal["message", "joined", "left"]

#: Why a message's text cannot be shown: the key that it was encrypted with is not there, or it was tampered with. Else
#: empty. docs/encryption.md says more.
Lost = Literal["", "no_key", "damaged"]

#: The author of messages that the application sends in its own name. No member can have this name.
SYSTEM: Final = ""

NAME_BYTES: Final = 190  # MySQL indexes two names and a number within 767 bytes
CID_BYTES: Final = 128


class Entry(Struct, frozen=True, gc=False, omit_defaults=True):
    """One line of a room's log.

    A message has `mid` (its author, SYSTEM for the application), `text` and perhaps the `cid` that its sender chose.
    "joined" and "left" have `members`: those who joined or left by this entry; `mid` and `text` are empty.
    A message with `lost` exists, but its text cannot be shown: `text` is empty.
    """

    rid: str
    seq: int
    id: int
    kind: Kind
    ctime: int
    mid: str = SYSTEM
    text: str = ""
    cid: str | None = None
    members: tuple[str, ...] = ()
    lost: Lost = ""


class Draft(Struct, frozen=True, gc=False):
    """An entry that is not stored yet: no seq, no id, no time."""

    rid: str
    kind: Kind = "message"
    mid: str = SYSTEM
    text: str = ""
    cid: str | None = None
    members: tuple[str, ...] = ()


class Outcome(Struct, frozen=True, gc=False):
    """What became of a Draft that was not refused.

    `duplicate`: the same author had sent this cid to this room before; `entry` is that first message.
    `entry` is None when a join or leave changed nothing, since all were already in, or out.
    """

    entry: Entry | None
    duplicate: bool = False


class Slice(Struct, frozen=True):
    """A part of a room's log, in order, without holes.

    `head` is the log's last seq at the moment of reading, and `floor` the last seq that is no longer kept. A reader who
    asks for entries below the floor gets those above it, and has to be told about the gap.
    """

    entries: list[Entry]
    head: int
    floor: int


class Room(Struct, frozen=True):
    """A room as an operator sees it. `messages`: how many were ever stored in it; `members`: how many are in it now."""

    rid: str
    head: int
    floor: int
    messages: int
    members: int
    ctime: int


class Membership(Struct, frozen=True):
    """That a member is in a room, and how far they are in its log.

    `head`: the room's last seq. `joined`: the seq of the entry by which they joined (the last one, if several).
    `read`: their read mark, up to which they say they have read. `unread`: how many messages, their own included, the
    room has above `read`. `delivered`: the cursor of the device that was asked about, up to which delivery is proved;
    None if nothing ever was.
    """

    rid: str
    head: int
    joined: int
    read: int
    unread: int
    delivered: int | None = None


class Cursor(Struct, frozen=True, gc=False):
    """It is proved that all entries of a room up to `seq` have reached one device of a member."""

    rid: str
    mid: str
    device: str
    seq: int


class ReadMark(Struct, frozen=True, gc=False):
    """A member says that they have read a room up to `seq`."""

    rid: str
    mid: str
    seq: int


class Token(Struct, frozen=True):
    """A token as it is stored. `digest` is derived from the secret, which is never stored. `expires`: when, in
    microseconds."""

    digest: bytes
    mid: str
    expires: int

    def __repr__(self) -> str:
        return f"Token(of {self.mid!r}, expires={self.expires})"  # its digest can sign: it is in no log


class Resealed(Struct, frozen=True):
    """What one step of resealing has done: how many messages it looked at, how many of these it encrypted with the
    first key, and how many it left alone because they cannot be read."""

    looked: int = 0
    sealed: int = 0
    lost: int = 0


class Account(Struct, frozen=True):
    """A person who logs in to goTalk with a name and a password.

    `id`: from 1 on, with gaps; never given out twice. `name`: as they wrote it. `secret`: the password's hash.
    """

    id: int
    name: str
    secret: str

    def __repr__(self) -> str:
        return f"Account({self.id})"  # the hash must not be printed or logged


class Handed(Struct, frozen=True, array_like=True):
    """Messages of one room that were handed over together: those with first <= seq <= last. `id`: that of the last."""

    rid: str
    first: int
    last: int
    id: int


def check_name(what: str, name: str) -> str:
    """Return the name of a `what` (room, member, device) if it may be one; else bad_request that says why.

    1 to 190 bytes of UTF-8, no control characters and no lone surrogates. Names compare byte for byte.
    """
    if not name:
        raise MercuryError("bad_request", f"the {what}'s name is empty")
    return check_text_of(what, name, NAME_BYTES)


def check_text_of(what: str, value: str, limit: int) -> str:
    """Return `value` if it is at most `limit` bytes long and has no control characters; else bad_request."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise MercuryError("bad_request", f"the {what}'s name is not valid Unicode (a lone surrogate)") from None
    if size > limit:
        raise MercuryError("bad_request", f"the {what}'s name is {size} bytes long; at most {limit} are allowed")
    if not value.isprintable() and any(unicodedata.category(c) == "Cc" for c in value):
        raise MercuryError("bad_request", f"the {what}'s name contains a control character")
    return value
