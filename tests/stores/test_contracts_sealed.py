"""Runs the suite of tests/stores/test_contracts.py, and what is promised of keys beside it, over each store with a key.

Over MySQL not all of it: there each database takes its time, and the rules are those of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from twisted.internet import reactor

from mercury.stores.memory.store import MemoryStore
from mercury.stores.mysql.server import MysqlServer
from mercury.stores.mysql.store import MysqlStore
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from mercury.stores.sqlite.store import SqliteStore
from tests.contracts.append import AppendContract
from tests.contracts.sealed import KEYS, SealedContract
from tests.contracts.store import StoreContract
from tests.contracts.tools import Make


class TestMemory(StoreContract, SealedContract):
    @pytest.fixture
    def make(self) -> Make:
        return lambda limit: MemoryStore(limit, KEYS)


class TestSqlite(StoreContract, SealedContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        number = count()
        return lambda limit: SqliteStore(str(tmp_path / f"{next(number)}.db"), limit, KEYS)


@pytest.mark.slow
class TestMysql(AppendContract, SealedContract):
    @pytest.fixture
    def make(self, mysql_database: Callable[[], MysqlServer]) -> Make:
        return lambda limit: MysqlStore(mysql_database(), rooms_per_member=limit, keys=KEYS)


@pytest.mark.slow
class TestRedis(StoreContract, SealedContract):
    @pytest.fixture
    def make(self, redis_database: Callable[[], RedisServer]) -> Make:
        return lambda limit: RedisStore(reactor, redis_database(), limit, keys=KEYS)
