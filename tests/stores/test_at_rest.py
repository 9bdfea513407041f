"""With a key file no message text can be found in what a store has on disk; without the key reading fails cleanly; keys
can be changed while messages flow. By real nodes (twistd), real engines, and the bytes of their files.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults

from mercury.cli.keys import new_key
from mercury.domain.events import WHY_LOST
from tests.promises.checker import summary
from tests.promises.cluster import Cluster
from tests.promises.faults import rolling_restart
from tests.support.child_programs import KEYS, Program
from tests.support.free_ports import free_port
from tests.support.mariadb_servers import MariaDb
from tests.support.recorder import Record
from tests.support.recording_clients import V1Client, V2Client, until
from tests.support.redis_servers import RedisEngine
from tests.support.server_process import Server

pytestmark = pytest.mark.slow

K1, K2 = (f"{id}:{b64encode(id.encode() * 16).decode()}\n" for id in ("k1", "k2"))
MANY = 3000  # messages: some seconds of work for mercury-keys rewrite


class AtRest:
    """A store's files, and the flags of a node that uses it. `settle()`: have written what is written by and by."""

    def __init__(self, folders: Iterable[Path], flags: Iterable[str], settle: Callable[[], object]) -> None:
        self.folders = list(folders)
        self.flags = list(flags)
        self.settle = settle

    def holds(self, text: str) -> bool:
        """Whether the text stands in any of the files."""
        self.settle()
        files = [path for folder in self.folders for path in folder.rglob("*") if path.is_file()]
        assert files
        return any(text.encode() in path.read_bytes() for path in files)


