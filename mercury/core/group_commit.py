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

from mercury.domain.counters import SECONDS, SIZES, Histogram
from mercury.domain.log_context import LOG_CONTEXT, LogContext, in_context
from mercury.errors import MercuryError

T = TypeVar("T")
R = TypeVar("R")

_log = Logger()

#: Called once with what became of an item: the writer's answer for it, or the error that refused it.
Done = Callable[[R | MercuryError], None]

#: An item that waits, what to do with its answer, and whom it is for.
Waiting = tuple[T, Done[R], LogContext | None]


def as_error(failure: Failure) -> MercuryError:
    """The MercuryError in a failure; `internal` for anything else, which is a fault of ours."""
    if isinstance(failure.value, MercuryError):
        return failure.value
    return MercuryError("internal", "Mercury failed to do this; its log says why", 1.0)


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
    for _, _, log_context in batch:
        if log_context is not None:
            ids.setdefault(log_context[0], {})[log_context[1]] = None
    return {kind: next(iter(some)) if len(some) == 1 else ",".join(map(str, some)) for kind, some in ids.items()}


class GroupCommit(Generic[T, R]):
    """Items go in by add(), in batches of at most `most` to `write`, and each answer to the item's own `done`.

    `write` answers one result an item, in order, or fails as a whole. At most `waiting` items wait; more are refused
    with `busy`. `fits`: how many of these may be in one batch, one at least. A batch is settled within `around`: each
    `done` is called, then `settled` with the items and their answers. `sizes`, `seconds`: how large the batches were,
    and how long their writing took.
    """

    def __init__(
        self,
        clock: IReactorTime,
        write: Callable[[Sequence[T]], Deferred[list[R | MercuryError]]] | Callable[[Sequence[T]], Deferred[list[R]]],
        *,
        most: int,
        waiting: int,
        fits: Callable[[Sequence[T]], int] = len,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
        settled: Callable[[Sequence[T], Sequence[R | MercuryError]], None] = lambda items, answers: None,
    ) -> None:
        self.sizes = Histogram(SIZES)
        self.seconds = Histogram(SECONDS)
        self._clock = clock
        self._write = write
        self._most = most
        self._room = waiting
        self._fits = fits
        self._around = around
        self._settled = settled
        self._waiting: list[Waiting[T, R]] = []
        self._busy = False
        self._began: float | None = None  # when the current write began
        self._idle: list[Deferred[None]] = []

    def add(self, item: T, done: Done[R]) -> None:
        """Take one item; `done` is called later, never from within. Raises busy when too many wait."""
        if len(self._waiting) >= self._room:
            raise MercuryError("busy", "too many writes are waiting for the store", 1.0, limit="journal")
        self._waiting.append((item, done, LOG_CONTEXT.get()))
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
        items = [item for item, _, _ in self._waiting[: self._most]]
        count = self._fits(items)
        batch = self._waiting[:count]
        del self._waiting[:count]
        self._began = self._clock.seconds()
        writing: Deferred[Any]
        try:
            writing = in_context(batch[0][2] if count == 1 else None, self._write, items[:count])
        except Exception:
            writing = fail()
        writing.addBoth(self._written, batch)
        writing.addErrback(lambda failure: _log.failure("settling a batch failed", failure))

    def _written(self, result: Any, batch: list[Waiting[T, R]]) -> None:
        """Settle a batch. The next one begins two turns later: in the first the reactor reads what has come meanwhile,
        which then goes along."""
        took, self._began = self.write_age(), None
        try:
            self._settle(self._failed(result, batch) if isinstance(result, Failure) else result, batch, took)
        finally:
            self._clock.callLater(0, self._clock.callLater, 0, self._next)

    def _failed(self, failure: Failure, batch: list[Waiting[T, R]]) -> list[R | MercuryError]:
        error = as_error(failure)
        if error.code == "internal":
            _log.failure("writing a batch failed", failure, **_ids_in(batch))
        return [error] * len(batch)

    def _settle(self, answers: Sequence[R | MercuryError], batch: list[Waiting[T, R]], took: float) -> None:
        items = [item for item, _, _ in batch]
        self.sizes.observe(len(items))
        self.seconds.observe(took)
        with self._around():
            try:
                for (_, done, log_context), answer in zip(batch, answers, strict=True):
                    try:
                        done(answer)
                    except Exception:  # one listener that fails must not starve the rest
                        in_context(log_context, _log.failure, "an answer could not be handed over")
            finally:
                self._settled(items, answers)
