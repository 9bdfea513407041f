"""Redis behind Sentinel: a master that dies is replaced, and the store goes on with the new one.

A redis-server can be a sentinel, too, so nothing more needs to be installed.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from mercury.errors import MercuryError
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from tests.contracts.tools import NOW, entry_of, joined, log_of, message, put
from tests.support.free_ports import free_port
from tests.support.redis_servers import RedisEngine, redis_or_skip

pytestmark = pytest.mark.slow

PATIENCE = 60.0  # seconds
SERVICE = "chat"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisEngine, RedisEngine]]:
    """A master and its replica."""
    master = RedisEngine(tmp_path / "master", free_port(), durable=True)
    options = ("--replicaof", "127.0.0.1", str(master.port))
    replica = RedisEngine(tmp_path / "replica", free_port(), durable=True, options=options)
    yield master, replica
    master.kill()
    replica.kill()


@pytest.fixture
def sentinel(tmp_path: Path, pair: tuple[RedisEngine, RedisEngine]) -> Iterator[tuple[str, int]]:
    """One that decides alone."""
    port, config = free_port(), tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nlogfile {tmp_path}/sentinel.log\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {pair[0].port} 1\n"
        f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 5000\n"
    )
    process = subprocess.Popen([redis_or_skip(), str(config), "--sentinel"], stdin=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < end, (tmp_path / "sentinel.log").read_text()
            time.sleep(0.05)
    yield "127.0.0.1", port
    process.kill()
    process.wait()


async def until_replicated(master: RedisEngine) -> None:
    """Wait until the replica has all that the master has."""
    end = time.monotonic() + PATIENCE
    while True:
        info = master.ask("INFO", "replication").decode()
        has = re.search(r"^slave0:.*state=online,offset=(\d+)", info, re.MULTILINE)
        if has and f"master_repl_offset:{has[1]}\r" in info:
            return
        assert time.monotonic() < end, "there is no replica"
        await deferLater(reactor, 0.05)


@pytest_twisted.ensureDeferred
async def test_the_store_follows_the_master(pair: tuple[RedisEngine, RedisEngine], sentinel: tuple[str, int]) -> None:
    master, replica = pair
    nobody = ("127.0.0.1", free_port())
    server = RedisServer(sentinels=(nobody, sentinel), service=SERVICE, command_seconds=1.0, connect_seconds=1.0)
    store = RedisStore(reactor, server)
    await store.open()
    await put(store, joined("r", "a"), message("r", "a", "first", "c"))
    await until_replicated(master)
    await deferLater(reactor, 3)  # the sentinel asks a master for its replicas now and then
    master.kill()
    end, answer = time.monotonic() + PATIENCE, None
    while answer is None:
        assert time.monotonic() < end, "the store does not follow"
        try:
            (answer,) = await put(store, message("r", "a", "second", "d"))
        except MercuryError:
            await deferLater(reactor, 0.1)
    assert entry_of(answer).seq == 3
    assert [entry.text for entry in await log_of(store, "r")][1:] == ["first", "second"]
    assert b"role:master" in replica.ask("INFO", "replication")
    await store.close()


@pytest_twisted.ensureDeferred
async def test_what_the_sentinels_do_not_know_is_said(
    pair: tuple[RedisEngine, RedisEngine], sentinel: tuple[str, int]
) -> None:
    for server, words in (
        (RedisServer(sentinels=(sentinel,), service="no"), "does not know the service no"),
        (RedisServer(sentinels=(("127.0.0.1", free_port()),), service=SERVICE), "does not answer"),
    ):
        with pytest.raises(MercuryError, match=words) as caught:
            await RedisStore(reactor, server).open()
        assert caught.value.code == "unavailable"


class Outdated(Protocol):
    """A sentinel that takes a replica for the master, whatever it is asked."""

    def dataReceived(self, data: bytes) -> None:
        port = str(self.factory.named).encode()
        self.transport.write(b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(port), port))  # type: ignore[union-attr]


@pytest_twisted.ensureDeferred
async def test_a_replica_is_not_taken_for_the_master(pair: tuple[RedisEngine, RedisEngine]) -> None:
    await until_replicated(pair[0])
    factory: Any = Factory.forProtocol(Outdated)
    factory.named = pair[1].port
    listening = cast(Any, reactor).listenTCP(0, factory, interface="127.0.0.1")
    server = RedisServer(sentinels=(("127.0.0.1", listening.getHost().port),), service=SERVICE)
    with pytest.raises(MercuryError, match="is not a master yet") as caught:
        await RedisStore(reactor, server).open()
    assert caught.value.code == "unavailable"
    await listening.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_replica_is_not_written_to(pair: tuple[RedisEngine, RedisEngine]) -> None:
    """Without Sentinel, when the address is a replica's: an error that says so, and it works once it is the master."""
    master, replica = pair
    on_master = RedisStore(reactor, RedisServer(port=master.port))
    await on_master.open()
    await until_replicated(master)
    store = RedisStore(reactor, RedisServer(port=master.port))
    await store.open()
    master.ask("REPLICAOF", "127.0.0.1", str(replica.port))
    replica.ask("REPLICAOF", "NO", "ONE")
    with pytest.raises(MercuryError, match="READONLY") as caught:
        await store.append([joined("r", "a")], NOW)
    assert caught.value.code == "unavailable"
    master.ask("REPLICAOF", "NO", "ONE")
    end, answer = time.monotonic() + PATIENCE, None
    while answer is None:
        assert time.monotonic() < end
        try:
            (answer,) = await put(store, joined("r", "a"))
        except MercuryError:
            await deferLater(reactor, 0.1)
    assert entry_of(answer).seq == 1
    await store.close()
    await on_master.close()
