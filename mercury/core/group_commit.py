"""Group commit: what comes in while the last write is in flight goes together into the next one.

A lone item is written at the end of the reactor's turn that brought it; under load the batches grow while the disk
works, so durability costs one fsync a batch and not one an item. Order is kept: batches are written one after the
other, and items settle in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.core.page_size import fit
from mercury.domain.counters import SECONDS, SIZES, Histogram
from mercury.domain.log_context import LOG_CONTEXT, LogContext, in_context
from mercury.errors import MercuryError

T = TypeVar("T")
R = TypeVar("R")

_log = Logger()

#: Called once with what became of an item: the writer's answer for it, or the error that refused it.
Done = Callable[[R | MercuryError], None]

#: An item that waits, what to do with its answer, the log's context of its caller, and its size.
Waiting = tuple[T, Done[R], LogContext | None, int]


def as_error(failure: Failure) -> MercuryError:
    """The MercuryError in a failure; `internal` for anything else, which is a fault of ours."""
    if isinstance(failure.value, MercuryError):
        return failure.value
    return MercuryError("internal", "an internal error in Mercury; the log has the details", 1.0)


def as_deferred(add: Callable[[Done[R]], None]) -> Deferred[R]:
    """A Deferred for what `add` is given a Done for, or for the MercuryError that it raises."""
    answer: Deferred[R] = Deferred(lambda d: None)

    def done(result: R | MercuryError) -> None:
        if answer.called:  # cancelled
            return
        if isinstance(result, MercuryError):
            answer.errback(Failure(result))
        else:
            answer.callback(result)

    try:
        add(done)
    except MercuryError:
        answer.errback(Failure())
    return answer


def _ids_in(batch: Sequence[Waiting[T, R]]) -> dict[str, Any]:
    """The sessions and requests that items are for, for the log."""
    ids: dict[str, dict[int | str, None]] = {}
    for _, _, log_context, _ in batch:
        if log_context is not None:
            ids.setdefault(log_context[0], {})[log_context[1]] = None
    return {kind: next(iter(some)) if len(some) == 1 else ",".join(map(str, some)) for kind, some in ids.items()}


class GroupCommit(Generic[T, R]):
    """Items go in by add(), in batches of at most `most` to `write`, and each answer to the item's own `done`.

    `write` answers one result an item, in order, or fails as a whole. Items have sizes: a batch is at most `most_size`
    large, unless it is a single item. At most `waiting` items wait, and no more are taken while these are larger than
    `waiting_size`; others are refused with `busy`. A batch is settled within `around`: each `done` is called, then
    `settled` with the items and their answers. `sizes`, `seconds`: how many items went into the batches, and how long
    their writing took.
    """

    def __init__(
        self,
        clock: IReactorTime,
        write: Callable[[Sequence[T]], Deferred[list[R | MercuryError]]] | Callable[[Sequence[T]], Deferred[list[R]]],
        *,
        most: int,
        waiting: int,
        most_size: int = 0,
        waiting_size: int = 0,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
        settled: Callable[[Sequence[T], Sequence[R | MercuryError]], None] = lambda items, answers: None,
    ) -> None:
        self.sizes = Histogram(SIZES)
        self.seconds = Histogram(SECONDS)
        self._clock = clock
        self._write = write
        self._most = most
        self._most_size = most_size
        self._most_waiting = waiting
        self._most_waiting_size = waiting_size
        self._around = around
        self._settled = settled
        self._waiting: list[Waiting[T, R]] = []
        self._size = 0  # of the items that wait or are being written
        self._busy = False
        self._began: float | None = None  # when the current write began
        self._idle: list[Deferred[None]] = []

    def add(self, item: T, done: Done[R], size: int = 0) -> None:
        """Take one item; `done` is called later, never from within. Raises busy when too much waits."""
        if len(self._waiting) >= self._most_waiting:
            raise MercuryError("busy", "too many writes are waiting for the store", 1.0, limit="journal")
        if self._size > self._most_waiting_size:
            raise MercuryError("busy", "too much text is waiting for the store", 1.0, limit="journal")
        self._size += size
        self._waiting.append((item, done, LOG_CONTEXT.get(), size))
        if not self._busy:
            self._busy = True
            self._clock.callLater(0, self._next)

    def put(self, item: T) -> Deferred[R]:
        """add() that returns a Deferred. Cancelling it does not take the item back."""
        return as_deferred(lambda done: self.add(item, done))

    @property
    def depth(self) -> int:
        """How many items wait to be written."""
        return len(self._waiting)

    def idle(self) -> Deferred[None]:
        """Fires when nothing waits or is being written."""
        fired: Deferred[None] = Deferred()
        if self._busy:
            self._idle.append(fired)
        else:
            fired.callback(None)
        return fired

    def write_age(self) -> float:
        """Age of the write in progress, in seconds; 0 when idle."""
        return 0.0 if self._began is None else self._clock.seconds() - self._began

    def _next(self) -> None:
        """Write what waits, as much of it as may be one batch."""
        if not self._waiting:
            self._busy = False
            idle, self._idle = self._idle, []
            for fired in idle:
                fired.callback(None)
            return
        batch = self._waiting[: self._fitting()]
        del self._waiting[: len(batch)]
        self._began = self._clock.seconds()
        writing: Deferred[Any]
        token = LOG_CONTEXT.set(batch[0][2] if len(batch) == 1 else None)
        try:
            writing = self._write([item for item, *_ in batch])
        except Exception:
            writing = fail()
        finally:
            LOG_CONTEXT.reset(token)
        writing.addBoth(self._written, batch)
        writing.addErrback(lambda failure: _log.failure("settling a batch failed", failure))

    def _fitting(self) -> int:
        """How many of those that wait may be the next batch."""
        if self._size <= self._most_size:  # as nearly always
            return self._most
        return fit((size for *_, size in self._waiting[: self._most]), self._most_size)

    def _written(self, result: Any, batch: list[Waiting[T, R]]) -> None:
        """Settle a batch. The next one begins two turns later: in the first the reactor reads what has come meanwhile,
        which then goes along."""
        took, self._began = self.write_age(), None
        try:
            self._settle(self._failed(result, batch) if isinstance(result, Failure) else result, batch)
        finally:
            self._size -= sum([size for *_, size in batch])
            self._clock.callLater(0, self._clock.callLater, 0, self._next)
            self.sizes.observe(len(batch))  # last: clients need not wait for it
            self.seconds.observe(took)

    def _failed(self, failure: Failure, batch: list[Waiting[T, R]]) -> list[R | MercuryError]:
        error = as_error(failure)
        if error.code == "internal":
            _log.failure("writing a batch failed", failure, **_ids_in(batch))
        return [error] * len(batch)

    def _settle(self, answers: Sequence[R | MercuryError], batch: list[Waiting[T, R]]) -> None:
        with self._around():
            try:
                for (_, done, log_context, _), answer in zip(batch, answers, strict=True):
                    try:
                        done(answer)
                    except Exception:  # one listener that fails must not starve the rest
                        in_context(log_context, _log.failure, "delivering an answer failed")
            finally:
                self._settled([item for item, *_ in batch], answers)
