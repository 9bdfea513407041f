"""Who is not on the list, or one too many, is gone before a byte is read; and each connection is counted just once."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor as installed
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, eventAsText, globalLogPublisher
from twisted.python.failure import Failure

from mercury.net.address_filter import FIRST_BYTE_SECONDS, REPORT_SECONDS
from tests.support.filtered_connections import EVERYONE, connect, filter_of, peer
from tests.support.in_process_node import Wiretap, until

reactor: Any = installed


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the filter logs."""
    found: list[str] = []

    def observer(event: LogEvent) -> None:
        if event["log_namespace"].startswith("mercury.net.address_filter"):
            found.append(
                event["log_level"].name + ": " + eventAsText(event, includeTimestamp=False, includeSystem=False)
            )

    globalLogPublisher.addObserver(observer)  # type: ignore[arg-type]
    yield found
    globalLogPublisher.removeObserver(observer)  # type: ignore[arg-type]


# The list


@pytest.mark.parametrize(
    ("allowed", "address", "may"),
    [
        ("127.0.0.1/32", "127.0.0.1", True),
        ("127.0.0.1/32", "127.0.0.2", False),
        ("192.0.2.0/24,198.51.100.0/24", "198.51.100.255", True),
        ("192.0.2.0/24,198.51.100.0/24", "203.0.113.1", False),
        ("192.0.2.0/24", "::ffff:192.0.2.1", True),
        ("192.0.2.0/24", "::ffff:192.0.3.1", False),
        ("::/0", "::ffff:192.0.2.1", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("0.0.0.0/0", "::1", False),
        ("::/0", "192.0.2.1", False),
        (EVERYONE, "::1", True),
        ("", "127.0.0.1", False),
    ],
)
def test_only_listed_addresses_get_through(allowed: str, address: str, may: bool) -> None:
    filter, factory = filter_of(allowed)
    assert (connect(filter, address) is not None) is may
    assert len(factory.made) == may


def test_unix_sockets_get_through_and_addresses_that_cannot_be_read_do_not() -> None:
    filter, _ = filter_of("", per_address=1)
    assert connect(filter, UNIXAddress(None))
    assert connect(filter, UNIXAddress(b"/run/client"))
    filter, _ = filter_of(EVERYONE)
    assert connect(filter, IPv4Address("TCP", "localhost", 1)) is None
    assert connect(filter, object()) is None


def test_a_factory_that_wants_no_connection_gets_none() -> None:
    filter, factory = filter_of(EVERYONE)
    factory.buildProtocol = lambda addr: None  # type: ignore[method-assign]
    assert connect(filter, "192.0.2.1") is None
    assert filter.total == 0


# Counters


def test_connections_are_counted_until_they_are_lost() -> None:
    filter, factory = filter_of(EVERYONE, connections=2)
    first, second = connect(filter, "192.0.2.1"), connect(filter, "192.0.2.2")
    assert connect(filter, "192.0.2.3") is None
    first.connectionLost(Failure(connectionDone.value))
    third = connect(filter, "192.0.2.3")
    assert third is not None
    assert connect(filter, "192.0.2.1") is None
    for protocol in (second, third):
        protocol.connectionLost(Failure(connectionDone.value))
    assert filter.total == 0
    assert factory.lost == factory.made


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("2001:db8::1", "2001:db8::2:1", "2001:db8:0:1::1"),
    ],
)
def test_an_address_has_so_many_connections_and_an_ipv6_64_is_one(one: str, same: str, other: str) -> None:
    filter, _ = filter_of(EVERYONE, per_address=2)
    first = connect(filter, one)
    assert connect(filter, same)
    assert connect(filter, same) is None
    assert connect(filter, other)
    first.connectionLost(Failure(connectionDone.value))
    assert connect(filter, same)
    assert connect(filter, one) is None


def test_what_was_counted_leaves_nothing_behind() -> None:
    filter, _ = filter_of(EVERYONE, per_address=2)
    for number in range(100):
        connect(filter, f"192.0.2.{number}").connectionLost(Failure(connectionDone.value))
    assert (filter.total, dict(filter._counts)) == (0, {})


def test_a_connection_whose_protocol_fails_at_its_end_is_counted_back() -> None:
    filter, _ = filter_of(EVERYONE, per_address=1)
    connection = connect(filter, "192.0.2.1")
    connection._protocol.connectionLost = lambda reason: 1 / 0
    with pytest.raises(ZeroDivisionError):
        connection.connectionLost(Failure(connectionDone.value))
    assert filter.total == 0


# The log


