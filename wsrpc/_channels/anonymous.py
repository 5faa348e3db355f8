"""Anonymous channels: a conversation that belongs to one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Protocol, Self, TypeVar, overload

from msgspec import UNSET

from .._base.scheduler import Timer
from .._handlers.introspection import injectable
from .._handlers.registration import Registrar
from .._handlers.registry import Middleware, Registry
from .._protocol.messages import Inbound
from .._sending.caller import Sender
from .._sending.checks import check_thread, check_thread_of_plain
from .._streams.event_values import Waits, value_of
from .._streams.inbox import Decode, Inbox
from .._streams.mailbox import Arrivals
from .._streams.mailbox import Home as ArrivalsHome
from .._streams.reader import Reading, Tap
from .._streams.stream import Stream
from ..errors import ChannelClosed, ChannelNotReady, RpcError, StreamOverflow, short
from .channel_caller import ChannelCaller

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["FINISHED", "AnonymousChannel", "Home"]

T = TypeVar("T")
M = TypeVar("M", bound=Middleware)


class Home(ArrivalsHome, Protocol):
    """What a channel needs of the peer that it belongs to."""

    sender: Sender

    @property
    def has_credit(self) -> bool:
        """Whether the other side keeps to credit."""
        ...

    over: bool
    """The session has ended."""

    def make_registry(self) -> Registry: ...

    def deliver(self, channel: AnonymousChannel, /) -> None:
        """Answer the request that it belongs to with the channel."""

    def converter(self, returns: Any, /) -> Callable[[Any], Any]: ...

    def answer(self, i: int, value: object, /) -> None:
        """Resolve a request of the other side."""

    def refuse(self, i: int, error: Exception, /) -> None:
        """Reject a request of the other side."""

    def start_items(self, h: int, inbox: Inbox, /) -> None:
        """Say ``start``, and how far the producer may go where it keeps to that."""

    def stop_items(self, h: int, /) -> None:
        """Say ``stop``."""

    def tell(self, h: int, reason: object, /) -> None:
        """Tell the other side that the channel is over."""

    def dispatch(
        self, channel: AnonymousChannel, message: Inbound, payload: bytes | bytearray, decode: Decode, /
    ) -> None:
        """Run the handler for a message."""

    def drop(self, channel: AnonymousChannel, count: int, /) -> None:
        """Count events that nobody listens to."""

    def misfit(self, where: str, why: Exception, /) -> None:
        """Count an event whose arguments do not fit its reader."""

    def forget(self, channel: AnonymousChannel, reason: object, /) -> bool:
        """The channel is over: nothing of it is to be left. Says whether the other side had opened it."""
        ...

    def keep_late(self, channel: AnonymousChannel, served: bool, /) -> None:
        """It is over, but messages are kept for who listens now or later."""

    def forget_late(self, channel: AnonymousChannel, /) -> None: ...

    def warn(self, text: str, /) -> None: ...

    @property
    def thread(self) -> int:
        """The event loop's, in which alone the channel may be used."""
        ...


class _Finished:
    """The reason of a channel that has come to its end in good order."""

    def __repr__(self) -> str:
        return "finished"


FINISHED: Any = _Finished()

_NOT_READY = (
    "channel {} is not delivered yet: return it first, and send from a handler on it, a task or when it is read; a "
    "handler with an AnonymousChannel parameter runs once it is"
)

_NO_HANDLERS = Registry()
"""What most channels have: streams, for instance."""


class _Refusing:
    """The sender of a channel that cannot send. It does not refer to the channel, which refers to it."""

    def __init__(self, error: type[Exception], *args: object) -> None:
        self._error = error
        self._args = args

    async def _refuse(self, *_: object) -> Never:
        raise self._error(*self._args)

    def _refuse_now(self, *_: object) -> Never:
        raise self._error(*self._args)

    send_event = send_request = request_again = open_channel = open_stream = upload = _refuse
    send_event_nowait = converter = read_events = read_items = _refuse_now


