"""The faults, each done to a cluster of three nodes, or to one of three workers, while everybody talks. play.py plays
them.

A fault returns when it is healed. What must hold while it lasts it notes itself; the rest is the checker's.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from twisted.internet.threads import deferToThread

from tests.promises.cluster import EVERYWHERE, Cluster, Strike
from tests.promises.talk import BACKEND, pause
from tests.support.gotalk_client import GotalkClient
from tests.support.recorder import Ask
from tests.support.recording_clients import Client, FluentClient, until
from tests.support.server_process import Server
from tests.support.worker_processes import workers_of

TRY_LATER: Final = 1013
RESTART: Final = 1012
DISK_MB: Final = 400  # for a disk that gets full
LARGE: Final = 12_000  # characters of a text that helps to fill it
LARGE_ONES: Final = 10  # such texts on the way
ABORTING: Final = 1.0  # seconds that an engine takes to end itself
LAST: Final = 2.0  # seconds at the end of a fault
KILLS: Final = 4  # of workers, in one round
NOTICED: Final = 15.0  # seconds within which a bus that has fallen silent has to be noticed


# Nodes


async def node_killed(cluster: Cluster) -> None:
    """SIGKILL, and a restart a moment later."""
    victim, _ = cluster.pick()
    async with away(cluster, victim):
        await victim.kill()
        await pause(cluster.rng.uniform(0.1, 0.5))
        await victim.start()


async def node_frozen(cluster: Cluster) -> None:
    """SIGSTOP for some seconds. Some of its clients leave, others wait; the other nodes go on."""
    victim, _ = cluster.pick()
    async with away(cluster, victim):
        victim.processes[-1].signal("STOP")
        try:
            for client in cluster.at(victim)[::2]:
                client.abort()
            await others_served(cluster, cluster.at(victim), cluster.rng.uniform(6, 8))
        finally:
            victim.processes[-1].signal("CONT")


async def rolling_restart(cluster: Cluster) -> None:
    """SIGTERM to all nodes in turn: clients see that their connection ends with 1012, and no other error."""
    before = cluster.ends()
    for server in cluster.servers:
        await cluster.all_open()
        async with away(cluster, server):
            await server.stop()
            await server.start()
    ends = cluster.ends() - before
    cluster.note({code for _, _, (code, _) in ends} == {1012}, f"connections ended otherwise than with 1012: {ends}")
    codes = {(ask.device, ask.code) for ask in cluster.record.asks if ask.code}
    people = {client.name for client in cluster.clients if isinstance(client, GotalkClient)}
    # By HTTP: a call that met the closing port, or a node that goes: anew, or on a connection that was kept.
    known = {(BACKEND, "unanswered"), *((name, "unavailable") for name in (BACKEND, *people))}
    cluster.note(codes <= known, f"there were errors: {codes}")


# Workers of one node


async def worker_killed(cluster: Cluster) -> None:
    """SIGKILL to one after the other, as fast as they come back, while the other ones serve."""
    for _ in range(KILLS):
        pids = workers_of(cluster.servers[0].pid)
        os.kill(cluster.rng.choice(sorted(pids.values())), signal.SIGKILL)
        await pause(cluster.rng.uniform(0.1, 0.8))


async def worker_stopped(cluster: Cluster) -> None:
    """SIGTERM to each in turn: clients see that their connection ends with 1012, or is answered 503 by the one that
    stops, and no other error."""
    supervisor = cluster.servers[0].pid
    for number in sorted(workers_of(supervisor)):
        await cluster.all_open()
        before, pid = cluster.ends(), workers_of(supervisor)[number]
        os.kill(pid, signal.SIGTERM)
        await until(lambda n=number, p=pid: workers_of(supervisor).get(n, p) != p, "another process")  # type: ignore[misc]
        odd = [
            e for _, _, e in cluster.ends() - before if e[0] != RESTART and not (e[0] == 1006 and "503" in str(e[1]))
        ]
        cluster.note(not odd, f"connections ended otherwise than with {RESTART}: {odd}")


async def supervisor_killed(cluster: Cluster) -> None:
    """SIGKILL to the process that supervises the workers, which stop by themselves, and a restart."""
    (server,) = cluster.servers
    pids = workers_of(server.pid).values()
    await server.kill()
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the workers' ends")
    await server.start()


@asynccontextmanager
async def away(cluster: Cluster, server: Server) -> AsyncIterator[None]:
    """Nobody goes to this node meanwhile."""
    cluster.up.remove(server)
    try:
        yield
    finally:
        cluster.up.append(server)


# Engines


async def mariadb_killed(cluster: Cluster) -> None:
    """SIGKILL, and a restart some seconds later."""
    mariadb: Any = cluster.engines.mariadb
    async with store_away(cluster, "MariaDB was down", cluster.clients):
        mariadb.kill()
        await pause(cluster.rng.uniform(2, 5))
    await deferToThread(mariadb.start)


async def redis_killed(cluster: Cluster) -> None:
    """SIGKILL. As the bus it comes back empty; as the store (appendfsync always) it has what was acknowledged."""
    redis = cluster.engines.redis
    if cluster.engines.kind == "mysql":
        redis.kill()
        await pause(cluster.rng.uniform(1, 3))
    else:
        async with store_away(cluster, "Redis was down", cluster.clients):
            redis.kill()
            await pause(cluster.rng.uniform(1, 3))
    await deferToThread(redis.start)


@asynccontextmanager
async def store_away(cluster: Cluster, when: str, clients: list[Client]) -> AsyncIterator[None]:
    """These clients get no ok for what they ask from here to there, and stay connected.

    A client of the first protocol is not told when its login is done; if it was not, it is sent away with 1013.
    """
    asked, before = len(cluster.record.asks), cluster.ends()
    yield
    ends = cluster.ends() - before
    sent_away = {name for name, _, (code, _) in ends if code == TRY_LATER}
    broken = {end for end in ends if end[0] not in sent_away}
    cluster.note(not broken, f"connections ended while {when}: {broken}")
    false = _ok(cluster.asked_since(asked, [client for client in clients if client.name not in sent_away]))
    cluster.note(not false, f"I1 {len(false)} messages were acknowledged while {when}: {str(false[:1])[:300]}")


async def disk_full(cluster: Cluster) -> None:
    """The engines' disk has no room left until clients are told so; what there is can be read. An engine that ends
    itself for it is started again when there is room: Redis that syncs always does, and MariaDB over its redo log."""
    disk: Any = cluster.disk
    store: Any = cluster.engines.mariadb or cluster.engines.redis
    asked = len(cluster.record.asks)
    await deferToThread(disk.fill)
    try:
        client = next(c for c in cluster.clients if c.open and isinstance(c, FluentClient))
        rid = next(iter(cluster.record.members))
        while not any(ask.code == "unavailable" for ask in cluster.record.asks[asked:]):
            if len(client.waiting) < LARGE_ONES:
                text = client.text("." * LARGE)
                client.say(rid, text, cid=text.rstrip("."))
            await pause(0.01)
        answer = await client.ask(type="history", rid=rid)
        if answer["type"] == "error":
            await pause(ABORTING)
        alive = await deferToThread(store.answers)
        cluster.note(answer.get("messages") or not alive, f"nothing can be read while the disk is full: {answer}")
    finally:
        await deferToThread(disk.free)
        await deferToThread(store.recover)


async def clock_wrong(cluster: Cluster) -> None:
    """A node's wall clock goes an hour forth, and two hours back: order and timers do not mind."""
    clock: Any = cluster.clock
    for hours in (1, -1, 0):
        clock.set(3600 * hours)
        await pause(cluster.rng.uniform(0.5, 1.5))


