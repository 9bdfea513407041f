"""Connecting, history, unread counts and catching up stay as quick as they were however long a room's log gets.

That is held by what is done, not by how long it takes: nodes on real databases make each call that clients make all the
time, and the databases tell which statements came of it, how these are done, and how much they read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from twisted.internet import reactor

from bench.scale_client import subjects
from bench.scale_databases import Call, Database, MariaDb, Redis, Sqlite
from bench.scale_fill import EMPTY, Size, fill
from bench.scale_plans import CALLS, watch
from mercury.stores.mysql import sql as mysql_sql
from mercury.stores.mysql.store import MysqlStore
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from mercury.stores.sqlite import sql as sqlite_sql
from mercury.stores.sqlite.store import SqliteStore
from tests.support.free_ports import free_port
from tests.support.in_process_node import Node
from tests.support.redis_servers import RedisEngine

pytestmark = pytest.mark.slow

#: SQLite reads a log from an entry on that it has in its index, which each 64th is
#: (mercury/stores/sqlite/room_log.py): so many more that all which is asked for is as far from one as it was.
SMALL, LARGE = Size(rooms=60, members=200, messages=1_000), Size(rooms=60, members=804, messages=19_944)

#: A room's page of members comes with a count of them all.
COUNTS_MEMBERS = {"rest_members", "rest_messages"}


#: An index without which a member's places are looked for among those of all: what drops it, what makes it again.
MEMBERSHIP_MID: dict[type, tuple[str, str]] = {
    MariaDb: ("ALTER TABLE membership DROP INDEX mid", "ALTER TABLE membership ADD INDEX mid (mid)"),
    Sqlite: ("DROP INDEX membership_mid", "CREATE INDEX membership_mid ON membership (mid)"),
}

#: How a member's tokens are asked for.
TOKENS: dict[type, str] = {MariaDb: mysql_sql.TOKENS % "'a'", Sqlite: sqlite_sql.TOKENS.replace("?1", "'a'")}

MORE = 1.05  # times as much may be read: where joins stand among a page's messages, these are read, too


class Engine(NamedTuple):
    """A database, how to make a store on it, what has to be entered for the database to tell what it does, and a way
    to change it behind the store's back."""

    database: Database
    make: Callable[[], Any]
    telling: Callable[[], AbstractContextManager[None]]
    execute: Callable[[str], Any]


class Watched(NamedTuple):
    """An engine with a store of size LARGE, and what came of each call when it was SMALL and when it was LARGE, by
    subject."""

    engine: Engine
    small: dict[str, dict[str, Call]]
    large: dict[str, dict[str, Call]]

    def statements(self) -> dict[str, str]:
        """An example of each statement of all calls, by name."""
        calls = [call for seen in self.large.values() for call in seen.values()]
        return {name: statement for call in calls for name, statement in call.statements.items()}


def engine_of(kind: str, request: pytest.FixtureRequest, folder: Path, stack: ExitStack) -> Engine:
    """An engine without anything in it. What is entered on the stack ends with it."""
    if kind == "sqlite":
        path = str(folder / "mercury.sqlite")
        sqlite = Sqlite(path)
        behind = stack.enter_context(closing(sqlite3.connect(path)))
        return Engine(sqlite, lambda: SqliteStore(path), sqlite.telling, behind.execute)
    if kind == "redis":
        redis = RedisEngine(folder, free_port())
        stack.callback(redis.stop)
        server = RedisServer(port=redis.port)
        return Engine(Redis(redis.port), lambda: RedisStore(reactor, server), nullcontext, redis.ask)
    mariadb = request.getfixturevalue("mariadb")
    database = mariadb.database("plans")
    watched = stack.enter_context(MariaDb.at(mariadb.port, "plans"))
    return Engine(watched, lambda: MysqlStore(database), nullcontext, partial(mariadb.query, database="plans"))


async def grown(engine: Engine, start: Size, size: Size, step: int) -> dict[str, dict[str, Call]]:
    """Fill a store of one size to another one, and make each call for each subject."""
    store = engine.make()
    await store.open()
    await fill(store, start, size)
    await store.close()
    with engine.telling():
        async with Node(engine.make()) as node:
            return {name: await watch(node, subject, engine.database) for name, subject in subjects(size, step).items()}


@pytest_twisted.async_yield_fixture(scope="module")
async def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """An engine of the kind that the test asks for."""
    with ExitStack() as stack:
        engine = engine_of(request.param, request, tmp_path_factory.mktemp("plans"), stack)
        small = await grown(engine, EMPTY, SMALL, 0)
        yield Watched(engine, small, await grown(engine, SMALL, LARGE, 1))


def on(*kinds: str) -> pytest.MarkDecorator:
    """Do the test with each of these engines."""
    return pytest.mark.parametrize("watched", kinds, indirect=True)


@on("mysql", "sqlite")
def test_no_statement_goes_through_a_table_or_sorts(watched: Watched) -> None:
    database, statements = watched.engine.database, watched.statements()
    assert statements.keys() >= {"TOKEN", "PLACES", "HEADS", "READ", "NEWEST_FIRST", "OLDEST_FIRST", "MEMBERS"}
    assert [name for name in statements if not name.isupper()] == []  # all are from mercury/stores/*/sql.py
    complaints = {name: database.complaints(statement) for name, statement in statements.items()}
    assert {name: found for name, found in complaints.items() if found} == {}


@on("mysql", "sqlite")
def test_a_members_tokens_are_found_by_an_index(watched: Watched) -> None:
    """Clients that log in by WAMP-CRA ask for them; none of those above does."""
    statement = TOKENS[type(watched.engine.database)]
    assert watched.engine.database.complaints(statement) == []
    assert watched.engine.database.complaints(statement.replace("mid =", "expires + 0 ="))  # no index is for that


@on("mysql")
def test_rooms_that_are_guessed_at_are_found_by_their_numbers(watched: Watched) -> None:
    """No call above comes so far: it takes a node that has written to a room twice."""
    statement = mysql_sql.GUESS_ROOMS % "'[[1, 2, 1, 1]]'"
    assert watched.engine.database.complaints(statement) == []
    assert watched.engine.database.complaints(statement.replace("r.nr = asked.room", "r.nr + 0 = asked.room"))


@on("mysql", "sqlite", "redis")
@pytest.mark.parametrize("subject", ["rooms", "members", "messages"])
def test_what_a_call_reads_does_not_grow_with_messages_and_members(watched: Watched, subject: str) -> None:
    before, after = watched.small[subject], watched.large[subject]
    assert CALLS.keys() - before.keys() == {"hello"}  # which is a part of "live"
    read = {name: (before[name].read, after[name].read) for name in before.keys() - COUNTS_MEMBERS}
    assert {name: counts for name, counts in read.items() if not 0 < counts[1] <= counts[0] * MORE} == {}


@on("mysql", "sqlite")
def test_what_grows_with_the_tables_is_found(watched: Watched) -> None:
    """The tests above would see it: a table or an index that is gone through, a sort, an index that is missing."""
    complaints, execute = watched.engine.database.complaints, watched.engine.execute
    assert complaints("SELECT text FROM entry")
    assert complaints("SELECT room FROM membership")
    assert complaints("SELECT seq FROM entry WHERE room = 1 ORDER BY text")
    places = watched.statements()["PLACES"]
    assert not complaints(places)
    (drop, make) = MEMBERSHIP_MID[type(watched.engine.database)]
    execute(drop)
    assert complaints(places)
    execute(make)
    assert not complaints(places)
