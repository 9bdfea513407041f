"""Makes up what no WAMP client should send: messages with something wrong in them, and bytes made to do harm."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address
from typing import Any, Final, NamedTuple
from uuid import UUID

import cbor2
import msgpack
from hypothesis import strategies as st

from mercury.websocket.wamp.topics import Topic
from tests.support.wamp_clockwork import (
    ABORT,
    AUTHENTICATE,
    CALL,
    CANCEL,
    CHALLENGE,
    ERROR,
    EVENT,
    GOODBYE,
    NAMES,
    PUBLISH,
    PUBLISHED,
    REGISTER,
    RESULT,
    SUBSCRIBE,
    SUBSCRIBED,
    UNREGISTER,
    UNSUBSCRIBE,
    UNSUBSCRIBED,
    WELCOME,
    WRITE,
    hello,
)

JSON, MSGPACK, CBOR = NAMES


#: How far a session has come: the first three of them are not logged in yet.
STAGES: Final = ("new", "challenged", "signing", "by url", *("logged in", "subscribed") * 4)


class Frame(NamedTuple):
    """What is sent, and in which kind of frame."""

    payload: bytes
    binary: bool


# Bytes made to do harm


def _claim(major: int, size: int) -> bytes:
    """The head of a CBOR item that says how long it is."""
    return bytes([major << 5 | 27]) + size.to_bytes(8)


def _small(number: int) -> bytes:
    return bytes([number]) if number < 24 else bytes([0x18, number])


#: Thirty lists, each of which is twice the one before: 2**30 items for who follows the references.
LAUGHS: Final = b"\x98\x1e\xd8\x1c\x82\x00\x00" + b"".join(
    b"\xd8\x1c\x82" + 2 * (b"\xd8\x1d" + _small(n)) for n in range(29)
)

ATTACKS: Final[dict[str, list[bytes]]] = {
    JSON: [
        b"[" * 65000,
        b'{"a":' * 13000,
        b"[" * 300 + b"]" * 300,
        b"1" * 65000,
        b"[48," + b"1" * 4300 + b',{},"mercury.rooms"]',
        b'[48,1e999999999,{},"mercury.rooms"]',
        b"[48,0." + b"1" * 60000 + b',{},"mercury.rooms"]',
        b'[48,1,{},"mercury.history",["r"],{"after":' + b"9" * 60000 + b"}]",
        b'[48,1,{},"mercury.send",["b","\\ud800"]]',
        b'[48,1,{},"mercury.send",["b","x"],{"\\ud800":1}]',
        b'[48,1,{},"mercury.send",["b","\\u0000!!"]]',
        b'[48,1,{},"mercury.send",["b","\\u0000/////w=="]]',
        b'[48,1,{},"mercury.send",["b",NaN]]',
        b'[48,1,{},"mercury.send",["b","\xff"]]',
        b"[" + b"{}," * 21000 + b"{}]",
        b"[" + b'"\\u0000",' * 7000 + b"0]",
        b'[48,1,{},"mercury.send",["b"],{' + b",".join(b'"%d":0' % n for n in range(6000)) + b"}]",
        b'[48,1,{},"' + b"a." * 30000 + b' "]',
        b" " * 65000,
        b"\xef\xbb\xbf[]",
    ],
    MSGPACK: [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xffa",
        b"\xdc\xf0\x00" * 1000 + b"\xc0" * 62000,  # a thousand lists of 61,440 items
        (b"\xde\x70\x00\xa1a") * 1000 + b"\xc0" * 60000,
        b"\x91" * 65000,
        b"\x81\xa1a" * 21000,
        b"\xc7\x01\x05a",
        b"\xd6\xff\x00\x00\x00\x01",
        b"\xd7\xff" + b"\xff" * 8,
        b"\x81\x01\x02",
        b"\x81\x90\x01",
        b"\x93\x01\xa1a\x81\xc4\x01a\x01",
        b"\xc1",
        b"\x91\xa3\xed\xa0\x80",
        b"\xdd\x00\x00\xfd\xe8" + b"\x80" * 65000,
        b"\x95\x30\xcf" + b"\xff" * 8 + b"\x80\xadmercury.rooms\x90",
    ],
    CBOR: [
        _claim(4, 2**40),
        _claim(5, 2**40),
        _claim(2, 2**40) + b"a",
        _claim(3, 2**40) + b"a",
        _claim(4, 65000) * 7000,
        b"\x99\xff\xff" * 300 + b"\x00" * 64000,
        b"\xc2\x59\xff\x00" + b"\xff" * 0xFF00,
        b"\x84\x18\x30\xc2\x49" + b"\x01" * 9 + b"\xa0\x6dmercury.rooms",
        b"\xc4\x82" + _claim(0, 2**60) + b"\x01",
        b"\xc5\x82" + _claim(0, 2**60) + b"\x01",
        b"\xd8\x1e\x82\xc2\x59\x7f\x00" + b"\xff" * 0x7F00 + b"\xc2\x59\x7f\x00" + b"\xfd" * 0x7F00,
        b"\xd8\x23\x79\xfe\x00" + (b"(a|b)?" * 11000)[:0xFE00],
        b"\xd8\x24\x79\xfe\x00" + (b"Content-Type: multipart/mixed; boundary=x\n\n" + b"--x\n" * 20000)[:0xFE00],
        b"\x82\xd8\x1c\x81\xd8\x1d\x00\x00",  # a list that is in itself
        LAUGHS,
        b"\xd9\x01\x00\x82\x79\x7f\x00" + b"a" * 0x7F00 + b"\x98\xff" + b"\xd8\x19\x00" * 255,
        b"\x81" * 65000,
        b"\xc1" * 65000 + b"\x00",
        b"\xb9\x10\x00" + b"".join(b"\xc2\x4c" + (n * (2**61 - 1)).to_bytes(12) + b"\x00" for n in range(0x1000)),
        b"\x9f" + b"\x00" * 60000 + b"\xff",
        b"\x7f" + b"\x61a" * 30000 + b"\xff",
        b"\x81\x63\xed\xa0\x80",
        b"\xd9\x01\x02\x81\x00",
        b"\xd9\xd9\xf7\x80",
        b"\xc1\xfb\x7f\xf0" + b"\x00" * 6,
        b"\xf7",
        b"\xf8\xff",
        b"\xff",
    ],
}

# Messages with something wrong in them

REQUESTS: Final[list[list[Any]]] = [
    [CALL, 1, {}, "mercury.send", ["b", "hello"], {"cid": "c"}],
    [CALL, 2, {}, "mercury.history", ["b"], {"before": 9, "limit": 3}],
    [CALL, 3, {}, "mercury.rooms", [], {}],
    [CALL, 4, {}, "mercury.read", ["b", 1], {}],
    [CALL, 5, {}, "mercury.ack", ["b", 1], {}],
    [CALL, 6, {}, "mercury.presence", ["b"], {}],
    [CALL, 7, {"timeout": 5}, "mercury.typing", [], {"rid": "b"}],
    [CALL, 8, {}, "mercury.leave", ["b"], {}],
    [PUBLISH, 9, {"acknowledge": True}, "mercury.room.b", ["hello"], {"cid": "d"}],
    [PUBLISH, 10, {"exclude_me": False}, "mercury.room.b", ["hello"], {}],
    [SUBSCRIBE, 11, {}, "mercury.room.b"],
    [SUBSCRIBE, 12, {"after": 0}, "mercury.room.b"],
    [SUBSCRIBE, 13, {"match": "prefix"}, "mercury.room."],
    [SUBSCRIBE, 14, {}, "mercury.room.b.presence"],
    [SUBSCRIBE, 15, {}, "mercury.inbox"],
    [SUBSCRIBE, 16, {}, "mercury.room.r"],  # where Eve is not
    [UNSUBSCRIBE, 17, Topic("inbox").subscription],
    [CANCEL, 8, {"mode": "kill"}],
    [REGISTER, 18, {}, "eve.procedure"],
    [UNREGISTER, 19, 1],
]
OPENING: Final[list[list[Any]]] = [
    hello(authid="eve", authextra={"device": "d", "resume": {"epoch": "e", "rooms": {"b": 0}}}),
    hello(authid="eve", authmethods=["wampcra"]),
    [AUTHENTICATE, "ticket", {}],
]
ENDING: Final[list[list[Any]]] = [[GOODBYE, {}, "wamp.close.normal"], [ABORT, {}, "wamp.error.canceled"]]
DETAILS: Final = (
    "acknowledge", "after", "authextra", "authid", "authmethods", "before", "cid", "device", "enc_algo", "exclude",
    "features", "forward_for", "get_retained", "limit", "match", "message", "mode", "ref", "resume", "rid", "roles",
    "seq", "subscriber", "text", "type", "",
)  # fmt: skip
KINDS: Final = (
    *range(72), CHALLENGE, ERROR, EVENT, PUBLISHED, RESULT, SUBSCRIBED, UNSUBSCRIBED, WELCOME, -1, 255, 2**70,
)  # fmt: skip
NUMBERS: Final = (0, 1, -1, 2**31, 2**53 - 1, 2**53, 2**53 + 1, 2**63, 2**64 - 1, -(2**63), 2**64, 10**400, 0.0, -0.5,
                  1e300, float("inf"), float("-inf"), float("nan"))  # fmt: skip
TEXTS: Final = (
    "", " ", "\0", "\0YQ==", "\0!", "b", "r", "mercury.room.b", "mercury.room.r", "mercury.room.%", "mercury.room.%FF",
    "mercury.inbox", "mercury.room.", "mercury..", "mercury.send", "wamp.session.kill", "no uri", "#", "\ud800", "\n",
    "é" * 40, "\u202e", "😀", "a" * 20000, "ticket", "wampcra", "prefix", "wildcard", "eve", "ann", "1", "null", "{0}",
)  # fmt: skip
#: What JSON does not have; where it cannot be written, something else that is wrong stands for it.
ALIENS: Final = (
    b"", b"\xff\xfe", b"hello", datetime(2030, 1, 1, tzinfo=UTC), Decimal("1E+999999"), Fraction(1, 3), re.compile("a"),
    UUID(int=7), ip_address("127.0.0.1"), cbor2.CBORTag(1000, 1), cbor2.CBORSimpleValue(99), cbor2.undefined,
    frozenset({1}), msgpack.ExtType(5, b"x"), msgpack.Timestamp(1), {1: 2}, {b"a": 1}, {None: 0}, 1 + 2j,
)  # fmt: skip


def _nested(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


odd: st.SearchStrategy[Any] = (
    st.sampled_from((*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], {"": {}}, ["b"], ["b", "hello"]))
    | st.sampled_from(ALIENS)
    | st.sampled_from((3, 31, 33, 150, 900)).map(_nested)
    | st.dictionaries(st.sampled_from((*DETAILS, *TEXTS)), st.sampled_from((*NUMBERS, *TEXTS, [], {})), max_size=3)
    | st.lists(st.sampled_from((*NUMBERS, *TEXTS, [], {})), max_size=4)
    | st.text(max_size=5)
    | st.integers()
)


#: What is done to a message: the first ones leave it a message, though mostly a wrong one; BROKEN, hardly ever.
BENT: Final = ("argument", "argument", "keyword", "keyword", "detail", "uri", "id")
BROKEN: Final = ("replace", "drop", "insert", "double", "kind", "whole")


@st.composite
def messages(draw: Callable[..., Any], opening: bool) -> Any:
    """A good message, most often with one or two things done to it. `opening`: to begin a session with."""
    usual = OPENING if opening else REQUESTS
    message = list(draw(st.sampled_from(draw(st.sampled_from((usual,) * 12 + (OPENING, ENDING))))))
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2)))):
        place = draw(st.integers(0, max(0, len(message) - 1)))
        match draw(st.sampled_from(BENT * 4 + BROKEN)):
            case "argument" if len(message) > 4 and message[4]:
                message[4] = [*message[4][:-1], draw(odd)] if isinstance(message[4], list) else draw(odd)
            case "argument" if len(message) > 4 and isinstance(message[4], list):
                message[4] = [*message[4], draw(odd)]
            case "keyword" if len(message) > 5 and isinstance(message[5], dict):
                message[5] = {**message[5], draw(st.sampled_from(DETAILS)): draw(odd)}
            case "detail" if len(message) > 2:
                at = 1 if message[0] in (GOODBYE, ABORT) else 2
                was = message[at] if isinstance(message[at], dict) else {}
                message[at] = {**was, draw(st.sampled_from(DETAILS)): draw(odd)}
            case "uri" if len(message) > 3:
                message[3] = draw(st.sampled_from(TEXTS))
            case "id" if len(message) > 1:
                message[1] = draw(st.sampled_from(NUMBERS))
            case "replace" if message:
                message[place] = draw(odd)
            case "drop":
                del message[place:]
            case "insert":
                message.insert(place, draw(odd))
            case "double":
                message += message[place:]
            case "kind" if message:
                message[0] = draw(st.sampled_from(KINDS))
            case "whole":
                return draw(odd)
    return message


def written(name: str, value: Any) -> bytes:
    """A value's bytes, or what stands for what cannot be written."""
    try:
        return WRITE[name](value)
    except Exception:  # each library has its own ways to refuse
        return repr(value).encode(errors="surrogatepass")[:65000]


