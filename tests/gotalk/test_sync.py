"""What goTalk's sync hands over, and when that counts as received: exactly what happens when, on a Clock."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from twisted.internet.defer import Deferred

from mercury.domain import commands
from mercury.domain.model import Entry
from mercury.errors import MercuryError
from mercury.gotalk.conversations import member_of, room_of
from mercury.gotalk.sync import MOST, MOST_TEXT, device_of
from tests.support.gotalk_clockwork import GotalkClockwork, draft, texts

# Clients that ack


def test_what_is_not_acked_comes_again_in_the_same_order_before_what_is_new() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a1", "a2")
    gotalk.say(2, 3, "b1")
    assert texts(gotalk.sync(3, ack=0)) == ["a1", "a2", "b1"]
    gotalk.say(1, 3, "a3")
    again = gotalk.sync(3, ack=0)
    assert texts(again) == ["a1", "a2", "b1", "a3"]
    assert gotalk.sync(3, ack=again[-1].id) == []
    assert gotalk.sync(3, ack=0) == []


def test_an_ack_in_the_middle_proves_what_came_before_it_and_nothing_else() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a1", "a2", "a3")
    gotalk.say(2, 3, "b1", "b2")
    first = gotalk.sync(3, ack=0)
    assert texts(gotalk.sync(3, ack=first[1].id)) == ["a3", "b1", "b2"]
    assert gotalk.node.delivered(member_of(3), room_of(1, 3), "gotalk") == first[1].seq
    assert texts(gotalk.sync(3, ack=first[3].id)) == ["b2"]
    assert gotalk.node.delivered(member_of(3), room_of(1, 3), "gotalk") == first[2].seq
    assert gotalk.sync(3, ack=first[4].id) == []


def test_an_ack_that_is_old_or_of_another_message_proves_nothing() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a1", "a2")
    gotalk.say(2, 4, "not mine")
    first = gotalk.sync(3, ack=0)
    assert texts(gotalk.sync(3, ack=first[0].id)) == ["a2"]
    (other,) = gotalk.sync(4, ack=0)
    for stale in (first[0].id, other.id, 1, 10**12, 2**63 - 1):
        assert texts(gotalk.sync(3, ack=stale)) == ["a2"]


def test_a_message_that_is_committed_late_with_a_smaller_id_is_not_taken_for_acked() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "x")
    gotalk.say(2, 3, "y")
    gotalk.sync(3, ack=gotalk.sync(3, ack=0)[-1].id)
    last, memory = gotalk.node.store.store._last_id, gotalk.node.store.store
    memory._last_id = last + 100
    (late,) = gotalk.say(1, 3, "first in the store")
    assert texts(gotalk.sync(3, ack=0)) == ["first in the store"]
    memory._last_id = last + 50  # as MySQL gives them out: before the commit
    (smaller,) = gotalk.say(2, 3, "committed later")
    memory._last_id = last + 200
    assert smaller.id < late.id
    assert texts(gotalk.sync(3, ack=late.id)) == ["committed later"]
    assert gotalk.sync(3, ack=smaller.id) == []


def test_what_was_handed_over_is_remembered_by_another_node_and_before_the_answer() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a1", "a2")
    gotalk.node.store.shut.add("put_handed")
    answers = gotalk.begin(gotalk.poll(3, ack=0))
    assert answers == []
    gotalk.node.store.open_gate()
    gotalk.node.settle()
    other = GotalkClockwork(beside=gotalk)
    assert texts(other.sync(3, ack=answers[0][0].id)) == ["a2"]


def test_nothing_is_written_for_a_sync_that_has_nothing_to_say() -> None:
    gotalk = GotalkClockwork()
    (entry,) = gotalk.say(1, 3, "x")
    gotalk.sync(3, ack=0)
    gotalk.sync(3, ack=entry.id)
    gotalk.sync(3, device="old")
    gotalk.node.now(gotalk.sync_calls.received(gotalk.poll(3, device="old"), [entry]))
    gotalk.sync(3, device="old")
    gotalk.node.store.calls.clear()
    assert gotalk.sync(3, ack=entry.id) == gotalk.sync(3, device="old") == []
    assert gotalk.node.store.calls == ["handed", "memberships"] * 2


@pytest.mark.parametrize("acks", [True, False])
def test_a_device_that_asks_is_not_forgotten_though_it_gets_nothing(acks: bool) -> None:
    gotalk = GotalkClockwork()
    (entry,) = gotalk.say(1, 3, "x")
    ack = entry.id if acks else None
    gotalk.sync(3, ack=ack)
    gotalk.node.now(gotalk.sync_calls.received(gotalk.poll(3), [entry]))
    devices = gotalk.node.store.store._devices[member_of(3)]
    for _ in range(3):
        devices["gotalk"].moved = 0
        gotalk.sync(3, ack=ack)
        moved = devices["gotalk"].moved
        assert moved > 0
        gotalk.node.now(gotalk.node.store.sweep(0, moved, 9))
        gotalk.sync(3, ack=ack)
        assert devices["gotalk"].moved == moved  # no more than twice a day
        gotalk.wall += 43200
    gotalk.node.now(gotalk.node.store.sweep(0, 0, 9))
    assert gotalk.sync(3, ack=ack) == []


# Clients that do not


def test_without_an_ack_everything_comes_again_until_its_arrival_is_seen() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    poll = gotalk.poll(3)
    assert texts(gotalk.sync(3)) == texts(gotalk.sync(3)) == ["a"]
    gotalk.node.now(gotalk.sync_calls.received(poll, gotalk.sync(3)))
    assert gotalk.sync(3) == []
    gotalk.say(1, 3, "b")
    assert texts(gotalk.sync(3)) == ["b"]


def test_a_sync_waits_until_the_proof_before_it_is_stored() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    entries = gotalk.sync(3)
    gotalk.node.store.shut.add("move_cursors")
    proving = Deferred.fromCoroutine(gotalk.sync_calls.received(gotalk.poll(3), entries))
    answers = gotalk.begin(gotalk.poll(3))
    assert (proving.called, answers) == (False, [])
    gotalk.node.store.open_gate()
    gotalk.node.settle()
    assert (proving.called, answers) == (True, [[]])
    assert gotalk.sync_calls._turns == {}


def test_a_proof_that_cannot_be_stored_now_is_stored_later() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    entries = gotalk.sync(3)
    gotalk.node.store.down = True
    gotalk.node.now(gotalk.sync_calls.received(gotalk.poll(3), entries))
    gotalk.node.store.down = False
    assert gotalk.sync(3) == []
    gotalk.node.wait(2)
    assert gotalk.node.delivered(member_of(3), room_of(1, 3), "gotalk") == entries[0].seq


# What is handed over


def test_two_devices_get_everything_each() -> None:
    gotalk = GotalkClockwork()
    (entry,) = gotalk.say(1, 3, "a")
    assert texts(gotalk.sync(3, ack=0, device="phone")) == ["a"]
    assert gotalk.sync(3, ack=entry.id, device="phone") == []
    assert texts(gotalk.sync(3, ack=0, device="laptop")) == ["a"]
    assert texts(gotalk.sync(3, ack=0)) == ["a"]
    with pytest.raises(MercuryError, match="bad_request"):
        device_of("x" * 190)


def test_one_does_not_get_ones_own_words_and_they_are_not_read_again_and_again() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(3, 1, *"abcde")
    assert gotalk.sync(3, ack=0) == []
    gotalk.node.wait(1)
    assert gotalk.node.delivered(member_of(3), room_of(1, 3), "gotalk") == 6
    gotalk.node.store.calls.clear()
    assert gotalk.sync(3, ack=0) == []
    assert "history" not in gotalk.node.store.calls
    gotalk.say(1, 3, "answer")
    assert texts(gotalk.sync(3, ack=0)) == ["answer"]


def test_own_words_between_those_of_others_are_left_out_however_often() -> None:
    gotalk = GotalkClockwork(history_page=2)
    for n in range(6):
        gotalk.say(1, 3, f"theirs {n}")
        gotalk.say(3, 1, *["mine"] * n)
    first = gotalk.sync(3, ack=0)
    assert texts(first) == [f"theirs {n}" for n in range(6)]
    assert texts(gotalk.sync(3, ack=first[2].id)) == ["theirs 3", "theirs 4", "theirs 5"]


def test_notes_to_oneself_are_handed_over() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(3, 3, "milk")
    (note,) = gotalk.sync(3, ack=0)
    assert (note.text, note.rid) == ("milk", "gotalk:3:3")


def test_only_conversations_of_two_are_handed_over_and_all_that_is_said_there() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    gotalk.node.join("lobby", member_of(3), "bob")
    gotalk.node.join("gotalk:1:2", member_of(3))
    gotalk.node.join("gotalk:3:1", member_of(3), "bob")
    gotalk.node.join(room_of(1, 3), "bob")
    for room in ("lobby", "gotalk:3:1", "gotalk:1:2"):
        gotalk.node.post(room, "elsewhere")
    gotalk.node.post(room_of(1, 3), "by bob", member="bob")
    gotalk.node.post(room_of(1, 3), "by the application")
    assert texts(gotalk.sync(3, ack=0)) == ["a", "by bob", "by the application"]


def test_who_left_a_conversation_is_brought_back_by_the_next_message() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    phone = gotalk.node.device(member_of(3), "phone")
    phone.do(commands.Leave(rid=room_of(1, 3)))
    assert gotalk.sync(3, ack=0) == []
    gotalk.say(1, 3, "b")
    assert texts(gotalk.sync(3, ack=0)) == ["b"]


def test_what_was_handed_over_of_a_conversation_that_one_left_is_given_up() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a")
    gotalk.say(2, 3, "b")
    first = gotalk.sync(3, ack=0)
    gotalk.node.now(gotalk.node.chat.rooms.leave(room_of(1, 3), [member_of(3)]))
    assert texts(gotalk.sync(3, ack=0)) == ["b"]
    gotalk.say(1, 3, "c")
    assert texts(gotalk.sync(3, ack=first[0].id)) == ["b", "c"]


def test_a_repeated_cid_is_said_once() -> None:
    gotalk = GotalkClockwork()
    gotalk.say(1, 3, "a", "a", cid="x")
    assert texts(gotalk.sync(3, ack=0)) == ["a"]
    with pytest.raises(MercuryError, match="conflict"):
        gotalk.say(1, 3, "b", cid="x")


def test_a_receiver_who_can_be_in_no_more_rooms_is_not_said_to_have_been_told() -> None:
    gotalk = GotalkClockwork(rooms_per_member=1)
    gotalk.say(1, 3, "a")
    with pytest.raises(MercuryError, match=r"too_large: member gotalk:3 is in 1 rooms"):
        gotalk.say(2, 3, "b")
    assert texts(gotalk.sync(3)) == ["a"]


@pytest.mark.parametrize("acks", [True, False])
def test_many_messages_come_in_several_answers(acks: bool) -> None:
    gotalk = GotalkClockwork()
    memory = gotalk.node.store
    gotalk.say(1, 3, "0")
    for n in range(1, 2500):
        gotalk.node.chat.journal.append(draft(1, 3, str(n)))
    gotalk.node.settle()
    got: list[str] = []
    ack = 0
    while entries := gotalk.sync(3, ack=ack if acks else None):
        assert len(entries) <= MOST
        got += texts(entries)
        ack = entries[-1].id
        if not acks:
            gotalk.node.now(gotalk.sync_calls.received(gotalk.poll(3), entries))
    assert got == [str(n) for n in range(2500)]
    assert memory.calls.count("put_handed") == (4 if acks else 1)


def test_an_answer_has_a_bounded_length_however_long_the_texts() -> None:
    gotalk = GotalkClockwork(text_bytes=0)
    long = "x" * (MOST_TEXT // 2 + 1)
    gotalk.say(1, 3, long, long, "short")
    (one,) = gotalk.sync(3, ack=0)
    assert [len(entry.text) for entry in gotalk.sync(3, ack=one.id)] == [len(long), 5]
    gotalk.say(1, 4, "x" * (MOST_TEXT + 1), "y")
    assert [len(entry.text) for entry in gotalk.sync(4, ack=0)] == [MOST_TEXT + 1]


@pytest.mark.parametrize(("count", "text"), [(3000, "x"), (30, "x" * (MOST_TEXT // 10))])
def test_a_flood_does_not_starve_other_conversations(count: int, text: str) -> None:
    gotalk = GotalkClockwork(text_bytes=0)
    for sender in (1, 5):
        gotalk.say(sender, 3, "0")
        for _ in range(count):
            gotalk.node.chat.journal.append(draft(sender, 3, text))
        gotalk.node.settle()
        gotalk.say(sender + 1, 3, f"hello of {sender + 1}")
    assert {"hello of 2", "hello of 6"} <= set(texts(gotalk.sync(3, ack=0)))


# All of it, at random


class Loss(RuleBasedStateMachine):
    """Three people; answers get lost, acks are old, ids are committed late, requests go to either of two nodes."""

    @initialize()
    def begin(self) -> None:
        self.houses = [GotalkClockwork()]
        self.houses.append(GotalkClockwork(beside=self.houses[0]))
        self.said: dict[str, list[str]] = {}
        self.acking: dict[str, list[Entry]] = {"": [], "phone": []}
        self.other: list[Entry] = []
        self.count = 0

    @rule(sender=st.sampled_from([1, 2]), node=st.booleans(), own=st.booleans(), late=st.booleans())
    def say(self, sender: int, node: bool, own: bool, late: bool) -> None:
        self.count += 1
        memory = self.houses[0].node.store.store
        highest = memory._last_id
        if late:  # this room's ids only ever grow
            room = memory._logs.get(room_of(sender, 3))
            memory._last_id = max(room.entries[-1].id if room else 0, highest - 7)
            while memory._last_id + 1 in memory._messages or memory._last_id + 2 in memory._messages:
                memory._last_id += 1
        text = f"{self.count}"
        if own:
            self.houses[node].say(3, sender, text)
        else:
            self.houses[node].say(sender, 3, text)
            self.said.setdefault(room_of(sender, 3), []).append(text)
        memory._last_id = max(highest, memory._last_id)

    @rule(node=st.booleans(), device=st.sampled_from(["", "phone"]), cut=st.integers(0, 12), old=st.integers(0, 3))
    def sync(self, node: bool, device: str, cut: int, old: int) -> None:
        """A client reads no more than `cut` messages of the answer, and at times acks an older one."""
        has = self.acking[device]
        ack = has[-1 - old].id if len(has) > old else 0
        answer = self.houses[node].sync(3, ack=ack, device=device)
        known = {entry.id for entry in has}
        assert len({entry.id for entry in answer}) == len(answer)
        if old == 0 or ack == 0:
            assert old or not known & {entry.id for entry in answer}, "handed over again though it was acked"
        has += [entry for entry in answer[:cut] if entry.id not in known]

    @rule(node=st.booleans(), arrives=st.booleans())
    def sync_without_ack(self, node: bool, arrives: bool) -> None:
        gotalk = self.houses[node]
        poll = gotalk.poll(3, device="old")
        answer = gotalk.node.now(gotalk.sync_calls.messages(poll))
        if arrives:
            self.other += answer
            gotalk.node.now(gotalk.sync_calls.received(poll, answer))

    def teardown(self) -> None:
        if not hasattr(self, "houses"):
            return
        for device in ("", "phone"):
            for _ in range(2):
                self.sync(False, device, 10**6, 0)
            self.check(self.acking[device])
        self.sync_without_ack(True, True)
        self.check(self.other)

    def check(self, got: list[Entry]) -> None:
        assert len({entry.id for entry in got}) == len(got)
        for rid, expected in self.said.items():
            assert [entry.text for entry in got if entry.rid == rid] == expected


TestLoss = Loss.TestCase
TestLoss.settings = settings(max_examples=60, stateful_step_count=40)
