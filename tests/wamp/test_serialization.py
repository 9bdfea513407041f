"""WAMP's bytes are those of Autobahn's serializers, both ways, and only what JSON has comes of them, and bytes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import cbor2
import msgpack
import pytest
from autobahn.wamp.serializer import CBORObjectSerializer, JsonObjectSerializer, MsgPackObjectSerializer
from hypothesis import given
from hypothesis import strategies as st

from mercury.websocket.wamp.serialization import BINARY, READERS, WRITERS, is_plain

AUTOBAHN: dict[str, Any] = {
    "wamp.2.json": JsonObjectSerializer(),
    "wamp.2.msgpack": MsgPackObjectSerializer(),
    "wamp.2.cbor": CBORObjectSerializer(),
}
JSON = "wamp.2.json"
DEPTH = 32

names = st.sampled_from(sorted(AUTOBAHN))
texts = st.text() | st.text(st.sampled_from('\0a"\\\n'), max_size=4)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)  # fmt: skip


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists of anything: messages have no other shape."""
    return st.lists(
        st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
    )


def nul_as_bytes(value: Any) -> Any:
    """A value as it comes over JSON, where a text that begins with NUL can come only as bytes."""
    if isinstance(value, str):
        return value.encode() if value.startswith("\0") else value
    if isinstance(value, dict):
        return {key: nul_as_bytes(item) for key, item in value.items()}
    return [nul_as_bytes(item) for item in value] if isinstance(value, list) else value


@given(names, nested(scalars))
def test_autobahn_reads_what_is_written(name: str, value: list[Any]) -> None:
    assert AUTOBAHN[name].unserialize(WRITERS[name](value)) == [nul_as_bytes(value) if name == JSON else value]


@given(names, nested(scalars | st.binary()))
def test_what_autobahn_writes_is_read(name: str, value: list[Any]) -> None:
    sent = nul_as_bytes(value) if name == JSON else value
    read = READERS[name](AUTOBAHN[name].serialize(sent), 400)
    assert read == sent
    assert is_plain(read, 400)


def test_binary_frames_are_for_those_for_which_autobahn_has_them() -> None:
    assert {name for name, serializer in AUTOBAHN.items() if serializer.BINARY} == BINARY


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        *(("wamp.2.msgpack", msgpack.packb(value, strict_types=False)) for value in (
            msgpack.ExtType(1, b"x"), msgpack.Timestamp(1), {1: 2}, {b"a": 1}, [[{1: 2}]],
        )),
        *(("wamp.2.cbor", cbor2.dumps(value)) for value in (
            datetime(2030, 1, 1, tzinfo=UTC), Decimal("1.5"), re.compile("a"), 2**64, {1: 2}, {b"a": 1}, {1, 2},
            cbor2.CBORSimpleValue(99), cbor2.CBORTag(7, 1), [[2**64]],
        )),
        (JSON, b"[NaN]"), (JSON, b"[Infinity]"), (JSON, b'["\\ud800"]'), (JSON, b'{"\\ud800":1}'), (JSON, b'["\xff"]'),
        (JSON, b"[1e400]"), (JSON, b"[1] [2]"), (JSON, b'["\\u0000!"]'), (JSON, b'["\\u0000YQ"]'),
        ("wamp.2.cbor", b"\x81\x63\xed\xa0\x80"), ("wamp.2.msgpack", b"\x91\xa3\xed\xa0\x80"),
    ],
)  # fmt: skip
def test_what_json_has_not_is_not_let_in(name: str, payload: bytes) -> None:
    try:
        value = READERS[name](payload, DEPTH)
    except Exception:  # each library has its own
        return
    assert not is_plain(value, DEPTH)


def test_depth_is_counted_from_the_outside() -> None:
    for value, depth in ((1, 0), ([], 1), ({}, 1), ([[]], 2), ({"a": [1]}, 2), ([{"a": []}, 1], 3)):
        assert is_plain(value, depth)
        assert depth == 0 or not is_plain(value, depth - 1)
