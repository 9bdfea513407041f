"""`--workers`: the process that binds the ports, starts the workers, and restarts those that die or hang.

Each worker is a node of its own, on a store and a bus that all share; the supervisor knows nothing of chat. It starts
one worker, and the others when that one is ready, so that a mistake is reported once. All stop and reload together. If
the supervisor dies, its workers notice and stop (mercury/net/worker_pipe.py).
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, LogLevel

from mercury.net.worker_pipe import PipeMessage, WorkerAnswer, WorkerNotice, WorkerOrder, WorkerQuestion
from mercury.node.banner import banner
from mercury.node.endpoints import warnings_of_sockets
from mercury.node.process import (
    STOP_SECONDS,
    end_with_failure,
    ended_well,
    fail_at_exit,
    is_in_foreground,
    log_file,
    print_to_terminal,
    refuse,
    take_log,
)
from mercury.node.reload import NOT_RELOADED, adopt
from mercury.node.systemd import Systemd
from mercury.settings.flags import Flags
from mercury.settings.types import ConfigError
from mercury.workers.child import Worker
from mercury.workers.sockets import ListeningSockets

# All in seconds.
WATCHDOG: Final = 30.0  # how long a worker may be silent, unless systemd sets another limit
SILENT: Final = 60.0  # how long it may be while it starts or stops
CHECK_EVERY: Final = 1.0  # between two checks for silent workers
ABORTING: Final = 2.0  # for a hanging worker to log where it hangs
LONG: Final = 60.0  # a worker that lived this long is restarted at once
PAUSES: Final = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # before a restart, by the number of short lives before it
PAUSE_SOCKETS_FROM: Final = 2.0  # for a pause this long, new connections go to other workers
RELOADING: Final = 30.0  # for all workers to reload
INSISTING: Final = 5.0  # that workers may take longer to stop than a node may

_log = Logger()


class Supervisor(Service):
    """The workers of one Mercury. `passed`: the sockets that systemd passes, by their ports."""

    name = "mercury"

    def __init__(self, reactor: Any, flags: Flags, passed: Mapping[int, str]) -> None:
        self._reactor = reactor
        self._flags = flags
        self._config = flags.config
        self._twistd: Mapping[str, Any] = flags.parent or {}
        self._passed = passed
        self._sockets = ListeningSockets(self._config.workers)
        self._systemd = Systemd(reactor, lambda: True)
        self._watchdog = self._systemd.watchdog or WATCHDOG
        self._workers: dict[int, Worker] = {}
        self._short_lives: dict[int, int] = {}
        self._pausing: dict[int, Any] = {}
        self._started = False  # all of them, once
        self._stopping: Deferred[None] | None = None
        self._checked_at = 0.0
        self._checking = LoopingCall(self._check_silence)
        self._checking.clock = reactor

    def setServiceParent(self, parent: Any) -> None:
        """twistd passes the application: log in our format."""
        super().setServiceParent(take_log(parent, self._twistd, self._config.log))  # type: ignore[no-untyped-call]

    # Start

    def privilegedStartService(self) -> None:
        """Bind the ports, while the process may still be root."""
        try:
            endpoints = self._sockets.bind(self._config, self._passed)
        except ConfigError as error:
            refuse(self._twistd, str(error))
        for warning in warnings_of_sockets(self._passed, endpoints):
            _log.warn("{warning}", warning=warning)

    def startService(self) -> None:
        """Start the first worker."""
        super().startService()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._systemd.reload, self._reload))
        self._systemd.opening()
        self._checking.start(CHECK_EVERY).addErrback(lambda why: _log.failure("supervising workers failed", why))
        self._start_worker(1)

    def _start_worker(self, number: int) -> None:
        """Start a worker."""
        self._pausing.pop(number, None)
        self._sockets.resume(number)
        worker = self._workers[number] = Worker(number, self._reactor.seconds(), self)
        try:
            worker.start(
                self._reactor,
                self._config.workers,
                self._sockets.descriptors(number),
                self._watchdog,
                self._arguments(),
            )
        except OSError as error:  # out of processes or descriptors
            self.ended(worker, f"at its start ({error.strerror})")

    def _arguments(self) -> list[str]:
        """A worker's arguments of twistd, made from this process's own."""
        file, reactor = log_file(self._twistd), self._twistd.get("reactor")
        arguments = ["--nodaemon", "--pidfile=", *([f"--logfile={file}"] if file else [])]
        arguments += [f"--reactor={reactor}"] if reactor else []
        return [*arguments, "mercury", *(f"--{path}={text}" for path, text in self._flags.given.items())]

    def _ready(self, worker: Worker) -> None:
        worker.state = "ready"
        _log.info("worker {worker} is ready", worker=worker.number)
        if self._started or self._stopping is not None:
            return
        if len(self._workers) == 1:
            for number in range(2, self._config.workers + 1):
                self._start_worker(number)
        elif all(one.state == "ready" for one in self._workers.values()):
            self._started = True
            rest, ws = self._sockets.addresses[:2]
            status = f"{self._config.workers} workers; REST at {rest}, WebSocket at {ws}"
            _log.info("ready: {status}", status=status)
            self._systemd.ready(status)
            if is_in_foreground(self._twistd) and not self._systemd.listens:
                print_to_terminal(banner(self._config, self._sockets.addresses))

    # Meanwhile

    def received(self, worker: Worker, message: PipeMessage) -> None:
        """A worker has sent its status, or something for another worker."""
        worker.heard_at = self._reactor.seconds()
        if isinstance(message, WorkerNotice):
            for line in message.lines:
                self._noticed(worker, line)
        elif isinstance(message, WorkerQuestion):
            if (peer := self._workers.get(message.peer)) is not None:
                peer.send(WorkerQuestion(worker.number, message.id, message.what, message.args))
            else:
                worker.send(WorkerAnswer(message.peer, message.id, None))
        elif isinstance(message, WorkerAnswer) and (peer := self._workers.get(message.peer)) is not None:
            peer.send(WorkerAnswer(worker.number, message.id, message.body))

    def _noticed(self, worker: Worker, line: str) -> None:
        """A line in the words of sd_notify(3)."""
        name, _, value = line.partition("=")
        if name == "STATUS":
            worker.status = value
        elif name == "READY" and worker.state == "starting":
            self._ready(worker)
        elif name == "READY":
            worker.has_reloaded()
        elif name == "STOPPING":
            worker.state = "stopping"
            self._pause_sockets(worker.number)

    def ended(self, worker: Worker, how: str) -> None:
        """A worker has ended: restart it, unless the start has failed or all are stopping."""
        number = worker.number
        del self._workers[number]
        if self._stopping is not None:
            if how:
                _log.error("worker {worker} ended {how}", worker=number, how=how)
                fail_at_exit()
            if not self._workers:
                self._stopping.callback(None)
        elif not self._started:
            self._failed(worker, how or "by itself")
        else:
            lived = self._reactor.seconds() - worker.started_at
            lives = self._short_lives[number] = 0 if lived > LONG or not how else self._short_lives.get(number, -1) + 1
            pause = PAUSES[min(lives, len(PAUSES) - 1)]
            level = LogLevel.error if how else LogLevel.info
            words = "worker {worker} ended {how} and is started again in {pause} s"
            _log.emit(level, words, worker=number, how=how or "well", pause=pause)
            if pause >= PAUSE_SOCKETS_FROM:
                self._pause_sockets(number)
            self._pausing[number] = self._reactor.callLater(pause, self._start_worker, number)

    def _pause_sockets(self, number: int) -> None:
        """Send new connections to the other workers, if one is ready."""
        if any(worker.state == "ready" for worker in self._workers.values()):
            self._sockets.pause(number)

    def _failed(self, worker: Worker, how: str) -> None:
        """The start has failed, as it would for all other workers. The worker has said why, if it could."""
        _log.critical("worker {worker} ended {how} before it was ready", worker=worker.number, how=how)
        if worker.status.startswith("mercury: ") or "code" in how:
            self._systemd.failed(worker.status or how)
        else:
            print_to_terminal(f"mercury: worker {worker.number} ended {how} before it was ready")
        end_with_failure(self._reactor)

    def _check_silence(self) -> None:
        """End workers that were silent for too long, unless it was this process that stood still."""
        now = self._reactor.seconds()
        stood_still = now - self._checked_at > max(2 * CHECK_EVERY, self._watchdog / 2)
        self._checked_at = now
        for worker in self._workers.values():
            if stood_still:
                worker.heard_at = now
            elif worker.state != "hung" and now - worker.heard_at > self._timeout(worker):
                worker.state = "hung"
                _log.critical("worker {worker} hangs and is killed", worker=worker.number)
                worker.signal(signal.SIGABRT)
                self._reactor.callLater(ABORTING, worker.signal, signal.SIGKILL)

    def _timeout(self, worker: Worker) -> float:
        return self._watchdog if worker.state == "ready" else max(self._watchdog, SILENT)

    def _reload(self) -> Deferred[Any]:
        """Have all workers read the settings again, if they can be read."""
        try:
            new = self._flags.read_again()
        except ConfigError as error:
            _log.error(NOT_RELOADED, why=error)
            return succeed(None)
        adopt(self._config, new)
        all_done = gatherResults([worker.reload() for worker in self._workers.values()])
        return all_done.addTimeout(RELOADING, self._reactor)

    # Stop

    def stopService(self) -> Deferred[None]:
        """Stop all workers at the same time; fires when all have ended."""
        super().stopService()  # type: ignore[no-untyped-call]
        seconds = STOP_SECONDS + self._config.drain.seconds + INSISTING
        self._systemd.stopping(seconds + STOP_SECONDS)
        self._checking.stop()
        self._sockets.close()
        for pause in self._pausing.values():
            pause.cancel()
        self._stopping = Deferred()
        for worker in self._workers.values():
            worker.send(WorkerOrder("stop"))
        if not self._workers:
            self._stopping.callback(None)
        stopped = self._stopping.addTimeout(seconds, self._reactor, self._insist)
        return stopped.addCallback(lambda _: ended_well(self._reactor))

    def _insist(self, result: object, seconds: float) -> Deferred[None]:
        """Kill the workers that have not ended in time."""
        self._stopping = Deferred()
        for worker in self._workers.values():
            worker.signal(signal.SIGKILL)
        return self._stopping
