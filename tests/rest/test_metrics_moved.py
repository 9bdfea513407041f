"""Each metric moves when that happens which it is about, and by as much.

A test says by @moves(...) which it moves, and fails if it does not; a metric that no test moves fails the last test
here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from twisted.internet.task import deferLater

from mercury.bus import redis
from mercury.bus.redis import RedisBus
from mercury.core.delivery.cluster import LOOK
from mercury.core.delivery.hub import HOLE
from mercury.domain import close_codes, commands
from mercury.domain.counters import Counters
from mercury.domain.model import Draft, Token
from mercury.errors import LIMITS, MercuryError
from mercury.node.build import make_chat
from mercury.rest.metrics import METRICS
from mercury.settings.schema import Config
from mercury.stores.memory.store import MemoryStore
from mercury.stores.mysql.server import MysqlServer
from mercury.stores.mysql.store import MysqlStore
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from mercury.stores.sqlite.store import SqliteStore
from tests.support.clockwork import Clockwork, WampDevice
from tests.support.filtered_connections import connect, filter_of, peer
from tests.support.free_ports import free_port
from tests.support.gotalk_node import PASSWORD, GotalkNode
from tests.support.in_process_node import Node, reactor, together
from tests.support.lossy_bus import LossyBus, Network
from tests.support.metrics_watch import MOVED, Watch, moves
from tests.support.paths import ROOT
from tests.support.recording_clients import RefusedError, V2Client, until
from tests.support.redis_servers import RedisEngine
from tests.support.wamp_client import WampCborClient
from tests.support.websocket_bytes import masked, upgrade
from tests.support.websocket_port import WebSocketPort


@asynccontextmanager
async def port(**limits: Any) -> AsyncIterator[WebSocketPort]:
    """A WebSocket port in this process; Ann and Bob are in the room "r"."""
    opened = WebSocketPort({}, limits)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.shut()


# Connections and sessions


@moves(
    "mercury_connections", "mercury_connections_opened_total", "mercury_sessions", "mercury_deliveries_total",
    "mercury_received_bytes_total", "mercury_sent_bytes_total", "mercury_rooms",
)  # fmt: skip
async def test_connections_and_what_they_carry() -> None:
    async with port() as door:
        watch = Watch(door.chat)
        await watch.look()
        people: list[Any] = [door.v2("phone"), door.v2("desk"), door.v1(), door.v2("pad", WampCborClient)]
        for person in people:
            await person.connect()
        await until(lambda: len(next(iter(door.chat.hub.rooms.values())).live) == 3, "hearing the room")
        before = await watch.look()
        assert before("mercury_connections") == before("mercury_connections_opened_total") == 4
        names = ("mercury.v2.json", "v1", "wamp.2.cbor", "wamp.2.json", "gotalk")
        assert [before("mercury_sessions", protocol=name) for name in names] == [2, 1, 1, 0, 0]
        assert before("mercury_rooms") == 1
        await together(*(door.chat.rooms.post("", "r", text) for text in ("one", "two")))  # in one batch
        await door.chat.journal.idle()  # the answers go first
        now = await watch.look()
        name = "mercury_deliveries_total"
        assert [now(name, protocol=of) - before(name, protocol=of) for of in names] == [4, 2, 2, 0, 0]
        assert now("mercury_sent_bytes_total") - before("mercury_sent_bytes_total") > 8 * len("one")
        await people[0].ask(type="rooms")
        for person in people:
            await person.close()
        await until(lambda: not door.chat.counters.connected, "their end")
        after = await watch.look()
        assert after("mercury_connections") == after("mercury_rooms") == 0
        for name in ("mercury_received_bytes_total", "mercury_sent_bytes_total"):
            assert after(name) > now(name), "what was carried by connections that ended still counts"


@moves("mercury_connections_closed_total")
async def test_connections_end_for_reasons() -> None:
    """By whom, and why; whatever a client makes up is one reason."""
    async with port(frame_bytes=1000) as door:
        watch = Watch(door.chat)
        await watch.look()
        with pytest.raises(RefusedError):
            await V2Client.connect(V2Client(door.v2().record, door.where, "ann", "wrong"))
        bare = await door.raw(upgrade("/ws/connect"))
        await bare.all()
        rude, polite, odd, chatty, kicked = (door.v2(name) for name in ("a", "b", "c", "d", "e"))
        for client in (rude, polite, odd, chatty, kicked):
            await client.connect()
        rude.abort()
        await polite.close()
        odd.link.sendClose(4999)  # type: ignore[union-attr]
        chatty.link.transport.write(masked(b"x" * 1001))  # type: ignore[union-attr]
        door.chat.hub.kick("ann", "e")
        await until(lambda: not door.chat.counters.connected, "their end")
        now = await watch.look()
        closed = {
            dict(labels)["code"]: value
            for (name, labels), value in now.samples.items()
            if name == "mercury_connections_closed_total" and value
        }
        assert closed == {
            "401": 1, "4401": 1, "1006": 1, "1000": 1, "other": 1, "1009": 1, str(close_codes.KICKED.code): 1
        }  # fmt: skip
        assert now("mercury_refused_total", limit="frame-bytes") == 1


@moves("mercury_sessions_slow", "mercury_sessions_slowed_total", "mercury_sessions_catching_up")
async def test_sessions_that_are_slow_and_that_catch_up() -> None:
    node = Clockwork()
    node.join("r", "ann")
    ann, watch = node.device("ann"), Watch(node.chat)
    await watch.look()
    ann.full = True
    node.post("r", "one", "two")
    slow = await watch.look()
    assert slow("mercury_sessions_slow") == slow("mercury_sessions_slowed_total") == 1
    node.store.shut = {"read"}
    ann.drain()
    assert (await watch.look())("mercury_sessions_catching_up") == 1
    node.store.open_gate()
    node.settle()
    now = await watch.look()
    assert (now("mercury_sessions_slow"), now("mercury_sessions_catching_up")) == (0, 0)
    assert now("mercury_catch_ups_total", cause="slow") == 1


# Catching up


@contextmanager
def caught_up(*nodes: Clockwork) -> Iterator[dict[str, int]]:
    """Counters by cause, on the last of the nodes, within the block; in the dict when it is over."""
    counts: Counters = nodes[-1].chat.counters
    before, found = dict(counts.catch_ups), dict[str, int]()
    yield found
    for node in nodes:
        node.settle()
    found |= {cause: n for cause, now in counts.catch_ups.items() if (n := now - before.get(cause, 0))}


@moves("mercury_catch_ups_total")
async def test_who_logs_in_and_has_missed_something_catches_up_by_login() -> None:
    node = Clockwork()
    node.join("r", "ann", "bob")
    watch = Watch(node.chat)
    await watch.look()
    bob = node.device("bob")  # whether the room is known here
    for _ in range(2):
        node.post("r", "one")
        with caught_up(node) as found:
            node.device("ann")
        assert found == {"login": 1}
    assert bob.texts() == ["one", "one"]
    assert (await watch.look())("mercury_catch_ups_total", cause="login") == 3


@moves("mercury_holes_total")
async def test_what_the_bus_loses_is_a_hole_and_what_it_does_not_tell_a_doubt() -> None:
    network = Network()
    here = Clockwork(bus=LossyBus(network))
    there = Clockwork(bus=LossyBus(network), beside=here)
    here.join("r", "ann", "bob")
    bob, watch = there.device("bob"), Watch(there.chat)
    await watch.look()
    with caught_up(here, there) as found:
        network.lossy = True
        here.post("r", "one")
        network.lossy = False
        here.post("r", "two")
        there.wait(2 * HOLE)
    assert found == {"hole": 1}
    with caught_up(here, there) as found:
        network.lossy, network.buses[1].is_up = True, False
        here.post("r", "three")
        there.wait(2 * LOOK)
    assert found == {"doubt": 1}
    now = await watch.look()
    assert (now("mercury_holes_total"), bob.texts()) == (1, ["one", "two", "three"])


def test_who_subscribes_later_catches_up_by_that() -> None:
    node = Clockwork(wamp="json")
    node.join("r", "ann")
    ann = node.device("ann", login=False)
    assert isinstance(ann, WampDevice)
    ann.topics = ()
    ann.connect(node.token("ann"))
    node.post("r", "one")
    with caught_up(node) as found:
        ann.tell(type="subscribe", topic="mercury.room.r")
        node.settle()
    assert found == {"subscribed": 1}


def test_who_reads_ahead_and_is_overtaken_catches_up_again() -> None:
    node = Clockwork()
    node.join("r", "ann")
    ann = node.device("ann")
    room = node.chat.hub.rooms["r"]
    room.behind[ann.session] = room.head + 2
    room.live.clear()
    with caught_up(node) as found:
        node.now(node.store.append([Draft("r", text="one"), Draft("r", text="two")], 0))
        entries = node.now(node.store.read("r", room.head, 9)).entries
        node.chat.hub.deliver(entries)
    assert found == {"again": 1}


def test_who_hears_late_of_being_put_into_a_room_catches_up_by_that() -> None:
    node = Clockwork()
    node.join("r", "bob")
    node.device("bob")
    ann = node.device("ann")
    joining, message = node.now(node.store.append([Draft("r", "joined", members=("ann",)), Draft("r", text="one")], 0))
    node.chat.hub.rooms["r"].head = message.entry.seq  # what the node was told of does not include the joining
    with caught_up(node) as found:
        node.chat.hub.admit("r", joining.entry.seq, ["ann"])
    assert (found, ann.texts()) == ({"joined": 1}, ["one"])


# The journal


@moves(
    "mercury_entries_total", "mercury_duplicates_total", "mercury_journal_entries_waiting",
    "mercury_journal_batch_entries", "mercury_journal_commit_seconds",
)  # fmt: skip
async def test_what_is_stored_and_how_it_gets_there() -> None:
    node = Clockwork()
    node.join("r", "ann")
    ann, watch = node.device("ann"), Watch(node.chat)
    before = await watch.look()
    node.store.shut = {"append"}
    ann.say("r", "one", cid="1")
    node.settle()
    for text in ("two", "three", "four"):
        ann.say("r", text)
    ann.say("r", "one", cid="1")
    assert (await watch.look())("mercury_journal_entries_waiting") == 4
    node.clock.advance(0.03)
    node.store.open_gate()
    node.settle()
    node.now(node.chat.rooms.leave("r", ["ann"]))
    now = await watch.look()
    assert [now("mercury_entries_total", kind=kind) for kind in ("message", "joined", "left")] == [4, 1, 1]
    assert (now("mercury_duplicates_total"), now("mercury_journal_entries_waiting")) == (1, 0)

    def more(name: str, **labels: str) -> float:
        return now(name, **labels) - before(name, **labels)

    assert (more("mercury_journal_batch_entries_count"), more("mercury_journal_batch_entries_sum")) == (3, 6)
    assert [more("mercury_journal_batch_entries_bucket", le=le) for le in ("1.0", "2.0", "4.0", "+Inf")] == [2, 2, 3, 3]
    assert more("mercury_journal_commit_seconds_sum") == pytest.approx(0.03)
    assert [more("mercury_journal_commit_seconds_bucket", le=le) for le in ("0.025", "0.05")] == [2, 3]


# Errors and limits


@moves("mercury_errors_total", "mercury_refused_total")
async def test_errors_and_what_was_refused_by_which_limit() -> None:
    node = Clockwork(text_bytes=10, messages_per_second=1.0, burst=1.0, connections_per_member=1, rooms_per_member=1)
    node.join("r", "ann")
    ann, watch = node.device("ann"), Watch(node.chat)
    await watch.look()
    ann.do(commands.Send(rid="r", text="x" * 11))
    ann.do(commands.Send(rid="elsewhere", text="x"))
    for _ in range(2):
        ann.do(commands.Send(rid="r", text="x"))
    for _ in range(21):
        ann.do(commands.Typing(rid="r"))
    node.device("ann", "second")
    with pytest.raises(MercuryError) as refused:
        node.join("s", "ann")
    assert refused.value.limit == "rooms-per-member"
    node.store.down = True
    node.clock.advance(1)
    ann.do(commands.Send(rid="r", text="x"))
    now = await watch.look()
    told = {"too_large": 1, "forbidden": 1, "rate_limited": 2, "busy": 1, "unavailable": 1}
    assert {code: n for code, n in node.chat.counters.errors.items() if n} == told
    assert {code: now("mercury_errors_total", code=code) for code in told} == told
    limits = ("text-bytes", "messages-per-second", "typing", "connections-per-member")
    assert [now("mercury_refused_total", limit=limit) for limit in limits] == [1, 1, 1, 1]


@moves("mercury_errors_total", "mercury_refused_total")
async def test_errors_of_rest_and_of_gotalks_door_count_too() -> None:
    async with Node(body_bytes=1000) as node, GotalkNode(gotalk={"registrations_per_minute": 1}) as door:
        watches = [Watch(node.chat), Watch(door.chat)]
        for watch in watches:
            await watch.look()
        await node.ask("POST", "/api/tokens", b"x" * 1001)
        await node.ask("GET", "/api/rooms/nowhere")
        await node.ask("PUT", "/api/rooms")
        rest = await watches[0].look()
        codes = ("too_large", "not_found", "bad_request")
        assert [rest("mercury_errors_total", code=code) for code in codes] == [1, 1, 1]
        assert rest("mercury_refused_total", limit="body-bytes") == 1
        for name in ("ann", "bob"):
            await door.post("/register", username=name, password=PASSWORD)
        await door.post("/sync", token="wrong")
        ann = await door.login("ann")
        await door.say(ann, ann, "a note")
        assert await door.sync(ann) == ["a note"]
        gotalk = await watches[1].look()
        assert gotalk("mercury_errors_total", code="unauthorized") == 1
        assert gotalk("mercury_refused_total", limit="registrations-per-minute") == 1
        assert gotalk("mercury_deliveries_total", protocol="gotalk") == 1


def test_refused_connections_count_by_limit() -> None:
    counts = Counters()
    filter, _ = filter_of("192.0.2.0/24", counts=counts, connections=2, per_address=1)
    for address in ("203.0.113.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"):
        connect(filter, address)
    filter, _ = filter_of("192.0.2.0/24", proxies="198.51.100.0/24", counts=counts)
    filter.buildProtocol(peer("203.0.113.1"))
    assert counts.refused == {"address": 1, "connections-per-address": 1, "connections": 1, "proxies": 1}


def test_every_limit_refuses_somewhere() -> None:
    """Each name in the table is given to an error, or counted, by some line of Mercury's."""
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "mercury").rglob("*.py") if path.name != "errors.py")
    for limit in LIMITS:
        assert re.search(rf'(limit=|refuse\(|refused\[|, |    )"{limit}"', sources), limit


