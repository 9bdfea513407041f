"""`wamp.2.json`, `wamp.2.msgpack` and `wamp.2.cbor`: what Autobahn's clients speak (https://wamp-proto.org).

Messages are Autobahn's classes, which check what came in; serialization.py turns bytes into their values and back. Here
stands what they mean. A client's CALL or PUBLISH becomes one of commands.py; answers become RESULT,
PUBLISHED or ERROR, and what a room has to say becomes EVENTs. docs/autobahn-js.md is for those who write clients.
Sections named below are those of the specification.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from autobahn.wamp import message as wamp
from autobahn.wamp.exception import InvalidUriError
from autobahn.wamp.serializer import Serializer

from mercury.domain import commands, events
from mercury.domain.model import Entry
from mercury.settings.limits import Limits
from mercury.websocket.wamp.serialization import BINARY, READERS, WRITERS, as_in_json, is_plain
from mercury.websocket.wamp.topics import ALL, LOG, Topic, spelled, topic_of

NAMES: Final = tuple(READERS)

#: What a client may send; the roles of a router are ours. REQUESTS have an id (basic profile, IDs, session scope).
REQUESTS: Final = frozenset(
    {wamp.Call, wamp.Cancel, wamp.Publish, wamp.Subscribe, wamp.Unsubscribe, wamp.Register, wamp.Unregister}
)
FROM_CLIENT: Final = REQUESTS | {wamp.Hello, wamp.Authenticate, wamp.Abort, wamp.Goodbye}

#: Procedures: the command, and the names of positional arguments.
PROCEDURES: Final[dict[str, tuple[type[commands.Command], tuple[str, ...]]]] = {
    "mercury.send": (commands.Send, ("rid", "text", "cid")),
    "mercury.history": (commands.History, ("rid",)),
    "mercury.rooms": (commands.Rooms, ()),
    "mercury.read": (commands.Read, ("rid", "seq")),
    "mercury.ack": (commands.Ack, ("rid", "seq")),
    "mercury.presence": (commands.Presence, ("rid",)),
    "mercury.typing": (commands.Typing, ("rid",)),
    "mercury.leave": (commands.Leave, ("rid",)),
}

#: ABORT's reason for a login that was refused for good (advanced profile, URIs, authentication).
ABORTS: Final = {"unauthorized": "wamp.error.authentication_denied", "bad_request": "wamp.error.invalid_argument"}

UNHEARD: Final = 0  # the ref of what is answered to nobody: a PUBLISH without acknowledge


class ViolationError(Exception):
    """What came is against the protocol, and ends the session (basic profile, Protocol Violations)."""


class WrongUriError(ViolationError):
    """A topic or procedure is no URI; `refused` is what to answer."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.reason)
        self.refused = refused


class WampRequest(commands.Command, kw_only=True):
    """What WAMP's own messages ask for, beside the commands that all protocols have."""

    ref: int = 0

    @property
    def request(self) -> int:
        """The client's request id."""
        return self.ref // 100

    @property
    def kind(self) -> int:
        """The type of its message."""
        return self.ref % 100


class Subscribe(WampRequest, kw_only=True):
    """Hear of a topic. `after`: from the entry after this seq on, in place of the device's cursor."""

    topic: Topic
    after: int | None = None


class Unsubscribe(WampRequest, kw_only=True):
    """Hear of it no more."""

    subscription: int


class Goodbye(WampRequest, kw_only=True):
    """The client leaves, when what it asked before is answered."""


class Refused(WampRequest, kw_only=True):
    """What is answered with one of the specification's errors when its turn comes."""

    uri: str
    reason: str


def refusal(of: WampRequest, uri: str, reason: str) -> Refused:
    """The error that answers a request."""
    return Refused(ref=of.ref, uri=uri, reason=reason)


def ref_of(request: int, kind: type[wamp.Message]) -> int:
    """The ref of a command: the client's request id, and which of its messages this was."""
    return request * 100 + _type_of(kind)


def _type_of(kind: type[wamp.Message]) -> int:
    number: Any = kind.MESSAGE_TYPE  # None in the base class only
    return int(number)


