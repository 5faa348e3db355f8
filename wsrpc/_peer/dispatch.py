"""Inbound requests and events: starting their handlers, answering, cancelling, keeping within bounds."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from .._base.names import RAW, RESERVED_EVENTS
from .._base.scheduler import EAGER
from .._channels.anonymous import AnonymousChannel
from .._channels.core import ChannelCore, ChannelState
from .._channels.readers import FOR_READERS, Readers
from .._channels.source import as_source
from .._channels.table import TOO_MANY
from .._handlers.compiled import Handler
from .._handlers.context import CURRENT, Invocation
from .._handlers.lifecycle import Closers, Reporter
from .._handlers.observation import Observation
from .._handlers.registry import Registry
from .._protocol.messages import Inbound, Resolution
from .._protocol.rejections import ABORTED, BAD_ITEM, bounded_reason
from .._sending.requests import Requester
from ..errors import (
    BadArguments,
    BadResult,
    ChannelClosed,
    ConnectionLost,
    Overloaded,
    RemoteError,
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
from .channel_handlers import ChannelHandlers, notices_end
from .running import SLOW_HANDLER, Invoker, Log, when_over
from .session import Call, Session, SessionState

__all__ = ["Calls"]

OVER = SessionState.OVER

_PLAIN = frozenset({int, str, bool, float, bytes, list, dict, tuple, type(None)})
"""Result types that are not awaitable, known without asking."""

MOST_CLASSES = 1024


class Calls:
    """All inbound calls of one peer.

    ``running`` counts handlers that run in tasks until they exit, cancelled or not, and ``held`` the bytes of the
    messages that they were called by; ``admission`` is asked before, and told of what ends. Open streams and
    conversations may last, so nothing waits for them: their bytes are in ``held_by_channels``, and a call that would
    bring too many is refused.
    """

    def __init__(
        self,
        peer: Any,
        own: Registry,
        shared: Registry,
        *,
        limits: Limits,
        expose_errors: bool | Callable[[BaseException], bool],
        requester: Requester,
        readers: Readers,
        reporter: Reporter,
        ignored: Counter[str],
        fail: Callable[[int, str], None],
        log: Log,
    ) -> None:
        """
        Args:
            peer: the public object, for contexts.
            own, shared: the peer's handlers, and the server's.
            ignored: counts what reaches no handler.
            fail: ends the connection with a code and a reason.
        """
        self._peer = peer
        self._reporter = reporter
        self._log = log
        self._own = own
        self._shared = shared
        self._limits = limits
        self._requester = requester
        out = requester.out
        self._reply = out.reply
        self._out = out
        self._loop = loop = out.loop
        self.ignored = ignored
        self.invoker = Invoker(
            own,
            shared,
            loop,
            log,
            limits.handler,
            serve=lambda call, work: self._channel_handlers.run(call, work),
            expired=self._expired,
        )
        self._answers = Answers(out, log=log, expose_errors=expose_errors, fail=fail)
        self.reject = self._answers.reject
        # Dicts and not sets, here and elsewhere, because an empty one is a third of the size, and peers are many.
        self._values: dict[type, None] = {}
        """Classes of results that are simply values."""
        self._started: dict[Call, None] = {}
        self.running = 0
        self.held = 0
        self.held_by_channels = 0
        self._most_held = limits.running_bytes
        self.readers = readers
        self.admission = Admission(self, limits, out, readers=readers, fail=fail, log=log)
        self._made_channel_handlers: ChannelHandlers | None = None
        """None until the first handler answers with a channel."""
        self.arrived = self.admission.arrived
        self.session: Session
        """The present session, or the last one."""
        self.active: dict[int, Call] = {}
        """That session's."""
        self._context: contextvars.Context
        """Each handler runs in a copy of it: what it sets is seen by nobody else."""
        self._unstarted = 0
        self._mark: float | None = None

    def begin(self, session: Session) -> None:
        """Take the calls of ``session`` from now on, and run their handlers in copies of the present context."""
        self.session = session
        self.active = session.active
        self.readers.session_started(self.admission)
        self._context = contextvars.copy_context()

    @property
    def _channel_handlers(self) -> ChannelHandlers:
        if self._made_channel_handlers is None:
            self._made_channel_handlers = ChannelHandlers(
                self._limits, self._requester, self, self._answers, self.readers
            )
        return self._made_channel_handlers

    # ------------------------------------------------------------ starting

    @property
    def unfinished(self) -> int:
        """Handlers that run in tasks, whatever their request was answered with."""
        return len(self._started)

    def tasks(self, closers: Closers | None = None) -> set[asyncio.Task[None]]:
        """The tasks in which handlers run, besides those of ``closers``."""
        tasks = ((call.task, call.ctx) for call in self._started if call.task is not None)
        return {task for task, ctx in tasks if closers is None or not closers.cover(task, ctx)}

    def channels(self, closers: Closers) -> set[ChannelCore]:
        """The anonymous channels on which handlers of ``closers`` run."""
        calls = (call for call in self._started if call.task is not None and closers.cover(call.task, call.ctx))
        return {call.channel for call in calls if call.channel is not None}

    def is_awaited(self, ctx: Invocation | None) -> bool:
        """Whether ``ctx`` is that of a handler which runs here and for which the other side waits."""
        if ctx is None or ctx.id is None:
            return False
        calls = (call for call in self._started if call.ctx is ctx)
        return any(
            not (call.cancelled or call.orphaned) and (call.channel is None or not call.channel.closed)
            for call in calls
        )

    def run_in_tasks(self, always: bool) -> None:
        """Run plain functions in tasks, too, so that it is known which handlers run; or as ever again."""
        self._unstarted += 1 if always else -1  # they queue up behind one that never starts

    def make_channel(self, i: int) -> ChannelCore:
        """Make the channel that may answer request ``i``."""
        return self.session.channels.make(i)

    def show_channel(self, channel: ChannelCore) -> AnonymousChannel:
        """Return a channel as its user holds it."""
        return AnonymousChannel(channel)

    def dispatch(
        self,
        message: Inbound,
        payload: bytes | bytearray,
        view: Observation | None = None,
        channel: ChannelCore | None = None,
    ) -> None:
        """Run the handler now: inline if it can be, else in a task. ``payload`` is the message, encoded.

        An anonymous ``channel`` may be over by now, if the message came before that.
        """
        a = message.a
        own = self._own
        shared = self._shared
        local = None
        if channel is None:
            handler = own.take(message.c, a[0]) if own.used else None
            if handler is None:
                handler = shared.take(message.c, a[0])
        else:
            local = channel.registry
            handler = local.take(message.h, a[0])
        ctx = Invocation(self._peer, message, self, view)
        if (
            handler is None
            or not handler.inline
            or self._unstarted
            or own.layered
            or shared.layered
            or (local is not None and local.layered)
        ):
            self._dispatch_slowly(ctx, len(payload), handler, local)
            return
        since = self._mark
        if since is None:
            since = self._mark = self._loop.time()
        session = self.session
        context = self._context.copy()
        context.run(CURRENT.set, ctx)
        try:
            result = context.run(handler.call, ctx, a)
            if result.__class__ in _PLAIN or not self._goes_on(result):
                if message.i is not UNSET:
                    made = ctx.anonymous
                    if session.state is OVER:
                        if made is not None:
                            made.close()
                    elif made is None:
                        out = self._out  # as `_answer`, one call less
                        out.reply(out.terms.encode(Resolution(message.i, result)))
                    else:
                        self._answer(ctx, result)
            else:
                self._start(ctx, len(payload), handler, result)
                return
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            handler.taken = False  # if its arguments did not fit, the next message may have it
            # The handler may have ended the connection itself: the next one has nothing to do with its answer.
            self._failed(ctx, exc, quiet=session.over)
        if view is not None:
            view.finish()
        now = self._loop.time()
        if now - since > SLOW_HANDLER:
            self.invoker.check_duration(handler, now - since)
        self._mark = now

    def _dispatch_slowly(self, ctx: Invocation, size: int, handler: Handler | None, local: Registry | None) -> None:
        if (
            handler is None
            and local is None
            and ctx.id is None
            and self.readers.has_readers(ctx.channel_name, ctx.event)
        ):
            handler = FOR_READERS
        if local is None and ctx.channel_name is None and ctx.event in RESERVED_EVENTS:
            self.ignored["reserved event"] += 1
            ctx.finish()
        elif handler is None and not self.invoker.layered and (local is None or not local.layered):
            self._failed(ctx, self.invoker.unknown(ctx))
            ctx.finish()
        elif handler is None or not handler.gives_channel or ctx.id is None:
            self._start(ctx, size, handler, None, local)
        elif self.session.channels.full or self._too_large_for_channel(size):
            # Before anything of the call runs, middleware included: `Overloaded` says that nothing did.
            handler.taken = False
            channels = self.session.channels
            self.reject(ctx.id, Overloaded(channels.too_many if channels.full else self._too_many_bytes))
            ctx.finish()
        else:
            ctx.answer_channel()  # has its place from now on
            self._start(ctx, size, handler, None, local, by_channel=True)

    def _too_large_for_channel(self, size: int) -> bool:
        return self.held_by_channels > 0 and self.held_by_channels + size > self._most_held

    @property
    def _too_many_bytes(self) -> str:
        return (
            f"the messages that opened channels which are still open take {self.held_by_channels} bytes, "
            f"{self._most_held} may be taken (Limits.running_bytes), close some"
        )

    def _goes_on(self, result: object) -> bool:
        """Whether there is more to do with what a handler returned: await it, or stream it."""
        cls = result.__class__
        if cls in self._values:
            return False
        if hasattr(result, "__await__") or as_source(result) is not None:
            return True
        if len(self._values) < MOST_CLASSES:
            self._values[cls] = None
        return False

    def _answer(self, ctx: Invocation, result: Any) -> None:
        channel = ctx.anonymous
        if channel is None:
            self._reply(self._out.terms.encode(Resolution(ctx.inbound.i, result)))
        elif result is ctx.user_channel:
            channel.deliver()
        else:
            channel.close()  # the requestor never hears of it
            self._reply(self._out.terms.encode(Resolution(ctx.inbound.i, result)))

    def read_ended(self) -> None:
        """The next handler's time starts with the next read."""
        self._mark = None

    def _start(
        self,
        ctx: Invocation,
        size: int,
        handler: Handler | None,
        result: Any = None,
        local: Registry | None = None,
        by_channel: bool = False,
    ) -> None:
        session = self.session
        call = Call(ctx, handler, size, session, by_channel)
        message = ctx.inbound
        if message.i is not UNSET:
            session.active[message.i] = call
            if message.h is not None:
                session.on_channels += 1
        self._started[call] = None
        self.running += 1
        if by_channel:
            self.held_by_channels += size
        else:
            self.held += size
        self.admission.busy = True
        if not EAGER:
            self._unstarted += 1
        context = self._context.copy()
        context.run(CURRENT.set, ctx)
        call.task = context.run(self._loop.spawn, self._run(call, result, local))
        self._mark = None  # the first step may have run, and is nobody else's time
        if call.cancelled and not call.task.done():  # in its first step, where that runs at once
            call.task.cancel(bounded_reason(ctx.cancel_reason))

    # ------------------------------------------------------------ running

    async def _run(self, call: Call, result: Any, local: Registry | None) -> None:
        """``result``: what the handler gave when it was called, if it was and there is more to do."""
        call.started = True
        if not EAGER:
            # Until here, plain functions that came later had to queue up behind this first step.
            self._unstarted -= 1
        ctx = call.ctx
        try:
            if call.cancelled:
                if asyncio.iscoroutine(result):
                    result.close()
                raise asyncio.CancelledError(bounded_reason(ctx.cancel_reason))
            handler = call.handler
            if result is not None:
                result = await self.invoker.finish(call, result)
            elif handler is not None and handler.bare and local is None and not self.invoker.layered:
                coroutine = handler.call(ctx, ctx.inbound.a)
                limited = handler.timeout is not UNSET or self.invoker.limit is not None
                result = await (self.invoker.finish(call, coroutine) if limited else coroutine)
            else:
                result = await self.invoker.run(call, local)
            if result.__class__ not in _PLAIN and call.channel is None and as_source(result) is not None:
                result = await self.invoker.finish(call, result)
            if call.channel is not None:
                self._channel_handlers.conclude(call, result)
            elif call.cancelled and ctx.anonymous is not None:
                raise asyncio.CancelledError(bounded_reason(ctx.cancel_reason))  # nobody would know of the channel
            elif ctx.inbound.i is not UNSET and not call.orphaned:
                self._answer(ctx, result)
        except asyncio.CancelledError as exc:
            if call.cancelled:
                if ctx.id is not None and not call.orphaned and call.channel is None:
                    # Whoever cancelled has stopped waiting; the rejection tells others on the line.
                    self.reject(ctx.id, RpcError(ABORTED))
            elif call.task is not None and call.task.cancelling():
                # Not our doing: the loop is being shut down.
                raise
            else:
                self._failed(ctx, exc, quiet=call.orphaned, call=call)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            if isinstance(exc, GeneratorExit) and not _runs(call):
                raise  # the coroutine is thrown away, with its event loop
            self._failed(ctx, exc, quiet=call.orphaned, call=call)
        finally:
            if call.thread is None:
                self._exited(call)
            else:
                when_over(call.thread, lambda: self._exited(call))

    # ------------------------------------------------------------ ending

    def _exited(self, call: Call) -> None:
        self._started.pop(call, None)
        if call.handler is not None:
            call.handler.taken = False  # if it was not called, the next message may have it
        if call.by_channel:
            self.held_by_channels -= call.size
        else:
            self.held -= call.size
        if call.channel is None or call.lingers:
            self.running -= 1
        call.exited = True
        if call.channel is not None:
            self._channel_handlers.exited(call)
        ctx = call.ctx
        if ctx.anonymous is not None and ctx.anonymous.state is ChannelState.NEW:
            ctx.anonymous.close()
        self._settled(call)
        if ctx.observation is not None:
            ctx.observation.finish()
        if not self.active:
            self.admission.update()
        if self.admission.room.items:
            self._pump()

    def _settled(self, call: Call) -> None:
        """Its request is not one that awaits its answer, or not any more."""
        message, session = call.ctx.inbound, call.session
        if session.active.get(message.i) is call:
            del session.active[message.i]
            if message.h is not None:
                session.on_channels -= 1

    def check_room(self, call: Call) -> None:
        """See that the bytes of a call may count as a channel's.

        Raises:
            RemoteError: they would be too many. It does not say that the handler did not run.
        """
        if not call.by_channel and self._too_large_for_channel(call.size):
            raise made_here(RemoteError(self._too_many_bytes, TOO_MANY))

    def answered(self, call: Call) -> None:
        """A channel is the answer: what goes on counts as that from here on (``Limits.channels``)."""
        if not call.by_channel:
            self._move_bytes(call, by_channel=True)
        self._settled(call)
        self.running -= 1
        call.ctx.finish()
        self.admission.update()
        if self.admission.room.items:
            self._loop.call_soon(self._pump)  # after the first step of what runs on the channel, which came before

    def lingers(self, call: Call) -> None:
        """Its channel is over and makes room for the next one, while what ran on it may take time to exit."""
        call.lingers = True
        self.running += 1
        self._move_bytes(call, by_channel=False)
        self.admission.update()

    def _move_bytes(self, call: Call, *, by_channel: bool) -> None:
        call.by_channel = by_channel
        self.held_by_channels += call.size if by_channel else -call.size
        self.held -= call.size if by_channel else -call.size

    def _pump(self) -> None:
        if self.admission.room.items:
            self.admission.pump()
            self._mark = None  # what was started is nobody else's time

    def cancel_call(self, call: Call, reason: object) -> None:
        """End a call whose channel is over, unless it has itself ended that, or whose items nobody wants."""
        if not call.cancelled and not (call.channel is not None and call.channel.left and _runs(call)):
            call.orphaned = True
            self._cancel(call, reason)

    def end_conversations(self) -> None:
        """Cancel the bodies of conversations that are over and were given time to read what came before the end."""
        for call in list(self._started):
            if call.channel is not None and call.channel.closed:
                call.channel.mailbox.notice_end()

    def channel_over(self, h: int, reason: object) -> None:
        """Nobody waits for what was requested on anonymous channel ``h``."""
        if self.session.on_channels:
            for call in [call for call in self.active.values() if call.ctx.inbound.h == h]:
                if not call.cancelled and not _runs(call):
                    self._cancel(call, reason)

    def cancel(self, i: int, reason: object) -> bool:
        """The other side no longer waits for request ``i``; False if nothing of that id is there."""
        call = self.active.get(i)
        if call is None:
            return self.admission.cancel(i)
        if not call.cancelled:
            self._cancel(call, reason)
        return True

    def _cancel(self, call: Call, reason: object) -> None:
        call.cancelled = True
        call.ctx.cancel_reason = reason
        if call.started and call.task is not None:
            # A task that has not begun would end without a word; it looks for itself when it begins.
            call.task.cancel(bounded_reason(reason))

    def _expired(self, call: Call, error: RpcError) -> None:
        """Cancel a handler, and answer now: it may take its time to exit, or go on."""
        self._cancel(call, error)
        i = call.ctx.id
        if i is not None:
            self._settled(call)
            call.orphaned = True
            self.reject(i, error)

    def end_session(self, session: Session, reason: Exception) -> None:
        """Cancel the handlers of requests: nobody can get their answer. Handlers of events finish."""
        for call in list(session.active.values()):
            call.orphaned = True
            if not call.cancelled:
                self._cancel(call, reason)
        session.active.clear()
        self.admission.end_session()

    def note(self, text: str, /, *args: object) -> None:
        self._log(logging.INFO, text, *args)

    def _failed(self, ctx: Invocation, exc: BaseException, quiet: bool = False, call: Call | None = None) -> None:
        """Log what is not meant for the caller, answer what is."""
        if ctx.anonymous is not None and (call is None or call.channel is None):
            ctx.anonymous.close()  # the requestor never hears of it
        if (self._out.broken and isinstance(exc, (ConnectionLost, ChannelClosed))) or notices_end(call, exc):
            # It has not failed: its connection or channel is ending, which it noticed before it was cancelled.
            self.note("%s was left: %s", ctx.label, exc)
            return
        if isinstance(exc, BadResult) and call is not None and channel_of(exc) is call.channel is not None:
            # What the caller sent does not fit. It is no `BadArguments`, which says that the handler did not run.
            exc = made_here(RemoteError(str(exc), BAD_ITEM))
        error = self._answers.for_caller(exc, ctx.label)
        if ctx.id is None:
            if ctx.inbound.c == RAW:
                self._reporter.tell("error", error if isinstance(error, BadArguments) else exc)
            if isinstance(error, BadArguments):
                why = text_for_log(error)
                text = f"event {short(ctx.event or ctx.label)} was dropped: {why}"
                self.count("wrong arguments", text)
            elif isinstance(exc, UnknownEvent) and is_made_here(exc):
                if not self._crosses_an_end(ctx):
                    self.count("unknown event", self.invoker.for_log(ctx, error))
            elif error is exc:
                self._log(logging.ERROR, "handling %s failed: %s", ctx.label, error)
        elif call is not None and call.channel is not None:
            self._channel_handlers.failed(call, error)
        elif not quiet:
            if isinstance(exc, UnknownEvent) and is_made_here(exc):
                self.invoker.note_unknown(ctx, exc)
            self.reject(ctx.id, error)

    def _crosses_an_end(self, ctx: Invocation) -> bool:
        """Whether an event that nobody handles is about items of a named channel that have come to their end.

        A consumer's ``stop`` may cross the producer's end, and that a consumer which has left.
        """
        channel = ctx.channel_name
        if channel is None or ctx.inbound.h is not None:
            return False
        if ctx.event == "stop":
            return self._own.has(channel, "start") or self._shared.has(channel, "start")
        return ctx.event == "next" and channel in self.readers.read_before

    def count(self, kind: str, text: object, times: int = 1, /) -> None:
        """Count events that do not reach a handler as they came; the first of a kind is worth a line."""
        if times and not self.ignored[kind]:
            self._log(logging.WARNING, "%s (further ones are only counted in peer.ignored)", text)
        self.ignored[kind] += times


def _runs(call: Call) -> bool:
    """Whether the call's task is the one that runs now; in an eager first step it is not known yet."""
    try:
        return call.task is None or asyncio.current_task() is call.task
    except RuntimeError:
        return False
