"""Runs the suite of tests/test_stores.py, and what is promised of keys beside it, over each store with a key.

Over MySQL not all of it: there each database takes its time, and the rules are those of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import test_stores
from contract_store import StoreContract
from contract_store_append import AppendContract
from contract_store_sealed import KEYS, SealedContract
from contract_store_tools import Make
from twisted.internet import reactor

from mercury.backends.memory import MemoryStore
from mercury.backends.mysql import MysqlStore
from mercury.backends.mysql_server import Server
from mercury.backends.redis import RedisStore
from mercury.backends.redis_link import RedisServer
from mercury.backends.sqlite import SqliteStore

redis_database = test_stores.redis_database
mysql_database = test_stores.mysql_database


class TestMemory(StoreContract, SealedContract):
    @pytest.fixture
    def make(self) -> Make:
        return lambda limit: MemoryStore(limit, KEYS)


class TestSqlite(StoreContract, SealedContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        number = count()
        return lambda limit: SqliteStore(str(tmp_path / f"{next(number)}.db"), limit, KEYS)


class TestMysql(AppendContract, SealedContract):
    @pytest.fixture
    def make(self, mysql_database: Callable[[], Server]) -> Make:
        return lambda limit: MysqlStore(mysql_database(), rooms_per_member=limit, keys=KEYS)


class TestRedis(StoreContract, SealedContract):
    @pytest.fixture
    def make(self, redis_database: Callable[[], RedisServer]) -> Make:
        return lambda limit: RedisStore(reactor, redis_database(), limit, keys=KEYS)
