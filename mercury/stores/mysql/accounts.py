"""IAccounts on MySQL: its SQL, its calls, and what these do in a thread."""

# ruff: noqa: S105 - statements about secrets, which hold none

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import pymysql
from msgspec import json
from pymysql.constants import ER
from twisted.internet.defer import Deferred

from mercury.domain.model import Account, Handed
from mercury.stores.account_rules import pair_of, possible, taken, too_many_friends
from mercury.stores.mysql.sql import rows

ADD_ACCOUNT = "INSERT INTO account (name, compared, secret) VALUES (%s, %s, %s)"
ACCOUNT = "SELECT id, name, secret FROM account WHERE compared = %s"
ACCOUNT_OF = "SELECT id, name, secret FROM account WHERE id = %s"
LOCK_ACCOUNT = "SELECT 1 FROM account WHERE id = %s FOR UPDATE"
CHANGE_SECRET = "UPDATE account SET secret = %s WHERE id = %s"
LINK = "SELECT nr FROM friendship WHERE lower = %s AND higher = %s"
ADD_LINK = "INSERT INTO friendship (lower, higher) VALUES (%s, %s)"
#: In no order, with the number of each link.
FRIENDS = """
SELECT nr, higher FROM friendship WHERE lower = %s UNION ALL SELECT nr, lower FROM friendship WHERE higher = %s
"""
COUNT_FRIENDS = """
SELECT (SELECT COUNT(*) FROM friendship WHERE lower = %s) + (SELECT COUNT(*) FROM friendship WHERE higher = %s)
"""
PUT_HANDED = """
INSERT INTO handed (mid, device, moved, runs) VALUES (%s, %s, %s, %s)
  ON DUPLICATE KEY UPDATE moved = VALUES(moved), runs = VALUES(runs)
"""
DROP_HANDED = "DELETE FROM handed WHERE mid = %s AND device = %s"
HANDED = "SELECT runs FROM handed WHERE mid = %s AND device = %s"

_runs = json.Decoder(list[Handed])


class MysqlAccounts:
    """The accounts of a MysqlStore, which says how to read and write."""

    _read: Callable[..., Deferred[Any]]
    _write: Callable[..., Deferred[Any]]

    def add_account(self, name: str, key: str, secret: str) -> Deferred[Account]:
        return self._write(_add_account, name, key, secret)

    def account(self, key: str) -> Deferred[Account | None]:
        return self._read(_account, ACCOUNT, key)

    def account_of(self, id: int) -> Deferred[Account | None]:
        return self._read(_account, ACCOUNT_OF, possible(id))

    def change_secret(self, id: int, secret: str) -> Deferred[None]:
        return self._write(_do, CHANGE_SECRET, secret, possible(id))

    def add_friend(self, id: int, friend: int, most: int) -> Deferred[int]:
        return self._write(_add_friend, pair_of(id, friend), most)

    def friends(self, id: int) -> Deferred[list[int]]:
        return self._read(rows, FRIENDS, possible(id), possible(id)).addCallback(_oldest_first)

    def put_handed(self, mid: str, device: str, handed: Sequence[Handed]) -> Deferred[None]:
        if not handed:
            return self._write(_do, DROP_HANDED, mid, device)
        return self._write(_do, PUT_HANDED, mid, device, time.time_ns() // 1000, json.encode(handed))

    def handed(self, mid: str, device: str) -> Deferred[list[Handed]]:
        return self._read(rows, HANDED, mid, device).addCallback(_handed)


def _oldest_first(found: Sequence[Any]) -> list[int]:
    return [friend for _, friend in sorted(found, key=itemgetter(0))]


def _handed(found: Sequence[Any]) -> list[Handed]:
    return _runs.decode(found[0][0]) if found else []


# What runs in a thread


def _do(cursor: Any, statement: str, *args: object) -> None:
    cursor.execute(statement, args)


def _add_account(cursor: Any, name: str, key: str, secret: str) -> Account:
    """The key is looked for first, since an INSERT that is refused uses up an id."""
    if _account(cursor, ACCOUNT, key):
        raise taken(name)
    try:
        cursor.execute(ADD_ACCOUNT, (name, key, secret))
    except pymysql.err.IntegrityError as error:
        if error.args[0] != ER.DUP_ENTRY:
            raise
        raise taken(name) from None
    return Account(cursor.lastrowid, name, secret)


def _account(cursor: Any, statement: str, value: object) -> Account | None:
    found = rows(cursor, statement, value)
    return Account(found[0][0], found[0][1].decode(), found[0][2].decode()) if found else None


def _add_friend(cursor: Any, pair: tuple[int, int], most: int) -> int:
    """Both accounts are locked, in the order of their ids, so that nobody links either meanwhile."""
    for id in pair:
        cursor.execute(LOCK_ACCOUNT, (id,))
    found = rows(cursor, LINK, *pair)
    if found:
        return int(found[0][0])
    for id in pair:
        ((count,),) = rows(cursor, COUNT_FRIENDS, id, id)
        if count >= most:
            raise too_many_friends(id, most)
    cursor.execute(ADD_LINK, pair)
    return int(cursor.lastrowid)
