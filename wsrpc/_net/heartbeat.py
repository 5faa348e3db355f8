"""Detection of dead connections: `Heartbeat` sends pings, and `StallWatch` watches a backlog of unsent bytes.

A connection can die silently: the remote machine loses power, a NAT drops its entry, a cable is pulled. Writing then
succeeds as long as the operating system has room, and nothing arrives. So each side sends pings, whether the connection
is idle or above its high-water mark. There is no task. An idle connection has one timer, and a second timer while a
ping is in flight.

Four events prove that the connection works: the response to the latest ping, an acknowledgement of messages, bytes that
leave the backlog, and bytes of a frame whose end has not arrived.

The operating system accepts more bytes only after the remote system has confirmed earlier bytes. This does not happen
on a dead connection. However, a proxy may confirm bytes that never reach the remote peer, or lose only the responses.
So bytes that leave the backlog count only for a limited number of bytes after the ping: as many as all buffers on the
network path can hold. If more bytes have left, the ping is no longer in a buffer, so a remote peer that reads has read
the ping.

While a frame arrives, the response cannot arrive, because it is behind the frame. On a slow network, a large message
takes longer than a response may take. Other received data proves nothing, because the connection may be dead in one
direction only. So these bytes, too, count only for a limited number of bytes after the ping.
"""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Callable
from typing import Protocol

from .._base.closing import CloseCode
from .._base.scheduler import Timer, Timers
from ..limits import Limits

LONGEST_CHECK_INTERVAL = 0.5
"""Maximum seconds between two checks of a backlog."""

GRID_STEPS = 2**8
"""An interval has at least so many times at which pings are sent."""

SHORTEST_PING_TIME = 5.0
"""Least seconds to which the interval and the timeout are shortened while something waits for the remote peer."""

BUFFERED_BYTES = 16 * 1024 * 1024
"""Bytes that buffers between this side and a slow reader can hold. (The buffers of Linux grow to 10 MiB.)"""


class WatchedOutput(Protocol):
    """Outgoing half of a connection, as `StallWatch` sees it."""

    @property
    def written(self) -> int:
        """Number of bytes that were written on the connection."""
        ...

    def backlog(self) -> int:
        """Return the number of written bytes that the operating system has not accepted yet."""
        ...

    def drop(self, code: int, reason: str) -> None:
        """End the dead connection without waiting."""
        ...


class PingOutput(WatchedOutput, Protocol):
    """Outgoing half of a connection, as `Heartbeat` sees it."""

    def send_ping(self, payload: bytes) -> None:
        """Write a ping now, after all earlier messages, even if there is no room."""
        ...


class WatchedInput(Protocol):
    """Incoming half of a connection, as `Heartbeat` sees it.

    Attributes:
        bytes: number of received bytes.
        largest: maximum number of bytes of the next frame.
        partial: whether a frame has begun to arrive, and its end has not arrived.
    """

    bytes: int
    largest: int

    @property
    def partial(self) -> bool: ...


class Progress:
    """Progress of a backlog. ``since`` is the time of the latest progress, at first the time of creation.

    Only the backlog at the time of creation and the next ``enough`` bytes count.
    """

    __slots__ = ("_end", "_flushed", "_output", "behind", "since")

    def __init__(self, output: WatchedOutput, now: float, backlog: int, enough: int = sys.maxsize) -> None:
        self._output = output
        self._end = output.written + enough
        self.since = now
        self.behind = backlog > 0
        """Whether there is a backlog."""
        self._flushed = output.written - backlog

    def update(self, now: float) -> None:
        backlog = self._output.backlog()
        left = self._output.written - backlog
        if self.behind and self._flushed < min(left, self._end):
            self.since = now
        self._flushed = left
        self.behind = backlog > 0


class Ping(Progress):
    """The latest ping, until its response arrives, and what shows that the response is on its way."""

    __slots__ = ("_enough_in", "_incoming", "_seen", "is_for_next", "last_byte_at", "payload", "written")

    def __init__(
        self, payload: bytes, output: WatchedOutput, incoming: WatchedInput | None, now: float, backlog: int
    ) -> None:
        super().__init__(output, now, backlog, BUFFERED_BYTES)
        self.payload = payload
        self.written = output.written
        """`WatchedOutput.written` after the ping."""
        self.last_byte_at = now
        """When bytes have arrived after the ping, or when it was sent."""
        self.is_for_next = False
        """Whether the timer is for the next ping, although there is no response to this one yet."""
        self._incoming = incoming
        self._seen = 0 if incoming is None else incoming.bytes
        """Received bytes at the last check."""
        self._enough_in = 0 if incoming is None else self._seen + BUFFERED_BYTES + incoming.largest
        """The number of received bytes after which frames that arrive prove nothing."""

    def update(self, now: float) -> None:
        super().update(now)
        if self._incoming is None:
            return
        seen, self._seen = self._seen, self._incoming.bytes
        if self._seen > seen:
            self.last_byte_at = now
        if self._incoming.partial and seen < min(self._seen, self._enough_in):  # a frame arrives, and not its end
            self.since = now


