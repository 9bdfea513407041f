"""One WebSocket connection of the client, from the opening handshake to its end.

It encodes commands, decodes events, and drops a server that is silent for too long. When it is over, `ended` says why,
as a MercuryError. What to do then is up to connection.Client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITCPTransport
from twisted.logger import Logger

from mercury.client.rest import ServerAddress
from mercury.domain import close_codes
from mercury.domain.commands import Command, Ref
from mercury.domain.events import Bye, CaughtUp, Error, Hello, Joined, Left, Message, Presence, Read, Reset, Typing
from mercury.errors import Code, MercuryError

SUBPROTOCOL: Final = "mercury.v2.json"
FRAME_BYTES: Final = 16 * 1024 * 1024  # a page of history holds 1,000 texts at most
LOGIN_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 1.0
SILENCE: Final = 2.5  # times the heartbeat
BYE_SECONDS: Final = 300.0  # the longest time that a server may keep its clients away

_CODES: Final[dict[int, Code]] = {
    close_codes.BAD_CONNECT.code: "bad_request",
    close_codes.UNAUTHORIZED.code: "unauthorized",
    close_codes.KICKED.code: "forbidden",
}


class OkFrame(msgspec.Struct, tag="ok"):
    """Any "ok". Its other fields depend on the command, so the caller decodes the frame again."""

    ref: Ref = None


ServerFrame = (
    Message | Joined | Left | Hello | Typing | Presence | Read | Reset | CaughtUp | Bye | Error | OkFrame
)  # fmt: skip

_decoder = msgspec.json.Decoder(ServerFrame)
_encoder = msgspec.json.Encoder()
_log = Logger()


class ClientLink(WebSocketClientProtocol):
    """One connection: sends `first` when it is open, then calls `received` with every event and its frame.

    It is dropped when there is no hello within LOGIN_SECONDS, and later when nothing at all, not even a ping, comes for
    SILENCE times the heartbeat that the hello names.
    """

    transport: ITCPTransport

    def __init__(self, clock: IReactorTime, first: Command, received: Callable[[ServerFrame, bytes], None]) -> None:
        super().__init__()
        self.ended: Deferred[MercuryError] = Deferred()
        self._gone: Deferred[None] = Deferred()
        self._clock = clock
        self._first = first
        self._received = received
        self._why: MercuryError | None = None
        self._was_open = False
        self._logged_in = False
        self._timeout = 0.0  # seconds of silence that end it; 0 until the hello, and if the server has no heartbeat
        self._deadline: IDelayedCall | None = None

    def send(self, command: Command) -> None:
        """Send a command."""
        self.sendMessage(_encoder.encode(command))  # type: ignore[no-untyped-call]

    def drop(self, reason: str) -> None:
        """End it at once, for this reason."""
        self._end(MercuryError("unavailable", reason))
        self.transport.abortConnection()

    def close(self) -> Deferred[None]:
        """Close it; fires when the connection is gone, after CLOSE_SECONDS at most."""
        self._set_deadline(CLOSE_SECONDS, "closed")
        if self._was_open:
            self.sendClose(1000)
        else:
            self.transport.abortConnection()
        return self._gone

    def connectionMade(self) -> None:
        super().connectionMade()
        self._set_deadline(LOGIN_SECONDS, "the server did not say hello")

    def onOpen(self) -> None:
        self._was_open = True
        if self.websocket_protocol_in_use != SUBPROTOCOL:
            self.drop(f"the server does not speak {SUBPROTOCOL}")
            return
        self.transport.setTcpKeepAlive(True)
        self.send(self._first)

    def dataReceived(self, data: bytes) -> None:
        if self._deadline is not None and self._timeout:
            self._deadline.reset(self._timeout)
        super().dataReceived(data)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.ended.called:
            return
        try:
            event = _decoder.decode(payload)
        except msgspec.ValidationError as error:  # a kind of event that a later server has
            _log.debug("ignored an unknown frame: {error}", error=error)
            return
        except msgspec.DecodeError:
            self.drop("the server sent something that is not JSON")
            return
        if isinstance(event, Hello):
            self._logged_in = True
            self._timeout = SILENCE * event.heartbeat
            self._set_deadline(self._timeout, f"nothing was received for {self._timeout:.0f} s")
        elif isinstance(event, Bye):
            self._why = MercuryError("unavailable", "the server is restarting", min(event.retry_after, BYE_SECONDS))
        elif isinstance(event, Error) and not self._logged_in:
            self._why = MercuryError(event.code, event.reason, event.retry_after)
        self._received(event, payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._set_deadline(0, "")
        if code in _CODES:
            self._end(MercuryError(_CODES[code], reason or "the server closed the connection"))
        elif self._was_open:
            self._end(self._why or MercuryError("unavailable", (wasClean and reason) or "the connection was lost"))
        else:
            self._end(MercuryError("unavailable", f"no WebSocket at {self.factory.url}: {reason}"))
        if not self._gone.called:
            self._gone.callback(None)

    def _end(self, why: MercuryError) -> None:
        if not self.ended.called:
            self.ended.callback(why)

    def _set_deadline(self, seconds: float, reason: str) -> None:
        """Drop it for this reason unless the deadline is moved within these seconds; 0: no deadline."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = self._clock.callLater(seconds, self.drop, reason) if seconds else None


class ClientLinkFactory(WebSocketClientFactory):
    """Gives Autobahn the one ClientLink of a connection.

    Of Autobahn's own timers only one is on: the one that ends the TCP connection if the server does not after a close.
    """

    noisy = False

    def __init__(self, reactor: object, server: ServerAddress, link: ClientLink) -> None:
        super().__init__(
            f"{server.ws}/ws/connect", protocols=[SUBPROTOCOL], useragent="mercury-client", reactor=reactor
        )  # type: ignore[no-untyped-call]
        self.setProtocolOptions(  # type: ignore[no-untyped-call]
            maxFramePayloadSize=FRAME_BYTES,
            maxMessagePayloadSize=FRAME_BYTES,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
            tcpNoDelay=True,
        )
        self._only_link = link

    def buildProtocol(self, addr: IAddress | None) -> ClientLink:
        self._only_link.factory = self
        return self._only_link
