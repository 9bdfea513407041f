"""What the tests of all stores have in common: how a store is made, and short ways to say what is done to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, cast

import pytest
import pytest_twisted
from hypothesis import example, given, settings
from hypothesis.strategies import SearchStrategy
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import provider

from mercury.domain.model import Draft, Entry, Membership, Outcome, Slice
from mercury.errors import MercuryError

T = TypeVar("T")

#: Makes a new, empty store that is not open yet, given how many rooms a member may be in (0: any number).
Make = Callable[[int], Any]

NOW = 1_700_000_000_000_000
#: Names that some database or other takes for one another, or cuts, or does not take at all.
TRICKY = [
    "Ann", "ann", "ANN", "ann ", " ann", "ann\u00a0", "a\u0301", "\u00e1", "\u00df", "ss", "SS", "\u0131", "i", "I",
    "\u0130", "007", "7", "7.0", "-", "null", "true", "a'b", 'a"b', "a\\b", "%", "_", "[1]", "{}", "字", "\u200b",
    "\ufeff", "\uffff", "\U00010000", "\U0001f600", "\U0001f601", "\U0001f468\u200d\U0001f469", "é" * 95, "x" * 190,
    "x" * 189 + "y",
]  # fmt: skip


def joined(rid: str, *members: str) -> Draft:
    return Draft(rid, "joined", members=members)


def left(rid: str, *members: str) -> Draft:
    return Draft(rid, "left", members=members)


def message(rid: str, mid: str, text: str = "hello", cid: str | None = None) -> Draft:
    return Draft(rid, "message", mid=mid, text=text, cid=cid)


def entry_of(answer: Outcome | MercuryError) -> Entry:
    assert isinstance(answer, Outcome), answer
    assert answer.entry is not None
    return answer.entry


def code_of(answer: Outcome | MercuryError) -> str:
    assert isinstance(answer, MercuryError), answer
    return answer.code


async def put(store: Any, *drafts: Draft, ctime: int = NOW) -> list[Any]:
    answers: list[Any] = await store.append(drafts, ctime)
    return answers


async def log_of(store: Any, rid: str) -> list[Entry]:
    found: Slice = await store.read(rid, 0, 100_000)
    return found.entries


async def membership_of(store: Any, mid: str, rid: str, device: str = "phone") -> Membership:
    places: list[Membership] = await store.memberships(mid, device)
    return {place.rid: place for place in places}[rid]


async def some_time() -> None:
    """Let the clock move on, so that what happens after this happens later."""
    await deferLater(reactor, 0.002)


@asynccontextmanager
async def opened(make: Make, rooms_per_member: int = 0) -> AsyncIterator[Any]:
    """A new store, open within the block, and closed after it whatever happens."""
    store = make(rooms_per_member)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def for_all(strategy: SearchStrategy[T], check: Callable[[T], Coroutine[Any, Any, None]], *also: T) -> None:
    """Let hypothesis find an example for which `check` fails; those of `also` are tried first.

    @given would not do: pytest-twisted wraps such a test anew for each class that inherits it, and the second fails.
    So hypothesis runs in a thread, and each check in the reactor's.
    """

    def one(value: T) -> None:
        def run() -> Any:
            return Deferred.fromCoroutine(check(value))

        blockingCallFromThread(cast(Any, reactor), run)

    test = settings(max_examples=60, database=None)(given(strategy)(one))
    for value in also:
        test = example(value)(test)
    await deferToThread(test)


@contextmanager
def logged() -> Iterator[list[LogEvent]]:
    """What Mercury logs at level info or above within the block, and all errors of others."""
    events: list[LogEvent] = []

    @provider(ILogObserver)
    def note(event: LogEvent) -> None:
        least = LogLevel.info if event["log_namespace"].startswith("mercury") else LogLevel.error
        if event["log_level"] >= least:
            events.append(event)

    globalLogPublisher.addObserver(note)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(note)


async def unavailable_unless_open(store: Any, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
    """Before open() and after close() each of these calls fails with unavailable and says when to try again."""
    for _ in range(2):
        for name, args in calls:
            with pytest.raises(MercuryError) as caught:
                await getattr(store, name)(*args).addTimeout(30, reactor)  # seconds; else it might never end
            assert caught.value.code == "unavailable"
            assert caught.value.retry_after is not None
        await store.open()
        await store.close()


class OpenStore:
    """Gives tests a `store` that is new, empty and open. A subclass gives `make`."""

    @pytest_twisted.async_yield_fixture
    async def store(self, make: Make) -> AsyncIterator[Any]:
        async with opened(make) as store:
            yield store
