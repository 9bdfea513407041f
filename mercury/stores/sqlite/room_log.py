"""How a room's log is found in SQLite without an index of all of it.

An index (room, seq) of every entry has a page for each room, and a batch of messages over 100 rooms changes 100 of
them: half of what such a batch cost (8.3 µs of CPU and 6 KB to write for a message, and 3.7 µs and 0.3 KB without). So
only each 64th entry of a room is in the index; each entry knows the one before it in its room, `prev`, and a room knows
its `last` one. A part of a log is read from above: from the first indexed entry at or above its end, or from the room's
last one, back to its beginning. That is at most 64 rows more than are asked for, of which no text is read.
"""

# ruff: noqa: S608 - every statement is put together from constants of this file

from __future__ import annotations

from typing import Final

#: A row of `entry AS e` in a room `AS r`, as the JSON of mercury.model.Entry. A sealed text is a BLOB, and JSON holds
#: none; see entries_in().
ENTRY: Final = (
    "json_object('rid', r.rid, 'seq', e.seq, 'id', e.id, 'kind', e.kind, 'ctime', e.ctime, 'mid', e.mid, "
    "'text', iif(typeof(e.text) = 'blob', hex(e.text), e.text), 'cid', e.cid, 'members', json(e.members), "
    "'lost', iif(typeof(e.text) = 'blob', 'no_key', ''))"
)

INDEXED: Final = "seq % 64 = 0"  # word for word as in the schema: else SQLite does not see that the index will do


def at_or_above(seq: str, more: str = "true") -> str:
    """The id of the first indexed entry of the room `r` at or above a seq, for which `more` holds, or of its last."""
    return (
        f"coalesce((SELECT id FROM entry WHERE room = r.key AND seq >= {seq} AND {INDEXED} AND {more} "
        "ORDER BY seq LIMIT 1), r.last)"
    )


#: A part of the log of the room ?1: at most ?3 entries with seq > ?2, up to `top`, and a few above that.
PART: Final = f"""
WITH RECURSIVE
  r AS (SELECT key, rid, head, floor, last, max(?2, floor) + ?3 AS top FROM room WHERE rid = ?1 AND NOT deleted),
  walk (id, seq, prev) AS (
    SELECT e.id, e.seq, e.prev FROM r CROSS JOIN entry AS e ON e.id = {at_or_above("top")}
    UNION ALL
    SELECT e.id, e.seq, e.prev FROM walk CROSS JOIN entry AS e ON e.id = walk.prev WHERE walk.seq > ?2 + 1)
"""
READ = f"""{PART}
SELECT r.head, r.floor, (SELECT json_group_array({ENTRY})
    FROM walk CROSS JOIN entry AS e ON e.id = walk.id WHERE walk.seq > ?2 AND walk.seq <= top)
  FROM r
"""
#: What stands as text in the messages, and their ids; NULL if it begins with ?4.
SEALED = f"""{PART}
SELECT e.seq, e.id, iif(typeof(e.text) = 'blob' AND substr(e.text, 1, length(?4)) = ?4, NULL, e.text)
  FROM walk CROSS JOIN entry AS e ON e.id = walk.id CROSS JOIN r
  WHERE walk.seq > ?2 AND walk.seq <= top AND e.kind = 'message'
"""

#: The last ?3 messages of the room ?1 with seq < ?2. `found`: how many of them the walk has met.
NEWEST_FIRST = f"""
WITH RECURSIVE
  r AS (SELECT key, rid, last FROM room WHERE rid = ?1),
  walk (id, seq, prev, is_one, found) AS (
    SELECT e.id, e.seq, e.prev, e.kind = 'message' AND e.seq < ?2, e.kind = 'message' AND e.seq < ?2
      FROM r CROSS JOIN entry AS e ON e.id = {at_or_above("?2 - 1")}
    UNION ALL
    SELECT e.id, e.seq, e.prev, e.kind = 'message' AND e.seq < ?2, found + (e.kind = 'message' AND e.seq < ?2)
      FROM walk CROSS JOIN entry AS e ON e.id = walk.prev WHERE found < ?3)
SELECT json_group_array({ENTRY}) FROM walk CROSS JOIN entry AS e ON e.id = walk.id CROSS JOIN r WHERE is_one
"""
#: The first ?4 messages of the room ?1 with ?2 < seq < ?3, perhaps a few more. By its `nth` an entry says how
#: many messages there are up to it. `enough` is the nth of the last one that is wanted, or a little more: if there are
#: joins between ?2 and the indexed entry below it.
OLDEST_FIRST = f"""
WITH RECURSIVE
  r AS (SELECT key, rid, last, floor FROM room WHERE rid = ?1),
  enough (nth) AS (
    SELECT ?4 + coalesce(
        (SELECT nth + ?2 - seq FROM entry WHERE room = r.key AND seq <= ?2 AND {INDEXED} ORDER BY seq DESC LIMIT 1),
        max(?2 - floor, 0))
      FROM r),
  walk (id, seq, prev, is_one) AS (
    SELECT e.id, e.seq, e.prev, e.kind = 'message' AND e.seq < ?3 AND e.nth <= enough.nth
      FROM r CROSS JOIN enough CROSS JOIN entry AS e ON e.id = {at_or_above("?2", "(seq >= ?3 OR nth >= enough.nth)")}
    UNION ALL
    SELECT e.id, e.seq, e.prev, e.kind = 'message' AND e.seq < ?3 AND e.nth <= enough.nth
      FROM walk CROSS JOIN enough CROSS JOIN entry AS e ON e.id = walk.prev WHERE walk.seq > ?2 + 1)
SELECT json_group_array({ENTRY}) FROM walk CROSS JOIN entry AS e ON e.id = walk.id CROSS JOIN r
  WHERE is_one AND walk.seq > ?2
"""

