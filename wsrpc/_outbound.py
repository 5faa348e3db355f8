"""What leaves a peer, and when: on this connection, at its turn, or kept for the next one."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any

from msgspec import UNSET, UnsetType

from ._close import CloseCode, CloseInfo
from ._codec import Codec, NegotiatedCodec
from ._context import CURRENT, Context
from ._extension import Announced, Credit, write_control
from ._lifecycle import State
from ._line import Line
from ._messages import ChannelAbort, Event, Raw, Request
from ._outbox import Outbox, Told
from ._places import Places
from ._rejections import reason_to_wire, shortened
from ._requests import MAX_REMEMBERED, Pending, Requests
from ._scheduler import Scheduler
from ._session import Session
from ._types import RESERVED_EVENTS, ChannelRef, Offline, check_name, raw_payload
from .errors import (
    ChannelClosed,
    ConnectionLost,
    MessageTooBig,
    QueueFull,
    ReservedEvent,
    RpcError,
)
from .limits import Limits

__all__ = ["BRACE", "Outbound", "check_sending", "check_thread", "event_on"]

BRACE = ord("{")


class Outbound:
    """The sending half of a peer, which tells it of each connection with `move`.

    ``clear`` is true while a message may go straight to the transport: the fast path asks nothing else.
    ``keeps_offline``: what is sent without a connection waits for the next one. ``fail`` ends the connection with a
    code and a reason, ``warn`` writes a line into the log.
    """

    def __init__(
        self,
        codec: Codec,
        limits: Limits,
        loop: Scheduler,
        *,
        odd: bool,
        keeps_offline: bool,
        ignored: Counter[str],
        fail: Callable[[int, str], None],
        warn: Callable[..., None],
    ) -> None:
        self._codec = codec
        self.encode: Callable[[Any], bytes] = codec.encode
        self._text: bool | None = codec.text
        self.largest = sys.maxsize
        self.plain = True
        """Whether the other side is, as far as is known, not wsrpc."""
        self._limits = limits
        self.loop = loop
        self.keeps_offline = keeps_offline
        self.fails_offline = False
        """Whether what does not say ``offline=`` fails where it would wait for the next connection."""
        self._ignored = ignored
        self._fail = fail
        self._warn = warn
        self._session: Session | None = None
        self._condition = State.DISCONNECTED
        self.thread = get_ident()
        self._outbox = Outbox(limits.offline, limits.offline_bytes)
        self.requests = Requests(loop, odd=odd, limit=limits.pending)
        self.line = Line(loop)
        self.places = Places(loop, self.requests)
        self._aborted: dict[int, None] = {}
        self.is_open: Callable[[int], bool] = lambda h: False
        """Whether an anonymous channel is still there."""
        self.on_queued: Callable[[], None] | None = None
        """Told of each message that has to wait for a connection."""
        self.opening: Context | None = None
        """The context of the `open` handlers, while they run."""
        self.clear = False
        self.broken = True
        """Nothing can be sent on this connection any more, or there is none."""
        self.silent = False
        """The other side is about to close: what is new waits for another connection, what goes on goes on."""
        self.is_awaited: Callable[[Context | None], bool] = lambda ctx: False
        """Whether that is of a handler for whose end the other side waits."""
        self.ending = CloseInfo(CloseCode.ABNORMAL, "not connected")
        self.user_closed = False

    # ------------------------------------------------------------ the connection, as the peer tells it

    def move(self, condition: State, session: Session | None) -> None:
        """The peer's state has changed."""
        self._condition = condition
        self._session = session
        self.broken = condition is State.CLOSING or condition is State.DISCONNECTED
        self.thread = get_ident()
        self.update_clear()

    def update_clear(self) -> None:
        self.clear = self._condition is State.OPEN and not (self.silent or self.line.busy)

    def fall_silent(self) -> None:
        """Begin nothing new on this connection."""
        self.silent = True
        self.update_clear()
        self._refuse_bound(self._drained())

    def agree(self, codec: NegotiatedCodec | None, limits: Announced) -> None:
        """The other side is wsrpc: it has these limits and, given a ``codec``, understands that, too."""
        self.plain = False
        self.largest = limits.message
        self.places.agree(limits)
        if codec is not None:
            self.encode = codec.encode
            self._text = None  # text or binary: the codec chooses for each message

    def say(self, control: bytes) -> None:
        """Send a control message (JSON text whatever the codec); if it cannot go, the connection is over."""
        if self._session is not None:
            with suppress(ConnectionLost):
                self._session.send(control, True)

    def flush_offline(self) -> None:
        """Send what was accepted while there was no connection, in order."""
        assert self._session is not None
        session, text = self._session, self._codec.text  # encoded before anything was negotiated
        for ticket, payload in self._outbox.larger_than(self.largest):
            error = self._too_big(payload)
            if not self._outbox.refuse(ticket, error):
                self._warn("an event that waited for a connection was not sent: %s", error)
        self._outbox.flush(lambda payload, raw: session.send(payload, text if raw is None else raw))

    def connection_lost(self, info: CloseInfo) -> None:
        """End every request that was sent; what was not stays for the next connection, if there will be one.

        But not what was to leave on this one or not at all.
        """
        self._refuse_bound(ConnectionLost(info.code, info.reason, "not_sent"))
        for pending in self.requests.all():
            if pending.sent:
                self.requests.fail(pending, ConnectionLost(info.code, info.reason, "unknown"))
            elif pending.bound:
                self.requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))
        if not self.expects_connection:
            self.discard(info)
        self.requests.connection_lost()
        self.places.reset()
        self._aborted.clear()
        self.silent = False
        self.encode = self._codec.encode
        self._text = self._codec.text
        self.largest = sys.maxsize
        self.plain = True
        self.line.reset()
        if not self.requests:
            self.requests.stop()

    def _refuse_bound(self, why: ConnectionLost) -> None:
        """What was to leave on this connection or not at all will not."""
        for ticket in self._outbox.bound():
            error = ConnectionLost(why.code, why.reason, "not_sent")  # one for each that raises it
            if not self._outbox.refuse(ticket, error):
                self._warn("an event that waited for the `open` handlers was not sent: %s", error)

    def discard(self, info: CloseInfo) -> None:
        """No connection will come: requests that wait for one fail, events are lost and the log says so."""
        self.discard_requests(info)
        lost = self._outbox.clear()
        if lost:
            self._warn("%d events that waited for a connection were not sent", lost)

    def discard_requests(self, info: CloseInfo) -> None:
        """Requests that wait for a connection fail."""
        for pending in self.requests.all():
            if not pending.sent:
                if pending.ticket is not None:
                    self._outbox.remove(pending.ticket)
                self.requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))

    # ------------------------------------------------------------ answers and notices

    def reply(self, payload: bytes, /) -> None:
        """Send an answer or a notice: it never waits, and there is nobody to tell if it cannot go.

        Raises:
            MessageTooBig: the other side would not take it.
        """
        session = self._session
        if session is None:
            self._ignored["answer without a connection"] += 1
            return
        if len(payload) > self.largest:
            raise self._too_big(payload)
        if self.line.full and self._over_cap(session, len(payload)):
            self._fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        text = self._text
        try:
            session.send(payload, payload[0] == BRACE if text is None else text)
        except ConnectionLost:
            self._ignored["answer without a connection"] += 1

    def abort_channel(self, h: int, reason: object) -> None:
        """Tell the other side that channel ``h`` is over, once: an abort is never answered, but events may follow."""
        if h in self._aborted:
            return
        self._aborted[h] = None
        if len(self._aborted) > MAX_REMEMBERED:
            del self._aborted[next(iter(self._aborted))]
        self.notify(partial(ChannelAbort, h), reason)

    def notify(self, notice: Callable[[Any, int | UnsetType], object], reason: object) -> None:
        """Send a cancellation or an abort; where its reason cannot travel, without that."""
        try:
            self.reply(self.encode(notice(*reason_to_wire(reason))))
        except MessageTooBig as exc:
            self._notify_shortly(notice, shortened(reason, exc) if isinstance(reason, RpcError) else None)
        except Exception:
            # It cannot be encoded, for which a user's enc_hook may raise anything. That somebody stops matters more.
            self._notify_shortly(notice, None)

    def _notify_shortly(self, notice: Callable[[Any, int | UnsetType], object], reason: object) -> None:
        with suppress(MessageTooBig):  # even that, to a side that takes next to nothing
            self.reply(self.encode(notice(*reason_to_wire(reason))))

    def grant(self, h: int, n: int, size: int) -> None:
        """Let the other side send ``n`` items of ``size`` bytes on channel ``h``, in total."""
        self.say(write_control(Credit(h, n, size)))
        if self._session is not None:
            # The producer may be waiting for it, and whoever reads goes on without a turn of the loop for a while.
            self._session.flush()

    def forget_aborted(self, h: int) -> None:
        """Channel ``h`` is a new one."""
        self._aborted.pop(h, None)

    def _too_big(self, payload: bytes) -> MessageTooBig:
        return MessageTooBig(
            f"the message has {len(payload)} bytes encoded, and the other side takes at most {self.largest} "
            "(its Limits.message): send less at once, as a stream of small items for instance"
        )

    def _queue_full(self, session: Session) -> QueueFull:
        return QueueFull(
            f"{session.transport.unsent} bytes are unsent (Limits.hard_cap={self._limits.hard_cap}): the "
            "other side reads too slowly; `await emit()` waits instead"
        )

    def _over_cap(self, session: Session, size: int) -> bool:
        unsent = session.transport.unsent
        return unsent > 0 and unsent + size > self._limits.hard_cap

    # ------------------------------------------------------------ events

    async def send_event(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit`."""
        check_sending(channel, event, self.thread)
        message = event_on(channel, (event, *args))
        if not (self.clear and self.send(self.encode(message))):
            await self.send_in_turn(message, None, self.fails(offline))

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit_nowait`."""
        check_sending(channel, event, self.thread)
        message = event_on(channel, (event, *args))
        if self._must_queue(message) or not self.send_nowait(self.encode(message)):
            self._keep(message, offline)

    def send_nowait(self, payload: bytes, /) -> bool:
        """Send an encoded message without waiting; False if its connection has just ended and another one will come.

        Raises:
            QueueFull: at the hard cap.
            MessageTooBig: the other side would not take it.
            ConnectionLost: ``"not_sent"``.
        """
        if self._session is None:
            raise self._not_sent()
        if self.line.full and self._over_cap(self._session, len(payload)):
            raise self._queue_full(self._session)
        return self.send(payload)

    # ------------------------------------------------------------ what is no protocol message

    async def send_raw(self, message: Any, offline: Offline | None = None) -> None:
        """See `Peer.send_raw`."""
        raw = self._check_raw(message)
        if not (self.clear and self._hand_over(raw)):
            await self.send_in_turn(raw, None, self.fails(offline))

    def send_raw_nowait(self, message: Any, offline: Offline | None = None) -> None:
        """See `Peer.send_raw_nowait`."""
        raw = self._check_raw(message)
        if self._session is not None and self.line.full and self._over_cap(self._session, len(raw.payload)):
            raise self._queue_full(self._session)
        if self._must_queue(raw) or not self._hand_over(raw):
            self._keep(raw, offline)

    def _check_raw(self, message: Any) -> Raw:
        check_thread(self.thread, "peer.send_raw(...)")
        payload, text = raw_payload(message)
        if not text and self._text is None:
            raise ValueError(
                "binary messages are MessagePack between these two peers, as neither had an on_raw function when they "
                "connected: send text, or use on_raw on one side"
            )
        return Raw(payload, text)

    def _hand_over(self, raw: Raw) -> bool:
        """As `send`."""
        assert self._session is not None
        if len(raw.payload) > self.largest:
            raise self._too_big(raw.payload)
        try:
            self._session.send(raw.payload, raw.text)
        except ConnectionLost:
            if self._another_will_come():
                return False
            raise
        return True

    # ------------------------------------------------------------ in turn, and for another connection

    def _queue(self, message: Event | Request | Raw, told: Told | None = None, *, bound: bool = False) -> int:
        if isinstance(message, Raw):
            ticket = self._outbox.put(message.payload, told, bound=bound, text=message.text)
        else:
            # For another connection, on which nothing is negotiated yet.
            ticket = self._outbox.put(self._codec.encode(message), told, bound=bound)
        if self.on_queued is not None:
            self.on_queued()
        return ticket

    def _keep(self, message: Event | Raw, offline: Offline | None) -> None:
        """Let it wait for another connection, or for the `open` handlers, if it may."""
        if message.h is not UNSET:
            raise self.channel_lost(message.h)
        bound = self.fails(offline)
        if bound and self.broken:
            raise self._not_sent()
        if bound and self.silent:
            raise self._drained()
        self._queue(message, bound=bound)

    def send(self, payload: bytes) -> bool:
        """Hand a message to the transport; False if its connection has just ended and another one will come.

        Raises:
            ConnectionLost: ``"not_sent"``, if none will.
            MessageTooBig: the other side would not take it.
        """
        assert self._session is not None
        if len(payload) > self.largest:
            raise self._too_big(payload)
        text = self._text
        try:
            self._session.send(payload, payload[0] == BRACE if text is None else text)
        except ConnectionLost:
            if self._another_will_come():
                return False
            raise
        return True

    def _another_will_come(self) -> bool:
        """After the transport has refused a message: its connection has just ended."""
        self.broken = True
        return self.keeps_offline and not self.user_closed

    async def send_in_turn(
        self, message: Event | Request | Raw, pending: Pending | None = None, bound: bool = False
    ) -> int:
        """Send what cannot go at once: keep it for the next connection, or wait until the line has room.

        ``bound`` to the present connection, it fails where it would be kept. Returns how many bytes it had, 0 if it was
        kept or not sent.

        Raises:
            ChannelClosed: it was for an anonymous channel that is over meanwhile.
            ConnectionLost: ``"not_sent"``, if it may not wait for another connection, or none will come.
        """
        line, session = self.line, self._session
        my_turn = False
        if message.h is not UNSET:
            bound = False  # its channel belongs to the connection, and tells of its end
        elif pending is not None:
            pending.bound = bound
        try:
            while True:
                must_queue = self._must_queue(message)
                if bound and (self.broken or self._session is not session):
                    raise self._not_sent()
                if bound and must_queue and self.silent:
                    raise self._drained()
                if (line.full and not must_queue) or (line.awaited and not my_turn):
                    of_connection = bound or message.h is not UNSET
                    my_turn = await line.wait_turn(pending, first=my_turn, bound=of_connection)
                    if pending is not None and pending.future.done():  # it timed out in the queue
                        return 0
                    continue
                if must_queue:
                    break
                if isinstance(message, Raw):
                    payload, sent = message.payload, self._hand_over(message)
                else:
                    payload = self.encode(message)
                    sent = self.send(payload)
                if not sent:
                    if message.h is not UNSET:
                        raise self.channel_lost(message.h)
                    if bound:
                        raise self._not_sent()
                    break
                if pending is not None:
                    self.requests.was_sent(pending)
                return len(payload)
        finally:
            if my_turn:
                line.pass_turn()
            self.update_clear()
        if pending is not None:
            pending.ticket = self._queue(message, partial(self._request_left, pending), bound=bound)
        elif bound:
            await self._wait_for_open_handlers(message)
        else:
            self._queue(message)
        return 0

    def _request_left(self, pending: Pending, error: Exception | None) -> None:
        if error is None:
            self.requests.was_sent(pending)
        else:
            self.requests.fail(pending, error)

    async def _wait_for_open_handlers(self, message: Event | Request | Raw) -> None:
        """Send an event when the present connection's `open` handlers are done, or not at all."""
        left: asyncio.Future[Exception | None] = self.loop.create_future()

        def told(error: Exception | None) -> None:
            if not left.done():
                left.set_result(error)

        ticket = self._queue(message, told, bound=True)
        try:
            error = await left
        except asyncio.CancelledError:
            self._outbox.remove(ticket)  # unless it has left in this very turn
            raise
        if error is not None:
            raise error

    def take_back(self, ticket: int) -> None:
        """Forget a message that waits for a connection."""
        self._outbox.remove(ticket)

    def fails(self, offline: Offline | None) -> bool:
        """Whether a message with that option is bound to the present connection."""
        return self.fails_offline if offline is None else offline == "fail"

    @property
    def expects_connection(self) -> bool:
        """Whether there is a connection, or another one may come."""
        return not self.broken or (self.keeps_offline and not self.user_closed)

    def _must_queue(self, message: Event | Request | Raw) -> bool:
        """Whether a message has to wait for a connection; raises if there is none to wait for."""
        condition = self._condition
        if message.h is not UNSET:
            # An anonymous channel belongs to its connection.
            if not self.is_open(message.h):
                raise self.channel_lost(message.h)
            return False
        if condition is State.OPEN:
            return self.silent and not self.is_awaited(CURRENT.get(None)) and self._must_wait_for_another()
        if condition is State.OPENING:
            # What `open` handlers send goes first; a server's peer has nothing queued to be overtaken.
            return self.keeps_offline and not self.in_open_handler()
        if self.keeps_offline and not self.user_closed:
            return True
        raise self._not_sent()

    def _not_sent(self) -> ConnectionLost:
        reason = self.ending.reason or ("closed on this side" if self.ending.user_closed else "")
        return ConnectionLost(self.ending.code, reason, "not_sent")

    def _must_wait_for_another(self) -> bool:
        if not self.keeps_offline:
            raise self._drained()
        return True

    def _drained(self) -> ConnectionLost:
        return ConnectionLost(CloseCode.SERVICE_RESTART, "the other side is draining", "not_sent")

    async def wait_written(self) -> None:
        """Wait until whatever waits for room in the line has been sent. Cancelling is safe."""
        try:
            if await self.line.wait_turn(None, first=False):
                self.line.pass_turn()
        finally:
            self.update_clear()

    def channel_lost(self, h: int) -> ChannelClosed:
        """The error for what can no more be sent on an anonymous channel, which belongs to its connection."""
        return ChannelClosed(str(h), self._not_sent())

    def in_open_handler(self) -> bool:
        """Whether an `open` handler of the present connection, or a task that it started, is at work."""
        return self.opening is not None and CURRENT.get(None) is self.opening


def event_on(channel: ChannelRef, a: tuple[Any, ...]) -> Event:
    if channel is None:
        return Event(a)
    return Event(a, UNSET, channel) if isinstance(channel, int) else Event(a, channel)


def check_sending(channel: ChannelRef, event: str, thread: int | None) -> None:
    """Refuse a name that cannot travel, and a call from another thread than ``thread``.

    Raises:
        TypeError, ReservedEvent, RuntimeError: say why and what to do.
    """
    if event.__class__ is not str or not event:
        check_name("an event's name", event)
    if channel is None and event in RESERVED_EVENTS:
        raise ReservedEvent(event)
    if thread is not None and get_ident() != thread:
        check_thread(thread, "peer.request(...)")


def check_thread(thread: int | None, call: str) -> None:
    """Refuse a call from another thread than ``thread``.

    Raises:
        RuntimeError: names what works.
    """
    if thread is not None and get_ident() != thread:
        raise RuntimeError(
            f"this belongs to an event loop in another thread: use asyncio.run_coroutine_threadsafe({call}, loop)"
        )
