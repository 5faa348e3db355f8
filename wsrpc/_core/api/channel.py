"""Named channels: scopes of event names on one connection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakMethod

from ..._base.names import UNTYPED
from ...errors import ChannelClosed
from ..handlers.registry import Registry
from ..sending.sender import ReadingSender, RefusingSender
from .reading_caller import ReadingCaller
from .registration import Declarer
from .stream import Stream

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    T = TypeVar("T", default=Any)


class Channel(Declarer, ReadingCaller):
    """Named channel of one peer, with its own event names. `Peer.of` returns it.

    Emit events, send requests and register handlers on a channel in the same way as on a peer. A channel is only a name
    in messages, so nothing is sent when you open or close a channel.
    """

    __slots__ = ("_channel_name", "_closed", "_name", "_registry", "_remove", "_sender")

    def __init__(
        self, name: str, sender: ReadingSender, registry: Registry, remove: Callable[[str, object], None]
    ) -> None:
        """``remove`` is a method of the peer, which keeps this object."""
        self._channel_name = self._name = name
        self._sender = sender
        self._registry = registry
        self._remove = WeakMethod(remove)
        self._closed: ChannelClosed | None = None

    @property
    def name(self) -> str:
        """The name of the channel."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed is not None

    @property
    def close_reason(self) -> Any:
        """The reason that was passed to `close`."""
        return None if self._closed is None else self._closed.reason

    def close(self, reason: object = None) -> None:
        """Remove the channel's handlers and middleware on this side, and end its readers.

        The remote peer is not affected. Using the channel afterwards raises `ChannelClosed`; `Peer.of` with the same
        name returns a new channel. Calling `close` again has no effect.
        """
        if self._closed is None:
            self._closed = ChannelClosed(self._name, reason)
            self._sender = RefusingSender(partial(ChannelClosed, self._name, reason))
            remove = self._remove()
            if remove is not None:
                remove(self._name, reason)

    def items(self, *, returns: TypeForm[T] = UNTYPED) -> Stream[T]:
        """Read the items that the remote peer produces, like ``for await (... of channel)`` in JavaScript.

        The first read asks the remote peer to begin. The remote peer's handler of the event ``start`` on this channel
        produces the items. After the last item, the channel stays open, and you can call `items` again. If you write
        both sides, use `stream` instead. It has flow control, stops the producer when you leave the loop, and raises
        the producer's errors. If you leave a loop early and read again, the first item may be one that the earlier
        producer had already sent, because items on a named channel do not say which loop they belong to.

        ``async for item in channel`` does the same, without ``returns``.

        Args:
            returns: the type that each item is checked against and converted to.

        Raises:
            ChannelClosed: the channel was closed.
            RuntimeError: the items are already being read.
            TypeError: ``returns`` is not a type that wsrpc can convert values to.
        """
        sender = cast(ReadingSender, self._sender)
        convert = None if returns is UNTYPED else sender.converter(returns)
        return Stream(self._name, convert, reading=sender.read_items(self._name))

    def __aiter__(self) -> Stream[Any]:
        return self.items()

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ChannelClosed(self._name, self._closed.reason)

    def __repr__(self) -> str:
        return f"<Channel {self._name!r}{' closed' if self.closed else ''}>"
