"""IStore.sweep on MySQL: many short transactions, so that it holds no locks for long however much there is to do.

Any number of nodes may sweep at once; what one has dropped the others do not find any more.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from twisted.internet.defer import Deferred

from mercury.stores.mysql import sql
from mercury.stores.mysql.sql import rows

#: Rows that one transaction drops, or rows of devices that it looks at and those of one member.
PIECE: Final = 2000

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
    ((last,),) = rows(cursor, sql.LAST_OF_NEXT, after, PIECE, after, PIECE, PIECE)
    if last is None:
        return None
    moved: dict[tuple[bytes, bytes], int] = {}
    for statement in sql.DEVICES:
        for mid, device, when in rows(cursor, statement, after, last):
            moved[mid, device] = max(when, moved.get((mid, device), 0))
    gone = []
    for _, found in groupby(sorted(moved), key=itemgetter(0)):
        latest_first = sorted(found, key=moved.__getitem__, reverse=True)
        gone += [device for n, device in enumerate(latest_first) if n >= devices or moved[device] <= last_moved]
    if gone:
        for statement in sql.DROP_DEVICE:
            cursor.executemany(statement, gone)
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
