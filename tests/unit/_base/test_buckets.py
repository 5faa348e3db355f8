"""A token bucket: what may be taken at once, and what in a time."""

from __future__ import annotations

import pytest

from wsrpc import Rate
from wsrpc._base.buckets import TokenBucket, bucket_of


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


def test_three_processes_share_a_rate_and_who_owes_keeps_its_share() -> None:
    bucket = TokenBucket(30, 30)
    bucket.spend_elsewhere(100.0, 5, 3)
    assert taken(bucket, 100.0) == 25 and bucket.untold(0.25, 3) == 25
    bucket.spend_elsewhere(100.0, 40, 3)
    owing = [bucket.repay(now, 0.25, 3) for now in (100.0, 100.25, 100.5, 101.0)]
    assert owing == [True] * 4 and taken(bucket, 101.0) == 10
    assert [bucket.repay(now, 0.5, 3) for now in (101.5, 102.0, 102.5)] == [True, True, False]
    assert taken(bucket, 103.5) == 30
    bucket.spend_elsewhere(103.5, 9, 3)
    assert bucket.repay(103.5, 0.25, 3)
    bucket.forgive()
    assert taken(bucket, 104.0) == 15
    bucket.spend_elsewhere(104.0, 10_000, 3)  # three full buckets are owed at most
    assert [bucket.repay(now, 1.0, 3) for now in (104.0, 105.0, 106.0, 107.0, 108.0, 109.0)][-2:] == [True, False]


def test_bytes_that_other_processes_have_read_make_the_pause_longer() -> None:
    bucket = TokenBucket(100, 100)
    assert bucket.charge(5.0, 200) == 1
    bucket.spend_elsewhere(5.0, 100, 2)
    bucket.repay(5.0, 0.5, 2)
    assert bucket.charge(5.0, 100) == 4 and bucket.untold(1, 2) == 294


def test_what_is_spent_slowly_is_told_to_nobody() -> None:
    bucket, now = TokenBucket(20, 20), 0.0
    for _ in range(40):  # 0.5 per second
        now += 2
        bucket.spend(now)
        assert [bucket.untold(0.25, 3) for _ in range(8)] == [0] * 8
    for _ in range(9):
        bucket.spend(now)
    assert bucket.untold(0.25, 3) == 9 and bucket.untold(0.25, 3) == 0


def test_a_token_that_was_spent_for_nothing_is_there_again_and_is_told_to_nobody() -> None:
    bucket = TokenBucket(8, 8)
    for _ in range(20):
        assert bucket.spend(1.0)
        bucket.refund()
    assert taken(bucket, 1.0) == 8 and bucket.untold(0.25, 2) == 8
    bucket.refund()
    assert taken(bucket, 1.0) == 1, "also after it was told"
    assert bucket.spent == bucket.notified
    assert bucket.spend(2.0)
    for _ in range(2):
        bucket.refund()
    assert taken(bucket, 2.0) == 8, "never more than there may be"


SLOW = [Rate(0.1), Rate(1, per=10), Rate(20, per=60, burst=5), Rate(20, per=3600), Rate(1, per=86_400)]


@pytest.mark.parametrize("rate", SLOW)
def test_who_waits_as_long_as_it_is_told_gets_a_token_and_not_before(rate: Rate) -> None:
    bucket, now, between = bucket_of(rate), 12345.678, rate.per / rate.count
    assert taken(bucket, now) == (rate.burst or max(1, rate.count))
    for _ in range(100):
        assert bucket.wait() == pytest.approx(between)
        assert not bucket.spend(now + 0.99 * between)
        now += 0.99 * between
        assert bucket.wait() == pytest.approx(0.01 * between, rel=1e-3)
        now += bucket.wait()
        assert taken(bucket, now) == 1


@pytest.mark.parametrize("jump", [-1e9, 1e9])
@pytest.mark.parametrize("rate", SLOW)
def test_a_clock_that_jumps_gives_one_burst_at_most(rate: Rate, jump: float) -> None:
    bucket = bucket_of(rate)
    burst = taken(bucket, 1e9)
    assert taken(bucket, 1e9 + jump) == (burst if jump > 0 else 0)
    assert bucket.wait() == pytest.approx(rate.per / rate.count)


@pytest.mark.parametrize("busy", [1, 2, 8])
@pytest.mark.parametrize("rate", SLOW)
def test_eight_processes_share_a_slow_rate(rate: Rate, busy: int) -> None:
    """A user asks all the time at some of them."""
    buckets, found = [bucket_of(rate) for _ in range(8)], 0
    between = rate.per / rate.count
    step = between / 50
    for number in range(50 * 50):
        now = number * step
        found += sum(taken(bucket, now) for bucket in buckets[:busy])
        for bucket in buckets:
            if amount := bucket.untold(step, 8):
                for other in buckets:
                    if other is not bucket:
                        other.spend_elsewhere(now, amount, 8)
        for bucket in buckets:
            bucket.repay(now, step, 8)
    burst = buckets[0].most
    assert 0.9 * 50 < found <= 1.15 * 50 + busy * burst
