"""Who may connect: address lists and connection counts, decided before a byte is read.

An AddressFilter stands before any factory. Directly connected peers go by their own address. Behind a proxy (an
endpoint `haproxy:…`, which reads the PROXY header) the peer must be a listed proxy, and the address that the header
gives must be on the list; until that is known, the protocol behind the filter does not even exist. What anybody else
says about addresses, in a PROXY or X-Forwarded-For header, is nowhere believed.

The protocol behind the filter has the transport as Twisted made it: direct_write.py needs that. Only what the transport
tells the protocol passes through here, so that a connection is counted from its beginning to its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IDelayedCall, ILoggingContext, IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.domain.counters import Counters
from mercury.errors import Limit

FIRST_BYTE_SECONDS = 5.0  # for a proxy's client to say something: only then does a PROXY header count
REPORT_SECONDS = 1.0  # between two lines about refused connections

Network = IPv4Network | IPv6Network


class Rules(NamedTuple):
    """Who may connect.

    `allowed`: the networks. UNIX sockets, which file permissions guard, always may. `proxies`: the networks of the
    proxies, if the endpoint reads PROXY headers, else None. `connections`: how many there may be at a time;
    `per_address`: how many of one IPv4 address or one IPv6 /64, which is what a client has; 0 for any number.
    """

    allowed: Sequence[Network]
    proxies: Sequence[Network] | None = None
    connections: int = 0
    per_address: int = 0


@implementer(IProtocolFactory, ILoggingContext)
class AddressFilter:
    """Lets some connections through to a factory, which may be any.

    `rules` is asked for each connection. `counts`: where refusals are counted, if anybody wants to know.
    """

    log = Logger()

    def __init__(
        self,
        factory: Any,
        rules: Callable[[], Rules],
        clock: IReactorTime,
        counts: Counters | None = None,
    ) -> None:
        self.clock = clock
        self.noisy = factory.noisy
        self.total = 0
        self._factory = factory
        self._rules = rules
        self._counts: Counter[bytes] = Counter()
        self._refused: Counter[str] = Counter()
        self._ever = counts or Counters()
        self._last = ""
        self._reporting: IDelayedCall | None = None

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()
        if self._reporting is not None:
            self._reporting.cancel()
            self._report()

    def logPrefix(self) -> str:
        return log_prefix(self._factory)

    def buildProtocol(self, addr: Any) -> Any:
        """What the transport talks to, or None for a peer that is refused.

        Behind a proxy it is a protocol that hangs up instead: Twisted's HAProxyWrappingFactory cannot take a None.
        """
        rules = self._rules()
        if rules.proxies is None:
            return self.admit(addr)
        if not listed(addr, rules.proxies):
            self.refuse("proxies", "not a listed proxy", addr)
        elif self._full(rules):
            self.refuse("connections", "too many connections", addr)
        else:
            return Proxied(self)
        return HangUp()

    def admit(self, addr: Any) -> Counted | None:
        """The factory's protocol for a client with this true address, if it may connect."""
        rules = self._rules()
        if not listed(addr, rules.allowed):
            self.refuse("address", "not on the address list", addr)
        elif self._full(rules):
            self.refuse("connections", "too many connections", addr)
        elif 0 < rules.per_address <= self._counts[key_of(addr)]:
            self.refuse("connections-per-address", "too many connections of one address", addr)
        elif (protocol := self._factory.buildProtocol(addr)) is not None:
            return Counted(self, protocol, key_of(addr))
        return None

    def _full(self, rules: Rules) -> bool:
        return 0 < rules.connections <= self.total

    def count(self, key: bytes, step: int) -> None:
        """One connection more (1) or less (-1), of the address with this key."""
        self.total += step
        if key:
            self._counts[key] += step
            if not self._counts[key]:
                del self._counts[key]

    def refuse(self, limit: Limit, why: str, addr: Any) -> None:
        """Count a refusal. A line in the log follows within a second, one for all refusals until then."""
        self._ever.refused[limit] += 1
        self._refused[why] += 1
        self._last = getattr(addr, "host", "a UNIX socket")
        if self._reporting is None:
            self._reporting = self.clock.callLater(REPORT_SECONDS, self._report)

    def _report(self) -> None:
        self._reporting = None
        reasons = ", ".join(f"{count} {why}" for why, count in self._refused.items())
        self.log.info("refused connections: {reasons}; the last from {last}", reasons=reasons, last=self._last)
        self._refused.clear()


