"""Every line of the log that comes of serving a session or a request has its id, and no other line has."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.logger import Logger, globalLogPublisher

from mercury.core.group_commit import GroupCommit
from mercury.domain.log_context import LOG_CONTEXT, in_context, start_in_context
from mercury.node.logs import observer
from mercury.settings.schema import LogSettings
from mercury.stores.memory.store import MemoryStore
from mercury.stores.sqlite.store import SqliteStore
from tests.support.in_process_node import reactor, until
from tests.support.websocket_bytes import masked
from tests.support.whole_node import FORM, V2, WholeNode

DEBUG = {"log.level": "debug"}


class Faulty(MemoryStore):
    """A store with a bug in it. `rooms_asked`: those whose rooms wait, with what makes them fail."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[str, Deferred[Any]] = {}

    def room(self, rid: str) -> Deferred[Any]:
        self.waiting[rid] = Deferred()
        return self.waiting[rid]

    def is_member(self, mid: str) -> Deferred[bool]:
        raise RuntimeError("a bug")

    def history(self, *args: Any) -> Deferred[Any]:
        raise RuntimeError("a bug")


def broken(cursor: Any) -> None:
    """What a store runs in a database's thread."""
    raise RuntimeError("a bug")


def about(node: WholeNode, kind: str, id: object) -> list[str]:
    """The messages of the lines with this id."""
    return [line["message"] for line in node.log if line.get(kind) == id]


# Requests


@ensureDeferred
async def test_a_failing_request_has_one_id_in_its_answer_and_on_all_its_lines() -> None:
    async with WholeNode(DEBUG, Faulty()) as node:
        answer = await node.http("server.api", "GET", "/api/members/ann/rooms", b"", "X-Request-Id: shop-4711")
        assert answer is not None
        assert (answer.status, answer.headers["x-request-id"]) == (500, "shop-4711")
        failed, access = [line for line in node.log if line.get("request") == "shop-4711"]
        assert failed["message"] == "GET /api/members/{member}/rooms failed"
        assert failed["traceback"].rstrip().endswith("RuntimeError: a bug")
        assert access["message"] == "GET /api/members/{member}/rooms: 500"
        assert (access["level"], access["peer"], access["bytes"] > 100) == ("debug", "127.0.0.1", True)


@ensureDeferred
async def test_requests_at_the_same_time_keep_their_own_ids() -> None:
    store = Faulty()
    async with WholeNode(DEBUG, store) as node:
        names = [f"r{n}" for n in range(5)]
        asking = [
            Deferred.fromCoroutine(node.http("server.api", "GET", f"/api/rooms/{name}", b"", f"X-Request-Id: {name}"))
            for name in names
        ]
        await until(lambda: len(store.waiting) == len(names))
        for name in reversed(names):
            store.waiting[name].errback(RuntimeError(f"a bug in {name}"))
        answers = await gatherResults(asking)
        for name, answer in zip(names, answers, strict=True):
            assert answer is not None
            assert answer.headers["x-request-id"] == name
            failed, _ = [line for line in node.log if line.get("request") == name]
            assert f"a bug in {name}\n" in failed["traceback"]


@pytest.mark.parametrize(
    "given", ["", "a b", "x" * 41, "é", 'a"b', "<script>", "a;b", "Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmE"]
)
@ensureDeferred
async def test_an_id_that_is_too_long_or_strange_is_replaced(given: str) -> None:
    """It goes into a header and into the log, and what is as long as a token might be one."""
    async with WholeNode({}) as node:
        seen = set()
        headers = [f"X-Request-Id: {given}"] if given else []
        for _ in range(2):
            answer = await node.http("server.api", "GET", "/healthz", b"", *headers)
            assert answer is not None
            seen.add(answer.headers["x-request-id"])
        assert len(seen) == 2
        assert all(len(id) == 16 and set(id) <= set("0123456789abcdef") for id in seen)


