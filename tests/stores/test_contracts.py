"""Runs the suites that hold every store to its interfaces over each of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor

from mercury.stores.memory.store import MemoryStore
from mercury.stores.mysql.server import MysqlServer
from mercury.stores.mysql.store import MysqlStore
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from mercury.stores.sqlite.store import SqliteStore
from tests.contracts.accounts import AccountsContract
from tests.contracts.store import StoreContract
from tests.contracts.tools import Make


class TestMemory(StoreContract, AccountsContract):
    @pytest.fixture
    def make(self) -> Make:
        return MemoryStore

    @pytest.fixture
    def make_nodes(self, make: Make) -> list[Any]:
        return [make(0)]


class TestSqlite(StoreContract, AccountsContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        number = count()
        return lambda limit: SqliteStore(str(tmp_path / f"{next(number)}.db"), limit)

    @pytest.fixture
    def make_nodes(self, make: Make) -> list[Any]:
        return [make(0)]


@pytest.mark.slow
class TestRedis(StoreContract, AccountsContract):
    @pytest.fixture
    def make(self, redis_database: Callable[[], RedisServer]) -> Make:
        return lambda limit: RedisStore(reactor, redis_database(), limit)

    @pytest.fixture
    def make_nodes(self, redis_database: Callable[[], RedisServer]) -> list[Any]:
        server = redis_database()
        return [RedisStore(reactor, server) for _ in range(3)]


@pytest.mark.slow
class TestMysql(StoreContract, AccountsContract):
    @pytest.fixture
    def make(self, mysql_database: Callable[[], MysqlServer]) -> Make:
        return lambda limit: MysqlStore(mysql_database(), rooms_per_member=limit)

    @pytest.fixture
    def make_nodes(self, mysql_database: Callable[[], MysqlServer]) -> list[Any]:
        server = mysql_database()
        return [MysqlStore(server, 4) for _ in range(3)]
