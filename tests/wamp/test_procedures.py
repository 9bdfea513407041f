"""What WAMP clients ask for once they are in, and what they are answered, message by message."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.wamp_clockwork import (
    ABORT,
    CALL,
    CANCEL,
    ERROR,
    EVENT,
    NAMES,
    PUBLISH,
    PUBLISHED,
    REGISTER,
    RESULT,
    SUBSCRIBE,
    UNREGISTER,
    UNSUBSCRIBE,
    Node,
    errors,
)

ROOM = "mercury.room.r"
INBOX = "mercury.inbox"
ACK = {"acknowledge": True}


# Calls


@pytest.mark.parametrize("name", NAMES)
def test_every_procedure_is_answered_with_what_it_is_for(name: str) -> None:
    node = Node()
    client = node.client("ann", name)

    def call(procedure: str, *args: Any, **kwargs: Any) -> Any:
        [told] = client.tell([CALL, 7, {}, procedure, list(args), kwargs])
        assert told[:2] == (RESULT, 7)
        return told[2] if len(told) > 2 else None

    first = call("mercury.send", "r", "hello", cid="c1")
    assert first == {"id": first["id"], "seq": 2, "duplicate": False}
    assert call("mercury.send", rid="r", text="hello", cid="c1") == first | {"duplicate": True}
    assert call("mercury.send", "r", "again", "c2")["seq"] == 3
    page = call("mercury.history", "r", limit=1)
    assert [(message["seq"], message["text"]) for message in page["messages"]] == [(3, "again")]
    assert page["more"] is True
    assert [message["seq"] for message in call("mercury.history", "r", after=2)["messages"]] == [3]
    assert [message["seq"] for message in call("mercury.history", "r", before=3)["messages"]] == [2]
    assert call("mercury.read", "r", 3) is None
    assert call("mercury.rooms") == {"rooms": [{"rid": "r", "head": 3, "read": 3, "unread": 0}]}
    assert call("mercury.presence", "r") == {"online": ["ann"]}
    assert call("mercury.typing", "r") is None
    assert call("mercury.leave", "r") is None
    assert errors(client.tell([CALL, 8, {}, "mercury.send", ["r", "gone"]])) == ["mercury.error.forbidden"]


def test_ack_moves_the_devices_cursor_up_to_what_was_sent_to_it() -> None:
    node = Node()
    node.post("r", "one", "two")
    client = node.client()
    assert errors(client.tell([CALL, 1, {}, "mercury.ack", ["r", 3]])) == ["mercury.error.bad_request"]
    client.subscribe(ROOM)
    assert client.tell([CALL, 2, {}, "mercury.ack", ["r", 3]]) == [(RESULT, 2)]
    node.wait(3)
    assert node.delivered("ann", "r") == 3


@pytest.mark.parametrize(
    ("procedure", "args", "kwargs", "uri"),
    [
        ("mercury.sned", [], {}, "wamp.error.no_such_procedure"),
        ("mercury", [], {}, "wamp.error.no_such_procedure"),
        ("mercury.history_by_id", [], {}, "wamp.error.no_such_procedure"),
        ("mercury.connect", [], {}, "wamp.error.no_such_procedure"),
        ("wamp.session.count", [], {}, "wamp.error.no_such_procedure"),
        ("mercury.send", [], {}, "wamp.error.invalid_argument"),
        ("mercury.send", ["r"], {}, "wamp.error.invalid_argument"),
        ("mercury.send", ["r", 7], {}, "wamp.error.invalid_argument"),
        ("mercury.send", ["r", None], {}, "wamp.error.invalid_argument"),
        ("mercury.send", ["r", "x", "c", "d"], {}, "wamp.error.invalid_argument"),
        ("mercury.send", ["r", "x"], {"text": "y"}, "wamp.error.invalid_argument"),
        ("mercury.send", ["r", "x"], {"ref": 1}, "wamp.error.invalid_argument"),
        ("mercury.send", ["r", "x"], {"colour": "red"}, "wamp.error.invalid_argument"),
        ("mercury.send", ["r", "x"], {"cid": 1}, "wamp.error.invalid_argument"),
        ("mercury.send", ["r", "x" * 20000], {}, "mercury.error.too_large"),
        ("mercury.send", ["r", "x", "c" * 200], {}, "mercury.error.bad_request"),
        ("mercury.send", ["b", "x"], {}, "mercury.error.forbidden"),
        ("mercury.send", ["nowhere", "x"], {}, "mercury.error.forbidden"),
        ("mercury.history", ["b"], {}, "mercury.error.forbidden"),
        ("mercury.history", ["r", 1], {}, "wamp.error.invalid_argument"),
        ("mercury.history", ["r"], {"before": -1}, "wamp.error.invalid_argument"),
        ("mercury.history", ["r"], {"after": 2**53}, "wamp.error.invalid_argument"),
        ("mercury.history", ["r"], {"after": 1.5}, "wamp.error.invalid_argument"),
        ("mercury.history", ["r"], {"after": True}, "wamp.error.invalid_argument"),
        ("mercury.history", ["r"], {"limit": 0}, "wamp.error.invalid_argument"),
        ("mercury.history", ["r"], {"limit": 2**70}, "wamp.error.invalid_argument"),
        ("mercury.rooms", ["r"], {}, "wamp.error.invalid_argument"),
        ("mercury.read", ["r"], {}, "wamp.error.invalid_argument"),
        ("mercury.read", ["b", 1], {}, "mercury.error.forbidden"),
        ("mercury.presence", ["b"], {}, "mercury.error.forbidden"),
        ("mercury.typing", [{"rid": "r"}], {}, "wamp.error.invalid_argument"),
        ("mercury.leave", [""], {}, "mercury.error.forbidden"),
    ],
)
def test_a_call_that_cannot_be_done_is_answered_with_why(
    procedure: str, args: list[Any], kwargs: dict[str, Any], uri: str
) -> None:
    node = Node()
    client = node.client("ann", "wamp.2.json")
    assert client.tell([CALL, 9, {}, procedure, args, kwargs]) == [(ERROR, CALL, 9, uri)]
    [reason] = client.heard[-1][5]
    assert isinstance(reason, str)
    assert client.tell([CALL, 10, {}, "mercury.presence", ["r"]]) == [(RESULT, 10, {"online": ["ann"]})]


def test_a_call_may_leave_out_empty_arguments_and_have_options() -> None:
    client = Node().client()
    for message in (
        [CALL, 1, {}, "mercury.rooms"],
        [CALL, 1, {"timeout": 1000, "receive_progress": True}, "mercury.rooms", []],
        [CALL, 1, {}, "mercury.rooms", [], {}],
    ):
        assert client.tell(message)[0][:2] == (RESULT, 1)


def test_an_encrypted_payload_is_refused() -> None:
    client = Node().client("ann", "wamp.2.msgpack")
    sealed = {"enc_algo": "cryptobox", "enc_serializer": "json"}
    assert errors(client.tell([CALL, 1, sealed, "mercury.rooms", b"secret"])) == ["wamp.error.invalid_argument"]
    assert errors(client.tell([PUBLISH, 2, sealed | ACK, ROOM, b"secret"])) == ["wamp.error.invalid_argument"]


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ([CALL, 3, {}, "no uri"], [(ERROR, CALL, 3, "wamp.error.invalid_uri")]),
        ([CALL, 3, {}, ""], [(ERROR, CALL, 3, "wamp.error.invalid_uri")]),
        ([CALL, 3, {}, "mercury..send"], [(ERROR, CALL, 3, "wamp.error.invalid_uri")]),
        ([CALL, 3, {}, "mercury.send#"], [(ERROR, CALL, 3, "wamp.error.invalid_uri")]),
        ([CALL, 3, {}, 7], [(ERROR, CALL, 3, "wamp.error.invalid_uri")]),
        ([SUBSCRIBE, 3, {}, "mercury.room."], [(ERROR, SUBSCRIBE, 3, "wamp.error.invalid_uri")]),
        ([SUBSCRIBE, 3, {}, "mercury..typing"], [(ERROR, SUBSCRIBE, 3, "wamp.error.invalid_uri")]),
        ([SUBSCRIBE, 3, {}, None], [(ERROR, SUBSCRIBE, 3, "wamp.error.invalid_uri")]),
        ([REGISTER, 3, {}, "a b"], [(ERROR, REGISTER, 3, "wamp.error.invalid_uri")]),
        ([PUBLISH, 3, ACK, "a b"], [(ERROR, PUBLISH, 3, "wamp.error.invalid_uri")]),
        ([PUBLISH, 3, {}, "a b"], []),
        ([REGISTER, 3, {}, "ann.procedure"], [(ERROR, REGISTER, 3, "wamp.error.not_authorized")]),
        ([UNREGISTER, 3, 1], [(ERROR, UNREGISTER, 3, "wamp.error.no_such_registration")]),
        ([UNSUBSCRIBE, 3, 1], [(ERROR, UNSUBSCRIBE, 3, "wamp.error.no_such_subscription")]),
        ([SUBSCRIBE, 3, {"match": "wildcard"}, "mercury.room..typing"],
         [(ERROR, SUBSCRIBE, 3, "wamp.error.option_not_allowed")]),
        ([CANCEL, 3, {}], []),
        ([CANCEL, 3, {"mode": "kill"}], []),
    ],
)  # fmt: skip
def test_requests_that_ask_for_what_is_not_there_have_the_specifications_errors(message: Any, answer: Any) -> None:
    client = Node().client()
    assert client.tell(message) == answer
    assert client.tell([CALL, 4, {}, "mercury.typing", ["r"]]) == [(RESULT, 4)]


@pytest.mark.parametrize("kind", [CALL, CANCEL, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, REGISTER, UNREGISTER])
@pytest.mark.parametrize("request_id", [0, -1, 2**53 + 1, 2**100, 1.0, "1", None, True, [1]])
def test_a_request_without_a_proper_id_ends_the_session(kind: int, request_id: Any) -> None:
    rest: list[Any] = [1] if kind in (UNSUBSCRIBE, UNREGISTER) else [{}] if kind == CANCEL else [{}, "mercury.rooms"]
    client = Node().client()
    assert client.tell([kind, request_id, *rest]) == [(ABORT, "wamp.error.protocol_violation")]


@pytest.mark.parametrize("request_id", [1, 2**53])
def test_the_first_and_the_last_id_are_good(request_id: int) -> None:
    for name in NAMES:
        client = Node().client("ann", name)
        assert client.tell([CALL, request_id, {}, "mercury.typing", ["r"]]) == [(RESULT, request_id)]


def test_answers_come_in_the_order_of_the_requests() -> None:
    node = Node()
    client = node.client()
    node.store.shut = {"append"}
    requests: list[list[Any]] = [
        [CALL, 1, {}, "mercury.send", ["r", "one"]],
        [CALL, 2, {}, "no uri"],
        [PUBLISH, 3, ACK, ROOM, ["two"]],
        [CALL, 4, {}, "mercury.send", ["b", "x"]],
        [SUBSCRIBE, 5, {}, "mercury.room.r.typing"],
        [UNSUBSCRIBE, 6, 1],
        [REGISTER, 7, {}, "a.b"],
        [CALL, 8, {}, "mercury.presence", ["r"]],
    ]
    assert client.tell(*requests) == []
    node.store.open_gate()
    node.wait(0.1)
    told = client.since(2)
    assert [message[2] if message[0] == ERROR else message[1] for message in told] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_limit_says_when_to_come_back() -> None:
    node = Node(messages_per_second=1.0, burst=1)
    client = node.client()
    told = client.tell([CALL, 1, {}, "mercury.send", ["r", "x"]], [CALL, 2, {}, "mercury.send", ["r", "y"]])
    assert errors(told) == ["mercury.error.rate_limited"]
    refused = next(message for message in client.heard if message[0] == ERROR)
    assert refused[6]["retry_after"] > 0


# Publishing


@pytest.mark.parametrize("name", NAMES)
def test_publishing_to_a_rooms_topic_is_sending(name: str) -> None:
    node = Node()
    ann, bob = node.client("ann", name), node.client("bob", name)
    for client in (ann, bob):
        client.subscribe(ROOM)
    start = len(bob.heard)
    told = ann.tell([PUBLISH, 5, ACK, ROOM, ["hello"], {"cid": "c1"}])
    assert told == [(PUBLISHED, 5), (EVENT, ROOM, "message", 2, "hello")]
    [_, _, id] = ann.heard[-2]
    [event] = bob.heard[start:]
    assert event[2] == id  # the publication
    assert event[5] == {
        "type": "message", "rid": "r", "seq": 2, "id": id, "mid": "ann", "ctime": event[5]["ctime"], "cid": "c1",
    }  # fmt: skip
    assert ann.tell([PUBLISH, 6, ACK, ROOM, ["hello"], {"cid": "c1"}]) == [(PUBLISHED, 6)]  # stored once
    assert ann.heard[-1][2] == id


WRONG_PUBLISHES: list[tuple[list[Any], str]] = [
    ([INBOX, ["x"]], "wamp.error.not_authorized"),
    (["mercury.room.r.typing", ["x"]], "wamp.error.not_authorized"),
    (["com.example.topic", ["x"]], "wamp.error.not_authorized"),
    (["wamp.session.on_join", ["x"]], "wamp.error.not_authorized"),
    (["mercury.room.%FF", ["x"]], "wamp.error.not_authorized"),
    (["mercury.room.b", ["x"]], "mercury.error.forbidden"),
    ([ROOM], "wamp.error.invalid_argument"),
    ([ROOM, []], "wamp.error.invalid_argument"),
    ([ROOM, [7]], "wamp.error.invalid_argument"),
    ([ROOM, ["x"], {"rid": "b"}], "wamp.error.invalid_argument"),
    ([ROOM, ["x"], {"text": "y"}], "wamp.error.invalid_argument"),
    ([ROOM, ["x" * 20000]], "mercury.error.too_large"),
    (["no uri", ["x"]], "wamp.error.invalid_uri"),
]


@pytest.mark.parametrize(("rest", "uri"), WRONG_PUBLISHES)
def test_a_publish_is_refused_aloud_only_if_it_asked_for_an_answer(rest: list[Any], uri: str) -> None:
    client = Node().client()
    assert client.tell([PUBLISH, 5, ACK, *rest]) == [(ERROR, PUBLISH, 5, uri)]
    assert client.tell([PUBLISH, 6, {}, *rest]) == []
    assert client.tell([PUBLISH, 7, {"acknowledge": False}, *rest]) == []


def test_an_unacknowledged_publish_is_silent_when_it_is_done_and_when_the_store_is_away() -> None:
    node = Node(messages_per_second=100.0, burst=3)
    client = node.client()
    client.subscribe("mercury.room.r.read")  # so that nothing is said of messages
    assert client.tell([PUBLISH, 1, {}, ROOM, ["one"]]) == []
    node.store.down = True
    assert client.tell([PUBLISH, 2, {}, ROOM, ["two"]], [PUBLISH, 3, {}, ROOM, ["three"]]) == []
    assert client.tell([PUBLISH, 4, {}, ROOM, ["too many"]]) == []
    node.store.down = False
    node.wait(2)
    [result] = client.tell([CALL, 5, {}, "mercury.history", ["r"]])
    assert [message["text"] for message in result[2]["messages"]][:1] == ["one"]
