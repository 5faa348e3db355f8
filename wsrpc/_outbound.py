"""What leaves a peer: events, requests and their cancellations, answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from threading import get_ident
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ._close import CloseCode, CloseInfo
from ._codec import Codec
from ._context import CURRENT, Context
from ._convert import converter
from ._lifecycle import State
from ._line import Line
from ._messages import Cancellation, ChannelAbort, Event, Inbound, Request
from ._outbox import Outbox
from ._registry import Registry
from ._rejections import error_from_wire, reason_to_wire
from ._requests import MAX_REMEMBERED, Pending, Requests
from ._scheduler import Scheduler
from ._session import Session
from ._types import RESERVED_EVENTS, check_name
from .errors import (
    BadResult,
    ConnectionLost,
    QueueFull,
    RequestTimeout,
    ReservedEvent,
    UnexpectedChannel,
)
from .limits import Limits

__all__ = ["Outbound", "check_sending", "check_thread"]


class Outbound:
    """The sending half of a peer, which tells it of each connection with `move`.

    ``clear`` is true while a message may go straight to the transport: the fast path asks nothing else.
    ``keeps_offline``: what is sent without a connection waits for the next one. ``fail`` ends the connection with a
    code and a reason, ``warn`` writes a line into the log.
    """

    def __init__(
        self,
        peer: Any,
        codec: Codec,
        limits: Limits,
        registry: Registry,
        loop: Scheduler,
        *,
        odd: bool,
        keeps_offline: bool,
        ignored: Counter[str],
        fail: Callable[[int, str], None],
        warn: Callable[..., None],
    ) -> None:
        self._peer = peer
        self._encode = codec.encode
        self._text = codec.text
        self._limits = limits
        self._registry = registry
        self.keeps_offline = keeps_offline
        self._ignored = ignored
        self._fail = fail
        self._warn = warn
        self._session: Session | None = None
        self._condition = State.DISCONNECTED
        self.thread = get_ident()
        self._told: set[str] = set()
        self._converters: dict[Any, Callable[[Any], Any]] = {}
        self._outbox = Outbox(limits.offline, limits.offline_bytes)
        self.requests = Requests(loop, odd=odd, limit=limits.pending, expired=self._expired)
        self.line = Line(loop)
        self._aborted: dict[int, None] = {}
        self.on_queued: Callable[[], None] | None = None
        """Told of each message that has to wait for a connection."""
        self.opening: Context | None = None
        """The context of the `open` handlers, while they run."""
        self.clear = False
        self.ending = CloseInfo(CloseCode.ABNORMAL, "not connected")
        self.user_closed = False

    # ------------------------------------------------------------ the connection, as the peer tells it

    def move(self, condition: State, session: Session | None) -> None:
        """The peer's state has changed."""
        self._condition = condition
        self._session = session
        self.thread = get_ident()
        self.update_clear()

    def update_clear(self) -> None:
        self.clear = self._condition is State.OPEN and not self.line.busy

    def flush_offline(self) -> None:
        """Send what was accepted while there was no connection, in order."""
        assert self._session is not None
        session, text = self._session, self._text
        self._outbox.flush(lambda payload: session.send(payload, text))

    def connection_lost(self, info: CloseInfo) -> None:
        """End every request that was sent; what was not stays for the next connection, if there will be one."""
        for pending in self.requests.all():
            if pending.sent:
                self.requests.fail(pending, ConnectionLost(info.code, info.reason, "unknown"))
        if not info.will_reconnect:
            self.discard(info)
        self._aborted.clear()
        self.line.reset()
        if not self.requests:
            self.requests.stop()

    def discard(self, info: CloseInfo) -> None:
        """No connection will come: requests that wait for one fail, events are lost and the log says so."""
        for pending in self.requests.all():
            if not pending.sent:
                if pending.ticket is not None:
                    self._outbox.remove(pending.ticket)
                self.requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))
        lost = self._outbox.clear()
        if lost:
            self._warn("%d events that waited for a connection were not sent", lost)

    # ------------------------------------------------------------ answers and notices

    def reply(self, payload: bytes, /) -> None:
        """Send an answer or a notice: it never waits, and there is nobody to tell if it cannot go."""
        session = self._session
        if session is None:
            self._ignored["answer without a connection"] += 1
            return
        if self.line.full and self._over_cap(session, len(payload)):
            self._fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        try:
            session.send(payload, self._text)
        except ConnectionLost:
            self._ignored["answer without a connection"] += 1

    def abort_channel(self, h: int, error: Exception) -> None:
        """Tell the other side that channel ``h`` is over, once: an abort is never answered, but events may follow."""
        if h in self._aborted:
            return
        self._aborted[h] = None
        if len(self._aborted) > MAX_REMEMBERED:
            del self._aborted[next(iter(self._aborted))]
        self.reply(self._encode(ChannelAbort(h, *reason_to_wire(error))))

    def _over_cap(self, session: Session, size: int) -> bool:
        unsent = session.transport.unsent
        return unsent > 0 and unsent + size > self._limits.hard_cap

    # ------------------------------------------------------------ events

    async def send_event(self, channel: str | None, event: str, args: tuple[Any, ...], /) -> None:
        """See `Caller.emit`."""
        check_sending(channel, event, self.thread)
        message = Event((event, *args), UNSET if channel is None else channel)
        if not (self.clear and self._send(self._encode(message))):
            await self._send_in_turn(message, None)

    def send_event_nowait(self, channel: str | None, event: str, args: tuple[Any, ...], /) -> None:
        """See `Caller.emit_nowait`."""
        check_sending(channel, event, self.thread)
        self.send_nowait(self._encode(Event((event, *args), UNSET if channel is None else channel)))

    def send_nowait(self, payload: bytes, /) -> None:
        """Send an encoded message without waiting.

        Raises:
            QueueFull: at the hard cap, or if the offline queue is full.
            ConnectionLost: ``"not_sent"``.
        """
        if self._must_queue():
            self._queue(payload)
            return
        assert self._session is not None
        if self.line.full and self._over_cap(self._session, len(payload)):
            raise QueueFull(
                f"{self._session.transport.unsent} bytes are unsent (Limits.hard_cap={self._limits.hard_cap}): the "
                "other side reads too slowly; `await emit()` waits instead"
            )
        if not self._send(payload):
            self._queue(payload)

    def _queue(self, payload: bytes, sent: Callable[[], None] | None = None) -> int:
        ticket = self._outbox.put(payload, sent)
        if self.on_queued is not None:
            self.on_queued()
        return ticket

    def _send(self, payload: bytes) -> bool:
        """Hand a message to the transport; False if its connection has just ended and another one will come.

        Raises:
            ConnectionLost: ``"not_sent"``, if none will.
        """
        assert self._session is not None
        try:
            self._session.send(payload, self._text)
        except ConnectionLost:
            if self.keeps_offline and not self.user_closed:
                return False
            raise
        return True

    async def _send_in_turn(self, message: Event | Request, pending: Pending | None) -> None:
        """Send what cannot go at once: keep it for the next connection, or wait until the line has room."""
        line = self.line
        my_turn = False
        try:
            while not self._must_queue():
                if line.full or (line.busy and not my_turn):
                    my_turn = await line.wait_turn(pending, first=my_turn)
                    if pending is not None and pending.future.done():  # it timed out in the queue
                        return
                    continue
                if not self._send(self._encode(message)):
                    break
                if pending is not None:
                    pending.sent = True
                return
        finally:
            if my_turn:
                line.pass_turn()
            self.update_clear()
        payload = self._encode(message)
        if pending is None:
            self._queue(payload)
        else:
            pending.ticket = self._queue(payload, pending.was_sent)

    def _must_queue(self) -> bool:
        """Whether a message has to wait for a connection; raises if there is none to wait for."""
        condition = self._condition
        if condition is State.OPEN:
            return False
        if condition is State.OPENING:
            # What `open` handlers send goes first; a server's peer has nothing queued to be overtaken.
            return self.keeps_offline and not self.in_open_handler()
        if self.keeps_offline and not self.user_closed:
            return True
        raise ConnectionLost(self.ending.code, self.ending.reason, "not_sent")

    def in_open_handler(self) -> bool:
        """Whether an `open` handler of the present connection, or a task that it started, is at work."""
        return self.opening is not None and CURRENT.get(None) is self.opening

    # ------------------------------------------------------------ requests

    async def send_request(
        self,
        channel: str | None,
        event: str,
        args: tuple[Any, ...],
        returns: Any,
        timeout: float | UnsetType | None,
        /,
    ) -> Any:
        """See `Caller.request`."""
        check_sending(channel, event, self.thread)
        convert = None if returns is UNSET else self._converter(returns)
        if timeout is not UNSET and timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout= is a number of seconds, 0 or more, or None for ever; got {timeout!r}")
        pending = self.requests.open(event, self._limits.timeout if timeout is UNSET else timeout)
        message = Request(pending.id, (event, *args), UNSET if channel is None else channel)
        try:
            if self.clear and self._send(self._encode(message)):
                pending.sent = True
            else:
                await self._send_in_turn(message, pending)
            answer = await pending.future
        except asyncio.CancelledError as exc:
            self._give_up(pending, exc.args[0] if exc.args else None)
            raise
        except BaseException:
            self.requests.drop(pending)
            raise
        if isinstance(answer, Exception):
            raise answer
        if answer.e is not UNSET:
            raise error_from_wire(answer.e, answer.flag)
        if answer.h:
            return self._unexpected_channel(event, convert)
        value: Any = None if answer.d is UNSET else answer.d
        if convert is None:
            return value
        try:
            return convert(value)
        except msgspec.ValidationError as exc:
            raise BadResult(f"the answer to {event!r} is not what returns= asks for: {exc}") from None

    def _converter(self, returns: Any) -> Callable[[Any], Any]:
        try:
            known = self._converters.get(returns)
        except TypeError:  # an unhashable type, Annotated[int, []] for instance
            return converter(returns, dec_hook=self._registry.dec_hook, lax=self._registry.lax)
        if known is None:
            known = converter(returns, dec_hook=self._registry.dec_hook, lax=self._registry.lax)
            if len(self._converters) < MAX_REMEMBERED:
                self._converters[returns] = known
        return known

    def _unexpected_channel(self, event: str, convert: Callable[[Any], Any] | None) -> None:
        """The answer is a channel, aborted by now. JavaScript says null that way by mistake (4.3.1, observed)."""
        if convert is not None:
            try:
                convert(None)
            except msgspec.ValidationError:
                raise UnexpectedChannel(
                    f"the answer to {event!r} is an anonymous channel, which nobody asked for; it was aborted"
                ) from None
        if event not in self._told:
            self._told.add(event)
            self._warn(
                "the answer to %r is an anonymous channel; it was aborted and taken for None, because JavaScript peers "
                "answer null that way. If it was meant as a channel: this version cannot open one",
                event,
            )

    def answered_by_channel(self, message: Inbound) -> None:
        """An answer that is a channel: nobody will read it, so whoever would write into it is stopped."""
        self.requests.was_given_up(message.i)
        self.abort_channel(message.i, UnexpectedChannel("nobody asked for a channel"))

    def _give_up(self, pending: Pending, reason: object) -> None:
        """The caller was cancelled."""
        if self.requests.drop(pending):
            self._take_back(pending, reason)

    def _expired(self, pending: Pending) -> None:
        assert pending.timeout is not None
        self.requests.fail(pending, RequestTimeout(pending.event, pending.timeout))
        self._take_back(pending, None)

    def _take_back(self, pending: Pending, reason: object) -> None:
        """Take a request out of the queue if it still waits there, else tell the other side to stop."""
        if pending.ticket is not None:
            self._outbox.remove(pending.ticket)
        elif pending.sent:
            self.requests.give_up(pending.id)
            try:
                payload = self._encode(Cancellation(pending.id, *reason_to_wire(reason)))
            except Exception:
                # The reason cannot be encoded, for which a user's enc_hook may raise anything; the cancellation
                # matters more.
                payload = self._encode(Cancellation(pending.id, *reason_to_wire(None)))
            self.reply(payload)


def check_sending(channel: str | None, event: str, thread: int | None) -> None:
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
