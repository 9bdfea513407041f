"""What is special to the SQLite store: its file, its migrations, what it does when the disk or the process fails."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults
from twisted.logger import LogLevel

from mercury.domain.model import SYSTEM, Cursor, Draft, ReadMark, Token
from mercury.errors import MercuryError
from mercury.stores.sqlite import schema
from mercury.stores.sqlite import store as sqlite
from mercury.stores.sqlite.store import SqliteStore
from tests.contracts.tools import NOW, code_of, entry_of, joined, log_of, logged, membership_of, message, opened, put


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "mercury.db")


@contextmanager
def full(path: str) -> Iterator[None]:
    """Let the kernel refuse to make files longer than this one, as a full disk does. Python ignores its signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (Path(path).stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# The file


@pytest_twisted.ensureDeferred
async def test_what_was_stored_is_there_after_opening_it_again(path: str) -> None:
    async with opened(lambda _: SqliteStore(path)) as store:
        epoch = store.epoch
        await put(store, joined("r", "a", "b"), message("r", "a", "hi", "c"), joined("gone"), message("gone", SYSTEM))
        await store.move_cursors([Cursor("r", "b", "phone", 2)])
        await store.move_reads([ReadMark("r", "b", 2)])
        await store.put_token(Token(b"d", "a", NOW), 9)
        await store.delete_room("gone")
        before = await log_of(store, "r"), await membership_of(store, "b", "r"), await store.rooms("", 9)
    async with opened(lambda _: SqliteStore(path)) as store:
        assert store.epoch == epoch
        assert (await log_of(store, "r"), await membership_of(store, "b", "r"), await store.rooms("", 9)) == before
        assert await store.token(b"d") == Token(b"d", "a", NOW)
        answers = await put(store, message("r", "a", "hi", "c"), joined("gone", "a"), message("r", "a"))
        assert answers[0].duplicate
        assert entry_of(answers[1]).seq == 2
        assert entry_of(answers[2]).id == 6  # deleting a room uses one up


@pytest_twisted.ensureDeferred
async def test_nothing_is_answered_before_the_epoch_is_known(path: str) -> None:
    """Whoever resumes is asked for it: they would be sent all again."""
    async with opened(lambda _: SqliteStore(path)) as store:
        await put(store, joined("r", "a"))
    again = SqliteStore(path)
    opening = again.open()
    for call in (
        lambda: again.memberships("a", ""), lambda: again.token(b"d"), lambda: again.read("r", 0, 9), again.ping,
    ):  # fmt: skip
        with pytest.raises(MercuryError, match="unavailable"):
            await call()
    await opening
    assert again.epoch
    assert [place.rid for place in await again.memberships("a", "")] == ["r"]
    await again.close()


@pytest_twisted.ensureDeferred
async def test_a_closed_store_can_be_opened_again(path: str) -> None:
    store = SqliteStore(path)
    for seq in (1, 2):
        await store.open()
        assert entry_of((await put(store, joined("r", f"m{seq}")))[0]).seq == seq
        await store.close()


@pytest_twisted.ensureDeferred
async def test_the_folder_is_made_and_both_are_for_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "mercury.db"
    async with opened(lambda _: SqliteStore(str(path))) as store:
        await put(store, joined("r", "a"))
        for file in (path, path.with_name("mercury.db-wal"), path.with_name("mercury.db.lock")):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest_twisted.ensureDeferred
async def test_a_commit_is_on_the_disk_and_readers_cannot_write(path: str) -> None:
    async with opened(lambda _: SqliteStore(path)) as store:
        pragmas = {}
        for pool, name in ((store._writer, "writer"), (store._reader, "reader")):
            for pragma in ("journal_mode", "synchronous", "query_only"):
                (pragmas[name, pragma],) = await pool.run(
                    lambda cursor, p: cursor.execute(f"PRAGMA {p}").fetchone(), pragma
                )
    assert pragmas == {
        ("writer", "journal_mode"): "wal", ("writer", "synchronous"): 2, ("writer", "query_only"): 0,
        ("reader", "journal_mode"): "wal", ("reader", "synchronous"): 2, ("reader", "query_only"): 1,
    }  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_a_path_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("This is no database, but a text that is long enough to be read as one." * 99)
    for path, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "file" / "mercury.db", "Not a directory"),
        (tmp_path / "file", "file is not a database"),
        (Path("/proc/mercury/mercury.db"), "No such file or directory"),
        (Path("nul\0"), "embedded null"),
    ):
        with pytest.raises(MercuryError) as caught:
            await SqliteStore(str(path)).open()
        assert caught.value.code == "unavailable"
        assert str(path) in caught.value.reason
        assert reason in caught.value.reason


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_file_belongs_to_one_process_until_that_closes_it_or_dies(path: str) -> None:
    with writing(path) as process:
        process.stdout.readline()
        for _ in range(2):
            with pytest.raises(MercuryError) as caught:
                await SqliteStore(path).open()
            assert caught.value.code == "unavailable"
            assert f"{path} cannot be used: another Mercury uses it" in caught.value.reason
        process.stdout.readline()  # it is none the worse for it
        process.kill()
    async with opened(lambda _: SqliteStore(path)):
        with pytest.raises(MercuryError, match="another Mercury uses it"):
            await SqliteStore(path).open()
    async with opened(lambda _: SqliteStore(path)) as store:
        assert len(await log_of(store, "r")) > 7


