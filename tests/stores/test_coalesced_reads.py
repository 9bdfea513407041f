"""Reads that go together: who is in which one, who gets which answer, and what a failure is to whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mercury.domain.counters import Load
from mercury.domain.log_context import LOG_CONTEXT, LogContext, in_context
from mercury.errors import MercuryError
from mercury.stores import coalesced_reads
from mercury.stores.coalesced_reads import ReadCoalescer


class Reads:
    """A ReadCoalescer whose reads are answered by hand, and what those who asked were told. It is its own pool."""

    def __init__(self) -> None:
        self.load = Load("reading")
        self.begun: list[tuple[Sequence[str], Deferred[list[str]]]] = []
        self.told: dict[str, str] = {}
        self.log_context: list[LogContext | None] = []
        self.later: list[Callable[[], None]] = []
        pool: Any = self
        self.coalescer = ReadCoalescer[str, str](pool, lambda cursor, keys: [])

    def run(self, work: object, keys: Sequence[str]) -> Deferred[list[str]]:
        """What Pool has."""
        answer: Deferred[list[str]] = Deferred()
        self.begun.append((keys, answer))
        return answer

    def run_later(self, work: Callable[[], None]) -> None:
        """What Pool has."""
        self.later.append(work)

    def turn(self) -> None:
        """The reactor comes round."""
        later, self.later = self.later, []
        for work in later:
            work()

    def ask(self, *keys: str) -> None:
        """Ask for these, one by one."""
        for key in keys:
            self.coalescer.ask(key).addCallbacks(self._tell, self._fail, (key,), {}, (key,))

    def _tell(self, value: str, key: str) -> None:
        self.told[key] = value
        self.log_context.append(LOG_CONTEXT.get())

    def _fail(self, failure: Failure, key: str) -> None:
        assert isinstance(failure.value, MercuryError)
        self.told[key] = failure.value.code

    def answer(self, nth: int) -> None:
        """Let a read succeed, and the next begin."""
        keys, answer = self.begun[nth]
        answer.callback([key.upper() for key in keys])
        self.turn()

    def fail(self, nth: int, code: str) -> None:
        """Let a read fail, and the next begin."""
        self.begun[nth][1].errback(MercuryError(code, "a test says so"))  # type: ignore[arg-type]
        self.turn()

    @property
    def keys(self) -> list[list[str]]:
        """What was read, a list a read."""
        return [list(keys) for keys, _ in self.begun]


def test_a_lone_read_begins_at_once_and_what_is_asked_meanwhile_goes_together() -> None:
    reads = Reads()
    reads.ask("a")
    assert reads.keys == [["a"]]
    reads.ask("b", "c")
    assert reads.keys == [["a"]]
    assert reads.load.waiting == 2
    reads.answer(0)
    assert reads.keys == [["a"], ["b", "c"]]
    assert reads.load.waiting == 0
    assert reads.told == {"a": "A"}
    reads.answer(1)
    assert reads.told == {"a": "A", "b": "B", "c": "C"}
    reads.ask("d")
    assert reads.keys[2:] == [["d"]]


def test_what_comes_right_after_a_read_goes_together_too() -> None:
    reads = Reads()
    reads.ask("a")
    _, answer = reads.begun[0]
    answer.callback(["A"])
    reads.ask("b", "c")
    assert reads.keys == [["a"]]
    reads.turn()
    assert reads.keys == [["a"], ["b", "c"]]


def test_answers_that_take_long_are_handed_out_some_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesced_reads, "MAX_SECONDS", -1.0)
    reads = Reads()
    reads.ask("a", "b", "c", "d")
    reads.answer(0)
    reads.begun[1][1].callback(["B", "C", "D"])
    assert [*reads.told] == ["a", "b"]
    reads.turn()
    assert [*reads.told] == ["a", "b", "c"]
    reads.turn()
    assert [*reads.told] == ["a", "b", "c", "d"]


def test_a_read_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesced_reads, "MAX_KEYS", 2)
    reads = Reads()
    reads.ask("a", "b", "c", "d")
    reads.answer(0)
    reads.answer(1)
    reads.answer(2)
    assert reads.keys == [["a"], ["b", "c"], ["d"]]


def test_so_has_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesced_reads, "MAX_WAITING", 2)
    reads = Reads()
    reads.ask("a", "b", "c", "d")
    assert reads.told == {"d": "unavailable"}


def test_a_store_that_is_away_fails_all_who_asked_and_the_next_are_read_for() -> None:
    reads = Reads()
    reads.ask("a", "b", "c")
    reads.fail(0, "unavailable")
    reads.fail(1, "unavailable")
    assert reads.told == dict.fromkeys("abc", "unavailable")
    reads.ask("d")
    reads.answer(2)
    assert reads.told["d"] == "D"


def test_a_key_that_cannot_be_read_takes_nothing_from_the_others() -> None:
    reads = Reads()
    reads.ask("a", "b", "bad", "c")
    reads.answer(0)
    reads.fail(1, "internal")
    assert reads.keys[2:] == [["b"], ["bad"], ["c"]]
    reads.answer(2)
    reads.fail(3, "internal")
    reads.answer(4)
    assert reads.told == {"a": "A", "b": "B", "bad": "internal", "c": "C"}


def test_who_has_asked_is_served_with_the_answer() -> None:
    """The log says for whom something was done."""
    reads = Reads()
    for number, key in enumerate("abc"):
        in_context(("session", number), reads.ask, key)
    reads.answer(0)
    reads.answer(1)
    assert reads.log_context == [("session", 0), ("session", 1), ("session", 2)]


def test_who_gives_up_takes_nothing_from_the_others() -> None:
    reads = Reads()
    reads.ask("a", "b")
    given_up = reads.coalescer.ask("x")
    reads.ask("c")
    given_up.addErrback(lambda _: None).cancel()
    reads.answer(0)
    reads.answer(1)
    assert reads.told == {"a": "A", "b": "B", "c": "C"}