class Heartbeat:
    """Sends a ping every `Limits.ping_interval` seconds, and drops the connection if there is no response.

    The response must arrive within `Limits.ping_timeout` seconds after the ping was written. While bytes wait to be
    sent (which may include the ping), the time restarts whenever some of them are sent. With ``incoming``, it also
    restarts while a frame arrives, which the response may be behind. The next ping is sent one interval after the last
    ping, but not before the response to the last ping.

    If the session survives, and while ``waits()`` is true on the side that would dial again, both times are a quarter.
    So a call notices within 10 seconds, and not 40, that its device has another address. A far network is no dead one:
    a response may take four times as long as the last one, and any byte that arrives restarts this shorter time.
    """

    def __init__(self, output: PingOutput, loop: Timers, limits: Limits, incoming: WatchedInput | None = None) -> None:
        self._output = output
        self._incoming = incoming
        self._loop = loop
        self._interval = limits.ping_interval
        self._step = 0.0
        """Seconds between these times: a power of 2, so that connections with other intervals share them."""
        if self._interval is not None:
            self._step = math.ldexp(1 / GRID_STEPS, math.frexp(self._interval)[1] - 1)
            # Connections that were opened together should not always send their pings at the same time.
            self._interval *= random.uniform(0.9, 1.0)
        self._tick = self._interval
        """Seconds between two times at which a ping may be sent."""
        self._timeout = limits.ping_timeout
        self._waits: Callable[[], bool] | None = None
        self._round_trip = math.inf
        """Seconds that the last response took."""
        self._timer: Timer | None = None
        self._ping: Ping | None = None
        """The latest ping. None if its response has arrived, or is not expected."""
        self._sent_at = 0.0
        """When it was sent."""
        self._arrived = -1
        """`Ping.written` of the latest ping that was answered: so many bytes have arrived."""
        self._survives = False
        """Whether the session resumes on another connection. A dead connection then ends without a Close frame, which
        would end the session if the remote peer is alive."""
        self._acknowledged = False
        self._ignores_pongs = False
        """Whether pongs are not read. Then pings have no payload, and no response is expected."""

    def start(self) -> None:
        """Send pings from now on, unless ``ping_interval`` is None. Calling `start` again has no effect."""
        if self._tick is not None and self._timer is None:
            self._sent_at = self._loop.time()
            self._timer = self._loop.call_at(self._on_grid(self._sent_at + self._tick), self._beat)

    def _on_grid(self, when: float) -> float:
        """Return a time shortly before ``when`` at which other connections of the event loop send their pings, too.

        Then thousands of connections need few turns of the event loop, which would take a fifth of the time of a ping.
        """
        return when - when % self._step if when < math.inf else when

    def read_pongs(self, read: bool) -> None:
        """Expect responses to pings from now on, or expect none, because nothing is read. Start sending pings.

        Pings without responses still show that a connection has dropped, because the system cannot send them.
        """
        if self._ignores_pongs is read:
            self._ignores_pongs = not read
            self.stop()
        self.start()

    def session_survives(self) -> None:
        """Record that the session resumes on another connection if this connection is dead."""
        self._survives = True

    def ping_sooner(self, waits: Callable[[], bool]) -> None:
        """Shorten both times while ``waits()`` is true, and the session survives. Called before `start`."""
        self._waits = waits
        if self._interval is not None and self._timeout is not None:
            self._tick = sooner(self._interval)

    def acknowledged(self) -> None:
        """Restart the time for the response to the latest ping, because the remote peer has acknowledged messages."""
        self._acknowledged = True
        if self._ping is not None:
            self._ping.since = self._loop.time()

    def pop_acknowledged(self) -> bool:
        """Return whether `acknowledged` was called since the last call of this method, or since `stop`."""
        acknowledged, self._acknowledged = self._acknowledged, False
        return acknowledged

    def stop(self) -> None:
        """Send no more pings, and do not wait for the response to the last ping. Calling `stop` again has no effect."""
        self._ping = None
        self._acknowledged = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pong(self, payload: bytes) -> bool:
        """Handle a pong. Return False if it is not the response to the latest ping; such a pong has no effect."""
        ping = self._ping
        if ping is None or payload != ping.payload:
            return False
        self._arrived = ping.written
        self._round_trip = self._loop.time() - self._sent_at
        if ping.is_for_next:
            self._ping = None
            return True
        self.stop()
        assert self._tick is not None
        due = max(self._sent_at + self._tick, self._loop.time())
        self._timer = self._loop.call_at(self._on_grid(due), self._beat)
        return True

    def _beat(self) -> None:
        assert self._interval is not None and self._tick is not None
        now = self._loop.time()
        if (
            self._tick < self._interval
            and now + self._tick / 2 < self._sent_at + self._interval
            and not self._is_awaited()
        ):
            self._timer = self._loop.call_at(self._on_grid(now + self._tick), self._beat)
            return
        if self._timeout is None or self._ignores_pongs:  # only so that a NAT keeps its entry for the connection
            self._timer = self._loop.call_at(self._on_grid(now + self._interval), self._beat)
            self._output.send_ping(b"")
            return
        payload = os.urandom(8)  # so that only a peer that has read the ping can respond
        self._sent_at = now
        all_arrived = self._output.written == self._arrived
        self._output.send_ping(payload)
        # Asking the system would take a tenth of the time of a ping.
        backlog = 0 if all_arrived else self._output.backlog()
        ping = self._ping = Ping(payload, self._output, self._incoming, now, backlog)
        if ping.behind or self._interval >= self._timeout:
            self._watch_later(ping, now)
        else:  # the response has nearly always arrived by then, so one timer for each ping is enough
            ping.is_for_next = True
            self._timer = self._loop.call_at(self._on_grid(now + self._tick), self._interval_over)

    def _interval_over(self) -> None:
        if self._ping is None:
            self._beat()
        else:
            self._ping.is_for_next = False
            self._watch()

    def _is_awaited(self) -> bool:
        return self._survives and self._waits is not None and self._waits()

    def _due(self, ping: Ping) -> float:
        """Return when the connection is dropped, unless something shows that it works."""
        assert self._timeout is not None
        if not self._is_awaited():
            return ping.since + self._timeout
        patience = max(sooner(self._timeout), 4 * self._round_trip)
        return min(ping.since + self._timeout, max(ping.since, ping.last_byte_at) + patience)

    def _watch_later(self, ping: Ping, now: float) -> None:
        assert self._timeout is not None
        due, soon = self._due(ping), now + closely(self._timeout)
        self._timer = self._loop.call_at(min(due, soon) if now < due else soon, self._watch)

    def _watch(self) -> None:
        ping = self._ping
        assert ping is not None
        now, was_behind = self._loop.time(), ping.behind
        ping.update(now)
        due = self._due(ping)
        # The response may be late because of bytes that were written after the ping: wait until these leave.
        if now < due or (ping.behind and not was_behind):
            self._watch_later(ping, now)
        else:
            self.stop()
            code = CloseCode.ABNORMAL if self._survives else CloseCode.INTERNAL_ERROR
            self._output.drop(code, f"no response to a ping within {due - ping.since:g} s")


