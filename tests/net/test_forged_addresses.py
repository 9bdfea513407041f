"""Whom a connection is from: what a stranger says about that changes nothing, what a listed proxy says counts.

For everything that goes by addresses: the lists, the limits of connections, goTalk's throttles, the log, what REST
tells about connections. A whole node, over TCP; what the filter alone does with PROXY headers is in
test_address_filter.py.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlencode

import pytest
from pytest_twisted import ensureDeferred

from tests.support.in_process_node import until
from tests.support.whole_node import FORM, V2, WholeNode

HERE: Final = "tcp:0:interface=127.0.0.1"
PROXY: Final = "haproxy:tcp:0:interface=127.0.0.1"
LISTENERS: Final = ("server.api", "server.ws", "gotalk")
WRONG: Final = {"password": "wrong horse"}


def v1(source: str) -> bytes:
    """The PROXY protocol, version 1."""
    return f"PROXY TCP4 {source} 127.0.0.1 4711 80\r\n".encode()


def v2(source: str, command: int = 0x21) -> bytes:
    """Version 2; the command is PROXY, or LOCAL, which says that it is the proxy's own connection."""
    body = ip_address(source).packed + ip_address("127.0.0.1").packed + struct.pack("!HH", 4711, 80)
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", command, 0x11, len(body)) + body


def headers(source: str) -> list[str]:
    """All that proxies tell HTTP servers about addresses."""
    return [
        f"X-Forwarded-For: {source}",
        f"X-Forwarded-For: {source}, 127.0.0.1",
        f"Forwarded: for={source};proto=https;by=127.0.0.1",
        f"X-Real-IP: {source}",
        f"X-Client-IP: {source}",
        f"True-Client-IP: {source}",
        f"CF-Connecting-IP: {source}",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
    ]


def settings(endpoint: str, address: str, **more: str) -> dict[str, str]:
    """Flags for a node that listens so, for these addresses."""
    flags = {f"{name}.endpoint": endpoint for name in LISTENERS} | {f"{name}.address": address for name in LISTENERS}
    return flags | {name.replace("__", ".").replace("_", "-"): value for name, value in more.items()}


async def statuses(node: WholeNode, *more: str, before: bytes = b"") -> list[int]:
    """What the three listeners answer to the simplest request; 0 if they do not."""
    return [
        await node.status("server.api", "GET", "/healthz", b"", *more, before=before),
        await node.status("server.ws", "GET", "/", b"", *more, before=before),
        await node.status("gotalk", "GET", "/nothing", b"", *more, before=before),
    ]


LOG_CONTEXT: Final = [200, 426, 404]
DROPPED: Final = [0, 0, 0]
REFUSED: Final = [400, 400, 400]  # it is no HTTP


@pytest.mark.parametrize(
    ("endpoint", "address", "proxies", "before", "expected"),
    [
        # Said by whoever connects directly
        (HERE, "127.0.0.1", "127.0.0.1", b"", LOG_CONTEXT),
        (HERE, "192.0.2.0/24", "127.0.0.1", b"", DROPPED),
        (HERE, "192.0.2.0/24", "127.0.0.1", v1("192.0.2.7"), DROPPED),
        (HERE, "192.0.2.0/24", "127.0.0.1", v2("192.0.2.7"), DROPPED),
        (HERE, "127.0.0.1", "127.0.0.1", v1("192.0.2.7"), REFUSED),
        # Said by a proxy that is not listed
        (PROXY, "0.0.0.0/0", "192.0.2.1", b"", DROPPED),
        (PROXY, "0.0.0.0/0", "192.0.2.1", v1("127.0.0.1"), DROPPED),
        (PROXY, "0.0.0.0/0", "192.0.2.1", v2("192.0.2.1"), DROPPED),
        # Said by a proxy that is listed
        (PROXY, "192.0.2.0/24", "127.0.0.1", v1("192.0.2.7"), LOG_CONTEXT),
        (PROXY, "192.0.2.0/24", "127.0.0.1", v2("192.0.2.7"), LOG_CONTEXT),
        (PROXY, "192.0.2.0/24", "127.0.0.1", v1("203.0.113.7"), DROPPED),
        (PROXY, "192.0.2.0/24", "127.0.0.1", v2("203.0.113.7"), DROPPED),
        (PROXY, "192.0.2.0/24", "127.0.0.1", v2("192.0.2.7", command=0x20), DROPPED),
        (PROXY, "192.0.2.0/24", "127.0.0.1", b"", DROPPED),
        # Said twice: the first word is the proxy's, the second its client's
        (PROXY, "192.0.2.0/24", "127.0.0.1", v1("203.0.113.7") + v1("192.0.2.7"), DROPPED),
        (PROXY, "192.0.2.0/24", "127.0.0.1", v1("192.0.2.7") + v1("203.0.113.7"), REFUSED),
    ],
)
@ensureDeferred
async def test_lists_of_addresses(
    endpoint: str, address: str, proxies: str, before: bytes, expected: list[int]
) -> None:
    flags = settings(endpoint, address) | {f"{name}.proxies": proxies for name in LISTENERS}
    async with WholeNode(flags) as node:
        assert await statuses(node, before=before) == expected
        for source in ("192.0.2.7", "127.0.0.1"):
            assert await statuses(node, *headers(source), before=before) == expected


