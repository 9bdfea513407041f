"""Random walks of two nodes on one store: joins, leaves, messages, logins and full sockets, while the bus is late, each
of the store's answers comes when it likes, and now and then somebody looks again. In the end every session is in the
rooms that its member is in, and was told each of their entries once and in order. All on a Clock; a seed is a walk.
More of them:  MERCURY_WALKS=20000 make test ARGS=tests/core/test_walks.py
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from mercury.core.delivery.hub import HOLE
from mercury.interfaces import IBusListener
from tests.support.clockwork import Clockwork, Device, WampDevice
from tests.support.lossy_bus import LossyBus, Network
from tests.support.wamp_words import INBOX

MEMBERS, ROOMS = ("ann", "bob", "cyd"), ("r", "s")
STEPS = (  # as often as they stand here
    "login", "post", "post", "join", "join", "leave", "leave", "hear", "hear", "hear", "answer", "answer", "answer",
    "heads", "look", "wait", "wait", "drop", "fill", "drain",
)  # fmt: skip
WALKS = int(os.environ.get("MERCURY_WALKS", "400"))


class Slow:
    """A store whose reads are true when they are asked for, and answered later, in any order."""

    def __init__(self, store: Any) -> None:
        self.answers: list[Callable[[], None]] = []
        self.behind = store

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.behind, name)
        if name not in ("read", "heads", "memberships"):
            return found

        def call(*args: Any) -> Deferred[Any]:
            answer: Deferred[Any] = Deferred()
            found(*args).addBoth(lambda result: self.answers.append(lambda: answer.callback(result)))
            return answer

        return call


class LateNetwork(Network):
    """What one node sends to another one keeps its order and takes its time. What it sends in one turn goes together,
    so nothing comes between a join and that somebody came."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0
        self._ways: dict[tuple[str, str], list[tuple[int, list[Callable[[], None]]]]] = {}

    def send(self, sender: LossyBus, rid: str | None, tell: Callable[[IBusListener], None]) -> None:
        for bus in self.buses:
            if bus is not sender and (rid is None or rid in bus.rooms):
                way = self._ways.setdefault((sender.node, bus.node), [])
                if not way or way[-1][0] != self.turn:
                    way.append((self.turn, []))
                way[-1][1].append(lambda bus=bus: tell(bus.listener))  # type: ignore[misc]

    def hear(self, choose: Callable[[list[tuple[str, str]]], tuple[str, str]]) -> bool:
        """Let the next of what is on one of the ways arrive; whether there was something."""
        full = sorted(way for way, sent in self._ways.items() if sent)
        if full:
            for tell in self._ways[choose(full)].pop(0)[1]:
                tell()
        return bool(full)


class Walk:
    """One walk, of the seed's length. `deaf`: also with WAMP clients that subscribe to nothing."""

    def __init__(self, seed: int, deaf: bool) -> None:
        self.random = random.Random(seed)
        self.network = LateNetwork()
        wamp = "json" if deaf else ""
        first = Clockwork(bus=LossyBus(self.network), wamp=wamp)
        self.nodes = (first, Clockwork(bus=LossyBus(self.network), beside=first, wamp=wamp))
        self.devices: list[Device] = []
        first.join("r", "ann", "bob")
        first.join("s", "ann")
        self.tokens = {mid: first.token(mid) for mid in MEMBERS}
        self.store = first.store.store = Slow(first.store.store)  # type: ignore[assignment]  # it is a store's like

    def go(self) -> None:
        """Walk, then let everything come to rest."""
        for _ in range(self.random.randrange(10, 60)):
            getattr(self, "_" + self.random.choice(STEPS))(
                self.random.choice(self.nodes), self.random.choice(MEMBERS), self.random.choice("rrs")
            )
            self._settle()
        for _ in range(60):
            self._drain()
            while self.network.hear(min) or self._answer():
                self._settle()
            self.nodes[0].clock.advance(0.05)

    def _settle(self) -> None:
        for _ in range(4):
            self.network.turn += 1
            self.nodes[0].clock.advance(0)

    def _login(self, node: Clockwork, mid: str, rid: str) -> None:
        if len(self.devices) < 6:
            device = node.device(mid, login=False)
            if isinstance(device, WampDevice):
                device.topics = self.random.choice(((), (INBOX,)))
            self.devices.append(device)
            device.enter(self.tokens[mid])

    def _post(self, node: Clockwork, mid: str, rid: str) -> None:
        self._do(node.chat.rooms.post("", rid, "hello"))

    def _join(self, node: Clockwork, mid: str, rid: str) -> None:
        self._do(node.chat.rooms.join(rid, [mid]))

    def _leave(self, node: Clockwork, mid: str, rid: str) -> None:
        self._do(node.chat.rooms.leave(rid, [mid]))

    def _do(self, work: Any) -> None:
        Deferred.fromCoroutine(work).addErrback(lambda failure: None)

    def _hear(self, *_: Any) -> None:
        self.network.hear(self.random.choice)

    def _answer(self, *_: Any) -> bool:
        answers = self.store.answers
        if answers:
            answers.pop(self.random.randrange(len(answers)))()
            return True
        return False

    def _heads(self, node: Clockwork, mid: str, rid: str) -> None:
        node.chat.hub.warm([rid])

    def _look(self, node: Clockwork, mid: str, rid: str) -> None:
        if self.random.random() < 0.3:
            node.chat.hub.look_again(None)

    def _wait(self, *_: Any) -> None:
        self.nodes[0].clock.advance(self.random.choice((HOLE / 4, 1.5 * HOLE)))

    def _drop(self, *_: Any) -> None:
        if self.devices and self.random.random() < 0.5:
            self.devices.pop(self.random.randrange(len(self.devices))).lose()

    def _fill(self, *_: Any) -> None:
        if self.devices:
            self.random.choice(self.devices).full = True

    def _drain(self, *_: Any) -> None:
        for device in self.devices:
            device.full = False
            if device.session.is_slow:
                device.session.drained()

    def wrong(self) -> list[str]:
        """What does not hold in the end."""
        wrong = []
        for number, device in enumerate(self.devices):
            places = {place.rid: place for place in self.nodes[0].now(self.store.behind.memberships(device.member, ""))}
            rooms = {room.rid for room in device.session.rooms}
            if rooms != set(places):
                wrong.append(f"{number}, {device.member}, is in {sorted(rooms)} and has places in {sorted(places)}")
            for rid in ROOMS:
                kinds = ("message", "joined", "left")
                seqs = [event["seq"] for event in device.heard if event["type"] in kinds and event["rid"] == rid]
                if seqs != sorted(set(seqs)):
                    wrong.append(f"{number}, {device.member}, was told {seqs} of {rid}")
                if rid in places and device.session.hears(rid) and seqs[-1:] != [places[rid].head]:
                    wrong.append(
                        f"{number}, {device.member}, was told {seqs} of {rid}, which ends at {places[rid].head}"
                    )
        return wrong


@pytest.mark.parametrize("deaf", [False, True], ids=["v2", "wamp"])
def test_everybody_gets_what_is_theirs_however_late_all_comes(deaf: bool) -> None:
    for seed in range(WALKS):
        walk = Walk(seed, deaf)
        walk.go()
        assert not walk.wrong(), f"walk {seed}"
