"""How often something may be done: a token bucket for each member, address or other key."""

from __future__ import annotations

from collections import OrderedDict

from twisted.internet.interfaces import IReactorTime

from mercury.errors import Limit, MercuryError


class TokenBuckets:
    """The buckets of one limit, by key. A full bucket is forgotten: it is as good as none.

    `reason`: what those who go too fast are told; it may hold {rate} and {wait}. `most`: with more buckets than this,
    the one not used for longest is forgotten too, for keys that strangers choose. None: all are kept, for members,
    who were let in first.
    """

    def __init__(self, clock: IReactorTime, limit: Limit, reason: str, most: int | None = None) -> None:
        self._clock = clock
        self._limit = limit
        self._reason = reason
        self._most = most
        self._buckets: OrderedDict[object, tuple[float, float]] = OrderedDict()  # tokens, and when counted

    def take(self, key: object, rate: float, burst: float = 0) -> None:
        """Count one use, or raise rate_limited with the time until the next one is allowed.

        `rate`: how many a second, 0 for any number; `burst`: how many at once, 0 for as many as in two seconds.
        """
        if not rate:
            return
        burst = max(1.0, burst or 2 * rate)
        now = self._clock.seconds()
        left = self._left(key, rate, burst, now)
        if left < 1.0:
            wait = (1.0 - left) / rate
            reason = self._reason.format(rate=rate, wait=wait)
            raise MercuryError("rate_limited", reason, round(wait, 3), limit=self._limit)
        self._put(key, left - 1.0, now)
        self._forget(rate, burst, now)

    def give_back(self, key: object, rate: float, burst: float) -> None:
        """This use does not count after all."""
        if rate:
            now = self._clock.seconds()
            self._put(key, min(burst, self._left(key, rate, burst, now) + 1.0), now)

    def _left(self, key: object, rate: float, burst: float, now: float) -> float:
        left, counted = self._buckets.get(key, (burst, now))
        return min(burst, left + (now - counted) * rate)

    def _put(self, key: object, left: float, now: float) -> None:
        self._buckets[key] = (left, now)
        self._buckets.move_to_end(key)

    def _forget(self, rate: float, burst: float, now: float) -> None:
        """Buckets are in the order of their last use, so those that are full again are at the front."""
        while self._buckets:
            left, counted = next(iter(self._buckets.values()))
            is_full = left + (now - counted) * rate >= burst
            if not is_full and (self._most is None or len(self._buckets) <= self._most):
                return
            self._buckets.popitem(last=False)
