"""What the MySQL store does in trouble: locks, lost connections, a server that dies or hangs or is another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest
import pytest_twisted
from pymysql.constants import ER
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel

from mercury.domain.model import Entry, ReadMark
from mercury.errors import MercuryError
from mercury.stores.mysql import server as mysql_server
from mercury.stores.mysql.server import ENGINE_ERRORS, MysqlServer, should_retry
from mercury.stores.mysql.store import MysqlStore
from mercury.stores.pool import Pool
from tests.contracts.tools import NOW, code_of, entry_of, joined, log_of, logged, message, opened, put
from tests.support.lossy_proxy import LossyProxy
from tests.support.mariadb_servers import MariaDb
from tests.support.mysql_tools import unavailable

pytestmark = pytest.mark.slow

WAITING = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[MariaDb]:
    """A MariaDB server of the test's own, to be killed."""
    engine = MariaDb(tmp_path)
    engine.start()
    yield engine
    engine.kill()


def quick(server: MysqlServer) -> MysqlServer:
    """With short timeouts, for tests that wait for them."""
    return replace(server, connect_seconds=0.3, write_seconds=0.3, read_seconds=0.4)


# Locks


@pytest_twisted.ensureDeferred
async def test_a_transaction_that_meets_another_one_in_a_deadlock_is_done_again(
    mysql: MysqlServer, mariadb: MariaDb
) -> None:
    """The other one has written more, so it is ours that the database breaks off."""
    async with opened(lambda _: MysqlStore(mysql, rooms_per_member=9)) as store:
        await put(store, joined("r", "a"), joined("s", "a"))
        with closing(mariadb.connect(mysql.database)) as connection, connection.cursor() as other:
            other.execute("START TRANSACTION")
            other.execute("INSERT INTO member SELECT seq FROM seq_1_to_500")
            other.execute("SELECT * FROM member WHERE mid = 'b' FOR UPDATE")
            other.execute("UPDATE member SET mid = mid WHERE mid = 'a'")
            other.execute("SELECT * FROM member WHERE mid = 'a' FOR UPDATE")
            deadlocks = "SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'"
            before = int(mariadb.query(deadlocks)[0][1])
            joining = store.append([joined("t", "a")], NOW)  # has the room t, and waits for the member a
            await until(lambda: mariadb.query(WAITING) == [(1,)])
            await deferToThread(other.execute, "UPDATE room SET ctime = 1 WHERE rid = 't'")
            connection.rollback()
            assert entry_of((await joining)[0]).seq == 1
            assert int(mariadb.query(deadlocks)[0][1]) == before + 1


@pytest_twisted.ensureDeferred
async def test_a_member_whom_another_node_puts_in_a_room_just_now_is_counted(
    mysql: MysqlServer, mariadb: MariaDb
) -> None:
    async with opened(lambda _: MysqlStore(mysql, rooms_per_member=2)) as store:
        await put(store, joined("r", "a"), joined("s", "b"))
        with closing(mariadb.connect(mysql.database)) as connection, connection.cursor() as other:
            other.execute("START TRANSACTION")
            other.execute("SELECT * FROM member WHERE mid = 'a' FOR UPDATE")
            other.execute("INSERT INTO membership SELECT nr, 'a', 1, 1, 0 FROM room WHERE rid = 's'")
            joining = store.append([joined("t", "a")], NOW)
            await until(lambda: joining.called or mariadb.query(WAITING) == [(1,)])
            connection.commit()
            assert code_of((await joining)[0]) == "too_large"


async def until(holds: Callable[[], bool]) -> None:
    """Asks seldom: InnoDB's tables show what was when nobody had asked for a tenth of a second."""
    for _ in range(30):
        if holds():
            return
        await deferToThread(time.sleep, 0.15)
    raise AssertionError("it never came to be")


@pytest_twisted.ensureDeferred
async def test_a_locked_room_gives_unavailable_in_time_and_lets_others_read(
    mysql: MysqlServer, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql_server, "SET_UP", (*mysql_server.SET_UP, "SET innodb_lock_wait_timeout = 1"))
    monkeypatch.setattr(mysql_server, "TRIES", 2)
    async with opened(lambda _: MysqlStore(mysql)) as store:
        await put(store, joined("r", "a"))
        with closing(mariadb.connect(mysql.database)) as connection, connection.cursor() as other:
            other.execute("START TRANSACTION")
            other.execute("SELECT * FROM room WHERE rid = 'r' FOR UPDATE")
            sending = store.append([message("r", "a", "hi", "c")], NOW)
            assert len(await log_of(store, "r")) == 1
            assert "Lock wait timeout" in (await unavailable(sending)).reason
            connection.rollback()
        assert entry_of((await put(store, message("r", "a", "hi", "c")))[0]).seq == 2


@pytest_twisted.ensureDeferred
async def test_a_node_that_hangs_in_a_transaction_does_not_keep_the_others_waiting(mysql: MysqlServer) -> None:
    """Frozen, or cut off without a word: MariaDB rolls back what it had begun."""
    async with opened(lambda _: MysqlStore(mysql)) as store:
        await put(store, joined("r", "a"))
        frozen = mysql.connections(1, autocommit=False)
        try:
            frozen.connect().query("SELECT * FROM room WHERE rid = 'r' FOR UPDATE")
            assert entry_of((await put(store, message("r", "a", "hi")))[0]).seq == 2
        finally:
            frozen.close()


