"""Emitting and requesting: the methods that peer, client and channel have in common."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Never, Protocol, TypeAlias, TypeVar, overload

from msgspec import UNSET, UnsetType

from .._base.misuse import shown_as
from .._base.names import ChannelRef, Offline, OnChannel, check_offline, check_timeout
from .._protocol.messages import Raw
from .._streams.event_values import Keep, Waits, check_keep
from .._streams.reader import Reading
from .._streams.stream import Stream, end_after
from ..errors import ConnectionLost, event_timeout
from .checks import check_thread, raw_payload
from .outbound import Outbound
from .retry import Retry

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from .._channels.anonymous import AnonymousChannel

__all__ = ["Caller", "EventReader", "RawCaller", "Sender", "Source", "no_keywords", "refused"]

T = TypeVar("T")


class Sender(Protocol):
    """What a channel needs of its peer."""

    def send_event(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> Coroutine[Any, Any, None]: ...

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None: ...

    def send_request(
        self,
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        returns: Any,
        timeout: float | UnsetType | None,
        offline: Offline | None = None,
        /,
    ) -> Coroutine[Any, Any, Any]: ...

    def request_again(
        self,
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        returns: Any,
        timeout: float | UnsetType | None,
        offline: Offline | None,
        retry: Retry,
        idempotent: bool,
        /,
    ) -> Coroutine[Any, Any, Any]: ...

    def upload(
        self,
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        returns: Any,
        timeout: float | UnsetType | None,
        send: Source,
        offline: Offline | None = None,
        /,
    ) -> Coroutine[Any, Any, Any]: ...

    def open_channel(
        self,
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        timeout: float | UnsetType | None,
        offline: Offline | None = None,
        /,
    ) -> Coroutine[Any, Any, AnonymousChannel]: ...

    def open_stream(
        self,
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        timeout: float | UnsetType | None,
        send: Source | None,
        offline: Offline | None,
        /,
    ) -> Coroutine[Any, Any, Reading]: ...

    def converter(self, returns: Any, /) -> Callable[[Any], Any]: ...

    def read_events(self, channel: ChannelRef, event: str, returns: Any, keep: Waits, /) -> Stream[Any]: ...

    def read_items(self, channel: str, returns: Any, /) -> Stream[Any]: ...


Source: TypeAlias = AsyncIterable[Any] | Iterable[Any]
"""What ``send=`` takes: its items are sent one by one, as the other side reads them."""


class EventReader(OnChannel):
    """`events` and `wait_for`, on one channel of one peer."""

    __slots__ = ()

    @overload
    def events(self, event: str, /, *, keep: Keep = "all") -> Stream[Any]: ...

    @overload
    def events(self, event: str, /, *, returns: TypeForm[T], keep: Keep = "all") -> Stream[T]: ...

    def events(self, event: str, /, *, returns: Any = UNSET, keep: Keep = "all") -> Stream[Any]:
        """Read the events of one name: ``async for text in client.events("said", returns=str)``.

        Reading begins at this call, so nothing is missed between it and the loop. It observes: a handler of that name
        runs as well, and each of several readers gets every event. Requests are not read. An event arrives here before
        middleware, which sees it as always.

        Reading goes on until it is left: by ``aclose()``, at the end of ``async with``, or when nothing refers to it
        any more. A client's goes on over reconnects, and ends at `Client.close`. A server's peer raises
        `ConnectionLost` when its connection ends. See `Stream` for the others.

        Args:
            returns: the type of the value. A tuple type of fixed length, such as ``tuple[str, int]``, takes all
                arguments; any other type takes exactly one. An event that does not fit is dropped with a warning,
                and counted in ``peer.ignored["wrong arguments"]``. Without it, one argument gives that, several give a
                tuple, and none gives None.
            keep: which unread events wait. ``"all"``, up to `Limits.stream_queue` bytes: past that, reading ends with
                `StreamOverflow` after them. ``"newest"``: the latest one only. What all readers of the connection have
                not read is bounded by `Limits.unread_bytes`, and ends in the same way the reader that goes over it.

        Raises:
            ReservedEvent: for open, close and the like on the main channel: register a handler instead.
            ChannelClosed: on a channel that was closed.
            TypeError, ValueError: ``returns`` is not a type that can be converted to; ``keep`` is something else.
            RuntimeError: in another thread than the event loop's.
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
        """Return the value of the next event of one name: ``await client.wait_for("ready", timeout=5)``.

        It begins to wait at the call, not at the ``await``: so an answer cannot be missed that comes while you ask for
        it. Cancelling is safe.

        Args:
            returns: as for `events`. Events that do not fit do not count.
            timeout: seconds, which count from the ``await``; None, the default, waits without a limit.

        Raises:
            RequestTimeout: no such event came in time. It is a `TimeoutError`.
            ConnectionLost: the client was closed, or the connection of a server's peer ended.
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
        """What `wait_for` raises when reading comes to a plain end."""
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


class Caller(EventReader):
    """`emit`, `emit_nowait`, `request`, `stream`, `open_channel`, `events` and `wait_for`, on one channel of one peer.

    Where there may be another connection, ``offline`` says what becomes of a message while there is none: ``"queue"``
    lets it wait for the next one, ``"fail"`` raises `ConnectionLost` at once, with ``outcome="not_sent"``. (While the
    other side drains, it is as if there were none.) With ``"fail"``, what waits on a connection that is there, for its
    `open` handlers or for its turn on a full line, fails so when that connection ends. None, the default, is what the
    client was made with. On a server's peers nothing ever waits for another connection.
    """

    __slots__ = ()

    _sender: Sender

    def emit(
        self, event: str, /, *args: Any, offline: Offline | None = None, **unsupported: Never
    ) -> Coroutine[Any, Any, None]:
        """Send an event, which nobody answers.

        Returns when the message is accepted for sending, not when it is delivered: while the line is above
        its high-water mark it waits, in turn, before encoding. With ``offline="fail"`` it also waits while the `open`
        handlers run. Cancelling is safe: the event is then not sent.

        Args:
            offline: ``"queue"`` or ``"fail"``, while there is no connection.

        Raises:
            ConnectionLost: ``outcome="not_sent"``, if there is no connection and nothing queues for one.
            QueueFull: if the offline queue is full.
            ReservedEvent: for open, close and the like on the main channel.
            MessageTooBig: the other side has said that it takes less at once; nothing is sent.
            ChannelClosed: on a channel that was closed.
            TypeError, ValueError: if an argument cannot be encoded; nothing is sent.
        """
        try:
            if unsupported:
                raise no_keywords("emit", event, unsupported)
            if offline is not None:
                check_offline(offline)
            return self._sender.send_event(self._channel_name, event, args, offline)
        except (TypeError, ValueError) as exc:
            return refused(exc)

    def emit_nowait(self, event: str, /, *args: Any, offline: Offline | None = None, **unsupported: Never) -> None:
        """Like `emit`, for plain functions in the event loop's thread; it never waits.

        With ``offline="fail"`` and while the `open` handlers run, it leaves after them, or not at all.

        Raises:
            QueueFull: at the hard cap of unsent bytes; nothing is sent.
            ConnectionLost, ReservedEvent, MessageTooBig, ChannelClosed, TypeError, ValueError: as for `emit`.
        """
        if unsupported:
            raise no_keywords("emit_nowait", event, unsupported)
        if offline is not None:
            check_offline(offline)
        self._sender.send_event_nowait(self._channel_name, event, args, offline)

    # The overloads are written as coroutine functions because type checkers then see through asyncio.gather().

    @overload
    async def request(
        self,
        event: str,
        /,
        *args: Any,
        timeout: float | UnsetType | None = UNSET,
        send: Source | None = None,
        retry: Retry | None = None,
        idempotent: bool = False,
        offline: Offline | None = None,
        **unsupported: Never,
    ) -> Any: ...

    @overload
    async def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        timeout: float | UnsetType | None = UNSET,
        send: Source | None = None,
        retry: Retry | None = None,
        idempotent: bool = False,
        offline: Offline | None = None,
        **unsupported: Never,
    ) -> T: ...

    def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: Any = UNSET,
        timeout: float | UnsetType | None = UNSET,
        send: Source | None = None,
        retry: Retry | None = None,
        idempotent: bool = False,
        offline: Offline | None = None,
        **unsupported: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Send a request and return its answer.

        Args:
            returns: the type to check and convert the answer to; without it, what JSON gives.
            timeout: seconds until the answer, also while offline or while the line is full; None for no limit.
                The default is `Limits.timeout`. With ``send``, seconds until the handler is ready for the first item,
                and again, after the last one, until its answer; the items in between have no timeout.
            send: an iterable or async iterable whose items the handler reads (its parameter is annotated
                ``AsyncIterator[...]``), no faster than it reads them. A generator is closed at the end, also when the
                handler wants no more of it. What it raises is raised here, and ends the handler.
            retry: ask again for what did not run over there, as `Retry` says; ``timeout`` is for all attempts and the
                waits between them. After the last one its error is raised.
            idempotent: running twice does no harm, so ``retry`` also asks again for what may have run when its
                connection ended, and for what reached its handler's time limit.
            offline: ``"queue"`` or ``"fail"``, while there is no connection.

        Cancelling is safe and cancels remotely: the other side's handler is told, with the reason given to
        ``task.cancel(reason)``.

        Raises:
            RemoteError: the other side rejected; its subclasses say how.
            RequestTimeout: no answer in time; the other side was told to stop. With ``retry``, ``__cause__`` is the
                error of the attempt before.
            ConnectionLost: the connection ended first; ``outcome`` says whether it may have run.
            BadResult: the answer does not fit ``returns``.
            UnexpectedChannel: the answer is a channel.
            ChannelClosed: with ``send``, the other side has ended the upload without an error; or, on a channel that
                was closed.
            MessageTooBig: the other side has said that it takes less at once; nothing was sent.
            TooManyRequests, QueueFull, ReservedEvent, TypeError, ValueError: refused here, nothing was sent.
        """
        try:
            if unsupported:
                raise no_keywords("request", event, unsupported)
            if offline is not None:
                check_offline(offline)
            if retry is not None:
                check_retry(retry, send)
                return self._sender.request_again(
                    self._channel_name, event, args, returns, timeout, offline, retry, idempotent
                )
            if idempotent:
                raise TypeError("idempotent= says what retry= may ask again: give retry=wsrpc.Retry(), too")
            if send is not None:
                return self._sender.upload(self._channel_name, event, args, returns, timeout, send, offline)
            return self._sender.send_request(self._channel_name, event, args, returns, timeout, offline)
        except (TypeError, ValueError) as exc:
            return refused(exc)

    async def open_channel(
        self,
        event: str,
        /,
        *args: Any,
        timeout: float | UnsetType | None = UNSET,
        offline: Offline | None = None,
        **unsupported: Any,
    ) -> AnonymousChannel:
        """Send a request whose answer is a channel, for a conversation with its handler, and return it.

        The channel stays open until either side ends it, or the connection ends: ``async with`` it, or abort it.
        ``timeout`` and ``offline`` as in `request`, until the channel is open. Cancelling is safe and cancels remotely.

        Raises:
            BadResult: the answer is not a channel.
            RemoteError, RequestTimeout, ConnectionLost and the others of `request`.
        """
        if unsupported:
            raise no_keywords("open_channel", event, unsupported)
        if offline is not None:
            check_offline(offline)
        return await self._sender.open_channel(self._channel_name, event, args, timeout, offline)

    @overload
    def stream(
        self,
        event: str,
        /,
        *args: Any,
        timeout: float | UnsetType | None = UNSET,
        send: Source | None = None,
        offline: Offline | None = None,
        **unsupported: Never,
    ) -> Stream[Any]: ...

    @overload
    def stream(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        timeout: float | UnsetType | None = UNSET,
        send: Source | None = None,
        offline: Offline | None = None,
        **unsupported: Never,
    ) -> Stream[T]: ...

    def stream(
        self,
        event: str,
        /,
        *args: Any,
        returns: Any = UNSET,
        timeout: float | UnsetType | None = UNSET,
        send: Source | None = None,
        offline: Offline | None = None,
        **unsupported: Any,
    ) -> Stream[Any]:
        """Request a stream: ``async with peer.stream("subscribe", "news", returns=Update) as updates``.

        Nothing is sent until the block is entered or the first item is read. See `Stream` for how it ends and what it
        raises.

        Args:
            returns: the type to check and convert each item to.
            timeout: seconds until the stream is open; items have none. The default is `Limits.timeout`.
            send: what the handler reads meanwhile; see `request`. What it raises is raised by the stream.
            offline: ``"queue"`` or ``"fail"``, if there is no connection when the stream is opened.

        Raises:
            TypeError: ``returns`` is no type that can be converted to.
        """
        if unsupported:
            raise no_keywords("stream", event, unsupported)
        if offline is not None:
            check_offline(offline)
        sender, channel = self._sender, self._channel_name
        convert = None if returns is UNSET else sender.converter(returns)
        return Stream(event, convert, open=lambda: sender.open_stream(channel, event, args, timeout, send, offline))

    def _read_events(self, event: str, returns: Any, keep: Waits) -> Stream[Any]:
        return self._sender.read_events(self._channel_name, event, returns, keep)


