"""What one node does is seen on another one, in processes of their own, on MariaDB with Redis and on Redis alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults

from tests.promises.cluster import Engines, flags
from tests.support.free_ports import free_port
from tests.support.recorder import Record
from tests.support.recording_clients import FluentClient, V2Client, until
from tests.support.server_process import Server
from tests.support.wamp_client import WampCborClient, WampClient

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("kind", ["mysql", "redis"]),
    pytest.mark.parametrize("speech", [(V2Client, V2Client), (WampClient, WampCborClient)], ids=["v2", "wamp"]),
]

Speech = tuple[type[FluentClient], type[FluentClient]]  # of Ann and Bob


class Two:
    """Ann on the first of two nodes, Bob on the second, both in the room r."""

    def __init__(self, servers: list[Server], speech: Speech) -> None:
        self.servers = servers
        self.speech = speech
        self.record = Record()

    async def begin(self) -> None:
        await gatherResults([Deferred.fromCoroutine(server.start()) for server in self.servers])
        await self.servers[0].ok("POST", "/api/rooms/r/members", {"members": ["ann", "bob"]})
        self.ann, self.bob = [await self.person(n, name) for n, name in enumerate(("ann", "bob"))]
        await until(lambda: told(self.ann, "presence", mid="bob", online=True), "seeing that bob came")

    async def person(self, node: int, member: str, device: str = "") -> FluentClient:
        token = await self.servers[node].token(member)
        client = self.speech[node](self.record, self.servers[node].where, member, token, device)
        await client.connect()
        await client.hear_signals("r")
        await until(lambda: told(client, "caught_up", rid="r"), "catching up")
        return client


def told(client: FluentClient, kind: str, **what: Any) -> bool:
    """Whether the client was sent this."""
    return any(f["type"] == kind and what.items() <= f.items() for f in client.others)


async def online(client: FluentClient, *members: str) -> None:
    """Ask who is there, until it is these: a node that has just begun to listen to a room asks the others itself."""
    for _ in range(1000):
        if (await client.ask(type="presence", rid="r"))["online"] == list(members):
            return
    raise AssertionError(f"{client.name} is not told that {members} are online")


@asynccontextmanager
async def two(folder: Path, kind: str, speech: Speech) -> AsyncIterator[Two]:
    engines = Engines(folder, kind)
    servers = [Server(folder, (free_port(), free_port()), *flags(engines.ports())) for _ in range(2)]
    nodes = Two(servers, speech)
    try:
        await nodes.begin()
        yield nodes
    finally:
        for server in servers:
            if server.processes and not server.processes[-1].ended.called:
                await server.kill()
        engines.stop()


@ensureDeferred
async def test_presence_typing_and_read_marks_cross(tmp_path: Path, kind: str, speech: Speech) -> None:
    """And a node that dies takes its presences with it."""
    async with two(tmp_path, kind, speech) as nodes:
        ann, bob = nodes.ann, nodes.bob
        await online(ann, "ann", "bob")
        await online(bob, "ann", "bob")
        bob.write(type="typing", rid="r")
        await until(lambda: told(ann, "typing", rid="r", mid="bob"), "seeing that bob types")
        ask = ann.say("r", "hello")
        await until(lambda: ask.outcome == "ok" and bob.has.get("r") == ask.answers[0][0], "hello")
        await bob.ask(type="read", rid="r", seq=ask.answers[0][0])
        await until(lambda: told(ann, "read", mid="bob", seq=ask.answers[0][0]), "seeing that bob has read it")
        await bob.close()
        await until(lambda: told(ann, "presence", mid="bob", online=False), "seeing that bob went")
        ann.others.clear()
        await nodes.person(1, "bob")
        await until(lambda: told(ann, "presence", mid="bob", online=True), "seeing that bob is back")
        await nodes.servers[1].kill()
        await until(lambda: told(ann, "presence", mid="bob", online=False), "seeing that bob's node is gone")
        await online(ann, "ann")


@ensureDeferred
async def test_kicks_revocations_and_removals_act_on_every_node(tmp_path: Path, kind: str, speech: Speech) -> None:
    async with two(tmp_path, kind, speech) as nodes:
        first, bob = nodes.servers[0], nodes.bob
        await first.ok("DELETE", "/api/members/bob/connections")
        await until(lambda: not bob.open, "the kick")
        phone = await nodes.person(1, "bob", "phone")
        await first.ok("DELETE", "/api/tokens", {"token": phone.token})
        await until(lambda: not phone.open, "the revocation of a token")
        assert [bob.closes[-1][0], phone.closes[-1][0]] == [4403, 4401]
        desk = await nodes.person(1, "bob", "desk")
        await first.ok("DELETE", "/api/tokens", {"member": "bob"})
        await until(lambda: not desk.open, "the revocation of all")
        bob = await nodes.person(1, "bob")
        await first.ok("DELETE", "/api/rooms/r/members", {"members": ["bob"]})
        await until(lambda: any(s.kind == "left" for s in bob.connection.seen.get("r", [])), "bob's leaving")
        await nodes.ann.ask(type="send", rid="r", text="he is gone")
        assert (await bob.ask(type="send", rid="r", text="may I?"))["code"] == "forbidden"
        await first.ok("POST", "/api/rooms/r/members", {"members": ["bob"]})
        await nodes.ann.ask(type="send", rid="r", text="he is back")
        await until(lambda: bob.connection.seen["r"][-1].text == "he is back", "bob's return")
        assert "he is gone" not in [seen.text for seen in bob.connection.seen.get("r", [])]
