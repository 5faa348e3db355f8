"""`Reconnect` and `ReconnectSchedule`: whether and when a client dials again."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import msgspec
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_never,
    wait_random_exponential,
)
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from .._base.closing import NO_REDIAL, CloseCode
from .._base.retry import Condition, check_strategies
from .._base.scheduler import Timers
from .._net.dialing.client_handshake import ResponseTooLarge
from .._net.dialing.client_sockets import ProxyRefused
from .._net.dialing.urls import BadOption
from ..errors import ConnectionLost, HandshakeRejected, repr_of
from ..handshake import REFUSED_HEADER

FATAL_STATUS = frozenset({400, 401, 403, 404, 405, 407, 410, 414, 426, 431, 501, 505})

TRY_AGAIN_LATER = 10.0
"""Seconds to wait, at least, after a server has closed with 1013."""
LONGEST_RESTART_DELAY = 0.8
"""Longest delay, in seconds, after a server has closed with 1012: another worker serves meanwhile."""
REDIAL_AT_ONCE = frozenset({CloseCode.CREDENTIALS_EXPIRED, CloseCode.RESUMES})
"""Close codes after which the client dials without a delay: it has fresh credentials, or another connection is open."""
SHORTEST_SERVICE = 1.0
"""Seconds that a connection must last before its end with 1012 or 4411 is no failure, and before the count of failures
restarts because a session has resumed.

