"""What a node counts of itself: plain numbers, which cost next to nothing to keep.

Whoever makes something happen adds to them, a batch or an event at a time and never a delivery at a time;
rest/metrics.py reads them when it is asked. All of it belongs to the reactor's thread. Label values come from the
tables here and in errors.py, so that there are never more of them; a name of a member or a room is none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal, Protocol

from mercury.domain import close_codes
from mercury.errors import MercuryError

#: Upper bounds of a histogram's buckets. Of times, in seconds; of how much there is in a batch.
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

Cause = Literal["login", "slow", "subscribed", "joined", "hole", "doubt", "again"]

#: Why a session reads a room's log -> in words.
CAUSES: Final[dict[Cause, str]] = {
    "login": "the session logged in and had missed entries",
    "slow": "the session's socket had been full",
    "subscribed": "a WAMP client subscribed to the room",
    "joined": "the member was added to the room, and this node learned of it late",
    "hole": "a gap: earlier entries did not arrive over the bus within 20 ms",
    "doubt": "the bus was down, or the outcome of a write was unknown",
    "again": "new entries came while the session was still behind: it had read ahead, or the store had been away",
}

#: The codes of ended connections: HTTP's for refused handshakes, WebSocket's (RFC 6455, 7.4), and ours. No others are
#: told apart, since clients can send any.
CLOSES: Final = frozenset(
    {400, 401, 403, 404, 405, 409, 413, 426, 429, 431, 500, 503}
    | {1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011}
    | {why.code for why in close_codes.ALL}
)
OTHER: Final = "other"


class Histogram:
    """How many observed values fell below which bound. `counts` has one more than `bounds`: for all that is greater."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        """Count a value; one that is a bound falls below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Carries(Protocol):
    """A connection that knows how many bytes it has carried so far."""

    bytes_in: int
    bytes_out: int


class Load:
    """The calls of a store through one of its pools of connections, or through its only connection.

    `running`: calls that wait or are being done; one may be for many. `waiting`: calls that wait to go together into
    the next one. `unavailable`: calls that ended so, ever. `waits`: seconds until a connection was free for a call,
    where calls have to wait for that.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = 0
        self.waiting = 0
        self.unavailable = 0
        self.waits = Histogram(SECONDS)


class Counters:
    """What a node has counted since it started.

    `connected`: its WebSocket connections now, of which `opened` were ever begun, and `closed`, by code, have ended.
    `entries`: the log entries that it has stored, by kind; `duplicates`: sends that were stored before. `delivered`:
    entries written to sessions, by protocol. `catch_ups`: logs that sessions began to read, by cause. `holes`: rooms
    where entries before others did not come in time. `slowed`: sessions whose sockets became full. `errors`: by code,
    all that clients and callers were told; `refused`: by limit, those and connections.
    """

    def __init__(self) -> None:
        self.connected: set[Carries] = set()
        self.opened = 0
        self.closed: Counter[str] = Counter()
        self.entries: Counter[str] = Counter()
        self.duplicates = 0
        self.delivered: Counter[str] = Counter()
        self.catch_ups: Counter[str] = Counter()
        self.holes = 0
        self.slowed = 0
        self.errors: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._bytes_in = 0
        self._bytes_out = 0

    def open(self, connection: Carries) -> None:
        """A WebSocket connection begins."""
        self.opened += 1
        self.connected.add(connection)

    def close(self, connection: Carries, code: int) -> None:
        """It is gone, for this reason; once for each."""
        self.connected.discard(connection)
        self.closed[str(code) if code in CLOSES else OTHER] += 1
        self._bytes_in += connection.bytes_in
        self._bytes_out += connection.bytes_out

    def error(self, error: MercuryError) -> None:
        """Somebody is told of this error."""
        self.errors[error.code] += 1
        if error.limit is not None:
            self.refused[error.limit] += 1

    def bytes_in(self) -> int:
        """Bytes that came in on WebSocket connections, ever."""
        return self._bytes_in + sum([connection.bytes_in for connection in self.connected])

    def bytes_out(self) -> int:
        """Bytes that were written to them."""
        return self._bytes_out + sum([connection.bytes_out for connection in self.connected])
