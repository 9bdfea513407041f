"""/readyz: which part of a node cannot serve, in time, and without a question to the store for each who asks."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from mercury.net.siblings import Siblings
from mercury.rest.readiness import REMEMBERED, STORE_SECONDS, Readiness
from tests.support.clockwork import Clockwork
from tests.support.in_process_node import Node


class Probe:
    """A node on a Clock, and what those were told who asked whether it is ready."""

    def __init__(self) -> None:
        self.node = Clockwork()
        self.told: list[Any] = []
        self.readiness = Readiness(self.node.chat, Siblings(self.node.clock))
        self.readiness.enter("serving")

    def ask(self) -> Any:
        """Ask; the last answer that there is, as (node, store, bus, why)."""
        asked = Deferred.fromCoroutine(self.readiness.check())
        asked.addCallback(lambda found: self.told.append((found[0].node, found[0].store, found[0].bus, found[1])))
        self.node.settle()
        return self.told[-1] if self.told else None


def test_each_part_is_told_apart() -> None:
    probe = Probe()
    assert probe.ask() == ("serving", "up", "up", "")
    probe.node.chat.cluster._bus = type("Down", (), {"is_up": False})()
    assert probe.ask() == ("serving", "up", "down", ""), "which costs latency, and no more"
    probe.readiness.enter("stopping")
    assert probe.ask() == ("stopping", "up", "down", "Mercury is stopping")
    probe.readiness.enter("serving")
    probe.node.store.down = True
    probe.node.clock.advance(REMEMBERED)
    assert probe.ask() == ("serving", "down", "down", "the store is away")


def test_a_store_that_is_being_opened_is_not_asked() -> None:
    """Half made as it may be, it would take the question for a fault, and log it."""
    probe = Probe()
    probe.readiness.enter("starting")
    assert probe.ask() == ("starting", "down", "up", "Mercury is starting")
    assert probe.node.store.calls.count("ping") == 0


def test_many_who_ask_are_one_question_to_the_store() -> None:
    probe = Probe()
    probe.node.store.shut = {"ping"}
    for _ in range(5):
        assert probe.ask() is None
    probe.node.store.open_gate()
    probe.node.settle()
    assert len(probe.told) == 5
    assert probe.node.store.calls.count("ping") == 1
    probe.node.clock.advance(REMEMBERED)
    probe.ask()
    assert probe.node.store.calls.count("ping") == 2


def test_a_store_that_hangs_makes_the_node_not_ready_in_time() -> None:
    probe = Probe()
    probe.node.store.shut = {"ping"}
    probe.ask()
    probe.ask()
    probe.node.clock.advance(STORE_SECONDS - 0.1)
    assert probe.told == []
    probe.node.clock.advance(0.1)
    assert probe.told == [("serving", "down", "up", "the store did not answer within 2 s")] * 2


@ensureDeferred
async def test_over_http_it_is_503_with_the_part_that_is_to_blame() -> None:
    async with Node() as node:
        ready = await node.ask("GET", "/readyz")
        assert (ready.status, ready.body) == (200, {"node": "serving", "store": "up", "bus": "up"})
        node.readiness.enter("stopping")
        answer = await node.ask("GET", "/readyz")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json == {
            "status": "error", "code": "unavailable", "error": "Mercury is stopping", "retry_after": 1.0,
            "parts": {"node": "stopping", "store": "up", "bus": "up"},
        }  # fmt: skip
        assert (await node.ask("GET", "/healthz")).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@ensureDeferred
async def test_no_key_is_asked_for(method: str) -> None:
    node = Node()
    node.keys = f"shop:{'0' * 64}"
    async with node:
        assert (await node.ask(method, "/readyz")).status == 200
        assert (await node.ask(method, "/metrics")).status == 401
