"""`--workers`: one command is several nodes that behave as one service, whatever happens to one of them."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from mercury.node.process import STOP_SECONDS
from tests.promises.cluster import flags
from tests.promises.talk import pause
from tests.support.free_ports import free_port
from tests.support.recorder import Record
from tests.support.recording_clients import V2Client, until
from tests.support.redis_servers import RedisEngine
from tests.support.refused_start import refused
from tests.support.systemd_unit import Unit
from tests.support.worker_processes import Several, workers_of

pytestmark = pytest.mark.slow

DEVICES = 12  # of one member: that all are on one of two workers happens once in 2,000 times


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisEngine]:
    engine = RedisEngine(tmp_path_factory.mktemp("redis"), free_port())
    yield engine
    engine.stop()


@asynccontextmanager
async def several(folder: Path, redis: RedisEngine, *more: str, workers: int = 2) -> AsyncIterator[Several]:
    """Workers on a Redis, ready; nothing of them is left afterwards."""
    server = Several(folder, (free_port(), free_port()), workers, *flags({"redis": redis.port}), *more)
    await server.start()
    pids = [server.pid, *server.workers().values()]
    try:
        yield server
    finally:
        pids += server.workers().values() if not server.processes[-1].ended.called else []
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        await until(lambda: server.processes[-1].ended.called, "the supervisor's end")


def is_alive(pid: int) -> bool:
    """Whether a process runs: who was not fetched by its parent yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def come(server: Several, member: str, device: str = "") -> V2Client:
    client = V2Client(Record(), server.where, member, await server.token(member), device)
    await client.connect()
    return client


def lines(server: Several) -> list[dict[str, Any]]:
    """Its log."""
    return [json.loads(line) for line in server.written().splitlines() if line.startswith(b"{")]


# What cannot be


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (
            ["--storage.type=memory"],
            "the store, memory, cannot be shared by workers: set redis.host, or mysql.host and",
        ),
        ([], "workers is 2, but the store, sqlite, cannot be shared by workers: set redis.host"),
        (
            ["--mysql.host=127.0.0.1"],
            "the store, mysql, has no Redis to connect the workers: set redis.host, or workers to 1",
        ),
    ],
)
def test_a_store_that_cannot_be_shared_is_refused_with_the_way_out(
    settings: list[str], why: str, tmp_path: Path
) -> None:
    assert why in refused(tmp_path, "--workers=2", *settings)


def test_a_start_that_cannot_be_is_told_once(tmp_path: Path, redis: RedisEngine) -> None:
    """By the first worker; no other one is tried, and that one not again."""
    nobody = free_port()
    line = refused(tmp_path, "--workers=4", "--redis.host=127.0.0.1", f"--redis.port={nobody}")
    assert f"127.0.0.1:{nobody}" in line
    with socket.socket() as other:  # one that would share its port is no different
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        there = ("--workers=2", "--redis.host=127.0.0.1", f"--redis.port={redis.port}")
        line = refused(tmp_path, *there, f"--server.ws.port={port}")
        assert "--server.ws.port" in line
        assert "in use" in line


# One service


@ensureDeferred
async def test_workers_are_one_service(tmp_path: Path, redis: RedisEngine) -> None:
    """Presence, REST's lists, kicks, metrics, the log, a worker that dies, and the drain."""
    async with several(tmp_path, redis) as server:
        while (ready := await server.ok("GET", "/readyz"))["bus"] == "down":  # they serve before they have met
            await pause(0.05)
        assert ready == {
            "node": "serving", "store": "up", "bus": "up", "workers": {"1": "serving", "2": "serving"},
        }  # fmt: skip
        await server.ok("POST", "/api/rooms/r/members", {"members": ["ann", "bob"]})
        anns = [await come(server, "ann", f"d{n}") for n in range(DEVICES)]
        bob = await come(server, "bob")
        listed = (await server.ok("GET", "/api/members/ann/connections"))["connections"]
        assert sorted(one["device"] for one in listed) == sorted(f"d{n}" for n in range(DEVICES))
        assert {one["worker"] for one in listed} == {1, 2}
        assert [one["since"] for one in listed] == sorted(one["since"] for one in listed)

        ask = anns[0].say("r", "to all")
        await until(lambda: ask.answers, "an answer")
        seq = ask.answers[0][0]
        await until(lambda: all(one.has.get("r") == seq for one in (*anns, bob)), "the message, everywhere")
        numbers = await server.numbers()
        connections = [numbers("mercury_connections", worker=str(n)) for n in (1, 2)]
        assert sum(connections) == DEVICES + 1
        assert min(connections) > 0
        assert sum(numbers("mercury_entries_total", kind="message", worker=str(n)) for n in (1, 2)) == 1
        assert all(numbers("mercury_up", part="node", worker=str(n)) == 1 for n in (1, 2))
        assert all(numbers("process_resident_memory_bytes", worker=str(n)) > 0 for n in (1, 2))

        assert await server.ok("DELETE", "/api/members/ann/connections?device=d0") == {"closed": 1}
        assert await server.ok("DELETE", "/api/members/ann/connections") == {"closed": DEVICES - 1}
        await until(lambda: not any(one.open for one in anns), "the kicks")
        assert {one.closes[-1][0] for one in anns} == {4403}
        await until(
            lambda: any(f["type"] == "presence" and f["mid"] == "ann" and not f["online"] for f in bob.others),
            "seeing that ann went",
        )

        pid = server.strike(1)
        await server.renewed(1, pid)
        numbers = await server.numbers()
        assert numbers("mercury_entries_total", kind="message", worker="1") == 0, "it counts anew"
        back = [await come(server, "ann", f"e{n}") for n in range(DEVICES)]
        ask = back[0].say("r", "again")
        await until(lambda: all(one.has.get("r") == seq + 1 for one in back), "the message, everywhere again")
        said = [line for line in lines(server) if "is started again" in line["message"]]
        assert [(line["worker"], "by signal 9" in line["message"]) for line in said] == [(1, True)]
        ready = [line["worker"] for line in lines(server) if line["message"].startswith("ready: REST")]
        assert sorted(ready) == [1, 1, 2]

        workers = list(server.workers().values())
        await server.stop()
        assert server.processes[-1].ended.result == 0
        assert not any(map(is_alive, workers))
        assert {one.closes[-1][0] for one in back} == {1012}
        assert sum(line["count"] for line in lines(server) if line["message"].startswith("stopped;")) >= DEVICES


