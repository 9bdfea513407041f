"""What the REST calls take and give, as Structs. They check the input, and /openapi.json is made from them.

A Query stands in the URL, Headers in the head, a Body is JSON; keys that are not declared are errors. A Result goes out
as {"status":"ok","body":…} with its own HTTP status. Times are RFC 3339 in UTC.
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
After = Annotated[str, Meta(max_length=NAME_BYTES, description="only names greater than this, byte for byte")]
Limit = Annotated[int, Meta(ge=1, le=MANY, description="how many at most")]
MessageLimit = Annotated[int, Meta(ge=1, le=MANY, description="how many at most; --limits.history-page holds too")]
Names = Annotated[list[Name], Meta(min_length=1, max_length=MANY)]
Ttl = Annotated[float, Meta(gt=0, le=LONGEST, description="seconds; --token.ttl if left out")]
Secret = Annotated[str, Meta(min_length=1, max_length=256)]
Key = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=CID_BYTES,
        pattern="^[!-~]+$",
        description="the message's cid: repeated with the same text it stores nothing and gets the first answer",
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
    """Whose token, and how long it is to live."""

    member: Name
    ttl: Ttl | UnsetType = UNSET


class TokenMade(Result):
    """The only time that the token is shown: Mercury keeps no more than a key derived from it."""

    http_status = 201

    token: str
    member: str
    expires: Time


class Revoke(Body):
    """One token, or all of a member's: exactly one of the two."""

    rules = {"oneOf": [{"required": ["token"]}, {"required": ["member"]}]}

    token: Secret | UnsetType = UNSET
    member: Name | UnsetType = UNSET


class Revoked(Result):
    """How many tokens there were."""

    revoked: int


# Rooms


class NamePage(Query):
    """A page of something that is listed by name."""

    after: After = ""
    limit: Limit = 100


class RoomInfo(Result):
    """A room: its log's last seq, the last seq no longer kept, messages ever stored, members now, when it was made."""

    rid: str
    head: int
    floor: int
    messages: int
    members: int
    ctime: Time


class RoomList(Result):
    """Rooms by name. `more`: ask again with `after` the last one."""

    rooms: list[RoomInfo]
    more: bool


class MemberNames(Body):
    """Members, all of them or none by one entry of the room's log."""

    members: Names


class MemberList(Result):
    """Members by name. `more`: ask again with `after` the last one."""

    members: list[str]
    more: bool


class Joined(Result):
    """Those who were not in the room yet."""

    joined: list[str]


class Left(Result):
    """Those who were in the room."""

    left: list[str]


# Messages


class MessagePage(Query):
    """The last messages below `before`, or the first above `after`, or the newest."""

    before: Annotated[Seq, Meta(description="only messages with a lower seq")] | UnsetType = UNSET
    after: Annotated[Seq, Meta(description="only messages with a higher seq, the first ones")] | UnsetType = UNSET
    limit: MessageLimit = 50


class MessageList(Result):
    """Messages, oldest first. `more`: there are further ones in the direction asked for."""

    messages: list[Message]
    more: bool


class PostMessage(Body):
    """What is said, and as whom: without `member` it is said by the system, the application itself."""

    text: str
    member: Name | UnsetType = UNSET


class PostHeaders(Headers, rename={"idempotency_key": "Idempotency-Key"}):
    """Makes it harmless to send a message again when the first answer was lost."""

    idempotency_key: Key | UnsetType = UNSET


class Posted(Result):
    """The message is stored. Its place in the room's log, and its id."""

    http_status = 201

    id: int
    seq: int
    duplicate: bool


class PostedBefore(Posted):
    """This Idempotency-Key was stored before; these are that message's numbers."""

    http_status = 200


# Members


class RoomStates(Result):
    """The member's rooms by name: the log's last seq, the member's read mark, how many messages lie above that."""

    rooms: list[RoomState]


class Device(Query):
    """One of the member's devices; all of them if left out."""

    device: Annotated[str, Meta(max_length=NAME_BYTES, description="only this device's")] | UnsetType = UNSET


class Connection(Struct):
    """One connection to this node. Where it has several workers, to which: each counts its connections by itself."""

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


# The first Mercury's calls


class OldToken(Result):
    """A new token."""

    token: str


class OldTokenQuery(Struct):
    """Whose token."""

    member: Name


class OldAddQuery(Struct):
    """The room, and the members joined by `-`."""

    room: Name | UnsetType = UNSET
    member: Annotated[str, Meta(description="names joined by -")] | UnsetType = UNSET


class OldAdd(Body):
    """The same, for names that hold a `-`."""

    room: Name
    members: Names


def room_info(room: Room) -> RoomInfo:
    """A room as it is told."""
    return RoomInfo(room.rid, room.head, room.floor, room.messages, room.members, rfc3339(room.ctime))