def test_refusals_are_logged_together_once_a_second(lines: list[str]) -> None:
    clock = Clock()
    filter, _ = filter_of("192.0.2.0/24", clock, connections=1)
    connect(filter, "192.0.2.1")
    for _ in range(1000):
        connect(filter, "203.0.113.7")
    connect(filter, "192.0.2.2")
    assert lines == []
    clock.advance(REPORT_SECONDS)
    assert lines == [
        "info: refused connections: 1000 not on the address list, 1 too many connections; the last from 192.0.2.2"
    ]
    clock.advance(10 * REPORT_SECONDS)
    assert len(lines) == 1
    connect(filter, "203.0.113.7")
    filter.doStart()
    filter.doStop()
    assert lines[1:] == ["info: refused connections: 1 not on the address list; the last from 203.0.113.7"]
    assert clock.getDelayedCalls() == []


def test_the_factory_is_started_stopped_and_named_as_if_nobody_stood_before_it() -> None:
    filter, factory = filter_of(EVERYONE)
    filter.doStart()
    assert factory.running == 1
    filter.doStop()
    assert factory.running == 0
    assert (filter.logPrefix(), filter.noisy) == ("EchoFactory", False)
    assert connect(filter, "192.0.2.1").logPrefix() == "Echo"


# Real sockets


class Listening:
    """A filter on a real endpoint, for the length of a with block."""

    def __init__(self, endpoint: str, filter: Any) -> None:
        self._endpoint, self._filter = endpoint, filter

    async def __aenter__(self) -> Any:
        self._port: Any = await serverFromString(reactor, self._endpoint).listen(self._filter)
        return self._port.getHost()

    async def __aexit__(self, *error: object) -> None:
        await maybeDeferred(self._port.stopListening)


async def dial(where: str) -> Wiretap:
    wiretap: Wiretap = await connectProtocol(clientFromString(reactor, where), Wiretap())
    return wiretap


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


SOCKETS = [("tcp:0:interface=127.0.0.1", "tcp:127.0.0.1:{}", "127.0.0.1/32", "127.0.0.2/31")]
if has_ipv6():
    SOCKETS.append(("tcp:0:interface=\\:\\:1", "tcp:\\:\\:1:{}", "::1/128", "::/128"))


@pytest.mark.parametrize(("listen", "where", "right", "wrong"), SOCKETS)
@ensureDeferred
async def test_over_tcp_the_listed_are_served_and_the_others_hear_nothing(
    listen: str, where: str, right: str, wrong: str
) -> None:
    filter, factory = filter_of(right, reactor)
    async with Listening(listen, filter) as host:
        wiretap = await dial(where.format(host.port))
        wiretap.write(b"you")
        await until(lambda: wiretap.data == b"hello you")
        assert isinstance(factory.made[0].transport, Connection)
        wiretap.drop()
        await until(lambda: filter.total == 0)
    filter, factory = filter_of(wrong, reactor)
    async with Listening(listen, filter) as host:
        assert await (await dial(where.format(host.port))).all() == b""
    assert factory.made == []


@ensureDeferred
async def test_over_a_unix_socket_everybody_is_served(tmp_path: Path) -> None:
    filter, _ = filter_of("", reactor)
    async with Listening(f"unix:{tmp_path}/socket", filter):
        wiretap = await dial(f"unix:{tmp_path}/socket")
        wiretap.write(b"you")
        await until(lambda: wiretap.data == b"hello you")
        wiretap.drop()
        await until(lambda: filter.total == 0)


# Behind a proxy

LOOPBACK = "127.0.0.1/32"


def v1(address: str) -> bytes:
    family = "TCP4" if ip_address(address).version == 4 else "TCP6"
    return f"PROXY {family} {address} {address} 5000 6010\r\n".encode()


def v2(address: str) -> bytes:
    packed = ip_address(address).packed
    family = 0x11 if len(packed) == 4 else 0x21
    body = packed + packed + struct.pack("!HH", 5000, 6010)
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", 0x21, family, len(body)) + body


