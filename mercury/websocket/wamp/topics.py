"""WAMP's topics: which URI stands for what of a room, and the ids of the subscriptions to them.

A room's name is one part of a URI. WAMP's loose rule for parts allows all but white space, `.` and `#` (WAMP
specification, basic profile, URIs); each of these, and `%`, is written as `%` and two hex digits for each byte of its
UTF-8, as in the paths of web addresses (RFC 3986, 2.1): the room `a.b c` is `mercury.room.a%2Eb%20c`.
"""

from __future__ import annotations

import re
import secrets
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple
from urllib.parse import unquote

ROOM: Final = "mercury.room."
INBOX: Final = "mercury.inbox"
LOG: Final = "log"
SIGNALS: Final = ("typing", "presence", "read")
ALL: Final = "inbox"  # the kind of what concerns all rooms of a member

_ILLEGAL: Final = re.compile(r"[\s.#%]")
_KEY: Final = secrets.token_bytes(16)  # so that nobody can look for two topics with one id


class Topic(NamedTuple):
    """What is subscribed to: of a room its log or one of SIGNALS, or ALL with no room."""

    kind: str
    rid: str = ""

    @property
    def uri(self) -> str:
        """Its one spelling."""
        if self.kind == ALL:
            return INBOX
        room = ROOM + escaped(self.rid)
        return room if self.kind == LOG else f"{room}.{self.kind}"

    @property
    def subscription(self) -> int:
        """The id of the subscription to it, the same for every session of this process, so that an EVENT is encoded
        once for all: 1 to 2**53 (WAMP specification, basic profile, IDs, router scope)."""
        digest = blake2b(self.uri.encode(), digest_size=8, key=_KEY).digest()
        return (int.from_bytes(digest) >> 11) + 1


@lru_cache(maxsize=4096)
def spelled(topic: Topic) -> tuple[str, int]:
    """A topic's URI and subscription: a batch has many entries of one room."""
    return topic.uri, topic.subscription


def escaped(rid: str) -> str:
    """A room's name as a part of a URI."""
    return _ILLEGAL.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), rid)


def topic_of(uri: str, prefix: bool = False) -> Topic | None:
    """The topic of a URI, None if it is none of Mercury's. The prefix of all rooms is the inbox."""
    if prefix:
        return Topic(ALL) if uri in (ROOM, ROOM[:-1]) else None
    if uri == INBOX:
        return Topic(ALL)
    if not uri.startswith(ROOM):
        return None
    name, _, kind = uri.removeprefix(ROOM).partition(".")
    if not name or (kind and kind not in SIGNALS) or uri.endswith("."):
        return None
    try:
        return Topic(kind or LOG, unquote(name, errors="strict"))
    except UnicodeDecodeError:
        return None
