"""Methods that peers, clients and channels have in common: they check their options and call a `Sender`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Never, Protocol, TypeVar, cast, overload

from msgspec import UNSET, UnsetType

from .._base.misuse import shown_as
from .._base.names import ChannelRef, Offline, OnChannel, Source, check_offline, check_timeout
from .._protocol.messages import Raw
from .._sending.checks import check_thread, raw_message
from .._sending.outbound import Outbound
from .._sending.pending import NO_OPTIONS, RequestOptions
from .._sending.retry import Retry, check_retry
from .._streams.event_values import Keep, Waits, check_keep
from .._streams.reader import Reading
from .._streams.stream import Stream, end_after
from ..errors import ConnectionLost, event_timeout
from .proxy import make_emitter, make_proxy

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from .._channels.anonymous import AnonymousChannel

__all__ = [
    "Caller",
    "EventReader",
    "RawCaller",
    "ReadingCaller",
    "ReadingSender",
    "RefusingSender",
    "Sender",
    "no_keywords",
    "refused",
]

T = TypeVar("T")


class Sender(Protocol):
    """Sends for a `Caller`: `ChannelRequests`, `ClusterSender`, or `RefusingSender` after the end of a channel."""

    def send_event(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> Coroutine[Any, Any, None]: ...

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None: ...

    def send_request(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Any]: ...

    def request_again(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Any]: ...

    def upload(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Any]: ...

    def open_channel(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, AnonymousChannel]: ...

    def open_stream(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Reading]: ...

    def converter(self, returns: Any, /) -> Callable[[Any], Any]: ...


class ReadingSender(Sender, Protocol):
    """Sends and reads for a `ReadingCaller`."""

    def read_events(self, channel: ChannelRef, event: str, returns: Any, keep: Waits, /) -> Stream[Any]: ...

    def read_items(self, channel: str, returns: Any, /) -> Stream[Any]: ...


class RefusingSender:
    """Sender of a channel that cannot send. Each call raises what ``error`` makes, coroutines when they are awaited."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error

    async def _refuse(self, *_: object) -> Never:
        raise self._error()

    def _refuse_now(self, *_: object) -> Never:
        raise self._error()

    send_event = send_request = request_again = open_channel = open_stream = upload = _refuse
    send_event_nowait = converter = read_events = read_items = _refuse_now


