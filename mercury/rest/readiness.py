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
    """Knows whether the node starts, serves or stops, which its service tells it by enter(). `siblings`: the other
    workers."""

    def __init__(self, chat: Chat, siblings: Siblings) -> None:
        siblings.answering["readiness"] = self._answer
        self._siblings = siblings
        self._chat = chat
        self._state: State = "starting"
        self._asking = DeferredLock()  # whoever comes meanwhile gets the same answer
        self._asked: float | None = None
        self._trouble = ""

    def enter(self, state: State) -> None:
        """The node is in this state now."""
        self._state = state

    async def look(self) -> tuple[Parts, str]:
        """The parts, and why the node cannot serve; empty if it can. Takes no longer than STORE_SECONDS each time the
        store is asked."""
        trouble: str = "it is being opened"
        if self._state != "starting":  # else it would take our question for a fault
            trouble = await self._asking.run(self._store)
        state = self._state
        parts = Parts(state, "down" if trouble else "up", "up" if self._chat.cluster.are_heard else "down")
        return parts, trouble if state == "serving" else f"Mercury is {state}"

    async def look_at_all(self) -> tuple[Parts, str]:
        """The same of all workers together, each of which has to serve; where there are none, of this node."""
        own = self._siblings.number
        if own is None:
            return await self.look()
        asked = Deferred.fromCoroutine(self._siblings.ask("readiness"))
        found: dict[int, tuple[Parts, str] | None] = {own: await self.look()}
        for number, answer in (await asked).items():
            found[number] = msgspec.json.decode(answer, type=tuple[Parts, str]) if answer else None
        return _together(dict(sorted(found.items())))

    async def _answer(self) -> bytes:
        return msgspec.json.encode(await self.look())

    async def _store(self) -> str:
        """What is wrong with the store; empty if nothing is."""
        clock = self._chat.clock
        if self._asked is None or clock.seconds() - self._asked >= REMEMBERED:
            self._trouble = ""
            try:
                await self._chat.store.ping().addTimeout(STORE_SECONDS, clock)
            except MercuryError as error:
                self._trouble = error.reason
            except TookTooLong:
                self._trouble = f"the store does not answer within {STORE_SECONDS:g} s"
            self._asked = clock.seconds()
        return self._trouble


def _together(found: dict[int, tuple[Parts, str] | None]) -> tuple[Parts, str]:
    """Of what the workers are, by their numbers, the worst; and why the first that cannot serve cannot."""
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
