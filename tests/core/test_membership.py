"""Who is in a room, as this node knows it: decided by what is told in its turn, or by the store, whatever comes late,
twice or not at all. All on a Clock; tests/core/test_walks.py goes where nobody thought of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from mercury.core.delivery import catch_up, hub
from mercury.core.delivery.cluster import LOOK
from mercury.core.delivery.hub import HOLE
from mercury.domain import commands, signals
from mercury.errors import MercuryError
from mercury.gotalk.long_poll import LongPoll
from tests.support.clockwork import Clockwork, Device
from tests.support.membership_steps import TwoNodes, deaf, joined, left, rooms, said, stored


@pytest.fixture
def node() -> Clockwork:
    """Ann and Bob are in "r"."""
    node = Clockwork()
    node.join("r", "ann", "bob")
    return node


def seqs(device: Device) -> list[int]:
    return [event["seq"] for event in device.heard if event["type"] in ("message", "joined", "left")]


Places = Callable[[str, str], Any]


@pytest.fixture
def asked(node: Clockwork, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Deferred[Any]]:
    """From when it is called, the first reading of ann's places is answered by what it returns."""
    answer: Deferred[Any] = Deferred()
    answers = iter([answer])
    read: Places = node.store.store.memberships

    def memberships(mid: str, device: str) -> Any:
        return (next(answers, None) if mid == "ann" else None) or read(mid, device)

    def begin() -> Deferred[Any]:
        monkeypatch.setattr(node.store.store, "memberships", memberships)
        return answer

    return begin


# A leave that is read in the log


