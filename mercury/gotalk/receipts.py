"""Has an answer arrived? What can be known of that from a connection, for clients that never say so.

An answer has arrived when all of it was written and taken by the client's side, and the client then closed the
connection, or sent another request on it: a client that goes away with something unread resets the connection
(RFC 9112, 9.6; RFC 1122, 4.2.2.13). The last byte is held back for a moment, so that whoever sits between and breaks
off while it passes the answer on is seen to do so before the answer is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.domain.log_context import LOG_CONTEXT, LogContext, in_context, start_in_context
from mercury.http.server import Channel, Request, Site
from mercury.net.direct_write import raw_tcp, unsent_bytes

HELD_BACK: Final = 0.02  # seconds

Proof = Callable[[], Coroutine[Deferred[Any], Any, None]]

_log = Logger()


class ProvingChannel(Channel):
    """A connection that sees what has arrived. `unproved`: what to do when it is seen of an answer, in order, and which
    request that was."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unproved: list[tuple[LogContext | None, Proof]] = []
        self._proving: list[Deferred[None]] = []
        self._raw: Any = None
        self._closed: Callable[[Failure], None]
        self._between = False  # requests: nothing of the next one has come yet
        self._ending = False
        self._ended_by_peer = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self._raw = raw_tcp(self.transport)
        if self._raw is not None:  # by then the socket is still there to be asked
            self._closed, self._raw.readConnectionLost = self._raw.readConnectionLost, self._peer_closes

    def dataReceived(self, data: bytes) -> None:
        if self._between:
            self._between = False
            if self._all_taken():
                self._prove()
        super().dataReceived(data)

    def requestDone(self, request: Any) -> None:
        sent_before = any(self._dataBuffer)  # the next request, without waiting for the answer to this one
        self._between = bool(self.persistent) and not sent_before
        super().requestDone(request)

    def loseConnection(self) -> None:
        """After the last answer: let the client close first, since closing here proves nothing. It has as long for that
        as for taking the answer."""
        if not self.unproved or self._raw is None or self._ending:
            super().loseConnection()
            return
        self._ending = True
        self._raw.unregisterProducer()
        self._raw.loseWriteConnection()
        self.setTimeout(self.patience)  # type: ignore[no-untyped-call]

    def _all_taken(self) -> bool:
        """Whether the client's side has all that was written; our own end of the connection counts for one byte."""
        return self._raw is None or unsent_bytes(self._raw) <= self._ending

    def _peer_closes(self, reason: Failure) -> None:
        self._ended_by_peer = self._all_taken()
        self._closed(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        # With TLS the socket cannot be asked, but to close is a message of its own (RFC 8446, 6.1).
        by_peer = self._ended_by_peer if self._raw is not None else not self.transport.disconnecting
        if by_peer and reason.check(ConnectionDone):
            self._prove()
        self.unproved.clear()

    def _prove(self) -> None:
        proofs, self.unproved = self.unproved, []
        for log_context, proof in proofs:
            proving = start_in_context(log_context, proof())
            proving.addErrback(partial(in_context, log_context, _log.failure, "noting what has arrived failed"))
            self._proving.append(proving)

    async def proved(self) -> None:
        """Wait until what is proved is stored."""
        while self._proving:
            await self._proving.pop()


class ProvingRequest(Request):
    """A request whose answer can be held back for its last byte."""

    channel: ProvingChannel

    async def prove(self, body: bytes, proof: Proof, clock: Any) -> bytes:
        """Write an answer but for its last byte, which is returned. When all has arrived, `proof` is called."""
        self.write(body[:-1])  # type: ignore[no-untyped-call]
        await deferLater(clock, HELD_BACK)
        if not self._disconnected:
            self.channel.unproved.append((LOG_CONTEXT.get(), proof))
        return body[-1:]


class ProvingSite(Site):
    """Serves a resource with ProvingChannels and ProvingRequests."""

    protocol = ProvingChannel
    requests = ProvingRequest
