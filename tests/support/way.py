"""The way from a node to one of its engines: a TCP proxy that can become a black hole, fall silent, or lose an answer.

Connections that lost something once stay useless until somebody closes them, as in real life; and what a node closes
then is not closed for the engine. A real black hole does not take up new connections either; this one does, and then
says nothing.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.protocol import connectionDone
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer
from twisted.python.failure import Failure

reactor: Any = installed


class _ToEngine(ProxyClient):
    transport: Any
    peer: Any

    def dataReceived(self, data: bytes) -> None:
        if self.peer is None or not self.peer.passes():
            return
        if self.peer.loses_answer:
            self.transport.loseConnection()  # and with it the node's
        else:
            super().dataReceived(data)  # type: ignore[no-untyped-call]


class _ToEngineFactory(ProxyClientFactory):
    noisy = False
    protocol = _ToEngine


class _ToNode(ProxyServer):
    clientProtocolFactory = _ToEngineFactory  # noqa: N815 - Twisted's name
    factory: Way
    peer: Any
    noisy = False
    dead = False
    subscribes = False
    loses_answer = False

    def passes(self) -> bool:
        """Whether anything gets through here: once it did not, nothing ever does."""
        self.dead = self.dead or self.factory.hole or (self.factory.silent and self.subscribes)
        return not self.dead

    def connectionMade(self) -> None:
        if self.passes():
            super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        self.subscribes = self.subscribes or b"SUBSCRIBE" in data
        if self.passes():
            if self.factory.cut_at and self.factory.cut_at in data:
                self.loses_answer, self.factory.cut_at = True, b""
            if self.factory.hole_at and self.factory.hole_at in data:
                self.factory.hole, self.factory.hole_at = True, b""
            else:
                super().dataReceived(data)  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.passes():
            super().connectionLost(reason)  # type: ignore[no-untyped-call]
        elif self.peer is not None:
            self.factory.orphans.append(self.peer)


class Way(ProxyFactory):
    """To the engine on `engine_port` of 127.0.0.1, from the port `outer`. open() it and close() it.

    `hole`: nothing gets through. `hole_at`: so it is from the moment on at which a node sends this. `silent`: what was
    subscribed to in Redis does not come, all else does. `cut_at`: the next time a node sends this, the engine gets it,
    and the connection ends when it answers.
    """

    protocol = _ToNode
    noisy = False
    hole = False
    silent = False
    hole_at = b""
    cut_at = b""

    def __init__(self, engine_port: int) -> None:
        super().__init__("127.0.0.1", engine_port)
        self.orphans: list[Any] = []
        self._listening: Any = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.outer: int = self._listening.getHost().port

    async def close(self) -> None:
        """Listen no more, and let the engine go."""
        for orphan in self.orphans:
            orphan.transport.abortConnection()
        await self._listening.stopListening()
