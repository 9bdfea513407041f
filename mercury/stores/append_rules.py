"""What becomes of a batch of drafts: the rules of IStore.append, apart from where the log is kept.

A store loads the RoomStates that the drafts concern, calls Batch.decide(), and stores what the batch then holds. All
this is plain computing on values, so the stores cannot differ in their rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from mercury.domain.model import SYSTEM, Draft, Entry, Kind, Outcome
from mercury.errors import Code, MercuryError


class MembershipRow(Struct, frozen=True, gc=False):
    """A member's place in a room: the seq that brought them in, their read mark, how many messages lie up to it."""

    joined: int
    read: int
    read_nth: int


class StoredRoom(Struct):
    """A room as far as a batch concerns it: `members` and `firsts` may hold only those that the batch asks for.

    `firsts`: (author, cid) -> the message that was sent with it. `deleted`: only the name and the head are left of it.
    """

    rid: str
    head: int
    floor: int
    messages: int
    ctime: int
    deleted: bool = False
    members: dict[str, MembershipRow] = {}
    firsts: dict[tuple[str, str | None], Entry] = {}


class Batch:
    """Decides one batch on `rooms`, and changes them in place.

    `last_id` is the highest id ever given out. `limit`: how many rooms a member may be in, 0 for any number;
    `places` tells for each member that the batch may bring in how many that is now, if there is a limit.
    `opened` makes the entries in `firsts` readable, where they are kept sealed.
    Afterwards: `entries` are the new ones in order, each with its room and how many messages that has up to and with
    it; `changed` the rooms to store; `left` and `joined` who went and who came. Somebody can be in both: who is in
    `joined` and still in the room's members is in, and whoever is in `left` has lost their cursors.
    """

    def __init__(
        self, rooms: dict[str, StoredRoom], last_id: int, ctime: int, limit: int, places: dict[str, int],
        opened: Callable[[Entry], Entry] = lambda entry: entry,
    ):  # fmt: skip
        self.rooms = rooms
        self.last_id = last_id
        self.ctime = ctime
        self.limit = limit
        self.places = places
        self.opened = opened
        self.entries: list[tuple[StoredRoom, Entry, int]] = []
        self.changed: dict[str, StoredRoom] = {}
        self.left: list[tuple[StoredRoom, str]] = []
        self.joined: list[tuple[StoredRoom, str]] = []

    def decide(self, drafts: Sequence[Draft]) -> list[Outcome | MercuryError]:
        """One answer a draft, as IStore.append says."""
        rules = {"message": self._message, "joined": self._joined, "left": self._left}
        return [rules[draft.kind](draft) for draft in drafts]

    def _message(self, draft: Draft) -> Outcome | MercuryError:
        rid, mid, cid = draft.rid, draft.mid, draft.cid
        room = self.rooms.get(rid)
        if room is None or room.deleted:
            return refused(draft, "not_found")
        if mid != SYSTEM and mid not in room.members:
            return refused(draft, "forbidden")
        if cid is None:
            return Outcome(self._add(room, "message", mid, draft.text))
        first = room.firsts.get((mid, cid))
        if first is None:
            first = room.firsts[mid, cid] = self._add(room, "message", mid, draft.text, cid)
            return Outcome(first)
        return repeated(draft, self.opened(first))

    def _joined(self, draft: Draft) -> Outcome | MercuryError:
        rid = draft.rid
        room = self.rooms.get(rid)
        inside = {} if room is None or room.deleted else room.members
        coming = tuple(mid for mid in dict.fromkeys(draft.members) if mid not in inside)
        if self.limit:
            for mid in coming:
                if self.places.get(mid, 0) >= self.limit:
                    return refused(draft, "too_large", mid, self.limit)
        if room is None or room.deleted:
            room = self._come_into_being(rid, room)
        if not coming:
            return Outcome(None)
        entry = self._add(room, "joined", members=coming)
        place = MembershipRow(entry.seq, entry.seq, room.messages)
        for mid in coming:
            room.members[mid] = place
            self.joined.append((room, mid))
            self.places[mid] = self.places.get(mid, 0) + 1
        return Outcome(entry)

    def _left(self, draft: Draft) -> Outcome | MercuryError:
        room = self.rooms.get(draft.rid)
        if room is None or room.deleted:
            return refused(draft, "not_found")
        going = tuple(mid for mid in dict.fromkeys(draft.members) if mid in room.members)
        if not going:
            return Outcome(None)
        entry = self._add(room, "left", members=going)
        for mid in going:
            del room.members[mid]
            self.left.append((room, mid))
            self.places[mid] = self.places.get(mid, 0) - 1
        return Outcome(entry)

    def _come_into_being(self, rid: str, before: StoredRoom | None) -> StoredRoom:
        """A new room; one that was deleted under this name goes on from its head, with that as its floor."""
        head = before.head if before else 0
        room = StoredRoom(rid, head, floor=head, messages=0, ctime=self.ctime)
        self.rooms[rid] = self.changed[rid] = room
        return room

    def _add(
        self, room: StoredRoom, kind: Kind, mid: str = SYSTEM, text: str = "", cid: str | None = None,
        members: tuple[str, ...] = (),
    ) -> Entry:  # fmt: skip
        room.head += 1
        if kind == "message":
            room.messages += 1
        self.last_id += 1
        entry = Entry(room.rid, room.head, self.last_id, kind, self.ctime, mid, text, cid, members)
        self.entries.append((room, entry, room.messages))
        self.changed[room.rid] = room
        return entry


def repeated(draft: Draft, first: Entry) -> Outcome | MercuryError:
    """The answer to a draft whose cid was used before, by the message `first`."""
    if first.lost:
        reason = f"the cid {draft.cid} was used in room {draft.rid} before, by a message that cannot be read now"
        return MercuryError("conflict", f"{reason}; use a new cid")
    if first.text != draft.text:
        return refused(draft, "conflict")
    return Outcome(first, duplicate=True)


def occupied(rid: str) -> MercuryError:
    """Why a room cannot be deleted, in the words of every store."""
    return MercuryError("conflict", f"room {rid} still has members; remove them, then delete it")


def refused(draft: Draft, code: Code, who: str = "", limit: int = 0) -> MercuryError:
    """Why a draft is refused, in the words of every store. `who` is in `limit` rooms already, if it is too_large."""
    reasons: dict[str, str] = {
        "not_found": f"there is no room {draft.rid}; add a member to create it",
        "forbidden": f"member {draft.mid} is not in room {draft.rid}; only members can write to it",
        "conflict": f"the cid {draft.cid} was used in room {draft.rid} before with another text; use a new cid",
        "too_large": f"member {who} is in {limit} rooms, the maximum (--limits.rooms-per-member)",
    }
    return MercuryError(code, reasons[code], limit="rooms-per-member" if code == "too_large" else None)
