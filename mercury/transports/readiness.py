"""Whether a node can serve, part by part: what /readyz answers, and what /metrics shows of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from twisted.internet.defer import DeferredLock
from twisted.internet.defer import TimeoutError as TookTooLong

from mercury.core.chat import Chat
from mercury.errors import MercuryError
from mercury.protocols.rest import Parts

STORE_SECONDS: Final = 2.0  # for the store to show that it can be read
REMEMBERED: Final = 1.0  # seconds that its answer is good for, however many ask

State = Literal["starting", "serving", "stopping"]


class Readiness:
    """`state`: what the node is at."""

    def __init__(self, chat: Chat, state: Callable[[], State]) -> None:
        self._chat = chat
        self._state = state
        self._asking = DeferredLock()  # whoever comes meanwhile gets the same answer
        self._asked: float | None = None
        self._trouble = ""

    async def look(self) -> tuple[Parts, str]:
        """The parts, and why the node cannot serve; empty if it can. Takes no longer than STORE_SECONDS each time the
        store is asked."""
        trouble: str = await self._asking.run(self._store)
        state = self._state()
        parts = Parts(state, "down" if trouble else "up", "up" if self._chat.nodes.are_heard else "down")
        return parts, trouble if state == "serving" else f"Mercury is {state}"

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
