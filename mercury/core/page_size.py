"""How much of a log is taken at once: a number of entries is no bound while texts may be long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from mercury.domain.model import Entry

PAGE_BYTES: Final = 256 << 10  # of text, in characters; JSON may make it more


def fit(sizes: Iterable[int], most: int = PAGE_BYTES) -> int:
    """How many texts of these sizes, one at least, are `most` together at most, the first ones first."""
    count = total = 0
    for size in sizes:
        total += size
        if total > most and count:
            break
        count += 1
    return count


def within(entries: Sequence[Entry]) -> list[Entry]:
    """As many of these entries as fit, from the first on."""
    return list(entries[: fit(len(entry.text) for entry in entries)])
