"""Delivery cursors and read marks on MySQL.

A member's row in `membership` is locked while one of their marks is moved. So a leave, on any node, happens wholly
before or after it, and no cursor stays behind of somebody who has left. Rows are locked in the order of their key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mercury.domain.model import Cursor, ReadMark
from mercury.stores.mysql import sql
from mercury.stores.mysql.sql import insert, rows, to_json

Member = tuple[int, str]  # a room's number and a member


def move_cursors(cursor: Any, cursors: Sequence[Cursor], now: int) -> None:
    numbers, seen = _lock(cursor, cursors)
    moves: dict[tuple[str, str, int], int] = {}
    for c in cursors:
        nr, head = numbers.get(c.rid, (0, 0))
        if (nr, c.mid) in seen:
            key = (c.mid, c.device, nr)
            moves[key] = max(moves.get(key, 0), min(c.seq, head))
    insert(cursor, sql.SET_CURSORS, [(*key, moves[key], now) for key in sorted(moves)], sql.SET_CURSORS_OF)


def move_reads(cursor: Any, marks: Sequence[ReadMark]) -> list[int | None]:
    numbers, seen = _lock(cursor, marks)
    asked: dict[int, tuple[Member, int]] = {}  # by the mark's place in the list
    for place, mark in enumerate(marks):
        nr, head = numbers.get(mark.rid, (0, 0))
        if (nr, mark.mid) in seen:
            asked[place] = (nr, mark.mid), min(mark.seq, head)
    wanted = {(nr, seq) for (nr, _), seq in asked.values()}
    found = rows(cursor, sql.FIND_NTHS, to_json(sorted(wanted))) if wanted else ()
    nths = {(nr, seq): nth for nr, seq, nth in found}
    answers: list[int | None] = [None] * len(marks)
    moved: set[Member] = set()
    for place, (member, seq) in asked.items():
        if seq > seen[member] and (member[0], seq) in nths:
            seen[member] = answers[place] = seq
            moved.add(member)
    stand = [(*member, 0, seen[member], nths[member[0], seen[member]]) for member in sorted(moved)]
    insert(cursor, sql.SET_READS, stand, sql.SET_READS_OF)
    return answers


def _lock(
    cursor: Any, marks: Sequence[Cursor] | Sequence[ReadMark]
) -> tuple[dict[str, tuple[int, int]], dict[Member, int]]:
    """The rooms' numbers and heads, and the read marks of those who are in, whose places are locked."""
    rids = {(mark.rid,) for mark in marks}
    if not rids:
        return {}, {}
    numbers = {rid.decode(): (nr, head) for rid, nr, head in rows(cursor, sql.ROOMS_OF, to_json(sorted(rids)))}
    members = sorted({(numbers[mark.rid][0], mark.mid) for mark in marks if mark.rid in numbers})
    if not members:
        return numbers, {}
    # By bytes, as the index has them: a lone surrogate cannot be in a name, so code points are in the same order.
    return numbers, {(nr, mid.decode()): seen for nr, mid, seen in rows(cursor, sql.LOCK_PLACES, to_json(members))}