@pytest.mark.parametrize(("endpoint", "proxied"), [(HERE, b""), (PROXY, v1("192.0.2.1")), (PROXY, v2("192.0.2.1"))])
@ensureDeferred
async def test_limits_of_connections_from_one_address(endpoint: str, proxied: bytes) -> None:
    limits = {"limits.connections-per-address": "1", "gotalk.connections-per-address": "1"}
    async with WholeNode(settings(endpoint, "0.0.0.0/0") | limits) as node:
        first = await node.handshake(V2, before=proxied)
        assert first.data.startswith(b"HTTP/1.1 101")
        await node.connect("gotalk", proxied + b"POST /login HTTP/1.1\r\n")
        (door,) = [one.factory for one in node.service.listenings if one.section == "gotalk"]
        await until(lambda: sum(door._counts.values()) == 1)
        assert await node.upgraded(V2, *headers("192.0.2.2"), before=proxied) == 0
        assert await node.status("gotalk", "GET", "/nothing", b"", *headers("192.0.2.2"), before=proxied) == 0
        if proxied:
            assert await node.upgraded(before=v1("192.0.2.2")) == 101
            assert await node.status("gotalk", "GET", "/nothing", before=v1("192.0.2.3")) == 404


@pytest.mark.parametrize("endpoint", [HERE, PROXY])
@ensureDeferred
async def test_throttles_of_gotalk(endpoint: str) -> None:
    """Each from another address, they say: only a listed proxy is believed."""
    limits = {"gotalk.logins-per-minute": "2", "gotalk.registrations-per-minute": "2"}
    async with WholeNode(settings(endpoint, "0.0.0.0/0") | limits) as node:

        async def post(path: str, number: int, source: str) -> int:
            body = urlencode({"username": f"user{number}", **WRONG}).encode()
            before = v2(source) if endpoint == PROXY else b""
            forged = headers(f"198.51.100.{number}")
            return await node.status("gotalk", "POST", path, body, FORM, *forged, before=before)

        for path, usual in (("/login", 401), ("/register", 200)):
            assert [await post(path, number, "192.0.2.1") for number in range(3)] == [usual, usual, 429]
            if endpoint == PROXY:
                assert await post(path, 4, "192.0.2.2") == usual


@pytest.mark.parametrize("endpoint", [HERE, PROXY])
@ensureDeferred
async def test_the_log_and_what_rest_tells(endpoint: str) -> None:
    proxied, true = (v1("192.0.2.1"), "192.0.2.1") if endpoint == PROXY else (b"", "127.0.0.1")
    async with WholeNode(settings(endpoint, "0.0.0.0/0", log__level="debug")) as node:
        secret = (await node.chat.tokens.make("ann"))[0]
        forged = headers("198.51.100.7")
        query = f"?member=ann&token={secret}"
        assert (await node.handshake(V2, *forged, before=proxied, query=query)).data.startswith(b"HTTP/1.1 101")
        answer = await node.http("server.api", "GET", "/api/members/ann/connections", b"", *forged, before=proxied)
        assert answer is not None
        (connection,) = answer.body["connections"]
        assert true in connection["peer"]
        logout = await node.http("gotalk", "POST", "/logout", b"", FORM, *forged, before=proxied)
        assert logout is not None
        assert "Secure" not in logout.headers["set-cookie"]
        for name in ("server.api", "server.ws"):
            await node.http(name, "GET", "/nothing", b"", *forged, before=proxied)
        log = node.raw_log()
        assert "198.51.100.7" not in log
        assert true in log
