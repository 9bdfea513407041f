"""A fault of ours in delivery harms who it is about, and nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from promises.clockwork import Clockwork
from twisted.logger import capturedLogs

from mercury.core.looks import RETRY
from mercury.model import Entry
from mercury.ports import IWire


class Mute:
    """A wire whose frames nobody needs, and which has none for messages, by a fault."""

    name = "mute"
    acknowledges = True

    def event(self, event: object) -> bytes:
        return b""

    def entries(self, entries: Sequence[Entry]) -> bytes:
        if any(entry.kind == "message" for entry in entries):
            raise KeyError("broken on purpose")
        return b""


@pytest.fixture
def node() -> Clockwork:
    """Ann and Bob are in two rooms."""
    node = Clockwork()
    node.join("r", "ann", "bob")
    node.join("s", "ann", "bob")
    return node


def faults(events: Sequence[Any]) -> list[Any]:
    return [event for event in events if "log_failure" in event]


def test_a_wire_that_fails_does_not_starve_who_hears_by_another(node: Clockwork) -> None:
    """They hear once; its own listeners are cut off."""
    ann, bob, deaf = node.device("ann"), node.device("bob"), node.device("ann", "deaf", login=False)
    deaf.session.wire = cast(IWire, Mute())
    deaf.enter(node.token("ann"))
    with capturedLogs() as events:
        node.post("r", "one", "two")
        node.wait(2 * RETRY)
    assert [device.texts() for device in (ann, bob)] == [["one", "two"]] * 2
    assert (ann.code, bob.code, deaf.code) == (None, None, 1006)
    assert [event["wire"] for event in faults(events)] == ["mute"]


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
    monkeypatch.setattr(node.chat.hub.others, "committed", told.append)
    ann = node.device("ann")
    for rid in "rs":
        ann.say(rid, rid)
    with capturedLogs() as events:
        node.wait(RETRY)
    assert sorted(bob.texts()) == ["r", "s"]
    assert [len(entries) for entries in told] == [2]
    assert [event["room"] for event in faults(events)] == ["r"]
