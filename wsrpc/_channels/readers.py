"""What is read on a peer's main channel and on its named ones: events, and the items of ws-wrapper's iterator."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from msgspec import UNSET

from .._base.names import ChannelRef
from .._handlers.compiled import compile_handler
from .._protocol.messages import Event, Inbound
from .._sending.checks import check_sending, check_thread, check_thread_of_plain
from .._sending.outbound import Outbound
from .._streams.event_values import Value, Waits, value_of
from .._streams.inbox import Decode, Inbox
from .._streams.reader import Observers, Reading, Tap
from .._streams.stream import Stream
from ..errors import ConnectionLost, QueueFull, RpcError, StreamOverflow, as_text, short
from .table import Channels

__all__ = ["FOR_READERS", "Readers"]

Key = tuple[ChannelRef, str]
"""A channel, None for the main one, and the name of an event."""


def _read(*_: Any) -> None:
    """Nothing: the readers of the event have it."""


FOR_READERS = compile_handler(_read)
"""What middleware runs around where an event has readers and no handler."""


class Gate(Protocol):
    """What readers need of the admission."""

    def begin_reading(self, channel: ChannelRef, event: str, tap: Tap, /) -> None:
        """A reader has come."""

    def update(self) -> None:
        """The last reader of an event has left."""


class Handlers(Protocol):
    """What readers need to know of handlers."""

    def handles(self, channel: ChannelRef, event: str, /) -> bool:
        """Whether anything is to run for an event: a handler, or middleware."""
        ...


class Readers:
    """The readers of one peer. They get a message when it arrives: before middleware and handlers, which wait in turn.

    ``survives``: readers of events stay when the connection ends, because another one may come.
    """

    __slots__ = ("_ended", "_survives", "gate", "handlers", "home", "out", "read_before", "taps")

    def __init__(self, out: Outbound, gate: Gate, handlers: Handlers, *, survives: bool) -> None:
        self.gate = gate
        self.handlers = handlers
        self.home: Channels
        """Those of the present session."""
        self.out = out
        self.taps: dict[Key, Tap] = {}
        self.read_before: dict[str, None] = {}
        """Named channels whose items somebody reads or has read."""
        self._survives = survives
        self._ended: Callable[[], Exception | None] | None = None
        """Once reading is over: makes what a reader gets, None for a plain end."""

    # ------------------------------------------------------------ reading

    def read_events(self, channel: ChannelRef, event: str, returns: Any, keep: Waits) -> Stream[Any]:
        """See `EventReader.events`."""
        check_sending(channel, event, None)
        check_thread_of_plain(self.out.thread, "peer.events")
        convert = value_of(returns, self.home.converter)
        label = event if channel is None else f"{channel}:{event}"
        wanted = convert if keep == "first" else None
        reading = self._reading((channel, event), items=False, newest=keep == "newest", wanted=wanted)
        return Stream(label, convert, reading=reading, misfit=partial(self.home.misfit, f"event {short(label)}"))

    def read_items(self, channel: str, returns: Any) -> Stream[Any]:
        """See `Channel.items`."""
        check_thread_of_plain(self.out.thread, "channel.items")
        convert = None if returns is UNSET else self.home.converter(returns)
        return Stream(channel, convert, reading=self._reading((channel, "next"), items=True, newest=False))

    def _reading(self, key: Key, *, items: bool, newest: bool, wanted: Value | None = None) -> Reading:
        home, seat = self.home, Seat(self, key[0])
        inbox = Inbox(home.loop, home.limits, home.unread, items=items, answer=seat.answer, newest=newest)
        inbox.wanted = wanted
        return Reading(seat, inbox, key[1])

    # ------------------------------------------------------------ coming and going

    def tap(self, key: Key, tap: Tap) -> None:
        """Let ``tap`` have the messages of that name on that channel.

        Raises:
            RuntimeError: what is there does not share them.
        """
        if self._ended is not None:
            tap.channel_over(self._ended())
            return
        present = self.taps.get(key)
        if _reads_items(tap):
            if present is not None:
                raise RuntimeError(f"the items of channel {key[0]!r} are being read already: one reader at a time")
            self.taps[key] = tap
            self.read_before[str(key[0])] = None
        else:
            if present is None:
                present = self.taps[key] = Observers()
            elif not isinstance(present, Observers):
                raise RuntimeError(f"the items of channel {key[0]!r} are being read: 'next' is no event there")
            present.taps.append(tap)
        self.gate.begin_reading(*key, tap)

    def untap(self, key: Key, tap: Tap) -> None:
        """Let it have them no more."""
        present = self.taps.get(key)
        if isinstance(present, Observers) and tap in present.taps:
            present.taps.remove(tap)
            if present.taps:
                return
        elif present is not tap:
            return
        del self.taps[key]
        self.gate.update()

    def begin(self) -> None:
        """There is a connection, or there may be one."""
        self._ended = None

    def leave_loop(self) -> None:
        """The event loop in which they read is over."""
        with suppress(RuntimeError):  # of a closed loop, where somebody still waits
            self.end(lambda: None)
        self.taps.clear()
        self.begin()

    def connection_lost(self, error: ConnectionLost) -> None:
        """Readers of items get ``error``; and so do those of events, unless they survive."""
        if not self._survives:
            self.end(partial(ConnectionLost, error.code, error.reason))
            return
        for key, present in list(self.taps.items()):
            for tap in tuple(present.taps) if isinstance(present, Observers) else (present,):
                if not isinstance(tap, Reading) or tap.inbox.items:
                    self.untap(key, tap)
                    tap.channel_over(ConnectionLost(error.code, error.reason))

    def end(self, error: Callable[[], Exception | None], channel: str | None = None) -> None:
        """End all reading, or that on a named ``channel``; readers get what ``error`` makes, None for a plain end."""
        if channel is None:
            self._ended = error
        keys = [key for key in self.taps if channel is None or key[0] == channel]
        if not keys:
            return
        check_thread_of_plain(self.out.thread, "channel.close")
        for tap in [self.taps.pop(key) for key in keys]:
            for each in tuple(tap.taps) if isinstance(tap, Observers) else (tap,):
                each.channel_over(error())
        self.gate.update()

    # ------------------------------------------------------------ messages

    def read(self, channel: ChannelRef, event: str) -> bool:
        """Whether somebody reads the events of that name."""
        return isinstance(self.taps.get((channel, event)), Observers)

    def take(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> bool:
        """Hand a message to its readers; True if that is all that is to be done with it."""
        tap = self.taps.get((message.c, message.a[0]))
        if tap is None:
            return False
        i = message.i
        if not isinstance(tap, Observers):
            tap.arrived(message, payload, decode)
            error = tap.inbox.error if isinstance(tap, Reading) else None
            if i is not UNSET and isinstance(error, StreamOverflow):
                self.home.handlers.reject(i, RpcError(as_text(error)))
            return True
        if i is not UNSET:
            return False  # a request is for a handler
        handled = self.handlers.handles(message.c, message.a[0])
        tap.give(message, payload, decode, handled=handled)
        return not handled


class Seat:
    """What one reading needs of its channel, see `Readable`."""

    __slots__ = ("_channel", "_home", "_key", "_readers", "_reading")

    def __init__(self, readers: Readers, channel: ChannelRef) -> None:
        self._readers = readers
        self._channel = channel
        self._home = None if readers.home.over else readers.home
        """That of the session in which reading began, if there was one: what was asked for may wait for the next."""
        self._key: Key = (channel, "")
        self._reading: Tap | None = None

    @property
    def closed(self) -> bool:
        return self._reading is None

    def _tap(self, event: str, tap: Tap) -> None:
        self._key = self._channel, event
        self._reading = tap
        self._readers.tap(self._key, tap)

    def _untap(self, event: str, tap: Tap) -> None:
        self._reading = None
        self._readers.untap(self._key, tap)
        if isinstance(tap, Reading) and tap.has_producer and self._is_on_its_connection:
            self._say_stop()

    @property
    def _has_credit(self) -> bool:
        return False

    @property
    def _is_on_its_connection(self) -> bool:
        if self._home is None:
            self._home = self._readers.home
        return not self._home.over

    def _start_items(self, inbox: Inbox) -> None:
        assert isinstance(self._channel, str)
        try:
            self._readers.out.send_event_nowait(self._channel, "start", ())
        except (ConnectionLost, QueueFull) as exc:
            inbox.end(exc)

    def answer(self, i: int) -> None:
        self._answer(i, None)

    def _answer(self, i: int, value: object) -> None:
        if self._is_on_its_connection:  # on another one the id would be that of another request
            self._readers.home.answer(i, value)

    def _say_stop(self) -> None:
        home, out = self._readers.home, self._readers.out
        if home.has_credit and isinstance(self._channel, str):  # wsrpc; ws-wrapper's own iterator does not say it
            out.reply(out.terms.encode(Event(("stop",), self._channel)))

    def _abort(self, reason: object) -> None:
        """Too much is unread: it gets no more."""
        tap = self._reading
        if tap is not None:
            self._untap(self._key[1], tap)

    def _end_well(self) -> None:
        """Nothing to do: the channel stays."""

    def _soon(self, callback: Callable[[], None]) -> None:
        self._readers.home.loop.call_soon(callback)

    def _warn(self, text: str) -> None:
        self._readers.home.warn(text)

    def _dropped(self, count: int) -> None:
        """Nothing to count: reading on was never promised."""

    def _check_thread(self, coroutine: str) -> None:
        check_thread(self._readers.out.thread, coroutine)


def _reads_items(tap: Tap) -> bool:
    return isinstance(tap, Reading) and tap.inbox.items
