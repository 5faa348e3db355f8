"""One call of a handler: `Invocation` for the code of wsrpc, `Context` for the handler itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

import msgspec
from msgspec import UNSET

from .._base.names import RAW
from .._base.scheduler import Scheduler
from .._base.state import PeerState
from .._protocol.messages import WireMessage
from .._protocol.rejections import bounded_reason
from .._streams.reader import Upload
from .._streams.stream import Stream
from ..errors import BadArguments, BadResult, ChannelClosed, bad_item, made_here
from .introspection import injectable
from .observation import Message

if TYPE_CHECKING:
    from .._channels import core
    from .._channels.anonymous import AnonymousChannel
    from .._peer.peer import Peer
    from .._server.server import Server

__all__ = ["CURRENT", "Call", "Context", "Invocation", "Runner", "current_context"]


class Runner(Protocol):
    """Part of a peer that runs handlers: what the layers around a handler need of it. Implemented by `Dispatcher`."""

    loop: Scheduler

    async def call(self, invocation: Invocation, call: Call, /) -> Any:
        """Call a handler within its task, when it may start, and do what `finish` does with the result."""

    async def finish(self, invocation: Invocation, result: Any, /, *, thread: bool = False) -> Any:
        """Await or stream what a handler has returned, as it needs, and return the result.

        ``thread``: it blocks while it makes an item.
        """

    async def serve(self, invocation: Invocation, work: Any, /) -> Any:
        """Answer with a channel, then await ``work``, or send the items that it produces. Return its result."""

    async def may_start(self, invocation: Invocation, /) -> None:
        """Wait while no handler may start. Raise CancelledError if the session has ended."""

    def expire(self, invocation: Invocation, seconds: float, /) -> None:
        """Cancel a handler that has run for ``seconds``, and reject its request."""

    def lane(self, key: Hashable, /) -> asyncio.Lock:
        """Return the lock of the handlers that run one after another."""


Call = Callable[["Invocation", list[Any]], Any]
"""Calls a handler with its invocation and the event and its arguments, as they arrived."""


@injectable()
class Invocation(msgspec.Struct, eq=False):
    """One inbound event or request, and its handler, which sees it as its `Context`.

    `started`, `cancelled` and `exited` become True in this order, except that it may be cancelled before the task has
    begun, or never. What is `orphaned` is also cancelled.

    If the request is answered with a channel, `served` is set then, and the invocation `counts_as_channel` until that
    channel is over. A request without a channel is answered when its handler exits: with its result or its exception,
    with a rejection if it was cancelled and the handler raised CancelledError, or not at all if it is orphaned.
    """

    peer: Peer
    inbound: WireMessage
    runner: Any = None
    """The `Runner` of the handler, and below the `Session` in which the message came. None for lifecycle handlers,
    which no message calls."""
    session: Any = None
    size: int = 0
    """Bytes of the message."""
    message: Message | None = None
    """The message as `message` handlers see it, if there is one that observes."""
    handler: Any = None
    """The `Handler` of the message. None if there is none."""
    shown: ref[Context] | None = None
    anonymous: core.ChannelCore | None = None
    """The channel that the handler has made, or that answers its request."""
    user_channel: AnonymousChannel | None = None
    """The object for that channel that the handler holds, once it has asked for it."""
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
    served: core.ChannelCore | None = None
    """The channel with which the request was answered, and on which the handler runs."""
    bytes_on_channel: bool = False
    """The bytes count as held by a channel, not by a handler. True from the start if the handler is known to open
    one."""
    counts_as_channel: bool = False
    """It counts as an open channel, not as a running handler. If the channel ends before the handler exits, it counts
    as a handler again."""
    exited: bool = False

    @property
    def channels(self) -> core.ChannelTable | None:
        """The channels of the session in which the message came. None for lifecycle handlers."""
        return None if self.session is None else self.session.channels

    @property
    def context(self) -> Context:
        """The object that the user's code gets; the same one for as long as anybody holds it.

        A `Context` holds its invocation. The other direction is weak, or each call would be a reference cycle.
        """
        shown = None if self.shown is None else self.shown()
        if shown is None:
            shown = Context(self)
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

    def channel(self) -> AnonymousChannel:
        """Return the channel that `Context.channel` returns, and raise what it raises."""
        if self.user_channel is None:
            channel = self.answer_channel()
            user_channel: AnonymousChannel = channel.table.for_user(channel)
            self.user_channel = user_channel
        return self.user_channel

    def answer_channel(self) -> core.ChannelCore:
        """Return the channel that may answer the request; it counts as open from now on."""
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

    def read_items(self, convert: Callable[[Any], Any], parameter: str) -> Stream[Any]:
        """Return the stream of items that the caller sends with ``send=``, for the parameter of that name."""
        channel = self.answer_channel()
        self.upload = channel.upload()

        def misfit(exc: msgspec.ValidationError) -> BadResult:
            # With the channel, so that the caller gets the error if the handler lets it through.
            return bad_item(f"{self.event}(): an item of {parameter!r}: {exc}", channel)

        return Stream(self.event, convert, reading=self.upload, misfit=misfit)

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
        i, active = self.inbound.i, self.session.active
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


@injectable(attrgetter("context"))
class Context(msgspec.Struct, eq=False, weakref=True):
    """The event or request that a handler is handling.

    To get this object, annotate a parameter of the handler with the class, or call `current_context`.
    """

    _invocation: Invocation

    @property
    def peer(self) -> Peer:
        """The peer that sent the message."""
        return self._invocation.peer

    @property
    def cancel_reason(self) -> Any:
        """Why the handler was cancelled, or its generator was closed. Otherwise None.

        If the remote peer cancelled the request or left a stream early, the reason is the argument of
        ``task.cancel(reason)`` on the remote peer, or a `RemoteError` with the message "Request aborted". If the
        session ended, the reason is a `ConnectionLost`, or a `SessionLost` if the session was kept after a drop and did
        not resume. If the handler reached its time limit, the reason is a `HandlerTimeout`.
        """
        return self._invocation.cancel_reason

    @property
    def message(self) -> Message | None:
        """The `Message`, if there is a ``message`` handler. Otherwise None."""
        return self._invocation.message

    @property
    def event(self) -> str:
        """The name of the event. Empty for a raw message; ``args`` then contains only this message."""
        return self._invocation.event

    @property
    def id(self) -> int | None:
        """The id of the request. None for an event, which has no response."""
        return self._invocation.id

    @property
    def channel_name(self) -> str | None:
        """The name of the channel. None on the main channel and on anonymous channels."""
        return self._invocation.channel_name

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments as they arrived. Middleware can set other arguments."""
        return tuple(self._invocation.inbound.a[1:])

    @args.setter
    def args(self, args: Sequence[Any]) -> None:
        self._invocation.inbound.a[1:] = args

    @property
    def state(self) -> PeerState:
        """The state of the peer, which is the same as `Peer.state`."""
        return self._invocation.peer.state

    @property
    def server(self) -> Server:
        """The server of the peer.

        Raises:
            RuntimeError: the handler belongs to a client.
        """
        return self._invocation.peer.server

    def channel(self) -> AnonymousChannel:
        """Create an anonymous channel for the caller. Register handlers on it, then return the channel from the
        handler.

        Each call within one handler returns the same channel. You can send on the channel after the response that opens
        it has been sent. If the handler returns something else, the channel is closed, and the caller does not get it.

        Raises:
            BadArguments: the message is an event, which has no response.
            RemoteError: the remote peer has as many channels open as `Limits.channels` allows. If the handler does not
                catch this error, the caller gets it, with the code ``"wsrpc.too_many_channels"``.
        """
        return self._invocation.channel()

    @property
    def label(self) -> str:
        """The event as log lines show it, such as ``chat:say #7``."""
        return self._invocation.label

    def __repr__(self) -> str:
        return f"<Context {self.label} of {self.peer!r}>"


CURRENT: ContextVar[Invocation] = ContextVar("wsrpc_current")


def current_context() -> Context:
    """Return the context of the running handler. Also works in tasks that the handler has started.

    Raises:
        RuntimeError: called outside of a handler.
    """
    try:
        return CURRENT.get().context
    except LookupError:
        raise RuntimeError("no handler is running here: current_context() works inside handlers") from None
