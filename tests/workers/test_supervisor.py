"""What the process that supervises workers does when one of them dies, hangs or says something; on a Clock, without any
process. tests/workers/test_whole.py has the real thing.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from mercury.net.address_filter import AddressFilter, Rules
from mercury.net.worker_pipe import (
    FROM_WORKER,
    LONGEST,
    PipeMessage,
    Unpacker,
    WorkerAnswer,
    WorkerNotice,
    WorkerOrder,
    WorkerQuestion,
    pack,
)
from mercury.node.listeners import ADOPTED, Listening
from mercury.settings.sources import load
from mercury.settings.types import ConfigError, networks
from mercury.workers import supervisor
from mercury.workers.sockets import ListeningSockets
from mercury.workers.supervisor import PAUSES, SILENT, WATCHDOG, Supervisor
from tests.support.recording_clients import until
from tests.support.systemd_unit import waiting_room

FLAGS = {"redis.host": "127.0.0.1", "server.api.port": "0", "server.ws.port": "0", "server.ws.address": "127.0.0.1"}


class Process:
    """What a worker was started as, on its supervisor's side. `told`: what it was told."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.pipes = {0: None}
        self.signals: list[int] = []
        self.told: list[PipeMessage] = []
        self._unpacker = Unpacker()

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        self.told += self._unpacker.feed(data)

    def signalProcess(self, number: int) -> None:
        self.signals.append(number)

    def says(self, message: PipeMessage) -> None:
        self.protocol.childDataReceived(FROM_WORKER, pack(message))

    def tells(self, *lines: str) -> None:
        self.says(WorkerNotice(list(lines)))

    def ends(self, code: int = 0, by: int | None = None) -> None:
        self.pipes.clear()
        reason = ProcessTerminated(code, by) if code or by else ProcessDone(0)
        self.protocol.processEnded(Failure(reason))


class Reactor(Clock):
    """Starts nothing; notes what it was asked to, by the worker's number."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Process] = []
        self._exitSignal: int | None = signal.SIGTERM

    def spawnProcess(self, protocol: Any, *args: Any, **how: Any) -> Process:
        self.started.append(Process(protocol))
        return self.started[-1]


class Scene:
    """A supervisor of three workers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failed = False
        monkeypatch.setattr(supervisor, "fail_at_exit", self.fail)
        monkeypatch.setattr(supervisor, "end_with_failure", self.fail)
        self.reactor = Reactor()
        self.flags = {**FLAGS, "workers": "3"}
        options: Any = SimpleNamespace(
            config=load(self.flags, {})[0], given=self.flags, parent=None, read_again=lambda: load(self.flags, {})[0]
        )
        self.service = Supervisor(self.reactor, options, {})
        self.service._twistd = {"nodaemon": True}
        monkeypatch.setattr(supervisor, "print_to_terminal", lambda text: None)
        self.service.privilegedStartService()
        self.service.startService()

    def fail(self, *reactor: Reactor) -> None:
        self.failed = True

    def wait(self, seconds: float) -> None:
        """Time passes, in which all who are ready are heard of."""
        while seconds > 0:
            step = min(1.0, seconds)
            self.reactor.advance(step)
            seconds -= step
            for worker in self.service._workers.values():
                worker._supervisor.received(worker, WorkerNotice(["WATCHDOG=1"]))

    def of(self, number: int) -> list[Process]:
        return [one for one in self.reactor.started if one.protocol.number == number]

    def all_ready(self) -> None:
        self.of(1)[-1].tells("READY=1")
        for number in (2, 3):
            self.of(number)[-1].tells("READY=1")


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    hangup = signal.getsignal(signal.SIGHUP)
    scene = Scene(monkeypatch)
    yield scene
    signal.signal(signal.SIGHUP, hangup)
    scene.service._sockets.close()


