"""`ActiveCalls`: all calls of handlers of a peer, counted against its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary

from msgspec import UNSET

from ..._base.buckets import TokenBucket, bucket_of
from ...errors import RemoteError, made_here
from ...limits import Limits, Rate
from ..channels.channel_core import ChannelCore
from ..channels.channel_table import TOO_MANY
from ..handlers.compiled import Handler
from ..handlers.invocation import EXITED, CallState, Invocation
from ..handlers.lifecycle import Closers

_ORPHANED = CallState.ORPHANED


class ActiveCalls:
    """All calls of handlers of a peer, from one session to the next, counted against `Limits.running` and its bytes.

    A handler counts until it exits, even if it was cancelled or its session is over. Streams and conversations may stay
    open for long, so no message waits for their end. They do not count as handlers, their bytes are counted separately,
    and a call that would exceed the limit is refused. `CallState` says what a call counts as.

    Each change of a count is reported to the `Admission` of the peer, which the dispatcher of the call has.
    """

    __slots__ = (
        "_lanes",
        "_limits",
        "_measured",
        "buckets",
        "bytes",
        "channel_bytes",
        "count",
        "invocations",
        "on_channels",
        "room_for_any",
        "starting",
        "tasks_not_started",
        "totals",
        "unawaited",
        "unawaited_bytes",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # A dict and not a set, here and elsewhere, because an empty dict is a third of the size. There are many peers.
        self.invocations: dict[Invocation, None] = {}
        """Calls of handlers that are counted, until each of them has exited."""
        self.count = 0
        """Number of the calls that count as handlers."""
        self.totals: tuple[Any, ...] = ()
        """Objects whose ``count`` is the number of such calls of several peers. The first has their ``buckets``."""
        self.buckets: WeakKeyDictionary[Handler, TokenBucket] | None = None
        """Of the handlers with ``rate=`` that were called, unless ``totals`` have them."""
        self.bytes = 0
        """Bytes of the messages of calls whose bytes count as those of handlers."""
        self.unawaited = 0
        """Number of those of them that the remote peer does not wait for any more."""
        self.unawaited_bytes = 0
        """The same of ``bytes``."""
        self.channel_bytes = 0
        """Bytes of the messages of calls whose bytes count as those of open channels."""
        self._measured: int | None = None
        """Bytes of handlers, with their messages. None if the bytes have to be measured."""
        self.on_channels = 0
        """Number of handlers of requests that arrived on anonymous channels."""
        self.starting: Invocation | None = None
        """The call that runs the first step of its task, and is not counted yet."""
        self.tasks_not_started = 0
        """Number of tasks whose first step has not run. Until it has, plain functions also run in tasks, in order."""
        # A lane ends with its handler or channel. The dictionary takes a kilobyte, and few peers need it.
        self._lanes: WeakKeyDictionary[object, asyncio.Lock] | None = None
        self.room_for_any = max(0, limits.running_bytes - limits.message_bytes)
        """While ``bytes`` is not greater, there is room for any message."""

    def __repr__(self) -> str:
        return f"<ActiveCalls {self.count} handlers>"

    @property
    def running(self) -> int:
        """Number of handlers that run, including one that runs its first step."""
        first = self.starting
        return len(self.invocations) + (first is not None and first not in self.invocations)

    def memory(self) -> int:
        """Return about how many bytes handlers take, with their decoded messages. Each handler is measured once.

        Orphaned handlers do not count: they are about to exit, or cannot be stopped.
        """
        if self._measured is None:
            self._measured = sum(each.memory for each in self.invocations if each.state is not _ORPHANED)
        return self._measured

    def stop_measuring(self) -> None:
        """Measure no more handlers until `memory` is called again."""
        self._measured = None

    def has_room(self, size: int) -> bool:
        """Return whether a handler may start for a message of ``size`` bytes."""
        most = self._limits.running_bytes
        return self.count < self._limits.running and (self.bytes == 0 or self.bytes + size <= most)

    def lane(self, key: Hashable) -> asyncio.Lock:
        """Return the lock of the handlers that run one after another."""
        if self._lanes is None:
            self._lanes = WeakKeyDictionary()
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = asyncio.Lock()
        return lane

    def bucket(self, handler: Handler, rate: Rate) -> TokenBucket:
        """Return what counts the calls of a handler with ``rate=``."""
        return bucket_in(self.totals[0] if self.totals else self, handler, rate)

    def add(self, invocation: Invocation) -> None:
        """Count a handler that runs on in a task, unless it is counted already."""
        if invocation in self.invocations:
            return
        self.invocations[invocation] = None
        self._count(invocation, 1)
        message = invocation.inbound
        if message.i is not UNSET:
            invocation.dispatcher.active[message.i] = invocation
            if message.h is not None:
                self.on_channels += 1
        if self.count >= self._limits.running or self.bytes > self.room_for_any:
            invocation.dispatcher.admission.update()

    def _count(self, invocation: Invocation, sign: int) -> None:
        """Count a call by its present state. With ``sign`` -1, undo this."""
        state, size = invocation.state, sign * invocation.size
        if state.counts_as == "handler":
            self.count += sign
            if not state.awaited:
                self.unawaited += sign
                self.unawaited_bytes += size
            for total in self.totals:
                total.count += sign
        if state.bytes_of == "handler":
            self.bytes += size
        else:
            self.channel_bytes += size
        if self._measured is not None and state is not _ORPHANED:
            self._measured += sign * invocation.memory

    def move(self, invocation: Invocation, state: CallState) -> None:
        """Change the state of a call to a later one, or to the same, and count the call by its new state."""
        assert state.order >= invocation.state.order, f"{invocation.state} came before {state}"
        counted = invocation in self.invocations
        if counted:
            self._count(invocation, -1)
        invocation.state = state
        if counted:
            self._count(invocation, 1)
            invocation.dispatcher.admission.call_moved(state)

    def remove(self, invocation: Invocation) -> None:
        """Stop counting a handler that has exited, and start messages that waited for room."""
        if invocation not in self.invocations:  # it exited in the first step of its task
            invocation.state = EXITED
            return
        del self.invocations[invocation]
        self._count(invocation, -1)
        invocation.state = EXITED
        dispatcher, message = invocation.dispatcher, invocation.inbound
        if message.i is not UNSET:
            if message.h is not None:
                self.on_channels -= 1
            if dispatcher.active.get(message.i) is invocation:  # as `remove_from_active`, without a call
                del dispatcher.active[message.i]
        admission = dispatcher.admission
        if admission.needs_checks:
            admission.start_waiting()
        if admission.on_events_done is not None:
            admission.notify_if_events_done()

    def check_bytes_for_channel(self, size: int) -> None:
        """Check that a message of ``size`` bytes may open one more channel.

        Raises:
            RemoteError: there is no room. The error does not say that the handler did not run.
        """
        most = self._limits.running_bytes
        if self.channel_bytes and self.channel_bytes + size > most:
            why = (
                f"the messages that opened channels which are still open take {self.channel_bytes} bytes, "
                f"{most} may be taken (Limits.running_bytes), close some"
            )
            raise made_here(RemoteError(why, TOO_MANY))

    def end_conversations(self) -> None:
        """Cancel conversations whose channels have ended, even if they have not read all messages."""
        for invocation in list(self.invocations):
            if invocation.delivered_channel is not None and invocation.delivered_channel.over:
                invocation.delivered_channel.mailbox.call_when_read()

    def tasks(self, closers: Closers | None = None) -> set[asyncio.Task[None]]:
        """Return the tasks in which handlers run, except those of ``closers`` and those that wait behind them in lanes.

        The task of a cancelled call may have ended while its thread runs on, because a thread cannot be stopped.
        """
        running = {each.task: each for each in self.invocations if each.task is not None and not each.task.done()}
        if closers is None:
            return {*running}
        closing = {task: each.lane for task, each in running.items() if closers.cover(task, each)}
        lanes = {*closing.values()} - {None}
        return {task for task, each in running.items() if task not in closing and each.lane not in lanes}

    @property
    def threads_running(self) -> int:
        """Number of cancelled calls whose thread still runs."""
        return sum(each.task is not None and each.task.done() for each in self.invocations)

    def channels(self, closers: Closers) -> set[ChannelCore]:
        """Return the anonymous channels on which handlers of ``closers`` run."""
        closing = (each for each in self.invocations if each.task is not None and closers.cover(each.task, each))
        return {each.delivered_channel for each in closing if each.delivered_channel is not None}


def bucket_in(owner: Any, handler: Handler, rate: Rate) -> TokenBucket:
    """Return what counts the calls of a handler in ``owner.buckets``. Make it for the first call."""
    if owner.buckets is None:
        owner.buckets = WeakKeyDictionary[Handler, TokenBucket]()
    bucket: TokenBucket | None = owner.buckets.get(handler)
    if bucket is None:
        owner.buckets[handler] = bucket = bucket_of(rate)
    return bucket
