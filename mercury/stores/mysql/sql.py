"""All the SQL of the MySQL store but the schema and what is about accounts, and how rows go into it.

Many values go in as one JSON array of rows, which JSON_TABLE makes a table of. STRAIGHT_JOIN keeps that table the outer
loop, so a statement touches, and locks, exactly the rows asked about, in the order given.
"""

# ruff: noqa: S105, S608 - every statement is put together from constants of this file; a token's is no password

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")
Statement = tuple[str, Sequence[object]]  # with what is bound to its %s

_NAME = "VARCHAR(190) CHARACTER SET utf8mb4"
_KINDS = {"rid": _NAME, "mid": _NAME, "cid": "VARCHAR(512) CHARACTER SET utf8mb4"}  # all others are numbers


def _asked(*columns: str) -> str:
    shape = ", ".join(f"{name} {_KINDS.get(name, 'BIGINT')} PATH '$[{place}]'" for place, name in enumerate(columns))
    return f"JSON_TABLE(%s, '$[*]' COLUMNS (place FOR ORDINALITY, {shape})) AS asked"


def _packed(*numbers: str) -> str:
    """The numbers of all rows in one value, for numbers(): the driver is in Python, and takes its time over each."""
    return f"GROUP_CONCAT(CONCAT_WS(' ', {', '.join(numbers)}))"


ENTRY: Final = "e.seq, e.id, e.kind, e.ctime, e.mid, e.text, e.cid, e.members"
ROOM_SEEN: Final = (
    "r.rid, r.head, r.floor, r.messages, (SELECT COUNT(*) FROM membership WHERE room = r.nr) AS members, r.ctime"
)

EPOCH = "SELECT epoch FROM store"

# The log: append

BEGIN: Final[Statement] = ("START TRANSACTION", ())
COMMIT: Final[Statement] = ("COMMIT", ())

_ROOM = ("r.nr", "r.head", "r.floor", "r.messages", "r.ctime", "r.deleted", "@@auto_increment_increment")
#: First comes the room's place in the list, from 1 on.
LOCK_ROOMS = f"""
SELECT {_packed("asked.place", *_ROOM)}
  FROM {_asked("rid")} STRAIGHT_JOIN room AS r FORCE INDEX (rid) ON r.rid = asked.rid
  FOR UPDATE
"""
ADD_ROOMS = "INSERT INTO room (rid, head, floor, messages, ctime, deleted)"
UNLESS_THERE = "ON DUPLICATE KEY UPDATE deleted = deleted"
#: The places in the list of those that there are. It sees what holds when it begins, with the rooms' locks taken.
FIND_MEMBERS = f"""
SELECT {_packed("asked.place")}
  FROM {_asked("rid", "mid")} STRAIGHT_JOIN room AS r FORCE INDEX (rid) ON r.rid = asked.rid
    STRAIGHT_JOIN membership AS m FORCE INDEX (PRIMARY) ON m.room = r.nr AND m.mid = asked.mid
"""
FIND_FIRSTS = f"""
SELECT r.rid, {ENTRY}
  FROM {_asked("rid", "mid", "cid")} STRAIGHT_JOIN room AS r FORCE INDEX (rid) ON r.rid = asked.rid
    STRAIGHT_JOIN entry AS e FORCE INDEX (cid) ON e.room = r.nr AND e.mid = asked.mid AND e.cid = asked.cid
"""
LOCK_MEMBERS = f"""
SELECT m.mid FROM {_asked("mid")} STRAIGHT_JOIN member AS m FORCE INDEX (PRIMARY) ON m.mid = asked.mid FOR UPDATE
"""
COUNT_PLACES = f"""
SELECT m.mid, COUNT(*) FROM {_asked("mid")} STRAIGHT_JOIN membership AS m FORCE INDEX (mid) ON m.mid = asked.mid
  GROUP BY m.mid
"""
#: What rooms get if they have the numbers and heads that they are thought to have, in the order of their names.
GUESS_ROOMS = f"""
UPDATE {_asked("room", "head", "entries", "messages")}
    STRAIGHT_JOIN room AS r FORCE INDEX (PRIMARY) ON r.nr = asked.room AND r.head = asked.head AND NOT r.deleted
  SET r.head = r.head + asked.entries, r.messages = r.messages + asked.messages
"""
#: Fails with NOT_SO if that was not %s rooms, so that nothing that follows is done. Else: by how much ids grow.
CHECK_GUESS = "SELECT 9223372036854775807 + (ROW_COUNT() <> %s), @@auto_increment_increment"
NOT_SO: Final = 1690  # a number out of range
#: Rooms that grow alike are changed together, which is a third of the work of giving each its own head.
GROW_ROOMS = "UPDATE room FORCE INDEX (PRIMARY) SET head = head + %s, messages = messages + %s WHERE nr IN %s"
BEGIN_ROOM = "UPDATE room SET head = %s, floor = %s, messages = %s, ctime = %s, deleted = 0 WHERE nr = %s"
ADD_ENTRIES = "INSERT INTO entry (room, seq, nth, kind, ctime, mid, text, cid, members)"
DROP_PLACES = [
    f"DELETE {table} FROM {_asked('room', 'mid')} STRAIGHT_JOIN {table} "
    f"ON {table}.room = asked.room AND {table}.mid = asked.mid"
    for table in ("membership", "delivered")
]
ADD_MEMBERS = "INSERT INTO member (mid)"
UNLESS_MEMBER = "ON DUPLICATE KEY UPDATE mid = mid"
ADD_PLACES = "INSERT INTO membership (room, mid, joined, seen, seen_nth)"

