"""Reads of one kind that wait at the same time go together, in one call of the pool and one statement.

When all clients reconnect at once, each needs its token, then its memberships, then what it missed. One read for each
costs 0.1 ms of CPU to change threads and to hand Python's lock back and forth, many times what SQLite itself needs;
coalesced reads save 0.3 ms per connection. A lone read starts at once. Keys that are asked for meanwhile go into the
next read, which starts two turns of the reactor after the end of this one, so that more can gather. A read never starts
before its keys were asked for, so it sees all that was stored by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Any, Final, Generic, NamedTuple, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from mercury.domain.log_context import LOG_CONTEXT, LogContext, in_context
from mercury.stores.pool import Pool
from mercury.stores.unavailable import MAX_WAITING, overloaded

K = TypeVar("K")
V = TypeVar("V")

MAX_KEYS: Final = 64  # in one read: no key waits for a longer one, and more would hardly be cheaper
MAX_SECONDS: Final = 0.005  # for which answers are handed out before the reactor does something else


class Waiting(NamedTuple, Generic[K, V]):
    """A key that somebody asked for."""

    key: K
    answer: Deferred[V]
    log_context: LogContext | None


class ReadCoalescer(Generic[K, V]):
    """Reads of one kind, by key.

    `work(cursor, keys)` runs in the pool and answers in the order of the keys. If it fails, all keys of that read fail;
    but after an `internal` error each key is read again alone, so that only the key at fault fails.
    """

    def __init__(self, pool: Pool, work: Callable[[Any, Sequence[K]], list[V]]) -> None:
        self._pool = pool
        self._work = work
        self._waiting: list[Waiting[K, V]] = []
        self._reading = False

    def ask(self, key: K) -> Deferred[V]:
        """What is stored under the key. Cancelling the Deferred drops the answer."""
        if len(self._waiting) >= MAX_WAITING:
            return fail(overloaded(MAX_WAITING))
        answer: Deferred[V] = Deferred()
        self._waiting.append(Waiting(key, answer, LOG_CONTEXT.get()))
        self._pool.load.waiting += 1
        if not self._reading:
            self._read_next()
        return answer

    def _read_next(self) -> None:
        batch, self._waiting = self._waiting[:MAX_KEYS], self._waiting[MAX_KEYS:]
        self._pool.load.waiting -= len(batch)
        self._reading = bool(batch)
        if batch:
            log_context = batch[0].log_context if len(batch) == 1 else None
            in_context(log_context, self._read, [one.key for one in batch]).addBoth(self._ended, batch)

    def _read(self, keys: Sequence[K]) -> Deferred[list[V]]:
        return self._pool.run(self._work, keys)

    def _ended(self, result: list[V] | Failure, batch: list[Waiting[K, V]]) -> None:
        self._pool.run_later(self._read_next)
        if not isinstance(result, Failure):
            self._hand_out(zip(batch, result, strict=True))
        elif len(batch) > 1 and getattr(result.value, "code", "") == "internal":
            for key, answer, log_context in batch:
                in_context(log_context, self._read, [key]).addCallback(lambda found: found[0]).chainDeferred(answer)
        else:
            for _, answer, log_context in batch:
                in_context(log_context, answer.errback, Failure(result.value))

    def _hand_out(self, answers: Iterator[tuple[Waiting[K, V], V]]) -> None:
        """Fire the Deferreds, in turns: what their callbacks do may take long."""
        end = monotonic() + MAX_SECONDS
        for (_, answer, log_context), value in answers:
            in_context(log_context, answer.callback, value)
            if monotonic() > end:
                self._pool.run_later(lambda: self._hand_out(answers))
                return
