"""IAccounts on SQLite: its SQL, its calls, and what these do in a thread."""

# ruff: noqa: S105 - statements about secrets, which hold none

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from msgspec import json
from twisted.internet.defer import Deferred

from mercury.domain.model import Account, Handed
from mercury.stores.account_rules import pair_of, possible, taken, too_many_friends

ADD_ACCOUNT = "INSERT INTO account (name, key, secret) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO NOTHING RETURNING id"
ACCOUNT = "SELECT id, name, secret FROM account WHERE key = ?1"
ACCOUNT_OF = "SELECT id, name, secret FROM account WHERE id = ?1"
CHANGE_SECRET = "UPDATE account SET secret = ?2 WHERE id = ?1"
LINK = "SELECT nr FROM friendship WHERE lower = ?1 AND higher = ?2"
ADD_LINK = "INSERT INTO friendship (lower, higher) VALUES (?1, ?2)"
#: In no order, with the number of each link.
FRIENDS = """
SELECT nr, higher FROM friendship WHERE lower = ?1 UNION ALL SELECT nr, lower FROM friendship WHERE higher = ?1
"""
COUNT_FRIENDS = """
SELECT (SELECT count(*) FROM friendship WHERE lower = ?1) + (SELECT count(*) FROM friendship WHERE higher = ?1)
"""
PUT_HANDED = "INSERT OR REPLACE INTO handed (mid, device, moved, runs) VALUES (?1, ?2, ?3, ?4)"
DROP_HANDED = "DELETE FROM handed WHERE mid = ?1 AND device = ?2"
HANDED = "SELECT runs FROM handed WHERE mid = ?1 AND device = ?2"

_runs = json.Decoder(list[Handed])


class SqliteAccounts:
    """The accounts of a SqliteStore, which says how to read and write."""

    _read: Callable[..., Deferred[Any]]
    _write: Callable[..., Deferred[Any]]

    def add_account(self, name: str, key: str, secret: str) -> Deferred[Account]:
        return self._write(_add_account, name, key, secret)

    def account(self, key: str) -> Deferred[Account | None]:
        return self._read(_account, ACCOUNT, key)

    def account_of(self, id: int) -> Deferred[Account | None]:
        return self._read(_account, ACCOUNT_OF, possible(id))

    def change_secret(self, id: int, secret: str) -> Deferred[None]:
        return self._write(_do, CHANGE_SECRET, possible(id), secret)

    def add_friend(self, id: int, friend: int, most: int) -> Deferred[int]:
        return self._write(_add_friend, pair_of(id, friend), most)

    def friends(self, id: int) -> Deferred[list[int]]:
        return self._read(_friends, possible(id))

    def put_handed(self, mid: str, device: str, handed: Sequence[Handed]) -> Deferred[None]:
        if not handed:
            return self._write(_do, DROP_HANDED, mid, device)
        return self._write(_do, PUT_HANDED, mid, device, time.time_ns() // 1000, json.encode(handed))

    def handed(self, mid: str, device: str) -> Deferred[list[Handed]]:
        return self._read(_handed, mid, device)


# What runs in a thread


def _do(cursor: Any, statement: str, *args: object) -> None:
    cursor.execute(statement, args)


def _add_account(cursor: Any, name: str, key: str, secret: str) -> Account:
    row = cursor.execute(ADD_ACCOUNT, (name, key, secret)).fetchone()
    if row is None:
        raise taken(name)
    return Account(row[0], name, secret)


def _account(cursor: Any, statement: str, value: object) -> Account | None:
    row = cursor.execute(statement, (value,)).fetchone()
    return row and Account(*row)


def _add_friend(cursor: Any, pair: tuple[int, int], most: int) -> int:
    found = cursor.execute(LINK, pair).fetchone()
    if found:
        return int(found[0])
    for id in pair:
        (count,) = cursor.execute(COUNT_FRIENDS, (id,)).fetchone()
        if count >= most:
            raise too_many_friends(id, most)
    return int(cursor.execute(ADD_LINK, pair).lastrowid)


def _friends(cursor: Any, id: int) -> list[int]:
    found = cursor.execute(FRIENDS, (id,)).fetchall()
    return [friend for _, friend in sorted(found, key=itemgetter(0))]


def _handed(cursor: Any, mid: str, device: str) -> list[Handed]:
    row = cursor.execute(HANDED, (mid, device)).fetchone()
    return _runs.decode(row[0]) if row else []
