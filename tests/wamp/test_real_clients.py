"""Real clients, as their registries have them, lose nothing and get nothing twice when the server is killed or stopped.

Of each kind three clients talk in one room, one for each serializer, while others write there as well: before, while
and after the clients are away. They also hear of a second room, out of which they are put.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.support.recorder import Seen
from tests.support.server_process import Server
from tests.support.wamp_judge import heard_aside, wrong_with
from tests.support.wamp_programs import CLIENTS, Client, Task, kinds, needs_node, until

pytestmark = pytest.mark.slow

ROOM = "tea & 100% cake. №1"
TOPIC = "mercury.room.tea%20&%20100%25%20cake%2E%20№1"
INBOX = "mercury.inbox"
SIDE = "side"

#: Serializer, how to log in, what to subscribe to, and whether it leaves by itself at the end, or is kicked.
TALKERS = (
    ("json", "wampcra", TOPIC, "leaves"),
    ("msgpack", "ticket", INBOX, ""),
    ("cbor", "wampcra", TOPIC, ""),
)

UNLIMITED = "--limits.messages-per-second=0"


class Crowd:
    """Others, who write into the room by REST. `server`: where they write now."""

    def __init__(self) -> None:
        self.said = 0
        self._enough = False

    async def say(self, server: Server, text: str = "", room: str = ROOM) -> bool:
        """Say something; whether the server took it."""
        body = {"text": text or f"the crowd {self.said}"}
        try:
            status, _ = await server.call("POST", f"/api/rooms/{quote(room)}/messages", body)
        except (OSError, HTTPException):
            return False
        self.said += status == 201
        return status == 201

    def chat(self, server: Server) -> Deferred[None]:
        """Talk until the server is gone, or hush(). The Deferred fires then."""
        self._enough = False
        return Deferred.fromCoroutine(self._chat(server))

    async def _chat(self, server: Server) -> None:
        while not self._enough and await self.say(server):
            await deferLater(reactor, 0.003)

    def hush(self) -> None:
        self._enough = True


class Stage:
    """A server, and a second one for the same database that is up while the first one is down, at another port."""

    def __init__(self, folder: Path, free_port: Callable[[], int]) -> None:
        api = free_port()
        self.server = Server(folder, (free_port(), api), UNLIMITED)
        self.elsewhere = Server(folder, (free_port(), api), UNLIMITED)
        self.crowd = Crowd()

    async def tasks(self) -> list[Task]:
        """What each client is told. All are in the rooms from their beginning."""
        for room in (ROOM, SIDE):
            await self.put(room)
        return [
            {
                "url": f"ws://127.0.0.1:{self.server.where.ws}/ws/connect",
                "member": serializer,
                "token": await self.server.token(serializer),
                "method": method,
                "serializer": serializer,
                "topic": topic,
                "rid": ROOM,
                "room_topic": TOPIC,
                "side": "" if topic == INBOX else f"mercury.room.{SIDE}",
                "leaves": leaves,
            }
            for serializer, method, topic, leaves in TALKERS
        ]

    async def put(self, room: str, into: bool = True) -> None:
        """Put all clients into a room, or out of it."""
        members = {"members": [serializer for serializer, *_ in TALKERS]}
        await self.server.ok("POST" if into else "DELETE", f"/api/rooms/{quote(room)}/members", members)

    async def get_on(self, clients: Sequence[Client], sessions: int) -> None:
        """Wait until each client is in its session of this number, and has sent and heard some more."""
        sent = [len(client.saw("sent")) for client in clients]
        heard = [len(client.saw("event")) for client in clients]

        def gets_on(client: Client) -> bool:
            n = clients.index(client)
            enough = len(client.saw("sent")) >= sent[n] + 10 and len(client.saw("event")) >= heard[n] + 80
            return client.has_ended() or (len(client.saw("session")) == sessions and enough)

        await wait(clients, gets_on)

    async def put_out(self) -> None:
        """Put the clients out of the second room, where something is said before, and after."""
        assert await self.crowd.say(self.server, "to all", SIDE)
        await self.put(SIDE, into=False)
        assert await self.crowd.say(self.server, "behind their backs", SIDE)

    async def meanwhile(self) -> None:
        """While the clients knock in vain, others write."""
        await self.elsewhere.start()
        for _ in range(30):
            assert await self.crowd.say(self.elsewhere)
        await self.elsewhere.kill()

    async def stop(self, clients: Sequence[Client]) -> None:
        """Say "stop", and kick those who do not leave then."""
        assert await self.crowd.say(self.server, "stop")
        await wait(clients, lambda client: client.has_ended() or client.saw("all"))
        for client in clients:
            if not client.task["leaves"]:
                await self.server.ok("DELETE", f"/api/members/{client.task['member']}/connections")
        await wait(clients, lambda client: client.has_ended())


async def wait(clients: Sequence[Client], what: Callable[[Client], object]) -> None:
    """Wait until it is true of each client."""
    await until(lambda: all(what(client) for client in clients), lambda: f"{[c.said[-3:] for c in clients]}")


@pytest_twisted.async_yield_fixture
async def stage(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, free_port)
    await stage.server.start()
    yield stage
    for server in (stage.server, stage.elsewhere):
        if server.processes:
            await server.kill()


KINDS = [pytest.param(name, marks=() if "python" in name else needs_node) for name in kinds()]


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_they_come_back_and_have_everything_once(kind: str, stage: Stage) -> None:
    """One SIGKILL, and one SIGTERM, at which the server closes with 1012. A kick is final. Who is put out of a room
    hears on of others."""
    people = kinds()[kind]()
    try:
        clients = await people.begin(await stage.tasks())
        for session, away in ((1, stage.server.kill), (2, stage.server.stop)):
            chat = stage.crowd.chat(stage.server)
            await stage.get_on(clients, session)
            if session == 1:
                await stage.put_out()
                await stage.get_on(clients, session)
            await away()
            await chat
            await stage.meanwhile()
            await stage.server.start()
        chat = stage.crowd.chat(stage.server)
        await stage.get_on(clients, 3)
        stage.crowd.hush()
        await chat
        await stage.stop(clients)
    finally:
        await people.end()
    for client in clients:
        assert client.complaint() == ""
    history = await stage.server.history(ROOM)
    assert len(history) > 300
    for client in clients:
        assert wrong_with(client.said, client.task, history, sessions=3) == []
        assert heard_aside(client.said, SIDE) == ["joined", "to all", "left"]
        revoked = ["mercury.left"] if "autobahn_js" in kind and client.task["side"] else []
        assert [one["why"] for one in client.saw("revoked")] == revoked
        if "autobahn" in kind:
            last = "wamp.close.goodbye_and_out" if client.task["leaves"] else "wamp.close.killed"
            assert client.saw("closed")[-1]["why"] == last


def test_the_judge_finds_what_is_wrong() -> None:
    """Of an account of two sessions in which all is well, and of those in which one thing is not."""
    task = {"member": "ann", "method": "ticket", "rid": "lobby", "room_topic": "mercury.room.lobby"}
    texts = ["hello", "ann 0", "ann 1", "stop"]
    history = [
        Seen("lobby", n + 2, n + 2, "message", "ann" if text.startswith("ann") else "", text)
        for n, text in enumerate(texts)
    ]

    def event(type: str, seq: int, text: str | None = None) -> dict[str, Any]:
        told = {"rid": "lobby", "topic": "mercury.room.lobby", "type": type, "seq": seq}
        return {"saw": "event", "text": text, **told}

    messages = [event("message", seen.seq, seen.text) for seen in history]
    good = [
        {"saw": "session", "method": "ticket"},
        event("joined", 1),
        messages[0],
        event("caught_up", 2),
        messages[1],
        {"saw": "sent", "seq": 3, "text": "ann 0", "duplicate": False},
        {"saw": "closed"},
        {"saw": "session", "method": "ticket"},
        event("caught_up", 3),
        *messages[2:],
        {"saw": "sent", "seq": 4, "text": "ann 1", "duplicate": True},
        *({"saw": "history", "seq": seen.seq, "text": seen.text} for seen in history),
    ]

    def judged(said: Sequence[dict[str, Any]]) -> list[str]:
        return wrong_with(said, task, history, sessions=2)

    assert judged(good) == []
    for n in range(len(good)):
        assert judged(good[:n] + good[n + 1 :]) != [], f"{good[n]} was lost"
        if good[n]["saw"] != "closed" and good[n].get("type") != "caught_up":
            assert judged([*good[: n + 1], *good[n:]]) != [], f"{good[n]} came twice"
    for n, one in enumerate(good):
        if one.get("text"):
            assert judged([*good[:n], one | {"text": "something else"}, *good[n + 1 :]]) != []
    assert judged([*good, event("reset", 1)]) != []
    assert judged([*good, {"saw": "error", "error": "mercury.error.forbidden"}]) != []


def test_the_javascript_packages_are_pinned_and_the_lock_names_no_registry() -> None:
    pins = json.loads((CLIENTS / "package.json").read_text())["dependencies"]
    lock = json.loads((CLIENTS / "package-lock.json").read_text())["packages"]
    assert pins == {name: lock[f"node_modules/{name}"]["version"] for name in pins}
    assert not any("resolved" in package for package in lock.values())
