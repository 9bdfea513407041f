"""When a batch is written, and in which order the items of several are settled, with and without being ahead."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from turns import Turns
from twisted.internet.defer import Deferred, succeed

from mercury.core.batches import Batches
from mercury.errors import MercuryError


class Desk:
    """Batches on a store that answers when it is told to; `told` has what was begun (+) and settled (a number)."""

    def __init__(self, *, ahead: bool, most: int = 100) -> None:
        self.clock = Turns()
        self.told: list[str | int] = []
        self.writing: list[tuple[Sequence[int], Deferred[list[int | MercuryError]]]] = []
        self.at_once = False
        self.batches: Batches[int, int] = Batches(self.clock, self.write, most=most, waiting=100, ahead=ahead)

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
    desk = Desk(ahead=True)
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


@pytest.mark.parametrize("ahead", [False, True])
def test_else_the_next_batch_is_begun_two_turns_later(*, ahead: bool) -> None:
    """Also if it may be ahead, but little waits yet."""
    desk = Desk(ahead=ahead)
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


def test_a_store_in_this_process_is_given_nothing_meanwhile() -> None:
    """However much waits."""
    desk = Desk(ahead=False)
    desk.add(1)
    desk.turns(1)
    desk.add(2, 3)
    desk.answer()
    assert desk.told == ["+1", 1]
    desk.turns(2)
    assert desk.told[2:] == ["+2"]


def test_a_store_that_fails_is_not_given_more_before_that_is_told() -> None:
    desk = Desk(ahead=True)
    desk.add(1)
    desk.turns(1)
    desk.add(2, 3)
    desk.answer(MercuryError("unavailable", "away"))
    assert desk.told == ["+1", "unavailable"]
    desk.turns(2)
    assert desk.told[2:] == ["+2"]


def test_the_order_is_kept_when_the_next_batch_is_written_at_once() -> None:
    desk = Desk(ahead=True, most=2)
    desk.add(1, 2, 3, 4, 5)
    desk.turns(1)
    desk.at_once = True
    desk.answer()
    assert [told for told in desk.told if isinstance(told, int)] == [1, 2, 3, 4, 5]
    desk.turns(2)
    assert desk.batches.idle().called
