"""What nodes tell each other and never store: who comes and goes, types and reads, and whose connections must end.

Three of these are the very events that clients are told. Whoever misses a signal has lost nothing that was promised.
"""

from __future__ import annotations

from msgspec import Struct

from mercury.domain.events import Presence, Read, Typing


class Kick(Struct, tag="kick", frozen=True):
    """Close this member's connections, or those of one device, on every node."""

    mid: str
    device: str | None = None


class Revoke(Struct, tag="revoke", frozen=True):
    """Close the connections made with the token of this digest, or with any of the member's, on every node."""

    mid: str
    token: bytes | None = None


class Came(Struct, tag="came", frozen=True):
    """These members were put into the room by the entry `seq`: nodes that do not listen to it may have them."""

    rid: str
    seq: int
    members: tuple[str, ...]


class Who(Struct, tag="who", frozen=True):
    """Who of the room is connected at the other nodes? Asked when a node begins to listen to a room."""

    rid: str


class Here(Struct, tag="here", frozen=True):
    """The answer: these members of the room are connected at the node that says so."""

    rid: str
    members: list[str]


Signal = Typing | Presence | Read | Kick | Revoke | Came | Who | Here
