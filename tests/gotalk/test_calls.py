"""goTalk's interface, spoken by an ordinary HTTP client to a real node: each call, on each store, and after kill -9."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.task import deferLater

from tests.support.child_programs import SERVER, Program
from tests.support.gotalk_http_client import STORES, Caller, GotalkWithEngine
from tests.support.in_process_node import reactor, together
from tests.support.mariadb_servers import MariaDb
from tests.support.recorder import Record
from tests.support.recording_clients import Client, FluentClient, V1Client, V2Client, until
from tests.support.server_process import Server
from tests.support.wamp_client import WampClient

pytestmark = pytest.mark.slow

PASSWORD = "correct horse"

Settle = Callable[..., GotalkWithEngine]


@pytest.fixture
def settle(tmp_path: Path, free_port: Callable[[], int], request: pytest.FixtureRequest) -> Settle:
    """Makes a GotalkWithEngine on a store; only MySQL's needs a server that is shared."""

    def make(kind: str, *flags: str) -> GotalkWithEngine:
        mariadb: Callable[[], MariaDb] = lambda: request.getfixturevalue("mariadb")  # noqa: E731 - asked for late
        return GotalkWithEngine(tmp_path, kind, free_port, mariadb, *flags)

    return make


class Someone:
    """A person with an old client: it does not ack."""

    def __init__(self, town: GotalkWithEngine, name: str, as_browser: bool = False) -> None:
        self.caller = Caller(town.gotalk, as_browser)
        self.name = name
        self.id = 0
        self.token = ""

    async def enter(self) -> None:
        """Register and log in."""
        user = await self.caller.call("/register", username=self.name, password=PASSWORD)
        assert user == {"Id": user["Id"], "Name": self.name, "Pwd": "", "SessionID": ""}
        self.id = user["Id"]
        await self.login()

    async def login(self) -> None:
        """Log in."""
        user = await self.caller.call("/login", username=self.name, password=PASSWORD)
        self.token = user["SessionID"]
        assert user == {"Id": self.id, "Name": self.name, "Pwd": "", "SessionID": self.token}
        assert len(self.token) > 20

    async def send(self, to: int, content: str, **more: object) -> None:
        """Say something."""
        fields = {"token": self.token, "id": self.id, "username": self.name, "sendToId": to, "content": content}
        assert await self.caller.call("/send", **fields, **more) == "message received"

    async def sync(self, **more: object) -> Any:
        """What comes of a sync: the contents, or "no message"."""
        answer = await self.caller.call("/sync", token=self.token, id=self.id, **more)
        if answer == "no message":
            return answer
        for message in answer:
            assert list(message)[:3] == ["Content", "UserIdSend", "UserIdReceive"]
            assert message["UserIdReceive"] == self.id
        return [(message["Content"], message["UserIdSend"]) for message in answer]

    async def gets(self, *expected: tuple[str, int]) -> None:
        """Exactly this, and then nothing: as soon as the server has seen that it arrived."""
        assert await self.sync() == list(expected)
        assert await self.sync() == "no message"


@pytest.mark.parametrize("kind", STORES)
@ensureDeferred
async def test_every_call_of_the_old_table(kind: str, settle: Settle) -> None:
    async with settle(kind, "--gotalk.registrations-per-minute=0") as town:
        ann, bob, eve = (Someone(town, name) for name in ("ann", "Bob", "eve"))
        for person in (ann, bob, eve):
            await person.enter()
        await _all_of_it(ann, bob, eve, "c1")
        await _pages(town, ann, bob)
        await ann.send(bob.id, "before")
        await bob.gets(("before", ann.id))
        await ann.send(bob.id, "not fetched yet")
        if kind == "memory":
            return
        await town.server.kill()
        await town.server.start()
        await ann.caller.call("/friendlist", token=ann.token, id=ann.id)
        await bob.gets(("not fetched yet", ann.id))
        for person in (ann, bob):
            await person.login()
        await _all_of_it(ann, bob, eve, "c2")
        assert (await ann.caller.post("/register", username="ANN", password=PASSWORD)).status == 409