@implementer(IProtocol, ILoggingContext)
class Counted:
    """Hands a connection on to its protocol, and counts it while it lasts."""

    __slots__ = ("_filter", "_key", "_protocol")

    def __init__(self, filter: AddressFilter, protocol: Any, key: bytes) -> None:
        self._filter = filter
        self._protocol = protocol
        self._key = key

    def makeConnection(self, transport: Any) -> None:
        self._filter.count(self._key, 1)
        self._protocol.makeConnection(transport)

    def connectionMade(self) -> None:
        """Told to the protocol by its own makeConnection()."""

    def dataReceived(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._filter.count(self._key, -1)
        self._protocol.connectionLost(reason)

    def logPrefix(self) -> str:
        return log_prefix(self._protocol)


@implementer(IProtocol)
class Proxied:
    """A connection from a proxy. Its transport knows the client's address when the first byte from it comes."""

    __slots__ = ("_admitted", "_filter", "_transport", "_waiting")

    def __init__(self, filter: AddressFilter) -> None:
        self._filter = filter
        self._admitted: Counted | None = None

    def makeConnection(self, transport: Any) -> None:
        self._transport = transport
        self._filter.count(b"", 1)
        self._waiting = self._filter.clock.callLater(FIRST_BYTE_SECONDS, self._give_up)

    def connectionMade(self) -> None:
        """Told to the protocol when it is let in."""

    def dataReceived(self, data: bytes) -> None:
        if self._waiting.active():
            self._stop_waiting()
            self._admitted = self._filter.admit(self._transport.getPeer())
            if self._admitted is None:
                self._transport.abortConnection()
            else:
                self._admitted.makeConnection(self._transport)
        if self._admitted is not None:
            self._admitted.dataReceived(data)

    def _stop_waiting(self) -> None:
        self._waiting.cancel()
        self._filter.count(b"", -1)

    def _give_up(self) -> None:
        self._filter.count(b"", -1)
        self._transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._admitted is not None:
            self._admitted.connectionLost(reason)
        elif self._waiting.active():
            self._stop_waiting()


@implementer(IProtocol)
class HangUp:
    """Ends a connection without reading from it."""

    def makeConnection(self, transport: Any) -> None:
        transport.abortConnection()

    def connectionMade(self) -> None:
        """Nothing is made."""

    def dataReceived(self, data: bytes) -> None:
        """Nothing is read."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nothing was counted."""


def ip_of(addr: Any) -> IPv4Address | IPv6Address | None:
    """A peer's IP address, None if it has none. IPv4 through an IPv6 socket is IPv4 (RFC 4291, 2.5.5.2)."""
    host = getattr(addr, "host", None)
    return None if host is None else _ip(host)


@lru_cache(maxsize=1024)
def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def listed(addr: Any, networks: Sequence[Network]) -> bool:
    """Whether a peer is in one of these networks, or is none of the Internet's: at a UNIX socket."""
    ip = ip_of(addr)
    return isinstance(addr, UNIXAddress) if ip is None else any(ip in network for network in networks)


def key_of(addr: Any) -> bytes:
    """What one client's connections have in common: the IPv4 address, or the IPv6 /64. Empty at a UNIX socket."""
    ip = ip_of(addr)
    return b"" if ip is None else ip.packed[:8]


def log_prefix(named: Any) -> str:
    """How Twisted would call a factory or protocol in its log."""
    return str(named.logPrefix()) if ILoggingContext.providedBy(named) else type(named).__name__
