"""Retries of requests: after which errors, with which waits, and with one deadline for all attempts. Uses tenacity."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random_exponential
from tenacity.asyncio.retry import async_retry_base
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from ..errors import (
    ConnectionLost,
    Draining,
    HandlerTimeout,
    Outcome,
    Overloaded,
    QueueFull,
    RemoteError,
    RequestTimeout,
    TooManyRequests,
    WsrpcError,
    repr_of,
)
from .misuse import check_number, shown_as
from .names import Source
from .scheduler import Scheduler

Condition = retry_base | Callable[[BaseException], bool]
"""Decides whether to try again: one of tenacity's retry objects, or a plain function of the exception."""


def check_strategies(options: Any, *seconds: str) -> None:
    """Refuse fields of a `Retry` or a `Reconnect` that are not strategies. ``seconds`` names those that are durations.

    Raises:
        TypeError, ValueError: a field is not valid. The error message says what is expected.
    """
    owner = type(options).__name__
    for name in seconds:
        check_number(f"{owner}({name}=) is a number of seconds, 0 or more", getattr(options, name), 0)
    for name, kind, such in (("wait", wait_base, "wait_fixed(5)"), ("stop", stop_base, "stop_after_attempt(10)")):
        given = getattr(options, name)
        if given is not None and not isinstance(given, kind):
            raise TypeError(f"{owner}({name}=) takes an object of tenacity, such as {such}; got {given!r}")
    condition: Any = options.retry
    if condition is None or (isinstance(condition, retry_base) and not isinstance(condition, async_retry_base)):
        return
    # A class is callable, too. Its instances count as true, and so does the coroutine of an `async def` function.
    waits = isinstance(condition, (type, async_retry_base)) or inspect.iscoroutinefunction(condition)
    if waits or not callable(condition):
        raise TypeError(
            f"{owner}(retry=) takes a plain function of the exception, or one of tenacity's retry objects that are not "
            f"async; got {condition!r}"
        )


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Rules for sending a request again when it fails, for ``request(retry=)``.

    The wait before the second attempt is a random time between half of ``initial`` and ``initial`` seconds. The bounds
    double with each further attempt, up to ``max`` seconds. Because waits are random, clients whose requests failed at
    the same time do not all send them again at the same time. An error with `RemoteError.retry_after` is waited for at
    least as long. All attempts and the waits between them share the timeout of the request.

    The default waits last between 3.1 and 6.2 seconds in total. This is longer than a planned restart: after close code
    1012, a client dials within 0.8 seconds and, if that attempt fails, again within another 2 seconds.

    A request is sent again if no handler ran, that is, after `Draining`, `Overloaded`, `QueueFull`, `TooManyRequests`,
    or `ConnectionLost` with ``outcome="not_sent"``. If you pass ``idempotent=True``, the request is also sent again
    after `ConnectionLost` with ``outcome="unknown"`` and after `HandlerTimeout`. After a `ConnectionLost`, the request
    is sent again only if another connection may follow.

    When there are no more attempts, the call raises the last error. But if no handler ran in the last attempt, and a
    handler may have run in an earlier attempt, the call raises the error of that earlier attempt.

    Attributes:
        attempts: maximum number of attempts, including the first one.
        initial: upper bound of the first wait, in seconds. The lower bound is half of it.
        max: largest upper bound of a wait, in seconds.
        wait: a ``wait_…`` object of the tenacity library, instead of ``initial`` and ``max``.
        stop: a ``stop_…`` object of tenacity, instead of ``attempts``. (To limit the time, prefer the ``timeout`` of
            the request: tenacity does not use the clock of the event loop.)
        retry: decides after which errors the request is sent again, and replaces the default list of errors. Pass a
            ``retry_…`` object of tenacity, or a plain function that takes the error and returns a bool. Even if the
            result is true, a request without ``idempotent=True`` is not sent again after a `ConnectionLost` with
            ``outcome="unknown"`` or after a `HandlerTimeout`.

    Raises:
        TypeError, ValueError: an option has the wrong type or is out of range.
    """

    attempts: int = 6
    initial: float = 0.2
    max: float = 5.0
    wait: wait_base | None = None
    stop: stop_base | None = None
    retry: Condition | None = None

    def __repr__(self) -> str:
        return repr_of(self)

    def __post_init__(self) -> None:
        if isinstance(self.attempts, float):
            raise TypeError(f"Retry(attempts=) is a whole number, got {self.attempts!r}")
        check_number("Retry(attempts=) counts the first one, too: 1 or more", self.attempts, 1)
        check_strategies(self, "initial", "max")


NEVER_RAN = (ConnectionLost, Draining, Overloaded, QueueFull, TooManyRequests)
"""Errors of requests that did not run, except for a `ConnectionLost` with outcome ``"unknown"``."""


def may_have_run(error: Exception) -> bool:
    """Return whether the handler may have run in the attempt that ended with ``error``."""
    return isinstance(error, WsrpcError) and error.outcome in ("ran", "unknown")


def worth_asking(error: BaseException) -> bool:
    """Return whether another attempt may succeed. `ask_again` decides about requests that may have run."""
    return isinstance(error, (*NEVER_RAN, HandlerTimeout))


@shown_as("request")
async def ask_again(
    ask: Callable[[float | None], Awaitable[Any]],
    retry: Retry,
    *,
    idempotent: bool,
    event: str,
    timeout: float | None,
    loop: Scheduler,
    expects_connection: Callable[[], bool],
) -> Any:
    """Await ``ask(seconds)`` as often as ``retry`` says within ``timeout``, and return its result. Cancelling is safe.

    Raises:
        RequestTimeout: the time is over; ``__cause__`` is the last error.
        Exception: the error of the last attempt. If that says that nothing ran, but an earlier attempt may have run,
            the error of the earlier attempt, and ``__cause__`` is the last error.
    """
    deadline = None if timeout is None else loop.time() + timeout
    last: Exception | None = None
    ran: Exception | None = None

    def may_be(error: BaseException) -> bool:
        """Return whether another attempt is allowed, whatever the user's own condition says."""
        if isinstance(error, ConnectionLost):
            return expects_connection() and (idempotent or error.outcome == "not_sent")
        if isinstance(error, HandlerTimeout):
            return idempotent
        return isinstance(error, Exception) and not isinstance(error, RequestTimeout)

    def late(outcome: Outcome) -> RequestTimeout:
        assert timeout is not None
        return RequestTimeout(event, timeout, outcome if ran is None else "unknown")

    async def sleep(seconds: float) -> None:
        told = last.retry_after if isinstance(last, RemoteError) else None
        # max(0.0, nan) is 0.0. Not-a-number would confuse all timers of the event loop.
        until = loop.time() + max(told or 0.0, seconds)
        if deadline is None or until < deadline:
            await _sleep_until(until, loop)
        else:
            await _sleep_until(deadline, loop)
            raise late(last.outcome if isinstance(last, ConnectionLost) else "unknown") from last

    condition = retry.retry or worth_asking
    half = retry.max / 2
    attempts = AsyncRetrying(
        wait=retry.wait or wait_exponential(retry.initial / 2, half) + wait_random_exponential(retry.initial / 2, half),
        stop=retry.stop or stop_after_attempt(retry.attempts),
        retry=retry_if_exception(may_be)
        & (condition if isinstance(condition, retry_base) else retry_if_exception(condition)),
        sleep=sleep,
        reraise=True,
    )
    try:
        async for attempt in attempts:
            with attempt:
                try:
                    # The first attempt gets the timeout as the caller gave it, so that it is checked.
                    left = timeout if last is None or deadline is None else max(0.0, deadline - loop.time())
                    return await ask(left)
                except RequestTimeout as exc:
                    raise late(exc.outcome) from last
                except Exception as exc:
                    last = exc
                    if may_have_run(exc):
                        ran = exc
                    raise
    except Exception as exc:
        if ran is None or exc is not last or may_have_run(exc):
            raise
        # Nothing ran in the last attempt, but perhaps in an earlier one.
        if not isinstance(ran, ConnectionLost):
            raise ran from exc
        lost = exc if isinstance(exc, ConnectionLost) else ran
        raise ConnectionLost(lost.code, lost.reason, "unknown") from exc
    raise AssertionError("a series of attempts ends with a value or an error")


async def _sleep_until(when: float, loop: Scheduler) -> None:
    over: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not over.done():
            over.set_result(None)

    timer = loop.call_at(when, wake)
    try:
        await over
    finally:
        timer.cancel()


def check_retry(retry: Any, send: Source | None = None) -> None:
    """Check the argument ``retry=``, and refuse a request that cannot be sent again.

    Raises:
        TypeError: it is not a `Retry`, or the request has ``send=``.
    """
    if not isinstance(retry, Retry):
        raise TypeError(f"retry= takes a wsrpc.Retry, got {retry!r}")
    if send is not None:
        raise TypeError("retry= and send= do not go together: what a source has given cannot be sent a second time")
