"""The REST calls' parameters, bodies and results, as Structs. They check input, and /openapi.json is made from them.

A Query is in the URL, Headers are HTTP headers, a Body is JSON; unknown keys are errors. A Result is sent as
{"status":"ok","body":…} with its own HTTP status. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, Struct, UnsetType

from mercury.core.rooms import MEMBERS_PAGE
from mercury.core.tokens import LONGEST
from mercury.domain.commands import Seq
from mercury.domain.events import Message, RoomState, rfc3339
from mercury.domain.model import CID_BYTES, NAME_BYTES, Room
from mercury.http.results import Result

MANY = MEMBERS_PAGE  # at most, of whatever is listed in one request or answer

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=NAME_BYTES,
        description=f"1 to {NAME_BYTES} bytes of UTF-8 without control characters",
        extra_json_schema={"format": "name"},
    ),
]
After = Annotated[str, Meta(max_length=NAME_BYTES, description="only names after this one, in byte order")]
Limit = Annotated[int, Meta(ge=1, le=MANY, description="the most to return")]
MessageLimit = Annotated[int, Meta(ge=1, le=MANY, description="the most to return; --limits.history-page applies too")]
Names = Annotated[list[Name], Meta(min_length=1, max_length=MANY)]
Ttl = Annotated[float, Meta(gt=0, le=LONGEST, description="seconds; --token.ttl if left out")]
Secret = Annotated[str, Meta(min_length=1, max_length=256)]
Key = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=CID_BYTES,
        pattern="^[!-~]+$",
        description="the message's cid: repeated with the same text, it stores nothing and gets the first answer",
    ),
]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class Query(Struct, forbid_unknown_fields=True, kw_only=True):
    """What all queries have in common."""


class Headers(Struct, kw_only=True):
    """What all Structs of headers have in common."""


class Body(Struct, forbid_unknown_fields=True, kw_only=True):
    """What all bodies have in common. `rules`: what JSON Schema is to know beside the fields."""

    rules: ClassVar[dict[str, object]] = {}


# Tokens


class MakeToken(Body):
    """The member, and how long the token is valid."""

    member: Name
    ttl: Ttl | UnsetType = UNSET


class TokenMade(Result):
    """The new token. This is the only time it is shown: Mercury stores only a key derived from it."""

    http_status = 201

    token: str
    member: str
    expires: Time


class RevokeTokens(Body):
    """One token, or a member whose tokens are all revoked. Give exactly one of the two."""

    rules = {"oneOf": [{"required": ["token"]}, {"required": ["member"]}]}

    token: Secret | UnsetType = UNSET
    member: Name | UnsetType = UNSET


class Revoked(Result):
    """How many tokens were revoked."""

    revoked: int


# Rooms


class NamePage(Query):
    """One page of a list that is sorted by name."""

    after: After = ""
    limit: Limit = 100


class RoomInfo(Result):
    """A room: head (last seq), floor (last seq no longer kept), messages ever stored, members now, creation time."""

    rid: str
    head: int
    floor: int
    messages: int
    members: int
    ctime: Time


class RoomList(Result):
    """Rooms, sorted by name. `more`: there are more; pass the last name as `after`."""

    rooms: list[RoomInfo]
    more: bool


class MemberNames(Body):
    """Members. They join or leave together, as one entry of the room's log."""

    members: Names


class MemberList(Result):
    """Members, sorted by name. `more`: there are more; pass the last name as `after`."""

    members: list[str]
    more: bool


class JoinedMembers(Result):
    """The members who were not in the room before."""

    joined: list[str]


class LeftMembers(Result):
    """The members who were in the room."""

    left: list[str]


# Messages


class MessagePage(Query):
    """The last messages before seq `before`, or the first after seq `after`, or the newest."""

    before: Annotated[Seq, Meta(description="only messages with a lower seq")] | UnsetType = UNSET
    after: Annotated[Seq, Meta(description="only messages with a higher seq, starting with the lowest")] | UnsetType = (
        UNSET
    )
    limit: MessageLimit = 50


class MessageList(Result):
    """Messages, oldest first. `more`: there are more in the requested direction."""

    messages: list[Message]
    more: bool


class PostMessage(Body):
    """The text and its author. Without `member`, the author is the system: the application itself."""

    text: str
    member: Name | UnsetType = UNSET


class PostHeaders(Headers, rename={"idempotency_key": "Idempotency-Key"}):
    """Makes it safe to repeat a request whose answer was lost."""

    idempotency_key: Key | UnsetType = UNSET


class Posted(Result):
    """The message is stored. Its id, and its seq in the room's log."""

    http_status = 201

    id: int
    seq: int
    duplicate: bool


class PostedBefore(Posted):
    """This Idempotency-Key was used before. The id and seq are the first message's."""

    http_status = 200


# Members


class RoomStates(Result):
    """The member's rooms, sorted by name: head (last seq), read mark, and how many messages are above it."""

    rooms: list[RoomState]


class Device(Query):
    """One of the member's devices, or all if left out."""

    device: Annotated[str, Meta(max_length=NAME_BYTES, description="only this device's connections")] | UnsetType = (
        UNSET
    )


class Connection(Struct):
    """One connection to this node. With several workers, `worker` says which one: each numbers its own connections."""

    id: int
    device: str
    protocol: str
    peer: str
    since: Time
    worker: int | UnsetType = UNSET


class ConnectionList(Result):
    """The member's connections, oldest first."""

    connections: list[Connection]


class Closed(Result):
    """How many connections were closed."""

    closed: int


# The original Mercury's calls


class OldToken(Result):
    """A new token."""

    token: str


class OldTokenQuery(Struct):
    """The member."""

    member: Name


class OldAddQuery(Struct):
    """The room, and its new members, joined by `-`."""

    room: Name | UnsetType = UNSET
    member: Annotated[str, Meta(description="names joined by -")] | UnsetType = UNSET


class OldAdd(Body):
    """The same, for names that contain a `-`."""

    room: Name
    members: Names


def room_info(room: Room) -> RoomInfo:
    """The room as the API shows it."""
    return RoomInfo(room.rid, room.head, room.floor, room.messages, room.members, rfc3339(room.ctime))
