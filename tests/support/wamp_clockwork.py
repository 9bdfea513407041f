"""WAMP sessions on a node without sockets or time (support/clockwork.py): what a client sends and is told, as lists.

node = Node()
ann = node.client("ann")
assert ann.tell([CALL, 1, {}, "mercury.typing", ["r"]]) == [(RESULT, 1)]
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import cbor2
import msgpack
from zope.interface import implementer

from mercury.core.session import Session
from mercury.domain.model import Token
from mercury.interfaces import IConnection, IDirectWriter
from mercury.settings.limits import Limits
from mercury.settings.schema import Wamp
from mercury.websocket.wamp.dialect import WampDialect
from mercury.websocket.wamp.encoders import WampEncoders
from mercury.websocket.wamp.messages import Packer
from mercury.websocket.wamp.topics import ALL, LOG, SIGNALS, Topic
from tests.support.clockwork import Clockwork

(HELLO, WELCOME, ABORT, CHALLENGE, AUTHENTICATE, GOODBYE, ERROR) = (1, 2, 3, 4, 5, 6, 8)
(PUBLISH, PUBLISHED, SUBSCRIBE, SUBSCRIBED, UNSUBSCRIBE, UNSUBSCRIBED, EVENT) = (16, 17, 32, 33, 34, 35, 36)
(CALL, CANCEL, RESULT, REGISTER, UNREGISTER) = (48, 49, 50, 64, 66)

ROLES: Final = {"subscriber": {"features": {"subscription_revocation": True}}, "caller": {}, "publisher": {}}
NAMES: Final = ("wamp.2.json", "wamp.2.msgpack", "wamp.2.cbor")
WRITE: Final[dict[str, Callable[[Any], bytes]]] = {
    "wamp.2.json": lambda value: json.dumps(value).encode(),
    "wamp.2.msgpack": msgpack.packb,
    "wamp.2.cbor": cbor2.dumps,
}
READ: Final[dict[str, Callable[[bytes], Any]]] = {
    "wamp.2.json": json.loads,
    "wamp.2.msgpack": msgpack.unpackb,
    "wamp.2.cbor": cbor2.loads,
}


def brief(message: list[Any]) -> tuple[Any, ...]:
    """What matters of a message, without what is random and without reasons, which are for people."""
    kind = message[0]
    if kind in (ABORT, GOODBYE):
        return (kind, message[2])
    if kind in (WELCOME, PUBLISHED, SUBSCRIBED):
        return (kind,) if kind == WELCOME else (kind, message[1])
    if kind == CHALLENGE:
        return (kind, message[1])
    if kind == ERROR:
        return (kind, message[1], message[2], message[4])
    if kind == RESULT:
        return (kind, message[1], *(message[3] if len(message) > 3 else ()))
    if kind == EVENT:
        _, subscription, _, details, args, kwargs = message
        topic = Topic(kwargs["type"] if kwargs["type"] in SIGNALS else LOG, kwargs["rid"])
        inbox = subscription == Topic(ALL).subscription
        assert inbox or subscription == topic.subscription
        assert details == ({"topic": topic.uri} if inbox else {})  # elsewhere it is what was subscribed to
        return (kind, topic.uri, kwargs["type"], *([kwargs["seq"]] if "seq" in kwargs else []), *args)
    return tuple(message)


def hello(**details: Any) -> list[Any]:
    """A HELLO by ticket, as Ann, to the right realm; each detail can be another one, or None: not there."""
    given = {"roles": ROLES, "authmethods": ["ticket"], "authid": "ann"} | details
    realm = given.pop("realm", "mercury")
    return [HELLO, realm, {name: value for name, value in given.items() if value is not None}]


class Node(Clockwork):
    """A node whose clients speak WAMP. Ann and Bob are in the room "r", Bob and Eve in "b"."""

    def __init__(self, **limits: Any) -> None:
        super().__init__(**limits)
        self.join("r", "ann", "bob")
        self.join("b", "bob", "eve")
        self.settings = Wamp()
        self.wires = {
            (name, deflate): WampEncoders(Packer(name, Limits()), deflate)
            for name in NAMES
            for deflate in (False, True)
        }

    def token(self, member: str = "ann") -> str:
        """A new one."""
        return self.now(self.chat.tokens.make(member))[0]

    def stranger(self, name: str = NAMES[0], *, deflate: bool = False, url: str = "", agent: str = "") -> Client:
        """A connection that has said nothing yet. `url`: the member whose token stood in its URL."""
        checked = self.clock.seconds()
        admitted = (self.now(self.chat.tokens.check(self.token(url), url)), checked, "of the URL") if url else None
        return Client(self, name, deflate, admitted, agent)

    def client(self, member: str = "ann", name: str = NAMES[0], device: str = "", **options: Any) -> Client:
        """A client that has logged in by ticket."""
        client = self.stranger(name, **options)
        client.tell(hello(authid=member, authextra={"device": device}))
        assert client.tell([AUTHENTICATE, self.token(member), {}]) == [(WELCOME,)]
        return client


@implementer(IConnection)
class Client:
    """One WAMP client. `heard`: all messages that it was sent, as they came. `code`: what it was closed with."""

    peer = "192.0.2.7:4711"
    direct: IDirectWriter | None = None
    number = 1

    def __init__(
        self, node: Node, name: str, deflate: bool, token: tuple[Token, float, str] | None, agent: str
    ) -> None:
        self.node = node
        self.name = name
        self.heard: list[list[Any]] = []
        self.code: int | None = None
        self.pinged = b""
        dialect = WampDialect(node.wires[name, deflate], node.settings, token, agent)
        self.session = Session(node.chat, self, dialect)
        self.session.await_connect()

    # What a test does with it

    def say(self, message: list[Any]) -> None:
        """Send a message; nothing settles."""
        self.session.on_frame(WRITE[self.name](message), self.name != "wamp.2.json")

    def tell(self, *messages: list[Any]) -> list[tuple[Any, ...]]:
        """Send messages and return what they brought, in brief."""
        before = len(self.heard)
        for message in messages:
            self.say(message)
        self.node.settle()
        return self.since(before)

    def since(self, before: int) -> list[tuple[Any, ...]]:
        """What was heard after so many messages, in brief."""
        return [brief(message) for message in self.heard[before:]]

    def subscribe(self, topic: str, **options: Any) -> int:
        """Subscribe to a topic; the subscription's id."""
        before = len(self.heard)
        assert self.tell([SUBSCRIBE, 1, options, topic])[:1] == [(SUBSCRIBED, 1)]
        id: int = self.heard[before][2]
        return id

    def pong(self) -> None:
        """Answer the last ping."""
        self.session.pong(self.pinged)
        self.node.settle()

    # IConnection

    def write(self, data: bytes) -> None:
        if self.code is None:
            self.heard += [READ[self.name](payload) for payload in payloads(data, self.name != "wamp.2.json")]

    def ping(self, payload: bytes) -> None:
        self.pinged = payload

    def close(self, code: int, reason: str) -> None:
        self.code = self.code or code

    def abort(self) -> None:
        self.code = 1006
        self.session.closed(1006)

    def pause_reading(self) -> None:
        """There is no socket to hold."""

    def resume_reading(self) -> None:
        """Nor to release."""

    def bytes_taken(self) -> int:
        return 0


def payloads(data: bytes, binary: bool) -> Iterator[bytes]:
    """The messages in a server's frames (RFC 6455, 5.2; RFC 7692, 7.2.2), each of which has to be whole."""
    while data:
        first, size, data = data[0], data[1], data[2:]
        assert first & 0x8F == (0x82 if binary else 0x81)
        if size > 125:
            length = 2 if size == 126 else 8
            size, data = int.from_bytes(data[:length]), data[length:]
        payload, data = data[:size], data[size:]
        yield zlib.decompress(payload + b"\0\0\xff\xff\3\0", -15) if first & 0x40 else payload


def errors(told: Sequence[tuple[Any, ...]]) -> list[str]:
    """The URIs of the ERRORs."""
    return [message[3] for message in told if message[0] == ERROR]