class RawCaller(Caller):
    """What `Caller` has, and `send_raw`, which is on no channel."""

    __slots__ = ()

    _out: Outbound

    def _binary_is_free(self) -> bool:
        """Whether a binary message is not one of the protocol's."""
        raise NotImplementedError

    async def send_raw(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Send a message that is not protocol, str as text, bytes as binary, in order with everything else.

        It waits as `emit` does, for room in the line and for a connection, with the same ``offline=``. The other side's
        `on_raw` function gets it, or whatever reads there; if it looks like a protocol message, it is one. Cancelling
        is safe: then it is not sent.

        Raises:
            ConnectionLost: ``outcome="not_sent"``, there is no connection, or the other side is draining, and it may
                not wait for another.
            QueueFull: too much waits for a connection already.
            MessageTooBig: the other side has said that it takes less.
            TypeError: it is neither str nor bytes.
            ValueError: binary, where binary messages are MessagePack, or may be: between two wsrpc peers neither of
                which had an `on_raw` function when they connected. A client without one has to know, from an agreement,
                that it is otherwise; with ``extensions=False`` there is none, and binary messages are free. Or any,
                with ``profile="go"``.
            RuntimeError: in another thread than the event loop's.
        """
        if offline is not None:
            check_offline(offline)
        out, raw = self._out, self._check_raw(message)
        if not (out.clear and out.hand_over(raw)):
            await out.send_in_turn(raw, None, out.fails(offline))

    def send_raw_nowait(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Like `send_raw`, for plain functions in the event loop's thread; it never waits.

        Raises:
            QueueFull: at the hard cap of unsent bytes; nothing is sent.
            ConnectionLost, MessageTooBig, TypeError, ValueError, RuntimeError: as for `send_raw`.
        """
        if offline is not None:
            check_offline(offline)
        out, raw = self._out, self._check_raw(message)
        out.check_cap(raw.payload)
        if out.must_queue(raw) or not out.hand_over(raw):
            out.keep(raw, offline)

    def _check_raw(self, message: Any) -> Raw:
        check_thread(self._out.thread, "peer.send_raw(...)")
        self._out.check_raw()
        payload, text = raw_payload(message)
        if not text and not self._binary_is_free():
            raise ValueError(
                "binary messages are MessagePack between two wsrpc peers, unless one of them has an on_raw function "
                "when they connect: send text, or use on_raw here (extensions=False will do, too)"
            )
        return Raw(payload, text)


_OPTIONS = {
    "emit": "offline=, and skip= on a server",
    "emit_nowait": "offline=, and skip= on a server",
    "request": "returns=, timeout=, send=, retry=, idempotent= and offline=",
    "open_channel": "timeout= and offline=",
    "stream": "returns=, timeout=, send= and offline=",
}


def no_keywords(
    method: str, event: str, unsupported: Mapping[str, object], options: Mapping[str, str] = _OPTIONS
) -> TypeError:
    """The error for keyword arguments that were meant for the handler, or are misspelled options."""
    names = ", ".join(unsupported)
    return TypeError(
        f"{method}({event!r}) got {names} as keyword argument: arguments travel by position, without names, and "
        f"keywords are options of {method}() itself ({options[method]})"
    )


async def refused(error: Exception) -> Never:
    """Stands for what cannot be sent: like all that is wrong with a call, it shows when that is awaited."""
    raise error


def check_retry(retry: Any, send: Source | None) -> None:
    """Refuse what ``retry=`` does not take, and what cannot be asked again.

    Raises:
        TypeError: says why.
    """
    if not isinstance(retry, Retry):
        raise TypeError(f"retry= takes a wsrpc.Retry, got {retry!r}")
    if send is not None:
        raise TypeError("retry= and send= do not go together: what a source has given cannot be sent a second time")