@pytest_twisted.ensureDeferred
async def test_a_file_that_could_not_be_opened_is_nobodys(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir(f"{path}.lock")
    with pytest.raises(MercuryError, match=f"{path} cannot be used: its lock: .*Is a directory"):
        await SqliteStore(path).open()
    os.rmdir(f"{path}.lock")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", [("CREATE nonsense",)])
        with pytest.raises(MercuryError, match="nonsense"):
            await SqliteStore(path).open()
    async with opened(lambda _: SqliteStore(path)) as store:
        await store.ping()


# Migrations


@pytest_twisted.ensureDeferred
async def test_an_older_file_is_taken_to_the_newest_version_with_its_data(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(lambda _: SqliteStore(path)) as store:
        await put(store, joined("r", "a"), message("r", "a"))
        epoch, log = store.epoch, await log_of(store, "r")
    more = [("ALTER TABLE room ADD COLUMN topic TEXT",), ("UPDATE room SET topic = rid", "CREATE TABLE extra (a)")]
    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, *more])
    async with opened(lambda _: SqliteStore(path)) as store:
        assert (store.epoch, await log_of(store, "r")) == (epoch, log)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT topic FROM room").fetchall() == [("r",)]
        assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
    connection.close()


@pytest_twisted.ensureDeferred
async def test_a_migration_that_fails_changes_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(lambda _: SqliteStore(path)) as store:
        await put(store, joined("r", "a"))
    with monkeypatch.context() as patch:
        broken = ("CREATE TABLE extra (a)", "DROP TABLE entry", "INSERT INTO nowhere VALUES (1)")
        patch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, broken])
        with pytest.raises(MercuryError, match="nowhere"):
            await SqliteStore(path).open()
    async with opened(lambda _: SqliteStore(path)) as store:
        assert len(await log_of(store, "r")) == 1
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'extra'").fetchone() == (0,)
    connection.close()


@pytest_twisted.ensureDeferred
async def test_a_file_of_a_newer_mercury_is_left_alone(path: str) -> None:
    newer = len(schema.MIGRATIONS) + 1
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {newer}")
    connection.close()
    with pytest.raises(MercuryError, match=f"newer Mercury .schema {newer}; this one knows {newer - 1}"):
        await SqliteStore(path).open()


# Failures


