"""A node on MySQL without Redis sees whether another one uses its database, and says so; what is sent crosses late."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, formatEvent
from zope.interface import implementer
from zope.interface.verify import verifyClass, verifyObject

from mercury.bus import mysql as bus_mysql
from mercury.bus.mysql import MysqlBus
from mercury.domain.model import Entry
from mercury.domain.signals import Signal
from mercury.interfaces import IBus, IBusListener
from mercury.node.build import make_bus
from mercury.settings.engines import Mysql, Redis
from mercury.settings.schema import Config
from mercury.stores.mysql.schema import prepare
from mercury.stores.mysql.server import MysqlServer
from tests.contracts.tools import logged
from tests.support import server_process as programs
from tests.support.mariadb_servers import MariaDb
from tests.support.recorder import Record
from tests.support.recording_clients import V2Client, until

pytestmark = pytest.mark.slow

HELD = "SELECT COUNT(*) FROM lease WHERE expires > UTC_TIMESTAMP(6)"


@implementer(IBusListener)
class RecordingListener:
    """Writes down what is invalidated. This bus brings nothing else."""

    def __init__(self) -> None:
        self.invalidated: list[list[str] | None] = []

    def invalidate(self, rids: Sequence[str] | None) -> None:
        self.invalidated.append(None if rids is None else list(rids))

    def entries_received(self, entries: Sequence[Entry]) -> None:
        raise AssertionError("a bus on MySQL brings nothing from other nodes but invalidations")

    def signal_received(self, node: str, signal: Signal) -> None:
        raise AssertionError("a bus on MySQL brings nothing from other nodes but invalidations")

    def node_up(self, node: str) -> None:
        raise AssertionError("a bus on MySQL brings nothing from other nodes but invalidations")

    def node_down(self, node: str) -> None:
        raise AssertionError("a bus on MySQL brings nothing from other nodes but invalidations")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same clockwork, faster: with quick() a lease holds for 3 s."""
    monkeypatch.setattr(bus_mysql, "RENEW", 0.1)
    monkeypatch.setattr(bus_mysql, "SPARE", 1.5)


def quick(server: MysqlServer) -> MysqlServer:
    return replace(server, connect_seconds=0.5, write_seconds=0.5, read_seconds=0.5)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[MariaDb]:
    """A MariaDB server of the test's own, to be killed."""
    engine = MariaDb(tmp_path)
    engine.start()
    yield engine
    engine.kill()


@asynccontextmanager
async def node(server: MysqlServer) -> AsyncIterator[tuple[MysqlBus, RecordingListener]]:
    """A node's bus and its listener, within the block."""
    await deferToThread(prepare, server)
    bus, listener = MysqlBus(reactor, quick(server)), RecordingListener()
    await bus.open(listener)
    try:
        yield bus, listener
    finally:
        await bus.close()


def said(events: list[LogEvent], about: str = "") -> list[str]:
    """What the bus logged, by level and node."""
    return [
        f"{event['log_level'].name} {event['node']}"
        for event in events
        if event["log_namespace"] == bus_mysql.__name__ and about in formatEvent(event)
    ]


def kill(bus: MysqlBus) -> None:
    """What SIGKILL does to it: no renewal more, and no goodbye."""
    bus._renewing.stop()


async def some_looks() -> None:
    await deferLater(reactor, 8 * bus_mysql.RENEW)


def test_it_provides_the_interface(mysql: MysqlServer) -> None:
    assert verifyObject(IBus, MysqlBus(reactor, mysql))
    assert verifyClass(IBus, MysqlBus)


def test_it_is_chosen_for_mysql_without_redis() -> None:
    mysql, redis = Mysql(host="127.0.0.1"), Redis(host="127.0.0.1")
    assert isinstance(make_bus(reactor, Config(mysql=mysql)), MysqlBus)
    for config in (Config(mysql=mysql, redis=redis), Config(redis=redis), Config()):
        assert not isinstance(make_bus(reactor, config), MysqlBus)


@pytest_twisted.ensureDeferred
async def test_a_node_that_is_alone_is_up_and_silent(mysql: MysqlServer, mariadb: MariaDb) -> None:
    with logged() as events:
        async with node(mysql) as (bus, listener):
            assert bus.is_up
            assert listener.invalidated == [None]
            await some_looks()
            assert bus.is_up
            assert listener.invalidated == [None]
            assert mariadb.query(HELD, database=mysql.database) == [(1,)]
        assert not bus.is_up
        assert mariadb.query("SELECT * FROM lease", database=mysql.database) == []
    assert events == []


