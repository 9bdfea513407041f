"""What a server has to survive: members of all protocols talk in bursts, links break, and the server is killed.

The same scenario runs against Mercury as it is (test_kill.py) and against Mercury broken on purpose
(test_checker.py); what comes out is a record for the checker.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.support.recorder import Ask, Record
from tests.support.recording_clients import CidClient, Client, FluentClient, RefusedError, V1Client, V2Client, until
from tests.support.server_process import Server
from tests.support.wamp_client import WampCborClient, WampClient, WampMsgpackClient

ROOMS = {"all": range(8), "even": range(0, 8, 2), "odd": range(1, 8, 2)}
KINDS: Sequence[type[Client]] = (
    V1Client, V1Client, V2Client, V2Client, WampClient, V1Client, WampMsgpackClient, WampCborClient,
)  # fmt: skip # what each member speaks: in each room, somebody speaks each protocol
RESUME = 0.7  # of those who can say what they have do; for the others the server has to know
WINDOW = 12  # messages that a client has on the way at most
QUIET = 3.0  # seconds without anything new after which nothing more is expected


class Scenario:
    """One run. `figures` has what was measured on the way, for people."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.rng = random.Random(seed)
        self.record = Record()
        self.clients: list[Client] = []
        self.figures: dict[str, float] = {}

    async def run(self, rounds: int) -> Record:
        """Bursts and kills, then recovery; the record has everything that was seen and the history of all rooms."""
        await self.server.start()
        await self._people()
        await self._connect()
        for _ in range(rounds):
            await self._burst(self.rng.uniform(0.1, 0.5))
            await self.server.kill()
            await self.server.start()
            await self._connect()
        await self._recovered()
        await self._histories()
        self.figures["resident_kb"] = self.server.resident_kb()
        return self.record

    async def _people(self) -> None:
        for rid, numbers in ROOMS.items():
            names = [f"m{n}" for n in numbers]
            self.record.members[rid] = set(names)
            await self.server.ok("POST", f"/api/rooms/{rid}/members", {"members": names})
        for n in range(8):
            self.clients.append(KINDS[n](self.record, self.server.where, f"m{n}", await self.server.token(f"m{n}")))

    async def _connect(self) -> None:
        """All come back at once; who can repeats what was not answered, and reads a page."""
        began = time.monotonic()
        for client in self.clients:
            client.abort()
        await gatherResults([Deferred.fromCoroutine(self._return(client)) for client in self.clients])
        self.figures["all_back"] = max(self.figures.get("all_back", 0.0), time.monotonic() - began)

    async def _return(self, client: Client) -> None:
        await client.connect(resume=self.rng.random() < RESUME)
        if isinstance(client, CidClient):
            unanswered, client.waiting = client.waiting.values(), {}
            for ask in {id(ask): ask for ask in unanswered}.values():
                client.repeat(ask)
        if isinstance(client, FluentClient):
            await client.newest(self.rng.choice(self._rooms(client)))

    def _rooms(self, client: Client) -> list[str]:
        return [rid for rid, members in self.record.members.items() if client.member in members]

    # The burst

    async def _burst(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        asked = len(self.record.asks)
        while time.monotonic() < end:
            for client in self.clients:
                if client.open and client.reading:
                    self._talk(client)
            if self.rng.random() < 0.1:
                self._break(self.rng.choice(self.clients))
            await deferLater(reactor, self.rng.uniform(0, 0.01))
        self.figures["asked"] = self.figures.get("asked", 0) + len(self.record.asks) - asked

    def _talk(self, client: Client) -> None:
        free = WINDOW - len(client.waiting)
        for _ in range(self.rng.randint(0, max(free, 0))):
            if isinstance(client, CidClient) and self.rng.random() < 0.1 and (done := self._done(client)):
                client.repeat(self.rng.choice(done))
                continue
            text = client.text("." * self.rng.choice((0, 10, 800)))
            client.say(self.rng.choice(self._rooms(client)), text, cid=text.rstrip("."))

    def _done(self, client: Client) -> list[Ask]:
        return [ask for ask in self.record.asks[-200:] if ask.device == client.name and ask.outcome == "ok"]

    def _break(self, client: Client) -> None:
        """Its link dies: nothing is read any more, then it is cut, and the device comes back."""
        if client.open and client.reading:
            client.stop_reading()
            reactor.callLater(self.rng.uniform(0.02, 0.1), self._cut, client, client.link)

    def _cut(self, client: Client, link: object) -> None:
        if client.link is link:
            client.abort()
            Deferred.fromCoroutine(self._return(client)).addErrback(lambda failure: failure.trap(RefusedError))

    # Recovery

    async def _recovered(self) -> None:
        """Until all was answered and seen, or nothing more comes (then the checker says what is missing)."""
        last, since = -1, time.monotonic()
        began = since
        while time.monotonic() - since < QUIET and not await self._complete():
            seen = sum(len(run) for c in self.record.connections for run in c.seen.values())
            if seen != last:
                last, since = seen, time.monotonic()
            await deferLater(reactor, 0.02)
        self.figures["recovered"] = time.monotonic() - began

    async def _complete(self) -> bool:
        if any(isinstance(client, CidClient) and client.waiting for client in self.clients):
            return False
        for rid in self.record.members:
            found = (await self.server.ok("GET", f"/api/rooms/{rid}/messages?limit=1"))["messages"]
            head = found[-1]["seq"] if found else 0
            if any(rid in self._rooms(client) and client.has.get(rid, 0) < head for client in self.clients):
                return False
        return True

    async def _histories(self) -> None:
        histories = self.record.histories
        for rid, members in self.record.members.items():
            histories.setdefault("REST", {})[rid] = await self.server.history(rid)
            for kind in (V1Client, V2Client, WampClient):
                reader = next(c for c in self.clients if c.member in members and isinstance(c, kind))
                await until(lambda c=reader: c.open, f"the return of {reader.name}")  # type: ignore[misc]
                histories.setdefault(kind.__name__, {})[rid] = await reader.history(rid)

    def end(self) -> None:
        """Cut all links."""
        for client in self.clients:
            client.abort()
