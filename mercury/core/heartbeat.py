"""The heartbeat: every session is looked at once in a turn, spread evenly, with one timer for all.

A wheel of slots turns; a session sits in the slot that was under the hand when it came, and is called when the hand is
there again. A timer for each session would cost half a kilobyte a connection.
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mercury.core.live import Listener

SLOTS = 32
TURN = 25.0  # seconds, where nobody is pinged: full sockets and tokens' ends are looked at all the same


class Heartbeat:
    """Calls Listener.beat() on every session, once in `turn` seconds. `interval`: between pings, 0 for none."""

    log = Logger()

    def __init__(self, clock: IReactorTime, interval: float) -> None:
        self.interval = interval
        self.turn = interval or TURN
        self._clock = clock
        self._slots: list[set[Listener]] = [set() for _ in range(SLOTS)]
        self._hand = 0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Turn the wheel."""
        self._timer = self._clock.callLater(self.turn / SLOTS, self._turn)

    def stop(self) -> None:
        """Stop the wheel."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def add(self, session: Listener) -> int:
        """Take a session in; it is first looked at after a whole turn. Returns what remove() wants."""
        slot = (self._hand - 1) % SLOTS
        self._slots[slot].add(session)
        return slot

    def remove(self, session: Listener, slot: int) -> None:
        """Let a session go."""
        self._slots[slot].discard(session)

    def everybody(self) -> list[Listener]:
        """All sessions, also those that have not logged in."""
        return [session for slot in self._slots for session in slot]

    def _turn(self) -> None:
        self._timer = self._clock.callLater(self.turn / SLOTS, self._turn)
        slot = self._slots[self._hand]
        self._hand = (self._hand + 1) % SLOTS
        for session in tuple(slot):
            try:
                session.beat()
            except Exception:  # one session that fails must not stop the others' hearts
                self.log.failure("the heartbeat of {peer} failed", peer=session.connection.peer)
