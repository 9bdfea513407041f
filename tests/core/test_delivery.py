"""From the log to the devices: proof of delivery, slow sockets, second looks at the store. All on a Clock."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from mercury.core.delivery.catch_up import PAGE
from mercury.core.delivery.hub import HOLE
from mercury.core.delivery.marks import FLUSH
from mercury.core.delivery.rechecks import RETRY
from mercury.domain import close_codes, commands
from mercury.domain.model import Draft, Entry, Membership, Outcome
from mercury.errors import MercuryError
from tests.support.clockwork import Clockwork, Device


@pytest.fixture(params=["", "json", "msgpack", "cbor"], ids=["v2", "wamp-json", "wamp-msgpack", "wamp-cbor"])
def node(request: pytest.FixtureRequest) -> Clockwork:
    """Ann and Bob are in the room "r", whose log begins with their joining."""
    node = Clockwork(wamp=request.param)
    node.join("r", "ann", "bob")
    return node


def seqs(device: Device) -> list[int]:
    return [event["seq"] for event in device.heard if event["type"] in ("message", "joined", "left")]


def stored(node: Clockwork, *drafts: Draft) -> list[Entry]:
    """What the store made of these, behind the node's back."""
    outcomes = node.now(node.store.store.append(drafts, 1))
    return [outcome.entry for outcome in outcomes if isinstance(outcome, Outcome) and outcome.entry]


# Proof of delivery


def test_a_cursor_moves_when_the_pong_comes_and_not_before(node: Clockwork) -> None:
    """The pong proves what was written before its ping, and nothing else."""
    ann = node.device()
    node.post("r", "one")
    assert ann.pings == [b"1"]
    node.post("r", "two")
    node.wait(FLUSH)
    assert ann.pings == [b"1"], "one is in flight at most"
    assert node.delivered("ann", "r") is None
    ann.pong()
    assert ann.pings == [b"2"], "the next one proves what was written meanwhile"
    node.wait(FLUSH)
    assert node.delivered("ann", "r") == 1
    ann.pong()
    assert ann.pings == []
    node.wait(FLUSH)
    assert node.delivered("ann", "r") == 3


def test_a_pong_to_a_later_ping_proves_too(node: Clockwork) -> None:
    """A peer may answer only the latest ping (RFC 6455, 5.5.3)."""
    ann = node.device()
    node.post("r", "one")
    ann.session.beat()
    assert ann.pings == [b"1", b"2"]
    ann.session.pong(b"2")
    node.wait(FLUSH)
    assert node.delivered("ann", "r") == 1, "what was written before ping 1"


def test_a_foreign_pong_proves_nothing(node: Clockwork) -> None:
    """An unsolicited pong, or one to a ping that was not sent, or before this one."""
    ann = node.device()
    node.post("r", "one")
    for payload in (b"", b"0", b"2", b"-1", b"\xb9", "٣".encode(), b"9" * 99, b"hello"):
        ann.session.pong(payload)
    node.wait(FLUSH)
    assert node.delivered("ann", "r") is None


def test_who_comes_back_before_the_cursor_is_stored_gets_nothing_twice(node: Clockwork) -> None:
    """What is proved counts at once, on this node."""
    ann = node.device()
    node.post("r", "one")
    ann.pong()
    ann.pong()
    ann.lose()
    again = node.device()
    assert again.texts() == []
    node.post("r", "two")
    assert again.texts() == ["two"]


def test_what_was_not_proved_comes_again(node: Clockwork) -> None:
    """A connection that broke before its pong may have lost anything."""
    ann = node.device()
    node.post("r", "one")
    ann.lose()
    assert node.device().texts() == ["one"]


def test_devices_have_places_of_their_own(node: Clockwork) -> None:
    """What one has, another does not."""
    phone = node.device("ann", "phone")
    node.post("r", "one")
    while phone.pings:
        phone.pong()
    assert node.device("ann", "desk").texts() == ["one"]


def test_an_ack_moves_the_cursor_too(node: Clockwork) -> None:
    """But not past what was sent on this connection."""
    ann = node.device()
    node.post("r", "one")
    assert ann.do(commands.Ack(rid="r", seq=3, ref=1))[0]["code"] == "bad_request"
    assert ann.do(commands.Ack(rid="r", seq=2, ref=2))[0]["type"] == "ok"
    node.wait(FLUSH)
    assert node.delivered("ann", "r") == 2