@ensureDeferred
async def test_whatever_is_answered_over_http_has_an_id() -> None:
    async with WholeNode(DEBUG) as node:
        for listener, method, target, body in (
            ("server.api", "GET", "/nowhere", b""),
            ("server.api", "POST", "/api/tokens", b" " * 2_000_000),
            ("gotalk", "GET", "/login.js", b""),
            ("gotalk", "POST", "/sync", b"token=x"),
        ):
            answer = await node.http(listener, method, target, body, FORM, "X-Request-Id: given/1")
            assert answer is not None
            assert answer.headers["x-request-id"] == "given/1", target
        lines = about(node, "request", "given/1")
        assert lines == ["no call: 404", "refused a request: too_large", "no call: 404", "goTalk's sync: 401"]
        wiretap = await node.connect("server.api", b"nonsense\r\n\r\n")
        await until(lambda: b"X-Request-Id: " in wiretap.data)


@ensureDeferred
async def test_a_client_that_hangs_up_is_on_the_line_too() -> None:
    store = Faulty()
    async with WholeNode(DEBUG, store) as node:
        request = b"GET /api/rooms/r HTTP/1.1\r\nHost: x\r\nX-Request-Id: gone\r\n\r\n"
        wiretap = await node.connect("server.api", request)
        await until(lambda: store.waiting)
        wiretap.drop()
        await until(lambda: about(node, "request", "gone"))
        store.waiting["r"].errback(RuntimeError("a bug"))
        assert about(node, "request", "gone") == [
            "GET /api/rooms/{room}: the client closed the connection",
            "GET /api/rooms/{room} failed",
        ]


# Sessions


@ensureDeferred
async def test_a_session_has_one_id_from_its_beginning_to_its_end() -> None:
    async with WholeNode(DEBUG, Faulty()) as node:
        await node.chat.rooms.join("r", ["ann", "bob"])
        for member in ("ann", "bob"):
            secret, _ = await node.chat.tokens.make(member)
            client = await node.handshake(V2)
            client.write(masked(json.dumps({"type": "connect", "token": secret, "member": member}).encode()))
            await until(lambda: b"caught_up" in client.data)  # noqa: B023 - called at once
            client.write(masked(b'{"type":"history","rid":"r","ref":1}'))
            await until(lambda: b"internal" in client.data)  # noqa: B023 - called at once
            client.write(masked((1001).to_bytes(2), 0x88))
            await until(lambda: "has ended" in node.log[-1]["message"])
        reactor.callLater(0, Logger(namespace="mercury.x").info, "a timer's")
        await until(lambda: node.log[-1]["message"] == "a timer's")
        assert not {"session", "request"} & node.log[-1].keys()
        ann, bob = ([line for line in node.log if line.get("member") == member] for member in ("ann", "bob"))
        assert ann[0]["session"] != bob[0]["session"]
        for came, went in (ann, bob):
            lines = [line for line in node.log if line.get("session") == came["session"]]
            assert [line["message"].replace(came["peer"], "PEER") for line in lines] == [
                f"{came['member']} is connected by mercury.v2.json",
                "a command of PEER failed",
                "the session of PEER has ended with 1001",
            ]
            assert lines[1]["traceback"].rstrip().endswith("RuntimeError: a bug")
            assert lines[2] == went
            assert (went["code"], went["protocol"], went["peer"]) == (1001, "mercury.v2.json", came["peer"])


@ensureDeferred
async def test_a_command_that_had_to_wait_is_still_its_sessions(tmp_path: Path) -> None:
    """It is begun by the answer to the one before it, which belongs to nobody. What fails is deep in the store."""
    store = SqliteStore(str(tmp_path / "m.sqlite"))
    async with WholeNode(DEBUG, store) as node:
        store.history = lambda *args: store._read(broken)  # type: ignore[method-assign]
        await node.chat.rooms.join("r", ["ann"])
        await node.say(b'{"type":"send","rid":"r","text":"x","ref":1}', 10)
        client = node._open
        assert client is not None
        send, ask = b'{"type":"send","rid":"r","text":"y","ref":2}', b'{"type":"history","rid":"r","ref":3}'
        client.write(masked(send) + masked(ask))
        await until(lambda: b"internal" in client.data)
        failed = [line for line in node.log if "traceback" in line]
        assert failed[0]["message"].startswith("an internal error in a call to the database ")
        (session,) = node.chat.hub.everybody()
        assert [line["session"] for line in failed] == [session.connection.number] * 2


