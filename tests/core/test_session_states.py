"""The tables of states of a session's parts: what each state does with each input. All on a Clock."""

from __future__ import annotations

from typing import Any

import pytest

from mercury.core import session as states
from mercury.core.delivery import proof
from mercury.core.delivery.heartbeat import Pace
from mercury.domain import commands
from tests.support.clockwork import Clockwork, Device


@pytest.fixture
def node() -> Clockwork:
    """Ann and Bob are in the room "r"."""
    node = Clockwork()
    node.join("r", "ann", "bob")
    return node


def in_state(node: Clockwork, state: int) -> Device:
    """A device of Ann's whose queue is in this state; the store answers neither appends nor reads of history."""
    ann = node.device("ann", login=state != states.NEW)
    node.store.shut = {"append", "history"}
    if state == states.SENDING:
        ann.say("r", "first", 1)
    elif state == states.BUSY:
        ann.give(commands.History(rid="r", ref=1))
    elif state == states.FINISHED:
        ann.session.finish()
    elif state == states.CLOSED:
        ann.lose()
    node.settle()
    assert queue(ann).state == state
    return ann


def queue(device: Device) -> states.CommandQueue:
    return device.session._commands


def waiting(device: Device) -> int:
    return len(queue(device)._waiting or ())


@pytest.mark.parametrize(
    ("state", "after", "waits"),
    [
        (states.IDLE, states.SENDING, 0),
        (states.SENDING, states.SENDING, 0),
        (states.BUSY, states.BUSY, 1),
        (states.FINISHED, states.FINISHED, 0),
        (states.CLOSED, states.CLOSED, 0),
    ],
)
def test_a_send_comes(node: Clockwork, state: int, after: int, waits: int) -> None:
    ann = in_state(node, state)
    ann.say("r", "hello", 2)
    assert (queue(ann).state, waiting(ann)) == (after, waits)


@pytest.mark.parametrize(
    ("state", "after", "waits"),
    [
        (states.IDLE, states.BUSY, 0),
        (states.SENDING, states.SENDING, 1),
        (states.BUSY, states.BUSY, 1),
        (states.FINISHED, states.FINISHED, 0),
        (states.CLOSED, states.CLOSED, 0),
    ],
)
def test_another_command_comes(node: Clockwork, state: int, after: int, waits: int) -> None:
    ann = in_state(node, state)
    ann.give(commands.History(rid="r", ref=2))
    assert (queue(ann).state, waiting(ann)) == (after, waits)


@pytest.mark.parametrize("command", [commands.Send(rid="r", text="x"), commands.Rooms()])
def test_what_comes_before_the_login_ends_the_session(node: Clockwork, command: commands.Command) -> None:
    ann = in_state(node, states.NEW)
    ann.give(command)
    node.settle()
    assert (queue(ann).state, ann.code) == (states.CLOSED, 4400)


@pytest.mark.parametrize("state", [states.SENDING, states.BUSY])
@pytest.mark.parametrize("ending", [states.IDLE, states.FINISHED, states.CLOSED])
def test_the_last_answer_is_given(node: Clockwork, state: int, ending: int) -> None:
    """After finish() it still is, and nothing follows; once the connection is closed it is not."""
    ann = in_state(node, state)
    ann.give(commands.Presence(rid="r", ref=2))
    if ending == states.FINISHED:
        ann.session.finish()
    elif ending == states.CLOSED:
        ann.lose()
    before = len(ann.heard)
    node.store.open_gate()
    node.settle()
    heard = [event["ref"] for event in ann.heard[before:] if "ref" in event]
    assert queue(ann).state == ending
    if ending != states.CLOSED or state == states.SENDING:  # the other's answer is written to nobody
        assert heard == {states.IDLE: [1, 2], states.FINISHED: [1], states.CLOSED: []}[ending]


