"""How often something may be tried: a token bucket a key, in a table that never grows beyond its bound.

For what strangers can ask for, where core/rates.py is for members: those are many, but each had to be let in first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from twisted.internet.interfaces import IReactorTime

from mercury.errors import Limit, MercuryError

KEYS: Final = 20_000  # beyond that the one that was not seen for longest is forgotten


class Throttle:
    """`what`: what is said of a key that is tried too often. `limit`: what this limit is called.

    `per_minute`: how many tries of one key, all of them at once if need be; 0 for any number.
    """

    def __init__(self, clock: IReactorTime, what: str, limit: Limit) -> None:
        self._limit = limit
        self._clock = clock
        self._what = what
        self._left: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def take(self, key: object, per_minute: int) -> None:
        """Count one try, or raise rate_limited with the time until the next one is allowed."""
        if not per_minute:
            return
        left = self._now(key, per_minute)
        if left < 1:
            wait = round((1 - left) * 60 / per_minute, 3)
            raise MercuryError("rate_limited", f"{self._what}; try again in {wait:.0f} s", wait, limit=self._limit)
        self._put(key, left - 1)

    def give_back(self, key: object, per_minute: int) -> None:
        """The try was a good one: it does not count."""
        if per_minute:
            self._put(key, min(per_minute, self._now(key, per_minute) + 1))

    def _now(self, key: object, per_minute: int) -> float:
        left, at = self._left.get(key, (float(per_minute), 0.0))
        return min(per_minute, left + (self._clock.seconds() - at) * per_minute / 60)

    def _put(self, key: object, left: float) -> None:
        self._left[key] = (left, self._clock.seconds())
        self._left.move_to_end(key)
        if len(self._left) > KEYS:
            self._left.popitem(last=False)
