"""How WAMP messages become values, when a stranger has sent them, and how values become bytes.

Autobahn's serializers would do both, but leave a stranger much to do harm with: a message of 200 bytes of CBOR refers
to its own parts so often that it takes years to look through, one of MessagePack claims lengths for which hundreds of
megabytes are set aside, and JSON is read by a decoder in pure Python. Here what is read costs about what it is long,
and only what JSON has comes of it, and bytes. What is written is what Autobahn's would write, in a third of the time.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import cbor2
import msgspec
from cbor2 import undefined


def _json(payload: bytes, depth: int) -> Any:
    value = msgspec.json.decode(payload)
    return _with_bytes(value) if b"\\u0000" in payload else value


def _with_bytes(value: Any) -> Any:
    """In WAMP's JSON a text that begins with NUL is bytes (basic profile, Binary Conversion of JSON Strings)."""
    if isinstance(value, str):
        return b64decode(value[1:], validate=True) if value.startswith("\0") else value
    if isinstance(value, dict):
        return {key: _with_bytes(item) for key, item in value.items()}
    return [_with_bytes(item) for item in value] if isinstance(value, list) else value


def _msgpack(payload: bytes, depth: int) -> Any:
    return msgspec.msgpack.decode(payload, ext_hook=_extension)


def _extension(code: int, data: memoryview) -> Any:
    if (code, bytes(data)) != (0, b"\0"):
        raise ValueError("extension types are not supported")
    return undefined  # as msgpackr has it, with which wampy.js writes


def _no_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not supported")


class _AllTags(dict[int, Callable[..., NoReturn]]):
    """Decoders of all tags, those included that cbor2 knows itself."""

    def __missing__(self, tag: int) -> Callable[..., NoReturn]:
        return _no_tag


def _cbor(payload: bytes, depth: int) -> Any:
    return cbor2.loads(
        payload, max_depth=depth, semantic_decoders=_AllTags(), tag_hook=_no_tag, strict_hashable_types=True
    )


SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes, type(undefined)})

#: What reads a payload, for each subprotocol. They raise whatever their libraries raise. The depth may be exceeded.
READERS: Final[dict[str, Callable[[bytes, int], Any]]] = {
    "wamp.2.json": _json,
    "wamp.2.msgpack": _msgpack,
    "wamp.2.cbor": _cbor,
}


def is_plain(value: object, depth: int) -> bool:
    """Whether a value that was read has nothing but what JSON has, bytes and undefined, and nests no deeper."""
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


def as_in_json(value: Any) -> Any:
    """A plain value as it would have come in JSON: there is no key whose value is undefined, nor is 5e9 a float only
    because it is too large for 32 bits, which is how JavaScript's cbor-x and msgpackr write it. Lists and dicts are
    changed where they are."""
    if type(value) is float and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if type(value) is dict:
        for key in [key for key, item in value.items() if item is undefined]:
            del value[key]
        for key, item in value.items():
            value[key] = as_in_json(item)
    elif type(value) is list:
        for place, item in enumerate(value):
            value[place] = as_in_json(item)
    return None if value is undefined else value


# Writing


def _to_json(value: Any) -> bytes:
    data = msgspec.json.encode(value)
    return msgspec.json.encode(_as_bytes(value)) if b'"\\u0000' in data else data


def _as_bytes(value: Any) -> Any:
    """In WAMP's JSON a text that begins with NUL would be taken for bytes, so as bytes it goes."""
    if isinstance(value, str):
        return "\0" + b64encode(value.encode()).decode() if value.startswith("\0") else value
    if isinstance(value, Mapping):
        return {key: _as_bytes(item) for key, item in value.items()}
    return [_as_bytes(item) for item in value] if isinstance(value, list | tuple) else value


#: Those that go in binary frames.
BINARY: Final = frozenset({"wamp.2.msgpack", "wamp.2.cbor"})

#: What writes a message's values, for each subprotocol.
WRITERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "wamp.2.json": _to_json,
    "wamp.2.msgpack": msgspec.msgpack.encode,
    "wamp.2.cbor": cbor2.dumps,
}
