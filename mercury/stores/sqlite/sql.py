"""The SQL of the SQLite store and how rows go into it, but for reading logs (room_log.py) and what is about accounts.

A SELECT here answers with one row, mostly of one value: JSON of the shape of a Struct of mercury/domain/model.py.
Many values go in as JSON arrays, ?1 mostly, which json_each() makes a table of; CROSS JOIN keeps that table the outer
loop.
"""

# ruff: noqa: S105, S608 - every statement is put together from constants of this file; a token's is no password

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import msgspec

from mercury.domain.model import Entry
from mercury.stores.sealing import Keys
from mercury.stores.sqlite.room_log import ENTRY

#: A row of `room AS r`, as the JSON of mercury.model.Room.
ROOM_SEEN: Final = (
    "json_object('rid', r.rid, 'head', r.head, 'floor', r.floor, 'messages', r.messages, 'ctime', r.ctime, "
    "'members', (SELECT count(*) FROM membership WHERE room = r.key))"
)

EPOCH = "SELECT epoch FROM store"

# The log: append

#: A new epoch, and ids of all kinds above ?1, or above the last ones. A table has no row here before it had one itself.
BEGIN_ANEW = (
    "INSERT INTO sqlite_sequence (name, seq) SELECT name, 0 FROM sqlite_master WHERE type = 'table' "
    "AND name IN ('entry', 'account', 'friendship') AND name NOT IN (SELECT name FROM sqlite_sequence)",
    "UPDATE sqlite_sequence SET seq = max(seq, ?1)",
    "UPDATE store SET epoch = lower(hex(randomblob(8)))",
)
#: The last id ever given, and the last key of a room.
LAST = """
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'entry'), 0), coalesce((SELECT max(key) FROM room), 0)
"""
#: One row: the rooms with their keys and the ids of their last entries, which of the members asked about are in (as
#: places in the two lists of ?1), the messages with the cids, how many rooms each member is in. ?1: [[rid, [mid]]],
#: ?2: [[rid, mid, cid]], ?3: [mid].
LOAD = f"""
SELECT
  (SELECT json_group_array(json_array(key, last, json_object('rid', rid, 'head', head, 'floor', floor,
      'messages', messages, 'ctime', ctime, 'deleted', json(iif(deleted, 'true', 'false')))))
    FROM room WHERE rid IN (SELECT json_extract(value, '$[0]') FROM json_each(?1))),
  (SELECT json_group_array(json_array(asked.key, member.key))
    FROM json_each(?1) AS asked
    CROSS JOIN room AS r ON r.rid = json_extract(asked.value, '$[0]')
    CROSS JOIN json_each(asked.value, '$[1]') AS member
    CROSS JOIN membership AS m ON m.room = r.key AND m.mid = member.value),
  (SELECT json_group_array({ENTRY})
    FROM json_each(?2) AS asked
    CROSS JOIN room AS r ON r.rid = json_extract(asked.value, '$[0]')
    CROSS JOIN entry AS e ON e.room = r.key
      AND e.mid = json_extract(asked.value, '$[1]') AND e.cid = json_extract(asked.value, '$[2]')),
  (SELECT json_group_object(mid, places) FROM
    (SELECT mid, count(*) AS places FROM membership WHERE mid IN (SELECT value FROM json_each(?3)) GROUP BY mid))
"""
SET_ROOMS = "INSERT INTO room (key, rid, head, floor, messages, ctime, deleted, last)"
SET_ROOMS_OF = (
    "ON CONFLICT (key) DO UPDATE SET head = excluded.head, floor = excluded.floor, messages = excluded.messages, "
    "ctime = excluded.ctime, deleted = 0, last = excluded.last"
)
ADD_ENTRIES = "INSERT INTO entry (id, room, seq, prev, nth, ctime, mid, text, kind, cid, members)"
ADD_MESSAGES = "INSERT INTO entry (id, room, seq, prev, nth, ctime, mid, text)"  # the rest is as by default
DROP_PLACES = [
    f"DELETE FROM {table} WHERE (room, mid) IN "
    "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?1))"
    for table in ("membership", "cursor")
]
ADD_MEMBERS = "INSERT OR IGNORE INTO member (mid)"
ADD_PLACES = "INSERT INTO membership (room, mid, joined, read, read_nth)"


