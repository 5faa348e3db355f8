"""Which inbound message may have its handler now, which waits, and which is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import UNSET

from .._base.closing import CloseCode
from .._base.names import ChannelRef
from .._channels.readers import Readers
from .._handlers.observation import Observation
from .._protocol.counting import decode_any
from .._protocol.messages import WireMessage, place_on
from .._protocol.rejections import ABORTED
from .._sending.outbound import Outbound
from .._streams.inbox import Decode
from .._streams.reader import Reading, Recipient
from ..errors import Draining, Overloaded, RemoteError, RpcError
from ..limits import Limits
from .answers import Answers
from .running import RunningHandlers
from .session import Call, Session
from .waiting import Hold, Kind, Waiting, WaitingRoom

if TYPE_CHECKING:
    from .._channels.core import ChannelCore

__all__ = ["Admission"]

# In Python 3.11 `Kind.EVENT` takes 0.1 µs, and these are asked for with each message.
_ON_CHANNEL, _REQUEST, _EVENT = Kind
_NONE_HELD = Hold.NONE


class Dispatch(Protocol):
    """Runs the handler of a message."""

    def __call__(
        self,
        message: WireMessage,
        payload: bytes | bytearray,
        view: Observation | None = None,
        channel: ChannelCore | None = None,
    ) -> None: ...


class Admission:
    """Keeps within ``Limits.running``, ``running_bytes`` and ``waiting``, and what comes in order.

    While `open` handlers run, what they hold back waits apart from the rest, which goes on in an order of its own.

    While ``busy`` is false nothing is to be checked, and nobody reads: a message may go straight to `dispatch`.
    """

    def __init__(
        self,
        running: RunningHandlers,
        answers: Answers,
        limits: Limits,
        out: Outbound,
        *,
        dispatch: Dispatch,
        readers: Readers,
        fail: Callable[[int, str], None],
    ) -> None:
        self._running = running
        self._answers = answers
        self._out = out
        self._dispatch = dispatch
        self.readers = readers
        self._recipients = readers.recipients
        self._active: dict[int, Call] = {}
        """Requests of the present session whose handlers run in tasks, by id."""
        self._fail = fail
        self.room = WaitingRoom(limits.waiting, limits.waiting_bytes)
        self.busy = False
        self._holding = Hold.NONE
        self._refuses: Callable[[], bool] | None = None
        """Once this side drains: whether a new request is refused."""
        self._pumping = False

    def begin(self, session: Session) -> None:
        """Admit the messages of ``session`` from now on."""
        self._active = session.active
        self.readers.session_started(self)

    # ------------------------------------------------------------ one message

    def arrived(
        self,
        message: WireMessage,
        payload: bytes | bytearray,
        view: Observation | None,
        decode: Decode,
        channel: ChannelCore | None = None,
    ) -> None:
        """Take an event or request: ``a`` is a non-empty list, ``i`` absent or an id. ``channel``: an anonymous one."""
        i = message.i
        kind = _ON_CHANNEL if channel is not None else _EVENT if i is UNSET else _REQUEST
        if i is not UNSET and self.knows(i):
            # A rejection would settle the first one, which is still being worked on.
            self._answers.ignored["duplicate id"] += 1
        elif self._recipients and channel is None and self.readers.take(message, payload, decode):
            pass
        elif self._refuses is not None and i is not UNSET and message.h is None and self._refuses():
            self._answers.reject(i, Draining("closing, no new requests are taken: ask again on another connection"))
        elif not self._must_wait(kind, len(payload)):
            self._dispatch(message, payload, view, channel)
            return
        elif self.room.put(Waiting(kind, _kept(payload, view), None if i is UNSET else i, view, decode, channel)):
            self.update()
            return
        elif i is UNSET:
            text = f"an event was dropped: {len(self.room)} messages wait already"
            self._answers.count("event dropped, too many wait", text)
        else:
            self._answers.reject(i, Overloaded(f"{len(self.room)} messages wait already, ask again later"))
        if view is not None:
            view.finish()

    def knows(self, i: int) -> bool:
        """Whether request ``i`` is being worked on or waits for that."""
        return i in self._active or (self.room.messages > 0 and self.room.has(i))

    def _is_full(self, size: int) -> bool:
        running, link = self._running, self._out.link
        return (
            (link is not None and link.full)  # our answers could not leave
            or running.count >= running.limit
            or (running.held > 0 and running.held + size > running.most_held)
        )

    def _must_wait(self, kind: Kind, size: int) -> bool:
        if (self._holding is not _NONE_HELD and kind >= self._holding) or self._is_full(size):
            return True
        # Nobody overtakes those who wait already, but for those who are held back.
        return self.room.messages > 0 and self.room.first(self._holding) is not None

    def cancel(self, i: int) -> bool:
        """The other side no longer waits for request ``i``; False if it does not wait here."""
        waiting = self.room.take_request(i)
        if waiting is None:
            return False
        waiting.finish()
        self._answers.reject(i, RpcError(ABORTED))
        return True

    # ------------------------------------------------------------ what decides

    def update(self) -> None:
        """Something that decides has changed."""
        running = self._running
        self.busy = bool(
            self._active
            or self._recipients
            or self.room.messages
            or ((link := self._out.link) is not None and link.full)
            or self._holding is not _NONE_HELD
            or running.count >= running.limit
            or running.held > running.room_for_any
            or self._refuses is not None
        )

    def begin_reading(self, channel: ChannelRef, event: str, recipient: Recipient) -> None:
        """A reader has come: hand it what `open` handlers hold back, which may be what one of them waits for.

        What another reader has taken already is over: a second `wait_for` gets the second event.
        """
        if self._holding is _NONE_HELD or not isinstance(recipient, Reading):
            self.update()
            return
        inbox = recipient.inbox
        wanted, key = inbox.wanted, (channel, event)
        handled = self.readers.has_handler(channel, event)
        for waiting in self.room.events():
            if waiting.key is None:
                message = decode_any(waiting.decode, waiting.payload)
                waiting.key = message.c, message.a[0]
            if waiting.key != key:
                continue
            if waiting.was_taken:
                if not handled:
                    self.room.take(waiting)
                    waiting.finish()
                continue
            message = decode_any(waiting.decode, waiting.payload)
            fits = wanted is not None and _fits(wanted, message.a)
            recipient.receive(message, waiting.payload, waiting.decode)
            if inbox.over:
                break
            waiting.readers += ((inbox, inbox.taken + len(inbox.queue)),)
            if fits:  # the others are for the next reader
                break
        self.update()

    def hold(self, holding: Hold) -> None:
        """Say what waits; what need not wait any more starts."""
        self._holding = holding
        self.update()
        self.pump()

    def room_changed(self) -> None:
        """The connection has become full, or has room again, or is over."""
        self.update()
        self.pump()

    def drain(self, refuses: Callable[[], bool]) -> None:
        """Refuse each new request that is not on an anonymous channel, from now on, if ``refuses()``."""
        self._refuses = refuses
        self.update()

    # ------------------------------------------------------------ those that wait

    def pump(self) -> None:
        """Start what waits, as far as there is room."""
        if self._pumping or not self.room:
            return
        self._pumping = True
        try:
            while (waiting := self.room.first(self._holding)) and not self._is_full(len(waiting.payload)):
                self.room.take(waiting)
                channel = waiting.channel
                try:
                    if waiting.too_late:
                        self._drop(waiting)
                        continue
                    message = decode_any(waiting.decode, waiting.payload)
                    message.i = UNSET if waiting.id is None else waiting.id
                    if channel is not None:
                        place_on(message, channel.id)
                    elif waiting.readers and not self.readers.has_handler(message.c, message.a[0]):
                        waiting.finish()
                        continue
                    self._dispatch(message, waiting.payload, waiting.view, channel)
                except Exception as exc:
                    # It decoded when it came, so a codec is at fault: that is this connection's matter only.
                    self._answers.log(logging.ERROR, "a message could not be dealt with", exc_info=exc)
                    self._fail(CloseCode.INTERNAL_ERROR, "a message could not be dealt with")
        finally:
            self._pumping = False
            self.update()

    def _drop(self, waiting: Waiting) -> None:
        """Its channel was over before its turn came."""
        if waiting.id is not None and waiting.channel is not None:
            self._answers.reject(waiting.id, RemoteError(f"Anonymous channel '{waiting.channel.id}' does not exist"))
        waiting.finish()

    def end_session(self) -> None:
        """Requests that wait get no answer any more; events start when there is room."""
        for waiting in self.room.take_requests():
            waiting.finish()
        self.hold(Hold.NONE)

    def discard(self) -> None:
        """Start nothing more of what waits: nobody is left to whom it would matter."""
        while waiting := self.room.first():
            self.room.take(waiting)
            waiting.finish()
            self._answers.ignored["dropped at the end"] += 1
        self.update()


def _fits(wanted: Callable[[Any], Any], a: list[Any]) -> bool:
    try:
        wanted(a)
    except msgspec.ValidationError:
        return False
    return True


def _kept(payload: bytes | bytearray, view: Observation | None) -> bytes:
    return bytes(payload) if view is None else view.payload  # which is the same, and is kept anyway
