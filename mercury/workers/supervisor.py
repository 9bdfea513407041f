"""`--workers`: the process that binds the ports, starts the workers, and sees that there are always so many.

Each worker is a node of its own, on a store and a bus that all share; this process knows nothing of chat. It starts one
worker, and the others when that one is ready, so that a mistake is told once. A worker that dies or hangs is started
anew. All stop and reload together, and when this process is gone they see that and stop (mercury/net/worker_pipe.py).
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, LogLevel

from mercury.net.worker_pipe import Answer, Message, Notice, Order, Question
from mercury.node.banner import banner
from mercury.node.endpoints import warnings_of_sockets
from mercury.node.process import (
    STOP_SECONDS,
    end_with_failure,
    ended_well,
    fail_at_exit,
    is_in_foreground,
    log_file,
    refuse,
    take_log,
    tell,
)
from mercury.node.reload import NOT_RELOADED, adopt
from mercury.node.systemd import Systemd
from mercury.settings.flags import Flags
from mercury.settings.types import ConfigError
from mercury.workers.child import Worker
from mercury.workers.sockets import Ports

WATCHDOG: Final = 30.0  # seconds within which a worker has to be heard of, if systemd asks for nothing else
SILENT: Final = 60.0  # seconds that one may be silent while it starts or stops
LOOK: Final = 1.0  # seconds between looks whether all were
ABORTING: Final = 2.0  # seconds for one that hangs to say where
LONG: Final = 60.0  # seconds: who lived so long and dies is started at once
PAUSES: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before a start, by the short lives before it
SHUT_FROM: Final = 2.0  # seconds: for a longer pause newcomers go to other workers
RELOADING: Final = 30.0  # seconds for all workers to reload
INSISTING: Final = 5.0  # seconds that workers may take longer to stop than a node may


class Workers(Service):
    """The workers of one Mercury. `passed`: the sockets that systemd passes, by their ports."""

    log = Logger()
    name = "mercury"

    def __init__(self, reactor: Any, options: Flags, passed: Mapping[int, str]) -> None:
        self._reactor = reactor
        self._options = options
        self._config = options.config
        self._twistd: Mapping[str, Any] = options.parent or {}
        self._passed = passed
        self._ports = Ports(self._config.workers)
        self._systemd = Systemd(reactor, lambda: True)
        self._watchdog = self._systemd.watchdog or WATCHDOG
        self._workers: dict[int, Worker] = {}
        self._short_lives: dict[int, int] = {}
        self._pausing: dict[int, Any] = {}
        self._started = False  # all of them, once
        self._stopping: Deferred[None] | None = None
        self._looked = 0.0
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor

    def setServiceParent(self, parent: Any) -> None:
        """twistd hands the application over here."""
        super().setServiceParent(take_log(parent, self._twistd, self._config.log))  # type: ignore[no-untyped-call]

    # Start

    def privilegedStartService(self) -> None:
        """Bind the ports, while the process may still be root."""
        try:
            endpoints = self._ports.bind(self._config, self._passed)
        except ConfigError as error:
            refuse(self._twistd, str(error))
        for warning in warnings_of_sockets(self._passed, endpoints):
            self.log.warn("{warning}", warning=warning)

    def startService(self) -> None:
        """Start the first worker."""
        super().startService()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._systemd.reload, self._reload))
        self._systemd.opening()
        self._looking.start(LOOK).addErrback(lambda why: self.log.failure("looking after workers failed", why))
        self._begin(1)

    def _begin(self, number: int) -> None:
        """Start a worker."""
        self._pausing.pop(number, None)
        self._ports.open(number)
        worker = self._workers[number] = Worker(number, self._reactor.seconds(), self)
        try:
            worker.begin(self._reactor, self._config.workers, self._ports.of(number), self._watchdog, self._words())
        except OSError as error:  # no more processes or descriptors are to be had now
            self.ended(worker, f"at its start ({error.strerror})")

    def _words(self) -> list[str]:
        """A worker's command line, as this process was started."""
        file, reactor = log_file(self._twistd), self._twistd.get("reactor")
        words = ["--nodaemon", "--pidfile=", *([f"--logfile={file}"] if file else [])]
        words += [f"--reactor={reactor}"] if reactor else []
        return [*words, "mercury", *(f"--{path}={text}" for path, text in self._options.given.items())]

    def _ready(self, worker: Worker) -> None:
        worker.state = "ready"
        self.log.info("worker {worker} is ready", worker=worker.number)
        if self._started or self._stopping is not None:
            return
        if len(self._workers) == 1:
            for number in range(2, self._config.workers + 1):
                self._begin(number)
        elif all(one.state == "ready" for one in self._workers.values()):
            self._started = True
            rest, ws = self._ports.addresses[:2]
            status = f"{self._config.workers} workers; REST at {rest}, WebSocket at {ws}"
            self.log.info("ready: {status}", status=status)
            self._systemd.ready(status)
            if is_in_foreground(self._twistd) and not self._systemd.listens:
                tell(banner(self._config, self._ports.addresses))

    # Meanwhile

    def heard(self, worker: Worker, message: Message) -> None:
        """What a worker says: of itself, or to another one."""
        worker.last = self._reactor.seconds()
        if isinstance(message, Notice):
            for word in worker.is_told(message.lines):
                if word == "READY" and worker.state == "starting":
                    self._ready(worker)
                elif word == "READY":
                    worker.has_reloaded()
                elif word == "STOPPING":
                    worker.state = "stopping"
                    self._shut(worker.number)
        elif isinstance(message, Question):
            if (peer := self._workers.get(message.peer)) is not None:
                peer.send(Question(worker.number, message.id, message.what, message.args))
            else:
                worker.send(Answer(message.peer, message.id, None))
        elif isinstance(message, Answer) and (peer := self._workers.get(message.peer)) is not None:
            peer.send(Answer(worker.number, message.id, message.body))

    def ended(self, worker: Worker, how: str) -> None:
        """A worker is gone: start it anew, or as what it was part of fails or ends."""
        number = worker.number
        del self._workers[number]
        if self._stopping is not None:
            if how:
                self.log.error("worker {worker} ended {how}", worker=number, how=how)
                fail_at_exit()
            if not self._workers:
                self._stopping.callback(None)
        elif not self._started:
            self._failed(worker, how or "by itself")
        else:
            lived = self._reactor.seconds() - worker.since
            lives = self._short_lives[number] = 0 if lived > LONG or not how else self._short_lives.get(number, -1) + 1
            pause = PAUSES[min(lives, len(PAUSES) - 1)]
            level = LogLevel.error if how else LogLevel.info
            words = "worker {worker} ended {how} and is started again in {pause} s"
            self.log.emit(level, words, worker=number, how=how or "well", pause=pause)
            if pause >= SHUT_FROM:
                self._shut(number)
            self._pausing[number] = self._reactor.callLater(pause, self._begin, number)

    def _shut(self, number: int) -> None:
        """Send newcomers to the others, if there are any."""
        if any(worker.state == "ready" for worker in self._workers.values()):
            self._ports.shut(number)

    def _failed(self, worker: Worker, how: str) -> None:
        """It has said why, if it could; then the same would come of all others."""
        self.log.critical("worker {worker} ended {how} before it was ready", worker=worker.number, how=how)
        if worker.status.startswith("mercury: ") or "code" in how:
            self._systemd.failed(worker.status or how)
        else:
            tell(f"mercury: worker {worker.number} ended {how} before it was ready")
        end_with_failure(self._reactor)

    def _look(self) -> None:
        """End who was not heard of for too long, unless it was this process that stood still."""
        now = self._reactor.seconds()
        stood_still, self._looked = now - self._looked > max(2 * LOOK, self._watchdog / 2), now
        for worker in self._workers.values():
            if stood_still:
                worker.last = now
            elif worker.state != "hung" and now - worker.last > self._patience(worker):
                worker.state = "hung"
                self.log.critical("worker {worker} hangs, and is ended", worker=worker.number)
                worker.signal(signal.SIGABRT)
                self._reactor.callLater(ABORTING, worker.signal, signal.SIGKILL)

    def _patience(self, worker: Worker) -> float:
        return self._watchdog if worker.state == "ready" else max(self._watchdog, SILENT)

    def _reload(self) -> Deferred[Any]:
        """Have all workers read the settings anew, if they can be read."""
        try:
            new = self._options.read_again()
        except ConfigError as error:
            self.log.error(NOT_RELOADED, why=error)
            return succeed(None)
        adopt(self._config, new)
        all_done = gatherResults([worker.reload() for worker in self._workers.values()])
        return all_done.addTimeout(RELOADING, self._reactor)

    # Stop

    def stopService(self) -> Deferred[None]:
        """Have all workers stop, at the same time; fires when all have."""
        super().stopService()  # type: ignore[no-untyped-call]
        seconds = STOP_SECONDS + self._config.drain.seconds + INSISTING
        self._systemd.stopping(seconds + STOP_SECONDS)
        self._looking.stop()
        self._ports.close()
        for pause in self._pausing.values():
            pause.cancel()
        self._stopping = Deferred()
        for worker in self._workers.values():
            worker.send(Order("stop"))
        if not self._workers:
            self._stopping.callback(None)
        stopped = self._stopping.addTimeout(seconds, self._reactor, self._insist)
        return stopped.addCallback(lambda _: ended_well(self._reactor))

    def _insist(self, result: object, seconds: float) -> Deferred[None]:
        """Some have not ended in time."""
        self._stopping = Deferred()
        for worker in self._workers.values():
            worker.signal(signal.SIGKILL)
        return self._stopping
