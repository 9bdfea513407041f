"""REST does what docs/rest.md says: the calls, as an application's backend makes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from mercury.core.rooms import Rooms
from mercury.domain import close_codes
from mercury.errors import MercuryError
from mercury.stores.memory.store import MemoryStore
from tests.support.in_process_node import Node, listen, until

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def problem(answer: Any) -> tuple[int, str]:
    """An error's status and code; it has the one shape that errors have."""
    assert answer.json["status"] == "error"
    assert answer.json["error"]
    assert set(answer.json) <= {"status", "error", "code", "retry_after"}
    return answer.status, answer.json["code"]


# Tokens


@ensureDeferred
async def test_a_token_lets_its_member_in_until_it_expires() -> None:
    async with Node() as node:
        answer = await node.ask("POST", "/api/tokens", {"member": "ann", "ttl": 3600})
        assert answer.status == 201
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        token = await node.chat.tokens.check(answer.body["token"], answer.body["member"])
        assert token.mid == "ann"
        assert RFC3339.fullmatch(answer.body["expires"])
        left = datetime.fromisoformat(answer.body["expires"]) - datetime.now(UTC)
        assert timedelta(minutes=30) < left < timedelta(minutes=90)


@ensureDeferred
async def test_revoking_a_token_closes_its_connections_and_no_others() -> None:
    async with Node() as node:
        phone = await listen(node, "ann", "phone")
        secret = (await node.ask("POST", "/api/tokens", {"member": "ann"})).body["token"]
        laptop = await listen(node, "ann", "laptop")
        assert (await node.ask("DELETE", "/api/tokens", {"token": secret})).body == {"revoked": 1}
        assert (await node.ask("DELETE", "/api/tokens", {"token": secret})).body == {"revoked": 0}
        with pytest.raises(MercuryError, match="unauthorized"):
            await node.chat.tokens.check(secret, "ann")
        assert phone.closed_with is laptop.closed_with is None
        assert (await node.ask("DELETE", "/api/tokens", {"member": "ann"})).body == {"revoked": 2}
        assert phone.closed_with == laptop.closed_with == close_codes.UNAUTHORIZED.code


@pytest.mark.parametrize("body", [{}, {"token": "x", "member": "ann"}, {"token": None, "member": "ann"}, [], "x"])
@ensureDeferred
async def test_revoking_takes_either_a_token_or_a_member(body: object) -> None:
    async with Node() as node:
        assert problem(await node.ask("DELETE", "/api/tokens", body)) == (400, "bad_request")


# Rooms


@ensureDeferred
async def test_a_room_comes_into_being_with_its_members_and_goes_with_them() -> None:
    async with Node() as node:
        assert problem(await node.ask("GET", "/api/rooms/lobby")) == (404, "not_found")
        members = {"members": ["ann", "bob", "ann"]}
        assert (await node.ask("POST", "/api/rooms/lobby/members", members)).body == {"joined": ["ann", "bob"]}
        assert (await node.ask("POST", "/api/rooms/lobby/members", members)).body == {"joined": []}
        room = (await node.ask("GET", "/api/rooms/lobby")).body
        assert RFC3339.fullmatch(room.pop("ctime"))
        assert room == {"rid": "lobby", "head": 1, "floor": 0, "messages": 0, "members": 2}
        ann = await listen(node, "ann")
        assert (await node.ask("DELETE", "/api/rooms/lobby")).json == {"status": "ok"}
        assert ann.said("left")[0]["members"] == ["ann", "bob"]
        assert problem(await node.ask("GET", "/api/rooms/lobby")) == (404, "not_found")
        assert problem(await node.ask("DELETE", "/api/rooms/lobby")) == (404, "not_found")


class Contested(MemoryStore):
    """A store in which others are put into a room at the last moment before it is deleted, `times` times."""

    way_in: Rooms
    times = 3

    def delete_room(self, rid: str) -> Deferred[bool]:
        if not self.times:
            return super().delete_room(rid)
        self.times -= 1
        joining = Deferred.fromCoroutine(self.way_in.join(rid, [f"late{self.times}"]))
        return joining.addCallback(lambda _: super(Contested, self).delete_room(rid))


