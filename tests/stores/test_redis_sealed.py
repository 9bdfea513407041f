"""Sealing on Redis: a node seals for seqs that the script gives out, so it may have to do it again; and nothing goes to
Redis in clear, neither for the store nor over the bus.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import Clock

from mercury.bus.redis import RedisBus, room_channels
from mercury.domain.model import Draft, Resealed
from mercury.errors import MercuryError
from mercury.stores.redis.append import TRY_SECONDS, AppendAnswer, AppendReply, SealedDraft, SealingAppender
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from mercury.stores.sealing import STEP, Keys
from tests.contracts.sealed import KEYS, NEW, OLD, fill, resealed
from tests.contracts.tools import NOW, code_of, entry_of, joined, left, log_of, message, opened, put
from tests.support.free_ports import free_port
from tests.support.recording_clients import until
from tests.support.redis_bus import RecordingListener, said, texts
from tests.support.redis_servers import RedisEngine

pytestmark = pytest.mark.slow

MARKER = "Zaunkoenig"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RedisEngine]:
    engine = RedisEngine(tmp_path / "redis", free_port())
    yield engine
    engine.kill()


def store_on(engine: RedisEngine, keys: Keys = KEYS, **how: Any) -> RedisStore:
    return RedisStore(reactor, RedisServer(port=engine.port), keys=keys, **how)


class Script:
    """Stands for the script: `heads` are the rooms' heads as Redis has them; others write `meanwhile`, at each try."""

    def __init__(self, meanwhile: int = 0) -> None:
        self.heads: dict[str, int] = {}
        self.tries: list[list[Draft | SealedDraft]] = []
        self.meanwhile = meanwhile

    def send(self, drafts: Sequence[Draft | SealedDraft], ctime: int) -> Deferred[AppendReply]:
        self.tries.append(list(drafts))
        heads = {rid: head + self.meanwhile for rid, head in self.heads.items()}
        answers, good = [], True
        for draft in drafts:
            heads[draft.rid] = heads.get(draft.rid, 0) + 1
            answers.append(AppendAnswer(seq=heads[draft.rid], id=1))
            good = good and getattr(draft, "seq", heads[draft.rid]) == heads[draft.rid]
        self.heads = heads if good else {rid: head + self.meanwhile for rid, head in self.heads.items()}
        return succeed(AppendReply(good, answers))


@pytest_twisted.ensureDeferred
async def test_texts_are_sealed_again_only_if_another_seq_is_due() -> None:
    clock, script = Clock(), Script()
    script.heads = {"r": 10, "s": 0}
    appender = SealingAppender(clock, script.send)
    drafts = [message("r", "a", "1"), message("s", "a", "2"), joined("r", "b"), message("r", "b", "3")]
    reply = await appender.append(drafts, NOW, KEYS)
    assert [answer.seq for answer in reply.answers] == [11, 1, 12, 13]
    first, second = script.tries
    assert [getattr(draft, "seq", None) for draft in first] == [1, 1, None, 3]
    assert [getattr(draft, "seq", None) for draft in second] == [11, 1, None, 13]
    assert second[1] is first[1]
    await appender.append(drafts, NOW, KEYS)
    assert len(script.tries) == 3  # the heads are known now


@pytest_twisted.ensureDeferred
async def test_a_node_that_does_not_get_its_turn_gives_up_in_time() -> None:
    clock, script = Clock(), Script(meanwhile=1)
    script.heads = {"r": 1}
    send = script.send

    def slowly(drafts: Sequence[Draft | SealedDraft], ctime: int) -> Deferred[AppendReply]:
        clock.advance(0.5)
        return send(drafts, ctime)

    with pytest.raises(MercuryError, match="did not get a turn") as caught:
        await SealingAppender(clock, slowly).append([message("r", "a")], NOW, KEYS)
    assert (caught.value.code, caught.value.retry_after is not None) == ("unavailable", True)
    assert len(script.tries) <= TRY_SECONDS / 0.5 + 2


