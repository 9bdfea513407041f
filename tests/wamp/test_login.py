"""How WAMP sessions begin and end: HELLO, CHALLENGE, AUTHENTICATE, WELCOME, ABORT, GOODBYE, by the specification."""

from __future__ import annotations

import json
from typing import Any

import pytest
from autobahn.wamp.auth import compute_wcs, derive_key

from mercury.domain import close_codes
from mercury.settings.schema import Wamp
from tests.support.wamp_clockwork import (
    ABORT,
    AUTHENTICATE,
    CALL,
    CHALLENGE,
    ERROR,
    EVENT,
    GOODBYE,
    HELLO,
    NAMES,
    PUBLISH,
    RESULT,
    SUBSCRIBE,
    SUBSCRIBED,
    WELCOME,
    WRITE,
    Client,
    Node,
    hello,
)

VIOLATION = (ABORT, "wamp.error.protocol_violation")
DENIED = (ABORT, "wamp.error.authentication_denied")


def signature(client: Client, token: str) -> str:
    """What Autobahn's clients answer to the CHALLENGE that was heard last."""
    extra = client.heard[-1][2]
    key = derive_key(token.encode(), extra["salt"].encode(), extra["iterations"], extra["keylen"])
    return bytes(compute_wcs(key, extra["challenge"].encode())).decode()


# Logging in


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("deflate", [False, True])
def test_a_ticket_lets_its_member_in(name: str, deflate: bool) -> None:
    node = Node()
    node.post("r", "one", "two")
    client = node.stranger(name, deflate=deflate)
    assert client.tell(hello(authextra={"device": "phone"})) == [(CHALLENGE, "ticket")]
    assert client.tell([AUTHENTICATE, node.token(), {}]) == [(WELCOME,)]
    _, session, details = client.heard[-1]
    assert 1 <= session <= 2**53
    assert details["roles"]["broker"]["features"] == {
        "pattern_based_subscription": True, "subscription_revocation": True,
    }  # fmt: skip
    assert "dealer" in details["roles"]
    who = ("realm", "authid", "authrole", "authmethod", "authprovider")
    assert [details[key] for key in who] == ["mercury", "ann", "member", "ticket", "mercury"]
    extra = details["authextra"]
    assert (extra["device"], extra["epoch"]) == ("phone", node.chat.store.epoch)
    assert extra["rooms"] == [{"rid": "r", "head": 3, "read": 1, "unread": 2}]


@pytest.mark.parametrize("name", NAMES)
def test_a_signature_lets_its_member_in_and_the_challenge_names_the_session(name: str) -> None:
    node = Node()
    token, client = node.token(), node.stranger(name)
    assert client.tell(hello(authmethods=["wampcra"])) == [(CHALLENGE, "wampcra")]
    challenge = json.loads(client.heard[-1][2]["challenge"])
    assert {"authid", "authrole", "authmethod", "authprovider", "nonce", "timestamp", "session"} == challenge.keys()
    assert client.tell([AUTHENTICATE, signature(client, token), {}]) == [(WELCOME,)]
    _, session, details = client.heard[-1]
    assert challenge["session"] == session
    assert {key: details[key] for key in ("authid", "authrole", "authmethod", "authprovider")}.items() <= (
        challenge.items()
    )


def test_sessions_and_challenges_are_all_different() -> None:
    node = Node()
    clients = [node.stranger() for _ in range(20)]
    for client in clients:
        client.tell(hello(authmethods=["wampcra"]))
    challenges = [json.loads(client.heard[-1][2]["challenge"]) for client in clients]
    assert len({challenge["nonce"] for challenge in challenges}) == 20
    assert len({challenge["session"] for challenge in challenges}) == 20


