"""Databases that tell what a store does with them: which statements come, how much they read, and how they are done."""

from __future__ import annotations

import re
import socket
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Protocol
from unittest.mock import patch

import pymysql

from mercury.stores.mysql import sql as mysql_sql
from mercury.stores.sqlite import room_log
from mercury.stores.sqlite import sql as sqlite_sql


@dataclass
class Call:
    """What came of one call: an example of each statement, by the name that mercury/stores/*/sql.py has for it, and
    how much they read in all. For Redis: its commands, and how many they were."""

    statements: dict[str, str]
    read: int


class Database(Protocol):
    """What tells. `counted` says what Call.read counts."""

    counted: str

    def version(self) -> str:
        """Which program it is."""

    def begin(self) -> None:
        """Forget what came before."""

    def end(self) -> Call:
        """What came since begin()."""

    def plan(self, statement: str) -> list[str]:
        """How a statement is done, a line a step; none where there is nothing to tell."""

    def complaints(self, statement: str) -> list[str]:
        """The steps of it that cost more as tables grow: those that go through all of a table or index, or sort."""


class MariaDb:
    """A server, seen by a connection of its own that may do everything. Nobody else may use the server meanwhile."""

    counted = "Counted are the rows read: of tables, of indexes, and of what a statement gets as JSON."

    def __init__(self, connection: pymysql.Connection[Any], database: str) -> None:
        self._connection = connection
        self._database = database
        self._before = self._rows_read()
        self._own = self._rows_read() - self._before  # looking reads some, too

    @classmethod
    @contextmanager
    def at(cls, port: int, database: str) -> Iterator[MariaDb]:
        """A server on this machine. Its general log is on within the block."""
        with closing(pymysql.connect(host="127.0.0.1", port=port, user="root", autocommit=True)) as connection:
            server = cls(connection, database)
            server._query("SET GLOBAL log_output = 'TABLE'")
            server._query("SET GLOBAL general_log = ON")
            try:
                yield server
            finally:
                server._query("SET GLOBAL general_log = OFF")
                server._query("SET GLOBAL log_output = DEFAULT")

    def _query(self, statement: str) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def version(self) -> str:
        ((version,),) = self._query("SELECT VERSION()")
        return str(version)

    def _rows_read(self) -> int:
        return sum(int(count) for _, count in self._query("SHOW GLOBAL STATUS LIKE 'Handler_read%'"))

    def begin(self) -> None:
        self._query("TRUNCATE mysql.general_log")
        self._before = self._rows_read()

    def end(self) -> Call:
        read = self._rows_read() - self._before - self._own
        found = self._query(
            "SELECT argument FROM mysql.general_log WHERE command_type = 'Query' AND thread_id <> CONNECTION_ID()"
        )
        firsts = (text.partition(";")[0] for (text,) in found)  # each comes with the others that were sent with it
        return Call(by_name(firsts, "%s", mysql_sql), read)

    def _explain(self, statement: str) -> Iterator[tuple[str, str, str, str, str, str]]:
        """Table, access, key, what it is compared with, rows, and more, of each step but the INSERT itself."""
        self._connection.select_db(self._database)
        for _, kind, table, access, _, key, _, ref, rows, extra in self._query(f"EXPLAIN {statement}"):
            if kind != "INSERT":
                yield table or "", access or "", key or "", ref or "", str(rows or ""), extra or ""

    def plan(self, statement: str) -> list[str]:
        return [
            f"{table}: {' '.join(filter(None, (access, key, ref and f'({ref})')))}, about {rows}; {extra}".rstrip("; ")
            for table, access, key, ref, rows, extra in self._explain(statement)
        ]

    def complaints(self, statement: str) -> list[str]:
        found = []
        for table, access, key, ref, rows, extra in self._explain(statement):
            is_table = table not in ("", "asked") and not table.startswith("<")
            scans = is_table and (access in ("ALL", "index") or not key)
            if scans or "filesort" in extra or "temporary" in extra:
                found.append(" ".join((table, access, key, ref, rows, extra)))
        return found


