"""WAMP in mercury.v2.json's words, for tests: what a client of v2 would have said, or been told, and as WAMP has it.

So the tests of v2 are tests of WAMP, too. Autobahn's classes make and read the messages, as they do for real clients.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from autobahn.wamp import message as wamp
from autobahn.wamp.role import (
    RoleCallerFeatures,
    RolePublisherFeatures,
    RoleSubscriberFeatures,
)
from autobahn.wamp.serializer import CBORObjectSerializer, JsonObjectSerializer, MsgPackObjectSerializer, Serializer

SERIALIZERS: Final[dict[str, Any]] = {
    "json": JsonObjectSerializer,
    "msgpack": MsgPackObjectSerializer,
    "cbor": CBORObjectSerializer,
}

INBOX: Final = "mercury.inbox"
ROOMS: Final = "mercury.room."  # with match=prefix, the same
SIGNALS: Final = ("typing", "presence", "read")

Frame = dict[str, Any]


class SubscribeAfter(wamp.Subscribe):
    """A SUBSCRIBE with Mercury's own option."""

    after: int | None = None

    def marshal(self) -> list[Any]:
        marshalled: list[Any] = super().marshal()  # type: ignore[no-untyped-call]
        if self.after is not None:
            marshalled[2]["after"] = self.after
        return marshalled


class Words:
    """One session's. `serializer`: json, msgpack or cbor. `topics`: what is subscribed to, by the subscription's id.

    Beside v2's frames there are `subscribe` (`topic`, perhaps `after` and `match`), `unsubscribe` (`topic`) and
    `publish` (`topic`, `text`, perhaps `cid` and `acknowledge`), and what the server may say: `goodbye`, and `revoked`
    for a subscription.
    """

    def __init__(self, serializer: str) -> None:
        self._serializer = SERIALIZERS[serializer]()
        self.topics: dict[int, str] = {}
        self._requests = itertools.count(1)
        self._asked: dict[int, Frame] = {}

    def packed(self, message: wamp.Message) -> tuple[bytes, bool]:
        """A message as the payload of a WebSocket message; and whether that is binary."""
        return message.serialize(self._serializer), self._serializer.BINARY

    def unpacked(self, payload: bytes, binary: bool) -> list[wamp.Message]:
        """The messages in a payload."""
        assert binary == self._serializer.BINARY
        raw: list[Any] = self._serializer.unserialize(payload)
        kinds: dict[int, Any] = Serializer.MESSAGE_TYPE_MAP
        return [kinds[message[0]].parse(message) for message in raw]

    # What a client says

    def hello(self, member: str, **extra: Any) -> wamp.Message:
        """The first message."""
        roles = {
            "caller": RoleCallerFeatures(),
            "publisher": RolePublisherFeatures(),
            "subscriber": RoleSubscriberFeatures(subscription_revocation=True),
        }
        return wamp.Hello("mercury", roles, authmethods=["ticket"], authid=member, authextra=extra)

    def message(self, frame: Frame) -> wamp.Message:
        """A frame as a message."""
        request = next(self._requests)
        self._asked[request] = frame
        kind = frame["type"]
        rest = {name: value for name, value in frame.items() if name not in ("type", "ref", "topic")}
        if kind == "subscribe":
            return self._subscribe(request, frame["topic"], **rest)
        if kind == "unsubscribe":
            subscription = next(id for id, topic in self.topics.items() if topic == frame["topic"])
            return wamp.Unsubscribe(request, subscription)
        if kind == "publish":
            acknowledge = rest.pop("acknowledge", None)
            return wamp.Publish(request, frame["topic"], args=[rest.pop("text")], kwargs=rest, acknowledge=acknowledge)
        return wamp.Call(request, f"mercury.{kind}", args=[rest.pop("rid")] if "rid" in rest else [], kwargs=rest)

    def _subscribe(self, request: int, topic: str, after: int | None = None, match: str | None = None) -> wamp.Message:
        message = SubscribeAfter(request, topic, match)  # type: ignore[no-untyped-call]
        message.after = after
        return message

    # What it is told

    def frame(self, message: wamp.Message) -> Frame:
        """A message as a frame. What comes is held against what was asked for, so an EVENT that is not subscribed to,
        or an answer to nothing, is a KeyError."""
        if isinstance(message, wamp.Event):
            return self._event(message)
        if isinstance(message, wamp.Welcome):
            return {"type": "hello", "member": message.authid, **message.authextra}
        if isinstance(message, wamp.Abort):
            return {"type": "error", "code": _code(message.reason), "reason": message.message}
        if isinstance(message, wamp.Goodbye):
            return {"type": "goodbye", "reason": message.reason}
        if isinstance(message, wamp.Unsubscribed) and not message.request:
            return {"type": "revoked", "topic": self.topics.pop(message.subscription), "reason": message.reason}
        return self._answer(message)

    def _event(self, event: wamp.Event) -> Frame:
        subscribed, kwargs = self.topics[event.subscription], event.kwargs
        topic = event.topic or subscribed  # told where the subscription is to more than one
        room = topic.removeprefix(ROOMS)
        assert subscribed in (INBOX, ROOMS, topic), f"{topic} came by the subscription to {subscribed}"
        assert room.partition(".")[2] == (kwargs["type"] if kwargs["type"] in SIGNALS else "")
        if kwargs["type"] == "message":
            assert event.publication == kwargs["id"]
            return {**kwargs, "text": event.args[0]}
        return dict(kwargs)

    def _answer(self, message: Any) -> Frame:
        asked = self._asked.pop(message.request)
        about = {"ref": asked["ref"]} if "ref" in asked else {}
        if isinstance(message, wamp.Error):
            kwargs = message.kwargs or {}
            return {"type": "error", **about, "code": _code(message.error), "reason": message.args[0], **kwargs}
        if isinstance(message, wamp.Subscribed):
            self.topics[message.subscription] = asked["topic"]
        elif isinstance(message, wamp.Unsubscribed):
            self.topics = {id: topic for id, topic in self.topics.items() if topic != asked["topic"]}
        elif isinstance(message, wamp.Published):
            about["id"] = message.publication
        else:
            assert isinstance(message, wamp.Result), message
            about |= message.args[0] if message.args else {}
        return {"type": "ok", **about}


def _code(uri: str) -> str:
    return uri.removeprefix("mercury.error.")
