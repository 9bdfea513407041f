"""Fills a store through its own interface, for `make bench ARGS="scale"`: rooms and messages by the million.

Run as a program, since a reactor runs only once:

    python -m bench.scale_fill FROM TO FLAG...

fills what SIZES[FROM] has not yet and SIZES[TO] has, FROM -1 for an empty store. The flags are Mercury's own, and name
the store.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from mercury.core.tokens import digest
from mercury.domain.model import Cursor, Draft, Token
from mercury.errors import MercuryError
from mercury.interfaces import IStore
from mercury.node.build import make_store
from mercury.settings.flags import Flags
from mercury.settings.schema import Config

T = TypeVar("T")

AUTHORS: Final = 10  # members of the room with many messages
ROOM_MESSAGES: Final = 120  # messages in each of the many rooms
CHATTER: Final = 200  # messages in the room with many members, after they have come
TEXT: Final = "message {:012} and then some words, so that it has eighty bytes in all...."

BATCH: Final = 1000  # drafts in one append
TOKENS: Final = 100  # calls at once
CURSORS: Final = 500  # in one transaction, as mercury/core/delivery/marks.py writes them
EXPIRES: Final = 4_000_000_000_000_000  # in the year 2096


@dataclass(frozen=True)
class Size:
    """What a store holds: the rooms of one member, the members of one room, the messages in another one."""

    rooms: int
    members: int
    messages: int

    def __str__(self) -> str:
        return f"{self.rooms:,} rooms, {self.members:,} members, {self.messages:,} messages"


EMPTY: Final = Size(0, 0, 0)
SIZES: Final = (Size(10, 10, 1_000), Size(100, 500, 100_000), Size(500, 5_000, 1_000_000))

# Who and where. The member ROAMER is in all rooms of `room(n)`, with OTHER; CROWD has the members `one_of(n)`, LOG the
# members `author(n)`.
ROAMER: Final = "roamer"
OTHER: Final = "other"
CROWD: Final = "crowd"
LOG: Final = "log"


def room(n: int) -> str:
    return f"room{n:04}"


def one_of(n: int) -> str:
    return f"one{n:05}"


def author(n: int) -> str:
    return f"author{n}"


def secret(mid: str) -> str:
    """The token of a member. Anybody could guess it: only the benchmark connects to its servers."""
    return f"token-of-{mid}"


def drafts(done: Size, size: Size) -> Iterator[Draft]:
    """What has to be appended to a store of size `done` to make it `size`."""
    for n in range(done.rooms, size.rooms):
        yield Draft(room(n), "joined", members=(ROAMER, OTHER))
        for said in range(ROOM_MESSAGES):
            yield Draft(room(n), mid=OTHER, text=TEXT.format(said), cid=f"{said:x}")
    for n in range(done.members, size.members):  # they come one by one, and each says something
        yield Draft(CROWD, "joined", members=(one_of(n),))
        yield Draft(CROWD, mid=one_of(n), text=TEXT.format(n))
    for n in range(CHATTER):  # and then they talk: whoever misses the last 100 entries misses 100 messages
        yield Draft(CROWD, mid=one_of(n % 10), text=TEXT.format(n))
    if not done.messages:
        yield Draft(LOG, "joined", members=tuple(map(author, range(AUTHORS))))
    for n in range(done.messages, size.messages):
        yield Draft(LOG, mid=author(n % AUTHORS), text=TEXT.format(n), cid=f"{n:x}")


async def fill(store: IStore, done: Size, size: Size, say: Any = None) -> None:
    """Make an open store of size `done` one of `size`. Everybody has a token, and has received all there is.

    `say`, if given, is called with a line about how far this is, every few seconds.
    """
    begun = said = time.monotonic()
    count = 0
    for batch in pieces(drafts(done, size), BATCH):
        for answer in await store.append(batch, time.time_ns() // 1000):
            if isinstance(answer, MercuryError):
                raise answer
        count += len(batch)
        if say and time.monotonic() > said + 5:
            said = time.monotonic()
            say(f"{count:,} entries, {count / (said - begun):,.0f}/s")
    new = [one_of(n) for n in range(done.members, size.members)]
    people = new if done.rooms else [ROAMER, *map(author, range(AUTHORS)), *new]
    for some in pieces(people, TOKENS):
        await gatherResults([store.put_token(Token(digest(secret(mid)), mid, EXPIRES), 10) for mid in some])
    heads = await store.heads([CROWD, LOG, *map(room, range(size.rooms))])
    for moved in pieces(cursors(size, heads), CURSORS):
        await store.move_cursors(moved)
    if say:
        say(f"{count:,} entries and {len(people):,} tokens in {time.monotonic() - begun:.0f} s")


def cursors(size: Size, heads: dict[str, int]) -> Iterator[Cursor]:
    """Each member's device without a name has received all of its rooms."""
    for n in range(size.rooms):
        yield Cursor(room(n), ROAMER, "", heads[room(n)])
    for n in range(size.members):
        yield Cursor(CROWD, one_of(n), "", heads[CROWD])
    for n in range(AUTHORS):
        yield Cursor(LOG, author(n), "", heads[LOG])


def pieces(things: Iterable[T], most: int) -> Iterator[Sequence[T]]:
    """The things, so many at a time."""
    iterator = iter(things)
    while piece := list(islice(iterator, most)):
        yield piece


def settings_of(flags: Sequence[str]) -> Config:
    """The settings that Mercury's flags make."""
    options = Flags()
    options.parseOptions(flags)
    return options.config


async def main(reactor: Any, start: str, end: str, *flags: str) -> None:
    """Fill, and say on standard error how far that is."""
    store = make_store(settings_of(flags))
    await store.open()
    try:
        done = EMPTY if int(start) < 0 else SIZES[int(start)]
        await fill(store, done, SIZES[int(end)], lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    finally:
        await store.close()


if __name__ == "__main__":
    react(lambda reactor, *args: Deferred.fromCoroutine(main(reactor, *args)), sys.argv[1:])