LOCATE = """
SELECT r.rid, e.seq FROM entry AS e JOIN room AS r ON r.key = e.room WHERE e.id = ?1 AND e.kind = 'message'
"""
#: No id is used again, so what was deleted stays so.
RESEAL = "UPDATE entry SET text = ? WHERE id = ?"

# Rooms and members

ROOM = f"SELECT {ROOM_SEEN} FROM room AS r WHERE rid = ?1 AND NOT deleted"
ROOMS = f"""
SELECT json_group_array({ROOM_SEEN}) FROM (SELECT * FROM room WHERE rid > ?1 AND NOT deleted ORDER BY rid LIMIT ?2) AS r
"""
MEMBERS = """
SELECT json_group_array(mid) FROM
    (SELECT mid FROM membership WHERE room = (SELECT key FROM room WHERE rid = ?1) AND mid > ?2 ORDER BY mid LIMIT ?3)
"""
HEADS = """
SELECT json_group_object(rid, head) FROM room WHERE rid IN (SELECT value FROM json_each(?1)) AND NOT deleted
"""
#: Of many members' devices, each place with which of them it is of. %s: see ask().
PLACES = """
WITH asked (nth, mid, device) AS (VALUES %s)
SELECT json_group_array(json_array(asked.nth, json_object('rid', r.rid, 'head', r.head, 'joined', m.joined,
    'read', m.read, 'unread', r.messages - m.read_nth, 'delivered', c.seq)))
  FROM asked CROSS JOIN membership AS m ON m.mid = asked.mid CROSS JOIN room AS r ON r.key = m.room
  LEFT JOIN cursor AS c ON c.mid = m.mid AND c.device = asked.device AND c.room = m.room
"""
IS_MEMBER = "SELECT 1 FROM member WHERE mid = ?1"
#: The room's key, and whether somebody is in.
ROOM_TO_DELETE = """
SELECT key, EXISTS (SELECT 1 FROM membership WHERE room = key) FROM room WHERE rid = ?1 AND NOT deleted
"""
MAKE_TOMBSTONE = [
    "INSERT INTO grave (room, last) SELECT key, last FROM room WHERE key = ?1",
    "UPDATE room SET key = (SELECT max(key) + 1 FROM room), floor = head, messages = 0, last = 0, deleted = 1 "
    "WHERE key = ?1",
]
#: Uses up an id, so that whoever has given out the last one sees that something has happened.
SKIP_AN_ID = "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'entry'"

# Marks

MOVE_CURSORS = """
INSERT INTO cursor (mid, device, room, seq, moved)
  SELECT m.mid, json_extract(c.value, '$[2]'), r.key, min(json_extract(c.value, '$[3]'), r.head), ?2
  FROM json_each(?1) AS c
  CROSS JOIN room AS r ON r.rid = json_extract(c.value, '$[0]')
  CROSS JOIN membership AS m ON m.room = r.key AND m.mid = json_extract(c.value, '$[1]')
  WHERE true
  ON CONFLICT (mid, device, room) DO UPDATE SET seq = excluded.seq, moved = excluded.moved WHERE excluded.seq > seq
"""
SET_READS = "INSERT INTO membership (room, mid, joined, read, read_nth)"
SET_READS_OF = "ON CONFLICT (room, mid) DO UPDATE SET read = excluded.read, read_nth = excluded.read_nth"

# Tokens

#: Many tokens, each with which of those asked for it is.
TOKEN = """
WITH asked (nth, digest) AS (VALUES %s)
SELECT json_group_array(json_array(asked.nth, t.mid, t.expires))
  FROM asked CROSS JOIN token AS t ON t.digest = asked.digest
"""
TOKENS = "SELECT digest, mid, expires FROM token WHERE mid = ?1"
ADD_MEMBER = "INSERT OR IGNORE INTO member VALUES (?1)"
PUT_TOKEN = "INSERT OR REPLACE INTO token VALUES (?1, ?2, ?3)"
KEEP_TOKENS = """
DELETE FROM token WHERE digest IN
  (SELECT digest FROM token WHERE mid = ?1 AND digest <> ?2 ORDER BY expires DESC, digest DESC LIMIT -1 OFFSET ?3)
"""
DROP_TOKEN = "DELETE FROM token WHERE digest = ?1 RETURNING digest, mid, expires"
DROP_TOKENS = "DELETE FROM token WHERE mid = ?1"

