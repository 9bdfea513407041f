"""Mercury under systemd: sockets are taken, connections wait for the next process, and what is told is true."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs

from mercury.domain import commands
from mercury.node import build
from mercury.node.endpoints import endpoint_of, warnings_of_sockets
from mercury.node.systemd import EXTEND_SECONDS, Systemd, sockets
from mercury.settings.limits import Limits
from mercury.settings.schema import Config, Gotalk, Ws
from mercury.settings.types import ConfigError
from tests.support.clockwork import Clockwork
from tests.support.node_service import service_of
from tests.support.recording_clients import until
from tests.support.systemd_unit import BACKLOG, Unit, waiting_room


class Ear:
    """What a Systemd on a Clock says."""

    def __init__(self, path: Path) -> None:
        self.clock: Any = Clock()
        self.well = True
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        self.environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}

    def systemd(self, **environ: str) -> Systemd:
        return Systemd(self.clock, lambda: self.well, {**self.environ, **environ})

    def heard(self) -> list[str]:
        """The notices since the last time."""
        notices = []
        while True:
            try:
                notices.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return notices

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    ear = Ear(tmp_path / "notify")
    yield ear
    ear.close()


def test_a_start_asks_for_time_while_it_lasts_and_then_says_ready(ear: Ear) -> None:
    systemd = ear.systemd(WATCHDOG_USEC="0")
    systemd.opening()
    more = f"EXTEND_TIMEOUT_USEC={round(EXTEND_SECONDS * 1_000_000)}"
    assert ear.heard() == ["STATUS=opening the store", more]
    ear.clock.pump([EXTEND_SECONDS / 4] * 2)
    assert ear.heard() == [more, more]
    systemd.ready("here")
    ear.clock.advance(EXTEND_SECONDS)
    assert ear.heard() == ["READY=1\nSTATUS=here"]
    assert not ear.clock.getDelayedCalls()


def test_it_is_alive_as_long_as_all_is_well(ear: Ear) -> None:
    """Twice in the time in which systemd has to hear it. When the store hangs that is logged once, and nothing said."""
    ear.systemd().ready("here")
    assert ear.heard() == ["READY=1\nSTATUS=here", "WATCHDOG=1"]
    ear.clock.advance(2.0)
    assert ear.heard() == ["WATCHDOG=1"]
    ear.well = False
    with capturedLogs() as events:
        ear.clock.pump([2.0, 2.0])
    assert ear.heard() == []
    assert [event["log_level"] for event in events] == [LogLevel.critical]
    ear.well = True
    ear.clock.advance(2.0)
    assert ear.heard() == ["WATCHDOG=1"]


def test_only_a_store_that_neither_does_nor_refuses_is_a_reason_to_be_started_anew() -> None:
    """Stores that are away say so, long before that."""
    node = Clockwork()
    node.join("r", "ann")
    mercury: Any = service_of(node.clock, node.chat, Config())
    ann = node.device("ann")
    node.store.down = True
    for _ in range(3):
        ann.give(commands.Send(rid="r", text="away"))
        node.wait(10.0)
        assert node.chat.journal.write_age() == 0
    node.store.down, node.store.shut = False, {"append"}
    ann.give(commands.Send(rid="r", text="hangs"))
    node.wait(60.0)
    assert node.chat.journal.write_age() > 59
    assert mercury.is_well()
    node.clock.advance(100_000.0)
    assert not mercury.is_well()
    node.store.open_gate()
    node.settle()
    assert mercury.is_well()


def test_another_process_is_watched(ear: Ear) -> None:
    ear.systemd(WATCHDOG_PID="1").ready("here")
    assert ear.heard() == ["READY=1\nSTATUS=here"]


def test_a_reload_is_framed_and_one_that_fails_is_over_all_the_same(ear: Ear) -> None:
    systemd = ear.systemd(WATCHDOG_USEC="0")
    systemd.reload(lambda: None)
    assert ear.heard() == []  # it was not ready
    systemd.ready("here")
    work: Deferred[None] = Deferred()
    systemd.reload(lambda: work)
    _, began = ear.heard()
    assert began.startswith("RELOADING=1\nMONOTONIC_USEC=")
    work.callback(None)
    assert ear.heard() == ["READY=1"]
    with capturedLogs() as events:
        systemd.reload(lambda: 1 / 0)
    assert ear.heard()[1:] == ["READY=1"]
    assert [event["log_level"] for event in events] == [LogLevel.critical]


def test_a_reload_that_is_overtaken_by_a_stop_does_not_say_ready(ear: Ear) -> None:
    systemd = ear.systemd(WATCHDOG_USEC="0")
    systemd.ready("here")
    work: Deferred[None] = Deferred()
    systemd.reload(lambda: work)
    ear.heard()
    systemd.stopping(2.5)
    work.callback(None)
    assert ear.heard() == ["STOPPING=1\nSTATUS=telling clients to reconnect", "EXTEND_TIMEOUT_USEC=2500000"]


def test_a_start_that_fails_says_why_in_one_line(ear: Ear) -> None:
    systemd = ear.systemd()
    systemd.opening()
    ear.heard()
    systemd.failed("the store\nis away")
    assert ear.heard() == ["STATUS=the store is away"]
    assert not ear.clock.getDelayedCalls()


def test_without_systemd_nothing_is_said_and_one_that_is_gone_is_no_error(ear: Ear, tmp_path: Path) -> None:
    alone = ear.systemd(NOTIFY_SOCKET="")
    assert not alone.listens
    for systemd in (alone, ear.systemd(NOTIFY_SOCKET=str(tmp_path / "gone"))):
        with capturedLogs() as events:
            systemd.opening()
            systemd.ready("here")
            systemd.reload(lambda: None)
            systemd.stopping(1.0)
        assert bool(events) == systemd.listens
        assert all(event["log_level"] == LogLevel.warn for event in events)
    assert ear.heard() == []


# Sockets


def test_a_listener_takes_the_socket_for_its_port_and_one_that_nobody_takes_is_warned_of() -> None:
    passed = {6010: "systemd:domain=INET6:index=0", 7009: "systemd:domain=INET:index=1"}
    server = Config().server
    taken = endpoint_of(server.ws, passed)
    assert taken == "systemd:domain=INET6:index=0"
    assert endpoint_of(server.api, passed).startswith("tcp:6009:")
    assert endpoint_of(Ws(endpoint="tcp:1"), passed) == "tcp:1"
    (line,) = warnings_of_sockets(passed, {taken})
    assert "systemd passes a socket for port 7009" in line
    assert warnings_of_sockets(passed, {taken, "haproxy:systemd:domain=INET:name=api"}) == []


def test_sockets_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    assert sockets({}) == {}
    with (tmp_path / "file").open("w") as file, pytest.raises(ConfigError, match=r"m\.socket passes something"):
        sockets({"LISTEN_FDNAMES": "m.socket"}, first=file.fileno())
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as tcp, socket.socket(socket.AF_UNIX) as unix:
        port = tcp.getsockname()[1]
        with passed_on(unix, tcp) as first:
            assert sockets({"LISTEN_FDNAMES": "a:b"}, first) == {port: "systemd:domain=INET6:index=1"}
        with passed_on(tcp, tcp) as first, pytest.raises(ConfigError, match=f"b passes two sockets for port {port}"):
            sockets({"LISTEN_FDNAMES": "a:b"}, first)


@contextmanager
def passed_on(*some: socket.socket, first: int = 200) -> Iterator[int]:
    """The same sockets once more, with numbers from `first` on, which is far above all that is open here."""
    for number, one in enumerate(some, first):
        os.dup2(one.fileno(), number)
    try:
        yield first
    finally:
        os.closerange(first, first + len(some))


def test_too_few_files_for_so_many_connections_are_warned_of() -> None:
    assert build.warnings_of_files(Config(), 131072) == []
    assert build.warnings_of_files(Config(limits=Limits(connections=0)), 10) == []
    (line,) = build.warnings_of_files(Config(), 65536)
    assert "only 65536 files may be open" in line
    assert "allow 102000 (LimitNOFILE=" in line
    (line,) = build.warnings_of_files(Config(gotalk=Gotalk(enabled=True)), 102000)
    assert "allow 112000" in line


# The real thing


@pytest.mark.slow
@ensureDeferred
async def test_who_comes_while_mercury_is_away_waits_and_is_answered(tmp_path: Path) -> None:
    """By IPv6, and a systemd at an address that is no file; by IPv4 and a file: test_faults.py."""
    host = "::1"
    unit = Unit(tmp_path, "--server.api.address=::1", host=host, abstract=True, watchdog=0.4)
    try:
        await unit.start()
        assert (await unit.call("GET", "/readyz"))[0] == 200
        assert [waiting_room(one) for one in unit.sockets] == [BACKLOG] * 2, "as systemd made them"
        await unit.hears("WATCHDOG=1", unit.listen().count("WATCHDOG=1") + 2)
        await unit.reload()
        await unit.stop()
        status = [line for line in unit.listen() if line not in ("WATCHDOG=1", "READY=1")]
        serving = f"STATUS=REST at [::1]:{unit.where.api}, WebSocket at [::1]:{unit.where.ws}"
        assert status[0] == "STATUS=opening the store"
        assert serving in status
        assert status[-3:-1] == ["STOPPING=1", "STATUS=telling clients to reconnect"]
        assert status[-1].startswith("EXTEND_TIMEOUT_USEC=")
        assert unit.processes[-1].ended.result == 0
        with socket.create_connection((host, unit.where.api), timeout=20) as early:  # nobody is there
            early.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            await unit.start()
            answer = await deferToThread(early.makefile("rb").read)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Ctrl-C" not in unit.written()  # that is for people
    finally:
        await unit.close()


@pytest.mark.slow
@ensureDeferred
async def test_a_mercury_that_hangs_is_not_said_to_be_alive_and_dies_saying_where(tmp_path: Path) -> None:
    """systemd sends SIGABRT to who was not heard of in time."""
    unit = Unit(tmp_path, watchdog=0.2)
    try:
        await unit.start()
        process = unit.processes[-1]
        process.signal("STOP")
        await until(lambda: " T " in Path(f"/proc/{unit.pid}/stat").read_text(), "its standing still")
        before = unit.listen().count("WATCHDOG=1")
        await deferLater(reactor, 0.5)
        assert unit.listen().count("WATCHDOG=1") == before
        process.signal("CONT")
        await unit.hears("WATCHDOG=1", before + 1)
        process.signal("ABRT")
        await until(lambda: process.ended.called, "its end")
        assert process.ended.result == -6
        assert b"Fatal Python error: Aborted" in process.err
        assert b"run" in process.err
    finally:
        await unit.close()
