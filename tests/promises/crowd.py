"""200 clients of one server that systemd runs, each of which always has something to say, through its restarts and
reloads: nobody is refused or cut off, and nothing is lost or comes twice.

Rooms have ten members, among them some of each protocol. All come back at once when they are told to, new ones come and
go all the time, and the application's backend posts by REST, each time on a new connection.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Final

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from tests.promises.checker import summary, violations
from tests.promises.scenario import KINDS
from tests.promises.talk import Talk, how, pause
from tests.support.child_programs import SERVER
from tests.support.recording_clients import Client, until
from tests.support.systemd_unit import Unit

CLIENTS: Final = 200
ROOM: Final = 10  # members of a room
TICK: Final = 0.05  # seconds
TURNS: Final = 5  # ticks after which a client that has got its answer says the next thing
COMING: Final = 20  # calls and logins at once, when all come for the first time

Strike = Callable[["Crowd"], Awaitable[None]]


class Crowd(Talk):
    """One server and its clients, for one round."""

    def __init__(self, folder: Path, seed: int, program: Sequence[str] = SERVER) -> None:
        self.settings = folder / "mercury.toml"
        self._changes = count(1)
        self.change_settings()
        self.unit = Unit(folder, f"--config={self.settings}", program=program)
        super().__init__(self.unit, seed)

    def change_settings(self) -> None:
        """Write the settings' file anew, with another limit, which no client comes near."""
        self.settings.write_text(f"[limits]\ntext-bytes = {16000 + next(self._changes)}\n")

    async def round(self, strikes: Sequence[Strike]) -> list[str]:
        """All of it. What is wrong with what came of it; `figures` has what was measured."""
        await self.unit.start()
        await self._people()
        self.keep()
        await self.all_open()
        self._talking = True
        talk = gatherResults([Deferred.fromCoroutine(self._talk_on()), Deferred.fromCoroutine(self._post_on())])
        try:
            await self._all_served()
            for strike in strikes:
                await strike(self)
                await self._all_served()
        finally:
            self._talking = False
            await talk
        await self.all_quiet()
        await self._ask_again()
        await self._recovered()
        await self._histories()
        self.figures["asked"] = len(self.record.asks)
        self.figures["resident_mb"] = self.unit.resident_kb() / 1024
        self.figures["descriptors"] = self.unit.descriptors()
        unanswered = [ask for ask in self.record.asks if ask.code == "unanswered"]
        self.note(not unanswered, f"{len(unanswered)} calls by REST got no answer: {unanswered[:1]}")
        return self.wrong + violations(self.record)

    async def close(self) -> None:
        """End all that was started."""
        self.end()
        await self.unit.close()

    async def _people(self) -> None:
        names = [f"m{number}" for number in range(CLIENTS)]
        some = DeferredSemaphore(COMING)

        async def come(number: int) -> None:
            token = await self.unit.token(names[number])
            client = KINDS[number % len(KINDS)](self.record, self.unit.where, names[number], token)
            self.clients.append(client)
            await client.connect()

        for room, first in enumerate(range(0, CLIENTS, ROOM)):
            members = names[first : first + ROOM]
            self.record.members[f"r{room}"] = set(members)
            await self.unit.ok("POST", f"/api/rooms/r{room}/members", {"members": members})
        await gatherResults([some.run(come, number) for number in range(CLIENTS)])

    async def _talk_on(self) -> None:
        """Each says something as soon as the last was answered; now and then one leaves, and comes back."""
        turn = 0
        while self._talking:
            for client in self.clients[turn % TURNS :: TURNS]:
                if client.open and not client.waiting:
                    text = client.text("." * self.rng.choice((0, 10, 800)))
                    client.say(self.rng.choice(self._rooms(client)), text, cid=text.rstrip("."))
            if (leaves := self.rng.choice(self.clients)).open:
                leaves.abort()
            turn += 1
            await pause(TICK)

    async def _all_served(self) -> None:
        """Until each client has said something new and got it acknowledged."""
        began, asked = time.monotonic(), len(self.record.asks)

        def missing() -> list[Client]:
            served = {ask.device for ask in self.record.asks[asked:] if ask.outcome == "ok"}
            return [client for client in self.clients if client.name not in served]

        await until(lambda: not missing(), lambda: f"an ok for {[how(client) for client in missing()[:5]]}")
        self.figures["resumed_s"] = max(self.figures.get("resumed_s", 0.0), time.monotonic() - began)


# What is done


async def restarted(crowd: Crowd) -> None:
    """`systemctl restart`: connections end with 1012, or are answered 503, and no other way."""
    before = crowd.ends()
    await crowd.unit.restart()
    await crowd._all_served()
    ends = [end for _, _, end in crowd.ends() - before]
    told = [code for code, _ in ends if code == 1012]
    odd = [(code, why) for code, why in ends if code != 1012 and not (code == 1006 and "503" in str(why))]
    crowd.figures["told"] = len(told)
    crowd.figures["answered_503"] = len(ends) - len(told) - len(odd)
    crowd.note(not odd, f"{len(odd)} connections ended otherwise: {odd[:3]}")
    crowd.note(len(told) > CLIENTS // 2, f"only {len(told)} clients were told to come back")


async def reloaded(crowd: Crowd) -> None:
    """`systemctl reload`, with changed settings: no connection ends."""
    before = crowd.ends()
    crowd.change_settings()
    await crowd.unit.reload()
    await crowd._all_served()
    ends = crowd.ends() - before
    crowd.note(not ends, f"{len(ends)} connections ended: {sorted(ends)[:3]}")


STRIKES: Final[dict[str, Strike]] = {"socket-restart": restarted, "reloaded": reloaded}


async def play(folder: Path, names: Sequence[str], rounds: int, seed: int) -> tuple[list[str], dict[str, float]]:
    """Some rounds, in each of which all this is done to a new server. What was wrong in any, and of each figure the
    greatest."""
    found: list[str] = []
    most: dict[str, float] = {}
    for number in range(rounds):
        place = folder / str(number)
        place.mkdir()
        crowd = Crowd(place, seed + number)
        try:
            wrong = await crowd.round([STRIKES[name] for name in names])
        except AssertionError as why:  # something never came
            wrong = [*crowd.wrong, f"{why}\n{crowd.unit.written()[-3000:].decode()}"]
        finally:
            await crowd.close()
        shown = " ".join(f"{figure}={value:.4g}" for figure, value in crowd.figures.items())
        name = " and ".join(names)
        print(f"{name} on sqlite, round {number}: {crowd.record.counts()}, {shown}, {summary(wrong)}", flush=True)
        found += [f"{what} ({name})" for what in wrong]
        most = {**most, **{f: max(value, most.get(f, 0.0)) for f, value in crowd.figures.items()}}
    return found, most
