"""What is special about the store on Redis: servers that die, freeze, fill up, forget, or ask for a password."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import deferLater

from mercury.domain.model import Cursor, Outcome, ReadMark, Token
from mercury.errors import MercuryError
from mercury.stores.redis.link import RedisLink, RedisServer
from mercury.stores.redis.store import RedisStore
from tests.contracts.tools import (
    NOW,
    code_of,
    entry_of,
    joined,
    left,
    log_of,
    logged,
    membership_of,
    message,
    put,
    some_time,
)
from tests.support.free_ports import free_port
from tests.support.redis_servers import RedisEngine

pytestmark = pytest.mark.slow

PATIENCE = 30.0  # seconds for what should take a moment

Start = Callable[..., RedisEngine]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers that end with the test."""
    engines: list[RedisEngine] = []

    def start(**how: Any) -> RedisEngine:
        engines.append(RedisEngine(tmp_path / f"redis-{len(engines)}", free_port(), **how))
        return engines[-1]

    yield start
    for engine in engines:
        engine.kill()


def store_on(engine: RedisEngine, *, keep: int = 0, **server: Any) -> RedisStore:
    return RedisStore(reactor, replace(RedisServer(port=engine.port, command_seconds=1.0), **server), keep=keep)


async def refused(work: Deferred[Any]) -> MercuryError:
    """The error of a call that should fail."""
    with pytest.raises(MercuryError) as caught:
        await work
    assert caught.value.code == "unavailable"
    assert caught.value.retry_after is not None
    return caught.value


async def comes_back(store: RedisStore) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return await store.ping()
        except MercuryError:
            assert time.monotonic() < until, "the store does not come back"
            await deferLater(reactor, 0.05)


# Durability


@pytest_twisted.ensureDeferred
async def test_a_durable_server_that_is_killed_loses_nothing_acknowledged(start: Start) -> None:
    engine = start(durable=True)
    store = store_on(engine, command_seconds=PATIENCE)  # so many calls at once take long on a machine that is busy
    await store.open()
    await put(store, joined("r", "a"))
    acknowledged: list[str] = []
    sent: list[str] = []
    for round_ in range(3):
        sent = [f"{round_}-{n}" for n in range(2000)]
        calls = [store.append([message("r", "a", text, text)], NOW) for text in sent]
        results: list[Any] = []
        for call in calls:
            call.addBoth(results.append)
        while len(results) < 50:
            await deferLater(reactor, 0)
        engine.kill()
        for call in calls:
            await call
        done = [text for text, result in zip(sent, results, strict=True) if isinstance(result, list)]
        assert 50 <= len(done) < 2000, "the kill came too early or too late to show anything"
        acknowledged += done
        engine.start()
        await comes_back(store)
    log = await log_of(store, "r")
    assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
    stored = [entry.text for entry in log]
    assert set(acknowledged) <= set(stored)
    for text in sent[::20]:  # what was not acknowledged is there once or not at all, and may be sent again
        (again,) = await put(store, message("r", "a", text, text))
        assert again.duplicate == (text in stored)
    await store.close()


@pytest_twisted.ensureDeferred
async def test_a_server_that_comes_back_without_its_data_is_not_taken_for_the_store(start: Start) -> None:
    engine = start(durable=False)
    store = store_on(engine)
    await store.open()
    await put(store, joined("r", "a"))
    engine.kill()
    engine.start()
    await refused(store.heads(["r"]))
    error = await refused(store.append([joined("r", "a")], NOW))
    assert "without its data" in error.reason
    assert engine.ask("DBSIZE") == b":0\r\n"
    await store.close()


# Trouble


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_away_is_unavailable_and_comes_back_by_itself(start: Start) -> None:
    engine = start(durable=True)
    store = store_on(engine)
    await store.open()
    await put(store, joined("r", "a"))
    engine.kill()
    for _ in range(3):
        await refused(store.read("r", 0, 1).addTimeout(PATIENCE, reactor))
    engine.start()
    await comes_back(store)
    assert await store.heads(["r"]) == {"r": 1}
    await store.close()


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_answer_is_unavailable_within_the_timeout(start: Start) -> None:
    engine = start(durable=True)
    store = store_on(engine)
    await store.open()
    engine.pause()
    calls = [store.append([joined(f"r{n}", "a")], NOW) for n in range(3)]
    errors = [await refused(call.addTimeout(PATIENCE, reactor)) for call in calls]
    assert "no reply within 1 s" in errors[0].reason
    await refused(store.ping().addTimeout(PATIENCE, reactor))
    engine.resume()
    await comes_back(store)
    (again,) = await put(store, joined("r0", "a"))
    assert isinstance(again, Outcome)  # whether the first one was stored is unknown, but the answer is whole
    await store.close()


