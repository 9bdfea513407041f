"""This node among the others: what the bus brings is handed to the hub, and what others must know is put on the bus.

The store is the truth and the bus only wakes. Entries that come from other nodes go the way of our own: the hub
compares their seq and reads the log where something is missing. Signals (presence, typing, read marks, kicks,
revocations) are passed on and forgotten; of other nodes' members only who is online in the rooms that are listened to
here is remembered, and forgotten with the node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.core.delivery.hub import Hub
from mercury.core.delivery.listeners import Listener, LiveRoom
from mercury.domain import events, signals
from mercury.domain.counters import Histogram
from mercury.domain.model import Entry
from mercury.interfaces import IBus, IBusListener

LOOK: Final = 1.0  # seconds between looks at the rooms' heads while the bus is down


@implementer(IBusListener)
class Nodes:
    """Between the hub and the bus."""

    log = Logger()

    def __init__(self, clock: IReactorTime, hub: Hub, bus: IBus) -> None:
        hub.others = self
        self._hub = hub
        self._bus = bus
        self._elsewhere: dict[str, dict[str, set[str]]] = {}  # room -> member -> nodes
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    @property
    def are_heard(self) -> bool:
        """Whether what the others say gets here, as far as the bus knows."""
        return self._bus.is_up

    @property
    def lags(self) -> Histogram:
        """How long the bus took for its probes (IBus.lags)."""
        return self._bus.lags

    def open(self) -> Deferred[None]:
        """Begin to hear of the others. Fires when a first connection was tried."""
        self._looking.start(LOOK, now=False).addErrback(self._broken)
        return self._bus.open(self)

    def close(self) -> Deferred[None]:
        """Say goodbye to them."""
        if self._looking.running:
            self._looking.stop()
        return self._bus.close()

    def _look(self) -> None:
        if not self._bus.is_up:
            self._hub.warm(tuple(self._hub.rooms))

    def _broken(self, failure: Failure) -> None:
        self.log.failure("looking at rooms while the bus is down failed", failure)

    # What happens here

    def committed(self, entries: Sequence[Entry]) -> None:
        """This node has stored entries."""
        self._bus.publish(entries)
        for entry in entries:
            if entry.kind == "joined":
                self._bus.publish_signal(None, signals.Came(entry.rid, entry.seq, entry.members))

    def listen(self, rid: str) -> Deferred[None]:
        """A room has its first session here; fires when its entries surely come."""
        listening = self._bus.subscribe(rid)
        listening.addCallback(lambda _: self._bus.publish_signal(rid, signals.Who(rid)))  # now the answers get here
        return listening

    def unlisten(self, rid: str) -> None:
        """A room has no session here any more."""
        self._bus.unsubscribe(rid)
        self._elsewhere.pop(rid, None)

    def presence(self, rid: str, mid: str, online: bool, but: Listener | None = None) -> None:
        """A member's first connection to this node came, or the last one went."""
        event = events.Presence(rid, mid, online)
        self._bus.publish_signal(rid, event)
        if mid not in self._elsewhere.get(rid, ()):
            self._hub.signal(rid, event, but)

    def online(self, room: LiveRoom) -> list[str]:
        """The members of the room who are connected to any node, by name."""
        return sorted({session.mid for session in room} | self._elsewhere.get(room.rid, {}).keys())

    def tell(self, rid: str, event: events.Typing | events.Read, but: Listener | None = None) -> None:
        """Tell the room, on all nodes, something that is not stored; on this one all but `but`."""
        self._bus.publish_signal(rid, event)
        self._hub.signal(rid, event, but)

    def kick(self, mid: str, device: str | None = None) -> int:
        """Close a member's connections, or those of one device, on all nodes; how many there were on this one."""
        self._bus.publish_signal(None, signals.Kick(mid, device))
        return self._hub.kick(mid, device)

    def revoke(self, mid: str, token: bytes | None) -> None:
        """Close the connections made with this token, or with any of the member's, on all nodes."""
        self._bus.publish_signal(None, signals.Revoke(mid, token))
        self._hub.revoke(mid, token)

    # What the bus brings

    def entries_received(self, entries: Sequence[Entry]) -> None:
        here = self._hub.rooms  # what was under way when a room's last session left is too late to let anybody in
        self._hub.deliver([entry for entry in entries if entry.rid in here])

    def signal_received(self, node: str, signal: signals.Signal) -> None:
        match signal:
            case events.Typing() | events.Read():
                self._hub.signal(signal.rid, signal)
            case events.Presence():
                self._is_online(node, signal.rid, signal.mid, signal.online)
            case signals.Here():
                for mid in signal.members:
                    self._is_online(node, signal.rid, mid, True)
            case signals.Who():
                if (room := self._hub.rooms.get(signal.rid)) is not None:
                    self._here(room)
            case signals.Came():
                self._hub.came(signal.rid, signal.seq, signal.members)
            case signals.Kick():
                self._hub.kick(signal.mid, signal.device)
            case signals.Revoke():
                self._hub.revoke(signal.mid, signal.token)

    def invalidate(self, rids: Sequence[str] | None) -> None:
        self._hub.look_again(rids)
        for rid in rids or ():  # all of them: then other nodes have been met anew, and say by themselves who is there
            self._bus.publish_signal(rid, signals.Who(rid))

    def node_up(self, node: str) -> None:
        for room in tuple(self._hub.rooms.values()):
            self._here(room)

    def node_down(self, node: str) -> None:
        for rid, members in tuple(self._elsewhere.items()):
            for mid in [mid for mid, nodes in members.items() if node in nodes]:
                self._is_online(node, rid, mid, False)

    # Who is where

    def _here(self, room: LiveRoom) -> None:
        if members := sorted({session.mid for session in room}):
            self._bus.publish_signal(room.rid, signals.Here(room.rid, members))

    def _is_online(self, node: str, rid: str, mid: str, online: bool) -> None:
        """Remember it, and tell our sessions if that makes a difference to them."""
        room = self._hub.rooms.get(rid)
        if room is None:
            return
        before = mid in self.online(room)
        members = self._elsewhere.setdefault(rid, {})
        if online:
            members.setdefault(mid, set()).add(node)
        elif mid in members:
            members[mid].discard(node)
            if not members[mid]:
                del members[mid]
        if (mid in self.online(room)) != before:
            self._hub.signal(rid, events.Presence(rid, mid, online))
