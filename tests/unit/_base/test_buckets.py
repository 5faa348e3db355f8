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
