"""What grows on SQLite has a bound, in the file and in what a SqliteAppender remembers; sweeping makes nobody wait."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from mercury.domain.model import Cursor, Token
from mercury.stores import sql_upkeep
from mercury.stores.sqlite import append, sweep
from mercury.stores.sqlite.store import SqliteStore
from tests.contracts.tools import NOW, joined, left, log_of, message, opened, put


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "mercury.db")


async def counts(store: Any) -> dict[str, int]:
    """How many rows there are."""
    found = {}
    for table in ("room", "entry", "cursor", "token", "grave"):
        (found[table],) = await store._read(lambda c, t: c.execute(f"SELECT count(*) FROM {t}").fetchone(), table)
    return found


@pytest_twisted.ensureDeferred
async def test_sweep_goes_on_until_all_is_done_however_short_its_steps_are(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_upkeep, "SWEEP_ROWS", 7)
    async with opened(lambda _: SqliteStore(path)) as store:
        members = [f"m{n}" for n in range(20)]
        await put(store, *(joined(rid, *members) for rid in "rs"), *[message("r", "m1")] * 20, left("r", *members))
        for device in ("old", "d"):
            await store.move_cursors([Cursor("s", mid, device, 1) for mid in members])
        await store.delete_room("r")
        await put(store, joined("r", "new"))
        for n in range(20):
            await store.put_token(Token(bytes([n]), "m1", n), 99)
        assert await counts(store) == {"room": 2, "entry": 24, "cursor": 40, "token": 20, "grave": 1}
        await store.sweep(15, 2**60, 1)
        assert await counts(store) == {"room": 2, "entry": 2, "cursor": 20, "token": 4, "grave": 0}
        assert [(await store.memberships(mid, "d"))[0].delivered for mid in members] == [1] * 20
        assert [entry.members for entry in await log_of(store, "r")] == [("new",)]


@pytest_twisted.ensureDeferred
async def test_messages_are_stored_between_the_steps_of_a_sweep(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order = ""
    empty_tombstone = sweep.STEPS.empty_tombstone

    def step(cursor: Any) -> bool:
        nonlocal order
        order += "-"
        return empty_tombstone(cursor)

    monkeypatch.setattr(sql_upkeep, "SWEEP_ROWS", 7)
    monkeypatch.setattr(sweep, "STEPS", replace(sweep.STEPS, empty_tombstone=step))
    async with opened(lambda _: SqliteStore(path)) as store:
        await put(store, joined("long"), *[message("long", "")] * 200, joined("r", "a"))
        await store.delete_room("long")
        sweeping: Deferred[None] = store.sweep(NOW, 2**60, 9)
        while not sweeping.called:
            await put(store, message("r", "a"))
            order += "m"
        await sweeping
        assert order.count("-") >= 200 / 7
        assert "----" not in order
        assert (await counts(store))["entry"] == 1 + order.count("m")


@pytest_twisted.ensureDeferred
async def test_no_text_is_kept_when_its_batch_is_stored(path: str) -> None:
    async with opened(lambda _: SqliteStore(path)) as store:
        for rid in ("r", "s"):
            await put(store, joined(rid, "a"), message(rid, "a", "x", "1"))
        await put(store, message("r", "a", "y", "2"), message("s", "a", "x", "1"))
        rooms = store._appender._rooms
        assert rooms.keys() == {"r", "s"}
        assert [room.firsts for room in rooms.values()] == [{}, {}]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("bound", ["KNOWN_MEMBERS", "KNOWN_ROOMS"])
async def test_what_an_appender_knows_is_bounded(path: str, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(append, bound, 10)
    async with opened(lambda _: SqliteStore(path)) as store:
        appender = store._appender
        most = 0
        for n in range(50):
            rid = "r" if bound == "KNOWN_MEMBERS" else f"r{n}"
            await put(store, joined(rid, f"m{n}"), message(rid, f"m{n}"))
            most = max(most, len(appender._rooms), *(len(room.members) for room in appender._rooms.values()), 0)
        assert 5 < most <= 10
        for n in range(50):  # those who are known from the file alone
            await put(store, message("r" if bound == "KNOWN_MEMBERS" else f"r{n}", f"m{n}"))
            assert sum(len(room.members) for room in appender._rooms.values()) <= 10
