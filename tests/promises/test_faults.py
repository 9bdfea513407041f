"""Two rounds of every fault that concerns stores, bus and nodes, one of a worker's: I1 to I4 hold. `make faults` plays
twenty of each, and more of workers.

What is measured (I5, I6) is printed there and judged by people.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_twisted import ensureDeferred

from tests.promises import crowd, cuts
from tests.promises.checker import summary
from tests.promises.faults import FAULTS, WORKERS
from tests.promises.play import play

pytestmark = pytest.mark.slow


def together() -> list[tuple[str, list[str]]]:
    """The faults that can be done to one cluster, with the store that it is on: starting one takes long."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, fault in FAULTS.items():
        if fault.rig is WORKERS:
            continue
        for kind in fault.kinds:
            groups.setdefault((kind, str(dict(fault.rig))), []).append(name)
    return [(kind, names) for (kind, _), names in groups.items()]


@pytest.mark.parametrize(
    ("kind", "names"), [pytest.param(*group, id="-".join([group[0], *group[1]])) for group in together()]
)
@ensureDeferred
async def test_every_promise_is_kept_through(kind: str, names: list[str], tmp_path: Path) -> None:
    found, figures = await play(tmp_path, names, kind, rounds=2, seed=1)
    assert not found, summary(found)
    assert figures["asked"] > 50  # there was something to see


@ensureDeferred
async def test_every_promise_is_kept_while_workers_are_killed(tmp_path: Path) -> None:
    found, figures = await play(tmp_path, ["worker-killed"], "redis", rounds=1, seed=1)
    assert not found, summary(found)
    assert figures["asked"] > 50


@ensureDeferred
async def test_cut_answers_lose_nothing_of_what_gotalks_people_write(tmp_path: Path) -> None:
    """10,000 messages; a hundred times as many in `make faults`."""
    found, figures = await cuts.play(tmp_path, rounds=1, seed=1)
    assert not found, summary(found)
    assert figures["cuts"] > 500


@ensureDeferred
async def test_a_crowd_is_neither_refused_nor_cut_off_by_a_restart_or_a_reload(tmp_path: Path) -> None:
    """200 clients of all protocols and a backend, with the sockets at systemd; twenty times each in `make faults`."""
    found, figures = await crowd.play(tmp_path, list(crowd.STRIKES), rounds=1, seed=1)
    assert not found, summary(found)
    assert figures["told"] > 100