#: The lowest seq whose id is ?1 or greater: a binary search among the indexed entries, in 64ths of a seq, and from what
#: it finds back. Seqs have no holes, and ids grow with them.
LOCATE_IN_ROOM = f"""
WITH RECURSIVE
  r AS (SELECT key, head, floor, last FROM room WHERE rid = ?2 AND NOT deleted),
  span (low, high) AS (
    SELECT floor / 64 + 1, head / 64 + 1 FROM r
    UNION ALL
    SELECT iif(e.id >= ?1, low, (low + high) / 2 + 1), iif(e.id >= ?1, (low + high) / 2, high)
      FROM span CROSS JOIN r CROSS JOIN entry AS e
        ON e.room = r.key AND e.seq = (low + high) / 2 * 64 AND e.{INDEXED}
      WHERE low < high),
  walk (id, seq, prev) AS (
    SELECT e.id, e.seq, e.prev
      FROM r CROSS JOIN entry AS e ON e.id = {at_or_above("(SELECT max(low) * 64 FROM span)")}
    UNION ALL
    SELECT e.id, e.seq, e.prev FROM walk CROSS JOIN entry AS e ON e.id = walk.prev WHERE walk.prev >= ?1)
SELECT ?2, coalesce((SELECT min(seq) FROM walk WHERE id >= ?1), (SELECT head + 1 FROM r), 1)
"""

#: For each mark [rid, mid, seq] in ?1 that is above what a member has read: its place in the list, the room's key, the
#: mark as it is, the new one and its nth.
READ_MARKS = f"""
WITH RECURSIVE
  asked (place, room, read, new, start) AS (
    SELECT c.key, r.key, m.read, min(json_extract(c.value, '$[2]'), r.head),
        {at_or_above("min(json_extract(c.value, '$[2]'), r.head)")}
      FROM json_each(?1) AS c
      CROSS JOIN room AS r ON r.rid = json_extract(c.value, '$[0]')
      CROSS JOIN membership AS m ON m.room = r.key AND m.mid = json_extract(c.value, '$[1]')
      WHERE min(json_extract(c.value, '$[2]'), r.head) > m.read),
  walk (place, room, read, new, seq, nth, prev) AS (
    SELECT place, asked.room, read, new, e.seq, e.nth, e.prev FROM asked CROSS JOIN entry AS e ON e.id = start
    UNION ALL
    SELECT place, walk.room, read, new, e.seq, e.nth, e.prev
      FROM walk CROSS JOIN entry AS e ON e.id = walk.prev WHERE walk.seq > new)
SELECT json_group_array(json_array(place, room, read, new, nth)) FROM walk WHERE seq = new
"""

#: The last ?2 entries of what is left of a deleted room's log, and the one before them, 0 if there is none.
LAST_IN_TOMBSTONE = """
WITH RECURSIVE walk (id, prev, nr) AS (
    SELECT id, prev, 1 FROM entry WHERE id = ?1
    UNION ALL
    SELECT e.id, e.prev, nr + 1 FROM walk CROSS JOIN entry AS e ON e.id = walk.prev WHERE nr < ?2)
SELECT json_group_array(id), coalesce(min(prev), 0) FROM walk
"""
EMPTY_TOMBSTONE = "DELETE FROM entry WHERE id IN (SELECT value FROM json_each(?1))"
LOWER_TOMBSTONE = "UPDATE grave SET last = ?2 WHERE room = ?1"