# What sweep() does, a piece at a time

DROP_EXPIRED_TOKENS = "DELETE FROM token WHERE digest IN (SELECT digest FROM token WHERE expires <= ?1 LIMIT ?2)"
LAST_OF_NEXT = """
SELECT max(mid) FROM (SELECT mid FROM cursor WHERE mid > ?1 UNION ALL SELECT mid FROM handed WHERE mid > ?1
    ORDER BY mid LIMIT ?2)
"""
#: Of the members above ?1 up to ?2: devices that last moved at ?3 or before, and all but the ?4 that moved last.
IDLE_DEVICES = """
SELECT json_group_array(json_array(mid, device)) FROM (
    SELECT mid, device, max(moved) AS moved, row_number() OVER (PARTITION BY mid ORDER BY max(moved) DESC) AS nth
      FROM (SELECT mid, device, moved FROM cursor WHERE mid > ?1 AND mid <= ?2
        UNION ALL SELECT mid, device, moved FROM handed WHERE mid > ?1 AND mid <= ?2)
      GROUP BY mid, device)
  WHERE moved <= ?3 OR nth > ?4
"""
DROP_DEVICES = [
    f"DELETE FROM {table} WHERE (mid, device) IN "
    "(SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?1))"
    for table in ("cursor", "handed")
]
TOMBSTONE = "SELECT room, last FROM grave LIMIT 1"
DROP_TOMBSTONE = "DELETE FROM grave WHERE room = ?1"

ROWS: Final = 256  # in one INSERT: SQLite allows 32,766 parameters


_entries = msgspec.json.Decoder(list[Entry])


def entries_in(found: str, keys: Keys) -> list[Entry]:
    """The entries in a JSON array of ENTRY, in the order of seq: SQLite promises none within json_group_array."""
    entries = sorted(_entries.decode(found), key=attrgetter("seq"))
    return [keys.opened(entry, bytes.fromhex(entry.text)) if entry.lost else entry for entry in entries]


def to_json(value: object) -> str:
    """A value as an argument for json_each()."""
    return msgspec.json.encode(value).decode()


def insert(cursor: Any, how: str, rows: Sequence[Sequence[object]], conflict: str = "") -> None:
    """INSERT rows of equal length in few steps. `how` goes before VALUES, `conflict` after them.

    The rows of a step are a power of two, so that a handful of statements serves for every number of rows: preparing
    one takes longer than running it, and SQLite's connection keeps the last hundred.
    """
    start = 0
    while left := len(rows) - start:
        count = min(ROWS, 1 << (left.bit_length() - 1))
        part = rows[start : start + count]
        cursor.execute(_insert(how, len(part[0]), count, conflict), list(chain.from_iterable(part)))
        start += count


def ask(cursor: Any, select: str, rows: Sequence[Sequence[object]]) -> str:
    """The one value that a SELECT with such rows in its VALUES answers with.

    They are bound, not JSON: a name may be any text, and a digest is none. The rows are made up to a power of two by
    NULLs, which are equal to nothing: SQLite keeps a few plans instead of one for each number.
    """
    size = 1 << (len(rows) - 1).bit_length()
    padding = [None] * (size - len(rows)) * len(rows[0])
    value: str
    (value,) = cursor.execute(_asking(select, len(rows[0]), size), [*chain.from_iterable(rows), *padding]).fetchone()
    return value


@cache
def _asking(select: str, columns: int, rows: int) -> str:
    return select % ",".join([f"({','.join('?' * columns)})"] * rows)


@cache
def _insert(how: str, columns: int, rows: int, conflict: str) -> str:
    row = f"({','.join('?' * columns)})"
    return f"{how} VALUES {','.join([row] * rows)} {conflict}"
