"""What WAMP has beside the others: clients that choose what they hear, and lose nothing of what they do not. All on a
Clock; what WAMP has in common with v2 is in test_delivery.py, test_session.py and test_signals.py.
"""

from __future__ import annotations

import pytest

from mercury.core.delivery.catch_up import PAGE
from mercury.core.delivery.hub import AWAY
from mercury.core.delivery.marks import FLUSH
from mercury.domain import commands
from tests.support.clockwork import Clockwork, WampDevice
from tests.support.wamp_words import INBOX

R, S = "mercury.room.r", "mercury.room.s"


@pytest.fixture(params=["json", "msgpack", "cbor"])
def node(request: pytest.FixtureRequest) -> Clockwork:
    """Ann and Bob are in the rooms "r" and "s", whose logs begin with their joining."""
    node = Clockwork(wamp=request.param)
    node.join("r", "ann", "bob")
    node.join("s", "ann", "bob")
    return node


def listener(node: Clockwork, *topics: str, resume: commands.Resume | None = None, name: str = "") -> WampDevice:
    """Ann's device, with these subscriptions."""
    ann = node.device("ann", name, login=False)
    assert isinstance(ann, WampDevice)
    ann.topics = topics
    ann.connect(node.token("ann"), resume)
    return ann


def prove(device: WampDevice) -> None:
    """Answer all pings, and let the cursors be stored."""
    while device.pings:
        device.pong()
    device.node.wait(2 * FLUSH)


def seqs(device: WampDevice) -> list[int]:
    return [e["seq"] for e in device.heard if e["type"] in ("message", "joined", "left") and e["rid"] == "r"]


# Topics of rooms


def test_only_the_room_that_is_subscribed_to_is_heard(node: Clockwork) -> None:
    """And only its cursor moves."""
    ann = listener(node, R)
    node.post("r", "one")
    node.post("s", "unheard")
    assert ann.texts() == ["one"]
    assert {event["rid"] for event in ann.heard if "rid" in event} == {"r"}
    prove(ann)
    assert node.delivered("ann", "r") == 2
    assert node.delivered("ann", "s") is None


def test_nothing_is_heard_without_a_subscription_and_nothing_is_lost(node: Clockwork) -> None:
    """Not before the first one; commands are answered all the same."""
    ann = listener(node)
    node.post("r", "one")
    assert [event["type"] for event in ann.heard] == ["hello"]
    assert ann.ask(type="history", rid="r")["messages"][0]["text"] == "one"
    assert ann.pings == [], "there is nothing to prove"
    ann.ask(type="subscribe", topic=R)
    node.post("r", "two")
    assert ann.texts() == ["one", "two"]


def test_a_room_that_was_not_heard_keeps_its_cursor_over_connections(node: Clockwork) -> None:
    """What was said meanwhile comes when the device subscribes, however late."""
    ann = listener(node, R, S)
    node.post("s", "heard")
    prove(ann)
    ann.lose()
    ann = listener(node, R)
    node.post("s", "one", "two")
    prove(ann)
    ann.lose()
    ann = listener(node, R)
    node.post("s", "three")
    ann.ask(type="subscribe", topic=S)
    assert ann.texts() == ["one", "two", "three"]


def test_who_subscribes_again_goes_on_where_they_left(node: Clockwork) -> None:
    """Without loss and without repeat, proved or not."""
    ann = listener(node, R)
    node.post("r", "one")
    for text in ("two", "three"):
        assert ann.ask(type="unsubscribe", topic=R)["type"] == "ok"
        node.post("r", text)
        assert text not in ann.texts()
        ann.ask(type="subscribe", topic=R)
    node.post("r", "four")
    assert ann.texts() == ["one", "two", "three", "four"]
    assert seqs(ann) == [1, 2, 3, 4, 5]
    prove(ann)
    assert node.delivered("ann", "r") == 5


def test_a_cursor_does_not_pass_what_came_while_unsubscribed(node: Clockwork) -> None:
    """A ping that is answered later proves only what was written before it."""
    ann = listener(node, R)
    node.post("r", "one")
    ann.ask(type="unsubscribe", topic=R)
    node.post("r", "two")
    prove(ann)
    assert node.delivered("ann", "r") == 2
    assert ann.do(commands.Ack(rid="r", seq=3, ref=1))[0]["code"] == "bad_request"
    ann.lose()
    assert listener(node, INBOX).texts() == ["two"]


def test_subscribing_twice_changes_nothing(node: Clockwork) -> None:
    """One topic is one subscription."""
    ann = listener(node, R, R)
    node.post("r", "one")
    ann.ask(type="subscribe", topic=R, after=0)
    assert ann.texts() == ["one"]
    assert len(ann.words.topics) == 1


