"""WAMP's three serializations: values to bytes, and a stranger's bytes to values.

What is written is what Autobahn's serializers write and read (tests/test_wamp_bytes.py). They are not used, for they
leave a stranger much to do harm with: a message of 200 bytes of CBOR refers to its own parts so often that it takes
years to look through, one of MessagePack claims lengths for which hundreds of megabytes are set aside, and JSON is read
in pure Python, and written by an encoder that is made anew for each message. Here what is read costs about what it is
long, and only what JSON has comes of it, and bytes.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Final, NoReturn

import cbor2
import msgspec


def _from_json(payload: bytes, depth: int) -> Any:
    value = msgspec.json.decode(payload)
    return _with_bytes(value) if b"\\u0000" in payload else value


def _with_bytes(value: Any) -> Any:
    """In WAMP's JSON a text that begins with NUL is bytes (basic profile, Binary Conversion of JSON Strings)."""
    if isinstance(value, str):
        return b64decode(value[1:], validate=True) if value.startswith("\0") else value
    if isinstance(value, dict):
        return {key: _with_bytes(item) for key, item in value.items()}
    return [_with_bytes(item) for item in value] if isinstance(value, list) else value


def _to_json(value: Any) -> bytes:
    data = msgspec.json.encode(value)
    return msgspec.json.encode(_without_nul(value)) if b'"\\u0000' in data else data


def _without_nul(value: Any) -> Any:
    """A text that begins with NUL would be read as bytes, so its bytes are what is sent."""
    if isinstance(value, str):
        return "\0" + b64encode(value.encode()).decode() if value.startswith("\0") else value
    if isinstance(value, dict):
        return {key: _without_nul(item) for key, item in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list | tuple) else value


def _from_msgpack(payload: bytes, depth: int) -> Any:
    return msgspec.msgpack.decode(payload)


def _no_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not read here")


class _AllTags(dict[int, Callable[..., NoReturn]]):
    """Decoders of all tags, those included that cbor2 knows itself."""

    def __missing__(self, tag: int) -> Callable[..., NoReturn]:
        return _no_tag


def _from_cbor(payload: bytes, depth: int) -> Any:
    return cbor2.loads(
        payload, max_depth=depth, semantic_decoders=_AllTags(), tag_hook=_no_tag, strict_hashable_types=True
    )


#: What writes a value, for each subprotocol.
WRITERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "wamp.2.json": _to_json,
    "wamp.2.msgpack": msgspec.msgpack.encode,
    "wamp.2.cbor": cbor2.dumps,
}

#: Those that go in binary frames.
BINARY: Final = frozenset({"wamp.2.msgpack", "wamp.2.cbor"})

SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})

#: What reads a payload, for each subprotocol. They raise whatever their libraries raise. The depth may be exceeded.
READERS: Final[dict[str, Callable[[bytes, int], Any]]] = {
    "wamp.2.json": _from_json,
    "wamp.2.msgpack": _from_msgpack,
    "wamp.2.cbor": _from_cbor,
}


def is_plain(value: object, depth: int) -> bool:
    """Whether a value that was read has nothing but what JSON has, and bytes, and nests no deeper."""
    if type(value) in SCALARS:
        return True
    if type(value) is dict:
        items: list[object] = list(value.values())
        if not all(type(key) is str for key in value):
            return False
    elif type(value) is list:
        items = value
    else:
        return False
    return depth > 0 and all(type(item) in SCALARS or is_plain(item, depth - 1) for item in items)
