"""A TCP proxy that loses an answer: what was asked is done, and whoever asked never hears of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet import reactor as installed
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer

reactor: Any = installed


class _ToServer(ProxyClient):
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        peer: Any = self.peer
        if peer.cut:
            self.transport.loseConnection()  # and with it the client's
        else:
            peer.transport.write(data)


class _ToServerFactory(ProxyClientFactory):
    protocol = _ToServer


class _ToClient(ProxyServer):
    clientProtocolFactory = _ToServerFactory  # noqa: N815 - Twisted's name
    cut = False

    def dataReceived(self, data: bytes) -> None:
        proxy: Any = self.factory
        if proxy.cut_at and proxy.cut_at in data:
            self.cut, proxy.cut_at = True, b""
        peer: Any = self.peer
        peer.transport.write(data)


class Proxy(ProxyFactory):
    """Listens on the port `outer` of 127.0.0.1 for a server on another one."""

    protocol = _ToClient
    noisy = False
    cut_at = b""
    outer = 0

    @classmethod
    @asynccontextmanager
    async def between(cls, server_port: int) -> AsyncIterator[Proxy]:
        """A proxy for that server, within the block."""
        proxy = cls("127.0.0.1", server_port)
        listening = reactor.listenTCP(0, proxy, interface="127.0.0.1")
        proxy.outer = listening.getHost().port
        try:
            yield proxy
        finally:
            await listening.stopListening()

    def cut_answer_to(self, asked: bytes) -> None:
        """The next time a client sends this, let the server have it, and close the connection when it answers."""
        self.cut_at = asked
