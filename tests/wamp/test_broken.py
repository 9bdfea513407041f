"""A generator of broken WAMP messages finds no fault: none is logged, none stops the node, none is seen by others.

`--hypothesis-profile=long` makes up twenty times as many.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from twisted.logger import LogEvent, LogLevel, eventAsText, globalLogPublisher

from mercury.core.session import Session
from mercury.settings.limits import Limits
from mercury.websocket.wamp.dialect import WampDialect
from mercury.websocket.wamp.messages import Packer, ViolationError
from tests.support.broken_wamp import ATTACKS, Frame, lives
from tests.support.cpu_cost import bounded_by
from tests.support.wamp_clockwork import (
    ABORT,
    AUTHENTICATE,
    CALL,
    EVENT,
    NAMES,
    RESULT,
    SUBSCRIBE,
    Client,
    Node,
    brief,
    hello,
)

EXAMPLES = 5000 * settings().max_examples // 100  # in all: 5,000 in a usual run
RENEWED = 200  # examples after which a node is thrown away, as its rooms grow


@contextmanager
def nothing_logged() -> Iterator[list[LogEvent]]:
    """Fails if a warning or worse is logged within, a coroutine that failed unheard among them."""
    logged: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.warn:
            logged.append(event)

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    try:
        yield logged
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(observer)
    assert [eventAsText(event) for event in logged] == []


class House:
    """A node where Eve does what she likes, in the room "b". Ann is in "r" and Bob in both; each hears all they may."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.node = Node(handshake_seconds=0, ping_seconds=0)
        self.ann, self.bob = self.node.client("ann", name), self.node.client("bob", name)
        for client in (self.ann, self.bob):
            client.subscribe("mercury.inbox")
        self.ticket = self.node.token("eve")
        self.turns = 0
        self.timers = len(self.node.clock.getDelayedCalls())

    def eve(self, stage: str) -> Client:
        """A connection of Eve's that has come so far."""
        self.node.join("b", "eve")
        eve = self.node.stranger(self.name, url="eve" if stage == "by url" else "")
        if stage in ("challenged", "logged in", "subscribed"):
            eve.tell(hello(authid="eve"))
        elif stage == "signing":
            eve.tell(hello(authid="eve", authmethods=["wampcra"]))
        elif stage == "by url":
            eve.tell(hello(authid="eve"))
        if stage in ("logged in", "subscribed"):
            eve.tell([AUTHENTICATE, self.ticket, {}])
        if stage == "subscribed":
            eve.tell([SUBSCRIBE, 1, {}, "mercury.inbox"])
        return eve

    def suffer(self, stage: str, sent: list[Frame]) -> None:
        """Let Eve send these, and see that all is well."""
        self.turns += 1
        eve = self.eve(stage)
        before = len(self.ann.heard), len(self.bob.heard)
        for payload, binary in sent:
            eve.session.on_frame(payload, binary)
        self.node.settle()
        assert all(isinstance(message, list) for message in eve.heard)
        if eve.session.mid and eve.code is None:
            [*_, answer] = eve.tell([CALL, 2**53, {}, "mercury.rooms"])
            assert answer[:2] == (RESULT, 2**53)
        elif eve.code is None:  # not logged in yet: the next message may be the right one
            eve.tell([ABORT, {}, "wamp.close.normal"])
            assert eve.code is not None
        eve.close(1006, "")
        eve.session.closed(1006)
        self.others_are_well(*before)

    def others_are_well(self, anns: int, bobs: int) -> None:
        """Ann has heard nothing, Bob what was said in "b", and both are answered."""
        node, turn = self.node, self.turns
        assert self.ann.since(anns) == []
        for message in self.bob.heard[bobs:]:
            event = message[5]
            assert (message[0], event["rid"]) == (EVENT, "b")
            assert event.get("mid", "eve") == "eve"
        node.post("r", f"turn {turn}")
        expected = [(EVENT, "mercury.room.r", "message", turn + 1, f"turn {turn}")]
        assert self.ann.since(anns) == expected
        assert brief(self.bob.heard[-1]) == expected[0]
        assert self.ann.tell([CALL, turn, {}, "mercury.history", ["r"], {"limit": 1}])[0][:2] == (RESULT, turn)
        assert self.bob.tell([CALL, turn, {}, "mercury.history", ["b"], {"limit": 1}])[0][:2] == (RESULT, turn)

    def nothing_is_left(self) -> None:
        """Of Eve's sessions nothing is kept, and nobody has missed a seq."""
        self.node.wait(10)
        chat = self.node.chat
        assert {session.mid for session in chat.hub.everybody()} == {"ann", "bob"}
        assert chat.hub.rooms.keys() == {"r", "b"}
        assert {session.mid for room in chat.hub.rooms.values() for session in room} == {"ann", "bob"}
        assert len(self.node.clock.getDelayedCalls()) <= self.timers + 2
        for rid in ("r", "b"):
            events = [message[5] for message in self.bob.heard if message[0] == EVENT and message[5]["rid"] == rid]
            seqs = [event["seq"] for event in events if event["type"] in ("message", "joined", "left")]
            assert seqs == list(range(1, len(seqs) + 1))


def sessions_in_memory() -> int:
    gc.collect()
    return sum(isinstance(thing, WampDialect | Session) for thing in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_message_that_can_be_made_up_harms_anybody(name: str) -> None:
    houses = [House(name)]
    already = sessions_in_memory()

    @settings(max_examples=EXAMPLES // 3 + 1)
    @given(lives(name))
    def suffer(life: tuple[str, list[Frame]]) -> None:
        if houses[0].turns == RENEWED:
            houses[0].nothing_is_left()
            assert sessions_in_memory() <= already
            houses[0] = House(name)
        with only_new(logged):
            houses[0].suffer(*life)

    with nothing_logged() as logged:
        suffer()
        houses[0].nothing_is_left()


@contextmanager
def only_new(logged: list[LogEvent]) -> Iterator[None]:
    """Fails if something was logged within."""
    logged.clear()
    yield
    assert [eventAsText(event) for event in logged] == []


# What one message may cost


@pytest.mark.parametrize(("name", "number"), [(name, number) for name in NAMES for number in range(len(ATTACKS[name]))])
def test_a_message_costs_about_as_much_as_it_is_long(name: str, number: int) -> None:
    payload = ATTACKS[name][number]
    packer = Packer(name, Limits())
    with bounded_by(len(payload)), suppress(ViolationError):
        packer.parse(payload, packer.binary)
