"""goTalk's pages as files, and the calls that only they use: whom somebody knows, what was said, what is read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred

from mercury.domain import events
from tests.support.gotalk_node import PASSWORD, GotalkNode

PAGES = ["/login", "/register", "/send", "/send?username=ann&token=cookie"]
PARTS = {"/gotalk.css": "text/css; charset=utf-8", "/gotalk.svg": "image/svg+xml"} | dict.fromkeys(
    ["/call.js", "/chat.js", "/door.js", "/outbox.js", "/view.js"], "text/javascript; charset=utf-8"
)


@pytest_twisted.async_yield_fixture
async def gotalk() -> AsyncIterator[GotalkNode]:
    async with GotalkNode() as gotalk:
        yield gotalk


# Files


class Page(NamedTuple):
    """What was answered to a browser."""

    status: int
    headers: dict[str, str]
    body: bytes


async def get(gotalk: GotalkNode, path: str, *headers: str) -> Page:
    """One request as a browser makes it."""
    wiretap = await gotalk.connect()
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    wiretap.write("\r\n".join(lines).encode() + b"\r\n\r\n")
    head, _, body = (await wiretap.all()).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    return Page(int(status.split()[1]), {n.lower(): v for n, v in (field.split(": ", 1) for field in fields)}, body)


@ensureDeferred
async def test_pages_are_at_the_old_addresses_and_nobody_keeps_them(gotalk: GotalkNode) -> None:
    for path in PAGES:
        page = await get(gotalk, path)
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert page.headers["cache-control"] == "no-store"
        assert page.body.startswith(b"<!doctype html>")


@pytest.mark.parametrize(("path", "target"), [("/", "/login"), ("/sync", "/send"), ("/sync?token=x", "/send")])
@ensureDeferred
async def test_what_has_moved_says_where(gotalk: GotalkNode, path: str, target: str) -> None:
    moved = await get(gotalk, path)
    assert (moved.status, moved.headers["location"], moved.body) == (302, target, b"")


@pytest.mark.parametrize(("path", "kind"), PARTS.items())
@ensureDeferred
async def test_parts_of_pages_are_kept_and_asked_for_again_each_time(gotalk: GotalkNode, path: str, kind: str) -> None:
    part = await get(gotalk, path)
    assert (part.status, part.headers["content-type"], part.headers["cache-control"]) == (200, kind, "no-cache")
    again = await get(gotalk, path, f"If-None-Match: {part.headers['etag']}")
    assert (again.status, again.body) == (304, b"")
    other = await get(gotalk, path, 'If-None-Match: "other"')
    assert (other.status, other.body) == (200, part.body)


@pytest.mark.parametrize("path", ["/login", "/", "/sync", "/chat.js", "/gotalk.svg"])
@ensureDeferred
async def test_whatever_is_shown_may_run_nothing_but_its_own_scripts(gotalk: GotalkNode, path: str) -> None:
    headers = (await get(gotalk, path)).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert {policy[what] for what in ("default-src", "base-uri", "frame-ancestors", "trusted-types")} == {"'none'"}
    assert {policy[f"{what}-src"] for what in ("script", "style", "img", "connect")} == {"'self'"}
    assert policy["require-trusted-types-for"] == "'script'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/login.html", "/send.html", "/../pages.py", "/favicon.ico", "/%2e%2e/pages.py"])
@ensureDeferred
async def test_nothing_else_of_the_folder_or_beside_it_is_served(gotalk: GotalkNode, path: str) -> None:
    assert (await get(gotalk, path)).status == 404


# Calls


@ensureDeferred
async def test_people_are_friends_first_and_then_who_else_was_written_with(gotalk: GotalkNode) -> None:
    ann, bob, eve = [await gotalk.person(name) for name in ("ann", "bob", "eve")]
    await gotalk.say(eve, ann, "one", "two")
    await gotalk.post("/addfriend", token=ann.token, id=ann.id, friendid=bob.id)
    known = await gotalk.post("/people", token=ann.token, id=ann.id)
    assert known.json == {
        "Id": ann.id,
        "Name": "ann",
        "People": [
            {"Id": bob.id, "Name": "bob", "Friend": True, "Unread": 0, "Last": 0},
            {"Id": eve.id, "Name": "eve", "Friend": False, "Unread": 2, "Last": 3},
        ],
    }


@ensureDeferred
async def test_people_have_accounts_whatever_rooms_the_application_makes(gotalk: GotalkNode) -> None:
    ann = await gotalk.person("ann")
    for rid in (f"gotalk:{ann.id}:99", f"gotalk:{ann.id}:{ann.id}", f"gotalk:99:{ann.id}", "gotalk:98:99", "gotalk:x"):
        await gotalk.chat.rooms.join(rid, [f"gotalk:{ann.id}"])
    known = (await gotalk.post("/people", token=ann.token)).json
    assert [person["Name"] for person in known["People"]] == ["ann"]


@ensureDeferred
async def test_history_has_both_sides_and_goes_both_ways(gotalk: GotalkNode) -> None:
    ann, bob, eve = [await gotalk.person(name) for name in ("ann", "bob", "eve")]
    await gotalk.say(ann, bob, "a")
    await gotalk.say(bob, ann, "b", "c")
    await gotalk.say(eve, ann, "another conversation")

    async def history(**fields: Any) -> tuple[list[str], bool]:
        said = await gotalk.post("/history", token=ann.token, id=ann.id, friendid=bob.id, **fields)
        assert said.status == 200, said
        return [message["Content"] for message in said.json["Messages"]], said.json["More"]

    whole = (await gotalk.post("/history", token=ann.token, friendid=bob.id)).json["Messages"]
    assert [(one["Content"], one["UserIdSend"], one["UserIdReceive"], one["Seq"]) for one in whole] == [
        ("a", ann.id, bob.id, 2),
        ("b", bob.id, ann.id, 3),
        ("c", bob.id, ann.id, 4),
    ]
    assert await history() == (["a", "b", "c"], False)
    assert await history(before=3) == (["a"], False)
    assert await history(after=2) == (["b", "c"], False)
    assert await history(after=4) == ([], False)
    gotalk.chat.limits.history_page = 2
    assert await history() == (["b", "c"], True)
    assert await history(after=0) == (["a", "b"], True)


@ensureDeferred
async def test_history_is_of_those_who_are_in_the_conversation(gotalk: GotalkNode) -> None:
    ann, bob, eve = [await gotalk.person(name) for name in ("ann", "bob", "eve")]
    await gotalk.say(ann, bob, "a")
    for person in (bob, ann):
        others = await gotalk.post("/history", token=eve.token, id=eve.id, friendid=person.id)
        assert others.json == {"Messages": [], "More": False}
    await gotalk.chat.rooms.leave(f"gotalk:{ann.id}:{bob.id}", [f"gotalk:{bob.id}"])
    assert (await gotalk.post("/history", token=bob.token, friendid=ann.id)).json == {"Messages": [], "More": False}
    assert len((await gotalk.post("/history", token=ann.token, friendid=bob.id)).json["Messages"]) == 1


@ensureDeferred
async def test_what_is_read_is_unread_no_more_and_the_other_one_hears_of_it(
    gotalk: GotalkNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = [await gotalk.person(name) for name in ("ann", "bob")]
    await gotalk.say(bob, ann, "one", "two", "three")
    told: list[events.Event] = []
    monkeypatch.setattr(gotalk.chat.hub, "signal", lambda rid, event, but=None: told.append(event))
    for _ in range(2):
        read = await gotalk.post("/read", token=ann.token, id=ann.id, friendid=bob.id, seq=3)
        assert (read.status, read.json) == (200, "read")
    (person,) = (await gotalk.post("/people", token=ann.token)).json["People"]
    assert (person["Unread"], person["Last"]) == (1, 4)
    assert told == [events.Read(f"gotalk:{ann.id}:{bob.id}", f"gotalk:{ann.id}", 3)]


@ensureDeferred
async def test_what_the_application_says_names_its_author(gotalk: GotalkNode) -> None:
    ann, bob = [await gotalk.person(name) for name in ("ann", "bob")]
    await gotalk.say(ann, bob, "a")
    await gotalk.chat.rooms.post("", f"gotalk:{ann.id}:{bob.id}", "Be kind to each other.")
    last = (await gotalk.post("/history", token=bob.token, friendid=ann.id)).json["Messages"][-1]
    assert (last["Content"], last["UserIdSend"], last["From"]) == ("Be kind to each other.", 0, "")


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/people", {"token": ""}, 401),
        ("/people", {"id": 99}, 401),
        ("/history", {"friendid": 99}, 404),
        ("/history", {}, 400),
        ("/history", {"friendid": 1, "before": "-1"}, 400),
        ("/history", {"friendid": 1, "after": ""}, 400),
        ("/history", {"friendid": 1, "before": 2**63 - 1, "after": 2**63 - 1}, 200),
        ("/read", {"friendid": 99, "seq": 1}, 404),
        ("/read", {"friendid": 1}, 400),
        ("/read", {"friendid": 1, "seq": 2**63 - 1}, 200),
    ],
)
@ensureDeferred
async def test_what_cannot_be_is_refused(gotalk: GotalkNode, path: str, fields: dict[str, Any], status: int) -> None:
    ann = await gotalk.person("ann")
    given: dict[str, Any] = {"token": ann.token, "id": ann.id, **fields}
    assert (await gotalk.post(path, **given)).status == status


@ensureDeferred
async def test_the_pages_way_to_log_in_gives_the_token_to_the_cookie_alone(gotalk: GotalkNode) -> None:
    ann = await gotalk.person("ann")
    answer = await gotalk.post("/login", username="ann", password=PASSWORD, cookieonly="1")
    assert answer.json == {"Id": ann.id, "Name": "ann", "Pwd": "", "SessionID": ""}
    cookie = answer.headers["set-cookie"]
    assert "; HttpOnly" in cookie
    assert "; SameSite=Strict" in cookie
    assert (await gotalk.post("/people", {"Cookie": cookie.partition(";")[0]})).json["Name"] == "ann"
    assert (await gotalk.post("/people", {"Cookie": "gotalk=made-up"})).status == 401
