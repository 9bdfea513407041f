"""What a session answers to each command except send and connect. One short function for each command.

They run one at a time for a session, so each sees what the commands before it have done. A member learns nothing about
a room that they are not in, not even whether it exists (G7).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from mercury.core.delivery.listeners import Pingable
from mercury.core.parts import Chat
from mercury.domain import commands, events
from mercury.errors import MercuryError


async def answer(chat: Chat, session: Pingable, command: commands.Command) -> Sequence[events.Event]:
    """Do what a command says and return what to tell the client. Raises MercuryError."""
    do = _ANSWERS.get(type(command))
    if do is None:
        raise MercuryError("bad_request", "already connected")
    return await do(chat, session, command)


async def _history(chat: Chat, session: Pingable, command: commands.History) -> Sequence[events.Event]:
    chat.hub.room_of(session, command.rid)
    entries, more = await chat.rooms.history(command.rid, command.before, command.after, command.limit)
    return [events.HistoryOk(ref=command.ref, messages=[events.message(entry) for entry in entries], more=more)]


async def _history_by_id(chat: Chat, session: Pingable, command: commands.HistoryById) -> Sequence[events.Event]:
    rid, before = command.rid, None
    if rid is not None:
        chat.hub.room_of(session, rid)
    if command.msgid is not None:
        rid, before = await chat.rooms.locate(command.msgid, rid)
        try:
            chat.hub.room_of(session, rid)
        except MercuryError:  # say what would be said if there were no such message
            raise chat.rooms.no_message(command.msgid) from None
    if rid is None:
        raise MercuryError("bad_request", "history needs rid or msgid")
    entries, more = await chat.rooms.history(rid, before, None, command.offset)
    return [events.HistoryOk(ref=command.ref, messages=[events.message(entry) for entry in entries], more=more)]


async def _read(chat: Chat, session: Pingable, command: commands.Read) -> Sequence[events.Event]:
    chat.hub.room_of(session, command.rid)
    moved = await chat.rooms.read(session.mid, command.rid, command.seq)
    if moved is not None:
        chat.cluster.broadcast(command.rid, events.Read(command.rid, session.mid, moved), session)
    return [events.Ok(command.ref)]


async def _ack(chat: Chat, session: Pingable, command: commands.Ack) -> Sequence[events.Event]:
    room = chat.hub.room_of(session, command.rid)
    if command.seq >= room.next_seq(session):
        raise MercuryError("bad_request", f"seq {command.seq} has not been sent on this connection yet")
    session.delivered(room, command.seq)
    return [events.Ok(command.ref)]


async def _typing(chat: Chat, session: Pingable, command: commands.Typing) -> Sequence[events.Event]:
    chat.hub.room_of(session, command.rid)
    chat.rooms.may_type(session.mid)
    chat.cluster.broadcast(command.rid, events.Typing(command.rid, session.mid), session)
    return [events.Ok(command.ref)]


async def _presence(chat: Chat, session: Pingable, command: commands.Presence) -> Sequence[events.Event]:
    room = chat.hub.room_of(session, command.rid)
    return [events.PresenceOk(ref=command.ref, online=chat.cluster.online(room))]


async def _rooms(chat: Chat, session: Pingable, command: commands.Rooms) -> Sequence[events.Event]:
    memberships = await chat.rooms.memberships(session.mid, session.device)
    return [events.RoomsOk(ref=command.ref, rooms=[events.room_state(membership) for membership in memberships])]


async def _leave(chat: Chat, session: Pingable, command: commands.Leave) -> Sequence[events.Event]:
    chat.hub.room_of(session, command.rid)
    await chat.rooms.leave(command.rid, [session.mid])
    return [events.Ok(command.ref)]


_ANSWERS: Final[dict[type, Callable[[Chat, Pingable, Any], Awaitable[Sequence[events.Event]]]]] = {
    commands.History: _history,
    commands.HistoryById: _history_by_id,
    commands.Read: _read,
    commands.Ack: _ack,
    commands.Typing: _typing,
    commands.Presence: _presence,
    commands.Rooms: _rooms,
    commands.Leave: _leave,
}