def test_what_waits_behind_a_full_socket_begins_when_it_has_drained(node: Clockwork) -> None:
    ann = in_state(node, states.IDLE)
    ann.session.slow()
    ann.say("r", "hello", 2)
    assert (queue(ann).state, waiting(ann)) == (states.IDLE, 1)
    ann.session.drained()
    assert (queue(ann).state, waiting(ann)) == (states.SENDING, 0)


# Proof of delivery


class Written:
    """A session with one room, of which `head` is written, and the queue in which it waits."""

    def __init__(self) -> None:
        self.rooms: dict[Any, int] = {self: 0}
        self.connection = self
        self.head = 0
        self.queued = 0
        self.pings: list[bytes] = []
        session: Any = self
        self.session = session
        self.proof = proof.DeliveryProof(session)

    def add(self, session: object) -> None:
        self.queued += 1

    def next_seq(self, session: object) -> int:
        return self.head + 1

    def ping(self, payload: bytes) -> None:
        self.pings.append(payload)

    def to(self, state: int) -> None:
        """Come into a state, with entry 1 written."""
        self.head = 1
        if state >= proof.QUEUED:
            self.proof.written(self.session)
        if state >= proof.AWAITING:
            self.proof.prove(self.session)
        if state == proof.AWAITING_MORE:
            self.proof.written(self.session)
        assert self.proof.state == state
        self.queued = 0


@pytest.mark.parametrize(
    ("state", "after", "queued"),
    [
        (proof.IDLE, proof.QUEUED, 1),
        (proof.QUEUED, proof.QUEUED, 0),
        (proof.AWAITING, proof.AWAITING_MORE, 0),
        (proof.AWAITING_MORE, proof.AWAITING_MORE, 0),
    ],
)
def test_more_is_written(state: int, after: int, queued: int) -> None:
    one = Written()
    one.to(state)
    one.proof.written(one.session)
    assert (one.proof.state, one.queued) == (after, queued)


@pytest.mark.parametrize(
    ("state", "after", "pinged"),
    [
        (proof.IDLE, proof.AWAITING, True),
        (proof.QUEUED, proof.AWAITING, True),
        (proof.AWAITING, proof.AWAITING_MORE, False),
        (proof.AWAITING_MORE, proof.AWAITING_MORE, False),
    ],
)
def test_its_turn_comes(state: int, after: int, pinged: bool) -> None:
    one = Written()
    one.to(state)
    before = len(one.pings)
    assert one.proof.prove(one.session) is pinged
    assert (one.proof.state, len(one.pings) - before) == (after, pinged)


def test_its_turn_comes_when_all_is_proved() -> None:
    one = Written()
    one.to(proof.QUEUED)
    one.head = 0
    assert not one.proof.prove(one.session)
    assert (one.proof.state, one.pings) == (proof.IDLE, [])


@pytest.mark.parametrize(
    ("state", "after", "proves"),
    [
        (proof.IDLE, proof.IDLE, False),
        (proof.QUEUED, proof.QUEUED, False),
        (proof.AWAITING, proof.IDLE, True),
        (proof.AWAITING_MORE, proof.QUEUED, True),
    ],
)
def test_the_pong_comes(state: int, after: int, proves: bool) -> None:
    one = Written()
    one.to(state)
    proved: list[Any] = list(one.proof.pong(one.session, b"1"))
    assert (one.proof.state, proved) == (after, [(one, 1)] if proves else [])
    assert one.queued == (state == proof.AWAITING_MORE)


# Pace


def test_silence_is_counted_from_the_last_sign_of_life() -> None:
    pace = Pace()
    assert [pace.silence(heard) for heard in (True, False, False, True, False)] == [0, 1, 2, 0, 1]


def test_a_stall_is_measured_from_the_last_byte_that_was_taken() -> None:
    pace = Pace()
    pace.filled(100)
    assert [pace.stall(taken, 25.0) for taken in (100, 100, 101, 101)] == [25.0, 50.0, 0.0, 25.0]
    pace.filled(101)
    assert pace.stall(101, 25.0) == 25.0
