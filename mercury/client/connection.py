"""A client that stays connected: it logs in, resumes where it was, and sends each text until it is acknowledged.

One coroutine runs across all connections: get a token if there is none, connect, wait until the connection ends, pause,
and again. Only this is kept from one connection to the next: the token, the server's epoch with the last seq seen of
each room (to resume), and the texts that are not acknowledged, each with its cid (a repeated cid makes no second
message).

Texts are sent one at a time: the next goes out when the one before it was answered. So neither a lost connection nor
`rate_limited` can change their order.
"""

from __future__ import annotations

import random
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.client.link import ClientLink, ClientLinkFactory, OkFrame, ServerFrame
from mercury.client.rest import RestClient, ServerAddress, plainly
from mercury.domain.commands import Ack, Command, Connect, Resume, Send
from mercury.domain.events import Error, Hello, Joined, Left, Message, Reset, SendOk
from mercury.errors import Code, MercuryError

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 30.0
STABLE_SECONDS: Final = 15.0
UNSENT_MOST: Final = 1000

#: After these, a later attempt to connect may succeed; after all other codes it cannot.
RECONNECT_AFTER: Final[frozenset[Code]] = frozenset({"unauthorized", "rate_limited", "busy", "unavailable", "internal"})
#: A text that was refused with these is sent again. Not after `internal`: the text itself may be the cause.
RESEND_AFTER: Final[frozenset[Code]] = frozenset({"unauthorized", "rate_limited", "busy", "unavailable"})

T = TypeVar("T")

_log = Logger()


class Reconnecting(msgspec.Struct, frozen=True):
    """There is no connection, because of `reason`. The next attempt comes after `seconds`."""

    seconds: float
    reason: str


#: What a client reports: the server's events as they come, and Reconnecting.
ClientEvent = ServerFrame | Reconnecting


class Backoff:
    """Full jitter: a random time below `first`, then below its double, and so on up to `most` seconds."""

    def __init__(self, rng: random.Random, first: float = 0.5, most: float = 15.0) -> None:
        self._rng = rng
        self._first = first
        self._most = most
        self._tries = 0

    def next(self) -> float:
        """How many seconds to wait this time."""
        limit = min(self._most, self._first * 2.0**self._tries)
        self._tries = min(self._tries + 1, 32)
        return self._rng.uniform(0, limit)

    def reset(self) -> None:
        """It went well: start with short waits again."""
        self._tries = 0


class Unsent:
    """A text that is not acknowledged. `typed`: when, on the client's clock."""

    def __init__(self, rid: str, text: str, typed: float) -> None:
        self.command = Send(rid=rid, text=text, cid=str(uuid.uuid4()))
        self.typed = typed
        self.answer: Deferred[SendOk] = Deferred()


