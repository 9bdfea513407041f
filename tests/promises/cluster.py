"""Three nodes on MariaDB with Redis, or on Redis alone, through which members of all protocols, two of goTalk's people
and a backend by REST talk while harm is done.

Each round has rooms of its own and a record of its own, so each is judged by itself. The harm is in faults.py. Whoever
loses the connection goes to a node that is up (talk.py).
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, gatherResults

from tests.promises.checker import violations
from tests.promises.scenario import KINDS, ROOMS
from tests.promises.talk import Talk, how
from tests.support.child_programs import SERVER
from tests.support.free_ports import free_port
from tests.support.gotalk_client import GotalkClient
from tests.support.lossy_proxy import LossyProxy
from tests.support.machine import Clock, Disk
from tests.support.mariadb_servers import MariaDb
from tests.support.recorder import Record
from tests.support.recording_clients import Client, FluentClient, V2Client, until
from tests.support.redis_servers import RedisEngine
from tests.support.server_process import Server
from tests.support.wamp_client import WampClient

reactor: Any = installed

NODES: Final = 3
MEMBERS: Final = 8
EVERYWHERE: Final = "m3"  # has two devices more on each node, one of v2 and one of WAMP

Strike = Callable[["Cluster"], Awaitable[None]]


class Engines:
    """What the nodes of a run share. `kind`: mysql (then Redis is the bus and keeps nothing) or redis (durable)."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.redis = RedisEngine(folder / "redis", free_port(), durable=kind == "redis")
        self.mariadb: MariaDb | None = None
        if kind == "mysql":
            (folder / "mariadb").mkdir()
            self.mariadb = MariaDb(folder / "mariadb")
            self.mariadb.start()

    def ports(self) -> dict[str, int]:
        """Where they listen."""
        return {"redis": self.redis.port, **({"mysql": self.mariadb.port} if self.mariadb else {})}

    def stop(self) -> None:
        """Stop them."""
        self.redis.stop()
        if self.mariadb:
            self.mariadb.kill()


def flags(ports: dict[str, int]) -> list[str]:
    """A node's settings. It gives up sooner than usual, so that a round does not last for minutes."""
    redis = ["--redis.host=127.0.0.1", f"--redis.port={ports['redis']}"]
    redis += ["--redis.connect-seconds=1", "--redis.command-seconds=2"]
    if "mysql" not in ports:
        return ["--storage.type=redis", *redis]
    mysql = ["--storage.type=mysql", "--mysql.host=127.0.0.1", f"--mysql.port={ports['mysql']}"]
    patience = ["--mysql.connect-seconds=1", "--mysql.write-seconds=1", "--mysql.read-seconds=3"]
    return [*mysql, "--mysql.database=cluster", *patience, *redis]


