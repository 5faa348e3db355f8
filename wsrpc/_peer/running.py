"""The handlers of one peer that run in tasks, and the messages that wait, undecoded and in order, until theirs may."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import IntEnum
from weakref import WeakKeyDictionary

from msgspec import UNSET, Struct

from .._base.buckets import TokenBucket
from .._base.queues import BoundedQueue
from .._channels.core import ChannelCore
from .._channels.table import TOO_MANY
from .._handlers.invocation import Cancelled, ChannelPhase, Invocation
from .._handlers.lifecycle import Closers
from .._handlers.observation import Message, mark_processed
from .._protocol.messages import WireMessage
from ..errors import RemoteError, made_here
from ..limits import Limits


class Kind(IntEnum):
    """The kind of a message, on which it depends whether `open` handlers hold it back."""

    ON_CHANNEL = 0
    """An event or request on an anonymous channel."""
    REQUEST = 1
    EVENT = 2


class Hold(IntEnum):
    """The messages that wait while `open` handlers run: those of this `Kind` and of the kinds that follow it."""

    ALL = Kind.REQUEST
    """All but those on anonymous channels: an `open` handler may have opened the channel and wait for them."""
    EVENTS = Kind.EVENT
    NONE = Kind.EVENT + 1


Dispatch = Callable[[WireMessage, bytes | bytearray, Message | None, ChannelCore | None], None]
"""Runs the handler of a message now."""


class ReceivedMessage(Struct, eq=False):
    """One message that waits. ``decode`` decodes the payload once more."""

    kind: Kind
    payload: bytes
    id: int | None
    """None for an event."""
    view: Message | None
    decode: Callable[[bytes | bytearray], WireMessage]
    dispatch: Dispatch
    """Runs its handler, in the session in which it came. That may be over by then."""
    channel: ChannelCore | None = None
    """The anonymous channel that it came on."""
    is_read: bool = False
    """Whether a reader has got it, so that it waits only for its handler."""

    @property
    def too_late(self) -> bool:
        """Whether its channel has ended and it is not to be handled. Events outlive an end by the remote peer."""
        channel = self.channel
        return channel is not None and (channel.ended_here if self.id is None else channel.closed)

    def mark_processed(self) -> None:
        """Tell those that observe messages that nothing more happens to it."""
        mark_processed(self.view)


def _size(entry: ReceivedMessage) -> int:
    return len(entry.payload)


class WaitingRoom(BoundedQueue[ReceivedMessage]):
    """Queue of the messages that wait for their handlers, bounded by `Limits.waiting` and `Limits.waiting_bytes`.

    The key of a request is its id, by which it can be taken out when it is cancelled.
    """

    __slots__ = ("_kinds",)

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        super().__init__(_size, max_bytes, max_messages)
        self._kinds: dict[Kind, OrderedDict[int, None]] = {}
        """The tickets of each kind, in order. There are no empty ones."""

    def admit(self, entry: ReceivedMessage) -> bool:
        """Let a message wait. Return False if it does not fit."""
        if not self.fits(len(entry.payload)):
            return False
        ticket = self.put(entry, entry.id)
        self._kinds.setdefault(entry.kind, OrderedDict())[ticket] = None
        return True

    def oldest(self, holding: Hold = Hold.NONE) -> tuple[int, ReceivedMessage] | None:
        """Return the oldest message that is not held back, with its ticket. None if there is no such message."""
        found = min((next(iter(tickets)) for kind, tickets in self._kinds.items() if kind < holding), default=None)
        return None if found is None else (found, self.items[found])

    def events(self) -> list[tuple[int, ReceivedMessage]]:
        """Return the events on the main channel and on named ones, with their tickets."""
        return [(ticket, self.items[ticket]) for ticket in self._kinds.get(Kind.EVENT, ())]

    def take(self, ticket: int) -> ReceivedMessage:
        """Take out a message that waits."""
        entry = super().take(ticket)
        tickets = self._kinds[entry.kind]
        del tickets[ticket]
        if not tickets:
            del self._kinds[entry.kind]
        return entry

    def take_requests(self) -> list[ReceivedMessage]:
        """Take all requests out. Events stay."""
        tickets = [ticket for ticket, entry in self.items.items() if entry.id is not None]
        return [self.take(ticket) for ticket in tickets]


NOTHING_WAITS = WaitingRoom(0, 0)
"""The queue of the peers for which no message has waited yet. Nothing fits into it."""


# Constants, because Python 3.11 looks members of an enum up slowly, and handlers that wait ask for these.
_RESERVED, _OPEN = ChannelPhase.RESERVED, ChannelPhase.OPEN


class RunningHandlers:
    """Handlers that run in tasks, with the counts that `Limits.running` and `Limits.running_bytes` bound.

    Events are handled although their session has ended. So the counts go on from one session to the next, and so do the
    messages that wait.

    A handler counts until it exits, cancelled or not. Streams and conversations may stay open for long, so no message
    waits until they end: their bytes are counted separately, and a call that would make them too many is refused.
    """

    __slots__ = (
        "_lanes",
        "beginning",
        "bucket",
        "count",
        "held",
        "held_by_channels",
        "invocations",
        "limit",
        "limits",
        "measured",
        "most_held",
        "not_begun",
        "noted_unknown",
        "on_channels",
        "room_for_any",
        "then",
        "waiting_room",
    )

    def __init__(self, limits: Limits) -> None:
        # A dict and not a set, here and elsewhere, because an empty one is a third of the size, and peers are many.
        self.invocations: dict[Invocation, None] = {}
        """Calls of handlers that are counted: until each has exited."""
        self.count = 0
        """Handlers that run, besides those whose request was answered with a channel that is open."""
        self.held = 0
        """Bytes of the messages that called these handlers."""
        self.held_by_channels = 0
        """Bytes of the messages that opened the channels which are open."""
        self.measured: int | None = None
        """What `memory` returns next. None if it has to be measured."""
        self.then: Callable[[], None] | None = None
        """Is called once the events before the end of the session are handled."""
        self.on_channels = 0
        """Handlers of requests that came on anonymous channels."""
        self.beginning: Invocation | None = None
        """The handler that takes the first step of its task, and is not counted yet."""
        self.not_begun = 0
        """Tasks that have not begun, and one more for each call of `run_in_tasks`. Unless it is 0, plain functions run
        in tasks, too, so that they stay in order."""
        self.waiting_room = NOTHING_WAITS
        """The messages that wait. Peers share an empty queue until their first message waits."""
        self.bucket = None if limits.rate is None else TokenBucket(limits.rate, limits.rate)
        """Keeps the remote peer within `Limits.rate`."""
        self.noted_unknown = False
        """The log tells of a request without a handler."""
        # A lane ends with its handler or channel. The dictionary takes a kilobyte, and few peers need it.
        self._lanes: WeakKeyDictionary[object, asyncio.Lock] | None = None
        self.limits = limits
        self.limit = limits.running
        self.most_held = limits.running_bytes
        self.room_for_any = max(0, limits.running_bytes - limits.message)
        """While no more bytes are held, there is room for any message."""

    @property
    def active(self) -> int:
        """Number of handlers that run, the one that takes its first step included."""
        first = self.beginning
        return len(self.invocations) + (first is not None and first not in self.invocations)

    def memory(self) -> int:
        """Return the bytes that handlers take, with their decoded messages. Each is measured once.

        Those that nobody waits for any more are about to exit, or cannot be made to, and do not count.
        """
        if self.measured is None:
            self.measured = sum(each.memory for each in self.invocations if each.cancelled is not Cancelled.ORPHANED)
        return self.measured

    def lane(self, key: Hashable) -> asyncio.Lock:
        """Return the lock of the handlers that run one after another."""
        if self._lanes is None:
            self._lanes = WeakKeyDictionary()
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = asyncio.Lock()
        return lane

    def let_wait(self, entry: ReceivedMessage) -> bool:
        """Let a message wait. Return False if it does not fit."""
        if self.waiting_room is NOTHING_WAITS:
            self.waiting_room = WaitingRoom(self.limits.waiting, self.limits.waiting_bytes)
        return self.waiting_room.admit(entry)

    def run_in_tasks(self, always: bool) -> None:
        """Run plain functions in tasks, too, so that ``invocations`` has each handler that runs; or stop doing so."""
        # A task that never begins is counted, as if plain functions had to stay behind it. So `Dispatcher.run` needs no
        # other test for each message.
        self.not_begun += 1 if always else -1

    def add(self, invocation: Invocation) -> None:
        """Count a handler that goes on in a task."""
        message = invocation.inbound
        if message.i is not UNSET:
            invocation.runner.active[message.i] = invocation
            if message.h is not None:
                self.on_channels += 1
        self.invocations[invocation] = None
        self.count += 1
        if self.measured is not None:
            self.measured += invocation.memory
        if invocation.channel_phase is _RESERVED:
            self.held_by_channels += invocation.size
        else:
            self.held += invocation.size

    def remove(self, invocation: Invocation) -> None:
        """Count a handler no more, because it has exited."""
        del self.invocations[invocation]
        if self.measured is not None:
            self.measured = None if invocation.cancelled else self.measured - invocation.memory
        phase = invocation.channel_phase
        if phase is _RESERVED or phase is _OPEN:
            self.held_by_channels -= invocation.size
        else:
            self.held -= invocation.size
        if phase is not _OPEN:
            self.count -= 1
        if invocation.inbound.i is not UNSET:
            if invocation.inbound.h is not None:
                self.on_channels -= 1
            invocation.settle()

    def after_events(self, then: Callable[[], None] | None) -> None:
        """Call ``then`` once every event that has arrived has started, and those that run in order have ended.

        A function that still waits for that is called now.
        """
        first = self.beginning
        if first is not None and first not in self.invocations:
            self.add(first)  # its first step has ended the connection
        earlier, self.then = self.then, then
        if earlier is not None:
            earlier()
        self.look_for_events()

    def look_for_events(self) -> None:
        """Call the function of `after_events` if its time has come."""
        if not self.waiting_room.items and not any(map(_goes_before_close, self.invocations)):
            then, self.then = self.then, None
            if then is not None:
                then()

    def count_as_channel(self, invocation: Invocation) -> None:
        """Count a handler as a channel: its request has been answered with one."""
        if invocation.channel_phase is not _RESERVED:
            self.held -= invocation.size
            self.held_by_channels += invocation.size
        invocation.channel_phase = _OPEN
        self.count -= 1

    def count_as_handler(self, invocation: Invocation) -> None:
        """Count a handler as such again: its channel is over, and it still runs."""
        invocation.channel_phase = ChannelPhase.OVER
        self.count += 1
        self.held += invocation.size
        self.held_by_channels -= invocation.size

    def check_bytes_for_channel(self, size: int) -> None:
        """Check that a message of ``size`` bytes may open a channel, besides those which are open.

        Raises:
            RemoteError: it may not. The error does not say that the handler did not run.
        """
        if self.held_by_channels and self.held_by_channels + size > self.most_held:
            why = (
                f"the messages that opened channels which are still open take {self.held_by_channels} bytes, "
                f"{self.most_held} may be taken (Limits.running_bytes), close some"
            )
            raise made_here(RemoteError(why, TOO_MANY))

    def end_conversations(self) -> None:
        """Cancel the bodies of conversations that are over, even if they have not read the messages before the end."""
        for invocation in list(self.invocations):
            if invocation.served is not None and invocation.served.closed:
                invocation.served.notice_end()

    def tasks(self, closers: Closers | None = None) -> set[asyncio.Task[None]]:
        """Return the tasks in which handlers run, besides those of ``closers`` and those behind them in their lanes.

        The task of a call that was cancelled may be over while its thread goes on, which nothing can stop.
        """
        running = {each.task: each for each in self.invocations if each.task is not None and not each.task.done()}
        if closers is None:
            return {*running}
        closing = {task: each.lane for task, each in running.items() if closers.cover(task, each)}
        lanes = {*closing.values()} - {None}
        return {task for task, each in running.items() if task not in closing and each.lane not in lanes}

    @property
    def threads_left(self) -> int:
        """Number of cancelled calls whose thread goes on."""
        return sum(each.task is not None and each.task.done() for each in self.invocations)

    def channels(self, closers: Closers) -> set[ChannelCore]:
        """Return the anonymous channels on which handlers of ``closers`` run."""
        closing = (each for each in self.invocations if each.task is not None and closers.cover(each.task, each))
        return {each.served for each in closing if each.served is not None}

    def is_awaited(self, invocation: Invocation | None) -> bool:
        """Return whether ``invocation`` is a request that is being handled here, and the remote peer waits for it."""
        if invocation is None or invocation.id is None:
            return False
        if invocation is self.beginning:
            return True
        return (
            invocation in self.invocations
            and not invocation.cancelled
            and (invocation.served is None or not invocation.served.closed)
        )


def _goes_before_close(invocation: Invocation) -> bool:
    """Return whether an event's handler has not started, or runs in order, so that others may wait behind it."""
    handler = invocation.handler
    return invocation.id is None and (not invocation.begun or (handler is not None and handler.lane is not None))