class EventReader(OnChannel):
    """`events` and `wait_for` on one channel of one peer."""

    __slots__ = ()

    @overload
    def events(self, event: str, /, *, keep: Keep = "all") -> Stream[Any]: ...

    @overload
    def events(self, event: str, /, *, returns: TypeForm[T], keep: Keep = "all") -> Stream[T]: ...

    def events(self, event: str, /, *, returns: Any = UNSET, keep: Keep = "all") -> Stream[Any]:
        """Read the events of one name: ``async for text in client.events("said", returns=str)``.

        Reading begins at this call, so no event between the call and the loop is missed. A reader only observes: a
        handler of that name still runs, and each of several readers gets every event. Requests are not read. Readers
        get an event before middleware and handlers do.

        Reading goes on until you leave it: with ``aclose()``, at the end of ``async with``, or when nothing refers to
        the stream any more. On a client it goes on over reconnects, and ends at `Client.close`. On a server's peer it
        raises `ConnectionLost` when the connection ends. See `Stream` for what else it raises.

        Args:
            returns: the type of the value. A tuple type of fixed length, such as ``tuple[str, int]``, takes all
                arguments; any other type takes exactly one. An event that does not fit is dropped with a warning,
                and counted in ``peer.ignored["wrong arguments"]``. Without ``returns``, the value is the argument if
                there is one, a tuple if there are several, and None if there is none.
            keep: which unread events wait. ``"all"``: all of them, up to `Limits.stream_queue` bytes. Beyond that,
                reading ends with `StreamOverflow` after the events that wait. ``"newest"``: only the latest event.
                `Limits.unread_bytes` bounds the unread events of all readers together, and ends the reader that would
                exceed it in the same way.

        Raises:
            ReservedEvent: the event is a lifecycle event of the main channel, such as open: register a handler instead.
            ChannelClosed: the channel was closed.
            TypeError, ValueError: ``returns`` is not a type that can be converted to, or ``keep`` is another value.
            RuntimeError: called in another thread than the event loop's.
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

        Waiting begins at the call, not at the ``await``. So you can call it, send something, and await the event that
        answers it. Cancelling is safe.

        Args:
            returns: the type of the value, as for `events`. An event that does not fit is dropped.
            timeout: seconds from the ``await`` on. None, the default, waits without a limit.

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


class Caller(OnChannel):
    """`emit`, `emit_nowait`, `request`, `stream` and `open_channel` on one channel of one peer.

    On a client, ``offline`` says what happens to a message while there is no connection, or while the other side
    drains. ``"queue"`` lets it wait for the next connection. ``"fail"`` raises `ConnectionLost` at once, with
    ``outcome="not_sent"``. With ``"fail"``, a message that waits for the `open` handlers of a connection, or until the
    connection has room, also fails in this way when that connection ends. None, the default, means the option with
    which the client was made. A server's peer has one connection only, so nothing waits for another one.
    """

    __slots__ = ()

    _sender: Sender

    def emit(
        self, event: str, /, *args: Any, offline: Offline | None = None, **unsupported: Never
    ) -> Coroutine[Any, Any, None]:
        """Send an event.

        Returns when the message is accepted for sending, not when it is delivered. While the connection is above its
        high-water mark, calls wait in order, before their messages are encoded. With ``offline="fail"`` they also wait
        while the `open` handlers run. Cancelling is safe: the event is then not sent.

        Args:
            offline: ``"queue"`` or ``"fail"``, for when there is no connection.

        Raises:
            ConnectionLost: ``outcome="not_sent"``, there is no connection, and the event may not wait for one.
            QueueFull: the offline queue is full.
            ReservedEvent: the event is a lifecycle event of the main channel, such as open.
            MessageTooBig: the other side has announced that it accepts less at once; nothing is sent.
            ChannelClosed: the channel was closed.
            TypeError, ValueError: an argument cannot be encoded; nothing is sent.
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
        """Send an event without waiting, from a plain function in the event loop's thread.

        With ``offline="fail"`` and while the `open` handlers run, the event is sent after them, or not at all.

        Raises:
            QueueFull: too many bytes are unsent (`Limits.hard_cap`), or the offline queue is full; nothing is sent.
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
            returns: the type to check and convert the answer to. Without it, the answer is returned as it was decoded.
            timeout: seconds until the answer, with the time that the request waits to be sent; None for no limit. The
                default is `Limits.timeout`. With ``send``, seconds until the handler is ready for the first item, and
                again, after the last item, until its answer; the items in between have no timeout.
            send: an iterable or async iterable of items for the handler, whose parameter is annotated
                ``AsyncIterator[...]``. They are sent no faster than the handler reads them. A generator is closed at
                the end, also if the handler stops reading before. An error of the iterable is raised here, and ends
                the handler.
            retry: when to send the request again if it did not run; see `Retry`. ``timeout`` is for all attempts and
                the waits between them. The error of the last attempt is raised.
            idempotent: running twice does no harm. So ``retry`` also sends the request again if it may have run when
                its connection ended, or if it reached its handler's time limit.
            offline: ``"queue"`` or ``"fail"``, for when there is no connection.

        Cancelling is safe. It also cancels the handler on the other side, which gets the reason given to
        ``task.cancel(reason)``.

        Raises:
            RemoteError: the other side rejected the request; its subclasses say how.
            RequestTimeout: no answer came in time; the other side was told to stop. With ``retry``, ``__cause__`` is
                the error of the attempt before.
            ConnectionLost: the connection ended first; ``outcome`` says whether the request may have run.
            BadResult: the answer does not fit ``returns``.
            UnexpectedChannel: the answer is a channel.
            ChannelClosed: the channel was closed; or, with ``send``, the other side ended the upload without an error.
            MessageTooBig: the other side has announced that it accepts less at once; nothing was sent.
            TooManyRequests, QueueFull, ReservedEvent, TypeError, ValueError: refused on this side; nothing was sent.
        """
        try:
            if unsupported:
                raise no_keywords("request", event, unsupported)
            if offline is not None:
                check_offline(offline)
            if (
                returns is UNSET
                and timeout is UNSET
                and offline is None
                and send is None
                and retry is None
                and not idempotent
            ):
                return self._sender.send_request(self._channel_name, event, args, NO_OPTIONS)
            options = RequestOptions(returns, timeout, offline, send, retry, idempotent)
            if retry is not None:
                check_retry(retry, send)
                return self._sender.request_again(self._channel_name, event, args, options)
            if idempotent:
                raise TypeError("idempotent= says what retry= may ask again: give retry=wsrpc.Retry(), too")
            if send is not None:
                return self._sender.upload(self._channel_name, event, args, options)
            return self._sender.send_request(self._channel_name, event, args, options)
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
        """Send a request whose answer is a channel, for a conversation with its handler, and return the channel.

        The channel stays open until either side ends it, or the connection ends: use ``async with``, or abort it.
        ``timeout`` and ``offline`` are those of `request`, until the channel is open. Cancelling is safe, and cancels
        the handler on the other side.

        Raises:
            BadResult: the answer is not a channel.
            WsrpcError: as for `request`.
        """
        if unsupported:
            raise no_keywords("open_channel", event, unsupported)
        if offline is not None:
            check_offline(offline)
        options = RequestOptions(timeout=timeout, offline=offline)
        return await self._sender.open_channel(self._channel_name, event, args, options)

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
            timeout: seconds until the stream is open; items have no timeout. The default is `Limits.timeout`.
            send: items for the handler; see `request`. The stream raises an error of this iterable.
            offline: ``"queue"`` or ``"fail"``, for when there is no connection as the stream is opened.

        Raises:
            TypeError: ``returns`` is not a type that can be converted to.
        """
        if unsupported:
            raise no_keywords("stream", event, unsupported)
        if offline is not None:
            check_offline(offline)
        sender, channel = self._sender, self._channel_name
        convert = None if returns is UNSET else sender.converter(returns)
        options = RequestOptions(timeout=timeout, offline=offline, send=send)
        return Stream(event, convert, open=lambda: sender.open_stream(channel, event, args, options))

    def proxy(self, contract: TypeForm[T], /) -> T:
        """Return an object with the methods of a contract, each of which calls the event of its name.

        The contract is a `typing.Protocol`. A method sends what `request`, `stream` or `open_channel` would send, and
        returns the same, with the result converted to the type that the contract declares:

        - ``async def say(self, text: str) -> int`` is a request.
        - ``def history(self, since: int) -> Stream[Line]`` is a stream.
        - A parameter ``AsyncIterable[...]`` takes the items of an upload, which ``send=`` takes elsewhere.
        - ``async def talk(self) -> AnonymousChannel`` opens a channel.
        - An attribute that is annotated with another contract is the named channel of that name.

        Arguments travel by place. Optional ones at the end that are omitted are not sent, so the handler's defaults
        hold; one that is omitted before another that is given is sent with the contract's default. `with_options`
        returns a proxy with a timeout and other options. Errors have a note with the name of the method.

        Raises:
            TypeError: the contract cannot work; the text names the method and says why.
        """
        made: T = make_proxy(contract, self)
        return made

    def emitter(self, contract: TypeForm[T], /) -> T:
        """Return an object with the methods of a contract, each of which emits the event of its name.

        An ``async def`` of the contract does what `emit` does, and a plain ``def`` what `emit_nowait` does. Both are
        declared to return None. Arguments travel as for `proxy`.

        Raises:
            TypeError: the contract cannot work; the text names the method and says why.
        """
        made: T = make_emitter(contract, self, takes_offline=True)
        return made


class ReadingCaller(Caller, EventReader):
    """The methods of `Caller`, with `events` and `wait_for`. Its sender is a `ReadingSender`."""

    __slots__ = ()

    def _read_events(self, event: str, returns: Any, keep: Waits) -> Stream[Any]:
        return cast("ReadingSender", self._sender).read_events(self._channel_name, event, returns, keep)


class RawCaller(ReadingCaller):
    """The methods of `ReadingCaller`, with `send_raw` and `send_raw_nowait`."""

    __slots__ = ()

    _out: Outbound

    def _binary_is_free(self) -> bool:
        """Return whether a binary message is a raw one."""
        raise NotImplementedError

    async def send_raw(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Send a raw message, str as text and bytes as binary, in order with all other messages.

        It waits as `emit` does, until the connection has room, or for a connection, with the same ``offline=``. The
        other side's `on_raw` function gets it. A message that looks like one of the protocol is taken for one.
        Cancelling is safe: the message is then not sent.

        Raises:
            ConnectionLost: ``outcome="not_sent"``, there is no connection or the other side drains, and the message may
                not wait for another connection.
            QueueFull: too much waits for a connection already.
            MessageTooBig: the other side has announced that it accepts less.
            TypeError: the message is neither str nor bytes.
            ValueError: the message is binary, but binary messages are MessagePack, or may be. They are between two
                wsrpc peers unless one of them had an `on_raw` function when they connected. A client without such a
                function cannot send binary ones before the two have negotiated. With ``extensions=False`` they never
                negotiate, and binary messages are always free. With ``profile="go"`` all raw messages are refused.
            RuntimeError: called in another thread than the event loop's.
        """
        if offline is not None:
            check_offline(offline)
        out, raw = self._out, self._check_raw(message)
        if not (out.clear and out.hand_over(raw)):
            await out.send_in_turn(raw, None, out.fails(offline))

    def send_raw_nowait(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Send a raw message without waiting, from a plain function in the event loop's thread.

        Raises:
            QueueFull: too many bytes are unsent (`Limits.hard_cap`), or the offline queue is full; nothing is sent.
            ConnectionLost, MessageTooBig, TypeError, ValueError, RuntimeError: as for `send_raw`.
        """
        if offline is not None:
            check_offline(offline)
        out, raw = self._out, self._check_raw(message)
        out.check_cap(raw.payload)
        if out.must_wait(raw) or not out.hand_over(raw):
            out.let_wait(raw, offline)

    def _check_raw(self, message: Any) -> Raw:
        check_thread(self._out.thread, "peer.send_raw(...)")
        self._out.check_raw()
        payload, text = raw_message(message)
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
    """Return the error for keyword arguments that were meant for the handler, or are misspelled options."""
    names = ", ".join(unsupported)
    return TypeError(
        f"{method}({event!r}) got {names} as keyword argument: arguments travel by position, without names, and "
        f"keywords are options of {method}() itself ({options[method]})"
    )


async def refused(error: Exception) -> Never:
    """Raise ``error`` when it is awaited: a call that is refused says so where its result is awaited."""
    raise error
