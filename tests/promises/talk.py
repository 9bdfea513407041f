"""A scenario in which all talk on while harm is done, and whoever loses the connection comes back, at once and as often
as it takes, to a server that is up. What got no answer, or `unavailable`, is sent again if it has a cid.
"""

from __future__ import annotations

from collections.abc import Iterable
from http.client import HTTPException
from itertools import count
from typing import Any, Final

from twisted.internet import defer
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from tests.promises.scenario import WINDOW, Scenario
from tests.support.gotalk_client import GotalkClient
from tests.support.recorder import Ask
from tests.support.recording_clients import CidClient, Client, RefusedError, V1Client, until
from tests.support.server_process import Server

reactor: Any = installed

BACKEND: Final = "REST"  # the application's backend, which speaks for a member
KEEP: Final = 0.05  # seconds between looks for clients that are not connected
LOAD: Final = 2  # messages that a client sends at once at most while something is broken


async def pause(seconds: float) -> None:
    """Let time pass."""
    await deferLater(reactor, seconds)


class Talk(Scenario):
    """`up`: the servers that clients go to. `wrong`: what was seen to be wrong at once."""

    def __init__(self, server: Server, seed: int) -> None:
        super().__init__(server, seed)
        self.up = [server]
        self.wrong: list[str] = []
        self._posts = count(1)
        self._returning: set[str] = set()
        self._talking = False
        self._keeping = LoopingCall(self._keep)

    def keep(self) -> None:
        """From now on whoever loses the connection comes back."""
        self._keeping.start(KEEP).addErrback(self._broken)

    def end(self) -> None:
        """Let nobody come back any more, and cut all links."""
        if self._keeping.running:
            self._keeping.stop()
        super().end()

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
        if isinstance(client, V1Client):
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

    def asked_since(self, position: int, clients: list[Client]) -> list[Ask]:
        """What these have asked since there were so many asks."""
        names = {client.name for client in clients}
        return [ask for ask in self.record.asks[position:] if ask.device in names]

    def ends(self) -> set[tuple[str, int, tuple[int | None, str | None]]]:
        """The connections that have ended otherwise than by the client, each with its number, code and reason."""
        return {(client.name, n, end) for client in self.clients for n, end in enumerate(client.closes)}

    def waiting(self, clients: Iterable[Client]) -> list[str]:
        """How these clients stand, for people."""
        return [how(client) for client in clients]


def how(client: Client) -> str:
    """How a client stands, for people."""
    asks = [ask for ask in client.record.asks if ask.device == client.name][-3:]
    said = [(ask.text[:20], ask.outcome, ask.code, ask.tries) for ask in asks]
    state = "open" if client.open else "away"
    ends = f"ends {client.closes[-3:]}, waits for {len(client.waiting)}"
    return f"{client.name} at {client.where.ws} ({state}, {ends}, last asked {said})"
