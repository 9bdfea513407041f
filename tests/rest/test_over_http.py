"""REST under HTTP as it comes: wrong, too long, too slow, cut off, from a strange page; and with a store that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, eventAsText, globalLogPublisher

from mercury.domain.model import Draft, Outcome, Token
from mercury.errors import MercuryError
from mercury.rest.site import CALL_SECONDS
from mercury.stores.memory.store import MemoryStore
from tests.support.in_process_node import Node, Wiretap, listen, parse, unplugged, until

POST = b"POST /api/tokens HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """All that is logged during a test, at any level."""
    found: list[LogEvent] = []
    observer: Any = found.append
    globalLogPublisher.addObserver(observer)
    yield found
    globalLogPublisher.removeObserver(observer)


def loud(logged: Sequence[LogEvent]) -> list[str]:
    """What was logged as a warning or worse."""
    return [eventAsText(event) for event in logged if event["log_level"].name not in ("debug", "info")]


class SlowStore(MemoryStore):
    """A store whose writes and checks wait for `gate`."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Deferred[None] = Deferred()
        self.calls = 0

    async def _later(self, work: Deferred[Any]) -> Any:
        self.calls += 1
        passed: Deferred[None] = Deferred()
        self.gate.addCallback(lambda _: passed.callback(None))
        await passed
        return await work

    def append(self, drafts: Sequence[Draft], ctime: int) -> Deferred[list[Outcome | MercuryError]]:
        if drafts[0].kind != "message":
            return super().append(drafts, ctime)
        return Deferred.fromCoroutine(self._later(super().append(drafts, ctime)))

    def put_token(self, token: Token, keep: int) -> Deferred[None]:
        return Deferred.fromCoroutine(self._later(super().put_token(token, keep)))

    def ping(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._later(super().ping()))


class BrokenStore(MemoryStore):
    """A store with a fault that nobody thought of."""

    def is_member(self, mid: str) -> Deferred[bool]:
        raise RuntimeError("canary")


# Paths and methods


@pytest.mark.parametrize("target", ["/", "/api", "/api/rooms/", "/api/rooms//members", "/api/rooms/a/b"])
@ensureDeferred
async def test_where_no_call_is_there_is_404_in_json(target: str) -> None:
    async with Node() as node:
        answer = await node.ask("GET", target)
        assert (answer.status, answer.json["code"]) == (404, "not_found")


@ensureDeferred
async def test_a_method_that_a_path_does_not_have_is_405_and_options_tells_which_it_has() -> None:
    async with Node() as node:
        answer = await node.ask("PATCH", "/api/rooms/lobby")
        assert (answer.status, answer.json["status"]) == (405, "error")
        assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS"
        answer = await node.ask("OPTIONS", "/api/rooms/lobby")
        assert (answer.status, answer.json) == (200, {"status": "ok"})
        assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS"
        assert (await node.ask("OPTIONS", "/nowhere")).status == 404


@ensureDeferred
async def test_head_is_get_without_its_body() -> None:
    async with Node() as node:
        get, head = await node.ask("GET", "/api/rooms"), await node.ask("HEAD", "/api/rooms")
        assert (head.status, head.json) == (200, None)
        assert head.headers["content-length"] == get.headers["content-length"]
        assert (await node.ask("HEAD", "/api/rooms/no")).status == 404


@pytest.mark.parametrize(
    "target",
    ["/api/rooms/%FF", "/api/rooms/%", "/api/rooms/%zz", "/api/rooms?after=%FF", "/api/rooms?after=%", "/\xa1"],
)
@ensureDeferred
async def test_a_url_that_is_not_utf8_is_a_bad_request_and_no_event(target: str, logged: list[LogEvent]) -> None:
    async with Node() as node:
        answer = await node.ask("GET", target)
        assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert loud(logged) == []


