"""The door to the chat: who may connect at /ws/connect, in which protocol, and the way from a frame to the session.

A token in the URL is checked before the handshake is answered, so a wrong one is refused with 401. A client of
mercury.v2.json may keep it out of the URL and send it in its first frame instead.
"""

from __future__ import annotations

from collections.abc import Callable

from autobahn.websocket.types import ConnectionRequest

from mercury import commands
from mercury.core.chat import Chat
from mercury.core.session import Session
from mercury.errors import MercuryError
from mercury.model import NAME_BYTES, Token, check_text_of
from mercury.protocols import v2
from mercury.protocols.codec import Codec
from mercury.protocols.seed import Seed
from mercury.protocols.v2 import V2
from mercury.transports.frames import DeflatedWire, Wire
from mercury.transports.websocket import WebSocketConnection

PATH = "/ws/connect"

_NOT_TEXT = MercuryError("bad_request", "only text frames are spoken here, this one was binary")


class Protocols:
    """The wires of all protocols, each in plain and in deflated frames, shared by all connections of a kind."""

    def __init__(self, json_depth: int) -> None:
        codecs: dict[str | None, Codec] = {None: Seed(json_depth), v2.NAME: V2(json_depth)}
        self._wires = {(name, False): Wire(codec) for name, codec in codecs.items()}
        self._wires |= {(name, True): DeflatedWire(codec) for name, codec in codecs.items()}
        self._names = [name for name in codecs if name]

    def choose(self, offered: list[str]) -> str | None:
        """The subprotocol to speak: the client's first that is known; none if it offers none."""
        if not offered:
            return None
        for name in offered:
            if name in self._names:
                return name
        spoken = ", ".join(self._names)
        raise MercuryError("bad_request", f"no subprotocol offered is spoken here; offer none, or one of: {spoken}")

    def wire(self, name: str | None, deflate: bool) -> Wire:
        """The wire of a subprotocol."""
        return self._wires[name, deflate]


class ChatDoor:
    """One connection's way to its session."""

    __slots__ = ("_admitted", "_chat", "_connection", "_decode", "_protocols", "_session")

    def __init__(self, chat: Chat, protocols: Protocols, connection: WebSocketConnection) -> None:
        self._chat = chat
        self._protocols = protocols
        self._connection = connection
        self._admitted: tuple[str | None, Token | None, float, str] | None = None
        self._session: Session | None = None
        self._decode: Callable[[bytes], commands.Command] | None = None

    async def admit(self, request: ConnectionRequest) -> str | None:
        if request.path.rstrip("/") != PATH:
            raise MercuryError("not_found", f"there is nothing at this path; WebSockets connect at {PATH}")
        name = self._protocols.choose(request.protocols)
        device = check_text_of("device", _param(request, "device") or "", NAME_BYTES)
        secret, member = _param(request, "token"), _param(request, "member")
        checked = self._chat.clock.seconds()
        if secret is not None:
            if member is None:
                raise MercuryError("unauthorized", "the URL has a token but no member")
            token = await self._chat.tokens.check(secret, member)
            self._admitted = (name, token, checked, device)
        elif name is None:
            raise MercuryError("unauthorized", f"connect with {PATH}?token=...&member=...")
        else:
            self._admitted = (name, None, checked, device)
        return name

    def opened(self, deflate: bool) -> None:
        if (admitted := self._admitted) is None:
            return
        self._admitted = None
        name, token, checked, device = admitted
        wire = self._protocols.wire(name, deflate)
        self._decode = wire.decode
        self._session = Session(self._chat, self._connection, wire)
        if token is not None:
            self._session.login(token, checked, device)
        else:
            self._session.await_connect()

    def message(self, payload: bytes, binary: bool) -> None:
        if self._session is not None and self._decode is not None:
            self._session.receive(commands.Bad(error=_NOT_TEXT) if binary else self._decode(payload))

    def pong(self, payload: bytes) -> None:
        if self._session is not None:
            self._session.pong(payload)

    def slow(self) -> None:
        if self._session is not None:
            self._session.slow()

    def drained(self) -> None:
        if self._session is not None:
            self._session.drained()

    def closed(self) -> None:
        if self._session is not None:
            self._session.closed()
            self._session = None


def _param(request: ConnectionRequest, name: str) -> str | None:
    values: list[str] = request.params.get(name, [])
    return values[0] if values else None
