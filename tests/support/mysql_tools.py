"""What the tests of the MySQL store have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet.defer import gatherResults

from mercury.errors import MercuryError
from mercury.stores.mysql.server import MysqlServer
from mercury.stores.mysql.store import MysqlStore


@asynccontextmanager
async def nodes(server: MysqlServer, count: int) -> AsyncIterator[list[MysqlStore]]:
    """That many stores on one database, opened at once."""
    stores = [MysqlStore(server, 4) for _ in range(count)]
    await gatherResults([store.open() for store in stores])
    try:
        yield stores
    finally:
        await gatherResults([store.close() for store in stores])


async def unavailable(call: Any) -> MercuryError:
    with pytest.raises(MercuryError) as caught:
        await call
    assert (caught.value.code, caught.value.retry_after) == ("unavailable", 1.0)
    return caught.value