def test_the_others_are_started_when_the_first_is_ready(scene: Scene) -> None:
    assert [len(scene.of(number)) for number in (1, 2, 3)] == [1, 0, 0]
    scene.of(1)[0].tells("STATUS=opening the store", "EXTEND_TIMEOUT_USEC=1")
    assert len(scene.reactor.started) == 1
    scene.of(1)[0].tells("READY=1")
    assert [len(scene.of(number)) for number in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize("ready", [0, 1])
def test_a_first_start_that_fails_ends_all(scene: Scene, ready: int) -> None:
    if ready:
        scene.of(1)[0].tells("READY=1")
    scene.reactor.started[-1].ends(code=1)
    assert scene.failed
    scene.reactor.advance(1000)
    assert len(scene.reactor.started) == (3 if ready else 1)


def test_who_dies_again_and_again_is_started_after_ever_longer_pauses(scene: Scene) -> None:
    """Newcomers wait in its sockets for a short one, and go to the others for a longer one."""
    scene.all_ready()
    port = int(scene.service._sockets.addresses[1].rpartition(":")[2])
    for lives, pause in enumerate([*PAUSES, PAUSES[-1]], 1):
        with capturedLogs() as events:
            scene.of(2)[-1].ends(by=9)
        assert events[-1]["pause"] == pause
        own = scene.service._sockets._sockets["server.ws"][1]
        listens = bool(own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        assert listens == (pause < supervisor.PAUSE_SOCKETS_FROM)
        socket.create_connection(("127.0.0.1", port), 5).close()  # nobody is refused
        if pause:
            scene.wait(pause - 0.01)
            assert len(scene.of(2)) == lives
        scene.wait(0.02)
        assert len(scene.of(2)) == lives + 1
        assert own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        scene.of(2)[-1].tells("READY=1")
    scene.wait(supervisor.LONG + 1)
    with capturedLogs() as events:
        scene.of(2)[-1].ends(by=9)
    assert events[-1]["pause"] == 0, "it had lived for long"


def test_who_ends_by_order_of_somebody_else_is_started_at_once(scene: Scene) -> None:
    scene.all_ready()
    for lives in (2, 3):
        scene.of(3)[-1].tells("STOPPING=1")
        scene.of(3)[-1].ends()
        scene.reactor.advance(0)
        assert len(scene.of(3)) == lives
        scene.of(3)[-1].tells("READY=1")


def test_who_hangs_is_ended_and_none_if_it_was_the_supervisor(scene: Scene) -> None:
    scene.all_ready()
    for second in range(round(WATCHDOG) + 5):
        for one in (1, 3):
            scene.of(one)[-1].tells("WATCHDOG=1")
        assert not scene.of(2)[-1].signals or second > WATCHDOG
        scene.reactor.advance(1.0)
    assert scene.of(2)[-1].signals == [signal.SIGABRT, signal.SIGKILL]
    assert not scene.of(1)[-1].signals
    scene.reactor.advance(10 * WATCHDOG)  # in one step
    assert not scene.of(1)[-1].signals
    scene.reactor.pump([1.0] * (round(WATCHDOG) + 1))
    assert scene.of(1)[-1].signals[:1] == [signal.SIGABRT]


def test_nobody_hangs_whose_words_the_supervisor_could_not_hear(scene: Scene) -> None:
    """They say something every half of the time that they have, and it was away for more than the other half."""
    scene.all_ready()
    scene.reactor.pump([1.0] * round(WATCHDOG / 2 - 1))
    scene.reactor.advance(WATCHDOG / 2 + 1.5)
    assert not any(scene.of(number)[-1].signals for number in (1, 2, 3))


@pytest.mark.parametrize("state", ["starting", "stopping"])
def test_who_hangs_while_it_starts_or_stops_is_ended_too(scene: Scene, state: str) -> None:
    """It may be silent for longer then."""
    scene.all_ready()
    scene.of(2)[-1].tells("STOPPING=1")
    if state == "starting":
        scene.of(2)[-1].ends()
        scene.reactor.advance(0)
    hanging = scene.of(2)[-1]
    for second in range(round(SILENT) + 5):
        for one in (1, 3):
            scene.of(one)[-1].tells("WATCHDOG=1")
        assert not hanging.signals or second > SILENT
        scene.reactor.advance(1.0)
    assert hanging.signals == [signal.SIGABRT, signal.SIGKILL]
    assert not scene.of(1)[-1].signals


@pytest.mark.parametrize("first", [True, False])
def test_a_worker_that_cannot_be_begun_is_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, first: bool
) -> None:
    """At the first start it ends all."""
    if not first:
        scene.all_ready()
    spawn = scene.reactor.spawnProcess
    tries = [OSError(errno.EAGAIN, "Resource temporarily unavailable")] * 2

    def refusing(*args: Any, **how: Any) -> Process:
        if tries:
            raise tries.pop()
        return spawn(*args, **how)

    monkeypatch.setattr(scene.reactor, "spawnProcess", refusing)
    with capturedLogs() as events:
        (scene.of(1)[-1].tells("READY=1") if first else scene.of(2)[-1].ends(1))
        scene.wait(5)
    assert scene.failed is first
    if not first:
        assert len(scene.of(2)) == 2
        scene.of(2)[-1].tells("READY=1")
        told = [str(event["how"]) for event in events if "is started again" in event["log_format"]]
        assert told == ["with exit code 1", *["at its start (Resource temporarily unavailable)"] * 2]


def test_questions_and_answers_find_their_ways(scene: Scene) -> None:
    scene.all_ready()
    one, three = scene.of(1)[0], scene.of(3)[0]
    one.says(WorkerQuestion(3, 7, "metrics", ("a",)))
    assert three.told == [WorkerQuestion(1, 7, "metrics", ("a",))]
    three.says(WorkerAnswer(1, 7, b"numbers"))
    assert one.told == [WorkerAnswer(3, 7, b"numbers")]
    three.ends(by=9)
    one.says(WorkerQuestion(3, 8, "metrics", ()))
    assert one.told[-1] == WorkerAnswer(3, 8, None)
    one.says(WorkerQuestion(99, 9, "metrics", ()))
    assert one.told[-1] == WorkerAnswer(99, 9, None)


def test_who_talks_nonsense_is_killed(scene: Scene) -> None:
    scene.all_ready()
    scene.of(1)[0].protocol.childDataReceived(FROM_WORKER, b"\0\0\0\1\xff")
    assert scene.of(1)[0].signals == [signal.SIGKILL]


def test_a_reload_is_over_when_all_have_reloaded_or_are_gone(scene: Scene) -> None:
    scene.all_ready()
    done: list[object] = []
    scene.flags["drain.seconds"] = "7"
    scene.service._reload().addCallback(done.append)
    assert [scene.of(n)[0].told for n in (1, 2, 3)] == [[WorkerOrder("reload")]] * 3
    scene.of(1)[0].tells("RELOADING=1", "MONOTONIC_USEC=1")
    scene.of(1)[0].tells("READY=1")
    scene.of(2)[0].tells("READY=1")
    assert not done
    scene.of(3)[0].ends(by=9)
    assert done
    assert scene.service._config.drain.seconds == 7
    scene.flags["drain.seconds"] = "-7"
    with capturedLogs() as events:
        scene.service._reload()
    assert "the reload failed" in events[0]["log_format"]
    assert len(scene.of(1)[0].told) == 1


@pytest.mark.parametrize("well", [True, False])
def test_a_stop_waits_for_all_and_says_whether_one_failed(scene: Scene, well: bool) -> None:
    scene.all_ready()
    stopped: list[object] = []
    scene.of(3)[0].ends(by=9)
    scene.service.stopService().addCallback(lambda _: stopped.append(1))
    scene.reactor.advance(0)
    assert len(scene.of(3)) == 1, "nobody is started any more"
    assert scene.of(1)[0].told == scene.of(2)[0].told == [WorkerOrder("stop")]
    scene.of(1)[0].ends()
    assert not stopped
    if well:
        scene.of(2)[0].ends()
    else:
        scene.reactor.advance(100)
        assert scene.of(2)[0].signals == [signal.SIGKILL]
        scene.of(2)[0].ends(by=9)
    assert stopped
    assert scene.failed != well
    assert scene.reactor._exitSignal is None


# The pipes


@given(st.lists(st.integers(1, 40)))
def test_messages_are_whole_however_they_are_cut(cuts: list[int]) -> None:
    messages: list[PipeMessage] = [
        WorkerNotice(["READY=1", "STATUS=x"]),
        WorkerOrder("stop"),
        WorkerQuestion(2, 1, "kick", ("ann", "")),
        WorkerAnswer(1, 5, b"\0" * 99),
        WorkerAnswer(1, 6, None),
    ]
    data, unpacker, found = b"".join(map(pack, messages)), Unpacker(), list[PipeMessage]()
    for cut in cuts:
        found += unpacker.feed(data[:cut])
        data = data[cut:]
    assert found + list(unpacker.feed(data)) == messages


def test_a_message_has_a_bound() -> None:
    with pytest.raises(ValueError, match="bytes"):
        list(Unpacker().feed((LONGEST + 1).to_bytes(4, "big")))


# The sockets


def test_each_worker_has_its_sockets_and_the_kernel_spreads_newcomers() -> None:
    sockets = ListeningSockets(2)
    config, _ = load({**FLAGS, "workers": "2"}, {})
    sockets.bind(config, {})
    port = int(sockets.addresses[1].rpartition(":")[2])
    assert re.fullmatch(r"127\.0\.0\.1:\d+", sockets.addresses[1])
    assert sockets.descriptors(1).keys() == {"server.api", "server.ws"}
    assert not set(sockets.descriptors(1).values()) & set(sockets.descriptors(2).values())
    clients = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(200)]
    came = [_accepted(one) for one in sockets._sockets["server.ws"]]
    assert sum(came) == 200
    assert min(came) > 50  # half and half, give or take 7 (binomial)
    again, _ = load({**FLAGS, "workers": "2", "server.ws.port": str(port)}, {})
    with pytest.raises(ConfigError, match="in use"):  # though those who share it may
        ListeningSockets(2).bind(again, {})
    for one in clients:
        one.close()
    sockets.close()


