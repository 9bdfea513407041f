"""In a large room, whom a message reaches first."""

from __future__ import annotations

import pytest
from promises.clockwork import Clockwork, Device

from mercury.core.outbox import MANY


@pytest.mark.parametrize("wamp", ["", "json"])
def test_authors_hear_first_of_what_they_say(wamp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what they say next is on its way while the others are told."""
    node = Clockwork(wamp=wamp)
    members = [f"m{number}" for number in range(MANY)]
    node.join("r", *members)
    devices = [node.device(member) for member in members]
    for member in members:
        node.device(member, "other")
    order: list[str] = []

    def deliver(device: Device, data: bytes) -> int:
        order.append(device.member)
        return len(data)

    monkeypatch.setattr(Device, "deliver", deliver)
    monkeypatch.setattr(Device, "write", deliver)
    for author in (devices[5], devices[-1], devices[0]):
        order.clear()
        author.say("r", "hello")
        node.settle()
        assert order[:2] == [author.member] * 2, "both of the author's devices"
        assert sorted(order) == sorted(members * 2)
