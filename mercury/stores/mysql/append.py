"""IStore.append on MySQL: lock the rooms, load what the drafts concern, let a Batch decide, store what has changed.

Two round trips for a batch, one that locks and loads, one that stores and commits; or a single one, if the rooms are
as this node has left them (room_cache.py). After each the thread has to wait until the reactor lets go of Python's
lock, so they cost more than most statements in them. The rooms are locked in the order of their names, so batches of
any number of nodes that share rooms wait for each other and do not deadlock; and what a batch adds to a room becomes
visible before the next batch can add to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import pymysql
from msgspec import json
from msgspec.structs import replace
from pymysql.constants import ER

from mercury.domain.model import Draft, Entry, Outcome
from mercury.errors import MercuryError
from mercury.stores.append_rules import Batch, MembershipRow, StoredRoom
from mercury.stores.mysql import sql
from mercury.stores.mysql.room_cache import RoomCache
from mercury.stores.mysql.server import uncertain
from mercury.stores.mysql.sql import Statement, insert, insertion, numbers, parts, pieces, rows, to_json, together
from mercury.stores.sealing import OVERHEAD, Keys

INSIDE: Final = MembershipRow(joined=0, read=0, read_nth=0)  # that somebody is in is all that a Batch wants to know
PROVISIONAL: Final = -(2**62)  # ids below 0 are a Batch's own, until the database gives the entries theirs
TEXT: Final = 6  # the place of the text in a row of entries

Rows = Sequence[Sequence[Any]]


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
    """A row of sql.ENTRY."""
    seq, id, kind, ctime, mid, text, cid, members = row
    said, lost = keys.read(rid, seq, text)
    return Entry(
        rid, seq, id, kind.decode(), ctime, mid.decode(), said,
        None if cid is None else cid.decode(), _members.decode(members) if members else (), lost,
    )  # fmt: skip


class MysqlAppender:
    """Appends batches on the one connection that does; remembers how they left their rooms."""

    def __init__(self) -> None:
        self._known = RoomCache()

    def append(
        self, cursor: Any, drafts: Sequence[Draft], ctime: int, limit: int, packet: int, keys: Keys
    ) -> list[Outcome | MercuryError]:
        """Decide and store a batch in a transaction, on a connection that has none and commits by itself. `limit`:
        rooms a member may be in, 0 for any number. `packet`: bytes in a statement. Raises UncertainCommit, and what the
        driver raises."""
        refused = [_too_long(draft, packet) for draft in drafts]
        fitting = [draft for draft, error in zip(drafts, refused, strict=True) if error is None]
        try:
            decided = self._guessed(cursor, fitting, ctime, packet, keys)
            if decided is None:
                decided = self._asked(cursor, fitting, ctime, limit, packet, keys)
        except BaseException:
            self._known.forget()
            raise
        answers = iter(decided)
        return [error or next(answers) for error in refused]

    def _guessed(
        self, cursor: Any, drafts: Sequence[Draft], ctime: int, packet: int, keys: Keys
    ) -> list[Outcome | MercuryError] | None:
        """Store a batch in one round trip; None, and nothing is stored, if not all is as this node thinks."""
        guess = self._known.guess(drafts)
        if guess is None:
            return None
        batch = Batch({rid: replace(known.room, firsts={}) for rid, known in guess.items()}, PROVISIONAL, ctime, 0, {})
        decided = batch.decide(drafts)
        numbers = {rid: known.nr for rid, known in guess.items()}
        grown = [
            (known.nr, known.room.head, room.head - known.room.head, room.messages - known.room.messages)
            for rid, known in sorted(guess.items())
            for room in (batch.rooms[rid],)
        ]
        cut, entries = _entries(batch, numbers, packet, keys)
        check = (sql.CHECK_GUESS, (len(grown),))
        try:
            with uncertain():
                _, _, (checked, _), *done = together(
                    cursor, packet, sql.BEGIN, (sql.GUESS_ROOMS, (to_json(grown),)), check, *entries, sql.COMMIT
                )
        except pymysql.Error as error:
            if error.args[0] not in (sql.NOT_SO, ER.DUP_ENTRY):  # or a cid that was used before
                raise
            cursor.execute("ROLLBACK")
            return None
        self._known.remember((numbers[rid], room) for rid, room in batch.rooms.items())
        return _with_ids(decided, _ids(cut, done, checked[0][1]))

    def _asked(
        self, cursor: Any, drafts: Sequence[Draft], ctime: int, limit: int, packet: int, keys: Keys
    ) -> list[Outcome | MercuryError]:
        """Lock the rooms, ask for all that the batch concerns, store it."""
        batch, found = _load(cursor, drafts, ctime, limit, packet, keys, self._known)
        decided = batch.decide(drafts)
        ids = _save(cursor, batch, found, packet, keys)
        self._known.remember((found[rid].nr, room) for rid, room in batch.rooms.items())
        return _with_ids(decided, ids)


def _too_long(draft: Draft, packet: int) -> MercuryError | None:
    most = packet - 2 * OVERHEAD
    if 8 * len(draft.text) < most - sql.ROW_BYTES or sql.escaped_bytes(draft.text) < most:
        return None
    return MercuryError("too_large", "the text is longer than the database accepts (max_allowed_packet)")


def _load(
    cursor: Any, drafts: Sequence[Draft], ctime: int, limit: int, packet: int, keys: Keys, known: RoomCache
) -> tuple[Batch, dict[str, Found]]:
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
    pairs = list(pieces([(rid, mid) for rid, mids in asked.items() for mid in mids]))
    questions: list[Statement] = [(sql.FIND_MEMBERS, (to_json(part),)) for part in pairs]
    if cids:
        questions.append((sql.FIND_FIRSTS, (to_json(list(cids)),)))
    found, answers = _lock_rooms(cursor, sorted(asked), made, packet, questions)
    rooms = {
        rid: StoredRoom(
            rid, row.head, row.floor, row.messages, row.ctime, bool(row.deleted), known.members(rid, row.nr, row.head)
        )
        for rid, row in found.items()
    }
    for part, places in zip(pairs, answers, strict=False):
        for (place,) in numbers(places):
            rid, mid = part[place - 1]
            if rid in rooms:  # else it came into being after its row was to be locked
                rooms[rid].members[mid] = INSIDE
    for name, *row in answers[-1] if cids else ():
        first = entry_of(keys, name.decode(), row)
        if first.rid in rooms:
            rooms[first.rid].firsts[first.mid, first.cid] = first
    return Batch(rooms, PROVISIONAL, ctime, limit, _places(cursor, coming)), found


def _lock_rooms(
    cursor: Any, rids: Sequence[str], made: set[str], packet: int, questions: Sequence[Statement]
) -> tuple[dict[str, Found], list[Sequence[Any]]]:
    """The rooms' rows, locked in the order of their names, and what the questions then found. Rooms that the batch may
    make get a row first, as if they were deleted: in a transaction of its own, since a row that is locked later than
    the others is out of order."""
    lock = (sql.LOCK_ROOMS, (to_json([(rid,) for rid in rids]),))
    while True:
        _, (locked, _), *answers = together(cursor, packet, sql.BEGIN, lock, *questions)
        found = {rids[place - 1]: Found(*row) for place, *row in numbers(locked)}
        missing = sorted(made - found.keys())
        if not missing:
            return found, [answer for answer, _ in answers]
        cursor.execute("COMMIT")
        insert(cursor, sql.ADD_ROOMS, [(rid, 0, 0, 0, 0, 1) for rid in missing], sql.UNLESS_THERE)


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
    step = next((row.step for row in found.values()), 1)  # the same for all rooms
    cut, entries = _entries(batch, {rid: row.nr for rid, row in found.items()}, packet, keys)
    with uncertain():
        done = together(
            cursor, packet, *entries, *_growth(batch, found), *_gone(batch, found), *_come(batch, found), sql.COMMIT
        )
    return _ids(cut, done, step)


def _entries(batch: Batch, numbers: dict[str, int], packet: int, keys: Keys) -> tuple[list[Rows], list[Statement]]:
    """The batch's entries, cut into what goes into one statement each, and these statements."""
    cut = list(parts([_row(numbers[entry.rid], entry, nth, keys) for _, entry, nth in batch.entries], TEXT, packet))
    return cut, [insertion(sql.ADD_ENTRIES, part) for part in cut]


