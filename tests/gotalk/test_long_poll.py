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
from tests.support.gotalk_clockwork import GotalkClockwork, draft, texts


def test_a_poll_is_answered_as_soon_as_something_is_said() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    gotalk.sync(3, ack=gotalk.sync(3, ack=0)[-1].id)
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    gotalk.node.wait(10)
    assert answers == []
    gotalk.say(1, 3, "b")
    assert texts(answers[0]) == ["b"]


def test_a_poll_hears_of_a_conversation_that_begins() -> None:
    gotalk = GotalkClockwork()
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    gotalk.say(2, 3, "hello")
    assert texts(answers[0]) == ["hello"]


def test_what_is_there_is_not_waited_for_and_what_is_not_ends_in_time() -> None:
    gotalk = GotalkClockwork()
    (entry,) = gotalk.say(1, 3, "a")
    assert texts(gotalk.begin(gotalk.poll(3, ack=0, wait=30))[0]) == ["a"]
    answers = gotalk.begin(gotalk.poll(3, ack=entry.id, wait=2))
    gotalk.node.wait(1.5)
    assert answers == []
    gotalk.node.wait(1)
    assert answers == [[]]
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=1e9))
    gotalk.node.wait(LONGEST_WAIT + 1)
    assert answers == [[]]


def test_what_concerns_nobody_does_not_end_a_poll() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    gotalk.sync(3, ack=gotalk.sync(3, ack=0)[-1].id)
    gotalk.node.join("lobby", member_of(3))
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    gotalk.say(3, 1, "my own")
    gotalk.node.chat.cluster.invalidate(None)
    GotalkClockwork(beside=gotalk).say(3, 1, "my own, by another node")
    gotalk.node.chat.cluster.invalidate(None)
    gotalk.node.settle()
    assert answers == []
    gotalk.node.store.calls.clear()
    gotalk.node.join(room_of(1, 3), "bob")
    gotalk.node.join("lobby", "bob")
    gotalk.node.post("lobby", "elsewhere")
    assert "handed" not in gotalk.node.store.calls
    gotalk.say(1, 3, "b")
    assert texts(answers[0]) == ["b"]


class Meanwhile:
    """Lets something be appended and told while a member's places are read for a device, once: after the store has
    looked, or before."""

    def __init__(
        self, gotalk: GotalkClockwork, device: str, happen: Callable[[], Deferred[Any]], *, before: bool = False
    ) -> None:
        self.store, self.device, self.happen, self.before = gotalk.node.store.store, device, happen, before
        self.read, self.idle = self.store.memberships, gotalk.node.chat.journal.idle
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
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    gotalk.sync(3, ack=gotalk.sync(3, ack=0)[-1].id)
    if device:
        gotalk.begin(gotalk.poll(3, ack=0, wait=0.5))
        gotalk.node.wait(1)  # its long poll is there by now
    Meanwhile(gotalk, device, lambda: gotalk.node.chat.journal.append(draft(1, 3, "b")), before=before)
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    assert texts(answers[0]) == ["b"]


def test_an_ear_listens_where_its_member_came_in_meanwhile() -> None:
    gotalk = GotalkClockwork()
    gotalk.session(3)
    both = [member_of(1), member_of(3)]
    rooms = gotalk.node.chat.rooms
    Meanwhile(gotalk, "", lambda: Deferred.fromCoroutine(rooms.join_and_send(both[0], room_of(1, 3), both, "a", None)))
    (first,) = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    answers = gotalk.begin(gotalk.poll(3, ack=first[0].id, wait=30))
    gotalk.say(1, 3, "b")
    assert texts(answers[0]) == ["b"]


def test_an_ear_does_not_listen_where_its_member_left_meanwhile() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    rooms = gotalk.node.chat.rooms
    Meanwhile(gotalk, "", lambda: Deferred.fromCoroutine(rooms.leave(room_of(1, 3), [member_of(3)])))
    gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    assert [len(gotalk.node.chat.hub.everybody()), gotalk.node.chat.hub.rooms] == [1, {}]


@pytest.mark.parametrize("pause", [0.0, LINGER / 2, LINGER * 2])
def test_nothing_is_missed_between_two_polls(pause: float) -> None:
    gotalk = GotalkClockwork()
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    gotalk.say(1, 3, "a")
    gotalk.node.wait(pause)
    ack = answers[0][-1].id
    gotalk.say(2, 3, "b")
    gotalk.node.wait(pause)
    assert texts(gotalk.begin(gotalk.poll(3, ack=ack, wait=30))[0]) == ["b"]


