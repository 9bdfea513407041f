"""The door to the chat: who may connect at /ws/connect, in which protocol, and the way from a frame to the session.

A token in the URL is checked before the handshake is answered, so a wrong one is refused with 401. Clients of
mercury.v2.json and of WAMP may keep it out of the URL and log in by their first frames instead.
"""

from __future__ import annotations

from collections.abc import Callable

from autobahn.websocket.types import ConnectionRequest
from twisted.logger import Logger

from mercury.core.parts import Chat
from mercury.core.session import Session
from mercury.domain import commands
from mercury.domain.model import NAME_BYTES, Token, check_text_of
from mercury.errors import MercuryError
from mercury.settings.schema import WS_PATH, Config
from mercury.websocket.connection import WebSocketConnection
from mercury.websocket.framing import DeflatedFrameEncoder, FrameEncoder
from mercury.websocket.subprotocols import v2
from mercury.websocket.subprotocols.codec import Codec
from mercury.websocket.subprotocols.v1 import Seed
from mercury.websocket.subprotocols.v2 import V2
from mercury.websocket.wamp.encoders import WampEncoders
from mercury.websocket.wamp.messages import NAMES, Packer
from mercury.websocket.wamp.session import WampSession

_log = Logger()

_NOT_TEXT = MercuryError("bad_request", "only text frames are spoken here, this one was binary")


#: The token in a URL, when it was checked (clock), and the device in the URL.
Admitted = tuple[Token, float, str]


class Protocols:
    """All that is spoken, in plain and in deflated frames. Connections of a kind share its wires."""

    def __init__(self, config: Config) -> None:
        limits = config.limits
        codecs: dict[str | None, Codec] = {None: Seed(limits), v2.NAME: V2(limits)}
        packers = {name: Packer(name, limits) for name in NAMES}
        self._codecs = codecs
        self._wamp_settings = config.wamp
        self._encoders = {(name, False): FrameEncoder(codec) for name, codec in codecs.items()}
        self._encoders |= {(name, True): DeflatedFrameEncoder(codec) for name, codec in codecs.items()}
        self._wamp = {(name, False): WampEncoders(packer, False) for name, packer in packers.items()}
        self._wamp |= {(name, True): WampEncoders(packer, True) for name, packer in packers.items()}
        self._names = [name for name in (*codecs, *NAMES) if name]

    def choose(self, offered: list[str]) -> str | None:
        """The subprotocol to speak: the client's first that is known; none if it offers none."""
        if not offered:
            return None
        for name in offered:
            if name in self._names:
                return name
        spoken = ", ".join(self._names)
        raise MercuryError("bad_request", f"no subprotocol offered is spoken here; offer none, or one of: {spoken}")

    def decoder(self, name: str | None) -> Callable[[bytes], commands.Command]:
        """What makes commands of frames; not of WAMP's, which WampSession.hear() takes."""
        return self._codecs[name].decode

    def ear(self, name: str | None, session: Session) -> Callable[[bytes, bool], None]:
        """What takes frames for a session, unless it speaks WAMP."""
        decode, receive = self.decoder(name), session.receive

        def hear(payload: bytes, binary: bool) -> None:
            receive(commands.Bad(error=_NOT_TEXT) if binary else decode(payload))

        return hear

    def session(
        self,
        chat: Chat,
        connection: WebSocketConnection,
        name: str | None,
        deflate: bool,
        token: Admitted | None,
        agent: str,
    ) -> Session:
        """A session that speaks a subprotocol, and has begun to log in. `agent`: what the client says it is."""
        if name in NAMES:
            return WampSession(chat, connection, self._wamp[name, deflate], self._wamp_settings, token, agent)
        session = Session(chat, connection, self._encoders[name, deflate])
        if token is not None:
            session.login(*token)
        else:
            session.await_connect()
        return session


def _ignore(payload: bytes, binary: bool) -> None:
    """What takes frames while there is no session."""


class ChatDoor:
    """One connection's way to its session. `message` is the session's own way in: a step less for each frame."""

    __slots__ = ("_admitted", "_chat", "_connection", "_protocols", "_session", "message")

    def __init__(self, chat: Chat, protocols: Protocols, connection: WebSocketConnection) -> None:
        self._chat = chat
        self._protocols = protocols
        self._connection = connection
        self._admitted: tuple[str | None, Admitted | None, str] | None = None
        self._session: Session | None = None
        self.message: Callable[[bytes, bool], None] = _ignore

    async def admit(self, request: ConnectionRequest) -> str | None:
        self._chat.journal.check_open()
        if request.path.rstrip("/") != WS_PATH:
            raise MercuryError("not_found", f"there is nothing at this path; WebSockets connect at {WS_PATH}")
        name = self._protocols.choose(request.protocols)
        device = check_text_of("device", _param(request, "device") or "", NAME_BYTES)
        secret, member = _param(request, "token"), _param(request, "member")
        agent = request.headers.get("user-agent", "")
        checked = self._chat.clock.seconds()
        if secret is not None:
            if member is None:
                raise MercuryError("unauthorized", "the URL has a token but no member")
            token = await self._chat.tokens.check(secret, member)
            self._chat.journal.check_open()  # a session that begins now would not be told to come back
            self._admitted = (name, (token, checked, device), agent)
        elif name is None:
            raise MercuryError("unauthorized", f"connect with {WS_PATH}?token=...&member=...")
        else:
            self._admitted = (name, None, agent)
        return name

    def opened(self, deflate: bool) -> None:
        if (admitted := self._admitted) is None:
            return
        self._admitted = None
        name, token, agent = admitted
        session = self._protocols.session(self._chat, self._connection, name, deflate, token, agent)
        self.message = session.hear if isinstance(session, WampSession) else self._protocols.ear(name, session)
        self._session = session

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
        if (session := self._session) is not None:
            session.closed()
            self._session, self.message = None, _ignore
            _log.debug(
                "the session of {peer} has ended with {code}", peer=self._connection.peer, member=session.mid,
                protocol=session.encoder.name, code=self._connection.ended_with, session=session.number,
            )  # fmt: skip
        del self._connection  # which knows this door: without that circle both go at once


def _param(request: ConnectionRequest, name: str) -> str | None:
    values: list[str] = request.params.get(name, [])
    return values[0] if values else None
