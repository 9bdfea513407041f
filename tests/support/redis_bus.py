"""Buses on a real Redis, and a listener that writes down what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from twisted.internet import reactor
from zope.interface import implementer

from mercury.bus.redis import RedisBus
from mercury.domain.model import Entry
from mercury.domain.signals import Signal
from mercury.interfaces import IBusListener
from mercury.stores.redis.link import RedisServer
from tests.contracts.tools import NOW
from tests.support.recording_clients import until


@implementer(IBusListener)
class RecordingListener:
    """Writes down what a bus tells it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.pieces: list[int] = []
        self.signals: list[tuple[str, Signal]] = []
        self.invalidated: list[list[str] | None] = []
        self.nodes: list[tuple[str, str]] = []

    def entries_received(self, entries: Sequence[Entry]) -> None:
        self.entries += entries
        self.pieces.append(len(entries))

    def signal_received(self, node: str, signal: Signal) -> None:
        self.signals.append((node, signal))

    def invalidate(self, rids: Sequence[str] | None) -> None:
        self.invalidated.append(None if rids is None else list(rids))

    def node_up(self, node: str) -> None:
        self.nodes.append(("came", node))

    def node_down(self, node: str) -> None:
        self.nodes.append(("gone", node))


def texts(listener: RecordingListener) -> list[str]:
    return [entry.text for entry in listener.entries]


@asynccontextmanager
async def bus_node(
    port: int, *, is_up: bool = True, store_publishes: bool = False, **server: Any
) -> AsyncIterator[tuple[RedisBus, RecordingListener]]:
    """A node's bus and its listener, within the block."""
    where = replace(RedisServer(port=port, command_seconds=1.0, connect_seconds=1.0), **server)
    bus, listener = RedisBus(reactor, where, store_publishes=store_publishes), RecordingListener()
    await bus.open(listener)
    try:
        if is_up:
            await until(lambda: bus.is_up, "the bus does not come up")
            listener.invalidated.clear()
        yield bus, listener
    finally:
        await bus.close()


def said(rid: str, seq: int, text: str = "hello") -> Entry:
    return Entry(rid, seq, seq + 1000, "message", NOW, "a", text, f"c{seq}")