def _ids(cut: Sequence[Rows], done: Sequence[tuple[Sequence[Any], int]], step: int) -> list[int]:
    """The ids that these statements gave out, when this came of them, and of more that follow."""
    ids: list[int] = []
    for part, (_, first) in zip(cut, done, strict=False):
        ids.extend(range(first, first + step * len(part), step))
    return ids


def _row(nr: int, entry: Entry, nth: int, keys: Keys) -> tuple[object, ...]:
    """An entry for ADD_ENTRIES."""
    members = to_json(entry.members) if entry.members else None
    return nr, entry.seq, nth, entry.kind, entry.ctime, entry.mid, keys.stored(entry), entry.cid, members


def _growth(batch: Batch, found: dict[str, Found]) -> Iterator[Statement]:
    """What changes the rows of the batch's rooms."""
    growth: dict[tuple[int, int], list[int]] = {}
    for room in batch.changed.values():
        before = found[room.rid]
        if before.deleted:
            yield sql.BEGIN_ROOM, (room.head, room.floor, room.messages, room.ctime, before.nr)
        else:
            growth.setdefault((room.head - before.head, room.messages - before.messages), []).append(before.nr)
    for (entries, messages), alike in growth.items():
        for part in pieces(alike):
            yield sql.GROW_ROOMS, (entries, messages, part)


def _gone(batch: Batch, found: dict[str, Found]) -> Iterator[Statement]:
    """What takes out those who left, with their cursors."""
    if batch.left:
        gone = to_json(sorted((found[room.rid].nr, mid) for room, mid in batch.left))
        for statement in sql.DROP_PLACES:
            yield statement, (gone,)


def _come(batch: Batch, found: dict[str, Found]) -> Iterator[Statement]:
    """What brings in those who joined and did not leave again."""
    for part in pieces(sorted({mid for _, mid in batch.joined})):
        yield insertion(sql.ADD_MEMBERS, [(mid,) for mid in part], sql.UNLESS_MEMBER)
    inside = {(found[room.rid].nr, mid): room.members[mid] for room, mid in batch.joined if mid in room.members}
    for places in pieces([(*place, m.joined, m.read, m.read_nth) for place, m in inside.items()]):
        yield insertion(sql.ADD_PLACES, places)


def _with_ids(answers: list[Outcome | MercuryError], ids: list[int]) -> list[Outcome | MercuryError]:
    """The answers with the database's ids in place of the Batch's."""
    final: list[Outcome | MercuryError] = []
    for answer in answers:
        if isinstance(answer, Outcome) and answer.entry and answer.entry.id < 0:
            id = ids[answer.entry.id - PROVISIONAL - 1]
            answer = Outcome(replace(answer.entry, id=id), answer.duplicate)
        final.append(answer)
    return final
