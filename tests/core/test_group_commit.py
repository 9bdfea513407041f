"""When a batch is written, and in which order the items of several are settled, in halves and all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
from twisted.internet.defer import Deferred, succeed

from mercury.core.delivery.hub import Hub
from mercury.core.group_commit import HALVED, GroupCommit
from mercury.core.journal import Journal
from mercury.core.page_size import PAGE_BYTES
from mercury.domain.model import Draft
from mercury.errors import MercuryError
from mercury.interfaces import IStore
from mercury.settings.limits import Limits
from tests.support.turn_clock import Turns


class Desk:
    """GroupCommit on a store that answers when it is told to; `told` has what was begun (+) and settled (a number)."""

    def __init__(self, *, apart: bool, most: int = 100) -> None:
        self.clock = Turns()
        self.told: list[str | int] = []
        self.writing: list[tuple[Sequence[int], Deferred[list[int | MercuryError]]]] = []
        self.at_once = False
        self.batches: GroupCommit[int, int] = GroupCommit(
            self.clock, self.write, most=most, waiting=100, apart=lambda items: apart
        )

    def write(self, items: Sequence[int]) -> Deferred[list[int | MercuryError]]:
        self.told.append(f"+{len(items)}")
        if self.at_once:
            return succeed(list(items))
        answer: Deferred[list[int | MercuryError]] = Deferred()
        self.writing.append((items, answer))
        return answer

    def add(self, *items: int) -> None:
        for item in items:
            self.batches.add(item, lambda answer: self.told.append(answer if isinstance(answer, int) else answer.code))

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.clock.turn()

    def answer(self, error: MercuryError | None = None) -> None:
        items, answer = self.writing.pop(0)
        if error is None:
            answer.callback(list(items))
        else:
            answer.errback(error)


def test_what_waits_is_written_while_the_last_batch_is_settled() -> None:
    desk = Desk(apart=True)
    desk.add(1, 2, 3)
    desk.turns(1)
    desk.add(4)
    desk.answer()
    assert desk.told == ["+3", "+1", 1, 2, 3]
    desk.add(5)
    desk.answer()
    assert desk.told[5:] == ["+1", 4]
    desk.answer()
    assert desk.told[7:] == [5]
    desk.turns(2)
    assert desk.batches.idle().called


@pytest.mark.parametrize("apart", [False, True])
def test_else_the_next_batch_is_begun_two_turns_later(*, apart: bool) -> None:
    """Also if items are apart, but little waits yet."""
    desk = Desk(apart=apart)
    desk.add(1, 2, 3, 4)
    desk.turns(1)
    desk.add(5)
    desk.answer()
    assert desk.told == ["+4", 1, 2, 3, 4]
    desk.turns(1)
    desk.add(6)
    assert len(desk.told) == 5
    desk.turns(1)
    assert desk.told[5:] == ["+2"]


def test_what_is_not_apart_waits_until_the_last_batch_is_settled() -> None:
    """However much waits."""
    desk = Desk(apart=False)
    desk.add(1)
    desk.turns(1)
    desk.add(2, 3)
    desk.answer()
    assert desk.told == ["+1", 1]
    desk.turns(2)
    assert desk.told[2:] == ["+2"]


def test_many_that_are_apart_are_written_in_halves() -> None:
    desk = Desk(apart=True)
    desk.add(*range(HALVED + 1))
    desk.turns(1)
    desk.answer()
    assert desk.told == [f"+{HALVED // 2 + 1}", f"+{HALVED // 2}", *range(HALVED // 2 + 1)]
    desk.add(*range(100, 100 + HALVED))  # the other half is all that waits: it is one batch
    desk.answer()
    assert desk.told[-HALVED // 2 - 1 :] == [f"+{HALVED}", *range(HALVED // 2 + 1, HALVED + 1)]


@pytest.mark.parametrize(("apart", "count"), [(True, HALVED - 1), (False, HALVED)])
def test_few_and_what_is_not_apart_are_one_batch(*, apart: bool, count: int) -> None:
    desk = Desk(apart=apart)
    desk.add(*range(count))
    desk.turns(1)
    assert desk.told == [f"+{count}"]


def test_a_store_that_fails_is_not_given_more_before_that_is_told() -> None:
    desk = Desk(apart=True)
    desk.add(1)
    desk.turns(1)
    desk.add(2, 3)
    desk.answer(MercuryError("unavailable", "away"))
    assert desk.told == ["+1", "unavailable"]
    desk.turns(2)
    assert desk.told[2:] == ["+2"]


def test_the_order_is_kept_when_the_next_batch_is_written_at_once() -> None:
    desk = Desk(apart=True, most=2)
    desk.add(1, 2, 3, 4, 5)
    desk.turns(1)
    desk.at_once = True
    desk.answer()
    assert [told for told in desk.told if isinstance(told, int)] == [1, 2, 3, 4, 5]
    desk.turns(2)
    assert desk.batches.idle().called


class Ledger:
    """A store that only notes how many drafts it is given at once."""

    def __init__(self, *, elsewhere: bool, answers: bool = False) -> None:
        self.elsewhere = elsewhere
        self.answers = answers
        self.missing = 0
        self.given: list[int] = []

    def append(self, drafts: Sequence[Draft], ctime: int) -> Deferred[object]:
        self.given.append(len(drafts))
        answer = [MercuryError("forbidden", "not a member")] * (len(drafts) - self.missing)
        return succeed(answer) if self.answers else Deferred()


def test_a_batch_corks_a_page_of_text_and_no_more() -> None:
    """It may be one room's, and waits at each of its members' sockets. What is longer goes by itself."""
    clock, store = Turns(), Ledger(elsewhere=False, answers=True)
    journal = Journal(clock, cast(IStore, store), Hub(clock, cast(IStore, store), Limits()))
    third, whole = "x" * (PAGE_BYTES // 3), "x" * (PAGE_BYTES + 1)
    for text in (third, third, third, third, whole, "x", "x"):
        journal.append(Draft(rid="r", mid="1", text=text))
    for _ in range(4):
        journal.append(Draft(rid="r", kind="joined", members=("m" * 190,) * 1000))
    for _ in range(30):
        clock.turn()
    assert store.given == [3, 1, 1, 3, 1, 1, 1]
    assert journal.depth == journal._bytes == 0


def test_a_store_that_answers_too_little_does_not_silence_the_node() -> None:
    """The outbox is let go, and what comes after that is stored."""
    clock, store = Turns(), Ledger(elsewhere=False, answers=True)
    hub = Hub(clock, cast(IStore, store), Limits())
    journal = Journal(clock, cast(IStore, store), hub)
    store.missing = 1
    for _ in range(2):
        journal.append(Draft(rid="r", mid="1", text="hello")).addErrback(lambda failure: None)
        for _ in range(4):
            clock.turn()
    assert store.given == [1, 1]
    assert not hub.outbox._corks


@pytest.mark.parametrize(
    ("rooms", "elsewhere", "given"), [(HALVED, True, HALVED // 2), (1, True, HALVED), (HALVED, False, HALVED)]
)
def test_messages_of_many_rooms_are_stored_in_halves_by_another_process(
    rooms: int, given: int, *, elsewhere: bool
) -> None:
    """What goes into one room is stored together, so that it goes out together."""
    clock, store = Turns(), Ledger(elsewhere=elsewhere)
    journal = Journal(clock, cast(IStore, store), Hub(clock, cast(IStore, store), Limits()))
    for number in range(HALVED):
        journal.append(Draft(rid=f"room{number % rooms}", mid="1", text="hello"))
    clock.turn()
    assert store.given == [given]
