"""goTalk's /sync: which messages a client gets that has no connection, and when they count as delivered.

Each device of a person, `gotalk` or `gotalk:<name>`, has a cursor in each of their conversations. A sync sends what
others said above the cursors. A cursor moves only when it is certain that all up to it has arrived (G4, G5):

- A client that acks names the last message that it has. What is sent to it is remembered in the store, in order, before
  the answer is written. So an ack means all that came before that message in the answers, and nothing else, whatever
  was committed meanwhile. What is not acked comes first in the next answer, in the same order.
- For a client that does not, receipts.py finds out whether the whole answer has arrived, and received() is called.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mercury.core.parts import Chat
from mercury.domain import close_codes
from mercury.domain.model import NAME_BYTES, Cursor, Entry, Handed, Membership, check_text_of
from mercury.errors import MercuryError
from mercury.gotalk.accounts import GotalkSession
from mercury.gotalk.conversations import pair_of
from mercury.gotalk.long_poll import LongPoll
from mercury.interfaces import IAccounts

MOST: Final = 1000  # messages in one answer
MOST_TEXT: Final = 2 << 20  # and characters of their texts, unless the first one alone is longer
LONGEST_WAIT: Final = 60.0  # seconds
DEVICE: Final = "gotalk"
HALF_DAY: Final = 43200  # seconds

_log = Logger()


def device_of(name: str) -> str:
    """The device with this name, whose cursors the client moves; bad_request if the name is not allowed."""
    return check_text_of("device", f"{DEVICE}:{name}", NAME_BYTES) if name else DEVICE


@dataclass
class Poll:
    """One call of /sync. `ack`: None for a client that never acks, 0 for one that has received nothing yet. `wait`: in
    seconds."""

    session: GotalkSession
    device: str = DEVICE
    ack: int | None = None
    wait: float = 0.0
    gone: bool = False
    news: Deferred[None] | None = None

    def drop(self) -> None:
        """The client is gone: do not wait any longer."""
        self.gone = True
        if self.news is not None and not self.news.called:
            self.news.callback(None)


@dataclass
class Budget:
    """How much still fits into an answer."""

    messages: int = MOST
    text: int = MOST_TEXT

    def take(self, entries: Sequence[Entry]) -> list[Entry]:
        """The first of these entries, as many as still fit."""
        taken: list[Entry] = []
        for entry in entries[: self.messages]:
            if self.text < len(entry.text) and (taken or self.messages < MOST):
                self.text = self.messages = 0
                break
            taken.append(entry)
            self.text -= len(entry.text)
            self.messages -= 1
        return taken


@dataclass
class DeviceState:
    """The conversations of a device's member, its cursor in each, and the runs sent to it above these cursors."""

    memberships: dict[str, Membership]
    cursors: dict[str, int]
    sent: list[Handed] = field(default_factory=list)

    def end(self, rid: str) -> int:
        """The last seq of a room that was sent."""
        return max((run.last for run in self.sent if run.rid == rid), default=self.cursors[rid])


