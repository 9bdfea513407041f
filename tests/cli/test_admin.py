"""The command mercury-admin: what `backup` and `restore` decline, and how they say so; in test_backup.py they work."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from mercury.bus import mysql as bus_mysql
from mercury.bus.redis import RedisBus
from mercury.cli.admin import main, restore
from mercury.cli.common import config_of
from mercury.stores.mysql.server import MysqlServer
from mercury.stores.mysql.store import MysqlStore
from mercury.stores.redis.link import RedisServer
from mercury.stores.sqlite.store import SqliteStore
from tests.contracts.tools import joined, log_of, message, opened, put
from tests.support.child_programs import ADMIN, run
from tests.support.free_ports import free_port
from tests.support.mariadb_servers import MariaDb
from tests.support.redis_servers import RedisEngine

pytestmark = pytest.mark.slow

SECRET = "canary-2f70"


Called = Callable[..., tuple[object, str, str]]


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Called:
    """Calls the command within the test's process: its exit code, and what it wrote to standard output and error."""

    def called(*words: str) -> tuple[object, str, str]:
        code: object = 0
        try:
            main(words)
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return called


@pytest.mark.parametrize(
    "words", [(), ("restor",), ("backup",), ("backup", "--sqlite.path=x"), ("restore", "word"), ("restore", "--no=1")]
)
def test_a_wrong_call_says_how_it_is_called(words: tuple[str, ...], called: Called) -> None:
    code, out, err = called(*words)
    assert (code, out) == (2, "")
    assert "mercury-admin" in err


def test_help_is_no_error(called: Called) -> None:
    code, out, err = called("--help")
    assert (code, err) == (0, "")
    assert "mercury-admin restore" in out


# backup


@pytest_twisted.ensureDeferred
async def test_a_backup_is_its_owners_only_one_file_and_replaces_none(tmp_path: Path, called: Called) -> None:
    path, target = tmp_path / "m.sqlite", tmp_path / "copies" / "backup"
    target.parent.mkdir()
    flags = (f"--sqlite.path={path}",)
    async with opened(lambda _: SqliteStore(str(path))) as store:  # a node that runs
        await put(store, joined("r", "a"), message("r", "a", "hi"))
        code, out, err = called("backup", str(target), *flags)
        assert (code, err) == (0, "")
        assert f"{target} is a copy of the database {path}: " in out
        epoch, log = store.epoch, await log_of(store, "r")
        before = target.read_bytes()
        code, out, err = called("backup", str(target), *flags)
        assert (code, out) == (1, "")
        assert f"{target} already exists" in err
        assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    async with opened(lambda _: SqliteStore(str(target))) as copy:
        assert (copy.epoch, await log_of(copy, "r")) == (epoch, log)


def test_what_cannot_be_backed_up_is_named_and_leaves_nothing(tmp_path: Path, called: Called) -> None:
    target = tmp_path / "backup"
    (tmp_path / "text").write_text("this is no database, but long enough to be looked at " * 20)
    with closing(sqlite3.connect(tmp_path / "damaged")) as database:
        database.executescript("CREATE TABLE t (x); CREATE INDEX i ON t (x); INSERT INTO t VALUES (1), (2), (3)")
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_master SET rootpage = 2 WHERE name = 'i'")
        database.commit()
    for words, why in (
        ((str(target), f"--sqlite.path={tmp_path}/missing"), "missing does not exist"),
        ((str(target), f"--sqlite.path={tmp_path}/text"), "cannot be copied"),
        ((str(target), f"--sqlite.path={tmp_path}/damaged"), "damaged"),
        ((str(tmp_path / "no" / "backup"), f"--sqlite.path={tmp_path}/text"), "cannot be created: No such file"),
        ((str(target), "--mysql.host=127.0.0.1"), "the store is mysql, not sqlite"),
    ):
        code, out, err = called("backup", *words)
        assert code in (1, 2)
        assert out == ""
        assert why in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "text"]


# restore


@pytest_twisted.ensureDeferred
async def test_what_cannot_have_been_put_back_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mercury.cli.common.prepare", lambda reactor: None)  # the test's process has its own log
    for flags, code, why in (
        (("--storage.type=memory",), 2, "memory store"),
        ((f"--sqlite.path={tmp_path}/missing",), 2, "missing does not exist: put the backup there first"),
        (("--mysql.host=127.0.0.1", f"--mysql.port={free_port()}"), 1, "Connection refused"),
        (("--redis.host=127.0.0.1", f"--redis.port={free_port()}"), 1, "refused"),
    ):
        with pytest.raises(SystemExit) as caught:
            await restore(reactor, config_of("mercury-admin restore", flags))
        assert caught.value.code == code
        out, err = capsys.readouterr()
        assert out == ""
        assert why in err
    assert not os.listdir(tmp_path)


@pytest_twisted.ensureDeferred
async def test_a_store_without_rooms_is_asked_about(tmp_path: Path) -> None:
    async with opened(lambda _: SqliteStore(str(tmp_path / "m.sqlite"))):
        pass
    done = await deferToThread(run, *ADMIN, "restore", f"--sqlite.path={tmp_path}/m.sqlite")
    assert done.returncode == 0
    assert "did you put the backup into this store?" in done.stdout


@pytest_twisted.ensureDeferred
async def test_a_lease_of_a_living_node_counts_and_one_that_was_left_does_not(
    mysql: MysqlServer, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_mysql, "RENEW", 0.1)
    monkeypatch.setattr(bus_mysql, "LOOK", 0.5)
    assert await bus_mysql.users(reactor, replace(mysql, database="mysql")) == []  # it has no table of leases
    async with opened(lambda _: MysqlStore(mysql)):
        assert await bus_mysql.users(reactor, mysql) == []
        mariadb.query(
            "INSERT INTO lease VALUES ('left', 'h', 1, UTC_TIMESTAMP(6) + INTERVAL 1 HOUR), "
            "('over', 'h', 1, UTC_TIMESTAMP(6) - INTERVAL 1 HOUR)",
            database=mysql.database,
        )
        assert await bus_mysql.users(reactor, mysql) == []
        bus: Any = bus_mysql.MysqlBus(reactor, mysql)
        await bus.open(Listener())
        (user,) = await bus_mysql.users(reactor, mysql)
        assert re.fullmatch(rf"process {os.getpid()} on \S+", user)
        await bus.close()


class Listener:
    """What a bus tells is of no matter here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest_twisted.ensureDeferred
async def test_nodes_of_mysql_and_redis_are_seen_on_the_bus(mysql: MysqlServer, tmp_path: Path) -> None:
    engine = RedisEngine(tmp_path / "redis", free_port(), password=SECRET)
    flags = (
        "--mysql.host=127.0.0.1", f"--mysql.port={mysql.port}", f"--mysql.database={mysql.database}",
        "--redis.host=127.0.0.1", f"--redis.port={engine.port}", f"--redis.password={SECRET}", "--redis.db=3",
    )  # fmt: skip
    async with opened(lambda _: MysqlStore(mysql)) as store:
        await put(store, joined("r", "a"))
    bus: Any = RedisBus(reactor, RedisServer(port=engine.port, password=SECRET, db=3))
    await bus.open(Listener())
    done = await deferToThread(run, *ADMIN, "restore", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"nodes listen on Redis at 127.0.0.1:{engine.port} (1): stop all nodes first" in done.stderr
    assert SECRET not in done.stderr
    await bus.close()
    done = await deferToThread(run, *ADMIN, "restore", *flags)
    assert done.returncode == 0, done.stderr
    assert f"instead of {store.epoch}" in done.stdout
    engine.kill()
