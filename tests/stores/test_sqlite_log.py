"""A part of a log on SQLite, of which each 64th entry is in an index, is what was written there, wherever it begins and
ends; and what an older Mercury has written, with an index of all, is taken over."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted

from mercury.domain.model import Draft, Entry, ReadMark, Resealed
from mercury.stores import sql_upkeep
from mercury.stores.sealing import Keys
from mercury.stores.sqlite.schema import MIGRATIONS
from mercury.stores.sqlite.store import SqliteStore
from tests.contracts.tools import NOW, entry_of, joined, left, log_of, membership_of, message, opened, put

LIMITS = (1, 50, 64, 65, 400)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "mercury.db")


def talk(rid: str, random: Random) -> list[Draft]:
    """About 400 entries: messages, joins and leaves, and 150 joins in a row, which history reads over."""
    drafts = [joined(rid, "a", "reader")]
    for n in range(120):
        drafts += random.choice(([message(rid, "a", f"{n}")], [joined(rid, f"m{n}"), left(rid, f"m{n}")]))
    drafts += [joined(rid, f"late{n}") for n in range(150)]
    return drafts + [message(rid, "a", f"then {n}", f"c{n}" if n % 3 == 0 else None) for n in range(90)]


def places(log: Sequence[Entry]) -> list[int]:
    """Seqs to begin and end at: about indexed entries, about the log's ends, and a few others."""
    first, last = log[0].seq, log[-1].seq
    steps = range(first // 64 * 64, last + 64, 64)
    near = {seq + by for seq in (first, last, *steps) for by in (-1, 0, 1)}
    return sorted({seq for seq in near if seq >= 0} | set(Random(2).sample(range(first, last), 10)))


async def check(store: Any, log: Sequence[Entry]) -> None:
    """All that can be asked about a room's log, whose entries these are, is answered by it."""
    rid, floor, head = log[0].rid, log[0].seq - 1, log[-1].seq
    messages = [entry for entry in log if entry.kind == "message"]
    for after in places(log):
        for limit in LIMITS:
            found = await store.read(rid, after, limit)
            assert (found.head, found.floor) == (head, floor)
            assert found.entries == [entry for entry in log if entry.seq > after][:limit]
            above = [entry for entry in messages if entry.seq > after]
            assert await store.history(rid, None, after, limit) == (above[:limit], len(above) > limit)
            below = [entry for entry in messages if entry.seq < after]
            assert await store.history(rid, after, None, limit) == (below[-limit:], len(below) > limit)
        for before in (after + 1, after + 2, after + 70):
            between = [entry for entry in messages if after < entry.seq < before]
            assert await store.history(rid, before, after, 50) == (between[:50], len(between) > 50)
    for entry in log:
        assert await store.locate(entry.id, rid) == (rid, entry.seq)
        assert await store.locate(entry.id + 1, rid) == (rid, entry.seq + 1)
    assert await store.locate(0, rid) == (rid, floor + 1)


async def check_marks(store: Any, log: Sequence[Entry]) -> None:
    """Wherever the member `reader` marks, of what was said from the first entry on, what is unread is what is above."""
    rid = log[0].rid
    for seq in places(log):
        answers = await store.move_reads([ReadMark(rid, "reader", seq), ReadMark(rid, "nobody", seq)])
        assert answers == [min(seq, log[-1].seq) if log[0].seq < seq <= log[-1].seq else None, None]
        place = await membership_of(store, "reader", rid)
        assert place.unread == sum(entry.kind == "message" and entry.seq > place.read for entry in log)


async def write(store: Any, *rids: str) -> dict[str, list[Entry]]:
    """Let people talk in rooms, alternately and in batches; what came of it, by room."""
    random = Random(1)
    talks = [talk(rid, random) for rid in rids]
    drafts = [draft for same_time in zip(*talks, strict=False) for draft in same_time]
    entries = [entry_of(answer) for n in range(0, len(drafts), 50) for answer in await put(store, *drafts[n : n + 50])]
    return {rid: [entry for entry in entries if entry.rid == rid] for rid in rids}


@pytest_twisted.ensureDeferred
async def test_any_part_of_a_log_is_what_was_written(path: str) -> None:
    async with opened(lambda _: SqliteStore(path)) as store:
        logs = await write(store, "r", "s")
        for log in logs.values():
            assert len(log) > 300
            await check(store, log)
            await check_marks(store, log)


@pytest_twisted.ensureDeferred
async def test_a_room_that_came_into_being_again_has_nothing_of_what_it_was(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_upkeep, "SWEEP_ROWS", 100)
    async with opened(lambda _: SqliteStore(path)) as store:
        for rid, log in (await write(store, "r", "s")).items():
            inside = [member for member in (await store.members(rid, "", 999)) if member]
            await put(store, left(rid, *inside))
            assert await store.delete_room(rid)
            assert await store.history(rid, None, None, 9) == ([], False)
            assert await store.history(rid, None, 3, 9) == ([], False)
            assert await store.locate(log[70].id, rid) == (rid, 1)
        reborn = await write(store, "r", "s")
        assert reborn["r"][0].seq > 300
        await check(store, reborn["r"])
        await store.sweep(NOW, NOW, 9)
        (left_over,) = await store._read(lambda cursor: cursor.execute("SELECT count(*) FROM entry").fetchone())
        assert left_over == len(reborn["r"]) + len(reborn["s"])
        await check(store, reborn["s"])


@pytest_twisted.ensureDeferred
async def test_all_of_a_long_log_is_sealed_anew(path: str) -> None:
    async with opened(lambda _: SqliteStore(path)) as store:
        logs = await write(store, "r", "s")
    steps: list[Resealed] = []

    async def step(done: Resealed) -> None:
        steps.append(done)

    async with opened(lambda _: SqliteStore(path, keys=Keys([("k", bytes(32))]))) as store:
        messages = sum(entry.kind == "message" for entry in logs["r"])
        for count in (messages, 0):
            steps.clear()
            await store.reseal("r", step)
            assert sum(done.sealed for done in steps) == count
            assert sum(done.looked for done in steps) == messages
        assert await log_of(store, "r") == logs["r"]


# What an older Mercury has written


async def as_before(path: str, target: str) -> None:
    """What a store holds, as a Mercury wrote it that knew the first three versions of the schema."""
    with closing(sqlite3.connect(target, isolation_level=None)) as old:
        for statements in MIGRATIONS[:3]:
            for statement in statements:
                old.execute(statement)
        old.execute("PRAGMA user_version = 3")
        old.execute("ATTACH ? AS new", (path,))
        for (table,) in old.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            columns = ", ".join(name for _, name, *_ in old.execute(f"PRAGMA main.table_info({table})"))
            old.execute(f"DELETE FROM main.{table}")
            old.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")


@pytest_twisted.ensureDeferred
async def test_a_log_that_was_written_with_an_index_of_all_is_taken_over(path: str, tmp_path: Path) -> None:
    older = str(tmp_path / "older.db")
    async with opened(lambda _: SqliteStore(path)) as store:
        logs = await write(store, "r", "s", "gone", "half", "reborn")
        for rid in ("gone", "half", "reborn"):
            await put(store, left(rid, *await store.members(rid, "", 999)))
            await store.delete_room(rid)
        await put(store, joined("reborn", "a"), message("reborn", "a", "again", "c"), joined("empty"))
        logs |= {rid: await log_of(store, rid) for rid in ("reborn", "empty")}
        epoch, last_id = store.epoch, logs["reborn"][-1].id
        await put(store, joined("last", "a"), left("last", "a"))
        await store.delete_room("last")
    await as_before(path, older)
    with closing(sqlite3.connect(older)) as old:  # a sweep was at it, from the lowest seq on
        half = logs["half"][0].id, logs["half"][200].id
        old.execute(
            "DELETE FROM entry WHERE id BETWEEN ? AND ? AND room = (SELECT room FROM entry WHERE id = ?)",
            (*half, half[0]),
        )
        old.execute("DELETE FROM entry WHERE room = (SELECT room FROM entry WHERE id = ?)", (logs["gone"][0].id,))
        old.execute("DELETE FROM entry WHERE id > ?", (last_id,))
        old.commit()
    async with opened(lambda _: SqliteStore(older)) as store:
        assert store.epoch == epoch
        for rid in ("r", "s"):
            await check(store, logs[rid])
            await check_marks(store, logs[rid])
        assert await log_of(store, "reborn") == logs["reborn"]
        assert (await store.read("reborn", 0, 9)).floor == logs["reborn"][0].seq - 1
        more = [entry_of(answer) for answer in await put(store, *[message("r", "a")] * 130, message("reborn", "a"))]
        assert more[0].id > last_id + 2  # also above those that are of no room any more
        await check(store, [*logs["r"], *more[:-1]])
        (repeated,) = await put(store, message("reborn", "a", "again", "c"))
        assert (repeated.duplicate, repeated.entry) == (True, logs["reborn"][1])
        await store.sweep(NOW, NOW, 9)
        kept = await store._read(lambda cursor: cursor.execute("SELECT count(*) FROM entry").fetchone())
        assert kept == (sum(len(logs[rid]) for rid in ("r", "s", "reborn", "empty")) + 131,)
    with closing(sqlite3.connect(older)) as new, closing(sqlite3.connect(path)) as made:
        assert new.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        schema = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite%' ORDER BY name"
        assert new.execute(schema).fetchall() == made.execute(schema).fetchall()
