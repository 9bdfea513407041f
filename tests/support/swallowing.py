"""A TCP proxy before a Redis server that can lose what is published while all else works, or swallow everything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet import reactor as installed
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer

reactor: Any = installed


class _ToServer(ProxyClient):
    def dataReceived(self, data: bytes) -> None:
        peer: Any = self.peer
        proxy = peer.factory
        if peer.is_cut() or (proxy.swallows_messages and b"$7\r\nmessage\r\n" in data):
            proxy.swallowed += 1
        else:
            super().dataReceived(data)  # type: ignore[no-untyped-call]


class _ToServerFactory(ProxyClientFactory):
    noisy = False
    protocol = _ToServer


class _ToClient(ProxyServer):
    clientProtocolFactory = _ToServerFactory  # noqa: N815 - Twisted's name
    cut = False

    def is_cut(self) -> bool:
        """Whether this connection goes nowhere: once it has lost something, it stays so."""
        proxy: Any = self.factory
        self.cut = self.cut or proxy.swallows_all
        return self.cut

    def dataReceived(self, data: bytes) -> None:
        if not self.is_cut():
            super().dataReceived(data)  # type: ignore[no-untyped-call]


class SwallowingProxy(ProxyFactory):
    """Listens on `own_port` of 127.0.0.1. `swallowed`: how many pieces of data were."""

    protocol = _ToClient
    noisy = False
    swallows_messages = False
    swallows_all = False
    swallowed = 0
    own_port = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, server_port: int) -> AsyncIterator[SwallowingProxy]:
        """A proxy for that server, within the block."""
        proxy = cls("127.0.0.1", server_port)
        listening = reactor.listenTCP(0, proxy, interface="127.0.0.1")
        proxy.own_port = listening.getHost().port
        try:
            yield proxy
        finally:
            await listening.stopListening()
