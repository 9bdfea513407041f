"""One session: its commands in order, its login, its heart, and the limits that hold it. All on a Clock."""

from __future__ import annotations

import pytest

from mercury.core import session
from mercury.core.delivery import hub
from mercury.domain import close_codes, commands
from mercury.domain.model import Draft
from mercury.errors import MercuryError
from mercury.settings.limits import Limits
from mercury.settings.schema import Config
from mercury.websocket.admission import Subprotocols
from tests.support.clockwork import Clockwork, Device


@pytest.fixture(params=["", "json"], ids=["v2", "wamp"])
def node(request: pytest.FixtureRequest) -> Clockwork:
    """Ann and Bob are in the room "r"."""
    node = Clockwork(wamp=request.param)
    node.join("r", "ann", "bob")
    return node


# Commands


def test_answers_come_in_the_order_of_commands(node: Clockwork) -> None:
    """Whatever each of them waits for: commits, reads, or nothing."""
    ann = node.device()
    node.store.shut = {"append", "history"}
    ann.say("r", "one", 1)
    ann.say("elsewhere", "two", 2)
    ann.give(commands.History(rid="r", ref=3))
    ann.say("r", "three", 4)
    ann.give(commands.Bad(ref=5, error=MercuryError("bad_request", "no")))
    ann.say("r", "four", 6)
    node.settle()
    assert ann.refs() == []
    node.store.open_gate()
    node.settle()
    assert ann.refs() == [1, 2, 3, 4, 5, 6]
    assert [message["text"] for message in ann.heard if message.get("ref") == 3 for message in message["messages"]] == [
        "one"
    ]


def test_a_refused_send_among_waiting_ones_keeps_its_turn(node: Clockwork) -> None:
    """What is refused at once is still answered after the sends before it and before what came after it."""
    ann = node.device()
    node.store.shut = {"history"}
    ann.give(commands.History(rid="r", ref=1))
    ann.say("r", "two", 2)
    ann.say("elsewhere", "three", 3)
    ann.say("r", "four", 4)
    ann.give(commands.Presence(rid="r", ref=5))
    node.store.open_gate()
    node.settle()
    assert ann.refs() == [1, 2, 3, 4, 5]


def test_sends_do_not_wait_for_each_other(node: Clockwork) -> None:
    """Pipelined sends go into the store together, in their order."""
    ann = node.device()
    node.store.calls.clear()
    for number in range(50):
        ann.say("r", str(number), number)
    node.settle()
    assert node.store.calls.count("append") == 1
    assert ann.texts() == [str(number) for number in range(50)]


def test_a_full_inbox_holds_the_connection_until_there_is_room(node: Clockwork) -> None:
    """TCP then holds the client back; nothing is dropped."""
    ann = node.device()
    node.store.shut = {"append"}
    for number in range(session.INBOX - 1):
        ann.say("r", str(number), number)
        assert not ann.held
    ann.say("r", "the last", 0)
    assert ann.held
    node.settle()
    node.store.open_gate()
    node.settle()
    assert not ann.held
    assert len(ann.texts()) == session.INBOX


def test_a_full_inbox_of_other_commands_holds_too(node: Clockwork) -> None:
    """Commands that wait for their turn count like sends on their way."""
    ann = node.device()
    node.store.shut = {"history"}
    for number in range(session.INBOX + 1):
        ann.give(commands.History(rid="r", ref=number))
    assert ann.held
    node.store.open_gate()
    node.settle()
    assert not ann.held
    assert ann.refs() == list(range(session.INBOX + 1))


def test_a_client_that_does_not_read_gets_no_more_answers(node: Clockwork) -> None:
    """Its commands wait in the inbox, so that answers do not pile up in memory (G6)."""
    node.post("r", "x" * 1000)
    ann = node.device()
    ann.full = True
    node.store.shut = {"history"}
    for number in range(50):
        ann.give(commands.History(rid="r", ref=number))
    node.store.open_gate()
    node.settle()
    for number in range(50, 100):
        ann.give(commands.History(rid="r", ref=number))
    node.settle()
    assert ann.refs() == [0]
    assert ann.held
    ann.drain()
    assert ann.refs() == list(range(100))
    assert not ann.held


