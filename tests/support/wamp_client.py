"""The test client of WAMP: what V2Client does, by Autobahn's messages and serializers."""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory
from autobahn.wamp import message as wamp

from tests.support.recording_clients import FluentClient
from tests.support.wamp_words import INBOX, SIGNALS, Words


class WampClient(FluentClient):
    """`wamp.2.json`, logging in by a ticket. It subscribes to `topics` when it is welcome, by default to all of its
    rooms. A subclass may speak another serialization."""

    protocol = "wamp"
    serializer = "json"

    def __init__(self, *args: Any, topics: tuple[str, ...] = (INBOX,), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.topics = topics
        self.words = Words(self.serializer)

    def options(self, factory: WebSocketClientFactory) -> None:
        factory.protocols = [f"wamp.2.{self.serializer}"]
        factory.useragent = "a client"  # to one that says it is Autobahn's for Python not all is said

    def opened(self) -> None:
        self.words = Words(self.serializer)
        self._put(self.words.hello(self.member, device=self.device, **self.resume()))

    def write(self, **frame: Any) -> None:
        self._put(self.words.message(frame))

    def _put(self, message: wamp.Message) -> None:
        self.send(*self.words.packed(message))

    def receive(self, payload: bytes, binary: bool) -> None:
        for message in self.words.unpacked(payload, binary):
            if isinstance(message, wamp.Challenge):
                self._put(wamp.Authenticate(self.token))
                continue
            self.hear(self.words.frame(message))
            if isinstance(message, wamp.Welcome):
                for topic in self.topics:
                    self.write(type="subscribe", topic=topic)

    async def hear_signals(self, rid: str) -> None:
        for kind in SIGNALS:
            answer = await self.ask(type="subscribe", topic=f"mercury.room.{rid}.{kind}")
            assert answer["type"] == "ok", answer


class WampMsgpackClient(WampClient):
    """`wamp.2.msgpack`."""

    serializer = "msgpack"


class WampCborClient(WampClient):
    """`wamp.2.cbor`."""

    serializer = "cbor"
