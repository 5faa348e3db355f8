"""Counts the handlers that run in tasks, with what their messages take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import UNSET

from .._channels.core import TOO_MANY, ChannelCore
from .._handlers.invocation import Invocation
from .._handlers.lifecycle import Closers
from ..errors import RemoteError, made_here
from ..limits import Limits

__all__ = ["RunningHandlers"]


class RunningHandlers:
    """Handlers that run in tasks, with the counts that `Limits.running` and `Limits.running_bytes` bound.

    A handler counts until it exits, cancelled or not. Streams and conversations may stay open for long, so no message
    waits until they end: their bytes are counted separately, and a call that would make them too many is refused.
    """

    __slots__ = (
        "calls",
        "count",
        "held",
        "held_by_channels",
        "limit",
        "most_held",
        "on_channels",
        "room_for_any",
        "then",
    )

    def __init__(self, limits: Limits) -> None:
        # A dict and not a set, here and elsewhere, because an empty one is a third of the size, and peers are many.
        self.calls: dict[Invocation, None] = {}
        self.count = 0
        """Handlers that run, besides those whose request was answered with a channel that is open."""
        self.held = 0
        """Bytes of the messages that called these handlers."""
        self.held_by_channels = 0
        """Bytes of the messages that opened the channels which are open."""
        self.then: Callable[[], None] | None = None
        """Is called once the events before the end of the session are handled."""
        self.on_channels = 0
        """Handlers of requests that came on anonymous channels."""
        self.limit = limits.running
        self.most_held = limits.running_bytes
        self.room_for_any = max(0, limits.running_bytes - limits.message)
        """While no more bytes are held, there is room for any message."""

    def add(self, call: Invocation) -> None:
        """Count a handler that goes on in a task."""
        call.counted = True
        message = call.inbound
        if message.i is not UNSET:
            call.session.active[message.i] = call
            if message.h is not None:
                self.on_channels += 1
        self.calls[call] = None
        self.count += 1
        if call.bytes_on_channel:
            self.held_by_channels += call.size
        else:
            self.held += call.size

    def remove(self, call: Invocation) -> None:
        """Count a handler no more, because it has exited."""
        self.calls.pop(call, None)
        if call.bytes_on_channel:
            self.held_by_channels -= call.size
        else:
            self.held -= call.size
        if not call.counts_as_channel:
            self.count -= 1
        message, active = call.inbound, call.session.active
        if message.i is not UNSET:
            if message.h is not None:
                self.on_channels -= 1
            if active.get(message.i) is call:  # as `Invocation.settle`, one call less
                del active[message.i]

    def after_events(self, then: Callable[[], None] | None, others_wait: bool) -> None:
        """Call ``then`` once every event that has arrived has started, and those that run in order have ended.

        A function that still waits for that is called now. ``others_wait``: messages wait for a place.
        """
        earlier, self.then = self.then, then
        if earlier is not None:
            earlier()
        self.look_for_events(others_wait)

    def look_for_events(self, others_wait: bool) -> None:
        """Call the function of `after_events` if its time has come."""
        if not others_wait and not any(map(_goes_before_close, self.calls)):
            then, self.then = self.then, None
            if then is not None:
                then()

    def count_as_channel(self, call: Invocation) -> None:
        """Count a call as a channel: its request has been answered with one."""
        call.counts_as_channel = True
        self.count -= 1
        if not call.bytes_on_channel:
            call.bytes_on_channel = True
            self.held -= call.size
            self.held_by_channels += call.size

    def count_as_handler(self, call: Invocation) -> None:
        """Count a call as a handler again: its channel is over, and it still runs."""
        call.counts_as_channel = call.bytes_on_channel = False
        self.count += 1
        self.held += call.size
        self.held_by_channels -= call.size

    def too_large_for_channel(self, size: int) -> str | None:
        """Return why a message of ``size`` bytes may not open a channel. None if it may."""
        if self.held_by_channels == 0 or self.held_by_channels + size <= self.most_held:
            return None
        return (
            f"the messages that opened channels which are still open take {self.held_by_channels} bytes, "
            f"{self.most_held} may be taken (Limits.running_bytes), close some"
        )

    def check_room_for_channel(self, call: Invocation) -> None:
        """Check that the request of a call may be answered with a channel, as far as bytes matter.

        For a handler that is known to open a channel this was checked, and the bytes counted, before it ran.

        Raises:
            RemoteError: it may not. The error does not say that the handler did not run.
        """
        if not call.bytes_on_channel and (why := self.too_large_for_channel(call.size)) is not None:
            raise made_here(RemoteError(why, TOO_MANY))

    def tasks(self, closers: Closers | None = None) -> set[asyncio.Task[None]]:
        """Return the tasks in which handlers run, besides those of ``closers``.

        The task of a call that was cancelled may be over while its thread goes on, which nothing can stop.
        """
        return {
            call.task
            for call in self.calls
            if call.task is not None
            and not call.task.done()
            and (closers is None or not closers.cover(call.task, call))
        }

    @property
    def threads_left(self) -> int:
        """Number of cancelled calls whose thread goes on."""
        return sum(call.task is not None and call.task.done() for call in self.calls)

    def channels(self, closers: Closers) -> set[ChannelCore]:
        """Return the anonymous channels on which handlers of ``closers`` run."""
        calls = (call for call in self.calls if call.task is not None and closers.cover(call.task, call))
        return {call.served for call in calls if call.served is not None}

    def is_awaited(self, ctx: Invocation | None) -> bool:
        """Whether ``ctx`` is that of a handler which runs here and for which the remote peer waits."""
        return (
            ctx is not None
            and ctx.id is not None
            and ctx in self.calls
            and not ctx.cancelled
            and (ctx.served is None or not ctx.served.closed)
        )


def _goes_before_close(call: Invocation) -> bool:
    """Return whether an event's handler has not started, or runs in order, so that others may wait behind it."""
    return call.id is None and (not call.started or (call.handler is not None and call.handler.lane is not None))
