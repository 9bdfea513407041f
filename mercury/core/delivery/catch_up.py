"""Catching up: a session that is behind in a room reads its log, page by page, until it stands at the head.

There is one such road for all who are behind: after connecting, after a socket was full, after entries were missed. It
stops when the socket is full and goes on when it has drained. Sessions that want the same page at the same time share
one reading and one encoding of it, and only a few readings run at once, so that a thousand clients coming back together
do not fall upon the store.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mercury.core.delivery.hub import Hub
from mercury.core.delivery.listeners import LiveRoom, RoomListener
from mercury.core.delivery.outbox import Outbox
from mercury.core.page_size import within
from mercury.domain import events
from mercury.domain.counters import Cause, Counters
from mercury.domain.log_context import start_in_context
from mercury.domain.model import Entry, Slice
from mercury.errors import MercuryError
from mercury.interfaces import IFrameEncoder, IStore

PAGE = 64  # entries, and no more than pages.PAGE_BYTES of them
READERS = 32  # readings at once
RETRY = 1.0  # seconds until the next try when the store is away
FAULT = 60.0  # the same after a fault of ours, which fills the log for each session


class Page:
    """A slice of a log, cut to size and encoded at most once a wire."""

    __slots__ = ("_frames", "entries", "slice")

    def __init__(self, slice: Slice) -> None:
        self.slice = slice
        self.entries = within(slice.entries)
        self._frames: dict[IFrameEncoder, bytes] = {}

    def frames(self, encoder: IFrameEncoder) -> bytes:
        """The page's entries as bytes for this wire."""
        data = self._frames.get(encoder)
        if data is None:
            data = self._frames[encoder] = encoder.entries(self.entries)
        return data


class Reader:
    """Reads pages of logs for any number of sessions."""

    def __init__(self, store: IStore) -> None:
        self._store = store
        self._asked: dict[tuple[str, int], list[Deferred[Page]]] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._reading = 0

    def read(self, rid: str, after: int) -> Deferred[Page]:
        """The entries of a room above `after`, PAGE of them at most."""
        key = (rid, after)
        asked = self._asked.setdefault(key, [])
        page: Deferred[Page] = Deferred()
        asked.append(page)
        if len(asked) == 1:
            self._waiting.append(key)
            self._next()
        return page

    def _next(self) -> None:
        while self._waiting and self._reading < READERS:
            self._reading += 1
            key = self._waiting.popleft()
            self._store.read(*key, PAGE).addBoth(self._done, key)

    def _done(self, result: object, key: tuple[str, int]) -> None:
        self._reading -= 1
        self._next()
        answer = Page(result) if isinstance(result, Slice) else result
        for waiting in self._asked.pop(key):
            waiting.callback(answer)  # type: ignore[arg-type]


class CatchUp:
    """Runs the catching up of sessions, one room after the other for each."""

    log = Logger()

    def __init__(self, clock: IReactorTime, store: IStore, hub: Hub, outbox: Outbox, counters: Counters) -> None:
        self._clock = clock
        self._store = store
        self._reader = Reader(store)
        self._hub = hub
        self._outbox = outbox
        self._counters = counters
        self._running: set[RoomListener] = set()

    @property
    def running(self) -> int:
        """How many sessions are at it."""
        return len(self._running)

    def start(self, session: RoomListener, cause: Cause) -> None:
        """Catch up in all rooms where the session is behind. Harmless when that goes on already."""
        if session not in self._running and not session.is_slow and session.rooms:
            self._running.add(session)
            start_in_context(session.log_context, self._run(session, cause))

    async def _run(self, session: RoomListener, cause: Cause) -> None:
        try:
            while behind := self._behind(session):
                for room in behind:
                    await self._read_on(session, room, cause)
        except MercuryError as error:
            self.log.warn("catch-up waits for the store: {reason}", reason=error.reason)
            self._clock.callLater(RETRY, self.start, session, cause)
        except Exception:
            self.log.failure("catch-up failed")
            self._clock.callLater(FAULT, self.start, session, cause)
        finally:
            self._running.discard(session)

    def _behind(self, session: RoomListener) -> list[LiveRoom]:
        """The rooms that have something to read: not those where the session is ahead of what was told here yet."""
        if session.is_slow:
            return []
        standing = ((room, room.behind.get(session)) for room in session.rooms if not room.cold)
        return [room for room, next_seq in standing if next_seq is not None and next_seq <= room.head + 1]

    async def _read_on(self, session: RoomListener, room: LiveRoom, cause: Cause) -> None:
        """Read and deliver one room's log until the session is live, slow or gone from it."""
        counted = False
        while not session.is_slow and not room.cold and (next_seq := room.behind.get(session)) is not None:
            if room.attach(session, next_seq):
                session.caught_up(room)
                return
            if next_seq > room.head + 1:  # read before it was told here: it is being delivered at this moment
                return
            page = await self._reader.read(room.rid, next_seq - 1)
            if not counted:
                counted = True
                self._counters.catch_ups[cause] += 1
            left = next(
                (entry for entry in page.entries if session.mid in entry.members and entry.kind == "left"), None
            )
            is_in = left is None or await self._is_in(session, room, left)
            if not _stands_at(session, room, next_seq):
                continue
            self._deliver(session, room, next_seq, page, left)
            if left is not None and not is_in:
                self._hub.memberships.put_out(session, room, left.seq)
                self._hub.memberships.ask((session.mid,))  # they may have come back since

    async def _is_in(self, session: RoomListener, room: LiveRoom, left: Entry) -> bool:
        """Whether the member has come back since they left: the log is read faster than joins and leaves are told."""
        memberships = await self._store.memberships(session.mid, session.device)
        return any(membership.rid == room.rid and membership.joined > left.seq for membership in memberships)

    def _deliver(self, session: RoomListener, room: LiveRoom, next_seq: int, page: Page, left: Entry | None) -> None:
        """Write a page; of one in which the member leaves, no more than up to that."""
        encoder = session.encoder_in(room.rid)
        if left is None:
            entries, frames = page.entries, page.frames(encoder)
        else:
            entries = [entry for entry in page.entries if entry.seq <= left.seq]
            frames = encoder.entries(entries)
        self._outbox.cork()
        try:
            if page.slice.floor >= next_seq:
                next_seq = page.slice.floor + 1
                self._outbox.put((session,), encoder.event(events.Reset(room.rid, page.slice.floor)))
            if entries:
                next_seq = entries[-1].seq + 1
                self._outbox.put((session,), frames)
                self._counters.delivered[encoder.name] += len(entries)
            elif next_seq <= room.head:  # the log is shorter than we were told: it was deleted
                next_seq = room.head + 1
            room.behind[session] = next_seq
            if left is None and room.attach(session, next_seq):
                session.caught_up(room)  # in the same write
        finally:
            self._outbox.uncork()


def _stands_at(session: RoomListener, room: LiveRoom, next_seq: int) -> bool:
    """Whether nothing has happened to the session while a page was read for it."""
    return not session.is_slow and room.behind.get(session) == next_seq
