"""A stop: clients are told to come back, and their connections are closed some at a time, not all at once."""

from __future__ import annotations

from typing import Any

import pytest
from promises.clockwork import Clockwork, Device
from twisted.internet.defer import Deferred

from mercury import closing, commands, service
from mercury.config import Config, Drain
from mercury.service import MercuryService


def stopping(node: Clockwork, seconds: float) -> Deferred[None]:
    """Tell a node to stop, which may take so long to drain."""
    reactor: Any = node.clock
    config = Config(drain=Drain(seconds=seconds))
    stopped = MercuryService(reactor, node.chat, config, [], None, lambda: config).stopService()
    node.settle()
    return stopped


def closed(devices: list[Device]) -> int:
    codes = [device.code for device in devices if device.code is not None]
    assert set(codes) <= {closing.RESTART.code}
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