@pytest.mark.parametrize(
    ("details", "uri"),
    [
        ({"realm": "realm1"}, "wamp.error.no_such_realm"),
        ({"realm": "Mercury"}, "wamp.error.no_such_realm"),
        ({"realm": None}, "wamp.error.no_such_realm"),
        ({"realm": "a b"}, "wamp.error.invalid_uri"),
        ({"realm": ""}, "wamp.error.invalid_uri"),
        ({"realm": 1}, "wamp.error.invalid_uri"),
        ({"authmethods": None}, "wamp.error.authentication_required"),
        ({"authmethods": []}, "wamp.error.authentication_required"),
        ({"authid": None}, "wamp.error.authentication_required"),
        ({"authid": ""}, "wamp.error.authentication_required"),
        ({"authmethods": ["anonymous", "scram"]}, "wamp.error.no_matching_auth_method"),
        ({"roles": None}, "wamp.error.protocol_violation"),
        ({"roles": {}}, "wamp.error.protocol_violation"),
        ({"roles": {"broker": {}}}, "wamp.error.protocol_violation"),
        ({"authid": 7}, "wamp.error.protocol_violation"),
        ({"authmethods": "ticket"}, "wamp.error.protocol_violation"),
        ({"authextra": ["device"]}, "wamp.error.protocol_violation"),
    ],
)
def test_a_hello_that_cannot_be_answered_is_aborted(details: dict[str, Any], uri: str) -> None:
    client = Node().stranger()
    assert client.tell(hello(**details)) == [(ABORT, uri)]
    assert client.code == 4400


def test_the_first_method_that_is_offered_here_is_taken() -> None:
    node = Node()
    assert node.stranger().tell(hello(authmethods=["scram", "wampcra", "ticket"])) == [(CHALLENGE, "wampcra")]
    node.settings = Wamp(authmethods="ticket")
    assert node.stranger().tell(hello(authmethods=["scram", "wampcra", "ticket"])) == [(CHALLENGE, "ticket")]
    assert node.stranger().tell(hello(authmethods=["wampcra"])) == [(ABORT, "wamp.error.no_matching_auth_method")]


def test_a_role_may_have_features_that_nobody_here_knows() -> None:
    roles = {"caller": {"features": {"call_canceling": True, "x_new": True}}}
    assert Node().stranger().tell(hello(roles=roles)) == [(CHALLENGE, "ticket")]


def test_only_a_good_ticket_of_that_member_counts() -> None:
    node = Node()
    late, _ = node.now(node.chat.tokens.make("ann", 1))
    node.wall += 2
    for ticket in ("", "x", "\0", "é" * 9000, node.token("bob"), late):
        client = node.stranger("wamp.2.cbor")
        client.tell(hello())
        assert client.tell([AUTHENTICATE, ticket, {}]) == [DENIED]
        assert client.code == 4401


def test_only_a_good_signature_of_this_challenge_by_that_member_counts() -> None:
    node = Node()
    token, bobs = node.token(), node.token("bob")
    heard = node.stranger()
    heard.tell(hello(authmethods=["wampcra"]))
    for wrong in ("nothing", "of another challenge", "another member's", "the token"):
        client = node.stranger()
        client.tell(hello(authmethods=["wampcra"]))
        signed = {
            "nothing": "",
            "of another challenge": signature(heard, token),
            "another member's": signature(client, bobs),
            "the token": token,
        }[wrong]
        assert client.tell([AUTHENTICATE, signed, {}]) == [DENIED], wrong
        assert client.code == 4401


def test_a_challenge_can_be_answered_once() -> None:
    node = Node()
    token, client = node.token(), node.stranger()
    client.tell(hello(authmethods=["wampcra"]))
    signed = signature(client, token)
    assert client.tell([AUTHENTICATE, signed, {}], [AUTHENTICATE, signed, {}])[-1] == VIOLATION


def test_a_member_that_is_no_name_is_refused_like_any_other() -> None:
    for method in ("ticket", "wampcra"):
        client = Node().stranger()
        client.tell(hello(authid="a" * 5000, authmethods=[method]))
        assert client.tell([AUTHENTICATE, "x", {}]) == [DENIED]


def test_a_token_in_the_url_needs_no_method_and_hello_may_name_the_same_member() -> None:
    node = Node()
    for details in ({"authmethods": None, "authid": None}, {"authmethods": ["anonymous"]}, {}, {"authid": ""}):
        client = node.stranger(url="ann")
        assert client.tell(hello(**details)) == [(WELCOME,)]
        said = client.heard[-1][2]
        assert (said["authid"], said["authmethod"], said["authextra"]["device"]) == ("ann", "ticket", "of the URL")


def test_a_device_in_hello_beats_the_urls() -> None:
    client = Node().stranger(url="ann")
    client.tell(hello(authextra={"device": "phone"}))
    assert client.heard[-1][2]["authextra"]["device"] == "phone"


def test_the_urls_token_is_for_its_own_member_and_realm() -> None:
    assert Node().stranger(url="ann").tell(hello(authid="bob")) == [DENIED]
    assert Node().stranger(url="ann").tell(hello(realm="other")) == [(ABORT, "wamp.error.no_such_realm")]