def test_the_store_goes_away_between_a_leave_and_the_question_who_is_in(
    node: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may be taken to be beyond their leave before that is known."""
    ann, bob = node.device("ann"), node.device("bob")
    stored(node, said("one"), left("ann"))
    read: Places = node.store.store.memberships
    away = [MercuryError("unavailable", "the store is away", 1.0)]
    monkeypatch.setattr(
        node.store.store, "memberships", lambda mid, device: fail(away.pop()) if away else read(mid, device)
    )
    node.chat.hub.warm(["r"])
    node.wait(2 * catch_up.RETRY)
    node.post("r", "secret")
    assert ann.texts() == ["one"]
    assert bob.texts() == ["one", "secret"]
    assert rooms(ann) == set()


def test_a_look_while_it_is_asked_who_is_in_makes_nobody_live(
    node: Clockwork, asked: Callable[[], Deferred[Any]]
) -> None:
    ann = node.device("ann")
    stored(node, left("ann"))
    answer = asked()
    for _ in range(2):  # as every second while the bus is down
        node.chat.hub.warm(["r"])
        node.settle()
    node.post("r", "secret")
    assert ann.texts() == []
    answer.callback([])
    node.settle()
    assert rooms(ann) == set()


@pytest.mark.parametrize("told", ["the join", "the leave and the join"])
def test_who_comes_back_while_it_is_asked_stays(node: Clockwork, asked: Callable[[], Deferred[Any]], told: str) -> None:
    ann = node.device("ann")
    entries = stored(node, left("ann"))
    answer = asked()
    node.chat.hub.warm(["r"])
    node.settle()
    if told == "the leave and the join":
        node.chat.hub.deliver(entries)
    node.join("r", "ann")
    answer.callback([])
    node.settle()
    node.post("r", "welcome back")
    assert rooms(ann) == {"r"}
    assert ann.texts() == ["welcome back"]
    assert seqs(ann) == sorted(set(seqs(ann)))


# What comes late, or twice


@pytest.mark.parametrize("how", ["the entry", "that they came"])
@pytest.mark.parametrize("hears", [True, False])
def test_a_join_that_is_told_again_after_the_leave_lets_nobody_in(how: str, hears: bool) -> None:
    node = TwoNodes().there
    node.device("bob")
    ann = node.device("ann") if hears else deaf(node)
    join, leave = stored(node, joined("ann"), left("ann"))
    node.chat.hub.deliver([join])
    node.chat.hub.deliver([leave])
    before = len(ann.heard)
    if how == "the entry":
        node.chat.hub.deliver([join])
    else:
        node.chat.cluster.signal_received("node 0", signals.Came("r", join.seq, join.members))
    node.settle()
    assert rooms(ann) == {"q"}
    assert ann.heard[before:] == []


@pytest.mark.parametrize("how", ["the entry", "that they came"])
def test_a_join_that_is_told_again_after_nobody_is_left_lets_nobody_in(how: str) -> None:
    """The room is not served there any more."""
    two = TwoNodes()
    ann = two.there.device("ann")
    two.here.join("r", "ann")
    two.here.now(two.here.chat.rooms.leave("r", ["ann"]))
    two.there.settle()
    before = len(ann.heard)
    assert [event["rid"] for event in ann.of("left")] == ["r"]
    [join, _] = two.here.now(two.here.store.store.read("r", 1, 2)).entries
    if how == "the entry":
        two.there.chat.cluster.entries_received([join])
    else:
        two.there.chat.cluster.signal_received("node 0", signals.Came("r", join.seq, join.members))
    two.there.settle()
    assert rooms(ann) == {"q"}
    assert ann.heard[before:] == []


def test_a_join_and_its_leave_cross_after_a_look() -> None:
    node = TwoNodes().there
    node.device("bob")
    ann = deaf(node)
    join, leave = stored(node, joined("ann"), left("ann"))
    node.chat.hub.warm(["r"])
    node.settle()
    node.chat.hub.deliver([leave])
    node.chat.hub.deliver([join])
    node.settle()
    assert rooms(ann) == {"q"}


def test_a_leave_that_comes_after_its_hole_was_given_up(node: Clockwork) -> None:
    """And they are back since then."""
    ann, bob = node.device("ann"), node.device("bob")
    late = stored(node, left("ann"))
    node.join("r", "ann")
    node.store.shut = {"heads"}
    node.wait(2 * HOLE)
    node.chat.hub.deliver(late)
    node.store.open_gate()
    node.settle()
    node.post("r", "welcome back")
    assert rooms(ann) == {"r"}
    assert ann.texts() == bob.texts() == ["welcome back"]


def test_more_comes_early_than_may_wait(node: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """And then the one before them."""
    monkeypatch.setattr(hub, "EARLY", 2)
    bob = node.device("bob")
    first, *rest = stored(node, *map(said, "abcdef"))
    node.chat.hub.deliver(rest)
    node.chat.hub.deliver([first])
    node.settle()
    assert bob.texts() == list("abcdef")


# What does not come at all, and who would not read it


@pytest.mark.parametrize("bus", ["up", "down"])
def test_a_leave_that_gets_lost_is_noticed_with_what_follows(bus: str) -> None:
    two = TwoNodes("ann")
    ann, bob = deaf(two.there), two.there.device("bob")
    two.network.lossy, two.network.buses[1].is_up = True, bus == "up"
    two.here.now(two.here.chat.rooms.leave("r", ["ann"]))
    two.network.lossy = bus == "down"
    two.here.post("r", "secret")
    two.there.wait(2 * LOOK)
    assert bob.texts() == ["secret"]
    assert rooms(ann) == {"q"}


def test_a_leave_while_the_room_is_being_subscribed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ann has her places, and the bus does not bring the room's entries yet."""
    two, confirmed = TwoNodes("ann"), Deferred[None]()
    monkeypatch.setattr(two.network.buses[1], "subscribe", lambda rid: confirmed if rid == "r" else Deferred())
    ann = deaf(two.there)
    assert rooms(ann) == {"q", "r"}
    two.here.now(two.here.chat.rooms.leave("r", ["ann"]))
    confirmed.callback(None)
    two.there.settle()
    assert rooms(ann) == {"q"}


def test_a_leave_between_a_look_at_the_places_and_one_at_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listened to the room there when it was told, and somebody does when ann's places come."""
    two = TwoNodes("ann")
    read: Places = two.there.store.store.memberships
    places, answer = two.here.now(read("ann", "deaf")), Deferred[Any]()
    monkeypatch.setattr(
        two.there.store.store, "memberships", lambda mid, device: answer if not answer.called else read(mid, device)
    )
    ann = deaf(two.there)
    two.here.now(two.here.chat.rooms.leave("r", ["ann"]))
    monkeypatch.setattr(two.there.store.store, "memberships", read)
    two.there.device("bob")
    answer.callback(places)
    two.there.settle()
    assert rooms(ann) == {"q"}


def test_who_reads_the_log_gets_all_of_it_before_they_are_out(node: Clockwork) -> None:
    """Their places are read sooner than the log."""
    ann = node.device("ann")
    node.store.shut = {"read"}
    stored(node, said("one"), said("two"), left("ann"), said("secret"))
    node.chat.hub.look_again(None)
    node.settle()
    assert ann.texts() == []
    node.store.open_gate()
    node.settle()
    assert ann.texts() == ["one", "two"]
    assert ann.of("left")[-1]["members"] == ["ann"]
    assert rooms(ann) == set()


def test_what_comes_while_an_older_head_is_on_its_way_is_not_forgotten(
    node: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = node.device("bob")
    answer: Deferred[Any] = Deferred()
    heads = node.now(node.store.store.heads(["r"]))
    monkeypatch.setattr(node.store.store, "heads", lambda rids: answer)
    node.chat.hub.rooms["r"].chill("hole")
    node.chat.hub.warm(["r"])
    node.settle()
    node.chat.hub.deliver(stored(node, said("one")))
    answer.callback(heads)
    node.settle()
    assert bob.texts() == ["one"]


def test_a_join_is_told_and_its_leave_is_not() -> None:
    """Nobody listened to the room there, so its entries were not sent."""
    two = TwoNodes()
    ann = deaf(two.there)
    two.network.delayed = []
    two.here.join("r", "ann")
    two.here.now(two.here.chat.rooms.leave("r", ["ann"]))
    for tell in two.network.delayed:
        tell()
    two.there.settle()
    assert rooms(ann) == {"q"}


@pytest.mark.parametrize("how", ["a look was quicker", "it was lost"])
def test_an_ear_is_put_out(node: Clockwork, how: str) -> None:
    """It reads no log."""
    bob = node.device("bob")
    token = node.now(node.chat.tokens.check(node.token("ann"), "ann"))
    poll = LongPoll(node.chat, token, lambda poll: None)
    poll.start(node.clock.seconds())
    node.settle()
    assert bob.do(commands.Presence(rid="r", ref=1))[-1]["online"] == ["ann", "bob"]
    entries = stored(node, left("ann"))
    if how == "it was lost":
        node.chat.hub.look_again(None)
    else:
        node.chat.hub.warm(["r"])
    node.settle()
    if how == "a look was quicker":
        node.chat.hub.deliver(entries)
    node.settle()
    assert bob.do(commands.Presence(rid="r", ref=2))[-1]["online"] == ["bob"]
    assert not poll.rooms


def test_who_subscribes_behind_their_leave_is_refused() -> None:
    """It was not told here yet."""
    node = TwoNodes("ann").there
    node.device("bob")
    ann: Any = deaf(node)
    entries = stored(node, left("ann"), said("secret"))
    ann.tell(type="subscribe", topic="mercury.room.r", after=entries[-1].seq)
    node.settle()
    assert [event["code"] for event in ann.of("error")] == ["wamp.error.not_authorized"]
    node.chat.hub.deliver(entries)
    node.settle()
    assert ann.texts() == []
    assert rooms(ann) == {"q"}


def test_who_subscribes_behind_a_leave_that_is_being_looked_for_is_refused() -> None:
    node = TwoNodes("ann").there
    node.device("bob")
    ann: Any = deaf(node)
    entries = stored(node, left("ann"), said("secret"))
    node.store.shut = {"read"}
    node.chat.hub.warm(["r"])
    node.settle()
    ann.tell(type="subscribe", topic="mercury.room.r", after=entries[-1].seq)
    node.settle()
    assert [event["code"] for event in ann.of("error")] == ["wamp.error.not_authorized"]
    node.store.open_gate()
    node.settle()
    assert ann.texts() == []
    assert rooms(ann) == {"q"}


def test_who_comes_by_what_is_still_to_be_told_is_in_at_once() -> None:
    """Without a question: no leave that was told can be after it."""
    two = TwoNodes()
    two.there.device("bob")
    ann = two.there.device("ann")
    two.there.store.calls.clear()
    two.network.delayed = []
    two.here.join("r", "ann")
    two.here.join("r", "cyd")
    for tell in reversed(two.network.delayed):
        tell()
    two.there.settle()
    assert rooms(ann) == {"q", "r"}
    assert [event["members"] for event in ann.of("joined") if event["rid"] == "r"] == [["ann"], ["cyd"]]
    assert "memberships" not in two.there.store.calls
