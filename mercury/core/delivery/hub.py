"""The hub: which sessions are here, which rooms they listen to, and the delivery of committed entries to them.

deliver() takes entries as they were committed. Each room compares their seq with its head (listeners.py); live sessions
get the batch's frames, encoded once a wire and joined, through the outbox. A room that is new here, or that may have
missed something, is cold: its head is looked up in the store, and whoever is behind it reads the log (catch_up.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mercury.core.delivery.listeners import LiveRoom, RoomListener
from mercury.core.delivery.marks import Marks
from mercury.core.delivery.membership import MembershipReader
from mercury.core.delivery.outbox import Outbox
from mercury.core.delivery.peers import Peers
from mercury.core.delivery.proof import ProofQueue
from mercury.core.delivery.rechecks import Looks
from mercury.domain import close_codes, events
from mercury.domain.counters import Cause, Counters
from mercury.domain.model import Draft, Entry
from mercury.errors import MercuryError
from mercury.interfaces import IStore
from mercury.settings.limits import Limits

HOLE = 0.02  # seconds that entries wait for others which should come before them
EARLY = 1000  # entries of a room that wait so; if there are more, nothing is waited for
HEADS = 5000  # rooms whose heads are looked up at once
AWAY = 1.0  # seconds without a connection after which a member is told to be offline: who reconnects was never away
REMEMBERED = 60.0  # seconds that a revocation is remembered, for connections that were just logging in
REVOKED = 100_000  # revocations that are remembered


class Hub:
    """All sessions of this node, and the rooms that they listen to."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: IStore,
        limits: Limits,
        *,
        counters: Counters,
        outbox: Outbox,
        proof_queue: ProofQueue,
        marks: Marks,
        peers: Peers,
    ) -> None:
        self._counters = counters
        self._outbox = outbox
        self._proof_queue = proof_queue
        self._marks = marks
        self._peers = peers
        self.rooms: dict[str, LiveRoom] = {}
        self.sessions: dict[str, list[RoomListener]] = {}
        self.memberships = MembershipReader(clock, store, self.sessions, self._admit, self.unlisten)
        self._clock = clock
        self._store = store
        self._limits = limits
        self._heads = Looks(clock, self._look_at_heads, HEADS)
        self._revoked: OrderedDict[tuple[str, bytes | None], float] = OrderedDict()
        self._leaving: dict[str, IDelayedCall] = {}

    # Sessions

    def enter(self, session: RoomListener, checked: float) -> bool:
        """Take in a session whose token was checked at `checked` (clock); whether it is its member's first one here.

        Raises unauthorized if the token was revoked since then, and busy at too many connections of one member.
        """
        mid = session.mid
        for key in ((mid, session.token), (mid, None)):
            if self._revoked.get(key, -1.0) >= checked:
                raise MercuryError("unauthorized", "the token was revoked")
        here = self.sessions.setdefault(mid, [])
        if 0 < self._limits.connections_per_member <= len(here):
            reason = f"{len(here)} connections for one member, the maximum (--limits.connections-per-member)"
            raise MercuryError("busy", reason, 5.0, limit="connections-per-member")
        here.append(session)
        if mid in self._leaving:  # back before anybody was told
            self._leaving.pop(mid).cancel()
            return False
        return len(here) == 1

    def exit(self, session: RoomListener) -> None:
        """Let a session go; if it was its member's last one, its rooms are told, unless another one comes soon.

        Harmless when it never entered.
        """
        here = self.sessions.get(session.mid, [])
        if session not in here:
            return
        here.remove(session)
        if not here:
            del self.sessions[session.mid]
            rids = [room.rid for room in session.rooms]
            self._leaving[session.mid] = self._clock.callLater(AWAY, self._gone, session.mid, rids)
        for room in session.rooms:
            room.remove(session)
            self._drop_empty(room)
        session.rooms.clear()

    def _gone(self, mid: str, rids: Sequence[str]) -> None:
        del self._leaving[mid]
        for rid in rids:
            self.presence(rid, mid, False)

    def everybody(self) -> list[RoomListener]:
        """All sessions here."""
        return [session for here in self.sessions.values() for session in here]

    def kick(self, mid: str, device: str | None = None) -> int:
        """Close a member's connections, or those of one device; how many."""
        chosen = [s for s in self.sessions.get(mid, ()) if device is None or s.device == device]
        for session in chosen:
            session.end(close_codes.KICKED)
        return len(chosen)

    def revoke(self, mid: str, token: bytes | None) -> None:
        """Close the connections made with this token, or with any of the member's."""
        now = self._clock.seconds()
        self._revoked[mid, token] = now
        self._revoked.move_to_end((mid, token))
        while now - next(iter(self._revoked.values())) > REMEMBERED or len(self._revoked) > REVOKED:
            self._revoked.popitem(last=False)
        for session in tuple(self.sessions.get(mid, ())):
            if token is None or session.token == token:
                session.end(close_codes.UNAUTHORIZED)

    # Rooms

    def listen(self, session: RoomListener, rid: str, next_seq: int, head: int) -> None:
        """The session is to get the room's log from next_seq on. It is behind until the room is known to be warm.

        `head`: the room's head when its member was known to be in. What is above it may have put them out.
        """
        room = self.rooms.get(rid)
        if room is None:
            room = self.rooms[rid] = LiveRoom(rid, head)
            self._peers.listen(rid).addCallback(lambda _: self.warm((rid,)))
        session.rooms[room] = next_seq - 1
        if session.hears(rid):
            room.attach(session, next_seq)
        else:
            room.pause(session, next_seq)
        if head < room.told_after and not room.is_read_by(session):
            self.memberships.ask((session.mid,))

    def unlisten(self, session: RoomListener, room: LiveRoom) -> None:
        """The session gets no more of the room."""
        session.rooms.pop(room, None)
        room.remove(session)
        session.left(room.rid)
        self._drop_empty(room)

    def resume(self, session: RoomListener, room: LiveRoom, next_seq: int) -> None:
        """A session that paused in a room hears its log from next_seq on."""
        room.remove(session)
        session.rooms[room] = min(session.rooms[room], next_seq - 1)
        if room.attach(session, next_seq):
            session.caught_up(room)
        else:
            session.catch_up("subscribed")

    def room_of(self, session: RoomListener, rid: str) -> LiveRoom:
        """The room, if the session's member is in it; else forbidden, whether the room exists or not (G7)."""
        room = self.rooms.get(rid)
        if room is None or room not in session.rooms:
            raise MercuryError("forbidden", "not a member of that room")
        return room

    def _drop_empty(self, room: LiveRoom) -> None:
        if not len(room) and self.rooms.get(room.rid) is room:
            del self.rooms[room.rid]
            self._peers.unlisten(room.rid)

    # Entries

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Deliver committed entries: of each room in the order of seq, rooms in any order."""
        with self._outbox.corked():
            self.deliver_corked(entries)

    def deliver_corked(self, entries: Sequence[Entry]) -> None:
        """deliver(), for a caller that has corked the outbox: a write may find a socket full, and that must not change
        who listens halfway."""
        by_room: dict[str, list[Entry]] = {}
        for entry in entries:
            by_room.setdefault(entry.rid, []).append(entry)
        for rid, run in by_room.items():
            try:
                self._deliver(rid, run)
            except Exception:  # a fault of ours in one room must not keep the others from hearing
                self.log.failure("delivering to the room {room} failed", room=rid)
                self._start_over(rid, run)

    def _start_over(self, rid: str, run: Sequence[Entry]) -> None:
        """How much of this was told is not known, so the log says it; who has left by it hears no more in any case."""
        self._cut(self._of_members({mid for entry in run if entry.kind == "left" for mid in entry.members}))
        if (room := self.rooms.get(rid)) is not None:
            room.chill("doubt")
        self.look_again((rid,), {mid for entry in run for mid in entry.members})

    def _cut(self, sessions: Iterable[RoomListener]) -> None:
        """They hear nothing more from now on: their clients come back, and read what they were not told."""
        for session in tuple(sessions):
            session.end(close_codes.BUSY)

    def _deliver(self, rid: str, run: list[Entry]) -> None:
        room = self.rooms.get(rid)
        if room is not None:
            run = self._in_turn(room, run)
        start = 0
        for position, entry in enumerate(run):
            if entry.kind != "message":  # who listens changes here
                self._tell(rid, run[start:position])
                self._change(entry)
                start = position + 1
        self._tell(rid, run[start:])

    def _in_turn(self, room: LiveRoom, run: list[Entry]) -> list[Entry]:
        """Those whose turn has come: entries of two nodes may cross on the bus, and some come twice.

        What is missing will be here in a moment, or is read from the log.
        """
        if run[0].seq == room.head + 1 and run[-1].seq == room.head + len(run) and not room.early:
            return run  # as nearly always
        known, room.early = (*room.early, *run), []
        if room.cold:  # nobody is live: all will be read
            self._pass_over(known)
            self._jump(room, max(entry.seq for entry in known))
            return []
        self._pass_over([entry for entry in known if entry.seq <= room.head])
        come = {entry.seq: entry for entry in known if entry.seq > room.head}
        ready: list[Entry] = []
        while (entry := come.pop(room.head + 1 + len(ready), None)) is not None:
            ready.append(entry)
        if come:
            room.early = [come[seq] for seq in sorted(come)]
            wait = HOLE if len(come) <= EARLY else 0
            self._clock.callLater(wait, self._fill_hole, room, room.early[0].seq)
        return ready

    def _fill_hole(self, room: LiveRoom, seq: int) -> None:
        if room.early and room.early[0].seq == seq:
            early, room.early = room.early, []
            self._counters.holes += 1
            room.chill("hole")
            self._pass_over(early)
            self._jump(room, early[-1].seq)
            self.warm((room.rid,))

    def _pass_over(self, entries: Iterable[Entry]) -> None:
        """Nothing is told of these: a look at the store was quicker than they, or something before them was lost, or
        they come twice. Whoever is in the room reads them in its log; of who is in, they say nothing that is certain.
        """
        self.memberships.ask({mid for entry in entries if entry.kind != "message" for mid in entry.members})

    def _jump(self, room: LiveRoom, head: int) -> None:
        """The head moves over what was not told here; who does not read that may have been put out by it."""
        if head > room.head:
            after, room.head, room.told_after = room.head, head, head
            Deferred.fromCoroutine(self.memberships.skipped(room, after)).addErrback(
                lambda failure: self.log.failure("checking for members who have left failed", failure)
            )

    def _change(self, entry: Entry) -> None:
        self.memberships.changed(entry.rid, entry.members)
        if entry.kind == "joined":
            self.admit(entry.rid, entry.seq, entry.members)
            self._tell(entry.rid, [entry])
        elif entry.kind == "left":
            self._tell(entry.rid, [entry])
            self._expel(entry)

    def came(self, rid: str, seq: int, members: Collection[str]) -> None:
        """Another node has put these into the room. Where that is served, its entry says so too, if all is well."""
        if (room := self.rooms.get(rid)) is None or seq > room.head:
            self.admit(rid, seq, [mid for mid in members if not self.memberships.have_left(rid, mid, seq)])
        else:
            self.memberships.ask({session.mid for session in self._of_members(members) if room not in session.rooms})

    def admit(self, rid: str, seq: int, members: Collection[str]) -> None:
        """These members were put into the room by the entry `seq`: their sessions here listen to it from there on."""
        for session in self._of_members(members):
            self._admit(session, rid, seq, seq)

    def _admit(self, session: RoomListener, rid: str, seq: int, head: int) -> None:
        if session.opening is not None:
            session.opening.note(rid, seq, True)
        elif (room := self.rooms.get(rid)) is None or room not in session.rooms:
            self.listen(session, rid, seq, head)
            if room is not None and not room.cold and session in room.behind:  # this comes late: the log has more
                session.catch_up("joined")

    def _expel(self, entry: Entry) -> None:
        self._marks.forget(entry.rid, entry.members)
        for session in self._of_members(entry.members):
            if session.opening is not None:
                session.opening.note(entry.rid, entry.seq, False)
            elif (room := self.rooms.get(entry.rid)) is not None and session.rooms.get(room, entry.seq) < entry.seq:
                last = session.encoder_in(entry.rid).entries((entry,))  # unless they are there by a later joining
                if last and room.next_seq(session) <= entry.seq:  # behind: the end is told all the same
                    self._outbox.put((session,), last)
                self.memberships.put_out(session, room, entry.seq)

    def _of_members(self, members: Collection[str]) -> list[RoomListener]:
        return [session for mid in members for session in self.sessions.get(mid, ())]

    def _tell(self, rid: str, entries: Sequence[Entry]) -> None:
        room = self.rooms.get(rid)
        if room is None or not entries:
            return
        failed: list[RoomListener] = []
        for encoder, sessions in room.live.items():
            try:
                data = encoder.entries(entries)
            except Exception:  # who hears by another wire hears once, and at once
                self.log.failure("entries of {room} cannot be encoded for {encoder}", room=rid, encoder=encoder.name)
                failed += sessions
                continue
            if data:
                self._outbox.broadcast(sessions, data)
                self._proof_queue.room_written(room)
                self._counters.delivered[encoder.name] += len(sessions) * len(entries)
        if failed:
            self._cut(failed)
        room.head = max(room.head, entries[-1].seq)
        if room.behind and not room.cold:
            self._meet(room, "again")

    def _meet(self, room: LiveRoom, cause: Cause) -> None:
        """The head has moved: who had read ahead of it may be live now, who is below it reads on."""
        for session, next_seq in tuple(room.behind.items()):
            if session.is_slow:
                continue
            if room.attach(session, next_seq):
                session.caught_up(room)
            elif next_seq <= room.head:
                session.catch_up(cause)

    # What may have been missed

    def doubt(self, drafts: Sequence[Draft]) -> None:
        """These may have been stored though nobody here was told."""
        self.look_again([draft.rid for draft in drafts], {mid for draft in drafts for mid in draft.members})

    def look_again(self, rids: Iterable[str] | None, members: Iterable[str] | None = None) -> None:
        """In these rooms (None: all that are served here) something may have been missed: see what their logs say.

        Of these members (None: all who are here) the places are read again too, since nobody who is put into a room
        would hear of it by reading the rooms that they are in.
        """
        self.warm(self.rooms if rids is None else [rid for rid in rids if rid in self.rooms])
        self.memberships.ask(self.sessions if members is None else members)

    def warm(self, rids: Iterable[str]) -> None:
        """Look up the heads of these rooms; then whoever stands at the head is live and others catch up."""
        self._heads.at(rids)

    async def _look_at_heads(self, rids: Sequence[str]) -> None:
        heads = await self._store.heads(rids)
        self._outbox.cork()
        try:
            for rid in rids:
                if (room := self.rooms.get(rid)) is not None:
                    self._warmed(room, heads.get(rid, 0))
        finally:
            self._outbox.uncork()

    def _warmed(self, room: LiveRoom, head: int) -> None:
        if head > room.head:  # a second look, and somebody may be live already: between lies what they were not told
            room.chill("doubt")
            self._jump(room, head)
        room.cold = False
        self._meet(room, room.cause)

    # What is never stored

    def presence(self, rid: str, mid: str, online: bool, but: RoomListener | None = None) -> None:
        """A member's first connection to this node came, or the last one went: tell the room, on all nodes."""
        event = events.Presence(rid, mid, online)
        self._peers.publish(rid, event)
        if mid not in self._peers.online(rid):
            self.signal(rid, event, but)

    def signal(self, rid: str, event: events.Event, but: RoomListener | None = None) -> None:
        """Tell the live sessions of a room something that is not stored; of `but`'s, nothing to itself.

        In rooms with more sessions than --limits.signals-room only the member's own other devices hear it: if everybody
        told everybody everything, such a room would drown in it.
        """
        room = self.rooms.get(rid)
        if room is None:
            return
        if not (most := self._limits.signals_room) or len(room) <= most:
            for encoder, sessions in room.live.items():
                if data := encoder.event(event):
                    self._outbox.put([session for session in sessions if session is not but], data)
            apart: Iterable[RoomListener] = room.paused
        elif but is not None:
            own = self.sessions.get(but.mid, ())
            apart = [session for session in own if room in session.rooms and session not in room.behind]
        else:
            return
        for session in apart:
            if session is not but and (data := session.encoder_in(rid).event(event)):
                self._outbox.put((session,), data)
