"""Token buckets: how often something may be done, and what is forgotten of it."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from mercury.core.rate_limits import TokenBuckets
from mercury.errors import MercuryError


def refused(buckets: TokenBuckets, key: object, rate: float, burst: float = 0) -> float:
    """Seconds until the next use is allowed; 0 if this one is."""
    try:
        buckets.take(key, rate, burst)
    except MercuryError as error:
        return error.retry_after or 0.0
    return 0.0


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    clock = Clock()
    buckets = TokenBuckets(clock, "typing", "more than {rate:g} a second; wait {wait:.0f} s")
    assert [refused(buckets, "ann", 0.5, 3) for _ in range(4)] == [0, 0, 0, 2.0]
    with pytest.raises(MercuryError, match=r"more than 0.5 a second; wait 2 s"):
        buckets.take("ann", 0.5, 3)
    assert not refused(buckets, "bob", 0.5, 3)
    clock.advance(2)
    assert [refused(buckets, "ann", 0.5, 3) for _ in range(2)] == [0, 2.0]


def test_without_a_burst_it_is_as_many_as_in_two_seconds_and_one_at_least() -> None:
    buckets = TokenBuckets(Clock(), "typing", "")
    assert [refused(buckets, "ann", 2) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert [refused(buckets, "bob", 0.1) for _ in range(2)] == [0, 10.0]


def test_without_a_rate_any_number_is_allowed() -> None:
    buckets = TokenBuckets(Clock(), "typing", "")
    assert not any(refused(buckets, "x", 0) for _ in range(1000))


def test_full_buckets_are_forgotten_and_no_others() -> None:
    clock = Clock()
    buckets = TokenBuckets(clock, "typing", "")
    for n in range(1000):
        buckets.take(n, 1, 1)
        clock.advance(0.01)
    assert len(buckets._buckets) <= 101  # those of the last second
    assert all(refused(buckets, n, 1, 1) for n in range(999, 950, -1))


def test_of_too_many_strangers_the_one_not_seen_for_longest_is_forgotten() -> None:
    tries = TokenBuckets(Clock(), "logins-per-minute", "too often", 100)
    for n in range(1000):
        tries.take(n, 1 / 60, 1)
        tries.give_back(n, 1 / 60, 1)
        tries.take(n, 1 / 60, 1)
        assert len(tries._buckets) <= 100
    assert refused(tries, 999, 1 / 60, 1)
    tries.take(0, 1 / 60, 1)
    for n in range(1000, 1099):
        tries.take(n, 1 / 60, 1)
        tries.give_back(n, 1 / 60, 1)
        assert refused(tries, 0, 1 / 60, 1)