@pytest.fixture(params=["sqlite", "mysql", "redis"])
def at_rest(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Each store, with nothing in it."""
    folder = tmp_path / "store"
    folder.mkdir()
    if request.param == "sqlite":
        yield AtRest([folder], [f"--sqlite.path={folder / 'm.sqlite'}"], lambda: None)
    elif request.param == "mysql":
        mariadb = MariaDb(folder)
        mariadb.start()
        flags = ["--storage.type=mysql", "--mysql.host=127.0.0.1", f"--mysql.port={mariadb.port}"]
        yield AtRest([folder], flags, lambda: mariadb.query("FLUSH TABLES"))
        mariadb.kill()
    else:
        redis = RedisEngine(folder, free_port(), durable=True, options=("--rdbcompression", "no"))

        def save() -> None:
            assert redis.ask("SAVE") == b"+OK\r\n"
            assert (folder / "dump.rdb").stat().st_size > 100

        yield AtRest([folder], ["--storage.type=redis", "--redis.host=127.0.0.1", f"--redis.port={redis.port}"], save)
        redis.stop()


class Keyed(Server):
    """A node with a key file. Without any keys in it, it is started without the flag."""

    def __init__(self, folder: Path, at_rest: AtRest) -> None:
        super().__init__(folder, (free_port(), free_port()), *at_rest.flags)
        self.keys = folder / "keys"
        self._plain = self.flags

    async def start_with(self, *keys: str) -> None:
        """Start it, or start it again, with these keys."""
        if self.processes and not self.processes[-1].ended.called:
            await self.stop()
        self.keys.write_text("".join(keys))
        self.keys.chmod(0o600)
        self.flags = [*self._plain, *([f"--crypto.keys={self.keys}"] if keys else [])]
        await self.start()

    async def say(self, text: str, cid: str = "") -> dict[str, Any]:
        """A message in the room r, by REST."""
        status, answer = await self.call("POST", "/api/rooms/r/messages", {"member": "ann", "text": text}, key=cid)
        assert status in (200, 201), answer
        said: dict[str, Any] = answer["body"]
        return said

    async def texts(self) -> list[str]:
        """What REST shows of the room r: the texts, or why there is none, in brackets."""
        found = (await self.ok("GET", "/api/rooms/r/messages?after=0&limit=100"))["messages"]
        return [f"[{message['lost']}]" if "lost" in message else message["text"] for message in found]

    def rewrite(self) -> Program:
        """mercury-keys rewrite, with the settings of this node."""
        return Program([*KEYS, "rewrite", *self.flags])


@pytest.fixture
def node(tmp_path: Path, at_rest: AtRest) -> Any:
    keyed = Keyed(tmp_path, at_rest)
    yield keyed
    for process in keyed.processes:
        process.signal("KILL")


@ensureDeferred
async def test_no_text_can_be_found_in_the_files(at_rest: AtRest, node: Keyed) -> None:
    """Without a key file it can, so that what this looks for is known to be there. Both stand in one store."""
    clear, sealed = (f"{what} {secrets.token_hex(20)} Grüße " for what in ("clear", "sealed"))
    await node.start_with()
    await node.ok("POST", "/api/rooms/r/members", {"members": ["ann", "bob"]})
    await node.say(clear)
    await node.start_with(K1)
    first = await node.say(sealed, "a-cid")
    again = await node.say(sealed, "a-cid")
    assert (again["seq"], again["duplicate"]) == (first["seq"], True)
    assert (await node.call("POST", "/api/rooms/r/messages", {"member": "ann", "text": "x"}, key="a-cid"))[0] == 409
    await node.say(sealed * 200)
    assert at_rest.holds(clear)
    assert not at_rest.holds(sealed)
    assert not at_rest.holds(sealed.split()[1])
    await node.kill()
    assert at_rest.holds(clear)
    assert not at_rest.holds(sealed.split()[1])
    await node.start()
    assert await node.texts() == [clear, sealed, sealed * 200]
    assert sealed.split()[1].encode() not in node.written()


@ensureDeferred
async def test_without_the_right_key_these_messages_alone_cannot_be_read(at_rest: AtRest, node: Keyed) -> None:
    await node.start_with()
    await node.ok("POST", "/api/rooms/r/members", {"members": ["ann", "bob"]})
    await node.say("in clear")
    await node.start_with(K1)
    await node.say("by k1", "c")
    other = K2.replace("k2", "k1", 1)
    for keys, lost in (([K2], "no_key"), ([other], "damaged"), ([], "no_key")):
        await node.start_with(*keys)
        assert await node.texts() == ["in clear", f"[{lost}]"]
        status, answer = await node.call("POST", "/api/rooms/r/messages", {"member": "ann", "text": "by k1"}, key="c")
        assert (status, answer["code"]) == (409, "conflict")
        assert "cannot be read" in answer["error"]
        for _ in range(3):
            await node.texts()
        assert node.processes[-1].out.count(b"cannot be read: ") == 1, node.processes[-1].out
    record = Record()
    record.members["r"] = {"ann", "bob"}
    fluent = V2Client(record, node.where, "bob", await node.token("bob"), "phone")
    old = V1Client(record, node.where, "bob", await node.token("bob"))
    await gatherResults([Deferred.fromCoroutine(client.connect()) for client in (fluent, old)])
    for client in (fluent, old):
        await until(lambda c=client: len(c.connection.seen.get("r", ())) >= 2, "the log")  # type: ignore[misc]
    answer = await fluent.ask(type="history", rid="r")
    assert [(m["text"], m.get("lost")) for m in answer["messages"]] == [("in clear", None), ("", "no_key")]
    assert [seen.text for seen in await old.history("r")] == ["in clear", WHY_LOST["no_key"]]
    for client in (fluent, old):
        await client.close()
    await node.start_with(K2, K1)
    assert await node.texts() == ["in clear", "by k1"]
    assert b"chmod 600" not in node.written()
    node.keys.chmod(0o644)
    await node.stop()
    await node.start()
    assert b"chmod 600" in node.written()
    assert not any(key.split(":")[1].strip().encode() in node.written() for key in (K1, K2))


@ensureDeferred
async def test_rewriting_goes_on_beside_the_node_and_can_be_broken_off(at_rest: AtRest, node: Keyed) -> None:
    """All is acknowledged and kept meanwhile; after it the old key is not needed, and nothing is in clear any more."""
    await node.start_with()
    await node.ok("POST", "/api/rooms/r/members", {"members": ["ann"]})
    said = [f"clear {n}" for n in range(MANY // 2)]
    await _say_all(node, said)
    await node.start_with(K1)
    said += (old := [f"old {n}" for n in range(MANY // 2)])
    await _say_all(node, old)
    await node.start_with(K2, K1)
    talking = True

    async def talk() -> None:
        while talking:
            said.append(f"meanwhile {len(said)}")
            await node.say(said[-1])

    talk_on = Deferred.fromCoroutine(talk())
    broken_off = node.rewrite()
    await until(lambda: b"messages" in broken_off.err, "the first step")
    broken_off.signal("TERM")
    await until(lambda: broken_off.ended.called, "the end")
    assert b"interrupted" in broken_off.err, broken_off.err
    assert broken_off.ended.result == 1
    whole = node.rewrite()
    await until(lambda: whole.ended.called, "the end")
    assert whole.ended.result == 0, whole.err
    assert b"unreadable: 0\n" in whole.err
    talking = False
    await talk_on
    assert [seen.text for seen in await node.history("r")] == said
    await node.start_with(K2)
    assert [seen.text for seen in await node.history("r")] == said
    await node.start_with()
    assert {seen.text for seen in await node.history("r")} == {""}


async def _say_all(node: Keyed, texts: list[str]) -> None:
    """Quickly: by one WebSocket, each with its place as cid so that they stay in order."""
    client = V2Client(Record(), node.where, "ann", await node.token("ann"), secrets.token_hex(4))
    client.record.members["r"] = {"ann"}
    await client.connect()
    for text in texts:
        await until(lambda: len(client.waiting) < 200, "answers")
        client.say("r", text)
    await until(lambda: not client.waiting, "all answers")
    assert all(ask.outcome == "ok" for ask in client.record.asks)
    await client.close()


@pytest.mark.parametrize("kind", ["mysql", "redis"])
@ensureDeferred
async def test_keys_change_on_three_nodes_while_all_talk(kind: str, tmp_path: Path) -> None:
    """As docs/encryption.md has it: all can read by the new key; it is put first, all is rewritten, the old goes."""
    cluster = Cluster(tmp_path, kind, seed=4)
    keys = tmp_path / "keys"
    new_key(keys)
    new_key(keys, last=True)
    old, new = keys.read_text().splitlines()
    for server in cluster.servers:
        server.flags.append(f"--crypto.keys={keys}")

    async def change(cluster: Cluster) -> None:
        keys.write_text(f"{new}\n{old}\n")
        await rolling_restart(cluster)
        rewriting = Program([*KEYS, "rewrite", *cluster.servers[0].flags])
        await until(lambda: rewriting.ended.called, "the end of rewriting")
        cluster.note(rewriting.ended.result == 0, f"rewriting failed: {rewriting.err!r}")
        keys.write_text(new)
        await rolling_restart(cluster)

    try:
        await cluster.begin()
        found = await cluster.round(0, change)
        assert not found, f"{summary(found)}\n{cluster.last_words()}"
        assert sum(ask.outcome == "ok" for ask in cluster.record.asks) > 50, cluster.record.counts()
        assert all(b"cannot be read" not in server.written() for server in cluster.servers)
    finally:
        await cluster.close()
