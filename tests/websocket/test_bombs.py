"""What is made to do harm does none: a real node is sent it, and answers with an error or hangs up, without growing,
without a complaint in its log, and without anybody else's noticing.

Small things that blow up, numbers and texts that are none, frames and chunks without end, requests within requests.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.support.broken_wamp import ATTACKS
from tests.support.raw_server import Peer, RawServer, request
from tests.support.websocket_bytes import masked

pytestmark = pytest.mark.alone

V2 = "mercury.v2.json"
FORM = "application/x-www-form-urlencoded"
GROWTH_KB = 30_000  # of the node's memory, at most, whatever it is sent: half of what a bomb unpacks to
UNREAD = 300  # answers, of 160 kB and more

Bad = tuple[str, ...]  # what may come of something: codes of errors, or that the connection ends


class Friends:
    """Ann and Bob, who chat meanwhile. `began_with`, `sockets`: what the node had when they began."""

    def __init__(self, node: RawServer) -> None:
        node.call("POST", "/api/rooms/r/members", {"members": ["ann", "bob"]})
        self.ann, self.bob = node.upgraded(V2, "ann"), node.upgraded(V2, "bob")
        self.heard = [self.events(peer) for peer in (self.ann, self.bob)]
        self.said = 0
        self.are_well()
        self.began_with, self.sockets = node.resident_kb(), node.sockets()
        node.forget_peak()

    def events(self, peer: Peer) -> Iterator[Any]:
        """What somebody is told, apart from how the others are."""
        for opcode, payload in peer.frames():
            assert opcode in (1, 9), payload
            if opcode == 9:
                peer.send(masked(payload, 0x8A))
            elif (event := json.loads(payload))["type"] in ("message", "error", "reset"):
                yield event

    def are_well(self) -> None:
        """What one says the other hears, and nothing else."""
        self.said += 1
        self.ann.send(masked(b'{"type":"send","rid":"r","text":"%d"}' % self.said))
        for heard in self.heard:
            event = next(heard)
            assert (event["type"], event["text"]) == ("message", str(self.said))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawServer]:
    running = RawServer(tmp_path_factory.mktemp("bombs"), "--server.ws.compression", "--limits.request-seconds=3")
    running.call("POST", "/api/rooms/b/members", {"members": ["eve"]})
    yield running
    running.stop()
    assert running.complaints() == []


@pytest.fixture(scope="module")
def friends(node: RawServer) -> Iterator[Friends]:
    friends = Friends(node)
    with friends.ann, friends.bob:
        yield friends


# JSON, wherever it is taken


def v2(node: RawServer, value: bytes) -> str:
    return told(node.upgraded(V2, "eve"), b'{"type":"history","rid":"b","before":%s}' % value)


def v2_unknown(node: RawServer, value: bytes) -> str:
    return told(node.upgraded(V2, "eve"), b'{"type":"history","rid":"b","x":%s}' % value)


def v2_before_login(node: RawServer, value: bytes) -> str:
    return told(node.upgraded(V2), b'{"type":"connect","token":%s,"member":"eve"}' % value)


def v1(node: RawServer, value: bytes) -> str:
    return told(node.upgraded("", "eve"), b'{"type":2,"rid":"b","msgid":%s}' % value)


def wamp(node: RawServer, value: bytes) -> str:
    peer = node.upgraded("wamp.2.json", "eve")
    peer.send(masked(b'[1,"mercury",{"roles":{"caller":{}}}]'))
    return told(peer, b'[48,1,{},"mercury.history",["b"],{"before":%s}]' % value)


def rest(node: RawServer, value: bytes) -> str:
    return answered(node, "server.api", request("/api/tokens", b'{"member":"eve","ttl":%s}' % value))


def gotalk(node: RawServer, value: bytes) -> str:
    return answered(node, "gotalk", request("/sync", b'{"token":"x","id":%s}' % value))


DOORS: Final = [v2, v2_unknown, v2_before_login, v1, wamp, rest, gotalk]

#: None of these is a number or a text that JSON, or Mercury, has.
VALUES: Final = {
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "1e400": b"1e400",
    "2^63": b"9223372036854775808",
    "-2^63-1": b"-9223372036854775809",
    "60,000 digits": b"9" * 60_000,
    "depth 10,000": b"[" * 10_000 + b"]" * 10_000,
    "objects, depth 10,000": b'{"x":' * 10_000 + b"0" + b"}" * 10_000,
    "half of depth 10,000": b"[" * 10_000,
    "a lone surrogate": b'"\\ud800"',
    "surrogates the wrong way": b'"\\udc00\\ud800"',
    "brackets and a string without end": b"[" * 40 + b'"' + b'\\"' * 30_000,
    "6,000 keys": b"{" + b",".join(b'"%d":0' % number for number in range(6000)) + b"}",
    "20,000 lists": b"[" + b"[]," * 20_000 + b"[]]",
}

#: What a key that nobody knows may well have, since it is not looked at.
HARMLESS: Final = ("2^63", "-2^63-1", "1e400", "60,000 digits", "6,000 keys", "20,000 lists")


@pytest.mark.parametrize("value", VALUES)
def test_json_that_is_none_of_ours(node: RawServer, friends: Friends, value: str) -> None:
    expected: dict[Any, Bad] = dict.fromkeys(DOORS, ("bad_request",)) | {wamp: ("abort", "invalid_argument")}
    if value in HARMLESS:
        expected[v2_unknown] = ("ok",)
    found = {door: door(node, VALUES[value]) for door in DOORS}
    assert {door.__name__: said for door, said in found.items() if said not in expected[door]} == {}
    friends.are_well()


@pytest.mark.parametrize("text", [b"\xed\xa0\x80", b"\xc0\x80", b"\xff", b"\xf4\x90\x80\x80"])
def test_bytes_that_are_not_utf8(node: RawServer, friends: Friends, text: bytes) -> None:
    """In a frame of text they end the connection (RFC 6455, 8.1)."""
    found = {door: door(node, b'"%s"' % text) for door in DOORS}
    assert {said for door, said in found.items() if door in (rest, gotalk)} == {"bad_request"}
    assert {said for door, said in found.items() if door not in (rest, gotalk)} == {"closed with 1007"}
    friends.are_well()


# WebSocket frames


def deflated(size: int) -> bytes:
    """So many zeros, as permessage-deflate sends them (RFC 7692, 7.2.1)."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflate.compress(bytes(size)) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