@pytest_twisted.ensureDeferred
async def test_two_nodes_warn_of_each_other_once_and_see_each_other_go(mysql: MysqlServer) -> None:
    with logged() as events:
        async with node(mysql) as (a, listener):
            async with node(mysql) as (b, _):
                assert not b.is_up
                await until(lambda: len(said(events)) == 2, "the warnings")
                assert not a.is_up
                await some_looks()
                assert sorted(said(events, "--redis.host")) == sorted([f"warn {a.node}", f"warn {b.node}"])
                assert listener.invalidated[-1] == []  # somebody may have been put into a room there
            await until(lambda: a.is_up, "the return of the bus")
            assert listener.invalidated[-1] is None
            assert said(events)[2:] == [f"info {b.node}"]


@pytest_twisted.ensureDeferred
async def test_the_warning_says_where_the_other_one_runs_and_what_to_do(mysql: MysqlServer, mariadb: MariaDb) -> None:
    with logged() as events:
        async with node(mysql):
            for seconds in (20, 21):
                mariadb.query(
                    "REPLACE INTO lease VALUES ('other', 'db\n7', 4711, UTC_TIMESTAMP(6) + INTERVAL %s SECOND)",
                    seconds,
                    database=mysql.database,
                )
                await some_looks()
    (line,) = [formatEvent(event) for event in events]
    assert "other on db\n7 (process 4711)" in line  # logs.py escapes it
    assert "Set --redis.host on all nodes, or stop one" in line


@pytest_twisted.ensureDeferred
async def test_what_a_killed_node_left_is_no_reason_to_warn_and_is_cleared_away(
    mysql: MysqlServer, mariadb: MariaDb
) -> None:
    """As after each crash of the only node there is."""
    await deferToThread(prepare, mysql)
    row = "INSERT INTO lease VALUES ('dead', 'here', 7, UTC_TIMESTAMP(6) + INTERVAL 1 SECOND)"
    mariadb.query(row, database=mysql.database)
    with logged() as events:
        async with node(mysql) as (bus, listener):
            assert not bus.is_up  # who knows
            await until(lambda: bus.is_up, "the end of the dead one's lease")
            assert listener.invalidated[-1] is None
            held = [name for (name,) in mariadb.query("SELECT node FROM lease", database=mysql.database)]
            assert held == [bus.node.encode()]
    assert events == []


@pytest_twisted.ensureDeferred
async def test_a_node_that_is_killed_is_gone_when_its_lease_is_over(mysql: MysqlServer) -> None:
    with logged() as events:
        async with node(mysql) as (a, _), node(mysql) as (b, _):
            await until(lambda: f"warn {b.node}" in said(events), "the warning")
            kill(b)
            await some_looks()
            assert not a.is_up
            assert f"info {b.node}" not in said(events)
            await until(lambda: a.is_up, "the end of the killed one's lease")
            assert said(events).count(f"warn {b.node}") == said(events).count(f"info {b.node}") == 1


# Trouble


@pytest_twisted.ensureDeferred
async def test_a_database_that_is_away_makes_nobody_come_or_go(own: MariaDb) -> None:
    """However long it is away: when it is back all leases are over, and one node is the first to renew its own."""
    server = own.database("mercury")
    with logged() as events:
        async with node(server) as (a, _), node(server) as (b, _):
            await until(lambda: len(said(events)) == 2, "the warnings")
            own.kill()
            await deferLater(reactor, a._lease + 0.2)
            await deferToThread(own.start)
            await until(lambda: own.query(HELD, database="mercury") == [(2,)], "the renewal of the leases")
            await some_looks()
            assert not a.is_up
            assert not b.is_up
            assert len(said(events)) == 2
            others = [event for event in events if event["log_namespace"] != bus_mysql.__name__]
            assert [event["log_level"].name for event in others] == ["error"] * 2 + ["info"] * 2  # one outage a node


@pytest_twisted.ensureDeferred
async def test_a_node_that_cannot_look_for_others_is_down_until_it_can(own: MariaDb) -> None:
    async with node(own.database("mercury")) as (bus, listener):
        own.pause()
        await deferLater(reactor, bus._lease / 2)
        assert bus.is_up
        await until(lambda: not bus.is_up, "the end of the lease")
        own.resume()
        await until(lambda: bus.is_up, "the return of the bus")
        assert listener.invalidated == [None, None]


