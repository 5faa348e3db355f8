"""Asking again: which errors allow it, how long to wait between, and one deadline for all; on tenacity."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from .._base.misuse import check_number, shown_as
from .._base.scheduler import Scheduler
from .._base.strategies import Condition, check_strategies
from ..errors import (
    BadArguments,
    BadResult,
    ChannelClosed,
    ConnectionLost,
    Draining,
    HandlerTimeout,
    Overloaded,
    QueueFull,
    RemoteError,
    RequestTimeout,
    TooManyRequests,
    UnexpectedChannel,
    UnknownEvent,
    repr_of,
)

__all__ = ["Retry", "ask_again"]


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How `Client.request`, with ``retry=``, asks again for what failed: full jitter, so that many do not come at once.

    Before the second attempt it waits for a random time between 0 and ``initial`` seconds; the range doubles with each
    further one, up to ``max``. All attempts and the waits between them share the request's one timeout.

    It asks again where no handler ran: after `ConnectionLost` with outcome ``"not_sent"``, `Draining`, `Overloaded`,
    `QueueFull` and `TooManyRequests`; with ``idempotent=True`` on the call also after `ConnectionLost` with outcome
    ``"unknown"`` and `HandlerTimeout`. After a `ConnectionLost` only while another connection may come. The last error
    is raised, but none that says that nothing ran if an earlier attempt may have run.

    Args:
        attempts: how many in all.
        initial, max: bounds of the waits, in seconds.
        wait: one of tenacity's ``wait_…`` objects, instead of ``initial`` and ``max``.
        stop: one of tenacity's ``stop_…`` objects, instead of ``attempts``. (Those that measure time use the real
            clock; ``timeout`` on the call is the better bound.)
        retry: which errors to ask again for, instead of those above: one of tenacity's ``retry_…`` objects, or a plain
            function from the error to a bool. Whatever it says, a `ConnectionLost` with outcome ``"unknown"`` and a
            `HandlerTimeout` are not asked again for without ``idempotent=True``.

    Raises:
        TypeError, ValueError: an option is of another kind, or out of its range.
    """

    attempts: int = 3
    initial: float = 0.1
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
"""But for a `ConnectionLost` whose outcome is ``"unknown"``."""


REFUSALS = (BadArguments, Draining, Overloaded, UnknownEvent)
"""Answers which say that no handler ran."""


def may_have_run(error: Exception) -> bool:
    """Whether the attempt that ended with ``error`` ran, or may have.

    An error that is in none of these classes was raised on this side, before anything was sent.
    """
    if isinstance(error, ConnectionLost):
        return error.outcome == "unknown"
    if isinstance(error, RemoteError):
        return not isinstance(error, REFUSALS)
    return isinstance(error, (BadResult, ChannelClosed, RequestTimeout, UnexpectedChannel))


def worth_asking(error: BaseException) -> bool:
    """Whether asking again is of use; what may have run is for `ask_again` to judge."""
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
    """What ``ask(seconds)`` gives, asked as often as ``retry`` says within ``timeout``. Cancelling is safe.

    Raises:
        RequestTimeout: the time is over; ``__cause__`` is the last error.
        whatever the last attempt raised; or, where that says that nothing ran and an earlier attempt may have run, what
            that one raised, and ``__cause__`` is the last error.
    """
    deadline = None if timeout is None else loop.time() + timeout
    last: Exception | None = None
    ran: Exception | None = None

    def may_be(error: BaseException) -> bool:
        """What holds whatever the user's own condition says."""
        if isinstance(error, ConnectionLost):
            return expects_connection() and (idempotent or error.outcome == "not_sent")
        if isinstance(error, HandlerTimeout):
            return idempotent
        return isinstance(error, Exception) and not isinstance(error, RequestTimeout)

    async def sleep(seconds: float) -> None:
        # 0 first, so that not-a-number is 0, too: it would confuse the event loop's timers, those of others included.
        until = loop.time() + max(0.0, seconds)
        if deadline is None or until < deadline:
            await _sleep_until(until, loop)
        else:
            await _sleep_until(deadline, loop)
            raise _late(event, timeout) from last

    condition = retry.retry or worth_asking
    attempts = AsyncRetrying(
        wait=retry.wait or wait_random_exponential(multiplier=retry.initial, max=retry.max),
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
                    # The first one with the timeout as it was given, which is checked there.
                    left = timeout if last is None or deadline is None else max(0.0, deadline - loop.time())
                    return await ask(left)
                except RequestTimeout:
                    raise _late(event, timeout) from last
                except Exception as exc:
                    last = exc
                    if may_have_run(exc):
                        ran = exc
                    raise
    except Exception as exc:
        if ran is None or exc is not last or may_have_run(exc):
            raise
        # Nothing ran in the last attempt. That is not so of the call.
        if not isinstance(ran, ConnectionLost):
            raise ran from exc
        lost = exc if isinstance(exc, ConnectionLost) else ran
        raise ConnectionLost(lost.code, lost.reason, "unknown") from exc
    raise AssertionError("a series of attempts ends with a value or an error")


def _late(event: str, timeout: float | None) -> RequestTimeout:
    assert timeout is not None
    return RequestTimeout(event, timeout)


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
