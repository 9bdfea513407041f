"""Who is in which room, where what this node was told does not say it: then the store does.

Joins and leaves that are told in their turn let members in and put them out at once (hub.py). What comes out of its
turn, late, twice or not at all, decides nothing: the places of those whom it may concern are read again. Who has a
place then comes in. Who has none is out, if they read no log; whoever reads it finds their leave there, and all that is
before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import DeferredList
from twisted.internet.interfaces import IReactorTime

from mercury.core.delivery.listeners import LiveRoom, Opening, RoomListener
from mercury.core.delivery.rechecks import Looks
from mercury.core.page_size import within
from mercury.domain.model import Membership
from mercury.errors import MercuryError
from mercury.interfaces import IStore

MOST: Final = 64  # members whose places are read at once
PAGE: Final = 64  # entries in which those are looked for who have left
LEAVES: Final = 10_000  # that are remembered, in case somebody says late that one of these members came


class MembershipReader:
    """`sessions`: all here, by member. `admit` lets a session in: into which room, from which seq on, and what the
    room's head was when that held. `unlisten` puts it out."""

    def __init__(
        self,
        clock: IReactorTime,
        store: IStore,
        sessions: Mapping[str, Sequence[RoomListener]],
        admit: Callable[[RoomListener, str, int, int], None],
        unlisten: Callable[[RoomListener, LiveRoom], None],
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._admit = admit
        self._unlisten = unlisten
        self._looks = Looks(clock, self._look, MOST)
        self._changed: set[tuple[str, str]] | None = None  # rooms and members, while places are being read
        self._left: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._searched: set[LiveRoom] = set()

    async def open(self, session: RoomListener) -> tuple[list[Membership], dict[str, int]]:
        """Read the places of a session that logs in: those that hold, and the rooms that its member was put into
        meanwhile, with the seq of that. It has to listen to all of these at once; if there may be more, or less, that
        is asked for then."""
        opening = session.opening = Opening()
        memberships = await self._store.memberships(session.mid, session.device)
        session.opening = None
        if opening.doubted:
            self._looks.at((session.mid,))
        return opening.over(memberships)

    def ask(self, members: Iterable[str]) -> None:
        """What these have been told of where they are in may not be all: the store will say."""
        here = [mid for mid in members if mid in self._sessions]
        for mid in here:
            for session in self._sessions[mid]:
                if session.opening is not None:
                    session.opening.doubted = True
        self._looks.at(here)

    def is_asking(self, mid: str, room: LiveRoom) -> bool:
        """Whether the store is still to say if the member is in the room."""
        return room in self._searched or self._looks.has(mid)

    def changed(self, rid: str, members: Collection[str]) -> None:
        """These were let into the room or put out of it by what they were told."""
        if self._changed is not None:
            self._changed.update((rid, mid) for mid in members)

    async def skipped(self, room: LiveRoom, after: int) -> None:
        """The room's head has moved from `after` on over what was not told here: who has left by that? Those who read
        the log find out by themselves."""
        deaf = {session.mid for session in room if not room.is_read_by(session)}
        if not deaf or room in self._searched:
            self.ask(deaf)
            return
        self._searched.add(room)
        try:
            found = within((await self._store.read(room.rid, after, PAGE)).entries)
        except MercuryError:
            found = []
        finally:
            self._searched.discard(room)
        if found and found[-1].seq >= room.head:
            deaf &= {mid for entry in found if entry.kind == "left" for mid in entry.members}
        self.ask(deaf)

    def put_out(self, session: RoomListener, room: LiveRoom, seq: int) -> None:
        """The session was told of the entry `seq`, by which its member left the room."""
        self._unlisten(session, room)
        self.changed(room.rid, (session.mid,))
        self._left[room.rid, session.mid] = seq
        self._left.move_to_end((room.rid, session.mid))
        if len(self._left) > LEAVES:
            self._left.popitem(last=False)

    def have_left(self, rid: str, mid: str, seq: int) -> bool:
        """Whether a session of the member was told of a leave after the entry `seq`."""
        return self._left.get((rid, mid), 0) > seq

    async def _look(self, members: Sequence[str]) -> None:
        before = {
            session: {room.rid for room in session.rooms}
            for mid in members
            for session in self._sessions.get(mid, ())
            if session.opening is None
        }
        here = list(dict.fromkeys(session.mid for session in before))
        changed: set[tuple[str, str]] = set()
        self._changed = changed
        answers: list[tuple[bool, Any]] = await DeferredList(
            [self._store.memberships(mid, "") for mid in here], consumeErrors=True
        )
        self._changed = None
        for mid, (is_answer, memberships) in zip(here, answers, strict=True):
            for session in tuple(self._sessions.get(mid, ())):
                if is_answer and session in before:
                    self._compare(session, memberships, before[session], {rid for rid, who in changed if who == mid})
        for is_answer, failure in answers:
            if not is_answer:
                failure.raiseException()

    def _compare(
        self, session: RoomListener, memberships: Sequence[Membership], before: set[str], changed: set[str]
    ) -> None:
        """`before`: the rooms in which the session was when the reading began; `changed`: those of which the member has
        been told since, so that it is known who is in."""
        for membership in memberships:
            if membership.rid not in before | changed:
                self._admit(session, membership.rid, membership.joined, membership.head)
        gone = before - changed - {membership.rid for membership in memberships}
        for room in [room for room in session.rooms if room.rid in gone and not room.is_read_by(session)]:
            self._unlisten(session, room)
