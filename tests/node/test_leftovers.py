"""What a connection is made of while it is idle, and what is left of it when it is gone: as little as can be."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any
from weakref import ref

import pytest
import pytest_twisted

from mercury.websocket.fast.handshake import OWN
from tests.support.deflating import Deflating
from tests.support.in_process_node import together
from tests.support.recording_clients import FluentClient, V2Client, until
from tests.support.wamp_client import WampCborClient, WampClient
from tests.support.websocket_bytes import upgrade
from tests.support.websocket_port import OpenPort

pytestmark = pytest.mark.alone

KINDS = (V2Client, WampClient, WampCborClient, type("Deflater", (Deflating, V2Client), {}))


@pytest.fixture
def nobody_looks() -> Iterator[None]:
    """Python does not look for garbage that refers to itself, as it seldom does in a node
    (mercury/node/tuning.py).
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_closed_is_gone_at_once(
    open_port: OpenPort, kind: type[FluentClient], nobody_looks: None
) -> None:
    port = await open_port(ws={"compression": True})
    for bye in (FluentClient.close, FluentClient.abort):
        client = port.v2(kind=kind)
        await client.connect()
        await until(lambda: port.chat.hub.rooms["r"].live)
        await port.chat.rooms.post("bob", "r", "hello")
        await client.history("r")
        parts = [ref(part) for c in port.chat.counters.connected for part in (c, c.transport)]
        assert len(parts) == 2
        if (done := bye(client)) is not None:
            await done
        await until(lambda: not port.chat.counters.connected)
        await until(lambda parts=parts: not any(part() for part in parts))  # type: ignore[misc]


@pytest_twisted.ensureDeferred
async def test_so_is_one_that_was_refused(open_port: OpenPort, nobody_looks: None) -> None:
    port = await open_port()
    made: list[Any] = []
    count = port.chat.counters.open

    def opened(connection: Any) -> None:
        made.append(ref(connection))
        count(connection)

    port.chat.counters.open = opened
    for target in ("/ws/connect", "/ws/connect?token=x&member=ann", "/nowhere"):
        await (await port.raw(upgrade(target))).all()
    await until(lambda: len(made) == 3 and not any(connection() for connection in made))


@pytest_twisted.ensureDeferred
async def test_connections_share_the_table_of_their_attributes(open_port: OpenPort) -> None:
    """Also when many are made before the first one is open; else each would have a large one of its own."""
    port = await open_port()
    waiting = [await port.raw() for _ in range(40)]
    clients = [port.v2(f"device {n}") for n in range(3)] + [port.v1()]
    await together(*(client.connect() for client in clients))
    await port.chat.rooms.post("bob", "r", "hello")
    connections = [session.connection for session in port.chat.hub.everybody()]
    assert len(connections) == len(clients)
    for connection in connections:
        attributes = vars(connection)
        assert sorted(attributes.keys() - {*OWN}) == []
        assert sys.getsizeof(attributes) < sys.getsizeof(dict(attributes)), "else it is not shared"
    for wiretap in waiting:
        wiretap.transport.abortConnection()
    for client in clients:
        await client.close()
