"""When to dial again, on tenacity."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from ._url import BadURL
from .errors import HandshakeRejected

__all__ = ["Reconnect", "attempts", "is_transient"]

FATAL_STATUS = frozenset({400, 401, 403, 404, 405, 410, 426, 501})


class Reconnect(msgspec.Struct, frozen=True, kw_only=True):
    """How long a client waits before it dials again: full jitter, so that many clients do not return at once.

    The first delay is uniform between 0 and ``initial`` seconds; the range doubles with each failed attempt,
    up to ``max``.
    """

    initial: float = 2.0
    max: float = 30.0


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may go better."""
    if isinstance(error, HandshakeRejected):
        return error.status not in FATAL_STATUS
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return True  # the connection broke in the TLS handshake
    if isinstance(error, (BadURL, ssl.SSLError)):
        return False
    return isinstance(error, Exception)


def attempts(
    reconnect: Reconnect,
    failed: Callable[[int, BaseException, float], None],
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncRetrying:
    """An endless series of attempts: ``async for attempt in ...: with attempt: ...``.

    ``failed(number, error, delay)`` is called before each wait. A fatal error ends the series and is raised.
    """

    def before_sleep(state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        assert error is not None
        failed(state.attempt_number, error, state.next_action.sleep if state.next_action else 0.0)

    return AsyncRetrying(
        wait=wait_random_exponential(multiplier=reconnect.initial, max=reconnect.max),
        retry=retry_if_exception(is_transient),
        before_sleep=before_sleep,
        sleep=sleep,
        reraise=True,
    )
