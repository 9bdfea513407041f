"""A node in the test's own process: put together by mercury/node/build.py, listening on free ports of 127.0.0.1.

Node is the whole, SocketlessDevice a session without a socket, Answer what REST said. Who starts a Node stops it:

    async with Node() as node:
        answer = await node.ask("POST", "/api/tokens", {"member": "ann"})
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.core.dialect import PlainDialect
from mercury.core.parts import Chat
from mercury.core.session import Session
from mercury.domain import events
from mercury.domain.model import Entry
from mercury.http.server import Site
from mercury.interfaces import IConnection, IDirectWriter, IFrameEncoder, IStore
from mercury.net.siblings import Siblings
from mercury.node.build import make_chat
from mercury.rest.api_keys import ApiKeys
from mercury.rest.connections import MemberConnections
from mercury.rest.metrics import Metrics
from mercury.rest.readiness import Readiness
from mercury.rest.site import make_site
from mercury.settings.limits import Limits
from mercury.settings.schema import Api, Config
from mercury.stores.memory.store import MemoryStore
from mercury.websocket.subprotocols.v2 import V2

reactor: Any = installed

_numbers = itertools.count(1)

PATIENCE = 30.0  # seconds after which a test gives up; never a promise


class Answer(NamedTuple):
    """What REST answered. `json` is None where there is no body."""

    status: int
    headers: Mapping[str, str]
    json: Any

    @property
    def body(self) -> Any:
        """What stands in an ok answer's envelope."""
        assert self.json["status"] == "ok", self.json
        return self.json["body"]


class Node:
    """Mercury's core on a store (in memory unless one is given) with REST before it. `limits` as in the settings."""

    def __init__(self, store: IStore | None = None, clock: Any = None, **limits: Any) -> None:
        self.store: IStore = store or MemoryStore()
        self.config = Config(limits=Limits(**limits))
        self.chat: Chat = make_chat(clock or reactor, self.store, self.config)
        self._alone = Siblings(self.chat.clock)
        self.readiness = Readiness(self.chat, self._alone)
        self.readiness.enter("serving")
        self.keys = ""  # as in --server.api.keys
        self._port: IListeningPort | None = None
        self._wiretaps: list[Wiretap] = []

    def site(self) -> Site:
        """REST's factory."""
        return make_site(
            self.chat,
            ApiKeys(Api(keys=self.keys)),
            self.readiness,
            Metrics(self.chat, self.readiness, "memory", self._alone),
            MemberConnections(self.chat, self._alone),
        )

    async def __aenter__(self) -> Node:
        await self.store.open()
        self._port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.site())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        for wiretap in self._wiretaps:
            wiretap.drop()
        await self.chat.journal.idle()
        for session in self.chat.hub.everybody():
            session.connection.abort()
        await self.chat.marks.stop()
        await self.store.close()

    @property
    def port(self) -> int:
        """REST's port."""
        assert self._port is not None, "the node was not started"
        return cast(int, cast(Any, self._port).getHost().port)

    async def connect(self) -> Wiretap:
        """A connection to REST, for what no HTTP client would send."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        wiretap = cast(Wiretap, await connectProtocol(endpoint, Wiretap()))
        self._wiretaps.append(wiretap)
        return wiretap

    async def ask(
        self, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request. `target` is sent as it stands; a body that is not bytes goes as JSON."""
        payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += [f"Content-Length: {len(payload)}"] if payload else []
        wiretap = await self.connect()
        wiretap.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + payload)
        return parse(await wiretap.all())


def unplugged(
    clock: Clock, store: IStore | None = None, transport: StringTransport | None = None, **limits: Any
) -> tuple[Any, StringTransport]:
    """A connection to REST without a socket: the server's end of it, and what that writes to."""
    site: Any = Node(store, clock, **limits).site()
    channel, transport = site.buildProtocol(None), transport or StringTransport()
    channel.makeConnection(transport)
    return channel, transport


class Wiretap(Protocol):
    """A raw TCP connection that keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self._lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost.callback(None)

    def write(self, data: bytes) -> None:
        cast(Any, self.transport).write(data)

    @property
    def over(self) -> bool:
        """Whether the other side has closed."""
        return self._lost.called

    def drop(self) -> None:
        """Hang up rudely."""
        cast(Any, self.transport).abortConnection()

    async def all(self) -> bytes:
        """What came in when the other side has closed."""
        done: Deferred[None] = Deferred()
        self._lost.addCallback(lambda _: done.callback(None))
        await done.addTimeout(PATIENCE, reactor)
        return self.data

    async def whole(self) -> Answer:
        """The answer, when all of it has come in."""
        await until(lambda: is_whole(self.data))
        return parse(self.data)


def is_whole(data: bytes) -> bool:
    """Whether this is all of an HTTP answer that tells its length."""
    head, separator, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(separator) and length is not None and len(body) >= int(length[1])


def parse(data: bytes) -> Answer:
    """The one answer in these bytes."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(first.split()[1]), headers, json.loads(body) if body else None)


async def until(true: Any) -> None:
    """Wait until a condition holds."""
    end = reactor.seconds() + PATIENCE
    while not true():
        assert reactor.seconds() < end, "waited in vain"
        await deferLater(reactor, 0.01)


async def together(*waits: Any) -> list[Any]:
    """Wait for several coroutines at once."""
    return list(await gatherResults([Deferred.fromCoroutine(wait) for wait in waits]))


@implementer(IFrameEncoder)
class JsonLines:
    """Says entries and events in lines of JSON, as mercury.v2.json has them."""

    name = "lines"
    acknowledges = True

    def entries(self, entries: Sequence[Entry]) -> bytes:
        return b"".join(self.event(events.of_entry(entry)) for entry in entries)

    def event(self, event: events.Event) -> bytes:
        return msgspec.json.encode(event) + b"\n"


ENCODER = JsonLines()
DIALECT = PlainDialect(V2(Limits()).decode, ENCODER)


@implementer(IConnection)
class SocketlessDevice:
    """A member's connected device without a socket. `heard`: the events that it was told, as dicts."""

    peer = "192.0.2.7:4711"
    direct: IDirectWriter | None = None

    def __init__(self, chat: Chat, device: str = "") -> None:
        self.number = next(_numbers)
        self.heard: list[dict[str, Any]] = []
        self.closed_with: int | None = None
        self.session = Session(chat, self, DIALECT)
        self._chat = chat
        self._device = device

    async def login(self, secret: str, member: str) -> None:
        """Log in with a token, as a connection does whose URL has one."""
        checked = self._chat.clock.seconds()
        self.session.login(await self._chat.tokens.check(secret, member), checked, self._device)
        await until(lambda: self.heard or self.closed_with)

    def said(self, kind: str) -> list[dict[str, Any]]:
        """What was heard of this type."""
        return [event for event in self.heard if event["type"] == kind]

    def write(self, data: bytes) -> None:
        self.heard += [json.loads(line) for line in data.splitlines()]

    def ping(self, payload: bytes) -> None:
        self.session.pong(payload)

    def close(self, code: int, reason: str) -> None:
        self.closed_with = code
        self.session.closed(code)

    def abort(self) -> None:
        self.close(1006, "")

    def pause_reading(self) -> None:
        """There is no socket to hold."""

    def resume_reading(self) -> None:
        """Nor to release."""

    def bytes_taken(self) -> int:
        return 0


async def listen(node: Node, member: str, device: str = "") -> SocketlessDevice:
    """A device of a member that is connected to the node."""
    secret, _ = await node.chat.tokens.make(member)
    connected = SocketlessDevice(node.chat, device)
    await connected.login(secret, member)
    return connected
