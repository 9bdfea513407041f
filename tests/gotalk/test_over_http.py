"""goTalk's calls under HTTP as it comes: fields spelt in every way, wrong ones, strangers, cookies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred

from mercury.gotalk.conversations import member_of
from mercury.gotalk.long_poll import LINGER
from tests.support.gotalk_node import FORM, PASSWORD, WRONG_NUMBERS, GotalkNode, Person, problem, request
from tests.support.in_process_node import Wiretap, until

JSON = {"Content-Type": "application/json"}


class Street:
    """A gotalk with Ann and Bob before it."""

    def __init__(self, gotalk: GotalkNode, ann: Person, bob: Person) -> None:
        self.gotalk, self.ann, self.bob = gotalk, ann, bob


@pytest_twisted.async_yield_fixture
async def street() -> AsyncIterator[Street]:
    async with GotalkNode() as gotalk:
        yield Street(gotalk, await gotalk.person("ann"), await gotalk.person("Bob"))


# How fields are spelt


@pytest.mark.parametrize(
    "fields",
    [
        {"token": "", "id": 1, "username": "ann", "sendToId": 2, "content": "x"},
        {"Token": "", "Id": 1, "Username": "ann", "sendTo": 2, "Content": "x"},
        {"TOKEN": "", "sendtoid": 2, "CONTENT": "x"},
        {"token": "", "id": "", "username": "", "sendToId": 2, "content": "x", "submit": "Send"},
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
@ensureDeferred
async def test_fields_are_taken_as_the_document_and_the_pages_spell_them(
    street: Street, fields: dict[str, Any], as_json: bool
) -> None:
    fields = {name: street.ann.token if name.lower() == "token" else value for name, value in fields.items()}
    body, headers = (json.dumps(fields).encode(), JSON) if as_json else (urlencode(fields).encode(), FORM)
    answer = await street.gotalk.ask("POST", "/send", body, headers)
    assert (answer.status, answer.json) == (200, "message received")
    assert await street.gotalk.sync(street.bob) == ["x"]


@ensureDeferred
async def test_a_form_without_a_content_type_is_a_form(street: Street) -> None:
    body = urlencode({"token": street.bob.token, "id": street.bob.id}).encode()
    assert (await street.gotalk.ask("POST", "/sync", body)).json == "no message"


@ensureDeferred
async def test_texts_come_as_they_were_sent(street: Street) -> None:
    for text in ("<script>alert(1)</script>", "a+b & c=d%", "\x00\n\r\t", "👩\u200d🔧 李小龙", '"\\'):
        for headers, body in ((FORM, urlencode), (JSON, json.dumps)):
            fields = {"token": street.ann.token, "sendTo": street.bob.id, "content": text}
            assert (await street.gotalk.ask("POST", "/send", body(fields).encode(), headers)).status == 200
        poll = await street.gotalk.post("/sync", token=street.bob.token, ack=0)
        assert [message["Content"] for message in poll.json] == [text, text]
        await street.gotalk.sync(street.bob, ack=poll.json[-1]["Id"])


@pytest.mark.parametrize("number", WRONG_NUMBERS)
@ensureDeferred
async def test_numbers_are_decimal(street: Street, number: str) -> None:
    send = await street.gotalk.post("/send", token=street.ann.token, sendToId=number, content="x")
    assert problem(send) == (400, "bad_request")
    if number:
        assert problem(await street.gotalk.post("/sync", token=street.ann.token, id=number)) == (400, "bad_request")
        assert problem(await street.gotalk.post("/sync", token=street.ann.token, ack=number)) == (400, "bad_request")


@pytest.mark.parametrize("number", ["2.0", "2e0", "-2", "true", "null", "[2]", "{}", "NaN", str(2**63), "9" * 400])
@ensureDeferred
async def test_numbers_in_json_are_decimal_too(street: Street, number: str) -> None:
    body = f'{{"token":"{street.ann.token}","content":"x","sendToId":{number}}}'
    assert problem(await street.gotalk.ask("POST", "/send", body.encode(), JSON)) == (400, "bad_request")


@pytest.mark.parametrize(
    "body",
    [
        b"token=%FF",
        b"token=\xff",
        b"token=%",
        b"token=%zz",
        b"id=1&id=1",
        b"token=a&Token=a",
        b"sendTo=1&sendToId=1",
        b"x=1&" * 100,
    ],
)
@ensureDeferred
async def test_what_is_no_form_is_refused(street: Street, body: bytes) -> None:
    assert problem(await street.gotalk.ask("POST", "/send", body, FORM)) == (400, "bad_request")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"1",
        b'"x"',
        b'[["token","x"]]',
        b'{"id":1,"ID":1}',
        b'{"token":"\xff"}',
        b"[" * 9999,
        b'{"token":"\\ud800"}',
        b'{"token":["x"]}',
        b'{"token":1}',
    ],
)
@ensureDeferred
async def test_what_is_no_json_object_is_refused(street: Street, body: bytes) -> None:
    assert problem(await street.gotalk.ask("POST", "/send", body, JSON)) == (400, "bad_request")


@ensureDeferred
async def test_files_are_not_taken(street: Street) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert problem(await street.gotalk.ask("POST", "/sync", b"--x--", headers)) == (400, "bad_request")


# What is said, and to whom


@ensureDeferred
async def test_what_cannot_be_sent_is_refused_and_not_said_to_be_received(street: Street) -> None:
    async with GotalkNode(text_bytes=10, messages_per_second=1, burst=1) as gotalk:
        ann, bob = await gotalk.person("ann"), await gotalk.person("bob")

        async def send(**fields: object) -> tuple[int, str]:
            return problem(
                await gotalk.post("/send", **{"token": ann.token, "sendToId": bob.id, "content": "x"} | fields)
            )

        assert await send(content="") == (400, "bad_request")
        assert await send(content="é" * 6) == (413, "too_large")
        assert await send(sendToId=99) == (404, "not_found")
        assert await send(sendToId=0) == (404, "not_found")
        assert await send(cid="x" * 129) == (400, "bad_request")
        assert await send(token="") == (401, "unauthorized")
        assert await send(token=bob.token, id=ann.id) == (401, "unauthorized")
        assert await send(username="bob") == (401, "unauthorized")
        assert problem(await gotalk.post("/send", token=ann.token, sendToId=bob.id)) == (400, "bad_request")
        await gotalk.say(ann, bob, "0123456789")
        answer = await gotalk.post("/send", token=ann.token, sendToId=bob.id, content="x")
        assert problem(answer) == (429, "rate_limited")
        assert int(answer.headers["retry-after"]) >= 1
        assert await gotalk.sync(bob) == ["0123456789"]


@ensureDeferred
async def test_a_cid_says_a_thing_once(street: Street) -> None:
    fields = {"token": street.ann.token, "sendToId": street.bob.id, "cid": "c1"}
    for _ in range(2):
        assert (await street.gotalk.post("/send", content="once", **fields)).json == "message received"
    assert problem(await street.gotalk.post("/send", content="other", **fields)) == (409, "conflict")
    assert await street.gotalk.sync(street.bob) == ["once"]


@ensureDeferred
async def test_a_store_that_is_away_receives_nothing(street: Street) -> None:
    await street.gotalk.post("/sync", token=street.ann.token)
    await street.gotalk.store.close()
    answer = await street.gotalk.post("/send", token=street.ann.token, sendToId=street.bob.id, content="x")
    assert problem(answer) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    for path in ("/login", "/register", "/getuseridbyname", "/sync", "/friendlist"):
        answer = await street.gotalk.post(path, username="eve", password=PASSWORD, token=street.ann.token)
        assert problem(answer) == (503, "unavailable")


@ensureDeferred
async def test_what_strangers_wrote_is_marked(street: Street) -> None:
    rooms = street.gotalk.chat.rooms
    await street.gotalk.say(street.ann, street.bob, "hello")
    room = f"gotalk:{street.ann.id}:{street.bob.id}"
    await rooms.join(room, ["carol"])
    await rooms.post("carol", room, "I am not on goTalk")
    await rooms.post("", room, "nor am I")
    messages = (await street.gotalk.post("/sync", token=street.bob.token)).json
    assert [(m["UserIdSend"], m["UserIdReceive"], m.get("From")) for m in messages] == [
        (street.ann.id, street.bob.id, None),
        (0, street.bob.id, "carol"),
        (0, street.bob.id, ""),
    ]
    assert list(messages[0]) == ["Content", "UserIdSend", "UserIdReceive", "Id", "Seq", "Time"]


# Who is let in


@ensureDeferred
async def test_a_cookie_lets_in_who_gives_no_token_or_one_that_is_made_up(street: Street) -> None:
    cookie = {"Cookie": f"a=b; {street.bob.cookie}; c"}
    for fields in ({}, {"token": "made up"}, {"token": "", "id": street.bob.id}, {"token": "x", "id": street.bob.id}):
        assert (await street.gotalk.post("/sync", cookie, **fields)).json == "no message"
        assert problem(await street.gotalk.post("/sync", **fields)) == (401, "unauthorized")
    assert problem(await street.gotalk.post("/sync", cookie, id=street.ann.id)) == (401, "unauthorized")
    assert problem(await street.gotalk.post("/sync", {"Cookie": "gotalk="})) == (401, "unauthorized")
    both = await street.gotalk.post("/friendlist", cookie, token=street.ann.token, id=street.ann.id)
    assert both.json == []  # the token that was named is the one that counts


@ensureDeferred
async def test_the_cookie_is_for_this_site_and_for_no_script(street: Street) -> None:
    answer = await street.gotalk.post("/login", username="ann", password=PASSWORD)
    value, *attributes = answer.headers["set-cookie"].split("; ")
    assert value == f"gotalk={answer.json['SessionID']}"
    assert attributes == ["Max-Age=86400", "Path=/", "HttpOnly", "SameSite=Strict"]
    async with GotalkNode(gotalk={"secure": True}) as gotalk:
        await gotalk.person("ann")
        answer = await gotalk.post("/login", username="ann", password=PASSWORD)
        assert answer.headers["set-cookie"].endswith("; SameSite=Strict; Secure")


@pytest.mark.parametrize("by_cookie", [True, False])
@ensureDeferred
async def test_logging_out_ends_the_session_and_takes_the_cookie_away(street: Street, by_cookie: bool) -> None:
    cookie = {"Cookie": street.bob.cookie}
    answer = await street.gotalk.post(
        "/logout", *([cookie] if by_cookie else []), token="" if by_cookie else street.bob.token
    )
    assert (answer.status, answer.json) == (200, "logged out")
    assert answer.headers["set-cookie"].startswith("gotalk=; Max-Age=0; Path=/; HttpOnly")
    assert problem(await street.gotalk.post("/sync", cookie)) == (401, "unauthorized")
    assert problem(await street.gotalk.post("/sync", token=street.bob.token)) == (401, "unauthorized")
    assert (await street.gotalk.post("/sync", token=street.ann.token)).json == "no message"
    assert (await street.gotalk.post("/logout")).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://[", "http://127.0.0.1:1"])
@ensureDeferred
async def test_pages_of_other_origins_may_not_call(street: Street, origin: str) -> None:
    headers = {"Origin": origin, "Cookie": street.ann.cookie}
    for path in ("/send", "/login", "/register", "/logout"):
        answer = await street.gotalk.post(path, headers, username="eve", password=PASSWORD, sendToId=2, content="x")
        assert problem(answer) == (403, "forbidden")
    own = {"Origin": "http://localhost", "Cookie": street.ann.cookie}
    assert (await street.gotalk.post("/sync", own)).json == "no message"


@ensureDeferred
async def test_no_answer_holds_a_password_or_a_hash(street: Street) -> None:
    for path, fields in {
        "/register": {"username": "eve", "password": PASSWORD},
        "/login": {"username": "eve", "password": PASSWORD},
        "/getuseridbyname": {"username": "eve"},
    }.items():
        answer = await street.gotalk.post(path, **fields)
        assert list(answer.json) == ["Id", "Name", "Pwd", "SessionID"]
        assert (answer.json["Pwd"], answer.json["Name"]) == ("", "eve")
        assert bool(answer.json["SessionID"]) == (path == "/login")
        assert PASSWORD not in json.dumps(answer.json)
        assert "argon2" not in json.dumps(answer.json)


@ensureDeferred
async def test_trying_passwords_is_throttled_and_says_until_when() -> None:
    async with GotalkNode(gotalk={"logins_per_minute": 2}) as gotalk:
        await gotalk.post("/register", username="ann", password=PASSWORD)
        for _ in range(2):
            assert problem(await gotalk.post("/login", username="ann", password="wrong")) == (401, "unauthorized")
        answer = await gotalk.post("/login", username="ann", password=PASSWORD)
        assert problem(answer) == (429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 31


@ensureDeferred
async def test_a_wrong_method_or_place_is_told_in_json(street: Street) -> None:
    for method, path in (("GET", "/friendlist"), ("PUT", "/send"), ("DELETE", "/login"), ("PATCH", "/register")):
        answer = await street.gotalk.ask(method, path)
        assert problem(answer) == (405, "bad_request")
        assert "POST" in answer.headers["allow"]
    assert problem(await street.gotalk.post("/nothing")) == (404, "not_found")
    assert problem(await street.gotalk.ask("GET", "/gotalk_pages/../gotalk.py")) == (404, "not_found")


@ensureDeferred
async def test_a_long_body_is_refused(street: Street) -> None:
    async with GotalkNode(body_bytes=500) as gotalk:
        assert problem(await gotalk.post("/login", username="x" * 500, password="x")) == (413, "too_large")


@ensureDeferred
async def test_a_form_has_room_for_a_text_in_escapes_and_not_for_much_more() -> None:
    async with GotalkNode(text_bytes=5000) as gotalk:
        ann, bob = await gotalk.person("ann"), await gotalk.person("bob")
        fields = f'"token":"{ann.token}","sendToId":{bob.id},"content":'
        escaped = "\\u0041" * 5000
        answer = await gotalk.ask("POST", "/send", f'{{{fields}"{escaped}"}}'.encode(), JSON)
        assert answer.json == "message received"
        assert await gotalk.sync(bob) == ["A" * 5000]
        answer = await gotalk.ask("POST", "/send", f'{{{fields}"{escaped * 2}"}}'.encode(), JSON)
        assert problem(answer) == (413, "too_large")
        assert "--limits.text-bytes" in answer.json["error"]
    async with GotalkNode(text_bytes=0, body_bytes=200_000) as gotalk:
        assert problem(await gotalk.post("/login", username="x" * 190_000, password="x"))[0] != 413


# Waiting


@ensureDeferred
async def test_a_poll_that_its_client_gave_up_leaves_nothing_behind(street: Street) -> None:
    hub = street.gotalk.chat.hub
    client: Wiretap = await street.gotalk.connect()
    client.write(request("/sync", token=street.bob.token, wait=60))
    await until(lambda: member_of(street.bob.id) in hub.sessions)
    (poll,) = hub.sessions[member_of(street.bob.id)]
    await until(lambda: poll._waiting)  # type: ignore[attr-defined]
    client.drop()
    await until(lambda: not poll._waiting)  # type: ignore[attr-defined]
    assert poll._leaving.getTime() - poll._chat.clock.seconds() <= LINGER  # type: ignore[attr-defined]
    await street.gotalk.say(street.ann, street.bob, "x")
    assert await street.gotalk.sync(street.bob) == ["x"]


@ensureDeferred
async def test_a_token_of_gotalk_opens_a_websocket_session_and_one_of_rest_lets_in_here(street: Street) -> None:
    tokens = street.gotalk.chat.tokens
    assert (await tokens.check(street.bob.token, member_of(street.bob.id))).mid == member_of(street.bob.id)
    secret, _ = await tokens.make(member_of(street.bob.id))
    assert (await street.gotalk.post("/sync", token=secret, id=street.bob.id)).json == "no message"
    secret, _ = await tokens.make(member_of(99))
    assert problem(await street.gotalk.post("/sync", token=secret)) == (401, "unauthorized")