@pytest_twisted.ensureDeferred
async def test_two_nodes_that_write_into_the_same_rooms_both_get_there(engine: RedisEngine) -> None:
    one, other = store_on(engine), store_on(engine, Keys([NEW, OLD]))
    await gatherResults([one.open(), other.open()])
    await put(one, *(joined(rid, "a") for rid in "rst"))
    sent = [
        (store, [message("rst"[(n + k) % 3], "a", f"{MARKER} {which} {n} {k}", f"{which} {n} {k}") for k in range(5)])
        for n in range(60)
        for which, store in enumerate((one, other))
    ]
    answers = await gatherResults([store.append(drafts, NOW) for store, drafts in sent])
    asked = [draft.text for _, drafts in sent for draft in drafts]
    assert [entry_of(answer).text for batch in answers for answer in batch] == asked
    one.keys = Keys([OLD, NEW])
    logs = {rid: (await log_of(one, rid))[1:] for rid in "rst"}
    assert sorted(entry.text for log in logs.values() for entry in log) == sorted(asked)
    for log in logs.values():
        assert [entry.seq for entry in log] == list(range(2, len(log) + 2))
        for which in "01":  # each node's own order
            own = [entry.text.split()[2:] for entry in log if entry.text.split()[1] == which]
            assert own == sorted(own, key=lambda n_k: [int(n_k[0]), int(n_k[1])])
    await gatherResults([one.close(), other.close()])


@pytest_twisted.ensureDeferred
async def test_a_batch_that_has_to_be_sealed_again_is_decided_again(engine: RedisEngine) -> None:
    """The answers are those of the moment when it is stored: who was put out meanwhile writes nothing."""
    one, other = store_on(engine), store_on(engine)
    await gatherResults([one.open(), other.open()])
    await put(one, joined("r", "a", "b"), message("r", "a", "1"))
    await put(other, left("r", "b"), message("r", "a", "2", "c"))
    answers = await put(one, message("r", "b", "no"), message("r", "a", "2", "c"), message("r", "a", "3"))
    assert code_of(answers[0]) == "forbidden"
    assert answers[1].duplicate
    assert [entry.text for entry in await log_of(one, "r") if entry.kind == "message"] == ["1", "2", "3"]
    assert entry_of(answers[2]).seq == 5
    await gatherResults([one.close(), other.close()])


# What goes to Redis


class Monitor:
    """All commands that the server gets, those within scripts as well."""

    def __init__(self, engine: RedisEngine) -> None:
        self.peer = socket.create_connection(("127.0.0.1", engine.port), 5)
        self.peer.sendall(b"MONITOR\r\n")
        self.said = b""
        self._engine = engine

    def all(self) -> bytes:
        """What came so far."""
        self._engine.ask("ECHO", "that is all")
        end = time.monotonic() + 30
        while b"that is all" not in self.said:
            assert time.monotonic() < end
            self.said += self.peer.recv(1 << 16)
        self.peer.close()
        return self.said


@pytest.mark.parametrize("keys", [KEYS, Keys()])
@pytest_twisted.ensureDeferred
async def test_nothing_goes_to_redis_in_clear(engine: RedisEngine, keys: Keys) -> None:
    """Neither by the store nor over the bus, be Redis the store or only the bus. Without keys it does."""
    server = RedisServer(port=engine.port)
    buses = [RedisBus(reactor, server, store_publishes=n == 0, keys=keys) for n in range(3)]
    ears = [RecordingListener() for _ in buses]
    await gatherResults([bus.open(listener) for bus, listener in zip(buses, ears, strict=True)])
    await until(lambda: all(bus.is_up for bus in buses))
    await gatherResults([bus.subscribe("r") for bus in buses])
    monitor = Monitor(engine)
    store = store_on(engine, keys, channel=room_channels(server))
    await store.open()
    await put(store, joined("r", "a"), message("r", "a", f"{MARKER} 1", "c"))
    await put(store, message("r", "a", f"{MARKER} 1", "c"), message("r", "a", f"{MARKER} 1 not", "c"))
    buses[1].publish([said("r", 3, f"{MARKER} 2")])
    await until(lambda: len(texts(ears[2])) == 3)
    assert texts(ears[2]) == ["", f"{MARKER} 1", f"{MARKER} 2"]
    assert not any(entry.lost for entry in ears[2].entries)
    assert len((await store.read("r", 0, 9)).entries) == 2
    assert (MARKER.encode() in monitor.all()) == (not keys)
    await gatherResults([store.close(), *(bus.close() for bus in buses)])


