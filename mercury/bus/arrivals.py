"""What a bus has received, on its way to the listener. Entries of one turn of the reactor are handed over together.

A busy node finds several batches of other nodes in its socket when it looks again. Handed over one by one, each batch
would be a write to every connection of the room; together they are one write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, ParamSpec

from twisted.logger import Logger

from mercury.domain.model import Entry
from mercury.domain.signals import Signal
from mercury.interfaces import IBusListener

P = ParamSpec("P")

_log = Logger()

MAX_BYTES: Final = 256 * 1024  # of messages that are handed over together


class Arrivals:
    """Hands over to a listener, between open() and close(), in the order of arrival. What the listener raises is
    logged."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._listener: IBusListener | None = None
        self._batches: list[Sequence[Entry]] = []
        self._bytes = 0
        self._turn_end: Any = None  # the delayed call that hands over the batches

    def open(self, listener: IBusListener) -> None:
        """Hand over to this listener from now on."""
        self._listener = listener

    def close(self) -> None:
        """Hand over nothing more."""
        self._listener = None

    def entries_received(self, entries: Sequence[Entry], size: int) -> None:
        """Hand these over at the end of this turn. They came in one message of `size` bytes."""
        if self._bytes + size > MAX_BYTES:
            self.flush()
        self._batches.append(entries)
        self._bytes += size
        if self._turn_end is None:
            self._turn_end = self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Hand over the entries that have come so far, at once."""
        if self._turn_end is None:
            return
        if self._turn_end.active():
            self._turn_end.cancel()
        batches, self._batches, self._bytes, self._turn_end = self._batches, [], 0, None
        if self._listener is not None:
            entries = batches[0] if len(batches) == 1 else _merged(batches)
            self._hand_over(self._listener.entries_received, entries)

    # All others flush first, so that nothing overtakes an entry

    def signal_received(self, node: str, signal: Signal) -> None:
        self.flush()
        if self._listener is not None:
            self._hand_over(self._listener.signal_received, node, signal)

    def invalidate(self, rids: Sequence[str] | None) -> None:
        self.flush()
        if self._listener is not None:
            self._hand_over(self._listener.invalidate, rids)

    def node_up(self, node: str) -> None:
        self.flush()
        if self._listener is not None:
            self._hand_over(self._listener.node_up, node)

    def node_down(self, node: str) -> None:
        self.flush()
        if self._listener is not None:
            self._hand_over(self._listener.node_down, node)

    def _hand_over(self, method: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception:
            _log.failure("handling a message from the bus failed")


def _merged(batches: Sequence[Sequence[Entry]]) -> list[Entry]:
    """All entries, each once and in its room's order: batches of two nodes may have crossed on their way."""
    return sorted({(e.rid, e.seq): e for batch in batches for e in batch}.values(), key=attrgetter("seq"))