def test_what_comes_after_the_end_counts_for_nothing(node: Clockwork) -> None:
    """A revoked client may go on sending while its connection is being closed."""
    ann = node.device()
    node.chat.hub.kick("ann")
    ann.say("r", "too late", 1)
    node.settle()
    assert ann.refs() == []
    assert node.now(node.chat.rooms.history("r"))[0] == []


# Logging in


def test_commands_that_come_with_the_connect_wait_for_it(node: Clockwork) -> None:
    """A client need not wait for hello."""
    ann = node.device(login=False)
    token, _ = node.now(node.chat.tokens.make("ann"))
    node.store.shut = {"token", "memberships"}
    ann.connect(token)
    ann.say("r", "at once", 1)
    node.settle()
    assert ann.heard == []
    node.store.open_gate()
    node.settle()
    assert [event["type"] for event in ann.heard][:1] == ["hello"]
    assert ann.refs() == [1]


@pytest.mark.parametrize(
    "first", [commands.Send(rid="r", text="x"), commands.Bad(error=MercuryError("bad_request", ""))]
)
def test_the_first_frame_must_be_a_connect(node: Clockwork, first: commands.Command) -> None:
    """Else the connection is closed, and nothing is done."""
    eve = node.device("eve", login=False)
    eve.session.await_connect()
    eve.do(first)
    assert eve.code in (close_codes.BAD_CONNECT.code, close_codes.UNAUTHORIZED.code)
    assert node.chat.hub.everybody() == []


def test_who_does_not_log_in_is_closed(node: Clockwork) -> None:
    """--limits.handshake-seconds."""
    eve = node.device("eve", login=False)
    eve.session.await_connect()
    node.wait(4.5)
    assert eve.code is None
    node.wait(1)
    assert eve.code == close_codes.BAD_CONNECT.code


def test_a_second_connect_is_refused() -> None:
    """Nobody becomes somebody else."""
    node = Clockwork()
    ann = node.device()
    token, _ = node.now(node.chat.tokens.make("bob"))
    [answer] = ann.do(commands.Connect(token=token, member="bob", ref=1))
    assert (answer["type"], answer["code"]) == ("error", "bad_request")
    assert ann.session.mid == "ann"


def test_a_token_of_another_member_is_wrong(node: Clockwork) -> None:
    """And so is one that nobody has; the answers are the same."""
    token, _ = node.now(node.chat.tokens.make("bob"))
    reasons = []
    for wrong in (token, "nonsense"):
        ann = node.device(login=False)
        ann.connect(wrong)
        assert ann.code == close_codes.UNAUTHORIZED.code
        reasons.append([event["reason"] for event in ann.of("error")])
    assert reasons[0] == reasons[1] != []


def test_a_token_revoked_while_it_logs_in_is_revoked(node: Clockwork) -> None:
    """Between the check of the token and the session's place in the hub."""
    ann = node.device(login=False)
    token, _ = node.now(node.chat.tokens.make("ann"))
    checked = node.now(node.chat.tokens.check(token, "ann"))
    at = node.clock.seconds()
    node.wait(0.1)
    assert node.now(node.chat.tokens.revoke(token))
    ann.session.login(checked, at, "")
    node.settle()
    assert ann.code == close_codes.UNAUTHORIZED.code
    assert ann.of("hello") == []


def test_revoking_closes_the_connections_of_that_token_only(node: Clockwork) -> None:
    """At once; revoking a member closes them all."""
    first, second = node.device(login=False), node.device("ann", "other")
    token, _ = node.now(node.chat.tokens.make("ann"))
    first.connect(token)
    node.now(node.chat.tokens.revoke(token))
    assert (first.code, second.code) == (close_codes.UNAUTHORIZED.code, None)
    node.now(node.chat.tokens.revoke_all("ann"))
    assert second.code == close_codes.UNAUTHORIZED.code