# Connections


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_lost_while_a_deadlock_is_rolled_back_is_replaced(
    mysql: MysqlServer, mariadb: MariaDb
) -> None:
    """First the database breaks the transaction off, and when it is to be rolled back there is no connection either."""
    async with opened(lambda _: MysqlStore(mysql)):
        pass  # the database is there
    pool = Pool("a pool", mysql.connections(1), ENGINE_ERRORS, should_retry=should_retry, timeout=10.0)
    tries: list[int] = []

    def work(cursor: Any) -> object:
        tries.append(cursor.connection.thread_id())
        cursor.execute("SELECT 7")
        if len(tries) == 1:
            mariadb.query(f"KILL {tries[0]}")
            raise pymysql.err.OperationalError(ER.LOCK_DEADLOCK, "a deadlock")
        return cursor.fetchall()

    try:
        assert await pool.run(work) == ((7,),)
        assert len(set(tries)) == 2
    finally:
        await pool.close()


@pytest_twisted.ensureDeferred
async def test_connections_that_were_closed_meanwhile_are_replaced_without_an_error(
    mysql: MysqlServer, mariadb: MariaDb
) -> None:
    async with opened(lambda _: MysqlStore(mysql, 4)) as store:
        await put(store, joined("r", "a"))
        await store.move_reads([])
        await store.ping()
        with logged() as events:
            for (number,) in mariadb.query(
                f"SELECT id FROM information_schema.processlist WHERE db = '{mysql.database}'"
            ):
                mariadb.query(f"KILL {number}")
            assert entry_of((await put(store, message("r", "a", "hi")))[0]).seq == 2
            assert [entry.text for entry in await log_of(store, "r")] == ["", "hi"]
            assert await store.move_reads([ReadMark("r", "a", 2)]) == [2]
        assert events == []


@pytest_twisted.ensureDeferred
async def test_a_killed_server_gives_unavailable_and_nothing_acknowledged_is_lost(own: MariaDb) -> None:
    async with opened(lambda _: MysqlStore(own.database("mercury"), 4)) as store:
        await put(store, joined("r", "a"))
        running = [store.append([message("r", "a", str(n), str(n))], NOW) for n in range(300)]
        acknowledged: dict[str, Entry] = {}
        failed: list[str] = []
        for n, call in enumerate(running):
            call.addCallback(lambda some, n=n: acknowledged.update({str(n): entry_of(some[0])}))
            call.addErrback(lambda failure, n=n: failed.append(str(n)))
        await running[50]
        with logged() as events:
            own.kill()
            await gatherResults(running)
            assert failed
            for call in (store.ping, lambda: put(store, message("r", "a")), lambda: store.move_reads([])):
                await unavailable(call())
                await unavailable(call())
            assert {event["log_level"] for event in events} == {LogLevel.error}
            told = [(event["name"], event["error"]) for event in events]
            assert len(told) == len(set(told)) < 10, "once for each pool and reason, however many calls fail"
            assert len({name for name, _ in told}) == 3
        await deferToThread(own.start)
        again = [(await put(store, message("r", "a", text, text)))[0] for text in failed]
        log = await log_of(store, "r")
        assert [entry.seq for entry in log] == list(range(1, 302))
        assert sorted(entry.text for entry in log[1:]) == sorted(map(str, range(300)))
        assert {entry.text: entry for entry in log[1:] if entry.text in acknowledged} == acknowledged
        assert [entry_of(answer).text for answer in again] == failed


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs_gives_unavailable_in_time(own: MariaDb) -> None:
    """However many calls wait: those whose time is over before their turn are not made at all."""
    server = quick(own.database("mercury"))
    async with opened(lambda _: MysqlStore(server, 4)) as store:
        await put(store, joined("r", "a"))
        own.pause()
        calls: list[Any] = [store.append([message("r", "a", str(n))], NOW) for n in range(50)]
        calls += [store.ping() for _ in range(50)]
        await deferLater(reactor, server.seconds + 0.05)
        assert all(call.called for call in calls)
        for call in calls:
            await unavailable(call)
        own.resume()
        await until_works(store)
        assert len(await log_of(store, "r")) < 10


async def until_works(store: MysqlStore) -> None:
    for _ in range(100):
        try:
            await store.append([], NOW)
            await store.ping()
        except MercuryError:
            await deferToThread(time.sleep, 0.05)
        else:
            return
    raise AssertionError("it does not work again")


@pytest_twisted.ensureDeferred
async def test_a_lost_answer_to_a_commit_gives_unavailable_and_the_cid_finds_what_was_stored(
    mysql: MysqlServer,
) -> None:
    async with opened(lambda _: MysqlStore(mysql)) as direct:
        await put(direct, joined("r", "a"))
        async with (
            LossyProxy(mysql.port) as proxy,
            opened(lambda _: MysqlStore(replace(mysql, port=proxy.own_port))) as store,
        ):
            await put(store, message("r", "a", "before"))
            proxy.cut_answer_to = b"COMMIT"  # which goes with what it commits
            await unavailable(put(store, message("r", "a", "hi", "c")))
            (again,) = await put(store, message("r", "a", "hi", "c"))
            assert again.duplicate
            assert again.entry == (await log_of(direct, "r"))[-1]
            proxy.cut_answer_to = b"START TRANSACTION"  # nothing of that is stored, so the store itself tries again
            (done,) = await put(store, message("r", "a", "ho"))
            assert [entry.text for entry in await log_of(direct, "r")] == ["", "before", "hi", "ho"]
            assert done.entry.seq == 4


def test_a_driver_error_is_an_engine_error_if_the_engine_is_to_blame() -> None:
    assert issubclass(pymysql.err.OperationalError, mysql_server.ENGINE_ERRORS)
    assert not issubclass(pymysql.err.ProgrammingError, mysql_server.ENGINE_ERRORS)