def test_a_place_of_ones_own_begins_there(node: Clockwork) -> None:
    """The option `after`, before and behind the device's cursor; the cursor never goes back."""
    ann = listener(node, R)
    node.post("r", "one", "two", "three")
    prove(ann)
    ann.lose()
    for after, texts in ((0, ["one", "two", "three"]), (2, ["two", "three"]), (4, [])):
        ann = listener(node)
        ann.ask(type="subscribe", topic=R, after=after)
        assert ann.texts() == texts
        assert [event["seq"] for event in ann.of("caught_up")] == [4]
        prove(ann)
        assert node.delivered("ann", "r") == 4
        ann.lose()


def test_a_place_that_is_not_there_yet_is_reset(node: Clockwork) -> None:
    """Who has more than the log was told something else: all begins with their joining."""
    ann = listener(node)
    node.post("r", "one")
    ann.ask(type="subscribe", topic=R, after=99)
    assert [event["floor"] for event in ann.of("reset")] == [0]
    assert ann.texts() == ["one"]
    kinds = [event["type"] for event in ann.heard]
    assert kinds.index("reset") < kinds.index("joined")


def test_who_resumes_in_another_epoch_is_reset_when_they_listen(node: Clockwork) -> None:
    """And not before, since nobody would hear it; once."""
    node.post("r", "one")
    ann = listener(node, S, resume=commands.Resume(epoch="another", rooms={"r": 7}))
    assert ann.of("reset") == []
    for _ in range(2):
        ann.ask(type="subscribe", topic=R)
        ann.ask(type="unsubscribe", topic=R)
    assert [(event["rid"], event["floor"]) for event in ann.of("reset")] == [("r", 0)]
    assert ann.texts() == ["one"]


# The inbox


@pytest.mark.parametrize("topic", [{"topic": INBOX}, {"topic": "mercury.room.", "match": "prefix"}])
def test_the_inbox_has_all_rooms_and_those_joined_later(node: Clockwork, topic: dict[str, str]) -> None:
    """From the joining on; the prefix of all rooms' topics is the same."""
    ann = listener(node)
    assert ann.ask(type="subscribe", **topic)["type"] == "ok"
    node.join("new", "bob")
    node.post("new", "not yet")
    node.join("new", "ann")
    node.post("new", "welcome")
    assert [(event["rid"], event["seq"]) for event in ann.of("joined")] == [("r", 1), ("s", 1), ("new", 3)]
    assert ann.texts() == ["welcome"]


def test_a_new_room_is_not_heard_by_another_rooms_topic(node: Clockwork) -> None:
    """But can be subscribed to at once, and nothing is missed."""
    ann = listener(node, R)
    node.join("new", "ann")
    node.post("new", "welcome")
    assert "new" not in {event.get("rid") for event in ann.heard}
    ann.ask(type="subscribe", topic="mercury.room.new")
    assert ann.texts() == ["welcome"]


def test_a_room_heard_by_its_topic_and_by_the_inbox_comes_by_both(node: Clockwork) -> None:
    """Each in order; whichever is given up, the other goes on without loss or repeat."""
    ann = listener(node, R)
    node.post("r", "one")
    ann.ask(type="subscribe", topic=INBOX)
    node.post("r", "two")
    assert ann.texts() == ["one", "two", "two"]
    ann.ask(type="unsubscribe", topic=R)
    node.post("r", "three")
    ann.ask(type="subscribe", topic=R)
    ann.ask(type="unsubscribe", topic=INBOX)
    node.post("r", "four")
    node.post("s", "unheard")
    assert ann.texts() == ["one", "two", "two", "three", "four"]
    ann.ask(type="subscribe", topic=INBOX)
    assert ann.texts()[5:] == ["unheard"]
    prove(ann)
    assert (node.delivered("ann", "r"), node.delivered("ann", "s")) == (5, 2)


# Slow readers


def test_a_slow_reader_of_a_topic_reads_the_log_when_it_has_drained(node: Clockwork) -> None:
    """All of the room, once and in order, and nothing of the room that it does not hear."""
    ann = listener(node, R)
    ann.full = True
    node.post("r", "fills it")
    texts = [str(number) for number in range(2 * PAGE)]
    node.post("r", *texts)
    node.post("s", *texts)
    ann.drain()
    assert ann.texts() == ["fills it", *texts]
    assert seqs(ann) == list(range(1, 2 * PAGE + 3))
    ann.ask(type="subscribe", topic=S)
    assert ann.texts()[len(texts) + 1 :] == texts


def test_who_subscribes_while_slow_reads_later(node: Clockwork) -> None:
    """The request waits, like any other; what fills the socket is not sent again."""
    ann = listener(node, R)
    ann.full = True
    node.post("r", "fills it")
    ann.tell(type="unsubscribe", topic=R)
    ann.tell(type="subscribe", topic=S)
    ann.tell(type="subscribe", topic=R)
    node.post("r", "later")
    node.post("s", "elsewhere")
    assert ann.texts() == ["fills it"]
    ann.drain()
    assert sorted(ann.texts()[1:]) == ["elsewhere", "later"]


