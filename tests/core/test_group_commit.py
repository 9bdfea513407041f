"""When a batch is written, and in which order the items of several are settled."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed

from mercury.core.group_commit import GroupCommit
from mercury.core.page_size import PAGE_BYTES
from mercury.domain.model import Draft, Outcome
from mercury.errors import MercuryError
from mercury.node.build import make_chat
from mercury.settings.schema import Config
from mercury.stores.memory.store import MemoryStore
from tests.support.turn_clock import Turns


class Desk:
    """GroupCommit on a store that answers when it is told to; `told` has what was begun (+) and settled (a number)."""

    def __init__(self, *, most: int = 100) -> None:
        self.clock = Turns()
        self.told: list[str | int] = []
        self.writing: list[tuple[Sequence[int], Deferred[list[int | MercuryError]]]] = []
        self.at_once = False
        self.batches: GroupCommit[int, int] = GroupCommit(self.clock, self.write, most=most, waiting=100)

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


def test_the_next_batch_is_begun_two_turns_later() -> None:
    """Then what has come meanwhile goes along."""
    desk = Desk()
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


def test_what_waits_is_written_when_the_last_batch_is_settled() -> None:
    """However much waits."""
    desk = Desk()
    desk.add(1)
    desk.turns(1)
    desk.add(2, 3)
    desk.answer()
    assert desk.told == ["+1", 1]
    desk.turns(2)
    assert desk.told[2:] == ["+2"]


def test_a_store_that_fails_is_not_given_more_before_that_is_told() -> None:
    desk = Desk()
    desk.add(1)
    desk.turns(1)
    desk.add(2, 3)
    desk.answer(MercuryError("unavailable", "away"))
    assert desk.told == ["+1", "unavailable"]
    desk.turns(2)
    assert desk.told[2:] == ["+2"]


def test_the_order_is_kept_when_the_next_batch_is_written_at_once() -> None:
    desk = Desk(most=2)
    desk.add(1, 2, 3, 4, 5)
    desk.turns(1)
    desk.at_once = True
    desk.answer()
    desk.turns(6)
    assert [told for told in desk.told if isinstance(told, int)] == [1, 2, 3, 4, 5]
    assert desk.batches.idle().called


class Ledger(MemoryStore):
    """A store that only notes how many drafts it is given at once. `missing`: how many answers it forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.missing = 0
        self.given: list[int] = []

    def append(self, drafts: Sequence[Draft], ctime: int) -> Deferred[list[Outcome | MercuryError]]:
        self.given.append(len(drafts))
        answers: list[Outcome | MercuryError] = []
        return succeed([*answers, *[MercuryError("forbidden", "not a member")] * (len(drafts) - self.missing)])


def test_a_batch_corks_a_page_of_text_and_no_more() -> None:
    """It may be one room's, and waits at each of its members' sockets. What is longer goes by itself."""
    clock, store = Turns(), Ledger()
    journal = make_chat(clock, store, Config()).journal
    third, whole = "x" * (PAGE_BYTES // 3), "x" * (PAGE_BYTES + 1)
    for text in (third, third, third, third, whole, "x", "x"):
        journal.append(Draft(rid="r", mid="1", text=text))
    for _ in range(4):
        journal.append(Draft(rid="r", kind="joined", members=("m" * 190,) * 1000))
    for _ in range(30):
        clock.turn()
    assert store.given == [3, 1, 1, 3, 1, 1, 1]
    assert journal.depth == journal._batches._size == 0


def test_a_store_that_answers_too_little_does_not_silence_the_node() -> None:
    """The outbox is let go, and what comes after that is stored."""
    clock, store = Turns(), Ledger()
    chat = make_chat(clock, store, Config())
    journal = chat.journal
    store.missing = 1
    for _ in range(2):
        journal.append(Draft(rid="r", mid="1", text="hello")).addErrback(lambda failure: None)
        for _ in range(4):
            clock.turn()
    assert store.given == [1, 1]
    assert not chat.outbox._corks
