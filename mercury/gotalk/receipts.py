"""Whether an HTTP answer has arrived, as far as its connection shows that: for clients that never acknowledge.

An answer counts as received when the client's side has taken all of it, and the client then closes the connection or
sends another request on it: a client that goes away with something unread resets the connection (RFC 9112, 9.6; RFC
1122, 4.2.2.13). The last byte is held back for a moment, so that a proxy that breaks off while it passes the answer on
is noticed before the answer is complete.
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
from mercury.http.server import Channel, HttpRequest, Site
from mercury.net.direct_write import raw_tcp, unsent_bytes

HELD_BACK: Final = 0.02  # seconds

#: What to do when an answer has been received.
OnReceived = Callable[[], Coroutine[Deferred[Any], Any, None]]

_log = Logger()


class ReceiptChannel(Channel):
    """A connection that notices which answers were received. `unconfirmed`: what to do for those that were not yet, in
    order, each with its request's log context."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unconfirmed: list[tuple[LogContext | None, OnReceived]] = []
        self._storing: list[Deferred[None]] = []
        self._raw: Any = None
        self._closed: Callable[[Failure], None]
        self._between = False  # two requests: an answer is written, and nothing of the next request has come
        self._ending = False
        self._ended_by_peer = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self._raw = raw_tcp(self.transport)
        if self._raw is not None:  # called while the socket can still be asked
            self._closed, self._raw.readConnectionLost = self._raw.readConnectionLost, self._peer_closes

    def dataReceived(self, data: bytes) -> None:
        if self._between:
            self._between = False
            if self._all_taken():
                self._confirm()
        super().dataReceived(data)

    def requestDone(self, request: Any) -> None:
        sent_before = any(self._dataBuffer)  # the next request, without waiting for the answer to this one
        self._between = bool(self.persistent) and not sent_before
        super().requestDone(request)

    def loseConnection(self) -> None:
        """After the last answer, let the client close first: closing here would show nothing. It has as long for that
        as for taking the answer."""
        if not self.unconfirmed or self._raw is None or self._ending:
            super().loseConnection()
            return
        self._ending = True
        self._raw.unregisterProducer()
        self._raw.loseWriteConnection()
        self.setTimeout(self.patience)  # type: ignore[no-untyped-call]

    def _all_taken(self) -> bool:
        """Whether the client's side has all that was written; our own closing counts as one byte."""
        return self._raw is None or unsent_bytes(self._raw) <= self._ending

    def _peer_closes(self, reason: Failure) -> None:
        self._ended_by_peer = self._all_taken()
        self._closed(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        # With TLS the socket cannot be asked, but closing is a message of its own (RFC 8446, 6.1).
        by_peer = self._ended_by_peer if self._raw is not None else not self.transport.disconnecting
        if by_peer and reason.check(ConnectionDone):
            self._confirm()
        self.unconfirmed.clear()

    def _confirm(self) -> None:
        received, self.unconfirmed = self.unconfirmed, []
        for log_context, on_received in received:
            storing = start_in_context(log_context, on_received())
            storing.addErrback(partial(in_context, log_context, _log.failure, "recording a delivery failed"))
            self._storing.append(storing)

    async def confirmed(self) -> None:
        """Wait until what was received is stored."""
        while self._storing:
            await self._storing.pop()


class ReceiptRequest(HttpRequest):
    """A request that can be told when its answer was received."""

    channel: ReceiptChannel

    async def hold_back(self, body: bytes, on_received: OnReceived, clock: Any) -> bytes:
        """Write an answer except for its last byte, which is returned. `on_received` is called when all has arrived."""
        self.write(body[:-1])  # type: ignore[no-untyped-call]
        await deferLater(clock, HELD_BACK)
        if not self._disconnected:
            self.channel.unconfirmed.append((LOG_CONTEXT.get(), on_received))
        return body[-1:]


class ReceiptSite(Site):
    """Serves a resource with ReceiptChannels and ReceiptRequests."""

    protocol = ReceiptChannel
    requests = ReceiptRequest
