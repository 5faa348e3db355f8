"""Anonymous channels: a conversation that belongs to one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Protocol, Self, TypeVar, overload

from msgspec import UNSET

from ._backlog import Backlog
from ._caller import Caller, Sender
from ._inbox import Decode, Inbox
from ._messages import Inbound
from ._reading import Reading, Tap
from ._registry import Middleware, Registry
from ._scheduler import Scheduler, Timer
from ._signature import injectable
from .errors import ChannelClosed, ChannelNotReady, RpcError, StreamOverflow
from .limits import Limits
from .router import Registrar
from .stream import Stream

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["FINISHED", "AnonymousChannel", "Home"]

T = TypeVar("T")
M = TypeVar("M", bound=Middleware)


class Home(Protocol):
    """What a channel needs of the peer that it belongs to."""

    loop: Scheduler
    limits: Limits
    sender: Sender
    has_credit: bool
    """Whether the other side keeps to credit."""
    generation: int
    """Which connection this is."""

    def make_registry(self) -> Registry: ...

    def converter(self, returns: Any, /) -> Callable[[Any], Any]: ...

    def dispatch(self, message: Inbound, payload: bytes | bytearray, decode: Decode, /) -> None:
        """Run the handler for a message."""

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

    def forget(self, channel: AnonymousChannel, reason: object, /) -> None:
        """The channel is over: nothing of it is to be left."""

    def keep_late(self, channel: AnonymousChannel, /) -> None:
        """It is over, but who listens to it later is still to get what came before."""

    def forget_late(self, channel: AnonymousChannel, /) -> None: ...

    def warn(self, text: str, /) -> None: ...


class _Finished:
    """The reason of a channel that has come to its end in good order."""

    def __repr__(self) -> str:
        return "finished"


FINISHED: Any = _Finished()

_NOT_READY = (
    "channel {} is not delivered yet: return it first, and send from a handler on it, a task or when it is read; a "
    "handler with an AnonymousChannel parameter runs once it is"
)

_NOBODY: dict[str, Tap] = {}

_NO_HANDLERS = Registry()
"""What most channels have: streams, for instance."""


class _Refusing:
    """The sender of a channel that cannot send. It does not refer to the channel, which refers to it."""

    def __init__(self, error: type[Exception], *args: object) -> None:
        self._error = error
        self._args = args

    def _refuse(self, *_: object) -> Never:
        raise self._error(*self._args)

    send_event = send_event_nowait = send_request = open_channel = open_stream = upload = converter = _refuse


@injectable("ctx.channel()", conversation=True)
class AnonymousChannel(Registrar, Caller):
    """A channel without a name that one request opened. Both sides emit, request, register and read on it.

    The requestor gets it from ``open_channel``. The handler of that request either has a parameter annotated with
    this class, and its body is the conversation; or it makes one with `Context.channel` and returns it. The channel
    is over when either side aborts it, when the connection ends, or when the conversation's body returns.

    What arrives before the first handler is registered or the first reader reads is kept, for `Limits.unread` seconds
    and up to `Limits.stream_queue` bytes. Before a handler's channel is delivered sending raises `ChannelNotReady`;
    after the end `ChannelClosed` with the reason.

    ``async with channel`` ends it when the block is left. ``async for item in channel`` reads the items of
    ws-wrapper's iterator protocol.
    """

    __slots__ = (
        "__weakref__",
        "_attached",
        "_backlog",
        "_channel_name",
        "_closed",
        "_credit",
        "_end_timer",
        "_error",
        "_generation",
        "_home",
        "_late",
        "_live",
        "_on_close",
        "_on_credit",
        "_reason",
        "_registry",
        "_sender",
        "_state",
        "_taps",
        "id",
    )

    def __init__(self, id: int, home: Home) -> None:
        self.id = id
        """The id of the request that opened it, which is the channel's name on the wire."""
        self._channel_name = id
        self._home = home
        self._generation = home.generation
        self._registry = _NO_HANDLERS
        self._state = "new"
        self._reason: Any = None
        self._error: Exception | None = None
        self._sender: Sender = _Refusing(ChannelNotReady, _NOT_READY.format(id))
        self._taps: dict[str, Tap] = {}
        self._live: dict[str, Tap] = _NOBODY
        """Who gets a message at once; nobody while earlier ones are kept."""
        self._attached = False
        self._late = False
        """It was over before anybody listened."""
        self._backlog: Backlog | None = None
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
        reading = self._taps.get("next")
        if isinstance(reading, Reading) and reading.is_awaited and self._state == "open":
            self._home.tell(self.id, reason)
        self._end(reason, ChannelClosed(str(self.id), reason))

    async def abort(self, reason: object = None) -> None:
        """End the channel on both sides. ``reason`` travels: an `RpcError`, text or any value. Idempotent.

        Of another exception its text travels. On either side requests that were made on it fail with `ChannelClosed`,
        and the handler whose body is the conversation is cancelled. Cancelling is safe.
        """
        self._abort(reason)

    async def wait_closed(self) -> None:
        """Wait until the channel is over. Cancelling is safe."""
        if self.closed:
            return
        if self._closed is None:
            self._closed = self._home.loop.create_future()
        await asyncio.shield(self._closed)

    @overload
    def stream(self, event: str, /) -> Stream[Any]: ...

    @overload
    def stream(self, event: str, /, *, returns: TypeForm[T]) -> Stream[T]: ...

    def stream(self, event: str, /, *, returns: Any = UNSET) -> Stream[Any]:
        """Read the events of one name: ``async for line in channel.stream("line", returns=str)``.

        An event with one argument gives that, one with several the list of them, one with none None. Reading begins
        at once, so nothing is missed between this call and the loop. It ends well when the other side closes the
        channel in good order, else with the reason as an error; see `Stream`. Requests of that name are answered with
        None once they are read, or sooner where there is room: so the other side can wait for the reader. Events that
        nobody has read wait, up to `Limits.stream_queue` bytes; past it reading ends with `StreamOverflow` after them.

        Raises:
            ChannelClosed: the channel is over.
            RuntimeError: events of that name are being read already.
        """
        return self._read(event, returns, items=False)

    def __aiter__(self) -> Stream[Any]:
        """Read the items of ws-wrapper's iterator protocol; at their end the channel stays open, as in JavaScript."""
        return self._read("next", UNSET, items=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        else:
            # The text of another error is for this side only; the reason of a cancellation is meant to travel.
            self._abort(error.args[0] if isinstance(error, asyncio.CancelledError) and error.args else None)

    def use(self, middleware: M, /) -> M:
        self._own_registry()
        return super().use(middleware)

    def __repr__(self) -> str:
        return f"<AnonymousChannel {self.id} {self._state}>"

    # ------------------------------------------------------------ reading

    def _read(self, event: str, returns: Any, *, items: bool) -> Stream[Any]:
        self._check_open()
        convert = None if returns is UNSET else self._home.converter(returns)
        reading = self._taps.get(event)
        if isinstance(reading, Reading) and reading.abandoned:
            reading.leave(None)
            if self._taps.get(event) is reading:  # it goes on from where the last loop was left
                reading.abandoned = False
                return Stream(event, convert, reading=reading)
        return Stream(event, convert, reading=self._reading(event, items=items))

    def _reading(self, event: str, *, items: bool, owns: bool = False) -> Reading:
        return Reading(self, self._inbox(items=items), event, owns=owns)

    def _inbox(self, *, items: bool) -> Inbox:
        return Inbox(self._home.loop, self._home.limits, items=items, answer=self._answer_read)

    def _answer_read(self, i: int) -> None:
        self._answer(i, None)

    # ------------------------------------------------------------ what readings and producers need

    def _tap(self, event: str, tap: Tap) -> None:
        if self.closed and not self._late:
            tap.channel_over(self._error)
            return
        if event in self._taps:
            raise RuntimeError(f"{event!r} is being read on this channel already: one reader at a time")
        self._taps[event] = tap
        self._attach()

    def _untap(self, event: str, tap: Tap) -> None:
        if self._taps.get(event) is tap:
            del self._taps[event]

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
        """On another one an id would be that of another request."""
        return self._generation == self._home.generation

    def _soon(self, callback: Callable[[], None]) -> None:
        self._home.loop.call_soon(callback)

    def _warn(self, text: str) -> None:
        self._home.warn(text)

    # ------------------------------------------------------------ handlers

    def _register(self, event: str, handler: Any, **options: Any) -> Any:
        self._own_registry()
        self._attach()
        return super()._register(event, handler, **options)

    def _own_registry(self) -> None:
        if self._registry is _NO_HANDLERS:
            self._registry = self._home.make_registry()

    def _check_open(self) -> None:
        if self.closed and not self._late:
            raise self._gone()

    def _gone(self) -> Exception:
        return ChannelClosed(str(self.id), self.close_reason)

    # ------------------------------------------------------------ what arrives

    def _opened(self) -> None:
        """The other side knows of it from now on."""
        self._state = "open"
        self._sender = self._home.sender

    def _receive(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        """An event or a request on this channel; ``a`` is a list that begins with a text."""
        if not self._attached:
            self._keep(message, bytes(payload), decode)
            return
        if self._backlog:  # of this very turn: in order
            self._backlog.add(message, bytes(payload), decode)
            return
        self._deliver(message, payload, decode)

    def _deliver(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        tap = self._taps.get(message.a[0])
        if tap is not None:
            tap.arrived(message, payload, decode)
        else:
            self._home.dispatch(message, payload, decode)

    def _keep(self, message: Inbound, payload: bytes, decode: Decode) -> None:
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = Backlog(self._home.loop, self._home.limits, self._unread)
        if not backlog.keep(message, payload, decode):
            limit = self._home.limits.stream_queue
            self._abort(StreamOverflow(f"nobody reads channel {self.id}, and {limit} bytes wait (Limits.stream_queue)"))

    def _unread(self) -> None:
        if self.closed:
            self._forget_backlog()
        else:
            self._abort(StreamOverflow(f"nobody has read channel {self.id} within {self._home.limits.unread:g} s"))

    def _attach(self) -> None:
        """Somebody listens: deliver what was kept, once this turn has registered all that it wants to."""
        if self._attached:
            return
        self._attached = True
        if self._backlog is not None:
            self._backlog.stop_timer()
        if self._backlog or self._late:
            self._home.loop.call_soon(self._deliver_backlog)
        else:
            self._live = self._taps

    def _deliver_backlog(self) -> None:
        while self._backlog:
            self._deliver(*self._backlog.pop(self.id))
        self._live = self._taps
        if self._late:
            self._forget_backlog()
            self._tell_taps()

    def _forget_backlog(self) -> None:
        """Nobody will listen to what was kept."""
        if self._backlog is not None:
            self._backlog.clear()
        if self._late:
            self._late = False
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
                self._forget_backlog()  # now nobody will listen
            return
        self._state = "closed"
        self._reason = reason
        self._error = error
        self._sender = _Refusing(ChannelClosed, str(self.id), self.close_reason)
        self._late = by_other and not self._attached
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._home.forget(self, reason)
        if not (by_other or reason is FINISHED):  # else whoever reads on answers them
            for i in self._take_ids():
                self._refuse(i, self._gone())
        if not self._late:
            self._forget_backlog()
            self._tell_taps()
        elif self._backlog:
            self._home.keep_late(self)
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)
        on_close, self._on_close = self._on_close, None
        self._on_credit = None
        if on_close is not None:
            on_close(reason)

    def _take_ids(self) -> list[int]:
        """The ids of the requests that wait here for whoever listens; they are events from now on."""
        ids = [] if self._backlog is None else self._backlog.take_ids()
        return ids + [i for tap in dict.fromkeys(self._taps.values()) for i in tap.take_ids()]

    def _tell_taps(self) -> None:
        taps, self._taps = self._taps, {}
        self._live = _NOBODY
        for tap in taps.values():
            tap.channel_over(self._error)
