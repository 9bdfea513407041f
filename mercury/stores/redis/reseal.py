"""IStore.reseal on Redis: the log is carried over into a copy (lua/reseal.lua), and what has to be, is sealed anew."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred

from mercury.domain.model import Entry, Resealed
from mercury.errors import MercuryError
from mercury.stores.sealing import STEP, Keys, form_of, in_base64, renewed

COPY: Final = "mercury:copy:"  # what the names of copies begin with

Step = Callable[[Resealed], Deferred[None]]
Read = Callable[[int], Deferred[tuple[list[Entry], int, int]]]
Count = Callable[..., Deferred[int]]


async def reseal(keys: Keys, rid: str, step: Step, read: Read, call: Count) -> None:
    """`read(after)` gives a page of the log, its texts as they are stored; `call(name, ...)` calls the script."""
    copy = LogCopy(call, rid)
    entries, upto, after = await read(0)
    while entries and after < upto:
        after = entries[-1].seq
        texts = ((entry.seq, form_of(entry)) for entry in entries if entry.kind == "message")
        fresh, done = renewed(keys, rid, texts)
        if fresh and not copy.is_begun:
            await copy.carry_over(entries[0].seq - 1, {})
        if fresh or copy.is_begun:
            await copy.carry_over(after, fresh)
        await step(done)
        entries, _, _ = await read(after)
    if copy.is_begun:
        await copy.put()


class LogCopy:
    """A copy of a room's log in the making."""

    def __init__(self, call: Count, rid: str) -> None:
        self.is_begun = False
        self._call = call
        self._rid = rid
        self._key = COPY + secrets.token_hex(8)
        self._last = 0

    async def carry_over(self, upto: int, fresh: dict[int, bytes]) -> None:
        """Make it go up to this seq, with these texts sealed anew."""
        self.is_begun = True
        texts = [(seq, in_base64(sealed)) for seq, sealed in fresh.items()]
        while self._last < upto:
            last = await self._call(
                "carry_over", rid=self._rid, copy=self._key, after=self._last, upto=upto, count=STEP, texts=texts
            )
            if last in (0, self._last):  # the log is gone, or does not go so far any more
                return
            self._last = _went_well(last)

    async def put(self) -> None:
        """Put it in the log's place."""
        while self._last:
            putting = self._call("put_copy", rid=self._rid, copy=self._key, after=self._last, count=STEP)
            self._last = _went_well(await putting)


def _went_well(last: int) -> int:
    if last < 0:
        raise MercuryError("unavailable", "the copy of the log expired before the rewrite continued; run it again", 1.0)
    return last