def test_revocations_are_remembered_for_a_minute_and_so_many(node: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest ones."""
    monkeypatch.setattr(hub, "REVOKED", 5)
    remembered = node.chat.hub._revoked
    for mid in "abcdefcg":
        node.chat.hub.revoke(mid, None)
    assert [mid for mid, _ in remembered] == list("defcg")
    node.wait(hub.REMEMBERED / 2)
    node.chat.hub.revoke("h", b"x")
    node.wait(hub.REMEMBERED / 2)
    node.chat.hub.revoke("i", None)
    assert [mid for mid, _ in remembered] == ["h", "i"]


def test_a_kick_closes_one_device_or_all(node: Clockwork) -> None:
    """With the code that says: do not come back."""
    phone, desk = node.device("ann", "phone"), node.device("ann", "desk")
    assert node.chat.hub.kick("ann", "phone") == 1
    assert (phone.code, desk.code) == (close_codes.KICKED.code, None)
    assert node.chat.hub.kick("ann") == 1
    assert desk.code == close_codes.KICKED.code


def test_a_join_while_logging_in_is_not_missed(node: Clockwork) -> None:
    """The places were read before it, the hub was told of it before the session listened."""
    node.store.shut = {"memberships"}
    ann = node.device()
    joining = node.chat.rooms.join("new", ["ann"])
    node.now(joining)
    node.post("new", "welcome")
    node.store.open_gate()
    node.settle()
    assert ann.texts() == ["welcome"]
    assert [event["seq"] for event in ann.heard if event.get("rid") == "new"][:2] == [1, 2]


def test_a_leave_while_logging_in_counts(node: Clockwork) -> None:
    """What is said afterwards is not told, though the places that were read still had the room."""
    places = node.now(node.store.store.memberships("ann", ""))
    node.store.shut = {"memberships"}
    ann = node.device()
    node.now(node.chat.rooms.leave("r", ["ann"]))
    node.post("r", "secret")
    node.store._waiting[0][0].callback(places)
    node.settle()
    assert ann.of("hello")
    assert ann.texts() == []
    assert ann.do(commands.History(rid="r", ref=1))[0]["code"] == "forbidden"


def test_without_the_store_a_login_is_told_to_come_back(node: Clockwork) -> None:
    """1013, and nothing stays behind in the hub. WAMP has words for it only after which a client does not come back."""
    token, _ = node.now(node.chat.tokens.make("ann"))
    checked = node.now(node.chat.tokens.check(token, "ann"))
    node.store.down = True
    ann = node.device(login=False)
    ann.session.login(checked, 0.0, "")
    node.settle()
    assert ann.code == close_codes.BUSY.code
    assert [event["code"] for event in ann.of("error")] == ([] if node.wamp else ["unavailable"])
    assert node.chat.hub.everybody() == []


# The heart


def test_two_missed_pings_are_the_end(node: Clockwork) -> None:
    """Of a peer that says nothing; any sign of life starts anew."""
    ann = node.device()
    ann.pings.clear()
    interval = node.chat.heartbeat.interval
    node.wait(2.5 * interval)
    assert len(ann.pings) == 2
    ann.session.pong(ann.pings[-1])
    node.wait(1.5 * interval)
    assert ann.code is None
    node.wait(2 * interval)
    assert ann.code == close_codes.GONE.code


def test_the_token_of_a_connection_expires(node: Clockwork) -> None:
    """Within one interval of the heartbeat, with the code that asks for a new token."""
    ann = node.device()
    node.wall += Config().token.ttl + 1
    node.wait(node.chat.heartbeat.interval * 1.1)
    assert ann.code == close_codes.UNAUTHORIZED.code


def test_a_heart_that_fails_stops_no_other() -> None:
    """One session's fault is logged, and the wheel turns on."""
    node = Clockwork()
    node.join("r", "ann", "bob")
    ann, bob = node.device("ann"), node.device("bob")
    ann.broken = True
    node.wait(node.chat.heartbeat.interval * 3.5)
    assert bob.code == close_codes.GONE.code


# Limits


def code(device: Device, command: commands.Command) -> dict[str, object]:
    [answer] = [event for event in device.do(command) if event["type"] in ("ok", "error")]
    return answer


def test_limit_text_bytes() -> None:
    """Bytes of UTF-8, not characters."""
    node = Clockwork(text_bytes=8)
    node.join("r", "ann")
    ann = node.device()
    assert code(ann, commands.Send(rid="r", text="яяяя"))["type"] == "ok"
    answer = code(ann, commands.Send(rid="r", text="яяяяa"))
    assert answer["code"] == "too_large"
    assert "--limits.text-bytes" in str(answer["reason"])


def test_limit_messages_per_second_and_burst() -> None:
    """Over all devices of a member; the answer says when to try again."""
    node = Clockwork(messages_per_second=2.0, burst=3)
    node.join("r", "ann", "bob")
    phone, desk, bob = node.device("ann", "phone"), node.device("ann", "desk"), node.device("bob")
    assert [code(d, commands.Send(rid="r", text="x"))["type"] for d in (phone, desk, phone)] == ["ok"] * 3
    answer = code(desk, commands.Send(rid="r", text="x"))
    assert (answer["code"], answer["retry_after"]) == ("rate_limited", 0.5)
    assert code(bob, commands.Send(rid="r", text="x"))["type"] == "ok"
    node.wait(0.6)
    assert code(desk, commands.Send(rid="r", text="x"))["type"] == "ok"
    assert code(desk, commands.Send(rid="r", text="x"))["type"] == "error"


def test_limit_typing() -> None:
    """Ten a second of one member, with a burst of twenty."""
    node = Clockwork()
    node.join("r", "ann", "bob")
    ann, bob = node.device("ann"), node.device("bob")
    answers = [code(ann, commands.Typing(rid="r"))["type"] for _ in range(25)]
    assert answers == ["ok"] * 20 + ["error"] * 5
    assert len(bob.of("typing")) == 20


def test_limit_connections_per_member() -> None:
    """The next one is told to come back; when one has gone there is room."""
    node = Clockwork(connections_per_member=2)
    node.join("r", "ann")
    first, second, third = node.device(), node.device(), node.device()
    assert (first.code, second.code, third.code) == (None, None, close_codes.BUSY.code)
    assert "--limits.connections-per-member" in third.of("error")[0]["reason"]
    first.lose()
    assert node.device().code is None


def test_limit_rooms_per_member() -> None:
    """Of a join that goes too far nothing is done."""
    node = Clockwork(rooms_per_member=2)
    node.join("a", "ann")
    node.join("b", "ann")
    with pytest.raises(MercuryError) as refused:
        node.join("c", "bob", "ann")
    assert refused.value.code == "too_large"
    assert node.now(node.store.room("c")) is None


def test_limit_history_page() -> None:
    """More is not given, whatever is asked for, and `more` says so."""
    node = Clockwork(history_page=3)
    node.join("r", "ann")
    node.post("r", *"abcde")
    ann = node.device()
    answer = code(ann, commands.History(rid="r", limit=50))
    assert [message["text"] for message in answer["messages"]] == ["c", "d", "e"]  # type: ignore[attr-defined]
    assert answer["more"] is True
    answer = code(ann, commands.HistoryById(rid="r", offset=50))
    assert len(answer["messages"]) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, "mercury.v2.json"])
