"""A chat whose store is lost and put back from a backup, by the commands of docs/stores.md: clients come back by
themselves, are told to start afresh, and all have one history, which goes on.

A real node, real engines, and the terminal's client, which resumes.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from mercury.client.connection import Client
from mercury.client.rest import ServerAddress
from mercury.domain.commands import Send
from mercury.domain.events import Hello, Joined, Message, Reset, SendOk
from mercury.stores.mysql.store import MysqlStore
from mercury.stores.redis.link import RedisServer
from mercury.stores.redis.store import RedisStore
from mercury.stores.sqlite.store import SqliteStore
from tests.support.chatting_person import AtOnce
from tests.support.child_programs import ADMIN, run
from tests.support.free_ports import free_port
from tests.support.mariadb_servers import MariaDb, program
from tests.support.paths import ROOT
from tests.support.recording_clients import until
from tests.support.redis_servers import RedisEngine
from tests.support.server_process import Server

pytestmark = pytest.mark.slow

ROOM, PEOPLE, DEVICE = "tea", ("ann", "bob", "cleo"), "phone"
DOCUMENT = (ROOT / "docs" / "stores.md").read_text("utf-8")


def documented(command: str, changes: dict[str, str]) -> None:
    """Run a command that stands in docs/stores.md, with other names in place of those there."""
    assert f"    {command}\n" in DOCUMENT or f"`{command}`" in DOCUMENT, command
    for old, new in changes.items():
        assert old in command, old
        command = command.replace(old, new)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


class Sqlite:
    """Each of these three has the flags that choose it; start() and lose() the engine; back_up() and put_back()."""

    def __init__(self, folder: Path) -> None:
        self.path, self._backup = folder / "m.sqlite", folder / "backup"
        self.flags = ("--storage.type=sqlite", f"--sqlite.path={self.path}")

    def store(self) -> Any:
        return SqliteStore(str(self.path))

    def back_up(self) -> None:
        command = "mercury-admin backup mercury.backup --sqlite.path=/var/lib/mercury/mercury.sqlite"
        documented(
            command,
            {
                "mercury-admin": f"PYTHONPATH={ROOT} {shlex.join(ADMIN)}",
                "mercury.backup": str(self._backup),
                "/var/lib/mercury/mercury.sqlite": str(self.path),
            },
        )

    def put_back(self) -> None:
        assert Path(f"{self.path}-wal").stat().st_size, "nothing that could be mistaken is left of the killed node"
        there = {"/var/lib/mercury/mercury.sqlite": str(self.path)}
        documented("rm -f /var/lib/mercury/mercury.sqlite-wal /var/lib/mercury/mercury.sqlite-shm", there)
        documented(
            "install -o mercury -g mercury -m 600 mercury.backup /var/lib/mercury/mercury.sqlite",
            there | {"-o mercury -g mercury ": "", "mercury.backup": str(self._backup)},
        )

    def end(self) -> None:
        pass


class Mysql:
    """Without Redis, and with texts that are sealed: a dump of them is full of odd bytes."""

    def __init__(self, folder: Path) -> None:
        self._backup = folder / "backup.sql"
        (folder / "engine").mkdir()
        self._engine = MariaDb(folder / "engine")
        self._engine.start()
        (folder / "keys").write_text("k:" + "A" * 43 + "=\n")
        (folder / "keys").chmod(0o600)
        where = ("--mysql.host=127.0.0.1", f"--mysql.port={self._engine.port}", f"--crypto.keys={folder}/keys")
        self.flags = ("--storage.type=mysql", *where)
        self._client = f"-h 127.0.0.1 -P {self._engine.port} -u root --skip-ssl mercury"

    def store(self) -> Any:
        return MysqlStore(self._engine.database("mercury"))

    def back_up(self) -> None:
        names = {"blob mercury": f"blob {self._client}", "> mercury.sql": f"> {self._backup}"}
        documented("mariadb-dump --single-transaction --hex-blob mercury > mercury.sql", names)

    def put_back(self) -> None:
        program("mariadb")
        documented(
            "mariadb mercury < mercury.sql",
            {"mariadb mercury": f"mariadb {self._client}", "mercury.sql": str(self._backup)},
        )

    def end(self) -> None:
        self._engine.kill()


class Redis:
    def __init__(self, folder: Path) -> None:
        self._folder, self._backup = folder / "engine", folder / "backup.rdb"
        options = ("--repl-diskless-sync-delay", "0")  # for others who might ask for a copy as well
        self._engine = RedisEngine(self._folder, free_port(), durable=True, options=options)
        self.flags = ("--storage.type=redis", "--redis.host=127.0.0.1", f"--redis.port={self._engine.port}")

    def store(self) -> Any:
        return RedisStore(reactor, RedisServer(port=self._engine.port))

    def back_up(self) -> None:
        names = {"redis-cli": f"redis-cli -p {self._engine.port}", "mercury.rdb": str(self._backup)}
        documented("redis-cli --rdb mercury.rdb", names)

    def put_back(self) -> None:
        self._engine.stop()
        there, copy = {"/var/lib/redis": str(self._folder)}, {"mercury.rdb": str(self._backup)}
        documented("rm -rf /var/lib/redis/appendonlydir && mkdir /var/lib/redis/appendonlydir", there)
        documented("cp mercury.rdb /var/lib/redis/appendonlydir/appendonly.aof.1.base.rdb", there | copy)
        documented(
            "echo 'file appendonly.aof.1.base.rdb seq 1 type b' > /var/lib/redis/appendonlydir/appendonly.aof.manifest",
            there,
        )
        self._engine.start()

    def end(self) -> None:
        self._engine.kill()


class Person:
    """A client that comes back by itself, and what it heard on its last connection."""

    def __init__(self, server: Server, name: str) -> None:
        self.heard: list[Any] = []
        self.ids: set[int] = set()
        where = ServerAddress("127.0.0.1", server.where.api, server.where.ws)
        self.client = Client(reactor, name, [ROOM], self._happened, server=where, device=DEVICE, rng=AtOnce())
        self.client.start().addErrback(lambda failure: None)  # it was stopped

    def _happened(self, event: Any) -> None:
        if isinstance(event, Hello):
            self.heard.clear()
        self.heard.append(event)
        if isinstance(event, Message):
            self.ids.add(event.id)

    @property
    def log(self) -> list[tuple[int, str]]:
        return [
            (entry.seq, entry.text if isinstance(entry, Message) else "")
            for entry in self.heard
            if isinstance(entry, Message | Joined)
        ]

    def is_at(self, seq: int) -> bool:
        return self.client.seen.get(ROOM, 0) >= seq

    async def send(self, text: str, cid: str) -> SendOk:
        return await self.client.ask(Send(rid=ROOM, text=text, cid=cid), SendOk)


@pytest.fixture(params=[Sqlite, Mysql, Redis], ids=["sqlite", "mysql", "redis"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    engine = request.param(tmp_path)
    yield engine
    engine.end()


@pytest_twisted.async_yield_fixture
async def server(engine: Any, tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Server]:
    """A node on that engine."""
    server = Server(tmp_path, (free_port(), free_port()), *engine.flags)
    await server.start()
    yield server
    await server.kill()


@pytest_twisted.async_yield_fixture
async def people(server: Server) -> AsyncIterator[list[Person]]:
    people = [Person(server, name) for name in PEOPLE]
    yield people
    for person in people:
        await person.client.stop()


@pytest_twisted.ensureDeferred
async def test_a_store_that_is_put_back_is_one_history_for_all_and_goes_on(
    engine: Any, server: Server, people: list[Person]
) -> None:
    ann = people[0]
    await until(lambda: all(person.client.connected and person.is_at(3) for person in people), "all being in")

    async def chat(until_done: Callable[[], bool]) -> SendOk:
        said, count = await ann.send("begun", str(time.monotonic())), 0
        while count < 20 or not until_done():
            count += 1
            said = await ann.send(f"{count}", f"{time.monotonic()}")
        await until(lambda: all(person.is_at(said.seq) for person in people), "all having heard")
        return said

    await chat(lambda: True)
    early = await ann.send("early", "early")
    copying = deferToThread(engine.back_up)
    await chat(lambda: copying.called)
    await copying
    late = await ann.send("late", "late")
    last = await chat(lambda: True)
    refused = await deferToThread(run, *ADMIN, "restore", *engine.flags)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "stop" in refused.stderr
    epoch = ann.heard[0].epoch

    await server.kill()
    await deferToThread(engine.put_back)
    done = await deferToThread(run, *ADMIN, "restore", *engine.flags)
    assert done.returncode == 0, done.stderr
    assert f"instead of {epoch}" in done.stdout
    store = engine.store()
    await store.open()
    places = [place for name in PEOPLE for place in await store.memberships(name, DEVICE)]
    await store.close()
    assert len(places) == 3
    assert all((place.delivered or 0) <= place.head < late.seq and place.read <= place.head for place in places)
    assert places[0].head >= early.seq

    await server.start()
    head = places[0].head
    await until(lambda: all(person.client.connected and person.is_at(head) for person in people), "all coming back")
    known = set.union(*(person.ids for person in people))
    again, anew = await ann.send("early", "early"), await ann.send("late", "late")
    assert (again.seq, again.id, again.duplicate) == (early.seq, early.id, True)
    assert (anew.seq, anew.duplicate) == (head + 1, False)
    assert anew.seq <= last.seq  # the number had been another message's
    said = await people[1].send("it goes on", "on")
    assert max(known) < anew.id < said.id < 2**53
    await until(lambda: all(person.is_at(said.seq) for person in people), "all having heard")
    history = [(seen.seq, seen.text) for seen in await server.history(ROOM)]
    assert [text for _, text in history][-2:] == ["late", "it goes on"]
    for person, place in zip(people, places, strict=True):
        hello, reset = person.heard[:2]
        assert hello.epoch != epoch
        assert reset == Reset(ROOM, place.joined - 1)
        assert [seq for seq, _ in person.log] == list(range(place.joined, said.seq + 1))
        assert [entry for entry in person.log if entry[1]] == history
