"""Three nodes on MariaDB with Redis, and on Redis alone, keep every promise while they are killed in bursts.

The clients of a killed node go to another one; the checker looks at the whole record (promises/checker.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_redis import RedisEngine
from engines import MariaDb
from promises.checker import violations
from promises.recorder import Record
from promises.scenario import Scenario
from promises.server import Server
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults

NODES = 3
SEEDS = (1, 2)


class Cluster(Scenario):
    """The scenario on several nodes: each round one is killed, and its clients go on at another."""

    def __init__(self, servers: list[Server], seed: int) -> None:
        super().__init__(servers[0], seed)
        self.servers = servers

    async def run(self, rounds: int) -> Record:
        await gatherResults([Deferred.fromCoroutine(server.start()) for server in self.servers])
        await self._people()
        for number, client in enumerate(self.clients):
            client.where = self.servers[number % NODES].where
        await self._connect()
        for _ in range(rounds):
            await self._burst(self.rng.uniform(0.2, 0.5))
            victim, other = self.rng.sample(self.servers, 2)
            await victim.kill()
            homeless = [client for client in self.clients if client.where == victim.where]
            for client in homeless:
                client.abort()
                client.where = other.where
            await gatherResults([Deferred.fromCoroutine(self._return(client)) for client in homeless])
            await self._burst(self.rng.uniform(0.1, 0.3))
            await victim.start()
        await gatherResults([Deferred.fromCoroutine(self._return(c)) for c in self.clients if not c.open])
        await self._recovered()  # the others stay as they are: what they miss has to come over the bus
        await self._histories()
        return self.record


@pytest.fixture
def redis(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[RedisEngine]:
    """What carries the wake-ups, and in one of the tests is the store as well."""
    engine = RedisEngine(tmp_path / "redis", free_port(), durable=True)
    yield engine
    engine.stop()


async def keeps_its_promises(folder: Path, free_port: Callable[[], int], seed: int, *flags: str) -> None:
    servers = [Server(folder, (free_port(), free_port()), *flags) for _ in range(NODES)]
    cluster = Cluster(servers, seed)
    try:
        found = violations(await cluster.run(rounds=3))
        print(json.dumps(cluster.figures))
        assert not found, "\n".join(found)
        assert cluster.figures["asked"] > 100
    finally:
        cluster.end()
        for server in servers:
            if server.processes and not server.processes[-1].ended.called:
                await server.kill()


@pytest.mark.parametrize("seed", SEEDS)
@ensureDeferred
async def test_three_nodes_on_mariadb_and_redis(
    mariadb: MariaDb, redis: RedisEngine, tmp_path: Path, free_port: Callable[[], int], seed: int
) -> None:
    await keeps_its_promises(
        tmp_path, free_port, seed, "--storage.type=mysql", "--mysql.host=127.0.0.1", f"--mysql.port={mariadb.port}",
        f"--mysql.database=cluster{seed}", "--redis.host=127.0.0.1", f"--redis.port={redis.port}",
    )  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@ensureDeferred
async def test_three_nodes_on_redis_alone(
    redis: RedisEngine, tmp_path: Path, free_port: Callable[[], int], seed: int
) -> None:
    await keeps_its_promises(
        tmp_path, free_port, seed, "--storage.type=redis", "--redis.host=127.0.0.1", f"--redis.port={redis.port}"
    )
