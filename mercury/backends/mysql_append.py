"""IStore.append on MySQL: lock the rooms, load what the drafts concern, let a Batch decide, store what has changed.

Five statements for a batch of messages, with the one that commits; more if they have cids, if some rooms get more
messages than others, if there are more than ROWS, or if members come or go. The rooms are locked in the order of their
names, so batches of any number of nodes that share rooms wait for each other and do not deadlock; and what a batch adds
to a room becomes visible before the next batch can add to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from msgspec import json
from msgspec.structs import replace

from mercury.backends import mysql_sql as sql
from mercury.backends.batch import Batch, Membership, RoomState
from mercury.backends.mysql_sql import escaped_bytes, insert, insert_once, numbers, parts, pieces, rows, to_json
from mercury.backends.sealing import OVERHEAD, Keys
from mercury.errors import MercuryError
from mercury.model import Draft, Entry, Outcome

INSIDE: Final = Membership(joined=0, read=0, read_nth=0)  # that somebody is in is all that a Batch wants to know
PROVISIONAL: Final = -(2**62)  # ids below 0 are a Batch's own, until the database gives the entries theirs
TEXT: Final = 6  # the place of the text in a row of entries


class Found(NamedTuple):
    """A room's row before the batch. `step`: by how much ids grow from row to row, which is the server's setting."""

    nr: int
    head: int
    floor: int
    messages: int
    ctime: int
    deleted: int
    step: int


_members = json.Decoder(tuple[str, ...])


def entry_of(keys: Keys, rid: str, row: Sequence[Any]) -> Entry:
    """A row of mysql_sql.ENTRY."""
    seq, id, kind, ctime, mid, text, cid, members = row
    said, lost = keys.read(rid, seq, text)
    return Entry(
        rid, seq, id, kind.decode(), ctime, mid.decode(), said,
        None if cid is None else cid.decode(), _members.decode(members) if members else (), lost,
    )  # fmt: skip


def append(
    cursor: Any, drafts: Sequence[Draft], ctime: int, limit: int, packet: int, keys: Keys
) -> list[Outcome | MercuryError]:
    """Decide and store a batch within the caller's transaction, which this may commit once before it changed anything.
    `limit`: rooms a member may be in, 0 for any number. `packet`: bytes in a statement."""
    refused = [_too_long(draft, packet) for draft in drafts]
    fitting = [draft for draft, error in zip(drafts, refused, strict=True) if error is None]
    batch, found = _load(cursor, fitting, ctime, limit, keys)
    decided = batch.decide(fitting)
    ids = _save(cursor, batch, found, packet, keys)
    answers = iter(_with_ids(decided, ids))
    return [error or next(answers) for error in refused]


def _too_long(draft: Draft, packet: int) -> MercuryError | None:
    most = packet - 2 * OVERHEAD
    if 8 * len(draft.text) < most - sql.ROW_BYTES or escaped_bytes(draft.text) < most:
        return None
    return MercuryError("too_large", "the text is longer than the database takes; its max_allowed_packet is the limit")


def _load(cursor: Any, drafts: Sequence[Draft], ctime: int, limit: int, keys: Keys) -> tuple[Batch, dict[str, Found]]:
    """What the drafts concern, and the rows of its rooms."""
    asked: dict[str, set[str]] = {draft.rid: set() for draft in drafts}
    cids: set[tuple[str, str, str]] = set()
    made: set[str] = set()
    coming: set[str] = set()
    for draft in drafts:
        if draft.kind == "message":
            asked[draft.rid].add(draft.mid)
            if draft.cid is not None:
                cids.add((draft.rid, draft.mid, draft.cid))
        else:
            asked[draft.rid].update(draft.members)
            if draft.kind == "joined":
                made.add(draft.rid)
                coming.update(draft.members if limit else ())
    found = _lock_rooms(cursor, asked, made)
    rooms: dict[str, RoomState] = {}
    by_number: dict[int, RoomState] = {}
    for rid, (nr, head, floor, messages, made_at, deleted, _) in found.items():
        rooms[rid] = by_number[nr] = RoomState(rid, head, floor, messages, made_at, bool(deleted))
    pairs = [(row.nr, mid) for rid, row in found.items() for mid in asked[rid]]
    for part in pieces(pairs):
        for (place,) in numbers(cursor, sql.FIND_MEMBERS, to_json(part)):
            nr, mid = part[place - 1]
            by_number[nr].members[mid] = INSIDE
    known = [(found[rid].nr, mid, cid) for rid, mid, cid in cids if rid in found]
    for nr, *row in rows(cursor, sql.FIND_FIRSTS, to_json(known)) if known else ():
        first = entry_of(keys, by_number[nr].rid, row)
        by_number[nr].firsts[first.mid, first.cid] = first
    return Batch(rooms, PROVISIONAL, ctime, limit, _places(cursor, coming)), found


def _lock_rooms(cursor: Any, rids: Iterable[str], made: set[str]) -> dict[str, Found]:
    """The rooms' rows, locked in one order. Those that the batch may make get a row first, as if they were deleted: in
    a transaction of its own, since a row that is locked later than the others is out of order."""
    ordered = sorted(rids)
    asked = to_json([(rid,) for rid in ordered])
    while True:
        found = {ordered[place - 1]: Found(*row) for place, *row in numbers(cursor, sql.LOCK_ROOMS, asked)}
        missing = sorted(made - found.keys())
        if not missing:
            return found
        cursor.execute("COMMIT")
        insert(cursor, sql.ADD_ROOMS, [(rid, 0, 0, 0, 0, 1) for rid in missing], sql.UNLESS_THERE)
        cursor.execute("COMMIT")


def _places(cursor: Any, mids: set[str]) -> dict[str, int]:
    """How many rooms each of these members is in. Locks them, so that another node does not put them in one more."""
    if not mids:
        return {}
    asked = to_json([(mid,) for mid in sorted(mids)])
    rows(cursor, sql.LOCK_MEMBERS, asked)
    return {mid.decode(): count for mid, count in rows(cursor, sql.COUNT_PLACES, asked)}


def _save(cursor: Any, batch: Batch, found: dict[str, Found], packet: int, keys: Keys) -> list[int]:
    """Store what has changed; the ids of the batch's entries, in their order.

    One INSERT whose number of rows is known gets ids at equal distances, whatever innodb_autoinc_lock_mode is. Each is
    above all that were given out before, so under the room's lock they grow with its seqs.
    """
    ids: list[int] = []
    entries = [
        (
            found[e.rid].nr,
            e.seq,
            nth,
            e.kind,
            e.ctime,
            e.mid,
            keys.stored(e),
            e.cid,
            to_json(e.members) if e.members else None,
        )
        for _, e, nth in batch.entries
    ]
    for part in parts(entries, TEXT, packet):
        insert_once(cursor, sql.ADD_ENTRIES, part)
        step = found[batch.entries[0][1].rid].step  # the same for all rooms
        ids.extend(range(cursor.lastrowid, cursor.lastrowid + step * len(part), step))
    _save_rooms(cursor, batch, found)
    if batch.left:
        gone = to_json(sorted((found[room.rid].nr, mid) for room, mid in batch.left))
        for statement in sql.DROP_PLACES:
            cursor.execute(statement, (gone,))
    if batch.joined:
        insert(cursor, sql.ADD_MEMBERS, [(mid,) for mid in sorted({m for _, m in batch.joined})], sql.UNLESS_MEMBER)
        inside = {(found[room.rid].nr, mid): room.members[mid] for room, mid in batch.joined if mid in room.members}
        insert(cursor, sql.ADD_PLACES, [(*place, m.joined, m.read, m.read_nth) for place, m in inside.items()])
    return ids


def _save_rooms(cursor: Any, batch: Batch, found: dict[str, Found]) -> None:
    growth: dict[tuple[int, int], list[int]] = {}
    for room in batch.changed.values():
        before = found[room.rid]
        if before.deleted:
            cursor.execute(sql.BEGIN_ROOM, (room.head, room.floor, room.messages, room.ctime, before.nr))
        else:
            growth.setdefault((room.head - before.head, room.messages - before.messages), []).append(before.nr)
    for (entries, messages), alike in growth.items():
        for part in pieces(alike):
            cursor.execute(sql.GROW_ROOMS, (entries, messages, part))


def _with_ids(answers: list[Outcome | MercuryError], ids: list[int]) -> list[Outcome | MercuryError]:
    """The answers with the database's ids in place of the Batch's."""
    final: list[Outcome | MercuryError] = []
    for answer in answers:
        if isinstance(answer, Outcome) and answer.entry and answer.entry.id < 0:
            id = ids[answer.entry.id - PROVISIONAL - 1]
            answer = Outcome(replace(answer.entry, id=id), answer.duplicate)
        final.append(answer)
    return final
