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
from mercury.domain.log_context import LOG_CONTEXT, LogContext, in_context
from mercury.errors import MercuryError
from mercury.stores.tls import CertificateCheck, EngineTls
from mercury.stores.unavailable import MAX_WAITING, RETRY_AFTER, internal, unavailable

_log = Logger()

FIRST_DELAY: Final = 0.05  # seconds until a lost connection is made again; doubled after each failure
MAX_DELAY: Final = 1.0
MAX_REASONS: Final = 10  # different reasons that are logged in one outage

#: How a connection or a command fails when Redis, or the network, has a problem.
CONNECTION_ERRORS: Final = (
    RedisError,
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    SSL.Error,
    TimeoutError,
    OSError,
)

#: How error replies begin that report a problem of the server. Any other error reply is a fault in Mercury.
TEMPORARY_REPLIES: Final = (
    b"OOM", b"MISCONF", b"READONLY", b"NOREPLICAS", b"LOADING", b"BUSY", b"MASTERDOWN", b"NOAUTH", b"NOPERM",
)  # fmt: skip

OnConnect = Callable[[Any], Coroutine[Deferred[Any], Any, None]]


@dataclass(frozen=True)
class RedisServer:
    """Where Redis is, and how long to wait for it.

    With `sentinels` (host, port), these say where the master of `service` is; `host` and `port` are not used. `tls` is
    spoken with them, too, since their answers must be trusted.

    `connect_seconds`: timeout of each step of connecting: to reach a server, to check its certificate, to log in.
    `command_seconds`: timeout of the wait for a connection, and of the wait for the answer to a command.
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
    """txredisapi's protocol, but replies are bytes: numbers in names stay text.

    `tls_ready`: with TLS, fires when the handshake is done or has failed. `lost_reason`: why the connection ended.
    """

    tls_ready: Deferred[None] | None = None
    lost_reason: Failure | None = None

    def __init__(self) -> None:
        super().__init__(charset=None, convertNumbers=False)

    def connectionMade(self) -> Any:
        if INegotiated.providedBy(self.transport):
            self.tls_ready = Deferred()
        return super().connectionMade()  # type: ignore[no-untyped-call]

    def handshakeCompleted(self) -> None:
        if self.tls_ready is not None:
            self.tls_ready.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost_reason = reason
        super().connectionLost(reason)
        if self.tls_ready is not None and not self.tls_ready.called:
            self.tls_ready.errback(reason)


class RedisLink:
    """One connection, on which commands are pipelined: they are sent without waiting for earlier replies.

    `on_connect(protocol)` is awaited on each new connection before anything else may use it; if it raises, the
    connection is closed and another one is made. `on_disconnect()` is called when a connection is lost for which
    on_connect() had succeeded. `make_protocol` makes the protocol of each connection.
    While there is no connection, commands wait. `load`: how busy it is.
    """

    def __init__(
        self,
        reactor: Any,
        server: RedisServer,
        on_connect: OnConnect | None = None,
        on_disconnect: Callable[[], None] = lambda: None,
        make_protocol: Callable[[], LinkProtocol] = LinkProtocol,
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._on_connect = on_connect
        self._factory: Factory[Any] = Factory.forProtocol(make_protocol)
        self._factory.noisy = False
        self._on_disconnect = on_disconnect
        self._protocol: Any = None
        self._reasons: set[str] = set()  # why connecting failed, as far as logged since it last succeeded
        self._waiting: list[Deferred[Any]] = []
        self.load = Load("all")
        self._closing: list[Deferred[None]] = []
        self._closed = False
        self._loop: Deferred[None] | None = None

    @property
    def is_up(self) -> bool:
        """Whether there is a connection that may be used."""
        return self._protocol is not None

    # Opening and closing

    def open(self) -> Deferred[None]:
        """Keep a connection from now on. Fires with the first connection, or fails if the first attempt fails; further
        attempts follow in any case."""
        first = self._next_connection()
        self._loop = Deferred.fromCoroutine(self._keep_connected())
        self._loop.addErrback(lambda failure: failure.trap(CancelledError))
        self._loop.addErrback(self._fault)
        return first.addCallbacks(lambda protocol: None, self._translate)

    def _fault(self, failure: Failure) -> None:
        """A fault in Mercury: all commands that wait fail."""
        _log.failure("keeping a connection to Redis failed", failure)
        self._connecting_failed(internal())

    def close(self) -> Deferred[None]:
        """Wait for the commands in progress, then close the connection. May be called more than once."""
        self._closed = True
        idle: Deferred[None] = Deferred()
        self._closing.append(idle)
        self._end_if_idle()
        return idle

    def _end_if_idle(self) -> None:
        if not self._closed or self.load.running:
            return
        if self._loop is not None:
            self._loop.cancel()
        if self._protocol is not None:
            self._protocol.transport.loseConnection()
        idle, self._closing = self._closing, []
        for fired in idle:
            fired.callback(None)

    def reconnect(self) -> None:
        """Give up this connection, which does not work although it seems to, and make another one."""
        if self._protocol is not None:
            self._protocol.transport.abortConnection()

    async def _keep_connected(self) -> None:
        delay = FIRST_DELAY
        while not self._closed:
            try:
                protocol = await self._connect()
            except (*CONNECTION_ERRORS, MercuryError) as error:
                self._connecting_failed(error)
                await deferLater(self._reactor, delay * (0.5 + random()))  # noqa: S311 - so that nodes do not all retry at once
                delay = min(delay * 2, MAX_DELAY)
                continue
            delay = FIRST_DELAY
            gone = protocol.whenDisconnected()
            self._connected(protocol)
            await gone
            self._protocol = None
            self._on_disconnect()

    def _connected(self, protocol: Any) -> None:
        if self._reasons:
            _log.info("{server} answers again", server=str(self._server))
            self._reasons.clear()
        self._protocol = protocol
        waiting, self._waiting = self._waiting, []
        for waits in waiting:
            waits.callback(protocol)

    def _connecting_failed(self, error: BaseException) -> None:
        why = _message_of(error)
        if why not in self._reasons and len(self._reasons) < MAX_REASONS:
            self._reasons.add(why)
            _log.error("{server} cannot be used: {why}", server=str(self._server), why=why)
        if isinstance(error, MercuryError) and str(self._server) not in error.reason:
            error = MercuryError(error.code, f"{self._server} cannot be used: {error.reason}", error.retry_after)
        waiting, self._waiting = self._waiting, []
        for waits in waiting:
            waits.errback(Failure(error))

    def _next_connection(self) -> Deferred[Any]:
        """The next connection, or why it could not be made."""
        waits: Deferred[Any] = Deferred(self._stop_waiting)
        self._waiting.append(waits)
        return waits

    def _stop_waiting(self, waits: Deferred[Any]) -> None:
        if waits in self._waiting:
            self._waiting.remove(waits)

    # Connecting

    async def _connect(self) -> Any:
        server = self._server
        host, port = (await self._master()) if server.sentinels else (server.host, server.port)
        check = self._certificate_check(host)
        protocol = await self._reach(host, port, self._factory, check)
        try:
            await self._with_timeout(server.connect_seconds, Deferred.fromCoroutine(self._log_in(protocol)))
        except ResponseError as error:
            protocol.transport.abortConnection()
            raise unavailable(f"{server} refuses: {_message_of(error)}") from None
        except BaseException:
            protocol.transport.abortConnection()
            lost = protocol.lost_reason
            if check and lost and lost.check(SSL.Error):  # the server judges our certificate after the handshake
                raise check.explained(lost.value) from None
            raise
        return protocol

    def _certificate_check(self, host: str) -> CertificateCheck | None:
        """What checks a server's certificate; None without TLS. MercuryError if our own files cannot be used."""
        if self._server.tls is None:
            return None
        return self._server.tls.check(host, "redis.sentinels" if self._server.sentinels else "redis.host")

    def _reach(self, host: str, port: int, factory: Factory[Any], check: CertificateCheck | None) -> Deferred[Any]:
        """Connect to a server; with TLS, until its certificate was checked."""
        seconds = self._server.connect_seconds
        endpoint = HostnameEndpoint(self._reactor, host, port, timeout=seconds)
        if check is not None:
            return Deferred.fromCoroutine(self._reach_by_tls(endpoint, factory, check))
        return self._with_timeout(seconds, endpoint.connect(factory))

    async def _reach_by_tls(self, endpoint: HostnameEndpoint, factory: Factory[Any], check: CertificateCheck) -> Any:
        seconds = self._server.connect_seconds
        protocol: Any = await self._with_timeout(seconds, wrapClientTLS(check, endpoint).connect(factory))
        try:
            await self._with_timeout(seconds, protocol.tls_ready)
            check.names(protocol.transport.getHandle())
        except BaseException as error:
            protocol.transport.abortConnection()
            if isinstance(error, CONNECTION_ERRORS):
                raise check.explained(error) from None
            raise
        return protocol

    async def _log_in(self, protocol: Any) -> None:
        server = self._server
        if server.password:
            await protocol.execute_command("AUTH", server.password)
        await protocol.execute_command("SELECT", server.db)  # even for 0: the answer shows that this is a Redis
        if server.sentinels:
            role = await protocol.execute_command("ROLE")
            if role[0] != b"master":
                raise unavailable("the server that the sentinels named is not a master yet")
        if self._on_connect is not None:
            await self._on_connect(protocol)

    async def _master(self) -> tuple[str, int]:
        """Where the master is, according to the first sentinel that answers."""
        factory: Factory[Any] = Factory.forProtocol(LinkProtocol)
        factory.noisy = False
        why = "no sentinel answers"
        for host, port in self._server.sentinels:
            sentinel = None
            try:
                sentinel = await self._reach(host, port, factory, self._certificate_check(host))
                asking = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._server.service)
                found = await self._with_timeout(self._server.connect_seconds, asking)
            except (*CONNECTION_ERRORS, MercuryError) as error:
                why = f"the sentinel at {host}:{port} does not answer: {_message_of(error)}"
                continue
            finally:
                if sentinel is not None:
                    sentinel.transport.loseConnection()
            if found:
                return found[0].decode(), int(found[1])
            why = f"the sentinel at {host}:{port} does not know the service {self._server.service}"
        raise unavailable(why)

    def _with_timeout(self, seconds: float, waits: Deferred[Any]) -> Deferred[Any]:
        """The same Deferred, which fails with TimeoutError if it has not fired by then."""
        too_late = Failure(TimeoutError(f"no reply within {seconds:g} s"))
        return waits.addTimeout(seconds, self._reactor, onTimeoutCancel=lambda result, seconds: too_late)

    # Commands

    def call(self, *command: str | bytes | int) -> Deferred[Any]:
        """Send one command; fires with its reply. Cancelling the Deferred drops the answer, not the command."""
        return self._run(self._send(command))

    def run_script(self, sha: str, source: bytes, args: Sequence[str | bytes]) -> Deferred[Any]:
        """Run a script that on_connect() has loaded. Its source is sent again if the server has forgotten it."""
        return self._run(self._eval(sha, source, args))

    async def _eval(self, sha: str, source: bytes, args: Sequence[str | bytes]) -> Any:
        try:
            return await self._send(("EVALSHA", sha, 0, *args))
        except ResponseError as error:
            if not _message_of(error).startswith("NOSCRIPT"):
                raise
            return await self._send(("EVAL", source, 0, *args))

    async def _send(self, command: Sequence[str | bytes | int]) -> Any:
        seconds, asked = self._server.command_seconds, self._reactor.seconds()
        try:
            protocol = self._protocol or await self._with_timeout(seconds, self._next_connection())
        finally:
            self.load.waits.observe(self._reactor.seconds() - asked)
        try:
            return await self._with_timeout(seconds, protocol.execute_command(*command))
        except TimeoutError:
            protocol.transport.abortConnection()  # replies come in order, so later commands would wait for this one
            raise
        except ResponseError as error:
            if _message_of(error).startswith("READONLY"):  # it is no longer the master: ask the sentinels again
                protocol.transport.abortConnection()
            raise

    def _run(self, work: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
        if self._closed or self.load.running >= MAX_WAITING:
            work.close()
            self.load.unavailable += 1
            if self._closed:
                return fail(unavailable(f"the connection to {self._server} is closed"))
            reason = f"{MAX_WAITING} commands already wait for Redis"
            return fail(MercuryError("unavailable", reason, RETRY_AFTER, limit="store-calls"))
        self.load.running += 1
        answer: Deferred[Any] = Deferred()  # another one than the command's, so that cancelling it stops nothing
        Deferred.fromCoroutine(work).addBoth(self._ended, LOG_CONTEXT.get()).chainDeferred(answer)
        return answer

    def _ended(self, result: Any, log_context: LogContext | None) -> Any:
        self.load.running -= 1
        if isinstance(result, Failure):
            result = in_context(log_context, self._translate, result)
            self.load.unavailable += result.value.code == "unavailable"
        if self._closed:
            self._end_if_idle()
        return result

    def _translate(self, failure: Failure) -> Failure:
        """The failure as a MercuryError; a fault in Mercury is logged."""
        error = failure.value
        if isinstance(error, MercuryError):
            return failure
        message = _message_of(error)
        if not isinstance(error, CONNECTION_ERRORS) or (
            isinstance(error, ResponseError) and not message.encode().startswith(TEMPORARY_REPLIES)
        ):
            _log.failure("an internal error in a call to {server}", failure, server=str(self._server))
            return Failure(internal())
        return Failure(unavailable(f"{self._server} does not answer: {message}"))


def _message_of(error: BaseException | None) -> str:
    """An error's own text; error replies come as bytes."""
    if isinstance(error, MercuryError):
        return error.reason
    words = error.args[0] if error and error.args else ""
    return words.decode(errors="replace") if isinstance(words, bytes) else str(error) or type(error).__name__
