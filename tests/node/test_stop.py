"""A stop: clients are told to come back, and their connections are closed some at a time, not all at once."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.logger import LogLevel, capturedLogs

from mercury.domain import close_codes, commands
from mercury.net.address_filter import AddressFilter
from mercury.node import build, service
from mercury.node.listeners import Listening
from mercury.settings.schema import Config, Drain
from tests.support.clockwork import Clockwork, Device
from tests.support.in_process_node import Node, parse
from tests.support.node_service import service_of


def stopping(node: Clockwork, seconds: float, connected: int = 1) -> Deferred[None]:
    """Tell a node to stop, which may take so long to drain. So many connections stay open to the end."""
    reactor: Any = node.clock
    config = Config(drain=Drain(seconds=seconds))
    factory: Any = SimpleNamespace(total=connected)
    listenings = [Listening("server.ws", "", factory, None, lambda: "")]
    mercury = service_of(reactor, node.chat, config, listenings=listenings)
    stopped = mercury.stopService()
    node.settle()
    return stopped


def closed(devices: list[Device]) -> int:
    codes = [device.code for device in devices if device.code is not None]
    assert set(codes) <= {close_codes.RESTART.code}
    return len(codes)


@pytest.mark.parametrize(("seconds", "lasts"), [(60.0, 4.0), (2.0, 2.0), (0.0, 0.0)])
def test_connections_are_closed_a_few_at_a_time(seconds: float, lasts: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many a second, or more of them if that would take longer than is allowed."""
    monkeypatch.setattr(service, "RETURN_RATE", 10.0)
    node = Clockwork()
    node.join("r", *(f"m{number}" for number in range(40)))
    devices = [node.device(f"m{number}") for number in range(40)]
    stopped = stopping(node, seconds)
    assert all(device.of("bye") for device in devices)
    seen = [closed(devices)]
    for _ in range(int(lasts * 10)):
        assert not stopped.called
        node.clock.advance(0.1)
        node.settle()
        seen.append(closed(devices))
    assert seen[-1] == 40
    most = max(after - before for before, after in zip([0, *seen], seen, strict=False))
    assert most == (40 if not lasts else round(40 / lasts / 10))
    node.wait(service.GOODBYE_SECONDS)
    assert stopped.called


def test_a_stop_before_the_store_is_open_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else `systemctl stop` right after `start` would leave a failed unit behind."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    node = Clockwork()
    node.store.shut = {"open"}
    reactor: Any = node.clock
    mercury = service_of(reactor, node.chat, Config())
    with capturedLogs() as events:
        mercury.startService()
        stopped = mercury.stopService()
        node.settle()
        node.store.open_gate()
        node.settle()
    assert stopped.called
    assert mercury._readiness._state == "stopping"
    assert [event for event in events if event["log_level"] > LogLevel.info] == []


def test_what_was_begun_is_answered_and_nothing_is_begun_any_more() -> None:
    node = Clockwork()
    node.join("r", "ann")
    ann = node.device("ann")
    node.store.shut = {"append"}
    ann.session.receive(commands.Send(rid="r", text="begun", ref=1))
    node.settle()
    stopped = stopping(node, 5.0)
    ann.session.receive(commands.Send(rid="r", text="too late", ref=2))
    assert (closed([ann]), ann.of("ok")) == (0, [])
    node.store.open_gate()
    node.settle()
    assert [event["ref"] for event in ann.of("ok")] == [1]
    assert closed([ann]) == 1
    node.wait(service.GOODBYE_SECONDS)
    assert stopped.called


def test_when_nobody_is_connected_any_more_nobody_is_waited_for() -> None:
    node = Clockwork()
    assert stopping(node, 5.0, connected=0).called
    assert not stopping(Clockwork(), 5.0, connected=1).called


def test_who_has_not_logged_in_yet_is_told_to_come_back() -> None:
    node = Clockwork()
    node.join("r", "ann")
    ann = node.device("ann", login=False)
    ann.session.await_connect()
    stopping(node, 5.0)
    assert closed([ann]) == 1


def knock(factory: AddressFilter, secret: str) -> Any:
    """Ann's opening handshake (RFC 6455, 4.1); the transport has the answer."""
    transport = StringTransportWithDisconnection()
    transport.protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    transport.protocol.makeConnection(transport)
    lines = [f"GET /ws/connect?member=ann&token={secret} HTTP/1.1", "Host: x", "Upgrade: websocket"]
    lines += ["Connection: Upgrade", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13"]
    transport.protocol.dataReceived("\r\n".join([*lines, "", ""]).encode())
    return transport


def test_who_knocks_meanwhile_is_refused_with_503_and_told_when_to_come_back() -> None:
    """Also if the token was being looked up when the stop began. Another process will be there by then."""
    node = Clockwork()
    secret = node.token("ann")
    factory = build.make_websocket(node.clock, node.chat, Config())
    node.store.shut = {"token"}
    early = knock(factory, secret)
    node.settle()
    assert early.value() == b""
    stopped = stopping(node, 5.0)
    node.store.open_gate()
    late = knock(factory, secret)
    node.settle()
    for transport in (early, late):
        assert transport.value().startswith(b"HTTP/1.1 503 "), transport.value()
        assert b"\r\nRetry-After: 1\r\n" in transport.value()
        assert not transport.connected
    assert not stopped.called
    assert not node.chat.heartbeat.everybody()


@ensureDeferred
async def test_a_rest_connection_ends_with_the_answer_that_follows_the_stop() -> None:
    """So that no request is sent on a connection that is about to be cut."""
    async with Node() as node:
        wiretap = await node.connect()
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        wiretap.write(request)
        assert "connection" not in (await wiretap.whole()).headers
        wiretap.data = b""
        node.chat.journal.close()
        wiretap.write(request)
        answer = parse(await wiretap.all())
        assert (answer.status, answer.headers["connection"]) == (200, "close")
