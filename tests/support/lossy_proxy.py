"""A TCP proxy that loses what a test tells it to: everything, what was subscribed to, or a part of an answer.

    async with LossyProxy(server_port) as proxy:
        ...  # connect to proxy.own_port
        proxy.black_hole = True

A connection that lost something stays useless until somebody closes it, as in real life; and what its client closes
then is not closed for the server. A real black hole does not accept new connections either; this one does, and then
says nothing.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.protocol import connectionDone
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer
from twisted.python.failure import Failure

reactor: Any = installed

ALL = 1 << 60
PUBLISHED = b"$7\r\nmessage\r\n"  # how Redis begins what a subscriber gets


class _ToServer(ProxyClient):
    peer: Any

    def dataReceived(self, data: bytes) -> None:
        if self.peer is not None:
            self.peer.answered(data)


class _ToServerFactory(ProxyClientFactory):
    noisy = False
    protocol = _ToServer


class _ToClient(ProxyServer):
    clientProtocolFactory = _ToServerFactory  # noqa: N815 - Twisted's name
    factory: LossyProxy
    transport: Any
    peer: Any
    noisy = False
    _dead = False  # nothing gets through any more
    _cut = False  # both sides were closed
    _subscribes = False
    _left = ALL  # bytes of the answer that still get through

    def connectionMade(self) -> None:
        if self._passes():
            super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        proxy = self.factory
        self._subscribes = self._subscribes or b"SUBSCRIBE" in data
        if not self._passes():
            return
        if proxy.black_hole_from and proxy.black_hole_from in data:
            proxy.black_hole, proxy.black_hole_from = True, b""
        else:
            if (left := proxy.bytes_of_answer_to(data)) is not None:
                self._left = left
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def answered(self, data: bytes) -> None:
        """The server has sent this."""
        if not self._passes() or (self.factory.drop_published and PUBLISHED in data):
            self.factory.dropped += 1
        elif not self._cut:
            self.transport.write(data[: self._left])
            self._left -= len(data)
            if self._left < 0:
                self._cut_off()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._passes():
            super().connectionLost(reason)  # type: ignore[no-untyped-call]
        elif self.peer is not None:
            self.factory.orphans.append(self.peer)

    def _passes(self) -> bool:
        """Whether anything gets through here: once it did not, nothing ever does."""
        proxy = self.factory
        self._dead = self._dead or proxy.black_hole or (proxy.mute_subscribers and self._subscribes)
        return not self._dead

    def _cut_off(self) -> None:
        self._cut, server = True, self.peer.transport
        for end in (self.transport, server):
            end.unregisterProducer()  # a producer would keep it open
        self.transport.loseConnection()
        if self.factory.closes_rudely():
            server.abortConnection()
        else:
            server.loseConnection()


class LossyProxy(ProxyFactory):
    """Before the server on `server_port` of 127.0.0.1; its own port is `own_port`. close() it, or enter it.

    `black_hole`: nothing gets through. `black_hole_from`: so it is from the moment on at which a client sends this.
    `mute_subscribers`: connections that subscribe in Redis lose all, others nothing. `drop_published`: what was
    published there gets lost, on connections that are well otherwise. `cut_answer_to`: the next time a client sends
    this, the server gets it, and the connection ends when it answers. `dropped`: how many pieces of data from the
    server were lost.
    """

    protocol = _ToClient
    noisy = False
    black_hole = False
    black_hole_from = b""
    mute_subscribers = False
    drop_published = False
    cut_answer_to = b""
    dropped = 0

    def __init__(self, server_port: int) -> None:
        super().__init__("127.0.0.1", server_port)
        self.orphans: list[Any] = []
        self._listening: Any = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.own_port: int = self._listening.getHost().port

    async def __aenter__(self) -> LossyProxy:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Listen no more, and let the server go."""
        for orphan in self.orphans:
            orphan.transport.abortConnection()
        await self._listening.stopListening()

    # What a subclass may decide otherwise

    def bytes_of_answer_to(self, asked: bytes) -> int | None:
        """How many bytes of the answer get through before the connection ends; None: as many as was said before."""
        if self.cut_answer_to and self.cut_answer_to in asked:
            self.cut_answer_to = b""
            return 0
        return None

    def closes_rudely(self) -> bool:
        """Whether a connection that is cut is reset for the server, and not closed."""
        return False