@pytest.mark.parametrize("url", ["ann", ""])
@pytest.mark.parametrize(
    "extra",
    [
        {"device": 1},
        {"device": "a" * 1000},
        {"device": "\u0007"},
        {"resume": 1},
        {"resume": {}},
        {"resume": {"epoch": "e", "rooms": {"r": -1}}},
        {"resume": {"epoch": "e", "rooms": {"r": 2**60}}},
        {"resume": {"epoch": "e", "rooms": {"r": "1"}}},
    ],
)
def test_a_wrong_authextra_is_told_however_the_token_came(extra: dict[str, Any], url: str) -> None:
    node = Node()
    client = node.stranger(url=url)
    told = client.tell(hello(authextra=extra))
    told += [] if url else client.tell([AUTHENTICATE, node.token(), {}])
    assert told[-1] == (ABORT, "wamp.error.invalid_argument")
    assert client.code == 4400


def test_too_many_connections_and_a_store_that_is_away_are_no_fault_of_the_ticket() -> None:
    """The close code says to come back later; an ABORT would make Autobahn JS stay away for good."""
    node = Node(connections_per_member=1)
    node.client()
    second = node.stranger(url="ann")
    assert second.tell(hello()) == []
    assert second.code == 1013
    third = node.stranger()
    third.tell(hello())
    node.store.down = True
    assert third.tell([AUTHENTICATE, "x", {}]) == []
    assert third.code == 1013


def test_what_is_asked_before_welcome_is_answered_after_it() -> None:
    node = Node()
    client = node.stranger()
    client.tell(hello())
    node.store.shut = {"memberships"}
    ticket = [AUTHENTICATE, node.token(), {}]
    assert client.tell(ticket, [SUBSCRIBE, 1, {}, "mercury.room.r"], [CALL, 2, {}, "mercury.typing", ["r"]]) == []
    node.store.open_gate()
    node.settle()
    assert [message[0] for message in client.heard[1:] if message[0] != EVENT] == [WELCOME, SUBSCRIBED, RESULT]


# Violations


@pytest.mark.parametrize(
    "message",
    [
        [AUTHENTICATE, "x", {}],
        [GOODBYE, {}, "wamp.close.normal"],
        [CALL, 1, {}, "mercury.rooms"],
        [SUBSCRIBE, 1, {}, "mercury.inbox"],
        [PUBLISH, 1, {}, "mercury.room.r", ["x"]],
    ],
)
def test_the_first_message_is_a_hello_and_the_next_is_authenticate(message: list[Any]) -> None:
    for greeting in ([], [hello(authmethods=["wampcra"])]):
        client = Node().stranger()
        if greeting and message[0] == AUTHENTICATE:
            continue
        assert client.tell(*greeting, message)[-1] == VIOLATION
        assert client.code == 4400
        assert client.tell(hello()) == []


def test_a_session_says_hello_once() -> None:
    node = Node()
    for client in (node.stranger(), node.client(), node.stranger(url="ann")):
        assert client.tell(hello(), hello())[-1] == VIOLATION
        assert client.code == 4400
        assert client.tell([CALL, 1, {}, "mercury.rooms"]) == []


def test_authenticate_answers_a_challenge_and_nothing_else() -> None:
    assert Node().client().tell([AUTHENTICATE, "x", {}]) == [VIOLATION]
    assert Node().stranger(url="ann").tell([AUTHENTICATE, "x", {}]) == [VIOLATION]


@pytest.mark.parametrize(
    "message",
    [
        [WELCOME, 1, {"roles": {"broker": {}}}],
        [CHALLENGE, "ticket", {}],
        [ERROR, CALL, 1, {}, "wamp.error.canceled"],
        [17, 1, 1],
        [33, 1, 1],
        [35, 1],
        [EVENT, 1, 1, {}],
        [RESULT, 1, {}],
        [65, 1, 1],
        [67, 1],
        [68, 1, 1, {}],
        [69, 1, {}],
        [70, 1, {}],  # a YIELD: nobody here is called
        [0, 1],
        [255],
        [-1],
        [True, "mercury", {}],
        ["1", "mercury", {}],
        [1.0, "mercury", {}],
        [[HELLO]],
        [],
        {},
        "x",
        None,
        7,
    ],
)
def test_what_only_routers_send_and_what_nobody_sends_is_a_violation(message: Any) -> None:
    for client in (Node().stranger("wamp.2.cbor"), Node().client("ann", "wamp.2.msgpack")):
        assert client.tell(message) == [VIOLATION]
        assert client.code == 4400