class Packer:
    """One serialization. `binary`: whether it goes in binary frames."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self._limits = limits
        self._read, self._write = READERS[name], WRITERS[name]
        self.binary = name in BINARY

    def pack(self, message: wamp.Message) -> bytes:
        """A message's bytes."""
        return self._write(message.marshal())

    def parse(self, payload: bytes, binary: bool) -> tuple[wamp.Message, list[Any]]:
        """A client's message, as Autobahn reads it and as it came. Raises ViolationError."""
        if binary != self.binary:
            raise ViolationError(f"{self.name} comes in {'binary' if self.binary else 'text'} frames")
        depth = self._limits.json_depth
        try:
            raw = self._read(payload, depth)
        except Exception as error:  # whatever these libraries raise for what is wrong
            raise ViolationError(f"the message cannot be read as {self.name}") from error
        if type(raw) is not list or not raw or not is_plain(raw, depth):
            raise ViolationError(f"a message is a list of plain values, nested no deeper than {depth}")
        if self.binary:
            raw = as_in_json(raw)
        kind: Any = Serializer.MESSAGE_TYPE_MAP.get(raw[0]) if type(raw[0]) is int else None
        if kind not in FROM_CLIENT:
            raise ViolationError("clients do not send messages of this type")
        if kind in REQUESTS and len(raw) > 1 and raw[1] == 0:  # which Autobahn lets pass
            raise ViolationError("ids start at 1")
        try:
            return kind.parse(raw), raw
        except InvalidUriError as error:
            if kind in (wamp.Abort, wamp.Goodbye):  # whoever goes may go, whatever their reason is called
                return kind("wamp.close.normal"), raw
            raise WrongUriError(_wrong_uri(kind, raw)) from error
        except Exception as error:  # ProtocolError, and what its checks overlook
            raise ViolationError(f"the message is not well formed: {error}") from error


# What a client says


def command_of(message: wamp.Message, raw: list[Any]) -> commands.Command | None:
    """The command in a message of an open session; None if there is nothing to do. Raises ViolationError."""
    if isinstance(message, wamp.Call):
        return _called(message)
    if isinstance(message, wamp.Publish):
        return _published(message)
    if isinstance(message, wamp.Subscribe):
        return _subscribed(message, raw[2])
    if isinstance(message, wamp.Unsubscribe):
        return Unsubscribe(ref=ref_of(message.request, wamp.Unsubscribe), subscription=message.subscription)
    if isinstance(message, wamp.Register):
        reason = "clients cannot register procedures"
        return Refused(ref=ref_of(message.request, wamp.Register), uri="wamp.error.not_authorized", reason=reason)
    if isinstance(message, wamp.Unregister):
        reason = "this registration does not exist"
        return Refused(
            ref=ref_of(message.request, wamp.Unregister), uri="wamp.error.no_such_registration", reason=reason
        )
    if isinstance(message, wamp.Goodbye):
        return Goodbye()
    if isinstance(message, wamp.Cancel):  # calls are short, and what has begun is done
        return None
    raise ViolationError(f"{type(message).__name__.upper()} is not allowed in an open session")


def _wrong_uri(kind: type[wamp.Message], raw: list[Any]) -> Refused:
    """The answer to a message with a URI that is none; the checks of its id and options have come before."""
    hushed = kind is wamp.Publish and not raw[2].get("acknowledge")
    answered = kind in (wamp.Call, wamp.Publish, wamp.Subscribe, wamp.Register) and not hushed
    reason = "the topic or procedure is not a valid WAMP URI"
    return Refused(ref=ref_of(raw[1], kind) if answered else UNHEARD, uri="wamp.error.invalid_uri", reason=reason)


def _called(call: wamp.Call) -> commands.Command:
    ref = ref_of(call.request, wamp.Call)
    known = PROCEDURES.get(call.procedure)
    if known is None:
        reason = f"there is no procedure {call.procedure}"
        return Refused(ref=ref, uri="wamp.error.no_such_procedure", reason=reason)
    return _command(ref, *known, call.payload or call.args, call.kwargs)


def _published(publish: wamp.Publish) -> commands.Command:
    ref = ref_of(publish.request, wamp.Publish) if publish.acknowledge else UNHEARD
    topic = topic_of(publish.topic)
    if topic is None or topic.kind != LOG:
        reason = f"publish to a room's topic, not to {publish.topic}"
        return Refused(ref=ref, uri="wamp.error.not_authorized", reason=reason)
    kwargs = publish.kwargs
    if isinstance(kwargs, dict) and "rid" in kwargs:
        return Refused(ref=ref, uri="wamp.error.invalid_argument", reason="leave out rid: the topic names the room")
    return _command(
        ref, commands.Send, ("text", "cid"), publish.payload or publish.args, {**(kwargs or {}), "rid": topic.rid}
    )


def _subscribed(subscribe: wamp.Subscribe, options: Mapping[str, Any]) -> commands.Command:
    ref = ref_of(subscribe.request, wamp.Subscribe)
    if subscribe.match == wamp.Subscribe.MATCH_WILDCARD:
        return Refused(ref=ref, uri="wamp.error.option_not_allowed", reason="wildcard subscriptions are not supported")
    if subscribe.match == wamp.Subscribe.MATCH_EXACT and "" in subscribe.topic.split("."):  # Autobahn lets it pass
        return Refused(ref=ref, uri="wamp.error.invalid_uri", reason="a part of the topic is empty")
    topic = topic_of(subscribe.topic, subscribe.match == wamp.Subscribe.MATCH_PREFIX)
    if topic is None:
        reason = f"there is no topic {subscribe.topic}"
        return Refused(ref=ref, uri="wamp.error.not_authorized", reason=reason)
    after = options.get("after")
    if after is not None and (type(after) is not int or not 0 <= after < 2**53 or topic.kind != LOG):
        reason = "after must be a seq, and only works with a room's topic"
        return Refused(ref=ref, uri="wamp.error.invalid_argument", reason=reason)
    return Subscribe(ref=ref, topic=topic, after=after)


