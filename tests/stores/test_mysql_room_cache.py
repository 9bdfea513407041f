"""What a node remembers of rooms in MySQL saves it a round trip, and is never trusted: whatever happened to a room
meanwhile, a batch is decided by what the database holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted

from mercury.domain.model import SYSTEM
from mercury.stores.mysql import append, room_cache, sql
from mercury.stores.mysql.server import MysqlServer
from mercury.stores.mysql.store import MysqlStore
from tests.contracts.tools import NOW, code_of, entry_of, joined, left, log_of, message, opened, put
from tests.support.mariadb_servers import MariaDb

pytestmark = pytest.mark.slow


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many statements went in each round trip."""
    made: list[int] = []
    together = sql.together

    def counted(cursor: Any, packet: int, *statements: Any) -> Any:
        made.append(len(statements))
        return together(cursor, packet, *statements)

    monkeypatch.setattr(append, "together", counted)
    return made


@pytest_twisted.async_yield_fixture
async def store(mysql: MysqlServer) -> AsyncIterator[Any]:
    """A node's store in which the rooms r and s are, with the members a and b, and as it has left them."""
    async with opened(lambda _: MysqlStore(mysql)) as node:
        await put(node, joined("r", "a", "b"), joined("s", "a", "b"))
        await put(node, message("r", "a"), message("s", "b"))
        yield node


@pytest_twisted.ensureDeferred
async def test_a_room_that_is_as_it_was_left_takes_one_round_trip(store: Any, trips: list[int]) -> None:
    answers = await put(store, message("r", "a"), message("s", "b", "x", "c"), message("r", SYSTEM))
    assert len(trips) == 1
    assert [(entry.rid, entry.seq) for entry in map(entry_of, answers)] == [("r", 3), ("s", 3), ("r", 4)]
    for rid in "rs":
        log = await log_of(store, rid)
        assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
        assert [entry for entry in map(entry_of, answers) if entry.rid == rid] == log[2:]
        assert (await store.room(rid)).messages == len(log) - 1


@pytest_twisted.ensureDeferred
async def test_nothing_is_guessed_of_who_is_not_known_to_be_in(store: Any, trips: list[int]) -> None:
    await put(store, left("r", "a"))
    trips.clear()
    answers = await put(store, message("r", "a"), message("r", "nobody"), message("nowhere", "a"), message("r", "b"))
    assert [code_of(answer) for answer in answers[:3]] == ["forbidden", "forbidden", "not_found"]
    assert entry_of(answers[3]).seq == 4
    assert len(trips) == 2
    await put(store, joined("r", "a"))
    assert entry_of((await put(store, message("r", "a")))[0]).seq == 6


@pytest_twisted.ensureDeferred
async def test_a_member_of_whom_nothing_is_known_is_asked_about(
    store: Any, mysql: MysqlServer, trips: list[int]
) -> None:
    async with opened(lambda _: MysqlStore(mysql)) as started_anew:
        for _ in range(3):
            entry_of((await put(started_anew, message("r", "a")))[0])
        assert len(trips) == 2 + 2 + 1
        answers = await put(started_anew, message("r", "a"), message("r", "b"))
        assert [entry_of(answer).seq for answer in answers] == [6, 7]
        trips.clear()
        await put(started_anew, message("r", "b"))
        assert len(trips) == 1


async def said(other: Any, mariadb: MariaDb, database: str) -> None:
    await put(other, message("r", "b"), message("r", "b"))


async def gone(other: Any, mariadb: MariaDb, database: str) -> None:
    await put(other, left("r", "a"))


async def buried(other: Any, mariadb: MariaDb, database: str) -> None:
    await put(other, left("r", "a", "b"))
    assert await other.delete_room("r")


async def swept(other: Any, mariadb: MariaDb, database: str) -> None:
    await buried(other, mariadb, database)
    await other.sweep(NOW, 0, 9)


async def reborn(other: Any, mariadb: MariaDb, database: str) -> None:
    await swept(other, mariadb, database)
    await put(other, joined("r", "b"))