# The store


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("mysql", marks=pytest.mark.slow)])
@moves("mercury_store_calls", "mercury_store_wait_seconds", "mercury_store_unavailable_total")
async def test_calls_of_a_database_wait_and_fail(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store: Any
    if kind == "sqlite":
        store = SqliteStore(str(tmp_path / "mercury.sqlite"))
    else:
        server: MysqlServer = request.getfixturevalue("mysql")
        store = MysqlStore(server, 4)
    async with Node(store) as node:
        watch = Watch(node.chat)
        before = await watch.look()
        gate = Event()
        busy = [store._write(lambda cursor: gate.wait(20)) for _ in range(3)]
        during = await watch.look()
        assert during("mercury_store_calls", pool="writing") == 3
        gate.set()
        for one in busy:
            assert await one
        await deferLater(reactor, 0)  # how long they waited is noted after their answers
        now = await watch.look()
        assert now("mercury_store_calls", pool="writing") == 0
        name = "mercury_store_wait_seconds_count"
        assert now(name, pool="writing") - before(name, pool="writing") == 3
        pools = {labels[0][1] for sample, labels in now.samples if sample == "mercury_store_calls"}
        assert pools == {"writing", "reading"} | ({"appending"} if kind == "mysql" else set())
        await store.close()
        with pytest.raises(MercuryError):
            await store.put_token(Token(b"d", "ann", 1), 1)
        assert (await watch.look())("mercury_store_unavailable_total", pool="writing") == 1


@pytest.mark.slow
@moves("mercury_store_wait_seconds", "mercury_store_unavailable_total", "mercury_up")
async def test_calls_of_redis_wait_while_there_is_no_connection(tmp_path: Path) -> None:
    engine = RedisEngine(tmp_path / "redis", free_port())
    store = RedisStore(reactor, RedisServer(port=engine.port, command_seconds=0.5, connect_seconds=0.5))
    try:
        async with Node(store) as node:
            watch = Watch(node.chat)
            assert (await watch.look())("mercury_up", part="store") == 1
            engine.kill()
            await until(lambda: not store._link.is_up, "the loss of the connection")  # type: ignore[union-attr]
            waiting = store.is_member("ann")
            assert store.load[0].running == 1
            with pytest.raises(MercuryError):
                await waiting
            watch.metrics._readiness._asked = None  # what it remembers of a moment ago is over
            now = await watch.look()
            assert now("mercury_up", part="store") == 0
            assert now("mercury_store_unavailable_total", pool="all") == 2, "the call, and the look"
    finally:
        engine.kill()


# The bus


@pytest.mark.slow
@moves("mercury_bus_lag_seconds", "mercury_up")
async def test_the_bus_probes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "BEAT_INTERVAL", 0.05)
    monkeypatch.setattr(redis, "SILENCE_TIMEOUT", 0.4)
    engine = RedisEngine(tmp_path / "redis", free_port())
    chat = make_chat(reactor, MemoryStore(), Config(), RedisBus(reactor, RedisServer(port=engine.port)))
    await chat.store.open()
    await chat.cluster.open()
    try:
        watch = Watch(chat)
        await until(lambda: chat.cluster.are_heard, "the bus coming up")
        before = await watch.look()
        await until(lambda: sum(chat.cluster.lags.counts) > before("mercury_bus_lag_seconds_count") + 2, "three probes")
        now = await watch.look()
        assert now("mercury_up", part="bus") == 1
        mean = now("mercury_bus_lag_seconds_sum") / now("mercury_bus_lag_seconds_count")
        assert 0 < mean < redis.SILENCE_TIMEOUT
        engine.kill()
        await until(lambda: not chat.cluster.are_heard, "the bus going down")
        assert (await watch.look())("mercury_up", part="bus") == 0
    finally:
        await chat.cluster.close()
        engine.kill()


def test_no_metric_is_left_that_no_test_moves() -> None:
    """Those that are called info say in words what there is, and are always 1."""
    assert {metric.name for metric in METRICS if not metric.name.endswith("_info")} == MOVED
