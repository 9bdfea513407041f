"""The MySQL database's tables, and how a database comes to have them: made if missing, migrated under a lock.

Names are VARBINARY and texts LONGBLOB, both UTF-8: they compare byte for byte, blanks at the end included, and come
back as they were, on MySQL and MariaDB alike, whose collations for that have different names. Times by the nodes'
clocks are microseconds since 1970 in UTC. DDL commits by itself, so each migration can be repeated from its start if it
was broken off.
"""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import Any, Final

import pymysql
from pymysql.constants import ER
from twisted.logger import Logger

from mercury.errors import MercuryError
from mercury.stores.mysql.server import MysqlServer

_log = Logger()

OLDEST: Final = {"MySQL": (8, 0, 4), "MariaDB": (10, 6)}  # the first with JSON_TABLE
LOCK_SECONDS: Final = 60.0  # how long a node waits for another one that migrates
MIGRATION_SECONDS: Final = 3600.0  # for one statement

STORE: Final = """
CREATE TABLE IF NOT EXISTS store (
    one TINYINT NOT NULL PRIMARY KEY,
    epoch VARBINARY(32) NOT NULL,
    version INT NOT NULL
) ENGINE = InnoDB
"""

#: MIGRATIONS[n] takes the schema from version n (store.version) to n + 1. Only ever append; all of it can be repeated.
MIGRATIONS: list[tuple[str, ...]] = [
    (
        # A deleted room keeps its name and head in a new row, `deleted`; the old row loses its name, and stays until
        # sweep() has emptied what hangs on its number.
        """CREATE TABLE IF NOT EXISTS room (
            nr BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            rid VARBINARY(190),
            head BIGINT NOT NULL,
            floor BIGINT NOT NULL,
            messages BIGINT NOT NULL COMMENT 'how many were ever stored since it came into being',
            ctime BIGINT NOT NULL,
            deleted TINYINT NOT NULL,
            UNIQUE KEY rid (rid)
        ) ENGINE = InnoDB""",
        """CREATE TABLE IF NOT EXISTS entry (
            room BIGINT NOT NULL,
            seq BIGINT NOT NULL,
            id BIGINT NOT NULL AUTO_INCREMENT,
            nth BIGINT NOT NULL COMMENT 'messages in the room up to and with this entry: unread is a difference',
            kind VARBINARY(16) NOT NULL,
            ctime BIGINT NOT NULL,
            mid VARBINARY(190) NOT NULL,
            text LONGBLOB NOT NULL,
            cid VARBINARY(512),
            members LONGBLOB COMMENT 'a JSON array',
            PRIMARY KEY (room, seq),
            UNIQUE KEY id (id),
            UNIQUE KEY cid (room, mid, cid)
        ) ENGINE = InnoDB""",
        "CREATE TABLE IF NOT EXISTS member (mid VARBINARY(190) NOT NULL PRIMARY KEY) ENGINE = InnoDB",
        """CREATE TABLE IF NOT EXISTS membership (
            room BIGINT NOT NULL,
            mid VARBINARY(190) NOT NULL,
            joined BIGINT NOT NULL,
            seen BIGINT NOT NULL COMMENT 'the read mark',
            seen_nth BIGINT NOT NULL COMMENT 'the nth of the entry `seen`',
            PRIMARY KEY (room, mid),
            KEY mid (mid)
        ) ENGINE = InnoDB""",
        """CREATE TABLE IF NOT EXISTS delivered (
            mid VARBINARY(190) NOT NULL,
            device VARBINARY(190) NOT NULL,
            room BIGINT NOT NULL,
            seq BIGINT NOT NULL,
            moved BIGINT NOT NULL COMMENT 'when',
            PRIMARY KEY (mid, device, room),
            KEY room (room, mid)
        ) ENGINE = InnoDB""",
        """CREATE TABLE IF NOT EXISTS token (
            digest VARBINARY(64) NOT NULL PRIMARY KEY,
            mid VARBINARY(190) NOT NULL,
            expires BIGINT NOT NULL,
            KEY mid (mid, expires),
            KEY expires (expires)
        ) ENGINE = InnoDB""",
    ),
    (
        # Who uses this database without a bus (mercury/bus/mysql.py).
        """CREATE TABLE IF NOT EXISTS lease (
            node VARBINARY(64) NOT NULL PRIMARY KEY,
            host VARBINARY(255) NOT NULL,
            process BIGINT NOT NULL COMMENT 'its id on that host',
            expires DATETIME(6) NOT NULL COMMENT 'by the clock of the database, in UTC'
        ) ENGINE = InnoDB""",
    ),
    (
        """CREATE TABLE IF NOT EXISTS account (
            id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            name VARBINARY(760) NOT NULL,
            compared VARBINARY(760) NOT NULL COMMENT 'what the name is compared by',
            secret VARBINARY(1024) NOT NULL COMMENT 'hash of the password',
            UNIQUE KEY compared (compared)
        ) ENGINE = InnoDB""",
        # One row for two friends, whoever asked.
        """CREATE TABLE IF NOT EXISTS friendship (
            nr BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
            lower BIGINT NOT NULL,
            higher BIGINT NOT NULL,
            UNIQUE KEY pair (lower, higher),
            KEY higher (higher)
        ) ENGINE = InnoDB""",
        # What was handed over to a device without proof that it arrived.
        """CREATE TABLE IF NOT EXISTS handed (
            mid VARBINARY(190) NOT NULL,
            device VARBINARY(190) NOT NULL,
            moved BIGINT NOT NULL COMMENT 'when it last changed',
            runs LONGBLOB NOT NULL COMMENT 'JSON of a list of mercury.model.Handed',
            PRIMARY KEY (mid, device)
        ) ENGINE = InnoDB""",
    ),
]


