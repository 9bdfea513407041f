"""Long polls: how a client that only asks over HTTP hears that something was said, without a connection of its own.

A LongPoll is among the hub's listeners for as long as one logged-in person polls, and a few seconds longer, so that the
next poll need not begin anew. It counts as a connection of theirs, and they are online as long. It hears that there are
messages, but not what they say: whoever it wakes looks into the store (sync.py), so nothing is ever lost here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.core.delivery.listeners import LiveRoom, RoomListener
from mercury.core.parts import Chat
from mercury.domain import close_codes, events
from mercury.domain.close_codes import CloseReason
from mercury.domain.counters import Cause
from mercury.domain.log_context import LOG_CONTEXT, LogContext, in_context
from mercury.domain.model import Entry, Token
from mercury.errors import MercuryError
from mercury.gotalk.conversations import PREFIX
from mercury.interfaces import IDirectWriter, IFrameEncoder, IPeer

LINGER: Final = 5.0  # seconds that it stays when nobody polls any more

_log = Logger()


@implementer(IFrameEncoder)
class PollEncoder:
    """Says no more than that there was a message, in one of the conversations of two."""

    name = "poll"
    acknowledges = False

    def entries(self, entries: Sequence[Entry]) -> bytes:
        heard = any(entry.kind == "message" and entry.rid.startswith(PREFIX) for entry in entries)
        return b"." if heard else b""

    def event(self, event: events.Event) -> bytes:
        return b""


@implementer(IPeer)
class PollPeer:
    """Whom long polls are for, as the log names them. There is no socket, so what is said goes to LongPoll.write()."""

    peer = "a long poll"
    number = 0
    direct: IDirectWriter | None = None

    def abort(self) -> None:
        """There is nothing to end."""


POLL_ENCODER: Final = PollEncoder()
POLL_PEER: Final = PollPeer()


class LongPoll(RoomListener):
    """Listens for the polls of one login, from start() on. `heard`: how often something was heard. `why`: set when it
    has ended."""

    __slots__ = ("_chat", "_forget", "_leaving", "_polls", "_waiting", "heard", "why")

    reads = False

    def __init__(self, chat: Chat, token: Token, forget: Callable[[LongPoll], None]) -> None:
        super().__init__(POLL_PEER, POLL_ENCODER)
        self.mid = token.mid
        self.token = token.digest
        self.heard = 0
        self.why: CloseReason | None = None
        self._chat = chat
        self._forget = forget
        self._leaving: IDelayedCall | None = None
        self._polls = 0
        self._waiting: set[Deferred[None]] = set()

    def start(self, checked: float) -> None:
        """Enter the hub; the token was found good at `checked` (clock). Raises what Hub.enter() raises.

        What was said before it is live is not missed: once it is, it wakes the polls as if something had been said.
        """
        first = self._chat.hub.enter(self, checked)
        Deferred.fromCoroutine(self._open(first)).addErrback(self._failed, LOG_CONTEXT.get())

    async def _open(self, first: bool) -> None:
        memberships, joined = await self._chat.hub.memberships.open(self)
        if self.why is not None:
            return
        for membership in memberships:
            self._chat.hub.listen(self, membership.rid, membership.head + 1, membership.head)
        for rid, seq in joined.items():
            self._chat.hub.listen(self, rid, seq, seq)
        if first:
            for room in self.rooms:
                self._chat.hub.presence(room.rid, self.mid, True, but=self)
        self.catch_up("login")
        self._wake()

    def _failed(self, failure: Failure, log_context: LogContext | None) -> None:
        if not failure.check(MercuryError):
            in_context(log_context, _log.failure, "a long poll could not begin", failure)
        self.end(close_codes.BUSY)

    def news(self) -> Deferred[None]:
        """Fires when something is heard, or when the long poll ends. A poll that waits no longer may fire it, too."""
        news: Deferred[None] = Deferred()
        self._waiting.add(news)
        return news.addCallback(lambda _: self._waiting.discard(news))

    def _wake(self) -> None:
        self.heard += 1
        for news in tuple(self._waiting):
            if not news.called:
                news.callback(None)

    def stay(self) -> None:
        """One more poll."""
        self._polls += 1
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def leave(self) -> None:
        """One poll less. After the last one it stays for a moment."""
        self._polls -= 1
        if not self._polls and self.why is None:
            self._leaving = self._chat.clock.callLater(LINGER, self._gone)

    def _gone(self) -> None:
        self._leaving = None
        self.end(close_codes.GONE)

    # What the hub asks for

    def write(self, data: bytes) -> None:
        self._wake()

    def caught_up(self, room: LiveRoom) -> None:
        """Nothing was missed."""

    def catch_up(self, cause: Cause) -> None:
        """Something may have been missed: look into the store, and be live again from there."""
        missed = False
        for room in self.rooms:
            if not room.cold and room.behind.get(self, room.head + 1) <= room.head:
                room.attach(self, room.head + 1)
                missed = True
        if missed:
            self._wake()

    def end(self, why: CloseReason) -> None:
        if self.why is None:
            self.why = why
            if self._leaving is not None:
                self._leaving.cancel()
                self._leaving = None
            self._forget(self)
            self._chat.hub.exit(self)
            self.out.clear()
            self._wake()
