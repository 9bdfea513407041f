"""How much of a log is taken at once: a number of entries is no bound while texts may be long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mercury.model import Entry

PAGE_BYTES: Final = 256 << 10  # of text, in characters; JSON may make it more


def within(entries: Sequence[Entry]) -> list[Entry]:
    """The first of these entries, one at least, whose texts are PAGE_BYTES together at most."""
    size = 0
    for position, entry in enumerate(entries):
        size += len(entry.text)
        if size > PAGE_BYTES and position:
            return list(entries[:position])
    return list(entries)
