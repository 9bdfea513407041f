"""Mercury broken on purpose, to see that the checker finds it: python tests/promises/broken.py FAULT TWISTD-ARGUMENTS

Each fault is one that a chat server can have and run well with, until something dies. Mercury itself has no switches
for this; its methods are replaced here, in a process of its own.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred
from twisted.scripts.twistd import run

from mercury.backends import sqlite, sqlite_append
from mercury.backends.sqlite import SqliteStore
from mercury.core.hub import Hub
from mercury.core.live import LiveRoom
from mercury.core.session import Session
from mercury.model import Draft, Entry

LATE = 0.3  # seconds


def put(owner: Any, name: str, broken: Any) -> None:
    """Replace what is there."""
    assert hasattr(owner, name) or owner in (adbapi.Transaction, adbapi.Connection)  # those two pass on what they lack
    setattr(owner, name, broken)


def ack_before_commit() -> None:
    """Messages are answered and delivered, and committed a moment later."""
    from twisted.internet import reactor

    append, late, pending = sqlite_append.append, set[int](), set[int]()

    def begin_once(transaction: Any, statement: str, *args: Any) -> Any:
        if statement == "BEGIN IMMEDIATE" and transaction._connection._connection.in_transaction:
            return None
        return transaction._cursor.execute(statement, *args)

    def append_and_note(cursor: Any, drafts: Sequence[Draft], *args: Any) -> Any:
        if all(draft.kind == "message" for draft in drafts):
            late.add(id(cursor._connection._connection))
        return append(cursor, drafts, *args)

    def commit_later(connection: Any) -> None:
        raw = connection._connection
        if id(raw) not in late:
            raw.commit()
        elif id(raw) not in pending:
            pending.add(id(raw))
            reactor.callFromThread(reactor.callLater, LATE, really, connection._pool)  # type: ignore[attr-defined]

    def really(pool: Any) -> None:
        pool.runWithConnection(at_last)

    def at_last(connection: Any) -> None:
        late.clear()
        pending.clear()
        connection._connection.commit()

    put(adbapi.Transaction, "execute", begin_once)
    put(adbapi.Connection, "commit", commit_later)
    put(sqlite, "append", append_and_note)


def no_dedup() -> None:
    """The store does not look at cids."""
    append = SqliteStore.append

    def without_cids(store: SqliteStore, drafts: Sequence[Draft], ctime: int) -> Deferred[Any]:
        return append(store, [replace(draft, cid=None) for draft in drafts], ctime)

    put(SqliteStore, "append", without_cids)


def lost_notification() -> None:
    """Now and then a room's listeners are not told, and the gap is not noticed."""
    tell, count = Hub._tell, itertools.count(1)

    def tell_most(hub: Hub, rid: str, entries: Sequence[Entry]) -> None:
        room = hub.rooms.get(rid)
        if entries and room is not None and not room.cold and next(count) % 40 == 0:
            room.head = max(room.head, entries[-1].seq)
        else:
            tell(hub, rid, entries)

    put(Hub, "_tell", tell_most)


def cursor_when_queued() -> None:
    """The delivered cursor moves when entries are written, not when their arrival is proved."""
    write = Session.write

    def write_and_trust(session: Session, data: bytes) -> None:
        write(session, data)
        for room in list(session.rooms):
            session.delivered(room, room.next_seq(session) - 1)

    put(Session, "write", write_and_trust)


def log_before_subscribing() -> None:
    """Whoever connects reads the log up to the head that was there, and hears what comes from then on: not between."""
    place = LiveRoom.place

    def place_at_once(room: LiveRoom, session: Any, next_seq: int) -> bool:
        if next_seq <= room.head and not room.cold and room.head - next_seq < 5:
            next_seq = room.head + 1
        return place(room, session, next_seq)

    put(LiveRoom, "place", place_at_once)


FAULTS = (ack_before_commit, no_dedup, lost_notification, cursor_when_queued, log_before_subscribing)

if __name__ == "__main__":
    fault = sys.argv.pop(1)
    next(f for f in FAULTS if f.__name__ == fault)()
    sys.argv[0] = "twistd"
    run()