async def row_locked(cluster: Cluster) -> None:
    """Another connection holds a room's row for some seconds."""
    mariadb: Any = cluster.engines.mariadb
    rid = cluster.rng.choice(list(cluster.record.members))
    connection = mariadb.connect("cluster", autocommit=False)
    try:
        await deferToThread(connection.query, f"SELECT nr FROM room WHERE rid = '{rid}' FOR UPDATE")
        await pause(cluster.rng.uniform(1, 4))
    finally:
        connection.close()


# What lies between


async def bus_silent(cluster: Cluster) -> None:
    """What a node has subscribed to does not come any more, over a connection that looks well."""
    node, proxies = cluster.pick()
    proxy = proxies["redis"]
    began, before = time.monotonic(), (_times(node, "down"), _times(node, "up"))
    proxy.mute_subscribers = True
    await until(lambda: _times(node, "down") > before[0], "noticing that the bus is silent")
    noticed = cluster.figures["noticed_s"] = time.monotonic() - began
    cluster.note(noticed < NOTICED, f"the silent bus was noticed after {noticed:.1f} s only")
    await pause(cluster.rng.uniform(1, 2))
    proxy.mute_subscribers = False
    await until(lambda: _times(node, "up") > before[1], "the return of the bus")


def _times(node: Server, state: str) -> int:
    """How often the node's log says so of the bus."""
    return node.written().count(f"the bus is {state}".encode())


