"""What a WebSocket port needs from those behind it: who decides who may connect, and who takes the frames then."""

from __future__ import annotations

from typing import Protocol

from autobahn.websocket.types import ConnectionRequest


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