def test_cursors_wait_while_the_store_is_away(node: Clockwork) -> None:
    """They are stored when it is back."""
    ann = node.device()
    node.post("r", "one")
    node.store.down = True
    ann.pong()
    ann.pong()
    node.wait(5 * FLUSH)
    node.store.down = False
    assert node.delivered("ann", "r") is None
    node.wait(2 * FLUSH)
    assert node.delivered("ann", "r") == 2


def test_a_cursor_from_before_leaving_counts_no_more(node: Clockwork) -> None:
    """Who was out meanwhile starts with their joining, even if the old cursor is written late."""
    ann = node.device()
    node.post("r", "one")
    ann.pong()
    node.now(node.chat.rooms.leave("r", ["ann"]))
    ann.lose()
    node.post("r", "not for ann")
    node.join("r", "ann")
    node.chat.marks.delivered("r", "ann", "", 2)
    again = node.device()
    assert again.texts() == []
    assert seqs(again)[0] == 5


def test_pings_are_paced_for_the_node(node: Clockwork) -> None:
    """A burst at once, then so many a second; nobody is forgotten."""
    queue = node.chat.proof_queue
    queue._rate, queue._burst, queue._budget = 10.0, 2.0, 2.0
    devices = [node.device("ann", str(n)) for n in range(6)]
    pinged = [len(device.pings) for device in devices]
    assert sum(pinged) == 2
    node.wait(0.25)
    assert 2 < sum(len(device.pings) for device in devices) < 6
    node.wait(1)
    assert [len(device.pings) for device in devices] == [1] * 6


# Slow sockets


def test_a_slow_client_reads_the_log_when_it_has_drained(node: Clockwork) -> None:
    """Nothing live is written to it meanwhile; then it gets everything once, in order, and is told."""
    ann, bob = node.device("ann"), node.device("bob")
    ann.full = True
    node.post("r", "fills it")
    writes = ann.writes
    node.post("r", *map(str, range(3 * PAGE)))
    assert ann.writes == writes
    assert ann.held
    assert bob.texts() == ["fills it", *map(str, range(3 * PAGE))]
    ann.drain()
    assert not ann.held
    assert ann.texts() == bob.texts()
    assert ann.of("caught_up")[-1]["seq"] == 3 * PAGE + 2
    node.post("r", "live again")
    assert ann.texts()[-1] == "live again"
    assert seqs(ann) == sorted(set(seqs(ann)))


def test_a_client_that_fills_up_while_catching_up_goes_on_later(node: Clockwork) -> None:
    """Page by page, as its socket takes it; it is told that it has caught up with the last, or when there is room."""
    node.post("r", *map(str, range(3 * PAGE)))
    ann = node.device(login=False)
    ann.full = True
    ann.connect(node.token("ann"))
    for _ in range(6):
        assert len(ann.texts()) <= 3 * PAGE
        assert not ann.of("caught_up")
        ann.session.drained()
        node.settle()
        if len(ann.texts()) == 3 * PAGE:
            break
    ann.drain()
    assert ann.texts() == [str(n) for n in range(3 * PAGE)]
    assert {event["seq"] for event in ann.of("caught_up")} == {3 * PAGE + 1}


def test_a_socket_that_fills_up_in_the_middle_of_a_fan_out(node: Clockwork) -> None:
    """The entry that filled it is not sent again."""
    ann, bob = node.device("ann"), node.device("bob")
    ann.full = True
    node.chat.hub.deliver(stored(node, Draft(rid="r", mid="bob", text="direct")))
    assert ann.texts() == ["direct"]
    ann.drain()
    node.post("r", "next")
    assert ann.texts() == bob.texts() == ["direct", "next"]


def test_who_takes_nothing_is_dropped(node: Clockwork) -> None:
    """After --limits.drain-seconds; a client that takes a byte now and then is not."""
    ann, bob = node.device("ann"), node.device("bob")
    for device in (ann, bob):
        device.full = True
    node.post("r", "x")
    for _ in range(10):
        node.wait(node.chat.heartbeat.interval)
        bob.taken += 1
    assert ann.code == close_codes.TOO_SLOW.code
    assert bob.code is None


def test_a_client_that_fails_does_not_starve_the_others(node: Clockwork) -> None:
    """It is cut off; the rest of the fan-out goes on."""
    devices = [node.device("ann", str(n)) for n in range(5)]
    devices[2].broken = True
    node.post("r", "one")
    assert [device.texts() for device in devices] == [["one"], ["one"], [], ["one"], ["one"]]
    assert devices[2].code == 1006


