"""The store for more than one machine: MySQL 8, or MariaDB 10.6 and later, for any number of nodes.

The database makes every decision, under its own locks. What a node remembers of its rooms is only a guess, which the
database checks (room_cache.py). Each connection has a thread. One appends, so that a node's batches are stored in the
order in which they were asked for: append.py is where messages are committed. Two write marks and tokens, each call in
a transaction of its own; all others read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import pymysql
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from mercury.domain.counters import Load
from mercury.domain.model import Cursor, Draft, Entry, Membership, Outcome, ReadMark, Resealed, Room, Slice, Token
from mercury.errors import MercuryError
from mercury.interfaces import IAccounts, IStore
from mercury.stores import sql_upkeep
from mercury.stores.append_rules import occupied
from mercury.stores.mysql import accounts, sql, sweep
from mercury.stores.mysql.append import MysqlAppender, entry_of
from mercury.stores.mysql.marks import move_cursors, move_reads
from mercury.stores.mysql.schema import begin_anew, prepare
from mercury.stores.mysql.server import ENGINE_ERRORS, MysqlServer, should_retry
from mercury.stores.mysql.sql import rows, to_json
from mercury.stores.pool import Pool
from mercury.stores.sealing import NO_KEYS, STEP, Keys
from mercury.stores.sql_accounts import SqlAccounts
from mercury.stores.unavailable import not_open, unavailable

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[Any, P], T]

WRITERS: Final = 2  # connections beside the one that appends
LAST: Final = 2**63 - 1  # no seq is greater


@implementer(IStore, IAccounts)
class MysqlStore(SqlAccounts):
    """IStore in a server's database.

    `connections`: how many, at least 4. `rooms_per_member`: how many rooms a member may be in; 0 for any number.
    `keys`: what texts are sealed with.

    Cancelling a Deferred drops the answer; what was asked is done all the same.
    """

    epoch = ""
    account_statements = accounts.STATEMENTS

    def __init__(
        self, server: MysqlServer, connections: int = 8, rooms_per_member: int = 0, keys: Keys = NO_KEYS
    ) -> None:
        self.keys = keys
        self._server = server
        self._connections = connections
        self.rooms_per_member = rooms_per_member
        self._packet = 0
        self._appender = MysqlAppender()
        self._appending: Pool | None = None
        self._writer: Pool | None = None
        self._reader: Pool | None = None

    @property
    def load(self) -> list[Load]:
        return [pool.load for pool in (self._appending, self._writer, self._reader) if pool]

    def open(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        name = str(self._server)
        self.epoch, self._packet = await self._once(prepare, self._server)
        self._appending = self._pool(name, "appending", 1, autocommit=True)
        self._writer = self._pool(name, "writing", WRITERS)
        self._reader = self._pool(name, "reading", self._connections - WRITERS - 1, autocommit=True)

    async def _once(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it in a thread; it makes a connection of its own."""
        try:
            return await deferToThread(work, *args, **kwargs)
        except pymysql.Error as error:
            reason = f"{self._server} cannot be used: {error.args[-1]}"
            raise unavailable(reason) from None
        except MercuryError as error:
            reason = f"{self._server} cannot be used: {error.reason}"
            raise MercuryError(error.code, reason, error.retry_after) from None

    def begin_anew(self) -> Deferred[int]:
        return Deferred.fromCoroutine(self._begin_anew())

    async def _begin_anew(self) -> int:
        if self._writer is None or self._writer.is_closed:
            await not_open()
        self.epoch, first = await self._once(begin_anew, self._server, time.time_ns() // 1000)
        return first

    def _pool(self, name: str, use: str, connections: int, autocommit: bool = False) -> Pool:
        pool = self._server.connections(connections, autocommit)
        return Pool(
            f"{name} ({use})", pool, ENGINE_ERRORS, should_retry=should_retry, timeout=self._server.seconds, use=use
        )

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        for pool in (self._reader, self._writer, self._appending):
            if pool:
                await pool.close()

    def ping(self) -> Deferred[None]:
        return self._read(_row, sql.EPOCH).addCallback(lambda row: None)

    def _read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call work(cursor, ...), in which each SELECT sees the state of one moment."""
        return self._reader.run(work, *args, **kwargs) if self._reader else not_open()

    def _write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call work(cursor, ...) in a transaction of its own."""
        return self._writer.run(work, *args, **kwargs) if self._writer else not_open()

    # The log

    def append(self, drafts: Sequence[Draft], ctime: int) -> Deferred[list[Outcome | MercuryError]]:
        if self._appending is None:
            return not_open()
        return self._appending.run(self._appender.append, drafts, ctime, self.rooms_per_member, self._packet, self.keys)

    def read(self, rid: str, after: int, limit: int) -> Deferred[Slice]:
        return self._read(_slice, self.keys, rid, after, limit)

    def history(
        self, rid: str, before: int | None, after: int | None, limit: int
    ) -> Deferred[tuple[list[Entry], bool]]:
        return self._read(_history, self.keys, rid, LAST if before is None else before, after, limit)

    def locate(self, id: int, rid: str | None) -> Deferred[tuple[str, int] | None]:
        if rid is None:
            return self._read(_locate, id)
        return self._read(_locate_in_room, id, rid)

    def reseal(self, rid: str, step: Callable[[Resealed], Deferred[None]]) -> Deferred[None]:
        return self.room(rid).addCallback(lambda room: Deferred.fromCoroutine(self._reseal(room, step)))

    async def _reseal(self, room: Room | None, step: Callable[[Resealed], Deferred[None]]) -> None:
        if room is None or not self.keys:
            return
        header = self.keys.header

        def read(after: int) -> Deferred[Any]:
            return self._read(rows, sql.SEALED, header, header, room.rid, after, after + STEP)

        def write(texts: Sequence[tuple[bytes, int]]) -> Deferred[None]:
            return self._write(_reseal, texts)

        await sql_upkeep.reseal(self.keys, room, step, read, write)

    # Rooms and members

    def heads(self, rids: Sequence[str]) -> Deferred[dict[str, int]]:
        return self._read(rows, sql.HEADS, to_json([(rid,) for rid in rids])).addCallback(_by_name)

    def room(self, rid: str) -> Deferred[Room | None]:
        return self._read(_room, rid)

    def rooms(self, after: str, limit: int) -> Deferred[list[Room]]:
        return self._read(rows, sql.ROOMS, after, limit).addCallback(_rooms)

    def delete_room(self, rid: str) -> Deferred[bool]:
        return self._write(_delete_room, rid)

    def members(self, rid: str, after: str, limit: int) -> Deferred[list[str]]:
        found = self._read(rows, sql.MEMBERS, rid, after, limit)
        return found.addCallback(lambda names: [name.decode() for (name,) in names])

    def is_member(self, mid: str) -> Deferred[bool]:
        return self._read(_row, sql.IS_MEMBER, mid).addCallback(bool)

    def memberships(self, mid: str, device: str) -> Deferred[list[Membership]]:
        return self._read(rows, sql.PLACES, device, mid).addCallback(_memberships)

    # Marks

    def move_cursors(self, cursors: Sequence[Cursor]) -> Deferred[None]:
        return self._write(move_cursors, cursors, time.time_ns() // 1000)

    def move_reads(self, marks: Sequence[ReadMark]) -> Deferred[list[int | None]]:
        return self._write(move_reads, marks)

    # Tokens

    def put_token(self, token: Token, keep: int) -> Deferred[None]:
        return self._write(_put_token, token, keep)

    def token(self, digest: bytes) -> Deferred[Token | None]:
        return self._read(_token, sql.TOKEN, digest)

    def tokens(self, mid: str) -> Deferred[list[Token]]:
        found = self._read(rows, sql.TOKENS, mid)
        return found.addCallback(lambda tokens: [_as_token(*row) for row in tokens])

    def drop_token(self, digest: bytes) -> Deferred[Token | None]:
        return self._write(_drop_token, digest)

    def drop_tokens(self, mid: str) -> Deferred[int]:
        return self._write(_drop_tokens, mid)

    def sweep(self, now: int, idle: int, devices: int) -> Deferred[None]:
        return Deferred.fromCoroutine(sql_upkeep.sweep(self._write, sweep.STEPS, now, now - idle, devices))


def _by_name(found: Sequence[Any]) -> dict[str, int]:
    return {name.decode(): number for name, number in found}


def _rooms(found: Sequence[Any]) -> list[Room]:
    return [Room(rid.decode(), *numbers) for rid, *numbers in found]


def _memberships(found: Sequence[Any]) -> list[Membership]:
    return sorted((Membership(rid.decode(), *numbers) for rid, *numbers in found), key=attrgetter("rid"))


# What runs in a thread


def _row(cursor: Any, statement: str, *args: object) -> Any:
    cursor.execute(statement, args)
    return cursor.fetchone()


def _room(cursor: Any, rid: str) -> Room | None:
    found = _rooms(rows(cursor, sql.ROOM, rid))
    return found[0] if found else None


def _slice(cursor: Any, keys: Keys, rid: str, after: int, limit: int) -> Slice:
    """The room's row comes with each entry, and with NULLs if there is none."""
    found = rows(cursor, sql.READ, after, after, limit, rid)
    if not found:
        return Slice([], 0, 0)
    head, floor = found[0][:2]
    entries = [entry_of(keys, rid, row[2:]) for row in found if row[2] is not None]
    return Slice(sorted(entries, key=attrgetter("seq")), head, floor)


def _history(cursor: Any, keys: Keys, rid: str, before: int, after: int | None, limit: int) -> tuple[list[Entry], bool]:
    """One more is read than asked for, to see whether there are more."""
    statement = sql.NEWEST_FIRST if after is None else sql.OLDEST_FIRST
    found = [entry_of(keys, rid, row) for row in rows(cursor, statement, rid, after or 0, before, limit + 1)]
    page = found[:limit]
    return page[::-1] if after is None else page, len(found) > limit


def _reseal(cursor: Any, texts: Sequence[tuple[bytes, int]]) -> None:
    cursor.executemany(sql.RESEAL, texts)


def _locate(cursor: Any, id: int) -> tuple[str, int] | None:
    row = _row(cursor, sql.LOCATE, id)
    return row and (row[0].decode(), row[1])


def _locate_in_room(cursor: Any, id: int, rid: str) -> tuple[str, int]:
    """A binary search for the lowest seq whose id is `id` or greater: seqs have no holes, and ids grow with them."""
    nr, floor, head = _row(cursor, sql.ROOM_BOUNDS, rid) or (None, 0, 0)
    low, high = floor + 1, head + 1
    while low < high:
        middle = (low + high) // 2
        there = _row(cursor, sql.ID_AT, nr, middle)
        if there is None:  # the room was deleted meanwhile
            return rid, 1
        low, high = (low, middle) if there[0] >= id else (middle + 1, high)
    return rid, low


def _delete_room(cursor: Any, rid: str) -> bool:
    """The log goes with the room's number, however long it is; sweep() takes it away."""
    found = _row(cursor, sql.LOCK_ROOM, rid)
    if found is None:
        return False
    nr, head = found
    if _row(cursor, sql.SOMEBODY_IN, nr):
        raise occupied(rid)
    cursor.execute(sql.MAKE_TOMBSTONE, (nr,))
    cursor.execute(sql.KEEP_HEAD, (rid, head, head))
    return True


def _token(cursor: Any, statement: str, digest: bytes) -> Token | None:
    row = _row(cursor, statement, digest)
    return row and _as_token(*row)


def _as_token(digest: bytes, mid: bytes, expires: int) -> Token:
    return Token(digest, mid.decode(), expires)


def _drop_token(cursor: Any, digest: bytes) -> Token | None:
    token = _token(cursor, sql.LOCK_TOKEN, digest)
    if token:
        cursor.execute(sql.DROP_TOKEN, (digest,))
    return token


def _drop_tokens(cursor: Any, mid: str) -> int:
    count: int = cursor.execute(sql.DROP_TOKENS, (mid,))
    return count


def _put_token(cursor: Any, token: Token, keep: int) -> None:
    """Its member's row is locked, so that of two tokens put at once each counts the other."""
    sql.insert(cursor, sql.ADD_MEMBERS, [(token.mid,)], sql.UNLESS_MEMBER)
    cursor.execute(sql.PUT_TOKEN, (token.digest, token.mid, token.expires))
    surplus = rows(cursor, sql.SURPLUS_TOKENS, token.mid, token.digest, keep - 1)
    if surplus:
        cursor.executemany(sql.DROP_TOKEN, surplus)
