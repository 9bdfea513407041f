"""The store that Mercury uses when nothing else is configured: one SQLite file, for one node.

Threads: one writes, two read; in WAL mode they do not wait for each other. Every write is one transaction. The writing
thread runs them one by one, in the order in which they were asked for; append.py is where messages are committed.
Reads that many clients need at once (tokens, memberships, pieces of logs) go through a ReadCoalescer.

A call is a few statements, however large it is: Python releases its lock at every step of a SQLite statement and waits
to get it back from a busy reactor. So rows go in by one INSERT or as one JSON argument, and come out as one JSON text
that is decoded straight into a Struct of mercury/domain/model.py. A message's text never goes in as JSON, since SQLite
cuts a JSON string at a NUL character.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mercury.domain.counters import Load
from mercury.domain.model import Cursor, Draft, Entry, Membership, Outcome, ReadMark, Resealed, Room, Slice, Token
from mercury.errors import MercuryError
from mercury.interfaces import IAccounts, IStore
from mercury.stores import sql_upkeep
from mercury.stores.append_rules import occupied
from mercury.stores.coalesced_reads import ReadCoalescer
from mercury.stores.pool import Pool
from mercury.stores.sealing import NO_KEYS, STEP, Keys
from mercury.stores.sql_accounts import SqlAccounts
from mercury.stores.sqlite import accounts, room_log, sql, sweep
from mercury.stores.sqlite.append import SqliteAppender
from mercury.stores.sqlite.schema import check_version, claim, connections, make_file, migrate
from mercury.stores.sqlite.sql import ask, entries_in, insert, to_json
from mercury.stores.unavailable import not_open, unavailable

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[Any, P], T]

READERS: Final = 2  # threads
READ_TIMEOUT: Final = 60.0  # seconds that a read may take, the wait for a thread included
LAST: Final = 2**63 - 1  # no seq is greater

_marks = msgspec.json.Decoder(list[tuple[int, int, int, int, int]])
_memberships = msgspec.json.Decoder(list[tuple[int, Membership]])
_tokens = msgspec.json.Decoder(list[tuple[int, str, int]])


@implementer(IStore, IAccounts)
class SqliteStore(SqlAccounts):
    """IStore in the file `path`.

    `rooms_per_member`: how many rooms a member may be in; 0 for any number. `keys`: what texts are sealed with.
    `beside_node`: a node has the file open at the same time; then only calls that read, and reseal(), are allowed.

    Cancelling a Deferred drops the answer; what was asked is done all the same.
    """

    epoch = ""
    account_statements = accounts.STATEMENTS

    def __init__(
        self, path: str, rooms_per_member: int = 0, keys: Keys = NO_KEYS, *, beside_node: bool = False
    ) -> None:
        self.keys = keys
        self._beside_node = beside_node
        self._path = path
        self.rooms_per_member = rooms_per_member
        self._appender = SqliteAppender()
        self._claim: int | None = None
        self._writer: Pool | None = None
        self._reader: Pool | None = None
        self._tokens: ReadCoalescer[bytes, Token | None] | None = None
        self._memberships: ReadCoalescer[tuple[str, str], list[Membership]] | None = None
        self._slices: ReadCoalescer[tuple[Keys, str, int, int], Slice] | None = None

    @property
    def load(self) -> list[Load]:
        return [pool.load for pool in (self._writer, self._reader) if pool]

    def open(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        name = f"the database {self._path}"
        self._take_file(name)
        writing = connections(self._path, 1, read_only=False, beside_node=self._beside_node)
        reading = connections(self._path, READERS, read_only=True)
        self._writer = Pool(name, writing, sqlite3.Error, begin="BEGIN IMMEDIATE", use="writing")
        self._reader = Pool(f"{name} (reading)", reading, sqlite3.Error, timeout=READ_TIMEOUT, use="reading")
        try:
            if self._beside_node:
                await self._reader.run(check_version)
            else:
                while await self._writer.run(migrate):
                    pass
            (self.epoch,) = await self._reader.run(_row, sql.EPOCH)
        except MercuryError as error:
            await self.close()
            raise MercuryError(error.code, f"{name} cannot be used: {error.reason}", error.retry_after) from None
        self._tokens = ReadCoalescer(self._reader, _find_tokens)
        self._memberships = ReadCoalescer(self._reader, _find_memberships)
        self._slices = ReadCoalescer(self._reader, _slices)

    def _take_file(self, name: str) -> None:
        if self._beside_node:
            if not os.path.exists(self._path):
                raise unavailable(f"{name} does not exist")
            return
        make_file(self._path)
        try:
            self._claim = claim(self._path)
        except (MercuryError, OSError) as error:
            reason = error.reason if isinstance(error, MercuryError) else f"its lock: {error}"
            raise unavailable(f"{name} cannot be used: {reason}") from None

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        for pool in (self._reader, self._writer):
            if pool:
                await pool.close()
        if self._claim is not None:
            claimed, self._claim = self._claim, None
            os.close(claimed)

    def ping(self) -> Deferred[None]:
        return self._read(_row, sql.EPOCH).addCallback(lambda row: None)

    def begin_anew(self) -> Deferred[int]:
        return self._write(_begin_anew, time.time_ns() // 1000).addCallback(self._begun)

    def _begun(self, new: tuple[str, int]) -> int:
        self.epoch, last_id = new
        return last_id + 1

    def _read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call work(cursor, ...), which runs one SELECT and so sees the state of one moment."""
        return self._reader.run(work, *args, **kwargs) if self._reader and self.epoch else not_open()

    def _write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call work(cursor, ...) in a transaction of its own."""
        return self._writer.run(work, *args, **kwargs) if self._writer and self.epoch else not_open()

    # The log

    def append(self, drafts: Sequence[Draft], ctime: int) -> Deferred[list[Outcome | MercuryError]]:
        if self._writer is None or not self.epoch:
            return not_open()
        return self._writer.run(self._appender.append, drafts, ctime, self.rooms_per_member, self.keys)

    def read(self, rid: str, after: int, limit: int) -> Deferred[Slice]:
        return self._slices.ask((self.keys, rid, after, limit)) if self._slices else not_open()

    def history(
        self, rid: str, before: int | None, after: int | None, limit: int
    ) -> Deferred[tuple[list[Entry], bool]]:
        return self._read(_history, self.keys, rid, LAST if before is None else before, after, limit)

    def locate(self, id: int, rid: str | None) -> Deferred[tuple[str, int] | None]:
        if rid is None:
            return self._read(_row, sql.LOCATE, id)
        return self._read(_row, room_log.LOCATE_IN_ROOM, id, rid)

    def reseal(self, rid: str, step: Callable[[Resealed], Deferred[None]]) -> Deferred[None]:
        return self.room(rid).addCallback(lambda room: Deferred.fromCoroutine(self._reseal(room, step)))

    async def _reseal(self, room: Room | None, step: Callable[[Resealed], Deferred[None]]) -> None:
        if room is None or not self.keys:
            return

        def read(after: int) -> Deferred[Any]:
            return self._read(_rows, room_log.SEALED, room.rid, after, STEP, self.keys.header)

        def write(texts: Sequence[tuple[bytes, int]]) -> Deferred[None]:
            return self._write(_reseal, texts)

        await sql_upkeep.reseal(self.keys, room, step, read, write)

    # Rooms and members

    def heads(self, rids: Sequence[str]) -> Deferred[dict[str, int]]:
        return self._read(_value, dict[str, int], sql.HEADS, to_json(rids))

    def room(self, rid: str) -> Deferred[Room | None]:
        return self._read(_value, Room, sql.ROOM, rid)

    def rooms(self, after: str, limit: int) -> Deferred[list[Room]]:
        return self._read(_value, list[Room], sql.ROOMS, after, limit).addCallback(sorted, key=attrgetter("rid"))

    def delete_room(self, rid: str) -> Deferred[bool]:
        return self._write(_delete_room, rid)

    def members(self, rid: str, after: str, limit: int) -> Deferred[list[str]]:
        return self._read(_value, list[str], sql.MEMBERS, rid, after, limit).addCallback(sorted)

    def is_member(self, mid: str) -> Deferred[bool]:
        return self._read(_row, sql.IS_MEMBER, mid).addCallback(bool)

    def memberships(self, mid: str, device: str) -> Deferred[list[Membership]]:
        memberships = self._memberships.ask((mid, device)) if self._memberships else not_open()
        return memberships.addCallback(sorted, key=attrgetter("rid"))

    # Marks

    def move_cursors(self, cursors: Sequence[Cursor]) -> Deferred[None]:
        return self._write(_move_cursors, cursors)

    def move_reads(self, marks: Sequence[ReadMark]) -> Deferred[list[int | None]]:
        return self._write(_move_reads, marks)

    # Tokens

    def put_token(self, token: Token, keep: int) -> Deferred[None]:
        return self._write(_put_token, token, keep)

    def token(self, digest: bytes) -> Deferred[Token | None]:
        return self._tokens.ask(digest) if self._tokens else not_open()

    def tokens(self, mid: str) -> Deferred[list[Token]]:
        return self._read(_rows, sql.TOKENS, mid).addCallback(lambda found: [Token(*row) for row in found])

    def drop_token(self, digest: bytes) -> Deferred[Token | None]:
        return self._write(_token, sql.DROP_TOKEN, digest)

    def drop_tokens(self, mid: str) -> Deferred[int]:
        return self._write(_drop_tokens, mid)

    def sweep(self, now: int, idle: int, devices: int) -> Deferred[None]:
        return Deferred.fromCoroutine(sql_upkeep.sweep(self._write, sweep.STEPS, now, now - idle, devices))


# What runs in a thread. SQLite promises no order within json_group_array, so lists are sorted here.


def _row(cursor: Any, statement: str, *args: object) -> Any:
    return cursor.execute(statement, args).fetchone()


def _value(cursor: Any, shape: Any, select: str, *args: object) -> Any:
    """The one value of the one row, a JSON text, decoded; None if there is no row."""
    row = _row(cursor, select, *args)
    return row and msgspec.json.decode(row[0], type=shape)


def _rows(cursor: Any, statement: str, *args: object) -> Any:
    return cursor.execute(statement, args).fetchall()


def _begin_anew(cursor: Any, now: int) -> tuple[str, int]:
    rows, skip, epoch = sql.BEGIN_ANEW
    cursor.execute(rows)
    cursor.execute(skip, (now,))
    cursor.execute(epoch)
    return _row(cursor, sql.EPOCH)[0], _row(cursor, sql.LAST)[0]


def _reseal(cursor: Any, texts: Sequence[tuple[bytes, int]]) -> None:
    cursor.executemany(sql.RESEAL, texts)


def _slices(cursor: Any, asked: Sequence[tuple[Keys, str, int, int]]) -> list[Slice]:
    return [_slice(cursor, *one) for one in asked]


def _slice(cursor: Any, keys: Keys, rid: str, after: int, limit: int) -> Slice:
    head, floor, entries = _row(cursor, room_log.READ, rid, after, limit) or (0, 0, "[]")
    return Slice(entries_in(entries, keys), head, floor)


def _history(cursor: Any, keys: Keys, rid: str, before: int, after: int | None, limit: int) -> tuple[list[Entry], bool]:
    """One more is read than asked for, to see whether there are more."""
    if after is None:
        (entries,) = _row(cursor, room_log.NEWEST_FIRST, rid, before, limit + 1)
        found = entries_in(entries, keys)
        return found[-limit:], len(found) > limit
    (entries,) = _row(cursor, room_log.OLDEST_FIRST, rid, after, before, limit + 1)
    found = entries_in(entries, keys)
    return found[:limit], len(found) > limit


def _delete_room(cursor: Any, rid: str) -> bool:
    """The log stays under the room's old key, however long it is; sweep() takes it away."""
    found = _row(cursor, sql.ROOM_TO_DELETE, rid)
    if found is None:
        return False
    key, somebody_is_in = found
    if somebody_is_in:
        raise occupied(rid)
    for statement in sql.MAKE_TOMBSTONE:
        cursor.execute(statement, (key,))
    cursor.execute(sql.SKIP_AN_ID)
    return True