class Client:
    """One device of `member`, in `rooms`, on one server.

    `on_event` is called with every ClientEvent, in order; an entry of a room's log comes once. `reactor` opens the
    connections, `clock` (the reactor, if none is given) runs the timers, and should not follow the wall clock.
    """

    def __init__(
        self,
        reactor: Any,
        member: str,
        rooms: Iterable[str],
        on_event: Callable[[ClientEvent], None],
        *,
        server: ServerAddress | None = None,
        device: str = "terminal",
        clock: IReactorTime | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.member = member
        self.device = device
        self.server = server or ServerAddress()
        self.seen: dict[str, int] = {}
        self.unsent: deque[Unsent] = deque()
        self.clock: IReactorTime = clock or reactor
        self.connected = False
        self._reactor = reactor
        self._rooms = list(rooms)
        self._on_event = on_event
        self._rest = RestClient(reactor, self.clock, self.server)
        self._backoff = Backoff(rng or random.Random())  # noqa: S311 - only to spread
        self._token: str | None = None
        self._epoch: str | None = None
        self._link: ClientLink | None = None
        self._logged_in_at = 0.0
        self._ref = 0
        self._requests: dict[int, tuple[type[Any], Deferred[Any]]] = {}
        self._sending: Deferred[None] | None = None
        self._running: Deferred[None] | None = None
        self._stopped = False

    def start(self) -> Deferred[None]:
        """Connect, and stay connected. Fails with MercuryError when the server refuses this client for good, and with
        CancelledError after stop(); it does not end otherwise.
        """
        self._running = Deferred.fromCoroutine(self._run())
        return self._running

    def stop(self) -> Deferred[None]:
        """Leave: tell the server what has been received, close the connection. Takes CLOSE_SECONDS at most.

        What was not acknowledged is in `unsent` and is not sent any more.
        """
        self._stopped = True
        link, self._link, was_connected = self._link, None, self.connected
        for running in (self._running, self._sending):
            if running is not None:
                running.cancel()
        self._disconnected()
        if link is None:
            return succeed(None)
        if was_connected:
            for rid, seq in self.seen.items():
                link.send(Ack(rid=rid, seq=seq))
        return link.close()

    def send(self, rid: str, text: str) -> Deferred[SendOk]:
        """Say `text` in a room, once, however often the connection is lost; fires when it is committed.

        Fails with MercuryError when the server refuses the text; `busy` when UNSENT_MOST texts are waiting already.
        """
        if len(self.unsent) >= UNSENT_MOST:
            return fail(MercuryError("busy", f"{UNSENT_MOST} texts are waiting to be sent; wait until some are"))
        unsent = Unsent(rid, text, self.clock.seconds())
        self.unsent.append(unsent)
        self._send_on()
        return unsent.answer

    def ask(self, command: Command, answer: type[T]) -> Deferred[T]:
        """Send any other command, once; fires with its answer, which is of the events' type given.

        Fails with the MercuryError of the server, or `unavailable` when there is no connection or it is lost.
        """
        if self._link is None or not self.connected:
            return fail(MercuryError("unavailable", "not connected"))
        self._ref += 1
        answered: Deferred[T] = Deferred()
        self._requests[self._ref] = (answer, answered)
        self._link.send(msgspec.structs.replace(command, ref=self._ref))
        return answered.addTimeout(ANSWER_SECONDS, self.clock, self._unanswered)

    def _unanswered(self, result: object, seconds: float) -> NoReturn:
        """A connection without answers is useless, even if it still pings."""
        reason = f"no answer within {seconds:.0f} s"
        if self._link is not None:
            self._link.drop(reason)
        raise MercuryError("unavailable", reason)

    # Connections

    async def _run(self) -> None:
        while True:
            pause = await self._one_connection()
            if self._stopped:  # what was cancelled may have made another error of that
                raise CancelledError
            self._on_event(pause)
            await deferLater(self.clock, pause.seconds)

    async def _one_connection(self) -> Reconnecting:
        """One connection, from the login to its end. Raises MercuryError when coming back is useless."""
        had_token = self._token is not None
        try:
            if self._token is None:
                self._token = await self._log_in()
            self._link = await self._connect(self._token)
            raise await self._link.ended
        except MercuryError as error:
            if error.code not in RECONNECT_AFTER:
                raise
            if error.code == "unauthorized":
                self._token = None
                if had_token:
                    return Reconnecting(0.0, error.reason)  # at once with a new one; after that, with pauses
            if self.connected and self.clock.seconds() - self._logged_in_at >= STABLE_SECONDS:
                self._backoff.reset()
            return Reconnecting(max(self._backoff.next(), error.retry_after or 0.0), error.reason)
        finally:
            self._link = None
            self._disconnected()

    async def _log_in(self) -> str:
        token = await self._rest.token(self.member)
        for rid in self._rooms:
            await self._rest.join(rid, self.member)
        return token

    async def _connect(self, token: str) -> ClientLink:
        resume = Resume(epoch=self._epoch, rooms=dict(self.seen)) if self._epoch is not None else None
        first = Connect(token=token, member=self.member, device=self.device, resume=resume)
        link = ClientLink(self.clock, first, self._received)
        endpoint = HostnameEndpoint(self._reactor, self.server.host, self.server.ws_port, timeout=CONNECT_SECONDS)
        try:
            await endpoint.connect(ClientLinkFactory(self._reactor, self.server, link))
        except CancelledError:
            raise
        except Exception as error:
            raise MercuryError("unavailable", f"cannot reach {self.server.ws}: {plainly(error)}") from None
        return link

    def _disconnected(self) -> None:
        self.connected = False
        requests, self._requests = self._requests, {}
        for _, answer in requests.values():
            answer.errback(MercuryError("unavailable", "the connection was lost before the answer came"))

    # What arrives

    def _received(self, event: ServerFrame, frame: bytes) -> None:
        match event:
            case Message() | Joined() | Left():
                self._entry(event)
                return
            case OkFrame():
                self._answered(event, frame)
                return
            case Error(ref=int(ref)) if ref in self._requests:
                self._requests.pop(ref)[1].errback(MercuryError(event.code, event.reason, event.retry_after))
                return
            case Error() if not self.connected:
                return  # a login that was refused: the link ends with this reason
            case Reset():
                self.seen[event.rid] = event.floor
            case Hello():
                if event.epoch != self._epoch:
                    self.seen.clear()
                self._epoch = event.epoch
                self._logged_in_at = self.clock.seconds()
                self.connected = True
                self._send_on()
        self._on_event(event)

    def _entry(self, entry: Message | Joined | Left) -> None:
        if entry.seq <= self.seen.get(entry.rid, 0):
            return
        self.seen[entry.rid] = entry.seq
        if isinstance(entry, Left) and self.member in entry.members:
            del self.seen[entry.rid]
        self._on_event(entry)

    def _answered(self, event: OkFrame, frame: bytes) -> None:
        if not isinstance(event.ref, int) or event.ref not in self._requests:
            return
        kind, answer = self._requests.pop(event.ref)
        try:
            answer.callback(msgspec.json.decode(frame, type=kind))
        except msgspec.DecodeError:
            answer.errback(MercuryError("internal", "the server's answer cannot be decoded"))

    # Texts

    def _send_on(self) -> None:
        if self._sending is None:
            self._sending = Deferred.fromCoroutine(self._send_all())
            self._sending.addBoth(self._sent)

    def _sent(self, result: Failure | None) -> None:
        self._sending = None
        if result is not None and not result.check(CancelledError):
            _log.failure("sending failed", result)

    async def _send_all(self) -> None:
        """Send what is unsent, oldest first, while there is a connection. The next hello calls it again."""
        while self.unsent and self.connected:
            unsent = self.unsent[0]
            try:
                ok = await self.ask(unsent.command, SendOk)
            except MercuryError as error:
                if not self.connected:
                    return
                if error.code in RESEND_AFTER:
                    await deferLater(self.clock, error.retry_after or 1.0)
                    continue
                self.unsent.popleft()
                unsent.answer.errback(error)
            else:
                self.unsent.popleft()
                unsent.answer.callback(ok)
