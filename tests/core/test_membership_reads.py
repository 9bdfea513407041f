"""Reading places again: it ends, whatever is told meanwhile, asks about those who are here and no others, and puts up
with a store that answers some and not all. All on a Clock.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from mercury.core.delivery import membership as core_places
from mercury.core.delivery.membership import MOST, PAGE
from mercury.core.delivery.rechecks import RETRY
from mercury.core.session import Session
from mercury.domain import commands, signals
from mercury.errors import MercuryError
from tests.support.clockwork import Clockwork, Device
from tests.support.membership_steps import TwoNodes, deaf, joined, left, places_read, rooms, said, stored


class Places:
    """A node's store takes its time with places: they come as they were when they were asked for, by answer()."""

    def __init__(self, node: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: Counter[str] = Counter()
        self._node = node
        self._read = node.store.store.memberships
        self._answers: list[tuple[Deferred[Any], Any]] = []
        monkeypatch.setattr(node.store.store, "memberships", self._places)

    def _places(self, mid: str, device: str) -> Deferred[Any]:
        self.asked[mid] += 1
        answer: Deferred[Any] = Deferred()
        self._answers.append((answer, self._node.now(self._read(mid, device))))
        return answer

    def answer(self) -> None:
        """All that were asked for by now."""
        answers, self._answers = self._answers, []
        for answer, places in answers:
            answer.callback(places)
        self._node.settle()


def crowd(node: Clockwork, size: int) -> list[Device]:
    """Devices of so many members of "r", who hear nothing."""
    members = [f"m{number}" for number in range(size)]
    node.join("r", *members)
    return [deaf(node, member) for member in members]


@pytest.mark.parametrize("what", ["joins of another node", "doubts"])
def test_a_login_ends_whatever_is_told_meanwhile(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    two = TwoNodes()
    for number in range(9):
        two.here.join(f"room {number}", "bob")
    two.there.device("bob")
    ann, secret = two.there.device("ann", login=False), two.there.token("ann")
    places = Places(two.there, monkeypatch)
    ann.connect(secret)
    for number in range(9):
        if what == "doubts":
            two.there.chat.cluster.invalidate(["another room"])
        else:
            two.here.join(f"room {number}", "ann")
        places.answer()
    assert len(ann.of("hello")) == 1
    places.answer()
    assert rooms(ann) == {"q"} | ({f"room {number}" for number in range(9)} if what != "doubts" else set())


def test_a_look_ends_though_joins_come_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    node = TwoNodes().here
    ann = deaf(node)
    places = Places(node, monkeypatch)
    stored(node, joined("ann"))
    node.chat.hub.look_again((), ("ann",))
    node.settle()
    node.join("s", "ann")
    places.answer()
    assert rooms(ann) == {"q", "r", "s"}
    assert places.asked == {"ann": 1}


def test_who_stops_to_hear_a_room_before_they_have_read_their_leave_is_out() -> None:
    node = TwoNodes("ann").there
    node.device("bob")
    ann: Any = deaf(node)
    ann.ask(type="subscribe", topic="mercury.room.r")
    stored(node, left("ann"), said("secret"))
    node.store.shut = {"read"}
    node.chat.hub.warm(["r"])
    node.settle()
    ann.tell(type="unsubscribe", topic="mercury.room.r")
    node.store.open_gate()
    node.settle()
    assert rooms(ann) == {"q"}
    assert ann.texts() == []


@pytest.mark.parametrize("what", ["join", "leave"])
def test_ones_own_changes_count_at_once_while_a_rooms_head_is_looked_up(what: str) -> None:
    """The application has its answer, and the store takes its time with all that follows."""
    node = TwoNodes("ann").here if what == "leave" else TwoNodes().here
    node.device("bob")
    ann = node.device("ann")
    node.store.shut = {"heads"}
    node.chat.hub.rooms["r"].chill("hole")
    node.chat.hub.warm(["r"])
    node.settle()
    node.store.shut = {"heads", "memberships", "read"}
    if what == "join":
        node.join("r", "ann")
        ann.say("r", "hello")
        node.settle()
        assert ann.of("error") == []
    else:
        node.now(node.chat.rooms.leave("r", ["ann"]))
        assert [event["code"] for event in ann.do(commands.History(rid="r", ref="h"))] == ["forbidden"]


@pytest.mark.parametrize(("missed", "asked"), [(1, 1), (PAGE + 1, 20)])
def test_a_hole_has_those_asked_for_whom_it_may_have_put_out(missed: int, asked: int) -> None:
    """The log says who; if that is a long one, it may be anybody."""
    two = TwoNodes()
    devices = crowd(two.there, 20)
    two.there.store.calls.clear()
    *_, last = stored(two.here, *[said("missed")] * missed, left("m7"), said("told"))
    two.there.chat.hub.deliver([last])
    two.there.wait(1)
    assert two.there.store.calls.count("memberships") == asked
    assert [device.member for device in devices if not rooms(device)] == ["m7"]


def test_nobody_is_asked_about_who_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Clockwork(wamp="json")
    devices = crowd(node, 3 * MOST)
    places = Places(node, monkeypatch)
    node.chat.hub.look_again(())
    node.settle()
    for device in devices:
        device.lose()
    for _ in range(3):
        places.answer()
    assert places.asked.total() == MOST


def test_the_latest_leaves_are_remembered_and_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_places, "LEAVES", 3)
    node = Clockwork(wamp="json")
    crowd(node, 5)
    for number in (0, 1, 2, 3, 4):
        node.now(node.chat.rooms.leave("r", [f"m{number}"]))
    remembered = [mid for _, mid in node.chat.hub.memberships._left]
    assert remembered == ["m2", "m3", "m4"]
    assert [node.chat.hub.memberships.have_left("r", mid, 1) for mid in ("m1", "m4")] == [False, True]


def test_one_who_cannot_be_answered_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Clockwork(wamp="json")
    devices = crowd(node, 3 * MOST)
    read = node.store.store.memberships
    poisoned = MercuryError("internal", "this one cannot be read")
    monkeypatch.setattr(
        node.store.store, "memberships", lambda mid, device: fail(poisoned) if mid == "m0" else read(mid, device)
    )
    stored(node, left(*[device.member for device in devices[1:]]))
    node.chat.hub.look_again(())
    node.wait(10 * RETRY)
    assert [device.member for device in devices if rooms(device)] == ["m0"]


def test_what_is_not_answered_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection to the store is refused at once, others hang."""
    node = Clockwork(wamp="json")
    crowd(node, MOST)
    open_: list[Deferred[Any]] = []

    def memberships(mid: str, device: str) -> Deferred[Any]:
        if mid == "m0":
            return fail(MercuryError("unavailable", "refused", 1.0))
        open_.append(Deferred())
        return open_[-1]

    monkeypatch.setattr(node.store.store, "memberships", memberships)
    node.chat.hub.look_again(())
    node.wait(10 * RETRY)
    assert len(open_) == MOST - 1


def test_a_session_that_ends_while_its_member_is_put_out_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    node = TwoNodes("ann").here
    devices = [deaf(node, "ann", name) for name in "xyz"]
    monkeypatch.setattr(Session, "left", lambda self, rid: devices[0].lose() if self is devices[0].session else None)
    stored(node, left("ann"))
    node.chat.hub.look_again(None)
    node.settle()
    assert [rooms(device) for device in devices] == [set(), {"q"}, {"q"}]


# While places are read


@pytest.mark.parametrize("hears", [True, False])
def test_who_comes_and_goes_while_places_are_read_is_out(monkeypatch: pytest.MonkeyPatch, hears: bool) -> None:
    """The places say that they are in, since they were read in between."""
    node = TwoNodes().here
    node.device("bob")
    ann = node.device("ann") if hears else deaf(node)
    join = stored(node, joined("ann"))
    read = node.store.store.memberships
    places, answer = node.now(read("ann", "")), Deferred[Any]()
    answers = iter([answer])
    monkeypatch.setattr(node.store.store, "memberships", lambda mid, device: next(answers, None) or read(mid, device))
    node.chat.hub.look_again((), ("ann",))
    node.settle()
    node.chat.hub.deliver(join)
    node.now(node.chat.rooms.leave("r", ["ann"]))
    before = len(ann.heard)
    answer.callback(places)
    node.settle()
    assert rooms(ann) == {"q"}
    assert ann.heard[before:] == []


def test_a_doubt_during_a_login_is_looked_into_behind_it() -> None:
    """What nobody was told may have happened after the places were read."""
    node = TwoNodes("ann").there
    node.device("bob")
    with places_read(node) as answer:
        ann = deaf(node)
        stored(node, left("ann"))
    node.chat.hub.look_again((), ("ann",))
    node.settle()
    answer()
    node.settle()
    assert rooms(ann) == {"q"}


def test_who_reads_their_leave_while_places_are_read_is_out() -> None:
    """The places were read before it."""
    node = TwoNodes().there
    ann = node.device("ann")
    [join] = stored(node, joined("ann"))
    with places_read(node) as answer:
        node.chat.hub.look_again((), ("ann",))
        node.settle()
    stored(node, left("ann"))
    node.chat.cluster.signal_received("node 0", signals.Came("r", join.seq, join.members))
    node.settle()
    assert [event["type"] for event in ann.heard if event.get("rid") == "r" and "seq" in event] == ["joined", "left"]
    before = len(ann.heard)
    answer()
    node.settle()
    assert ann.heard[before:] == []
    assert rooms(ann) == {"q"}


def test_who_logs_in_during_a_look_goes_by_what_they_read() -> None:
    """Which is newer."""
    node = TwoNodes("ann").there
    node.device("bob")
    secret, ann = node.token("ann"), node.device("ann", login=False)
    node.device("ann", "another")
    with places_read(node) as answer:
        node.chat.hub.look_again((), ("ann",))
        node.settle()
    stored(node, left("ann"))
    node.store.shut = {"memberships"}
    ann.connect(secret)
    node.store.open_gate()
    node.settle()
    assert rooms(ann) == {"q"}
    before = len(ann.heard)
    answer()
    node.settle()
    assert ann.heard[before:] == []


def test_who_leaves_and_comes_back_while_places_are_read_stays() -> None:
    """The places were read in between."""
    node = TwoNodes("ann").there
    node.device("bob")
    ann = deaf(node)
    leave = stored(node, left("ann"))
    with places_read(node) as answer:
        node.chat.hub.look_again((), ("ann",))
        node.settle()
    node.chat.hub.deliver(leave)
    node.join("r", "ann")
    answer()
    node.settle()
    assert rooms(ann) == {"q", "r"}