def _move_cursors(cursor: Any, cursors: Sequence[Cursor]) -> None:
    moves = to_json([(c.rid, c.mid, c.device, c.seq) for c in cursors])
    cursor.execute(sql.MOVE_CURSORS, (moves, time.time_ns() // 1000))


def _move_reads(cursor: Any, marks: Sequence[ReadMark]) -> list[int | None]:
    asked = to_json([(mark.rid, mark.mid, mark.seq) for mark in marks])
    found = _marks.decode(_row(cursor, room_log.READ_MARKS, asked)[0])
    answers: list[int | None] = [None] * len(marks)
    stand: dict[tuple[int, str], tuple[int, int]] = {}
    for membership, room, read, new, nth in sorted(found):
        member = (room, marks[membership].mid)
        if new > stand.get(member, (read, 0))[0]:
            stand[member] = (new, nth)
            answers[membership] = new
    if stand:
        insert(cursor, sql.SET_READS, [(*member, 0, *mark) for member, mark in stand.items()], sql.SET_READS_OF)
    return answers


def _find_memberships(cursor: Any, devices: Sequence[tuple[str, str]]) -> list[list[Membership]]:
    answers: list[list[Membership]] = [[] for _ in devices]
    rows = [(nth, *device) for nth, device in enumerate(devices)]
    for nth, membership in _memberships.decode(ask(cursor, sql.PLACES, rows)):
        answers[nth].append(membership)
    return answers


def _find_tokens(cursor: Any, digests: Sequence[bytes]) -> list[Token | None]:
    answers: list[Token | None] = [None] * len(digests)
    for nth, mid, expires in _tokens.decode(ask(cursor, sql.TOKEN, list(enumerate(digests)))):
        answers[nth] = Token(digests[nth], mid, expires)
    return answers


def _token(cursor: Any, statement: str, digest: bytes) -> Token | None:
    row = _row(cursor, statement, digest)
    return row and Token(*row)


def _drop_tokens(cursor: Any, mid: str) -> int:
    count: int = cursor.execute(sql.DROP_TOKENS, (mid,)).rowcount
    return count


def _put_token(cursor: Any, token: Token, keep: int) -> None:
    cursor.execute(sql.ADD_MEMBER, (token.mid,))
    cursor.execute(sql.PUT_TOKEN, (token.digest, token.mid, token.expires))
    cursor.execute(sql.KEEP_TOKENS, (token.mid, token.digest, keep - 1))