def test_polls_of_two_devices_hear_both() -> None:
    gotalk = GotalkClockwork()
    answers = [gotalk.begin(gotalk.poll(3, ack=0, device=name, wait=30)) for name in ("phone", "laptop")]
    gotalk.say(1, 3, "a")
    assert [texts(answer[0]) for answer in answers] == [["a"], ["a"]]


def test_a_client_that_hangs_up_is_waited_for_no_longer_and_remembered_nothing_for() -> None:
    gotalk = GotalkClockwork()
    poll = gotalk.poll(3, ack=0, wait=30)
    answers = gotalk.begin(poll)
    poll.drop()
    gotalk.node.settle()
    assert answers == [[]]
    gotalk.node.wait(LINGER + hub.AWAY)
    assert gotalk.node.chat.hub.everybody() == []
    assert gotalk.sync_calls._long_polls == {}
    assert gotalk.node.chat.hub.rooms == {}
    gotalk.say(1, 3, "a")
    gone = gotalk.poll(3, ack=0)
    gone.gone = True
    gotalk.node.store.calls.clear()
    gotalk.begin(gone)
    assert "put_handed" not in gotalk.node.store.calls


def test_who_polls_is_online_and_for_a_moment_after() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    gotalk.node.join("lobby", member_of(3), member_of(1))
    other = gotalk.node.device(member_of(1))
    other.heard.clear()
    poll = gotalk.poll(3, ack=0, wait=30)
    gotalk.node.now(gotalk.sync_calls.messages(poll))
    gotalk.node.wait(LINGER / 2)
    gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    online = {"type": "presence", "mid": member_of(3), "online": True}
    assert other.heard == [online | {"rid": rid} for rid in (room_of(1, 3), "lobby")]
    gotalk.node.wait(LINGER + hub.AWAY - 0.2)
    assert len(other.heard) == 2
    gotalk.node.wait(0.4)
    assert other.heard[2:] == [online | {"rid": rid, "online": False} for rid in (room_of(1, 3), "lobby")]


def test_a_revoked_token_ends_its_polls() -> None:
    gotalk = GotalkClockwork()
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    gotalk.node.now(gotalk.node.chat.tokens.revoke(gotalk.secrets[3]))
    assert answers[0].code == "unauthorized"
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))  # it was checked before it was revoked
    assert answers[0].code == "unauthorized"


def test_polls_count_as_one_connection_of_their_member() -> None:
    gotalk = GotalkClockwork(connections_per_member=1)
    first, second = (gotalk.begin(gotalk.poll(3, ack=0, wait=30)) for _ in range(2))
    assert first == second == []
    refused = gotalk.node.device(member_of(3))
    assert refused.code is not None
    gotalk = GotalkClockwork(connections_per_member=1)
    gotalk.session(3)
    gotalk.node.device(member_of(3))
    assert gotalk.begin(gotalk.poll(3, ack=0, wait=30))[0].code == "busy"


def test_a_node_that_stops_answers_its_polls() -> None:
    gotalk = GotalkClockwork()
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    for session in gotalk.node.chat.hub.everybody():
        session.finish()
        session.end(close_codes.RESTART)
    gotalk.node.settle()
    assert answers == [[]]


def test_a_store_that_goes_away_ends_a_poll_that_would_look_into_it() -> None:
    gotalk = GotalkClockwork()
    gotalk.session(3)
    gotalk.node.store.down = True
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    assert answers[0].code == "unavailable"
    gotalk.node.wait(LINGER + hub.AWAY)
    gotalk.node.store.down = False
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    gotalk.say(1, 3, "a")
    assert texts(answers[0]) == ["a"]


def test_what_was_missed_while_the_bus_was_down_wakes_a_poll() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    gotalk.sync(3, ack=gotalk.sync(3, ack=0)[-1].id)
    answers = gotalk.begin(gotalk.poll(3, ack=0, wait=30))
    other = GotalkClockwork(beside=gotalk)  # a node of which the first one hears nothing
    other.say(1, 3, "b")
    assert answers == []
    gotalk.node.chat.cluster.invalidate(None)
    gotalk.node.settle()
    assert texts(answers[0]) == ["b"]