# The log: read

#: In no order, and without LIMIT: seqs have no holes, so a page's bounds can be told. ORDER BY would put the texts into
#: a temporary table, which MariaDB keeps on disk.
READ = f"""
SELECT r.head, r.floor, {ENTRY}
  FROM room AS r LEFT JOIN entry AS e FORCE INDEX (PRIMARY)
    ON e.room = r.nr AND e.seq > %s AND e.seq <= GREATEST(r.floor, %s) + %s
  WHERE r.rid = %s AND NOT r.deleted
"""
HISTORY = f"""
SELECT {ENTRY} FROM room AS r STRAIGHT_JOIN entry AS e FORCE INDEX (PRIMARY) ON e.room = r.nr
  WHERE r.rid = %s AND NOT r.deleted AND e.seq > %s AND e.seq < %s AND e.kind = 'message'
  ORDER BY e.seq {{}} LIMIT %s
"""
OLDEST_FIRST, NEWEST_FIRST = HISTORY.format("ASC"), HISTORY.format("DESC")
ROOM_BOUNDS = "SELECT nr, floor, head FROM room WHERE rid = %s AND NOT deleted"
ID_AT = "SELECT id FROM entry WHERE room = %s AND seq = %s"
LOCATE = """
SELECT r.rid, e.seq FROM entry AS e JOIN room AS r ON r.nr = e.room
  WHERE e.id = %s AND e.kind = 'message' AND r.rid IS NOT NULL
"""

#: What stands as text in the messages of a room with %s < seq <= %s; NULL if it begins with %s.
SEALED = """
SELECT e.seq, e.id, IF(LEFT(e.text, LENGTH(%s)) = %s, NULL, e.text)
  FROM room AS r STRAIGHT_JOIN entry AS e FORCE INDEX (PRIMARY) ON e.room = r.nr
  WHERE r.rid = %s AND NOT r.deleted AND e.seq > %s AND e.seq <= %s AND e.kind = 'message'
"""
#: No id is used again, so what was deleted stays so.
RESEAL = "UPDATE entry SET text = %s WHERE id = %s"

# Rooms and members

