"""Whether a node can serve, part by part: what /readyz answers, and what /metrics shows of it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as TookTooLong

from mercury.core.parts import Chat
from mercury.errors import MercuryError
from mercury.http.results import Parts
from mercury.net.siblings import Siblings

STORE_SECONDS: Final = 2.0  # for the store to show that it can be read
REMEMBERED: Final = 1.0  # seconds that its answer is good for, however many ask

State = Literal["starting", "serving", "stopping"]


class Readiness:
    """Knows whether the node starts, serves or stops, which its service says by enter(). `siblings`: the other workers;
    they are asked `readiness`."""

    def __init__(self, chat: Chat, siblings: Siblings) -> None:
        self._siblings = siblings
        self._chat = chat
        self._state: State = "starting"
        self._asking = DeferredLock()  # those who ask meanwhile get the same answer
        self._asked: float | None = None
        self._trouble = ""

    def enter(self, state: State) -> None:
        """The node is in this state now."""
        self._state = state

    async def check(self) -> tuple[Parts, str]:
        """The parts, and why the node cannot serve; empty if it can. Asking the store takes STORE_SECONDS at most."""
        trouble: str = "it is starting"
        if self._state != "starting":  # a store that is not open would take the question for a fault
            trouble = await self._asking.run(self._check_store)
        state = self._state
        parts = Parts(state, "down" if trouble else "up", "up" if self._chat.cluster.are_heard else "down")
        return parts, trouble if state == "serving" else f"Mercury is {state}"

    async def check_all(self) -> tuple[Parts, str]:
        """The same for all workers together, each of which has to serve; for a node without workers, its own."""
        own = self._siblings.number
        if own is None:
            return await self.check()
        asked = Deferred.fromCoroutine(self._siblings.ask("readiness"))
        found: dict[int, tuple[Parts, str] | None] = {own: await self.check()}
        for number, answer in (await asked).items():
            found[number] = msgspec.json.decode(answer, type=tuple[Parts, str]) if answer else None
        return _combined(dict(sorted(found.items())))

    async def answer(self) -> bytes:
        """check(), for another worker."""
        return msgspec.json.encode(await self.check())

    async def _check_store(self) -> str:
        """What is wrong with the store; empty if nothing is."""
        clock = self._chat.clock
        if self._asked is None or clock.seconds() - self._asked >= REMEMBERED:
            self._trouble = ""
            try:
                await self._chat.store.ping().addTimeout(STORE_SECONDS, clock)
            except MercuryError as error:
                self._trouble = error.reason
            except TookTooLong:
                self._trouble = f"the store did not answer within {STORE_SECONDS:g} s"
            self._asked = clock.seconds()
        return self._trouble


def _combined(found: dict[int, tuple[Parts, str] | None]) -> tuple[Parts, str]:
    """The worst of the workers' states, which are by number; and why the first that cannot serve cannot."""
    there = [one for one in found.values() if one]
    troubles = {number: one[1] if one else "it does not answer" for number, one in found.items()}
    why = [f"worker {number}: {trouble}" for number, trouble in troubles.items() if trouble]
    states = [parts.node for parts, _ in there] + (["starting"] if len(there) < len(found) else [])
    return Parts(
        node=next((state for state in states if state != "serving"), "serving"),
        store="up" if all(parts.store == "up" for parts, _ in there) else "down",
        bus="up" if all(parts.bus == "up" for parts, _ in there) else "down",
        workers={str(number): one[0].node if one else "away" for number, one in found.items()},
    ), why[0] if why else ""
