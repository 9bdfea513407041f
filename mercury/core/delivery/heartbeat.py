"""The heartbeat: every session is looked at once in a turn, spread evenly, with one timer for all.

A wheel of slots turns; a session sits in the slot that was under the hand when it came, and is called when the hand is
there again. A timer for each session would cost half a kilobyte a connection.

A client is told how often it will be pinged when it logs in, and may take a server that keeps silent for longer for
gone. So when that setting changes, those who are here stay on their wheel, and who comes then gets another one.
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mercury.core.delivery.listeners import Listener
from mercury.domain.log_context import in_context
from mercury.settings.limits import Limits

SLOTS = 32
TURN = 25.0  # seconds, where nobody is pinged: full sockets and tokens' ends are looked at all the same


class Wheel:
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
        """Turn."""
        self._timer = self._clock.callLater(self.turn / SLOTS, self._turn)

    def stop(self) -> None:
        """Stand still."""
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
        """All sessions that are on it."""
        return [session for slot in self._slots for session in slot]

    def _turn(self) -> None:
        self._timer = self._clock.callLater(self.turn / SLOTS, self._turn)
        slot = self._slots[self._hand]
        self._hand = (self._hand + 1) % SLOTS
        for session in tuple(slot):
            try:
                session.beat()
            except Exception:  # one session that fails must not stop the others' hearts
                in_context(
                    session.log_context,
                    self.log.failure,
                    "the heartbeat of {peer} failed",
                    peer=session.connection.peer,
                )


class Heartbeat:
    """The wheels: one for each interval under which somebody has come who is still here."""

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._wheels: dict[float, Wheel] = {}
        self._turning = False

    @property
    def interval(self) -> float:
        """Seconds between pings, for those who come now; 0 for none."""
        return self._limits.ping_seconds

    def wheel(self) -> Wheel:
        """The one for who comes now."""
        wheel = self._wheels.get(self.interval)
        if wheel is None:
            self._drop_empty()
            wheel = self._wheels[self.interval] = Wheel(self._clock, self.interval)
            if self._turning:
                wheel.start()
        return wheel

    def _drop_empty(self) -> None:
        for wheel in [wheel for wheel in self._wheels.values() if not wheel.everybody()]:
            wheel.stop()
            del self._wheels[wheel.interval]

    def everybody(self) -> list[Listener]:
        """All sessions, also those that have not logged in."""
        return [session for wheel in self._wheels.values() for session in wheel.everybody()]

    def start(self) -> None:
        """Turn the wheels."""
        self._turning = True
        for wheel in self._wheels.values():
            wheel.start()

    def stop(self) -> None:
        """Stop them."""
        self._turning = False
        for wheel in self._wheels.values():
            wheel.stop()
