"""`ReadingCaller`: the methods of peers, clients and named channels, which outlast sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack, cast

from ..._base.names import UNTYPED
from ..inboxes.event_inboxes import Waits, value_of
from ..sending.sender import ReadingSender
from .caller import Caller
from .events import EventReader
from .following import Following
from .options import ChannelCallOptions
from .stream import Stream

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    T = TypeVar("T", default=Any)


class ReadingCaller(Caller, EventReader):
    """The methods of `Caller`, with `events` and `wait_for`. Its sender is a `ReadingSender`."""

    __slots__ = ()

    def follow(
        self,
        event: str,
        /,
        *args: Any,
        key: str,
        after: int | str | None = None,
        returns: TypeForm[T] = UNTYPED,
        **options: Unpack[ChannelCallOptions],
    ) -> Following[T]:
        """Read a stream with a key, and continue in each new session: ``async for word in client.follow(...)``.

        The options ``timeout`` and ``metadata`` are as for `stream`.

        Args:
            key: as for `stream`.
            returns: as for `stream`.
            after: the position after which to begin, `Following.position` of an earlier call.

        Raises:
            TypeError, ValueError: an option is wrong.
        """

        def open(after: int | str | None) -> Stream[T]:
            return self.stream(event, *args, returns=returns, key=key, after=after, **options)

        return Following(open, key, after)

    def _read_events(self, event: str, returns: Any, keep: Waits) -> Stream[Any]:
        sender, channel = cast(ReadingSender, self._sender), self._channel_name
        convert = value_of(returns, sender.converter)
        label = event if channel is None else f"{channel}:{event}"
        return Stream(label, convert, reading=sender.read_events(channel, event, convert, keep))