def prepare(server: MysqlServer) -> tuple[str, int]:
    """Make the database and its tables what this Mercury needs; its epoch and the longest statement in bytes.

    Blocks. Any number of nodes may do it at once: one does it, the others wait. Raises MercuryError or pymysql.Error.
    """
    with closing(_connect(server)) as connection, connection.cursor() as cursor:
        packet = _check(cursor)
        lock = f"mercury.{server.database}"[:64]
        cursor.execute("SELECT GET_LOCK(%s, %s)", (lock, LOCK_SECONDS))
        if cursor.fetchone() != (1,):
            raise MercuryError(
                "unavailable", f"another node has been migrating it for more than {LOCK_SECONDS:.0f} s", 10.0
            )
        try:
            return _migrate(cursor), packet
        finally:
            cursor.execute("DO RELEASE_LOCK(%s)", (lock,))


def begin_anew(server: MysqlServer, now: int) -> tuple[str, int]:
    """Draw another epoch, and have ids go on from `now` (microseconds), or from the last one if that is more; the
    epoch, and the first id of an entry. Blocks; can be repeated. Raises MercuryError or pymysql.Error."""
    with closing(_connect(server)) as connection, connection.cursor() as cursor:
        first = now
        for table, number in (("friendship", "nr"), ("account", "id"), ("entry", "id")):
            greatest = f"SELECT GREATEST(%s, COALESCE(MAX({number}), 0) + 1) FROM {table}"  # noqa: S608 - our own names
            cursor.execute(greatest, (now,))
            (first,) = cursor.fetchone()
            cursor.execute(f"ALTER TABLE {table} AUTO_INCREMENT = {first:d}")
        epoch = secrets.token_hex(16)
        cursor.execute("UPDATE store SET epoch = %s", (epoch,))
    return epoch, first


def _connect(server: MysqlServer) -> pymysql.Connection[Any]:
    """A connection for long statements. The database is made only if it is missing: often one may use, but not make."""
    patient = {"read_timeout": MIGRATION_SECONDS}
    try:
        return server.connect(**patient)
    except pymysql.err.OperationalError as error:
        if error.args[0] != ER.BAD_DB_ERROR:
            raise
    name = server.database.replace("`", "``")
    with closing(server.connect(**patient, database=None)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    return server.connect(**patient)


def _check(cursor: Any) -> int:
    """See that the server is one that Mercury knows, and say so in the log if it does not keep what it commits."""
    cursor.execute("SELECT VERSION(), @@innodb_flush_log_at_trx_commit, @@max_allowed_packet")
    version, flush, packet = cursor.fetchone()
    kind = "MariaDB" if "mariadb" in version.lower() else "MySQL"
    numbers = tuple(int(part) for part in version.partition("-")[0].split("."))
    if numbers < OLDEST[kind]:
        oldest = ".".join(map(str, OLDEST[kind]))
        raise MercuryError("unavailable", f"{kind} {version} is too old; {oldest} or later is needed")
    if flush != 1:
        _log.warn(
            "innodb_flush_log_at_trx_commit is {flush}: a crash of {kind} can lose acknowledged messages; set it to 1",
            flush=flush, kind=kind,
        )  # fmt: skip
    return int(packet)


def _migrate(cursor: Any) -> str:
    cursor.execute(STORE)
    cursor.execute("INSERT IGNORE INTO store VALUES (1, %s, 0)", (secrets.token_hex(16),))
    cursor.execute("SELECT epoch, version FROM store")
    epoch, version = cursor.fetchone()
    if version > len(MIGRATIONS):
        raise MercuryError(
            "unavailable",
            f"it was written by a newer Mercury (schema {version}; this one knows {len(MIGRATIONS)}): "
            "run that version, or restore an older copy",
        )
    for done, statements in enumerate(MIGRATIONS[version:], version + 1):
        for statement in statements:
            cursor.execute(statement)
        cursor.execute("UPDATE store SET version = %s", (done,))
    return str(epoch, "ascii")
