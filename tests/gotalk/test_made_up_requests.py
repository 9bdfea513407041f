"""A generator makes up 5,000 requests to goTalk's gotalk, right and wrong ones, and may find no fault."""

from __future__ import annotations

import json
import random
from typing import Any
from urllib.parse import urlencode

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogEvent, eventAsText, globalLogPublisher

from tests.support.gotalk_node import PASSWORD, WRONG_NUMBERS, GotalkNode, Person, problem
from tests.support.in_process_node import Answer

pytestmark = pytest.mark.slow


class Maker:
    """Makes up requests: mostly right, with something wrong in them."""

    PATHS = ("/register", "/login", "/logout", "/getuseridbyname", "/send", "/sync", "/addfriend", "/friendlist",
             "/people", "/history", "/read")  # fmt: skip
    NAMES = ("token", "id", "username", "password", "sendToId", "content", "friendid", "ack", "wait", "device", "cid",
             "invite", "before", "after", "seq", "x", "", "é")  # fmt: skip
    TEXTS = (
        "",
        "x",
        "ann",
        "Bob",
        PASSWORD,
        "\x00",
        "é" * 200,
        "\u202e",
        "' OR 1=1 --",
        "%s%n",
        "{{7*7}}",
        "../..",
        "a" * 20000,
    )

    def __init__(self, seed: int, people: list[Person]) -> None:
        self.random = random.Random(seed)
        self.people = people
        self.person = people[0]

    def value(self, name: str) -> Any:
        """What stands in a field."""
        some = self.random
        person = self.person
        right: dict[str, Any] = {
            "token": person.token, "id": person.id, "username": person.name, "password": PASSWORD, "ack": 1, "wait": 0,
            "sendToId": person.id, "content": "hello", "friendid": person.id, "before": 9, "after": 0, "seq": 1,
        }  # fmt: skip
        if some.random() < 0.9 and name in right:
            return right[name]
        if name == "wait":
            return "0x"
        return some.choice([*self.TEXTS, *WRONG_NUMBERS, 0, 1, 2, 2**62, 2**63 - 1])

    def make(self) -> bytes:
        """The bytes of one."""
        some = self.random
        self.person = some.choice(self.people)
        names = [name for name in self.NAMES if some.random() < 0.8]
        fields = [(name, self.value(name)) for name in names] * (2 if some.random() < 0.05 else 1)
        shapes: list[Any] = [None, True, 1.5, -1, [], {}, [["id", 1]], {"a": {"b": [1]}}]
        as_json = json.dumps(dict(fields) | {some.choice(self.NAMES): some.choice(shapes)})
        kind, body = some.choice(
            [
                *[("application/x-www-form-urlencoded", urlencode(fields).encode())] * 4,
                *[("application/json", json.dumps(dict(fields)).encode())] * 2,
                ("application/json; charset=utf-8", as_json.encode()),
                ("application/json", some.randbytes(some.randrange(40))),
                ("text/plain", some.randbytes(some.randrange(40))),
                ("multipart/form-data; boundary=x", b"--x\r\n\r\n--x--"),
            ]
        )
        method = "POST" if some.random() < 0.95 else some.choice(("GET", "PUT", "HEAD", "OPTIONS", "DELETE", "FOO"))
        path = (
            some.choice(self.PATHS)
            if some.random() < 0.95
            else some.choice(("/", "/x", "/send/", "//", "/%ff", "/send?id=%"))
        )
        cookie = some.choice(("", "gotalk=", "gotalk=x", "gotalk; =", self.people[0].cookie))
        origin = some.choice(("", "", "", "http://localhost", "http://[", "null"))
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
        ]
        lines += [f"Cookie: {cookie}"] if cookie else []
        lines += [f"Origin: {origin}"] if origin else []
        return "\r\n".join([*lines, "Connection: close"]).encode() + b"\r\n\r\n" + body


@ensureDeferred
async def test_no_request_that_can_be_made_up_is_a_fault() -> None:
    logged: list[LogEvent] = []
    observer: Any = logged.append
    globalLogPublisher.addObserver(observer)
    statuses: dict[int, int] = {}
    async with GotalkNode() as gotalk:
        maker = Maker(4, [await gotalk.person(name) for name in ("ann", "Bob", "eve")])
        for _ in range(5000):
            wiretap = await gotalk.connect()
            data = maker.make()
            wiretap.write(data)
            head, _, body = (await wiretap.all()).partition(b"\r\n\r\n")
            gotalk._wiretaps.clear()
            status = int(head.split()[1])
            statuses[status] = statuses.get(status, 0) + 1
            assert status < 500, data
            if data.startswith(b"POST /logout"):
                maker.people = [await gotalk.login(person.name) for person in maker.people]
            if status >= 400 and not data.startswith(b"HEAD"):
                problem(Answer(status, {}, json.loads(body)))
    globalLogPublisher.removeObserver(observer)
    assert [eventAsText(event) for event in logged if event["log_level"].name not in ("debug", "info")] == []
    assert {200, 400, 401, 403, 404, 405, 409} <= statuses.keys()
    assert statuses[200] > 1000  # it does get somewhere
