"""The ping barrier: how the server knows what has arrived, even at a client that never says so.

Frames on a WebSocket are ordered (RFC 6455, 5.4 and 5.5), so the pong that answers a ping proves that all written
before the ping has arrived; only then do delivered cursors move. A session has at most one such ping in flight. Pings
are paced for the whole node, since each costs a frame in and a frame out: with little traffic one follows every write
at once, under load a session waits for its turn and one ping proves many writes.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IReactorTime

from mercury.core.delivery.listeners import Listener, LiveRoom

RATE = 1000.0  # pings a second, for all sessions together
BURST = 64.0


class Barrier:
    """Rooms that were told something, and sessions that were written to apart from that, queue here until it is their
    turn to be pinged. A room costs nothing until its turn has come, however often and to how many it is told."""

    def __init__(self, clock: IReactorTime, rate: float = RATE, burst: float = BURST) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._budget = burst
        self._counted = clock.seconds()
        self._queue: deque[Listener] = deque()
        self._rooms: dict[LiveRoom, None] = {}
        self._scheduled = False

    def add(self, session: Listener) -> None:
        """The session has been written to and is not in the queue yet."""
        self._queue.append(session)
        self._schedule()

    def stirred(self, room: LiveRoom) -> None:
        """The room's live sessions have been told something."""
        self._rooms[room] = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._run)

    def _run(self) -> None:
        now = self._clock.seconds()
        self._budget = min(self._burst, self._budget + (now - self._counted) * self._rate)
        self._counted = now
        queue, rooms = self._queue, self._rooms
        while (queue or rooms) and self._budget >= 1.0:
            if not queue:
                room = next(iter(rooms))
                del rooms[room]
                queue.extend(room)  # also those who have fallen behind since
            elif queue.popleft().prove():
                self._budget -= 1.0
        self._scheduled = bool(queue or rooms)
        if self._scheduled:
            self._clock.callLater(self._burst / self._rate / 2, self._run)
