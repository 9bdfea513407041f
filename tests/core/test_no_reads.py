"""What is said on one node reaches clients on another one without a look at the store.

Counted by MariaDB itself, in its general log, where each node is another user.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from pytest_twisted import ensureDeferred

from mercury.bus.redis import RedisBus
from mercury.core.parts import Chat
from mercury.node.build import make_chat
from mercury.settings.schema import Config
from mercury.stores.mysql.server import MysqlServer
from mercury.stores.mysql.store import MysqlStore
from mercury.stores.redis.link import RedisServer
from tests.support.free_ports import free_port
from tests.support.in_process_node import SocketlessDevice, reactor, together, until
from tests.support.mariadb_servers import MariaDb
from tests.support.redis_servers import RedisEngine

ROOMS = [f"room {number}" for number in range(10)]
MESSAGES = 200


class SilentEar(SocketlessDevice):
    """A client that answers no pings: that delivery is proved would be stored, and who writes looks where."""

    def ping(self, payload: bytes) -> None:
        pass


class Node(NamedTuple):
    """One of the two."""

    chat: Chat
    bus: RedisBus


@asynccontextmanager
async def started(user: str, mysql: MysqlServer, redis: RedisEngine) -> AsyncIterator[Node]:
    """A node that is this user in MariaDB."""
    store = MysqlStore(replace(mysql, user=user), 4)
    bus = RedisBus(reactor, RedisServer(host="127.0.0.1", port=redis.port))
    node = Node(make_chat(reactor, store, Config(), bus), bus)
    await store.open()
    await node.chat.cluster.open()
    try:
        await until(lambda: bus.is_up)
        yield node
    finally:
        for session in node.chat.hub.everybody():
            session.connection.abort()
        await node.chat.marks.stop()
        await node.chat.cluster.close()
        await store.close()


@pytest.mark.slow
@ensureDeferred
async def test_the_node_that_receives_messages_says_nothing_to_the_store(
    mariadb: MariaDb, mysql: MysqlServer, alter: Callable[[str, object], None], tmp_path: Path
) -> None:
    for user in ("sender", "receiver"):
        mariadb.query(f"CREATE USER {user}@'127.0.0.1'")
        mariadb.query(f"GRANT ALL ON {mysql.database}.* TO {user}@'127.0.0.1'")
    redis = RedisEngine(tmp_path, free_port())
    try:
        async with started("sender", mysql, redis) as here, started("receiver", mysql, redis) as there:
            for rid in ROOMS:
                await here.chat.rooms.join(rid, ["ann", "bob"])
            secret, _ = await there.chat.tokens.make("bob")
            bob = SilentEar(there.chat)
            await bob.login(secret, "bob")
            await until(lambda: len(bob.said("caught_up")) == len(ROOMS))
            alter("log_output", "TABLE")
            alter("general_log", 1)
            for start in range(0, MESSAGES, 20):
                posts = [here.chat.rooms.post("ann", ROOMS[n % 10], str(n)) for n in range(start, start + 20)]
                await together(*posts)
            await until(lambda: len(bob.said("message")) == MESSAGES)
            assert statements(mariadb, "receiver") == []
            assert len(statements(mariadb, "sender")) > MESSAGES / 20, "the log shows what nodes say"
    finally:
        redis.kill()


def statements(mariadb: MariaDb, user: str) -> list[str]:
    """What this user's connections have asked for while the log was on."""
    log = mariadb.query("SELECT argument FROM mysql.general_log WHERE user_host LIKE %s", f"{user}[%")
    return [str(argument) for (argument,) in log]
