"""A node's WebSocket port in the test's own process: the real factory over TCP, with the store in memory.

The fixture `open_port` of tests/conftest.py opens one: `port = await open_port(ws={...}, frame_bytes=...)`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from mercury.node import build
from mercury.settings.limits import Limits
from mercury.settings.schema import Config, Server, Ws
from mercury.stores.memory.store import MemoryStore
from tests.support.clockwork import Gate
from tests.support.in_process_node import Wiretap
from tests.support.recorder import Record
from tests.support.recording_clients import FluentClient, V1Client, V2Client, Where

reactor: Any = installed


class WebSocketPort:
    """A server's WebSocket port, and tokens for it."""

    def __init__(self, ws: dict[str, Any], limits: dict[str, Any]) -> None:
        self.config = Config(server=Server(ws=Ws(**ws)), limits=Limits(**limits))
        self.store = Gate(MemoryStore())
        self.chat = build.make_chat(reactor, self.store, self.config)  # type: ignore[arg-type]

    async def open(self) -> None:
        """Listen; Ann and Bob are in the room "r"."""
        await self.store.open()
        self.chat.heartbeat.start()
        factory: Any = build.make_websocket(reactor, self.chat, self.config)
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        address: Any = self.port.getHost()
        self.where = Where(address.port)
        await self.chat.rooms.join("r", ["ann", "bob"])
        self.token = (await self.chat.tokens.make("ann"))[0]
        self.url = f"/ws/connect?token={self.token}&member=ann"

    async def shut(self) -> None:
        """End it, with all connections."""
        await maybeDeferred(self.port.stopListening)
        for session in self.chat.hub.everybody():
            session.connection.abort()
        self.chat.heartbeat.stop()
        await self.chat.marks.stop()

    async def raw(self, data: bytes = b"") -> Wiretap:
        """A bare TCP connection that has sent this."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.where.ws)
        wiretap: Wiretap = await connectProtocol(endpoint, Wiretap())
        wiretap.write(data)
        return wiretap

    async def answer(self, data: bytes) -> tuple[int, dict[str, str]]:
        """The status and JSON with which this request is refused."""
        got = await (await self.raw(data)).all()
        head, _, body = got.partition(b"\r\n\r\n")
        assert b"content-type: application/json" in head.lower()
        return int(head.split()[1]), json.loads(body)

    def v1(self) -> V1Client:
        """A client of the first protocol."""
        return V1Client(Record(), self.where, "ann", self.token)

    def v2(self, device: str = "", kind: type[FluentClient] = V2Client) -> FluentClient:
        """A client of the second, or of WAMP."""
        return kind(Record(), self.where, "ann", self.token, device)


OpenPort = Callable[..., Any]