async def _all_of_it(ann: Someone, bob: Someone, eve: Someone, cid: str) -> None:
    call = ann.caller.call
    for name in ("Bob", "bob", "ＢＯＢ"):
        user = await call("/getuseridbyname", username=name)
        assert user == {"Id": bob.id, "Name": "Bob", "Pwd": "", "SessionID": ""}
    await ann.send(bob.id, "hello, Bob")
    fields = {"Token": ann.token, "id": str(ann.id), "username": "ann", "sendTo": bob.id, "content": "как дела? 👋"}
    assert await call("/send", True, **fields) == "message received"
    await bob.send(ann.id, "hello, Ann", cid=cid)
    await bob.send(ann.id, "hello, Ann", cid=cid)
    await eve.send(bob.id, "<b>me too</b>")
    await bob.gets(("hello, Bob", ann.id), ("как дела? 👋", ann.id), ("<b>me too</b>", eve.id))
    await ann.gets(("hello, Ann", bob.id))
    link = await call("/addfriend", token=ann.token, id=ann.id, friendid=bob.id)
    assert link == {"Id": link["Id"], "UserId1": ann.id, "UserId2": bob.id}
    assert (await call("/addfriend", token=bob.token, id=bob.id, friendid=ann.id))["Id"] == link["Id"]
    await call("/addfriend", token=ann.token, id=ann.id, friendid=eve.id)
    assert await call("/friendlist", token=ann.token, id=ann.id) == [bob.id, eve.id]
    assert await call("/friendlist", token=bob.token, id=bob.id) == [ann.id]
    await _what_is_refused(ann, bob)


async def _what_is_refused(ann: Someone, bob: Someone) -> None:
    refused: list[tuple[str, dict[str, object], int]] = [
        ("/login", {"username": "ann", "password": "wrong"}, 401),
        ("/login", {"username": "nobody", "password": PASSWORD}, 401),
        ("/register", {"username": "aNN", "password": PASSWORD}, 409),
        ("/register", {"username": "short", "password": "short"}, 400),
        ("/getuseridbyname", {"username": "nobody"}, 404),
        ("/send", {"token": "wrong", "id": ann.id, "sendToId": bob.id, "content": "x"}, 401),
        ("/send", {"token": bob.token, "id": ann.id, "sendToId": bob.id, "content": "x"}, 401),
        ("/send", {"token": ann.token, "id": ann.id, "sendToId": 10**9, "content": "x"}, 404),
        ("/send", {"token": ann.token, "id": ann.id, "sendToId": bob.id, "content": ""}, 400),
        ("/send", {"token": ann.token, "id": ann.id, "sendToId": bob.id, "content": "x" * 16385}, 413),
        ("/send", {"token": ann.token, "id": ann.id, "sendToId": "+2", "content": "x"}, 400),
        ("/sync", {"id": ann.id}, 401),
        ("/sync", {"token": bob.token, "id": ann.id}, 401),
        ("/addfriend", {"token": ann.token, "id": ann.id, "friendid": 10**9}, 404),
        ("/friendlist", {"token": "wrong", "id": ann.id}, 401),
    ]
    for path, fields, status in refused:
        said = await ann.caller.post(path, **fields)
        assert (said.status, said.json["status"]) == (status, "error"), (path, fields, said)


async def _pages(town: GotalkWithEngine, ann: Someone, bob: Someone) -> None:
    """The pages, and what they do without a token: their cookie lets them in until they log out, and nothing else."""
    browser = Someone(town, "ann", as_browser=True)
    browser.id = ann.id
    assert (await browser.caller.get("/")).headers["Location"] == "/login"
    for path in ("/login", "/register", f"/send?username=ann&token={'x' * 20}"):
        page = await browser.caller.get(path)
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert (await browser.caller.post("/sync", id=ann.id)).status == 401
    await browser.login()
    browser.token = "made up"
    assert await browser.sync(device="browser", ack="") == [("hello, Ann", bob.id)]
    await browser.send(ann.id, "a note to myself")
    await ann.gets(("a note to myself", ann.id))
    assert await browser.caller.call("/logout") == "logged out"
    assert browser.caller.cookie == "gotalk="
    assert (await browser.caller.post("/sync", id=ann.id)).status == 401


