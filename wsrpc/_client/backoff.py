"""When to dial again, and when not: tenacity's strategies, told of each failure."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from tenacity import AsyncRetrying, RetryCallState, stop_after_attempt, stop_never, wait_random_exponential
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from .._base.closing import CloseCode
from .._base.strategies import Condition, check_strategies
from .._transports.urls import BadURL
from ..errors import ConnectionLost, HandshakeRejected, repr_of

__all__ = ["DEFAULT_RECONNECT", "Reconnect", "Schedule", "is_transient"]

FATAL_STATUS = frozenset({400, 401, 403, 404, 405, 410, 426, 501})

TRY_AGAIN_LATER = 10.0
"""Seconds that a server which says 1013 is left alone, at least."""
LONGEST_RETRY_AFTER = 24 * 3600.0
"""Seconds: a server that asks for more means something else, or has its clock wrong."""

Strategy = Callable[[RetryCallState], Any]


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may go better: the default of ``Reconnect(retry=)``.

    Not after HTTP 400, 401, 403, 404, 405, 410, 426 or 501, close code 1008 (policy violation), a certificate that does
    not verify, or a URL that is not valid.
    """
    if isinstance(error, HandshakeRejected):
        return error.status not in FATAL_STATUS
    if isinstance(error, ConnectionLost):
        return error.code != CloseCode.POLICY_VIOLATION
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return True  # the connection broke in the TLS handshake
    if isinstance(error, (BadURL, ssl.SSLError)):
        return False
    return isinstance(error, Exception)


class Reconnect(msgspec.Struct, frozen=True, kw_only=True):
    """How long a client waits before it dials again: full jitter, so that many clients do not return at once.

    The first delay is uniform between 0 and ``initial`` seconds; the range doubles with each failed attempt,
    up to ``max``. A drop counts as a failed attempt; a connection that held for ``stable`` seconds ends the count.
    After close code 1013 ten seconds are added, after a refusal with ``Retry-After`` what that says (at most a day).

    ``wait``, ``stop`` and ``retry`` take tenacity's own strategies instead; their attempt number is that count.
    ``retry`` may also be a function of the exception: a failed attempt's, or a drop's `ConnectionLost`. What it says
    no to ends the client; the default is `is_transient`.

    Raises:
        TypeError, ValueError: an option is of another kind, or out of its range.
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


class Schedule:
    """Counts failures and says how long to wait after each; ``time`` gives seconds, as the event loop's clock does.

    Without a ``reconnect`` the first failure is the last.

    Raises:
        TypeError: ``reconnect`` is of another kind.
    """

    def __init__(self, reconnect: Reconnect | None, time: Callable[[], float]) -> None:
        given: Any = reconnect
        if given is not None and not isinstance(given, Reconnect):
            raise TypeError(f"reconnect= takes a wsrpc.Reconnect or None, got {given!r}")
        reconnect = reconnect or ONCE
        self._time = time
        self._stable = reconnect.stable
        self._wait: Strategy = reconnect.wait or wait_random_exponential(
            multiplier=reconnect.initial, max=reconnect.max
        )
        self._stop: Strategy = reconnect.stop or stop_never
        self._retry = reconnect.retry or is_transient
        self._opened_at: float | None = None
        self.stopped = False
        """Whether it ended because of ``stop``, not because the last failure was one for ever."""
        self._state: RetryCallState
        self.begin()

    def begin(self, failures: int = 0) -> None:
        """Nothing has failed yet, or ``failures`` times in a row; tenacity's time counts from now."""
        # What tenacity's strategies look at. Nothing is called through it.
        self._state = RetryCallState(AsyncRetrying(), None, (), {})
        self._state.attempt_number = failures + 1

    def opened(self) -> None:
        """There is a connection."""
        self._opened_at = self._time()

    def dropped(self, error: ConnectionLost) -> float | None:
        """The connection has ended; see `failed`."""
        held = self._opened_at is not None and self._time() - self._opened_at >= self._stable
        self._opened_at = None
        self.begin(0 if held else self._state.attempt_number - 1)
        return self.failed(error)

    def failed(self, error: Exception) -> float | None:
        """An attempt has failed: seconds until the next one, None if there is to be none.

        Raises:
            Exception: whatever a strategy of the user raises.
        """
        self.stopped = False
        try:
            return self._judge(error)
        except (Exception, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # which would end whoever asks here, in the midst of its work
            raise RuntimeError(f"a strategy of Reconnect raised {exc!r}") from exc

    def _judge(self, error: Exception) -> float | None:
        state = self._state
        state.set_exception((type(error), error, error.__traceback__))
        retry = self._retry
        if not (retry(state) if isinstance(retry, retry_base) else retry(error)):
            return None
        # 0 first, so that not-a-number and what is negative are 0, too.
        state.upcoming_sleep = delay = max(0.0, float(self._wait(state))) + _at_least(error)
        self.stopped = bool(self._stop(state))
        if self.stopped:
            return None
        state.idle_for += delay
        state.prepare_for_next_attempt()
        return delay


def _at_least(error: Exception) -> float:
    """Seconds that the server wants to be left alone. They are added to the delay, whose jitter is still needed."""
    if isinstance(error, ConnectionLost):
        return TRY_AGAIN_LATER if error.code == CloseCode.TRY_AGAIN_LATER else 0.0
    if not isinstance(error, HandshakeRejected):
        return 0.0
    given = error.headers.get("retry-after", "").strip()
    if given.isascii() and given.isdigit():
        return min(float(given), LONGEST_RETRY_AFTER)
    try:
        seconds = parsedate_to_datetime(given).timestamp() - time.time()
    except (ValueError, OverflowError):  # no date, either
        return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)
