"""A fault of ours in delivery harms who it is about, and nobody else: the others hear all, once, and who has left hears
nothing. All on a Clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from mercury.core.delivery.rechecks import RETRY
from mercury.core.dialect import PlainDialect
from mercury.domain import close_codes, events
from mercury.domain.model import Entry
from mercury.interfaces import IFrameEncoder
from tests.support.clockwork import Clockwork, Device
from tests.support.in_process_node import ENCODER


class Broken:
    """A wire that has no frames for some entries, nor, if `mute`, for having caught up."""

    name = "broken"
    acknowledges = True

    def __init__(self, fails: Callable[[Entry], bool], *, mute: bool = False) -> None:
        self.fails = fails
        self.mute = mute

    def event(self, event: events.Event) -> bytes:
        if self.mute and isinstance(event, events.CaughtUp):
            raise KeyError("broken on purpose")
        return ENCODER.event(event)

    def entries(self, entries: Sequence[Entry]) -> bytes:
        if any(map(self.fails, entries)):
            raise KeyError("broken on purpose")
        return ENCODER.entries(entries)


@pytest.fixture
def node() -> Clockwork:
    """Ann and Bob are in two rooms."""
    node = Clockwork()
    node.join("r", "ann", "bob")
    node.join("s", "ann", "bob")
    return node


def hear_by(device: Device, encoder: Broken) -> None:
    """Have a device hear by this encoder."""
    session: Any = device.session
    session.encoder = encoder
    session._dialect = PlainDialect(session._dialect.decode, cast(IFrameEncoder, encoder))


def by(node: Clockwork, wire: Broken, member: str = "ann") -> Device:
    """A device that hears by this wire."""
    device = node.device(member, "broken", login=False)
    hear_by(device, wire)
    device.enter(node.token(member))
    return device


def faults(logged: Sequence[Any], key: str) -> list[Any]:
    return [event.get(key) for event in logged if "log_failure" in event]


def says_one(entry: Entry) -> bool:
    return entry.text == "one"


def test_a_wire_that_fails_does_not_starve_who_hears_by_another(node: Clockwork) -> None:
    """They hear once; its own listeners are cut off, and hear nothing of what comes after what they missed."""
    ann, bob, cut = node.device("ann"), node.device("bob"), by(node, Broken(says_one))
    with capturedLogs() as logged:
        bob.say("r", "one")
        joining = Deferred.fromCoroutine(node.chat.rooms.join("r", ["cat"]))
        bob.say("r", "two")  # in the same batch, and told apart from it
        node.now(joining)
        node.wait(2 * RETRY)
    assert [device.texts() for device in (ann, bob, cut)] == [["one", "two"], ["one", "two"], []]
    assert (ann.code, bob.code, cut.code) == (None, None, close_codes.BUSY.code)
    assert faults(logged, "encoder") == ["broken"]


@pytest.mark.parametrize("is_behind", [False, True])
def test_who_left_hears_no_more_though_a_wire_fails_on_it(node: Clockwork, is_behind: bool) -> None:
    """It is the other device's, which is asked first."""
    cut, ann, bob = by(node, Broken(lambda entry: entry.kind == "left")), node.device("ann"), node.device("bob")
    if is_behind:
        node.chat.hub.rooms["r"].fall_behind(cut.session)
    with capturedLogs():
        node.now(node.chat.rooms.leave("r", ["ann"]))
        node.post("r", "secret")
        node.wait(2 * RETRY)
    assert [device.texts() for device in (cut, ann, bob)] == [[], [], ["secret"]]
    assert cut.code == close_codes.BUSY.code


def test_a_fault_about_who_has_caught_up_does_not_spare_whose_wire_failed(node: Clockwork) -> None:
    node.join("r", "cat")
    cut, bob, cat = by(node, Broken(says_one)), node.device("bob"), by(node, Broken(says_one), "cat")
    room = node.chat.hub.rooms["r"]
    room.fall_behind(cat.session)
    room.behind[cat.session] = room.head + 2  # read ahead of what is told
    hear_by(cat, Broken(says_one, mute=True))
    with capturedLogs() as logged:
        node.post("r", "one")
        node.wait(2 * RETRY)
        node.post("r", "two")
        node.wait(2 * RETRY)
    assert [device.texts() for device in (bob, cut)] == [["one", "two"], []]
    assert cut.code == close_codes.BUSY.code
    assert faults(logged, "room")[:2] == ["r", "r"]


def test_a_fault_in_one_room_does_not_starve_the_others(node: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hear, here and on other nodes; what it kept from being told is found by a look."""
    bob = node.device("bob")
    told: list[Any] = []
    deliver = node.chat.hub._deliver
    broken = [KeyError("broken on purpose")]

    def failing(rid: str, run: list[Entry]) -> None:
        if rid == "r" and broken:
            raise broken.pop()
        deliver(rid, run)

    monkeypatch.setattr(node.chat.hub, "_deliver", failing)
    monkeypatch.setattr(node.chat.journal._bus, "publish", told.append)
    ann = node.device("ann")
    for rid in "rs":
        ann.say(rid, rid)
    with capturedLogs() as logged:
        node.wait(RETRY)
    assert sorted(bob.texts()) == ["r", "s"]
    assert [len(entries) for entries in told] == [2]
    assert faults(logged, "room") == ["r"]