@pytest.mark.parametrize("host", ["", "a" * 80, "..", "\xff", "evil.example:99999"])
@ensureDeferred
async def test_no_host_header_does_harm(host: str, logged: list[LogEvent]) -> None:
    async with Node() as node:
        wiretap = await node.connect()
        wiretap.write(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1"))
        assert parse(await wiretap.all()).json == {"status": "ok"}
    assert loud(logged) == []


# What is taken in


@pytest.mark.parametrize(
    "body", [b"", b"x", b"{", b'{"member":"\xff"}', b'{"member":"\\ud800"}', b"[" * 100000, b"null", b'{"member":1}']
)
@ensureDeferred
async def test_a_body_that_is_not_what_was_asked_for_is_a_bad_request(body: bytes) -> None:
    async with Node() as node:
        answer = await node.ask("POST", "/api/tokens", body)
        assert (answer.status, answer.json["code"]) == (400, "bad_request")


@ensureDeferred
async def test_keys_and_parameters_that_are_not_known_are_named() -> None:
    async with Node() as node:
        answer = await node.ask("POST", "/api/tokens", {"member": "ann", "tll": 1})
        assert (answer.status, "tll" in answer.json["error"]) == (400, True)
        answer = await node.ask("GET", "/api/rooms?bofore=1")
        assert (answer.status, "bofore" in answer.json["error"]) == (400, True)


@ensureDeferred
async def test_a_long_body_is_refused_before_it_is_sent() -> None:
    async with Node(body_bytes=200) as node:
        wiretap = await node.connect()
        wiretap.write(POST + b"Expect: 100-continue\r\nContent-Length: 201\r\n\r\n")
        answer = await wiretap.whole()
        assert (answer.status, answer.json["code"]) == (413, "too_large")
        assert "--limits.body-bytes" in answer.json["error"]


@ensureDeferred
async def test_a_long_body_in_chunks_is_refused_as_soon_as_it_is_too_long() -> None:
    async with Node(body_bytes=200) as node:
        wiretap = await node.connect()
        chunks = (b"64\r\n" + b"x" * 100 + b"\r\n") * 3 + b"0\r\n\r\n"
        wiretap.write(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        assert (await wiretap.whole()).status == 413
        wiretap.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert parse(await wiretap.all()).status == 413  # and nothing else


@ensureDeferred
async def test_a_body_may_come_in_chunks_and_be_as_long_as_the_limit() -> None:
    async with Node(body_bytes=200) as node:
        body = json.dumps({"member": "a" * 100, "ttl": 5}).encode().ljust(200)
        wiretap = await node.connect()
        head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        wiretap.write(head + b"64\r\n" + body[:100] + b"\r\n64\r\n" + body[100:] + b"\r\n0\r\n\r\n")
        assert parse(await wiretap.all()).status == 201
        assert (await node.ask("POST", "/api/tokens", body)).status == 201


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\r\n",
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"y" * 20000 + b"\r\n\r\n",
        b"GET /" + b"y" * 20000,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 600 + b"\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
@ensureDeferred
async def test_what_is_not_http_is_told_so_in_json(data: bytes, logged: list[LogEvent]) -> None:
    async with Node() as node:
        wiretap = await node.connect()
        wiretap.write(data)
        answer = await wiretap.whole()
        assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert loud(logged) == []


@ensureDeferred
async def test_requests_on_one_connection_are_answered_in_order() -> None:
    async with Node() as node:
        await node.chat.rooms.join("lobby", ["ann"])
        wiretap = await node.connect()
        head = b"POST /api/rooms/lobby/messages HTTP/1.1\r\nContent-Length: 12\r\n\r\n"
        wiretap.write(b"".join(head + b'{"text":"%d"}' % n for n in range(9)) + b"GET /healthz HTTP/1.0\r\n\r\n")
        answers = (await wiretap.all()).split(b"HTTP/1.")
        assert len(answers) == 11
        entries, _ = await node.chat.rooms.history("lobby")
        assert [entry.text for entry in entries] == [str(n) for n in range(9)]


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://127.0.0.1:1", 403), ("http://localhost", 200)],
)
@ensureDeferred
async def test_web_pages_of_other_origins_may_not_call(origin: str, status: int) -> None:
    async with Node() as node:
        answer = await node.ask("GET", "/api/rooms", headers={"Origin": origin})
        assert answer.status == status


# What fails


@ensureDeferred
async def test_what_a_client_began_is_done_and_delivered_though_it_hangs_up(logged: list[LogEvent]) -> None:
    store = SlowStore()
    async with Node(store) as node:
        await node.chat.rooms.join("lobby", ["ann"])
        store.gate.callback(None)
        ann = await listen(node, "ann")
        store.gate, store.calls = Deferred(), 0
        wiretap: Wiretap = await node.connect()
        body = b'{"text":"still here"}'
        head = b"POST /api/rooms/lobby/messages HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
        wiretap.write(head % len(body) + body)
        await until(lambda: store.calls)
        wiretap.drop()
        await wiretap.all()
        assert (await node.ask("GET", "/healthz")).status == 200  # by now the server knows that the other one is gone
        store.gate.callback(None)
        await until(lambda: ann.said("message"))
        assert ann.said("message")[0]["text"] == "still here"
    assert loud(logged) == []


@ensureDeferred
async def test_a_fault_is_logged_once_and_not_told(logged: list[LogEvent]) -> None:
    async with Node(BrokenStore()) as node:
        answer = await node.ask("GET", "/api/members/ann/rooms")
        assert (answer.status, answer.json["code"]) == (500, "internal")
        assert "canary" not in json.dumps(answer.json)
    (event,) = loud(logged)
    assert "GET /api/members/{member}/rooms failed" in event
    assert "RuntimeError: canary" in event


@ensureDeferred
async def test_a_store_that_is_away_is_503_with_the_time_to_come_back() -> None:
    async with Node() as node:
        await node.store.close()
        for target in ("/readyz", "/api/rooms", "/api/token/ann"):
            answer = await node.ask("GET", target)
            assert (answer.status, answer.json["code"]) == (503, "unavailable")
            assert (answer.headers["retry-after"], answer.json["retry_after"]) == ("1", 1.0)
        assert (await node.ask("GET", "/healthz")).json == {"status": "ok"}


def test_a_call_that_hangs_is_answered_in_time() -> None:
    clock = Clock()
    store = SlowStore()
    store.open()
    channel, transport = unplugged(clock, store)
    channel.dataReceived(b"GET /api/token/ann HTTP/1.1\r\nConnection: close\r\n\r\n")
    clock.advance(CALL_SECONDS - 0.1)
    assert transport.value() == b""
    clock.advance(0.1)
    assert parse(transport.value()).json["code"] == "unavailable"


@ensureDeferred
async def test_no_secret_of_a_request_is_logged(logged: list[LogEvent]) -> None:
    canary = "Canary_TokenCanary_TokenCanary_TokenCanary_"
    async with Node(BrokenStore()) as node:
        made = (await node.ask("POST", "/api/tokens", {"member": "ann"})).body["token"]
        await node.ask("GET", f"/api/token?member=ann&token={canary}", headers={"Authorization": canary})
        await node.ask("DELETE", "/api/tokens", {"token": canary, "more": canary})
        await node.ask("POST", f"/api/rooms/{canary}/messages", {"text": canary})
        await node.ask("GET", f"/api/members/{canary}/rooms?x={canary}")
        await node.ask("GET", f"/{canary}%FF?{canary}")
        wiretap = await node.connect()
        wiretap.write(f"nonsense {canary}\r\n".encode())
        await wiretap.whole()
    assert logged != []
    for event in logged:
        text = eventAsText(event) + repr({key: value for key, value in event.items() if isinstance(value, str | bytes)})
        assert canary not in text
        assert made not in text
