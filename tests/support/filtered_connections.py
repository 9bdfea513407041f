"""Connections that come to an address filter, with an echo behind it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from mercury.domain.counters import Counters
from mercury.net import address_filter

EVERYONE = "0.0.0.0/0,::/0"


class Echo(Protocol):
    """Says hello and what it gets."""

    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        self.factory.made.append(self)
        self.peer = str(getattr(self.transport.getPeer(), "host", ""))
        self.transport.write(b"hello ")

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.lost.append(self)


class EchoFactory(Factory):
    """Remembers its Echoes, and how often it was started."""

    protocol = Echo
    noisy = False

    def __init__(self) -> None:
        self.made: list[Echo] = []
        self.lost: list[Echo] = []
        self.running = 0

    def startFactory(self) -> None:
        self.running += 1

    def stopFactory(self) -> None:
        self.running -= 1


def networks(text: str) -> Any:
    return [ip_network(part) for part in text.split(",")] if text else []


def filter_of(
    allowed: str, clock: Any = None, proxies: str | None = None, counts: Counters | None = None, **limits: int
) -> tuple[Any, EchoFactory]:
    """A filter, and the factory behind it."""
    factory = EchoFactory()
    rules = address_filter.Rules(networks(allowed), None if proxies is None else networks(proxies), **limits)
    return address_filter.AddressFilter(factory, lambda: rules, clock or Clock(), counts), factory


def peer(address: str) -> Any:
    kind = IPv4Address if ip_address(address.partition("%")[0]).version == 4 else IPv6Address
    return kind("TCP", address, 4711)


def connect(filter: Any, address: Any) -> Any:
    """A connection without a socket, up to its end; None if it was refused."""
    if isinstance(address, str):
        address = peer(address)
    protocol = filter.buildProtocol(address)
    if protocol is not None:
        protocol.makeConnection(StringTransport(peerAddress=address))
    return protocol
