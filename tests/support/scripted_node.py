"""A whole node in the test's own process, for tests that need hundreds of them: as mercury/node/build.py builds it.

Its sockets and buffers are small, so that a client that does not read is soon noticed.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from mercury.core.session import Session
from mercury.node import build
from mercury.settings.limits import Limits
from mercury.settings.schema import Config
from mercury.websocket.admission import ChatHandler, Subprotocols
from mercury.websocket.connection import WebSocketConnection
from mercury.websocket.factory import WebSocketFactory
from tests.support.recording_clients import Where

SMALL = 4096  # bytes


class _Cramped(WebSocketConnection):
    """A connection whose socket is full after a few kilobytes."""

    def connectionMade(self) -> None:
        self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        self.transport.bufferSize = SMALL
        super().connectionMade()


class ScriptedNode:
    """A node on a SQLite file, listening for WebSockets. start() after an end makes a new one on the same file."""

    def __init__(self, path: Path, limits: Limits = Limits()) -> None:  # noqa: B008 - it is frozen
        self.config = Config(limits=limits, sqlite=Config().sqlite.__class__(path=str(path)))
        self.where = Where(0)
        self.sessions: list[Session] = []

    async def start(self) -> Where:
        """Listen. The same Where is valid after a restart."""
        self.store = build.make_store(self.config)
        self.chat = build.make_chat(reactor, self.store, self.config)
        await self.store.open()
        self.chat.heartbeat.start()
        subprotocols = Subprotocols(self.config)
        factory = WebSocketFactory(
            lambda connection: ChatHandler(self.chat, subprotocols, connection),
            reactor=reactor,
            limits=self.config.limits,
            ws=self.config.server.ws,
        )
        factory.protocol = type("Cramped", (_Cramped, factory.protocol), {})  # type: ignore[assignment]
        self.connections: set[Any] = set()
        self.port: Any = reactor.listenTCP(self.where.ws, factory, interface="127.0.0.1")
        address: Any = self.port.getHost()
        self.where = Where(address.port)
        return self.where

    async def stop(self) -> None:
        """End it as SIGTERM would: what is on its way into the store gets there."""
        await self.port.stopListening()
        await self.chat.journal.idle()
        await self._end()

    async def crash(self) -> None:
        """Break everything off in the middle, as far as that can be done to a part of a process."""
        await self.port.stopListening()
        for session in self.chat.hub.everybody():
            session.connection.abort()
        self.chat.marks.delivered = lambda *args: None  # type: ignore[method-assign]
        self.chat.marks._cursors.clear()
        await self.store.close()
        await self._end()

    async def _end(self) -> None:
        for session in self.chat.hub.everybody():
            session.connection.abort()
        self.chat.heartbeat.stop()
        await self.chat.marks.stop()
        await self.store.close()
        await deferLater(reactor, 0)
