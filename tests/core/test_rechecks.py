"""Looks at the store find what was missed, and may find what is only about to be told. All on a Clock."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from mercury.core.delivery import catch_up, hub
from mercury.core.delivery.hub import HOLE
from mercury.core.delivery.rechecks import RETRY, Looks
from mercury.domain import commands
from mercury.errors import MercuryError
from tests.contracts.tools import logged
from tests.support.clockwork import Clockwork
from tests.support.membership_steps import deaf, joined, left, places_read, rooms, said, stored


@pytest.fixture
def node() -> Clockwork:
    """Ann is in the room "q", bob in "r"; both speak WAMP, ann's devices hear what they subscribe to."""
    node = Clockwork(wamp="json")
    node.join("q", "ann")
    node.join("r", "bob")
    return node


# Heads


def test_who_comes_in_by_what_a_look_was_quicker_than_hears_of_it(node: Clockwork) -> None:
    """The join is stored, the head of a room that is served here is looked up, and only then is the join told."""
    bob, ann = node.device("bob"), node.device("ann")
    entries = stored(node, joined("ann"), said("welcome"))
    node.chat.hub.warm(["r"])
    node.settle()
    node.chat.hub.deliver(entries)
    node.settle()
    node.post("r", "how are you?")
    assert bob.texts() == ann.texts() == ["welcome", "how are you?"]


def test_who_does_not_hear_a_room_is_out_though_a_look_was_quicker(node: Clockwork) -> None:
    """They read no log, and yet may ask nothing more about the room."""
    node.join("r", "ann")
    bob, ann = node.device("bob"), deaf(node)
    entries = stored(node, left("ann"), said("secret"))
    node.chat.hub.warm(["r"])
    node.settle()
    node.chat.hub.deliver(entries)
    node.settle()
    assert rooms(ann) == {"q"}
    [answer] = ann.do(commands.History(rid="r", ref="h"))
    assert (answer["type"], answer["code"]) == ("error", "forbidden")
    assert bob.texts() == ["secret"]


def test_a_leave_that_is_older_than_their_joining_puts_nobody_out(node: Clockwork) -> None:
    """Left and joined again before the login, which both are told after."""
    node.join("r", "ann")
    node.device("bob")
    entries = stored(node, left("ann"), joined("ann"))
    ann = deaf(node)
    node.chat.hub.deliver(entries[:1])
    assert rooms(ann) == {"q", "r"}
    node.chat.hub.deliver(entries[1:])
    assert rooms(ann) == {"q", "r"}


def test_a_leave_told_late_while_somebody_logs_in_holds(node: Clockwork) -> None:
    """What their places said was true when it was read."""
    node.join("r", "ann")
    node.device("bob")
    with places_read(node) as answer:
        entries = stored(node, left("ann"))
        node.chat.hub.warm(["r"])
        ann = deaf(node)
    node.chat.hub.deliver(entries)
    answer()
    node.settle()
    assert rooms(ann) == {"q"}


def test_what_waits_for_others_is_not_forgotten_when_the_room_gets_cold(node: Clockwork) -> None:
    """There is a hole before the join, and a doubt whose look takes longer than a hole is left open."""
    bob, ann = node.device("bob"), node.device("ann")
    _, told = stored(node, said("missed"), joined("ann"))
    node.chat.hub.deliver([told])
    node.store.shut = {"heads"}
    node.chat.hub.look_again(["r"], ())
    node.wait(2 * HOLE)
    node.store.open_gate()
    node.settle()
    assert bob.texts() == ["missed"]
    assert rooms(ann) == {"q", "r"}


def test_what_is_too_much_to_wait_is_read_at_once(node: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "EARLY", 1)
    bob, ann = node.device("bob"), node.device("ann")
    _, *told = stored(node, said("missed"), said("one"), joined("ann"), said("two"))
    node.chat.hub.deliver(told)
    node.settle()
    assert bob.texts() == ["missed", "one", "two"]
    assert ann.texts() == ["two"]


# Places


