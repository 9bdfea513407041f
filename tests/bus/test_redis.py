"""What the bus on Redis promises, with real servers that die, fall silent, or ask for a password."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from zope.interface.verify import verifyClass, verifyObject

from mercury.bus import redis
from mercury.bus.local import LocalBus
from mercury.bus.redis import RedisBus, room_channels
from mercury.domain.events import Presence, Read, Typing
from mercury.domain.model import Entry
from mercury.domain.signals import Came, Kick, Revoke, Signal
from mercury.interfaces import IBus, IBusListener
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from tests.contracts.tools import NOW, entry_of, joined, message, put
from tests.support.free_ports import free_port
from tests.support.lossy_proxy import LossyProxy
from tests.support.recording_clients import until
from tests.support.redis_bus import RecordingListener, bus_node, said, texts
from tests.support.redis_servers import RedisEngine

pytestmark = pytest.mark.slow

BEAT, SILENCE = redis.BEAT_INTERVAL, redis.SILENCE_TIMEOUT  # as they are; the tests themselves are quicker
NEVER = 30.0  # seconds: longer than what should take a moment


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same clockwork, ten times as fast."""
    monkeypatch.setattr(redis, "BEAT_INTERVAL", 0.2)
    monkeypatch.setattr(redis, "SILENCE_TIMEOUT", 0.8)


@pytest.mark.parametrize("bus", [LocalBus(), RedisBus(reactor, RedisServer())])
def test_each_bus_provides_the_interface(bus: Any) -> None:
    assert verifyObject(IBus, bus)
    assert verifyClass(IBus, type(bus))
    assert verifyObject(IBusListener, RecordingListener())


def test_the_silence_that_is_noticed_is_within_what_is_promised() -> None:
    assert SILENCE + 2 * BEAT < 15


# Telling and hearing


@pytest_twisted.ensureDeferred
async def test_entries_come_to_those_who_have_subscribed_whole_and_in_order(engine: RedisEngine) -> None:
    async with (
        bus_node(engine.port) as (a, listener_a),
        bus_node(engine.port) as (b, listener_b),
        bus_node(engine.port) as (_, listener_c),
    ):
        await a.subscribe("r")
        await b.subscribe("r")
        entries = [said("r", n, "x" * n) for n in range(50)] + [
            Entry("r", 50, 1050, "joined", NOW, members=("a", "\U0001f600"))
        ]
        a.publish([said("s", 1), *entries[:20]])
        a.publish(entries[20:])
        await until(lambda: len(listener_b.entries) >= len(entries))
        assert listener_b.entries == entries
        assert listener_b.pieces == [51]  # two messages that came together
        await deferLater(reactor, 0.05)
        assert listener_a.entries == listener_c.entries == []


@pytest_twisted.ensureDeferred
async def test_a_large_batch_comes_in_pieces(engine: RedisEngine) -> None:
    async with bus_node(engine.port) as (a, _), bus_node(engine.port) as (b, listener):
        await b.subscribe("r")
        entries = [said("r", n, "\U0001f600" * 4000) for n in range(100)]
        a.publish(entries)
        await until(lambda: len(listener.entries) == 100)
        assert listener.entries == entries
        assert max(listener.pieces) * 16_000 <= redis.MAX_PAYLOAD


@pytest_twisted.ensureDeferred
async def test_signals_go_to_a_rooms_nodes_or_to_all(engine: RedisEngine) -> None:
    async with (
        bus_node(engine.port) as (a, listener_a),
        bus_node(engine.port) as (b, listener_b),
        bus_node(engine.port) as (_, listener_c),
    ):
        await b.subscribe("r")
        of_room: list[Signal] = [Typing("r", "a"), Presence("r", "a", True), Read("r", "a", 3)]
        of_all: list[Signal] = [Kick("a", "phone"), Kick("a"), Revoke("a", b"\xff\x00"), Revoke("a")]
        for signal in of_room:
            a.publish_signal("r", signal)
        for signal in of_all:
            a.publish_signal(None, signal)
        await until(lambda: len(listener_b.signals) == 7 and len(listener_c.signals) == 4)
        assert listener_b.signals == [(a.node, signal) for signal in of_room + of_all]
        assert listener_c.signals == [(a.node, signal) for signal in of_all]
        assert listener_a.signals == []


