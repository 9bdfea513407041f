"""The SQLite database's tables, how they came to be what they are, and how a connection to them is set up.

Names compare byte for byte (SQLite's BINARY collation); times are microseconds since 1970 in UTC.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import suppress
from typing import Any, Final

from twisted.enterprise.adbapi import ConnectionPool

from mercury.errors import MercuryError

OLDEST: Final = (3, 35, 0)  # the first with RETURNING
BUSY_TIMEOUT: Final = 5.0  # seconds that a call waits for another process that has locked the file
BESIDE_NODE_TIMEOUT: Final = 60.0  # the same, for a process that writes beside a busy node

#: MIGRATIONS[n] takes the schema from version n (PRAGMA user_version) to n + 1, in one transaction. Only ever append.
MIGRATIONS: list[tuple[str, ...]] = [
    (
        "CREATE TABLE store (epoch TEXT NOT NULL)",
        "INSERT INTO store VALUES (lower(hex(randomblob(8))))",
        # A deleted room keeps its row, for the head, so there is always one with the highest key that was ever given.
        """CREATE TABLE room (
            key INTEGER PRIMARY KEY,
            rid TEXT NOT NULL UNIQUE,
            head INTEGER NOT NULL,
            floor INTEGER NOT NULL,
            messages INTEGER NOT NULL,  -- how many were ever stored since it came into being
            ctime INTEGER NOT NULL,
            deleted INTEGER NOT NULL
        )""",
        # AUTOINCREMENT: an id is not used again when its room is deleted.
        """CREATE TABLE entry (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            room INTEGER NOT NULL,
            seq INTEGER NOT NULL,
            nth INTEGER NOT NULL,  -- how many messages the room had up to and with this entry: unread is a difference
            kind TEXT NOT NULL DEFAULT 'message',
            ctime INTEGER NOT NULL,
            mid TEXT NOT NULL,
            text TEXT NOT NULL,
            cid TEXT,
            members TEXT NOT NULL DEFAULT '[]'  -- a JSON array
        )""",
        "CREATE UNIQUE INDEX entry_seq ON entry (room, seq)",
        "CREATE UNIQUE INDEX entry_cid ON entry (room, mid, cid) WHERE cid IS NOT NULL",
        "CREATE TABLE member (mid TEXT PRIMARY KEY) WITHOUT ROWID",
        """CREATE TABLE membership (
            room INTEGER NOT NULL,
            mid TEXT NOT NULL,
            joined INTEGER NOT NULL,
            read INTEGER NOT NULL,
            read_nth INTEGER NOT NULL,  -- the nth of the entry `read`
            PRIMARY KEY (room, mid)
        ) WITHOUT ROWID""",
        "CREATE INDEX membership_mid ON membership (mid)",
        """CREATE TABLE cursor (
            mid TEXT NOT NULL,
            device TEXT NOT NULL,
            room INTEGER NOT NULL,
            seq INTEGER NOT NULL,
            moved INTEGER NOT NULL,  -- when
            PRIMARY KEY (mid, device, room)
        ) WITHOUT ROWID""",
        "CREATE INDEX cursor_room ON cursor (room, mid)",
        "CREATE TABLE token (digest BLOB PRIMARY KEY, mid TEXT NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID",
        "CREATE INDEX token_mid ON token (mid, expires)",
        "CREATE INDEX token_expires ON token (expires)",
    ),
    # The keys that deleted rooms had: their entries are dropped bit by bit. What is left of the room has a new key.
    ("CREATE TABLE grave (room INTEGER PRIMARY KEY)",),
    (
        # AUTOINCREMENT: ids are never given twice.
        """CREATE TABLE account (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL,
            key TEXT NOT NULL UNIQUE,  -- what the name is compared by
            secret TEXT NOT NULL  -- the password's hash
        )""",
        # One row for two friends, whoever asked.
        """CREATE TABLE friendship (
            nr INTEGER PRIMARY KEY AUTOINCREMENT,
            lower INTEGER NOT NULL,
            higher INTEGER NOT NULL,
            UNIQUE (lower, higher)
        )""",
        "CREATE INDEX friendship_higher ON friendship (higher)",
        # What was handed over to a device without proof that it arrived.
        """CREATE TABLE handed (
            mid TEXT NOT NULL,
            device TEXT NOT NULL,
            moved INTEGER NOT NULL,  -- when it last changed
            runs BLOB NOT NULL,  -- JSON of a list of mercury.model.Handed
            PRIMARY KEY (mid, device)
        ) WITHOUT ROWID""",
    ),
    (
        # See room_log.py. The entries are copied, for `prev` to come before the text: what comes after a long text
        # is far from the row's beginning.
        "ALTER TABLE entry RENAME TO entry_before",
        "UPDATE sqlite_sequence SET name = 'entry' WHERE name = 'entry_before'",
        """CREATE TABLE entry (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            room INTEGER NOT NULL,
            seq INTEGER NOT NULL,
            prev INTEGER NOT NULL,  -- the id of the entry before it in its room, 0 for the first
            nth INTEGER NOT NULL,  -- how many messages the room had up to and with this entry: unread is a difference
            kind TEXT NOT NULL DEFAULT 'message',
            ctime INTEGER NOT NULL,
            mid TEXT NOT NULL,
            text TEXT NOT NULL,
            cid TEXT,
            members TEXT NOT NULL DEFAULT '[]'  -- a JSON array
        )""",
        """INSERT INTO entry (id, room, seq, prev, nth, kind, ctime, mid, text, cid, members)
            SELECT id, room, seq,
                coalesce((SELECT id FROM entry_before WHERE room = e.room AND seq = e.seq - 1), 0),
                nth, kind, ctime, mid, text, cid, members
            FROM entry_before AS e ORDER BY id""",
        "ALTER TABLE room ADD COLUMN last INTEGER NOT NULL DEFAULT 0",  # the id of its last entry, 0 if it has none
        "UPDATE room SET last = coalesce((SELECT id FROM entry_before WHERE room = key AND seq = head), 0)",
        "ALTER TABLE grave ADD COLUMN last INTEGER NOT NULL DEFAULT 0",
        """UPDATE grave SET last = coalesce(
            (SELECT id FROM entry_before WHERE room = grave.room ORDER BY seq DESC LIMIT 1), 0)""",
        "DROP TABLE entry_before",
        "CREATE UNIQUE INDEX entry_seq ON entry (room, seq) WHERE seq % 64 = 0",
        "CREATE UNIQUE INDEX entry_cid ON entry (room, mid, cid) WHERE cid IS NOT NULL",
    ),
]


def make_file(path: str) -> None:
    """Make the database file and its folder if need be, for this user's eyes only. MercuryError names what is wrong."""
    if sqlite3.sqlite_version_info < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise MercuryError("unavailable", f"SQLite {sqlite3.sqlite_version} is too old; {oldest} or later is needed")
    try:
        with suppress(FileExistsError):  # a file, and no folder: that is said better by opening
            os.makedirs(os.path.dirname(os.path.abspath(path)), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MercuryError("unavailable", f"the database file {path} cannot be opened: {reason}") from None


def claim(path: str) -> int:
    """Take the database file for this process, until the descriptor returned is closed or the process ends.

    Not by a lock on the file itself: SQLite's own locks would go when this descriptor is closed. The file beside it
    stays when it is of no more use: who removed it could be taking it away from somebody who just opened it.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if not isinstance(error, BlockingIOError):
            raise
        raise MercuryError(
            "unavailable",
            "another Mercury uses it; stop that one, or use another file. "
            "For several nodes, use MySQL or Redis as the store",
        ) from None
    return lock


def connections(path: str, threads: int, *, read_only: bool, beside_node: bool = False) -> ConnectionPool:
    """A pool of `threads` connections, which begin no transactions by themselves. With `read_only`, SQLite refuses to
    write. `beside_node`: a node writes to the file at the same time, so calls wait longer for their turn."""

    timeout = BESIDE_NODE_TIMEOUT if beside_node else BUSY_TIMEOUT

    def set_up(connection: sqlite3.Connection) -> None:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise sqlite3.OperationalError(
                    f"its journal mode is {mode}, but WAL is required; is it on a local disk?"
                )
            connection.execute("PRAGMA synchronous = FULL")  # NORMAL would say "committed" before it is on the disk
            connection.execute("PRAGMA secure_delete = ON")  # zeros where something stood that was deleted, or in clear
            connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages of 4 KiB; fewer write hot pages more often
            connection.execute("PRAGMA cache_size = -16384")  # KiB
            connection.execute(f"PRAGMA query_only = {int(read_only)}")
        except sqlite3.Error:
            connection.close()  # the pool forgets a connection that could not be set up
            raise

    return ConnectionPool(
        "sqlite3", path, timeout=timeout, isolation_level=None, check_same_thread=False,
        cp_min=threads, cp_max=threads, cp_openfun=set_up,
    )  # fmt: skip


def check_version(cursor: Any) -> None:
    """MercuryError if the schema is not the newest one."""
    if _version(cursor) < len(MIGRATIONS):
        raise MercuryError("unavailable", "it was written by an older Mercury: start a node of this version first")


def migrate(cursor: Any) -> bool:
    """Take the schema one version further, within the caller's transaction. False if it is the newest already."""
    version = _version(cursor)
    if version == len(MIGRATIONS):
        return False
    for statement in MIGRATIONS[version]:
        cursor.execute(statement)
    cursor.execute(f"PRAGMA user_version = {version + 1}")
    return True


def _version(cursor: Any) -> int:
    version: int
    (version,) = cursor.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise MercuryError(
            "unavailable",
            f"it was written by a newer Mercury (schema {version}; this one knows {len(MIGRATIONS)}): "
            "run that version, or restore an older file",
        )
    return version
