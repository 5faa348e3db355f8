"""`Work`: all calls of handlers of a peer, and the messages that wait for handlers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from msgspec import UNSET

from ..._base.buckets import TokenBucket
from ..._base.closing import CloseCode
from ..._base.names import STREAM_EVENTS, ChannelRef
from ...errors import BadArguments, Draining, Overloaded, RemoteError, made_here
from ..channels.channel_core import ChannelCore
from ..channels.channel_table import TOO_MANY
from ..channels.named_channels import NamedChannels
from ..handlers.invocation import EXITED, CallState, Invocation
from ..handlers.lifecycle import Closers
from ..handlers.observation import Message, mark_processed
from ..handlers.opening import OpeningState
from ..inboxes.inbox import Inbox
from ..inboxes.recipients import Decode, Recipient
from ..session.peer_host import PeerHost
from ..session.session import BYTES_PER_MESSAGE
from ..wire.call_context import read_call_context
from ..wire.counting import decode_any
from ..wire.messages import WireMessage, aging, place_on
from .admission import WAITING, MessageKind
from .waiting_room import NOTHING_WAITS, WaitingMessage, WaitingRoom

if TYPE_CHECKING:
    from .dispatcher import Dispatcher

# Constants, because Python 3.11 looks members of an enum up slowly, and these are asked for with each message.
_ON_CHANNEL, _REQUEST, _EVENT = MessageKind
_OPENED = OpeningState.DONE
_ORPHANED = CallState.ORPHANED


class Work:
    """All calls of handlers of a peer, and the messages that wait for handlers, from one session to the next.

    A message is handled now, waits, or is refused. The limits are `Limits.running`, `running_bytes`, `waiting`,
    `waiting_bytes` and `rate`. Messages of one kind are handled in order. Handlers of events run on after the end of
    their session, and events that wait are still handled. All counts therefore continue, too. A `Dispatcher` has the
    state that ends with a session.

    A handler counts until it exits, even if it was cancelled. Streams and conversations may stay open for long, so no
    message waits for their end. They do not count as handlers, their bytes are counted separately, and a call that
    would exceed the limit is refused. `CallState` says what a call counts as.

    While ``needs_checks`` is false, there is nothing to check and there are no readers: a message may go straight to
    `Dispatcher.run`, unless it has the id of a request in `Dispatcher.active`.
    """

    __slots__ = (
        "_bucket",
        "_lanes",
        "_loop",
        "_measured",
        "_pumping",
        "_room_for_any",
        "count",
        "dispatcher",
        "held",
        "held_by_channels",
        "invocations",
        "limits",
        "named_channels",
        "needs_checks",
        "on_channels",
        "on_events_done",
        "on_position",
        "starting",
        "tasks_not_started",
        "unknown_logged",
        "waiting_room",
    )

    def __init__(self, host: PeerHost, named_channels: NamedChannels) -> None:
        self.limits = limits = host.settings.limits
        self._loop = host.loop
        self.named_channels = named_channels
        self.dispatcher: Dispatcher
        """The dispatcher of the current session, see `PeerHost.current`."""
        self.needs_checks = True
        # A dict and not a set, here and elsewhere, because an empty dict is a third of the size. There are many peers.
        self.invocations: dict[Invocation, None] = {}
        """Calls of handlers that are counted, until each of them has exited."""
        self.count = 0
        """Number of the calls that count as handlers."""
        self.held = 0
        """Bytes of the messages of calls whose bytes count as those of handlers."""
        self.held_by_channels = 0
        """Bytes of the messages of calls whose bytes count as those of open channels."""
        self._measured: int | None = None
        """Bytes of handlers, with their messages. None if the bytes have to be measured."""
        self.on_channels = 0
        """Number of handlers of requests that arrived on anonymous channels."""
        self.starting: Invocation | None = None
        """The call that runs the first step of its task, and is not counted yet."""
        self.tasks_not_started = 0
        """Number of tasks whose first step has not run. Until it has, plain functions also run in tasks, in order."""
        self.on_events_done: Callable[[], None] | None = None
        """Is called when the events that arrived before the end of the session are handled."""
        self.on_position: Callable[[str, str], None] | None = None
        """Is called when an event of a room with a log arrives, with the name of the room and the position."""
        self.waiting_room = NOTHING_WAITS
        """The messages that wait. Peers share an empty queue until their first message waits."""
        self._pumping = False
        self._bucket = None if limits.rate is None else TokenBucket(limits.rate, limits.rate)
        """Counts messages against `Limits.rate`."""
        self.unknown_logged = False
        """Whether a request without a handler was logged."""
        # A lane ends with its handler or channel. The dictionary takes a kilobyte, and few peers need it.
        self._lanes: WeakKeyDictionary[object, asyncio.Lock] | None = None
        self._room_for_any = max(0, limits.running_bytes - limits.message_bytes)
        """While ``held`` is not greater, there is room for any message."""

    def __repr__(self) -> str:
        return f"<Work {self.count} handlers, {len(self.waiting_room)} messages wait>"

    def set_dispatcher(self, dispatcher: Dispatcher) -> None:
        """Use the dispatcher of another session from now on."""
        self.dispatcher = dispatcher
        self.update()

    def update(self) -> None:
        """Compute ``needs_checks`` again, because something on which it depends has changed."""
        self.needs_checks = self.must_check()

    def must_check(self) -> bool:
        """Return whether the next message may have to be refused or to wait, or may be for readers."""
        dispatcher = self.dispatcher
        admission, writer = dispatcher.admission, dispatcher.writer
        return bool(
            self.named_channels.channels
            or self.waiting_room.items
            # The state is not `ReceivingState.OPEN`, without a call.
            or writer.session.full
            or admission.paused is not None
            or admission.late
            or writer.opening.state is not _OPENED
            or writer.draining.closes_at is not None
            or self.count >= self.limits.running
            or self.held > self._room_for_any
            or self._bucket is not None
            or self.on_position is not None
        )

    # ------------------------------------------------------------ one message

    def arrived(
        self,
        dispatcher: Dispatcher,
        message: WireMessage,
        payload: bytes | bytearray,
        view: Message | None,
        decode: Decode,
        channel: ChannelCore | None = None,
    ) -> None:
        """Handle an event or a request, let it wait, or refuse it.

        Args:
            dispatcher: the dispatcher of the session in which the message arrived.
            message: ``a`` is a non-empty list, and ``i`` is an id or absent.
            channel: the anonymous channel on which the message arrived.
        """
        i = message.i
        if message.ctx is not UNSET and self.on_position is not None:
            self._report_position(message, self.on_position)
        is_read = dispatcher.writer.opening.holds_back and self.named_channels.has_readers(message.c, message.a[0])
        if self._needs_no_handler(dispatcher, message, payload, decode, channel):
            mark_processed(view)
            return
        kind = _ON_CHANNEL if channel is not None else _EVENT if i is UNSET else _REQUEST
        if not self._must_wait(dispatcher, kind, len(payload)):
            dispatcher.run(message, payload, view, channel)
            return
        key = None if i is UNSET else i
        decode = aging(message, decode, self._loop.time)
        waiting = WaitingMessage(kind, _kept(payload, view), key, view, decode, dispatcher, channel, is_read)
        if self._add_waiting(waiting):
            self.update()
            return
        why = f"{len(self.waiting_room)} messages wait already"
        if i is UNSET:
            dispatcher.answers.host.count("event dropped, too many wait", f"an event was dropped: {why}")
        else:
            dispatcher.answers.reject(i, Overloaded(f"{why}, ask again later"))
        mark_processed(view)

    @staticmethod
    def _report_position(message: WireMessage, report: Callable[[str, str], None]) -> None:
        """Report the position of an event when it arrives, because the event may wait until after its session."""
        with suppress(BadArguments):  # the message is refused when it is handled
            context = read_call_context(message.ctx)
            if context.at is not UNSET and message.i is UNSET and message.h is None:
                report(*context.at)

    def _needs_no_handler(
        self,
        dispatcher: Dispatcher,
        message: WireMessage,
        payload: bytes | bytearray,
        decode: Decode,
        channel: ChannelCore | None,
    ) -> bool:
        """Return whether a message needs no handler: it was refused or dropped, or it was for readers."""
        i = message.i
        if i is not UNSET and dispatcher.knows(i):
            # A rejection would end the first request with this id, whose handler still runs.
            dispatcher.answers.ignored["duplicate id"] += 1
            return True
        if self._bucket is not None and self._counts(message, channel) and not self.within_rate(dispatcher, message):
            return True
        if self.named_channels.channels and channel is None and self.named_channels.pass_on(message, payload, decode):
            return True
        if i is not UNSET and message.h is None and dispatcher.refuses_new():
            dispatcher.answers.reject(
                i, Draining("closing, no new requests are taken: ask again on another connection")
            )
            return True
        if dispatcher.admission.paused is not None and dispatcher.writer.session.over:
            # The mailbox of a channel had kept it.
            dispatcher.answers.ignored["dropped at the end"] += 1
            return True
        return False

    def within_rate(self, dispatcher: Dispatcher, message: WireMessage) -> bool:
        """Count an event or a request against `Limits.rate`. If it exceeds the rate, refuse it and return False."""
        if self._bucket is None or self._bucket.spend(self._loop.time()):
            return True
        rate = f"more than {self.limits.rate} requests and events per second"
        dispatcher.answers.host.count("above the rate", f"a message was refused: {rate} (Limits.rate)")
        if message.i is not UNSET:
            dispatcher.answers.reject(message.i, Overloaded(f"{rate}, ask again later"))
        return False

    def _counts(self, message: WireMessage, channel: ChannelCore | None) -> bool:
        """Return whether a message has to be counted against `Limits.rate`.

        Messages of streams are not counted. Messages on anonymous channels were counted before, except for
        `STREAM_EVENTS`. These are counted here, when it is known that no stream has received them.
        """
        if channel is not None:
            return message.a[0] in STREAM_EVENTS
        return not self.named_channels.is_of_stream(message)

    def _has_room(self, size: int) -> bool:
        """Return whether a handler may start for a message of ``size`` bytes."""
        most = self.limits.running_bytes
        return self.count < self.limits.running and (self.held == 0 or self.held + size <= most)

    def _must_wait(self, dispatcher: Dispatcher, kind: MessageKind, size: int) -> bool:
        """Return whether a message waits: as `WAITING` says, for room, or behind other messages that wait for room."""
        waiting = WAITING[dispatcher.admission.state]
        if kind in waiting or not self._has_room(size):
            return True
        return bool(self.waiting_room.items) and self.waiting_room.oldest(waiting) is not None

    def recipient_added(self, channel: ChannelRef, event: str, recipient: Recipient) -> None:
        """Pass the events that wait for the opening to a new reader, because an `open` handler may be the reader."""
        if self.dispatcher.writer.opening.holds_back and isinstance(recipient, Inbox):
            handled = self.named_channels.has_handler(channel, event)
            for ticket, waiting in self.waiting_room.events():
                message = decode_any(waiting.decode, waiting.payload)
                if (message.c, message.a[0]) != (channel, event) or waiting.is_read or recipient.over:
                    continue
                message.i = UNSET
                recipient.receive(message, waiting.payload, waiting.decode)
                waiting.is_read = True
                if not handled:
                    self.waiting_room.pop(ticket)
                    waiting.mark_processed()
        self.update()

    # ------------------------------------------------------------ messages that wait

    def _add_waiting(self, entry: WaitingMessage) -> bool:
        """Let a message wait. Return False if there is no room."""
        if self.waiting_room is NOTHING_WAITS:
            self.waiting_room = WaitingRoom(self.limits.waiting, self.limits.waiting_bytes)
        return self.waiting_room.add(entry)

    def start_waiting(self) -> None:
        """Start the messages that wait, as far as there is room, because the state of the session has changed."""
        self.update()
        if self.waiting_room.items:
            self.pump()

    def pump(self) -> None:
        """Start the messages that wait, as far as there is room."""
        if self._pumping or not self.waiting_room.items:
            return
        self._pumping = True
        try:
            while (found := self.waiting_room.oldest(WAITING[self.dispatcher.admission.state])) is not None:
                ticket, waiting = found
                if not self._has_room(len(waiting.payload)):
                    break
                self.waiting_room.pop(ticket)
                dispatcher, channel = waiting.dispatcher, waiting.channel
                try:
                    if waiting.too_late:
                        waiting.drop()
                        continue
                    message = decode_any(waiting.decode, waiting.payload)
                    message.i = UNSET if waiting.id is None else waiting.id
                    if channel is not None:
                        place_on(message, channel.id)
                    dispatcher.run(message, waiting.payload, waiting.view, channel)
                except Exception as exc:
                    # It was decoded when it arrived, so the codec is wrong. Only this connection ends.
                    dispatcher.answers.log(logging.ERROR, "a message could not be dealt with", exc_info=exc)
                    dispatcher.writer.session.fail(CloseCode.INTERNAL_ERROR, "a message could not be dealt with")
        finally:
            self._pumping = False
            self.dispatcher.read_ended()  # these messages are not of one read from the network
            self.update()

    def start_last_events(self) -> None:
        """Start the events of the session, which is over, as far as there is room, and drop the requests that wait.

        If this side has closed the connection, or while `open` handlers run, which may refuse the remote peer, all
        messages that wait are dropped.
        """
        dispatcher = self.dispatcher
        if dispatcher.admission.paused is not None or not dispatcher.writer.opening.done:
            self.drop_all()
        for waiting in self.waiting_room.pop_requests():
            waiting.mark_processed()
        self.start_waiting()
        dispatcher.admission.session_over()

    def drop_all(self) -> None:
        """Drop all messages that wait."""
        while found := self.waiting_room.oldest():
            ticket, waiting = found
            self.waiting_room.pop(ticket)
            waiting.mark_processed()
            waiting.dispatcher.answers.ignored["dropped at the end"] += 1
        self.update()

    # ------------------------------------------------------------ handlers that run

    @property
    def active(self) -> int:
        """Number of handlers that run, including one that runs its first step."""
        first = self.starting
        return len(self.invocations) + (first is not None and first not in self.invocations)

    def backlog(self) -> int:
        """Return about how many bytes handlers with their decoded messages, waiting messages and unread messages take.

        Each handler is measured once. Orphaned handlers do not count: they are about to exit, or cannot be stopped.
        """
        if self._measured is None:
            self._measured = sum(each.memory for each in self.invocations if each.state is not _ORPHANED)
        room = self.waiting_room
        return self._measured + room.size + BYTES_PER_MESSAGE * len(room) + self.named_channels.unread_bytes

    def drop_backlog(self, why: str) -> None:
        """Drop all messages that wait or are unread, and cancel all handlers, because these hold too much."""
        self.drop_all()
        for invocation in list(self.invocations):
            invocation.orphan(why)
        self.named_channels.unread_memory().drop_all(why)

    def stop_measuring(self) -> None:
        """Measure no more handlers until `backlog` is called again."""
        self._measured = None

    def lane(self, key: Hashable) -> asyncio.Lock:
        """Return the lock of the handlers that run one after another."""
        if self._lanes is None:
            self._lanes = WeakKeyDictionary()
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = asyncio.Lock()
        return lane

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
        if self.count >= self.limits.running or self.held > self._room_for_any:
            self.needs_checks = True  # without `update`, because nothing else has changed

    def _count(self, invocation: Invocation, sign: int) -> None:
        """Count a call by its present state. With ``sign`` -1, undo this."""
        state, size = invocation.state, sign * invocation.size
        if state.counts_as == "handler":
            self.count += sign
        if state.bytes_of == "handler":
            self.held += size
        else:
            self.held_by_channels += size
        if self._measured is not None and state is not _ORPHANED:
            self._measured += sign * invocation.memory

    def move(self, invocation: Invocation, state: CallState) -> None:
        """Change the state of a call to a later one, and count the call by its new state."""
        assert state.order >= invocation.state.order, f"{invocation.state} came before {state}"
        counted = invocation in self.invocations
        if counted:
            self._count(invocation, -1)
        invocation.state = state
        if not counted or state is EXITED:
            return
        self._count(invocation, 1)
        self.update()
        if state.counts_as == "channel" and self.waiting_room.items:
            # There is room for another handler. It starts later, so that the first step on the channel runs before.
            self._loop.call_soon(self.pump)

    def remove(self, invocation: Invocation) -> None:
        """Stop counting a handler that has exited, and start messages that waited for room."""
        if invocation not in self.invocations:  # it exited in the first step of its task
            invocation.state = EXITED
            return
        del self.invocations[invocation]
        self._count(invocation, -1)
        invocation.state = EXITED
        message, active = invocation.inbound, invocation.dispatcher.active
        if message.i is not UNSET:
            if message.h is not None:
                self.on_channels -= 1
            if active.get(message.i) is invocation:  # as `remove_from_active`, without a call
                del active[message.i]
        if self.needs_checks:
            self.update()
        if self.waiting_room.items:
            self.pump()
        if self.on_events_done is not None:
            self.notify_if_events_done()

    def check_bytes_for_channel(self, size: int) -> None:
        """Check that a message of ``size`` bytes may open one more channel.

        Raises:
            RemoteError: there is no room. The error does not say that the handler did not run.
        """
        most = self.limits.running_bytes
        if self.held_by_channels and self.held_by_channels + size > most:
            why = (
                f"the messages that opened channels which are still open take {self.held_by_channels} bytes, "
                f"{most} may be taken (Limits.running_bytes), close some"
            )
            raise made_here(RemoteError(why, TOO_MANY))

    # ------------------------------------------------------------ the end of handlers

    def when_events_done(self, notify: Callable[[], None] | None) -> None:
        """Call ``notify`` when the handlers of all events have started, and those that run in lanes have exited.

        The function of an earlier call that was not called yet is called now.
        """
        if self.starting is not None:
            self.add(self.starting)  # its first step has ended the connection
        earlier, self.on_events_done = self.on_events_done, notify
        if earlier is not None:
            earlier()
        self.notify_if_events_done()

    def notify_if_events_done(self) -> None:
        """Call the function of `when_events_done`, if all events are done."""
        if not (self.waiting_room.items or self.tasks_not_started or any(map(_is_event_in_order, self.invocations))):
            notify, self.on_events_done = self.on_events_done, None
            if notify is not None:
                notify()

    def all_tasks_started(self) -> None:
        """The first step of each task has begun."""
        if self.on_events_done is not None:
            self._loop.call_soon(self.notify_if_events_done)  # later, so that the handler runs before

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


def _kept(payload: bytes | bytearray, view: Message | None) -> bytes:
    return bytes(payload) if view is None else view.payload  # the same bytes, which the view has anyway


def _is_event_in_order(invocation: Invocation) -> bool:
    """Return whether the handler of an event runs in a lane, where other handlers may wait for it."""
    return invocation.id is None and invocation.handler is not None and invocation.handler.lane is not None
