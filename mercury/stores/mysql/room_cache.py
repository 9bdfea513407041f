"""What a node remembers of rooms in MySQL, so that its next batch takes one round trip in place of two.

It is a guess, which the database checks: a batch is stored only if each of its rooms has the number and the head with
which this node left it. Anything else that happens to a room is an entry in its log, which moves the head, or its
deletion, which removes the row; so with the same head, the same members are in. If the guess was wrong, nothing is
stored, and the batch is stored the long way, which locks the rooms and reads them (append.py). 100 messages over 100
rooms cost MariaDB 1.6 ms instead of 2.6, and the thread 0.9 ms instead of 1.5; a lone message takes one round trip
instead of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from mercury.domain.model import SYSTEM, Draft
from mercury.stores.append_rules import MembershipRow, StoredRoom

ROOMS: Final = 20_000  # that are remembered at most
MEMBERS: Final = 200_000  # of all these rooms together


class CachedRoom(Struct):
    """A room as this node's last batch left it; `nr` is its key in the table. `ours`: a later batch has found it
    unchanged. Only then is it guessed at: where several nodes write in turn, most guesses would be wrong."""

    nr: int
    room: StoredRoom
    ours: bool = False
    counted: int = 0  # members


class RoomCache:
    """The rooms of a node's batches, as the batches left them."""

    def __init__(self) -> None:
        self._rooms: dict[str, CachedRoom] = {}
        self._members = 0

    def forget(self) -> None:
        """Forget all rooms: it is not known whether a batch was stored."""
        self._rooms.clear()
        self._members = 0

    def guess(self, drafts: Sequence[Draft]) -> dict[str, CachedRoom] | None:
        """The rooms of a batch, if this node expects each draft to be stored; else None."""
        found: dict[str, CachedRoom] = {}
        for draft in drafts:
            known = self._rooms.get(draft.rid)
            if known is None or not known.ours or draft.kind != "message":
                return None
            if draft.mid != SYSTEM and draft.mid not in known.room.members:
                return None
            found[draft.rid] = known
        return found or None

    def members(self, rid: str, nr: int, head: int) -> dict[str, MembershipRow]:
        """Who is known to be in a room; nobody, if the database has another number or head than expected."""
        known = self._rooms.get(rid)
        if known is None or (known.nr, known.room.head) != (nr, head):
            self._drop(rid)
            return {}
        known.ours = True
        return known.room.members

    def remember(self, rooms: Iterable[tuple[int, StoredRoom]]) -> None:
        """Remember how a batch has left its rooms, each with its number."""
        for nr, room in rooms:
            if room.deleted:
                self._drop(room.rid)
                continue
            room.firsts.clear()  # whole texts; that a cid was used before is found by the database
            known = self._rooms.setdefault(room.rid, CachedRoom(nr, room))
            known.room = room
            self._members += len(room.members) - known.counted
            known.counted = len(room.members)
        if len(self._rooms) > ROOMS or self._members > MEMBERS:
            self.forget()

    def _drop(self, rid: str) -> None:
        known = self._rooms.pop(rid, None)
        self._members -= known.counted if known else 0