@ensureDeferred
async def test_whoever_is_put_in_while_a_room_is_deleted_leaves_it_by_the_log() -> None:
    store = Contested()
    async with Node(store) as node:
        store.way_in = node.chat.rooms
        await node.chat.rooms.join("lobby", ["ann"])
        ear = await listen(node, "late0")
        assert (await node.ask("DELETE", "/api/rooms/lobby")).json == {"status": "ok"}
        assert problem(await node.ask("GET", "/api/rooms/lobby")) == (404, "not_found")
        await until(lambda: ear.said("left"))
        assert ear.said("left")[0]["members"] == ["late0"]
        await node.chat.rooms.join("lobby", ["ann"])
        await node.chat.rooms.post("ann", "lobby", "among ourselves")
        assert not ear.said("message")


@ensureDeferred
async def test_a_room_that_others_are_put_into_all_the_while_is_not_deleted() -> None:
    store = Contested()
    store.times = 10**6
    async with Node(store) as node:
        store.way_in = node.chat.rooms
        await node.chat.rooms.join("lobby", ["ann"])
        assert problem(await node.ask("DELETE", "/api/rooms/lobby")) == (409, "conflict")
        assert len(await store.members("lobby", "", 9)) == 1


@ensureDeferred
async def test_rooms_and_members_are_listed_by_name_in_pages() -> None:
    names = ["a", "b", "c", "ä", "日"]
    async with Node() as node:
        for name in reversed(names):
            await node.chat.rooms.join(name, names)
        for path, key in (("/api/rooms", "rooms"), ("/api/rooms/b/members", "members")):
            found, after, more = [], "", True
            while more:
                page = (await node.ask("GET", f"{path}?limit=2&after={after}")).body
                found += [item["rid"] if key == "rooms" else item for item in page[key]]
                after, more = "".join(f"%{byte:02X}" for byte in found[-1].encode()), page["more"]
            assert found == names
        assert (await node.ask("GET", "/api/rooms?limit=5")).body["more"] is False
        assert problem(await node.ask("GET", "/api/rooms/nowhere/members")) == (404, "not_found")


@ensureDeferred
async def test_members_leave_when_they_are_taken_out() -> None:
    async with Node() as node:
        await node.chat.rooms.join("lobby", ["ann", "bob"])
        some = {"members": ["bob", "eve"]}
        assert (await node.ask("DELETE", "/api/rooms/lobby/members", some)).body == {"left": ["bob"]}
        assert (await node.ask("GET", "/api/rooms/lobby/members")).body == {"members": ["ann"], "more": False}
        assert problem(await node.ask("DELETE", "/api/rooms/nowhere/members", some)) == (404, "not_found")


@pytest.mark.parametrize("members", [[], [""], ["a\n"], ["x" * 191], ["ж" * 96], "ann", [1], None, ["x"] * 1001])
@ensureDeferred
async def test_names_that_cannot_be_are_refused(members: object) -> None:
    async with Node() as node:
        for method in ("POST", "DELETE"):
            await node.chat.rooms.join("lobby", ["ann"])
            answer = await node.ask(method, "/api/rooms/lobby/members", {"members": members})
            assert problem(answer) == (400, "bad_request")


# Messages


@ensureDeferred
async def test_a_message_is_stored_and_heard_as_its_member_or_the_system_said_it() -> None:
    async with Node() as node:
        await node.chat.rooms.join("lobby", ["ann", "bob"])
        bob = await listen(node, "bob")
        first = await node.ask("POST", "/api/rooms/lobby/messages", {"text": "hi 👋\n", "member": "ann"})
        second = await node.ask("POST", "/api/rooms/lobby/messages", {"text": "welcome"})
        assert (first.status, second.status) == (201, 201)
        assert (first.body["seq"], second.body["seq"], second.body["duplicate"]) == (2, 3, False)
        await until(lambda: len(bob.said("message")) == 2)
        assert [(m["mid"], m["text"]) for m in bob.said("message")] == [("ann", "hi 👋\n"), ("", "welcome")]
        listed = (await node.ask("GET", "/api/rooms/lobby/messages")).body
        assert listed == {"messages": bob.said("message"), "more": False}


@ensureDeferred
async def test_who_is_not_in_the_room_says_nothing_there() -> None:
    async with Node(text_bytes=10) as node:
        await node.chat.rooms.join("lobby", ["ann"])
        say = "/api/rooms/lobby/messages"
        assert problem(await node.ask("POST", say, {"text": "x", "member": "eve"})) == (403, "forbidden")
        assert problem(await node.ask("POST", "/api/rooms/no/messages", {"text": "x"})) == (404, "not_found")
        assert problem(await node.ask("POST", say, {"text": "x", "member": ""})) == (400, "bad_request")
        assert problem(await node.ask("POST", say, {"text": "01234567890"})) == (413, "too_large")
        assert (await node.ask("GET", "/api/rooms/lobby")).body["head"] == 1


