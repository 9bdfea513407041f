"""Who may connect: address lists and connection counts, decided before a byte is read.

An AddressFilter stands before any factory. A peer that connects directly is judged by its own address. Behind a proxy
(an endpoint `haproxy:…`, which reads the PROXY header) the peer must be a listed proxy, and the address in the header
must be on the list; until that is known, the protocol behind the filter does not even exist. No other claim about an
address is believed, be it in a PROXY or in an X-Forwarded-For header.

The protocol behind the filter gets the transport as Twisted made it, which direct_write.py needs. A CountedProtocol
stands between them, so that a connection is counted from its beginning to its end; bytes go past it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final, NamedTuple

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IDelayedCall, ILoggingContext, IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mercury.domain.counters import Counters
from mercury.errors import Limit

FIRST_BYTE_SECONDS: Final = 5.0  # for a proxy's client to send something: only then does a PROXY header count
REPORT_SECONDS: Final = 1.0  # between two lines about refused connections

Network = IPv4Network | IPv6Network

_log = Logger()


class Rules(NamedTuple):
    """Who may connect.

    `allowed`: the networks of clients. Clients at a UNIX socket always may, since file permissions guard it. `proxies`:
    the networks of proxies, if the endpoint reads PROXY headers, else None. `connections`: how many there may be at a
    time. `per_address`: how many from one IPv4 address or one IPv6 /64, which is what one client has. 0: no limit.
    """

    allowed: Sequence[Network]
    proxies: Sequence[Network] | None = None
    connections: int = 0
    per_address: int = 0


@implementer(IProtocolFactory, ILoggingContext)
class AddressFilter:
    """Lets some connections through to a factory of any kind.

    `rules` is called for each connection. `counts`: where refusals are counted for the metrics. `total`: how many
    connections there are now.
    """

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
        self._counters = counts or Counters()
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
        """The protocol for a transport, or None for a peer that is refused.

        A refused peer of a proxied endpoint gets a protocol that hangs up: HAProxyWrappingFactory cannot take a None.
        """
        rules = self._rules()
        if rules.proxies is None:
            return self.admit(addr)
        if not listed(addr, rules.proxies):
            self.refuse("proxies", "not a listed proxy", addr)
        elif self._full(rules):
            self.refuse("connections", "too many connections", addr)
        else:
            return ProxiedProtocol(self)
        return HangUpProtocol()

    def admit(self, addr: Any) -> CountedProtocol | None:
        """The factory's protocol for a client whose true address this is; None if it may not connect."""
        rules = self._rules()
        if not listed(addr, rules.allowed):
            self.refuse("address", "not on the address list", addr)
        elif self._full(rules):
            self.refuse("connections", "too many connections", addr)
        elif 0 < rules.per_address <= self._counts[key_of(addr)]:
            self.refuse("connections-per-address", "too many connections from one address", addr)
        elif (protocol := self._factory.buildProtocol(addr)) is not None:
            return CountedProtocol(self, protocol, key_of(addr))
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
        self._counters.refused[limit] += 1
        self._refused[why] += 1
        self._last = getattr(addr, "host", "a UNIX socket")
        if self._reporting is None:
            self._reporting = self.clock.callLater(REPORT_SECONDS, self._report)

    def _report(self) -> None:
        self._reporting = None
        reasons = ", ".join(f"{count} {why}" for why, count in self._refused.items())
        _log.info("refused connections: {reasons}; the last from {last}", reasons=reasons, last=self._last)
        self._refused.clear()


@implementer(IProtocol, ILoggingContext)
class CountedProtocol:
    """Stands before a protocol and counts its connection while it lasts."""

    __slots__ = ("_filter", "_key", "_protocol", "dataReceived")

    def __init__(self, filter: AddressFilter, protocol: Any, key: bytes) -> None:
        self._filter = filter
        self._protocol = protocol
        self._key = key
        self.dataReceived: Callable[[bytes], None] = protocol.dataReceived  # without a call between for each chunk

    def makeConnection(self, transport: Any) -> None:
        self._filter.count(self._key, 1)
        self._protocol.makeConnection(transport)

    def connectionMade(self) -> None:
        """The protocol's makeConnection() calls its own connectionMade()."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._filter.count(self._key, -1)
        self._protocol.connectionLost(reason)

    def logPrefix(self) -> str:
        return log_prefix(self._protocol)


@implementer(IProtocol)
class ProxiedProtocol:
    """A connection from a proxy. Its transport knows the client's address when the client's first byte comes."""

    __slots__ = ("_admitted", "_filter", "_transport", "_waiting")

    def __init__(self, filter: AddressFilter) -> None:
        self._filter = filter
        self._admitted: CountedProtocol | None = None

    def makeConnection(self, transport: Any) -> None:
        self._transport = transport
        self._filter.count(b"", 1)
        self._waiting = self._filter.clock.callLater(FIRST_BYTE_SECONDS, self._give_up)

    def connectionMade(self) -> None:
        """The protocol behind gets its makeConnection() when it is admitted."""

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
class HangUpProtocol:
    """Ends a connection without reading from it."""

    def makeConnection(self, transport: Any) -> None:
        transport.abortConnection()

    def connectionMade(self) -> None:
        """There is nothing to begin."""

    def dataReceived(self, data: bytes) -> None:
        """Whatever comes is dropped."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It was not counted."""


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
    """Whether a peer is in one of these networks, or at a UNIX socket."""
    ip = ip_of(addr)
    return isinstance(addr, UNIXAddress) if ip is None else any(ip in network for network in networks)


def key_of(addr: Any) -> bytes:
    """What all connections of one client have in common: its IPv4 address or IPv6 /64. Empty at a UNIX socket."""
    ip = ip_of(addr)
    return b"" if ip is None else ip.packed[:8]


def log_prefix(named: Any) -> str:
    """Twisted's name in the log for a factory or protocol."""
    return str(named.logPrefix()) if ILoggingContext.providedBy(named) else type(named).__name__
