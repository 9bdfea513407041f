"""What somebody's page shows of others: whom they know, how much of it is unread, and what was said between them.

The old calls have none of this: their clients kept what they had received, and knew friends by number. It is taken from
the same rooms and read marks that clients on a WebSocket use (protocol.md), so both show the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from mercury.core.parts import Chat
from mercury.domain import events
from mercury.domain.model import Entry, Membership
from mercury.gotalk.accounts import Accounts, Session
from mercury.gotalk.conversations import pair_of, room_of


@dataclass(frozen=True)
class Known:
    """Somebody whom a person knows. `unread`, `last`: messages above their read mark, and the last seq, of what the two
    said to each other; 0 for nothing."""

    id: int
    name: str
    is_friend: bool
    unread: int = 0
    last: int = 0


class People:
    """Methods raise MercuryError."""

    def __init__(self, chat: Chat, accounts: Accounts) -> None:
        self._chat = chat
        self._accounts = accounts

    async def known(self, session: Session) -> list[Known]:
        """One's friends, the oldest friendship first, and then who else was ever written with.

        Whoever has no account is left out: the application may put anybody into a room that is called so.
        """
        friends = await self._accounts.friends(session.id)
        memberships = await self._memberships(session)
        found = []
        for id in dict.fromkeys([*friends, *memberships]):
            name, membership = await self._accounts.name_of(id), memberships.get(id)
            if name is not None:
                unread, last = (membership.unread, membership.head) if membership else (0, 0)
                found.append(Known(id, name, id in friends, unread, last))
        return found

    async def history(
        self, session: Session, other: int, before: int | None, after: int | None
    ) -> tuple[list[Entry], bool]:
        """What two have said to each other, as Rooms.history() has it.

        Nothing if they have not talked, or if the application took this one out of the conversation.
        """
        await self._accounts.check(other)
        if other not in await self._memberships(session):
            return [], False
        return await self._chat.rooms.history(room_of(session.id, other), before, after)

    async def read(self, session: Session, other: int, seq: int) -> None:
        """Note that somebody has read what another one wrote, up to seq, and tell whoever listens on a WebSocket."""
        await self._accounts.check(other)
        rid = room_of(session.id, other)
        moved = await self._chat.rooms.read(session.member, rid, seq)
        if moved is not None:
            self._chat.cluster.broadcast(rid, events.Read(rid, session.member, moved))

    async def _memberships(self, session: Session) -> dict[int, Membership]:
        """One's place in each conversation, by the other one's id."""
        found = {}
        for membership in await self._chat.store.memberships(session.member, ""):
            pair = pair_of(membership.rid)
            if pair and session.id in pair:
                found[pair[0] if pair[1] == session.id else pair[1]] = membership
        return found
