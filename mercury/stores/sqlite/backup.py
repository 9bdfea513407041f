"""A copy of a SQLite store, made while a node uses it: what it holds at one moment, in one file."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from mercury.errors import MercuryError


def back_up(path: str, target: Path) -> int:
    """Copy the database file `path` to `target`, which is there whole, for its owner's eyes only, or not at all; its
    size in bytes. Blocks; a node that uses the database goes on writing. Raises MercuryError.

    Copied in one step: in steps, SQLite begins from the start whenever a node has written.
    """
    if target.exists():
        raise MercuryError("unavailable", f"{target} already exists and was not changed")
    if not os.path.exists(path):
        raise MercuryError("unavailable", f"the database {path} does not exist")
    try:
        handle, name = tempfile.mkstemp(prefix=f"{target.name}.", dir=target.parent)  # of mode 600
        os.close(handle)
    except OSError as error:
        raise MercuryError("unavailable", f"{target} cannot be created: {error.strerror}") from None
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(name)) as copy:
            source.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file; the node that opens it makes it WAL again
            if copy.execute("PRAGMA quick_check").fetchall() != [("ok",)]:
                raise MercuryError(
                    "unavailable", f"the database {path} is damaged: its copy fails SQLite's integrity check"
                )
        _sync(name)
        os.link(name, target)  # unlike a renaming it never replaces what came meanwhile
        _sync(target.parent)
        return target.stat().st_size
    except sqlite3.Error as error:
        raise MercuryError("unavailable", f"the database {path} cannot be copied to {target}: {error}") from None
    except OSError as error:
        raise MercuryError("unavailable", f"{target} cannot be created: {error.strerror}") from None
    finally:
        os.unlink(name)


def _sync(path: str | Path) -> None:
    """See to it that a file, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
