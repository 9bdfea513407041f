"""A node's life: it binds its ports, opens its store, serves, and stops without harm.

The ports are bound first and at once, so that a port in use ends the start with one clear line and an exit code. Until
the store is open, callers are told `unavailable`. On stop, readiness says no, the ports close, each client is told when
to come back, what is on its way into the store gets there, and only then do the connections and the store close.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from math import ceil
from typing import Any, NoReturn

from twisted.application.service import IServiceCollection, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from mercury import __version__, closing, events
from mercury.config import Config, storage_type
from mercury.core.chat import Chat
from mercury.core.passwords import Passwords
from mercury.epoll import quicken
from mercury.errors import MercuryError
from mercury.garbage import look_seldom
from mercury.listening import Listening
from mercury.logs import log_stream, observer
from mercury.reloading import reload
from mercury.systemd import Systemd
from mercury.transports.chat import PATH
from mercury.transports.readiness import State

STOP_SECONDS = 10.0  # for all that is still going on when Mercury is told to stop, closing connections aside
COHORT_SECONDS = 0.1  # between closing some connections and some more
GOODBYE_SECONDS = 1.0  # for the clients' halves of the closing handshakes, and for requests that are on their way
LOOK_SECONDS = 0.05  # between looks whether they have come
RETURN_RATE = 200.0  # clients that are asked to come back in the same second
SWEEP_SECONDS = 600.0  # between looks for tokens and devices that are over
DAY = 86_400_000_000  # microseconds


class MercuryService(Service):
    """One node. `state` is what /readyz asks: whether the store is open and nobody has said stop."""

    log = Logger()
    name = "mercury"

    def __init__(
        self, reactor: Any, chat: Chat, config: Config, warnings: list[str], parent: Any, read: Callable[[], Config]
    ) -> None:
        self.state: State = "starting"
        self.listenings: list[Listening] = []
        self.passwords: Passwords | None = None  # where people log in with some
        self._reactor = reactor
        self._chat = chat
        self._config = config
        self._read = read  # the settings once more
        self._warnings = warnings
        self._twistd = parent or {}
        self._systemd = Systemd(reactor, self.is_well)
        self._ports: list[IListeningPort] = []
        self._starting: Deferred[None] = succeed(None)
        self._sweeping = LoopingCall(self._sweep)
        self._sweeping.clock = reactor

    def setServiceParent(self, parent: Any) -> None:
        """twistd hands the application over here: the place to have all of its log in our format."""
        foreground, path = self._twistd.get("nodaemon"), self._twistd.get("logfile")
        stream = log_stream(None if path == "-" or (foreground and not path) else path or "mercury.log")
        if hasattr(parent, "setComponent"):
            parent.setComponent(ILogObserver, observer(stream, self._config.log))
        super().setServiceParent(IServiceCollection(parent, parent))  # type: ignore[no-untyped-call]

    # Start

    def privilegedStartService(self) -> None:
        """Bind the ports, while the process may still be root."""
        for listening in self.listenings:
            self._ports.append(self._bind(listening))

    def startService(self) -> None:
        """Open the store and be ready."""
        super().startService()  # type: ignore[no-untyped-call]
        quicken(self._reactor)
        look_seldom()
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._systemd.reload, self.reload))
        self._starting = Deferred.fromCoroutine(self._start()).addErrback(self._failed)

    def _bind(self, listening: Listening) -> IListeningPort:
        """An endpoint's listening port; TCP, UNIX and systemd endpoints have theirs at once."""
        try:
            listen = serverFromString(self._reactor, listening.endpoint).listen(listening.factory)
        except (ValueError, TypeError, LookupError) as error:
            self._refuse(f"--{listening.section}.endpoint={listening.endpoint}: {error}")
        bound: list[Any] = []
        listen.addBoth(bound.append)
        if isinstance(bound[0], Failure):
            why = getattr(bound[0].value, "socketError", None) or bound[0].value
            reason = getattr(why, "strerror", None) or str(why)
            flag = "endpoint" if listening.endpoint == self._endpoint_flag(listening) else "port"
            self._refuse(f"--{listening.section}.{flag}: cannot listen on {listening.endpoint}: {reason}")
        port: IListeningPort = bound[0]
        return port

    def _endpoint_flag(self, listening: Listening) -> str:
        server = self._config.server
        sections: dict[str, Any] = {"server.api": server.api, "server.ws": server.ws, "gotalk": self._config.gotalk}
        endpoint: str = sections[listening.section].endpoint
        return endpoint

    def _refuse(self, line: str) -> NoReturn:
        """End a start that cannot be: in the foreground by exiting, else twistd reports the exception."""
        if not self._twistd.get("nodaemon"):
            raise RuntimeError(line)
        print(f"mercury: {line}", file=sys.__stderr__, flush=True)  # sys.stderr is the log by now
        sys.exit(1)

    async def _start(self) -> None:
        for warning in self._warnings:
            self.log.warn("{warning}", warning=warning)
        self._systemd.opening()
        await self._chat.store.open()
        await self._chat.nodes.open()
        self._chat.heartbeat.start()
        self._sweeping.start(SWEEP_SECONDS)
        if self.passwords is not None:
            self.passwords.start()
        self.state = "serving"
        addresses = [_shown(port) for port in self._ports]
        self.log.info("ready: REST at {rest}, WebSocket at {ws}", rest=addresses[0], ws=addresses[1])
        self._systemd.ready(f"REST at {addresses[0]}, WebSocket at {addresses[1]}")
        for address in addresses[2:]:
            self.log.info("goTalk at {address}", address=address)
        if self._twistd.get("nodaemon") and not self._systemd.listens:
            print(self._banner(*addresses), file=sys.__stderr__, flush=True)

    def _failed(self, failure: Failure) -> None:
        """The store cannot be opened: say so in one line and end with an exit code."""
        if not self.running:
            return  # told to stop before it was ready, which is no failure
        if isinstance(failure.value, MercuryError):
            line = f"mercury: {failure.value.reason}"
        else:
            self.log.failure("starting failed", failure)
            line = f"mercury: starting failed: {failure.getErrorMessage()}"
        self.log.critical("{line}", line=line)
        self._systemd.failed(line)
        print(line, file=sys.__stderr__, flush=True)
        atexit.register(_exit_with_failure)
        self._reactor.callWhenRunning(self._reactor.stop)

    def _banner(self, rest: str, ws: str, *gotalk: str) -> str:
        server, kind = self._config.server, storage_type(self._config)
        where = f"{kind}, in {self._config.sqlite.path}" if kind == "sqlite" else kind
        schemes = [
            listening.scheme(plain) for listening, plain in zip(self.listenings, ("http", "ws", "http"), strict=False)
        ]
        api, ports = f"{schemes[0]}://{rest}", (rest.rpartition(":")[2], ws.rpartition(":")[2])
        flags = "" if ports == ("6009", "6010") else " --api.port={} --ws.port={}".format(*ports)
        if shutil.which("mercury-client"):
            client = f"mercury-client --member={{}}{flags}"
        else:  # a checkout, by `make run`
            client = "make client MEMBER={}" + (f' ARGS="{flags.strip()}"' if flags else "")
        pages = "".join(f"  goTalk      {schemes[2]}://{at}/   for {self._config.gotalk.address}\n" for at in gotalk)
        return (
            f"\nMercury {__version__} is ready. Ctrl-C stops it.\n\n"
            f"  REST        {api}   for {server.api.address}\n"
            f"  WebSocket   {schemes[1]}://{ws}{PATH}   for {server.ws.address}\n"
            f"{pages}"
            f"  Store       {where}\n\n"
            f"Now chat, in two other terminals:\n\n"
            f"  {client.format(1)}\n"
            f"  {client.format(2)}\n\n"
            f"or ask for a token:  curl {api}/api/token/1\n"
        )

    # Meanwhile

    def reload(self) -> None:
        """Read settings and certificates anew, all of them or none."""
        reload(self._config, self._read, self._chat.store, self.listenings)

    def is_well(self) -> bool:
        """Whether the store does what it is given, or says that it cannot."""
        return self._chat.rooms.journal.lasts() < _patience(self._config)

    def _sweep(self) -> Deferred[None]:
        limits = self._config.limits
        idle = limits.device_days * DAY
        swept = self._chat.store.sweep(int(time.time() * 1_000_000), idle, limits.devices_per_member)
        return swept.addErrback(lambda failure: self.log.warn("sweeping: {why}", why=failure.getErrorMessage()))

    # Stop

    def stopService(self) -> Deferred[None]:
        """Fires when nothing is left to lose, or STOP_SECONDS after the time that draining may take."""
        super().stopService()  # type: ignore[no-untyped-call]
        seconds = STOP_SECONDS + self._config.drain.seconds
        self._systemd.stopping(seconds + STOP_SECONDS)
        stopping = Deferred.fromCoroutine(self._stop())
        stopping.addTimeout(seconds, self._reactor)
        return stopping.addErrback(lambda failure: self.log.error("stopping: {why}", why=failure.getErrorMessage()))

    async def _stop(self) -> None:
        self.state = "stopping"
        self._starting.cancel()
        chat = self._chat
        await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
        if self._sweeping.running:
            self._sweeping.stop()
        count = self._say_goodbye()
        chat.rooms.journal.close()
        await chat.rooms.journal.idle()  # what was begun is committed and answered
        await self._close_sessions()
        await self._all_gone()
        chat.heartbeat.stop()
        if self.passwords is not None:
            self.passwords.stop()
        await chat.rooms.marks.stop()
        await chat.nodes.close()
        await chat.store.close()
        self._reactor._exitSignal = None  # a stop that was asked for and is done is success: twistd exits with 0
        self.log.info("stopped; {count} sessions were told to come back", count=count)

    async def _close_sessions(self) -> None:
        """A few at a time."""
        sessions = self._chat.heartbeat.everybody()
        seconds = min(self._config.drain.seconds, len(sessions) / RETURN_RATE)
        size = ceil(len(sessions) / max(1, int(seconds / COHORT_SECONDS))) or 1
        for start in range(0, len(sessions), size):
            if start:
                await deferLater(self._reactor, COHORT_SECONDS)
            for session in sessions[start : start + size]:
                session.end(closing.RESTART)

    async def _all_gone(self) -> None:
        """Until nobody is connected, or as long as it takes who means to answer, or to be answered."""
        until = self._reactor.seconds() + GOODBYE_SECONDS
        while any(listening.factory.total for listening in self.listenings) and self._reactor.seconds() < until:
            await deferLater(self._reactor, LOOK_SECONDS)

    def _say_goodbye(self) -> int:
        """Tell every client when to come back, not all at the same time, and listen no more; how many there are."""
        sessions = self._chat.hub.everybody()
        spread = max(1.0, len(sessions) / RETURN_RATE - self._config.drain.seconds)  # their closing is spread as well
        for session in sessions:
            bye = events.Bye(round(random.uniform(0.1, spread), 3))  # noqa: S311 - only to spread them
            self._chat.hub.outbox.put((session,), session.wire.event(bye))
            session.finish()
        return len(sessions)


def _patience(config: Config) -> float:
    """Seconds that are more than any store takes to answer or to give up, even if it is away."""
    mysql, redis = config.mysql, config.redis
    return 60.0 + 4 * (
        mysql.connect_seconds + mysql.write_seconds + mysql.read_seconds + redis.connect_seconds + redis.command_seconds
    )


def _shown(port: IListeningPort) -> str:
    """An address that a person can paste."""
    host: Any = port.getHost()
    if not hasattr(host, "port"):
        return str(getattr(host, "name", host))
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host.host, host.host)  # noqa: S104 - shown, not bound
    return f"{'[' + name + ']' if ':' in name and '[' not in name else name}:{host.port}"


def _exit_with_failure() -> None:
    """At the interpreter's end, after twistd has tidied up: it has no way of its own to exit with a code."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
