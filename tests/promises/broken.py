"""Mercury broken on purpose, to see that the checker finds it: python tests/promises/broken.py FAULT TWISTD-ARGUMENTS

Each fault is one that a chat server can have and run well with, until something dies. Mercury itself has no switches
for this; its methods are replaced here, in a process of its own.
"""

from __future__ import annotations

import itertools
import sqlite3
import sys
import time
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.scripts.twistd import run

from mercury.core.delivery.cluster import Cluster
from mercury.core.delivery.hub import Hub
from mercury.core.delivery.listeners import LiveRoom
from mercury.core.session import Session
from mercury.domain.model import Draft, Entry, Slice
from mercury.stores.sqlite.append import SqliteAppender
from mercury.stores.sqlite.store import SqliteStore

reactor: Any = installed

LATE = 0.3  # seconds


def put(owner: Any, name: str, broken: Any) -> None:
    """Replace what is there."""
    assert hasattr(owner, name), f"{name} is gone: this fault has to be made otherwise"
    setattr(owner, name, broken)


class LateCursor(sqlite3.Cursor):
    """Goes on in the transaction that is open."""

    def execute(self, statement: str, *args: Any) -> Any:
        if statement.startswith("BEGIN") and self.connection.in_transaction:
            return self
        return super().execute(statement, *args)


class LateConnection(sqlite3.Connection):
    """Commits what was written some time ago; what was written just now waits for the next commit."""

    since = 0.0
    late = False  # not before the first message

    def cursor(self, factory: Any = LateCursor) -> Any:
        return super().cursor(factory)

    def commit(self) -> None:
        self.since = self.since or time.monotonic()
        if not LateConnection.late or time.monotonic() > self.since + LATE:
            self.since = 0.0
            super().commit()


def ack_before_commit() -> None:
    """Messages are answered and delivered, and committed a moment later."""
    append, connect = SqliteAppender.append, sqlite3.connect

    def append_late(appender: SqliteAppender, cursor: Any, drafts: Sequence[Draft], *args: Any) -> Any:
        LateConnection.late = LateConnection.late or all(draft.kind == "message" for draft in drafts)
        return append(appender, cursor, drafts, *args)

    put(SqliteAppender, "append", append_late)
    put(sqlite3, "connect", lambda *args, **kwargs: connect(*args, factory=LateConnection, **kwargs))


def no_dedup() -> None:
    """The store does not look at cids."""
    append = SqliteStore.append

    def without_cids(store: SqliteStore, drafts: Sequence[Draft], ctime: int) -> Deferred[Any]:
        return append(store, [replace(draft, cid=None) for draft in drafts], ctime)

    put(SqliteStore, "append", without_cids)


def lost_notification() -> None:
    """Now and then what comes over the bus is lost, and the gap is not noticed. For several nodes."""
    come, count = Cluster.entries_received, itertools.count(1)

    def most_come(cluster: Cluster, entries: Sequence[Entry]) -> None:
        room = cluster._hub.rooms.get(entries[0].rid)
        if room is not None and not room.cold and next(count) % 40 == 0:
            room.head = max(room.head, entries[-1].seq)
        else:
            come(cluster, entries)

    put(Cluster, "entries_received", most_come)


def cursor_by_id() -> None:
    """Numbers are given out before the commit: some entries can be seen only after those that follow them, and a cursor
    is the highest number that was seen."""
    deliver = Hub.deliver

    def can_be_seen(entry: Entry) -> bool:
        return entry.seq % 20 > 0 or time.time() > entry.ctime / 1e6 + LATE

    def deliver_visible(hub: Hub, entries: Sequence[Entry]) -> None:
        deliver(hub, [entry for entry in entries if can_be_seen(entry)])
        if late := [entry for entry in entries if not can_be_seen(entry)]:
            reactor.callLater(LATE, deliver_visible, hub, late)

    def without_late(read: Any) -> Any:
        def read_visible(*args: Any) -> Deferred[Any]:
            reading: Deferred[Any] = read(*args)
            return reading.addCallback(only_visible)

        return read_visible

    def only_visible(found: Any) -> Any:
        if isinstance(found, Slice):
            return replace(found, entries=list(filter(can_be_seen, found.entries)))
        return list(filter(can_be_seen, found[0])), found[1]

    put(Hub, "deliver", deliver_visible)
    put(Hub, "_in_turn", lambda hub, room, run: [entry for entry in run if entry.seq > room.head])
    put(SqliteStore, "read", without_late(SqliteStore.read))
    put(SqliteStore, "history", without_late(SqliteStore.history))


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
    place = LiveRoom.attach

    def place_at_once(room: LiveRoom, session: Any, next_seq: int) -> bool:
        if next_seq <= room.head and not room.cold and room.head - next_seq < 5:
            next_seq = room.head + 1
        return place(room, session, next_seq)

    put(LiveRoom, "attach", place_at_once)


FAULTS = (
    ack_before_commit,
    no_dedup,
    lost_notification,
    cursor_by_id,
    cursor_when_queued,
    log_before_subscribing,
)

if __name__ == "__main__":
    fault = sys.argv.pop(1)
    next(f for f in FAULTS if f.__name__ == fault)()
    sys.argv[0] = "twistd"
    run()
