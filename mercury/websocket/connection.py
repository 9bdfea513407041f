"""WebSocket by Autobahn: the factory, its options and the protocol class, apart from what is done with a message.

Autobahn does the handshake, parses and checks what comes in, and closes. What goes out is framed by encoders
(framing.py) and written through (mercury/net/direct_write.py). A WebSocketHandler decides who may connect
and hands over a FrameReceiver: admission.py has chat's; the conformance suite puts an echo behind the same factory.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.domain.counters import Counters
from mercury.domain.log_context import LOG_CONTEXT, LogContext, in_context, start_in_context
from mercury.errors import CODES, MercuryError
from mercury.interfaces import IConnection
from mercury.net.direct_write import DirectWriter, raw_tcp
from mercury.net.tls import is_of_tls
from mercury.settings.limits import Limits
from mercury.settings.schema import Ws
from mercury.settings.types import origins
from mercury.websocket.fast.frames_in import short_road
from mercury.websocket.fast.handshake import Opening, prime, shared
from mercury.websocket.framing import PING, frame

HEADER_BYTES = 16384  # of an opening handshake
RETRY_SECONDS = 1  # until who is refused with 503 should come back
TOO_BIG = 1009  # with which Autobahn ends a connection whose frame is too long (RFC 6455, 7.4.1)
NO_GOODBYE = 1006  # the code of a connection that ended without one (RFC 6455, 7.4.1)
FRAMES = 256  # of one connection that are taken in one turn of the reactor: then the others have theirs
CLOSE_SECONDS = 0.8  # for the peer's half of the closing handshake: who is revoked is gone within a second
LINGER_SECONDS = 2.0  # for the peer to take what was written before, and by TLS to say goodbye

_log = Logger()
_numbers = itertools.count(1)


class FrameReceiver(Protocol):
    """What takes the frames of an open connection; chat's is a Session. None of its methods may raise."""

    def on_frame(self, payload: bytes, binary: bool) -> None:
        """A whole message came in; a text's payload is valid UTF-8."""

    def pong(self, payload: bytes) -> None:
        """The peer answered a ping."""

    def slow(self) -> None:
        """The socket takes no more of what is written."""

    def drained(self) -> None:
        """The socket has taken all that waited."""

    def closed(self, code: int) -> None:
        """The connection is gone; `code` says how it ended (WebSocketConnection.ended_with)."""


class WebSocketHandler(Protocol):
    """Decides who may connect, and who takes the frames then. There is one for each connection, until it is open."""

    async def admit(self, request: ConnectionRequest) -> str | None:
        """Let the peer in with this subprotocol (or none), or raise MercuryError."""

    def opened(self, deflate: bool) -> FrameReceiver:
        """The handshake is done: who takes the frames. `deflate`: the peer agreed on per-message deflate."""


class _Quiet:
    """Autobahn's log line a frame costs half of its time, and its lines about handshakes quote tokens: none are kept.

    What matters to an operator is logged by the handlers and the core.
    """

    def _drop(self, *args: object, **kwargs: object) -> None:
        pass

    trace = debug = info = warn = _drop
    error = critical = failure = staticmethod(_log.error)


