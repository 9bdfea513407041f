"""IStore.sweep on SQLite: many short transactions, so that what is sent meanwhile never waits for long.

Between two of them the one thread that writes takes whatever else is waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from mercury.stores.sqlite import room_log as log
from mercury.stores.sqlite import sql

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
    while await write(_empty_grave):
        pass


def _drop_tokens(cursor: Any, now: int) -> int:
    count: int = cursor.execute(sql.DROP_EXPIRED_TOKENS, (now, PIECE)).rowcount
    return count


def _drop_devices(cursor: Any, after: str, last_moved: int, devices: int) -> str | None:
    """Look at the devices of the next few members that have any; the last of these, or None if there are no more."""
    last: str | None
    (last,) = cursor.execute(sql.LAST_OF_NEXT, (after, PIECE)).fetchone()
    if last is not None:
        idle = cursor.execute(sql.IDLE_DEVICES, (after, last, last_moved, devices)).fetchone()
        for statement in sql.DROP_DEVICES:
            cursor.execute(statement, idle)
    return last


def _empty_grave(cursor: Any) -> bool:
    """Drop a piece of a deleted room's log; False if there is nothing more."""
    grave = cursor.execute(sql.GRAVE).fetchone()
    if grave is None:
        return False
    room, last = grave
    ids, before = cursor.execute(log.LAST_IN_GRAVE, (last, PIECE)).fetchone()
    cursor.execute(log.EMPTY_GRAVE, (ids,))
    if before:
        cursor.execute(log.LOWER_GRAVE, (room, before))
    else:
        cursor.execute(sql.DROP_GRAVE, (room,))
    return True