@pytest.mark.parametrize("name", NAMES)
def test_each_serialization_has_its_kind_of_frames_and_bytes(name: str) -> None:
    node, binary = Node(), name != NAMES[0]
    for payload, frame in ((WRITE[name](hello()), not binary), (b"\xff\xff", binary), (b"", binary)):
        client = node.stranger(name)
        client.session.on_frame(payload, frame)
        node.settle()
        assert client.since(0) == [VIOLATION]


# The end


def test_who_does_not_log_in_in_time_is_aborted() -> None:
    node = Node(handshake_seconds=5)
    silent, slow, good = node.stranger(), node.stranger(), node.client()
    slow.tell(hello())
    node.wait(4.5)
    assert (silent.since(0), slow.since(0)) == ([], [(CHALLENGE, "ticket")])
    node.wait(0.6)
    assert (silent.since(0), silent.code) == ([VIOLATION], 4400)
    assert (slow.since(1), slow.code) == ([VIOLATION], 4400)
    assert good.code is None


def test_goodbye_is_answered_after_all_that_was_asked_before_it() -> None:
    node = Node()
    client = node.client()
    node.store.shut = {"append", "messages"}
    requests = [
        [CALL, 1, {}, "mercury.send", ["r", "one"]],
        [CALL, 2, {}, "mercury.history", ["r"]],
        [PUBLISH, 3, {"acknowledge": True}, "mercury.room.r", ["two"]],
    ]
    assert client.tell(*requests, [GOODBYE, {}, "wamp.close.close_realm"], [CALL, 5, {}, "mercury.rooms"]) == []
    node.store.open_gate()
    node.wait(0.1)
    assert [message[:2] for message in client.since(2)] == [
        (RESULT, 1), (RESULT, 2), (17, 3), (GOODBYE, "wamp.close.goodbye_and_out"),
    ]  # fmt: skip
    assert client.code == 1000
    assert node.chat.hub.everybody() == []


def test_goodbye_is_answered_whatever_its_reason_is_called() -> None:
    for reason in ("wamp.error.close_realm", "", "no uri", 7, None):
        client = Node().client()
        assert client.tell([GOODBYE, {"message": "bye"}, reason]) == [(GOODBYE, "wamp.close.goodbye_and_out")]


def test_abort_is_not_answered() -> None:
    node = Node()
    greeted = node.stranger()
    greeted.tell(hello())
    for client in (node.stranger(), greeted, node.client()):
        assert client.tell([ABORT, {}, "wamp.error.no_auth_method"]) == []
        assert client.code == 1000
    assert node.stranger().tell([ABORT, {}, ""]) == []
    assert node.chat.hub.everybody() == []


def test_who_is_kicked_or_revoked_is_told_to_stay_away() -> None:
    node = Node()
    kicked, revoked, bob = node.client("ann"), node.client("eve"), node.client("bob")
    node.chat.hub.kick("ann")
    node.chat.hub.revoke("eve", None)
    node.settle()
    assert (kicked.since(2), kicked.code) == ([(GOODBYE, "wamp.close.killed")], 4403)
    assert (revoked.since(2), revoked.code) == ([(GOODBYE, "wamp.close.killed")], 4401)
    assert (bob.since(2), bob.code) == ([], None)


def test_who_is_kicked_while_logging_in_is_told_so() -> None:
    node = Node()
    client = node.stranger()
    client.tell(hello())
    node.store.shut = {"memberships"}
    assert client.tell([AUTHENTICATE, node.token(), {}]) == []
    node.chat.hub.kick("ann")
    node.store.open_gate()
    node.settle()
    assert (client.since(1), client.code) == ([DENIED], 4403)


def test_a_restart_says_nothing_but_its_code_so_that_clients_come_back() -> None:
    node = Node()
    client = node.client()
    early = node.stranger()
    early.tell(hello())
    node.store.shut = {"memberships"}
    early.tell([AUTHENTICATE, node.token(), {}])
    for session in node.chat.hub.everybody():
        session.end(close_codes.RESTART)
    assert (client.since(2), client.code) == ([], 1012)
    assert (early.since(1), early.code) == ([], 1012)


def test_who_answers_no_ping_is_gone_without_a_word() -> None:
    node = Node(ping_seconds=25)
    client = node.client()
    node.wait(110)
    assert (client.since(2), client.code) == ([], 1001)
