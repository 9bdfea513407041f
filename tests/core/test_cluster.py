"""Several nodes on one store behave as one: what is said on one is heard on all, and what gets lost is made up for.

The bus here can be made to lose or delay (tests/support/lossy_bus.py); tests/bus/test_redis.py has the real one.
"""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from mercury.core.delivery.cluster import LOOK, Cluster
from mercury.core.delivery.hub import AWAY, HOLE
from mercury.domain import commands
from mercury.interfaces import IBus, IBusListener
from tests.support.clockwork import Clockwork
from tests.support.lossy_bus import LossyBus, Network


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def nodes(network: Network) -> tuple[Clockwork, Clockwork]:
    """Two nodes on one store and one clock, with ann and bob in the room "r"."""
    first = Clockwork(bus=LossyBus(network))
    second = Clockwork(bus=LossyBus(network), beside=first)
    first.join("r", "ann", "bob")
    return first, second


Two = tuple[Clockwork, Clockwork]


def test_the_interfaces_are_kept(network: Network, nodes: Two) -> None:
    assert verifyObject(IBus, network.buses[0])
    assert isinstance(nodes[0].chat.cluster, Cluster)
    assert verifyObject(IBusListener, nodes[0].chat.cluster)


def test_a_message_crosses_without_a_look_at_the_store(nodes: Two) -> None:
    here, there = nodes
    ann, bob = here.device("ann"), there.device("bob")
    there.store.calls.clear()
    here.post("r", "one", "two")
    assert ann.texts() == bob.texts() == ["one", "two"]
    assert set(there.store.calls) <= {"append"}, "both nodes share this store"


def test_a_room_is_heard_of_only_while_somebody_listens(network: Network, nodes: Two) -> None:
    assert network.buses[1].rooms == set()
    bob = nodes[1].device("bob")
    assert network.buses[1].rooms == {"r"}
    bob.lose()
    assert network.buses[1].rooms == set()


def test_entries_that_cross_on_the_bus_are_put_in_order(network: Network, nodes: Two) -> None:
    here, there = nodes
    bob = there.device("bob")
    network.delayed = []
    here.post("r", "one", "two")
    there.store.calls.clear()
    for tell in reversed(network.delayed):
        tell()
    there.settle()
    assert bob.texts() == ["one", "two"]
    assert "read" not in there.store.calls


def test_a_lost_entry_is_read_from_the_log(network: Network, nodes: Two) -> None:
    here, there = nodes
    bob = there.device("bob")
    network.lossy = True
    here.post("r", "one")
    network.lossy = False
    here.post("r", "two")
    assert bob.texts() == []
    there.wait(2 * HOLE)
    assert bob.texts() == ["one", "two"]


def test_while_the_bus_is_down_heads_are_looked_at(network: Network, nodes: Two) -> None:
    here, there = nodes
    bob = there.device("bob")
    network.lossy, network.buses[1].is_up = True, False
    here.post("r", "one")
    there.wait(2 * LOOK)
    assert bob.texts() == ["one"]


def test_who_is_put_into_a_room_elsewhere_hears_it_here(nodes: Two) -> None:
    here, there = nodes
    bob = there.device("bob")
    here.join("new", "bob", "ann")
    here.post("new", "welcome")
    there.settle()
    assert bob.texts() == ["welcome"]
    here.now(here.chat.rooms.leave("new", ["bob"]))
    here.post("new", "without bob")
    assert bob.texts() == ["welcome"]


def test_joins_and_leaves_that_got_lost_are_made_up_for(network: Network, nodes: Two) -> None:
    here, there = nodes
    bob = there.device("bob")
    network.lossy = True
    here.join("new", "bob")
    here.post("new", "welcome")
    here.now(here.chat.rooms.leave("r", ["bob"]))
    here.post("r", "without bob")
    network.lossy = False
    there.chat.cluster.invalidate(None)
    there.settle()
    assert bob.texts() == ["welcome"]
    assert [room.rid for room in bob.session.rooms] == ["new"]


def test_who_comes_into_a_room_that_is_live_here_already_hears_it_at_once(network: Network, nodes: Two) -> None:
    """The join was lost on the bus; one member's places are read again before the other's."""
    here, there = nodes
    ann, bob = there.device("ann"), there.device("bob")
    network.lossy = True
    here.join("new", "ann", "bob")
    network.lossy = False
    for device in (ann, bob):
        there.chat.hub.look_again((), (device.member,))
        there.settle()
        assert [event["rid"] for event in device.of("joined")] == ["r", "new"]
        assert device.of("caught_up")[-1] == {"type": "caught_up", "rid": "new", "seq": 1}


@pytest.mark.parametrize("late", ["a doubt", "a join"])
def test_what_is_told_late_while_somebody_logs_in_does_not_reset_them(nodes: Two, late: str) -> None:
    """What the places hold already is no news: they go on where they were."""
    node, _ = nodes
    node.device()
    node.post("r", "one")
    again = node.device(name="again", login=False)
    secret = node.token("ann")
    node.store.shut.add("memberships")
    if late == "a doubt":
        node.chat.hub.look_again(None)
    again.connect(secret, commands.Resume(epoch=node.store.epoch, rooms={"r": 1}))
    if late == "a join":
        node.chat.hub.admit("r", 1, ("ann", "bob"))
    node.store.open_gate()
    node.settle()
    node.post("r", "two")
    assert again.of("reset") == []
    assert again.texts() == ["one", "two"]
    assert [state["rid"] for state in again.of("hello")[0]["rooms"]] == ["r"]


def test_presence_is_that_of_all_nodes(network: Network, nodes: Two) -> None:
    here, there = nodes
    ann = here.device("ann")
    bob, desk = there.device("bob"), here.device("bob", "desk")
    assert ann.of("presence") == [{"type": "presence", "rid": "r", "mid": "bob", "online": True}]
    for device in (ann, bob):
        device.do(commands.Presence(rid="r", ref=1))
        assert device.of("ok")[-1]["online"] == ["ann", "bob"]
    bob.lose()
    there.wait(2 * AWAY)
    assert len(ann.of("presence")) == 1, "bob is still here"
    desk.lose()
    there.wait(2 * AWAY)
    assert ann.of("presence")[-1]["online"] is False
    there.device("bob")
    there.now(network.buses[1].close())
    assert [event["online"] for event in ann.of("presence")] == [True, False, True, False], "gone with its node"


def test_typing_reading_kicks_and_revocations_cross(nodes: Two) -> None:
    here, there = nodes
    ann, bob = here.device("ann"), there.device("bob")
    here.post("r", "one")
    ann.do(commands.Typing(rid="r"))
    ann.do(commands.Read(rid="r", seq=2))
    assert len(bob.of("typing")) == len(bob.of("read")) == 1
    here.chat.cluster.kick("bob")
    assert bob.code == 4403
    again = there.device("bob")
    here.now(here.chat.tokens.revoke_all("bob"))
    assert again.code == 4401