@ensureDeferred
async def test_a_message_with_the_same_idempotency_key_is_stored_once() -> None:
    async with Node() as node:
        await node.chat.rooms.join("lobby", ["ann"])
        say, key = "/api/rooms/lobby/messages", {"Idempotency-Key": "order-17"}
        first = await node.ask("POST", say, {"text": "x"}, key)
        again = await node.ask("POST", say, {"text": "x"}, key)
        assert (first.status, again.status) == (201, 200)
        assert again.body == first.body | {"duplicate": True}
        assert problem(await node.ask("POST", say, {"text": "y"}, key)) == (409, "conflict")
        assert (await node.ask("POST", say, {"text": "y", "member": "ann"}, key)).status == 201
        listed = (await node.ask("GET", say)).body["messages"]
        assert [(m["text"], m["cid"]) for m in listed] == [("x", "order-17"), ("y", "order-17")]


@pytest.mark.parametrize("key", ["", "x" * 129, "a b", "kéy", "a\r\nIdempotency-Key: b"])
@ensureDeferred
async def test_an_idempotency_key_that_cannot_be_is_refused(key: str) -> None:
    async with Node() as node:
        await node.chat.rooms.join("lobby", ["ann"])
        answer = await node.ask("POST", "/api/rooms/lobby/messages", {"text": "x"}, {"Idempotency-Key": key})
        assert problem(answer) == (400, "bad_request")


@ensureDeferred
async def test_messages_are_read_in_pages_in_both_directions() -> None:
    async with Node(history_page=4) as node:
        await node.chat.rooms.join("lobby", ["ann"])
        for number in range(2, 12):
            await node.chat.rooms.post("ann", "lobby", str(number))

        async def page(query: str) -> tuple[list[int], bool]:
            body = (await node.ask("GET", f"/api/rooms/lobby/messages?{query}")).body
            return [message["seq"] for message in body["messages"]], body["more"]

        assert await page("") == ([8, 9, 10, 11], True)
        assert await page("before=8&limit=3") == ([5, 6, 7], True)
        assert await page("before=4") == ([2, 3], False)
        assert await page("after=0&limit=2") == ([2, 3], True)
        assert await page("after=9") == ([10, 11], False)
        assert await page("after=4&before=7") == ([5, 6], False)
        assert problem(await node.ask("GET", "/api/rooms/no/messages")) == (404, "not_found")
        for wrong in ("limit=0", "limit=1001", "limit=x", "before=-1", "after=9007199254740992", "limit=1&limit=2"):
            answer = await node.ask("GET", f"/api/rooms/lobby/messages?{wrong}")
            assert problem(answer) == (400, "bad_request"), wrong


# Members


@ensureDeferred
async def test_a_members_rooms_tell_what_they_have_not_read() -> None:
    async with Node() as node:
        for room in ("a", "b"):
            await node.chat.rooms.join(room, ["ann"])
            for text in "xyz":
                await node.chat.rooms.post("", room, text)
        await node.chat.rooms.read("ann", "b", 3)
        assert (await node.ask("GET", "/api/members/ann/rooms")).body["rooms"] == [
            {"rid": "a", "head": 4, "read": 1, "unread": 3},
            {"rid": "b", "head": 4, "read": 3, "unread": 1},
        ]
        await node.chat.tokens.make("bob")
        assert (await node.ask("GET", "/api/members/bob/rooms")).body["rooms"] == []
        assert problem(await node.ask("GET", "/api/members/eve/rooms")) == (404, "not_found")


@ensureDeferred
async def test_connections_are_listed_and_kicked() -> None:
    async with Node() as node:
        phone, laptop = await listen(node, "ann", "phone"), await listen(node, "ann", "laptop")
        connections = (await node.ask("GET", "/api/members/ann/connections")).body["connections"]
        assert [c["device"] for c in connections] == ["phone", "laptop"]
        assert {(c["peer"], c["protocol"]) for c in connections} == {("192.0.2.7:4711", "lines")}
        assert all(RFC3339.fullmatch(c["since"]) for c in connections)
        assert connections[0]["id"] != connections[1]["id"]
        path = "/api/members/ann/connections"
        assert (await node.ask("DELETE", f"{path}?device=phone")).body == {"closed": 1}
        assert (phone.closed_with, laptop.closed_with) == (close_codes.KICKED.code, None)
        assert (await node.ask("DELETE", path)).body == {"closed": 1}
        assert laptop.closed_with == close_codes.KICKED.code
        assert (await node.ask("GET", path)).body == {"connections": []}
        for method in ("GET", "DELETE"):
            assert problem(await node.ask(method, "/api/members/eve/connections")) == (404, "not_found")


