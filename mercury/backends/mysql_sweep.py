"""IStore.sweep on MySQL: many short transactions, so that it holds no locks for long however much there is to do.

Any number of nodes may sweep at once; what one has dropped the others do not find any more.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from twisted.internet.defer import Deferred

from mercury.backends import mysql_sql as sql
from mercury.backends.mysql_sql import rows

PIECE: Final = 2000  # rows that one transaction drops, or cursors that it looks at and those of one member

Write = Callable[..., Deferred[Any]]


async def sweep(write: Write, now: int, last_moved: int, devices: int) -> None:
    """`write(work, ...)` calls work(cursor, ...) in a transaction. What is broken off is taken up by the next sweep."""
    while await write(_drop_tokens, now) == PIECE:
        pass
    after: str | None = ""
    while after is not None:
        after = await write(_drop_devices, after, last_moved, devices)
    while await write(_empty_buried_room):
        pass


def _drop_tokens(cursor: Any, now: int) -> int:
    count: int = cursor.execute(sql.DROP_EXPIRED_TOKENS, (now, PIECE))
    return count


def _drop_devices(cursor: Any, after: str, last_moved: int, devices: int) -> str | None:
    """Look at the devices of the next few members that have any; the last of these, or None if there are no more."""
    ((last,),) = rows(cursor, sql.LAST_OF_NEXT, after, PIECE)
    if last is None:
        return None
    gone = []
    for mid, found in groupby(rows(cursor, sql.DEVICES, after, last), key=itemgetter(0)):
        latest_first = sorted(found, key=itemgetter(2), reverse=True)
        gone += [
            (mid, device) for n, (_, device, moved) in enumerate(latest_first) if n >= devices or moved <= last_moved
        ]
    if gone:
        cursor.executemany(sql.DROP_DEVICE, gone)
    return str(last, "utf-8")


def _empty_buried_room(cursor: Any) -> bool:
    """Drop a piece of a deleted room's log; False if there is nothing more."""
    cursor.execute(sql.BURIED_ROOM)
    room = cursor.fetchone()
    if room is None:
        return False
    if cursor.execute(sql.EMPTY_ROOM, (*room, PIECE)) < PIECE:
        cursor.execute(sql.DROP_ROOM, room)
    return True