ROOM = f"SELECT {ROOM_SEEN} FROM room AS r WHERE r.rid = %s AND NOT r.deleted"
ROOMS = f"SELECT {ROOM_SEEN} FROM room AS r WHERE r.rid > %s AND NOT r.deleted ORDER BY r.rid LIMIT %s"
MEMBERS = """
SELECT m.mid FROM room AS r JOIN membership AS m ON m.room = r.nr
  WHERE r.rid = %s AND NOT r.deleted AND m.mid > %s ORDER BY m.mid LIMIT %s
"""
HEADS = f"""
SELECT r.rid, r.head FROM {_asked("rid")} STRAIGHT_JOIN room AS r FORCE INDEX (rid) ON r.rid = asked.rid
  WHERE NOT r.deleted
"""
PLACES = """
SELECT r.rid, r.head, m.joined, m.seen, r.messages - m.seen_nth, d.seq
  FROM membership AS m STRAIGHT_JOIN room AS r ON r.nr = m.room
  LEFT JOIN delivered AS d ON d.mid = m.mid AND d.device = %s AND d.room = m.room
  WHERE m.mid = %s
"""
IS_MEMBER = "SELECT 1 FROM member WHERE mid = %s"
LOCK_ROOM = "SELECT nr, head FROM room WHERE rid = %s AND NOT deleted FOR UPDATE"
SOMEBODY_IN = "SELECT 1 FROM membership WHERE room = %s LIMIT 1"
MAKE_TOMBSTONE = "UPDATE room SET rid = NULL, deleted = 1 WHERE nr = %s"
KEEP_HEAD = "INSERT INTO room (rid, head, floor, messages, ctime, deleted) VALUES (%s, %s, %s, 0, 0, 1)"

# Marks

ROOMS_OF = f"""
SELECT r.rid, r.nr, r.head FROM {_asked("rid")} STRAIGHT_JOIN room AS r FORCE INDEX (rid) ON r.rid = asked.rid
  WHERE NOT r.deleted
"""
LOCK_PLACES = f"""
SELECT m.room, m.mid, m.seen
  FROM {_asked("room", "mid")} STRAIGHT_JOIN membership AS m FORCE INDEX (PRIMARY)
    ON m.room = asked.room AND m.mid = asked.mid
  FOR UPDATE
"""
FIND_NTHS = f"""
SELECT e.room, e.seq, e.nth FROM {_asked("room", "seq")} STRAIGHT_JOIN entry AS e FORCE INDEX (PRIMARY)
    ON e.room = asked.room AND e.seq = asked.seq
"""
SET_CURSORS = "INSERT INTO delivered (mid, device, room, seq, moved)"
SET_CURSORS_OF = (
    "ON DUPLICATE KEY UPDATE moved = IF(VALUES(seq) > seq, VALUES(moved), moved), seq = GREATEST(seq, VALUES(seq))"
)
SET_READS = ADD_PLACES
SET_READS_OF = "ON DUPLICATE KEY UPDATE seen = VALUES(seen), seen_nth = VALUES(seen_nth)"

# Tokens

TOKEN = "SELECT digest, mid, expires FROM token WHERE digest = %s"
TOKENS = "SELECT digest, mid, expires FROM token WHERE mid = %s"
LOCK_TOKEN = f"{TOKEN} FOR UPDATE"
PUT_TOKEN = "REPLACE INTO token (digest, mid, expires) VALUES (%s, %s, %s)"
SURPLUS_TOKENS = """
SELECT digest FROM token WHERE mid = %s AND digest <> %s ORDER BY expires DESC, digest DESC LIMIT %s, 100000
"""
DROP_TOKEN = "DELETE FROM token WHERE digest = %s"
DROP_TOKENS = "DELETE FROM token WHERE mid = %s"

# What sweep() does, a piece at a time

