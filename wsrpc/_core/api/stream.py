"""`Stream`: async iterator over the items or events that arrive on a channel."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar

import msgspec
from msgspec import UNSET

from ..._base.misuse import refusing
from ..._base.scheduler import Timer
from ...errors import ChannelClosed, ConnectionLost, ItemsGone, RemoteError, add_member_note, bad_item
from ..channels.channel_core import ChannelCore
from ..handlers.introspection import stream_annotations
from ..handlers.invocation import Invocation
from ..inboxes.event_inboxes import EventInbox
from ..inboxes.inbox import Inbox
from ..inboxes.recipients import Recipient
from ..wire.call_context import CallContext
from ..wire.messages import NO_OPTIONS, Decode, WireMessage
from ..wire.rejections import is_stopped, reason_of

T_co = TypeVar("T_co", covariant=True)


CUTS = (ItemsGone, ConnectionLost)
"""Errors with which a stream ends although the handler of its run may go on."""


class StreamState(enum.Enum):
    """State of a `Stream` for its user. (When nothing more arrives, `Inbox.over` says so.)"""

    NOT_OPEN = "not open"
    OPENING = "opening"
    """A task opens the stream."""
    OPEN = "open"
    CLOSED = "closed"
    """It was closed, or could not be opened."""


# Constants, because Python 3.11 looks members of an enum up slowly.
_NOT_OPEN, _OPENING, _OPEN, _CLOSED = StreamState


class Stream(Generic[T_co]):
    """Async iterator over the items of a stream, or over events. Also an async context manager.

    ``async with client.stream(...) as items`` opens the stream, and stops the producer at the end of the block. Without
    the block, ``async for item in client.stream(...)`` opens the stream when it reads the first item. If you leave such
    a loop early, the producer is stopped when Python garbage-collects the stream, and a warning is logged.

    Iterating raises one of these exceptions, after the items that came before the error:

    - `RemoteError` or a subclass: the producer failed, or refused to start.
    - `ConnectionLost`: the connection ended, and its session did not resume.
    - `ChannelClosed`: this side closed the channel.
    - `StreamOverflow`: unread events, or unread items of a producer without flow control, exceeded
      `Limits.stream_queue_bytes` or `Limits.unread_bytes`, or those of ended sessions ``Server(detached_bytes=)``.
    - `BadResult`: an item does not fit ``returns``, or, in a handler, the annotation of the parameter. You can continue
      with the next item. (An event that does not fit is dropped instead, with a warning.)

    Cancelling a read is safe: no item is lost.
    """

    __slots__ = (
        "_convert",
        "_inbox",
        "_label",
        "_member",
        "_open",
        "_parameter",
        "_reading",
        "_run",
        "_send_message",
        "_state",
    )

    def __init__(
        self,
        label: str,
        convert: Callable[[Any], Any] | None,
        *,
        reading: Inbox | None = None,
        open: Callable[[], Coroutine[Any, Any, Inbox]] | None = None,
        parameter: str | None = None,
        member: str | None = None,
        context: CallContext | None = None,
        send_message: Callable[[Any, str | None, float | None], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._label = label
        self._convert = convert
        self._open = open
        """Opens the stream. It is called once."""
        self._inbox = reading
        """The items, while the state is OPEN: None before and after."""
        self._reading: Inbox | None = None
        """The same, once it was read for the first time."""
        self._state = _NOT_OPEN if reading is None else _OPEN
        self._parameter = parameter
        """The parameter of a handler that reads the items, for errors."""
        self._member = member
        """The member of a contract that was called, for errors."""
        self._run = None if context is None or context.key is UNSET else _Run(context)
        """The run of the handler that the stream reads, if the call has a key."""
        self._send_message = send_message
        """Sends a message to this run."""

    if not TYPE_CHECKING:
        __iter__ = refusing("the items of a stream arrive over time: use `async for`")
        __enter__ = __exit__ = refusing("a stream is opened and closed asynchronously: use `async with`")

    async def __aenter__(self) -> Self:
        if self._state is not _OPEN:
            await self._open_inbox()
            # A producer that keeps to credit may start now. Another producer would only fill the queue.
            if self._inbox is not None and self._inbox.channel.has_credit:
                self._start_producer(self._inbox)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._stop_reading(reason_of(error))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        inbox = self._reading
        if inbox is None:
            inbox = await self._start_reading()
        while True:
            while not inbox.queue:
                if inbox.over:
                    await self._raise_end(inbox)
                try:
                    await inbox.wait()
                except GeneratorExit:
                    inbox.stop_waiting()
                    raise
                if self._reading is None:  # it was closed meanwhile
                    raise StopAsyncIteration
            value = inbox.read()
            if self._convert is None:
                break
            try:
                value = self._convert(value)
                break
            except msgspec.ValidationError as exc:
                if not isinstance(inbox, EventInbox):
                    raise self._bad_item(exc, inbox) from None
                inbox.count_misfit(exc)
        item: T_co = value
        return item

    async def _start_reading(self) -> Inbox:
        """Start to read the stream. Open the stream before, unless it is open.

        Raises:
            StopAsyncIteration: the stream was closed.
        """
        if self._state in (_NOT_OPEN, _OPENING):
            await self._open_inbox()
        inbox = self._inbox
        if inbox is None:
            raise StopAsyncIteration
        self._start_producer(inbox)
        self._reading = inbox
        return inbox

    def _bad_item(self, exc: msgspec.ValidationError, inbox: Inbox) -> Exception:
        if self._parameter is not None:
            text = f"{self._label}(): an item of {self._parameter!r}"
        else:
            wanted = "returns= asks for" if self._member is None else f"{self._member} declares"
            text = f"an item of {self._label!r} is not what {wanted}"
        # With the channel, so that the caller of a handler that lets the error through gets it.
        return bad_item(f"{text}: {exc}", inbox.channel)

    async def aclose(self) -> None:
        """Stop the producer, and drop the items that have not been read. Cancelling is safe.

        The unread items of `AnonymousChannel.items` are not dropped if the producer is a wsrpc peer: the next reader
        gets them. Calling `aclose` again has no effect.
        """
        self._stop_reading(None)

    @property
    def position(self) -> str | None:
        """The position of the last item that was read, to continue there by ``after=``. For streams with a ``key``.

        It stays when the stream has ended, for whatever reason. None while it is not known, and without a key. A
        position is a text that is valid for one run of the handler. Another stream with it gets the items after it,
        or `ItemsGone`.
        """
        return position_of(self)

    async def stop(self) -> None:
        """Stop the handler of a call with a key, for all its readers. Their streams end with the code "wsrpc.stopped".

        Returns when the handler's process has been asked to stop it, or the handler has ended. Cancelling is safe.

        Raises:
            ChannelClosed: the stream is not open.
            ValueError: the call has no ``key``. Leave the stream instead: that stops the handler.
            WsrpcError: as for `Peer.request`.
        """
        if self._run is None:
            raise ValueError(f"{self._label!r} has no key, so its handler stops when you leave the stream")
        inbox = self._inbox
        if inbox is None:
            raise ChannelClosed(self._label, "this stream is not open: `async with` opens it")
        channel = inbox.channel
        assert isinstance(channel, ChannelCore)
        try:
            await channel.owner.sender.send_request(channel.id, "cancel", (), NO_OPTIONS)
        except (ChannelClosed, RemoteError):
            reason = channel.close_reason
            if self._inbox is not inbox or self._run.is_cut or isinstance(inbox.error, CUTS):
                raise ChannelClosed(self._label, "this stream has ended before its handler was stopped") from None
            if not channel.over or not (reason is None or is_stopped(reason)):
                raise
            # Otherwise the end of the handler was on its way.

    async def send(self, message: Any, *, id: str | None = None, timeout: float | None = None) -> None:
        """Send a message to the handler of a call with a key, and wait until it has read it: see `Context.inbox`.

        The stream need not be open, and the message waits as long as the handler runs. It is sent again after a lost
        connection, and arrives once. Messages of one connection are read in their order. Cancelling is safe: the
        handler may still read the message.

        Args:
            id: names the message, if you may send it again: of this user, the same id is the same message.
            timeout: seconds after which you wait no longer. None for no limit.

        Raises:
            NotRead: the handler has ended, and has not read it. Or it takes no more: 200 messages of one user, of
                together 128 KiB, and 500 of all, of 512 KiB.
            KeyReused: the id is that of another message.
            RunLost: the process of the handler was lost, and nobody knows whether it has read it.
            ItemsGone: there is no handler with the key.
            Overloaded: the store has no room, or does not answer.
            BadArguments: the handler gets no messages, or others.
            ValueError: the call has no ``key``.
            WsrpcError: as for `Peer.request`.
        """
        if self._run is None or self._send_message is None:
            raise ValueError(f"{self._label!r} has no key, so messages cannot be sent to its handler")
        await self._send_message(message, id, timeout)

    async def _raise_end(self, inbox: Inbox) -> NoReturn:
        error = inbox.pop_error()
        if self._run is not None:
            self._run.is_cut = isinstance(error, CUTS)
        inbox.stop_reading(None)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # The body of a conversation has read everything before the end. Now it is cancelled.
            await asyncio.sleep(0)
        if error is not None:
            add_member_note(error, self._member)
            try:
                raise error
            finally:  # otherwise the error would refer to this frame, and the frame to the error
                del error, task
        raise StopAsyncIteration

    async def _open_inbox(self) -> None:
        """Open the stream. It stays closed if it was closed meanwhile."""
        open, self._open = self._open, None
        if self._state is _OPENING:
            raise RuntimeError("two tasks open the same stream: give each its own")
        if self._state is _CLOSED or open is None:
            raise ChannelClosed(self._label, "this stream was closed")
        self._state = _OPENING
        try:
            inbox = await open()
        except BaseException:
            self._state = _CLOSED  # so that iterating again does not try again
            raise
        if self._state is _OPENING:
            self._state, self._inbox = _OPEN, inbox
            if self._run is not None:
                self._run.read(inbox)
        else:  # it was closed meanwhile
            inbox.stop_reading(None)

    def _start_producer(self, inbox: Inbox) -> None:
        if not inbox.over:
            inbox.channel.check_thread("anext(stream)")
        inbox.start_producer()

    def _stop_reading(self, reason: object) -> None:
        inbox = self._inbox
        if inbox is not None:
            inbox.channel.check_thread("stream.aclose()")
        self._open = self._inbox = self._reading = None
        self._state = _CLOSED
        if inbox is not None:
            inbox.stop_reading(reason)

    def __del__(self) -> None:
        if self._inbox is not None:
            self._inbox.stream_collected(self._label)

    def __repr__(self) -> str:
        return f"<Stream {self._label!r} {'over' if is_over(self) else self._state.value}>"


class _Run(Recipient):
    """The run of a handler that a stream reads. The remote peer sends its id before the first item."""

    def __init__(self, context: CallContext) -> None:
        self._id: str | None = None
        self._skipped = 0
        self._after = None if context.after is UNSET else str(context.after)
        self._inbox: Inbox | None = None
        self.is_cut = False
        """Whether the stream has ended, and the handler may run on."""

    def read(self, inbox: Inbox) -> None:
        """Learn the id of the run, and count the items that are read."""
        self._inbox = inbox
        inbox.channel.add_recipient("run", self)

    def position(self, unread: int) -> str | None:
        """See `position_of`. The position that was passed holds until the id is known."""
        if self._id is None or self._inbox is None:
            return self._after
        return f"{self._skipped + self._inbox.read_count - unread}-{self._id}"

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        match message.a[1:]:
            case [str(id), int(skipped)]:
                self._id, self._skipped = id, skipped
            case _:
                pass  # a peer that makes it up harms only its own readers


stream_annotations.add(Stream)
Invocation.stream_class = Stream


def end_after(stream: Stream[Any], seconds: float, error: Exception) -> Timer:
    """End an open stream with ``error`` after ``seconds``. Items that have arrived by then are read first."""
    inbox = stream._inbox  # pyright: ignore[reportPrivateUsage] - the one internal use of a stream's inside
    assert inbox is not None
    return inbox.end_after(seconds, error)


def position_of(stream: Stream[Any], unread: int = 0) -> str | None:
    """Return `Stream.position` without the last ``unread`` items, which wait for another reader."""
    run = stream._run  # pyright: ignore[reportPrivateUsage]
    return None if run is None else run.position(unread)


def is_closed(stream: Stream[Any]) -> bool:
    """Return whether a stream was closed, or could not be opened."""
    return stream._state is _CLOSED  # pyright: ignore[reportPrivateUsage]


def is_over(stream: Stream[Any]) -> bool:
    """Return whether nothing more will arrive on a stream that is open."""
    inbox = stream._inbox  # pyright: ignore[reportPrivateUsage]
    return inbox is not None and inbox.over


def read_arrived(stream: Stream[T_co], most: int) -> Iterator[T_co]:
    """Return up to ``most`` items that can be read without waiting.

    Raises:
        StopAsyncIteration, Exception: as for iterating, if the end has arrived, too.
    """
    while most > 0:
        inbox = stream._inbox  # pyright: ignore[reportPrivateUsage]
        if inbox is None or not (inbox.queue or inbox.over):
            return
        reading = stream.__anext__()
        try:
            reading.send(None)
        except StopIteration as exc:
            yield exc.value
        else:  # all events that had arrived were dropped, because they did not fit
            reading.close()
            return
        most -= 1
