"""Play conformance cases: for each one connection, a WebSocket client that says on it what the case wants said.

A case (a class of the suite, see prepare.py) is told what happens on its connection, sends what it likes through it,
right or wrong, and in the end holds two verdicts: of the server's behavior, and of how it closed. CaseClient is the
connection as the cases know it: names and signatures are those of the suite's own fuzzing client.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from .prepare import CaseClass, ConformanceError, case_id, group_of

#: Cases are independent and mostly wait; more at once than this only wait for the processor.
AT_ONCE: Final = 4

#: A case gives the server 0.5 to 10 s, then breaks off and fails it. None passes by waiting that long, so on a busy
#: machine the server gets more.
PATIENCE: Final = 5

#: For the server's part of the opening and of the closing handshake; a case that waits for it has all but failed.
HANDSHAKE_SECONDS: Final = 60

#: A case that has not ended by then has failed.
CASE_SECONDS: Final = 600

#: These groups' cases hold their payloads as bytes already.
COMPRESSION_GROUPS: Final = (12, 13)


@dataclass(frozen=True)
class Verdict:
    """What came of one case."""

    case: str
    behavior: str
    behavior_close: str
    close_code: int | None
    milliseconds: int
    result: str
    result_close: str

    @property
    def passed(self) -> bool:
        """True if the server did what RFC 6455 (RFC 7692 for compression) asks for, or leaves open."""
        return self.behavior in ("OK", "NON-STRICT", "INFORMATIONAL") and self.behavior_close in ("OK", "INFORMATIONAL")


def as_bytes(text: str | bytes) -> bytes:
    """What a case's text stands for: see prepare.py."""
    return text.encode("latin-1") if isinstance(text, str) else text


