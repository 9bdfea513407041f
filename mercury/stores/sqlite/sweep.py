"""The steps of IStore.sweep on SQLite. Between two of them the one thread that writes takes other calls."""

from __future__ import annotations

from typing import Any, Final

from mercury.stores import sql_upkeep
from mercury.stores.sql_upkeep import SweepSteps
from mercury.stores.sqlite import room_log, sql


def _drop_tokens(cursor: Any, now: int) -> int:
    count: int = cursor.execute(sql.DROP_EXPIRED_TOKENS, (now, sql_upkeep.SWEEP_ROWS)).rowcount
    return count


def _drop_devices(cursor: Any, after: str, last_moved: int, most: int) -> str | None:
    last: str | None
    (last,) = cursor.execute(sql.LAST_OF_NEXT, (after, sql_upkeep.SWEEP_ROWS)).fetchone()
    if last is not None:
        idle = cursor.execute(sql.IDLE_DEVICES, (after, last, last_moved, most)).fetchone()
        for statement in sql.DROP_DEVICES:
            cursor.execute(statement, idle)
    return last


def _empty_tombstone(cursor: Any) -> bool:
    tombstone = cursor.execute(sql.TOMBSTONE).fetchone()
    if tombstone is None:
        return False
    room, last = tombstone
    ids, before = cursor.execute(room_log.LAST_IN_TOMBSTONE, (last, sql_upkeep.SWEEP_ROWS)).fetchone()
    cursor.execute(room_log.EMPTY_TOMBSTONE, (ids,))
    if before:
        cursor.execute(room_log.LOWER_TOMBSTONE, (room, before))
    else:
        cursor.execute(sql.DROP_TOMBSTONE, (room,))
    return True


STEPS: Final = SweepSteps(_drop_tokens, _drop_devices, _empty_tombstone)
