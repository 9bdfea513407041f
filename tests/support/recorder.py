"""The record: what clients asked for, what came of it, and what they saw, in the order in which it happened.

Clients (recording_clients.py) write it, the checker (checker.py) reads it; neither knows the server. Texts of messages
are different from each other, so a text says which Ask it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Outcome = Literal["info", "ok", "fail"]

UNSURE = {"unavailable", "internal"}  # refusals after which it may have been stored all the same


class Seen(NamedTuple):
    """An entry of a room's log as a client was shown it. `kind` is message, joined or left."""

    rid: str
    seq: int
    id: int
    kind: str
    mid: str
    text: str
    members: tuple[str, ...] = ()


@dataclass
class Ask:
    """A message that a client asked for, once or, with a cid, more than once.

    `outcome`: ok when it was acknowledged, fail when it was refused, info as long as there is no answer, or one that
    says that nobody knows (its `code` is unavailable). `tries`: how often it was sent. `answers`: the (seq, id,
    duplicate) of every acknowledgement, where id and duplicate are None if the protocol does not say.
    """

    device: str
    mid: str
    rid: str
    text: str
    cid: str | None = None
    outcome: Outcome = "info"
    code: str = ""
    answers: list[tuple[int, int | None, bool | None]] = field(default_factory=list)
    tries: int = 0

    def refused(self, code: str) -> None:
        """The answer is an error."""
        self.code = code
        self.outcome = "info" if code in UNSURE or self.tries > 1 else "fail"


@dataclass
class Connection:
    """One connection of a device, from its opening on. `resumed`: the seqs that the client claimed to have."""

    device: str
    resumed: dict[str, int] | None = None
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    everything: bool = True  # False: the protocol shows messages only, no joins and leaves


@dataclass
class Record:
    """All of it. `devices`: device -> member. `members`: room -> those who are in it from the beginning to the end.

    `pages`: history as clients read it on the way, each page without holes; `histories`: where it was read from ->
    room -> all its messages, at the end. `closed`: rooms of which nothing is written down any more.
    """

    members: dict[str, set[str]] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    pages: list[list[Seen]] = field(default_factory=list)
    histories: dict[str, dict[str, list[Seen]]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    def of(self, device: str) -> list[Connection]:
        """A device's connections, the oldest first."""
        return [connection for connection in self.connections if connection.device == device]

    def counts(self) -> str:
        """How much was recorded, for people."""
        by_outcome = {name: sum(a.outcome == name for a in self.asks) for name in ("ok", "fail", "info")}
        seen = sum(len(run) for c in self.connections for run in c.seen.values())
        return f"{len(self.asks)} asked {by_outcome}, {seen} seen on {len(self.connections)} connections"
