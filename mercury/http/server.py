"""HTTP by Twisted Web, bounded and in JSON: what REST and goTalk need of it beside the calls themselves.

The limits of a request's head and body are enforced while it comes in; a body that is too long is refused before it is
read. A request must arrive, and its answer must be taken, in time. When a client sends requests without waiting for
answers, they are handled in small pieces, between which other clients have their turn, and only when it has taken the
answers so far.

All errors have one shape, {"status":"error","error":…,"code":…}. Each request has an id, which the caller gets back and
may choose (X-Request-Id), and which its log lines carry. URLs are never logged.
"""

from __future__ import annotations

import re
import secrets
from functools import cached_property
from io import BytesIO
from math import ceil
from typing import Any, Final

import msgspec
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource

from mercury.core.parts import Chat
from mercury.domain.log_context import in_context
from mercury.errors import CODES, MercuryError
from mercury.http.results import Error, NotReadyError

REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,40}")  # ids that callers give to requests; tokens are longer
LINGER_SECONDS: Final = 2.0  # for a client to read why it was refused, while it still sends; or to end TLS
SLOWEST: Final = 16_384  # bytes of an answer that a client takes in a second, beyond the time that a request may take
PIECE: Final = (
    4096  # bytes of a body that are taken in at a time: in chunks of one byte they cost as much as ten requests
)

_log = Logger()


def error_status(error: MercuryError) -> int:
    """The HTTP status of an error."""
    return CODES[error.code][0]


def error_body(error: MercuryError) -> bytes:
    """The JSON for an error."""
    parts = error.parts if isinstance(error, NotReadyError) else None
    return msgspec.json.encode(Error(error=error.reason, code=error.code, retry_after=error.retry_after, parts=parts))


def error_headers(error: MercuryError) -> dict[str, str]:
    """The headers that go with an error (RFC 9110: Retry-After, 10.2.3; WWW-Authenticate, 11.6.1)."""
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, ceil(error.retry_after)))}
    return headers | ({"WWW-Authenticate": "Bearer"} if error.code == "unauthorized" else {})


