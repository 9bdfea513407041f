"""A dialect: how a session understands its client, and says things to it, in the client's subprotocol.

Session has one, given to its constructor. PlainDialect is for subprotocols whose clients hear all of their rooms, and
log in by one command; all connections of a kind share one. WAMP's (websocket/wamp/dialect.py) has more state than that,
so each connection has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mercury.core.delivery.listeners import Pingable
from mercury.core.handlers import answer
from mercury.core.login import Login
from mercury.core.parts import Chat
from mercury.domain import commands, events
from mercury.domain.close_codes import CloseReason
from mercury.errors import Code, MercuryError
from mercury.interfaces import IFrameEncoder


class HangUpError(Exception):
    """The conversation is over: write `last`, then close with `code`. `counted`: as which error, if it is one."""

    def __init__(self, last: bytes = b"", code: int = 1000, counted: Code | None = None) -> None:
        super().__init__(code)
        self.last = last
        self.code = code
        self.counted = counted


class Dialect(Protocol):
    """What a session asks of its client's subprotocol. `encoder`: for what it says to its own client."""

    encoder: IFrameEncoder

    def decode(self, payload: bytes, binary: bool) -> commands.Command | None:
        """The command in a whole message; None if there is nothing to do. Raises nothing but HangUpError."""

    async def log_in(self, chat: Chat, session: Pingable, command: commands.Command) -> Login | None:
        """Carry out a command of a client that has not logged in. None: it has to send more. May raise HangUpError."""

    async def answer(self, chat: Chat, session: Pingable, command: commands.Command) -> Sequence[events.Event]:
        """Carry out a command, and return what to tell the client. May raise HangUpError."""

    def encode(self, event: events.Event) -> bytes:
        """The frames of an event for this client alone; empty if there are none."""

    def encode_in(self, rid: str, event: events.Event) -> bytes:
        """The same for an event that says where the session stands in a room's log."""

    def hears(self, rid: str) -> bool:
        """Whether the client is to get this room's log now."""

    def encoder_in(self, rid: str) -> IFrameEncoder:
        """What encodes this room's log for the client."""

    def left(self, rid: str) -> bytes:
        """The session is out of this room now: the frames to say about it."""

    def farewell(self, why: CloseReason) -> bytes:
        """The frames to say before the connection is closed."""


class PlainDialect:
    """`decode` makes a command of a frame, `encoder` makes frames of events."""

    def __init__(self, decode: Callable[[bytes, bool], commands.Command], encoder: IFrameEncoder) -> None:
        self.decode = decode
        self.encoder = encoder
        self.encode = encoder.event

    async def log_in(self, chat: Chat, session: Pingable, command: commands.Command) -> Login | None:
        if not isinstance(command, commands.Connect):
            raise MercuryError("bad_request", "the first frame must be a connect")
        checked = chat.clock.seconds()
        token = await chat.tokens.check(command.token, command.member)
        return Login(token, checked, command.device, command.resume)

    async def answer(self, chat: Chat, session: Pingable, command: commands.Command) -> Sequence[events.Event]:
        return await answer(chat, session, command)

    def encode_in(self, rid: str, event: events.Event) -> bytes:
        return self.encoder.event(event)

    def hears(self, rid: str) -> bool:
        return True

    def encoder_in(self, rid: str) -> IFrameEncoder:
        return self.encoder

    def left(self, rid: str) -> bytes:
        return b""

    def farewell(self, why: CloseReason) -> bytes:
        return b""
