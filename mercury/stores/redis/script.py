"""The one script of the Redis store: the files of lua/, put together, and how its calls are made.

A call has a name, named arguments and one answer, both MessagePack. What a call does, its Lua file says; common.lua
says where things are kept.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred

from mercury.stores.redis.link import RedisLink

PARTS: Final = ("common", "append", "log", "rooms", "marks", "accounts", "reseal", "tokens")

SOURCE: Final = b"\n".join(files("mercury.stores.redis").joinpath(f"lua/{part}.lua").read_bytes() for part in PARTS)
SHA: Final = sha1(SOURCE).hexdigest()  # noqa: S324 - the name by which Redis knows it

_encode = msgspec.msgpack.Encoder().encode


def call(link: RedisLink, decoder: msgspec.msgpack.Decoder[Any], name: str, args: dict[str, Any]) -> Deferred[Any]:
    """Make a call and decode its answer. Fails as RedisLink.script does."""
    return link.script(SHA, SOURCE, (name, _encode(args))).addCallback(decoder.decode)
