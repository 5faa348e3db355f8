"""What leaves a peer, and when: on this connection, at its turn, or kept for the next one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import Any, cast

from msgspec import UNSET

from .._base.closing import CloseCode, CloseInfo
from .._base.misuse import shown_as
from .._base.names import ChannelRef, Offline
from .._base.scheduler import Scheduler
from .._handlers.context import CURRENT, Context
from .._handlers.lifecycle import State
from .._protocol.codecs import BRACE, Codec, MsgpackCodec, NegotiatedCodec
from .._protocol.control import Announced, Credit, write_control
from .._protocol.counting import SHARE
from .._protocol.go import GoCodec, largest_sent, refuse_raw, rejection_from
from .._protocol.messages import Event, Inbound, Raw, Request, event_on
from ..errors import (
    ChannelClosed,
    ConnectionLost,
    MessageTooBig,
    QueueFull,
    RemoteError,
)
from ..limits import Limits
from .capacity import Places
from .checks import Objections, check_sending
from .notices import Notices, Replies
from .offline import Kept
from .pending import Pending, Requests
from .session import Session
from .turns import Line, Turn

__all__ = ["Outbound"]


class Outbound:
    """The sending half of a peer, which tells it of each connection with `move`.

    ``clear`` is true while a message may go straight to the transport: the fast path asks nothing else.
    ``keeps_offline``: what is sent without a connection waits for the next one. ``fail`` ends the connection with a
    code and a reason, ``warn`` writes a line into the log.
    """

    # With more than 30 attributes Python no longer shares the keys of the instances' dicts: each is slower to look up.
    __slots__ = (
        "_codec",
        "_condition",
        "_fail",
        "_ignored",
        "_limits",
        "_most",
        "_session",
        "_values",
        "binary_is_free",
        "broken",
        "clear",
        "encode",
        "ending",
        "fails_offline",
        "is_awaited",
        "is_open",
        "keeps_offline",
        "kept",
        "largest",
        "line",
        "loop",
        "notices",
        "opening",
        "places",
        "plain",
        "requests",
        "returning",
        "silent",
        "text",
        "thread",
        "unchecked",
        "user_closed",
    )

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
        self.text: bool | None = codec.text
        """Whether messages are text; None: a negotiated codec chooses for each, and binary ones are its own."""
        self._most = self.largest = largest_sent(limits, codec)
        self._values = sys.maxsize
        """How many values a message may hold, as far as the other side has said so."""
        self.unchecked = self.largest
        """Bytes of the largest message that is sent without asking `refusal`."""
        self.plain = True
        """Whether the other side is, as far as is known, not wsrpc."""
        self._limits = limits
        self.loop = loop
        self.keeps_offline = keeps_offline
        self.fails_offline = False
        """Whether what does not say ``offline=`` fails where it would wait for the next connection."""
        self._ignored = ignored
        self._fail = fail
        self._session: Session | None = None
        self._condition = State.DISCONNECTED
        self.thread = get_ident()
        self.requests = Requests(loop, odd=odd, limit=limits.pending)
        self.kept = Kept(codec, limits, loop, self.requests, warn)
        self.line = Line(loop)
        self.places = Places(loop, self.requests)
        self.notices = Notices(cast("Replies", self), warn)  # pyright takes the bound callable for a method
        self.is_open: Callable[[int], bool] = lambda h: False
        """Whether an anonymous channel is still there."""
        self.opening: Context | None = None
        """The context of the `open` handlers, while the connection opens."""
        self.returning: Context | None = None
        """The context of the `on_reconnect` handlers, while the connection opens."""
        self.clear = False
        self.broken = True
        """Nothing can be sent on this connection any more, or there is none."""
        self.silent = False
        """The other side is about to close: what is new waits for another connection, what goes on goes on."""
        self.is_awaited: Callable[[Context | None], bool] = lambda ctx: False
        """Whether that is of a handler for whose end the other side waits."""
        self.binary_is_free: Callable[[], bool] = lambda: True
        """Whether a binary message is none of the protocol's."""
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
        self.kept.refuse_bound(self._drained())

    def agree(self, codec: NegotiatedCodec | None, limits: Announced) -> None:
        """The other side is wsrpc: it has these limits and, given a ``codec``, understands that, too."""
        self.plain = False
        self.largest = min(limits.message, self._most)
        self._values = limits.values
        self.unchecked = min(self.largest, limits.values // SHARE)
        self.places.agree(limits)
        if codec is not None:
            self.encode = codec.encode
            self.text = None

    def flush_offline(self) -> None:
        """Send what was accepted while there was no connection, in order."""
        assert self._session is not None
        self.kept.flush(self._session, self.unchecked, self.refusal)

    def connection_lost(self, info: CloseInfo) -> None:
        """End every request that was sent; what was not stays for the next connection, if there will be one.

        But not what was to leave on this one or not at all.
        """
        self.kept.refuse_bound(ConnectionLost(info.code, info.reason, "not_sent"))
        for pending in self.requests.all():
            if pending.sent:
                self.requests.fail(pending, ConnectionLost(info.code, info.reason, "unknown"))
            elif pending.bound:
                self.requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))
        if not self.expects_connection:
            self.kept.discard(info)
        self.requests.connection_lost()
        self.places.reset()
        self.notices.connection_lost()
        self.silent = False
        self.encode = self._codec.encode
        self.text = self._codec.text
        self.largest = self.unchecked = self._most
        self._values = sys.maxsize
        self.plain = True
        self.line.reset()
        if not self.requests:
            self.requests.stop()

    @property
    def expects_connection(self) -> bool:
        """Whether there is a connection, or another one may come."""
        return not self.broken or (self.keeps_offline and not self.user_closed)

    # ------------------------------------------------------------ straight to the transport

    def send(self, payload: bytes) -> bool:
        """Hand a message to the transport; False if its connection has just ended and another one will come.

        Raises:
            ConnectionLost: ``"not_sent"``, if none will.
            MessageTooBig: the other side would not take it.
        """
        session = self._session
        assert session is not None
        if len(payload) > self.unchecked and (refusal := self.refusal(payload)) is not None:
            raise refusal
        text = self.text
        try:
            session.send(payload, payload[0] == BRACE if text is None else text)
        except ConnectionLost:
            if self._another_will_come():
                return False
            raise
        return True

    def hand_over(self, raw: Raw) -> bool:
        """As `send`, for what is no protocol message."""
        assert self._session is not None
        if len(raw.payload) > self.unchecked and (refusal := self.refusal(raw.payload, raw=True)) is not None:
            raise refusal
        try:
            self._session.send(raw.payload, raw.text)
        except ConnectionLost:
            if self._another_will_come():
                return False
            raise
        return True

    def send_nowait(self, payload: bytes, /) -> bool:
        """Send an encoded message without waiting; False if its connection has just ended and another one will come.

        Raises:
            QueueFull: at the hard cap.
            MessageTooBig: the other side would not take it.
            ConnectionLost: ``"not_sent"``.
        """
        if self._session is None:
            raise self.not_sent()
        if self.line.full:
            self.check_cap(payload)
        return self.send(payload)

    def _another_will_come(self) -> bool:
        """After the transport has refused a message: its connection has just ended."""
        self.broken = True
        return self.keeps_offline and not self.user_closed

    def reply(self, payload: bytes, /) -> None:
        """Send an answer or a notice: it never waits, and there is nobody to tell if it cannot go.

        Raises:
            MessageTooBig: the other side would not take it.
        """
        session = self._session
        if session is None:
            self._ignored["answer without a connection"] += 1
            return
        if len(payload) > self.unchecked and (refusal := self.refusal(payload)) is not None:
            raise refusal
        if self.line.full and self.over_cap(session, len(payload)):
            self._fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        text = self.text
        try:
            session.send(payload, payload[0] == BRACE if text is None else text)
        except ConnectionLost:
            self._ignored["answer without a connection"] += 1

    def say(self, control: bytes) -> None:
        """Send a control message (JSON text whatever the codec); if it cannot go, the connection is over."""
        if self._session is not None:
            with suppress(ConnectionLost):
                self._session.send(control, True)

    def grant(self, h: int, n: int, size: int) -> None:
        """Let the other side send ``n`` items of ``size`` bytes on channel ``h``, in total."""
        self.say(write_control(Credit(h, n, size)))
        if self._session is not None:
            # The producer may be waiting for it, and whoever reads goes on without a turn of the loop for a while.
            self._session.flush()

    @property
    def hears_null_as_channel(self) -> bool:
        """Whether a channel that nobody asked for may stand for null, as JavaScript says it by mistake."""
        return self.plain and self._codec.__class__ is not GoCodec

    def check_raw(self) -> None:
        """Refuse raw messages where the other side would close for them.

        Raises:
            ValueError: says why.
        """
        refuse_raw(self._codec)

    def rejection_from(self, answer: Inbound, event: str, count: int) -> RemoteError:
        """What the rejection of a request with ``count`` arguments raises."""
        return rejection_from(answer.e, answer.flag, self._codec, event, count)

    def check_cap(self, payload: bytes) -> None:
        """Refuse what may not wait for room in the line.

        Raises:
            QueueFull: at the hard cap.
        """
        session = self._session
        if session is not None and self.line.full and self.over_cap(session, len(payload)):
            raise QueueFull(
                f"{session.transport.unsent} bytes are unsent (Limits.hard_cap={self._limits.hard_cap}): the "
                "other side reads too slowly; `await emit()` waits instead"
            )

    def over_cap(self, session: Session, size: int) -> bool:
        unsent = session.transport.unsent
        return unsent > 0 and unsent + size > self._limits.hard_cap

    def refusal(
        self, payload: bytes, raw: bool = False, known: dict[bytes, Objections] | None = None
    ) -> MessageTooBig | None:
        """Why an encoded message may not go to the remote peer, which would not take it; None if it may.

        Args:
            raw: it is no message of the protocol, so that the remote peer does not decode it.
            known: for a message that goes to many peers, what was found out about its payloads. It is filled here.
        """
        if len(payload) > self.largest:
            return self._too_big(payload)
        if raw or len(payload) <= self.unchecked:
            return None
        is_negotiated = self.text is None and payload[0] != BRACE
        objection = MsgpackCodec.objection if is_negotiated else self._codec.objection
        if known is None:
            why = objection(payload, self._values)
        else:
            if payload not in known:
                known[payload] = Objections(payload, objection)
            why = known[payload].to(self._values)
        if why is None:
            return None
        return MessageTooBig(
            f"the message holds {why}, and the other side takes no more (it has announced {self._values} values): send "
            "less at once, as a stream of small items for instance, or numbers as bytes"
        )

    def _too_big(self, payload: bytes) -> MessageTooBig:
        if self.largest == self._most:
            return MessageTooBig(
                f"the message has {len(payload)} bytes encoded, and at most {self.largest} may be sent "
                '(Limits.sent_message, 32768 with profile="go"): send less at once, as a stream of small items for '
                "instance"
            )
        return MessageTooBig(
            f"the message has {len(payload)} bytes encoded, and the other side takes at most {self.largest} "
            "(its Limits.message): send less at once, as a stream of small items for instance"
        )

    # ------------------------------------------------------------ events

    @shown_as("emit")
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
        if self.must_queue(message) or not self.send_nowait(self.encode(message)):
            self.keep(message, offline)

    # ------------------------------------------------------------ what cannot go at once

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
        turn = Turn(line, bound=bound or message.h is not UNSET)
        if message.h is not UNSET:
            bound = False  # its channel belongs to the connection, and tells of its end
        elif pending is not None:
            pending.bound = bound
        try:
            while True:
                if message.h is not UNSET and self._session is not session:
                    raise self.channel_lost(message.h)  # on the next connection the id may be another channel's
                must_queue = self.must_queue(message)
                if bound and (self.broken or self._session is not session):
                    raise self.not_sent()
                if bound and must_queue and self.silent:
                    raise self._drained()
                if (line.full and not must_queue) or (line.awaited and not turn.held):
                    await turn.wait(pending)
                    if pending is not None and pending.future.done():  # it timed out in the queue
                        return 0
                    continue
                if must_queue:
                    break
                if isinstance(message, Raw):
                    payload, sent = message.payload, self.hand_over(message)
                else:
                    payload = self.encode(message)
                    sent = self.send(payload)
                if not sent:
                    if message.h is not UNSET:
                        raise self.channel_lost(message.h)
                    if bound:
                        raise self.not_sent()
                    break
                if pending is not None:
                    self.requests.was_sent(pending, len(payload))
                return len(payload)
        finally:
            turn.end()
            self.update_clear()
        if pending is not None:
            self.kept.put_request(message, pending, bound)
        elif bound:
            await self.kept.put_and_wait(message)
        else:
            self.kept.put(message)
        return 0

    def must_queue(self, message: Event | Request | Raw) -> bool:
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
            # What `open` and `on_reconnect` handlers send goes first; a server's peer has no queue to be overtaken.
            return self.keeps_offline and not self.in_open_handler()
        if self.keeps_offline and not self.user_closed:
            return True
        raise self.not_sent()

    def _must_wait_for_another(self) -> bool:
        if not self.keeps_offline:
            raise self._drained()
        return True

    def keep(self, message: Event | Raw, offline: Offline | None) -> None:
        """Let it wait for another connection, or for the `open` handlers, if it may."""
        if message.h is not UNSET:
            raise self.channel_lost(message.h)
        bound = self.fails(offline)
        if bound and self.broken:
            raise self.not_sent()
        if bound and self.silent:
            raise self._drained()
        self.kept.put(message, bound=bound)

    def fails(self, offline: Offline | None) -> bool:
        """Whether a message with that option is bound to the present connection."""
        return self.fails_offline if offline is None else offline == "fail"

    def in_open_handler(self) -> bool:
        """Whether a handler that is called while the present connection opens, or a task of its own, is at work."""
        context = CURRENT.get(None)
        return context is not None and (context is self.opening or context is self.returning)

    async def wait_written(self) -> None:
        """Wait until whatever waits for room in the line has been sent. Cancelling is safe."""
        turn = Turn(self.line)
        try:
            await turn.wait()
        finally:
            turn.end()
            self.update_clear()

    def not_sent(self) -> ConnectionLost:
        reason = self.ending.reason or ("closed on this side" if self.ending.user_closed else "")
        return ConnectionLost(self.ending.code, reason, "not_sent")

    def _drained(self) -> ConnectionLost:
        return ConnectionLost(CloseCode.SERVICE_RESTART, "the other side is draining", "not_sent")

    def channel_lost(self, h: int) -> ChannelClosed:
        """The error for what can no more be sent on an anonymous channel, which belongs to its connection."""
        return ChannelClosed(str(h), self.not_sent())
