"""The steps of IStore.sweep on MySQL: they hold locks for a short time only, however much there is to drop.

Any number of nodes may sweep at once: what one has dropped, the others no longer find.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from mercury.stores import sql_upkeep
from mercury.stores.mysql import sql
from mercury.stores.mysql.sql import rows
from mercury.stores.sql_upkeep import SweepSteps


def _drop_tokens(cursor: Any, now: int) -> int:
    count: int = cursor.execute(sql.DROP_EXPIRED_TOKENS, (now, sql_upkeep.SWEEP_ROWS))
    return count


def _drop_devices(cursor: Any, after: str, last_moved: int, most: int) -> str | None:
    ((last,),) = rows(
        cursor, sql.LAST_OF_NEXT, after, sql_upkeep.SWEEP_ROWS, after, sql_upkeep.SWEEP_ROWS, sql_upkeep.SWEEP_ROWS
    )
    if last is None:
        return None
    moved: dict[tuple[bytes, bytes], int] = {}
    for statement in sql.DEVICES:
        for mid, device, when in rows(cursor, statement, after, last):
            moved[mid, device] = max(when, moved.get((mid, device), 0))
    gone = []
    for _, of_member in groupby(sorted(moved), key=itemgetter(0)):
        latest_first = sorted(of_member, key=moved.__getitem__, reverse=True)
        gone += [device for n, device in enumerate(latest_first) if n >= most or moved[device] <= last_moved]
    if gone:
        for statement in sql.DROP_DEVICE:
            cursor.executemany(statement, gone)
    return str(last, "utf-8")


def _empty_tombstone(cursor: Any) -> bool:
    cursor.execute(sql.TOMBSTONE)
    room = cursor.fetchone()
    if room is None:
        return False
    if cursor.execute(sql.EMPTY_TOMBSTONE, (*room, sql_upkeep.SWEEP_ROWS)) < sql_upkeep.SWEEP_ROWS:
        cursor.execute(sql.DROP_TOMBSTONE, room)
    return True


STEPS: Final = SweepSteps(_drop_tokens, _drop_devices, _empty_tombstone)