def test_who_does_not_hear_a_room_and_lost_it_is_out_after_a_doubt(node: Clockwork) -> None:
    """The leave was never told here."""
    node.join("r", "ann")
    ann = deaf(node)
    stored(node, left("ann"))
    node.chat.hub.look_again(None)
    node.settle()
    assert rooms(ann) == {"q"}


@pytest.mark.parametrize("subscribed", [True, False])
def test_what_is_told_while_places_are_read_is_newer(node: Clockwork, subscribed: bool) -> None:
    """Who left meanwhile is not put in again, who came in is not put out, and nothing is told twice."""
    node.join("s", "ann")
    ann = node.device("ann") if subscribed else deaf(node)
    with places_read(node) as answer:
        node.chat.hub.look_again((), ("ann",))
        node.settle()
    node.join("r", "ann")
    node.now(node.chat.rooms.leave("s", ["ann"]))
    before = len(ann.heard)
    answer()
    node.settle()
    assert rooms(ann) == {"q", "r"}
    assert ann.heard[before:] == []


# How it is looked


def test_a_log_is_read_again_after_a_fault(node: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ours; it is logged."""
    bob = node.device("bob")
    read = node.store.store.read
    faults = [RuntimeError("a fault, on purpose")]
    monkeypatch.setattr(node.store.store, "read", lambda *args: fail(faults.pop()) if faults else read(*args))
    stored(node, said("one"))
    with logged() as events:
        node.chat.hub.warm(["r"])
        node.wait(2 * catch_up.FAULT)
    assert bob.texts() == ["one"]
    assert [event["log_failure"].value.args for event in events] == [("a fault, on purpose",)]


def test_what_is_asked_for_twice_is_looked_at_once_and_some_at_a_time() -> None:
    clock = Clock()
    looked: list[list[str]] = []

    async def look(names: Sequence[str]) -> None:
        looked.append(sorted(names))

    looks = Looks(clock, look, 2)
    looks.at(["a", "b"])
    looks.at(["b", "c"])
    assert looked == [], "others may ask in the same turn"
    clock.advance(0)
    assert sorted(map(len, looked)) == [1, 2]
    assert sorted(name for names in looked for name in names) == ["a", "b", "c"]


def test_what_is_asked_for_during_a_look_at_it_is_looked_at_again() -> None:
    clock = Clock()
    looked: list[Sequence[str]] = []
    answer: Deferred[None] = Deferred()

    async def look(names: Sequence[str]) -> None:
        looked.append(names)
        if len(looked) == 1:
            await answer

    looks = Looks(clock, look, 2)
    looks.at(["a"])
    clock.advance(0)
    looks.at(["a"])
    clock.advance(0)
    assert looked == [["a"]]
    answer.callback(None)
    assert looked == [["a"], ["a"]]


@pytest.mark.parametrize(
    "error", [MercuryError("unavailable", "the store is away"), RuntimeError("a fault, on purpose")]
)
def test_a_look_that_failed_is_made_again(error: Exception) -> None:
    """A fault of ours is logged too."""
    clock, errors = Clock(), [error]
    looked: list[str] = []

    async def look(names: Sequence[str]) -> None:
        if errors:
            raise errors.pop()
        looked.extend(names)

    looks = Looks(clock, look, 9)
    with logged() as events:
        looks.at(["a"])
        clock.advance(0)
    assert len(events) == isinstance(error, RuntimeError)
    clock.advance(RETRY / 2)
    assert looked == []
    clock.advance(RETRY / 2)
    assert looked == ["a"]


def test_a_store_that_is_away_is_asked_once_a_second_however_much_waits() -> None:
    clock = Clock()
    asked: list[float] = []

    async def look(names: Sequence[str]) -> None:
        asked.append(clock.seconds())
        raise MercuryError("unavailable", "the store is away")

    looks = Looks(clock, look, 9)
    for _ in range(500):
        looks.at(["a"])
        clock.advance(0.01)
    assert [round(at) for at in asked] == [0, 1, 2, 3, 4]
