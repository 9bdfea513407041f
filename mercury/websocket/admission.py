"""Admission to the chat: who may connect at /ws/connect, in which subprotocol, and which session takes the frames.

A token in the URL is checked before the handshake is answered, so a wrong one is refused with 401. Clients of
mercury.v2.json and of WAMP may keep it out of the URL and log in by their first frames instead.
"""

from __future__ import annotations

from autobahn.websocket.types import ConnectionRequest

from mercury.core.dialect import PlainDialect
from mercury.core.parts import Chat
from mercury.core.session import Session
from mercury.domain.model import NAME_BYTES, Token, check_text_of
from mercury.errors import MercuryError
from mercury.settings.schema import WS_PATH, Config
from mercury.websocket.connection import WebSocketConnection
from mercury.websocket.framing import DeflatedFrameEncoder, FrameEncoder
from mercury.websocket.subprotocols import v2
from mercury.websocket.subprotocols.codec import Codec
from mercury.websocket.subprotocols.v1 import V1
from mercury.websocket.subprotocols.v2 import V2
from mercury.websocket.wamp.dialect import WampDialect
from mercury.websocket.wamp.encoders import WampEncoders
from mercury.websocket.wamp.messages import NAMES, Packer

#: The token in a URL, when it was checked (clock), and the device in the URL.
Admitted = tuple[Token, float, str]


class Subprotocols:
    """Every subprotocol, in plain and in deflated frames. Connections of a kind share their encoders."""

    def __init__(self, config: Config) -> None:
        limits = config.limits
        self.codecs: dict[str | None, Codec] = {None: V1(limits), v2.NAME: V2(limits)}
        packers = {name: Packer(name, limits) for name in NAMES}
        self._wamp_settings = config.wamp
        self._plain: dict[tuple[str | None, bool], PlainDialect] = {}
        for name, codec in self.codecs.items():
            self._plain[name, False] = PlainDialect(codec.decode, FrameEncoder(codec))
            self._plain[name, True] = PlainDialect(codec.decode, DeflatedFrameEncoder(codec))
        self._wamp = {(name, False): WampEncoders(packer, False) for name, packer in packers.items()}
        self._wamp |= {(name, True): WampEncoders(packer, True) for name, packer in packers.items()}
        self.names = [name for name in (*self.codecs, *NAMES) if name]

    def choose(self, offered: list[str]) -> str | None:
        """The subprotocol to use: the client's first that is known; none if it offers none."""
        if not offered:
            return None
        for name in offered:
            if name in self.names:
                return name
        spoken = ", ".join(self.names)
        raise MercuryError("bad_request", f"unknown subprotocol; offer none, or one of: {spoken}")

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
        if name in NAMES:  # a client says HELLO even if its token was in the URL
            dialect = WampDialect(self._wamp[name, deflate], self._wamp_settings, token, agent)
            session = Session(chat, connection, dialect)
            session.await_connect()
        else:
            session = Session(chat, connection, self._plain[name, deflate])
            if token is not None:
                session.login(*token)
            else:
                session.await_connect()
        return session


class ChatHandler:
    """Lets one connection into the chat, or refuses it."""

    __slots__ = ("_admitted", "_agent", "_chat", "_connection", "_name", "_subprotocols")

    def __init__(self, chat: Chat, subprotocols: Subprotocols, connection: WebSocketConnection) -> None:
        self._chat = chat
        self._subprotocols = subprotocols
        self._connection = connection
        self._name: str | None = None
        self._admitted: Admitted | None = None
        self._agent = ""

    async def admit(self, request: ConnectionRequest) -> str | None:
        self._chat.journal.check_open()
        if request.path.rstrip("/") != WS_PATH:
            raise MercuryError("not_found", f"there is nothing at this path; WebSockets connect at {WS_PATH}")
        self._name = self._subprotocols.choose(request.protocols)
        self._agent = request.headers.get("user-agent", "")
        device = check_text_of("device", _param(request, "device") or "", NAME_BYTES)
        secret, member = _param(request, "token"), _param(request, "member")
        checked = self._chat.clock.seconds()
        if secret is not None:
            if member is None:
                raise MercuryError("unauthorized", "the URL has a token but no member")
            token = await self._chat.tokens.check(secret, member)
            self._chat.journal.check_open()  # a session that begins now would not be told to come back
            self._admitted = (token, checked, device)
        elif self._name is None:
            raise MercuryError("unauthorized", f"connect with {WS_PATH}?token=...&member=...")
        return self._name

    def opened(self, deflate: bool) -> Session:
        return self._subprotocols.session(
            self._chat, self._connection, self._name, deflate, self._admitted, self._agent
        )


def _param(request: ConnectionRequest, name: str) -> str | None:
    values: list[str] = request.params.get(name, [])
    return values[0] if values else None
