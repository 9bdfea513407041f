"""What tests about who is in a room do: entries that are stored and not told yet, devices that hear nothing, answers
of the store that come late. All on a Clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mercury.domain.model import Draft, Entry, Outcome
from tests.support.clockwork import Clockwork, Device, WampDevice
from tests.support.lossy_bus import LossyBus, Network


class TwoNodes:
    """Two nodes that speak WAMP: ann, who hears nothing, is in "q", bob in "r"."""

    def __init__(self, *more: str) -> None:
        """`more`: who else is in "r"."""
        self.network = Network()
        self.here = Clockwork(bus=LossyBus(self.network), wamp="json")
        self.there = Clockwork(bus=LossyBus(self.network), beside=self.here, wamp="json")
        self.here.join("q", "ann")
        self.here.join("r", "bob", *more)


def stored(node: Clockwork, *drafts: Draft) -> list[Entry]:
    """What the store made of these, behind the node's back."""
    outcomes = node.now(node.store.store.append(drafts, 1))
    return [outcome.entry for outcome in outcomes if isinstance(outcome, Outcome) and outcome.entry]


def joined(*members: str) -> Draft:
    return Draft(rid="r", kind="joined", members=members)


def left(*members: str) -> Draft:
    return Draft(rid="r", kind="left", members=members)


def said(text: str) -> Draft:
    return Draft(rid="r", mid="bob", text=text)


def deaf(node: Clockwork, member: str = "ann", name: str = "deaf") -> Device:
    """A device that subscribes to nothing."""
    device = node.device(member, name, login=False)
    assert isinstance(device, WampDevice)
    device.topics = ()
    device.connect(node.token(member))
    return device


@contextmanager
def places_read(node: Clockwork) -> Iterator[Callable[[], None]]:
    """Ann's places are read in this block, and come as they stood at its beginning when what it gives is called."""
    places, answer = node.now(node.store.store.memberships("ann", "")), Deferred[Any]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node.store.store, "memberships", lambda mid, device: answer)
        yield partial(answer.callback, places)


def rooms(device: Device) -> set[str]:
    return {room.rid for room in device.session.rooms}