BOMB: Final = deflated(62_000_000)
PARTS: Final = [BOMB[at : at + 30] for at in range(0, len(BOMB), 30)]

#: What is sent, and what comes of it, on a connection that has agreed on compression.
FRAMES: Final[dict[str, tuple[bytes, Bad]]] = {
    "61 kB that inflate to 62 MB": (masked(BOMB, 0xC1), ("closed with 1009",)),
    "the same in pieces": (
        masked(PARTS[0], 0x41) + b"".join(masked(part, 0) for part in PARTS[1:-1]) + masked(PARTS[-1], 0x80),
        ("closed with 1009",),
    ),
    "what does not inflate": (masked(b"\xff" * 50, 0xC1), ("closed with 1007",)),
    "fragments of one byte": (masked(b"x" * 50_000, 0x01) + masked(b"x", 0x00) * 20_000, ("closed with 1009",)),
    "fragments of none": (masked(b"x" * 50_000, 0x01) + masked(b"", 0x00) * 20_000, ("closed with 1009",)),
    "a frame of 2^63-1 bytes": (b"\x81\xff" + (2**63 - 1).to_bytes(8, "big") + bytes(4), ("closed with 1009",)),
    "a frame of 2^63 bytes": (b"\x81\xff" + (2**63).to_bytes(8, "big") + bytes(4), ("closed with 1002",)),
    "a ping of 126 bytes": (masked(b"x" * 126, 0x89), ("closed with 1002",)),
    "half a ping": (masked(b"x", 0x09), ("closed with 1002",)),
    "the end of no message": (masked(b"x", 0x80), ("closed with 1002",)),
    "a message within a message": (masked(b"x", 0x01) + masked(b"x", 0x81), ("closed with 1002",)),
    "a close with half a code": (masked(b"\x03", 0x88), ("closed with 1002", "closed")),
    "a close in no encoding": (masked(b"\x03\xe8\xed\xa0\x80", 0x88), ("closed with 1007", "closed")),
    "a close with a code that is none": (masked(b"\x00\x00", 0x88), ("closed with 1002", "closed")),
    "10,000 messages of nothing": (masked(b"") * 10_000, ("bad_request",)),
    "10,000 pings, and a question": (masked(b"", 0x89) * 10_000 + masked(b"?"), ("bad_request",)),
    "10,000 pongs, and a question": (masked(b"9" * 20, 0x8A) * 10_000 + masked(b"?"), ("bad_request",)),
    "bytes for text": (masked(b'{"type":"history","rid":"b"}', 0x82), ("bad_request",)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_that_are_too_much(node: RawServer, friends: Friends, name: str) -> None:
    data, expected = FRAMES[name]
    peer = node.upgraded(V2, "eve", "Sec-WebSocket-Extensions: permessage-deflate")
    peer.send(data)
    assert told(peer) in expected
    friends.are_well()


@pytest.mark.parametrize("name", ATTACKS)
def test_wamp_messages_that_are_none(node: RawServer, friends: Friends, name: str) -> None:
    """CBOR and MessagePack with huge lengths, depth and references among them; tests/wamp/test_broken.py looks
    closer."""
    for payload in ATTACKS[name]:
        peer = node.upgraded(name, "eve")
        assert told(peer, payload, first=0x81 if name.endswith("json") else 0x82) in (
            "abort",
            "closed with 1007",
            "closed with 4400",
        )
        friends.are_well()


# HTTP

SMUGGLED: Final = b"POST /api/rooms/smuggled/members HTTP/1.1\r\nContent-Length: 19\r\n\r\n" + b'{"members":["eve"]}'
HEAD: Final = b"POST /api/tokens HTTP/1.1\r\nHost: x\r\n"
CHUNKED: Final = HEAD + b"Transfer-Encoding: chunked\r\n"
INNER: Final = b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n"

#: What is sent, and the codes it may be answered with. Nothing behind it is taken for a request.
HTTP: Final[dict[str, tuple[bytes, Bad]]] = {
    "a URL of 20,000 bytes": (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", ("bad_request",)),
    "a URL without end": (b"GET /" + b"x" * 200_000, ("bad_request",)),
    "600 headers": (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 600 + b"\r\n", ("bad_request",)),
    "headers without end": (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 60_000, ("bad_request",)),
    "a header without end": (b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000, ("bad_request",)),
    "a folded header without end": (b"GET / HTTP/1.1\r\nx: y\r\n" + b" y\r\n" * 60_000, ("bad_request",)),
    "empty lines": (b"\r\n" * 1000, ("bad_request",)),
    "2 MB in a chunk": (
        CHUNKED + b"\r\n200000\r\n" + b"x" * 2**21 + b"\r\n0\r\n\r\n",
        ("too_large",),
    ),
    "a chunk of 2^68 bytes": (
        CHUNKED + b"\r\n1" + b"0" * 17 + b"\r\n" + b"x" * 2**21,
        ("too_large",),
    ),
    "30,000 chunks": (
        CHUNKED + b"\r\n" + b"1\r\n \r\n" * 30_000 + b"0\r\n\r\n",
        ("bad_request", "not_found"),
    ),
    "a chunk's extension without end": (
        CHUNKED + b"\r\n1;" + b"x" * 200_000,
        ("bad_request",),
    ),
    "trailers without end": (
        CHUNKED + b"\r\n0\r\n" + b"x: y\r\n" * 60_000,
        ("bad_request",),
    ),
    "2^63 bytes": (HEAD + b"Content-Length: 9223372036854775808\r\n\r\n" + SMUGGLED, ("too_large",)),
    "5,000 digits of bytes": (HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + SMUGGLED, ("bad_request",)),
}
for number, length in enumerate((b"+5", b"-5", b"0x5", b"5_0", b"5.0", b"5 5", b"5, 5", b"", b"\xb2")):
    HTTP[f"no length {number}"] = (HEAD + b"Content-Length: " + length + b"\r\n\r\n" + SMUGGLED, ("bad_request",))
for number, coding in enumerate(
    (b"xchunked", b"chunked, identity", b"gzip, chunked", b"\x0bchunked", b"chunked;x", b"")
):
    HTTP[f"no coding {number}"] = (HEAD + b"Transfer-Encoding: " + coding + b"\r\n\r\n" + INNER, ("bad_request",))
for name, head, body in (
    ("two lengths", HEAD + b"Content-Length: 0\r\nContent-Length: 5\r\n", SMUGGLED),
    ("a length and chunks", HEAD + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", INNER),
    ("chunks and a length", CHUNKED + b"Content-Length: 0\r\n", INNER),
    ("chunks twice", CHUNKED + b"Transfer-Encoding: chunked\r\n", INNER),
    ("a space before a colon", HEAD + b"Content-Length : 0\r\n", SMUGGLED),
    ("a name with a tab", HEAD + b"Transfer\tEncoding: chunked\r\n", INNER),
    ("a name that is none", HEAD + b": 5\r\n", SMUGGLED),
    ("a NUL", HEAD + b"x: \0\r\n", SMUGGLED),
    ("a carriage return alone", HEAD + b"x: y\rContent-Length: 5\r\n", SMUGGLED),
    ("lines that end in LF", HEAD.replace(b"\r", b"") + b"Content-Length: 0\n\n", SMUGGLED),
    (
        "a chunk length with a sign",
        HEAD + b"Transfer-Encoding: chunked\r\n",
        b"+5\r\nxxxxx\r\n0\r\n\r\n" + SMUGGLED,
    ),
    ("a chunk length with 0x", HEAD + b"Transfer-Encoding: chunked\r\n", b"0x5\r\nxxxxx\r\n0\r\n\r\n" + SMUGGLED),
    ("a chunk that is longer", HEAD + b"Transfer-Encoding: chunked\r\n", b"2\r\nxxxxx\r\n0\r\n\r\n" + SMUGGLED),
    ("HTTP/9", b"GET / HTTP/9.9 x\r\n", SMUGGLED),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n", b"SM\r\n\r\n" + SMUGGLED),
    ("a first line of one word", b"GET\r\n", SMUGGLED),
):
    HTTP[name] = (head + b"\r\n" + body, ("bad_request",))


@pytest.mark.parametrize("name", HTTP)
def test_requests_that_are_none(node: RawServer, friends: Friends, name: str) -> None:
    data, expected = HTTP[name]
    assert answered(node, "server.api", data) in expected
    assert answered(node, "gotalk", data) in expected
    friends.are_well()


QUERIES: Final = [
    *(b"limit=" + number for number in (b"NaN", b"Infinity", b"1e400", b"-1", b"9223372036854775808", b"9" * 15_000)),
    *(b"after=" + text for text in (b"%ED%A0%80", b"%C0%80", b"%FF", b"%", b"\xff", b"x" * 15_000)),
    b"limit=1&limit=1",
    b"&".join(b"k%d=0" % number for number in range(1500)),
]
FORMS: Final = [
    *(b"token=x&id=" + number for number in (b"NaN", b"1e9", b"-1", b"9223372036854775808", b"9" * 60_000)),
    *(b"token=" + text for text in (b"%ED%A0%80", b"%C0%80", b"%FF", b"%", b"\xff")),
    b"id=1&ID=1",
    b"&".join(b"k%d=0" % number for number in range(10_000)),
]


def test_queries_and_forms_that_are_none(node: RawServer, friends: Friends) -> None:
    for query in QUERIES:
        data = b"GET /api/rooms?" + query + b" HTTP/1.1\r\n\r\n"
        assert answered(node, "server.api", data) == "bad_request", query[:40]
    for form in FORMS:
        assert answered(node, "gotalk", request("/sync", form, FORM)) == "bad_request", form[:40]
    friends.are_well()


def test_no_request_was_taken_out_of_another(node: RawServer) -> None:
    """After all of the above. But a second one that is there by right is."""
    with node.dial("server.api") as peer:
        peer.send(request("/api/rooms/smuggled", method="GET"))
        assert peer.answer()["code"] == "not_found"
        peer.send(HEAD + b"Content-Length: 0\r\n\r\n" + SMUGGLED)
        assert peer.answer()["code"] == "bad_request"
        assert peer.answer()["status"] == "ok"
    node.call("DELETE", "/api/rooms/smuggled")


# Memory


def test_questions_whose_answers_nobody_reads_are_not_answered_for_ever(node: RawServer, friends: Friends) -> None:
    """And whoever reads on after all gets each answer."""
    for _ in range(16):
        node.call("POST", "/api/rooms/b/messages", {"text": "x" * 16_000})
    with node.dial("server.api") as peer:
        peer.send(request("/api/rooms/b/messages", method="GET") * UNREAD)
        for _ in range(100):  # in this time it could answer them all
            friends.are_well()
        assert node.peak_kb() < friends.began_with + GROWTH_KB
        for _ in range(UNREAD):
            assert len(peer.answer()["body"]["messages"]) > 10


def test_memory_has_stayed_flat(node: RawServer, friends: Friends) -> None:
    """At its peak as well, in all of the above: nothing was unpacked, or set aside, for what was refused."""
    assert node.peak_kb() < friends.began_with + GROWTH_KB
    assert node.sockets() <= friends.sockets + 5  # some of the last may not be closed yet


def told(peer: Peer, *frames: bytes, first: int = 0x81) -> str:
    """What a client is told in answer to these frames: ok, the code of an error, or the code of a close."""
    with peer:
        greeting = peer.frames()
        for frame in frames:
            peer.send(masked(frame, first))
        for opcode, payload in greeting:
            if opcode == 9:
                peer.send(masked(payload, 0x8A))
            elif opcode == 8:
                return f"closed with {int.from_bytes(payload[:2], 'big')}"
            elif opcode == -1:
                return "closed"
            elif opcode == 1 and (found := verdict(json.loads(payload))):
                return found
    raise AssertionError("frames() ends with -1")


def verdict(message: Any) -> str:
    """What a message of the server's says about what was asked: nothing, ok, or the code of an error."""
    if isinstance(message, list):
        return {3: "abort", 8: str(message[4:5])[2:-2].rpartition(".")[2], 50: "ok"}.get(message[0], "")
    return str(message["code"]) if "code" in message else "ok" if message.get("type") == "ok" else ""


def answered(node: RawServer, listener: str, data: bytes) -> str:
    """The code of the one error with which these bytes are answered."""
    with node.dial(listener) as peer:
        peer.send(data)
        answer = peer.answer()
        assert answer["error"]
        return str(answer["code"])
