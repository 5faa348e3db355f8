"""`wsrpc._backoff`: when to dial again, and when not."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from websockets.exceptions import InvalidHandshake

from wsrpc import ConnectionLost, HandshakeRejected, Reconnect
from wsrpc._backoff import attempts, is_transient
from wsrpc._url import BadURL, check_url


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        OSError("no route"),
        ConnectionLost(1006),
        InvalidHandshake(),
        EOFError(),
        HandshakeRejected(500),
        HandshakeRejected(503),
        HandshakeRejected(429),
        HandshakeRejected(502),
        HandshakeRejected(408),
    ],
)
def test_worth_another_attempt(error: BaseException) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        HandshakeRejected(401),
        HandshakeRejected(403),
        HandshakeRejected(404),
        ssl.SSLCertVerificationError(1, "not trusted"),
        BadURL("http://x"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
    ],
)
def test_not_worth_it(error: BaseException) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize("url", ["http://x/", "//x", "x", "", "ws:x"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="ws://"):
        check_url(url, tls=False)


@pytest.mark.parametrize("url", ["ws://x", "wss://x:1/y?z"])
def test_a_url(url: str) -> None:
    check_url(url, tls=False)


class Series:
    """Runs a series of attempts with a clock of its own; the delays are in ``slept``."""

    def __init__(self, reconnect: Reconnect) -> None:
        self.reconnect = reconnect
        self.slept: list[float] = []
        self.failed: list[tuple[int, BaseException, float]] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def note(self, number: int, error: BaseException, delay: float) -> None:
        self.failed.append((number, error, delay))

    async def run(self, *errors: BaseException) -> int:
        """Fail with each of ``errors`` and then succeed; returns the number of the attempt."""
        async for attempt in attempts(self.reconnect, self.note, self.sleep):
            with attempt:
                number = attempt.retry_state.attempt_number
                if number <= len(errors):
                    raise errors[number - 1]
                return number
        raise AssertionError("the series is endless")


async def test_it_goes_on_until_one_succeeds_and_tells_of_each_failure() -> None:
    series = Series(Reconnect(initial=1.0, max=10.0))
    errors = [OSError(str(number)) for number in range(5)]
    assert await series.run(*errors) == 6
    assert [(number, error) for number, error, _ in series.failed] == list(enumerate(errors, 1))
    assert [delay for _, _, delay in series.failed] == series.slept


async def test_a_fatal_error_ends_it_and_is_raised_as_it_is() -> None:
    series = Series(Reconnect())
    fatal = HandshakeRejected(403, "no")
    with pytest.raises(HandshakeRejected) as caught:
        await series.run(OSError(), fatal)
    assert caught.value is fatal
    assert len(series.failed) == 1


async def test_the_delay_is_random_between_nothing_and_a_bound_that_doubles() -> None:
    reconnect = Reconnect(initial=2.0, max=30.0)
    delays: list[list[float]] = [[] for _ in range(8)]
    for _ in range(300):
        series = Series(reconnect)
        await series.run(*[OSError()] * 8)
        for position, delay in enumerate(series.slept):
            delays[position].append(delay)
    for position, found in enumerate(delays):
        bound = min(30.0, 2.0 * 2**position)
        assert 0 <= min(found) < bound / 4, "full jitter begins at nothing"
        assert bound * 3 / 4 < max(found) <= bound


async def test_cancelling_ends_it() -> None:
    series = Series(Reconnect())
    with pytest.raises(asyncio.CancelledError):
        await series.run(OSError(), asyncio.CancelledError())


def test_the_defaults_are_the_promised_ones() -> None:
    assert (Reconnect().initial, Reconnect().max) == (2.0, 30.0)
