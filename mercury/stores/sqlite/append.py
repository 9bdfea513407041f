"""IStore.append on SQLite: load what the drafts concern, let a Batch decide, store what has changed.

A handful of statements for a batch of messages, whatever its size; a few more if members come or go. What was loaded is
kept for the batches to come, so that most need not ask for more than the last id: as long as that is the one we gave
out, nothing was rolled back, nobody else has written, and what we know is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.json import Decoder

from mercury.domain.model import Draft, Outcome
from mercury.errors import MercuryError
from mercury.stores.append_rules import Batch, MembershipRow, StoredRoom
from mercury.stores.sealing import Keys
from mercury.stores.sqlite import sql
from mercury.stores.sqlite.sql import entries_in, insert, to_json

_rooms = Decoder(list[tuple[int, int, StoredRoom]])
_places_in_lists = Decoder(list[tuple[int, int]])
_counts = Decoder(dict[str, int])

KNOWN_ROOMS = 20_000  # are kept
KNOWN_MEMBERS = 200_000  # of all of them together
INSIDE = MembershipRow(joined=0, read=0, read_nth=0)  # that somebody is in is all that a Batch wants to know of them


class SqliteAppender:
    """Appends batches; keeps what it knows of rooms from one to the next."""

    def __init__(self) -> None:
        self._last_id = 0
        self._numbers: dict[str, int] = {}
        self._lasts: dict[str, int] = {}  # the ids of the rooms' last entries
        self._rooms: dict[str, StoredRoom] = {}
        self._members = 0  # that became known since nothing was, each time; who left is counted, too

    def append(
        self, cursor: Any, drafts: Sequence[Draft], ctime: int, limit: int, keys: Keys
    ) -> list[Outcome | MercuryError]:
        """Decide and store a batch within the caller's transaction. `limit`: rooms a member may be in, 0 for any."""
        try:
            return self._append(cursor, drafts, ctime, limit, keys)
        except BaseException:
            self._forget()
            raise

    def _append(
        self, cursor: Any, drafts: Sequence[Draft], ctime: int, limit: int, keys: Keys
    ) -> list[Outcome | MercuryError]:
        last_id, last_key = cursor.execute(sql.LAST).fetchone()
        if last_id != self._last_id:
            self._forget()
        batch = Batch(self._rooms, last_id, ctime, limit, self._load(cursor, drafts, limit, keys))
        answers = batch.decide(drafts)
        for rid in batch.changed:
            if rid not in self._numbers:
                last_key += 1
                self._numbers[rid], self._lasts[rid] = last_key, 0
        _save(cursor, batch, self._numbers, self._lasts, keys)
        self._members += len(batch.joined)
        for rid in {draft.rid for draft in drafts if draft.cid is not None} & self._rooms.keys():
            self._rooms[rid].firsts.clear()  # whole texts, and they are asked for anew in any case
        self._last_id = batch.last_id
        # Without a new id there would be no telling whether this was rolled back.
        if batch.last_id == last_id or len(self._rooms) > KNOWN_ROOMS or self._members > KNOWN_MEMBERS:
            self._forget()
        return answers

    def _forget(self) -> None:
        self._members = 0
        self._rooms.clear()
        self._numbers.clear()
        self._lasts.clear()

    def _load(self, cursor: Any, drafts: Sequence[Draft], limit: int, keys: Keys) -> dict[str, int]:
        """Get to know what the drafts concern; in how many rooms the members are who may come into one."""
        members: dict[str, set[str]] = {}
        cids: set[tuple[str, str, str]] = set()
        coming: set[str] = set()
        rooms = self._rooms
        for draft in drafts:
            room = rooms.get(draft.rid)
            if room is None:
                members.setdefault(draft.rid, set())
            if draft.kind != "message":
                members.setdefault(draft.rid, set()).update(draft.members)
                if limit and draft.kind == "joined":
                    coming.update(draft.members)
                continue
            if room is None or draft.mid not in room.members:
                members.setdefault(draft.rid, set()).add(draft.mid)
            if draft.cid is not None:
                cids.add((draft.rid, draft.mid, draft.cid))
        if not members and not cids:
            return {}
        asked = [(rid, tuple(mids)) for rid, mids in members.items()]
        row = cursor.execute(sql.LOAD, (to_json(asked), to_json(cids), to_json(coming))).fetchone()
        rooms_found, members_found, firsts_found, places_found = row
        for key, last, found in _rooms.decode(rooms_found):
            self._numbers[found.rid], self._lasts[found.rid] = key, last
            rooms.setdefault(found.rid, found)
        places_in_lists = _places_in_lists.decode(members_found)
        self._members += len(places_in_lists)
        for room_at, member_at in places_in_lists:
            rid, mids = asked[room_at]
            rooms[rid].members.setdefault(mids[member_at], INSIDE)
        for first in entries_in(firsts_found, keys):
            rooms[first.rid].firsts[first.mid, first.cid] = first
        places: dict[str, int] = _counts.decode(places_found)
        return places


def _save(cursor: Any, batch: Batch, numbers: dict[str, int], lasts: dict[str, int], keys: Keys) -> None:
    messages, others = [], []
    for _, e, nth in batch.entries:
        row = (e.id, numbers[e.rid], e.seq, lasts[e.rid], nth, e.ctime, e.mid, keys.stored(e))
        lasts[e.rid] = e.id
        if e.cid is None and e.kind == "message":
            messages.append(row)
        else:
            others.append((*row, e.kind, e.cid, to_json(e.members)))
    rooms = [
        (numbers[r.rid], r.rid, r.head, r.floor, r.messages, r.ctime, 0, lasts[r.rid]) for r in batch.changed.values()
    ]
    insert(cursor, sql.SET_ROOMS, rooms, sql.SET_ROOMS_OF)
    insert(cursor, sql.ADD_MESSAGES, messages)
    insert(cursor, sql.ADD_ENTRIES, others)
    if batch.left:
        gone = to_json([(numbers[room.rid], mid) for room, mid in batch.left])
        for statement in sql.DROP_PLACES:
            cursor.execute(statement, (gone,))
    if batch.joined:
        insert(cursor, sql.ADD_MEMBERS, [(mid,) for _, mid in batch.joined])
        inside = {(numbers[room.rid], mid): room.members[mid] for room, mid in batch.joined if mid in room.members}
        insert(cursor, sql.ADD_PLACES, [(*place, m.joined, m.read, m.read_nth) for place, m in inside.items()])