A server may restart again and again, or accept a token that has expired (with PyJWT's ``leeway``), or drop each
connection at once."""
LONGEST_RETRY_AFTER = 24 * 3600.0
"""Longest time, in seconds, that a ``Retry-After`` header is trusted. A larger value is probably a mistake."""

Wait = Callable[[RetryCallState], float]


def is_transient(error: BaseException, *, connected: bool = False) -> bool:
    """Return whether another attempt to connect may succeed after ``error``.

    `Reconnect` uses this function by default. The result is false after HTTP 400, 401, 403, 404, 405, 407, 410, 414,
    426, 431, 501 or 505, also from a proxy; if the server's certificate could not be verified; and if the server's
    response is too large. With ``connected``, the result is true in these cases, unless the server's `on_handshake` has
    refused the connection.

    The result is always false after close code 1008 (policy violation), 3000 (unauthorized), 3003 (forbidden) or 4410
    (another connection now has this client's address), and if a URL, ``headers`` or ``auth`` is not valid. After
    another error of TLS it is true: a load balancer that restarts may cause it.

    Args:
        connected: whether there has been a connection. URL, credentials and certificate were right then. So it is
            probably not the server that answers now, but the login page of another network, or a proxy that has not
            found the server. A `Reconnect` without ``retry`` passes True from the first connection on. Pass True for a
            program that nobody watches, and whose options are known to be right.
    """
    if isinstance(error, ConnectionLost):
        return error.code not in NO_REDIAL
    if isinstance(error, (HandshakeRejected, ProxyRefused)) and error.status in FATAL_STATUS:
        return connected and REFUSED_HEADER not in getattr(error, "headers", ())
    if isinstance(error, (ResponseTooLarge, ssl.SSLCertVerificationError)):
        return connected
    # Other errors of TLS, too: a load balancer that restarts may answer without TLS, or with an alert.
    return isinstance(error, Exception) and not isinstance(error, BadOption)


class Reconnect(msgspec.Struct, frozen=True, kw_only=True):
    """Delays between a client's attempts to connect, and the rules for when to stop.

    The first delay is a random time between 0 and ``initial`` seconds. The upper bound doubles with each failure, up to
    ``max`` seconds. Because delays are random, clients that lost their connections at the same time do not all connect
    again at the same time. A drop counts as a failure. The count restarts after a connection that lasted ``stable``
    seconds, or on which the session resumed and that lasted a second.

    After close code 1012 (service restart), the delay is at most 0.8 seconds, and the drop does not count as a failure,
    unless the connection lasted less than a second. Thus a rolling restart hardly delays calls. A ``wait`` of your own
    still decides alone.

    After close code 4411 (the credentials have expired), the client dials without a delay, and the drop does not count
    as a failure, unless the connection lasted less than a second.

    After close code 1013, ten seconds are added to the delay. If the response that refuses a connection has a
    ``Retry-After`` header, the time in the header is added, up to one day.

    Attributes:
        initial: upper bound of the first delay, in seconds.
        max: largest upper bound of a delay, in seconds.
        stable: how long a connection must last, in seconds, before the count of failures restarts. If the session
            resumed on the connection, one second is enough.
        wait: a ``wait_…`` object of the tenacity library, instead of ``initial`` and ``max``. All tenacity objects get
            the number of failures as the attempt number.
        stop: a ``stop_…`` object of tenacity. The default does not limit the number of attempts.
        retry: decides after which failures the client dials again. Pass a ``retry_…`` object of tenacity, or a plain
            function that takes the exception and returns a bool. The exception is the error of a failed attempt, or the
            `ConnectionLost` of a drop. If the result is false, the client stops trying to connect. The default is
            `is_transient`, with ``connected`` once there has been a connection since `Client.connect` or
            `Client.start`.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
    """

    initial: float = 2.0
    max: float = 30.0
    stable: float = 60.0
    wait: wait_base | None = None
    stop: stop_base | None = None
    retry: Condition | None = None

    def __repr__(self) -> str:
        return repr_of(self)

    def __post_init__(self) -> None:
        check_strategies(self, "initial", "max", "stable")


DEFAULT_RECONNECT = Reconnect()
ONCE = Reconnect(stop=stop_after_attempt(1))
"""What ``Client(reconnect=None)`` means."""


class ReconnectSchedule:
    """Decides after each failure and drop whether to dial again, and after which delay. It counts the failures.

    Without a ``reconnect`` there is no attempt after the first failure.
    """

    def __init__(self, reconnect: Reconnect | None, clock: Timers) -> None:
        reconnect = reconnect or ONCE
        self._clock = clock
        self._stable = reconnect.stable
        self._wait: Wait = reconnect.wait or wait_random_exponential(multiplier=reconnect.initial, max=reconnect.max)
        self._wait_for_restart: Wait = reconnect.wait or wait_random_exponential(
            multiplier=min(reconnect.initial, LONGEST_RESTART_DELAY), max=reconnect.max
        )
        self.connected = False
        """Whether an attempt has succeeded."""
        self._has_own_retry = reconnect.retry is not None
        retry = reconnect.retry or self._is_transient
        self._retrying = Retrying(
            wait=self._wait,
            stop=reconnect.stop or stop_never,
            retry=retry if isinstance(retry, retry_base) else retry_if_exception(retry),
        )
        self._opened_at: float | None = None
        self._must_last = self._stable
        """Seconds that the connection must last before the count of failures restarts."""
        self.ended_by_stop = False
        """Whether ``stop``, and not ``retry``, has ended the attempts after the last failure."""
        self._state: RetryCallState
        """What the strategies of tenacity get: the number of failures and the last one."""
        self._count_from()

    def _is_transient(self, error: BaseException) -> bool:
        return is_transient(error, connected=self.connected)

    def _count_from(self, failures: int = 0) -> None:
        """Count on from ``failures`` failures in a row. Tenacity measures the time from now on."""
        self._state = RetryCallState(self._retrying, fn=None, args=(), kwargs={})
        self._state.attempt_number = failures + 1

    def connection_opened(self) -> None:
        """There is a connection. Measure how long it lasts."""
        self._opened_at, self._must_last = self._clock.time(), self._stable

    def session_resumed(self) -> None:
        """The session has resumed on the connection, which then need not last as long."""
        self._must_last = min(self._stable, SHORTEST_SERVICE)

    def delay_after_drop(self, error: ConnectionLost) -> float | None:
        """Return the seconds until the next attempt after a drop. None if there shall be none.

        Raises:
            Exception: raised by a strategy of the user.
        """
        lasted = -1.0 if self._opened_at is None else self._clock.time() - self._opened_at
        self._opened_at = None
        restarts = error.code == CloseCode.SERVICE_RESTART and lasted >= SHORTEST_SERVICE
        at_once = error.code in REDIAL_AT_ONCE and lasted >= SHORTEST_SERVICE
        self._count_from(0 if restarts or at_once or lasted >= self._must_last else self._failures)
        delay = self.delay_after_failure(error, self._wait_for_restart if restarts else self._wait)
        if (restarts or at_once) and delay is not None:
            self._count_from()
        return 0.0 if at_once and delay is not None else delay

    @property
    def _failures(self) -> int:
        return self._state.attempt_number - 1

    @property
    def why_ended(self) -> str:
        """Why there is no attempt after the last drop."""
        if self.ended_by_stop or self._has_own_retry:
            return f"Reconnect({'stop' if self.ended_by_stop else 'retry'}=) allows no other attempt"
        return "a client does not dial again after this code"

    def may_retry(self, error: Exception) -> bool:
        """Return whether ``retry`` allows another attempt after ``error``.

        Raises:
            Exception: raised by a strategy of the user.
        """
        self._state.set_exception((type(error), error, error.__traceback__))
        return self._retrying.retry(self._state)

    def delay_after_failure(self, error: Exception, wait: Wait | None = None) -> float | None:
        """Return the seconds until the next attempt after a failed attempt. None if there shall be none.

        Args:
            wait: computes the delay. None for ``wait`` of `Reconnect`.

        Raises:
            Exception: raised by a strategy of the user.
        """
        self.ended_by_stop = False
        state, failures = self._state, self._failures
        try:
            allowed = self.may_retry(error)
            if allowed:
                # With 0 as the first argument, not-a-number becomes 0, like negative numbers.
                state.upcoming_sleep = max(0.0, float((wait or self._wait)(state))) + _server_delay(error)
                self.ended_by_stop = bool(self._retrying.stop(state))
        except BaseException as exc:
            self._count_from(failures)
            if isinstance(exc, (Exception, KeyboardInterrupt, SystemExit)):
                raise
            # Such an exception would end the caller in the middle of its work.
            raise RuntimeError(f"a strategy of Reconnect raised {exc!r}") from exc
        if not allowed or self.ended_by_stop:
            self._count_from(failures)
            return None
        state.idle_for += state.upcoming_sleep
        state.prepare_for_next_attempt()
        return state.upcoming_sleep


def _server_delay(error: BaseException | None) -> float:
    """Return the seconds that the server asks for. They are added to the delay, whose randomness is still needed."""
    if isinstance(error, ConnectionLost):
        return TRY_AGAIN_LATER if error.code == CloseCode.TRY_AGAIN_LATER else 0.0
    if not isinstance(error, HandshakeRejected):
        return 0.0
    value = error.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):  # no date, either
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
