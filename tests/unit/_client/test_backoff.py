"""`wsrpc._client.reconnect_policy`: when to dial again, and when not."""

from __future__ import annotations

import asyncio
import math
import ssl
from typing import Any

import pytest
from tenacity import retry_if_exception_type, stop_after_attempt, wait_exponential, wait_fixed
from websockets.exceptions import InvalidHandshake

from wsrpc import Client, ConnectionLost, HandshakeRejected, Reconnect, is_transient
from wsrpc._client.reconnect_policy import ReconnectSchedule
from wsrpc._net.client_handshake import ResponseTooLarge
from wsrpc._net.client_sockets import ProxyRefused
from wsrpc.testing._clock import Clock


def bad_url() -> Exception:
    with pytest.raises(ValueError) as caught:
        Client("http://x")
    return caught.value


TRANSIENT: list[BaseException] = [
    *(ConnectionRefusedError(), TimeoutError(), OSError("no route"), InvalidHandshake(), EOFError()),
    *(HandshakeRejected(status) for status in (408, 425, 429, 500, 502, 503, 504)),
    *(
        ConnectionLost(code)
        for code in (1000, 1001, 1002, 1003, 1006, 1007, 1009, 1011, 1012, 1013, 3008, 4000, 4401, 4411)
    ),
    ssl.SSLEOFError(),
    ssl.SSLError(1, "[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error"),
]
STATUSES = (400, 401, 403, 404, 405, 407, 410, 414, 426, 431, 501, 505)
FATAL_AT_FIRST: list[BaseException] = [
    *map(HandshakeRejected, STATUSES),
    *(ProxyRefused(status, "") for status in STATUSES),
    ssl.SSLCertVerificationError(1, "not trusted"),
    ResponseTooLarge(),
]
FATAL: list[BaseException] = [
    *(HandshakeRejected(status, "", {"Wsrpc-Refused": "1"}) for status in STATUSES),
    *(ConnectionLost(code) for code in (1008, 3000, 3003, 4410)),
    *(bad_url(), asyncio.CancelledError(), KeyboardInterrupt()),
]


def test_which_errors_are_worth_another_attempt() -> None:
    for connected in (False, True):
        assert [error for error in TRANSIENT if not is_transient(error, connected=connected)] == []
        assert [error for error in FATAL if is_transient(error, connected=connected)] == []
        assert [error for error in FATAL_AT_FIRST if is_transient(error, connected=connected) is not connected] == []


def test_the_delay_is_random_between_nothing_and_a_bound_that_doubles() -> None:
    reconnect = Reconnect(initial=2.0, max=30.0)
    schedules = [ReconnectSchedule(reconnect, Clock()) for _ in range(300)]
    for position in range(8):
        delays = [schedule.delay_after_failure(OSError()) or 0.0 for schedule in schedules]
        bound = min(30.0, 2.0 * 2**position)
        assert 0 <= min(delays) < bound / 4, "full jitter begins at nothing"
        assert bound * 3 / 4 < max(delays) <= bound
    assert (Reconnect().initial, Reconnect().max, Reconnect().stable) == (2.0, 30.0, 60.0)


# A schedule without randomness waits 1, 2, 4, ... seconds. A step is an attempt that fails, or a connection that lasts
# for some seconds and ends with a code, perhaps one on which the session resumed; and the delay after it, None if there
# is no other attempt.
FAIL = OSError()
Step = tuple[Exception | tuple[float, int] | tuple[float, int, str], float | None]
RESUMED = "resumed"
PAST, FAR = "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"


def after(said: str) -> Exception:
    return HandshakeRejected(503, "", {"retry-after": said})


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        pytest.param({}, [(FAIL, 1), ((0, 1006), 2), ((59.9, 1006), 4), (FAIL, 8)], id="drops count as failures"),
        pytest.param({}, [(FAIL, 1), (FAIL, 2), ((60.0, 1006), 1), (FAIL, 2)], id="a minute ends the count"),
        pytest.param({}, [(FAIL, 1), (FAIL, 2), *[((1.0, 1012), 1)] * 9, (FAIL, 1)], id="a restart is no failure"),
        pytest.param(
            {}, [((5.0, 1006), 1), *[((1.0, 1006, RESUMED), 1)] * 9, (FAIL, 2), ((1.0, 1006), 4)], id="a resume"
        ),
        pytest.param({}, [((0.99, 1006, RESUMED), 2**number) for number in range(4)], id="resumes, and drops at once"),
        pytest.param({"stable": 0.5}, [(FAIL, 1), ((0.5, 1006, RESUMED), 1)], id="a shorter stable"),
        pytest.param(
            {"stop": stop_after_attempt(3)}, [*[((1.0, 4411), 0)] * 9, ((0, 1006), 1)], id="expired credentials"
        ),
        # A server may take a token whose time is over: with a `leeway`, or because its clock is wrong.
        pytest.param({}, [((0.99, 4411), 1), ((0.99, 4411), 2), ((0.99, 4411), 4)], id="expired again and again"),
        pytest.param({}, [((0, 1013), 11), ((0, 1006), 2)], id="1013 asks for ten seconds more"),
        pytest.param(
            {}, [(after("7"), 8), (after(PAST), 2), (after(FAR), 24 * 3600 + 4), (after("soon"), 8)], id="Retry-After"
        ),
        pytest.param({"wait": wait_fixed(-1.0)}, [(FAIL, 0)], id="a delay below 0"),
        pytest.param({"wait": wait_fixed(math.nan)}, [(FAIL, 0)], id="a delay that is no number"),
        pytest.param({}, [(FAIL, 1), (HandshakeRejected(403), None)], id="a fatal error"),
        pytest.param({"stop": stop_after_attempt(3)}, [(FAIL, 1), (FAIL, 2), (FAIL, None)], id="stop"),
        pytest.param({"retry": retry_if_exception_type(OSError)}, [(FAIL, 1), (ValueError(), None)], id="retry"),
        pytest.param(
            {"retry": lambda error: getattr(error, "code", 0) != 4401},
            [((0, 1006), 1), ((0, 4401), None)],
            id="a function as retry",
        ),
    ],
)
def test_the_delays_after_failures_and_connections(options: dict[str, Any], steps: list[Step]) -> None:
    clock = Clock()
    schedule = ReconnectSchedule(Reconnect(**{"wait": wait_exponential(), **options}), clock)
    found: list[float | None] = []
    for what, _ in steps:
        if isinstance(what, tuple):
            schedule.connection_opened()
            if what[2:]:
                schedule.session_resumed()
            clock.advance(what[0])
            found.append(schedule.delay_after_drop(ConnectionLost(what[1])))
        else:
            found.append(schedule.delay_after_failure(what))
    assert found == [delay for _, delay in steps]
    assert schedule.ended_by_stop == (found[-1] is None and "stop" in options)


def test_a_restart_delays_clients_for_a_moment_and_not_all_by_the_same() -> None:
    clock = Clock()
    schedule = ReconnectSchedule(Reconnect(), clock)
    for code, least, most in ((1012, 0.5, 0.8), (1006, 1.0, 2.0)):
        delays: list[float] = []
        for _ in range(200):
            schedule.connection_opened()
            clock.advance(60.0)
            delays.append(schedule.delay_after_drop(ConnectionLost(code)) or 0.0)
        assert least < max(delays) <= most
    assert ReconnectSchedule(Reconnect(initial=0.0), clock).delay_after_drop(ConnectionLost(1012)) == 0