class Sync:
    """Answers calls of /sync."""

    def __init__(self, chat: Chat, store: IAccounts, wall: Callable[[], float] = time.time) -> None:
        self._chat = chat
        self._wall = wall
        self._store = store
        self._long_polls: dict[bytes, LongPoll] = {}
        self._turns: dict[tuple[str, str], DeferredLock] = {}
        self._users: Counter[tuple[str, str]] = Counter()

    async def messages(self, poll: Poll) -> list[Entry]:
        """The messages to send; if there are none, waits for some for as long as the poll says.

        When this returns, what is sent to a client that acks is remembered. Raises MercuryError.
        """
        found = await (self._wait_for(poll) if poll.wait else self._take(poll))
        self._chat.counters.delivered[DEVICE] += len(found)
        return found

    async def _wait_for(self, poll: Poll) -> list[Entry]:
        long_poll = self._long_poll(poll.session)
        long_poll.stay()
        try:
            return await self._listen(poll, long_poll)
        finally:
            long_poll.leave()

    def _long_poll(self, session: GotalkSession) -> LongPoll:
        digest = session.token.digest
        long_poll = self._long_polls.get(digest)
        if long_poll is None:
            long_poll = LongPoll(self._chat, session.token, self._forget)
            long_poll.start(session.checked)
            if long_poll.why is None:
                self._long_polls[digest] = long_poll
        return long_poll

    def _forget(self, long_poll: LongPoll) -> None:
        self._long_polls.pop(long_poll.token, None)

    async def _listen(self, poll: Poll, long_poll: LongPoll) -> list[Entry]:
        clock = self._chat.clock
        end = clock.seconds() + min(poll.wait, LONGEST_WAIT)
        while True:
            heard = long_poll.heard
            found = await self._take(poll)
            left = end - clock.seconds()
            if found or poll.gone or left <= 0:
                return found
            if long_poll.heard == heard and long_poll.why is None:
                poll.news = long_poll.news()
                timer: IDelayedCall = clock.callLater(left, poll.news.callback, None)
                await poll.news
                if timer.active():
                    timer.cancel()
            if long_poll.why is close_codes.UNAUTHORIZED:
                raise MercuryError("unauthorized", "the token was revoked")
            if long_poll.why is close_codes.BUSY:
                raise MercuryError("unavailable", "the store does not answer", 1.0)
            if long_poll.why is not None:  # kicked, or this node goes away
                return []

    # From the store

    async def _take(self, poll: Poll) -> list[Entry]:
        """The messages to send now, which are remembered as sent."""
        member, device = poll.session.member, poll.device
        async with self._turn(member, device):
            stored = await self._store.handed(member, device)
            state = await self._move_cursors(poll, [run for run in stored if run.rid])
            entries = await self._compose(poll, state)
            remembered = runs(entries) or [self._sign_of_life()]
            if remembered != stored and not poll.gone and (poll.ack is not None or not entries):
                await self._store.put_handed(member, device, remembered)
            return entries

    def _sign_of_life(self) -> Handed:
        """What is stored for a device that got nothing, so that it is not forgotten (--limits.device-days): the current
        half of the day, as a run of no room. So it is written twice a day."""
        return Handed("", 0, 0, int(self._wall() // HALF_DAY))

    async def _move_cursors(self, poll: Poll, stored: list[Handed]) -> DeviceState:
        """Move the cursors to what the client acks; the device's state then."""
        if poll.ack and (acked := await self._acked(stored, poll.ack)):
            await self._chat.store.move_cursors(cursors_of(poll, acked))
        marks, member, device = self._chat.marks, poll.session.member, poll.device
        memberships = {
            membership.rid: membership
            for membership in await self._chat.store.memberships(member, device)
            if poll.session.id in (pair_of(membership.rid) or ())
        }
        cursors = {
            rid: max(membership.delivered or 0, marks.pending(rid, member, device), membership.joined - 1)
            for rid, membership in memberships.items()
        }
        return DeviceState(memberships, cursors, [run for run in stored if run.last > cursors.get(run.rid, run.last)])

    async def _acked(self, stored: list[Handed], ack: int) -> list[Handed]:
        """The stored runs up to and with this message; none if it is not in them."""
        for n, run in enumerate(stored):
            if run.id == ack:
                return stored[: n + 1]
        rid, seq = (await self._chat.store.locate(ack, None) if stored else None) or ("", 0)
        for n, run in enumerate(stored):
            if run.rid == rid and run.first <= seq < run.last:
                return [*stored[:n], Handed(rid, run.first, seq, ack)]
        return []

    async def _compose(self, poll: Poll, state: DeviceState) -> list[Entry]:
        """What was sent before, in the same order, then as much that is new as fits."""
        budget = Budget()
        entries: list[Entry] = []
        for run in state.sent:
            after = max(run.first - 1, state.cursors[run.rid])
            entries += budget.take(await self._read(poll, run.rid, after, run.last, budget.messages, budget.text))
        new: list[Entry] = []
        rooms = [one for one in state.memberships.values() if one.head > state.end(one.rid)]
        rooms.sort(key=lambda one: one.head - state.end(one.rid))  # the shortest first, so that none starves another
        for n, membership in enumerate(rooms):
            if not budget.messages:
                break
            share = max(1, budget.messages // (len(rooms) - n))
            new += budget.take(await self._news(poll, state, membership, share, budget.text))
        return entries + sorted(new, key=lambda entry: entry.id)

    async def _news(self, poll: Poll, state: DeviceState, membership: Membership, most: int, text: int) -> list[Entry]:
        """The first new messages of a conversation. A cursor with only own messages above it moves past them."""
        end = state.end(membership.rid)
        found = await self._read(poll, membership.rid, end, membership.head, most, text)
        if end == state.cursors[membership.rid]:
            idle = found[0].seq - 1 if found else membership.head
            if idle > end:
                self._chat.marks.delivered(membership.rid, poll.session.member, poll.device, idle)
        return found

    async def _read(self, poll: Poll, rid: str, after: int, last: int, most: int, text: int) -> list[Entry]:
        """Messages with after < seq <= last that others wrote (of notes to oneself, all): at most `most`, and
        little more than `text` characters."""
        mine = poll.session.member
        is_note = pair_of(rid) == (poll.session.id, poll.session.id)
        found: list[Entry] = []
        more = True
        while more and len(found) < most and text >= 0:
            page, more = await self._chat.rooms.history(rid, last + 1, after)
            others = [entry for entry in page if is_note or entry.mid != mine]
            found += others
            text -= sum(len(entry.text) for entry in others)
            after = page[-1].seq if page else last
        return found[:most]

    # Receipts

    async def received(self, poll: Poll, entries: Sequence[Entry]) -> None:
        """All of an answer has arrived. Never fails: if the store is away, this is stored when it is back."""
        cursors = cursors_of(poll, runs(entries))
        try:
            async with self._turn(poll.session.member, poll.device):
                await self._chat.store.move_cursors(cursors)
        except MercuryError as error:
            _log.warn("what was delivered waits for the store: {reason}", reason=error.reason)
            for cursor in cursors:
                self._chat.marks.delivered(cursor.rid, cursor.mid, cursor.device, cursor.seq)

    @asynccontextmanager
    async def _turn(self, *key: str) -> AsyncIterator[None]:
        """One at a time for each device, so that nothing is sent between a receipt and its storing."""
        member, device = key
        lock = self._turns.setdefault((member, device), DeferredLock())
        self._users[member, device] += 1
        await lock.acquire()
        try:
            yield
        finally:
            lock.release()
            self._users[member, device] -= 1
            if not self._users[member, device]:
                del self._users[member, device], self._turns[member, device]


def runs(entries: Sequence[Entry]) -> list[Handed]:
    """The messages of an answer, in its order, as runs of one room each."""
    found = []
    for rid, group in groupby(entries, key=lambda entry: entry.rid):
        run = list(group)
        found.append(Handed(rid, run[0].seq, run[-1].seq, run[-1].id))
    return found


def cursors_of(poll: Poll, delivered: Sequence[Handed]) -> list[Cursor]:
    """The cursors of a poll's device when these runs have arrived. Runs of one room are in its order."""
    last = {run.rid: run.last for run in delivered}
    return [Cursor(rid, poll.session.member, poll.device, seq) for rid, seq in last.items()]
