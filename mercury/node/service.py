"""A node's life: it binds its ports, opens its store, serves, and stops without harm.

The ports are bound first and at once, so that a port in use ends the start with one clear line and an exit code. Until
the store is open, callers are told `unavailable`. On stop, readiness says no, the ports close, each client is told when
to come back, what is on its way into the store gets there, and only then do the connections and the store close.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from mercury.core.parts import Chat
from mercury.domain import close_codes, events
from mercury.errors import MercuryError
from mercury.gotalk.passwords import Passwords
from mercury.net.siblings import Siblings
from mercury.node.banner import banner, shown
from mercury.node.endpoints import cannot_be, cannot_listen, listeners_of
from mercury.node.listeners import Listening
from mercury.node.process import (
    STOP_SECONDS,
    end_with_failure,
    ended_well,
    is_in_foreground,
    print_to_terminal,
    refuse,
    take_log,
)
from mercury.node.reload import reload
from mercury.node.systemd import Systemd
from mercury.node.tuning import fast_poll, tune_gc
from mercury.rest.readiness import Readiness
from mercury.settings.schema import Config

COHORT_SECONDS = 0.1  # between closing some connections and some more
GOODBYE_SECONDS = 1.0  # for the clients' halves of the closing handshakes, and for requests that are on their way
LOOK_SECONDS = 0.05  # between looks whether they have come
RETURN_RATE = 200.0  # clients that are asked to come back in the same second
SWEEP_SECONDS = 600.0  # between looks for tokens and devices that are over
DAY = 86_400_000_000  # microseconds

_log = Logger()


class MercuryService(Service):
    """One node. `listenings`: what it listens on. `readiness`: is told whether it starts, serves or stops. `siblings`:
    the other workers, if it is one of several. `passwords`: for goTalk. `read`: reads the settings once more.
    """

    name = "mercury"

    def __init__(
        self,
        reactor: Any,
        chat: Chat,
        config: Config,
        *,
        listenings: Sequence[Listening],
        readiness: Readiness,
        siblings: Siblings,
        passwords: Passwords | None = None,
        warnings: Sequence[str] = (),
        parent: Any = None,
        read: Callable[[], Config],
    ) -> None:
        self.listenings = listenings
        self._reactor = reactor
        self._chat = chat
        self._config = config
        self._readiness = readiness
        self._siblings = siblings
        self._passwords = passwords
        self._warnings = warnings
        self._twistd = parent or {}
        self._read = read
        is_worker = self._siblings.number is not None
        self._systemd = Systemd(reactor, self.is_well, forward=self._siblings.notify if is_worker else None)
        self._ports: list[IListeningPort] = []
        self._starting: Deferred[None] = succeed(None)
        self._leaving = False
        self._sweeping = LoopingCall(self._sweep)
        self._sweeping.clock = reactor

    def setServiceParent(self, parent: Any) -> None:
        """twistd hands the application over here: the place to have all of its log in our format."""
        above = take_log(parent, self._twistd, self._config.log, self._siblings.number)
        super().setServiceParent(above)  # type: ignore[no-untyped-call]

    # Start

    def privilegedStartService(self) -> None:
        """Bind the ports, while the process may still be root. A worker's are bound: who comes there waits for it."""
        if self._siblings.number is None:
            self._ports = [self._bind(listening) for listening in self.listenings]

    def startService(self) -> None:
        """Open the store and be ready."""
        super().startService()  # type: ignore[no-untyped-call]
        fast_poll(self._reactor)
        tune_gc()
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._obey, "reload"))
        if self._siblings.number is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor, which tells us
            self._reactor.callWhenRunning(self._heed_sigterm)
            self._siblings.open(self._obey)
        self._starting = Deferred.fromCoroutine(self._start()).addErrback(self._failed)

    def _obey(self, what: str) -> None:
        """Reload or stop, as a signal or the supervisor says."""
        if what == "reload":
            self._systemd.reload(self.reload)
        elif not self._leaving:
            self._leaving = True
            self._reactor.callWhenRunning(self._reactor.stop)

    def _heed_sigterm(self) -> None:
        """In place of Twisted's way, which fails if it comes twice: a worker hears from systemd and its supervisor."""
        signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(self._obey, "stop"))

    def _bind(self, listening: Listening) -> IListeningPort:
        """Its listening port."""
        try:
            listen = listening.listen(self._reactor)
        except (ValueError, TypeError, LookupError) as error:
            refuse(self._twistd, cannot_be(listening.section, listening.endpoint, error))
        bound: list[Any] = []
        listen.addBoth(bound.append)
        if isinstance(bound[0], Failure):
            own = listeners_of(self._config)[listening.section].endpoint
            refuse(self._twistd, cannot_listen(listening.section, listening.endpoint, own, bound[0].value))
        port: IListeningPort = bound[0]
        return port

    async def _start(self) -> None:
        for warning in self._warnings:
            _log.warn("{warning}", warning=warning)
        self._systemd.opening()
        await self._chat.store.open()
        await self._chat.cluster.open()
        self._chat.heartbeat.start()
        self._sweeping.start(SWEEP_SECONDS)
        if self._passwords is not None:
            self._passwords.start()
        if self._siblings.number is not None:
            self._ports = [self._bind(listening) for listening in self.listenings]
        self._readiness.enter("serving")
        addresses = [shown(port.getHost()) for port in self._ports]
        _log.info("ready: REST at {rest}, WebSocket at {ws}", rest=addresses[0], ws=addresses[1])
        self._systemd.ready(f"REST at {addresses[0]}, WebSocket at {addresses[1]}")
        for address in addresses[2:]:
            _log.info("goTalk at {address}", address=address)
        if is_in_foreground(self._twistd) and not self._systemd.listens:
            print_to_terminal(banner(self._config, addresses))

    def _failed(self, failure: Failure) -> None:
        """The store cannot be opened: say so in one line and end with an exit code."""
        if not self.running:
            return  # told to stop before it was ready, which is no failure
        if isinstance(failure.value, MercuryError):
            line = f"mercury: {failure.value.reason}"
        else:
            _log.failure("starting failed", failure)
            line = f"mercury: starting failed: {failure.getErrorMessage()}"
        _log.critical("{line}", line=line)
        self._systemd.failed(line)
        print_to_terminal(line)
        end_with_failure(self._reactor)

    # Meanwhile

    def reload(self) -> None:
        """Read settings and certificates anew, all of them or none."""
        reload(self._config, self._read, self._chat.store, self.listenings)

    def is_well(self) -> bool:
        """Whether the store does what it is given, or says that it cannot."""
        return self._chat.journal.write_age() < _write_timeout(self._config)

    def _sweep(self) -> Deferred[None]:
        limits = self._config.limits
        idle = limits.device_days * DAY
        swept = self._chat.store.sweep(int(time.time() * 1_000_000), idle, limits.devices_per_member)
        return swept.addErrback(lambda failure: _log.warn("sweeping: {why}", why=failure.getErrorMessage()))

    # Stop

    def stopService(self) -> Deferred[None]:
        """Fires when nothing is left to lose, or STOP_SECONDS after the time that draining may take."""
        super().stopService()  # type: ignore[no-untyped-call]
        seconds = STOP_SECONDS + self._config.drain.seconds
        self._systemd.stopping(seconds + STOP_SECONDS)
        stopping = Deferred.fromCoroutine(self._stop())
        stopping.addTimeout(seconds, self._reactor)
        return stopping.addErrback(lambda failure: _log.error("stopping: {why}", why=failure.getErrorMessage()))

    async def _stop(self) -> None:
        self._readiness.enter("stopping")
        self._starting.cancel()
        chat = self._chat
        await DeferredList([maybeDeferred(port.stopListening) for port in self._ports])
        if self._sweeping.running:
            self._sweeping.stop()
        count = self._say_goodbye()
        chat.journal.close()
        await chat.journal.idle()  # what was begun is committed and answered
        await self._close_sessions()
        await self._all_gone()
        chat.heartbeat.stop()
        if self._passwords is not None:
            self._passwords.stop()
        await chat.marks.stop()
        await chat.cluster.close()
        await chat.store.close()
        ended_well(self._reactor)
        _log.info("stopped; {count} sessions were told to reconnect", count=count)

    async def _close_sessions(self) -> None:
        """A few at a time."""
        sessions = self._chat.heartbeat.everybody()
        seconds = min(self._config.drain.seconds, len(sessions) / RETURN_RATE)
        size = ceil(len(sessions) / max(1, int(seconds / COHORT_SECONDS))) or 1
        for start in range(0, len(sessions), size):
            if start:
                await deferLater(self._reactor, COHORT_SECONDS)
            for session in sessions[start : start + size]:
                session.end(close_codes.RESTART)

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
            self._chat.outbox.put((session,), session.encoder.event(bye))
            session.finish()
        return len(sessions)


def _write_timeout(config: Config) -> float:
    """Seconds after which a store that has not answered a write is taken to hang: more than all of its own timeouts."""
    mysql, redis = config.mysql, config.redis
    return 60.0 + 4 * (
        mysql.connect_seconds + mysql.write_seconds + mysql.read_seconds + redis.connect_seconds + redis.command_seconds
    )