DROP_EXPIRED_TOKENS = "DELETE FROM token WHERE expires <= %s LIMIT %s"
LAST_OF_NEXT = """
SELECT MAX(mid) FROM (
  (SELECT mid FROM delivered WHERE mid > %s ORDER BY mid LIMIT %s) UNION ALL
  (SELECT mid FROM handed WHERE mid > %s ORDER BY mid LIMIT %s) ORDER BY mid LIMIT %s) AS page
"""
DEVICES = [
    "SELECT mid, device, MAX(moved) FROM delivered WHERE mid > %s AND mid <= %s GROUP BY mid, device",
    "SELECT mid, device, moved FROM handed WHERE mid > %s AND mid <= %s",
]
DROP_DEVICE = [f"DELETE FROM {table} WHERE mid = %s AND device = %s" for table in ("delivered", "handed")]
TOMBSTONE = "SELECT nr FROM room WHERE rid IS NULL LIMIT 1"
EMPTY_TOMBSTONE = "DELETE FROM entry WHERE room = %s LIMIT %s"
DROP_TOMBSTONE = "DELETE FROM room WHERE nr = %s AND rid IS NULL"

UTF8_BYTES: Final = 4  # in a character, at most
ROWS: Final = 500  # in one INSERT
ROW_BYTES: Final = 2048  # the most that a row's short columns take, when every byte of them has to be escaped


def to_json(value: object) -> str:
    """Rows as an argument for JSON_TABLE()."""
    return msgspec.json.encode(value).decode()


def rows(cursor: Any, statement: str, *args: object) -> Sequence[Any]:
    cursor.execute(statement, args)
    found: Sequence[Any] = cursor.fetchall()
    return found


def together(cursor: Any, packet: int, *statements: Statement) -> list[tuple[Sequence[Any], int]]:
    """Run statements in one round trip, or one by one if they might be more than `packet` bytes. For each: the rows
    that it found, and the first id that it gave out. The first that fails is the last that is run."""
    texts = [cursor.mogrify(*statement) for statement in statements]
    done: list[tuple[Sequence[Any], int]] = []
    if texts and UTF8_BYTES * sum(map(len, texts)) < packet:
        cursor.execute(";".join(texts))
        done.append((cursor.fetchall(), cursor.lastrowid))
        while cursor.nextset():
            done.append((cursor.fetchall(), cursor.lastrowid))
    else:
        for text in texts:
            cursor.execute(text)
            done.append((cursor.fetchall(), cursor.lastrowid))
    return done


def numbers(found: Sequence[Any]) -> list[list[int]]:
    """What a statement that packs its rows has found."""
    ((packed,),) = found
    return [list(map(int, row.split(" "))) for row in packed.split(",")] if packed else []


def pieces(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut what goes into one statement each."""
    for start in range(0, len(values), ROWS):
        yield values[start : start + ROWS]


def insert(cursor: Any, how: str, values: Iterable[Sequence[object]], conflict: str = "") -> None:
    """INSERT short rows of equal length in few steps. `how` goes before VALUES, `conflict` after them."""
    for part in pieces(list(values)):
        cursor.execute(*insertion(how, part, conflict))


#: What stands in most rows, and would be half of what is bound: 2 µs a message.
LITERALS: Final[dict[object, str]] = {None: "NULL", "message": "'message'"}


def insertion(how: str, part: Sequence[Sequence[object]], conflict: str = "") -> Statement:
    """One INSERT of these rows, of which there is one at least."""
    bound: list[object] = []

    def cell(value: object) -> str:
        if type(value) is int:  # half of them are, and binding one takes the driver longer
            return str(value)
        if value in LITERALS:
            return LITERALS[value]
        bound.append(value)
        return "%s"

    listed = "),(".join([",".join(map(cell, row)) for row in part])
    return f"{how} VALUES ({listed}) {conflict}", bound


def parts(rows: Sequence[Sequence[Any]], text: int, packet: int) -> Iterator[Sequence[Sequence[Any]]]:
    """Cut rows into INSERTs that the server takes: at most ROWS of them and `packet` bytes. rows[n][text] is long."""
    start, size = 0, 0
    for end, row in enumerate(rows):
        bytes_of = escaped_bytes(row[text])
        if end > start and (end - start == ROWS or size + bytes_of > packet):
            yield rows[start:end]
            start, size = end, 0
        size += bytes_of
    if rows:
        yield rows[start:]


def escaped_bytes(text: str | bytes) -> int:
    """What a row with this text takes in a statement, at most."""
    return 2 * len(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")) + ROW_BYTES