def test_limit_json_depth(name: str | None) -> None:
    """Deeper than allowed is refused before it is decoded; brackets within strings do not count."""
    decode = Subprotocols(Config(limits=Limits(json_depth=4))).codecs[name].decode
    deep = decode(b'{"type":1,"x":' + b"[" * 100_000, False)
    assert isinstance(deep, commands.Bad)
    assert "--limits.json-depth" in deep.error.reason
    said = b'{"type":%s,"rid":"r","text":"%s"}' % (b"1" if name is None else b'"send"', b"[" * 50)
    assert isinstance(decode(said, False), commands.Send)


def test_the_journal_bounds_what_waits(node: Clockwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """In text and in number; who is refused is told busy, and later there is room again, as often as one likes."""
    monkeypatch.setattr(node.chat.journal._batches, "_most_waiting_size", 1000)
    for _ in range(3):
        node.store.shut = {"append"}
        answers = [node.chat.journal.append(draft) for draft in [_draft("x" * 400)] * 5]
        refused = [answer for answer in answers if answer.called]
        for answer in refused:
            with pytest.raises(MercuryError, match="busy"):
                node.now(answer)
        assert len(refused) == 2
        node.store.open_gate()
        node.settle()


def _draft(text: str) -> Draft:
    return Draft(rid="r", mid="ann", text=text)
