"""Proof of delivery: how the server knows what has arrived, even when a client never says so.

Frames on a WebSocket are ordered (RFC 6455, 5.4 and 5.5), so the pong that answers a ping proves that everything
written before the ping has arrived. Only then do delivered cursors move. Each session has at most one such ping in
flight (DeliveryProof). Pings are paced for the whole node (ProofQueue), since each costs a frame in and a frame out:
with little traffic one follows every write at once; under load a session waits for its turn, and one ping proves many
writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from twisted.internet.interfaces import IReactorTime

from mercury.core.delivery.listeners import LiveRoom, Pingable

RATE = 1000.0  # pings a second, for all sessions together
BURST = 64.0

#: The states of a DeliveryProof.
IDLE: Final = 0
QUEUED: Final = 1
AWAITING: Final = 2
AWAITING_MORE: Final = 3


class ProofQueue:
    """Decides when a session may ping: sessions that were written to, and rooms whose sessions were, wait their turn.

    A room costs nothing until its turn comes, however often something is said in it and however many hear it.
    """

    def __init__(self, clock: IReactorTime, rate: float = RATE, burst: float = BURST) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._budget = burst
        self._counted = clock.seconds()
        self._queue: deque[Pingable] = deque()
        self._rooms: dict[LiveRoom, None] = {}
        self._scheduled = False

    def add(self, session: Pingable) -> None:
        """A session that is not in the queue has been written to."""
        self._queue.append(session)
        self._schedule()

    def room_written(self, room: LiveRoom) -> None:
        """Something was written to the room's live sessions."""
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
                queue.extend([one for one in room if isinstance(one, Pingable)])  # also who has fallen behind
            elif queue.popleft().prove():
                self._budget -= 1.0
        self._scheduled = bool(queue or rooms)
        if self._scheduled:
            self._clock.callLater(self._burst / self._rate / 2, self._run)


class DeliveryProof:
    """What one session has in flight. The session passes itself to each method: a reference would be a circle.

    | state         | written()               | prove()                                  | pong()              |
    |---------------|-------------------------|------------------------------------------|---------------------|
    | IDLE          | join the queue: QUEUED  | ping if anything is unproved: AWAITING   | proves nothing      |
    | QUEUED        | nothing                 | ping: AWAITING; nothing unproved: IDLE   | proves nothing      |
    | AWAITING      | AWAITING_MORE           | AWAITING_MORE                            | proved: IDLE        |
    | AWAITING_MORE | nothing                 | nothing                                  | proved, and QUEUED  |

    A session joins the queue only while it is in a room. `pings`: how many were sent, the heartbeat's included; a ping
    carries its number.
    """

    __slots__ = ("_awaited", "_queue", "_unproved", "pings", "state")

    def __init__(self, queue: ProofQueue) -> None:
        self.state = IDLE
        self.pings = 0
        self._queue = queue
        self._awaited = 0
        self._unproved: Sequence[tuple[LiveRoom, int]] = ()

    def written(self, session: Pingable) -> None:
        """The session was written to."""
        if self.state == IDLE:
            if session.rooms:
                self.state = QUEUED
                self._queue.add(session)
        elif self.state == AWAITING:
            self.state = AWAITING_MORE

    def prove(self, session: Pingable) -> bool:
        """It is the session's turn. Returns whether it was pinged."""
        if self.state >= AWAITING:
            self.state = AWAITING_MORE
            return False
        unproved = [(r, seq) for r, proved in session.rooms.items() if (seq := r.next_seq(session) - 1) > proved]
        if not unproved:
            self.state = IDLE
            return False
        self.state = AWAITING
        self._unproved = unproved
        self.ping(session)
        self._awaited = self.pings
        return True

    def ping(self, session: Pingable) -> None:
        """Send a ping with the next number."""
        self.pings += 1
        session.connection.ping(b"%d" % self.pings)

    def pong(self, session: Pingable, payload: bytes) -> Sequence[tuple[LiveRoom, int]]:
        """The peer answered a ping. Returns what that proves: rooms, and up to which seq.

        The number of the awaited ping proves, and so does a later one's: a peer may answer only the last of several
        pings (RFC 6455, 5.5.3). A number that was not sent yet proves nothing.
        """
        number = int(payload) if payload.isdigit() and len(payload) < 20 else 0
        if self.state < AWAITING or not self._awaited <= number <= self.pings:
            return ()
        proved, self._unproved = self._unproved, ()
        more = self.state == AWAITING_MORE
        self.state = IDLE
        if more:
            self.written(session)
        return proved
