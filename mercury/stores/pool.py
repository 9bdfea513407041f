"""Threads that talk to a database through twisted.enterprise.adbapi, with what adbapi leaves to its user.

A Pool turns every failure into a MercuryError and logs each reason once in an outage, bounds the calls that wait,
refuses calls after close() (adbapi would never answer them), and lets what runs finish before it closes the
connections.
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

P = ParamSpec("P")
T = TypeVar("T")

Mend = Callable[[Any, Exception, int], bool]

log = Logger()

RETRY_AFTER: Final = 1.0  # seconds
REASONS: Final = 10  # for which calls fail, that are logged until one does not
WAITING: Final = 10_000  # calls: about what 2,000 clients ask for that all come back at once


class Pool:
    """Runs calls in a ConnectionPool's threads. `name` is the database for the log; `begin` starts a transaction.

    Without `begin` each statement is a transaction of its own. `engine_error`: what the driver raises. `mend` is given
    the connection, such an error from before the commit, and how many tries there were; if it returns True the call is
    tried again. `seconds`: when that has passed a call fails; if it still waits for a thread it is not made at all.
    `use`: what the calls are for; they wait until a thread is free and has a connection.
    """

    def __init__(
        self,
        name: str,
        connections: ConnectionPool,
        engine_error: type[Exception] | tuple[type[Exception], ...],
        begin: str | None = None,
        mend: Mend | None = None,
        seconds: float | None = None,
        use: str = "all",
    ):
        self.load = Load(use)
        self._name = name
        self._connections = connections
        self._engine_error = engine_error
        self._begin = begin
        self._mend = mend
        self._seconds = seconds
        self._told: set[str] = set()  # why calls failed, as the log was told since one did not
        self._closed: Deferred[None] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether no call is taken any more."""
        return self._closed is not None

    def run(self, work: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call work(cursor, ...) in a thread; commit when it returns, roll back when it raises.

        Fails with what `work` raised if that is a MercuryError; with unavailable if the engine failed; with internal,
        and a traceback in the log, otherwise. Cancelling the Deferred gives up the answer, not the work.
        """
        return self._run(work, *args, **kwargs).addErrback(self._count)

    def soon(self, work: Callable[[], None]) -> None:
        """Call `work` two turns later: in the first the reactor reads what has come meanwhile."""
        clock = self._connections._reactor
        clock.callLater(0, clock.callLater, 0, work)

    def _count(self, failure: Failure) -> Failure:
        self.load.unavailable += getattr(failure.value, "code", "") == "unavailable"
        return failure

    def _run(self, work: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        if self._closed is not None:
            return fail(MercuryError("unavailable", "the store is closed", RETRY_AFTER))
        if self.load.running >= WAITING:
            reason = f"{WAITING} calls wait for the store already"
            return fail(MercuryError("unavailable", reason, RETRY_AFTER, limit="store-calls"))

        asked, began = monotonic(), 0.0

        def once(connection: Connection) -> T:
            with closing(connection.cursor()) as cursor:
                if self._begin:
                    cursor.execute(self._begin)
                return work(cursor, *args, **kwargs)

        def transact(connection: Connection) -> T:
            nonlocal began
            began = monotonic()
            if self._seconds is not None and monotonic() > asked + self._seconds:
                raise self._too_late()
            tries = 0
            while True:
                try:
                    return once(connection)
                except self._engine_error as error:
                    tries += 1
                    if not (self._mend and self._mend(connection, error, tries)):
                        raise

        def done(result: Any) -> Any:
            self.load.waits.observe((began or monotonic()) - asked)
            return in_context(log_context, self._done, result)

        log_context = LOG_CONTEXT.get()
        self.load.running += 1
        answer: Deferred[T] = Deferred()
        self._connections.runWithConnection(transact).addBoth(done).chainDeferred(answer)
        if self._seconds is not None:
            answer.addTimeout(self._seconds, self._connections._reactor, lambda *_: Failure(self._too_late()))
        return answer

    def _too_late(self) -> MercuryError:
        return MercuryError("unavailable", f"the store did not answer within {self._seconds:g} s", RETRY_AFTER)

    def close(self) -> Deferred[None]:
        """Let what runs finish, then close the connections. Fires when that is done, however often it is called."""
        done: Deferred[None] = Deferred()
        if self._closed is None:
            self._closed = Deferred()
            if not self.load.running:
                self._end(self._closed)
        self._closed.addCallback(lambda _: done.callback(None))
        return done

    def _done(self, result: Any) -> Any:
        self.load.running -= 1
        if self._closed is not None and not self.load.running:
            self._end(self._closed)
        if isinstance(result, Failure):
            return self._translate(result)
        if self._told:
            self._told.clear()
            log.info("{name} works again", name=self._name)
        return result

    def _end(self, closed: Deferred[None]) -> None:
        self._connections.close()
        closed.callback(None)

    def _translate(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, MercuryError):
            return failure
        if not isinstance(error, self._engine_error):
            log.failure("a fault in a call of {name}", failure, name=self._name)
            return Failure(MercuryError("internal", "a fault in the store; it is in the log"))
        why = str(error)
        if why not in self._told and len(self._told) < REASONS:
            self._told.add(why)
            log.error("{name} fails, and its calls with it: {error}", name=self._name, error=why)
        return Failure(MercuryError("unavailable", f"the store does not work now: {error}", RETRY_AFTER))
