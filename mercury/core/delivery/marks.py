"""Marks: how far delivery is proved (cursors) and how far members have read.

Cursors are gathered and written twice a second at most: losing the last half second to a crash only means that some
messages are delivered again to a client that cannot say what it has. Read marks are promises, so they are committed
before they are answered, in groups (group_commit.py).
"""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.core.group_commit import GroupCommit
from mercury.domain.model import Cursor, ReadMark
from mercury.errors import MercuryError
from mercury.interfaces import IStore

FLUSH = 0.5  # seconds between writes of cursors
CHUNK = 500  # cursors in one transaction, so that it never holds up messages for long
KEPT = 1_000_000  # cursors that may wait while the store is away; more are forgotten, which costs a repeat

Key = tuple[str, str, str]


class Marks:
    """Takes marks from sessions and stores them."""

    log = Logger()

    def __init__(self, clock: IReactorTime, store: IStore) -> None:
        self._clock = clock
        self._store = store
        self._cursors: dict[Key, int] = {}
        self._writing: dict[Key, int] = {}
        self._timer: IDelayedCall | None = None
        self._away = False  # the store, at the last writing
        self._lock = DeferredLock()  # one writing at a time
        self._reads: GroupCommit[ReadMark, int | None] = GroupCommit(clock, store.move_reads, most=CHUNK, waiting=16384)

    def delivered(self, rid: str, mid: str, device: str, seq: int) -> None:
        """Delivery up to seq is proved. Never fails; stored soon."""
        key = (rid, mid, device)
        if seq > self._cursors.get(key, 0) and (key in self._cursors or len(self._cursors) < KEPT):
            self._cursors[key] = seq
        self._soon()

    def pending(self, rid: str, mid: str, device: str) -> int:
        """A proved cursor that may not be in the store yet; 0 if there is none."""
        key = (rid, mid, device)
        return max(self._cursors.get(key, 0), self._writing.get(key, 0))

    def forget(self, rid: str, members: Collection[str]) -> None:
        """Members left a room: what waits must not outlive that."""
        gone = frozenset(members)
        for key in [key for key in self._cursors if key[0] == rid and key[1] in gone]:
            del self._cursors[key]

    def read(self, mark: ReadMark) -> Deferred[int | None]:
        """Move a read mark; fires after the commit with the mark as it stands if this moved it, else with None."""
        return self._reads.put(mark)

    async def stop(self) -> None:
        """Write what waits, once; a store that is away is not waited for. Nothing may be given to it afterwards."""
        await self._reads.idle()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        while self._cursors or self._writing:
            before = len(self._cursors)
            await self._lock.run(Deferred.fromCoroutine, self._write())
            if len(self._cursors) >= before > 0:
                break

    def _flush(self) -> None:
        self._timer = None
        self._lock.run(Deferred.fromCoroutine, self._write()).addBoth(self._written)

    def _written(self, result: object) -> None:
        if isinstance(result, Failure):
            self.log.failure("storing cursors failed", result)
        if self._cursors:
            self._soon()

    def _soon(self) -> None:
        """Write in a while; at once when there is enough for a whole chunk and the store can."""
        if self._timer is None:
            wait = FLUSH if len(self._cursors) < CHUNK or self._away else 0
            self._timer = self._clock.callLater(wait, self._flush)

    async def _write(self) -> None:
        keys = list(self._cursors)[:CHUNK]
        if not keys:
            return
        self._writing = {key: self._cursors.pop(key) for key in keys}
        try:
            await self._store.move_cursors([Cursor(*key, seq) for key, seq in self._writing.items()])
            self._away = False
        except MercuryError as error:
            self._away = True
            self.log.warn("cursors wait for the store: {reason}", reason=error.reason)
            for key, seq in self._writing.items():
                self._cursors[key] = max(seq, self._cursors.get(key, 0))
        finally:
            self._writing = {}
