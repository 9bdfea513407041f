"""What is special to the MySQL store: its database, its migrations, many nodes at once, large things."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults
from twisted.logger import LogLevel

from mercury.domain.model import SYSTEM, Cursor, Draft, Entry, ReadMark, Token
from mercury.errors import MercuryError
from mercury.stores import sql_upkeep
from mercury.stores.mysql import schema
from mercury.stores.mysql.server import MysqlServer
from mercury.stores.mysql.store import MysqlStore
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
    opened,
    put,
)
from tests.support.mariadb_servers import MariaDb
from tests.support.mysql_tools import nodes

pytestmark = pytest.mark.slow

# The database


@pytest_twisted.ensureDeferred
async def test_what_was_stored_is_there_after_opening_it_again(mysql: MysqlServer) -> None:
    async with opened(lambda _: MysqlStore(mysql)) as store:
        epoch = store.epoch
        await put(store, joined("r", "a", "b"), message("r", "a", "hi", "c"), joined("gone"), message("gone", SYSTEM))
        await store.move_cursors([Cursor("r", "b", "phone", 2)])
        await store.move_reads([ReadMark("r", "b", 2)])
        await store.put_token(Token(b"d", "a", NOW), 9)
        await store.delete_room("gone")
        before = await log_of(store, "r"), await membership_of(store, "b", "r"), await store.rooms("", 9)
    async with opened(lambda _: MysqlStore(mysql)) as store:
        assert store.epoch == epoch
        assert (await log_of(store, "r"), await membership_of(store, "b", "r"), await store.rooms("", 9)) == before
        assert await store.token(b"d") == Token(b"d", "a", NOW)
        answers = await put(store, message("r", "a", "hi", "c"), joined("gone", "a"))
        assert answers[0].duplicate
        assert entry_of(answers[1]).seq == 2


@pytest_twisted.ensureDeferred
async def test_ten_nodes_may_start_at_once_on_a_database_that_is_not_there(mysql: MysqlServer) -> None:
    async with nodes(mysql, 10) as stores:
        assert len({store.epoch for store in stores}) == 1
        answers = await gatherResults([store.append([joined("r", f"m{n}")], NOW) for n, store in enumerate(stores)])
        assert sorted(entry_of(answer).seq for (answer,) in answers) == list(range(1, 11))


@pytest_twisted.ensureDeferred
async def test_an_older_database_is_migrated_once_and_one_that_was_broken_off_is_finished(
    mysql: MysqlServer, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(lambda _: MysqlStore(mysql)) as store:
        await put(store, joined("r", "a"))
        epoch = store.epoch
    make, fill = "CREATE TABLE IF NOT EXISTS extra (a INT)", "INSERT INTO extra VALUES (1)"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, (make, "INSERT INTO nowhere VALUES (1)")])
        with pytest.raises(MercuryError, match=f"{mysql.database} on 127.0.0.1:{mysql.port} .*nowhere"):
            await MysqlStore(mysql).open()
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, (make, fill)])
    async with nodes(mysql, 3) as stores:
        assert [store.epoch for store in stores] == [epoch] * 3
        assert len(await log_of(stores[0], "r")) == 1
    version = len(schema.MIGRATIONS)
    assert mariadb.query("SELECT a, version FROM extra, store", database=mysql.database) == [(1, version)]


@pytest_twisted.ensureDeferred
async def test_a_database_of_a_newer_mercury_is_left_alone(mysql: MysqlServer, mariadb: MariaDb) -> None:
    async with opened(lambda _: MysqlStore(mysql)):
        pass
    mariadb.query("UPDATE store SET version = 99", database=mysql.database)
    with pytest.raises(MercuryError, match=r"newer Mercury .schema 99; this one knows \d"):
        await MysqlStore(mysql).open()


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_keep_its_commits_is_warned_of(
    mysql: MysqlServer, alter: Callable[[str, object], None]
) -> None:
    alter("innodb_flush_log_at_trx_commit", 2)
    with logged() as events:
        async with opened(lambda _: MysqlStore(mysql)):
            pass
    assert [event["log_level"] for event in events] == [LogLevel.warn]
    assert events[0]["flush"] == 2


@pytest_twisted.ensureDeferred
async def test_a_user_needs_rights_on_the_one_database_only_and_no_password_is_told(mariadb: MariaDb) -> None:
    mariadb.query("CREATE DATABASE rights")
    mariadb.query("CREATE USER chat@'%' IDENTIFIED BY 'canary'")
    mariadb.query(
        "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP ON rights.* TO chat@'%'"
    )  # as docs/stores.md says
    chat = replace(mariadb.database("rights"), user="chat", password="canary")
    async with opened(lambda _: MysqlStore(chat)) as store:
        await put(store, joined("r", "a"), message("r", "a"), left("r", "a"))
        await store.delete_room("r")
        await store.sweep(NOW, 1, 1)
    for wrong in (replace(chat, password="canary2"), replace(chat, database="elsewhere")):
        with pytest.raises(MercuryError, match=f"{wrong.database} on 127.0.0.1:{mariadb.port} .*denied") as caught:
            await MysqlStore(wrong).open()
        assert "canary" not in f"{caught.value} {wrong}"


# Many nodes


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("step", [1, 3])
async def test_seqs_have_no_holes_and_ids_grow_however_many_nodes_append(
    mysql: MysqlServer, alter: Callable[[str, object], None], step: int
) -> None:
    """With ids given out one by one to whoever asks (innodb_autoinc_lock_mode=2), and by threes, as Galera does."""
    alter("auto_increment_increment", step)
    async with nodes(mysql, 3) as stores:
        rids = ["r", "s", "t"]
        await put(stores[0], *(joined(rid, "a") for rid in rids))
        drafts = [[message(rids[(n + k) % 3], "a", f"{n}-{k}") for k in range(n % 7 + 1)] for n in range(60)]
        answers = await gatherResults([stores[n % 3].append(batch, NOW) for n, batch in enumerate(drafts)])
        said: list[Entry] = [entry_of(answer) for some in answers for answer in some]
        assert len({entry.id for entry in said}) == len(said)
        for rid in rids:
            log = await log_of(stores[1], rid)
            assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
            assert [entry.id for entry in log] == sorted(entry.id for entry in log)
            assert log[1:] == sorted((e for e in said if e.rid == rid), key=lambda entry: entry.seq)
        for node in range(3):
            mine = [entry.text for entry in await log_of(stores[0], "r") if entry.text.startswith(f"{node}-")]
            assert mine == sorted(mine)


@pytest_twisted.ensureDeferred
async def test_one_cid_sent_over_many_nodes_at_once_is_one_message(mysql: MysqlServer) -> None:
    async with nodes(mysql, 3) as stores:
        await put(stores[0], joined("r", "a"))
        sent: list[Any] = [store.append([message("r", "a", "hi", "c")], NOW) for store in stores * 3]
        outcomes = [answer for (answer,) in await gatherResults(sent)]
        assert len({entry_of(outcome) for outcome in outcomes}) == 1
        assert [outcome.duplicate for outcome in outcomes].count(False) == 1
        assert (await stores[0].heads(["r"]))["r"] == 2


@pytest_twisted.ensureDeferred
async def test_rooms_that_many_nodes_make_at_once_are_made_once(mysql: MysqlServer) -> None:
    async with nodes(mysql, 3) as stores:
        rids = [f"r{n}" for n in range(20)]
        orders = [rids, rids[::-1], rids[10:] + rids[:10]]
        await gatherResults(
            [
                store.append([joined(rid, f"m{n}") for rid in order], NOW)
                for n, (store, order) in enumerate(zip(stores, orders, strict=True))
            ]
        )
        assert await stores[0].heads(rids) == dict.fromkeys(rids, 3)
        assert [await stores[1].members(rid, "", 9) for rid in rids] == [["m0", "m1", "m2"]] * 20


@pytest_twisted.ensureDeferred
async def test_marks_never_outlive_a_leave_on_another_node(mysql: MysqlServer) -> None:
    async with nodes(mysql, 2) as (one, other):
        await put(one, joined("r", "a"))
        for n in range(15):
            calls: list[Any] = [one.append([message("r", "a"), left("r", "a")], NOW)]
            for _ in range(4):
                calls += [other.move_cursors([Cursor("r", "a", "d", 99)]), other.move_reads([ReadMark("r", "a", 99)])]
            await gatherResults(calls)
            joining = entry_of((await put(one, joined("r", "a")))[0])
            place = await membership_of(one, "a", "r", "d")
            assert (place.delivered, place.read, place.unread) == (None, joining.seq, 0), n


#: By name, calls that only lock rows and change none.
IDLE: dict[str, Callable[[Any], Any]] = {
    "refused": lambda store: put(store, message("r", "b")),
    "duplicate": lambda store: put(store, message("r", "a", "hi", "c")),
    "joined": lambda store: put(store, joined("r", "a")),
    "read": lambda store: store.move_reads([ReadMark("r", "a", 1)]),
    "friends": lambda store: store.add_friend(1, 2, 9),
}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("call", IDLE.values(), ids=IDLE)
async def test_a_call_that_changes_nothing_leaves_no_lock_behind(
    mysql: MysqlServer, mariadb: MariaDb, call: Callable[[Any], Any]
) -> None:
    async with opened(lambda _: MysqlStore(mysql)) as store:
        await put(store, joined("r", "a"), message("r", "a", "hi", "c"))
        for name in ("Ann", "Bob"):
            await store.add_account(name, name, "hash")
        await store.add_friend(1, 2, 9)
        await call(store)
        assert mariadb.query("SELECT trx_query FROM information_schema.innodb_trx WHERE trx_rows_locked > 0") == []


# Sizes


@pytest_twisted.ensureDeferred
async def test_a_text_that_the_server_does_not_take_is_refused_and_a_long_batch_is_cut(
    mysql: MysqlServer, alter: Callable[[str, object], None]
) -> None:
    alter("max_allowed_packet", 1 << 20)
    async with opened(lambda _: MysqlStore(mysql)) as store:
        fits = ["'" * 400_000, "é" * 200_000, "x" * 400_000, "\0" * 500_000]
        texts = [*fits, "'" * 600_000, "é" * 600_000, "x" * 1_100_000]
        _, *answers = await put(store, joined("r", "a"), *(message("r", "a", text) for text in texts))
        assert [entry_of(answer).text for answer in answers[:4]] == fits
        assert [code_of(answer) for answer in answers[4:]] == ["too_large"] * 3
        assert [entry.text for entry in (await log_of(store, "r"))[1:]] == fits


@pytest_twisted.ensureDeferred
async def test_sweep_goes_on_until_all_is_done_however_short_its_steps_are(
    mysql: MysqlServer, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_upkeep, "SWEEP_ROWS", 7)
    async with opened(lambda _: MysqlStore(mysql)) as store:
        members = [f"m{n}" for n in range(20)]
        await put(store, *(joined(rid, *members) for rid in "rs"), *[message("r", "m1")] * 20)
        for device in ("old", "d"):
            await store.move_cursors([Cursor(rid, mid, device, 1) for rid in "rs" for mid in members])
        await put(store, left("r", *members))
        await store.delete_room("r")
        await put(store, joined("r", "new"))
        for n in range(20):
            await store.put_token(Token(bytes([n]), "m1", n), 99)
        await store.sweep(15, 2**60, 1)
        counts = {
            table: mariadb.query(f"SELECT COUNT(*) FROM {table}", database=mysql.database)[0][0]
            for table in ("room", "entry", "membership", "delivered", "token")
        }
        assert counts == {"room": 2, "entry": 2, "membership": 21, "delivered": 20, "token": 4}
        assert [entry.members for entry in await log_of(store, "r")] == [("new",)]
        assert [(await store.memberships(mid, "d"))[0].delivered for mid in members] == [1] * 20


@pytest_twisted.ensureDeferred
async def test_a_fault_within_a_batch_stores_none_of_it(mysql: MysqlServer) -> None:
    async with opened(lambda _: MysqlStore(mysql)) as store:
        await put(store, joined("r", "a"))
        with logged() as events, pytest.raises(MercuryError) as caught:
            await put(store, message("r", "a"), Draft("r", "message", mid="a", text="\ud800"))  # never in truth
        assert caught.value.code == "internal"
        assert events[0]["log_level"] == LogLevel.critical
        assert entry_of((await put(store, message("r", "a")))[0]).seq == 2