@pytest_twisted.ensureDeferred
async def test_a_full_disk_gives_unavailable_and_ends_without_a_restart(path: str) -> None:
    async with opened(lambda _: SqliteStore(path)) as store:
        await put(store, joined("r", "a"), message("r", "a", "before"))
        log = await log_of(store, "r")
        with logged() as events:
            with full(f"{path}-wal"):
                for _ in range(3):
                    with pytest.raises(MercuryError) as caught:
                        await put(store, message("r", "a", "x" * 10_000, "c"))
                    assert (caught.value.code, caught.value.retry_after) == ("unavailable", 1.0)
                    assert await log_of(store, "r") == log
                    await store.ping()
            assert [event["log_level"] for event in events] == [LogLevel.error]
            again = entry_of((await put(store, message("r", "a", "after", "c")))[0])
            assert [event["log_level"] for event in events] == [LogLevel.error, LogLevel.info]
        assert again.seq == log[-1].seq + 1
        assert await log_of(store, "r") == [*log, again]


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_file_that_another_process_holds_gives_unavailable_in_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.05)
    async with opened(lambda _: SqliteStore(path)) as store:
        await put(store, joined("r", "a"))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MercuryError, match=r"unavailable: .*locked"):
            await put(store, message("r", "a"))
        assert len(await log_of(store, "r")) == 1
        other.execute("ROLLBACK")
        other.close()
        assert entry_of((await put(store, message("r", "a")))[0]).seq == 2


@pytest_twisted.ensureDeferred
async def test_a_fault_within_a_batch_stores_none_of_it(path: str) -> None:
    async with opened(lambda _: SqliteStore(path)) as store:
        await put(store, joined("r", "a"))
        with logged() as events, pytest.raises(MercuryError) as caught:
            await put(
                store, message("r", "a"), Draft("r", "message", mid="a", text="\ud800")
            )  # never gets here in truth
        assert caught.value.code == "internal"
        assert events[0]["log_level"] == LogLevel.critical
        assert len(await log_of(store, "r")) == 1
        assert entry_of((await put(store, message("r", "a")))[0]).seq == 2


@pytest_twisted.ensureDeferred
async def test_calls_that_wait_have_a_bound(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mercury.stores.pool.MAX_WAITING", 3)
    async with opened(lambda _: SqliteStore(path)) as store:
        running = [store.ping() for _ in range(3)]
        with pytest.raises(MercuryError, match="unavailable: 3 calls already wait"):
            await store.ping()
        await gatherResults(running)
        await store.ping()


KILLED = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from mercury.stores.sqlite.store import SqliteStore
from mercury.domain.model import Draft

async def write(path):
    store = SqliteStore(path)
    await store.open()
    await store.append([Draft("r", "joined", members=("a",))], 1)
    n = 0
    while True:
        answers = await store.append([Draft("r", mid="a", text=str(n + k), cid=str(n + k)) for k in range(7)], 1)
        n += 7
        print(answers[-1].entry.seq, flush=True)

Deferred.fromCoroutine(write(sys.argv[1]))
reactor.run()
"""


@contextmanager
def writing(path: str) -> Iterator[Any]:
    """A process that appends batches of seven messages, and says the last seq that it got acknowledged."""
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def write_and_be_killed(path: str, commits: int) -> list[int]:
    """Let a process write, kill it after that many batches; the last seqs that it acknowledged."""
    with writing(path) as process:
        acknowledged = [int(process.stdout.readline()) for _ in range(commits)]
        process.kill()
        return acknowledged + [int(line) for line in process.stdout if line.endswith("\n")]


@pytest.mark.slow
@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("commits", [1, 20, 150])
async def test_what_was_acknowledged_survives_a_kill(path: str, commits: int) -> None:
    """Whole batches are there, all that were acknowledged and perhaps the one that was under way."""
    acknowledged = write_and_be_killed(path, commits)
    async with opened(lambda _: SqliteStore(path)) as store:
        log = await log_of(store, "r")
        assert [entry.text for entry in log[1:]] == [str(n) for n in range(len(log) - 1)]
        assert log[-1].seq in (acknowledged[-1], acknowledged[-1] + 7)
        assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
        assert code_of((await put(store, message("r", "a", "other", "0")))[0]) == "conflict"
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.slow
@pytest_twisted.ensureDeferred
async def test_a_read_that_the_disk_does_not_answer_is_given_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "READ_TIMEOUT", 2.0)
    answered = threading.Event()
    monkeypatch.setattr(sqlite, "_value", lambda *asked: answered.wait(60))
    async with opened(lambda _: SqliteStore(path)) as store:
        try:
            with pytest.raises(MercuryError, match="did not answer within 2 s"):
                await store.room("r")
        finally:
            answered.set()