def _accepted(listening: socket.socket) -> int:
    count = 0
    while True:
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.parametrize("endpoint", ["unix:/nowhere/api", "haproxy:unix:/nowhere/api", "ssl:7009", "nonsense:1"])
def test_what_workers_cannot_listen_on_is_named(endpoint: str) -> None:
    config, _ = load({**FLAGS, "workers": "2", "server.ws.endpoint": endpoint}, {})
    with pytest.raises(ConfigError, match=f"^--server.ws.endpoint={endpoint}: with workers, use a tcp:"):
        ListeningSockets(2).bind(config, {})


@ensureDeferred
async def test_a_worker_takes_its_socket_with_room_for_all_who_come_back_at_once() -> None:
    """Also behind HAProxy. Twisted alone would leave room for 50."""
    sockets = ListeningSockets(2)
    config, _ = load({**FLAGS, "workers": "2", "server.ws.endpoint": "haproxy:tcp:0:interface=127.0.0.1"}, {})
    sockets.bind(config, {})
    own, port = sockets.descriptors(2)["server.ws"], int(sockets.addresses[1].rpartition(":")[2])
    heard: list[Any] = []
    door = AddressFilter(Ear(heard), lambda: Rules(networks("10.0.0.0/8"), networks("127.0.0.1")), Clock())
    listening: Any = await Listening("server.ws", "haproxy:tcp:0", door, None, str, os.dup(own)).listen(reactor)
    assert waiting_room(listening.socket) == ADOPTED
    sockets.pause(1)
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        await deferToThread(client.sendall, b"PROXY TCP4 10.9.8.7 10.0.0.1 1 2\r\nhello")
        await until(lambda: heard, "the client")
        assert heard[0].getPeer().host == "10.9.8.7"
    await listening.stopListening()
    sockets.close()


class Ear(Factory):
    """Notes each client's transport when it says something."""

    def __init__(self, heard: list[Any]) -> None:
        self.heard = heard
        self.protocol = Listener


class Listener(Protocol):
    def dataReceived(self, data: bytes) -> None:
        factory: Any = self.factory
        factory.heard.append(self.transport)
