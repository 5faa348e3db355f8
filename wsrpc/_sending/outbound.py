"""What leaves a peer, and when: on this connection, at its turn, or kept for the next one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import Any

from msgspec import UNSET, Struct

from .._base.closing import CloseCode, CloseInfo
from .._base.misuse import shown_as
from .._base.names import ChannelRef, Offline
from .._base.scheduler import Scheduler
from .._handlers.context import CURRENT, Invocation
from .._protocol.codecs import BRACE, Codec, MsgpackCodec
from .._protocol.control import Credit, write_control
from .._protocol.counting import SHARE
from .._protocol.go import GoCodec, largest_sent, refuse_raw, rejection_from
from .._protocol.messages import Event, Raw, Request, WireMessage, event_on
from ..errors import (
    ChannelClosed,
    ConnectionLost,
    MessageTooBig,
    QueueFull,
    RemoteError,
)
from ..limits import Limits
from .capacity import RemoteCapacity
from .checks import Objections, check_sending
from .link import Link, LinkState
from .negotiation import Agreed
from .offline import Kept
from .pending import Pending, PendingRequests
from .turns import SendTurns, Turn

__all__ = ["Outbound", "Terms"]


class Terms(Struct, frozen=True):
    """How messages are encoded on one connection, and what the remote peer takes of them, as far as it has said so."""

    encode: Callable[[Any], bytes]
    text: bool | None
    """Whether messages are text; None: a negotiated codec chooses for each, and binary ones are its own."""
    largest: int
    """Bytes that a message may have."""
    unchecked: int
    """Bytes of the largest message that is sent without asking `Outbound.refusal`."""
    values: int = sys.maxsize
    """How many values a message may hold."""
    plain: bool = True
    """Whether the remote peer is, as far as is known, not wsrpc."""
    credit: bool = False
    """Whether the remote peer keeps to credit when it produces."""


class Outbound:
    """The sending half of a peer, which outlives its connections: ``link`` is the present one, ``terms`` hold on it.

    ``clear`` is true while a message may go straight to the transport: the fast path asks nothing else.

    Args:
        odd: whether the ids of requests are odd: the side that dialed has those.
        keeps_offline: what is sent without a connection waits for the next one.
        fails_offline: what does not say ``offline=`` fails where it would wait for the next connection.
        ignored: counts answers that cannot be sent.
        fail: ends the connection with a code and a reason.
        warn: writes a line into the log.
        expired: called with each request whose deadline is over.
        queued: called when a message begins to wait for a connection.
        is_open: whether an anonymous channel is still there.
        is_awaited: whether the remote peer waits for the handler that this context belongs to.
    """

    # With more than 30 attributes Python no longer shares the keys of the instances' dicts: each is slower to look up.
    __slots__ = (
        "_base",
        "_codec",
        "_fail",
        "_ignored",
        "_is_awaited",
        "_is_open",
        "_limits",
        "capacity",
        "clear",
        "ending",
        "fails_offline",
        "keeps_offline",
        "kept",
        "link",
        "loop",
        "requests",
        "terms",
        "thread",
        "turns",
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
        fails_offline: bool,
        ignored: Counter[str],
        fail: Callable[[int, str], None],
        warn: Callable[..., None],
        expired: Callable[[Pending], None],
        queued: Callable[[], None],
        is_open: Callable[[int], bool],
        is_awaited: Callable[[Invocation | None], bool],
    ) -> None:
        most = largest_sent(limits, codec)
        self._codec = codec
        self._limits = limits
        self._ignored = ignored
        self._fail = fail
        self._is_open = is_open
        self._is_awaited = is_awaited
        self._base = self.terms = Terms(codec.encode, codec.text, most, most)
        self.loop = loop
        self.keeps_offline = keeps_offline
        self.fails_offline = fails_offline
        self.link: Link | None = None
        self.thread = get_ident()
        self.requests = PendingRequests(loop, odd=odd, limit=limits.pending, expired=expired)
        self.kept = Kept(codec, limits, loop, self.requests, warn, queued)
        self.turns = SendTurns(loop, self._is_full)
        self.capacity = RemoteCapacity(loop, self.requests)
        self.clear = False
        self.ending = CloseInfo(CloseCode.ABNORMAL, "not connected")
        """How the last connection has ended, or why there is none."""
        self.user_closed = False

    def _is_full(self) -> bool:
        return self.link is not None and self.link.full

    # ------------------------------------------------------------ the connection, as the peer tells it

    def use(self, link: Link) -> None:
        """Send on ``link`` from now on."""
        self.link = link
        self.terms = self._base
        self.thread = get_ident()
        self.update_clear()

    def update_clear(self) -> None:
        """Find out anew whether a message may go straight to the transport: something that decides has changed."""
        link = self.link
        self.clear = link is not None and link.state is LinkState.OPEN and not (link.silent or self.turns.busy)

    @property
    def broken(self) -> bool:
        """Whether nothing can be sent any more on the present connection, or there is none."""
        return self.link is None or not self.link.works

    @property
    def silent(self) -> bool:
        """Whether the remote peer is about to close the present connection."""
        return self.link is not None and self.link.silent

    def fall_silent(self) -> None:
        """Begin nothing new on this connection."""
        assert self.link is not None
        self.link.silent = True
        self.update_clear()
        self.kept.refuse_bound(self._drained())

    def agree(self, agreed: Agreed) -> None:
        """The remote peer is wsrpc, and this is what both can do."""
        limits, codec = agreed.limits, agreed.codec
        largest = min(limits.message, self._base.largest)
        self.terms = Terms(
            self._base.encode if codec is None else codec.encode,
            self._base.text if codec is None else None,
            largest,
            min(largest, limits.values // SHARE),
            limits.values,
            False,
            agreed.credit,
        )
        self.capacity.announced(limits)

    def flush_offline(self) -> None:
        """Send what was accepted while there was no connection, in order."""
        assert self.link is not None
        self.kept.flush(self.link, self.terms.unchecked, self.refusal)

    def unlink(self) -> None:
        """Send nothing more on the link, which is lost."""
        self.link = None
        self.terms = self._base
        self.clear = False
        self.thread = get_ident()

    def end_session(self, info: CloseInfo) -> None:
        """Fail what was sent in the session. What was not stays for the next connection, if there may be one.

        But not what was to leave on this connection or not at all.
        """
        self.kept.refuse_bound(ConnectionLost(info.code, info.reason, "not_sent"))
        self.requests.end_session(info.code, info.reason)
        if not self.expects_connection:
            self.kept.discard(info)
        self.capacity.connection_lost()
        self.turns.connection_lost()
        if not self.requests:
            self.requests.stop()

    @property
    def expects_connection(self) -> bool:
        """Whether there is a connection, or another one may come."""
        return not self.broken or (self.keeps_offline and not self.user_closed)

    # ------------------------------------------------------------ what a client tells it

    def expect_connection(self) -> None:
        """Keep what is sent without a connection: there will be one."""
        self.user_closed = False
        self.keeps_offline = True

    def expect_no_connection(self) -> None:
        """Refuse what is sent from now on without a connection: there will be none."""
        self.keeps_offline = False

    def discard_offline(self, info: CloseInfo) -> None:
        """Fail what waits for a connection, with ``info`` as the reason unless a connection is still ending."""
        if self.link is None:
            self.ending = info
        self.kept.discard(self.ending)

    def enter_loop(self) -> None:
        """Belong to the event loop, and the thread, that run now. There is no connection."""
        self.requests.stop()
        self.thread = get_ident()

    # ------------------------------------------------------------ straight to the transport

    def send(self, payload: bytes) -> bool:
        """Hand a message to the transport; False if its connection has just ended and another one will come.

        Raises:
            ConnectionLost: ``"not_sent"``, if none will.
            MessageTooBig: the other side would not take it.
        """
        link, terms = self.link, self.terms
        assert link is not None
        if len(payload) > terms.unchecked and (refusal := self.refusal(payload)) is not None:
            raise refusal
        text = terms.text
        try:
            link.send(payload, payload[0] == BRACE if text is None else text)
        except ConnectionLost:
            if self._another_will_come(link):
                return False
            raise
        return True

    def hand_over(self, raw: Raw) -> bool:
        """As `send`, for what is no protocol message."""
        link = self.link
        assert link is not None
        if len(raw.payload) > self.terms.unchecked and (refusal := self.refusal(raw.payload, raw=True)) is not None:
            raise refusal
        try:
            link.send(raw.payload, raw.text)
        except ConnectionLost:
            if self._another_will_come(link):
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
        if self.link is None:
            raise self.not_sent()
        if self.link.full:
            self.check_cap(payload)
        return self.send(payload)

    def _another_will_come(self, link: Link) -> bool:
        """After the transport has refused a message: its connection has just ended, and is about to say so."""
        if link.works:
            link.move(LinkState.BROKEN)
            self.update_clear()
        return self.keeps_offline and not self.user_closed

    def reply(self, payload: bytes, /) -> None:
        """Send an answer or a notice: it never waits, and there is nobody to tell if it cannot go.

        Raises:
            MessageTooBig: the other side would not take it.
        """
        link, terms = self.link, self.terms
        if link is None:
            self._ignored["answer without a connection"] += 1
            return
        if len(payload) > terms.unchecked and (refusal := self.refusal(payload)) is not None:
            raise refusal
        if link.full and self.over_cap(link, len(payload)):
            self._fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        text = terms.text
        try:
            link.send(payload, payload[0] == BRACE if text is None else text)
        except ConnectionLost:
            self._ignored["answer without a connection"] += 1

    def say(self, control: bytes) -> None:
        """Send a control message (JSON text whatever the codec); if it cannot go, the connection is over."""
        if self.link is not None:
            with suppress(ConnectionLost):
                self.link.send(control, True)

    def grant(self, h: int, n: int, size: int) -> None:
        """Let the other side send ``n`` items of ``size`` bytes on channel ``h``, in total."""
        self.say(write_control(Credit(h, n, size)))
        if self.link is not None:
            # The producer may be waiting for it, and whoever reads goes on without a turn of the loop for a while.
            self.link.transport.flush()

    @property
    def hears_null_as_channel(self) -> bool:
        """Whether a channel that nobody asked for may stand for null, as JavaScript says it by mistake."""
        return self.terms.plain and self._codec.__class__ is not GoCodec

    def check_raw(self) -> None:
        """Refuse raw messages where the other side would close for them.

        Raises:
            ValueError: says why.
        """
        refuse_raw(self._codec)

    def rejection_from(self, answer: WireMessage, event: str, count: int) -> RemoteError:
        """What the rejection of a request with ``count`` arguments raises."""
        return rejection_from(answer.e, answer.flag, self._codec, event, count)

    def check_cap(self, payload: bytes) -> None:
        """Refuse what may not wait for room in the line.

        Raises:
            QueueFull: at the hard cap.
        """
        link = self.link
        if link is not None and link.full and self.over_cap(link, len(payload)):
            raise QueueFull(
                f"{link.transport.unsent} bytes are unsent (Limits.hard_cap={self._limits.hard_cap}): the "
                "other side reads too slowly; `await emit()` waits instead"
            )

    def over_cap(self, link: Link, size: int) -> bool:
        """Whether ``size`` more bytes would exceed `Limits.hard_cap`. One message always fits."""
        unsent = link.transport.unsent
        return unsent > 0 and unsent + size > self._limits.hard_cap

    def refusal(
        self, payload: bytes, raw: bool = False, known: dict[bytes, Objections] | None = None
    ) -> MessageTooBig | None:
        """Why an encoded message may not go to the remote peer, which would not take it; None if it may.

        Args:
            raw: it is no message of the protocol, so that the remote peer does not decode it.
            known: for a message that goes to many peers, what was found out about its payloads. It is filled here.
        """
        terms = self.terms
        if len(payload) > terms.largest:
            return self._too_big(payload)
        if raw or len(payload) <= terms.unchecked:
            return None
        is_negotiated = terms.text is None and payload[0] != BRACE
        objection = MsgpackCodec.objection if is_negotiated else self._codec.objection
        if known is None:
            why = objection(payload, terms.values)
        else:
            if payload not in known:
                known[payload] = Objections(payload, objection)
            why = known[payload].to(terms.values)
        if why is None:
            return None
        return MessageTooBig(
            f"the message holds {why}, and the other side takes no more (it has announced {terms.values} values): send "
            "less at once, as a stream of small items for instance, or numbers as bytes"
        )

    def _too_big(self, payload: bytes) -> MessageTooBig:
        largest = self.terms.largest
        if largest == self._base.largest:
            return MessageTooBig(
                f"the message has {len(payload)} bytes encoded, and at most {largest} may be sent "
                '(Limits.sent_message, 32768 with profile="go"): send less at once, as a stream of small items for '
                "instance"
            )
        return MessageTooBig(
            f"the message has {len(payload)} bytes encoded, and the other side takes at most {largest} "
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
        if not (self.clear and self.send(self.terms.encode(message))):
            await self.send_in_turn(message, None, self.fails(offline))

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit_nowait`."""
        check_sending(channel, event, self.thread)
        message = event_on(channel, (event, *args))
        if self.must_queue(message) or not self.send_nowait(self.terms.encode(message)):
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
        link, flight = self.link, self.requests.flight
        turn = Turn(self.turns, bound=bound or message.h is not UNSET)
        if message.h is not UNSET:
            bound = False  # its channel belongs to the session, and tells of its end
        elif pending is not None:
            pending.bound = bound
        try:
            while True:
                if message.h is not UNSET and self.requests.flight is not flight:
                    raise self.channel_lost(message.h)  # in the next session the id may be another channel's
                offline = self.must_queue(message)
                if bound:
                    self._check_bound(link, offline)
                if (self._is_full() and not offline) or (self.turns.awaited and not turn.held):
                    await turn.wait(pending)
                    if pending is not None and pending.future.done():  # it timed out in the queue
                        return 0
                elif offline:
                    break
                elif (size := self._try_to_send(message)) is not None:
                    if pending is not None:
                        self.requests.was_sent(pending, size)
                    return size
                elif message.h is not UNSET:
                    raise self.channel_lost(message.h)
                elif bound:
                    raise self.not_sent()
                else:
                    break
        finally:
            turn.end()
            self.update_clear()
        await self._keep_in_turn(message, pending, bound)
        return 0

    def _check_bound(self, link: Link | None, offline: bool) -> None:
        """Refuse what is for ``link`` or not to be sent at all, if that is over or begins nothing new."""
        if self.broken or self.link is not link:
            raise self.not_sent()
        if offline and self.silent:
            raise self._drained()

    def _try_to_send(self, message: Event | Request | Raw) -> int | None:
        """Hand a message to the transport; returns its size, None if its connection has just ended."""
        if isinstance(message, Raw):
            return len(message.payload) if self.hand_over(message) else None
        payload = self.terms.encode(message)
        return len(payload) if self.send(payload) else None

    async def _keep_in_turn(self, message: Event | Request | Raw, pending: Pending | None, bound: bool) -> None:
        if pending is not None:
            self.kept.put_request(message, pending, bound)
        elif bound:
            await self.kept.put_and_wait(message)
        else:
            self.kept.put(message)

    def must_queue(self, message: Event | Request | Raw) -> bool:
        """Whether a message has to wait for a connection; raises if there is none to wait for."""
        link = self.link
        if message.h is not UNSET:
            # An anonymous channel belongs to its session.
            if not self._is_open(message.h):
                raise self.channel_lost(message.h)
            return False
        if link is not None and (link.state is LinkState.OPEN or link.state is LinkState.BROKEN):
            return link.silent and not self._is_awaited(CURRENT.get(None)) and self._must_wait_for_another()
        if link is not None and link.state is LinkState.OPENING:
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
        return context is not None and self.link is not None and context in self.link.contexts

    async def wait_written(self) -> None:
        """Wait until whatever waits for room in the line has been sent. Cancelling is safe."""
        turn = Turn(self.turns)
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
