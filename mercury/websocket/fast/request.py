"""A fast parser of plain opening handshakes (RFC 6455, 4.1): what programs and browsers send, and nothing else.

Autobahn takes 0.04 ms to read one, most of it for lines of a log that is not kept; this takes a quarter of that. A
request with anything unusual in it (a header that comes twice, another version, a fragment, a byte that is not
printable ASCII, an error of any kind) is left to Autobahn from its first byte on, so what is accepted and how the rest
is refused stays Autobahn's. tests/websocket/test_handshake.py holds both ways to the same results.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qs

END: Final = b"\r\n\r\n"

_HEAD: Final = re.compile(r"GET (/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[ -~]*\r\n)+)\r\n")
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
_HOST: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ORIGIN: Final = re.compile(r"https?://[a-z0-9.-]+(?::[0-9]{1,4})?")

#: Two slashes would begin a host; a semicolon, parameters; and a number sign, a fragment.
_UNUSUAL: Final = re.compile(r"//|[^?]*;|[^#]*#")


class UpgradeRequest(NamedTuple):
    """A request as Autobahn would have read it. `key`: Sec-WebSocket-Key; `extensions`: what is offered, as it came."""

    path: str
    params: dict[str, list[str]]
    headers: dict[str, str]
    host: str
    origin: str
    protocols: list[str]
    extensions: str
    key: str


def parse_plain_request(head: bytes) -> UpgradeRequest | None:
    """Parse a request, up to and with the empty line after its headers; None if it is not a plain one."""
    parts = _HEAD.fullmatch(head.decode("latin-1"))
    if parts is None or _UNUSUAL.match(parts[1]):
        return None
    headers = {}
    lines = parts[2].split("\r\n")[:-1]
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip(" ")
    if len(headers) < len(lines):
        return None
    get = headers.get
    host, key, origin = _HOST.fullmatch(get("host", "")), get("sec-websocket-key", ""), get("origin", "")
    protocols = (
        [name.strip(" ") for name in headers["sec-websocket-protocol"].split(",")]
        if ("sec-websocket-protocol" in headers)
        else []
    )
    if (
        host is None
        or get("upgrade", "").lower() != "websocket"
        or get("sec-websocket-version") != "13"
        or "upgrade" not in [option.strip(" ") for option in get("connection", "").lower().split(",")]
        or not _KEY.fullmatch(key)
        or ("origin" in headers and not _ORIGIN.fullmatch(origin))
        or len(set(protocols)) < len(protocols)
    ):
        return None
    path, _, query = parts[1].partition("?")
    return UpgradeRequest(
        path, _params(query), headers, host[1], origin, protocols, get("sec-websocket-extensions", ""), key
    )


def _params(query: str) -> dict[str, list[str]]:
    """urllib's parse_qs(). A query without anything escaped needs little of it."""
    if "%" in query or "+" in query:
        return parse_qs(query)
    params: dict[str, list[str]] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if value:
            params.setdefault(name, []).append(value)
    return params
