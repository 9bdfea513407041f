"""goTalk's gotalk in the test's own process, on a free port of 127.0.0.1, with passwords that cost nothing to check.

async with GotalkNode() as gotalk:
    ann = await gotalk.person("ann")
    answer = await gotalk.post("/sync", token=ann.token)
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from urllib.parse import urlencode

from argon2 import PasswordHasher
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString

from mercury.errors import CODES
from mercury.gotalk.passwords import Passwords
from mercury.interfaces import IStore
from mercury.node.build import make_gotalk
from mercury.settings.limits import Limits
from mercury.settings.schema import Config, Gotalk
from tests.support.in_process_node import Answer, Node, reactor

PASSWORD = "correct horse"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


WRONG_NUMBERS = ["+2", "-2", " 2", "2 ", "2_0", "02", "2.0", "2e0", "0x2", "٢", "２", "", "x", str(2**63), "9" * 400]


class Person(NamedTuple):
    """Somebody who has logged in. `cookie`: what /login set."""

    id: int
    name: str
    token: str
    cookie: str


class GotalkNode(Node):
    """A Node whose port is goTalk's. `gotalk`: its settings; nobody is throttled unless they say so."""

    endpoint = "tcp:0:interface=127.0.0.1"

    def __init__(self, store: IStore | None = None, gotalk: dict[str, Any] | None = None, **limits: Any) -> None:
        super().__init__(store, **limits)
        free = {"logins_per_minute": 0, "registrations_per_minute": 0}
        self.config = Config(limits=Limits(**limits), gotalk=Gotalk(**free | (gotalk or {})))

    async def __aenter__(self) -> GotalkNode:
        await self.store.open()
        passwords = Passwords(None, maybeDeferred)
        passwords._hasher = PasswordHasher(1, 8, 1)
        site = make_gotalk(reactor, self.chat, self.config, passwords)
        self._port = await serverFromString(reactor, self.endpoint).listen(site)
        return self

    async def post(self, path: str, headers: dict[str, str] | None = None, /, **fields: object) -> Answer:
        """One call, as a form."""
        return await self.ask("POST", path, urlencode(fields).encode(), FORM | (headers or {}))

    async def person(self, name: str) -> Person:
        """Register somebody and log them in."""
        assert (await self.post("/register", username=name, password=PASSWORD)).status == 200
        return await self.login(name)

    async def login(self, name: str) -> Person:
        """Log somebody in."""
        answer = await self.post("/login", username=name, password=PASSWORD)
        cookie = answer.headers["set-cookie"].partition(";")[0]
        return Person(answer.json["Id"], name, answer.json["SessionID"], cookie)

    async def say(self, sender: Person, receiver: Person, *texts: str) -> None:
        """One sends something to the other."""
        for text in texts:
            answer = await self.post("/send", token=sender.token, id=sender.id, sendToId=receiver.id, content=text)
            assert (answer.status, answer.json) == (200, "message received")

    async def sync(self, person: Person, **fields: object) -> list[str]:
        """The texts that a sync hands over, to a client that acks unless it says otherwise."""
        answer = await self.post("/sync", token=person.token, id=person.id, **fields)
        assert answer.status == 200, answer
        return [] if answer.json == "no message" else [message["Content"] for message in answer.json]


def request(path: str, version: str = "1.1", headers: tuple[str, ...] = (), **fields: object) -> bytes:
    """The bytes of a call on a connection that stays open."""
    body = urlencode(fields)
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def contents(data: bytes) -> list[str]:
    """The texts of the messages in the last answer of some bytes."""
    return [message["Content"] for message in json.loads(data.rpartition(b"\r\n\r\n")[2])]


def problem(answer: Answer) -> tuple[int, str]:
    """An error's status and code; it has the one shape that errors have."""
    assert answer.json["status"] == "error"
    assert answer.json["error"]
    assert set(answer.json) <= {"status", "error", "code", "retry_after"}
    assert answer.status in (CODES[answer.json["code"]][0], 405)
    return answer.status, answer.json["code"]
