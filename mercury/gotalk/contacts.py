"""A person's contacts, unread counts and past conversations, for goTalk's pages.

The old calls have none of this: their clients kept what they had received, and knew friends by number. It comes from
the same rooms and read marks that WebSocket clients use (docs/protocol.md), so both show the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from mercury.core.parts import Chat
from mercury.domain import events
from mercury.domain.model import Entry, Membership
from mercury.gotalk.accounts import Accounts, GotalkSession
from mercury.gotalk.conversations import pair_of, room_of


@dataclass(frozen=True)
class Contact:
    """A friend, or another person with whom there is a conversation. `unread`: the messages in it above the person's
    read mark. `last`: its last seq. Both are 0 without a conversation."""

    id: int
    name: str
    is_friend: bool
    unread: int = 0
    last: int = 0


class Contacts:
    """The use cases. Methods raise MercuryError."""

    def __init__(self, chat: Chat, accounts: Accounts) -> None:
        self._chat = chat
        self._accounts = accounts

    async def contacts(self, session: GotalkSession) -> list[Contact]:
        """Friends, the oldest friendship first; then all others with whom there is a conversation.

        Members without an account are left out: the application can put any member into a room with such a name.
        """
        friends = await self._accounts.friends(session.id)
        memberships = await self._memberships(session)
        found = []
        for id in dict.fromkeys([*friends, *memberships]):
            name, membership = await self._accounts.name_of(id), memberships.get(id)
            if name is not None:
                unread, last = (membership.unread, membership.head) if membership else (0, 0)
                found.append(Contact(id, name, id in friends, unread, last))
        return found

    async def history(
        self, session: GotalkSession, other: int, before: int | None, after: int | None
    ) -> tuple[list[Entry], bool]:
        """A page of the conversation with `other`, as Rooms.history() gives it.

        Empty if there is none, or if the application took this person out of it.
        """
        await self._accounts.check(other)
        if other not in await self._memberships(session):
            return [], False
        return await self._chat.rooms.history(room_of(session.id, other), before, after)

    async def read(self, session: GotalkSession, other: int, seq: int) -> None:
        """Move the read mark in the conversation with `other`, and tell clients on WebSockets."""
        await self._accounts.check(other)
        rid = room_of(session.id, other)
        moved = await self._chat.rooms.read(session.member, rid, seq)
        if moved is not None:
            self._chat.cluster.broadcast(rid, events.Read(rid, session.member, moved))

    async def _memberships(self, session: GotalkSession) -> dict[int, Membership]:
        """The person's membership in each conversation, by the other person's id."""
        found = {}
        for membership in await self._chat.store.memberships(session.member, ""):
            pair = pair_of(membership.rid)
            if pair and session.id in pair:
                found[pair[0] if pair[1] == session.id else pair[1]] = membership
        return found
