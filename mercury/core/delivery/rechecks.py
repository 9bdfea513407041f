"""Looks at the store for what may have been missed: at the heads of rooms, at the places of members.

What is to be looked at waits in a set, so that asking twice costs one look, and is taken some at a time, so that the
store answers in time however many there are. While the store is away it is asked again.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mercury.errors import MercuryError

RETRY: Final = 1.0  # seconds until the store is asked again


class Look(Protocol):
    """Asks the store about these, and does what follows from the answer. Raises MercuryError if there is none."""

    def __call__(self, names: list[str], /) -> Coroutine[Deferred[Any], Any, None]: ...


class Looks:
    """One look after the other, by `look`, at no more than `most` names at once."""

    log = Logger()

    def __init__(self, clock: IReactorTime, look: Look, most: int) -> None:
        self._clock = clock
        self._look = look
        self._most = most
        self._waiting: set[str] = set()
        self._current: list[str] = []
        self._running = False

    def at(self, names: Iterable[str]) -> None:
        """Look at these soon, also if a look at them goes on now: it may be older than what they are asked for."""
        self._waiting.update(names)
        if self._waiting and not self._running:
            self._running = True
            self._start(0)

    def has(self, name: str) -> bool:
        """Whether a look at it is still to come, or goes on."""
        return name in self._waiting or name in self._current

    async def _run(self) -> None:
        while self._waiting:
            names = self._current = [self._waiting.pop() for _ in range(min(self._most, len(self._waiting)))]
            try:
                await self._look(names)
            except Exception as error:
                if not isinstance(error, MercuryError):
                    self.log.failure("checking the store failed")
                self._waiting.update(names)
                self._start(RETRY)
                return
        self._current = []
        self._running = False

    def _start(self, delay: float) -> None:
        self._clock.callLater(delay, lambda: Deferred.fromCoroutine(self._run()))
