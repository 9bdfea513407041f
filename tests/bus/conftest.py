"""What tests of buses share: a Redis of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.free_ports import free_port
from tests.support.redis_servers import RedisEngine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RedisEngine]:
    engine = RedisEngine(tmp_path / "redis", free_port())
    yield engine
    engine.kill()
