"""The REST calls, for an application's backend and for operators. docs/rest.md is the reference.

Each method is one call, declared as mercury/rest/declare.py says. It only asks the core; its input is already checked.
"""

from __future__ import annotations

from typing import cast

import msgspec
from msgspec import UNSET

from mercury.core.parts import Chat
from mercury.domain import events
from mercury.domain.events import rfc3339
from mercury.domain.model import SYSTEM, Entry
from mercury.errors import MercuryError
from mercury.http import results
from mercury.rest import shapes
from mercury.rest.connections import MemberConnections
from mercury.rest.declare import call
from mercury.rest.metrics import Metrics
from mercury.rest.readiness import Readiness


class RestApi:
    """The handlers of all calls. `document`: what /openapi.json answers."""

    def __init__(
        self, chat: Chat, readiness: Readiness, metrics: Metrics, connections: MemberConnections, document: bytes
    ) -> None:
        self._chat = chat
        self._connections = connections
        self._readiness = readiness
        self._metrics = metrics
        self._document = document

    # Tokens

    @call("POST", "/api/tokens")
    async def make_token(self, body: shapes.MakeToken) -> shapes.TokenMade:
        """Make a token that a member's clients log in with.

        The member is created if necessary. A member may have many tokens.
        """
        ttl = None if body.ttl is UNSET else body.ttl
        secret, expires = await self._chat.tokens.make(body.member, ttl)
        return shapes.TokenMade(secret, body.member, rfc3339(expires))

    @call("DELETE", "/api/tokens")
    async def revoke_tokens(self, body: shapes.RevokeTokens) -> shapes.Revoked:
        """Revoke one token or all tokens of a member, and close the connections that logged in with them.

        If there is nothing to revoke, the call succeeds and `revoked` is 0.
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
        """Show a room."""
        return shapes.room_info(await self._chat.rooms.room(room))

    @call("DELETE", "/api/rooms/{room}", "not_found", "conflict", "busy")
    async def delete_room(self, room: str) -> None:
        """Delete a room: all members leave, then its messages are deleted."""
        await self._chat.rooms.delete(room)

    @call("GET", "/api/rooms/{room}/members", "not_found")
    async def list_members(self, room: str, query: shapes.NamePage) -> shapes.MemberList:
        """List a room's members."""
        members = await self._chat.rooms.members(room, query.after, query.limit + 1)
        return shapes.MemberList(members[: query.limit], len(members) > query.limit)

    @call("POST", "/api/rooms/{room}/members", "busy")
    async def join_room(self, room: str, body: shapes.MemberNames) -> shapes.JoinedMembers:
        """Add members to a room. The room and the members are created if necessary."""
        return shapes.JoinedMembers(await self._chat.rooms.join(room, body.members))

    @call("DELETE", "/api/rooms/{room}/members", "not_found", "busy")
    async def leave_room(self, room: str, body: shapes.MemberNames) -> shapes.LeftMembers:
        """Remove members from a room."""
        return shapes.LeftMembers(await self._chat.rooms.leave(room, body.members))

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
        """Send a message to a room, as one of its members or as the system.

        An Idempotency-Key is valid for the room and the member it was used with, for as long as the message is kept.
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
        """List a member's rooms, with unread counts."""
        memberships = await self._chat.rooms.memberships(member)
        return shapes.RoomStates([events.room_state(membership) for membership in memberships])

    @call("GET", "/api/members/{member}/connections", "not_found")
    async def member_connections(self, member: str) -> shapes.ConnectionList:
        """List a member's connections."""
        await self._chat.rooms.check_member(member)
        return shapes.ConnectionList(await self._connections.find(member))

    @call("DELETE", "/api/members/{member}/connections", "not_found")
    async def close_connections(self, member: str, query: shapes.Device) -> shapes.Closed:
        """Close a member's connections.

        The close code tells clients not to reconnect by themselves. The member's tokens stay valid.
        """
        await self._chat.rooms.check_member(member)
        device = () if query.device is UNSET else (query.device,)
        return shapes.Closed(await self._connections.close(member, *device))

    # The node

    @call("GET", "/healthz", open=True)
    async def health(self) -> None:
        """Check that the process is alive."""

    @call("GET", "/readyz", open=True)
    async def readiness(self) -> results.Parts:
        """Check whether this node can serve, and which part cannot. With several workers, all of them must be ready.

        A node is ready when it is not starting or stopping and its store answers. A bus that is down is reported but
        does not make the node unready: messages from other nodes then arrive late.
        """
        parts, why = await self._readiness.check_all()
        if why:
            raise results.NotReadyError(why, parts)
        return parts

    @call("GET", "/metrics")
    async def metrics(self) -> results.PlainText:
        """Get this node's metrics, for Prometheus."""
        return await self._metrics.text()

    @call("GET", "/openapi.json")
    async def openapi(self) -> msgspec.Raw:
        """Get this API's description, for programs (OpenAPI 3.1)."""
        return msgspec.Raw(self._document)

    # The original Mercury's calls

    @call("GET", "/api/token")
    async def old_token_by_query(self, query: shapes.OldTokenQuery) -> shapes.OldToken:
        """Make a token, in the form that the original Mercury documented."""
        return await self.old_token(query.member)

    @call("GET", "/api/token/{member}")
    async def old_token(self, member: str) -> shapes.OldToken:
        """Make a token, in the form that the original Mercury accepted."""
        secret, _ = await self._chat.tokens.make(member)
        return shapes.OldToken(secret)

    @call("POST", "/api/room/add", "busy")
    async def old_join(self, query: shapes.OldAddQuery, body: shapes.OldAdd | None) -> None:
        """Add members to a room, as in the original Mercury.

        Without a body, `room` and `member` are in the query, with members joined by `-`. If a member's name contains a
        `-`, use the JSON form.
        """
        if body is not None:
            await self._chat.rooms.join(body.room, body.members)
        elif query.room is not UNSET and query.member is not UNSET:
            await self._chat.rooms.join(query.room, query.member.split("-"))
        else:
            raise MercuryError("bad_request", "give room and member in the query, or room and members as JSON")
