"""`wsrpc._client.backoff`: when to dial again, and when not."""

from __future__ import annotations

import asyncio
import math
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tenacity import (
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
)
from tenacity.asyncio import retry_if_exception as async_retry_if_exception
from tenacity.wait import wait_base
from websockets.exceptions import InvalidHandshake

from wsrpc import ConnectionLost, HandshakeRejected, Reconnect, is_transient
from wsrpc._client.backoff import Schedule
from wsrpc._transports.urls import BadURL, check_url
from wsrpc.testing import Clock


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


def delays_of(schedule: Schedule, *errors: Exception) -> list[float | None]:
    return [schedule.failed(error) for error in errors]


def test_the_delay_is_random_between_nothing_and_a_bound_that_doubles() -> None:
    reconnect = Reconnect(initial=2.0, max=30.0)
    series = [delays_of(Schedule(reconnect, Clock()), *[OSError()] * 8) for _ in range(300)]
    for position, found in enumerate(zip(*series, strict=True)):
        delays = [delay for delay in found if delay is not None]
        bound = min(30.0, 2.0 * 2**position)
        assert len(delays) == 300
        assert 0 <= min(delays) < bound / 4, "full jitter begins at nothing"
        assert bound * 3 / 4 < max(delays) <= bound


@pytest.mark.parametrize("error", [HandshakeRejected(403, "no"), BadURL("x")])
def test_a_fatal_error_ends_it(error: Exception) -> None:
    schedule = Schedule(Reconnect(), Clock())
    assert schedule.failed(OSError()) is not None
    assert schedule.failed(error) is None
    assert not schedule.stopped


def fixed(**options: Any) -> Schedule:
    """A schedule without randomness: 1, 2, 4, ... seconds."""
    return Schedule(Reconnect(wait=wait_exponential(), **options), Clock())


def test_a_drop_counts_as_a_failed_attempt_and_the_count_goes_on_over_short_connections() -> None:
    schedule = fixed()
    assert schedule.failed(OSError()) == 1
    for delay in (2, 4, 8):
        schedule.opened()
        assert schedule.dropped(ConnectionLost()) == delay
    assert schedule.failed(OSError()) == 16


@pytest.mark.parametrize(("held", "delay"), [(59.9, 8), (60.0, 1), (1e6, 1)])
def test_a_connection_that_held_for_a_minute_ends_the_count(held: float, delay: float) -> None:
    clock = Clock()
    schedule = Schedule(Reconnect(wait=wait_exponential()), clock)
    delays_of(schedule, *[OSError()] * 3)
    schedule.opened()
    clock.advance(held)
    assert schedule.dropped(ConnectionLost()) == delay


def test_how_long_is_stable_can_be_said() -> None:
    clock = Clock()
    schedule = Schedule(Reconnect(wait=wait_exponential(), stable=5.0), clock)
    delays_of(schedule, *[OSError()] * 3)
    schedule.opened()
    clock.advance(5.0)
    assert schedule.dropped(ConnectionLost()) == 1


def test_a_restart_of_the_server_is_no_failure() -> None:
    """In a rolling restart a client may be closed with 1012 again and again, and another worker is always there."""
    clock = Clock()
    schedule = Schedule(Reconnect(), clock)
    delays_of(schedule, *[OSError()] * 6)
    for _ in range(200):
        schedule.opened()
        clock.advance(1.0)
        delay = schedule.dropped(ConnectionLost(1012))
        assert delay is not None and delay <= 0.8
    assert max(first_delays(schedule, clock, ConnectionLost(1012))) > 0.5, "clients do not come back all at once"
    assert max(first_delays(schedule, clock, ConnectionLost(1006))) > 1.0


def first_delays(schedule: Schedule, clock: Clock, error: ConnectionLost) -> list[float]:
    """Return the delays after many drops, each after a minute with a connection."""
    found: list[float | None] = []
    for _ in range(100):
        schedule.opened()
        clock.advance(60.0)
        found.append(schedule.dropped(error))
    return [delay for delay in found if delay is not None]


def test_a_server_that_does_nothing_but_restart_fails() -> None:
    clock = Clock()
    schedule = Schedule(Reconnect(initial=1.0), clock)
    found: list[float | None] = []
    for _ in range(30):
        schedule.opened()
        clock.advance(0.99)
        found.append(schedule.dropped(ConnectionLost(1012)))
    assert max(delay or 0.0 for delay in found) > 10


def test_after_credentials_that_have_expired_there_is_no_delay_and_no_failure() -> None:
    clock = Clock()
    schedule = Schedule(Reconnect(wait=wait_exponential(), stop=stop_after_attempt(3)), clock)
    for _ in range(200):
        schedule.opened()
        clock.advance(1.0)
        assert schedule.dropped(ConnectionLost(4411)) == 0
    assert schedule.dropped(ConnectionLost(1006)) == 1


