"""How fast a member may send or type: a token bucket a member, over all of their connections."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from mercury.errors import Limit, MercuryError

SWEEP = 10_000  # look for full buckets when there are so many


class Rates:
    """The members' buckets. A full one is forgotten. `limit`: what this limit is called."""

    def __init__(self, clock: IReactorTime, limit: Limit) -> None:
        self._limit = limit
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._sweep = SWEEP

    def take(self, mid: str, rate: float, burst: float = 0) -> None:
        """Count one message of this member, or raise rate_limited with the time until the next one is allowed.

        `rate`: how many a second, 0 for any number; `burst`: how many at once, 0 for as many as in two seconds.
        """
        if not rate:
            return
        burst = max(1.0, burst or 2 * rate)
        now = self._clock.seconds()
        left, counted = self._buckets.get(mid, (burst, now))
        left = min(burst, left + (now - counted) * rate)
        if left < 1.0:
            wait = (1.0 - left) / rate
            reason = f"more than {rate:g} a second of one member"
            raise MercuryError("rate_limited", reason, round(wait, 3), limit=self._limit)
        self._buckets[mid] = (left - 1.0, now)
        if len(self._buckets) > self._sweep:
            self._forget(now, rate, burst)

    def _forget(self, now: float, rate: float, burst: float) -> None:
        self._buckets = {m: (n, t) for m, (n, t) in self._buckets.items() if n + (now - t) * rate < burst}
        self._sweep = max(SWEEP, 2 * len(self._buckets))
