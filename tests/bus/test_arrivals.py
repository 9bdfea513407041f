"""What the bus brings in one turn is one batch, in order and without what came twice, and without what is our own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.task import Clock

from mercury.bus import arrivals as bus_arrivals
from mercury.bus import redis
from mercury.bus.arrivals import Arrivals
from mercury.bus.redis import RedisBus, room_channels
from mercury.domain.events import Typing
from mercury.domain.model import Entry
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from tests.contracts.tools import entry_of, joined, message, put
from tests.support.recording_clients import until
from tests.support.redis_bus import RecordingListener, bus_node, said
from tests.support.redis_servers import RedisEngine


def arrivals() -> tuple[Clock, Arrivals, list[list[Entry]]]:
    """Arrivals on a Clock, and what they have handed over."""
    clock, told = Clock(), list[list[Entry]]()

    class Listening(RecordingListener):
        def entries_received(self, entries: Sequence[Entry]) -> None:
            told.append(list(entries))

    some = Arrivals(clock)
    some.open(Listening())
    return clock, some, told


def test_what_comes_in_one_turn_is_told_together_at_its_end() -> None:
    clock, some, told = arrivals()
    some.entries_received([said("r", 1), said("r", 2)], 10)
    some.entries_received([said("s", 7)], 10)
    assert not told
    clock.advance(0)
    assert [(e.rid, e.seq) for e in told.pop()] == [("r", 1), ("r", 2), ("s", 7)]
    some.entries_received([said("r", 3)], 10)
    some.flush()
    assert [[e.seq for e in batch] for batch in told] == [[3]]
    some.flush()
    clock.advance(0)
    assert len(told) == 1


def test_what_crossed_or_came_twice_is_in_order_once() -> None:
    """The hub takes a batch whose first and last seq fit its length for one without holes."""
    clock, some, told = arrivals()
    for seqs in ([5, 7], [6, 6], [8], [7]):
        some.entries_received([said("r", seq) for seq in seqs], 10)
    clock.advance(0)
    assert [e.seq for e in told[0]] == [5, 6, 7, 8]


def test_a_batch_has_a_bound() -> None:
    clock, some, told = arrivals()
    for seq in range(1, 6):
        some.entries_received([said("r", seq)], bus_arrivals.MAX_BYTES // 2)
    clock.advance(0)
    assert [[e.seq for e in batch] for batch in told] == [[1, 2], [3, 4], [5]]


@pytest.mark.slow
@ensureDeferred
async def test_a_signal_does_not_overtake_entries(engine: RedisEngine) -> None:
    order: list[str] = []

    class Listening(RecordingListener):
        def entries_received(self, entries: Sequence[Entry]) -> None:
            order.extend(str(entry.seq) for entry in entries)

        def signal_received(self, node: str, signal: object) -> None:
            order.append(type(signal).__name__)

    async with bus_node(engine.port) as (a, _), bus_node(engine.port) as (b, _):
        b._arrivals.open(Listening())
        await b.subscribe("r")
        a.publish([said("r", 1)])
        a.publish([said("r", 2)])
        a.publish_signal("r", Typing("r", "a"))
        a.publish([said("r", 3)])
        await until(lambda: len(order) == 4)
        assert order == ["1", "2", "Typing", "3"]


@pytest.mark.slow
@ensureDeferred
async def test_a_node_is_not_told_what_its_own_script_has_stored(engine: RedisEngine) -> None:
    server = RedisServer(port=engine.port)
    stores = [RedisStore(reactor, server, channel=room_channels(server), node=name) for name in ("one", "other")]
    for store in stores:
        await store.open()
    bus, listener = RedisBus(reactor, server, store_publishes=True, node="one"), RecordingListener()
    await bus.open(listener)
    await until(lambda: bus.is_up)
    await bus.subscribe("r")
    await put(stores[0], joined("r", "a"), message("r", "a", "mine", "1"))
    (answer,) = await put(stores[1], message("r", "a", "another's", "2"))
    await until(lambda: listener.entries)
    assert listener.entries == [entry_of(answer)]
    assert listener.nodes == [("came", "other")]
    await bus.close()
    for store in stores:
        await store.close()


def test_no_batch_is_larger_than_what_a_node_publishes_at_once() -> None:
    assert bus_arrivals.MAX_BYTES == redis.MAX_PAYLOAD
