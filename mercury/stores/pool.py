"""A database's threads and connections: twisted.enterprise.adbapi, with what it leaves to its user.

A Pool turns every failure into a MercuryError and logs each reason once per outage. It bounds how many calls may wait,
refuses calls after close() (adbapi would never answer them), and closes the connections only when the calls in progress
have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from time import monotonic
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from twisted.enterprise.adbapi import Connection, ConnectionPool
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.domain.counters import Load
from mercury.domain.log_context import LOG_CONTEXT, in_context
from mercury.errors import MercuryError
from mercury.stores.unavailable import MAX_WAITING, internal, overloaded, unavailable

P = ParamSpec("P")
T = TypeVar("T")

#: Whether to try a transaction again: given its connection, the driver's error, and how often it was tried.
ShouldRetry = Callable[[Any, Exception, int], bool]

_log = Logger()

MAX_REASONS: Final = 10  # different reasons that are logged in one outage


class Pool:
    """Runs calls in the threads of a ConnectionPool, each in a transaction.

    `name`: the database, for the log. `use`: what the calls are for, for the metrics.
    `engine_error`: the exceptions by which the driver says that the engine failed.
    `begin`: the statement that begins a transaction; without one, each statement is a transaction of its own.
    `should_retry`: asked when the engine failed before the commit; True runs the whole call again.
    `timeout`: seconds after which a call fails, the wait for a thread included. A call that still waits for a thread
    then is never made; one that has begun goes on, and its answer is dropped.
    """

    def __init__(
        self,
        name: str,
        connections: ConnectionPool,
        engine_error: type[Exception] | tuple[type[Exception], ...],
        *,
        begin: str | None = None,
        should_retry: ShouldRetry | None = None,
        timeout: float | None = None,
        use: str = "all",
    ):
        self.load = Load(use)
        self._name = name
        self._connections = connections
        self._engine_error = engine_error
        self._begin = begin
        self._should_retry = should_retry
        self._timeout = timeout
        self._reasons: set[str] = set()  # why calls failed, as far as logged since the last one that did not
        self._closed: Deferred[None] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether close() was called: all calls are refused."""
        return self._closed is not None

    def run(self, work: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call work(cursor, ...) in a thread; commit when it returns, roll back when it raises.

        Fails with what `work` raised if that is a MercuryError; with unavailable if the engine failed; else with
        internal, and a traceback in the log. Cancelling the Deferred drops the answer; the work is done all the same.
        """
        if self._closed is not None or self.load.running >= MAX_WAITING:
            self.load.unavailable += 1
            return fail(unavailable("the store is closed") if self._closed else overloaded(MAX_WAITING))
        queued, began, log_context = monotonic(), 0.0, LOG_CONTEXT.get()

        def in_thread(connection: Connection) -> T:
            nonlocal began
            began = monotonic()
            if self._timeout is not None and began > queued + self._timeout:
                raise self._timed_out()
            tries = 0
            while True:
                try:
                    with closing(connection.cursor()) as cursor:
                        if self._begin:
                            cursor.execute(self._begin)
                        return work(cursor, *args, **kwargs)
                except self._engine_error as error:
                    tries += 1
                    if self._should_retry is None or not self._should_retry(connection, error, tries):
                        raise

        def ended(result: T | Failure) -> T | Failure:
            """In the reactor's thread again."""
            self.load.running -= 1
            if self._closed is not None and not self.load.running:
                self._end(self._closed)
            if isinstance(result, Failure):
                return in_context(log_context, self._failed, result)
            if self._reasons:
                in_context(log_context, self._recovered)
            return result

        self.load.running += 1
        answer: Deferred[T] = Deferred()
        running = self._connections.runWithConnection(in_thread).addBoth(ended)
        running.chainDeferred(answer)
        running.addCallback(lambda _: self.load.waits.observe((began or monotonic()) - queued))  # nobody waits for this
        if self._timeout is not None:
            answer.addTimeout(self._timeout, self._connections._reactor, lambda *_: Failure(self._timed_out()))
        return answer.addErrback(self._count)

    def run_later(self, work: Callable[[], None]) -> None:
        """Call `work` in the reactor's thread after its next turn, in which it reads what has come meanwhile."""
        clock = self._connections._reactor
        clock.callLater(0, clock.callLater, 0, work)

    def close(self) -> Deferred[None]:
        """Wait for the calls in progress, then close the connections. May be called more than once."""
        done: Deferred[None] = Deferred()
        if self._closed is None:
            self._closed = Deferred()
            if not self.load.running:
                self._end(self._closed)
        self._closed.addCallback(lambda _: done.callback(None))
        return done

    def _end(self, closed: Deferred[None]) -> None:
        self._connections.close()
        closed.callback(None)

    def _count(self, failure: Failure) -> Failure:
        self.load.unavailable += getattr(failure.value, "code", "") == "unavailable"
        return failure

    def _recovered(self) -> None:
        self._reasons.clear()
        _log.info("{name} works again", name=self._name)

    def _failed(self, failure: Failure) -> Failure:
        """The failure as a MercuryError; the log has the reason."""
        error = failure.value
        if isinstance(error, MercuryError):
            return failure
        if not isinstance(error, self._engine_error):
            _log.failure("an internal error in a call to {name}", failure, name=self._name)
            return Failure(internal())
        reason = str(error)
        if reason not in self._reasons and len(self._reasons) < MAX_REASONS:
            self._reasons.add(reason)
            _log.error("{name} is failing, and calls to it are unavailable: {error}", name=self._name, error=reason)
        return Failure(unavailable(f"the store failed: {error}"))

    def _timed_out(self) -> MercuryError:
        return unavailable(f"the store did not answer within {self._timeout:g} s")
