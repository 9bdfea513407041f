"""Reads of one kind that wait at the same time go together: one hop into a thread and one statement for all of them.

When everybody comes back at once, each looks up a token, then places, then what was missed. A read of its own for each
costs 0.1 ms of CPU in hops and in handing Python's lock to and fro, many times what SQLite needs; together they save
0.3 ms a connection. A lone read begins at once. What is asked for meanwhile goes into the next one, two turns of the
reactor after its end, in the first of which more comes. So a read never begins before it was asked for, and sees all
that was stored by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from mercury.domain.log_context import LOG_CONTEXT, LogContext, in_context
from mercury.errors import MercuryError
from mercury.stores.pool import RETRY_AFTER, WAITING, Pool

K = TypeVar("K")
V = TypeVar("V")

#: A key, the answer for it, and whom it is for.
Asked = tuple[K, Deferred[V], LogContext | None]

MOST: Final = 64  # keys in one read: nobody waits for a longer one, and more would be hardly cheaper
SHARE: Final = 0.005  # seconds for which answers are handed out before others have their turn


class ReadCoalescer(Generic[K, V]):
    """Reads by key, of one kind: `work(cursor, keys)`, which runs in the pool, answers in the order of the keys.

    A failure is that of all who were in a read, but one that is the fault of a key (`internal`) is its own only.
    """

    def __init__(self, pool: Pool, work: Callable[[Any, Sequence[K]], list[V]]) -> None:
        self._pool = pool
        self._work = work
        self._waiting: list[Asked[K, V]] = []
        self._reading = False

    def ask(self, key: K) -> Deferred[V]:
        """What is stored under the key. Cancelling gives up the answer."""
        if len(self._waiting) >= WAITING:
            reason = f"{WAITING} calls wait for the store already"
            return fail(MercuryError("unavailable", reason, RETRY_AFTER, limit="store-calls"))
        answer: Deferred[V] = Deferred()
        self._waiting.append((key, answer, LOG_CONTEXT.get()))
        self._pool.load.waiting += 1
        if not self._reading:
            self._next()
        return answer

    def _next(self) -> None:
        batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        self._pool.load.waiting -= len(batch)
        self._reading = bool(batch)
        if batch:
            log_context = batch[0][2] if len(batch) == 1 else None
            in_context(log_context, self._read, [key for key, _, _ in batch]).addBoth(self._done, batch)

    def _read(self, keys: Sequence[K]) -> Deferred[list[V]]:
        return self._pool.run(self._work, keys)

    def _done(self, result: Any, batch: list[Asked[K, V]]) -> None:
        self._pool.soon(self._next)
        if not isinstance(result, Failure):
            self._hand_out(zip(batch, result, strict=True))
        elif len(batch) > 1 and getattr(result.value, "code", "") == "internal":
            for key, answer, log_context in batch:
                in_context(log_context, self._read, [key]).addCallback(lambda found: found[0]).chainDeferred(answer)
        else:
            for _, answer, log_context in batch:
                in_context(log_context, answer.errback, Failure(result.value))

    def _hand_out(self, answers: Iterator[tuple[Asked[K, V], V]]) -> None:
        """What is done with an answer may take long, and others want their turn."""
        end = monotonic() + SHARE
        for (_, answer, log_context), value in answers:
            in_context(log_context, answer.callback, value)
            if monotonic() > end:
                self._pool.soon(lambda: self._hand_out(answers))
                return