@pytest_twisted.ensureDeferred
async def test_whoever_unsubscribes_hears_no_more_and_may_come_back(engine: RedisEngine) -> None:
    async with bus_node(engine.port) as (a, _), bus_node(engine.port) as (b, listener):
        for round_ in range(3):
            await b.subscribe("r")
            a.publish([said("r", round_, f"in {round_}")])
            await until(lambda: len(listener.entries) == round_ + 1)  # noqa: B023 - it is awaited within the round
            b.unsubscribe("r")
            b.subscribe("r")
            b.unsubscribe("r")
            await deferLater(reactor, 0.05)
            a.publish([said("r", round_, "out")])
        await deferLater(reactor, 0.05)
        assert texts(listener) == ["in 0", "in 1", "in 2"]
        again = b.subscribe("r")
        b.unsubscribe("r")
        await again  # nobody waits for ever
        assert engine.ask("PUBSUB", "NUMSUB", "mercury:0:room:r").endswith(b":0\r\n")


@pytest_twisted.ensureDeferred
async def test_who_comes_back_within_a_turn_waits_for_nothing(
    engine: RedisEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is not asked then, and so does not confirm it."""
    monkeypatch.setattr(redis, "SUBSCRIBE_TIMEOUT", 10 * NEVER)
    async with bus_node(engine.port) as (bus, _):
        await bus.subscribe("r")
        bus.unsubscribe("r")
        again = bus.subscribe("r")
        await until(lambda: again.called, "being subscribed")


@pytest_twisted.ensureDeferred
async def test_many_rooms_are_subscribed_to_at_once(engine: RedisEngine) -> None:
    async with bus_node(engine.port) as (a, _), bus_node(engine.port) as (b, listener):
        waiting = [b.subscribe(f"r{n}") for n in range(3000)]
        for fired in waiting:
            await fired
        a.publish([said(f"r{n}", 1, str(n)) for n in range(3000)])
        await until(lambda: len(listener.entries) == 3000)
        assert set(texts(listener)) == {str(n) for n in range(3000)}
        assert listener.invalidated == []


@pytest_twisted.ensureDeferred
async def test_databases_of_one_server_do_not_hear_each_other(engine: RedisEngine) -> None:
    async with bus_node(engine.port, db=1) as (a, _), bus_node(engine.port, db=2) as (b, listener):
        await b.subscribe("r")
        a.publish([said("r", 1)])
        a.publish_signal(None, Kick("a"))
        await deferLater(reactor, 0.1)
        assert listener.entries == []
        assert listener.signals == []
        assert listener.nodes == []


@pytest_twisted.ensureDeferred
async def test_a_store_that_publishes_tells_of_every_batch_in_one_order(engine: RedisEngine) -> None:
    server = RedisServer(port=engine.port)
    stores = [RedisStore(reactor, server, channel=room_channels(server)) for _ in range(2)]
    for store in stores:
        await store.open()
    async with bus_node(engine.port, store_publishes=True) as (bus, listener):
        await bus.subscribe("r")
        answers = await put(stores[0], joined("r", "a", "b"), message("r", "a", "hi", "c"), joined("s", "a"))
        bus.publish([entry_of(answers[0])])  # has been done already
        for n in range(20):
            answers += await put(stores[n % 2], *(message("r", "a", "x" * 50_000) for _ in range(n)))
        answers += await put(stores[0], message("r", "b", "bye"), message("r", "a", "hi", "c"))
        expected = [entry_of(answer) for answer in answers[:-1] if entry_of(answer).rid == "r"]
        await until(lambda: len(listener.entries) >= len(expected))
        assert listener.entries == expected
        assert max(listener.pieces) <= 6  # 256 KiB
    for store in stores:
        await store.close()


# Trouble


@pytest_twisted.ensureDeferred
async def test_a_server_that_was_killed_and_comes_back_empty_is_subscribed_to_again(engine: RedisEngine) -> None:
    async with bus_node(engine.port) as (a, listener_a), bus_node(engine.port) as (b, listener_b):
        for rid in "rs":
            await b.subscribe(rid)
        b.unsubscribe("s")
        engine.kill()
        await until(lambda: not a.is_up and not b.is_up)
        a.publish([said("r", 1, "lost")])
        await b.subscribe("t")  # fires while the bus is down, too
        engine.start()
        await until(lambda: a.is_up and b.is_up, "the bus does not come back")
        assert None in listener_a.invalidated
        assert None in listener_b.invalidated
        a.publish([said("r", 2, "r"), said("s", 2, "s"), said("t", 2, "t")])
        await until(lambda: {"r", "t"} <= set(texts(listener_b)))
        assert "s" not in texts(listener_b)


@pytest_twisted.ensureDeferred
async def test_what_could_not_be_published_is_invalidated_at_the_others(engine: RedisEngine) -> None:
    async with (
        LossyProxy(engine.port) as proxy,
        bus_node(proxy.own_port) as (a, _),
        bus_node(engine.port) as (b, listener),
    ):
        await b.subscribe("r")
        await b.subscribe("s")
        proxy.black_hole = True
        a.publish([said("r", 1), said("t", 1)])
        await until(lambda: not a.is_up)
        proxy.black_hole = False
        await until(
            lambda: ["r"] in listener.invalidated or None in listener.invalidated,
            "nobody says that room r should be invalidated",
        )
        assert b.is_up


@pytest.mark.parametrize("store_publishes", [False, True])
@pytest_twisted.ensureDeferred
async def test_an_invalidation_of_rooms_that_nobody_here_listens_to_is_told_too(
    engine: RedisEngine, store_publishes: bool
) -> None:
    """Somebody who is connected here may have been put into one of them."""
    async with (
        LossyProxy(engine.port) as proxy,
        bus_node(proxy.own_port, store_publishes=store_publishes) as (a, _),
        bus_node(engine.port) as (_, listener),
    ):
        proxy.black_hole = True
        if store_publishes:
            a.publish_signal(None, Came("t", 1, ("ann",)))
        else:
            a.publish([said("t", 1)])
        await until(lambda: not a.is_up)
        proxy.black_hole = False
        await until(lambda: [] in listener.invalidated)


@pytest_twisted.ensureDeferred
async def test_a_bus_that_is_dead_behind_a_healthy_socket_is_noticed(engine: RedisEngine) -> None:
    async with (
        LossyProxy(engine.port) as proxy,
        bus_node(engine.port) as (a, _),
        bus_node(proxy.own_port) as (b, listener),
    ):
        await b.subscribe("r")
        assert b.is_up
        listener.invalidated.clear()  # a busy machine may have stood still before
        proxy.drop_published = True
        a.publish([said("r", 1, "lost")])
        await until(lambda: not b.is_up, "nobody notices that the bus is dead")
        assert proxy.dropped
        assert listener.invalidated == []
        proxy.drop_published = False
        await until(lambda: b.is_up)
        assert listener.invalidated == [None]
        a.publish([said("r", 2, "heard")])
        await until(lambda: texts(listener) == ["heard"])


@pytest_twisted.ensureDeferred
async def test_a_confirmation_that_comes_late_invalidates_the_room(
    engine: RedisEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "SUBSCRIBE_TIMEOUT", 0.1)
    monkeypatch.setattr(redis, "SILENCE_TIMEOUT", NEVER)
    async with bus_node(engine.port) as (b, listener):
        engine.pause()
        try:
            await b.subscribe("r")
            assert listener.invalidated == []
        finally:
            engine.resume()
        await until(lambda: listener.invalidated == [["r"]])


@pytest_twisted.ensureDeferred
async def test_password_and_database_are_kept_over_reconnects(tmp_path: Path) -> None:
    engine = RedisEngine(tmp_path / "redis", free_port(), password="a secret")
    try:
        async with (
            bus_node(engine.port, password="a secret", db=3) as (a, _),
            bus_node(engine.port, password="a secret", db=3) as (b, listener),
        ):
            await b.subscribe("r")
            engine.kill()
            await until(lambda: not a.is_up and not b.is_up)
            engine.start()
            await until(lambda: a.is_up and b.is_up)
            a.publish([said("r", 1)])
            await until(lambda: len(listener.entries) == 1)
            assert b"db=3" in engine.ask("CLIENT", "LIST", "TYPE", "pubsub")
    finally:
        engine.kill()


@pytest_twisted.ensureDeferred
async def test_a_bus_opens_without_its_server_and_comes_up_with_it(tmp_path: Path) -> None:
    engine = RedisEngine(tmp_path / "redis", free_port())
    engine.kill()
    async with bus_node(engine.port, is_up=False) as (bus, listener):
        assert not bus.is_up
        await bus.subscribe("r")
        engine.start()
        await until(lambda: bus.is_up)
        assert None in listener.invalidated
    engine.kill()


@pytest_twisted.ensureDeferred
async def test_what_waits_for_the_server_is_bounded_and_made_up_for(
    engine: RedisEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "MAX_UNSENT", 100_000)
    monkeypatch.setattr(redis, "MAX_UNPUBLISHED", 3)
    async with bus_node(engine.port) as (a, _), bus_node(engine.port) as (b, listener):
        await b.subscribe("r0")
        engine.pause()
        for n in range(1000):
            a.publish([said(f"r{n % 10}", n, "x" * 1000)])
        engine.resume()
        await until(lambda: listener.invalidated == [None])  # more rooms than are remembered by name
        assert 0 < len(listener.entries) < 100


@pytest_twisted.ensureDeferred
async def test_nodes_see_each_other_come_leave_and_die(engine: RedisEngine) -> None:
    async with LossyProxy(engine.port) as proxy, bus_node(engine.port) as (a, listener):
        async with bus_node(engine.port) as (b, listener_b):
            await until(lambda: ("came", b.node) in listener.nodes and ("came", a.node) in listener_b.nodes)
        await until(lambda: ("gone", b.node) in listener.nodes)
        async with bus_node(proxy.own_port) as (c, _):
            await until(lambda: ("came", c.node) in listener.nodes)
            listener.invalidated.clear()
            proxy.black_hole = True
            c._publisher.reconnect()
            c._subscriber.reconnect()
            await until(lambda: ("gone", c.node) in listener.nodes)
            assert listener.invalidated == [None], "who says nothing may have stored what it could not tell"
            proxy.black_hole = False
            await until(lambda: listener.nodes.count(("came", c.node)) == 2)


@pytest_twisted.ensureDeferred
async def test_a_node_that_dies_before_its_first_beat_is_heard_is_gone_all_the_same(engine: RedisEngine) -> None:
    """It may have said who is connected to it."""
    async with bus_node(engine.port) as (a, listener), bus_node(engine.port) as (b, _):
        await a.subscribe("r")
        a._last_heard.clear()
        listener.nodes.clear()
        b._beat_loop.stop()
        b.publish_signal("r", Presence("r", "ann", True))
        await until(lambda: listener.nodes == [("came", b.node), ("gone", b.node)])


@pytest_twisted.ensureDeferred
async def test_a_listener_that_fails_harms_nothing_else(engine: RedisEngine) -> None:
    class Deaf(RecordingListener):
        def entries_received(self, entries: Sequence[Entry]) -> None:
            super().entries_received(entries)
            raise RuntimeError("made up")

    bus, listener = RedisBus(reactor, RedisServer(port=engine.port)), Deaf()
    await bus.open(listener)
    async with bus_node(engine.port) as (a, _):
        await until(lambda: bus.is_up)
        await bus.subscribe("r")
        a.publish([said("r", 1)])
        a.publish([said("r", 2)])
        await until(lambda: len(listener.entries) == 2)
        engine.ask("PUBLISH", "mercury:0:room:r", "what is this?")
        await until(lambda: ["r"] in listener.invalidated)
        assert bus.is_up
    await bus.close()


@pytest_twisted.ensureDeferred
async def test_closing_does_not_wait_for_a_server_that_is_away() -> None:
    """What would be sent as a goodbye is not worth command_seconds."""
    bus: Any = RedisBus(reactor, RedisServer(port=free_port(), command_seconds=10 * NEVER))
    await bus.open(RecordingListener())
    await bus.close().addTimeout(NEVER, reactor)