@ensureDeferred
async def test_a_reload_is_for_all_or_none(tmp_path: Path, redis: RedisEngine) -> None:
    settings = tmp_path / "mercury.toml"
    settings.write_text("workers = 2\n[limits]\ntext-bytes = 100\n")
    async with several(tmp_path, redis, f"--config={settings}") as server:

        def done(what: str) -> list[dict[str, Any]]:
            return [line for line in lines(server) if line["message"].startswith(what)]

        await server.ok("POST", "/api/rooms/r/members", {"members": ["ann"]})
        anns = [await come(server, "ann", f"d{n}") for n in range(DEVICES)]

        async def limits() -> set[str]:
            """What becomes of a text of 150 bytes, by each connection."""
            return {(await one.ask(type="send", rid="r", text="x" * 150))["type"] for one in anns}

        assert await limits() == {"error"}
        settings.write_text("[limits]\ntext-bytes = -1\n")
        server.processes[-1].signal("HUP")
        await until(lambda: done("the reload failed"), "the mistake in the log")
        assert await limits() == {"error"}
        settings.write_text("[limits]\ntext-bytes = 200\n")
        server.processes[-1].signal("HUP")
        await until(lambda: len(done("reloaded; changed: limits.text-bytes")) == 2, "two reloads")
        assert await limits() == {"ok"}
        assert len(done("the reload failed")) == 1


@ensureDeferred
async def test_workers_do_not_outlive_who_supervises_them(tmp_path: Path, redis: RedisEngine) -> None:
    """They are told nothing, see it, and drain: clients hear when to come back."""
    async with several(tmp_path, redis) as server:
        anns = [await come(server, "ann", f"d{n}") for n in range(DEVICES)]
        workers = list(server.workers().values())
        await server.kill()
        await until(lambda: not any(map(is_alive, workers)), "the workers' ends")
        await until(lambda: not any(one.open for one in anns), "the clients' ends")
        assert {one.closes[-1][0] for one in anns} == {1012}


# As a unit of systemd


@ensureDeferred
async def test_under_systemd_all_share_its_sockets(tmp_path: Path, redis: RedisEngine) -> None:
    """And one that hangs is ended and started again; SIGTERM may come to all of them, as systemd's default is."""
    unit = Unit(tmp_path, "--workers=2", *flags({"redis": redis.port}), watchdog=4.0)
    try:
        await unit.start()
        assert unit.listen().count("READY=1") == 1
        workers = workers_of(unit.pid)
        await unit.ok("POST", "/api/rooms/r/members", {"members": ["ann"]})
        for number, pid in workers.items():  # whoever is free takes who comes: these, while the other one is not
            client = V2Client(Record(), unit.where, "ann", await unit.token("ann"), f"not on {number}")
            os.kill(pid, signal.SIGSTOP)
            try:
                await client.connect()
            finally:
                os.kill(pid, signal.SIGCONT)
        listed = (await unit.ok("GET", "/api/members/ann/connections"))["connections"]
        assert {one["device"]: one["worker"] for one in listed} == {"not on 1": 2, "not on 2": 1}

        os.kill(workers[2], signal.SIGSTOP)
        await until(
            lambda: workers_of(unit.pid).get(2, workers[2]) != workers[2], lambda: unit.written()[-3000:].decode()
        )
        assert b"worker 2 hangs" in unit.written()
        assert "WATCHDOG=1" in unit.listen()
        while (await unit.call("GET", "/readyz"))[0] != 200:
            pass
        await unit.reload()
        pids, process = workers_of(unit.pid).values(), unit.processes[-1]
        process.signal("TERM")
        while not process.ended.called:
            for pid in filter(is_alive, pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            await pause(0.02)
        assert process.ended.result == 0
        assert b"Can't stop reactor" not in unit.written()
        assert [line for line in unit.listen() if line == "STOPPING=1"] == ["STOPPING=1"]
    finally:
        for pid in workers_of(unit.pid).values() if not unit.processes[-1].ended.called else ():
            os.kill(pid, signal.SIGKILL)
        await unit.close()


def test_systemd_waits_long_enough() -> None:
    """TimeoutStopSec= in the units is above what the supervisor asks for with the default settings."""
    from mercury.settings.schema import Config
    from mercury.workers.supervisor import INSISTING

    assert STOP_SECONDS + Config().drain.seconds + INSISTING < 60
