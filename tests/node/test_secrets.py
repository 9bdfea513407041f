"""Secrets stay where they belong: a token that is used in every way there is, right and wrong, is in nothing that the
server writes at log level debug, nor is what is stored of it, nor the text of messages. The database does not have the
token either.
"""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from mercury.core.tokens import digest
from tests.support.recorder import Record
from tests.support.recording_clients import Client, RefusedError, V1Client, V2Client, until
from tests.support.server_process import Server
from tests.support.wamp_client import WampCborClient, WampClient

pytestmark = pytest.mark.slow

ROOM = "canary"
TEXT = "the-text-is-nobody-elses-business"


class Raw(Protocol):
    """A TCP connection that sends some bytes and keeps what comes back until the other side hangs up."""

    transport: Any

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.got = b""
        self.ended: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.data)

    def dataReceived(self, data: bytes) -> None:
        self.got += data
        if self.got.startswith(b"HTTP/1.1 101"):  # a WebSocket: nobody hangs up
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(self.got)


async def raw(port: int, data: bytes) -> bytes:
    """What a server answers to these bytes before it hangs up."""
    protocol: Raw = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Raw(data))
    return await protocol.ended.addTimeout(20, reactor)


def upgrade(target: str, *headers: str, version: str = "HTTP/1.1") -> bytes:
    """An opening handshake."""
    lines = [
        f"GET {target} {version}",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def files(folder: Path) -> bytes:
    """All that stands in the files of a folder: the database and what belongs to it."""
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


def forms(key: bytes) -> tuple[str, ...]:
    """How a key could be written in a log."""
    shown = repr(key)[2:-1]
    return key.hex(), b64encode(key).decode(), shown, shown.replace("\\", "\\\\")


async def refused(client: Client) -> None:
    """It cannot connect."""
    with pytest.raises(RefusedError):
        await client.connect()


def said(client: Client) -> set[str]:
    """What the client was shown in the room."""
    return {seen.text for seen in client.connection.seen.get(ROOM, ())}


async def use_sockets(server: Server, token: str) -> None:
    """The token in URLs and frames, where it is good and where it is not."""
    record = Record()
    clients: list[Client] = [
        V1Client(record, server.where, "ann", token),
        V2Client(record, server.where, "ann", token, "phone"),
        WampClient(record, server.where, "ann", token, "tablet"),
    ]
    for client in clients:
        await client.connect()
        asks = [client.say(ROOM, client.text(TEXT)), client.say("elsewhere", TEXT), client.say(ROOM, token)]
        client.write(type=token, rid=ROOM, text=TEXT)
        client.write(type="connect", token=token, member="ann")
        client.write(type="send", rid=token, text={"token": token}, cid=token)
        await until(lambda: {asks[0].text, token} <= said(client) and len(client.errors) >= 2, "its answers")  # noqa: B023 - called at once
    big = V2Client(record, server.where, "ann", token, token)
    await big.connect()
    big.say(ROOM, token * 5000)
    await until(lambda: big.closes, "the end of a frame that is too long")
    broken = V2Client(record, server.where, "ann", token)
    await broken.connect()
    assert broken.link is not None
    broken.link.sendMessage(b"\xff" + token.encode(), isBinary=True)  # type: ignore[no-untyped-call]
    broken.link.sendFrame(opcode=3, payload=token.encode())
    await until(lambda: broken.closes, "the end of a broken WebSocket")
    for wrong in (token + "x", token[:-1], token.upper()):
        await refused(V1Client(record, server.where, "ann", wrong))
        await refused(V2Client(record, server.where, "ann", wrong))
        await refused(WampClient(record, server.where, "ann", wrong))
    await refused(V1Client(record, server.where, "eve", token))
    await refused(V2Client(record, server.where, "eve", token))
    await refused(WampClient(record, server.where, "eve", token))
    for client in clients:
        client.abort()


async def use_handshakes(server: Server, token: str) -> None:
    """The token in opening handshakes of all kinds; most of them are refused."""
    target = f"/ws/connect?token={token}&member=ann"
    requests = [
        upgrade(target, version="HTTP/0.9"),
        upgrade(target, version="HTTP/1.0"),
        upgrade(target, version=token),
        upgrade(f"/{token}"),
        upgrade(f"http://[{token}/ws/connect"),
        upgrade(target + "#" + token),
        upgrade(target, f"Sec-WebSocket-Protocol: {token}"),
        upgrade(target, f"Sec-WebSocket-Extensions: {token}"),
        upgrade(target, f"Sec-WebSocket-Extensions: permessage-deflate; {token}=1"),
        upgrade(target, f"Origin: {token}"),
        upgrade(target, f"Cookie: token={token}").replace(b"Version: 13", b"Version: 12"),
        upgrade(target).replace(b"dGhl", token.encode()),
        f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"{token} {token}\r\n\r\n".encode(),
        f"POST {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode(),
        (token * 500).encode(),
    ]
    for request in requests:
        assert (await raw(server.where.ws, request)).startswith(b"HTTP/1.1 "), request


async def use_rest(server: Server, token: str) -> None:
    """The token in REST calls."""
    calls: list[tuple[str, str, object]] = [
        ("POST", "/api/tokens", b'{"member": "ann", "token": "%s"' % token.encode()),
        ("POST", "/api/tokens", {"member": "ann", "token": token}),
        ("POST", "/api/tokens", {"member": {"token": token}}),
        ("DELETE", "/api/tokens", {"token": token + "x"}),
        ("DELETE", f"/api/tokens?token={token}", None),
        ("GET", f"/api/{token}", None),
        ("GET", f"/api/rooms/{token}", None),
        ("GET", f"/api/rooms?after={token}&token={token}", None),
        ("POST", f"/api/rooms/{ROOM}/messages", {"text": TEXT, "token": token}),
        ("POST", f"/api/rooms/{ROOM}/messages", {"text": TEXT, "member": token}),
        ("PATCH", f"/api/tokens?token={token}", b"\xff" + token.encode()),
    ]
    for method, path, body in calls:
        await server.call(method, path, body)
    await server.ok("POST", f"/api/rooms/{ROOM}/messages", {"text": TEXT, "member": "ann"})
    await raw(server.where.api, f"GET /api/rooms?token={token} {token}\r\n\r\n".encode())
    await raw(server.where.api, f"GET / HTTP/1.1\r\nAuthorization Bearer {token}\r\n\r\n".encode())
    revoked = await server.ok("DELETE", "/api/tokens", {"token": token})
    assert revoked == {"revoked": 1}


@pytest.mark.parametrize("style", ["json", "logfmt"])
@pytest_twisted.ensureDeferred
async def test_no_secret_is_ever_written(style: str, tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Whatever is done with the token, it is in no log line, and only messages that said it have it in the database."""
    server = Server(tmp_path, (free_port(), free_port()), "--log.level=debug", f"--log.format={style}")
    try:
        await server.start()
        await server.ok("POST", f"/api/rooms/{ROOM}/members", {"members": ["ann"]})
        token = await server.token("ann")
        quiet = await server.token("ann")  # used, but said in no message: the database must not have it
        for kind in (V2Client, WampClient, WampCborClient):
            client = kind(Record(), server.where, "ann", quiet, "" if kind is V2Client else "phone")
            await client.connect()
            await client.close()
        old = V1Client(Record(), server.where, "ann", quiet)
        await old.connect()
        await old.close()
        await use_sockets(server, token)
        await use_handshakes(server, token)
        await use_rest(server, token)
        stored = files(tmp_path)
        await server.stop()
    finally:
        if server.processes and not server.processes[-1].ended.called:
            await server.kill()
    log = server.written()
    assert b"ready: REST at" in log
    for secret in (token, quiet, TEXT, *forms(digest(token)), *forms(digest(quiet))):
        assert secret.encode() not in log, next(line for line in log.splitlines() if secret.encode() in line)
    stored += files(tmp_path)
    assert ROOM.encode() in stored
    assert quiet.encode() not in stored
    assert digest(quiet) in stored


@pytest_twisted.ensureDeferred
async def test_a_canary_would_be_found(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """What the test above looks through does have what is logged and stored."""
    name = f"room-{secrets.token_hex(4)}"
    server = Server(tmp_path, (free_port(), free_port()), "--log.level=debug")
    try:
        await server.start()
        await server.ok("POST", f"/api/rooms/{name}/members", {"members": ["ann"]})
        await server.stop()
    finally:
        if server.processes and not server.processes[-1].ended.called:
            await server.kill()
    lines = [json.loads(line) for line in server.written().splitlines() if line.startswith(b"{")]
    assert any(f":{server.where.ws}" in line["message"] for line in lines)
    assert name.encode() in files(tmp_path)
