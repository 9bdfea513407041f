"""How fast a member may send or type: a token bucket a member, over all of their connections."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from mercury.errors import Limit, MercuryError

SWEEP = 10_000  # look for full buckets when there are so many


class Rates:
    """`rate` messages a second with bursts of `burst`; a rate of 0 is no limit. A full bucket is forgotten.

    `limit`: what this limit is called.
    """

    def __init__(self, clock: IReactorTime, rate: float, burst: float, limit: Limit) -> None:
        self._limit = limit
        self._clock = clock
        self._rate = rate
        self._burst = max(1.0, burst or 2 * rate)
        self._buckets: dict[str, tuple[float, float]] = {}
        self._sweep = SWEEP

    def take(self, mid: str) -> None:
        """Count one message of this member, or raise rate_limited with the time until the next one is allowed."""
        if not self._rate:
            return
        now = self._clock.seconds()
        left, counted = self._buckets.get(mid, (self._burst, now))
        left = min(self._burst, left + (now - counted) * self._rate)
        if left < 1.0:
            wait = (1.0 - left) / self._rate
            reason = f"more than {self._rate:g} a second of one member"
            raise MercuryError("rate_limited", reason, round(wait, 3), limit=self._limit)
        self._buckets[mid] = (left - 1.0, now)
        if len(self._buckets) > self._sweep:
            self._forget(now)

    def _forget(self, now: float) -> None:
        rate, burst = self._rate, self._burst
        self._buckets = {m: (n, t) for m, (n, t) in self._buckets.items() if n + (now - t) * rate < burst}
        self._sweep = max(SWEEP, 2 * len(self._buckets))