class Cluster(Talk):
    """One run of one fault.

    `proxies`: each node's, before its engines, by the engine's kind; empty unless `proxied`. `disk`: where the engines'
    data are, if that is to be a disk of `disk_mb` megabytes. `clock`: the first node's, if it is to have its own. With
    `workers` there is one node, of so many. `program` starts a node.
    """

    def __init__(
        self, folder: Path, kind: str, seed: int, *, proxied: bool = False, disk_mb: int = 0,
        own_clock: bool = False, workers: int = 0, program: Sequence[str] = SERVER,
    ) -> None:  # fmt: skip
        self.disk = Disk(folder / "disk", disk_mb) if disk_mb else None
        self.engines = Engines(folder / "disk" if disk_mb else folder, kind)
        self.proxies: list[dict[str, LossyProxy]] = []
        self.servers: list[Server] = []
        self.clock = Clock(folder / "clock") if own_clock else None
        together = [f"--workers={workers}"] if workers else []
        for number in range(1 if workers else NODES):
            ports = self.engines.ports()
            if proxied:
                self.proxies.append({name: LossyProxy(port) for name, port in ports.items()})
                ports = {name: proxy.own_port for name, proxy in self.proxies[-1].items()}
            started = self.clock.before(program) if self.clock and not number else program
            own = (free_port(), free_port(), free_port())
            self.servers.append(Server(folder, own, *flags(ports), *together, program=started))
        super().__init__(self.servers[0], seed)
        self.up = list(self.servers)
        self._seed = seed

    # From the beginning to the end

    async def begin(self) -> None:
        """Start the nodes, and connect everybody."""
        await gatherResults([Deferred.fromCoroutine(server.start()) for server in self.servers])
        await self._make_rooms("start")
        nodes = len(self.servers)
        devices = [(f"m{n}", "", n % nodes, KINDS[n]) for n in range(MEMBERS)]
        devices += [(EVERYWHERE, f"d{n}", n % nodes, (V2Client, WampClient)[n % 2]) for n in range(2 * NODES)]
        for member, device, node, kind in devices:
            token = await self.server.token(member)
            self.clients.append(kind(self.record, self.servers[node].where, member, token, device))
        self.keep()
        await self.all_open()

    async def close(self) -> None:
        """End all that was started."""
        self.end()
        for server in self.servers:
            if server.processes and not server.processes[-1].ended.called:
                await server.kill()
        for proxy in [proxy for proxies in self.proxies for proxy in proxies.values()]:
            await proxy.close()
        self.engines.stop()
        if self.disk:
            self.disk.remove()

    async def round(self, number: int, strike: Strike) -> list[str]:
        """Do harm once while all talk. What is wrong with what came of it; `figures` has what was measured."""
        self.rng = random.Random(f"{self._seed} {number}")
        self.figures, self.wrong = {}, []
        await self._new_rooms(number)
        await self._burst(self.rng.uniform(0.1, 0.4))
        await self.all_quiet()
        self._talking = True
        talk = gatherResults([Deferred.fromCoroutine(self._talk_on()), Deferred.fromCoroutine(self._post_on())])
        try:
            await strike(self)
            await self._healed()
        finally:
            self._talking = False
            await talk
        await self._ask_again()
        await self._recovered()  # nobody is connected anew for this: what was missed has to come by itself
        await self._histories()
        self.figures["resident_mb"] = max(server.resident_kb() for server in self.servers) / 1024
        self.figures["descriptors"] = max(server.descriptors() for server in self.servers)
        return self.wrong + violations(self.record)

    async def _make_rooms(self, of: str) -> None:
        """A new record, and rooms for it."""
        before, self.record = self.record, Record()
        self.record.closed = before.closed | before.members.keys()
        for name, numbers in ROOMS.items():
            members = [f"m{n}" for n in numbers]
            self.record.members[f"{name}-{of}"] = set(members)
            await self.server.ok("POST", f"/api/rooms/{name}-{of}/members", {"members": members})

    async def _new_rooms(self, number: int) -> None:
        await self.all_open()
        for two in [client for client in self.clients if isinstance(client, GotalkClient)]:
            self.clients.remove(two)
            two.abort()
        await self._make_rooms(str(number))
        for client in self.clients:
            client.record = self.record
            self.record.devices[client.name] = client.member
            client.begin(None)
        await self._make_gotalks_room(str(number))
        fluent = [client for client in self.clients if isinstance(client, FluentClient)]
        await until(
            lambda: all(set(self._rooms(c)) <= c.has.keys() for c in fluent),
            lambda: f"joining {[(how(c), new) for c in fluent if (new := set(self._rooms(c)) - c.has.keys())]}",
        )

    async def _make_gotalks_room(self, of: str) -> None:
        """Two new people, since two have one room only, and everybody in it."""
        two = await GotalkClient.meet(self.record, self.server.where, of)
        members = {two.writer, two.member, *(f"m{n}" for n in range(MEMBERS))}
        self.record.members[two.rid] = members
        await self.server.ok("POST", f"/api/rooms/{two.rid}/members", {"members": sorted(members)})
        self.clients.append(two)
        await two.connect()

    def last_words(self) -> str:
        """The end of what each node wrote, and of MariaDB's log: has it died by itself?"""
        words = [f"The node at {s.where} wrote last:\n{s.written()[-3000:].decode()}" for s in self.servers]
        mariadb = self.engines.mariadb
        return "\n\n".join([*words, f"MariaDB wrote last:\n{mariadb.log()[-8000:]}" if mariadb else ""])

    # What a fault may ask

    def pick(self) -> tuple[Server, dict[str, LossyProxy]]:
        """A node that has clients, and its proxies."""
        where = self.rng.choice([client for client in self.clients if isinstance(client, FluentClient)]).where
        number = [server.where for server in self.servers].index(where)
        return self.servers[number], self.proxies[number] if self.proxies else {}

    def at(self, server: Server) -> list[Client]:
        """The clients of a node."""
        return [client for client in self.clients if client.where == server.where]

    async def _healed(self) -> None:
        """Until each node that has clients has acknowledged something new, and then until all have resumed."""
        began, asked = time.monotonic(), len(self.record.asks)

        def served(server: Server) -> bool:
            here = self.at(server)
            return not here or any(ask.outcome == "ok" for ask in self.asked_since(asked, here))

        await until(
            lambda: all(map(served, self.servers)),
            lambda: f"an ok for {self.waiting(c for s in self.servers if not served(s) for c in self.at(s))} (I6)",
        )
        self.figures["first_ok_s"] = time.monotonic() - began
        self._talking = False
        await self.all_quiet()
        self.figures["resumed_s"] = time.monotonic() - began
