"""SIGKILL in the middle of bursts: nothing acknowledged is lost, nothing comes twice, all see one order (I1 to I4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted

from tests.promises.checker import summary, violations
from tests.promises.scenario import Scenario
from tests.support.server_process import Server

pytestmark = pytest.mark.slow

SEEDS = 20


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest_twisted.ensureDeferred
async def test_a_killed_server_keeps_every_promise(seed: int, tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Two kills a seed; then I1 to I4 hold over everything that was ever seen, and there was something to see."""
    server = Server(tmp_path, (free_port(), free_port()))
    scenario = Scenario(server, seed)
    try:
        record = await scenario.run(rounds=2)
    finally:
        scenario.end()
        if server.processes:
            await server.kill()
    found = violations(record)
    print(f"seed {seed}: {record.counts()}, {scenario.figures}")
    assert not found, summary(found)
    assert sum(ask.outcome == "ok" for ask in record.asks) > 50