@st.composite
def frames(draw: Callable[..., Any], name: str, opening: bool) -> Frame:
    """What a client that speaks `name` might send at worst."""
    harms = ("none",) * 50 + ("attack", "attack", "cut", "flip", "twice", "other", "noise", "kind")
    harm = draw(st.sampled_from(harms))
    binary = name != JSON
    if harm == "attack":
        return Frame(draw(st.sampled_from(ATTACKS[name])), binary)
    if harm == "noise":
        return Frame(draw(st.binary(max_size=40)), binary)
    value = draw(messages(opening))
    payload = written(draw(st.sampled_from(NAMES)) if harm == "other" else name, value)
    if harm == "cut":
        payload = payload[: draw(st.integers(0, max(0, min(len(payload), 60) - 1)))]
    elif harm == "flip" and payload:
        place = draw(st.integers(0, min(len(payload), 60) - 1))
        payload = payload[:place] + bytes([draw(st.integers(0, 255))]) + payload[place + 1 :]
    elif harm == "twice":
        payload *= 2
    return Frame(payload, binary != (harm == "kind"))


@st.composite
def lives(draw: Callable[..., Any], name: str) -> tuple[str, list[Frame]]:
    """How far a session has come, and what is sent then."""
    stage = draw(st.sampled_from(STAGES))
    opening = stage in STAGES[:3]
    sent = [draw(frames(name, opening))] if opening else []
    return stage, sent + draw(st.lists(frames(name, False), min_size=1, max_size=6))
