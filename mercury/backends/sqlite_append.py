"""IStore.append on SQLite: load what the drafts concern, let a Batch decide, store what has changed.

Five statements for a batch of messages, with BEGIN and COMMIT, whatever its size up to 250; a few more if members come
or go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.json import Decoder

from mercury.backends import sqlite_sql as sql
from mercury.backends.batch import Batch, Membership, RoomState
from mercury.backends.sqlite_sql import insert, to_json
from mercury.errors import MercuryError
from mercury.model import Draft, Entry, Outcome

_rooms = Decoder(list[tuple[int, RoomState]])
_places_in_lists = Decoder(list[tuple[int, int]])
_firsts = Decoder(list[Entry])
_counts = Decoder(dict[str, int])

INSIDE = Membership(joined=0, read=0, read_nth=0)  # that somebody is in is all that a Batch wants to know of them


def append(cursor: Any, drafts: Sequence[Draft], ctime: int, limit: int) -> list[Outcome | MercuryError]:
    """Decide and store a batch within the caller's transaction. `limit`: rooms a member may be in, 0 for any number."""
    batch, keys = _load(cursor, drafts, ctime, limit)
    answers = batch.decide(drafts)
    for rid in batch.changed:
        keys.setdefault(rid, max(keys.values()) + 1)
    _save(cursor, batch, keys)
    return answers


def _load(cursor: Any, drafts: Sequence[Draft], ctime: int, limit: int) -> tuple[Batch, dict[str | None, int]]:
    """What the drafts concern, and the keys of its rooms; under None stands the last key of all rooms."""
    members: dict[str, set[str]] = {draft.rid: set() for draft in drafts}
    cids: set[tuple[str, str, str]] = set()
    coming: set[str] = set()
    for draft in drafts:
        if draft.kind == "message":
            members[draft.rid].add(draft.mid)
            if draft.cid is not None:
                cids.add((draft.rid, draft.mid, draft.cid))
        else:
            members[draft.rid].update(draft.members)
            if limit and draft.kind == "joined":
                coming.update(draft.members)
    asked = [(rid, tuple(mids)) for rid, mids in members.items()]
    row = cursor.execute(sql.LOAD, (to_json(asked), to_json(cids), to_json(coming))).fetchone()
    last_id, last_key, rooms_found, members_found, firsts_found, places_found = row
    keys: dict[str | None, int] = {None: last_key}
    rooms: dict[str, RoomState] = {}
    for key, room in _rooms.decode(rooms_found):
        keys[room.rid] = key
        rooms[room.rid] = room
    for room_at, member_at in _places_in_lists.decode(members_found):
        rid, mids = asked[room_at]
        rooms[rid].members[mids[member_at]] = INSIDE
    for first in _firsts.decode(firsts_found):
        rooms[first.rid].firsts[first.mid, first.cid] = first
    return Batch(rooms, last_id, ctime, limit, _counts.decode(places_found)), keys


def _save(cursor: Any, batch: Batch, keys: dict[str | None, int]) -> None:
    rooms = [(keys[r.rid], r.rid, r.head, r.floor, r.messages, r.ctime, 0) for r in batch.changed.values()]
    insert(cursor, sql.SET_ROOMS, rooms, sql.SET_ROOMS_OF)
    entries = [
        (
            e.id,
            keys[e.rid],
            e.seq,
            nth,
            e.kind,
            e.ctime,
            e.mid,
            e.text,
            e.cid,
            to_json(e.members) if e.members else "[]",
        )
        for _, e, nth in batch.entries
    ]
    insert(cursor, sql.ADD_ENTRIES, entries)
    if batch.left:
        gone = to_json([(keys[room.rid], mid) for room, mid in batch.left])
        for statement in sql.DROP_PLACES:
            cursor.execute(statement, (gone,))
    if batch.joined:
        insert(cursor, sql.ADD_MEMBERS, {(mid,) for _, mid in batch.joined})
        inside = {(keys[room.rid], mid): room.members[mid] for room, mid in batch.joined if mid in room.members}
        insert(cursor, sql.ADD_PLACES, [(*place, m.joined, m.read, m.read_nth) for place, m in inside.items()])
