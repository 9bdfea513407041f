"""A whole node in the test's own process, put together from settings as mercury/node/build.py does it, with all of
its ports on 127.0.0.1. A test changes a setting and reloads:

    async with WholeNode({"limits.text-bytes": "100"}) as node:
        node.reload("limits.text-bytes", "10")
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from argon2 import PasswordHasher
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.logger import globalLogPublisher

from mercury.gotalk.passwords import Passwords
from mercury.node import build
from mercury.node.logs import observer
from mercury.settings.sources import load
from mercury.stores.memory.store import MemoryStore
from tests.support import in_process_node
from tests.support.in_process_node import Answer, Wiretap, is_whole, parse, reactor, until
from tests.support.node_service import listening_service
from tests.support.websocket_bytes import masked, upgrade

LOCAL = {
    "storage.type": "memory",
    "gotalk.enabled": "true",
    "server.api.address": "127.0.0.1",
    "server.ws.address": "127.0.0.1",
    "gotalk.address": "127.0.0.1",
    "drain.seconds": "0",
} | {f"{listener}.port": "0" for listener in ("server.api", "server.ws", "gotalk")}
FORM = "Content-Type: application/x-www-form-urlencoded"
V2 = "Sec-WebSocket-Protocol: mercury.v2.json"
PORTS = ("server.api", "server.ws", "gotalk")


class WholeNode:
    """The node. `store`: in memory unless another one is given. `log`: its lines, so far."""

    def __init__(self, flags: Mapping[str, str], store: Any = None) -> None:
        self.flags = {**LOCAL, **flags}
        self.config, _ = load(self.flags, {})
        self.store = store or MemoryStore()
        self.chat = build.make_chat(reactor, self.store, self.config)
        passwords = Passwords(reactor)
        passwords._hasher = PasswordHasher(1, 8, 1)
        self.service = listening_service(reactor, self.chat, self.config, lambda: load(self.flags, {})[0], passwords)
        self._lines = io.StringIO()
        self._observer = observer(self._lines, self.config.log)
        self._wiretaps: list[Wiretap] = []
        self._open: Wiretap | None = None

    async def __aenter__(self) -> WholeNode:
        globalLogPublisher.addObserver(self._observer)
        self.service.privilegedStartService()
        await self.service._start()
        return self

    async def __aexit__(self, *error: object) -> None:
        for wiretap in self._wiretaps:
            wiretap.drop()
        for session in self.chat.hub.everybody():
            session.connection.abort()
        await until(lambda: not any(one.factory.total for one in self.service.listenings))
        await self.service.stopService()
        globalLogPublisher.removeObserver(self._observer)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What Mercury has logged, if that is in JSON."""
        lines = [json.loads(line) for line in self._lines.getvalue().splitlines()]
        return [line for line in lines if line["system"].startswith("mercury")]

    def raw_log(self) -> str:
        """What was logged since this was called last."""
        text = self._lines.getvalue()
        self._lines.seek(0)
        self._lines.truncate()
        return text

    def reload(self, path: str, value: str) -> None:
        """Change a setting where it stands, and reload."""
        self.flags[path] = value
        self.service.reload()

    # What a test does with it

    async def connect(self, listener: str, data: bytes = b"") -> Wiretap:
        """A TCP connection to a port, named by its section, that has sent this."""
        port: Any = self.service._ports[PORTS.index(listener)]
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        wiretap: Wiretap = await connectProtocol(endpoint, Wiretap())
        self._wiretaps.append(wiretap)
        wiretap.write(data)
        return wiretap

    async def http(
        self, listener: str, method: str, target: str, body: bytes = b"", *headers: str, before: bytes = b""
    ) -> Answer | None:
        """One request; None if the connection is not let in. `before`: what is sent before it."""
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
        lines += [f"Content-Length: {len(body)}", "", ""]
        wiretap = await self.connect(listener, before + "\r\n".join(lines).encode() + body)
        await until(lambda: is_whole(wiretap.data) or wiretap.over)
        return parse(wiretap.data) if wiretap.data else None

    async def status(self, *request: Any, **how: Any) -> int:
        """The status of an answer, 0 if there is none."""
        answer = await self.http(*request, **how)
        return answer.status if answer else 0

    async def handshake(self, *headers: str, before: bytes = b"", query: str = "") -> Wiretap:
        """A WebSocket connection, as far as it gets."""
        wiretap = await self.connect("server.ws", before + upgrade(f"/ws/connect{query}", *headers))
        await until(lambda: b"\r\n\r\n" in wiretap.data or wiretap.over)
        return wiretap

    async def upgraded(self, *headers: str, before: bytes = b"") -> int:
        """The status of a handshake, 0 if the connection is not let in."""
        wiretap = await self.handshake(*(headers or (V2,)), before=before)
        return int(wiretap.data.split()[1]) if wiretap.data else 0

    async def say(self, payload: bytes, size: int = 1) -> bytes:
        """Send a frame on a connection that stays open from the first call on; what that brings, `size` bytes at
        least."""
        if self._open is None:
            self._open = await self.handshake(V2)
            secret = (await self.chat.tokens.make("ann"))[0]
            hello = json.dumps({"type": "connect", "token": secret, "member": "ann"}).encode()
            self._open.write(masked(hello))
            await until(lambda: b"hello" in self._open.data)
        wiretap = self._open
        before = len(wiretap.data)
        wiretap.write(masked(payload))
        await until(lambda: len(wiretap.data) >= before + size or wiretap.over)
        return wiretap.data[before:]

    async def listen(self, member: str, device: str = "") -> in_process_node.SocketlessDevice:
        """A session without a socket, logged in."""
        return await in_process_node.listen(self, member, device)  # type: ignore[arg-type]

    def member(self) -> str:
        """A name that nobody has had yet."""
        self._members = getattr(self, "_members", 0) + 1
        return f"member-{self._members}"


def proxied(source: str) -> bytes:
    """What a proxy says before its client's first byte (the PROXY protocol, version 1)."""
    return f"PROXY TCP4 {source} 127.0.0.1 4711 80\r\n".encode()
