"""`EventReader`: reads the events that arrive on a channel."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, overload

from msgspec import UNSET

from ..._base.misuse import refused, shown_as
from ..._base.names import UNTYPED, OnChannel, check_timeout
from ...errors import ConnectionLost, event_timeout
from ..inboxes.event_inboxes import Keep, Waits, check_keep
from .stream import Stream, end_after

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    T = TypeVar("T", default=Any)


class EventReader(OnChannel):
    """`events` and `wait_for` on one channel of one peer."""

    __slots__ = ()

    def events(self, event: str, /, *, returns: TypeForm[T] = UNTYPED, keep: Keep = "all") -> Stream[T]:
        """Read the events with the given name: ``async for text in client.events("said", returns=str)``.

        Reading begins at this call, so events that arrive between the call and the loop are not missed. Readers do not
        replace handlers: a handler of the event still runs. If there are several readers, each gets every event.
        Readers get an event before middleware and handlers do. Readers get no requests, except on an
        `AnonymousChannel`.
        The response to a request that has been read is None, unless a handler responds.

        Reading continues until you end it: with ``aclose()``, at the end of ``async with``, or when no reference to the
        stream is left. On a client, reading continues across reconnects, and ends when the client is closed. On a
        server's peer, the loop raises `ConnectionLost` when the session ends. See `Stream` for the other exceptions.

        Args:
            returns: the type of each value. A tuple type of fixed length, such as ``tuple[str, int]``, stands for all
                arguments; any other type stands for exactly one argument. An event that does not fit is dropped with a
                warning, and counted in ``peer.ignored["wrong arguments"]``. Without ``returns``, the value is None for
                an event without arguments, the argument if there is one, and a tuple if there are several.
            keep: which unread events are kept. With ``"all"``, events are kept up to `Limits.stream_queue_bytes` bytes.
                If more arrive, the stream yields the kept events and then raises `StreamOverflow`. With ``"newest"``,
                only the latest event is kept. `StreamOverflow` is also raised if all unread messages of the connection
                would exceed `Limits.unread_bytes`.

        Raises:
            ReservedEvent: ``event`` is a lifecycle event of the main channel, such as ``open``. Register a handler
                instead.
            ChannelClosed: the channel was closed.
            TypeError, ValueError: ``returns`` is not a type that wsrpc can convert values to, or ``keep`` is neither
                ``"all"`` nor ``"newest"``.
            RuntimeError: called in a thread other than the event loop's.
        """
        check_keep(keep)
        return self._read_events(event, returns, keep)

    @overload
    async def wait_for(self, event: str, /, *, timeout: float | None = None) -> Any: ...

    @overload
    async def wait_for(self, event: str, /, *, returns: TypeForm[T], timeout: float | None = None) -> T: ...

    def wait_for(
        self, event: str, /, *, returns: Any = UNSET, timeout: float | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Return the value of the next event with the given name: ``await client.wait_for("ready", timeout=5)``.

        Waiting begins at the call, not at the ``await``. You can therefore call `wait_for`, send something, and then
        await the event that is sent in response. Cancelling is safe.

        Waiting ends with the event. Events that arrive before the next call of `wait_for` are not kept for it, except
        on the main and named channels while `open` handlers run. To miss none of several events, use `events`.

        Args:
            returns: the type of the value, as for `events`. An event that does not fit is dropped.
            timeout: the maximum time in seconds, counted from the ``await``. None for no limit.

        Raises:
            RequestTimeout: no such event arrived in time. This exception is also a `TimeoutError`.
            ConnectionLost: the client was closed, or the session of a server's peer ended.
            ReservedEvent, ChannelClosed, TypeError, ValueError, RuntimeError: as for `events`.
        """
        try:
            check_timeout(timeout)
            return _first(self._read_events(event, returns, "first"), event, timeout, self._is_over)
        except Exception as exc:
            return refused(exc)

    def _read_events(self, event: str, returns: Any, keep: Waits) -> Stream[Any]:
        raise NotImplementedError

    def _is_over(self) -> Exception:
        """Return what `wait_for` raises when reading ends without an error."""
        return ConnectionLost(1000, "closed by this side", "not_sent")


@shown_as("wait_for")
async def _first(stream: Stream[T], event: str, timeout: float | None, over: Callable[[], Exception]) -> T:
    timer = None
    try:
        async with stream:
            if timeout is not None:
                timer = end_after(stream, timeout, event_timeout(event, timeout))
            async for value in stream:
                return value
    finally:
        if timer is not None:
            timer.cancel()
    raise over()