@pytest_twisted.ensureDeferred
async def test_close_is_bounded_while_the_server_is_silent(start: Start) -> None:
    engine = start()
    store = store_on(engine)
    await store.open()
    engine.pause()
    call = store.ping()
    closing = store.close()
    await refused(call)
    await closing.addTimeout(PATIENCE, reactor)


@pytest_twisted.ensureDeferred
async def test_opening_says_what_is_wrong(start: Start) -> None:
    engine = start(password="right")
    error = await refused(store_on(engine, password="wrong-9d1c").open())
    assert f"Redis at 127.0.0.1:{engine.port}" in error.reason
    assert "WRONGPASS" in error.reason
    assert "9d1c" not in error.reason
    assert "NOAUTH" in (await refused(store_on(engine).open())).reason
    assert "DB index" in (await refused(store_on(engine, password="right", db=60000).open())).reason
    engine.kill()
    assert "refused" in (await refused(store_on(engine, password="right").open())).reason


@pytest_twisted.ensureDeferred
async def test_a_fault_of_ours_in_connecting_ends_opening_and_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RedisLink, "_connect", lambda link: succeed(1 // 0))
    with logged() as events, pytest.raises(MercuryError) as caught:
        await RedisStore(reactor, RedisServer()).open().addTimeout(PATIENCE, reactor)
    assert caught.value.code == "internal"
    assert any("log_failure" in event for event in events)


@pytest_twisted.ensureDeferred
async def test_a_login_that_fails_for_a_while_is_tried_again(start: Start) -> None:
    engine = start(password="right")
    store = store_on(engine, password="right", db=7)
    await store.open()
    await put(store, joined("r", "a"))
    engine.ask("CONFIG", "SET", "requirepass", "another")
    drop_connections(engine, "another")
    await deferLater(reactor, 0.3)
    assert "WRONGPASS" in (await refused(store.ping())).reason
    engine.ask_as("another", "CONFIG", "SET", "requirepass", "right")
    await comes_back(store)
    assert await store.heads(["r"]) == {"r": 1}  # in the same database
    await store.close()


def drop_connections(engine: RedisEngine, password: str) -> None:
    assert engine.ask_as(password, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").startswith(b":")


@pytest_twisted.ensureDeferred
async def test_scripts_that_the_server_forgot_are_sent_again(start: Start) -> None:
    engine = start()
    store = store_on(engine)
    await store.open()
    engine.ask("SCRIPT", "FLUSH")
    assert entry_of((await put(store, joined("r", "a")))[0]).seq == 1
    await store.close()


@pytest_twisted.ensureDeferred
async def test_a_full_server_refuses_a_batch_whole_and_can_be_read(start: Start) -> None:
    engine = start(options=("--maxmemory", "4mb", "--maxmemory-policy", "noeviction"))
    store = store_on(engine)
    await store.open()
    await put(store, joined("r", "a"))
    full = None
    for n in range(100):
        try:
            await put(store, *(message("r", "a", "x" * 10_000, f"{n}-{k}") for k in range(10)))
        except MercuryError as error:
            full = error
            break
    assert full is not None, "a hundred batches of 100 KB fit into 4 MB"
    assert full.code == "unavailable"
    log = await log_of(store, "r")
    assert len(log) == 1 + 10 * n  # nothing of the batch that was refused
    engine.ask("CONFIG", "SET", "maxmemory", "100mb")
    assert entry_of((await put(store, message("r", "a", "more")))[0]).seq == len(log) + 1
    await store.close()


@pytest_twisted.ensureDeferred
async def test_too_many_calls_at_once_are_refused(start: Start) -> None:
    engine = start()
    store = store_on(engine, command_seconds=PATIENCE)
    await store.open()
    results: list[Any] = []
    pings = [store.ping().addBoth(results.append) for _ in range(11_000)]
    await gatherResults(pings)
    assert results.count(None) == 10_000
    await store.close()


# Retention and what is left behind


@pytest_twisted.ensureDeferred
async def test_of_a_long_log_only_the_last_entries_are_kept(start: Start) -> None:
    engine = start()
    store = store_on(engine, keep=50)
    await store.open()
    await put(store, joined("r", "a", "b"))
    ids: list[int] = []
    found = await store.read("r", 0, 1000)
    for n in range(40):
        answers = await put(store, *(message("r", "a", f"{n}-{k}", f"{n}-{k}") for k in range(10)))
        ids += [entry_of(answer).id for answer in answers]
        found = await store.read("r", 0, 1000)
        assert len(found.entries) <= 50 + 100
        assert [entry.seq for entry in found.entries] == list(range(found.floor + 1, found.head + 1))
        assert found.head == 11 + 10 * n
    assert found.floor >= 401 - 150
    room = await store.room("r")
    assert room is not None
    assert (room.floor, room.head, room.messages) == (found.floor, 401, 400)
    place = await membership_of(store, "b", "r")
    assert (place.head, place.unread) == (401, 400)
    assert await store.locate(ids[0], None) is None
    assert await store.locate(ids[-1], None) == ("r", 401)
    assert await store.locate(ids[0], "r") == ("r", found.floor + 1)
    (again, kept) = await put(store, message("r", "a", "0-0", "0-0"), message("r", "a", "39-9", "39-9"))
    assert not again.duplicate  # its cid went with it
    assert int(engine.ask("HLEN", "mercury:cids:r")[1:]) <= 50 + 100
    assert kept.duplicate
    assert await store.move_reads([ReadMark("r", "b", 5), ReadMark("r", "b", 400)]) == [5, 400]
    assert (await membership_of(store, "b", "r")).unread == 2
    await store.close()


@pytest_twisted.ensureDeferred
async def test_what_is_deleted_leaves_nothing_but_a_head(start: Start) -> None:
    engine = start()
    store = store_on(engine)
    await store.open()
    await put(store, joined("r", "a"), *(message("r", "a", str(n), str(n)) for n in range(1500)))
    await store.move_cursors([Cursor("r", "a", "phone", 3)])
    await store.put_token(Token(b"t", "a", 1), 9)
    await put(store, left("r", "a"))
    await store.delete_room("r")
    assert await store.locate(2, None) is None
    await some_time()
    await store.sweep(NOW, 1, 9)
    keys = sorted(engine.ask("KEYS", "*").decode().split("\r\n")[2::2])
    assert keys == ["mercury:epoch", "mercury:id", "mercury:log:r", "mercury:people"]
    assert engine.ask("XLEN", "mercury:log:r") == b":0\r\n"
    await store.close()


@pytest_twisted.ensureDeferred
async def test_sweep_goes_on_until_all_is_done_however_short_its_steps_are(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mercury.stores.redis.store.CHUNK", 7)
    engine = start()
    store = store_on(engine)
    await store.open()
    members = [f"m{n}" for n in range(20)]
    await put(store, joined("r", *members), joined("gone"), *[message("gone", "")] * 20)
    for n in range(12):
        await store.move_cursors([Cursor("r", mid, f"d{n}", 1) for mid in members])
        await some_time()
    for n in range(20):
        await store.put_token(Token(bytes([n]), "m1", n), 99)
    await store.delete_room("gone")
    await store.sweep(15, 2**50, 2)
    devices = [[(await store.memberships(mid, f"d{n}"))[0].delivered for n in range(12)] for mid in members]
    assert devices == [[None] * 10 + [1, 1]] * 20
    assert engine.ask("ZCARD", "mercury:expiry") == b":4\r\n"
    assert engine.ask("EXISTS", "mercury:graves") == b":0\r\n"
    await store.close()


@pytest_twisted.ensureDeferred
async def test_an_id_is_never_below_one_in_the_log(start: Start) -> None:
    engine = start()
    store = store_on(engine)
    await store.open()
    last = entry_of((await put(store, joined("r", "a"), message("r", "a")))[1])
    engine.ask("SET", "mercury:id", "0")
    assert entry_of((await put(store, message("r", "a")))[0]).id > last.id
    await store.close()


@pytest_twisted.ensureDeferred
async def test_two_stores_on_one_server_give_out_one_row_of_seqs_and_answer_one_cid_once(start: Start) -> None:
    engine = start()
    stores = [store_on(engine) for _ in range(3)]
    for store in stores:
        await store.open()
    assert len({store.epoch for store in stores}) == 1
    await put(stores[0], joined("r", "a"))
    calls = [stores[n % 3].append([message("r", "a", "once", "c"), message("r", "a", str(n))], NOW) for n in range(15)]
    answers = await gatherResults(calls)
    assert len({entry_of(first).id for first, _ in answers}) == 1
    assert [isinstance(first, Outcome) and first.duplicate for first, _ in answers].count(False) == 1
    log = await log_of(stores[1], "r")
    assert [entry.seq for entry in log] == list(range(1, 18))
    assert code_of((await put(stores[2], message("r", "a", "twice", "c")))[0]) == "conflict"
    for store in stores:
        await store.close()
