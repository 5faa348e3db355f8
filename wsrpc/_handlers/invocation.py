"""`Invocation`: one call of a handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar
from weakref import ref

import msgspec
from msgspec import UNSET

from .._base.names import RAW
from .._protocol.counting import memory_of
from .._protocol.messages import WireMessage
from .._protocol.rejections import bounded_reason
from .._streams.inbox import Upload
from ..errors import BadArguments, ChannelClosed, made_here
from .observation import Message

__all__ = ["CURRENT", "Call", "Invocation"]

C = TypeVar("C")


class Invocation(msgspec.Struct, eq=False):
    """One inbound event or request, and its handler.

    The classes of what it holds for users lie in higher layers, and so do those of channels and sessions.

    `started`, `cancelled` and `exited` become True in this order, except that it may be cancelled before the task has
    begun, or never. What is `orphaned` is also cancelled.

    If the request is answered with a channel, `served` is set then, and the invocation `counts_as_channel` until that
    channel is over. A request without a channel is answered when its handler exits: with its result or its exception,
    with a rejection if it was cancelled and the handler raised CancelledError, or not at all if it is orphaned.
    """

    context_class: ClassVar[type[Any]]
    """The class of `context`; see `shows`."""
    stream_class: ClassVar[type[Any]]
    """The class `Stream`, through which handlers read what their callers send."""

    peer: Any
    """The `Peer` that the message came from."""
    inbound: WireMessage
    runner: Any = None
    """The `Dispatcher` of the session in which the message came, which runs the handler. None for lifecycle handlers,
    which no message calls."""
    size: int = 0
    """Bytes of the message."""
    message: Message | None = None
    """The message as `message` handlers see it, if there is one that observes."""
    handler: Any = None
    """The `Handler` of the message. None if no handler takes it."""
    shown: ref[Any] | None = None
    anonymous: Any = None
    """The `ChannelCore` of the channel that the handler has made, or that answers its request."""
    user_channel: Any = None
    """The `AnonymousChannel` for that channel that the handler holds, once it has asked for it."""
    upload: Upload | None = None
    """Reads the items that the caller sends, if the handler has a parameter for them."""
    task: asyncio.Task[None] | None = None
    """Runs what the call of the handler has not finished. None before it was made, which an eager task's first step
    precedes."""
    counted: bool = False
    """It is among the running handlers. One that does not wait never is."""
    started: bool = False
    """The task has begun."""
    cancelled: bool = False
    """By the remote peer, by the end of the session or of the channel, or because it took too long."""
    cancel_reason: Any = None
    orphaned: bool = False
    """Nobody may get the answer: the connection that asked is gone, or the request has been answered already."""
    thread: asyncio.Future[Any] | None = None
    """Where a ``thread=True`` handler runs; it goes on after a cancellation."""
    lane: asyncio.Lock | None = None
    """Keeps other handlers of its lane waiting."""
    served: Any = None
    """The `ChannelCore` of the channel with which the request was answered, and on which the handler runs."""
    bytes_on_channel: bool = False
    """The bytes count as held by a channel, not by a handler. True from the start if the handler is known to open
    one."""
    counts_as_channel: bool = False
    """It counts as an open channel, not as a running handler. If the channel ends before the handler exits, it counts
    as a handler again."""
    exited: bool = False
    _memory: int | None = None

    @property
    def memory(self) -> int:
        """Bytes that its decoded message takes, about. It is measured when this is first asked for."""
        if self._memory is None:
            self._memory = memory_of(self.inbound.a)
        return self._memory

    @property
    def channels(self) -> Any:
        """The `ChannelTable` of the session in which the message came. None for lifecycle handlers."""
        return None if self.runner is None else self.runner.channels

    @classmethod
    def shows(cls, context_class: type[C]) -> type[C]:
        """Class decorator: `context` is an object of the class."""
        cls.context_class = context_class
        return context_class

    @property
    def context(self) -> Any:
        """The `Context` that the user's code gets; the same one for as long as anybody holds it.

        A context holds its invocation. The other direction is weak, or each call would be a reference cycle.
        """
        shown = None if self.shown is None else self.shown()
        if shown is None:
            shown = self.context_class(self)
            self.shown = ref(shown)
        return shown

    @property
    def event(self) -> str:
        name: str = self.inbound.a[0]
        return name

    @property
    def id(self) -> int | None:
        i = self.inbound.i
        return None if i is UNSET else i

    @property
    def channel_name(self) -> str | None:
        name = self.inbound.c
        return name if isinstance(name, str) else None

    @property
    def label(self) -> str:
        """The event in the words of a log line: ``chat:say #7``."""
        if self.inbound.c == RAW:
            return "a raw message"
        scope = self.inbound.c if self.inbound.h is None else self.inbound.h
        where = "" if scope is None else f"{scope}:"
        which = "" if self.id is None else f" #{self.id}"
        return repr(f"{where}{self.event}{which}")[1:-1]

    def answer_channel(self) -> Any:
        """Return the `ChannelCore` of the channel that may answer the request; it counts as open from now on."""
        if self.anonymous is None:
            if self.id is None or self.channels is None:
                text = f"{self.event!r} opens a channel, so it has to be requested, and came as an event"
                raise made_here(BadArguments(text))
            self.anonymous = self.channels.make(self.id, self.event)
        return self.anonymous

    def without_surplus(self, a: list[Any], most: int) -> list[Any]:
        """Cut ``a`` of an event to ``most`` values. That of a request is returned unchanged, to be rejected.

        JavaScript ignores arguments that a function has no parameter for. Nobody would tell the sender of an event that
        it was dropped, and an event that a new version sends with one more argument should still reach old handlers.
        """
        if self.inbound.i is not UNSET:
            return a
        if self.channels is not None:
            text = (
                f"event '{self.label}' came with {len(a) - 1} arguments and its handler takes {most - 1}, so it runs "
                "without the others"
            )
            self.channels.listener.count("surplus arguments", text)
        return a[:most]

    def read_items(self, convert: Callable[[Any], Any], parameter: str) -> Any:
        """Return the stream of items that the caller sends with ``send=``, for the parameter of that name."""
        self.upload = self.answer_channel().upload()
        return self.stream_class(self.event, convert, reading=self.upload, parameter=parameter)

    # ------------------------------------------------------------ while the handler runs

    @property
    def is_current(self) -> bool:
        """Whether its task is the one that runs now. In an eager first step it is not known yet."""
        try:
            return self.task is None or asyncio.current_task() is self.task
        except RuntimeError:
            return False

    def cancel(self, reason: object) -> None:
        """Cancel the handler, unless it is cancelled already."""
        if self.cancelled:
            return
        self.cancelled = True
        self.cancel_reason = reason
        if self.started and self.task is not None:
            # Cancelling a task that has not begun would leave its request without an answer. Its first step looks.
            self.task.cancel(bounded_reason(reason))

    def cancellation(self) -> asyncio.CancelledError:
        """Return the exception for a cancelled handler, where asyncio does not raise it."""
        return asyncio.CancelledError(bounded_reason(self.cancel_reason))

    def orphan(self, reason: object) -> None:
        """Cancel the handler, because nobody can get its answer."""
        self.orphaned = True
        self.cancel(reason)

    def settle(self) -> None:
        """Remove the request from those that await an answer, if it is one of them."""
        i, active = self.inbound.i, self.runner.active
        if active.get(i) is self:
            del active[i]

    def leave_lane(self) -> None:
        """Let the next handler of the lane run. Idempotent."""
        lane, self.lane = self.lane, None
        if lane is not None:
            lane.release()

    def notices_end(self, exc: BaseException) -> bool:
        """Return whether a conversation's body raised ``exc`` because the remote peer has ended its channel."""
        channel = self.served
        if channel is None or not channel.closed or channel.left:
            return False
        return exc is channel.error or (isinstance(exc, ChannelClosed) and exc.channel == str(channel.id))


CURRENT: ContextVar[Invocation] = ContextVar("wsrpc_current")

Call = Callable[[Invocation, list[Any]], Any]
"""Calls a handler with its invocation and the event and its arguments, as they arrived."""
