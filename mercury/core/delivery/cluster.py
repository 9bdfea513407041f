"""This node among the others: what the bus brings is handed to the hub, and what is to happen on all nodes is begun.

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
from mercury.core.delivery.listeners import LiveRoom, RoomListener
from mercury.core.delivery.peers import Peers
from mercury.domain import events, signals
from mercury.domain.counters import Histogram
from mercury.domain.model import Entry
from mercury.interfaces import IBus, IBusListener

LOOK: Final = 1.0  # seconds between looks at the rooms' heads while the bus is down


@implementer(IBusListener)
class Cluster:
    """What happens on all nodes. `peers`: what the others are told; `bus`: what they tell."""

    log = Logger()

    def __init__(self, clock: IReactorTime, hub: Hub, peers: Peers, bus: IBus) -> None:
        self._hub = hub
        self._peers = peers
        self._bus = bus
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
        self.log.failure("checking rooms while the bus is down failed", failure)

    # What happens here

    def online(self, room: LiveRoom) -> list[str]:
        """The members of the room who are connected to any node, by name."""
        return sorted({session.mid for session in room}.union(self._peers.online(room.rid)))

    def broadcast(self, rid: str, event: events.Typing | events.Read, but: RoomListener | None = None) -> None:
        """Tell the room, on all nodes, something that is not stored; on this one all but `but`."""
        self._peers.publish(rid, event)
        self._hub.signal(rid, event, but)

    def kick(self, mid: str, device: str | None = None) -> int:
        """Close a member's connections, or those of one device, on all nodes; how many there were on this one."""
        self._peers.publish(None, signals.Kick(mid, device))
        return self._hub.kick(mid, device)

    def revoke(self, mid: str, token: bytes | None) -> None:
        """Close the connections made with this token, or with any of the member's, on all nodes."""
        self._peers.publish(None, signals.Revoke(mid, token))
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
            self._peers.publish(rid, signals.Who(rid))

    def node_up(self, node: str) -> None:
        for room in tuple(self._hub.rooms.values()):
            self._here(room)

    def node_down(self, node: str) -> None:
        for rid, mid in self._peers.connected_to(node):
            self._is_online(node, rid, mid, False)

    # Who is where

    def _here(self, room: LiveRoom) -> None:
        if members := sorted({session.mid for session in room}):
            self._peers.publish(room.rid, signals.Here(room.rid, members))

    def _is_online(self, node: str, rid: str, mid: str, online: bool) -> None:
        """Remember it, and tell our sessions if that makes a difference to them."""
        room = self._hub.rooms.get(rid)
        if room is None:
            return
        before = mid in self.online(room)
        self._peers.note_online(node, rid, mid, online)
        if (mid in self.online(room)) != before:
            self._hub.signal(rid, events.Presence(rid, mid, online))
