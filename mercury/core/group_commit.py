"""Group commit: what comes in while the last write is in flight goes together into the next one.

A lone item is written at the end of the reactor's turn that brought it; under load the batches grow while the disk
works, so durability costs one fsync a batch and not one an item. Order is kept: batches are written one after the
other, and items settle in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

HALVED = 32  # items from which on half of them is a batch
ENOUGH = 3  # a third of the last batch is worth a batch of its own

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


def _whose(batch: Sequence[Waiting[T, R]]) -> dict[str, Any]:
    """The sessions and requests that items are for, for the log."""
    ids: dict[str, dict[int | str, None]] = {}
    for _, _, log_context in batch:
        if log_context is not None:
            ids.setdefault(log_context[0], {})[log_context[1]] = None
    return {kind: next(iter(some)) if len(some) == 1 else ",".join(map(str, some)) for kind, some in ids.items()}


class GroupCommit(Generic[T, R]):
    """Items go in by add(), in batches of at most `most` to `write`, and each answer to the item's own `done`.

    `write` answers one result an item, in order, or fails as a whole. `before` and `after` frame the settling of a
    batch: `after` gets the items and their answers when each `done` has been called. At most `waiting` items wait;
    more are refused with `busy`. `fits`: how many of these may be in one batch, one at least. `apart`: whether items
    are better written in two halves, each while the other one is settled. `sizes`, `seconds`: how large the batches
    were, and how long their writing took.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        write: Callable[[Sequence[T]], Deferred[list[R | MercuryError]]] | Callable[[Sequence[T]], Deferred[list[R]]],
        *,
        most: int,
        waiting: int,
        fits: Callable[[Sequence[T]], int] = len,
        apart: Callable[[Sequence[T]], bool] = lambda items: False,
        before: Callable[[], None] = lambda: None,
        after: Callable[[Sequence[T], Sequence[R | MercuryError]], None] = lambda items, answers: None,
    ) -> None:
        self.sizes = Histogram(SIZES)
        self.seconds = Histogram(SECONDS)
        self._clock = clock
        self._write = write
        self._most = most
        self._room = waiting
        self._fits = fits
        self._apart = apart
        self._before = before
        self._after = after
        self._waiting: list[Waiting[T, R]] = []
        self._busy = False
        self._since: float | None = None  # what is being written is being written
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
        """add() for those who would rather have a Deferred. Cancelling it does not take the item back."""
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

    def lasts(self) -> float:
        """For how long what is being written is being written, in seconds; 0 if nothing is."""
        return 0.0 if self._since is None else self._clock.seconds() - self._since

    def _next(self) -> None:
        if not self._waiting:
            self._busy = False
            idle, self._idle = self._idle, []
            for fired in idle:
                fired.callback(None)
            return
        count = len(self._waiting)
        self._settle_when(*self._begin((count + 1) // 2 if count >= HALVED and self._are_apart() else count))

    def _are_apart(self) -> bool:
        return self._apart([item for item, _, _ in self._waiting[: self._most]])

    def _begin(self, count: int) -> tuple[list[Waiting[T, R]], Deferred[Any]]:
        """Write so many of those that wait, if it may be so many; what that is, and its answers to be."""
        items = [item for item, _, _ in self._waiting[: min(count, self._most)]]
        count = self._fits(items)
        batch, items = self._waiting[:count], items[:count]
        del self._waiting[:count]
        self._since = self._clock.seconds()
        try:
            return batch, in_context(batch[0][2] if len(batch) == 1 else None, self._write, items)
        except Exception:
            return batch, fail()

    def _settle_when(self, batch: list[Waiting[T, R]], writing: Deferred[Any]) -> None:
        writing.addBoth(self._written, batch)
        writing.addErrback(lambda failure: self.log.failure("settling a batch failed", failure))

    def _written(self, result: Any, batch: list[Waiting[T, R]]) -> None:
        """Settle a batch, and go on with the next one.

        Two turns later: in the first the reactor reads what has come meanwhile, which then goes along. If much waits
        already that is `apart`, it is written while this one is settled.
        """
        took, self._since = self.lasts(), None
        following = None
        count = len(self._waiting)
        if not isinstance(result, Failure) and count * ENOUGH >= len(batch) and self._are_apart():
            following = self._begin(count)
        try:
            self._settle(self._failed(result, batch) if isinstance(result, Failure) else result, batch, took)
        finally:
            if following is not None:
                self._settle_when(*following)
            else:
                self._clock.callLater(0, self._clock.callLater, 0, self._next)

    def _failed(self, failure: Failure, batch: list[Waiting[T, R]]) -> list[R | MercuryError]:
        error = as_error(failure)
        if error.code == "internal":
            self.log.failure("writing a batch failed", failure, **_whose(batch))
        return [error] * len(batch)

    def _settle(self, answers: Sequence[R | MercuryError], batch: list[Waiting[T, R]], took: float) -> None:
        items = [item for item, _, _ in batch]
        self.sizes.observe(len(items))
        self.seconds.observe(took)
        self._before()
        try:
            for (_, done, log_context), answer in zip(batch, answers, strict=True):
                try:
                    done(answer)
                except Exception:  # one listener that fails must not starve the rest
                    in_context(log_context, self.log.failure, "an answer could not be handed over")
        finally:
            self._after(items, answers)
