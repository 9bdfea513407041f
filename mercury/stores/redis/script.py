"""The one script of the Redis store, put together from the files of lua/.

The script makes one call: ARGV is the call's name and its named arguments, and it returns one answer, both as
MessagePack. The Lua files say what each call does; common.lua says under which keys things are kept.
"""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final

PARTS: Final = ("common", "append", "log", "rooms", "marks", "accounts", "reseal", "tokens")

SOURCE: Final = b"\n".join(files("mercury.stores.redis").joinpath(f"lua/{part}.lua").read_bytes() for part in PARTS)
SHA: Final = sha1(SOURCE).hexdigest()  # noqa: S324 - the name by which Redis knows it
