"""A bus for nodes in one process, on a Clock: a plain list of them, which can lose what is sent, or keep it for later.

tests/bus/ has the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mercury.domain.counters import Histogram
from mercury.domain.model import Entry
from mercury.domain.signals import Signal
from mercury.interfaces import IBus, IBusListener


class Network:
    """What the buses of all nodes share. `lossy`: nothing gets through. `delayed`: a list in which all is kept."""

    def __init__(self) -> None:
        self.buses: list[LossyBus] = []
        self.lossy = False
        self.delayed: list[Callable[[], None]] | None = None

    def send(self, sender: LossyBus, rid: str | None, tell: Callable[[IBusListener], None]) -> None:
        for bus in self.buses:
            if bus is sender or self.lossy or (rid is not None and rid not in bus.rooms):
                continue
            if self.delayed is None:
                tell(bus.listener)
            else:
                self.delayed.append(lambda bus=bus: tell(bus.listener))  # type: ignore[misc]


@implementer(IBus)
class LossyBus:
    """One node's bus."""

    is_up = True
    lags = Histogram(())

    def __init__(self, network: Network) -> None:
        self.node = f"node {len(network.buses)}"
        self.rooms: set[str] = set()
        self.listener: Any = None
        self._network = network
        network.buses.append(self)

    def open(self, listener: IBusListener) -> Deferred[None]:
        self.listener = listener
        return succeed(None)

    def close(self) -> Deferred[None]:
        self._network.buses.remove(self)
        for bus in self._network.buses:
            bus.listener.node_down(self.node)
        return succeed(None)

    def publish(self, entries: Sequence[Entry]) -> None:
        for rid in {entry.rid for entry in entries}:
            part = [entry for entry in entries if entry.rid == rid]
            self._network.send(self, rid, lambda listener, part=part: listener.entries_received(part))  # type: ignore[misc]

    def publish_signal(self, rid: str | None, signal: Signal) -> None:
        self._network.send(self, rid, lambda listener: listener.signal_received(self.node, signal))

    def subscribe(self, rid: str) -> Deferred[None]:
        self.rooms.add(rid)
        return succeed(None)

    def unsubscribe(self, rid: str) -> None:
        self.rooms.discard(rid)