# Membership


def test_who_is_removed_hears_it_and_loses_the_subscription(node: Clockwork) -> None:
    """The room's topics are gone, with the notice that the specification has. Who is back may subscribe anew."""
    ann = listener(node, R, f"{R}.typing", S)
    node.post("r", "one")
    node.now(node.chat.rooms.leave("r", ["ann"]))
    node.post("r", "secret")
    assert [event["members"] for event in ann.of("left")] == [["ann"]]
    revoked = ann.of("revoked")
    assert {event["topic"] for event in revoked} == {R, f"{R}.typing"}
    assert {event["reason"] for event in revoked} == {"mercury.left"}
    assert ann.ask(type="subscribe", topic=R)["code"] == "wamp.error.not_authorized"
    node.join("r", "ann")
    node.post("r", "not asked for")
    assert ann.texts() == ["one"]
    ann.ask(type="subscribe", topic=R)
    node.post("r", "two")
    node.post("s", "still")
    assert ann.texts() == ["one", "not asked for", "two", "still"]


def test_the_inbox_goes_on_through_removal_and_return(node: Clockwork) -> None:
    """What was said in between is not told."""
    ann = listener(node, INBOX)
    node.now(node.chat.rooms.leave("r", ["ann"]))
    node.post("r", "secret")
    node.join("r", "ann")
    node.post("r", "hello again")
    assert ann.texts() == ["hello again"]
    assert seqs(ann) == [1, 2, 4, 5]
    assert ann.of("revoked") == []


def test_a_removal_from_a_room_that_is_not_heard_is_not_told(node: Clockwork) -> None:
    """Nor is what was before it when they are back and listen."""
    ann = listener(node, S)
    node.post("r", "before")
    node.now(node.chat.rooms.leave("r", ["ann"]))
    assert ann.ask(type="subscribe", topic=R)["code"] == "wamp.error.not_authorized"
    node.post("r", "secret")
    node.join("r", "ann")
    ann.ask(type="subscribe", topic=R)
    assert seqs(ann) == [5]


def test_autobahn_for_python_is_not_told_of_lost_subscriptions(
    node: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It announces that it understands the notice, and hangs up when one comes. It is told of the leaving."""
    monkeypatch.setattr(WampDevice, "agent", "AutobahnPython/26.10.2")
    ann = listener(node, R)
    node.now(node.chat.rooms.leave("r", ["ann"]))
    assert len(ann.of("left")) == 1
    assert ann.of("revoked") == []


# Signals


def test_signals_come_to_who_subscribed_to_them(node: Clockwork) -> None:
    """Each kind, of each room, by itself; the log does not come with them."""
    devices = {kind: listener(node, f"{R}.{kind}", name=kind) for kind in ("typing", "presence", "read")}
    everything = listener(node, INBOX, R, name="all")
    bob = node.device("bob")
    node.post("r", "one")
    node.post("s", "one")
    for rid in "rs":
        bob.do(commands.Typing(rid=rid))
        bob.do(commands.Read(rid=rid, seq=2))
    bob.lose()
    node.wait(2 * AWAY)
    told = {name: [(e["type"], e["rid"]) for e in device.heard[1:]] for name, device in devices.items()}
    assert told == {"typing": [("typing", "r")], "presence": [("presence", "r")] * 2, "read": [("read", "r")]}
    assert not [event for event in everything.heard if event["type"] in told]


# Publishing


def test_a_publication_is_a_message(node: Clockwork) -> None:
    """Acknowledged, it is answered with its id; its author hears it like everybody, in its place."""
    ann, bob = listener(node, R), node.device("bob")
    first = ann.ask(type="publish", topic=R, text="one", cid="c", acknowledge=True)
    again = ann.ask(type="publish", topic=R, text="one", cid="c", acknowledge=True)
    ann.tell(type="publish", topic=R, text="two")
    node.settle()
    assert [event["id"] for event in ann.of("message")] == [event["id"] for event in bob.of("message")]
    assert first["id"] == again["id"] == ann.of("message")[0]["id"]
    assert ann.texts() == bob.texts() == ["one", "two"]


def test_a_publication_that_is_refused_is_answered_if_that_is_asked_for(node: Clockwork) -> None:
    """Into a room of others, and to topics that nobody can publish to."""
    node.join("theirs", "bob")
    ann = listener(node, R)
    refused = {
        "mercury.room.theirs": "forbidden", "mercury.room.nowhere": "forbidden",
        f"{R}.typing": "wamp.error.not_authorized", INBOX: "wamp.error.not_authorized",
    }  # fmt: skip
    for topic, code in refused.items():
        assert ann.ask(type="publish", topic=topic, text="x", acknowledge=True)["code"] == code
        before = len(ann.heard)
        ann.tell(type="publish", topic=topic, text="x")
        node.settle()
        assert ann.heard[before:] == []
    assert node.now(node.chat.rooms.history("theirs"))[0] == []
