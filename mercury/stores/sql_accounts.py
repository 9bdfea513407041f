"""IAccounts on a SQL database: its calls, and what they do in a thread. An engine adds only its statements.

The engines' accounts.py hold these, as an AccountStatements. Names may come back as text or as bytes of UTF-8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from msgspec import json
from twisted.internet.defer import Deferred

from mercury.domain.model import Account, Handed
from mercury.stores.account_rules import pair_of, possible, taken, too_many_friends

_handed = json.Decoder(list[Handed])


@dataclass(frozen=True, kw_only=True)
class AccountStatements:
    """What an engine is asked, with what is bound in parentheses. All transactions that write run one of these calls.

    `add`: (name, key, secret); it adds no row if there is an account with the key. `by_key`: (key), `by_id`: (id); each
    finds (id, name, secret). `change_secret`: (secret, id). `lock`: (id); empty where a transaction that writes has the
    database for itself.
    `link`: (lower id, higher id) finds a friendship's number, and `add_link` makes one. `friends`: (id, id) finds
    (number, friend) in any order, `count_friends`: (id, id) how many they are.
    `put_handed`: (mid, device, time, list of Handed as JSON). `drop_handed`, `handed`: (mid, device).
    """

    add: str
    by_key: str
    by_id: str
    change_secret: str
    lock: str
    link: str
    add_link: str
    friends: str
    count_friends: str
    put_handed: str
    drop_handed: str
    handed: str


class SqlAccounts:
    """The accounts of a store, which says how to read and how to write: `_read(work, ...)` calls work(cursor, ...)."""

    account_statements: AccountStatements

    _read: Callable[..., Deferred[Any]]
    _write: Callable[..., Deferred[Any]]

    def add_account(self, name: str, key: str, secret: str) -> Deferred[Account]:
        return self._write(_add_account, self.account_statements, name, key, secret)

    def account(self, key: str) -> Deferred[Account | None]:
        return self._read(_account, self.account_statements.by_key, key)

    def account_of(self, id: int) -> Deferred[Account | None]:
        return self._read(_account, self.account_statements.by_id, possible(id))

    def change_secret(self, id: int, secret: str) -> Deferred[None]:
        return self._write(_execute, self.account_statements.change_secret, secret, possible(id))

    def add_friend(self, id: int, friend: int, most: int) -> Deferred[int]:
        return self._write(_add_friend, self.account_statements, pair_of(id, friend), most)

    def friends(self, id: int) -> Deferred[list[int]]:
        return self._read(_friends, self.account_statements.friends, possible(id))

    def put_handed(self, mid: str, device: str, handed: Sequence[Handed]) -> Deferred[None]:
        if not handed:
            return self._write(_execute, self.account_statements.drop_handed, mid, device)
        now = time.time_ns() // 1000
        return self._write(_execute, self.account_statements.put_handed, mid, device, now, json.encode(handed))

    def handed(self, mid: str, device: str) -> Deferred[list[Handed]]:
        return self._read(_find_handed, self.account_statements.handed, mid, device)


# What runs in a thread


def _execute(cursor: Any, statement: str, *args: object) -> None:
    cursor.execute(statement, args)


def _row(cursor: Any, statement: str, *args: object) -> Any:
    cursor.execute(statement, args)
    return cursor.fetchone()


def _add_account(cursor: Any, statements: AccountStatements, name: str, key: str, secret: str) -> Account:
    """The key is looked for first, since an INSERT that adds nothing may use up an id."""
    if _row(cursor, statements.by_key, key):
        raise taken(name)
    cursor.execute(statements.add, (name, key, secret))
    if not cursor.rowcount:
        raise taken(name)
    return Account(cursor.lastrowid, name, secret)


def _account(cursor: Any, statement: str, value: object) -> Account | None:
    row = _row(cursor, statement, value)
    return Account(row[0], _text(row[1]), _text(row[2])) if row else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _add_friend(cursor: Any, statements: AccountStatements, pair: tuple[int, int], most: int) -> int:
    """Both accounts are locked, in the order of their ids, so that neither gets another friend meanwhile."""
    if statements.lock:
        for id in pair:
            cursor.execute(statements.lock, (id,))
    found = _row(cursor, statements.link, *pair)
    if found:
        return int(found[0])
    for id in pair:
        (count,) = _row(cursor, statements.count_friends, id, id)
        if count >= most:
            raise too_many_friends(id, most)
    cursor.execute(statements.add_link, pair)
    return int(cursor.lastrowid)


def _friends(cursor: Any, statement: str, id: int) -> list[int]:
    cursor.execute(statement, (id, id))
    return [friend for _, friend in sorted(cursor.fetchall(), key=itemgetter(0))]


def _find_handed(cursor: Any, statement: str, mid: str, device: str) -> list[Handed]:
    row = _row(cursor, statement, mid, device)
    return _handed.decode(row[0]) if row else []