def test_credentials_that_expire_again_and_again_fail() -> None:
    """A server may take a token whose time is over: with a `leeway`, or because its clock is wrong."""
    clock = Clock()
    schedule = Schedule(Reconnect(wait=wait_exponential()), clock)
    found: list[float | None] = []
    for _ in range(4):
        schedule.opened()
        clock.advance(0.99)
        found.append(schedule.dropped(ConnectionLost(4411)))
    assert found == [1, 2, 4, 8]


def test_a_strategy_decides_alone_after_a_restart() -> None:
    clock = Clock()
    schedule = Schedule(Reconnect(wait=wait_exponential(multiplier=3)), clock)
    for _ in range(3):
        schedule.opened()
        clock.advance(1.0)
        assert schedule.dropped(ConnectionLost(1012)) == 3
    assert Schedule(Reconnect(initial=0.0), clock).dropped(ConnectionLost(1012)) == 0


def test_after_1013_it_is_ten_seconds_more() -> None:
    schedule = fixed()
    assert schedule.dropped(ConnectionLost(1013, "try again later")) == 11
    assert schedule.dropped(ConnectionLost(1012)) == 2


@pytest.mark.parametrize(
    ("said", "delay"),
    [
        ("7", 8),
        (" 0 ", 1),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1),
        ("999999999999999999999", 24 * 3600 + 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 24 * 3600 + 1),
        ("soon", 1),
        ("-5", 1),
        ("", 1),
        ("٣", 1),
    ],
)
def test_retry_after_is_honoured(said: str, delay: float) -> None:
    assert fixed().failed(HandshakeRejected(503, "", {"retry-after": said})) == delay


def test_retry_after_may_be_a_time() -> None:
    hour_away = datetime.now(UTC) + timedelta(hours=1)
    delay = fixed().failed(HandshakeRejected(503, "", {"retry-after": format_datetime(hour_away, usegmt=True)}))
    left = (hour_away - datetime.now(UTC)).total_seconds()
    assert delay is not None
    assert left <= delay <= 3601


def test_strategies_of_tenacity() -> None:
    schedule = fixed(stop=stop_after_attempt(3), retry=retry_if_exception_type(OSError))
    assert delays_of(schedule, OSError(), OSError(), OSError()) == [1, 2, None]
    assert schedule.stopped

    schedule = fixed(stop=stop_after_attempt(3), retry=retry_if_exception_type(OSError))
    assert schedule.failed(ValueError()) is None
    assert not schedule.stopped


def test_tenacitys_time_counts_from_the_drop() -> None:
    schedule = fixed(stop=stop_before_delay(60.0))
    schedule.begin()
    schedule.opened()
    assert schedule.dropped(ConnectionLost()) == 1
    schedule = fixed(stop=stop_before_delay(3.0))
    assert delays_of(schedule, OSError(), OSError(), OSError()) == [1, 2, None]


def test_a_function_says_what_is_worth_it() -> None:
    schedule = fixed(retry=lambda error: isinstance(error, ConnectionLost) and error.code != 4401)
    assert schedule.dropped(ConnectionLost(1006)) == 1
    assert schedule.dropped(ConnectionLost(4401)) is None


@pytest.mark.parametrize("delay", [-1.0, math.nan])
def test_a_delay_that_makes_no_sense_is_none(delay: float) -> None:
    class Odd(wait_base):
        def __call__(self, retry_state: RetryCallState) -> float:
            return delay

    assert Schedule(Reconnect(wait=Odd()), Clock()).failed(OSError()) == 0


async def is_transient_async(error: BaseException) -> bool:
    return True


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"initial": -1}, ValueError, "initial="),
        ({"max": math.nan}, ValueError, "max="),
        ({"stable": -0.1}, ValueError, "stable="),
        ({"initial": None}, TypeError, "initial=.* number of seconds.*None"),
        ({"wait": 3.0}, TypeError, "wait_fixed"),
        ({"stop": 5}, TypeError, "stop_after_attempt"),
        ({"retry": OSError()}, TypeError, "plain function"),
        ({"retry": OSError}, TypeError, "plain function"),
        ({"retry": async_retry_if_exception(is_transient_async)}, TypeError, "not async"),
    ],
)
def test_what_is_no_strategy_is_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Reconnect(**options)


def test_the_defaults_are_the_promised_ones() -> None:
    assert (Reconnect().initial, Reconnect().max, Reconnect().stable) == (2.0, 30.0, 60.0)
