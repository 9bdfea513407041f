"""SIGKILL in the middle of bursts: nothing acknowledged is lost, nothing comes twice, all see one order (I1 to I4).

Six seeds; `make faults` plays twenty, or as many as one likes: make faults ARGS="server-killed --rounds=100 --seed=7"
"""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted

from tests.promises import kills
from tests.promises.checker import summary

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(6))
@pytest_twisted.ensureDeferred
async def test_a_killed_server_keeps_every_promise(seed: int, tmp_path: Path) -> None:
    """Two kills a seed; then I1 to I4 hold over everything that was ever seen, and there was something to see."""
    found, figures = await kills.play(tmp_path, rounds=1, seed=seed)
    assert not found, summary(found)
    assert figures["acknowledged"] > 50
