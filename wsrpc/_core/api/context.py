"""`Context`: the event or request that a handler handles, as users see it."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from ..._base.names import UNTYPED
from ..._base.state import PeerState
from ...errors import BadArguments, ItemsGone, made_here
from ..handlers.introspection import Injection, injections
from ..handlers.invocation import CURRENT, Earlier, InboxMessage, Invocation
from ..handlers.observation import Message
from ..wire.messages import context_of
from .caller import AnonymousChannel, user_channel_of
from .peer import Peer, core_of

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    from .annotations import Server

    T = TypeVar("T", default=Any)


@Invocation.shows
class Context(msgspec.Struct, eq=False, weakref=True):
    """The event or request that a handler is handling.

    To get this object, annotate a parameter of the handler with the class, or call `current_context`.

    When the handler exits, its message is dropped, unless this object is still in use. If a task that the handler has
    started calls `current_context` after that, ``args`` is empty, and ``message`` and ``cancel_reason`` are None.
    """

    _invocation: Invocation

    @property
    def peer(self) -> Peer:
        """The peer that sent the message."""
        peer: Peer = self._invocation.peer
        return peer

    @property
    def cancel_reason(self) -> Any:
        """Why the handler was cancelled, or its generator was closed. Otherwise None.

        If the remote peer cancelled the request or left a stream early, the reason is the argument of
        ``task.cancel(reason)`` on the remote peer, or a `RemoteError` with the message "Request aborted". If the
        session ended, the reason is a `ConnectionLost`, or a `SessionLost` if the session was kept after a drop and did
        not resume. If the handler reached its time limit, the reason is a `HandlerTimeout`. In the run of a call with
        a key, it is a `RemoteError` with the code ``"wsrpc.stopped"`` if somebody has stopped the run, or nobody has
        read it for ``unread`` seconds (`Keep`); and a `RunLost` if this process closes or has lost the run, with which
        another process may go on.
        """
        return self._invocation.cancel_reason

    @property
    def message(self) -> Message | None:
        """The `Message`, if there is a ``message`` handler. Otherwise None."""
        return self._invocation.view

    # The next properties read the message themselves, because functions that observe each call read each of them.

    @property
    def event(self) -> str:
        """The name of the event."""
        name: str = self._invocation.inbound.a[0]
        return name

    @property
    def is_handled(self) -> bool:
        """Whether the event has a handler or a reader. If not, the remote peer may have made up the name."""
        handler = self._invocation.handler
        return handler is not None and not handler.is_fallback

    @property
    def id(self) -> int | None:
        """The id of the request. None for an event, which has no response."""
        i = self._invocation.inbound.i
        return None if i is UNSET else i

    @property
    def channel_name(self) -> str | None:
        """The name of the channel. None on the main channel and on anonymous channels."""
        name = self._invocation.inbound.c
        return name if isinstance(name, str) else None

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments as they arrived. Middleware can set other arguments."""
        return tuple(self._invocation.inbound.a[1:])

    @args.setter
    def args(self, args: Sequence[Any]) -> None:
        self._invocation.inbound.a[1:] = args

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata that the caller has sent with the message (``metadata=``). Empty without metadata."""
        context = context_of(self._invocation.inbound)
        return MappingProxyType({} if context is None or context.metadata is UNSET else context.metadata)

    @property
    def remaining(self) -> float | None:
        """The seconds that are left to the caller for its call, not less than 0.

        None if the caller has set no limit: it has not passed ``timeout=``, and is not itself a handler whose time
        is limited in this way. When the time is over, the handler is cancelled. Calls that the handler makes have no
        more time than this, unless they pass ``timeout=None``. This does not apply to tasks that the handler has
        started. After the handler has answered with a stream or a channel, there is no limit any more.
        """
        invocation = self._invocation
        if invocation.deadline is None:
            return None
        return max(0.0, invocation.deadline - invocation.dispatcher.loop.time())

    @property
    def key(self) -> str | None:
        """The key of the call (``key=``), in the handler that runs for it. None in middleware, and without a key."""
        return None if self._invocation.keyed is None else self._invocation.keyed.key

    @property
    def attempt(self) -> int:
        """The number of this attempt of the run, 1 for the first; see ``attempts`` of `Keep`."""
        return 1 if self._invocation.keyed is None else self._invocation.keyed.attempt

    async def earlier(self) -> Earlier:
        """Return what the attempts before have yielded, for `Keep` with ``attempts``. Cancelling is safe."""
        keyed = self._invocation.keyed
        if keyed is None or keyed.read_earlier is None:
            return Earlier([], complete=True)
        return await keyed.read_earlier()

    async def skip_earlier(self, items: AsyncIterable[T]) -> AsyncGenerator[T]:
        """Yield items, but not those that the attempts before have yielded.

        It is for a handler that yields in each attempt what it yielded before, for example because it depends on its
        messages alone, which each attempt reads from the first.

        Raises:
            ItemsGone: it is unknown how many they were, because the store has lost them.
        """
        earlier = await self.earlier()
        if not earlier.complete:
            raise made_here(ItemsGone("the items of the attempts before are no longer kept"))
        skipped = len(earlier.items)
        try:
            async for item in items:
                if skipped:
                    skipped -= 1
                else:
                    yield item
        finally:
            if isinstance(items, AsyncGenerator):  # now, and not when Python collects it
                await items.aclose()

    def inbox(self, kind: TypeForm[T] = UNTYPED) -> AsyncIterator[InboxMessage[T]]:
        """Return the messages that `Stream.send` sends to this run, from the first one in each attempt.

        Each message is there once, in the order of arrival, and counts as read when the iterator returns it. There is
        one iterator for each attempt: another call of this method continues it. It never ends; cancelling a read is
        safe, and no message is lost.

        Args:
            kind: ``inbox`` of `Keep`, for type checkers.

        Raises:
            BadArguments: the call has no key.
            TypeError: the handler does not declare messages of this type.
        """
        invocation = self._invocation
        keep = None if invocation.handler is None else invocation.handler.keep
        if keep is None or keep.inbox is None or (kind is not UNTYPED and kind != keep.inbox):
            declared = "no inbox=" if keep is None or keep.inbox is None else f"inbox={keep.inbox!r}"
            raise TypeError(f"the handler gets messages as its Keep says, which has {declared}")
        if invocation.keyed is None or invocation.keyed.inbox is None:
            raise made_here(BadArguments(f"{self.event!r} needs a key, because its handler gets messages"))
        return invocation.keyed.inbox

    @property
    def readers(self) -> int | None:
        """The number of callers that read the result or the items of a call with a key. None without a key.

        Readers in this process that come and go are counted within a few seconds, and so are those in other processes.
        A process that was killed counts for `wsrpc.store.LEASE` seconds.
        """
        return None if self._invocation.keyed is None else self._invocation.keyed.readers

    @property
    def room(self) -> str | None:
        """The name of the room to whose members a server has emitted the event, if the room has a log."""
        return self._at[0]

    @property
    def position(self) -> str | None:
        """The position of the event in the log of its `room`. None without one."""
        return self._at[1] or None

    @property
    def _at(self) -> tuple[str, str] | tuple[None, None]:
        context = context_of(self._invocation.inbound)
        if context is None or context.at is UNSET or not core_of(self.peer).options.dialer:
            return None, None  # a client cannot say where its events are in a log
        return context.at

    @property
    def state(self) -> PeerState:
        """The state of the peer, which is the same as `Peer.state`."""
        return self.peer.state

    @property
    def server(self) -> Server:
        """The server of the peer.

        Raises:
            RuntimeError: the handler belongs to a client.
        """
        return self.peer.server

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
        return user_channel_of(self._invocation)

    @property
    def label(self) -> str:
        """The event as log lines show it, such as ``chat:say #7``."""
        return self._invocation.label

    def __repr__(self) -> str:
        return f"<Context {self.label} of {self.peer!r}>"


injections[Context] = Injection(attrgetter("context"))

CallNext = Callable[[Context], Awaitable[Any]]
"""Second argument of middleware: runs the next middleware or the handler, and returns its result."""
Middleware = Callable[[Context, CallNext], Awaitable[Any]] | Callable[[Context], Iterator[None]]
"""Function that runs around handlers: an ``async def``, or a ``def`` with one ``yield``; see `Router.use`."""


def current_context() -> Context:
    """Return the context of the running handler. Also works in tasks that the handler has started.

    Raises:
        RuntimeError: called outside of a handler.
    """
    context: Context = _current("current_context()").context
    return context


def current_peer() -> Peer:
    """Return the peer for which the current handler runs. Also works in tasks that the handler has started.

    Raises:
        RuntimeError: called outside of handlers and the tasks that they have started.
    """
    peer: Peer = _current("current_peer()").peer
    return peer


def _current(call: str) -> Invocation:
    try:
        return CURRENT.get()
    except LookupError:
        raise RuntimeError(f"no handler is running here: {call} works inside handlers") from None