async def cut_off(cluster: Cluster) -> None:
    """A node's way to its bus or store is a black hole for some seconds; its clients are told so and stay."""
    node, proxies = cluster.pick()
    engine = cluster.rng.choice(sorted(proxies))
    proxy, clients = proxies[engine], cluster.at(node)
    if engine == "mysql":
        proxy.black_hole_from = b"INSERT INTO entry"  # it has the room's lock by then
        await until(lambda: proxy.black_hole, "a write")
    proxy.black_hole = True
    if engine == cluster.engines.kind:
        async with store_away(cluster, "the node was cut off from its store", clients):
            await others_served(cluster, clients, cluster.rng.uniform(6, 8))
            said = cluster.asked_since(0, clients)
            await until(lambda: any(ask.code == "unavailable" for ask in said), "telling clients of the outage")
    else:
        await others_served(cluster, clients, cluster.rng.uniform(6, 8))
    proxy.black_hole = False


async def others_served(cluster: Cluster, clients: list[Client], seconds: float) -> None:
    """Let time pass, at the end of which those not among `clients` are served in their rooms, whoever locked them."""
    await pause(seconds - LAST)
    asked, others = len(cluster.record.asks), [client for client in cluster.clients if client not in clients]
    await pause(LAST)
    rooms = {rid for rid, mids in cluster.record.members.items() if mids & {client.member for client in others}}

    def missing() -> set[str]:
        return rooms - {ask.rid for ask in _ok(cluster.asked_since(asked, others))}

    def how_it_is() -> str:
        asks = cluster.asked_since(asked, others)
        seen = {rid: Counter(ask.code or ask.outcome for ask in asks if ask.rid == rid) for rid in missing()}
        return f"serving the others while a node is away, {seen}; {cluster.waiting(others)},"

    await until(lambda: not missing(), how_it_is)  # on a busy machine it takes longer


async def reply_lost(cluster: Cluster) -> None:
    """Some times, a node's write is committed, and the store's answer never comes."""
    store = cluster.engines.kind
    for _ in range(5):
        proxy = cluster.pick()[1][store]
        proxy.cut_answer_to = b"COMMIT" if store == "mysql" else b"\r\nappend\r\n"
        await until(lambda proxy=proxy: not proxy.cut_answer_to, "a write")  # type: ignore[misc]
        await pause(cluster.rng.uniform(0.1, 0.4))


# Clients


async def one_cid(cluster: Cluster) -> None:
    """A member's devices send the same over all nodes at the same time: one message, and one answer for all."""
    devices = [c for c in cluster.clients if c.member == EVERYWHERE and isinstance(c, FluentClient)][:5]
    for number in range(10):
        ask = Ask(
            "everywhere", EVERYWHERE, cluster.rng.choice(list(_rooms_of(cluster))), f"one {number}", f"one{number}"
        )
        cluster.record.asks.append(ask)
        for device in devices:
            device.repeat(ask)
        await until(lambda ask=ask: len(ask.answers) == len(devices), lambda ask=ask: f"{len(devices)} answers: {ask}")  # type: ignore[misc]
        cluster.note(len({answer[:2] for answer in ask.answers}) == 1, f"answers differ: {ask}")
        cluster.note(sum(not answer[2] for answer in ask.answers) == 1, f"not one of them was the first: {ask}")


def _rooms_of(cluster: Cluster) -> list[str]:
    return [rid for rid, members in cluster.record.members.items() if EVERYWHERE in members]


def _ok(asks: list[Ask]) -> list[Ask]:
    return [ask for ask in asks if ask.outcome == "ok"]


# All of them


class Fault(NamedTuple):
    """`kinds`: the stores to which it applies. `rig`: what the Cluster has to have for it."""

    strike: Strike
    kinds: tuple[str, ...] = ("mysql", "redis")
    rig: Mapping[str, Any] = MappingProxyType({})


PROXIED: Final = {"proxied": True}
WORKERS: Final = {"workers": 3}


FAULTS: Final = {
    "node-killed": Fault(node_killed),
    "worker-killed": Fault(worker_killed, rig=WORKERS),
    "worker-stopped": Fault(worker_stopped, rig=WORKERS),
    "supervisor-killed": Fault(supervisor_killed, rig=WORKERS),
    "mariadb-killed": Fault(mariadb_killed, ("mysql",)),
    "redis-killed": Fault(redis_killed),
    "node-frozen": Fault(node_frozen),
    "rolling-restart": Fault(rolling_restart),
    "one-cid": Fault(one_cid),
    "bus-silent": Fault(bus_silent, rig=PROXIED),
    "row-locked": Fault(row_locked, ("mysql",)),
    "disk-full": Fault(disk_full, rig={"disk_mb": DISK_MB}),
    "clock-wrong": Fault(clock_wrong, rig={"own_clock": True}),
    "cut-off": Fault(cut_off, rig=PROXIED),
    "reply-lost": Fault(reply_lost, rig=PROXIED),
}
