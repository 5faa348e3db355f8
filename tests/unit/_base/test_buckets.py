"""A token bucket: what may be taken at once, and what in a time."""

from __future__ import annotations

import pytest

from wsrpc._base.buckets import TokenBucket


def taken(bucket: TokenBucket, now: float) -> int:
    """How many tokens there are at a time."""
    count = 0
    while bucket.spend(now):
        count += 1
    return count


def test_it_is_full_at_first_and_gets_tokens_with_the_time() -> None:
    bucket = TokenBucket(5, 2)
    assert [taken(bucket, now) for now in (100.0, 100.0, 100.4, 100.5, 102.0, 1e300)] == [5, 0, 0, 1, 3, 5]


@pytest.mark.parametrize("per_second", [1, 3, 1000])
def test_who_takes_evenly_gets_each_one_whatever_floats_add_up_to(per_second: int) -> None:
    bucket, now = TokenBucket(1, per_second), 12345.678
    for _ in range(10_000):
        assert bucket.spend(now)
        now += 1 / per_second


def test_a_clock_that_goes_back_adds_nothing_and_breaks_nothing() -> None:
    bucket = TokenBucket(2, 1)
    assert [taken(bucket, now) for now in (1000.0, 5.0, 5.5, 6.0)] == [2, 0, 0, 1]
