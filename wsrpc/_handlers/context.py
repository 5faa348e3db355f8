"""One call of a handler: `Invocation` for the code of wsrpc, `Context` for the handler itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from weakref import ref

import msgspec
from msgspec import UNSET

from .._base.names import RAW
from .._base.state import PeerState
from .._protocol.messages import WireMessage
from .._streams.inbox import Upload
from .._streams.stream import Stream
from ..errors import BadArguments, BadResult, bad_item, made_here
from .introspection import injectable
from .observation import Message

if TYPE_CHECKING:
    from .._channels import core, table
    from .._channels.anonymous import AnonymousChannel
    from .._peer.peer import Peer
    from .._server.server import Server

__all__ = ["CURRENT", "Context", "Invocation", "current_context"]


@injectable()
class Invocation(msgspec.Struct, eq=False):
    """One inbound event or request while its handler runs. The handler sees it as its `Context`."""

    peer: Peer
    inbound: WireMessage
    channels: table.ChannelTable | None = None
    """The channels of the session in which the message came. None for lifecycle handlers, which no message calls."""
    message: Message | None = None
    """The message as `message` handlers see it, if there is one that observes."""
    cancel_reason: Any = None
    anonymous: core.ChannelCore | None = None
    """The channel that the handler has made, or that answers its request."""
    user_channel: AnonymousChannel | None = None
    """The object for that channel that the handler holds, once it has asked for it."""
    upload: Upload | None = None
    """Reads the items that the caller sends, if the handler has a parameter for them."""
    shown: ref[Context] | None = None
    call: Any = None
    """The `Call` of a coroutine function that was started without one, and has waited since then."""

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
