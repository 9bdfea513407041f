"""A member's connections, listed and closed: those to this node and to the other workers of the same Mercury."""

from __future__ import annotations

import time

import msgspec
from msgspec import UNSET

from mercury.core.parts import Chat
from mercury.core.session import Session
from mercury.domain.events import rfc3339
from mercury.net.siblings import Siblings
from mercury.rest import shapes


class MemberConnections:
    """`siblings`: the other workers. They are asked `connections` and `kick`; answer_list() and answer_kick() answer
    when they ask."""

    def __init__(self, chat: Chat, siblings: Siblings) -> None:
        self._chat = chat
        self._siblings = siblings

    async def find(self, member: str) -> list[shapes.Connection]:
        """All of them, the oldest first."""
        found = self._here(member)
        for answer in (await self._siblings.ask("connections", member)).values():
            found += msgspec.json.decode(answer or b"[]", type=list[shapes.Connection])
        return sorted(found, key=lambda connection: connection.since)

    async def close(self, member: str, *device: str) -> int:
        """Close all of them, or those of one device; returns how many there were."""
        there = await self._siblings.ask("kick", member, *device)  # the bus, which reaches all, does not count them
        here = self._chat.cluster.kick(member, *device)
        return here + sum(int(answer or b"0") for answer in there.values())

    async def answer_list(self, member: str) -> bytes:
        """Those to this worker, for another one."""
        return msgspec.json.encode(self._here(member))

    async def answer_kick(self, member: str, *device: str) -> bytes:
        """Close those to this worker, for another one; returns how many there were."""
        return b"%d" % self._chat.hub.kick(member, *device)

    def _here(self, member: str) -> list[shapes.Connection]:
        sessions = self._chat.hub.sessions.get(member, ())
        return [self._connection(session) for session in sessions if isinstance(session, Session)]

    def _connection(self, session: Session) -> shapes.Connection:
        age = self._chat.clock.seconds() - session.since
        since = rfc3339(int((time.time() - age) * 1_000_000))
        worker = UNSET if self._siblings.number is None else self._siblings.number
        return shapes.Connection(
            session.number, session.device, session.encoder.name, session.connection.peer, since, worker
        )