@pytest_twisted.ensureDeferred
async def test_what_comes_over_the_bus_and_cannot_be_read_is_lost_as_from_the_store(engine: RedisEngine) -> None:
    server = RedisServer(port=engine.port)
    one, other = RedisBus(reactor, server, keys=Keys([NEW])), RedisBus(reactor, server, keys=KEYS)
    listener = RecordingListener()
    await gatherResults([one.open(RecordingListener()), other.open(listener)])
    await until(lambda: one.is_up and other.is_up)
    await other.subscribe("r")
    one.publish([said("r", 3, MARKER)])
    await until(lambda: listener.entries)
    assert [(entry.text, entry.lost, entry.cid) for entry in listener.entries] == [("", "no_key", "c3")]
    await gatherResults([one.close(), other.close()])


# reseal


@pytest_twisted.ensureDeferred
async def test_a_copy_that_is_not_gone_on_with_expires_and_the_log_stays(engine: RedisEngine) -> None:
    store = store_on(engine)
    await store.open()
    await fill(store, "r", 2 * STEP)
    before = await log_of(store, "r")
    store.keys = Keys([NEW, OLD])

    def broken_off(done: Resealed) -> Deferred[None]:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        await store.reseal("r", broken_off)
    (copy,) = [key for key in _keys(engine) if key.startswith("mercury:copy:")]
    assert 0 < int(engine.ask("TTL", copy)[1:]) <= 3600
    assert await log_of(store, "r") == before

    def expired(done: Resealed) -> Deferred[None]:
        for key in _keys(engine):
            if key.startswith("mercury:copy:"):
                engine.ask("DEL", key)
        return succeed(None)

    with pytest.raises(MercuryError, match="expired"):
        await store.reseal("r", expired)
    assert await log_of(store, "r") == before
    assert await resealed(store, "r") == Resealed(2 * STEP, 2 * STEP, 0)
    assert await log_of(store, "r") == before
    assert not [key for key in _keys(engine) if key.startswith("mercury:copy:")]
    assert engine.ask("TTL", "mercury:log:r") == b":-1\r\n"
    await store.close()


def _keys(engine: RedisEngine) -> list[str]:
    return [line for line in engine.ask("KEYS", "*").decode().split("\r\n") if line.startswith("mercury:")]


@pytest_twisted.ensureDeferred
async def test_what_retention_drops_while_a_log_is_copied_stays_dropped(engine: RedisEngine) -> None:
    async with opened(lambda limit: store_on(engine, keep=2 * STEP)) as store:
        await fill(store, "r", 2 * STEP)
        store.keys = Keys([NEW, OLD])

        async def go_on(done: Resealed) -> None:
            await put(store, *(message("r", "a", f"more {n}") for n in range(150)))

        await store.reseal("r", lambda done: Deferred.fromCoroutine(go_on(done)))
        found = await store.read("r", 0, 9999)
        assert found.floor > 150
        assert [entry.seq for entry in found.entries] == list(range(found.floor + 1, found.head + 1))
        assert found.entries[-1].text == "more 149"
        assert not any(entry.lost for entry in found.entries)
        old = entry_of((await put(store, message("r", "a", "x", "c")))[0])
        assert await store.locate(old.id, None) == ("r", old.seq)
