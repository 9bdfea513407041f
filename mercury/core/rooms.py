"""What can be done with rooms: the use cases, the same for every protocol and for REST.

Whoever calls has been let in already; here it is checked what they may do, and that it is within the limits. All that
enters a room's log goes through the journal; the store decides membership at the entry's place in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime

from mercury.core.delivery.marks import Marks
from mercury.core.group_commit import Done, as_error
from mercury.core.journal import Journal
from mercury.core.page_size import within
from mercury.core.rate_limits import TokenBuckets
from mercury.domain.model import CID_BYTES, Draft, Entry, Membership, Outcome, ReadMark, Room, check_name, check_text_of
from mercury.errors import MercuryError
from mercury.interfaces import IStore
from mercury.settings.limits import Limits

TYPING_RATE: Final = 10.0  # typing notices a second of one member; each goes to the whole room
TOO_FAST: Final = "more than {rate:g} per second for one member"
DELETE_TRIES: Final = 20  # of deleting a room, while others put members in
MEMBERS_PAGE: Final = 1000  # members in one entry, and in one page of a listing


class Rooms:
    """Rooms, their logs and their members. Methods raise MercuryError, with the codes of docs/protocol.md."""

    def __init__(self, clock: IReactorTime, store: IStore, journal: Journal, marks: Marks, limits: Limits) -> None:
        self._store = store
        self._journal = journal
        self._marks = marks
        self._limits = limits
        self._rates = TokenBuckets(clock, "messages-per-second", TOO_FAST)
        self._typing = TokenBuckets(clock, "typing", TOO_FAST)

    # Saying

    def send(self, mid: str, rid: str, text: str, cid: str | None, done: Done[Outcome]) -> None:
        """A member says something in a room; `done` is called after the commit. Raises at once what can be known."""
        draft = self._draft(mid, rid, text, cid)
        if rate := self._limits.messages_per_second:
            self._rates.take(mid, rate, self._limits.burst)
        self._journal.submit(draft, done)

    async def join_and_send(self, mid: str, rid: str, members: Sequence[str], text: str, cid: str | None) -> Outcome:
        """A member says something in a room, into which they and others are put first unless they are in."""
        draft = self._draft(mid, rid, text, cid)
        self._rates.take(mid, self._limits.messages_per_second, self._limits.burst)
        joining = Draft(rid=rid, kind="joined", members=tuple(members))
        appending = [
            self._journal.append(joining),
            self._journal.append(draft),
        ]  # in one transaction, or one after another
        try:
            _, outcome = await gatherResults(appending, consumeErrors=True)
        except FirstError as error:
            raise as_error(error.subFailure) from None
        return outcome

    async def post(self, mid: str, rid: str, text: str, cid: str | None = None) -> Outcome:
        """The application says something as a member or, with SYSTEM, in its own name. Not rate-limited."""
        check_name("room", rid)
        return await self._journal.append(self._draft(mid, rid, text, cid))

    def _draft(self, mid: str, rid: str, text: str, cid: str | None) -> Draft:
        limit = self._limits.text_bytes
        if limit and len(text) * 4 > limit and len(text.encode(errors="surrogatepass")) > limit:
            reason = f"the text is longer than {limit} bytes (--limits.text-bytes)"
            raise MercuryError("too_large", reason, limit="text-bytes")
        if cid is not None and not (len(cid) <= CID_BYTES and cid.isascii() and cid.isprintable()):  # as nearly all are
            check_text_of("cid", cid, CID_BYTES)
        return Draft(rid=rid, mid=mid, text=text, cid=cid)

    def may_type(self, mid: str) -> None:
        """Count one typing notice of a member, or raise rate_limited."""
        self._typing.take(mid, TYPING_RATE)

    # Coming and going

    async def join(self, rid: str, members: Sequence[str]) -> list[str]:
        """Put members into a room; it and they come into being if need be. Returns those who were not in yet."""
        check_name("room", rid)
        return await self._change("joined", rid, members)

    async def leave(self, rid: str, members: Sequence[str]) -> list[str]:
        """Take members out of a room. Returns those who were in. not_found without such a room."""
        return await self._change("left", rid, members)

    async def _change(self, kind: str, rid: str, members: Sequence[str]) -> list[str]:
        if not members:
            raise MercuryError("bad_request", "name at least one member")
        for mid in members:
            check_name("member", mid)
        changed: list[str] = []
        for start in range(0, len(members), MEMBERS_PAGE):
            part = tuple(members[start : start + MEMBERS_PAGE])
            outcome = await self._journal.append(Draft(rid=rid, kind=kind, members=part))  # type: ignore[arg-type]
            changed += outcome.entry.members if outcome.entry else ()
        return changed

    async def delete(self, rid: str) -> None:
        """Everybody leaves, then the room and its log are gone. not_found without such a room; conflict if others put
        members in all the while."""
        await self.room(rid)
        for tries_left in reversed(range(DELETE_TRIES)):
            last = ""
            while members := await self._store.members(rid, last, MEMBERS_PAGE):
                await self._change("left", rid, members)
                last = members[-1]
            try:
                await self._store.delete_room(rid)
                return
            except MercuryError as error:
                if error.code != "conflict" or not tries_left:
                    raise

    # Looking

    async def room(self, rid: str) -> Room:
        """One room, or not_found."""
        room = await self._store.room(rid)
        if room is None:
            raise MercuryError("not_found", f"there is no room {rid!r}")
        return room

    async def page(self, after: str, limit: int) -> list[Room]:
        """Rooms by name, those above `after`."""
        return await self._store.rooms(after, limit)

    async def members(self, rid: str, after: str, limit: int) -> list[str]:
        """Members of a room by name, those above `after`. not_found without such a room."""
        await self.room(rid)
        return await self._store.members(rid, after, limit)

    async def memberships(self, mid: str, device: str = "") -> list[Membership]:
        """A member's rooms by name. not_found if nobody has heard of the member."""
        memberships = await self._store.memberships(mid, device)
        if not memberships:
            await self.check_member(mid)
        return memberships

    async def check_member(self, mid: str) -> None:
        """not_found if nobody has heard of the member."""
        if not await self._store.is_member(mid):
            raise MercuryError("not_found", f"there is no member {mid!r}")

    async def history(
        self, rid: str, before: int | None = None, after: int | None = None, limit: int | None = None
    ) -> tuple[list[Entry], bool]:
        """Messages of a room as IStore.history has them; no more than --limits.history-page, nor than PAGE_BYTES."""
        most = self._limits.history_page
        page = min(limit or most, most)
        entries, more = await self._store.history(rid, before, after, page)
        fitting = within(entries if after is not None else entries[::-1])
        if len(fitting) < len(entries):
            more = True
        return fitting if after is not None else fitting[::-1], more

    async def locate(self, id: int, rid: str | None) -> tuple[str, int]:
        """Where a message id stands (IStore.locate), or not_found."""
        found = await self._store.locate(id, rid)
        if found is None:
            raise self.no_message(id)
        return found

    def no_message(self, id: int) -> MercuryError:
        """What is said of a message that does not exist, or that the asker may not know of."""
        return MercuryError("not_found", f"there is no message {id} in your rooms; name the room with rid")

    # Reading

    async def read(self, mid: str, rid: str, seq: int) -> int | None:
        """Move a member's read mark; the mark as it stands if that moved it. See IStore.move_reads."""
        return await self._marks.read(ReadMark(rid, mid, seq))