def test_a_batch_is_one_write_for_each_connection(node: Clockwork) -> None:
    """Answers, and all rooms' entries, together."""
    node.join("s", "ann", "bob")
    ann, bob = node.device("ann"), node.device("bob")
    before = ann.writes, bob.writes
    for number in range(20):
        ann.say("rs"[number % 2], str(number), number)
    node.settle()
    assert (ann.writes, bob.writes) == (before[0] + 1, before[1] + 1)
    assert len(bob.texts()) == 20


# Coming and going


def test_a_leaver_hears_no_more_even_when_behind(node: Clockwork) -> None:
    """The last thing that it hears of the room is that it left."""
    ann = node.device()
    ann.full = True
    node.post("r", "one", "two", "three")
    node.now(node.chat.rooms.leave("r", ["ann"]))
    node.post("r", "secret")
    ann.drain()
    assert ann.texts() == ["one"]
    assert ann.of("left")[-1]["members"] == ["ann"]
    node.join("r", "ann")
    node.post("r", "hello again")
    assert ann.texts() == ["one", "hello again"]


def test_a_page_read_for_somebody_who_left_meanwhile_is_not_shown(node: Clockwork) -> None:
    """The store answered after the leave."""
    node.post("r", "one")
    node.store.shut = {"read"}
    ann = node.device()
    assert ann.texts() == []
    node.now(node.chat.rooms.leave("r", ["ann"]))
    node.store.open_gate()
    node.settle()
    assert ann.texts() == []


def test_a_leave_that_is_read_before_it_is_told_ends_the_reading(node: Clockwork) -> None:
    """The log may hold a leave, and more, that the hub was not told of; only a later joining makes it history."""
    ann, bob = node.device(), node.device("bob")
    left, secret = Draft(rid="r", kind="left", members=("ann",)), Draft(rid="r", mid="bob", text="secret")
    stored(node, Draft(rid="r", mid="bob", text="one"), left, secret)
    node.post("r", "later", member="bob")
    assert bob.texts() == [], "what is missing may be on its way"
    node.wait(2 * HOLE)
    assert bob.texts() == ["one", "secret", "later"]
    assert ann.texts() == ["one"]
    assert ann.of("left")[-1]["members"] == ["ann"]
    assert not ann.session.rooms
    node.join("r", "ann")
    stored(node, left, secret, Draft(rid="r", kind="joined", members=("ann",)))
    node.post("r", "welcome", member="bob")
    node.wait(2 * HOLE)
    assert ann.texts() == ["one", "secret", "welcome"], "who is in again may read what was said meanwhile"


def test_a_deleted_room_is_left_by_all(node: Clockwork) -> None:
    """And when there is one of that name again, who resumes is told to drop the old one."""
    ann = node.device()
    node.post("r", "one", "two")
    node.now(node.chat.rooms.delete("r"))
    assert ann.of("left")[-1]["members"] == ["ann", "bob"]
    node.join("r", "ann")
    again = node.device(login=False)
    again.connect(node.token("ann"), commands.Resume(epoch=node.store.epoch, rooms={"r": 2}))
    assert [event["floor"] for event in again.of("reset")] == [4]
    assert seqs(again) == [5]


# The store


def test_an_answer_that_got_lost_is_looked_for_in_the_log(node: Clockwork) -> None:
    """The sender is told `unavailable`; all see what was stored, once, and in order."""
    ann, bob = node.device("ann"), node.device("bob")
    node.store.deaf = True
    ann.say("r", "lost", 1, cid="c")
    node.settle()
    node.store.deaf = False
    assert [(event["code"], event["retry_after"]) for event in ann.of("error")] == [("unavailable", 1.0)]
    assert ann.texts() == bob.texts() == ["lost"]
    ann.say("r", "lost", 2, cid="c")
    ann.say("r", "next", 3)
    node.settle()
    assert [event["duplicate"] for event in ann.of("ok")] == [True, False]
    assert ann.texts() == bob.texts() == ["lost", "next"]