# As the first Mercury had them


@pytest.mark.parametrize("target", ["/api/token/1", "/api/token?member=1"])
@ensureDeferred
async def test_an_old_client_gets_its_token_in_the_old_shape(target: str) -> None:
    async with Node() as node:
        answer = await node.ask("GET", target)
        assert answer.status == 200
        secret = answer.json["body"]["token"]
        assert answer.json == {"status": "ok", "body": {"token": secret}}
        assert (await node.chat.tokens.check(secret, "1")).mid == "1"


@ensureDeferred
async def test_an_old_backend_adds_members_by_query_or_json() -> None:
    async with Node() as node:
        answer = await node.ask("POST", "/api/room/add?room=2333&member=1-2-x%20y")
        assert (answer.status, answer.json) == (200, {"status": "ok"})
        answer = await node.ask("POST", "/api/room/add", {"room": "2333", "members": ["a", "b-c"]})
        assert (answer.status, answer.json) == (200, {"status": "ok"})
        assert await node.chat.rooms.members("2333", "", 10) == ["1", "2", "a", "b-c", "x y"]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/api/token"),
        ("GET", "/api/token?member="),
        ("POST", "/api/room/add"),
        ("POST", "/api/room/add?room=2333"),
        ("POST", "/api/room/add?member=1"),
        ("POST", "/api/room/add?room=2333&member=1--2"),
        ("POST", "/api/room/add?room=&member=1"),
    ],
)
@ensureDeferred
async def test_what_was_wrong_in_an_old_call_is_said_in_the_old_shape(method: str, target: str) -> None:
    async with Node() as node:
        answer = await node.ask(method, target)
        assert 400 <= answer.status < 500
        assert answer.json == {"status": "error", "error": answer.json["error"], "code": "bad_request"}


# Names


NAMES = [
    "a/b",
    "..",
    "%",
    "%2F",
    "+",
    "a b",
    "?",
    "#",
    "&=;",
    "{room}",
    "<string:x>",
    "ж",
    "👋",
    "|",
    "//",
    "\\",
    "'\"",
]


@pytest.mark.parametrize("name", NAMES)
@ensureDeferred
async def test_any_name_can_stand_in_a_path_or_query(name: str) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in name.encode())
    async with Node() as node:
        joined = await node.ask("POST", f"/api/rooms/{quoted}/members", {"members": [name]})
        assert joined.body == {"joined": [name]}
        assert (await node.ask("GET", f"/api/rooms/{quoted}")).body["rid"] == name
        assert (await node.ask("GET", f"/api/members/{quoted}/rooms")).body["rooms"][0]["rid"] == name
        assert (await node.ask("GET", f"/api/rooms/{quoted}/members?after={quoted}")).body["members"] == []
        secret = (await node.ask("GET", f"/api/token?member={quoted}")).body["token"]
        assert (await node.chat.tokens.check(secret, name)).mid == name


@pytest.mark.parametrize("quoted", ["a%00", "a%0A", "x" * 191, "%D0%B6" * 96])
@ensureDeferred
async def test_a_name_that_cannot_be_is_refused_in_a_path_too(quoted: str) -> None:
    async with Node() as node:
        for target in (f"/api/rooms/{quoted}", f"/api/members/{quoted}/rooms", f"/api/token/{quoted}"):
            assert problem(await node.ask("GET", target)) == (400, "bad_request")


@ensureDeferred
async def test_a_plus_is_a_plus_in_a_path_and_a_space_in_a_query() -> None:
    async with Node() as node:
        await node.chat.rooms.join("a+b", ["ann"])
        assert (await node.ask("GET", "/api/rooms/a+b")).body["rid"] == "a+b"
        secret = (await node.ask("GET", "/api/token?member=a+b")).body["token"]
        assert (await node.chat.tokens.check(secret, "a b")).mid == "a b"
