"""The REST calls: what an application's backend, and whoever runs Mercury, can ask for. docs/rest.md is the reference.

Each method is a call (calls.py) and does no more than ask the core; input has been checked when it runs.
"""

from __future__ import annotations

import time
from typing import cast

import msgspec
from msgspec import UNSET

from mercury.core.parts import Chat
from mercury.core.session import Session
from mercury.domain import events
from mercury.domain.events import rfc3339
from mercury.domain.model import SYSTEM, Entry
from mercury.errors import MercuryError
from mercury.http import results
from mercury.net.siblings import Siblings
from mercury.rest import shapes
from mercury.rest.declare import call
from mercury.rest.metrics import Metrics
from mercury.rest.readiness import Readiness


class Api:
    """`readiness`, `metrics`: what /readyz and /metrics answer. `siblings`: the other workers, which are asked where
    each knows its own part only. `document`: what /openapi.json answers."""

    def __init__(self, chat: Chat, readiness: Readiness, metrics: Metrics, siblings: Siblings, document: bytes) -> None:
        siblings.answering["connections"] = self._connections_here
        siblings.answering["kick"] = self._kick_here
        self._siblings = siblings
        self._chat = chat
        self._readiness = readiness
        self._metrics = metrics
        self._document = document

    # Tokens

    @call("POST", "/api/tokens")
    async def make_token(self, body: shapes.MakeToken) -> shapes.TokenMade:
        """Make a token, with which a member's clients connect.

        The member comes into being if need be. A member may have many tokens.
        """
        ttl = None if body.ttl is UNSET else body.ttl
        secret, expires = await self._chat.tokens.make(body.member, ttl)
        return shapes.TokenMade(secret, body.member, rfc3339(expires))

    @call("DELETE", "/api/tokens")
    async def revoke_tokens(self, body: shapes.Revoke) -> shapes.Revoked:
        """Revoke one token, or all of a member's, and close the connections that were made with them.

        Revoking what is not there is no error: `revoked` is 0.
        """
        if body.token is not UNSET and body.member is UNSET:
            return shapes.Revoked(int(await self._chat.tokens.revoke(body.token)))
        if body.member is not UNSET and body.token is UNSET:
            return shapes.Revoked(await self._chat.tokens.revoke_all(body.member))
        raise MercuryError("bad_request", "body: give either token or member")

    # Rooms

    @call("GET", "/api/rooms")
    async def list_rooms(self, query: shapes.NamePage) -> shapes.RoomList:
        """List the rooms."""
        rooms = await self._chat.rooms.page(query.after, query.limit + 1)
        return shapes.RoomList([shapes.room_info(room) for room in rooms[: query.limit]], len(rooms) > query.limit)

    @call("GET", "/api/rooms/{room}", "not_found")
    async def show_room(self, room: str) -> shapes.RoomInfo:
        """Look at a room."""
        return shapes.room_info(await self._chat.rooms.room(room))

    @call("DELETE", "/api/rooms/{room}", "not_found", "conflict", "busy")
    async def delete_room(self, room: str) -> None:
        """Delete a room: everybody leaves, then its messages are gone."""
        await self._chat.rooms.delete(room)

    @call("GET", "/api/rooms/{room}/members", "not_found")
    async def list_members(self, room: str, query: shapes.NamePage) -> shapes.MemberList:
        """List a room's members."""
        members = await self._chat.rooms.members(room, query.after, query.limit + 1)
        return shapes.MemberList(members[: query.limit], len(members) > query.limit)

    @call("POST", "/api/rooms/{room}/members", "busy")
    async def join_room(self, room: str, body: shapes.MemberNames) -> shapes.Joined:
        """Put members into a room. It and they come into being if need be."""
        return shapes.Joined(await self._chat.rooms.join(room, body.members))

    @call("DELETE", "/api/rooms/{room}/members", "not_found", "busy")
    async def leave_room(self, room: str, body: shapes.MemberNames) -> shapes.Left:
        """Take members out of a room."""
        return shapes.Left(await self._chat.rooms.leave(room, body.members))

    # Messages

    @call("GET", "/api/rooms/{room}/messages", "not_found")
    async def list_messages(self, room: str, query: shapes.MessagePage) -> shapes.MessageList:
        """Read a room's messages."""
        await self._chat.rooms.room(room)
        before = None if query.before is UNSET else query.before
        after = None if query.after is UNSET else query.after
        entries, more = await self._chat.rooms.history(room, before, after, query.limit)
        return shapes.MessageList([events.message(entry) for entry in entries], more)

    @call("POST", "/api/rooms/{room}/messages", "not_found", "conflict", "busy")
    async def post_message(
        self, room: str, body: shapes.PostMessage, headers: shapes.PostHeaders
    ) -> shapes.Posted | shapes.PostedBefore:
        """Say something in a room, as one of its members or as the system.

        An Idempotency-Key counts for the room and the member that it was used with, as long as the message is kept.
        """
        member = SYSTEM if body.member is UNSET else body.member
        key = None if headers.idempotency_key is UNSET else headers.idempotency_key
        outcome = await self._chat.rooms.post(member, room, body.text, key)
        entry = cast(Entry, outcome.entry)  # a message that is not refused has one
        result = shapes.PostedBefore if outcome.duplicate else shapes.Posted
        return result(entry.id, entry.seq, outcome.duplicate)

    # Members

    @call("GET", "/api/members/{member}/rooms", "not_found")
    async def member_rooms(self, member: str) -> shapes.RoomStates:
        """List a member's rooms, with what they have not read."""
        memberships = await self._chat.rooms.memberships(member)
        return shapes.RoomStates([events.room_state(membership) for membership in memberships])

    @call("GET", "/api/members/{member}/connections", "not_found")
    async def member_connections(self, member: str) -> shapes.ConnectionList:
        """List a member's connections."""
        await self._chat.rooms.check_member(member)
        found = self._connections(member)
        for answer in (await self._siblings.ask("connections", member)).values():
            found += msgspec.json.decode(answer or b"[]", type=list[shapes.Connection])
        return shapes.ConnectionList(sorted(found, key=lambda connection: connection.since))

    @call("DELETE", "/api/members/{member}/connections", "not_found")
    async def close_connections(self, member: str, query: shapes.Device) -> shapes.Closed:
        """Close a member's connections.

        Their clients are told not to come back by themselves; their tokens stay valid.
        """
        await self._chat.rooms.check_member(member)
        device = () if query.device is UNSET else (query.device,)
        there = await self._siblings.ask("kick", member, *device)  # the bus, which reaches all, does not count them
        here = self._chat.nodes.kick(member, *device)
        return shapes.Closed(here + sum(int(answer or b"0") for answer in there.values()))

    async def _kick_here(self, member: str, *device: str) -> bytes:
        return b"%d" % self._chat.hub.kick(member, *device)

    async def _connections_here(self, member: str) -> bytes:
        return msgspec.json.encode(self._connections(member))

    def _connections(self, member: str) -> list[shapes.Connection]:
        sessions = self._chat.hub.sessions.get(member, ())
        return [self._connection(session) for session in sessions if isinstance(session, Session)]

    def _connection(self, session: Session) -> shapes.Connection:
        age = self._chat.clock.seconds() - session.since
        since = rfc3339(int((time.time() - age) * 1_000_000))
        worker = UNSET if self._siblings.number is None else self._siblings.number
        return shapes.Connection(
            session.number, session.device, session.encoder.name, session.connection.peer, since, worker
        )

    # The node

    @call("GET", "/healthz", open=True)
    async def health(self) -> None:
        """Whether the process lives."""

    @call("GET", "/readyz", open=True)
    async def readiness(self) -> results.Parts:
        """Whether this node can serve, and which part of it cannot; of a node with several workers, whether all can.

        It can if it is not starting or stopping and its store answers. Without its bus other nodes' messages come late,
        which is said and no reason to send clients elsewhere.
        """
        parts, why = await self._readiness.look_at_all()
        if why:
            raise results.NotReadyError(why, parts)
        return parts

    @call("GET", "/metrics")
    async def metrics(self) -> results.PlainText:
        """Numbers about this node, for Prometheus."""
        return await self._metrics.text()

    @call("GET", "/openapi.json")
    async def openapi(self) -> msgspec.Raw:
        """This description, for programs (OpenAPI 3.1)."""
        return msgspec.Raw(self._document)

    # As the first Mercury had them

    @call("GET", "/api/token")
    async def old_token_by_query(self, query: shapes.OldTokenQuery) -> shapes.OldToken:
        """Make a token, as the first Mercury's document has it."""
        return await self.old_token(query.member)

    @call("GET", "/api/token/{member}")
    async def old_token(self, member: str) -> shapes.OldToken:
        """Make a token, as the first Mercury did."""
        secret, _ = await self._chat.tokens.make(member)
        return shapes.OldToken(secret)

    @call("POST", "/api/room/add", "busy")
    async def old_join(self, query: shapes.OldAddQuery, body: shapes.OldAdd | None) -> None:
        """Put members into a room, as the first Mercury did.

        Without a body, `room` and `member` stand in the query, members joined by `-`. A member whose name holds a `-`
        takes the JSON form.
        """
        if body is not None:
            await self._chat.rooms.join(body.room, body.members)
        elif query.room is not UNSET and query.member is not UNSET:
            await self._chat.rooms.join(query.room, query.member.split("-"))
        else:
            raise MercuryError("bad_request", "give room and member in the query, or room and members as JSON")