@pytest.mark.parametrize("kind", STORES)
@ensureDeferred
async def test_who_acks_gets_each_message_once_on_each_device_whatever_happens(kind: str, settle: Settle) -> None:
    async with settle(kind) as town:
        ann, bob = Someone(town, "ann"), Someone(town, "bob")
        await ann.enter()
        await bob.enter()
        got: dict[str, list[str]] = {"phone": [], "laptop": []}
        last = {"phone": 0, "laptop": 0}

        async def sync(device: str, reads: int) -> None:
            answer = await bob.caller.call("/sync", token=bob.token, device=device, ack=last[device])
            for message in [] if answer == "no message" else answer[:reads]:
                got[device].append(message["Content"])
                last[device] = message["Id"]

        for n in range(6):
            await ann.send(bob.id, f"{n}")
            await sync("phone", n % 3)
            if n == 3 and kind != "memory":
                await town.server.kill()
                await town.server.start()
        for device in ("phone", "laptop"):
            await sync(device, 10)
            await sync(device, 10)
            assert got[device] == [f"{n}" for n in range(6)]


@ensureDeferred
async def test_a_poll_is_answered_by_whichever_node_the_message_came_to(
    settle: Settle, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async with settle("redis") as town:
        port = free_port()
        (tmp_path / "other").mkdir()
        flags = [flag for flag in town.flags if not flag.startswith("--gotalk.port")]
        other = Server(tmp_path / "other", (free_port(), free_port()), *flags, f"--gotalk.port={port}")
        await other.start()
        try:
            ann, bob = Someone(town, "ann"), Someone(town, "bob")
            await ann.enter()
            await bob.enter()
            bob.caller.port = port

            async def say() -> None:
                await deferLater(reactor, 0.5)  # the poll is waiting by then
                await ann.send(bob.id, "hello")

            poll, _ = await together(bob.sync(wait=60), say())
            assert poll == [("hello", ann.id)]
        finally:
            await other.kill()


@ensureDeferred
async def test_a_door_that_cannot_be_opened_ends_the_start_with_one_line(free_port: Callable[[], int]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        for flag, words in (
            ("--gotalk.registration=invite", "gotalk.registration is invite, but gotalk.invite is not set"),
            (f"--gotalk.port={taken.getsockname()[1]}", "--gotalk.port: cannot listen on"),
        ):
            ports = [f"--{name}.port={free_port()}" for name in ("server.api", "server.ws", "gotalk")]
            program = Program([*SERVER, "--storage.type=memory", "--gotalk.enabled", *ports, flag])
            assert await program.ended == 1
            assert words in program.err.decode()


@pytest.mark.parametrize("fluent", [V2Client, WampClient])
@ensureDeferred
async def test_a_gotalk_user_a_v1_client_and_a_later_one_share_one_conversation(
    settle: Settle, fluent: type[FluentClient]
) -> None:
    async with settle("sqlite") as town:
        ann, bob = Someone(town, "ann"), Someone(town, "bob")
        await ann.enter()
        await bob.enter()
        await ann.send(bob.id, "over HTTP")
        room = f"gotalk:{ann.id}:{bob.id}"
        await town.server.ok("POST", f"/api/rooms/{room}/members", {"members": ["carol"]})
        record = Record()
        record.members[room] = {f"gotalk:{ann.id}", f"gotalk:{bob.id}", "carol"}
        modern = fluent(record, town.server.where, f"gotalk:{bob.id}", bob.token, "phone")
        first = V1Client(record, town.server.where, "carol", await town.server.token("carol"))
        heard: dict[str, list[tuple[str, str]]] = {"modern": [], "first": []}
        for name, client in (("modern", modern), ("first", first)):
            _write_down(client, heard[name])
            await client.connect()
        modern.say(room, "over WebSocket")
        await until(lambda: len(heard["first"]) == 1, "what the later client said")
        first.say(room, "as in 2019")
        await until(lambda: ("carol", "as in 2019") in heard["modern"], "what the old client said")
        await ann.gets(("over WebSocket", bob.id), ("as in 2019", 0))
        await ann.send(bob.id, "bye")
        everything = [
            (f"gotalk:{ann.id}", "over HTTP"),
            (f"gotalk:{bob.id}", "over WebSocket"),
            ("carol", "as in 2019"),
            (f"gotalk:{ann.id}", "bye"),
        ]
        await until(lambda: heard == {"modern": everything, "first": everything[1:]}, f"all of it: {heard}")
        await bob.gets(("over HTTP", ann.id), ("as in 2019", 0), ("bye", ann.id))
        for client in (modern, first):
            await client.close()


def _write_down(client: Client, heard: list[tuple[str, str]]) -> None:
    """Keep who said what."""
    saw = client.saw

    def see(seen: Any) -> None:
        saw(seen)
        if seen.kind == "message":
            heard.append((seen.mid, seen.text))

    client.saw = see  # type: ignore[method-assign]
