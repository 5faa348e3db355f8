"""Runs the handlers of inbound requests and events: starts them, answers, and cancels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from msgspec import UNSET

from .._base.names import RAW, RESERVED_EVENTS
from .._base.scheduler import EAGER
from .._channels.core import ChannelCore, ChannelState
from .._channels.readers import FOR_READERS, Readers
from .._channels.source import as_source
from .._handlers.compiled import Handler
from .._handlers.invocation import CURRENT, Invocation
from .._handlers.lifecycle import Reporter
from .._handlers.observation import Message, finish
from .._handlers.registry import Registry
from .._protocol.messages import Resolution, WireMessage
from .._protocol.rejections import ABORTED, BAD_ITEM, bounded_reason
from .._sending.requests import Requester
from ..errors import (
    BadArguments,
    BadResult,
    ChannelClosed,
    ConnectionLost,
    Overloaded,
    RemoteError,
    ReservedEvent,
    RpcError,
    UnknownEvent,
    channel_of,
    is_made_here,
    made_here,
    short,
    text_for_log,
)
from ..limits import Limits
from .admission import Admission
from .answers import Answers
from .channel_answers import ChannelAnswers
from .running import PLAIN, SLOW_HANDLER, Invoker, RunningHandlers, when_over
from .session import Call, Session

__all__ = ["Dispatcher"]

set_current = CURRENT.set


class Dispatcher:
    """Runs the handlers of one peer's inbound requests and events.

    `Admission` decides when a message may have its handler. `RunningHandlers` keeps those that run in tasks, and
    `Invoker` runs them with all that is around them. `Answers` and `ChannelAnswers` answer requests.
    """

    def __init__(
        self,
        peer: Any,
        own: Registry,
        shared: Registry,
        *,
        limits: Limits,
        requester: Requester,
        answers: Answers,
        readers: Readers,
        reporter: Reporter,
        fail: Callable[[int, str], None],
    ) -> None:
        """
        Args:
            peer: the public object, for contexts.
            own, shared: the peer's handlers, and the server's.
            fail: ends the connection with a code and a reason.
        """
        out = requester.out
        self._peer = peer
        self._own = own
        self._shared = shared
        self._out = out
        self._loop = loop = out.loop
        self.answers = answers
        self.running = RunningHandlers(limits)
        self.invoker = Invoker(
            own,
            shared,
            loop,
            self.answers,
            limits.handler,
            answer_with_channel=lambda call, work: self._channel_answers.run(call, work),
        )
        self.admission = admission = Admission(
            self.running,
            self.answers,
            limits,
            out,
            dispatch=self.dispatch,
            pumped=self.read_ended,
            readers=readers,
            fail=fail,
        )
        self._make_channel_answers = partial(ChannelAnswers, requester, self.answers, admission, limits)
        self.arrived = admission.arrived
        """Takes the messages of anonymous channels. Not a method, which would be one more call for each of them."""
        self.session: Session
        """The present session, or the last one."""
        self._queued = 0
        """Tasks that have not begun, and one more while `run_in_tasks` is on. Unless it is 0, plain functions run in
        tasks, too, so that they stay in order."""
        self._mark: float | None = None
        """When the last inline handler of this read ended. None if there was none, or if its time is not known."""
        self.beginning: Invocation | None = None
        """The context of a coroutine function that takes its first step, and is not counted yet."""

    def is_awaited(self, ctx: Invocation | None) -> bool:
        """Whether ``ctx`` is that of a handler which runs here and for which the remote peer waits."""
        if ctx is not None and ctx is self.beginning:
            return ctx.id is not None
        return self.running.is_awaited(ctx)

    def begin(self, session: Session) -> None:
        """Take the messages of ``session`` from now on."""
        self.session = session
        self.admission.begin(session)

    def after_events(self, then: Callable[[], None] | None) -> None:
        """Call ``then`` once the events that have arrived are handled; see `RunningHandlers.after_events`."""
        self.running.after_events(then, bool(self.admission.room.items))

    @cached_property
    def _channel_answers(self) -> ChannelAnswers:
        """Runs handlers whose answer is a channel. Many peers have none, so it is made for the first one."""
        return self._make_channel_answers()

    # ------------------------------------------------------------ starting

    def run_in_tasks(self, always: bool) -> None:
        """Run plain functions in tasks, too, so that `running` has each handler that runs; or stop doing so."""
        # A task that never begins is counted, as if plain functions had to stay behind it. So `dispatch` needs no other
        # test for each message.
        self._queued += 1 if always else -1

    def dispatch(
        self,
        message: WireMessage,
        payload: bytes | bytearray,
        view: Message | None = None,
        channel: ChannelCore | None = None,
    ) -> None:
        """Run the handler of a message now. ``payload`` is the message, encoded.

        ``channel`` is the anonymous channel on which the message came. It may have ended since then.
        """
        own, shared = self._own, self._shared
        name = message.a[0]
        if channel is not None:
            local = channel.registry
            handler = local.take(message.h, name) or local.fallback
            layered = own.layered or shared.layered or local.layered
        else:
            local = None
            if message.c is None:
                handler = own.take_main(name) or shared.take_main(name)
            else:
                handler = own.take(message.c, name) or shared.take(message.c, name)
            if handler is None:
                if message.c is None and name in RESERVED_EVENTS:
                    self.refuse_reserved(message)
                    finish(view)
                    return
                handler = own.fallback or shared.fallback
            layered = own.layered or shared.layered
        if handler is None or layered:
            ctx = Invocation(self._peer, message, self.session.channels, view)
            self._dispatch_slowly(ctx, len(payload), handler, local)
        else:
            self.run(message, payload, view, handler, local)

    def run(
        self,
        message: WireMessage,
        payload: bytes | bytearray,
        view: Message | None,
        handler: Handler,
        local: Registry | None = None,
    ) -> None:
        """Run the handler of a message now, if there is no middleware.

        A plain function runs here, inline: no task, no `Call`, nothing to cancel. A coroutine function without time
        limit is started here; see `_run_bare`. Every other handler goes through `_dispatch_slowly`, which can run these
        two kinds, too.

        ``local`` has the handlers of the anonymous channel on which the message came.
        """
        session = self.session
        ctx = Invocation(self._peer, message, session.channels, view)
        if not handler.inline or self._queued:
            if not (EAGER and handler.bare) or self.invoker.limit is not None:
                self._dispatch_slowly(ctx, len(payload), handler, local)
                return
            outer, self.beginning = self.beginning, ctx
            task = self._loop.spawn(self._run_bare(ctx, len(payload), handler, session), session.context.copy())
            self.beginning = outer
            self._mark = None  # as in `_start`
            if not task.done():
                self._goes_on(task, ctx, len(payload), handler, session)
            return
        time = self._loop.time
        since = self._mark
        if since is None:
            since = self._mark = time()
        context = session.context.copy()
        context.run(set_current, ctx)
        try:
            result = context.run(handler.call, ctx, message.a)
            if result.__class__ not in PLAIN and self.invoker.goes_on(result):
                self._start(ctx, len(payload), handler, result)
                return
            if message.i is not UNSET:
                if ctx.anonymous is None and not session.over:
                    out = self._out  # what `_answer` does, with one call less
                    encode = out.terms.encode
                    out.reply(encode(Resolution(message.i, result)))
                else:
                    self._answer(ctx, result, session)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            handler.put_back()  # if its arguments did not fit, the next message may have it
            # The handler may have ended the connection itself. Its answer must not go to the next one.
            self._failed(ctx, exc, quiet=session.over)
        if view is not None:
            finish(view)
        now = time()
        if now - since > SLOW_HANDLER:
            self.invoker.warn_slow(handler, now - since)
        # A channel may also deliver messages that it has kept, in a turn of the event loop in which nothing is read.
        self._mark = now if local is None else None

    def _dispatch_slowly(self, ctx: Invocation, size: int, handler: Handler | None, local: Registry | None) -> None:
        """Run a handler in a task, or refuse the message if there is no handler or no room for its channel."""
        message = ctx.inbound
        channels = self.session.channels
        if (
            handler is None
            and local is None
            and message.i is UNSET
            and self.admission.readers.has_readers(message.c, message.a[0])
        ):
            handler = FOR_READERS
        if handler is None and not self.invoker.layered and (local is None or not local.layered):
            self._failed(ctx, self.invoker.unknown(ctx))
            finish(ctx.message)
        elif handler is None or not handler.gives_channel or message.i is UNSET:
            self._start(ctx, size, handler, None, local)
        elif not self._out.terms.channels:
            handler.put_back()
            self.reject(message.i, channels.not_known(ctx.event))
            finish(ctx.message)
        elif (why := channels.too_many if channels.full else self.running.too_large_for_channel(size)) is not None:
            # Before anything of the call runs, middleware included: `Overloaded` says that nothing did.
            handler.put_back()
            self.answers.reject(message.i, Overloaded(why))
            finish(ctx.message)
        else:
            # The channel and its bytes count from now on, so that the handler cannot fail for want of room. Any other
            # handler may make a channel, too: `ChannelTable.make` and `check_room_for_channel` look for room then.
            ctx.answer_channel()
            self._start(ctx, size, handler, None, local, bytes_on_channel=True)

    def refuse_reserved(self, message: WireMessage) -> None:
        """Reject a request that has a reserved name, and ignore an event that has one, as JavaScript does."""
        if message.i is UNSET:
            self.answers.ignored["reserved event"] += 1
        else:
            self.reject(message.i, UnknownEvent(str(ReservedEvent(message.a[0]))))

    def _answer(self, ctx: Invocation, result: Any, session: Session) -> None:
        """Answer a request with ``result``, or with its channel if that is the result."""
        channel = ctx.anonymous
        if session.over:
            if channel is not None:
                channel.close()
        elif channel is not None and result is ctx.user_channel:
            channel.deliver()
        else:
            if channel is not None:
                channel.close()  # the caller never hears of it
            self._out.reply(self._out.terms.encode(Resolution(ctx.inbound.i, result)))

    def read_ended(self) -> None:
        """Forget when the last handler ended: the next one's time starts with the next read."""
        self._mark = None

    def _start(
        self,
        ctx: Invocation,
        size: int,
        handler: Handler | None,
        result: Any = None,
        local: Registry | None = None,
        bytes_on_channel: bool = False,
    ) -> None:
        """Run a handler in a task. For ``result`` see `_run`."""
        session = self.session
        call = Call(ctx, handler, size, session, bytes_on_channel)
        self.running.add(call)
        self.admission.needs_checks = True
        context = session.context.copy()
        context.run(CURRENT.set, ctx)
        call.task = self._loop.spawn(self._run(call, result, local), context)
        if not call.started:
            self._queued += 1
        self._mark = None  # the time of the first step, which may have run, must not count for another handler
        if call.cancelled and not call.task.done():  # in its first step, where that runs at once
            call.task.cancel(bounded_reason(ctx.cancel_reason))

    def _goes_on(
        self, task: asyncio.Task[None], ctx: Invocation, size: int, handler: Handler, session: Session
    ) -> None:
        """Make the `Call` of a coroutine function that waits after its first step."""
        call = ctx.call or self._count(ctx, size, handler, session)
        call.task, call.started = task, True
        if session.end_reason is not None and ctx.inbound.i is not UNSET:
            call.orphan(session.end_reason)  # the handler itself has ended the connection
        elif call.cancelled:
            task.cancel(bounded_reason(ctx.cancel_reason))

    def _count(self, ctx: Invocation, size: int, handler: Handler, session: Session) -> Call:
        """Make the `Call` of a coroutine function that was started without one."""
        ctx.call = call = Call(ctx, handler, size, session)
        self.running.add(call)
        self.admission.needs_checks = True
        return call

    # ------------------------------------------------------------ running

    async def _run_bare(self, ctx: Invocation, size: int, handler: Handler, session: Session) -> None:
        """Run a coroutine function within its eager task, and answer, as `_run` does for every other handler.

        Most coroutines do not wait, or only some of the time. So there is no `Call`, and the handler is not counted
        among those that run, until its first step has ended with waiting. During that step it is as a plain function
        that runs inline.
        """
        set_current(ctx)
        try:
            result = await handler.call(ctx, ctx.inbound.a)
            if result.__class__ not in PLAIN and as_source(result) is not None:
                call = ctx.call or self._count(ctx, size, handler, session)
                result = await self.invoker.finish(call, result)
            if ctx.call is not None:
                self._returned(ctx.call, result)
            elif (i := ctx.inbound.i) is not UNSET:
                if ctx.anonymous is None and not session.over:
                    out = self._out  # what `_answer` does, with one call less
                    encode = out.terms.encode
                    out.reply(encode(Resolution(i, result)))
                else:
                    self._answer(ctx, result, session)
        except BaseException as exc:
            if ctx.call is None:
                handler.put_back()  # if its arguments did not fit, the next message may have it
            if not self._dealt_with(exc, ctx, ctx.call, quiet=session.over):
                raise
        finally:
            if ctx.call is not None:
                self._exited(ctx.call)
            elif ctx.message is not None:
                finish(ctx.message)

    async def _run(self, call: Call, result: Any, local: Registry | None) -> None:
        """Run a handler within its task, and answer.

        If the handler was called inline and there is more to do with its ``result``, that is done instead.
        """
        call.started = True
        if call.task is not None:  # the task has not begun at once
            self._queued -= 1
        ctx = call.ctx
        try:
            if call.cancelled:  # before the task began
                if asyncio.iscoroutine(result):
                    result.close()
                raise call.cancellation()
            if call.session.paused is not None and result is None:
                await self.invoker.may_start(call)
            handler = call.handler
            if result is not None:
                result = await self.invoker.finish(call, result)
            elif handler is not None and handler.bare and local is None and not self.invoker.adds_to_calls:
                # As `Invoker.run`, without the layers, lane, thread, channel and time limit that it looks for.
                result = await handler.call(ctx, ctx.inbound.a)
            else:
                result = await self.invoker.run(call, local)
            if result.__class__ not in PLAIN and call.channel is None and as_source(result) is not None:
                result = await self.invoker.finish(call, result)
            self._returned(call, result)
        except BaseException as exc:
            if not self._dealt_with(exc, ctx, call):
                raise
        finally:
            if call.thread is None:
                self._exited(call)
            else:
                when_over(call.thread, lambda: self._exited(call))

    # ------------------------------------------------------------ ending

    def _returned(self, call: Call, result: object) -> None:
        """Answer the request of a handler that has returned, or end the channel that answered it."""
        ctx = call.ctx
        if call.channel is not None:
            self._channel_answers.conclude(call, result)
        elif call.cancelled and ctx.anonymous is not None:
            raise call.cancellation()  # nobody would know of the channel
        elif ctx.inbound.i is not UNSET and not call.orphaned:
            if ctx.anonymous is None and not call.session.over:
                out = self._out  # what `_answer` does, with one call less
                out.reply(out.terms.encode(Resolution(ctx.inbound.i, result)))
            else:
                self._answer(ctx, result, call.session)

    def _dealt_with(self, exc: BaseException, ctx: Invocation, call: Call | None, *, quiet: bool = False) -> bool:
        """Deal with what a handler has raised in its task. Return False if the exception is for the event loop.

        Args:
            call: None in the first step of a handler that has none before it waits.
            quiet: as in `_failed`.
        """
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            return False
        if call is not None:
            if isinstance(exc, asyncio.CancelledError):
                return self._was_cancelled(call, exc)
            if isinstance(exc, GeneratorExit) and not call.is_current:
                return False  # the coroutine is thrown away, with its event loop
        self._failed(ctx, exc, call, quiet=quiet)
        return True

    def _was_cancelled(self, call: Call, exc: asyncio.CancelledError) -> bool:
        """Deal with a handler that has raised CancelledError; return False if the event loop is being shut down."""
        if not call.cancelled:
            if call.task is not None and call.task.cancelling():
                return False
            self._failed(call.ctx, exc, call)
        elif call.ctx.id is not None and not call.orphaned and call.channel is None:
            # The caller has stopped waiting. The rejection is for what else sees the messages of this connection.
            self.answers.reject(call.ctx.id, RpcError(ABORTED))
        return True

    def _exited(self, call: Call) -> None:
        """Count the call no more, drop what only it could use, and start messages that waited for its place."""
        self.running.remove(call)
        if call.handler is not None and call.handler.taken:
            call.handler.put_back()  # if it was not called, the next message may have it
        call.exited = True
        if call.channel is not None and call.channel.closed:
            call.channel.stop_listening()  # nothing is left that could listen
        ctx = call.ctx
        ctx.call = None  # the two refer to each other
        if ctx.anonymous is not None and ctx.anonymous.state is ChannelState.NEW:
            ctx.anonymous.close()
        if ctx.message is not None:
            finish(ctx.message)
        if not self.session.active:
            self.admission.update()
        if self.admission.room.items:
            self.admission.pump()
        if self.running.then is not None:
            self.running.look_for_events(bool(self.admission.room.items))
        self._out.recount()

    def end_conversations(self) -> None:
        """Cancel the bodies of conversations that are over, even if they have not read the messages before the end."""
        for call in list(self.running.calls):
            if call.channel is not None and call.channel.closed:
                call.channel.notice_end()

    def cancel_requests_on(self, h: int, reason: object) -> None:
        """Cancel the handlers of requests that came on channel ``h``, which is over: nobody waits for them."""
        if self.running.on_channels:
            for call in [call for call in self.session.active.values() if call.ctx.inbound.h == h]:
                if not call.is_current:
                    call.cancel(reason)

    def cancel(self, i: int, reason: object) -> bool:
        """Cancel request ``i``: the remote peer no longer waits for it. Return False if there is no such request."""
        call = self.session.active.get(i)
        if call is None:
            return self.admission.cancel(i) or self.session.channels.request_cancelled(i, reason)
        call.cancel(reason)
        return True

    # ------------------------------------------------------------ failing

    def reject(self, i: int, error: RpcError, /) -> None:
        """Reject request ``i``."""
        self.answers.reject(i, error)

    def count(self, kind: str, text: object, times: int = 1, /) -> None:
        """Count events that do not reach a handler as they came."""
        self.answers.count(kind, text, times)

    def _failed(self, ctx: Invocation, exc: BaseException, call: Call | None = None, *, quiet: bool = False) -> None:
        """Reject the request of a handler that raised ``exc``, or end its channel. Log what the caller must not get.

        Args:
            call: the handler's task. None if it was called inline, or if there is no handler.
            quiet: nobody waits for an answer. Of a ``call`` that is known anyway.
        """
        channel = None if call is None else call.channel
        if ctx.anonymous is not None and channel is None:
            ctx.anonymous.close()  # the caller never hears of it
        if (self._out.broken and isinstance(exc, (ConnectionLost, ChannelClosed))) or (
            call is not None and call.notices_end(exc)
        ):
            # It has not failed: its connection or channel is ending, which it noticed before it was cancelled.
            self.answers.log(logging.INFO, "%s was left: %s", ctx.label, exc)
            return
        if isinstance(exc, BadResult) and channel_of(exc) is channel is not None:
            # What the caller sent does not fit. It is no `BadArguments`, which says that the handler did not run.
            exc = made_here(RemoteError(str(exc), BAD_ITEM))
        error = self.answers.for_caller(exc, ctx.label)
        if ctx.id is None:
            self._event_failed(ctx, exc, error)
        elif call is not None and channel is not None:
            self._channel_answers.failed(call, error)
        elif not quiet and (call is None or not call.orphaned):
            if isinstance(exc, UnknownEvent) and is_made_here(exc) and not self._crosses_an_end(ctx):
                self.invoker.note_unknown(ctx, exc)
            self.answers.reject(ctx.id, error)

    def _event_failed(self, ctx: Invocation, exc: BaseException, error: RpcError) -> None:
        """Log and count an event whose handler raised ``exc``, or that has none. No caller would get ``error``."""
        if ctx.inbound.c == RAW:
            self.answers.reporter.tell("error", error if isinstance(error, BadArguments) else exc)
        if isinstance(error, BadArguments):
            text = f"event {short(ctx.event or ctx.label)} was dropped: {text_for_log(error)}"
            self.count("wrong arguments", text)
        elif isinstance(exc, UnknownEvent) and is_made_here(exc):
            if not self._crosses_an_end(ctx):
                self.count("unknown event", self.invoker.for_log(ctx, error))
        elif error is exc:
            self.answers.log(logging.ERROR, "handling %s failed: %s", ctx.label, error)

    def _crosses_an_end(self, ctx: Invocation) -> bool:
        """Return whether a message without a handler is about items of a named channel that have come to their end.

        A consumer's ``stop`` may cross the producer's end, and a producer's ``next`` a consumer that has left.
        """
        channel = ctx.channel_name
        if channel is None or ctx.inbound.h is not None:
            return False
        if ctx.event == "stop":
            return self._own.has(channel, "start") or self._shared.has(channel, "start")
        return ctx.event == "next" and channel in self.admission.readers.read_before
