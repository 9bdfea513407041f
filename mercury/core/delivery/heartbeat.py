"""The heartbeat: every session is looked at once in a turn, spread evenly, with one timer for all.

A wheel of slots turns. A session sits in the slot that was under the hand when it came, and is called when the hand is
there again. A timer for each session would cost half a kilobyte a connection. Pace keeps what a session found when it
was last looked at.

A client learns at login how often it will be pinged, and may take a server that keeps silent for longer for gone. So
when that setting changes, sessions that are here stay on their wheel, and new ones get another.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mercury.core.delivery.listeners import Pingable
from mercury.domain.log_context import in_context
from mercury.settings.limits import Limits

SLOTS: Final = 32
TURN: Final = 25.0  # seconds, where nobody is pinged: full sockets and expired tokens are looked for all the same

_log = Logger()


class Pace:
    """How a peer keeps up, from one beat to the next.

    | state  | the peer                                      | at a beat                                         |
    |--------|-----------------------------------------------|---------------------------------------------------|
    | LIVE   | has sent something since the last beat        | it is pinged                                      |
    | SILENT | has sent nothing since then                   | it is pinged; after MISSED pings it is gone       |
    | SLOW   | does not take what is written to it           | after limits.drain-seconds without taking any, it |
    |        |                                               | is cut off                                        |
    | HELD   | is not read, since too many commands wait     | nothing: its pongs are not read either            |

    The session knows whether it is SLOW or HELD and asks silence() or stall() accordingly.
    """

    __slots__ = ("_bytes_taken", "_silent", "_stalled")

    def __init__(self) -> None:
        self._bytes_taken = 0
        self._silent = 0
        self._stalled = 0.0

    def silence(self, heard: bool) -> int:
        """How many beats before this one have brought nothing from the peer; `heard`: whether this one has."""
        if heard:
            self._silent = 0
        silent = self._silent
        self._silent += 1
        return silent

    def filled(self, bytes_taken: int) -> None:
        """The socket is full now; `bytes_taken`: all that the peer ever took."""
        self._bytes_taken, self._stalled = bytes_taken, 0.0

    def stall(self, bytes_taken: int, turn: float) -> float:
        """For how many seconds the peer has taken nothing; `turn`: the time since the last beat."""
        self._stalled = 0.0 if bytes_taken != self._bytes_taken else self._stalled + turn
        self._bytes_taken = bytes_taken
        return self._stalled


class Wheel:
    """Calls beat() on every session, once in `turn` seconds. `interval`: between pings, 0 for none."""

    def __init__(self, clock: IReactorTime, interval: float) -> None:
        self.interval = interval
        self.turn = interval or TURN
        self._clock = clock
        self._slots: list[set[Pingable]] = [set() for _ in range(SLOTS)]
        self._hand = 0
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Turn."""
        self._timer = self._clock.callLater(self.turn / SLOTS, self._turn)

    def stop(self) -> None:
        """Stand still."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def add(self, session: Pingable) -> int:
        """Take a session in; its first beat is after a whole turn. Returns what remove() wants."""
        slot = (self._hand - 1) % SLOTS
        self._slots[slot].add(session)
        return slot

    def remove(self, session: Pingable, slot: int) -> None:
        """Let a session go."""
        self._slots[slot].discard(session)

    def everybody(self) -> list[Pingable]:
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
                    _log.failure,
                    "the heartbeat of {peer} failed",
                    peer=session.connection.peer,
                )


class Heartbeat:
    """The wheels: one for each interval under which a session came that is still here."""

    def __init__(self, clock: IReactorTime, limits: Limits) -> None:
        self._clock = clock
        self._limits = limits
        self._wheels: dict[float, Wheel] = {}
        self._turning = False

    @property
    def interval(self) -> float:
        """Seconds between pings, for sessions that come now; 0 for none."""
        return self._limits.ping_seconds

    def wheel(self) -> Wheel:
        """The one for a session that comes now."""
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

    def everybody(self) -> list[Pingable]:
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
