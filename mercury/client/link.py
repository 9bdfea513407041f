"""One WebSocket connection of a client, from the opening handshake to its end: frames in, frames out, silence noticed.

It decodes what comes, and when it is over it says why, as a MercuryError in `ended`. What to do then is up to
connection.Client.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITCPTransport
from twisted.logger import Logger

from mercury.client.rest import Server
from mercury.domain import close_codes
from mercury.domain.commands import Command, Ref
from mercury.domain.events import Bye, CaughtUp, Error, Hello, Joined, Left, Message, Presence, Read, Reset, Typing
from mercury.errors import Code, MercuryError

SUBPROTOCOL = "mercury.v2.json"
FRAME_BYTES = 16 * 1024 * 1024  # a page of history holds 1,000 texts at most
LOGIN_SECONDS = 10.0
CLOSE_SECONDS = 1.0
SILENCE = 2.5  # times the heartbeat
BYE_SECONDS = 300.0  # a server may keep its clients away for so long at most

_CODES: dict[int, Code] = {
    close_codes.BAD_CONNECT.code: "bad_request",
    close_codes.UNAUTHORIZED.code: "unauthorized",
    close_codes.KICKED.code: "forbidden",
}


class Answer(msgspec.Struct, tag="ok"):
    """Any "ok". What else it holds depends on what was asked, so whoever asked decodes the frame again."""

    ref: Ref = None


Heard = (
    Message | Joined | Left | Hello | Typing | Presence | Read | Reset | CaughtUp | Bye | Error | Answer
)  # fmt: skip

_decoder = msgspec.json.Decoder(Heard)
_encoder = msgspec.json.Encoder()


class Link(WebSocketClientProtocol):
    """One connection: sends `first` when it is open, then hands every event, with its frame, to `heard`.

    It is dropped when there is no hello within LOGIN_SECONDS, and later when nothing at all, not even a ping, came for
    SILENCE times the heartbeat that the hello told.
    """

    logger = Logger()
    transport: ITCPTransport

    def __init__(self, clock: IReactorTime, first: Command, heard: Callable[[Heard, bytes], None]) -> None:
        super().__init__()
        self.ended: Deferred[MercuryError] = Deferred()
        self._gone: Deferred[None] = Deferred()
        self._clock = clock
        self._first = first
        self._heard = heard
        self._why: MercuryError | None = None
        self._was_open = False
        self._is_in = False
        self._patience = 0.0  # seconds of silence that end it; 0 until the hello, and where the server has no heartbeat
        self._deadline: IDelayedCall | None = None

    def say(self, command: Command) -> None:
        """Send a command."""
        self.sendMessage(_encoder.encode(command))  # type: ignore[no-untyped-call]

    def drop(self, reason: str) -> None:
        """End it at once, for this reason."""
        self._over(MercuryError("unavailable", reason))
        self.transport.abortConnection()

    def close(self) -> Deferred[None]:
        """Say goodbye; done when the connection is gone, which takes CLOSE_SECONDS at most."""
        self._await(CLOSE_SECONDS, "closed")
        if self._was_open:
            self.sendClose(1000)
        else:
            self.transport.abortConnection()
        return self._gone

    def connectionMade(self) -> None:
        super().connectionMade()
        self._await(LOGIN_SECONDS, "the server did not say hello")

    def onOpen(self) -> None:
        self._was_open = True
        if self.websocket_protocol_in_use != SUBPROTOCOL:
            self.drop(f"the server does not speak {SUBPROTOCOL}")
            return
        self.transport.setTcpKeepAlive(True)
        self.say(self._first)

    def dataReceived(self, data: bytes) -> None:
        if self._deadline is not None and self._patience:
            self._deadline.reset(self._patience)
        super().dataReceived(data)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.ended.called:
            return
        try:
            event = _decoder.decode(payload)
        except msgspec.ValidationError as error:  # a kind of event that a later server has
            self.logger.debug("left out a frame that is unknown here: {error}", error=error)
            return
        except msgspec.DecodeError:
            self.drop("the server sent what is not JSON")
            return
        if isinstance(event, Hello):
            self._is_in = True
            self._patience = SILENCE * event.heartbeat
            self._await(self._patience, f"nothing was heard for {self._patience:.0f} s")
        elif isinstance(event, Bye):
            self._why = MercuryError("unavailable", "the server said goodbye", min(event.retry_after, BYE_SECONDS))
        elif isinstance(event, Error) and not self._is_in:
            self._why = MercuryError(event.code, event.reason, event.retry_after)
        self._heard(event, payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._await(0, "")
        if code in _CODES:
            self._over(MercuryError(_CODES[code], reason or "the server closed the connection"))
        elif self._was_open:
            self._over(self._why or MercuryError("unavailable", (wasClean and reason) or "the connection was lost"))
        else:
            self._over(MercuryError("unavailable", f"no WebSocket at {self.factory.url}: {reason}"))
        if not self._gone.called:
            self._gone.callback(None)

    def _over(self, why: MercuryError) -> None:
        if not self.ended.called:
            self.ended.callback(why)

    def _await(self, seconds: float, reason: str) -> None:
        """Drop it for this reason unless something comes within so many seconds; 0: no such limit."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = self._clock.callLater(seconds, self.drop, reason) if seconds else None


class LinkFactory(WebSocketClientFactory):
    """Gives Autobahn the one Link of a connection.

    Of Autobahn's own timers only one is on: the one that ends the TCP connection if the server does not after a close.
    """

    noisy = False

    def __init__(self, reactor: object, server: Server, link: Link) -> None:
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

    def buildProtocol(self, addr: IAddress | None) -> Link:
        self._only_link.factory = self
        return self._only_link
