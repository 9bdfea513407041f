"""A node on a Clock with people who have accounts, and what sync sends to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from mercury.domain.model import Draft, Entry
from mercury.gotalk.accounts import GotalkSession
from mercury.gotalk.conversations import member_of, room_of
from mercury.gotalk.sync import Poll, Sync, device_of
from tests.support.clockwork import Clockwork


class GotalkClockwork:
    """A node with people whose accounts are 1, 2, 3 …"""

    def __init__(self, beside: GotalkClockwork | None = None, **limits: Any) -> None:
        self.node: Clockwork = Clockwork(beside=beside.node if beside else None, **limits)
        self.wall: float = beside.wall if beside else 1_000_000.0
        self.sync_calls = Sync(self.node.chat, self.node.store, lambda: self.wall)  # type: ignore[arg-type]
        self.sessions: dict[int, GotalkSession] = beside.sessions if beside else {}
        self.secrets: dict[int, str] = {}

    def session(self, id: int) -> GotalkSession:
        """Somebody who has logged in."""
        if id not in self.sessions:
            self.secrets[id], _ = self.node.now(self.node.chat.tokens.make(member_of(id)))
            token = self.node.now(self.node.chat.tokens.check(self.secrets[id], member_of(id)))
            self.sessions[id] = GotalkSession(id, token, self.node.clock.seconds())
        return self.sessions[id]

    def say(self, sender: int, receiver: int, *texts: str, cid: str | None = None) -> list[Entry]:
        """One sends something to the other."""
        both = [member_of(sender), member_of(receiver)]
        told = [
            self.node.now(self.node.chat.rooms.join_and_send(both[0], room_of(sender, receiver), both, text, cid))
            for text in texts
        ]
        return [outcome.entry for outcome in told if outcome.entry]

    def poll(self, id: int, ack: int | None = None, device: str = "", wait: float = 0) -> Poll:
        return Poll(self.session(id), device_of(device), ack, wait)

    def sync(self, id: int, ack: int | None = None, device: str = "") -> list[Entry]:
        """One sync that does not wait."""
        return self.node.now(self.sync_calls.messages(self.poll(id, ack, device)))

    def begin(self, poll: Poll) -> list[Any]:
        """Begin a sync; the list has what it answered, when it has."""
        answers: list[Any] = []
        Deferred.fromCoroutine(self.sync_calls.messages(poll)).addCallbacks(
            answers.append, lambda failure: answers.append(failure.value)
        )
        self.node.settle()
        return answers


def texts(entries: Sequence[Entry]) -> list[str]:
    return [entry.text for entry in entries]


def draft(sender: int, receiver: int, text: str) -> Draft:
    """A message of a conversation that there is."""
    return Draft(rid=room_of(sender, receiver), mid=member_of(sender), text=text)