class _FirstUse:
    """The sender of an open channel until something is sent on it."""

    def __init__(self, channel: AnonymousChannel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        channel = self._channel
        channel._arrivals.used = True
        channel._sender = channel._home.sender
        return getattr(channel._sender, name)


@injectable(methodcaller("channel"), conversation=True)
class AnonymousChannel(Registrar, ChannelCaller):
    """A channel without a name that one request opened. Both sides emit, request, register and read on it.

    The requestor gets it from ``open_channel``. The handler of that request either has a parameter annotated with
    this class, and its body is the conversation; or it makes one with `Context.channel` and returns it. The channel
    is over when either side aborts it, when the connection ends, or when the conversation's body returns.

    What arrives before the first handler is registered or the first reader reads is kept, for `Limits.unread` seconds
    and up to `Limits.stream_queue` bytes. Past that the channel is aborted or, if this side has sent something on it,
    the events are dropped, and counted in `Peer.ignored`. Before a handler's channel is delivered sending raises
    `ChannelNotReady`; after the end `ChannelClosed` with the reason.

    ``async with channel`` ends it when the block is left. ``async for item in channel`` reads the items of
    ws-wrapper's iterator protocol.
    """

    __slots__ = (
        "__weakref__",
        "_arrivals",
        "_channel_name",
        "_closed",
        "_credit",
        "_end_timer",
        "_error",
        "_home",
        "_left",
        "_on_close",
        "_on_credit",
        "_reason",
        "_registry",
        "_sender",
        "_state",
        "id",
    )

    def __init__(self, id: int, home: Home) -> None:
        self.id = id
        """The id of the request that opened it, which is the channel's name on the wire."""
        self._channel_name = id
        self._home = home
        self._registry = _NO_HANDLERS
        self._state = "new"
        self._reason: Any = None
        self._error: Exception | None = None
        self._sender: Sender = _Refusing(ChannelNotReady, _NOT_READY.format(id))
        self._arrivals = Arrivals(self, home)
        self._left = False
        """This side has ended it, or wants nothing more of it."""
        self._end_timer: Timer | None = None
        self._closed: asyncio.Future[None] | None = None
        self._on_close: Callable[[Any], None] | None = None
        """The owner's: told once that the channel is over, and why."""
        self._on_credit: Callable[[int, int], None] | None = None
        self._credit: tuple[int, int] | None = None
        """What the other side granted before anybody here produced."""

    # ------------------------------------------------------------ what users see

    @property
    def closed(self) -> bool:
        """Whether the channel is over."""
        return self._state == "closed"

    @property
    def close_reason(self) -> Any:
        """Why it is over: what `close` or `abort` was called with on either side (errors of the other side as
        `RemoteError`), a `ConnectionLost`, or None where it came to its end."""
        return None if self._reason is FINISHED else self._reason

    def close(self, reason: object = None) -> None:
        """End the channel on this side: local and idempotent. Requests that this side made on it fail: `ChannelClosed`.

        The other side learns it by an abort when it next sends something; but one that waits for credit from here, and
        would never send anything, at once.
        """
        self._check_thread()
        reading = self._arrivals.reading("next")
        if reading is not None and reading.is_awaited and self._state == "open":
            self._home.tell(self.id, reason)
        self._end(reason, ChannelClosed(str(self.id), reason))

    async def abort(self, reason: object = None) -> None:
        """End the channel on both sides. ``reason`` travels: an `RpcError`, text or any value. Idempotent.

        Of another exception its text travels. On either side requests that were made on it fail with `ChannelClosed`,
        and the handler whose body is the conversation is cancelled. Cancelling is safe.
        """
        self._check_thread("channel.abort()")
        self._abort(reason)

    async def wait_closed(self) -> None:
        """Wait until the channel is over, and handlers have been given what came before. Cancelling is safe."""
        if not self.closed:
            self._check_thread("channel.wait_closed()")
            if self._closed is None:
                self._closed = self._home.loop.create_future()
            await asyncio.shield(self._closed)
        if self._arrivals.is_ending:
            await asyncio.sleep(0)  # they get it in the next turn

    @overload
    def items(self) -> Stream[Any]: ...

    @overload
    def items(self, *, returns: TypeForm[T]) -> Stream[T]: ...

    def items(self, *, returns: Any = UNSET) -> Stream[Any]:
        """Read the items of ws-wrapper's iterator protocol; at their end the channel stays open, as in JavaScript.

        ``async for item in channel`` does the same, without ``returns``.

        Raises:
            ChannelClosed: the channel is over.
            RuntimeError: somebody reads the items already.
        """
        return self._read("next", returns, items=True)

    def __aiter__(self) -> Stream[Any]:
        return self.items()

    def _read_events(self, event: str, returns: Any, keep: Waits) -> Stream[Any]:
        return self._read(event, returns, items=False, newest=keep == "newest")

    def _is_over(self) -> Exception:
        return self._gone()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._check_thread("channel.abort()")
        if error is None:
            self._finish()
        else:
            # The text of another error is for this side only; the reason of a cancellation is meant to travel.
            self._abort(error.args[0] if isinstance(error, asyncio.CancelledError) and error.args else None)

    def _check_thread(self, coroutine: str | None = None) -> None:
        """Refuse a call from another thread than the event loop's, while the channel is open."""
        if not self.closed:
            if coroutine is None:
                check_thread_of_plain(self._home.thread, "function")
            else:
                check_thread(self._home.thread, coroutine)

    def use(self, middleware: M, /) -> M:
        self._own_registry()
        return super().use(middleware)

    def __repr__(self) -> str:
        return f"<AnonymousChannel {self.id} {self._state}>"

    # ------------------------------------------------------------ reading

    def _read(self, event: str, returns: Any, *, items: bool, newest: bool = False) -> Stream[Any]:
        self._check_open()
        self._check_thread()
        home = self._home
        if items:
            convert, misfit = None if returns is UNSET else home.converter(returns), None
        else:
            convert = value_of(returns, home.converter)
            misfit = partial(home.misfit, f"event {short(event)} on channel {self.id}")
        reading = self._arrivals.reading(event)
        if reading is not None and reading.abandoned:
            if reading.inbox.items is items and reading.inbox.newest is newest and not reading.inbox.over:
                reading.abandoned = False  # it goes on from where the last loop was left
                return Stream(event, convert, reading=reading, misfit=misfit)
            reading.leave(None)
        reading = self._reading(event, items=items, newest=newest)
        return Stream(event, convert, reading=reading, misfit=misfit)

    def _reading(self, event: str, *, items: bool, newest: bool = False, owns: bool = False) -> Reading:
        return Reading(self, self._inbox(items=items, newest=newest), event, owns=owns)

    def _inbox(self, *, items: bool, newest: bool = False) -> Inbox:
        home = self._home
        return Inbox(home.loop, home.limits, home.unread, items=items, answer=self._answer_read, newest=newest)

    def _answer_read(self, i: int) -> None:
        self._answer(i, None)

    # ------------------------------------------------------------ what readings and producers need

    def _tap(self, event: str, tap: Tap) -> None:
        self._arrivals.tap(event, tap)

    def _untap(self, event: str, tap: Tap) -> None:
        self._arrivals.untap(event, tap)

    @property
    def _has_credit(self) -> bool:
        return self._home.has_credit

    def _start_items(self, inbox: Inbox) -> None:
        self._home.start_items(self.id, inbox)

    def _say_stop(self) -> None:
        self._home.stop_items(self.id)

    def _expect_end(self) -> None:
        """What a producer on the other side says last is waited for, but not for ever."""
        loop, patience = self._home.loop, self._home.limits.unread
        error = RpcError(f"the end of what was sent has not come within {patience:g} s")
        self._end_timer = loop.call_at(loop.time() + patience, lambda: self._abort(error))

    def _answer(self, i: int, value: object) -> None:
        if self._is_on_its_connection:
            self._home.answer(i, value)

    def _refuse(self, i: int, error: Exception) -> None:
        if self._is_on_its_connection:
            self._home.refuse(i, error)

    @property
    def _is_on_its_connection(self) -> bool:
        """In another session an id would be that of another request."""
        return not self._home.over

    def _soon(self, callback: Callable[[], None]) -> None:
        self._home.loop.call_soon(callback)

    def _warn(self, text: str) -> None:
        self._home.warn(text)

    # ------------------------------------------------------------ handlers

    def _register(self, event: str, handler: Any, **options: Any) -> Any:
        self._own_registry()
        self._arrivals.listen()
        return super()._register(event, handler, **options)

    def _own_registry(self) -> None:
        if self._registry is _NO_HANDLERS:
            self._registry = self._home.make_registry()

    def _check_open(self) -> None:
        if self.closed and not self._arrivals.can_listen:
            raise self._gone()

    def _gone(self) -> Exception:
        return ChannelClosed(str(self.id), self.close_reason)

    # ------------------------------------------------------------ what arrives

    def _opened(self) -> None:
        """The other side knows of it from now on."""
        self._state = "open"
        first_use: Any = _FirstUse(self)
        self._sender = first_use

    def _handles(self, event: str) -> bool:
        return self._registry.has(self.id, event)

    def _dispatch(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        self._home.dispatch(self, message, payload, decode)

    def _overflowed(self, error: StreamOverflow) -> None:
        self._abort(error)

    def _dropped(self, count: int) -> None:
        self._home.drop(self, count)

    def _forgotten(self) -> None:
        self._home.forget_late(self)

    def _credited(self, n: int, size: int) -> None:
        if self._on_credit is not None:
            self._on_credit(n, size)
        else:
            self._credit = (n, size)

    # ------------------------------------------------------------ the end

    def _abort(self, reason: object, error: Exception | None = None) -> None:
        """End it on both sides. ``error`` is what readers here get, if it is not simply that."""
        if self._state == "open":
            self._home.tell(self.id, reason)
        self._end(reason, error or self._failure(reason))

    def _finish(self) -> None:
        """End it in good order on both sides."""
        if self._state == "open":
            self._home.tell(self.id, FINISHED)
        self._end(FINISHED, None)

    def _end_well(self) -> None:
        """The other side has come to the end, and knows it."""
        self._end(FINISHED, None)

    def _failure(self, reason: object) -> Exception:
        if isinstance(reason, StreamOverflow):
            return reason
        return ChannelClosed(str(self.id), reason)

    def _end(self, reason: object, error: Exception | None, *, by_other: bool = False) -> None:
        """``error`` is what readers get after what is there; None for a good end.

        If it was not this side that ended it, whoever listens later still gets what had come before.
        """
        if self.closed:
            if not by_other:
                self._leave()  # nobody will listen now
            return
        self._state = "closed"
        self._reason = reason
        self._error = error
        self._sender = _Refusing(ChannelClosed, str(self.id), self.close_reason)
        if self._end_timer is not None:
            self._end_timer.cancel()
        served = self._home.forget(self, reason)
        if by_other:
            self._arrivals.end(error)
            if self._arrivals.keeps:
                self._home.keep_late(self, served)
        else:
            if reason is not FINISHED:  # else the reader that goes on answers them
                for i in self._arrivals.take_ids():
                    self._refuse(i, self._gone())
            self._leave(error)
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        on_close, self._on_close = self._on_close, None
        self._on_credit = None
        if on_close is not None:
            on_close(reason)

    def _leave(self, error: Exception | None = None) -> None:
        """Nobody on this side wants to listen any more."""
        self._left = True
        self._arrivals.leave(error)