@pytest_twisted.ensureDeferred
async def test_a_table_that_somebody_removed_costs_one_line_and_is_used_again_when_it_is_back(
    mysql: MysqlServer, mariadb: MariaDb
) -> None:
    with logged() as events:
        async with node(mysql) as (bus, _):
            mariadb.query("RENAME TABLE lease TO elsewhere", database=mysql.database)
            await until(lambda: events, "the error")
            await some_looks()
            assert len(events) == 1
            assert "doesn't exist" in formatEvent(events[0])
            mariadb.query("RENAME TABLE elsewhere TO lease", database=mysql.database)
            await until(lambda: len(events) == 2, "the renewal")
            assert bus.is_up


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs_keeps_nobody_from_starting(own: MariaDb) -> None:
    bus = MysqlBus(reactor, quick(own.database("mercury")))
    own.pause()
    await bus.open(RecordingListener())
    assert not bus.is_up
    own.resume()
    await bus.close()


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs_keeps_nobody_from_stopping(own: MariaDb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_mysql, "GOODBYE", 0.2)
    server = own.database("mercury")
    await deferToThread(prepare, server)
    bus = MysqlBus(reactor, replace(server, read_seconds=30.0))
    await bus.open(RecordingListener())
    own.pause()
    await bus.close()
    assert bus._pool.load.running, "the database has answered"
    own.resume()
    await until(lambda: not bus._pool.load.running, "the end of the thread")


@pytest_twisted.ensureDeferred
async def test_connections_are_made_in_a_thread_and_there_is_one(
    mysql: MysqlServer, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers: list[threading.Thread] = []
    connect = pymysql.connect

    def note(*args: Any, **arguments: Any) -> Any:
        makers.append(threading.current_thread())
        return connect(*args, **arguments)

    await deferToThread(prepare, mysql)
    monkeypatch.setattr(pymysql, "connect", note)
    bus = MysqlBus(reactor, quick(mysql))
    await bus.open(RecordingListener())
    await some_looks()
    await bus.close()
    assert len(makers) == 1
    assert makers[0] is not threading.main_thread()


# Two nodes


@pytest_twisted.ensureDeferred
async def test_messages_cross_between_two_nodes_and_both_logs_say_what_is_wrong(
    mariadb: MariaDb, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    flags = ["--storage.type=mysql", "--mysql.host=127.0.0.1", f"--mysql.port={mariadb.port}", "--mysql.database=two"]
    first, second = (programs.Server(tmp_path, (free_port(), free_port()), *flags) for _ in range(2))
    record = Record()
    clients: list[V2Client] = []

    def warnings(server: programs.Server) -> list[Any]:
        lines = [json.loads(line) for line in server.written().split(b"\n")[:-1] if line.startswith(b"{")]
        return [line for line in lines if "another Mercury" in line["message"]]

    try:
        await first.start()
        await first.ok("POST", "/api/rooms/r/members", {"members": ["ann", "bob"]})
        await second.start()
        for server, member in ((first, "ann"), (second, "bob")):
            clients.append(V2Client(record, server.where, member, await server.token(member), "phone"))
            await clients[-1].connect()
        ann, bob = clients
        began = time.monotonic()
        assert (await ann.ask(type="send", rid="r", text="hello"))["type"] == "ok"
        await until(lambda: bob.has.get("r") == 2, "the message")
        await first.ok("POST", "/api/rooms/new/members", {"members": ["ann", "bob"]})
        await until(lambda: "new" in bob.has, "the joining")
        assert (await bob.ask(type="send", rid="new", text="hi"))["type"] == "ok"
        await until(lambda: ann.has.get("new") == 2, "the message to a new room")
        print(f"all of it crossed within {time.monotonic() - began:.1f} s")
        await until(lambda: warnings(first) and warnings(second), "the warnings")
        (line,) = warnings(second)
        assert line["level"] == "warn"
        assert f"(process {first.pid})" in line["message"]
        await second.stop()
        await until(lambda: b"has stopped" in first.written(), "word of its going")
    finally:
        for client in clients:
            client.abort()
        for server in (first, second):
            if server.processes and not server.processes[-1].ended.called:
                await server.kill()
