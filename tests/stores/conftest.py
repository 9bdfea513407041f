"""What the suites that hold every store to its interfaces share: databases, all within one server of a kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from mercury.stores.mysql.server import MysqlServer
from mercury.stores.redis.link import RedisServer
from tests.support.free_ports import free_port
from tests.support.mariadb_servers import MariaDb
from tests.support.redis_servers import RedisEngine

_numbers = count()


@pytest.fixture(scope="module")
def redis_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], RedisServer]]:
    """Gives empty databases, all within one server."""
    options = ("--databases", "10000")
    engine = RedisEngine(tmp_path_factory.mktemp("redis"), free_port(), durable=True, options=options)
    number = count()
    yield lambda: RedisServer(port=engine.port, db=next(number))
    engine.stop()


@pytest.fixture(scope="module")
def mysql_database(mariadb: MariaDb) -> Callable[[], MysqlServer]:
    """Gives databases that are not there yet, all within one server."""
    return lambda: mariadb.database(f"contract_{next(_numbers)}")