class CaseClient(WebSocketClientProtocol):
    """One connection that plays one case."""

    def __init__(self, case: CaseClass, factory: CaseFactory) -> None:
        super().__init__()
        self.factory = factory
        self.case_id = case_id(case)
        # Read by the cases.
        self.connectionWasOpen = False
        self.txFrameStats: Counter[int] = Counter()
        self.case = case(self)

    # What the cases call.

    def sendFrame(self, opcode: int, payload: str | bytes = b"", *rest: Any, **options: Any) -> None:
        self.txFrameStats[opcode] += 1
        super().sendFrame(opcode, as_bytes(payload), *rest, **options)

    def sendMessage(self, payload: str | bytes, isBinary: bool = False, *rest: Any, **options: Any) -> None:
        super().sendMessage(as_bytes(payload), isBinary, *rest, **options)  # type: ignore[no-untyped-call]

    def sendMessageFrameData(self, payload: str | bytes, sync: bool = False) -> Any:
        return super().sendMessageFrameData(as_bytes(payload), sync)

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: str | bytes | None = None, isReply: bool = False
    ) -> None:
        reason = None if reasonUtf8 is None else as_bytes(reasonUtf8)
        super().sendCloseFrame(code=code, reasonUtf8=reason, isReply=isReply)

    def continueLater(self, delay: float, function: Callable[[], None], tag: str | None = None) -> None:
        """Go on with the case after a delay in seconds; the tag is for the suite's own log."""
        self._later(delay, function)

    def killAfter(self, delay: float) -> None:
        self._later(delay * PATIENCE, self._fail_connection)

    def closeAfter(self, delay: float) -> None:
        self._later(delay * PATIENCE, self.sendClose)

    def enableWirelog(self, enable: bool) -> None:
        """Accepted for the cases' sake: no log of frames is kept."""

    def _later(self, delay: float, function: Callable[[], None]) -> None:
        def if_still_there() -> None:
            if self.state != self.STATE_CLOSED:
                self._guarded(function)

        self.factory.reactor.callLater(delay, if_still_there)

    def _guarded(self, function: Callable[..., None], *args: Any) -> None:
        """Call a case; an error in it fails the case, by name, not the run."""
        try:
            function(*args)
        except Exception as error:
            self.factory.error = repr(error)
            self.dropConnection(abort=True)

    # What the cases are told. They judge by what came, in which order.

    def onOpen(self) -> None:
        self.connectionWasOpen = True
        self._guarded(self.case.onOpen)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        held_as_bytes = group_of(self.case_id) in COMPRESSION_GROUPS
        self._guarded(self.case.onMessage, payload if held_as_bytes else payload.decode("latin-1"), isBinary)

    def onPong(self, payload: bytes) -> None:
        self._guarded(self.case.onPong, payload.decode("latin-1"))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._guarded(self.case.onClose, wasClean, code, reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._guarded(self.case.onConnectionLost, self.failedByMe)
        self.factory.finish(self)


class CaseFactory(WebSocketClientFactory):
    """Makes the one connection of a case; `verdict` fires when it is gone."""

    def __init__(self, case: CaseClass, url: str, reactor: PosixReactorBase) -> None:
        super().__init__(url, reactor=reactor)  # type: ignore[no-untyped-call]
        self.setProtocolOptions(  # type: ignore[no-untyped-call]
            failByDrop=False,  # fail as RFC 6455 section 7.1.7 says, with a close frame
            openHandshakeTimeout=HANDSHAKE_SECONDS,
            closeHandshakeTimeout=HANDSHAKE_SECONDS,
            serverConnectionDropTimeout=HANDSHAKE_SECONDS,
        )
        self.case = case
        self.started = time.monotonic()
        self.error: str | None = None
        self.verdict: Deferred[Verdict] = Deferred()

    def buildProtocol(self, addr: IAddress | None) -> CaseClient:
        return CaseClient(self.case, self)

    def finish(self, client: CaseClient) -> None:
        """Take the verdict from the client's case, unless the case itself broke."""
        case = client.case
        if self.error is None:
            self._conclude(case.behavior, case.result, case.behaviorClose, case.resultClose, client.remoteCloseCode)
        else:
            self._conclude("ERROR IN THE CASE", self.error, case.behaviorClose, case.resultClose)

    def give_up(self) -> None:
        """Fail the case because time is up."""
        self._conclude("FAILED", f"The case did not end within {CASE_SECONDS} s.", "FAILED", "The connection is open.")

    def _conclude(self, behavior: str, result: str, close: str, close_result: str, code: int | None = None) -> None:
        if not self.verdict.called:
            milliseconds = round(1000 * (time.monotonic() - self.started))
            self.verdict.callback(
                Verdict(case_id(self.case), behavior, close, code, milliseconds, result, close_result)
            )


async def play(case: CaseClass, url: str, reactor: PosixReactorBase) -> Verdict:
    """Play one case on a connection of its own."""
    factory = CaseFactory(case, url, reactor)
    try:
        await HostnameEndpoint(reactor, factory.host, factory.port).connect(factory)
    except Exception as error:
        raise ConformanceError(f"case {case_id(case)} cannot connect to {url}: {error}") from error
    alarm = reactor.callLater(CASE_SECONDS, factory.give_up)
    verdict = await factory.verdict
    if alarm.active():
        alarm.cancel()
    return verdict


async def play_all(cases: Iterable[CaseClass], url: str, reactor: PosixReactorBase) -> list[Verdict]:
    """Play cases, AT_ONCE at a time; the verdicts come in the cases' order."""
    verdicts: dict[int, Verdict] = {}

    async def play_from(waiting: Iterator[tuple[int, CaseClass]]) -> None:
        for number, case in waiting:
            verdicts[number] = await play(case, url, reactor)

    waiting = enumerate(cases)
    players = [Deferred.fromCoroutine(play_from(waiting)) for _ in range(AT_ONCE)]
    try:
        await gatherResults(players, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
    return [verdicts[number] for number in sorted(verdicts)]
