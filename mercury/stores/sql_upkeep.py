"""IStore.reseal and IStore.sweep on a SQL database: many short transactions, so that no other call waits for long.

What is interrupted is done by the next sweep or the next resealing. Functions whose first argument is a cursor run in
a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred

from mercury.domain.model import Resealed, Room
from mercury.stores.sealing import STEP, Keys, renewed

#: Rows that one transaction of a sweep drops; also how many rows of devices it looks at.
SWEEP_ROWS: Final = 2000

#: What a SELECT of sealed texts finds: (seq, id, what is stored as the text, or None if the first key has sealed it).
SealedRow = tuple[int, int, str | bytes | None]


async def reseal(
    keys: Keys,
    room: Room,
    step: Callable[[Resealed], Deferred[None]],
    read: Callable[[int], Deferred[Sequence[SealedRow]]],
    write: Callable[[Sequence[tuple[bytes, int]]], Deferred[None]],
) -> None:
    """Seal a room's texts with the first key. `read(seq)`: the messages among the next STEP entries after `seq`;
    `write`: store each text for the id."""
    for after in range(room.floor, room.head, STEP):
        found = await read(after)
        fresh, done = renewed(keys, room.rid, ((seq, stored) for seq, _, stored in found))
        if fresh:
            await write([(fresh[seq], id) for seq, id, _ in found if seq in fresh])
        await step(done)


@dataclass(frozen=True)
class SweepSteps:
    """The transactions of a sweep, as an engine does them.

    `drop_tokens(cursor, now)`: drop up to SWEEP_ROWS expired tokens; how many they were.
    `drop_devices(cursor, after, last_moved, most)`: look at the devices of the next few members whose name is greater
    than `after`; drop those that last moved at `last_moved` or before, and of each member all but the `most` that moved
    last. The name of the last of these members; None if there are no more.
    `empty_tombstone(cursor)`: drop up to SWEEP_ROWS entries of a deleted room; False if there was none left.
    """

    drop_tokens: Callable[[Any, int], int]
    drop_devices: Callable[[Any, str, int, int], str | None]
    empty_tombstone: Callable[[Any], bool]


async def sweep(
    write: Callable[..., Deferred[Any]], steps: SweepSteps, now: int, last_moved: int, devices: int
) -> None:
    """All steps until nothing is left to do. `write(work, ...)` calls work(cursor, ...) in a transaction."""
    while await write(steps.drop_tokens, now) == SWEEP_ROWS:
        pass
    after: str | None = ""
    while after is not None:
        after = await write(steps.drop_devices, after, last_moved, devices)
    while await write(steps.empty_tombstone):
        pass
