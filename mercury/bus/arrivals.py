"""What the bus brings within one turn of the reactor is told together, in one batch.

A node that is busy finds several of the others' batches in its socket when it looks again. Told one by one, each would
be a write to every connection of the room; together they are one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

from mercury.domain.model import Entry

MOST: Final = 256 * 1024  # bytes of messages that are told together


class Arrivals:
    """Entries that are to be told, to `tell`, at the turn's end or by flush()."""

    def __init__(self, clock: Any, tell: Callable[[Sequence[Entry]], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._batches: list[Sequence[Entry]] = []
        self._bytes = 0
        self._at_end: Any = None

    def add(self, entries: Sequence[Entry], size: int) -> None:
        """These came, in one message of so many bytes."""
        if self._bytes + size > MOST:
            self.flush()
        self._batches.append(entries)
        self._bytes += size
        if self._at_end is None:
            self._at_end = self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Tell what has come so far, before something else is told."""
        if self._at_end is None:
            return
        if self._at_end.active():
            self._at_end.cancel()
        batches, self._batches, self._bytes, self._at_end = self._batches, [], 0, None
        self._tell(batches[0] if len(batches) == 1 else _joined(batches))


def _joined(batches: Sequence[Sequence[Entry]]) -> list[Entry]:
    """All of them, each once and in a room's order: those of two nodes may have crossed on their way."""
    return sorted({(e.rid, e.seq): e for batch in batches for e in batch}.values(), key=attrgetter("seq"))
