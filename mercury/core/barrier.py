"""The ping barrier: how the server knows what has arrived, even at a client that never says so.

Frames on a WebSocket are ordered (RFC 6455, 5.4 and 5.5), so the pong that answers a ping proves that all written
before the ping has arrived; only then do delivered cursors move. A session has at most one such ping in flight. Pings
are paced for the whole node, since each costs a frame in and a frame out: with little traffic one follows every write
at once, under load a session waits for its turn and one ping proves many writes.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IReactorTime

from mercury.core.live import Listener

RATE = 1000.0  # pings a second, for all sessions together
BURST = 64.0


class Barrier:
    """Sessions that were written to queue here until it is their turn to be pinged."""

    def __init__(self, clock: IReactorTime, rate: float = RATE, burst: float = BURST) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._budget = burst
        self._counted = clock.seconds()
        self._queue: deque[Listener] = deque()
        self._scheduled = False

    def add(self, session: Listener) -> None:
        """The session has been written to and is not in the queue yet."""
        self._queue.append(session)
        if not self._scheduled:
            self._scheduled = True
            self._clock.callLater(0, self._run)

    def _run(self) -> None:
        now = self._clock.seconds()
        self._budget = min(self._burst, self._budget + (now - self._counted) * self._rate)
        self._counted = now
        queue = self._queue
        while queue and self._budget >= 1.0:
            if queue.popleft().prove():
                self._budget -= 1.0
        self._scheduled = bool(queue)
        if queue:
            self._clock.callLater(self._burst / self._rate / 2, self._run)