@implementer(IConnection, IPushProducer)
class WebSocketConnection(Opening):
    """Mercury's protocol class: one WebSocket connection (RFC 6455)."""

    log = _Quiet()
    transport: Any
    handler: WebSocketHandler | None = None  # until it is open
    receiver: FrameReceiver | None = None  # from then on
    _admitting = False
    _gone = False
    _closing: IDelayedCall | None = None
    _held = False
    _fragments = 0
    _rest = False  # frames have come whose turn has not
    _turn: IDelayedCall | None = None
    _resumed = 0
    _ended: int | None = None  # the code with which we ended it: HTTP's, or WebSocket's
    direct: DirectWriter | None = None  # _writer while nothing waits before what is sent by it
    _writer: DirectWriter | None = None  # None with TLS
    bytes_in = 0
    bytes_out = 0

    # From Twisted

    def connectionMade(self) -> None:
        self.number = next(_numbers)
        self._log_context: LogContext = ("session", self.number)
        self.factory.counts.open(self)
        super().connectionMade()
        raw = raw_tcp(self.transport)
        self._writer = None if raw is None else DirectWriter(raw)
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        self.bytes_in += len(data)
        token = LOG_CONTEXT.set(self._log_context)
        try:
            self._received(data)
        except Exception:
            _log.failure("what {peer} sent could not be handled", peer=self.peer)
            self.abort()
        finally:
            LOG_CONTEXT.reset(token)

    def _received(self, data: bytes) -> None:
        if self.state == self.STATE_OPEN:
            receiver = self.receiver
            if receiver is not None and not (self.data or self.inside_message or self.current_frame is not None):
                longest = self.factory.limits.frame_bytes
                taken, are_many = short_road(data, longest, FRAMES, self._is_open, receiver.on_frame, receiver.pong)
                if taken == len(data):
                    return
                data = data[taken:]
                if are_many:
                    self._wait_a_turn()
        elif self.state == self.STATE_CONNECTING and len(self.data) + len(data) > HEADER_BYTES:
            self.failHandshake("the request is too long", 431)
            return
        if data or self.current_frame is not None:
            self.data += data
            self.consumeData()

    def _is_open(self) -> bool:
        return bool(self.state == self.STATE_OPEN)

    def consumeData(self) -> None:
        if self._admitting or self._rest:  # what comes before the handshake is answered waits for it
            return
        if self.state not in (self.STATE_OPEN, self.STATE_CLOSING):
            super().consumeData()
            return
        for _ in range(2 * FRAMES):  # a frame's head and its payload are two steps
            if not self.processData() or self.state == self.STATE_CLOSED:
                return
        self._wait_a_turn()

    def _wait_a_turn(self) -> None:
        """Leave the rest of what came in, and read no more, until the reactor comes round again."""
        self._rest = True
        self.transport.pauseProducing()
        if self._turn is None:
            self._turn = self.factory.reactor.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._turn = None
        if not self._held:  # else release() will come
            self._rest = False
            data, self.data = self.data, b""
            self.bytes_in -= len(data)  # they were counted when they came
            self.dataReceived(data)
            self._read_on()

    def _read_on(self) -> None:
        if not (self._rest or self._held or self._gone):
            self.transport.resumeProducing()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if is_of_tls(reason):  # Autobahn would log an error of ours
            _log.debug("{peer} does not speak TLS as it should", peer=self.peer, session=self.number)
            reason = Failure(ConnectionLost())
        super().connectionLost(reason)
        self._lost()

    def pauseProducing(self) -> None:
        if self.receiver is not None:
            self.receiver.slow()

    def resumeProducing(self) -> None:
        self._resumed += 1
        if self.receiver is not None:
            self.receiver.drained()

    def stopProducing(self) -> None:
        """The transport is going away; connectionLost says so too."""

    # From Autobahn

    def onConnect(self, request: ConnectionRequest) -> Any:
        if not self.factory.welcomes(request.origin):
            raise ConnectionDeny(403, "scripts of that origin may not connect (--server.ws.origins)")
        self._admitting = True
        self.handler = handler = self.factory.make_handler(self)
        return start_in_context(self._log_context, handler.admit(request)).addErrback(self._deny)

    def _deny(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, MercuryError):
            _log.failure("admitting {peer} failed", failure, peer=self.peer, session=self.number)
            error = MercuryError("internal", "Mercury failed to handle this handshake; its log says why")
        self.factory.counts.error(error)
        raise ConnectionDeny(CODES[error.code][0], error.reason)

    def succeedHandshake(self, res: Any) -> None:
        self._admitting = False
        if not self._gone:
            in_context(self._log_context, super().succeedHandshake, res)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """Answer with HTTP and a JSON body, and hang up. Autobahn's own logs the reason, which may quote a token."""
        self._admitting = False
        _log.debug("the handshake of {peer} was refused with {code}", peer=self.peer, code=code, session=self.number)
        self._ended = code
        self.wasNotCleanReason = f"the handshake was refused with {code}"
        self.sendHttpErrorResponse(code, reason, responseHeaders)
        self.dropConnection(abort=False)

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        named = next((name for name, (status, _) in CODES.items() if status == code), "bad_request")
        body = json.dumps({"status": "error", "error": reason, "code": named}).encode()
        lines = [f"HTTP/1.1 {code} {'Upgrade Required' if code == 426 else named}", "Content-Type: application/json"]
        lines += [f"{key}: {value}" for key, value in responseHeaders or ()]
        lines += ["Upgrade: websocket"] if code == 426 else []
        lines += [f"Retry-After: {RETRY_SECONDS}"] if code == 503 else []  # RFC 9110, 10.2.3
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        self.sendData("\r\n".join(lines).encode("latin-1", "replace") + body)

    def onOpenHandshakeTimeout(self) -> None:
        if self.state == self.STATE_CONNECTING:
            self.factory.counts.refused["handshake-seconds"] += 1
        super().onOpenHandshakeTimeout()

    def onOpen(self) -> None:
        if self.handler is not None:
            self.receiver, self.handler = self.handler.opened(self._perMessageCompress is not None), None

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        if not length:  # a frame without a byte takes memory too, and there may be any number of them in a message
            self.message_data_total_length += 1

    def onMessageFrameEnd(self) -> None:
        super().onMessageFrameEnd()
        self._fragments += 1
        if self._fragments % FRAMES == 0:  # each by itself takes forty bytes more than it is long
            self.message_data[-FRAMES:] = [b"".join(self.message_data[-FRAMES:])]

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.receiver is not None:
            self.receiver.on_frame(payload, isBinary)

    def onPong(self, payload: bytes) -> None:
        if self.receiver is not None:
            self.receiver.pong(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._lost()

    def sendCloseFrame(self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False) -> None:
        """Say goodbye; if the peer does not answer, hang up. Autobahn's own timer may do that before the frame is sent:
        it counts in whole seconds, rounded down."""
        if self.state == self.STATE_OPEN and not isReply:
            self._ended = code
            if code == TOO_BIG:
                self.factory.counts.refused["frame-bytes"] += 1
            self._closing = self.factory.reactor.callLater(CLOSE_SECONDS, self.abort)
        super().sendCloseFrame(code, reasonUtf8, isReply)

    def _closeConnection(self, abort: bool = False) -> None:
        super()._closeConnection(abort)
        if not (abort or self._gone or self._closing):
            self._closing = self.factory.reactor.callLater(LINGER_SECONDS, self.abort)

    def _lost(self) -> None:
        for timer in (self._closing, self._turn):
            if timer is not None and timer.active():
                timer.cancel()
        if not self._gone:
            self._gone = True
            self.direct = self._writer = None  # they hold on to the socket
            self.factory.counts.close(self, self.ended_with)
            receiver, self.receiver, self.handler = self.receiver, None, None  # they know this connection: a circle
            if receiver is not None:
                in_context(self._log_context, receiver.closed, self.ended_with)

    # IConnection, for the session

    def write(self, data: bytes) -> None:
        """Send what the socket takes at once, and leave the rest to Twisted."""
        if self.state != self.STATE_OPEN or not data:
            return
        size = len(data)
        self.bytes_out += size
        writer = self._writer
        sent = 0 if writer is None else writer.try_send(data)
        if sent == size:
            self.direct = writer
        else:  # until the socket has taken it, nothing may go past it
            self.direct = None
            self.transport.write(data[sent:])

    def sendData(self, data: bytes, *args: Any, **kwargs: Any) -> None:
        """How Autobahn writes handshakes, pongs and goodbyes. What follows waits for it."""
        self.direct = None
        super().sendData(data, *args, **kwargs)

    def ping(self, payload: bytes) -> None:
        self.write(frame(PING, payload))

    def close(self, code: int, reason: str) -> None:
        if self.state == self.STATE_OPEN:  # sendClose() refuses the codes that IANA has given to servers, such as 1012
            self.sendCloseFrame(code, reason.encode()[:123])

    def abort(self) -> None:
        self.direct = None  # a client that comes back must not have later messages than those it missed
        self.dropConnection(abort=True)
        self.transport.abortConnection()  # it may be dropped and still not be gone

    def pause_reading(self) -> None:
        self._held = True
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        self._held = False
        if self._rest and not self._gone:
            self._wait_a_turn()
        self._read_on()

    @property
    def ended_with(self) -> int:
        """The code with which it ended: HTTP's of a refused handshake, else the close code of who closed first."""
        return self._ended or self.remoteCloseCode or NO_GOODBYE

    def bytes_taken(self) -> int:
        return self._resumed if self._writer is None else self.bytes_out - self._writer.unsent_bytes()


class WebSocketFactory(WebSocketServerFactory):
    """Makes WebSocketConnections with all of Autobahn's options set: its defaults are not made for strangers.

    `limits` and `ws` may change at any time. The limits hold for open connections as well; only a deflated message is
    held to what its connection began with. `counts`: where they are counted, if anybody wants to know.
    """

    protocol = WebSocketConnection

    def __init__(
        self,
        make_handler: Callable[[WebSocketConnection], WebSocketHandler],
        *,
        reactor: Any,
        limits: Limits,
        ws: Ws,
        counts: Counters | None = None,
    ) -> None:
        super().__init__(reactor=reactor)  # type: ignore[no-untyped-call]
        self.make_handler = make_handler
        self.counts = counts or Counters()
        self.server = None  # no version for strangers
        self.limits = limits
        self._ws = ws
        self.setProtocolOptions(  # type: ignore[no-untyped-call]
            versions=[13],
            webStatus=False,
            utf8validateIncoming=True,
            requireMaskedClientFrames=True,
            failByDrop=False,
            echoCloseCodeReason=False,
            closeHandshakeTimeout=0,
            tcpNoDelay=True,
            perMessageCompressionAccept=self._accept_deflate,
            autoPingInterval=0,
            serveFlashSocketPolicy=False,
            allowedOrigins=["*"],  # welcomes() looks: Autobahn would want the port written out, even 443
            allowNullOrigin=True,
            maxConnections=0,
            trustXForwardedFor=0,
        )
        self.protocol = self._configured()

    def _configured(self) -> type[WebSocketConnection]:
        """The protocol class with the options as its own: Autobahn would copy and format them for each connection.
        Those that may change are looked up when Autobahn asks for them."""
        options: dict[str, Any] = {name: getattr(self, name) for name in WebSocketConnection.CONFIG_ATTRS}
        options = {name: staticmethod(value) if callable(value) else value for name, value in options.items()}
        limits = self.limits
        options["maxFramePayloadSize"] = options["maxMessagePayloadSize"] = property(lambda _: limits.frame_bytes)
        options["openHandshakeTimeout"] = property(lambda _: _in_whole_seconds(limits.handshake_seconds))
        return prime(
            type("WebSocketConnection", (WebSocketConnection,), {**shared(self), **options, "CONFIG_ATTRS": ()})
        )

    def welcomes(self, origin: str | None) -> bool:
        """Whether a script from this origin (RFC 6454, 6.1) may connect. Programs name none."""
        return not origin or _pattern(self._ws.origins).fullmatch(origin.lower()) is not None

    def _accept_deflate(self, offers: Sequence[Any]) -> Any:
        """If messages are to be compressed, take the first deflate offer; ask the peer for small state: no context kept
        between its messages."""
        for offer in offers:
            if self._ws.compression and isinstance(offer, PerMessageDeflateOffer):
                return PerMessageDeflateOfferAccept(
                    offer,
                    request_no_context_takeover=offer.accept_no_context_takeover,
                    no_context_takeover=True,
                    window_bits=offer.request_max_window_bits or None,
                    max_message_size=self.limits.frame_bytes or None,
                )
        return None


@lru_cache(maxsize=16)
def _pattern(allowed: str) -> re.Pattern[str]:
    """What fits the origins of a list, in lower case."""
    parts = [re.escape(origin.lower()).replace(r"\*", "[^/]*") for origin in origins(allowed)]
    return re.compile(".*" if "*" in origins(allowed) else "|".join(parts), re.DOTALL)


def _in_whole_seconds(limit: float) -> float:
    """Autobahn rounds a timeout down to them; 0 is none."""
    return limit and limit + 1
