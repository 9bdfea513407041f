"""A person for tests: a client (mercury.client.connection) with all that happened to it, and waiting for something."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater

from mercury.client.connection import Client, ClientEvent
from mercury.client.rest import ServerAddress
from mercury.domain.events import Message, SendOk
from tests.support.fake_server import FakeServer

ROOM = "2333"
T = TypeVar("T")


class AtOnce(random.Random):
    """Draws the shortest wait, always."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Person:
    """A client, and all that happened to it."""

    def __init__(self, server: FakeServer, clock: Clock | None = None) -> None:
        self.events: list[ClientEvent] = []
        self.answers: list[SendOk | str] = []
        self.failed: BaseException | None = None
        where = ServerAddress("127.0.0.1", server.api_port, server.ws_port)
        self.client = Client(
            reactor, "1", [ROOM], self.events.append, server=where, device="d", clock=clock, rng=AtOnce()
        )
        server.people.append(self)
        self.client.start().addErrback(lambda failure: setattr(self, "failed", failure.value))

    def say(self, text: str) -> None:
        """Send it, and note the answer, or the code of the refusal."""
        answered = self.client.send(ROOM, text)
        answered.addCallbacks(self.answers.append, lambda failure: self.answers.append(failure.value.code))

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    def heard(self) -> list[str]:
        return [event.text for event in self.of(Message)]


async def until(what: Callable[[], object]) -> None:
    """Wait for it; thirty seconds are more than it needs, even after the longest wait before a reconnect."""
    for _ in range(3000):
        if what():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("it did not happen within thirty seconds")
