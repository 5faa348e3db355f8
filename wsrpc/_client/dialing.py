"""`Dialing`: a client's attempts to connect, and the delays between them, in a task."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .._base.scheduler import Timers, spawn_later
from .._net.dialing.dial import Dialer
from .._net.dialing.urls import shown_url
from ..errors import ConnectFailed, ConnectionLost, HandshakeRejected, named
from ..transport import Transport
from .reconnect_policy import Reconnect, ReconnectSchedule

if TYPE_CHECKING:
    from .client_core import ClientCore

NO_CONNECTION = "no connection"
STILL_OPENING = "the `open` handlers have not finished"


class DialPlan(Struct, frozen=True):
    """The options of a client that say how it dials.

    Raises:
        TypeError: ``reconnect`` is of another type.
    """

    dialer: Dialer
    reconnect: Reconnect | None
    timeout: float | None
    """``connect_timeout``."""

    def __post_init__(self) -> None:
        value: Any = self.reconnect
        if value is not None and not isinstance(value, Reconnect):
            raise TypeError(f"reconnect= takes a wsrpc.Reconnect or None, got {value!r}")

    @property
    def dials(self) -> bool:
        """Whether the client has a URL."""
        return self.dialer.url is not None


class Dialing:
    """Dials for one command of the user: until there is a connection, and again after each drop.

    At most one series of attempts runs at a time. The timeout of the plan limits the first connection of a `connect`:
    all of its attempts, and its `open` handlers. A connection that ends before the handlers have finished counts as a
    failed attempt.

    Args:
        clock: the clock of the `ReconnectSchedule`.
        first: dials for a `connect`, not for a `start` or after a `bind`.
    """

    def __init__(
        self,
        plan: DialPlan,
        clock: Timers,
        client: ClientCore,
        *,
        first: bool,
    ) -> None:
        self._plan = plan
        self._client = client
        self.schedule = ReconnectSchedule(plan.reconnect, clock)
        self.first = first
        """Whether a `connect` still waits for its first open connection."""
        self.deadline: float | None = None
        """When the time for the first connection is over, by the clock of the event loop."""
        if first and plan.timeout is not None:
            self.deadline = asyncio.get_running_loop().time() + plan.timeout
        self._deadline_timer: asyncio.TimerHandle | None = None
        """Ends a first connection whose `open` handlers have not finished at the deadline."""
        self._context = contextvars.copy_context()
        """The user's context, in which the client dials."""
        self._task: asyncio.Task[None] | None = None
        """The present series of attempts. None once the series has led to a connection."""
        self._stopped = False
        """Whether `stop` was called. An attempt may still run, for example because it suppresses its cancellation."""
        self.attempts = 0
        """Number of attempts since a connection was open."""
        self._last_failure: Exception | None = None
        """The failure of the last attempt, or the last drop."""
        self._failures: deque[str] = deque(maxlen=20)
        """The failures of the last attempts since a connection was open."""
        self._url: str | None = None
        """The URL that was dialed last."""
        self._session_url: str | None = None
        """The URL at which the present or last session started."""

    def start(self, delay: float | None = None) -> None:
        """Start a series of attempts, after ``delay`` seconds if ``delay`` is not None."""
        self.stop_deadline_timer()
        self._task = spawn_later(self._run(delay), self._context.copy())

    def start_unless_running(self) -> None:
        """Start a series of attempts, unless one runs."""
        if self._task is None:
            self.start()

    def session_started(self) -> None:
        """A session starts on the connection that was dialed last."""
        self.schedule.connection_opened()
        self._session_url = self._url

    def session_resumed(self) -> None:
        """The session has resumed on that connection."""
        self.schedule.session_resumed()

    def reset_attempts(self) -> None:
        """There is a connection, and its `open` handlers have finished. Count the attempts from 0 again."""
        self.stop_deadline_timer()
        self.first, self.deadline = False, None
        self.attempts, self._last_failure = 0, None
        self._failures.clear()

    def delay_after_drop(self, error: ConnectionLost) -> float | None:
        """Return the delay before the next series of attempts, in seconds. None if the client shall not dial again.

        Args:
            error: how the connection has ended.

        Raises:
            Exception: raised by a strategy of the user.
        """
        self._last_failure = error
        return self.schedule.delay_after_drop(error)

    def timeout_error(self, why: str = NO_CONNECTION) -> ConnectFailed:
        """Return the error for a `connect` whose time is over."""
        late = TimeoutError(f"{why} within connect_timeout={self._plan.timeout} s")
        failed = ConnectFailed(self.attempts, self._last_failure or late)
        failed.__cause__ = self._last_failure or late
        return failed

    def stop(self) -> asyncio.Task[None] | None:
        """Stop dialing. Return the task, if it has not ended yet."""
        self.stop_deadline_timer()
        self._stopped = True
        task = self._task
        if task is None or task.done():
            return None
        task.cancel()
        return task

    def stop_deadline_timer(self) -> None:
        """Stop the timer, if it runs."""
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None

    def _deadline_passed(self) -> None:
        """The time for the first connection is over, while its `open` handlers run."""
        self._client.dialing_gave_up(self.timeout_error(STILL_OPENING))

    async def _run(self, delay: float | None) -> None:
        try:
            transport = await self._dial(delay)
        except Exception as exc:
            if not self._stopped:
                self._client.dialing_gave_up(exc)
            return
        if self._stopped:  # the connection belongs to an earlier call of the user
            transport.abort()
            return
        if self.deadline is not None:
            self._deadline_timer = asyncio.get_running_loop().call_at(self.deadline, self._deadline_passed)
        self._task = None
        self.schedule.connected = True
        self.schedule.connection_opened()
        self._client.dialed(transport)

    async def _dial(self, delay: float | None) -> Transport:
        limit = asyncio.timeout_at(self.deadline)
        try:
            async with limit:
                while True:
                    if delay is not None:
                        await asyncio.sleep(delay)
                        self._client.attempt_started()
                    self.attempts += 1
                    try:
                        return await self._attempt()
                    except Exception as exc:
                        self._last_failure = exc
                        delay = self.schedule.delay_after_failure(exc)
                        if self._stopped or (delay is None and not self.schedule.ended_by_stop):
                            raise
                        if self._plan.reconnect is None and isinstance(exc, HandshakeRejected):
                            raise  # with one attempt, `ConnectFailed` would say no more
                        if delay is None:
                            raise ConnectFailed(self.attempts, exc) from exc
                        self._client.attempt_failed(exc, delay, is_new=named(exc) not in self._failures)
                        self._failures.append(named(exc))
        except TimeoutError:
            if not limit.expired():
                raise  # the error of an attempt, after which the user's strategy allows no other one
            failure = self.timeout_error()
            raise failure from failure.__cause__

    async def _attempt(self) -> Transport:
        """Dial the URLs one after another, until one is open.

        The order is random, so that the clients of a server that ends spread over the other servers. If a session may
        be resumed, its own server is dialed first, because no other server has the session. After the session has
        ended, that server is dialed last, because it has probably ended, too. A server that refuses for good (it may be
        misconfigured) ends the attempts only if no other URL opens.
        """
        dialer = self._plan.dialer
        urls, headers = await dialer.ask()
        random.shuffle(urls)
        urls.sort(key=lambda url: (url == self._session_url) != self._client.asks_to_resume)
        failures: list[Exception] = []
        for url in urls:
            if failures and not self._stopped:
                text = f"could not connect: {named(failures[-1])}; dialing the next URL"
                self._client.peer_core.log(logging.INFO, "%s", text)
            if url is not self._url:
                self._url = url
                self._client.dials(url)
            try:
                return await dialer(url, headers, to_resume=self._client.asks_to_resume)
            except Exception as exc:
                if isinstance(exc, HandshakeRejected):
                    exc.shown_url = shown_url(url)
                self._last_failure = exc
                failures.append(exc)
                if self._stopped:
                    break
        if len(failures) == 1:
            raise failures[0]
        final = (number for number, exc in enumerate(failures) if not self.schedule.may_retry(exc))
        failure = failures[number := next(final, -1)]
        self._url = urls[number]
        self._client.dials(urls[number])  # lines about the failure name its URL
        failure.add_note(f"dialed in this order: {', '.join(map(shown_url, urls))}")
        raise failure
