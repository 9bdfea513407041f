"""The other workers of the same Mercury (`--workers`): a worker asks all of them what each knows of itself only.

What is asked and answered goes over the line to the process that supervises them (mercury/net/worker_pipe.py), which
stays when a worker goes. Where there are no workers there is no line, and asking gives nothing at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.net.worker_pipe import (
    FROM_WORKER,
    TO_WORKER,
    Answer,
    Message,
    Notice,
    Order,
    Place,
    Question,
    Unpacker,
    packed,
)

SECONDS: Final = 3.0  # for another worker to answer: above what a store may take to show that it can be read

#: What a worker answers with, given the question's arguments.
Answering = Callable[..., Awaitable[bytes]]


class Siblings(Protocol):
    """A worker's end of the line. `place`: which one it is; None: there are no workers. `answering`: what others may
    ask, by name."""

    log = Logger()

    def __init__(self, clock: Any, place: Place | None = None) -> None:
        self.number = place.number if place else None
        self.answering: dict[str, Answering] = {}
        self._others = [n for n in range(1, place.count + 1) if n != place.number] if place else []
        self._clock = clock
        self._unpacker = Unpacker()
        self._waiting: dict[tuple[int, int], Deferred[bytes | None]] = {}
        self._last = 0
        self._obey: Callable[[str], None] = lambda what: None

    def open(self, obey: Callable[[str], None]) -> None:
        """Begin to hear. `obey`: is told to `stop`, also when the supervisor is gone, or to `reload`."""
        self._obey = obey
        pipes: Any = StandardIO  # typed as Windows has it
        pipes(self, TO_WORKER, FROM_WORKER, self._clock)

    def tell(self, lines: Sequence[str]) -> None:
        """Tell the supervisor, in the words of sd_notify(3)."""
        self._send(Notice(list(lines)))

    async def ask(self, what: str, *args: str) -> dict[int, bytes | None]:
        """What each of the others answers, by its number; None of one that does not within SECONDS, or is not there."""
        asked = [self._ask(peer, what, args) for peer in self._others]
        return dict(zip(self._others, await gatherResults(asked), strict=True))

    def _ask(self, peer: int, what: str, args: tuple[str, ...]) -> Deferred[bytes | None]:
        self._last += 1
        key = (peer, self._last)
        answer = self._waiting[key] = Deferred()

        def done(body: bytes | Failure | None) -> bytes | Failure | None:
            self._waiting.pop(key, None)
            if isinstance(body, Failure) and body.check(TookTooLong):
                self.log.warn("worker {peer} does not say within {seconds} s what it was asked: {what}",
                              peer=peer, seconds=SECONDS, what=what)  # fmt: skip
                return None
            return body

        self._send(Question(peer, self._last, what, args))
        return answer.addTimeout(SECONDS, self._clock).addBoth(done)

    def _send(self, message: Message) -> None:
        if self.transport is not None:
            self.transport.write(packed(message))

    # What comes

    def dataReceived(self, data: bytes) -> None:
        for message in self._unpacker.feed(data):
            if isinstance(message, Order):
                self._obey(message.what)
            elif isinstance(message, Question):
                answering = Deferred.fromCoroutine(self._answer(message))
                answering.addErrback(lambda failure: self.log.failure("answering another worker failed", failure))
            elif isinstance(message, Answer) and (waiting := self._waiting.pop((message.peer, message.id), None)):
                waiting.callback(message.body)

    async def _answer(self, question: Question) -> None:
        body = None
        try:
            if (answering := self.answering.get(question.what)) is not None:
                body = await answering(*question.args)
        finally:
            self._send(Answer(question.peer, question.id, body))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._obey("stop")