@pytest.mark.parametrize("header", [v1, v2])
@pytest.mark.parametrize(
    ("allowed", "address", "may"),
    [
        ("192.0.2.0/24", "192.0.2.7", True),
        ("192.0.2.0/24", "203.0.113.7", False),
        ("192.0.2.0/24", "127.0.0.1", False),
        ("192.0.2.0/24", "::ffff:192.0.2.7", True),
        ("2001:db8::/32", "2001:db8::7", True),
        ("2001:db8::/32", "192.0.2.7", False),
    ],
)
@ensureDeferred
async def test_behind_a_proxy_the_clients_own_address_counts(
    header: Any, allowed: str, address: str, may: bool
) -> None:
    filter, factory = filter_of(allowed, reactor, LOOPBACK)
    async with Listening("haproxy:tcp:0:interface=127.0.0.1", filter) as host:
        wiretap = await dial(f"tcp:127.0.0.1:{host.port}")
        wiretap.write(header(address))
        await until(lambda: filter.total == 1)
        assert factory.made == []
        wiretap.write(b"you")
        if may:
            await until(lambda: wiretap.data == b"hello you")
            assert ip_address(factory.made[0].peer) == ip_address(address)
            wiretap.drop()
        else:
            assert await wiretap.all() == b""
            assert factory.made == []
        await until(lambda: filter.total == 0)
    assert factory.lost == factory.made


@pytest.mark.parametrize("header", [v1, v2])
@ensureDeferred
async def test_who_is_no_listed_proxy_cannot_forge_an_address(header: Any, lines: list[str]) -> None:
    filter, factory = filter_of(EVERYONE, reactor, "127.0.0.2/32")
    async with Listening("haproxy:tcp:0:interface=127.0.0.1", filter) as host:
        wiretap = await dial(f"tcp:127.0.0.1:{host.port}")
        wiretap.write(header("192.0.2.7") + b"you")
        assert await wiretap.all() == b""
        direct, behind = filter_of("192.0.2.0/24", reactor)
    async with Listening("tcp:0:interface=127.0.0.1", direct) as host:
        wiretap = await dial(f"tcp:127.0.0.1:{host.port}")
        wiretap.write(header("192.0.2.7") + b"X-Forwarded-For: 192.0.2.7\r\n")
        assert await wiretap.all() == b""
    assert factory.made == behind.made == []
    filter.doStart()
    filter.doStop()
    assert any("1 not a listed proxy; the last from 127.0.0.1" in line for line in lines)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"PROXY nonsense\r\nyou", b"PROXY UNKNOWN\r\nyou", v2("192.0.2.7")[:10]]
)
@ensureDeferred
async def test_a_proxy_that_does_not_say_whom_it_serves_serves_nobody(data: bytes) -> None:
    filter, factory = filter_of("192.0.2.0/24", reactor, LOOPBACK)
    async with Listening("haproxy:tcp:0:interface=127.0.0.1", filter) as host:
        wiretap = await dial(f"tcp:127.0.0.1:{host.port}")
        wiretap.write(data)
        assert await wiretap.all() == b""
        await until(lambda: filter.total == 0)
    assert factory.made == []


def proxied(filter: Any, address: str) -> tuple[Any, StringTransport]:
    """A connection from a proxy whose header gave this address, and what the filter writes to."""
    protocol = filter.buildProtocol(peer("127.0.0.1"))
    transport = StringTransport(peerAddress=peer(address))
    protocol.makeConnection(transport)
    return protocol, transport


def test_limits_hold_for_the_clients_behind_a_proxy() -> None:
    filter, factory = filter_of(EVERYONE, proxies=LOOPBACK, connections=3, per_address=1)
    first, _ = proxied(filter, "192.0.2.1")
    second, refused = proxied(filter, "192.0.2.1")
    third, _ = proxied(filter, "192.0.2.2")
    _, full = proxied(filter, "192.0.2.3")
    assert full.disconnected
    for protocol in (first, second, third):
        protocol.dataReceived(b"x")
    assert refused.disconnected
    assert len(factory.made) == 2
    assert filter.total == 2
    second.dataReceived(b"more")
    for protocol in (first, second, third):
        protocol.connectionLost(Failure(connectionDone.value))
    assert (filter.total, dict(filter._counts)) == (0, {})


def test_a_client_behind_a_proxy_says_something_soon_or_is_dropped() -> None:
    clock = Clock()
    filter, factory = filter_of(EVERYONE, clock, LOOPBACK)
    silent, transport = proxied(filter, "192.0.2.1")
    gone, _ = proxied(filter, "192.0.2.2")
    gone.connectionLost(Failure(connectionDone.value))
    talking, spoken = proxied(filter, "192.0.2.3")
    talking.dataReceived(b"x")
    clock.advance(FIRST_BYTE_SECONDS)
    assert transport.disconnected
    silent.dataReceived(b"too late")
    silent.connectionLost(Failure(connectionDone.value))
    assert not spoken.disconnected
    assert (len(factory.made), filter.total, clock.getDelayedCalls()) == (1, 1, [])