class Sqlite:
    """A file, seen by the connections that are made within telling()."""

    counted = "Counted are steps of SQLite's virtual machine, a few for each row."

    def __init__(self, path: str) -> None:
        self._path = path
        self._statements: list[str] = []
        self._steps = 0

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Connections made within the block tell what they do."""
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect

        def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection = connect(*args, **kwargs)
            connection.set_trace_callback(self._statements.append)
            connection.set_progress_handler(self._step, 1)
            return connection

        with patch.object(sqlite3, "connect", connected):
            yield

    def _step(self) -> None:
        self._steps += 1

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def begin(self) -> None:
        self._statements.clear()
        self._steps = 0

    def end(self) -> Call:
        return Call(by_name(self._statements, r"\?\d|%s", sqlite_sql, room_log), self._steps)

    def plan(self, statement: str) -> list[str]:
        with closing(sqlite3.Connection(self._path)) as connection:
            return [str(detail) for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]

    def complaints(self, statement: str) -> list[str]:
        steps = [step.split() for step in self.plan(statement)]
        made = {step[1] for step in steps if step[0] in ("CO-ROUTINE", "MATERIALIZE")}
        return [" ".join(step) for step in steps if _scans(step, made) or "B-TREE" in step]


def _scans(step: Sequence[str], made: set[str]) -> bool:
    """Whether a step of SQLite's goes through a table or index, not through what was given or has just been made."""
    if step[0] != "SCAN" or step[1] == "sqlite_sequence":  # which has one row
        return False
    return "VIRTUAL" not in step and "CONSTANT" not in step and step[1] not in made


class Redis:
    """A server. Nobody else may use it meanwhile."""

    counted = "Counted are commands, most of them made by the script."

    def __init__(self, port: int) -> None:
        self._port = port

    def _ask(self, command: bytes) -> str:
        """The reply to a command, which is one line or a bulk string."""
        with socket.create_connection(("127.0.0.1", self._port), 10) as peer, peer.makefile("rb") as reply:
            peer.sendall(command + b"\r\n")
            first = reply.readline().decode()
            return reply.read(int(first[1:])).decode() if first.startswith("$") else first

    def version(self) -> str:
        found = re.search(r"redis_version:(\S+)", self._ask(b"INFO server"))
        return f"Redis {found[1] if found else ''}"

    def begin(self) -> None:
        self._ask(b"CONFIG RESETSTAT")

    def end(self) -> Call:
        found = re.findall(r"^cmdstat_(\S+):calls=(\d+)", self._ask(b"INFO commandstats"), re.MULTILINE)
        counts = {name.upper(): int(calls) for name, calls in sorted(found) if not name.startswith(("config", "info"))}
        return Call({f"{count} {name}": "" for name, count in counts.items()}, sum(counts.values()))

    def plan(self, statement: str) -> list[str]:
        return []

    def complaints(self, statement: str) -> list[str]:
        return []


STATEMENT: Final = re.compile(r"\s*(SELECT|WITH|INSERT|REPLACE|UPDATE|DELETE)\b")


def by_name(texts: Iterable[str], value: str, *modules: ModuleType) -> dict[str, str]:
    """One example of each statement by its name in the modules, where `value` matches a place for a value; one that is
    not from there is its own name."""
    patterns = _patterns({name: made for module in modules for name, made in vars(module).items()}, value)
    found: dict[str, str] = {}
    for text in texts:
        if STATEMENT.match(text):
            name = next((name for name, pattern in patterns if pattern.fullmatch(text.strip())), text)
            found.setdefault(name, text)
    return found


def _patterns(constants: Mapping[str, Any], value: str) -> list[tuple[str, re.Pattern[str]]]:
    """Names and patterns of the statements among constants, the longest first: some begin as others do."""
    named = [
        (name, template.strip())
        for name, constant in constants.items()
        for template in (constant if isinstance(constant, list) else [constant])
        if name.isupper() and isinstance(template, str) and STATEMENT.match(template)
    ]
    patterns = []
    for name, template in named:
        pattern = ".*".join(map(re.escape, re.split(value, template)))
        if template.endswith(")") and template.startswith("INSERT INTO") and "VALUES" not in template:  # for insert()
            pattern += r" VALUES .*" + re.escape(constants.get(f"{name}_OF", ""))
        patterns.append((name, pattern))
    return [(name, re.compile(pattern, re.DOTALL)) for name, pattern in sorted(patterns, key=lambda p: -len(p[1]))]