class StallWatch:
    """Drops a connection if its unsent bytes exceed the high-water mark and none of them are sent for too long.

    The maximum time is `Limits.stall_timeout` seconds, or the time in which a heartbeat detects a dead connection if
    that is shorter.
    """

    __slots__ = ("_limit", "_loop", "_output", "_progress", "_timer")

    def __init__(self, output: WatchedOutput, loop: Timers, limits: Limits) -> None:
        self._output = output
        self._loop = loop
        self._limit = limits.stall_timeout
        if limits.ping_interval is not None and limits.ping_timeout is not None:
            self._limit = min(self._limit, limits.ping_interval + limits.ping_timeout)
        self._progress: Progress | None = None
        self._timer: Timer | None = None

    def start(self) -> None:
        """Start watching, because the unsent bytes exceed the high-water mark."""
        now = self._loop.time()
        self._progress = Progress(self._output, now, self._output.backlog())
        self._timer = self._loop.call_at(now + closely(self._limit), self._watch)

    def stop(self) -> None:
        """Stop watching, because there is room again or the connection has ended.

        Calling `stop` again has no effect.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        progress = self._progress
        assert progress is not None
        now = self._loop.time()
        progress.update(now)
        due = progress.since + self._limit
        if now < due:
            self._timer = self._loop.call_at(min(due, now + closely(self._limit)), self._watch)
        else:
            self._output.drop(CloseCode.ABNORMAL, f"nothing could be written for {self._limit:g} s")


def sooner(seconds: float) -> float:
    """Return a quarter of a time, but not less than `SHORTEST_PING_TIME` seconds, if the time is longer."""
    return min(seconds, max(seconds / 4, SHORTEST_PING_TIME))


def closely(limit: float) -> float:
    """Return the seconds between two checks of a backlog that may make no progress for ``limit`` seconds."""
    return min(LONGEST_CHECK_INTERVAL, limit / 8)
