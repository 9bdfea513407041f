"""What is told and never stored: presence, typing, read marks; and to whom it is not. All on a Clock."""

from __future__ import annotations

import pytest

from mercury.core.delivery.hub import AWAY
from mercury.domain import commands, events
from tests.support.clockwork import Clockwork


@pytest.fixture(params=["", "json"], ids=["v2", "wamp"])
def node(request: pytest.FixtureRequest) -> Clockwork:
    """Ann and Bob are in the room "r", whose log begins with their joining."""
    node = Clockwork(wamp=request.param)
    node.join("r", "ann", "bob")
    return node


def test_signals_reach_the_others_and_not_their_author(node: Clockwork) -> None:
    """Typing, reading, coming and going."""
    ann, bob = node.device("ann"), node.device("bob")
    desk = node.device("ann", "desk")
    ann.do(commands.Typing(rid="r"))
    node.post("r", "one")
    ann.do(commands.Read(rid="r", seq=2))
    for device in (bob, desk):
        assert len(device.of("typing")) == 1
        assert [event["seq"] for event in device.of("read")] == [2]
    assert ann.of("typing") == ann.of("read") == []
    assert ann.of("presence") == [{"type": "presence", "rid": "r", "mid": "bob", "online": True}]
    ann.lose()
    assert bob.of("presence") == [], "the other device is still there"
    desk.lose()
    assert bob.of("presence") == [], "ann may be back at once"
    desk = node.device("ann", "desk")
    node.wait(2 * AWAY)
    assert bob.of("presence") == [], "and was never away"
    desk.lose()
    node.wait(AWAY)
    assert bob.of("presence") == [{"type": "presence", "rid": "r", "mid": "ann", "online": False}]


def test_in_large_rooms_only_the_own_devices_hear_signals() -> None:
    """--limits.signals-room."""
    node = Clockwork(signals_room=2)
    node.join("r", "ann", "bob")
    ann, desk, bob = node.device("ann"), node.device("ann", "desk"), node.device("bob")
    ann.do(commands.Typing(rid="r"))
    assert (len(desk.of("typing")), len(bob.of("typing"))) == (1, 0)
    node.post("r", "one")
    assert bob.texts() == ["one"]


def test_a_read_mark_that_does_not_move_is_not_told(node: Clockwork) -> None:
    """Neither backwards nor twice."""
    ann, bob = node.device("ann"), node.device("bob")
    node.post("r", "one", "two")
    for seq in (3, 3, 2):
        assert ann.do(commands.Read(rid="r", seq=seq))[0]["type"] == "ok"
    assert [event["seq"] for event in bob.of("read")] == [3]


def test_strangers_learn_nothing(node: Clockwork) -> None:
    """Of a room that is not theirs; not even whether it is there (G7)."""
    eve = node.device("eve")
    asked: list[commands.Command] = []
    for rid in ("r", "nowhere"):
        asked += [
            commands.Send(rid=rid, text="x", ref=rid),
            commands.History(rid=rid, ref=rid),
            commands.Read(rid=rid, seq=1, ref=rid),
            commands.Ack(rid=rid, seq=0, ref=rid),
            commands.Typing(rid=rid, ref=rid),
            commands.Presence(rid=rid, ref=rid),
            commands.Leave(rid=rid, ref=rid),
        ]
    told = [{**answer, "ref": 0} for command in asked for answer in eve.do(command)]
    assert told[:7] == told[7:]
    assert {answer["code"] for answer in told} == {"forbidden"}
    node.post("r", "one")
    node.chat.hub.signal("r", events.Typing("r", "ann"))
    assert [event["type"] for event in eve.heard if event["type"] not in ("hello", "error")] == []


def test_strangers_learn_nothing_by_an_id() -> None:
    """The first Mercury's history names a message: one in a room of others is told from none by nothing (G7)."""
    node = Clockwork()
    node.join("r", "ann")
    node.post("r", "one")
    eve = node.device("eve")
    for rid in ("r", "nowhere"):
        [answer] = eve.do(commands.HistoryById(rid=rid, msgid=2))
        assert answer["code"] == "forbidden"
    [no, not_yours] = [eve.do(commands.HistoryById(msgid=id))[0] for id in (999, 2)]
    assert no["code"] == not_yours["code"] == "not_found"
    assert no["reason"].replace("999", "2") == not_yours["reason"]