def test_the_store_goes_and_comes_back(node: Clockwork) -> None:
    """Connections stay, nothing is acknowledged meanwhile, and then it goes on by itself."""
    ann, bob = node.device("ann"), node.device("bob")
    node.store.down = True
    ann.say("r", "nobody hears this", 1)
    node.settle()
    assert ann.of("error")[0]["code"] == "unavailable"
    node.wait(3 * RETRY)
    node.store.down = False
    node.wait(2 * RETRY)
    ann.say("r", "back", 2)
    node.settle()
    assert ann.texts() == bob.texts() == ["back"]
    assert ann.code is bob.code is None


def test_a_join_or_leave_whose_answer_got_lost(node: Clockwork) -> None:
    """The log and the members' places are read again: everybody has what is theirs, and no more."""
    ann, bob = node.device("ann"), node.device("bob")
    node.store.deaf = True
    for change in (node.chat.rooms.join("new", ["ann"]), node.chat.rooms.leave("r", ["ann"])):
        with pytest.raises(MercuryError, match="unavailable"):
            node.now(change)
    node.store.deaf = False
    node.settle()
    assert (ann.code, bob.code) == (None, None)
    node.post("new", "for ann")
    node.post("r", "not for ann")
    assert ann.texts() == ["for ann"]
    assert bob.texts() == ["not for ann"]
    assert bob.of("left")[-1]["members"] == ["ann"]


def test_catching_up_waits_for_the_store(node: Clockwork) -> None:
    """Who was behind when it went gets everything when it is back."""
    ann = node.device()
    ann.full = True
    node.post("r", "one", "two", "three")
    node.store.down = True
    ann.drain()
    assert ann.texts() == ["one"]
    node.wait(3 * RETRY)
    node.store.down = False
    node.wait(2 * RETRY)
    assert ann.texts() == ["one", "two", "three"]


def test_a_second_look_at_a_rooms_head_skips_nothing(node: Clockwork) -> None:
    """Its answer may know of more than was told here: whoever is live must not be taken to have it."""
    ann = node.device()
    node.store.shut = {"heads"}
    node.chat.hub.warm(["r"])
    node.settle()
    entries = stored(node, Draft(rid="r", mid="bob", text="on its way"))
    node.store.open_gate()
    node.settle()
    node.chat.hub.deliver(entries)
    node.settle()
    assert ann.texts() == ["on its way"]


def test_a_doubt_that_comes_while_places_are_read_is_not_lost(node: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being read may be older than what the doubt is about."""
    ann = node.device()
    old: Deferred[list[Membership]] = Deferred()
    answers = iter([old])
    read = node.store.store.memberships
    monkeypatch.setattr(node.store.store, "memberships", lambda mid, device: next(answers, None) or read(mid, device))
    node.chat.hub.look_again((), None)
    node.settle()
    stored(node, Draft(rid="another", kind="joined", members=("ann",)))
    node.chat.hub.look_again((), None)
    old.callback([])
    node.settle()
    node.post("another", "welcome")
    assert ann.texts() == ["welcome"]


def test_heads_of_many_rooms_are_looked_up_some_at_a_time(node: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store answers within its timeout only what is not too much."""
    monkeypatch.setattr(node.chat.hub._heads, "_most", 2)
    rids = [f"room {number}" for number in range(5)]
    for rid in rids:
        node.now(node.chat.rooms.join(rid, ["ann"]))
    ann = node.device()
    del node.store.calls[:]
    node.chat.hub.look_again(None, ())
    node.settle()
    assert node.store.calls.count("heads") == 3
    for rid in rids:
        node.post(rid, f"hello {rid}")
    assert ann.texts() == [f"hello {rid}" for rid in rids]


def test_a_hole_is_filled_from_the_log(node: Clockwork) -> None:
    """When entries arrive above the head, something was missed."""
    ann = node.device()
    missed, told = stored(node, Draft(rid="r", text="missed"), Draft(rid="r", text="told"))
    node.chat.hub.deliver([told])
    node.settle()
    node.chat.hub.deliver([missed])
    node.settle()
    assert ann.texts() == ["missed", "told"]


def test_many_who_are_behind_share_one_reading(node: Clockwork) -> None:
    """A page is read and encoded once for all who want it now."""
    node.post("r", "one")
    node.store.shut = {"read"}
    devices = [node.device("ann", str(n)) for n in range(20)]
    node.store.calls.clear()
    node.store.open_gate()
    node.settle()
    assert all(device.texts() == ["one"] for device in devices)
    assert node.store.calls.count("read") == 0, "the one reading had begun before"
