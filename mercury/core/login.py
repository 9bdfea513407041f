"""What a login does: where in each room's log a device goes on, and what its client is told of that."""

from __future__ import annotations

from typing import NamedTuple

from mercury.core.delivery.listeners import Pingable
from mercury.core.parts import Chat
from mercury.domain import events
from mercury.domain.commands import Resume
from mercury.domain.model import Membership, Token


class Login(NamedTuple):
    """Who logs in, by a token that was found good at `checked` (clock)."""

    token: Token
    checked: float
    device: str
    resume: Resume | None = None


def next_seq(membership: Membership, pending: int, resume: Resume | None, epoch: str) -> tuple[int, bool]:
    """The seq that a device is to get next in a room, and whether the client has to forget what it has of that room.

    That is after what the client says it has, else after what it was proved to have, else from the member's joining on.
    `pending`: a delivered cursor that is not stored yet. `epoch`: the store's.
    """
    before = membership.joined - 1  # what was proved before they left counts no more
    if resume is None or membership.rid not in resume.rooms:
        return max(membership.delivered or 0, pending, before) + 1, False
    claimed = resume.rooms[membership.rid]
    if resume.epoch == epoch and claimed <= membership.head:
        return claimed + 1, False
    return before + 1, True  # another store's numbers: start afresh


def listen(
    chat: Chat,
    session: Pingable,
    memberships: list[Membership],
    joined: dict[str, int],
    resume: Resume | None,
    heartbeat: float,
) -> None:
    """Tell the client where it stands, and listen to its rooms: live, or behind and catching up."""
    hub, marks, epoch = chat.hub, chat.marks, chat.store.epoch
    states = [events.room_state(membership) for membership in memberships]
    session.send_event(events.Hello(session.mid, session.device, epoch, heartbeat, states))
    for membership in memberships:
        rid = membership.rid
        start, afresh = next_seq(membership, marks.pending(rid, session.mid, session.device), resume, epoch)
        if afresh:
            session.send_event_in(rid, events.Reset(rid, start - 1))
        hub.listen(session, rid, start, membership.head)
    for rid, seq in joined.items():
        if resume is not None and rid in resume.rooms:  # left and joined again meanwhile
            session.send_event_in(rid, events.Reset(rid, seq - 1))
        hub.listen(session, rid, seq, seq)
    for room in session.rooms:
        if not room.cold and session not in room.behind and session not in room.paused:
            session.caught_up(room)
    session.catch_up("login")
