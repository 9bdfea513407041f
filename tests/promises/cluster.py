"""Three nodes on MariaDB with Redis, or on Redis alone, through which members of all protocols, two of goTalk's people
and a backend by REST talk while harm is done.

Each round has rooms of its own and a record of its own, so each is judged by itself. The harm is in faults.py. Whoever
loses the connection goes to a node that is up, at once and as often as it takes; what got no answer, or `unavailable`,
is sent again by those who can (with its cid).
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any, Final

from engine_redis import RedisEngine
from engines import MariaDb
from free_ports import free_port
from programs import SERVER
from twisted.internet import defer
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from promises.checker import violations
from promises.clients import CidClient, Client, FluentClient, RefusedError, SeedClient, V2Client, until
from promises.gotalk_client import GotalkClient
from promises.machine import Clock, Disk
from promises.recorder import Ask, Record
from promises.scenario import KINDS, ROOMS, WINDOW, Scenario
from promises.server import Server
from promises.wamp_client import WampClient
from promises.way import Way

reactor: Any = installed

NODES: Final = 3
MEMBERS: Final = 8
EVERYWHERE: Final = "m3"  # has two devices more on each node, one of v2 and one of WAMP
BACKEND: Final = "REST"  # the application's backend, which speaks for a member
KEEP: Final = 0.05  # seconds between looks for clients that are not connected
LOAD: Final = 2  # messages that a client sends at once at most while something is broken

Strike = Callable[["Cluster"], Awaitable[None]]


async def pause(seconds: float) -> None:
    """Let time pass."""
    await deferLater(reactor, seconds)


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


class Cluster(Scenario):
    """One run of one fault. `up`: the nodes that clients go to. `wrong`: what was seen to be wrong at once.

    `ways`: each node's ways to its engines, by the engine's kind; empty unless `proxied`. `disk`: where the engines'
    data are, if that is to be a disk of `disk_mb` megabytes. `clock`: the first node's, if it is to have its own.
    `program` starts a node.
    """

    def __init__(
        self, folder: Path, kind: str, seed: int, *, proxied: bool = False, disk_mb: int = 0,
        own_clock: bool = False, program: Sequence[str] = SERVER,
    ) -> None:  # fmt: skip
        self.disk = Disk(folder / "disk", disk_mb) if disk_mb else None
        self.engines = Engines(folder / "disk" if disk_mb else folder, kind)
        self.ways: list[dict[str, Way]] = []
        self.servers: list[Server] = []
        self.clock = Clock(folder / "clock") if own_clock else None
        for number in range(NODES):
            ports = self.engines.ports()
            if proxied:
                self.ways.append({name: Way(port) for name, port in ports.items()})
                ports = {name: way.outer for name, way in self.ways[-1].items()}
            started = self.clock.before(program) if self.clock and not number else program
            self.servers.append(Server(folder, (free_port(), free_port(), free_port()), *flags(ports), program=started))
        super().__init__(self.servers[0], seed)
        self.up = list(self.servers)
        self.wrong: list[str] = []
        self._seed = seed
        self._posts = count(1)
        self._returning: set[str] = set()
        self._talking = False
        self._keeping = LoopingCall(self._keep)

    # From the beginning to the end

    async def begin(self) -> None:
        """Start the nodes, and connect everybody."""
        await gatherResults([Deferred.fromCoroutine(server.start()) for server in self.servers])
        await self._make_rooms("start")
        devices = [(f"m{n}", "", n % NODES, KINDS[n]) for n in range(MEMBERS)]
        devices += [(EVERYWHERE, f"d{n}", n % NODES, (V2Client, WampClient)[n % 2]) for n in range(2 * NODES)]
        for member, device, node, kind in devices:
            token = await self.server.token(member)
            self.clients.append(kind(self.record, self.servers[node].where, member, token, device))
        self._keeping.start(KEEP).addErrback(self._broken)
        await self.all_open()

    async def close(self) -> None:
        """End all that was started."""
        if self._keeping.running:
            self._keeping.stop()
        self.end()
        for server in self.servers:
            if server.processes and not server.processes[-1].ended.called:
                await server.kill()
        for way in [way for ways in self.ways for way in ways.values()]:
            await way.close()
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
            lambda: f"joining {[(_how(c), new) for c in fluent if (new := set(self._rooms(c)) - c.has.keys())]}",
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

    # Coming back

    def _keep(self) -> None:
        for client in self.clients:
            if not client.open and client.name not in self._returning and self.up:
                self._returning.add(client.name)
                back = Deferred.fromCoroutine(self._come_back(client))
                back.addErrback(self._broken)

    async def _come_back(self, client: Client) -> None:
        if client.where not in [server.where for server in self.up] or self.rng.random() < 0.3:
            client.where = self.rng.choice(self.up).where
        if isinstance(client, SeedClient):
            client.waiting.clear()  # what was not answered on the last connection is not waited for
        try:
            await self._return(client)
        except (RefusedError, defer.TimeoutError):
            await pause(KEEP)
        finally:
            self._returning.discard(client.name)

    def _broken(self, failure: Failure) -> None:
        self.wrong.append(f"the test itself failed: {failure.getTraceback()}")

    def _cut(self, client: Client, link: object) -> None:
        if client.link is link:
            client.abort()

    async def all_open(self) -> None:
        """Until everybody is connected."""
        await until(
            lambda: all(client.open and client.reading for client in self.clients) and not self._returning,
            lambda: f"the return of {[client.name for client in self.clients if not client.open]}",
        )

    async def all_quiet(self) -> None:
        """Until everybody is connected and, as far as the protocol shows that, has got their answers."""
        await self.all_open()
        asking = [client for client in self.clients if isinstance(client, CidClient)]
        await until(
            lambda: not any(client.waiting for client in asking),
            lambda: f"answers to {[(client.name, *client.waiting.values()) for client in asking if client.waiting]}",
        )

    # Talking

    async def _talk_on(self) -> None:
        """Everybody says something now and then, until it is over."""
        while self._talking:
            for client in self.clients:
                if client.open and client.reading and self.rng.random() < 0.3:
                    self._say_some(client)
            await pause(self.rng.uniform(0, 0.04))

    def _say_some(self, client: Client) -> None:
        for _ in range(min(LOAD, WINDOW - len(client.waiting))):
            text = client.text("." * self.rng.choice((0, 10, 800)))
            client.say(self.rng.choice(self._rooms(client)), text, cid=text.rstrip("."))

    async def _post_on(self) -> None:
        """So does the application's backend, by REST: one after the other, each at any node that is up."""
        while self._talking:
            rid, text = self.rng.choice(list(self.record.members)), f"{BACKEND}-{next(self._posts)}"
            readers = {client.member for client in self.clients if isinstance(client, GotalkClient)}
            member = self.rng.choice(sorted(self.record.members[rid] - readers))  # who are not told what they say
            self.record.asks.append(Ask(BACKEND, member, rid, text, text))
            await self._post(self.record.asks[-1])
            await pause(self.rng.uniform(0, 0.1))

    async def _post(self, ask: Ask) -> None:
        ask.tries += 1
        message = {"member": ask.mid, "text": ask.text}
        try:
            status, answer = await self.rng.choice(self.up).call(
                "POST", f"/api/rooms/{ask.rid}/messages", message, key=str(ask.cid)
            )
        except (OSError, HTTPException):
            ask.code = "unanswered"
            return
        if status < 300:
            ask.outcome = "ok"
            ask.answers.append((answer["body"]["seq"], answer["body"]["id"], answer["body"]["duplicate"]))
        else:
            ask.refused(answer["code"])

    async def _ask_again(self) -> None:
        """Whoever was told `unavailable` cannot know whether it was stored: those with a cid send it once more."""
        able = {client.name: client for client in self.clients if isinstance(client, CidClient)}
        unsure = [ask for ask in self.record.asks if ask.outcome == "info" and ask.code and ask.cid]
        for ask in unsure:
            if ask.device == BACKEND:
                await self._post(ask)
            else:
                able[ask.device].repeat(ask)
        self.figures["asked_again"] = len(unsure)
        await self.all_quiet()
        left = [ask for ask in unsure if ask.outcome == "info"]
        self.note(not left, f"{len(left)} of {len(unsure)} messages could not be sent again, {left[:1]}")

    # What a fault may ask

    def note(self, holds: object, otherwise: str) -> None:
        """Something has to hold at this moment."""
        if not holds:
            self.wrong.append(otherwise)

    def pick(self) -> tuple[Server, dict[str, Way]]:
        """A node that has clients, and its ways."""
        where = self.rng.choice([client for client in self.clients if isinstance(client, FluentClient)]).where
        number = [server.where for server in self.servers].index(where)
        return self.servers[number], self.ways[number] if self.ways else {}

    def at(self, server: Server) -> list[Client]:
        """The clients of a node."""
        return [client for client in self.clients if client.where == server.where]

    def asked_since(self, position: int, clients: list[Client]) -> list[Ask]:
        """What these have asked since there were so many asks."""
        names = {client.name for client in clients}
        return [ask for ask in self.record.asks[position:] if ask.device in names]

    def ends(self) -> set[tuple[str, int, tuple[int | None, str | None]]]:
        """The connections that have ended otherwise than by the client, each with its number, code and reason."""
        return {(client.name, n, end) for client in self.clients for n, end in enumerate(client.closes)}

    def waiting(self, clients: Iterable[Client]) -> list[str]:
        """How these clients stand, for people."""
        return [_how(client) for client in clients]

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


def _how(client: Client) -> str:
    """How a client stands, for people."""
    asks = [ask for ask in client.record.asks if ask.device == client.name][-3:]
    said = [(ask.text[:20], ask.outcome, ask.code, ask.tries) for ask in asks]
    state = "open" if client.open else "away"
    ends = f"ends {client.closes[-3:]}, waits for {len(client.waiting)}"
    return f"{client.name} at {client.where.ws} ({state}, {ends}, last asked {said})"
