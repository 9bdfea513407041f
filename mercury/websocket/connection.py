"""One WebSocket connection (RFC 6455): what is received, what is written, and how it ends.

Autobahn parses and checks what comes in, answers pings, and does the closing handshake. handshake.py has what happens
until the connection is open, and reading.py how it is read in turns. What goes out is framed by encoders (framing.py).
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.domain.log_context import LOG_CONTEXT, in_context
from mercury.interfaces import IConnection
from mercury.net.direct_write import DirectWriter, raw_tcp
from mercury.net.tls import is_of_tls
from mercury.websocket.fast.frames_in import parse_small_frames
from mercury.websocket.framing import PING, frame
from mercury.websocket.reading import ReadingInTurns

HEADER_BYTES: Final = 16384  # of an opening handshake
TOO_BIG: Final = 1009  # with which Autobahn ends a connection whose frame is too long (RFC 6455, 7.4.1)
NO_GOODBYE: Final = 1006  # the code of a connection that ended without one (RFC 6455, 7.4.1)
CLOSE_SECONDS: Final = 0.8  # for the peer's half of the closing handshake: a revoked client is gone within a second
LINGER_SECONDS: Final = 2.0  # for the peer to take what was written before, and to end TLS

_log = Logger()
_numbers = itertools.count(1)


class _Quiet:
    """Autobahn's logger, silenced: a line a frame costs half of its time, and those about handshakes quote tokens.

    What matters to an operator is logged by the handlers and the core.
    """

    def _drop(self, *args: object, **kwargs: object) -> None:
        pass

    trace = debug = info = warn = _drop
    error = critical = failure = staticmethod(_log.error)


@implementer(IConnection, IPushProducer)
class WebSocketConnection(ReadingInTurns):
    """Mercury's protocol class."""

    log = _Quiet()
    transport: Any
    direct: DirectWriter | None = None  # _writer, while nothing waits before what it sends
    _writer: DirectWriter | None = None  # None with TLS
    bytes_out = 0
    _resumed = 0
    _closing: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self.number = next(_numbers)
        self._log_context = ("session", self.number)
        self.factory.counts.open(self)
        super().connectionMade()
        raw = raw_tcp(self.transport)
        self._writer = None if raw is None else DirectWriter(raw)
        self.transport.registerProducer(self, True)

    # What comes in

    def dataReceived(self, data: bytes) -> None:
        self.bytes_in += len(data)
        token = LOG_CONTEXT.set(self._log_context)
        try:
            self._received(data)
        except Exception:
            _log.failure("handling what {peer} sent failed", peer=self.peer)
            self.abort()
        finally:
            LOG_CONTEXT.reset(token)

    def _received(self, data: bytes) -> None:
        if self.state == self.STATE_OPEN:
            receiver = self.receiver
            # The fast way, for what is at a frame's beginning. All that it leaves goes the plain way, below.
            if receiver is not None and not (self.data or self.inside_message or self.current_frame is not None):
                longest, most = self.factory.limits.frame_bytes, self.frames_per_turn
                taken, are_most = parse_small_frames(
                    data, longest, most, self._is_open, receiver.on_frame, receiver.pong
                )
                if taken == len(data):
                    return
                data = data[taken:]
                if are_most:
                    self._wait_a_turn()
        elif self.state == self.STATE_CONNECTING and len(self.data) + len(data) > HEADER_BYTES:
            self.failHandshake("the request is too long", 431)
            return
        if data or self.current_frame is not None:
            self.data += data
            self.consumeData()

    def _is_open(self) -> bool:
        return bool(self.state == self.STATE_OPEN)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.receiver is not None:
            self.receiver.on_frame(payload, isBinary)

    def onPong(self, payload: bytes) -> None:
        if self.receiver is not None:
            self.receiver.pong(payload)

    # What goes out

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

    def bytes_taken(self) -> int:
        return self._resumed if self._writer is None else self.bytes_out - self._writer.unsent_bytes()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        if self.receiver is not None:
            self.receiver.slow()

    def resumeProducing(self) -> None:
        """The transport has written all."""
        self._resumed += 1
        if self.receiver is not None:
            self.receiver.drained()

    def stopProducing(self) -> None:
        """The transport is going away; connectionLost says so too."""

    # The end

    def close(self, code: int, reason: str) -> None:
        if self.state == self.STATE_OPEN:  # sendClose() refuses the codes that IANA has given to servers, such as 1012
            self.sendCloseFrame(code, reason.encode()[:123])

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

    def abort(self) -> None:
        self.direct = None  # a client that comes back must not have later messages than those it missed
        self.dropConnection(abort=True)
        self.transport.abortConnection()  # it may be dropped and still not be gone

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if is_of_tls(reason):  # Autobahn would log an error of ours
            _log.debug("{peer} violated TLS", peer=self.peer, session=self.number)
            reason = Failure(ConnectionLost())
        super().connectionLost(reason)
        self._lost()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._lost()

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

    @property
    def ended_with(self) -> int:
        """The code with which it ended: HTTP's of a refused handshake, else the close code of who closed first."""
        return self._ended or self.remoteCloseCode or NO_GOODBYE
