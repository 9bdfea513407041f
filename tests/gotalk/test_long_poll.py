"""Long polls: a sync that waits is answered when something is said, and leaves nothing behind; on a Clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mercury.core.delivery import hub
from mercury.domain import close_codes
from mercury.gotalk.conversations import member_of, room_of
from mercury.gotalk.long_poll import LINGER
from mercury.gotalk.sync import LONGEST_WAIT
from tests.support.gotalk_clockwork import House, draft, texts


def test_a_poll_is_answered_as_soon_as_something_is_said() -> None:
    house = House()
    house.say(1, 3, "a")
    house.sync(3, ack=house.sync(3, ack=0)[-1].id)
    answers = house.begin(house.poll(3, ack=0, wait=30))
    house.node.wait(10)
    assert answers == []
    house.say(1, 3, "b")
    assert texts(answers[0]) == ["b"]


def test_a_poll_hears_of_a_conversation_that_begins() -> None:
    house = House()
    answers = house.begin(house.poll(3, ack=0, wait=30))
    house.say(2, 3, "hello")
    assert texts(answers[0]) == ["hello"]


def test_what_is_there_is_not_waited_for_and_what_is_not_ends_in_time() -> None:
    house = House()
    (entry,) = house.say(1, 3, "a")
    assert texts(house.begin(house.poll(3, ack=0, wait=30))[0]) == ["a"]
    answers = house.begin(house.poll(3, ack=entry.id, wait=2))
    house.node.wait(1.5)
    assert answers == []
    house.node.wait(1)
    assert answers == [[]]
    answers = house.begin(house.poll(3, ack=0, wait=1e9))
    house.node.wait(LONGEST_WAIT + 1)
    assert answers == [[]]


def test_what_concerns_nobody_does_not_end_a_poll() -> None:
    house = House()
    house.say(1, 3, "a")
    house.sync(3, ack=house.sync(3, ack=0)[-1].id)
    house.node.join("lobby", member_of(3))
    answers = house.begin(house.poll(3, ack=0, wait=30))
    house.say(3, 1, "my own")
    house.node.chat.cluster.invalidate(None)
    House(beside=house).say(3, 1, "my own, by another node")
    house.node.chat.cluster.invalidate(None)
    house.node.settle()
    assert answers == []
    house.node.store.calls.clear()
    house.node.join(room_of(1, 3), "bob")
    house.node.join("lobby", "bob")
    house.node.post("lobby", "elsewhere")
    assert "handed" not in house.node.store.calls
    house.say(1, 3, "b")
    assert texts(answers[0]) == ["b"]


class Meanwhile:
    """Lets something be appended and told while a member's places are read for a device, once: after the store has
    looked, or before."""

    def __init__(self, house: House, device: str, happen: Callable[[], Deferred[Any]], *, before: bool = False) -> None:
        self.store, self.device, self.happen, self.before = house.node.store.store, device, happen, before
        self.read, self.idle = self.store.memberships, house.node.chat.journal.idle
        self.store.memberships = self.memberships  # type: ignore[method-assign]

    def memberships(self, mid: str, device: str) -> Deferred[Any]:
        if device != self.device:
            return self.read(mid, device)
        self.store.memberships = self.read  # type: ignore[method-assign]
        seen = None if self.before else self.read(mid, device)
        later: Deferred[Any] = Deferred()
        self.happen()
        self.idle().addCallback(lambda _: (seen or self.read(mid, device)).chainDeferred(later))
        return later


@pytest.mark.parametrize(("device", "before"), [("gotalk", False), ("", False), ("", True)])
def test_what_is_said_while_a_poll_looks_or_begins_to_listen_wakes_it(device: str, before: bool) -> None:
    house = House()
    house.say(1, 3, "a")
    house.sync(3, ack=house.sync(3, ack=0)[-1].id)
    if device:
        house.begin(house.poll(3, ack=0, wait=0.5))
        house.node.wait(1)  # its long poll is there by now
    Meanwhile(house, device, lambda: house.node.chat.journal.append(draft(1, 3, "b")), before=before)
    answers = house.begin(house.poll(3, ack=0, wait=30))
    assert texts(answers[0]) == ["b"]


def test_an_ear_listens_where_its_member_came_in_meanwhile() -> None:
    house = House()
    house.session(3)
    both = [member_of(1), member_of(3)]
    rooms = house.node.chat.rooms
    Meanwhile(house, "", lambda: Deferred.fromCoroutine(rooms.join_and_send(both[0], room_of(1, 3), both, "a", None)))
    (first,) = house.begin(house.poll(3, ack=0, wait=30))
    answers = house.begin(house.poll(3, ack=first[0].id, wait=30))
    house.say(1, 3, "b")
    assert texts(answers[0]) == ["b"]


def test_an_ear_does_not_listen_where_its_member_left_meanwhile() -> None:
    house = House()
    house.say(1, 3, "a")
    rooms = house.node.chat.rooms
    Meanwhile(house, "", lambda: Deferred.fromCoroutine(rooms.leave(room_of(1, 3), [member_of(3)])))
    house.begin(house.poll(3, ack=0, wait=30))
    assert [len(house.node.chat.hub.everybody()), house.node.chat.hub.rooms] == [1, {}]


@pytest.mark.parametrize("pause", [0.0, LINGER / 2, LINGER * 2])
def test_nothing_is_missed_between_two_polls(pause: float) -> None:
    house = House()
    answers = house.begin(house.poll(3, ack=0, wait=30))
    house.say(1, 3, "a")
    house.node.wait(pause)
    ack = answers[0][-1].id
    house.say(2, 3, "b")
    house.node.wait(pause)
    assert texts(house.begin(house.poll(3, ack=ack, wait=30))[0]) == ["b"]


def test_polls_of_two_devices_hear_both() -> None:
    house = House()
    answers = [house.begin(house.poll(3, ack=0, device=name, wait=30)) for name in ("phone", "laptop")]
    house.say(1, 3, "a")
    assert [texts(answer[0]) for answer in answers] == [["a"], ["a"]]


def test_a_client_that_hangs_up_is_waited_for_no_longer_and_remembered_nothing_for() -> None:
    house = House()
    poll = house.poll(3, ack=0, wait=30)
    answers = house.begin(poll)
    poll.drop()
    house.node.settle()
    assert answers == [[]]
    house.node.wait(LINGER + hub.AWAY)
    assert house.node.chat.hub.everybody() == []
    assert house.sync_calls._long_polls == {}
    assert house.node.chat.hub.rooms == {}
    house.say(1, 3, "a")
    gone = house.poll(3, ack=0)
    gone.gone = True
    house.node.store.calls.clear()
    house.begin(gone)
    assert "put_handed" not in house.node.store.calls


def test_who_polls_is_online_and_for_a_moment_after() -> None:
    house = House()
    house.say(1, 3, "a")
    house.node.join("lobby", member_of(3), member_of(1))
    other = house.node.device(member_of(1))
    other.heard.clear()
    poll = house.poll(3, ack=0, wait=30)
    house.node.now(house.sync_calls.messages(poll))
    house.node.wait(LINGER / 2)
    house.begin(house.poll(3, ack=0, wait=30))
    online = {"type": "presence", "mid": member_of(3), "online": True}
    assert other.heard == [online | {"rid": rid} for rid in (room_of(1, 3), "lobby")]
    house.node.wait(LINGER + hub.AWAY - 0.2)
    assert len(other.heard) == 2
    house.node.wait(0.4)
    assert other.heard[2:] == [online | {"rid": rid, "online": False} for rid in (room_of(1, 3), "lobby")]


def test_a_revoked_token_ends_its_polls() -> None:
    house = House()
    answers = house.begin(house.poll(3, ack=0, wait=30))
    house.node.now(house.node.chat.tokens.revoke(house.secrets[3]))
    assert answers[0].code == "unauthorized"
    answers = house.begin(house.poll(3, ack=0, wait=30))  # it was checked before it was revoked
    assert answers[0].code == "unauthorized"


def test_polls_count_as_one_connection_of_their_member() -> None:
    house = House(connections_per_member=1)
    first, second = (house.begin(house.poll(3, ack=0, wait=30)) for _ in range(2))
    assert first == second == []
    refused = house.node.device(member_of(3))
    assert refused.code is not None
    house = House(connections_per_member=1)
    house.session(3)
    house.node.device(member_of(3))
    assert house.begin(house.poll(3, ack=0, wait=30))[0].code == "busy"


def test_a_node_that_stops_answers_its_polls() -> None:
    house = House()
    answers = house.begin(house.poll(3, ack=0, wait=30))
    for session in house.node.chat.hub.everybody():
        session.finish()
        session.end(close_codes.RESTART)
    house.node.settle()
    assert answers == [[]]


def test_a_store_that_goes_away_ends_a_poll_that_would_look_into_it() -> None:
    house = House()
    house.session(3)
    house.node.store.down = True
    answers = house.begin(house.poll(3, ack=0, wait=30))
    assert answers[0].code == "unavailable"
    house.node.wait(LINGER + hub.AWAY)
    house.node.store.down = False
    answers = house.begin(house.poll(3, ack=0, wait=30))
    house.say(1, 3, "a")
    assert texts(answers[0]) == ["a"]


def test_what_was_missed_while_the_bus_was_down_wakes_a_poll() -> None:
    house = House()
    house.say(1, 3, "a")
    house.sync(3, ack=house.sync(3, ack=0)[-1].id)
    answers = house.begin(house.poll(3, ack=0, wait=30))
    other = House(beside=house)  # a node of which the first one hears nothing
    other.say(1, 3, "b")
    assert answers == []
    house.node.chat.cluster.invalidate(None)
    house.node.settle()
    assert texts(answers[0]) == ["b"]
