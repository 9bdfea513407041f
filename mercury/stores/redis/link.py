"""A connection to Redis that is made again whenever it is lost: what txredisapi leaves to its user.

txredisapi speaks the protocol. Its own pools are not used: they stop reconnecting for good after a failed AUTH or
SELECT, and let commands wait for ever while Redis is away. A RedisLink logs in on every new connection, bounds the time
of each command, and turns every failure into a MercuryError. Behind Sentinel it asks for the master before it connects.
With TLS, a server or a sentinel must prove who it is before anything is sent to it (mercury/stores/tls.py).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import random
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IHandshakeListener, INegotiated
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import RedisError, RedisProtocol, ResponseError
from zope.interface import implementer

from mercury.domain.counters import Load
from mercury.domain.log_context import LOG_CONTEXT, in_context
from mercury.errors import MercuryError
from mercury.stores.tls import CertificateCheck, EngineTls

log = Logger()

RETRY_AFTER: Final = 1.0  # seconds, for clients
FIRST_RETRY: Final = 0.05  # seconds until a lost connection is made anew; doubled with each failure
LAST_RETRY: Final = 1.0
REASONS: Final = 10  # why it cannot be used, that are logged until it can
WAITING: Final = 10_000  # commands without a reply: about what 2,000 clients ask for that all come back at once

#: What may become of a connection or a command while Redis, or the way to it, is not well.
TROUBLE: Final = (RedisError, ConnectError, ConnectionClosed, DNSLookupError, SSL.Error, TimeoutError, OSError)

#: How replies begin that say so of the server. Any other error reply is a fault of ours.
NOT_NOW: Final = (
    b"OOM", b"MISCONF", b"READONLY", b"NOREPLICAS", b"LOADING", b"BUSY", b"MASTERDOWN", b"NOAUTH", b"NOPERM",
)  # fmt: skip

Greet = Callable[[Any], Coroutine[Deferred[Any], Any, None]]


@dataclass(frozen=True)
class RedisServer:
    """Where Redis is. With `sentinels` (host, port), these say where the master of `service` is, and host is unused.
    `tls` goes for them as well: what they say has to be believed.

    `connect_seconds`: for each step of connecting: to reach a server, to see its certificate, to log in.
    `command_seconds`: to wait for a connection, and for the answer to a command.
    """

    host: str = "127.0.0.1"
    port: int = 6379
    password: str = field(default="", repr=False)
    db: int = 0
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    tls: EngineTls | None = None
    connect_seconds: float = 3.0
    command_seconds: float = 5.0

    def __str__(self) -> str:
        if self.sentinels:
            return f"Redis (service {self.service} of {len(self.sentinels)} sentinels)"
        return f"Redis at {self.host}:{self.port}"

    def channel(self, of: str) -> str:
        """The name of a pub/sub channel. Redis has one set of them for all its databases, so the number is in it."""
        return f"mercury:{self.db}:{of}"


@implementer(IHandshakeListener)
class LinkProtocol(RedisProtocol):
    """Bytes come back as bytes: numbers in names stay text. With TLS: `proved` fires when the handshake is done, or
    fails; `check` has checked the server. `why` is how the connection ended."""

    proved: Deferred[None] | None = None
    check: CertificateCheck | None = None
    why: Failure | None = None

    def __init__(self) -> None:
        super().__init__(charset=None, convertNumbers=False)

    def connectionMade(self) -> Any:
        if INegotiated.providedBy(self.transport):
            self.proved = Deferred()
        return super().connectionMade()  # type: ignore[no-untyped-call]

    def handshakeCompleted(self) -> None:
        if self.proved is not None:
            self.proved.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.why = reason
        super().connectionLost(reason)
        if self.proved is not None and not self.proved.called:
            self.proved.errback(reason)


class RedisLink:
    """One connection, on which commands are sent one behind the other without waiting for replies.

    `greet(protocol)` is awaited on each new connection before anything else may use it; if it raises, the connection is
    closed and made anew. `protocol`: makes what speaks on it. `lost()` is called when a connection that had been
    greeted is gone. `load`: how busy it is; commands wait while there is no connection.
    """

    def __init__(
        self,
        reactor: Any,
        server: RedisServer,
        greet: Greet | None = None,
        protocol: Callable[[], LinkProtocol] = LinkProtocol,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._greet = greet
        self._factory: Factory[Any] = Factory.forProtocol(protocol)
        self._factory.noisy = False
        self._lost = lost
        self._protocol: Any = None
        self._why: set[str] = set()  # what the log was told of the attempts to connect that failed, since one did not
        self._waiting: list[Deferred[Any]] = []
        self.load = Load("all")
        self._idle: list[Deferred[None]] = []
        self._closed = False
        self._loop: Deferred[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether there is a connection that may be used."""
        return self._protocol is not None

    # Opening and closing

    def open(self) -> Deferred[None]:
        """Keep a connection from now on. Fires when the first one is there; fails with the first attempt."""
        first = self._next()
        self._loop = Deferred.fromCoroutine(self._keep())
        self._loop.addErrback(lambda failure: failure.trap(CancelledError))
        self._loop.addErrback(self._broken)
        return first.addCallbacks(lambda protocol: None, self._translate)

    def _broken(self, failure: Failure) -> None:
        """A fault of ours: whoever waits is told."""
        log.failure("keeping a connection to Redis failed", failure)
        self._failed(MercuryError("internal", "a fault in the store; it is in the log"))

    def close(self) -> Deferred[None]:
        """Let what runs finish, then close the connection. May be called more than once."""
        self._closed = True
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        self._end_if_idle()
        return idle

    def _end_if_idle(self) -> None:
        if not self._closed or self.load.running:
            return
        if self._loop is not None:
            self._loop.cancel()
        if self._protocol is not None:
            self._protocol.transport.loseConnection()
        idle, self._idle = self._idle, []
        for fired in idle:
            fired.callback(None)

    def drop(self) -> None:
        """The connection is not what it seems to be: make another one."""
        if self._protocol is not None:
            self._protocol.transport.abortConnection()

    async def _keep(self) -> None:
        delay = FIRST_RETRY
        while not self._closed:
            try:
                protocol = await self._connect()
            except (*TROUBLE, MercuryError) as error:
                self._failed(error)
                await deferLater(self._reactor, delay * (0.5 + random()))  # noqa: S311 - only to spread them
                delay = min(delay * 2, LAST_RETRY)
                continue
            delay = FIRST_RETRY
            gone = protocol.whenDisconnected()
            self._made(protocol)
            await gone
            self._protocol = None
            self._lost()

    def _made(self, protocol: Any) -> None:
        if self._why:
            log.info("{server} answers again", server=str(self._server))
            self._why.clear()
        self._protocol = protocol
        waiting, self._waiting = self._waiting, []
        for waits in waiting:
            waits.callback(protocol)

    def _failed(self, error: BaseException) -> None:
        why = _said(error)
        if why not in self._why and len(self._why) < REASONS:
            self._why.add(why)
            log.error("{server} cannot be used: {why}", server=str(self._server), why=why)
        if isinstance(error, MercuryError) and str(self._server) not in error.reason:
            error = MercuryError(error.code, f"{self._server} cannot be used: {error.reason}", error.retry_after)
        waiting, self._waiting = self._waiting, []
        for waits in waiting:
            waits.errback(Failure(error))

    def _next(self) -> Deferred[Any]:
        """The next connection, or why it could not be made."""
        waits: Deferred[Any] = Deferred(self._waiting_no_more)
        self._waiting.append(waits)
        return waits

    def _waiting_no_more(self, waits: Deferred[Any]) -> None:
        if waits in self._waiting:
            self._waiting.remove(waits)

    # Connecting

    async def _connect(self) -> Any:
        server = self._server
        host, port = (await self._master()) if server.sentinels else (server.host, server.port)
        protocol = await self._reach(host, port, self._factory)
        try:
            await self._within(server.connect_seconds, Deferred.fromCoroutine(self._log_in(protocol)))
        except ResponseError as error:
            protocol.transport.abortConnection()
            raise MercuryError("unavailable", f"{server} refuses: {_said(error)}", RETRY_AFTER) from None
        except BaseException:
            protocol.transport.abortConnection()
            if protocol.check and protocol.why and protocol.why.check(SSL.Error):  # it judges us after the handshake
                raise protocol.check.explained(protocol.why.value) from None
            raise
        return protocol

    def _reach(self, host: str, port: int, factory: Factory[Any]) -> Deferred[Any]:
        seconds = self._server.connect_seconds
        endpoint = HostnameEndpoint(self._reactor, host, port, timeout=seconds)
        if self._server.tls is not None:
            return Deferred.fromCoroutine(self._reach_by_tls(self._server.tls, host, endpoint, factory))
        return self._within(seconds, endpoint.connect(factory))

    async def _reach_by_tls(self, tls: EngineTls, host: str, endpoint: HostnameEndpoint, factory: Factory[Any]) -> Any:
        server = self._server
        check = tls.check(host, "redis.sentinels" if server.sentinels else "redis.host")
        protocol: Any = await self._within(server.connect_seconds, wrapClientTLS(check, endpoint).connect(factory))
        protocol.check = check
        try:
            await self._within(server.connect_seconds, protocol.proved)
            check.names(protocol.transport.getHandle())
        except BaseException as error:
            protocol.transport.abortConnection()
            if isinstance(error, TROUBLE):
                raise check.explained(error) from None
            raise
        return protocol

    async def _log_in(self, protocol: Any) -> None:
        server = self._server
        if server.password:
            await protocol.execute_command("AUTH", server.password)
        await protocol.execute_command("SELECT", server.db)  # 0, too: an answer shows that somebody is there
        if server.sentinels:
            role = await protocol.execute_command("ROLE")
            if role[0] != b"master":
                raise MercuryError("unavailable", "what the sentinels named is not the master yet", RETRY_AFTER)
        if self._greet is not None:
            await self._greet(protocol)

    async def _master(self) -> tuple[str, int]:
        """Where the master is, as the first sentinel says that answers."""
        factory: Factory[Any] = Factory.forProtocol(LinkProtocol)
        factory.noisy = False
        why = "no sentinel answers"
        for host, port in self._server.sentinels:
            sentinel = None
            try:
                sentinel = await self._reach(host, port, factory)
                asking = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._server.service)
                found = await self._within(self._server.connect_seconds, asking)
            except (*TROUBLE, MercuryError) as error:
                why = f"the sentinel at {host}:{port} does not answer: {_said(error)}"
                continue
            finally:
                if sentinel is not None:
                    sentinel.transport.loseConnection()
            if found:
                return found[0].decode(), int(found[1])
            why = f"the sentinel at {host}:{port} knows no service {self._server.service}"
        raise MercuryError("unavailable", why, RETRY_AFTER)

    def _within(self, seconds: float, waits: Deferred[Any]) -> Deferred[Any]:
        """The same Deferred; it fails with TimeoutError when it has not fired by then."""
        too_late = Failure(TimeoutError(f"no reply within {seconds:g} s"))
        return waits.addTimeout(seconds, self._reactor, onTimeoutCancel=lambda result, seconds: too_late)

    # Commands

    def call(self, *command: str | bytes | int) -> Deferred[Any]:
        """Send one command; fires with its reply. Cancelling the Deferred gives up the answer, not the command."""
        return self._run(self._send(command))

    def script(self, sha: str, source: bytes, args: Sequence[str | bytes]) -> Deferred[Any]:
        """Run a script that greet() has loaded; it is sent again if the server has forgotten it."""
        return self._run(self._eval(sha, source, args))

    async def _eval(self, sha: str, source: bytes, args: Sequence[str | bytes]) -> Any:
        try:
            return await self._send(("EVALSHA", sha, 0, *args))
        except ResponseError as error:
            if not _said(error).startswith("NOSCRIPT"):
                raise
            return await self._send(("EVAL", source, 0, *args))

    async def _send(self, command: Sequence[str | bytes | int]) -> Any:
        seconds, asked = self._server.command_seconds, self._reactor.seconds()
        try:
            protocol = self._protocol or await self._within(seconds, self._next())
        finally:
            self.load.waits.observe(self._reactor.seconds() - asked)
        try:
            return await self._within(seconds, protocol.execute_command(*command))
        except TimeoutError:
            protocol.transport.abortConnection()  # replies come in order: what follows would wait for this one
            raise
        except ResponseError as error:
            if _said(error).startswith("READONLY"):  # it was the master once: ask the sentinels again
                protocol.transport.abortConnection()
            raise

    def _run(self, work: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
        if self._closed or self.load.running >= WAITING:
            work.close()
            self.load.unavailable += 1
            if self._closed:
                return fail(MercuryError("unavailable", f"the connection to {self._server} is closed", RETRY_AFTER))
            reason = f"{WAITING} commands wait for Redis already"
            return fail(MercuryError("unavailable", reason, RETRY_AFTER, limit="store-calls"))
        self.load.running += 1
        answer: Deferred[Any] = Deferred()
        log_context = LOG_CONTEXT.get()
        done = Deferred.fromCoroutine(work).addErrback(
            lambda failure: in_context(log_context, self._translate, failure)
        )
        done.addBoth(self._done).chainDeferred(answer)
        return answer

    def _done(self, result: Any) -> Any:
        self.load.running -= 1
        self.load.unavailable += isinstance(result, Failure) and getattr(result.value, "code", "") == "unavailable"
        self._end_if_idle()
        return result

    def _translate(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, MercuryError):
            return failure
        said = _said(error)
        if not isinstance(error, TROUBLE) or (
            isinstance(error, ResponseError) and not said.encode().startswith(NOT_NOW)
        ):
            log.failure("a fault in a call of {server}", failure, server=str(self._server))
            return Failure(MercuryError("internal", "a fault in the store; it is in the log"))
        return Failure(MercuryError("unavailable", f"{self._server} does not answer now: {said}", RETRY_AFTER))


def _said(error: BaseException | None) -> str:
    """An error's own words; error replies come as bytes."""
    if isinstance(error, MercuryError):
        return error.reason
    words = error.args[0] if error and error.args else ""
    return words.decode(errors="replace") if isinstance(words, bytes) else str(error) or type(error).__name__