class Channel(HTTPChannel):
    """One HTTP/1.1 connection. A request that breaks a limit is answered by refuse() and never becomes one."""

    site: Site
    transport: Any
    refused = False
    patience = LINGER_SECONDS  # for the client to take what was written, when there is nothing more to come
    _answered = False  # a request, at least
    _leaving = False
    _turn: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self.timeOut = self.site.limits.request_seconds  # type: ignore[assignment]
        super().connectionMade()  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:
        if not self.refused:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def rawDataReceived(self, data: bytes) -> None:
        super().rawDataReceived(data[:PIECE])
        if len(data) > PIECE and not self.refused:
            self._buffer: bytes = self._buffer + data[PIECE:]  # LineReceiver's
            if not self._handlingRequest:
                self._wait_a_turn()

    def requestDone(self, request: Any) -> None:
        """If the client has sent more already, handle it later: else answers would pile up, and other clients wait."""
        self._answered = True
        seconds = self.site.limits.request_seconds
        self._savedTimeOut = self.patience = seconds + request.sentLength / SLOWEST
        more = bool(self._buffer) or any(self._dataBuffer)
        self.paused = bool(self.persistent) and (more or self._waitingForTransport)
        super().requestDone(request)  # type: ignore[no-untyped-call]
        if self.paused:
            self._wait_a_turn()

    def resumeProducing(self) -> None:
        super().resumeProducing()  # type: ignore[no-untyped-call]
        if self.paused:
            self._wait_a_turn()

    def _wait_a_turn(self) -> None:
        """Read no more until the reactor's next turn."""
        self.paused = True
        self._networkProducer.pauseProducing()
        if self._turn is None:
            self._turn = self.callLater(0, self._go_on)  # type: ignore[no-untyped-call]

    def _go_on(self) -> None:
        self._turn = None
        if not self._waitingForTransport and not self._leaving:  # else resumeProducing() will come
            self.paused = False
            self._networkProducer.resumeProducing()
            HTTPChannel.dataReceived(self, b"")

    def resetTimeout(self) -> None:
        """The whole request has to be there in time: a byte now and then does not extend it."""

    def headerReceived(self, line: bytes) -> bool:
        try:
            return bool(super().headerReceived(line))  # type: ignore[no-untyped-call]
        except ValueError:  # a length of more digits than int() takes
            self._respondToBadRequestAndDisconnect()
            return False

    def timeoutConnection(self) -> None:
        if self._leaving:
            self.transport.abortConnection()
            return
        is_idle = self._answered and not (self.requests or self._buffer or self._waitingForTransport)
        if not (is_idle or self.refused):
            self.site.counts.refused["request-seconds"] += 1
        self.patience = LINGER_SECONDS
        self.loseConnection()

    def loseConnection(self) -> None:
        """Hang up when the client has taken all that was written, or the time for that is over."""
        self._leaving = True
        self.setTimeout(self.patience)  # type: ignore[no-untyped-call]
        super().loseConnection()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Whether another request may follow. Not when Mercury stops: the next one is for the next process."""
        if self.site.leaving():
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return bool(super().checkPersistence(request, version))  # type: ignore[no-untyped-call]

    def allHeadersReceived(self) -> None:
        if self.length is not None and self.length > self.site.body_bytes:
            self.refuse_body()
        else:
            super().allHeadersReceived()  # type: ignore[no-untyped-call]

    def allContentReceived(self) -> None:
        if not self.refused:
            super().allContentReceived()  # type: ignore[no-untyped-call]

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        limit = self.totalHeadersSize
        self.refuse(MercuryError("bad_request", f"this is not HTTP/1.1, or its headers are longer than {limit} bytes"))

    def refuse_body(self) -> None:
        """Refuse the request that is coming in, because its body is too long."""
        reason = f"the body is longer than {self.site.body_bytes} bytes ({self.site.body_flags})"
        self.refuse(MercuryError("too_large", reason, limit="body-bytes"))

    def refuse(self, error: MercuryError) -> None:
        """Answer before the request is there, drop the rest of it, and hang up.

        The connection stays open for LINGER_SECONDS: closing while the client sends would reset it, and the answer
        might never be read (RFC 9112, 9.6).
        """
        if self.refused:
            return
        self.refused = True
        self.site.counts.error(error)
        body = error_body(error)
        number = self.requests[-1].number if self.requests else secrets.token_hex(8)
        _log.debug("refused a request: {code}", code=error.code, request=number)
        lines = (
            f"HTTP/1.1 {error_status(error)} {error.code}",
            f"X-Request-Id: {number}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.clearLineBuffer()  # type: ignore[no-untyped-call]
        self.setTimeout(LINGER_SECONDS)  # type: ignore[no-untyped-call]


class HttpRequest(server.Request):
    """A request whose body is never longer than the site allows, however it is sent. `call`: which call it is, for the
    log; `began`: when the whole request was there."""

    channel: Channel
    site: Site
    content: Any
    call = "no call"
    began: float | None = None

    @cached_property
    def number(self) -> str:
        """The request's id, for the log and the caller: the one from X-Request-Id, else a new one."""
        given = self.requestHeaders.getRawHeaders(b"x-request-id", [b""])[-1]
        return given.decode() if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

    def process(self) -> None:
        self.began = self.channel.site.clock.seconds()
        self.responseHeaders.setRawHeaders("X-Request-Id", [self.number])
        in_context(("request", self.number), super().process)

    def connectionLost(self, reason: Failure) -> None:
        self.note("the client closed the connection")
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def note(self, outcome: str) -> None:
        """Log what came of it, unless it never was whole."""
        if self.began is not None:
            _log.debug(
                "{call}: {outcome}",
                call=self.call,
                outcome=outcome,
                bytes=self.sentLength,
                seconds=round(self.channel.site.clock.seconds() - self.began, 6),
                peer=getattr(self.getClientAddress(), "host", "a UNIX socket"),  # type: ignore[no-untyped-call]
                request=self.number,
            )

    def handleContentChunk(self, data: bytes) -> None:
        if self.channel.refused:
            return
        if self.content.tell() + len(data) > self.channel.site.body_bytes:  # its length was not announced
            self.channel.refuse_body()
        else:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]

    def getRequestHostname(self) -> bytes:
        """Not what the client says: nothing here depends on it, and Werkzeug fails on invalid names."""
        return b"mercury"

    def respond(self, status: int, body: bytes, headers: dict[str, str]) -> bytes:
        """Set the status and the headers, and return the body."""
        self.setResponseCode(status)
        always = {
            "Server": "Mercury",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",  # tokens and messages are nobody else's
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in (always | headers).items():
            self.responseHeaders.setRawHeaders(name, [value])
        return body

    def respond_error(
        self, error: MercuryError, status: int | None = None, headers: dict[str, str] | None = None
    ) -> bytes:
        """respond() with an error. `status`: in place of the error's own; `headers`: further ones."""
        self.site.counts.error(error)
        return self.respond(status or error_status(error), error_body(error), error_headers(error) | (headers or {}))


class Site(server.Site):
    """Serves a resource with Channels and HttpRequests. `body_flags`: the flags that limit their bodies."""

    protocol = Channel  # type: ignore[assignment]
    requests = HttpRequest
    body_flags = "--limits.body-bytes"

    def __init__(self, resource: IResource, chat: Chat) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            resource, self.requests, reactor=chat.clock, parsePOSTFormSubmission=False
        )
        self.limits = chat.limits
        self.clock = chat.clock
        self.counts = chat.counters
        self._journal = chat.journal

    @property
    def body_bytes(self) -> int:
        """The longest body of a request."""
        return self.limits.body_bytes

    def leaving(self) -> bool:
        """Whether Mercury is about to stop."""
        return not self._journal.is_open

    def getContentFile(self, length: int | None) -> BytesIO:
        """Where a body is kept: in memory, bounded as it is."""
        return BytesIO()

    def startFactory(self) -> None:
        """No access log, hence no clock for one: URLs hold tokens."""

    def stopFactory(self) -> None:
        pass

    def log(self, request: Any) -> None:
        request.note(str(request.code))

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/1.1 only: it is Channel that enforces the limits."""
        return [b"http/1.1"]