async def set_back(other: Any, mariadb: MariaDb, database: str) -> None:
    """As after going over to a copy of the database that had not got all."""
    mariadb.query("DELETE FROM entry WHERE seq = 2", database=database)
    mariadb.query("UPDATE room SET head = 1, messages = 0", database=database)


@pytest.mark.parametrize(
    ("happens", "then", "seq"),
    [
        (said, "", 5), (gone, "forbidden", 4), (buried, "not_found", 4), (swept, "not_found", 4),
        (reborn, "forbidden", 5), (set_back, "", 2),
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_what_happened_meanwhile_is_found_out(
    store: Any, mysql: MysqlServer, mariadb: MariaDb, happens: Callable[..., Awaitable[None]], then: str, seq: int
) -> None:
    """With a batch of which a part would be right."""
    async with opened(lambda _: MysqlStore(mysql)) as other:
        await happens(other, mariadb, mysql.database)
        to_s, to_r = await put(store, message("s", "a"), message("r", "a", "after"))
        assert entry_of(to_s).seq == (2 if happens is set_back else 3)
        if then:
            assert code_of(to_r) == then
        else:
            assert entry_of(to_r).seq == seq
        (entry,) = [entry_of(answer) for answer in await put(store, joined("r", "late"))]
        assert entry.seq == (seq if then else seq + 1)
        for rid in "rs":
            found = await other.read(rid, 0, 99)
            assert [entry.seq for entry in found.entries] == list(range(found.floor + 1, found.head + 1))
            room = await other.room(rid)
            assert room.messages == sum(entry.kind == "message" for entry in found.entries)


@pytest_twisted.ensureDeferred
async def test_a_system_message_to_a_deleted_room_is_refused(store: Any, mysql: MysqlServer) -> None:
    """Nothing in the log tells of a room's deletion."""
    await put(store, left("r", "a", "b"))
    await put(store, message("r", SYSTEM))
    async with opened(lambda _: MysqlStore(mysql)) as other:
        assert await other.delete_room("r")
        assert code_of((await put(store, message("r", SYSTEM)))[0]) == "not_found"


@pytest_twisted.ensureDeferred
async def test_a_cid_that_was_used_before_is_found(store: Any, trips: list[int]) -> None:
    (first,) = await put(store, message("r", "a", "hi", "c"))
    assert len(trips) == 1
    answers = await put(store, message("s", "a", "ho", "c"), message("r", "a", "hi", "c"), message("r", "a", "x", "c"))
    assert entry_of(answers[0]).seq == 3
    assert (answers[1].duplicate, answers[1].entry) == (True, first.entry)
    assert code_of(answers[2]) == "conflict"
    twice = await put(store, message("r", "a", "new", "d"), message("r", "a", "new", "d"))
    assert [answer.duplicate for answer in twice] == [False, True]
    assert len(await log_of(store, "r")) == 4


@pytest_twisted.ensureDeferred
async def test_where_nodes_write_in_turn_nothing_is_guessed(store: Any, mysql: MysqlServer, trips: list[int]) -> None:
    async with opened(lambda _: MysqlStore(mysql)) as other:
        for node in (other, store) * 4:
            await put(node, message("r", "a"))
        trips.clear()
        for node in (other, store) * 4:
            await put(node, message("r", "a"))
        assert len(trips) == 16


@pytest.mark.parametrize("bound", ["ROOMS", "MEMBERS"])
@pytest_twisted.ensureDeferred
async def test_what_is_remembered_is_bounded(mysql: MysqlServer, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(room_cache, bound, 10)
    async with opened(lambda _: MysqlStore(mysql)) as node:
        for n in range(30):
            rid = f"r{n}" if bound == "ROOMS" else "r"
            await put(node, joined(rid, f"a{n}"), message(rid, f"a{n}"))
            known = node._appender._known._rooms
            assert len(known) <= 10
            assert sum(len(room.room.members) for room in known.values()) <= 10
