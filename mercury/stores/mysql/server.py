"""How Mercury talks to a MySQL or MariaDB server: its address, its connections, and what happens when one is lost.

All connections use READ COMMITTED. On those that read, and on the one that appends, each statement commits by itself,
except in the transactions that appending begins; on the others the first statement after a COMMIT begins one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import random
from time import sleep
from typing import Any, Final

import pymysql
from pymysql.constants import CLIENT, CR, ER
from twisted.enterprise.adbapi import Connection, ConnectionPool

from mercury.stores.tls import EngineTls

#: Raised when the server fails; any other exception of pymysql is a fault in Mercury.
ENGINE_ERRORS: Final = (pymysql.err.OperationalError, pymysql.err.InterfaceError, pymysql.err.InternalError)

LOCK_WAIT_SECONDS: Final = 2  # for a row that another node, or a person, has locked
IDLE_SECONDS: Final = 3  # after which a transaction of a node that is frozen or cut off holds its locks no longer
PACKED_BYTES: Final = 16 << 20  # of rows that come in one value: 150 for each room of a batch
SET_UP: Final = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}, group_concat_max_len = {PACKED_BYTES}"
    f" /*M!100300 , SESSION idle_transaction_timeout = {IDLE_SECONDS} */",  # MySQL has no such thing
)
TRIES: Final = 3
PAUSE: Final = 0.02  # seconds, times a random number, before a transaction that met another one is tried again

CONFLICTS: Final = {ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT}
#: Errors after which the connection is useless. The last two: the server has become a replica.
LOST: Final = {
    0, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, CR.CR_SERVER_LOST_EXTENDED, ER.SERVER_SHUTDOWN, 1927,
    ER.OPTION_PREVENTS_STATEMENT, 1836,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MysqlServer:
    """Where the database is, and whether TLS is spoken to it. Times: seconds."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    tls: EngineTls | None = None
    connect_seconds: float = 3.0
    read_seconds: float = 5.0
    write_seconds: float = 5.0

    def __str__(self) -> str:
        return f"the database {self.database} on {self.host}:{self.port}"

    @property
    def seconds(self) -> float:
        """How long a call can take at most: to connect, to send, and to wait for the answer."""
        return self.connect_seconds + self.write_seconds + self.read_seconds

    def arguments(self) -> dict[str, Any]:
        """For pymysql.connect(). MercuryError if the certificates cannot be read."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "charset": "utf8mb4",
            "client_flag": CLIENT.MULTI_STATEMENTS,  # pymysql binds by escaping, so this adds nothing to guard
            "autocommit": True,
            "connect_timeout": self.connect_seconds,
            "read_timeout": self.read_seconds,
            "write_timeout": self.write_seconds,
            "sql_mode": "STRICT_ALL_TABLES",
            "program_name": "mercury",
            **({"ssl": self.tls.context()} if self.tls else {"ssl_disabled": True}),  # pymysql never goes on without it
        }

    def connect(self, **changes: Any) -> pymysql.Connection[Any]:
        """A new connection, with some of arguments() changed."""
        with self.clear_words():
            return pymysql.connect(**self.arguments() | changes)

    @contextmanager
    def clear_words(self) -> Iterator[None]:
        """Around what connects: an error of TLS says what is wrong, and which setting has to do with it."""
        try:
            yield
        except pymysql.err.OperationalError as error:
            if self.tls is None:
                raise
            why = self.tls.explained(getattr(error, "original_exception", error), self.host)
            if error.args[0] == CR.CR_SSL_CONNECTION_ERROR:
                why = self.tls.fault("the server does not support it")
            if why is None:
                raise
            raise pymysql.err.OperationalError(error.args[0], why) from None

    def connections(self, threads: int, autocommit: bool = True) -> ConnectionPool:
        """A pool of `threads` connections, made when they are needed. Those that write have no `autocommit`."""

        def set_up(connection: pymysql.Connection[Any]) -> None:
            with connection.cursor() as cursor:
                for statement in SET_UP:
                    cursor.execute(statement)

        arguments = self.arguments() | {"autocommit": autocommit}
        return Connections(self, "pymysql", cp_min=threads, cp_max=threads, cp_openfun=set_up, **arguments)


class Connections(ConnectionPool):
    """adbapi's pool, except that it makes QuietConnections and says clearly what is wrong with TLS."""

    def __init__(self, server: MysqlServer, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.connectionFactory = QuietConnection
        self._server = server

    def connect(self) -> Any:
        with self._server.clear_words():
            return super().connect()  # type: ignore[no-untyped-call]


class QuietConnection(Connection):
    """adbapi's connection, except that losing it does not log a traceback for each call."""

    _connection: Any  # None while there is none

    def commit(self) -> None:
        if not self._connection.get_autocommit():  # a SELECT leaves the driver unaware of its transaction
            self._connection.commit()

    def rollback(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.rollback()
        except pymysql.Error:
            self._pool.disconnect(self._connection)
            self._connection = None

    def reconnect(self) -> None:
        lost, self._connection = self._connection, None  # so that there is none if no other can be made
        if lost is not None:
            self._pool.disconnect(lost)
        self._connection = self._pool.connect()

    @property
    def is_lost(self) -> bool:
        """Whether reconnect() comes before anything else."""
        return self._connection is None


class UncertainCommit(pymysql.err.OperationalError):
    """The connection was lost when a COMMIT may have been sent, so it is not known whether anything was stored."""


@contextmanager
def uncertain() -> Iterator[None]:
    """Around what sends a COMMIT: turns the error of a connection that is lost there into UncertainCommit."""
    try:
        yield
    except ENGINE_ERRORS as error:
        if _code(error) in LOST:
            raise UncertainCommit(*error.args) from error
        raise


def _code(error: Exception) -> int:
    return error.args[0] if error.args else 0


def should_retry(connection: QuietConnection, error: Exception, tries: int) -> bool:
    """Whether to try a failed transaction again: only if it is certain that nothing of it was stored.

    If so, the connection is left without a transaction, or with a new socket; making that may raise.
    """
    code = _code(error)
    if code in CONFLICTS and tries < TRIES:
        connection.rollback()
        sleep(PAUSE * random())  # noqa: S311 - so that two do not meet again
        if connection.is_lost:
            connection.reconnect()
        return True
    if code in LOST and tries == 1 and not isinstance(error, UncertainCommit):
        connection.reconnect()
        return True
    return False