def _command(ref: int, kind: type[commands.Command], names: Sequence[str], args: Any, kwargs: Any) -> commands.Command:
    """A command of its arguments, each of which may come by place or by name."""
    args, kwargs = args or [], kwargs or {}
    try:
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise ValueError("encrypted payloads are not supported")
        if len(args) > len(names):
            raise ValueError(f"at most {len(names)} positional arguments: {', '.join(names) or 'none'}")
        placed = dict(zip(names, args, strict=False))
        allowed = set(kind.__struct_fields__) - {"ref"}
        if unknown := kwargs.keys() - allowed | kwargs.keys() & placed.keys():
            raise ValueError(f"unknown or given twice: {', '.join(sorted(unknown))}")
        values = {name: _as_text(value) for name, value in (placed | kwargs).items()}
        command = msgspec.convert(values, kind)
    except ValueError as error:
        return Refused(ref=ref, uri="wamp.error.invalid_argument", reason=str(error))
    command.ref = ref
    return command


def _as_text(value: object) -> object:
    """WAMP's JSON has no other way to send a text that begins with NUL than as bytes."""
    return value.decode() if isinstance(value, bytes) else value


# What a client is told


class Answers:
    """The codec of what a session tells its own client."""

    acknowledges = True

    def __init__(self, packer: Packer) -> None:
        self.name = packer.name
        self.pack = packer.pack

    def entry(self, entry: Entry) -> bytes:
        return b""

    def event(self, event: events.Event) -> Sequence[bytes]:
        ref = getattr(event, "ref", None)
        if isinstance(event, events.Error):
            return () if ref == UNHEARD else (self.pack(error_of(event)),)
        if not isinstance(ref, int) or ref == UNHEARD:
            return ()
        request, kind = divmod(ref, 100)
        if kind == wamp.Publish.MESSAGE_TYPE and isinstance(event, events.SendOk):
            return (self.pack(wamp.Published(request, event.id)),)
        result = msgspec.to_builtins(event)
        del result["type"], result["ref"]
        return (self.pack(wamp.Result(request, args=[result] if result else None)),)


def error_of(error: events.Error) -> wamp.Message:
    """ERROR for a request, ABORT for a login."""
    if not isinstance(error.ref, int):
        return wamp.Abort(ABORTS[error.code], error.reason)
    request, kind = divmod(error.ref, 100)
    more = None if error.retry_after is None else {"retry_after": error.retry_after}
    return wamp.Error(kind, request, f"mercury.error.{error.code}", args=[error.reason], kwargs=more)


def publication() -> int:
    """A new id for what has none of its own (basic profile, IDs, global scope)."""
    return secrets.randbelow(2**53) + 1


class LogCodec:
    """The codec of the EVENTs that carry a room's log, to its topic or, with `inbox`, to the inbox."""

    acknowledges = False

    def __init__(self, packer: Packer, inbox: bool) -> None:
        self.name = packer.name
        self._pack = packer.pack
        self._inbox = Topic(ALL).subscription if inbox else None

    def entry(self, entry: Entry) -> bytes:
        fields = msgspec.to_builtins(events.of_entry(entry))
        args = [fields.pop("text")] if entry.kind == "message" else []
        return self._event(entry.rid, entry.id, args, fields)

    def event(self, event: events.Event) -> Sequence[bytes]:
        if isinstance(event, events.Reset | events.CaughtUp):
            return (self._event(event.rid, publication(), [], msgspec.to_builtins(event)),)
        return ()

    def _event(self, rid: str, id: int, args: list[str], kwargs: dict[str, Any]) -> bytes:
        uri, subscription = spelled(Topic(LOG, rid))
        if self._inbox is None:  # clients know which topic that is (basic profile, EVENT)
            return self._pack(wamp.Event(subscription, id, args=args, kwargs=kwargs))
        return self._pack(wamp.Event(self._inbox, id, args=args, kwargs=kwargs, topic=uri))


class Signals:
    """The codec of the EVENTs to one of a room's other topics."""

    acknowledges = False

    def __init__(self, packer: Packer, kind: str) -> None:
        self.name = packer.name
        self._pack = packer.pack
        self._kind = kind

    def entry(self, entry: Entry) -> bytes:
        return b""

    def event(self, event: events.Event) -> Sequence[bytes]:
        if (
            not isinstance(event, events.Typing | events.Presence | events.Read)
            or event.__struct_config__.tag != self._kind
        ):
            return ()
        _, subscription = spelled(Topic(self._kind, event.rid))
        return (self._pack(wamp.Event(subscription, publication(), args=[], kwargs=msgspec.to_builtins(event))),)
