"""How a session speaks WAMP: logging in by HELLO, subscribing to rooms, and leaving by GOODBYE (https://wamp-proto.org).

The session is like every other one, except that it hears only what its client has subscribed to; in its member's other
rooms it pauses. There is no router behind it: what is called and published goes to Mercury, and nowhere else.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from autobahn.wamp import message as wamp
from autobahn.wamp.role import RoleBrokerFeatures, RoleDealerFeatures

from mercury.core.delivery.listeners import LiveRoom, Pingable
from mercury.core.dialect import HangUpError
from mercury.core.handlers import answer
from mercury.core.login import Login
from mercury.core.parts import Chat
from mercury.core.tokens import ITERATIONS, KEY_BYTES, SALT
from mercury.domain import close_codes, commands, events
from mercury.domain.close_codes import CloseReason
from mercury.domain.model import Token
from mercury.errors import Code, MercuryError
from mercury.interfaces import IFrameEncoder
from mercury.settings.schema import Wamp
from mercury.settings.types import methods
from mercury.websocket.wamp.encoders import WampEncoders
from mercury.websocket.wamp.messages import (
    ABORTS,
    Goodbye,
    Refused,
    Subscribe,
    Unsubscribe,
    ViolationError,
    WrongUriError,
    command_of,
    publication,
    refusal,
)
from mercury.websocket.wamp.topics import ALL, LOG, Topic

NOTHING: Final = frozenset[str]()
EVERYTHING: Final = frozenset({ALL})

VIOLATION: Final = "wamp.error.protocol_violation"
DENIED: Final = "wamp.error.authentication_denied"
KILLED: Final = "wamp.close.killed"
OUT: Final = "wamp.close.goodbye_and_out"
#: Its clients say that they understand UNSUBSCRIBED 0, and hang up when one comes (26.10.2, wamp/protocol.py).
TAKES_NO_REVOCATION: Final = "AutobahnPython"
LEFT: Final = "mercury.left"  # why a subscription was ended: the member is not in the room any more

#: The stages of a connection.
HELLO: Final = 0
AUTHENTICATE: Final = 1
OPEN: Final = 2


class LoginMessage(commands.Command):
    """A message of a client that has not logged in yet."""

    message: Any


class WampDialect:
    """WAMP on one connection.

    | stage        | the client may send     | what follows                                                 |
    |--------------|-------------------------|--------------------------------------------------------------|
    | HELLO        | HELLO                   | CHALLENGE: AUTHENTICATE; or, with a token in the URL: OPEN   |
    | AUTHENTICATE | AUTHENTICATE            | the token is checked: OPEN; then WELCOME                     |
    | OPEN         | requests and GOODBYE    | answers, in order                                            |

    ABORT may come at any stage. Anything else is a violation: the client is told by ABORT, and the connection closed.

    `token`: if there was a good one in the URL, that, when it was checked (clock) and the URL's device. `agent`: what
    the client's handshake says it is.
    """

    __slots__ = (
        "_aborted", "_all", "_authid", "_challenge", "_encoders", "_extra", "_id", "_kinds", "_method", "_resets",
        "_revokes", "_settings", "_stage", "_subscriptions", "_token", "_welcomed", "encoder",
    )  # fmt: skip

    def __init__(
        self, encoders: WampEncoders, settings: Wamp, token: tuple[Token, float, str] | None, agent: str
    ) -> None:
        self.encoder: IFrameEncoder = encoders.answers
        self._encoders = encoders
        self._settings = settings
        self._token = token
        self._id = publication()
        self._stage = HELLO
        self._welcomed = self._aborted = False
        self._revokes = not agent.startswith(TAKES_NO_REVOCATION)
        self._method = self._authid = self._challenge = ""
        self._extra: dict[str, Any] = {}
        self._subscriptions: dict[int, Topic] = {}
        self._kinds: dict[str, frozenset[str]] = {}  # what is subscribed to of a room
        self._all = NOTHING  # EVERYTHING while there is a subscription to the inbox
        self._resets: dict[str, int] = {}  # of rooms that are not heard yet

    def decode(self, payload: bytes, binary: bool) -> commands.Command | None:
        try:
            message, raw = self._encoders.packer.parse(payload, binary)
            if isinstance(message, wamp.Abort):  # which is never answered
                raise HangUpError
            return command_of(message, raw) if self._stage == OPEN else self._login_message(message)
        except WrongUriError as error:
            if self._stage == OPEN:
                return error.refused
            raise self._abort("wamp.error.invalid_uri", str(error)) from None
        except ViolationError as error:
            raise self._abort(VIOLATION, str(error)) from None

    # Logging in

    def _login_message(self, message: wamp.Message) -> LoginMessage:
        """Go to the next stage by what the client sends; requests that follow wait in the session's queue until the
        login is over."""
        if self._stage == HELLO and not isinstance(message, wamp.Hello):
            raise ViolationError("the first message must be a HELLO")
        if self._stage == AUTHENTICATE and not isinstance(message, wamp.Authenticate):
            raise ViolationError("answer a CHALLENGE with AUTHENTICATE")
        self._stage = AUTHENTICATE if self._stage == HELLO and self._token is None else OPEN
        return LoginMessage(message=message)

    async def log_in(self, chat: Chat, session: Pingable, command: commands.Command) -> Login | None:
        message = command.message if isinstance(command, LoginMessage) else None
        if isinstance(message, wamp.Hello):
            return self._hello(chat, session, message)
        if not isinstance(message, wamp.Authenticate):
            raise self._abort(VIOLATION, "log in first")
        checked = chat.clock.seconds()
        if self._method == "ticket":
            token = await chat.tokens.check(message.signature, self._authid)
        else:
            token = await chat.tokens.check_signature(self._authid, self._challenge, message.signature)
        return self._login(token, checked, "")

    def _hello(self, chat: Chat, session: Pingable, message: wamp.Hello) -> Login | None:
        self._extra = message.authextra or {}
        self._revokes &= bool(getattr(message.roles.get("subscriber"), "subscription_revocation", False))
        offered = message.authmethods or ()
        accepted = methods(self._settings.authmethods)
        method = next((method for method in offered if method in accepted), None)
        if message.realm != self._settings.realm:
            raise self._abort("wamp.error.no_such_realm", f"the realm is {self._settings.realm}")
        if self._token is not None:
            return self._login_by_url(self._token, message.authid)
        if not offered or not message.authid:
            raise self._abort("wamp.error.authentication_required", "give authmethods, and the member as authid")
        if method is None:
            reason = f"the methods here are {', '.join(accepted)}"
            raise self._abort("wamp.error.no_matching_auth_method", reason)
        self._method, self._authid = method, message.authid
        self._say(chat, session, wamp.Challenge(method, self._to_sign() if method == "wampcra" else {}))
        return None

    def _login_by_url(self, found: tuple[Token, float, str], authid: str | None) -> Login:
        token, checked, device = found
        if authid and authid != token.mid:
            raise self._abort(DENIED, "the token in the URL is another member's")
        self._method = "ticket"
        return self._login(token, checked, device)

    def _to_sign(self) -> dict[str, Any]:
        """What CHALLENGE says for wampcra (advanced profile, Challenge Response Authentication)."""
        asked = {
            "authid": self._authid,
            "authrole": "member",
            "authmethod": self._method,
            "authprovider": "mercury",
            "session": self._id,
            "nonce": secrets.token_urlsafe(24),
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        self._challenge = json.dumps(asked)
        return {"challenge": self._challenge, "salt": SALT, "iterations": ITERATIONS, "keylen": KEY_BYTES}

    def _login(self, token: Token, checked: float, device: str) -> Login:
        """With what HELLO's authextra says of the device, and of where it stands."""
        try:
            resume = self._extra.get("resume")
            if not isinstance(self._extra.get("device", ""), str):
                raise ValueError("authextra.device must be a text")
            resume = None if resume is None else msgspec.convert(resume, commands.Resume)
        except ValueError as error:
            raise MercuryError("bad_request", f"authextra: {error}") from None
        return Login(token, checked, self._extra.get("device", device), resume)

    # Requests

    async def answer(self, chat: Chat, session: Pingable, command: commands.Command) -> Sequence[events.Event]:
        if isinstance(command, Subscribe):
            await self._subscribe(chat, session, command)
        elif isinstance(command, Unsubscribe):
            self._unsubscribe(chat, session, command)
        elif isinstance(command, Refused):
            self._say_refused(chat, session, command)
        elif isinstance(command, Goodbye):
            raise HangUpError(self._encoders.message(wamp.Goodbye(OUT)))
        else:
            return await answer(chat, session, command)
        return ()

    async def _subscribe(self, chat: Chat, session: Pingable, command: Subscribe) -> None:
        topic, start, hub = command.topic, None, chat.hub
        try:
            rooms = list(session.rooms) if topic.kind == ALL else [hub.room_of(session, topic.rid)]
            if command.after is not None and session in rooms[0].paused:
                start = await self._start_after(chat, session, rooms[0], command.after)
                rooms = [hub.room_of(session, topic.rid)]
        except MercuryError as error:
            uri = "wamp.error.not_authorized" if error.code == "forbidden" else f"mercury.error.{error.code}"
            self._say_refused(chat, session, refusal(command, uri, error.reason), error.code)
            return
        id = topic.subscription
        self._say(chat, session, wamp.Subscribed(command.request, id))
        if id not in self._subscriptions:
            self._subscriptions[id] = topic
            self._tune(chat, session, rooms, lambda: self._turn(topic, True), start)

    async def _start_after(self, chat: Chat, session: Pingable, room: LiveRoom, after: int) -> int | None:
        """Where to go on for a client that says it has the room up to `after`. If the room never came that far, the
        client has another store's numbers, and is told to start afresh from where its device was.

        Raises forbidden if the member has been put out of the room and this was not told here yet.
        """
        head = room.head
        if after > head or chat.hub.memberships.is_asking(session.mid, room):
            memberships = await chat.store.memberships(session.mid, session.device)
            heads = {membership.rid: membership.head for membership in memberships}
            if room.rid not in heads:
                raise MercuryError("forbidden", "not a member of that room")
            head = heads[room.rid]
        if after <= head:
            return after + 1
        self._resets[room.rid] = room.next_seq(session) - 1
        return None

    def _unsubscribe(self, chat: Chat, session: Pingable, command: Unsubscribe) -> None:
        topic = self._subscriptions.pop(command.subscription, None)
        if topic is None:
            refused = refusal(command, "wamp.error.no_such_subscription", "this subscription does not exist")
            self._say_refused(chat, session, refused)
            return
        rooms = [room for room in session.rooms if topic.kind == ALL or room.rid == topic.rid]
        self._tune(chat, session, rooms, lambda: self._turn(topic, False))
        self._say(chat, session, wamp.Unsubscribed(command.request))

    def _turn(self, topic: Topic, on: bool) -> None:
        """Note whether a topic is heard."""
        if topic.kind == ALL:
            self._all = EVERYTHING if on else NOTHING
            return
        kinds = self._kinds.pop(topic.rid, NOTHING)
        if kinds := kinds | {topic.kind} if on else kinds - {topic.kind}:
            self._kinds[topic.rid] = kinds

    def _tune(
        self, chat: Chat, session: Pingable, rooms: Iterable[LiveRoom], change: Callable[[], None],
        start: int | None = None,
    ) -> None:  # fmt: skip
        """Change what is heard of these rooms: out of them, the change, and in again at the same places, or at `start`
        in a room that was not heard."""
        stands = [(room, session in room.paused, session in room.behind, room.next_seq(session)) for room in rooms]
        for room, *_ in stands:
            room.remove(session)
        change()
        with chat.outbox.corked():
            for room, paused, behind, next_seq in stands:
                if not self.hears(room.rid):
                    room.pause(session, next_seq)
                    if behind:  # what they did not read may have put them out
                        chat.hub.memberships.ask((session.mid,))
                elif paused or behind:
                    if (floor := self._resets.pop(room.rid, None)) is not None:
                        reset = self.encoder_in(room.rid).event(events.Reset(room.rid, floor))
                        chat.outbox.put((session,), reset)
                    chat.hub.resume(session, room, start or next_seq)
                else:
                    room.attach(session, next_seq)

    # What the session asks

    def encode(self, event: events.Event) -> bytes:
        if isinstance(event, events.Hello):
            return self._welcome(event)
        if isinstance(event, events.Error) and event.ref is None:  # a login was refused
            self._aborted = True
            if event.code not in ABORTS:  # the client is to come back, and an ABORT makes Autobahn JS stay away
                return b""
        return self.encoder.event(event)

    def _welcome(self, hello: events.Hello) -> bytes:
        self._welcomed = True
        about = msgspec.to_builtins(hello)
        del about["type"], about["member"]
        roles = {"broker": RoleBrokerFeatures(pattern_based_subscription=True, subscription_revocation=True)}
        return self._encoders.message(
            wamp.Welcome(
                self._id, {**roles, "dealer": RoleDealerFeatures()}, realm=self._settings.realm, authid=hello.member,
                authrole="member", authmethod=self._method, authprovider="mercury", authextra=about,
            )
        )  # fmt: skip

    def encode_in(self, rid: str, event: events.Event) -> bytes:
        if isinstance(event, events.Reset) and not self.hears(rid):
            self._resets[rid] = event.floor
            return b""
        return self.encoder_in(rid).event(event)

    def hears(self, rid: str) -> bool:
        return bool(self._all) or LOG in self._kinds.get(rid, NOTHING)

    def encoder_in(self, rid: str) -> IFrameEncoder:
        return self._encoders.in_room(self._kinds.get(rid, NOTHING) | self._all)

    def left(self, rid: str) -> bytes:
        self._resets.pop(rid, None)
        ids = [Topic(kind, rid).subscription for kind in self._kinds.pop(rid, NOTHING)]
        for id in ids:
            del self._subscriptions[id]
        if not self._revokes:  # advanced profile, Subscription Revocation
            return b""
        return b"".join([self._encoders.message(wamp.Unsubscribed(0, id, LEFT)) for id in ids])

    def farewell(self, why: CloseReason) -> bytes:
        """Clients that shall come back are told nothing but the close code: a GOODBYE makes Autobahn's stay away."""
        if why.reconnect or self._aborted:
            return b""
        if self._welcomed:
            return self._encoders.message(wamp.Goodbye(KILLED, why.reason))
        if why == close_codes.BAD_CONNECT:
            return self._encoders.message(wamp.Abort(VIOLATION, "HELLO or AUTHENTICATE did not arrive in time"))
        return self._encoders.message(wamp.Abort(DENIED, why.reason))

    # What it says by itself

    def _say(self, chat: Chat, session: Pingable, message: wamp.Message) -> None:
        chat.outbox.put((session,), self._encoders.message(message))

    def _say_refused(self, chat: Chat, session: Pingable, refused: Refused, code: Code = "bad_request") -> None:
        if refused.ref:
            chat.counters.errors[code] += 1
            self._say(chat, session, wamp.Error(refused.kind, refused.request, refused.uri, args=[refused.reason]))

    def _abort(self, uri: str, reason: str) -> HangUpError:
        last = self._encoders.message(wamp.Abort(uri, reason))
        counted: Code = "unauthorized" if uri == DENIED else "bad_request"
        return HangUpError(last, close_codes.BAD_CONNECT.code, counted)