@ensureDeferred
async def test_a_refused_handshake_and_a_fault_in_what_reads_are_a_sessions_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with WholeNode(DEBUG) as node:
        refused = await node.handshake()
        await refused.all()
        assert node.log[-1]["message"].endswith("was refused with 401")
        assert isinstance(node.log[-1]["session"], int)

        monkeypatch.setattr("mercury.websocket.connection.parse_small_frames", lambda *args: broken(args))
        client = await node.handshake(V2)
        client.write(masked(b"{}"))
        await client.all()
        failed = next(line for line in node.log if "traceback" in line)
        assert failed["message"].startswith("handling what ")
        assert failed["session"] == node.log[-1]["session"]


# Deeper


@ensureDeferred
async def test_a_fault_in_a_databases_thread_is_its_requests(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "m.sqlite"))
    async with WholeNode(DEBUG, store) as node:
        store.room = lambda rid: store._read(broken)  # type: ignore[method-assign]
        await node.http("server.api", "GET", "/api/rooms/r", b"", "X-Request-Id: deep")
        assert about(node, "request", "deep") == [
            f"an internal error in a call to the database {tmp_path}/m.sqlite (reading)",
            "GET /api/rooms/{room}: 500",
        ]


@pytest.mark.parametrize("call", ["memberships", "read"])
@ensureDeferred
async def test_a_fault_in_a_login_and_in_what_follows_it_is_the_sessions(call: str, tmp_path: Path) -> None:
    """A login by the URL goes on when the store has answered; catching up begins when it likes."""
    store = SqliteStore(str(tmp_path / "m.sqlite"))
    async with WholeNode(DEBUG, store) as node:
        await node.chat.rooms.join("r", ["ann"])
        await node.chat.rooms.post("", "r", "hello")
        secret, _ = await node.chat.tokens.make("ann")
        setattr(store, call, lambda *args: store._read(broken))
        await node.handshake(V2, query=f"?member=ann&token={secret}")
        await until(lambda: any("traceback" in line for line in node.log))
        came = next(line for line in node.log if line.get("member") == "ann")
        failed = next(line for line in node.log if "traceback" in line)
        assert failed["message"].startswith("an internal error in a call to the database ")
        assert failed["session"] == came["session"]


def test_a_batch_that_fails_names_all_whom_it_was_for() -> None:
    clock = Clock()
    logged: list[Any] = []
    keep: Any = logged.append

    def write(items: Any) -> Deferred[list[None]]:
        Logger().info("writing {count}", count=len(items))
        raise RuntimeError("a bug")

    batches: GroupCommit[int, None] = GroupCommit(clock, write, most=10, waiting=10)
    globalLogPublisher.addObserver(keep)
    heard: list[Any] = []
    add: Callable[..., None] = batches.add
    in_context(("request", "a"), add, 1, heard.append)
    clock.pump([0] * 5)
    in_context(("request", "a"), add, 1, heard.append)
    in_context(("session", 7), add, 2, lambda answer: [][0])
    in_context(("session", 7), add, 3, heard.append)
    in_context(("session", 9), add, 4, heard.append)
    add(5, heard.append)
    clock.pump([0] * 5)
    globalLogPublisher.removeObserver(keep)
    assert len(heard) == 5
    failed = [event for event in logged if event["log_format"] == "writing a batch failed"]
    assert [(event.get("request"), event.get("session")) for event in failed] == [("a", None), ("a", "7,9")]


@ensureDeferred
async def test_who_is_served_goes_along_and_stays_behind() -> None:
    """Through awaits, whoever fires what was waited for; not into timers, nor into what comes next."""
    seen: list[Any] = []
    later: Deferred[None] = Deferred()

    async def work() -> None:
        seen.append(LOG_CONTEXT.get())
        reactor.callLater(0, lambda: seen.append(LOG_CONTEXT.get()))
        await later
        seen.append(LOG_CONTEXT.get())

    done = start_in_context(("session", 5), work())
    assert LOG_CONTEXT.get() is None
    await deferLater(reactor, 0)
    in_context(("request", "other"), later.callback, None)
    await done
    assert seen == [("session", 5), None, ("session", 5)]


def test_the_log_writes_it_unless_the_event_knows_better() -> None:
    stream = io.StringIO()
    logger = Logger(namespace="here", observer=observer(stream, LogSettings(format="logfmt")))
    in_context(("session", 5), logger.info, "one")
    in_context(("session", 5), logger.info, "two", session=6)
    logger.info("three")
    lines = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == [
        "level=info system=here message=one session=5",
        "level=info system=here message=two session=6",
        "level=info system=here message=three",
    ]
