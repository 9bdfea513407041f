"""WAMP sessions: logging in by HELLO, subscribing to rooms, and leaving by GOODBYE (https://wamp-proto.org).

A chat session like every other one, but that it hears only of what it has subscribed to; in the other rooms of its
member it pauses. There is no router behind it: what is called and published goes to Mercury, and nowhere else.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from autobahn.wamp import message as wamp
from autobahn.wamp.role import RoleBrokerFeatures, RoleDealerFeatures
from twisted.internet.defer import Deferred

from mercury.core.delivery.listeners import LiveRoom
from mercury.core.parts import Chat
from mercury.core.session import Session
from mercury.core.tokens import ITERATIONS, KEY_BYTES, SALT
from mercury.domain import close_codes, commands, events
from mercury.domain.close_codes import CloseReason
from mercury.domain.model import Token
from mercury.errors import Code, MercuryError
from mercury.interfaces import IConnection, IFrameEncoder
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


class WampSession(Session):
    """One WAMP session. The transport calls on_frame() with all that comes, and the notices that each session gets.

    `token`: if there was a good one in the URL, that, when it was checked (clock) and the URL's device. `agent`: what
    the client's handshake says it is.
    """

    __slots__ = (
        "_aborted",
        "_all",
        "_authid",
        "_challenge",
        "_encoders",
        "_extra",
        "_id",
        "_kinds",
        "_method",
        "_resets",
        "_revokes",
        "_settings",
        "_stage",
        "_subscriptions",
        "_token",
        "_welcomed",
    )  # fmt: skip

    def __init__(
        self,
        chat: Chat,
        connection: IConnection,
        encoders: WampEncoders,
        settings: Wamp,
        token: tuple[Token, float, str] | None,
        agent: str,
    ) -> None:
        super().__init__(chat, connection, _no_codec, encoders.answers)
        self._encoders = encoders
        self._settings = settings
        self._token = token
        self._id = publication()
        self._stage: Callable[[wamp.Message, list[Any]], None] = self._on_hello
        self._welcomed = self._aborted = False
        self._revokes = not agent.startswith(TAKES_NO_REVOCATION)
        self._method = self._authid = self._challenge = ""
        self._extra: dict[str, Any] = {}
        self._subscriptions: dict[int, Topic] = {}
        self._kinds: dict[str, frozenset[str]] = {}  # what is subscribed to of a room
        self._all = NOTHING  # EVERYTHING while there is a subscription to the inbox
        self._resets: dict[str, int] = {}  # of rooms that are not heard yet
        self.await_connect()

    def on_frame(self, payload: bytes, binary: bool) -> None:
        """A message came in."""
        if not self._takes:
            return
        try:
            message, raw = self._encoders.packer.parse(payload, binary)
            if isinstance(message, wamp.Abort):  # which is never answered
                self._hang_up(b"")
            else:
                self._stage(message, raw)
        except WrongUriError as error:
            if self._stage == self._on_request:
                self.receive(error.refused)
            else:
                self._abort("wamp.error.invalid_uri", str(error))
        except ViolationError as error:
            self._abort(VIOLATION, str(error))

    # Logging in

    def _on_hello(self, message: wamp.Message, raw: list[Any]) -> None:
        if not isinstance(message, wamp.Hello):
            raise ViolationError("the first message must be a HELLO")
        self._extra = message.authextra or {}
        self._revokes &= bool(getattr(message.roles.get("subscriber"), "subscription_revocation", False))
        offered = message.authmethods or ()
        accepted = methods(self._settings.authmethods)
        method = next((method for method in offered if method in accepted), None)
        if message.realm != self._settings.realm:
            self._abort("wamp.error.no_such_realm", f"the realm is {self._settings.realm}")
        elif self._token is not None:
            self._enter_by_url(self._token, message.authid)
        elif not offered or not message.authid:
            self._abort("wamp.error.authentication_required", "give authmethods, and the member as authid")
        elif method is None:
            self._abort("wamp.error.no_matching_auth_method", f"the methods here are {', '.join(accepted)}")
        else:
            self._method, self._authid = method, message.authid
            self._stage = self._on_authenticate
            self._say(wamp.Challenge(method, self._to_sign() if method == "wampcra" else {}))

    def _enter_by_url(self, found: tuple[Token, float, str], authid: str | None) -> None:
        token, checked, device = found
        if authid and authid != token.mid:
            self._abort(DENIED, "the token in the URL is another member's")
            return
        self._method = "ticket"
        self._begin_login(self._enter(token, checked, device))

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

    def _on_authenticate(self, message: wamp.Message, raw: list[Any]) -> None:
        if not isinstance(message, wamp.Authenticate):
            raise ViolationError("answer a CHALLENGE with AUTHENTICATE")
        self._begin_login(self._authenticate(message.signature))

    def _begin_login(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """What is asked meanwhile waits."""
        self._stage = self._on_request
        self._busy = True
        self._stop_timer()
        self._watch(work)

    async def _authenticate(self, signature: str) -> None:
        checked, tokens = self._chat.clock.seconds(), self._chat.tokens
        if self._method == "ticket":
            token = await tokens.check(signature, self._authid)
        else:
            token = await tokens.check_signature(self._authid, self._challenge, signature)
        await self._enter(token, checked, "")

    async def _enter(self, token: Token, checked: float, device: str) -> None:
        await self._login(token, checked, self._extra.get("device", device), self._resume())

    def _resume(self) -> commands.Resume | None:
        """What HELLO's authextra says of where the client is."""
        try:
            resume = self._extra.get("resume")
            if not isinstance(self._extra.get("device", ""), str):
                raise ValueError("authextra.device must be a text")
            return None if resume is None else msgspec.convert(resume, commands.Resume)
        except ValueError as error:
            raise MercuryError("bad_request", f"authextra: {error}") from None

    def _greet(self, hello: events.Hello) -> None:
        self._welcomed = True
        about = msgspec.to_builtins(hello)
        del about["type"], about["member"]
        roles = {"broker": RoleBrokerFeatures(pattern_based_subscription=True, subscription_revocation=True)}
        self._say(
            wamp.Welcome(
                self._id, {**roles, "dealer": RoleDealerFeatures()}, realm=self._settings.realm, authid=self.mid,
                authrole="member", authmethod=self._method, authprovider="mercury", authextra=about,
            )
        )  # fmt: skip

    # Requests

    def _on_request(self, message: wamp.Message, raw: list[Any]) -> None:
        if (command := command_of(message, raw)) is not None:
            self.receive(command)

    async def _do(self, command: commands.Command) -> None:
        if isinstance(command, Subscribe):
            await self._subscribe(command)
        elif isinstance(command, Unsubscribe):
            self._unsubscribe(command)
        elif isinstance(command, Refused):
            self._say_refused(command)
        elif isinstance(command, Goodbye):
            self._hang_up(self._encoders.message(wamp.Goodbye(OUT)))
        else:
            await super()._do(command)

    async def _subscribe(self, command: Subscribe) -> None:
        topic, start = command.topic, None
        try:
            rooms = list(self.rooms) if topic.kind == ALL else [self._chat.hub.room_of(self, topic.rid)]
            if command.after is not None and self in rooms[0].paused:
                start = await self._start_after(rooms[0], command.after)
                rooms = [self._chat.hub.room_of(self, topic.rid)]
        except MercuryError as error:
            uri = "wamp.error.not_authorized" if error.code == "forbidden" else f"mercury.error.{error.code}"
            self._say_refused(refusal(command, uri, error.reason), error.code)
            return
        id = topic.subscription
        self._say(wamp.Subscribed(command.request, id))
        if id not in self._subscriptions:
            self._subscriptions[id] = topic
            self._tune(rooms, lambda: self._turn(topic, True), start)

    async def _start_after(self, room: LiveRoom, after: int) -> int | None:
        """Where to go on for one who says that they have the room up to `after`. If it never came that far, they have
        another store's numbers: they are told to start afresh from where their device was. Raises forbidden for who has
        been put out of the room, and might go on behind that: it was not told here yet."""
        head = room.head
        if after > head or self._chat.hub.memberships.is_asking(self.mid, room):
            heads = {
                membership.rid: membership.head
                for membership in await self._chat.store.memberships(self.mid, self.device)
            }
            if room.rid not in heads:
                raise MercuryError("forbidden", "not a member of that room")
            head = heads[room.rid]
        if after <= head:
            return after + 1
        self._resets[room.rid] = room.next_seq(self) - 1
        return None

    def _unsubscribe(self, command: Unsubscribe) -> None:
        topic = self._subscriptions.pop(command.subscription, None)
        if topic is None:
            self._say_refused(refusal(command, "wamp.error.no_such_subscription", "this subscription does not exist"))
            return
        rooms = [room for room in self.rooms if topic.kind == ALL or room.rid == topic.rid]
        self._tune(rooms, lambda: self._turn(topic, False))
        self._say(wamp.Unsubscribed(command.request))

    def _turn(self, topic: Topic, on: bool) -> None:
        """Note whether a topic is heard."""
        if topic.kind == ALL:
            self._all = EVERYTHING if on else NOTHING
            return
        kinds = self._kinds.pop(topic.rid, NOTHING)
        if kinds := kinds | {topic.kind} if on else kinds - {topic.kind}:
            self._kinds[topic.rid] = kinds

    def _tune(self, rooms: Iterable[LiveRoom], change: Callable[[], None], start: int | None = None) -> None:
        """Change what is heard of these rooms: out of them, the change, and in again at the same places, or at `start`
        in a room that was not heard."""
        stands = [(room, self in room.paused, self in room.behind, room.next_seq(self)) for room in rooms]
        for room, *_ in stands:
            room.remove(self)
        change()
        hub = self._chat.hub
        self._chat.outbox.cork()
        try:
            for room, paused, behind, next_seq in stands:
                if not self.hears(room.rid):
                    room.pause(self, next_seq)
                    if behind:  # what they did not read may have put them out
                        hub.memberships.ask((self.mid,))
                elif paused or behind:
                    if (floor := self._resets.pop(room.rid, None)) is not None:
                        self._tell_of(room.rid, events.Reset(room.rid, floor))
                    hub.resume(self, room, start or next_seq)
                else:
                    room.attach(self, next_seq)
        finally:
            self._chat.outbox.uncork()

    # What the hub asks for

    def hears(self, rid: str) -> bool:
        return bool(self._all) or LOG in self._kinds.get(rid, NOTHING)

    def encoder_in(self, rid: str) -> IFrameEncoder:
        return self._encoders.in_room(self._kinds.get(rid, NOTHING) | self._all)

    def let_go(self, rid: str) -> None:
        self._resets.pop(rid, None)
        for kind in self._kinds.pop(rid, NOTHING):
            id = Topic(kind, rid).subscription
            del self._subscriptions[id]
            if self._revokes:  # advanced profile, Subscription Revocation
                self._say(wamp.Unsubscribed(0, id, LEFT))

    def _tell_of(self, rid: str, event: events.Event) -> None:
        if isinstance(event, events.Reset) and not self.hears(rid):
            self._resets[rid] = event.floor
        else:
            super()._tell_of(rid, event)

    # The end

    def _leave(self) -> None:
        super()._leave()
        self._stage = _over  # a method of its own would be a circle, which only gc would find

    def _say(self, message: wamp.Message) -> None:
        self._chat.outbox.put((self,), self._encoders.message(message))

    def _say_refused(self, refused: Refused, code: Code = "bad_request") -> None:
        if refused.ref:
            self._chat.counters.errors[code] += 1
            self._say(wamp.Error(refused.kind, refused.request, refused.uri, args=[refused.reason]))

    def _refuse(self, ref: commands.Ref, error: MercuryError) -> None:
        self._aborted = ref is None  # a login was refused
        if ref is not None or error.code in ABORTS:  # else it is to come back, and an ABORT makes Autobahn JS stay away
            super()._refuse(ref, error)
        else:
            self._chat.counters.error(error)

    def _abort(self, uri: str, reason: str) -> None:
        self._aborted = True
        self._chat.counters.errors["unauthorized" if uri == DENIED else "bad_request"] += 1
        self._hang_up(self._encoders.message(wamp.Abort(uri, reason)), close_codes.BAD_CONNECT.code)

    def _hang_up(self, last: bytes, code: int = 1000) -> None:
        """Say what is left to say, and close."""
        said, self.out[:] = b"".join(self.out), []
        self.connection.write(said + last)
        self.connection.close(code, "")
        self._leave()

    def end(self, why: CloseReason) -> None:
        """Clients that shall come back are told nothing but the close code: a GOODBYE makes Autobahn's stay away."""
        if not (why.reconnect or self._aborted):
            self.connection.write(self._encoders.message(self._farewell(why)))
        super().end(why)

    def _farewell(self, why: CloseReason) -> wamp.Message:
        if self._welcomed:
            return wamp.Goodbye(KILLED, why.reason)
        if why == close_codes.BAD_CONNECT:
            return wamp.Abort(VIOLATION, "HELLO or AUTHENTICATE did not arrive in time")
        return wamp.Abort(DENIED, why.reason)


def _no_codec(payload: bytes, binary: bool) -> commands.Command:
    raise NotImplementedError("on_frame() reads WAMP's messages")


def _over(message: wamp.Message, raw: list[Any]) -> None:
    """What comes after the end counts for nothing."""
