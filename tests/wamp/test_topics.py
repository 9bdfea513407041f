"""WAMP topics: who may subscribe to what, what is heard then, and how rooms and texts are spelt."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from autobahn.wamp.message import check_or_raise_uri
from hypothesis import given
from hypothesis import strategies as st

from mercury.domain.model import check_name
from mercury.errors import MercuryError
from mercury.websocket.wamp.topics import ALL, LOG, SIGNALS, Topic, topic_of
from tests.support.wamp_clockwork import (
    AUTHENTICATE,
    CALL,
    ERROR,
    EVENT,
    NAMES,
    PUBLISH,
    PUBLISHED,
    RESULT,
    ROLES,
    SUBSCRIBE,
    SUBSCRIBED,
    UNSUBSCRIBE,
    UNSUBSCRIBED,
    Node,
    errors,
    hello,
)

ROOM = "mercury.room.r"
INBOX = "mercury.inbox"
ACK = {"acknowledge": True}


def test_one_hears_what_one_has_subscribed_to_and_nothing_else() -> None:
    node = Node()
    ann, bob = node.client("ann"), node.client("bob")
    start = len(ann.heard)
    node.post("r", "unheard")
    bob.tell([CALL, 1, {}, "mercury.typing", ["r"]], [CALL, 2, {}, "mercury.read", ["r", 2]])
    assert ann.since(start) == []
    id = ann.subscribe("mercury.room.r.typing")
    start = len(ann.heard)
    bob.tell([CALL, 3, {}, "mercury.typing", ["r"]], [CALL, 4, {}, "mercury.send", ["r", "x"]])
    node.post("b", "elsewhere")
    [event] = ann.heard[start:]
    assert (event[1], event[5]) == (id, {"type": "typing", "rid": "r", "mid": "bob"})


def test_signals_have_topics_of_their_own() -> None:
    node = Node()
    ann = node.client("ann")
    for kind in SIGNALS:
        ann.subscribe(f"mercury.room.r.{kind}")
    start = len(ann.heard)
    bob = node.client("bob")
    node.post("r", "x")
    bob.tell([CALL, 1, {}, "mercury.typing", ["r"]], [CALL, 2, {}, "mercury.read", ["r", 2]])
    assert ann.since(start) == [
        (EVENT, "mercury.room.r.presence", "presence"),
        (EVENT, "mercury.room.r.typing", "typing"),
        (EVENT, "mercury.room.r.read", "read", 2),
    ]


@pytest.mark.parametrize(
    ("options", "topic"), [({}, INBOX), ({"match": "prefix"}, "mercury.room."), ({"match": "prefix"}, "mercury.room")]
)
def test_the_inbox_has_all_rooms_also_those_joined_later(options: dict[str, Any], topic: str) -> None:
    node = Node()
    bob = node.client("bob")
    id = bob.subscribe(topic, **options)
    start = len(bob.heard)
    node.post("r", "one")
    node.join("late", "bob")
    node.post("late", "two")
    node.post("b", "three")
    assert [m for m in bob.since(start) if m[2] != "caught_up"] == [
        (EVENT, ROOM, "message", 2, "one"),
        (EVENT, "mercury.room.late", "joined", 1),
        (EVENT, "mercury.room.late", "message", 2, "two"),
        (EVENT, "mercury.room.b", "message", 2, "three"),
    ]
    assert {message[1] for message in bob.heard[start:]} == {id}


@pytest.mark.parametrize(
    ("options", "topic"),
    [
        ({}, "mercury.room.b"),
        ({}, "mercury.room.nowhere"),
        ({}, "mercury.room.b.presence"),
        ({}, "mercury.room.r.other"),
        ({}, "mercury.room.r.typing.more"),
        ({}, "mercury.room"),
        ({}, "mercury"),
        ({}, "com.example"),
        ({}, "wamp.session.on_join"),
        ({}, "mercury.room.%FF%FE"),
        ({"match": "prefix"}, "mercury.room.r"),
        ({"match": "prefix"}, "mercury"),
        ({"match": "prefix"}, ""),
    ],
)
def test_other_topics_and_other_peoples_rooms_cannot_be_told_apart(options: dict[str, Any], topic: str) -> None:
    client = Node().client()
    assert client.tell([SUBSCRIBE, 4, options, topic]) == [(ERROR, SUBSCRIBE, 4, "wamp.error.not_authorized")]


def test_subscribing_catches_up_from_the_devices_cursor_or_from_after() -> None:
    node = Node()
    node.post("r", "two", "three")
    every = [(EVENT, ROOM, "joined", 1), (EVENT, ROOM, "message", 2, "two"), (EVENT, ROOM, "message", 3, "three")]
    end = (EVENT, ROOM, "caught_up", 3)
    assert node.client(device="a").tell([SUBSCRIBE, 1, {}, ROOM]) == [(SUBSCRIBED, 1), *every, end]
    for after in range(4):
        told = node.client(device=f"b{after}").tell([SUBSCRIBE, 1, {"after": after}, ROOM])
        assert told == [(SUBSCRIBED, 1), *every[after:], end]


def test_after_a_number_that_the_room_has_not_reached_the_client_starts_afresh() -> None:
    node = Node()
    node.post("r", "two")
    assert node.client().tell([SUBSCRIBE, 1, {"after": 99}, ROOM]) == [
        (SUBSCRIBED, 1),
        (EVENT, ROOM, "reset"),
        (EVENT, ROOM, "joined", 1),
        (EVENT, ROOM, "message", 2, "two"),
        (EVENT, ROOM, "caught_up", 2),
    ]


@pytest.mark.parametrize("after", [-1, 2**53, 2**80, "1", 1.0, True, [], {}])
def test_after_is_a_seq(after: Any) -> None:
    client = Node().client()
    assert errors(client.tell([SUBSCRIBE, 1, {"after": after}, ROOM])) == ["wamp.error.invalid_argument"]


@pytest.mark.parametrize(
    ("topic", "options"),
    [(INBOX, {}), ("mercury.room.r.typing", {}), ("mercury.room.", {"match": "prefix"})],
)
def test_after_is_for_one_rooms_topic(topic: str, options: dict[str, Any]) -> None:
    client = Node().client()
    assert errors(client.tell([SUBSCRIBE, 1, options | {"after": 1}, topic])) == ["wamp.error.invalid_argument"]
    assert client.tell([SUBSCRIBE, 1, options | {"after": None}, topic])[0] == (SUBSCRIBED, 1)


def test_after_tells_nothing_of_other_peoples_rooms() -> None:
    client = Node().client()
    assert errors(client.tell([SUBSCRIBE, 1, {"after": 1}, "mercury.room.b"])) == ["wamp.error.not_authorized"]


def test_subscribing_again_brings_the_same_id_and_nothing_twice() -> None:
    node = Node()
    node.post("r", "two")
    client = node.client()
    id = client.subscribe(ROOM)
    for options in ({}, {"after": 0}, {"after": 99}):
        assert client.tell([SUBSCRIBE, 2, options, ROOM]) == [(SUBSCRIBED, 2)]
        assert client.heard[-1][2] == id
    start = len(client.heard)
    node.post("r", "three")
    assert client.since(start) == [(EVENT, ROOM, "message", 3, "three")]


def test_a_subscription_has_one_id_for_all_sessions_and_serializations() -> None:
    node = Node()
    clients = [node.client(member, name) for member in ("ann", "bob") for name in NAMES]
    topics = [ROOM, INBOX, *(f"{ROOM}.{kind}" for kind in SIGNALS)]
    ids = {topic: {client.subscribe(topic) for client in clients} for topic in topics}
    assert [len(found) for found in ids.values()] == [1] * 5
    assert len(set.union(*ids.values())) == 5
    assert all(1 <= id <= 2**53 for id in set.union(*ids.values()))


def test_room_and_inbox_at_once_bring_an_event_for_each_of_one_publication() -> None:
    node = Node()
    client = node.client()
    ids = {client.subscribe(ROOM), client.subscribe(INBOX)}
    start = len(client.heard)
    node.post("r", "x")
    events = client.heard[start:]
    assert client.since(start) == [(EVENT, ROOM, "message", 2, "x")] * 2
    assert {event[1] for event in events} == ids
    assert len({event[2] for event in events}) == 1


def test_after_unsubscribing_nothing_is_heard_and_the_place_is_kept() -> None:
    node = Node()
    client = node.client()
    id = client.subscribe(ROOM)
    assert client.tell([UNSUBSCRIBE, 2, id]) == [(UNSUBSCRIBED, 2)]
    assert errors(client.tell([UNSUBSCRIBE, 3, id])) == ["wamp.error.no_such_subscription"]
    start = len(client.heard)
    node.post("r", "two")
    assert client.since(start) == []
    assert client.tell([SUBSCRIBE, 4, {}, ROOM]) == [
        (SUBSCRIBED, 4), (EVENT, ROOM, "message", 2, "two"), (EVENT, ROOM, "caught_up", 2),
    ]  # fmt: skip


# Losing a room


@pytest.mark.parametrize("name", NAMES)
def test_losing_a_room_ends_its_subscriptions(name: str) -> None:
    node = Node()
    client = node.client("ann", name)
    ids = {client.subscribe(topic) for topic in (ROOM, f"{ROOM}.typing")}
    start = len(client.heard)
    node.now(node.chat.rooms.leave("r", ["ann"]))
    node.post("r", "unheard")
    event, *notices = client.heard[start:]
    assert (event[0], event[5]["type"], event[5]["members"]) == (EVENT, "left", ["ann"])
    assert sorted(notices, key=str) == sorted(
        ([UNSUBSCRIBED, 0, {"subscription": id, "reason": "mercury.left"}] for id in ids), key=str
    )
    assert errors(client.tell([UNSUBSCRIBE, 9, next(iter(ids))])) == ["wamp.error.no_such_subscription"]
    node.join("r", "ann")
    node.post("r", "unheard as well")
    assert client.since(start + 3)[1:] == []


@pytest.mark.parametrize(
    ("roles", "agent"),
    [({"subscriber": {}}, ""), ({"caller": {}}, ""), (ROLES, "AutobahnPython/26.10.2")],
)
def test_the_notice_goes_only_to_those_who_take_it(roles: dict[str, Any], agent: str) -> None:
    node = Node()
    client = node.stranger(agent=agent)
    client.tell(hello(roles=roles), [AUTHENTICATE, node.token(), {}])
    client.subscribe(ROOM)
    start = len(client.heard)
    node.now(node.chat.rooms.leave("r", ["ann"]))
    assert client.since(start) == [(EVENT, ROOM, "left", 2)]
    assert client.code is None


def test_the_inbox_outlives_a_room() -> None:
    node = Node()
    client = node.client()
    client.subscribe(INBOX)
    start = len(client.heard)
    node.now(node.chat.rooms.leave("r", ["ann"]))
    node.join("r", "ann")
    assert [m for m in client.since(start) if m[2] != "caught_up"] == [
        (EVENT, ROOM, "left", 2), (EVENT, ROOM, "joined", 3),
    ]  # fmt: skip


# Names and texts


def is_name(name: str) -> bool:
    """Whether a room may be called that."""
    try:
        check_name("room", name)
    except MercuryError:
        return False
    return True


names = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from(" .#%/\u00a0\u3000\u2028"), min_size=1)


@given(names.filter(is_name), st.sampled_from((LOG, *SIGNALS)))
def test_every_room_name_has_a_legal_uri_that_stands_for_it_alone(name: str, kind: str) -> None:
    topic = Topic(kind, name)
    check_or_raise_uri(topic.uri)
    assert topic_of(topic.uri) == topic
    assert topic_of(topic.uri, prefix=True) is None


@given(names, names)
def test_two_rooms_have_two_uris_and_two_subscriptions(one: str, other: str) -> None:
    topics = {Topic(kind, name) for name in {one, other} for kind in (LOG, *SIGNALS)} | {Topic(ALL)}
    assert len({topic.uri for topic in topics}) == len({topic.subscription for topic in topics}) == len(topics)


@given(st.text())
def test_any_uri_is_a_topic_or_none(uri: str) -> None:
    for prefix in (False, True):
        topic = topic_of("mercury.room." + uri, prefix)
        assert topic is None or topic.kind in (LOG, ALL, *SIGNALS)


@pytest.mark.parametrize("name", NAMES)
def test_odd_rooms_and_texts_come_as_they_were_sent(name: str) -> None:
    node = Node()
    rid = "a.b c#d%2E/é\u00a0😀"
    node.join(rid, "ann", "bob")
    ann, bob = node.client("ann", name), node.client("bob", NAMES[0])
    topic = Topic(LOG, rid).uri
    for client in (ann, bob):
        client.subscribe(topic)
    texts = ["", "\0", "\0nul", "\ud7ff\ue000\U0010ffff", "é" * 8000, '"\\\n\t\x7f', "\0YWJj"]
    start = len(bob.heard)
    for text in texts:
        sent = as_sent(name, text)
        assert ann.tell([CALL, 1, {}, "mercury.send", [rid, sent]])[0][:2] == (RESULT, 1)
        assert ann.tell([PUBLISH, 2, ACK, topic, [sent]])[0] == (PUBLISHED, 2)
    told = [message[4][0] for message in bob.heard[start:]]
    assert told == [as_sent(NAMES[0], text) for text in texts for _ in range(2)]
    [page] = ann.tell([CALL, 3, {}, "mercury.history", [rid]])[0][2:]
    assert [message["text"] for message in page["messages"]] == [as_sent(name, text) for text in texts for _ in "12"]


def as_sent(name: str, text: str) -> str:
    """How a text stands in a serialization: in JSON a string that begins with NUL is bytes in base64 (basic profile,
    Binary Conversion of JSON Strings), so a text that does is sent as its bytes."""
    nul = name == NAMES[0] and text.startswith("\0")
    return "\0" + b64encode(text.encode()).decode() if nul else text


def test_bytes_are_the_text_that_they_spell() -> None:
    client = Node().client("ann", "wamp.2.cbor")
    assert client.tell([CALL, 1, {}, "mercury.send", ["r", "é".encode()]])[0][:2] == (RESULT, 1)
    assert errors(client.tell([CALL, 2, {}, "mercury.send", ["r", b"\xff"]])) == ["wamp.error.invalid_argument"]
    [page] = client.tell([CALL, 3, {}, "mercury.history", ["r"]])[0][2:]
    assert [message["text"] for message in page["messages"]] == ["é"]
