"""The other nodes, as this one sees them: what they are told, and which members are connected to them.

Nothing here is stored. What the bus loses is made up for by the log (hub.py), or was worth nothing a moment later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from twisted.internet.defer import Deferred

from mercury.domain import signals
from mercury.domain.model import Entry
from mercury.interfaces import IBus


class Peers:
    """What goes from this node to the others by the bus, but for entries (journal.py). Methods never raise."""

    def __init__(self, bus: IBus) -> None:
        self._bus = bus
        self._online: dict[str, dict[str, set[str]]] = {}  # room -> member -> nodes

    def members_joined(self, entry: Entry) -> None:
        """This node has stored a join: nodes that do not listen to the room yet may have its members."""
        self._bus.publish_signal(None, signals.Came(entry.rid, entry.seq, entry.members))

    def listen(self, rid: str) -> Deferred[None]:
        """A room has its first session here; fires when entries of other nodes surely come."""
        listening = self._bus.subscribe(rid)
        listening.addCallback(lambda _: self._bus.publish_signal(rid, signals.Who(rid)))  # now the answers get here
        return listening

    def unlisten(self, rid: str) -> None:
        """A room has no session here any more."""
        self._bus.unsubscribe(rid)
        self._online.pop(rid, None)

    def publish(self, rid: str | None, signal: signals.Signal) -> None:
        """Tell the nodes that listen to a room, or all nodes, something that is not stored."""
        self._bus.publish_signal(rid, signal)

    def online(self, rid: str) -> Collection[str]:
        """The members of a room who are connected to other nodes, as far as these have said so."""
        return self._online.get(rid, {}).keys()

    def note_online(self, node: str, rid: str, mid: str, online: bool) -> None:
        """Another node says that a member is connected to it, or is not any more."""
        members = self._online.setdefault(rid, {})
        if online:
            members.setdefault(mid, set()).add(node)
        elif mid in members:
            members[mid].discard(node)
            if not members[mid]:
                del members[mid]

    def connected_to(self, node: str) -> Iterator[tuple[str, str]]:
        """The rooms and members that a node has said are connected to it."""
        for rid, members in tuple(self._online.items()):
            for mid in [mid for mid, nodes in members.items() if node in nodes]:
                yield rid, mid
