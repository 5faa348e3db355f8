"""Admission of inbound messages: each is handled now, waits, or is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import UNSET

from .._base.closing import CloseCode
from .._base.names import STREAM_EVENTS, ChannelRef
from .._channels.readers import Readers
from .._handlers.invocation import Invocation
from .._handlers.observation import Message, mark_processed
from .._protocol.counting import decode_any
from .._protocol.messages import WireMessage, place_on
from .._protocol.rejections import ABORTED
from .._sending.outbound import Outbound
from .._streams.inbox import Inbox
from .._streams.recipients import Decode, Recipient
from ..errors import Draining, Overloaded, RemoteError, RpcError
from .answers import Answers
from .running import Dispatch, Hold, Kind, ReceivedMessage, RunningHandlers

if TYPE_CHECKING:
    from .._channels.core import ChannelCore

# Constants, because Python 3.11 looks members of an enum up slowly, and these are asked for with each message.
_ON_CHANNEL, _REQUEST, _EVENT = Kind
_NONE_HELD = Hold.NONE


class Admission:
    """Keeps the handlers of a session within ``Limits.running``, ``running_bytes`` and ``waiting``, and in order.

    It also keeps the remote peer within ``Limits.rate``, if there is one. Then ``needs_checks`` is always true.

    Handlers and messages of earlier sessions count, too. When a session has ended, the admission of the next one lets
    its events go on.

    While `open` handlers run, they hold some messages back. The other messages stay in order among themselves.

    While ``needs_checks`` is false, nothing needs to be checked and there are no readers: a message may go straight to
    `dispatch`.
    """

    def __init__(
        self,
        running: RunningHandlers,
        answers: Answers,
        out: Outbound,
        active: dict[int, Invocation],
        *,
        present: Callable[[], Admission],
        dispatch: Dispatch,
        pumped: Callable[[], None],
        readers: Readers,
        fail: Callable[[int, str], None],
    ) -> None:
        """
        Args:
            active: the requests of the session that are being handled, by id.
            present: returns the admission of the present session, or of the last one.
            dispatch: runs the handler of a message now.
            pumped: is called when messages that waited may have been dispatched, which no read from the network caused.
            fail: ends the connection with a code and a reason.
        """
        self.running = running
        self._answers = answers
        self._out = out
        self._dispatch = dispatch
        self._pumped = pumped
        self.readers = readers
        self._read = readers.channels
        self._active = active
        self._present = present
        self._fail = fail
        self._bucket = running.bucket
        self.paused: asyncio.Future[None] | None = None
        """Set while no handler may start, because a Close frame is queued. Done when the session is over, or goes on
        over another connection."""
        self.late = 0
        """Handlers that wait for this in tasks. Later messages wait until they have started, to stay in order."""
        self._holding = Hold.NONE
        self._refuses: Callable[[], bool] | None = None
        """Returns whether a new request is refused, once this side drains."""
        self._pumping = False
        self.needs_checks = self._find_needs_checks()

    # ------------------------------------------------------------ one message

    def arrived(
        self,
        message: WireMessage,
        payload: bytes | bytearray,
        view: Message | None,
        decode: Decode,
        channel: ChannelCore | None = None,
    ) -> None:
        """Handle an event or a request, let it wait, or refuse it.

        Args:
            message: its ``a`` is a non-empty list, and its ``i`` is an id or absent.
            channel: the anonymous channel on which it arrived.
        """
        i = message.i
        kind = _ON_CHANNEL if channel is not None else _EVENT if i is UNSET else _REQUEST
        is_read = self._holding is not _NONE_HELD and self.readers.has_readers(message.c, message.a[0])
        if i is not UNSET and self.knows(i):
            # A rejection would settle the first one, which is still being worked on.
            self._answers.ignored["duplicate id"] += 1
        elif (self._bucket is not None and self._counts(message, channel) and not self.within_rate(message)) or (
            self._read and channel is None and self.readers.take(message, payload, decode)
        ):
            pass
        elif self._refuses is not None and i is not UNSET and message.h is None and self._refuses():
            self._answers.reject(i, Draining("closing, no new requests are taken: ask again on another connection"))
        elif self.paused is not None and self._out.session.over:  # it was kept on a channel
            self._answers.ignored["dropped at the end"] += 1
        elif not self._must_wait(kind, len(payload)):
            self._dispatch(message, payload, view, channel)
            return
        elif self.running.let_wait(
            ReceivedMessage(
                kind, _kept(payload, view), None if i is UNSET else i, view, decode, self._dispatch, channel, is_read
            )
        ):
            self.update()
            return
        elif i is UNSET:
            text = f"an event was dropped: {len(self.running.waiting_room)} messages wait already"
            self._answers.count("event dropped, too many wait", text)
        else:
            self._answers.reject(
                i, Overloaded(f"{len(self.running.waiting_room)} messages wait already, ask again later")
            )
        mark_processed(view)

    def knows(self, i: int) -> bool:
        """Return whether request ``i`` is being handled or waits for its handler."""
        return i in self._active or (bool(self.running.waiting_room.items) and self.running.waiting_room.has_key(i))

    def within_rate(self, message: WireMessage) -> bool:
        """Count an event or a request against `Limits.rate`. Above the rate refuse it, and return False."""
        if self._bucket is None or self._bucket.take(self._out.loop.time()):
            return True
        rate = f"more than {self.running.limits.rate} requests and events per second"
        self._answers.count("above the rate", f"a message was refused: {rate} (Limits.rate)")
        if message.i is not UNSET:
            self._answers.reject(message.i, Overloaded(f"{rate}, ask again later"))
        return False

    def _counts(self, message: WireMessage, channel: ChannelCore | None) -> bool:
        """Return whether a message that has arrived counts against `Limits.rate`, as those of streams do not.

        Those on anonymous channels were counted before they came here, except for `STREAM_EVENTS`: only now is it known
        that these are a user's own, because no stream took them.
        """
        if channel is not None:
            return message.a[0] in STREAM_EVENTS
        return not self.readers.is_of_stream(message)

    def _is_full(self, size: int) -> bool:
        running = self.running
        return (
            self.paused is not None
            or self.late > 0
            or self._out.session.full  # our answers could not leave
            or running.count >= running.limit
            or (running.held > 0 and running.held + size > running.most_held)
        )

    def _must_wait(self, kind: Kind, size: int) -> bool:
        if (self._holding is not _NONE_HELD and kind >= self._holding) or self._is_full(size):
            return True
        # A message must not overtake those that wait already, except for those that are held back.
        return bool(self.running.waiting_room.items) and self.running.waiting_room.oldest(self._holding) is not None

    def cancel(self, i: int) -> bool:
        """Cancel request ``i`` if it waits for its handler. Return False if it does not."""
        waiting = self.running.waiting_room.take_key(i)
        if waiting is None:
            return False
        waiting.mark_processed()
        self._answers.reject(i, RpcError(ABORTED))
        return True

    # ------------------------------------------------------------ what admission depends on

    def update(self) -> None:
        """Compute ``needs_checks`` anew, because something that it depends on has changed."""
        present = self._present() if self._out.session.over else self
        present.needs_checks = present._find_needs_checks()

    def _find_needs_checks(self) -> bool:
        running = self.running
        return bool(
            self._active
            or self._read
            or running.waiting_room.items
            or self._out.session.full
            or self._holding is not _NONE_HELD
            or running.count >= running.limit
            or running.held > running.room_for_any
            or self._refuses is not None
            or self._bucket is not None
            or self.paused is not None
            or self.late > 0
        )

    def reject(self, i: int, error: RpcError, /) -> None:
        """Reject request ``i``."""
        self._answers.reject(i, error)

    def pause(self) -> None:
        """Let no handler start: a Close frame is queued. Idempotent."""
        if self.paused is None:
            self.paused = self._out.loop.create_future()
        self.update()

    def unpause(self) -> None:
        """Let handlers start: there is another connection. Idempotent."""
        paused, self.paused = self.paused, None
        if paused is not None:
            paused.set_result(None)

    def begin_reading(self, channel: ChannelRef, event: str, recipient: Recipient) -> None:
        """Give a new reader the events that wait while `open` handlers run: an `open` handler may be the reader."""
        if self._holding is not _NONE_HELD and isinstance(recipient, Inbox):
            handled = self.readers.has_handler(channel, event)
            for ticket, waiting in self.running.waiting_room.events():
                message = decode_any(waiting.decode, waiting.payload)
                if (message.c, message.a[0]) != (channel, event) or waiting.is_read or recipient.over:
                    continue
                message.i = UNSET
                recipient.receive(message, waiting.payload, waiting.decode)
                waiting.is_read = True
                if not handled:
                    self.running.waiting_room.take(ticket)
                    waiting.mark_processed()
        self.update()

    def count_as_channel(self, invocation: Invocation) -> None:
        """Count a handler as a channel, with which its request was answered. That makes room for another handler."""
        self.running.count_as_channel(invocation)
        self.update()
        if self.running.waiting_room.items:
            self._out.loop.call_soon(self.pump)  # later, so that the first step on the channel comes first

    def count_as_handler(self, invocation: Invocation) -> None:
        """Count a handler as such again: its channel is over, and makes room for the next one."""
        self.running.count_as_handler(invocation)
        self.update()

    def hold(self, holding: Hold) -> None:
        """Hold these messages back from now on, and start those that need not wait any more."""
        self._holding = holding
        self.update()
        if self.running.waiting_room.items:
            self.pump()

    def room_changed(self) -> None:
        """Go on after the connection has become full, or has room again, or has ended."""
        self.update()
        if self.running.waiting_room.items:
            self.pump()

    def drain(self, refuses: Callable[[], bool]) -> None:
        """Refuse each new request that is not on an anonymous channel, from now on, if ``refuses()``."""
        self._refuses = refuses
        self.update()

    # ------------------------------------------------------------ those that wait

    def pump(self) -> None:
        """Start the messages that wait, as far as there is room."""
        if self._out.session.over and (present := self._present()) is not self:
            present.pump()
            return
        if self._pumping or not self.running.waiting_room.items:
            return
        self._pumping = True
        try:
            while self._present() is self and (found := self.running.waiting_room.oldest(self._holding)) is not None:
                ticket, waiting = found
                if self._is_full(len(waiting.payload)):
                    break
                self.running.waiting_room.take(ticket)
                channel = waiting.channel
                try:
                    if waiting.too_late:
                        self._drop(waiting)
                        continue
                    message = decode_any(waiting.decode, waiting.payload)
                    message.i = UNSET if waiting.id is None else waiting.id
                    if channel is not None:
                        place_on(message, channel.id)
                    waiting.dispatch(message, waiting.payload, waiting.view, channel)
                except Exception as exc:
                    # It was decoded when it came, so a codec is at fault. That ends this connection only.
                    self._answers.log(logging.ERROR, "a message could not be dealt with", exc_info=exc)
                    self._fail(CloseCode.INTERNAL_ERROR, "a message could not be dealt with")
        finally:
            self._pumping = False
            self._pumped()
            self.update()

    def _drop(self, waiting: ReceivedMessage) -> None:
        """Drop a message whose channel has ended before its turn came."""
        if waiting.id is not None and waiting.channel is not None:
            self._answers.reject(waiting.id, RemoteError(f"Anonymous channel '{waiting.channel.id}' does not exist"))
        waiting.mark_processed()

    def end_session(self) -> None:
        """Drop the requests that wait: nobody waits for their answers. Events start when there is room.

        They start before the channels of the session end. All messages are dropped if this side has closed the
        connection, or while `open` handlers run, which may refuse the remote peer.
        """
        if self.paused is not None or self._holding is not _NONE_HELD:
            self.drop_all()
        if self.running.waiting_room.items:
            for waiting in self.running.waiting_room.take_requests():
                waiting.mark_processed()
        self.hold(Hold.NONE)
        if self.paused is not None:
            self.paused.set_result(None)  # ends handlers that wait to start

    def drop_all(self) -> None:
        """Drop all messages that wait: the peer ends."""
        while found := self.running.waiting_room.oldest():
            ticket, waiting = found
            self.running.waiting_room.take(ticket)
            waiting.mark_processed()
            self._answers.ignored["dropped at the end"] += 1
        self.update()


def _kept(payload: bytes | bytearray, view: Message | None) -> bytes:
    return bytes(payload) if view is None else view.payload  # the same bytes, which the view keeps anyway
