"""The WebSocket port as strangers meet it: handshakes that are refused, frames that are wrong, limits, compression, and
peers that go away. The real factory, door and address filter over TCP, with the store in memory.
"""

from __future__ import annotations

import json
import zlib

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from mercury.domain import close_codes
from mercury.settings.limits import Limits
from mercury.websocket.framing import FrameEncoder
from mercury.websocket.subprotocols.v2 import V2
from tests.support.deflating import Deflating
from tests.support.recording_clients import FluentClient, RefusedError, V2Client, until
from tests.support.wamp_client import WampCborClient, WampClient
from tests.support.websocket_bytes import masked, upgrade
from tests.support.websocket_port import OpenPort

FLUENT = pytest.mark.parametrize("kind", [V2Client, WampClient, WampCborClient])


V2_HEADER = "Sec-WebSocket-Protocol: mercury.v2.json"


# Handshakes


@pytest.mark.parametrize(
    ("target", "headers", "status", "code"),
    [
        ("/ws/other", (), 404, "not_found"),
        ("/ws/connect", (), 401, "unauthorized"),
        ("/ws/connect?token=nonsense&member=ann", (), 401, "unauthorized"),
        ("/ws/connect?token={token}&member=bob", (), 401, "unauthorized"),
        ("/ws/connect?token={token}", (), 401, "unauthorized"),
        ("/ws/connect?token={token}&member=ann", ("Sec-WebSocket-Protocol: soap, wamp.1.json",), 400, "bad_request"),
        ("/ws/connect?token={token}&member=ann&device=" + "d" * 200, (), 400, "bad_request"),
        ("/ws/connect?device=%00", (V2_HEADER,), 400, "bad_request"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_who_may_not_come_in_is_told_why(
    open_port: OpenPort, target: str, headers: tuple[str, ...], status: int, code: str
) -> None:
    """With HTTP, in JSON, before there is a WebSocket."""
    port = await open_port()
    got, answer = await port.answer(upgrade(target.format(token=port.token), *headers))
    assert (got, answer["status"], answer["code"]) == (status, "error", code)
    assert port.token not in answer["error"]


@pytest_twisted.ensureDeferred
async def test_plain_http_is_told_to_upgrade(open_port: OpenPort) -> None:
    """426, for people who open the port in a browser."""
    port = await open_port()
    got, answer = await port.answer(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (got, answer["status"]) == (426, "error")


@pytest_twisted.ensureDeferred
async def test_a_request_without_end_is_refused(open_port: OpenPort) -> None:
    """At 16 KiB."""
    port = await open_port()
    assert (await port.answer(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 4000))[0] == 431


@pytest_twisted.ensureDeferred
async def test_limit_handshake_seconds(open_port: OpenPort) -> None:
    """Whoever says nothing, or does not log in, is dropped."""
    port = await open_port(handshake_seconds=0.2)
    assert await (await port.raw()).all() == b""
    assert await (await port.raw(b"GET /ws/connect HTTP/1.1\r\nHost:")).all() == b""
    silent = await port.raw(upgrade("/ws/connect", V2_HEADER))
    assert close_codes.BAD_CONNECT.code.to_bytes(2, "big") in await silent.all()
    assert port.chat.counters.refused["handshake-seconds"] == 3


@pytest_twisted.ensureDeferred
async def test_origins(open_port: OpenPort) -> None:
    """Web pages of other sites may not connect; programs, which send no Origin, may."""
    port = await open_port(ws={"origins": "https://chat.example,https://*.example.org"})
    for origin in (
        "https://evil.example",
        "null",
        "http://chat.example",
        "https://chat.example:444",
        "https://chatxexample",
    ):
        assert (await port.answer(upgrade(port.url, f"Origin: {origin}")))[0] == 403
    for headers in (
        ("Origin: https://chat.example",),
        ("Origin: https://CHAT.example",),
        ("Origin: https://a.example.org",),
        (),
    ):
        wiretap = await port.raw(upgrade(port.url, *headers))
        await until(lambda w=wiretap: b"\r\n\r\n" in w.data)  # type: ignore[misc]
        assert wiretap.data.startswith(b"HTTP/1.1 101")
        wiretap.drop()


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
@pytest_twisted.ensureDeferred
async def test_limits_of_connections(open_port: OpenPort, limit: str) -> None:
    """One too many is dropped before it is read; when one has gone there is room."""
    port = await open_port(**{limit: 2})
    first, second = port.v2("1"), port.v2("2")
    await first.connect()
    await second.connect()
    with pytest.raises(RefusedError):
        await port.v2("3").connect()
    await first.close()
    await until(lambda: len(port.chat.hub.everybody()) == 1)
    third = port.v2("3")
    await third.connect()
    assert third.open


@pytest_twisted.ensureDeferred
async def test_a_peer_that_goes_away_while_its_token_is_looked_up(open_port: OpenPort) -> None:
    """It leaves no ghost behind."""
    port = await open_port()
    port.store.shut = {"token"}
    wiretap = await port.raw(upgrade(port.url))
    await until(lambda: "token" in port.store.calls)
    wiretap.drop()
    again = await port.raw(upgrade(port.url))
    await until(lambda: port.store.calls.count("token") == 2)
    port.store.open_gate()
    await until(lambda: again.data.startswith(b"HTTP/1.1 101"))
    assert len(port.chat.hub.everybody()) == 1
    again.drop()
    await until(lambda: not port.chat.hub.everybody())


@pytest_twisted.ensureDeferred
async def test_frames_that_come_before_the_handshake_is_answered(open_port: OpenPort) -> None:
    """They wait for it."""
    port = await open_port()
    port.store.shut = {"token"}
    wiretap = await port.raw(upgrade(port.url) + masked(b'{"type":1,"rid":"r","text":"early"}'))
    await until(lambda: "token" in port.store.calls)
    wiretap.write(masked(b'{"type":1,\r\n\r\n"rid":"r","text":"bird"}'))  # looks like a head's end
    await deferLater(reactor, 0.1)  # it should have come in by then; if not, this shows less
    port.store.open_gate()
    await until(lambda: b'"bird"' in wiretap.data)
    assert wiretap.data.index(b"101") < wiretap.data.index(b'"early"') < wiretap.data.index(b'"bird"')
    wiretap.drop()


# Frames


@pytest_twisted.ensureDeferred
async def test_bad_frames_are_answered_and_end_nothing(open_port: OpenPort) -> None:
    """In both protocols: never silence, and the connection stays."""
    port = await open_port()
    for client in (port.v1(), port.v2()):
        await client.connect()
        assert client.link is not None
        bad = [b"", b"nonsense", b"[]", b"{}", b'{"type":99}', b'{"type":"send","rid":7}', b'{"type":1}', b"\xc3\xa9"]
        for payload in bad:
            client.link.sendMessage(payload)
        client.link.sendMessage(b'{"type":1,"rid":"r","text":"x"}', isBinary=True)
        await until(lambda: len(client.errors) == len(bad) + 1)  # noqa: B023 - called at once
        assert {error["code"] for error in client.errors} == {"bad_request"}
        ask = client.say("r", client.text())
        await until(lambda a=ask: a.outcome == "ok")  # type: ignore[misc]
        client.abort()


@pytest.mark.parametrize("fragments", [1, 4])
@pytest_twisted.ensureDeferred
async def test_limit_frame_bytes(open_port: OpenPort, fragments: int) -> None:
    """1009, for a message as a whole, in however many frames it comes."""
    port = await open_port(frame_bytes=1000)
    client = port.v2()
    await client.connect()
    assert client.link is not None
    fits = json.dumps({"type": "send", "rid": "r", "text": "", "ref": 1})
    client.link.sendMessage(
        fits.replace('""', f'"{"x" * (1000 - len(fits))}"').encode(), fragmentSize=1000 // fragments
    )
    await until(lambda: 1 in client.answers)
    assert client.answers[1]["type"] == "ok"
    client.link.sendMessage(b" " * 1001, fragmentSize=1001 // fragments + 1)
    await until(lambda: client.closes)
    assert client.closes[0][0] == 1009


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x02hi", 1002),  # not masked
        (masked(b"x", 0xF1), 1002),  # reserved bits
        (masked(b"x", 0x83), 1002),  # an opcode that nobody knows
        (masked(b"\xff\xfe"), 1007),  # text that is not UTF-8
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_broken_websocket_is_closed(open_port: OpenPort, frame: bytes, code: int) -> None:
    """With RFC 6455's code for it (7.4.1)."""
    port = await open_port()
    wiretap = await port.raw(upgrade(port.url) + frame)
    frames = (await wiretap.all()).partition(b"\r\n\r\n")[2]
    close = frames.index(b"\x88")
    assert frames[close + 2 : close + 4] == code.to_bytes(2, "big")
    assert len(frames) == close + 2 + frames[close + 1], "and nothing follows"


@FLUENT
@pytest_twisted.ensureDeferred
async def test_closes_have_the_codes_of_the_table(open_port: OpenPort, kind: type[FluentClient]) -> None:
    """Those that Autobahn's own sendClose() would refuse, too."""
    port = await open_port()
    for why in close_codes.ALL:
        client = port.v2(kind=kind)
        await client.connect()
        port.chat.hub.everybody()[0].end(why)
        await until(lambda c=client: c.closes)  # type: ignore[misc]
        assert client.closes == [(why.code, why.reason)]


# Peers that are gone, or do not read


@pytest_twisted.ensureDeferred
async def test_limit_ping_seconds(open_port: OpenPort) -> None:
    """A peer that answers no ping is gone after two, though its TCP connection looks well."""
    port = await open_port(ping_seconds=0.1)
    silent = await port.raw(upgrade(port.url))
    client = port.v2()
    await client.connect()
    got = await silent.all()
    assert b"\x89\x012" in got, "two pings at least"
    assert b"nothing was received" in got
    assert client.open


@pytest_twisted.ensureDeferred
async def test_limit_drain_seconds(open_port: OpenPort) -> None:
    """A peer that never reads is dropped, and what waits for it is bounded by the socket (G6)."""
    port = await open_port(ping_seconds=0.1, drain_seconds=0.3)
    stuck = port.v1()
    await stuck.connect()
    stuck.stop_reading()
    await until(lambda: len(port.chat.hub.everybody()) == 1)
    [session] = port.chat.hub.everybody()
    transport = session.connection.transport
    text, most = "x" * 16000, 0
    for _ in range(1000):
        await port.chat.rooms.post("bob", "r", text)
        most = max(most, len(transport.dataBuffer) + transport._tempDataLen)
        if session.is_slow:
            break
    assert session.is_slow
    for _ in range(50):
        await port.chat.rooms.post("bob", "r", text)
        most = max(most, len(transport.dataBuffer) + transport._tempDataLen)
    assert most < 200_000
    await until(lambda: not port.chat.hub.everybody())
    stuck.abort()


@FLUENT
@pytest_twisted.ensureDeferred
async def test_a_flood_of_questions_without_reading_the_answers(open_port: OpenPort, kind: type[FluentClient]) -> None:
    """Answers do not pile up: the socket is not read until they are taken, and then all come (G6)."""
    port = await open_port()
    for _ in range(30):
        await port.chat.rooms.post("bob", "r", "x" * 16000)
    client = port.v2(kind=kind)
    await client.connect()
    await until(lambda: client.has.get("r") == 31)
    client.stop_reading()
    refs = range(1000, 1500)
    for ref in refs:
        client.write(type="history", rid="r", ref=ref)
    [session] = port.chat.hub.everybody()
    await until(lambda: session.is_slow)
    transport = session.connection.transport
    assert len(transport.dataBuffer) + transport._tempDataLen < 2_000_000
    client.read_again()
    await until(lambda: len(client.answers) == len(refs))
    assert list(client.answers) == list(refs)


# Compression


@FLUENT
@pytest.mark.parametrize("compression", [True, False])
@pytest_twisted.ensureDeferred
async def test_compression(open_port: OpenPort, compression: bool, kind: type[FluentClient]) -> None:
    """Off unless asked for; on, both directions work, for short texts and long ones, beside clients without."""
    port = await open_port(ws={"compression": compression})
    client = port.v2("deflate", type("Deflater", (Deflating, kind), {}))
    plain = port.v2("plain", kind)
    await client.connect()
    await plain.connect()
    assert client.compressed is compression
    texts = [client.text("я" * size) for size in (0, 1, 30, 5000)] + [client.text("\n" * 300)]
    for text in texts:
        client.say("r", text)
    for reader in (client, plain):
        await until(lambda r=reader: len(r.connection.seen.get("r", ())) == len(texts) + 1)  # type: ignore[misc]
        assert [seen.text for seen in reader.connection.seen["r"][1:]] == texts
    assert await client.history("r") == client.connection.seen["r"][1:]
    assert client.link is not None
    if compression:
        assert client.link.trafficStats.incomingOctetsWireLevel < plain.link.trafficStats.incomingOctetsWireLevel


@pytest_twisted.ensureDeferred
async def test_a_small_frame_that_inflates_beyond_the_limit(open_port: OpenPort) -> None:
    """The limit holds for what a message inflates to."""
    port = await open_port(ws={"compression": True}, frame_bytes=10_000)
    wiretap = await port.raw(upgrade(port.url, "Sec-WebSocket-Extensions: permessage-deflate"))
    await until(lambda: b"\r\n\r\n" in wiretap.data)
    assert b"permessage-deflate" in wiretap.data
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = (deflate.compress(bytes(10_000_000)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(bomb) < 10_000
    wiretap.write(masked(bomb, 0xC1))
    assert (1009).to_bytes(2, "big") in await wiretap.all()


def test_what_a_wire_makes_is_what_json_says() -> None:
    """A frame's head tells its length in RFC 6455's three forms (5.2)."""
    wire = FrameEncoder(V2(Limits()))
    for size in (0, 60, 125, 126, 200, 65535, 65536, 70000):
        data = wire.frame(b"x" * size)
        head = 2 if size < 126 else 4 if size < 65536 else 10
        assert data[0] == 0x81
        assert len(data) == size + head
        length = data[1] if head == 2 else int.from_bytes(data[2:head], "big")
        assert length == size
