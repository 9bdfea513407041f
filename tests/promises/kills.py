"""A server is killed in the middle of bursts, twice a seed: make faults ARGS=server-killed, or test_kill.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.promises.checker import summary, violations
from tests.promises.scenario import Scenario
from tests.support.child_programs import SERVER
from tests.support.free_ports import free_port
from tests.support.recorder import Record
from tests.support.server_process import Server

KILLS = 2  # for each seed


async def killed(folder: Path, seed: int, program: Sequence[str] = SERVER) -> tuple[Record, dict[str, float]]:
    """What everybody saw of a server that was killed, and figures for people. `program` starts it."""
    place = folder / str(seed)
    place.mkdir()
    server = Server(place, (free_port(), free_port()), program=program)
    scenario = Scenario(server, seed)
    try:
        return await scenario.run(KILLS), scenario.figures
    finally:
        scenario.end()
        if server.processes:
            await server.kill()


async def play(folder: Path, rounds: int, seed: int) -> tuple[list[str], dict[str, float]]:
    """So many seeds from this one on: what was wrong with any, and of each figure the greatest."""
    found: list[str] = []
    most: dict[str, float] = {}
    for number in range(seed, seed + rounds):
        record, figures = await killed(folder, number)
        wrong = violations(record)
        figures["acknowledged"] = sum(ask.outcome == "ok" for ask in record.asks)
        shown = " ".join(f"{figure}={value:.4g}" for figure, value in figures.items())
        print(f"server-killed on sqlite, seed {number}: {record.counts()}, {shown}, {summary(wrong)}", flush=True)
        found += wrong
        most = {f: max(value, most.get(f, 0.0)) for f, value in figures.items()}
    return found, most
