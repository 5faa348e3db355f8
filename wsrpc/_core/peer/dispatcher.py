"""`Dispatcher`: runs the handlers of received requests and events, answers the requests, and cancels handlers."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Coroutine
from contextvars import Context
from functools import cached_property, partial
from types import CoroutineType
from typing import Any, cast

from msgspec import UNSET

from ..._base.closing import CloseCode
from ..._base.names import RESERVED_EVENTS
from ..._base.scheduler import EAGER
from ..._base.threads import when_over
from ...errors import (
    BadArguments,
    ConnectionLost,
    Draining,
    HandlerTimeout,
    Overloaded,
    ReservedEvent,
    RpcError,
    UnknownEvent,
    made_here,
)
from ..channels.channel_core import ChannelCore
from ..channels.channel_states import ChannelState
from ..channels.channel_table import ChannelTable
from ..channels.named_channels import FOR_READERS
from ..channels.source import ReadInThread, StartedStep, as_source
from ..handlers.invocation import CURRENT, EXITED, Call, Invocation
from ..handlers.layers import PLAIN, Limited, Route, close_unawaited
from ..handlers.lookup import find, route_to
from ..handlers.observation import Message, mark_processed
from ..sending.answers import Answers
from ..sending.session_writer import SessionWriter
from ..session.peer_host import LONGEST_EVENT, PeerHost
from ..wire.call_context import read_call_context
from ..wire.control import Deprecated
from ..wire.messages import Resolution, WireMessage
from ..wire.rejections import ABORTED, bounded_reason
from .admission import Admission
from .call_threads import CallThreads
from .channel_calls import ChannelCalls
from .failed_calls import error_for_caller
from .slow_functions import SlowFunctions


class Dispatcher:
    """Runs the handlers of the requests and events that arrive in one session, and answers.

    `Admission` decides when the handler of a message runs, and `find` returns the handler. `run` calls it. If the
    handler returns a value, the request is answered at once. Otherwise the handler runs on in a task (`_drive`), and
    `ActiveCalls` counts it. Only `_returned` and `_raised` answer the request of a handler, with two exceptions:
    `ChannelCalls` answers with a channel while the handler runs, and `_end_late` rejects the request of a handler that
    takes too long before the handler exits.

    Calls refer to the dispatcher of the session in which they started, although this session may be over.
    """

    def __init__(
        self, host: PeerHost, *, admission: Admission, writer: SessionWriter, answers: Answers, channels: ChannelTable
    ) -> None:
        """
        Args:
            admission: of the peer, with the calls of earlier sessions.
            channels: the anonymous channels of the session.
        """
        self._host = host
        self._own = host.options.own
        self.writer = writer
        self._session = writer.session
        self.loop = writer.loop
        self.answers = answers
        self.admission = admission
        self.calls = admission.calls
        self.active: dict[int, Invocation] = {}
        """Requests of the remote peer that are being handled, by id."""
        self.named_streams: dict[str, Invocation] = {}
        """Calls whose items are sent on a named channel, by its name. Each channel has at most one."""
        self.paused: asyncio.Future[None] | None = None
        """A future while no handler may start, because a Close frame is queued. It is done when the session is over, or
        continues on another connection. May be read in any thread."""
        self.held_up = 0
        """Number of handlers that wait in tasks until ``paused`` is done. Later messages wait, to stay in order."""
        self.context = contextvars.copy_context()
        """Each handler runs in a copy of this context, so that no handler sees what another handler sets."""
        self.channels = channels
        self.slow = SlowFunctions(answers, self.loop)

    @cached_property
    def _channel_calls(self) -> ChannelCalls:
        """Runs handlers whose answer is a channel. Made for the first of them, because many peers have none."""
        return ChannelCalls(self.answers, self.calls, self.channels)

    @cached_property
    def threads(self) -> CallThreads:
        """Gives calls their threads. Made for the first of them, because many peers have none."""
        return CallThreads(self.answers)

    # ------------------------------------------------------------ starting

    def run(
        self,
        message: WireMessage,
        payload: bytes | bytearray,
        view: Message | None = None,
        channel: ChannelCore | None = None,
    ) -> None:
        """Run the handler of a message now.

        A handler that only returns a value runs within this call. Any other handler runs on in a task.

        Args:
            payload: the encoded message.
            channel: the anonymous channel on which the message arrived. It may have ended since then.
        """
        name = message.a[0]
        route = self._own.routes.main.get(name) if message.c is None and channel is None else None
        if route is None:
            route = self._find(message, channel)
        handler = route.handler
        invocation = Invocation(self._host.peer, message, self, len(payload), view, handler)
        try:
            if message.ctx is not UNSET:
                self._read_context(invocation)
            if route.answers_with_channel and message.i is not UNSET:
                self._channel_calls.make_room(invocation)
            context = self.context.copy()
            context.run(CURRENT.set, invocation)
            if route.starts_later:
                self._run_on(invocation, context.run(route.call, invocation, message.a), context)
                return
            if self.calls.tasks_not_started:
                self._run_on(invocation, self.call_in_task(invocation, route.call), context)
                return
            slow = self.slow
            if not slow.ran:
                slow.since = self.loop.time()
            slow.ran[handler] = None
            result = context.run(route.call, invocation, message.a)
            if result.__class__ not in PLAIN and self.is_unfinished(result):
                self._run_on(invocation, result, context)
                return
            if message.i is not UNSET:  # an event has neither a response nor a channel
                self._returned(invocation, result)
        except BaseException as exc:
            if not self._raised(invocation, exc):
                raise
        invocation.state = EXITED  # it was never counted
        if view is None and invocation.shown is None:  # nearly always. The same as `release`, without a call.
            message.a = (name,)
        else:
            mark_processed(view)
            invocation.release()
        if channel is not None or self._session.over:
            # A channel may deliver messages that it has kept, outside a read from the network. Nothing is read when the
            # session is over.
            self.slow.check()

    def _read_context(self, invocation: Invocation) -> None:
        """Check the context of a message, and set the deadline of its call.

        Without extensions, a context is an unknown field, which is ignored. A node that only passes the call on to
        another node's peer sets no deadline, because the other node does.

        Raises:
            BadArguments: the context is not valid, or the call has a key, and its handler keeps no results.
            Overloaded: no time is left.
        """
        settings, message, handler = self._host.settings, invocation.inbound, invocation.handler
        if not settings.extensions:
            message.ctx = UNSET
            return
        message.ctx = context = read_call_context(message.ctx, invocation.size)
        if settings.between_nodes:
            return
        if context.remaining_ms == 0 and message.i is not UNSET:
            self.answers.ignored["expired before its handler began"] += 1
            raise made_here(Overloaded("its caller's time was over before its handler could begin"))
        if context.key is not UNSET and handler is not None and (handler.keep is None or invocation.id is None):
            none = "its handler has no keep=: give it one, or leave out the key"
            why = none if handler.keep is None else "an event cannot have one"
            raise made_here(BadArguments(f"{invocation.event!r} came with a key, and {why}"))
        if invocation.id is not None and context.remaining_ms is not UNSET:
            invocation.deadline = self.loop.time() + context.remaining_ms / 1000

    def _find(self, message: WireMessage, channel: ChannelCore | None) -> Route:
        if channel is not None:
            return find(channel.own_registry(), message.h, message.a[0])
        name = message.a[0]
        if not message.c and name in RESERVED_EVENTS:  # for JavaScript, "" is the main channel
            return Route(self._refuse_reserved, None, answers_with_channel=False, starts_later=False)
        route = find(self._own, message.c, name)
        if route.handler is None and message.i is UNSET and self.admission.named_channels.has_readers(message.c, name):
            return route_to(self._own, message.c, FOR_READERS)
        return route

    def _refuse_reserved(self, invocation: Invocation, a: list[Any]) -> None:
        """Reject a request that has a reserved name, and ignore an event that has one, as JavaScript does."""
        if invocation.id is not None:
            raise made_here(UnknownEvent(str(ReservedEvent(a[0]))))
        self.answers.ignored["reserved event"] += 1

    @staticmethod
    def is_unfinished(result: Any) -> bool:
        """Return whether ``result`` is still to be awaited or streamed; see `complete`."""
        return hasattr(result, "__await__") or as_source(result) is not None

    # ------------------------------------------------------------ in tasks

    def _run_on(self, invocation: Invocation, result: Any, context: Context) -> None:
        """Complete in a task a handler that has returned ``result``. If the task waits, count the handler."""
        if invocation.deadline is not None and hasattr(result, "__await__"):
            left = invocation.deadline - self.loop.time()
            result = Limited(invocation, result, left, partial(self._deadline_passed, invocation))
        if self.slow.ran:
            self.slow.check()
        calls = self.calls
        outer, calls.starting = calls.starting, invocation
        drive = self._drive(invocation, result)
        if not EAGER:  # up to `_UNTIL_STARTED`, where it notices that its task is cancelled before its first step
            drive.send(None)
        task = self.loop.spawn(drive, context)
        calls.starting = outer
        if task.done():
            return
        invocation.task = task
        calls.add(invocation)
        if invocation.state.cancelled:  # in its first step, when its task was not set
            task.cancel(bounded_reason(invocation.cancel_reason))
        elif self._session.over and invocation.id is not None:
            invocation.orphan(self._session.end_error)  # the handler itself has ended the connection

    async def _drive(self, invocation: Invocation, result: Any) -> None:
        """Complete, within its task, a handler that has returned ``result``, and answer."""
        try:
            try:
                if not EAGER:
                    calls = self.calls
                    calls.tasks_not_started += 1
                    try:
                        await _UNTIL_STARTED
                    finally:
                        calls.tasks_not_started -= 1
                        if self.admission.on_events_done is not None:  # later, so that the handler runs before
                            self.loop.call_soon(self.admission.notify_if_events_done)
                if self.paused is not None:
                    await self.wait_while_paused(invocation)
            except BaseException as exc:
                if result.__class__ is StartedStep:
                    await result.complete(exc)
                close_unawaited(result)
                raise
            if result.__class__ is CoroutineType:  # as `complete`, with one coroutine less
                value = await result
                if value.__class__ not in PLAIN:
                    value = await self._serve_items(invocation, value)
            else:
                value = await self.complete(invocation, result)
            self._returned(invocation, value)
        except BaseException as exc:
            if not self._raised(invocation, exc):
                raise
        finally:
            if invocation.thread is None:
                self._exited(invocation)
            else:
                when_over(invocation.thread, lambda: self._exited(invocation))

    async def call_in_task(self, invocation: Invocation, call: Call) -> Any:
        """Call a handler within its task, when it may start, and `complete` it."""
        if self.paused is not None:
            await self.wait_while_paused(invocation)
        began = self.loop.time()
        result = call(invocation, invocation.inbound.a)
        if not hasattr(result, "__await__"):
            self.slow.report([invocation.handler], self.loop.time() - began)
        return await self.complete(invocation, result)

    async def complete(self, invocation: Invocation, result: Any, read: ReadInThread | None = None) -> Any:
        """Await or stream what a handler has returned, if it is awaitable or a source, and return the result.

        Args:
            read: makes the source of an iterator that may block.
        """
        if hasattr(result, "__await__"):
            result = await result
        return await self._serve_items(invocation, result, read)

    async def _serve_items(self, invocation: Invocation, result: Any, read: ReadInThread | None = None) -> Any:
        """Stream what a handler has returned, if it is a source. Otherwise return it."""
        if invocation.delivered_channel is not None:  # the request was answered with a channel
            return result
        source = as_source(result, read)
        return result if source is None else await self.serve(invocation, source)

    def serve(self, invocation: Invocation, body: Any) -> Coroutine[Any, Any, Any]:
        """Answer with a channel, then await ``body``, or send its items. Return its result."""
        if self._session.over:  # it handles an event, and therefore runs on when its session is over
            invocation.record_orphaned(self._session.end_error)
        self.calls.add(invocation)
        return self._channel_calls.serve(invocation, body)

    def expire(self, invocation: Invocation, seconds: float) -> None:
        """Cancel a handler that has run too long, and reject its request, although the handler may exit much later."""
        if invocation.state.cancelled:  # it is ending already
            return
        handler = invocation.handler
        assert handler is not None
        source = "Limits.handler_timeout" if handler.timeout is UNSET else "timeout="
        text = "%s, the handler of %s, was cancelled: it took longer than %g s (%s)"
        call = invocation.log_fields
        self.answers.log(logging.WARNING, text, handler.name, invocation.label, seconds, source, call=call)
        self._end_late(invocation, f"{invocation.event!r} took longer than {seconds:g} s and was cancelled")

    def _deadline_passed(self, invocation: Invocation) -> None:
        """Cancel a handler, because the time of its caller is over, unless it has answered with a channel in time."""
        if not invocation.state.cancelled and invocation.deadline is not None:
            self._end_late(invocation, f"{invocation.event!r} was cancelled: the time of its caller was over")

    def refuse_waiting(self) -> None:
        """Reject the requests whose handlers have not started, because this side is about to close."""
        why = "closing, the handler has not started: ask again later"
        for invocation in [each for each in self.active.values() if each.waits]:
            self._end_late(invocation, why, Draining)
        for waiting in self.admission.waiting_room.pop_requests():
            self.answers.reject(cast("int", waiting.id), Draining(why))
            mark_processed(waiting.view)

    def _end_late(self, invocation: Invocation, why: str, error_type: type[RpcError] = HandlerTimeout) -> None:
        error = made_here(error_type(why))
        invocation.orphan(error)
        if invocation.id is not None:
            invocation.remove_from_active()
            self.answers.reject(invocation.id, error)

    # ------------------------------------------------------------ pausing

    def pause(self) -> None:
        """Start no handlers from now on: a Close frame is queued. Idempotent."""
        if self.paused is None:
            self.paused = self.loop.create_future()
        self.admission.update()

    def unpause(self) -> None:
        """Start handlers again: there is another connection. Idempotent."""
        paused, self.paused = self.paused, None
        if paused is not None:
            paused.set_result(None)

    async def wait_while_paused(self, invocation: Invocation) -> None:
        """Wait while no handler may start.

        Raises:
            asyncio.CancelledError: the session is over.
        """
        self.held_up += 1
        try:
            while (paused := self.paused) is not None:
                await asyncio.shield(paused)
                if self._session.over:
                    self.answers.ignored["dropped at the end"] += 1
                    invocation.record_orphaned(self._session.end_error)
                    raise invocation.cancellation()
        finally:
            self.held_up -= 1
            if not self.held_up:
                self.loop.call_soon(self.admission.start_waiting)  # later, so that this handler starts first

    # ------------------------------------------------------------ ending

    def _returned(self, invocation: Invocation, result: object) -> None:
        """Answer the request of a handler that has returned, or end the channel that answered it."""
        made, message = invocation.channel, invocation.inbound
        answers = message.i is not UNSET and invocation.state.answerable and not self._session.over
        if made is not None:
            if invocation.delivered_channel is not None:
                self._channel_calls.conclude(invocation, result)
                return
            if invocation.state.cancelled:
                raise invocation.cancellation()  # no caller would get the channel
            if answers and result is invocation.user_channel:
                self.channels.deliver(made)
                return
            made.close()  # the caller does not get it
        if answers:
            writer = self.writer
            resolution = Resolution(message.i, result)  # pyright: ignore[reportArgumentType]
            writer.reply(writer.terms.encode(resolution))

    def _raised(self, invocation: Invocation, exc: BaseException) -> bool:
        """Handle the exception of a handler. Return False if the exception is for the event loop."""
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            return False
        if invocation.is_stopped_by(exc):
            # The task ends as cancelled, and the remote peer does not get the application's reason.
            if invocation.delivered_channel is not None:
                self._channel_calls.failed(invocation, RpcError(ABORTED))
            elif invocation.id is not None:
                self.answers.reject(invocation.id, RpcError(ABORTED))
            invocation.record_orphaned(None)  # if it waits for a thread, it must not start there
            return False
        if isinstance(exc, asyncio.CancelledError) and invocation.state.cancelled:
            if invocation.id is not None and invocation.state.answerable:
                # The caller has stopped waiting, but its side counts the request until it is answered. See
                # `RequestState.ABANDONED`.
                self.answers.reject(invocation.id, RpcError(ABORTED))
            return True
        if isinstance(exc, GeneratorExit) and not invocation.is_current:
            return False  # the coroutine is thrown away, with its event loop
        self._failed(invocation, exc)
        return True

    def _exited(self, invocation: Invocation) -> None:
        """Stop counting a handler that has exited, and release what only this handler could use."""
        if (channel := invocation.channel) is not None:
            if channel.state is ChannelState.NEW:
                channel.close()
            elif channel.over and invocation.delivered_channel is not None:
                channel.mailbox.close()  # nothing can listen any more
        if invocation.view is not None:
            mark_processed(invocation.view)
        self.calls.remove(invocation)
        if not self._session.state.sends:  # its memory counts only while there is no connection
            self._session.memory_changed()
        invocation.release()

    def cancel_requests(self, reason: ConnectionLost) -> None:
        """Cancel the handlers of all requests and streams, because the session is over. Handlers of events run on."""
        for invocation in [*self.active.values(), *self.named_streams.values()]:
            invocation.orphan(reason)
        self.active.clear()

    def cancel_requests_on(self, h: int, reason: object) -> None:
        """Cancel the handlers of requests that arrived on channel ``h``, because the channel is over."""
        if self.calls.on_channels:
            for invocation in [each for each in self.active.values() if each.inbound.h == h]:
                if not invocation.is_current:
                    invocation.cancel(reason)

    def knows(self, i: int) -> bool:
        """Return whether request ``i`` is being handled or waits for its handler."""
        room = self.admission.waiting_room
        return i in self.active or (bool(room.items) and room.has_key(i))

    def cancel(self, i: int, reason: object) -> bool:
        """Cancel request ``i``: the remote peer no longer waits for it. Return False if there is no such request."""
        if (invocation := self.active.get(i)) is not None:
            invocation.cancel(reason)
        elif (waiting := self.admission.waiting_room.pop_key(i)) is not None:
            mark_processed(waiting.view)
            self.answers.reject(i, RpcError(ABORTED))
        else:
            return self.channels.request_cancelled(i, reason)
        return True

    # ------------------------------------------------------------ failing

    def fail_connection(self, exc: BaseException) -> None:
        """End this connection, because a user's codec has raised ``exc``, or wsrpc has a bug."""
        self.answers.log(logging.ERROR, "a message could not be handled", exc_info=exc)
        self._session.fail(CloseCode.INTERNAL_ERROR, "a message could not be handled")

    def _failed(self, invocation: Invocation, raised: BaseException) -> None:
        """Reject the request of a handler that ``raised``, or end its channel."""
        channel = invocation.delivered_channel
        if invocation.channel is not None and channel is None:
            invocation.channel.close()  # the caller does not get it
        error = error_for_caller(self.answers, invocation, raised)
        if error is None or invocation.id is None:
            return
        if channel is not None:
            self._channel_calls.failed(invocation, error)
        elif invocation.state.answerable and not self._session.over:
            self.answers.reject(invocation.id, error)

    def count_deprecated(self, invocation: Invocation, why: str) -> None:
        """Count a call of a deprecated event. For the first call of each event, warn the remote peer."""
        event = invocation.full_event[:LONGEST_EVENT]
        first = self._host.count_deprecated(event, why, call=invocation.log_fields)
        if first and self._session.negotiation.common is not None and not self._host.settings.local:
            self._session.send_control(Deprecated(event, why))


class _Pause(tuple[None]):
    """``await _Pause((None,))`` suspends a coroutine once. Unlike in a generator, no Python function is called."""

    __slots__ = ()
    __await__: Any = tuple.__iter__  # pyright: ignore


_UNTIL_STARTED = cast("Awaitable[None]", _Pause((None,)))
"""Suspends a coroutine until a task runs its first step."""
