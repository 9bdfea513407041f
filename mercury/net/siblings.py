"""A worker's way to the other workers (`--workers`): it asks them what each knows only of itself.

Questions and answers go through the pipes to the supervisor (mercury/net/worker_pipe.py). A node that runs alone has no
supervisor: there, asking returns nothing at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
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
    PipeMessage,
    Unpacker,
    WorkerAnswer,
    WorkerNotice,
    WorkerOrder,
    WorkerQuestion,
    WorkerSlot,
    pack,
)

SECONDS: Final = 3.0  # for another worker to answer: above what a store may take to show that it can be read

#: Answers one kind of question, given its arguments.
Responder = Callable[..., Awaitable[bytes]]

_log = Logger()


class Siblings(Protocol):
    """A worker's end of the pipes. `slot`: which worker this is; None: there are no workers. `number`: its number."""

    def __init__(self, clock: Any, slot: WorkerSlot | None = None) -> None:
        self.number = slot.number if slot else None
        self._others = [n for n in range(1, slot.count + 1) if n != slot.number] if slot else []
        self._responders: dict[str, Responder] = {}
        self._clock = clock
        self._unpacker = Unpacker()
        self._waiting: dict[tuple[int, int], Deferred[bytes | None]] = {}
        self._last = 0
        self._obey: Callable[[str], None] = lambda order: None

    def respond(self, responders: Mapping[str, Responder]) -> None:
        """From now on answer these questions of the others, by their names."""
        self._responders.update(responders)

    def open(self, obey: Callable[[str], None]) -> None:
        """Start to read. `obey` is called with the supervisor's orders, `stop` or `reload`; if the supervisor is gone,
        with `stop`."""
        self._obey = obey
        pipes: Any = StandardIO  # typed as Windows has it
        pipes(self, TO_WORKER, FROM_WORKER, self._clock)

    def notify(self, lines: Sequence[str]) -> None:
        """Report this worker's status to the supervisor, in the words of sd_notify(3)."""
        self._send(WorkerNotice(list(lines)))

    async def ask(self, what: str, *args: str) -> dict[int, bytes | None]:
        """The answers of all others, by their numbers; None from one that is not there or needs longer than SECONDS."""
        asked = [self._ask(peer, what, args) for peer in self._others]
        return dict(zip(self._others, await gatherResults(asked), strict=True))

    def _ask(self, peer: int, what: str, args: tuple[str, ...]) -> Deferred[bytes | None]:
        self._last += 1
        key = (peer, self._last)
        answer = self._waiting[key] = Deferred()

        def done(body: bytes | Failure | None) -> bytes | Failure | None:
            self._waiting.pop(key, None)
            if isinstance(body, Failure) and body.check(TookTooLong):
                _log.warn("worker {peer} did not answer within {seconds} s: {what}",
                              peer=peer, seconds=SECONDS, what=what)  # fmt: skip
                return None
            return body

        self._send(WorkerQuestion(peer, self._last, what, args))
        return answer.addTimeout(SECONDS, self._clock).addBoth(done)

    def _send(self, message: PipeMessage) -> None:
        if self.transport is not None:
            self.transport.write(pack(message))

    # What arrives

    def dataReceived(self, data: bytes) -> None:
        for message in self._unpacker.feed(data):
            if isinstance(message, WorkerOrder):
                self._obey(message.what)
            elif isinstance(message, WorkerQuestion):
                answering = Deferred.fromCoroutine(self._answer(message))
                answering.addErrback(lambda failure: _log.failure("answering another worker failed", failure))
            elif isinstance(message, WorkerAnswer) and (waiting := self._waiting.pop((message.peer, message.id), None)):
                waiting.callback(message.body)

    async def _answer(self, question: WorkerQuestion) -> None:
        body = None
        try:
            if (responder := self._responders.get(question.what)) is not None:
                body = await responder(*question.args)
        finally:
            self._send(WorkerAnswer(question.peer, question.id, body))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._obey("stop")
