"""The way out of a peer: messages are sent at once, in turn, or on the next connection."""

from __future__ import annotations

from collections import Counter
from threading import get_ident
from typing import Any, Protocol

from msgspec import UNSET

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import PeerLog
from .._base.misuse import shown_as
from .._base.names import RESERVED_EVENTS, ChannelRef, Offline
from .._base.scheduler import Scheduler
from .._handlers.invocation import CURRENT, Invocation
from .._protocol.codecs import BRACE, MsgpackCodec, NegotiatedCodec, json_text
from .._protocol.control import Announced, Credit
from .._protocol.go import GoCodec, refuse_raw, rejection_from
from .._protocol.messages import Event, Raw, Request, WireMessage, event_on
from .._protocol.nodes import as_raised
from .._protocol.settings import Settings
from .._session.waiting import Told, Waiting
from ..errors import ChannelClosed, ConnectionLost, MessageTooBig, QueueFull
from .capacity import RemoteCapacity
from .checks import Objections, check_sending
from .link import Link, LinkState
from .offline import OfflineQueue
from .pending import Pending, PendingRequests
from .turns import SendTurns, Turn

__all__ = ["Outbound", "OutboundListener"]

_NOT_CONNECTED = CloseInfo(CloseCode.ABNORMAL, "not connected")


class OutboundListener(Protocol):
    """The owner of an `Outbound`: it is told what happens, and answers what `Outbound` cannot know."""

    log: PeerLog
    ignored: Counter[str]
    """Counts answers that cannot be sent."""

    def fail(self, code: int, reason: str, /) -> None:
        """End the connection because of the remote peer."""

    def request_expired(self, pending: Pending, /) -> None:
        """The deadline of a request is over."""

    def message_queued(self) -> None:
        """A message begins to wait for a connection."""

    def has_channel(self, h: int, /) -> bool:
        """Return whether an anonymous channel is still open."""
        ...

    def is_awaited(self, ctx: Invocation | None, /) -> bool:
        """Return whether the remote peer waits for the handler that this context belongs to."""
        ...


class Outbound:
    """The sending half of a peer, which outlives its connections.

    ``link`` is the present connection, and ``terms`` say what was negotiated on it. While ``clear`` is true a message
    may go straight to the transport: the fast path checks nothing else.

    A message that cannot be sent because there is no connection waits, or it fails as ``"not_sent"``:

    - It waits *in its session* while that may go on over another connection.
    - It waits *for the next session* if it has none, or if that ends: events and requests of a client, except
      those that are bound to the present connection by ``offline="fail"``. All other messages end with their session:
      answers, control messages, what is said on an anonymous channel, and what `open` and `on_reconnect` handlers send.
      On a server, whose peers do not come back without their session, everything does.

    Args:
        odd: whether the ids of requests are odd: the side that dialed uses those.
        keeps_offline: whether messages that are sent without a connection wait for the next one.
        fails_offline: whether a message without ``offline=`` fails instead of waiting for the next connection.
    """

    __slots__ = (
        "_capacity",
        "_listener",
        "_offline",
        "_settings",
        "clear",
        "ending",
        "fails_offline",
        "keeps_offline",
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
        settings: Settings,
        loop: Scheduler,
        listener: OutboundListener,
        *,
        odd: bool,
        keeps_offline: bool,
        fails_offline: bool,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._offline: OfflineQueue | None = None
        """None until the first message waits for a connection. A server's peer never has one."""
        self._capacity: RemoteCapacity | None = None
        """None until the remote peer could not accept a request at once."""
        self.terms = settings.terms
        self.loop = loop
        self.keeps_offline = keeps_offline
        self.fails_offline = fails_offline
        self.link: Link | None = None
        self.thread = get_ident()
        self.requests = PendingRequests(loop, odd=odd, limit=settings.limits.pending, expired=listener.request_expired)
        self.turns = SendTurns(loop, self._is_full)
        self.clear = False
        self.ending = _NOT_CONNECTED
        """How the last connection has ended, or why there is none."""
        self.user_closed = False

    def _is_full(self) -> bool:
        return self.link is not None and self.link.session.full

    # ------------------------------------------------------------ the connection

    def reopen(self) -> None:
        """Let messages wait for a connection again: there will be another one."""
        self.user_closed = False

    def use(self, link: Link) -> None:
        """Send on ``link`` from now on. What was agreed in the session before holds on."""
        self.link = link
        self.thread = get_ident()
        self.update_clear()

    def update_clear(self) -> None:
        """Find out again whether a message may go straight to the transport: what this depends on has changed."""
        link = self.link
        self.clear = (
            link is not None
            and link.state is LinkState.OPEN
            and link.session.connection is not None
            and not (link.silent or link.session.full or self.turns.awaited)
        )

    @property
    def broken(self) -> bool:
        """Whether nothing can be sent any more on the present connection, or there is no connection."""
        return self.link is None or not self.link.works

    @property
    def silent(self) -> bool:
        """Whether the remote peer is about to close the present connection."""
        return self.link is not None and self.link.silent

    def fall_silent(self) -> None:
        """Begin nothing new on this connection."""
        self.update_clear()
        if self._offline is not None:
            self._offline.refuse_bound(self._drained())

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> None:
        """Use what both support from now on: the remote peer is wsrpc, too. See `Terms.agreed`."""
        self.terms = self._settings.agreed(announced, codec, common)

    def agree_limits(self, announced: Announced) -> None:
        """Keep to the limits that the remote peer has announced when the session resumed."""
        if announced != self.terms.announced:
            self.terms = self.terms.within(announced, self._settings.terms.largest)

    def unlink(self) -> None:
        """Send nothing more on the link, which is lost."""
        self.link = None
        self.terms = self._settings.terms
        self.clear = False
        self.thread = get_ident()

    def will_end(self, info: CloseInfo) -> None:
        """Note how the present connection is going to end."""
        self.ending = info

    def close(self, info: CloseInfo) -> None:
        """Accept nothing more: the user closes. ``info`` says how, unless a connection is being closed already."""
        self.user_closed = True
        if self.silent:  # what is asked now would not be answered any more
            self.discard_offline_requests(info)

    def end_waiting(self, link: Link, lost: ConnectionLost) -> None:
        """Fail with ``lost`` what has waited in the session of ``link``, which is over, or let it wait for the next."""
        waiting = link.session.waiting
        if waiting is None:
            return
        outliving: list[Waiting] = []
        for message in waiting.all():
            if message.outlives:
                message.take_back()
                outliving.append(message)
            else:
                message.fail(lost)
        if outliving:
            self.offline_queue().put_first(outliving)

    def end_session(self, info: CloseInfo, lost: ConnectionLost) -> None:
        """Fail with ``lost`` the requests that were sent in the session, and what is bound to it or its connection.

        All other messages wait for the next connection, if there may be one.
        """
        self.ending = info
        if self._offline is not None:
            self._offline.refuse_bound(lost)
        self.requests.end_session(lost)
        if self.user_closed or not self.keeps_offline:
            self.discard_offline(info)
        self.turns.connection_lost()
        if self._capacity is not None:
            self._capacity.connection_lost()

    def detach(self) -> None:
        """Let everything wait until the session has another connection."""
        if self._offline is not None:
            self._offline.refuse_bound(self.not_sent())
        self.turns.connection_lost(session_goes_on=True)
        self.update_clear()

    @property
    def detached(self) -> bool:
        """Whether the session has no connection, but may get another one."""
        link = self.link
        return (
            link is not None
            and link.session.connection is None
            and link.session.resumable
            and link.state is not LinkState.CLOSING
        )

    def recount(self) -> None:
        """Count what a session without a connection takes, which is more or less now."""
        if self.link is not None:
            self.link.session.recount()

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

    def give_up(self, info: CloseInfo) -> None:
        """Fail what waits for a connection, with ``info`` as the reason unless a connection is still ending."""
        if self.link is None:
            self.ending = info
        self.discard_offline(self.ending)

    def enter_loop(self) -> None:
        """Belong to the event loop, and the thread, that run now. There is no connection."""
        self.requests.stop()
        self.thread = get_ident()

    # ------------------------------------------------------------ messages that wait for a connection

    def offline_queue(self) -> OfflineQueue:
        """The queue of the messages that wait for a connection."""
        if self._offline is None:
            listener, settings = self._listener, self._settings
            self._offline = OfflineQueue(settings.codec, settings.limits, listener.message_queued, listener.log.warn)
        return self._offline

    @property
    def queued(self) -> int:
        """How many messages wait for a connection."""
        in_session = None if self.link is None else self.link.session.waiting
        return (0 if self._offline is None else len(self._offline)) + (0 if in_session is None else len(in_session))

    def flush_offline(self) -> None:
        """Send the messages that waited for a session, in order. If it has no connection, they wait in it."""
        if self._offline is not None and self.link is not None:
            self._offline.flush(self.link.session, self.terms.unchecked, self.refusal)

    def check_waiting(self) -> None:
        """Drop the messages in the session that the remote peer would not accept any more: its limits have changed."""
        link = self.link
        if link is not None and link.session.waiting is not None and self._offline is not None:
            self._offline.refuse_too_big(link.session.waiting, self.terms.unchecked, self.refusal)

    @property
    def kept(self) -> int:
        """Bytes of the messages that wait for a connection, or may have to be sent again on another one."""
        session = None if self.link is None else self.link.session
        in_session = None if session is None else session.waiting
        return (
            (0 if self._offline is None else self._offline.size)
            + (0 if session is None else session.kept)
            + (0 if in_session is None else in_session.outliving_size)
        )

    def take_back(self, pending: Pending) -> bool:
        """Take back a request that waits for a connection. Return False if it does not."""
        waiting, pending.waiting = pending.waiting, None
        return waiting is not None and waiting.take_back()

    def discard_offline(self, info: CloseInfo) -> None:
        """Drop everything that waits for a connection, because none will come. Requests fail, and events are logged."""
        self.discard_offline_requests(info)
        if self._offline is not None:
            self._offline.discard()

    def discard_offline_requests(self, info: CloseInfo) -> None:
        """Fail the requests that were not sent yet."""
        for pending in self.requests.unsent():
            self.take_back(pending)
            self.requests.fail(pending, ConnectionLost(info.code, info.reason, "not_sent"))

    # ------------------------------------------------------------ the capacity of the remote peer

    @property
    def scarce(self) -> bool:
        """Whether a request has to wait in `capacity`, because the remote peer may not accept it at once."""
        flight, terms = self.requests.flight, self.terms
        return (
            flight.requests >= terms.announced.running or flight.bytes > terms.room_for_any or flight.freed is not None
        )

    @property
    def capacity(self) -> RemoteCapacity:
        """The queue of the requests that the remote peer cannot accept yet."""
        if self._capacity is None:
            self._capacity = RemoteCapacity(self.loop, self.requests, lambda: self.terms)
        return self._capacity

    # ------------------------------------------------------------ straight to the transport

    def send(self, payload: bytes) -> bool:
        """Hand a message to the transport. Return False if its connection has just ended and another one will come.

        Raises:
            ConnectionLost: ``"not_sent"``, no other connection will come.
            MessageTooBig: the remote peer would not accept the message.
        """
        link, terms = self.link, self.terms
        assert link is not None
        if len(payload) > terms.unchecked and (refusal := self.refusal(payload)) is not None:
            raise refusal
        text = terms.text
        try:
            ticket: Waiting | None = link.session.send(payload, payload[0] == BRACE if text is None else text)
        except ConnectionLost as exc:
            return self._refused(link, exc)
        return ticket is None or not ticket.take_back()

    def hand_over(self, raw: Raw) -> bool:
        """Hand a raw message to the transport, like `send`."""
        link = self.link
        assert link is not None
        if len(raw.payload) > self.terms.unchecked and (refusal := self.refusal(raw.payload, raw=True)) is not None:
            raise refusal
        try:
            ticket: Waiting | None = link.session.send(raw.payload, raw.text)
        except ConnectionLost as exc:
            return self._refused(link, exc)
        return ticket is None or not ticket.take_back()

    def send_nowait(self, payload: bytes, /) -> bool:
        """Send an encoded message without waiting. Return False if the connection has just ended and another will come.

        Raises:
            QueueFull: at the hard cap.
            MessageTooBig: the remote peer would not accept the message.
            ConnectionLost: ``"not_sent"``.
        """
        if not self.clear:
            if self.link is None:
                raise self.not_sent()
            self.check_cap(payload)
        return self.send(payload)

    def _refused(self, link: Link, exc: ConnectionLost) -> bool:
        """Return False if a message that the transport has refused may wait for another connection.

        The connection has just ended, and its transport is about to say so.

        Raises:
            ConnectionLost: it may not wait.
        """
        if not link.session.refuse() and (not self.keeps_offline or self.user_closed):
            raise exc
        return False

    def reply(self, payload: bytes, /) -> None:
        """Send an answer or a notice. It never waits, and is counted as ignored if there is no connection.

        Raises:
            MessageTooBig: the remote peer would not accept the message.
        """
        link, terms = self.link, self.terms
        if link is None:
            self._listener.ignored["answer without a connection"] += 1
            return
        if len(payload) > terms.unchecked and (refusal := self.refusal(payload)) is not None:
            raise refusal
        session = link.session
        if session.full and self.over_cap(link, len(payload)):
            self._listener.fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            return
        text = terms.text
        if text is None:
            text = payload[0] == BRACE
        try:
            session.send(payload, text)
        except ConnectionLost:
            self._listener.ignored["answer without a connection"] += 1

    def grant(self, h: int, n: int, size: int) -> None:
        """Let the remote peer send ``n`` items of ``size`` bytes on channel ``h``, in total."""
        if self.link is not None:
            session = self.link.session
            session.say(Credit(h, n, size))
            # The producer may wait for it, and the reader may go on for a while without a turn of the event loop.
            session.flush()

    @property
    def hears_null_as_channel(self) -> bool:
        """Whether an unexpected channel may stand for null: JavaScript answers null that way, by mistake."""
        return self.terms.plain and self._settings.codec.__class__ is not GoCodec

    def json_text(self, value: object) -> str:
        """Encode a value as the JSON of a raw message."""
        return json_text(self._settings.codec, value)

    def check_raw(self) -> None:
        """Refuse raw messages if the remote peer would close the connection because of them.

        Raises:
            ValueError: says why.
        """
        refuse_raw(self._settings.codec)

    @property
    def between_nodes(self) -> bool:
        """Whether the remote peer is another node of a cluster."""
        return self._settings.between_nodes

    def rejection_from(self, answer: WireMessage, event: str, count: int) -> Exception:
        """Return the error for the rejection of a request with ``count`` arguments."""
        error = rejection_from(answer.e, answer.flag, self._settings.codec, event, count)
        return as_raised(error) if self._settings.between_nodes else error

    def check_cap(self, payload: bytes) -> None:
        """Refuse a message that would exceed the hard cap of a full connection.

        Raises:
            QueueFull: at the hard cap.
        """
        link = self.link
        if link is not None and link.session.full and self.over_cap(link, len(payload)):
            raise QueueFull(
                f"{link.session.unsent} bytes are unsent (Limits.hard_cap={self._settings.limits.hard_cap}): the "
                "other side reads too slowly; `await emit()` waits instead"
            )

    def over_cap(self, link: Link, size: int) -> bool:
        """Return whether ``size`` more bytes would exceed `Limits.hard_cap`. A single message always fits."""
        unsent = link.session.unsent
        return unsent > 0 and unsent + size > self._settings.limits.hard_cap

    def refusal(
        self, payload: bytes, raw: bool = False, known: dict[bytes, Objections] | None = None
    ) -> MessageTooBig | None:
        """Return the error for an encoded message that the remote peer would not accept. None if it may be sent.

        Args:
            raw: it is a raw message, which the remote peer does not decode.
            known: for a message that goes to many peers: what is known about each payload. It is filled here.
        """
        terms = self.terms
        if len(payload) > terms.largest:
            return self._too_big(payload)
        if raw or terms.plain or len(payload) <= terms.unchecked:
            return None
        is_negotiated = terms.text is None and payload[0] != BRACE
        objection = MsgpackCodec.objection if is_negotiated else self._settings.codec.objection
        if known is None:
            why = objection(payload, terms.announced.values)
        else:
            if payload not in known:
                known[payload] = Objections(payload, objection)
            why = known[payload].to(terms.announced.values)
        if why is None:
            return None
        return MessageTooBig(
            f"the message holds {why}, and the other side takes no more (it has announced {terms.announced.values} "
            "values): send less at once, as a stream of small items for instance, or numbers as bytes"
        )

    def _too_big(self, payload: bytes) -> MessageTooBig:
        largest = self.terms.largest
        if largest == self._settings.terms.largest:
            bound = 'Limits.sent_message, 32768 with profile="go"'
            if self._settings.between_nodes:
                bound = "what the engine of the cluster takes, such as max_payload of NATS"
            return MessageTooBig(
                f"the message has {len(payload)} bytes encoded, and at most {largest} may be sent ({bound}): send less "
                "at once, as a stream of small items for instance"
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
        if channel is None and event.__class__ is str and event not in RESERVED_EVENTS and get_ident() == self.thread:
            message = Event((event, *args))  # most events, without the two calls below
        else:
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
        if self.must_wait(message) or not self.send_nowait(self.terms.encode(message)):
            self.let_wait(message, offline)

    # ------------------------------------------------------------ messages that cannot be sent at once

    async def send_in_turn(
        self, message: Event | Request | Raw, pending: Pending | None = None, bound: bool = False
    ) -> int:
        """Send a message that cannot be sent at once: wait until the connection has room, or for the next connection.

        Args:
            bound: the message is for the present connection: it fails instead of waiting for another one.

        Returns:
            The size of the message in bytes. 0 if it waits for the next connection, or is not sent.

        Raises:
            ChannelClosed: it was for an anonymous channel that has ended meanwhile.
            ConnectionLost: ``"not_sent"``, it may not wait for another connection, or none will come.
        """
        link, flight = self.link, self.requests.flight
        of_session = message.h is not UNSET
        if of_session:
            bound = False  # the channel belongs to the session, and ends with it
        elif pending is not None:
            pending.bound = bound
        turn = Turn(self.turns, bound=bound, of_session=of_session)
        try:
            while True:
                if message.h is not UNSET and self.requests.flight is not flight:
                    raise self.channel_lost(message.h)  # in the next session the id may be another channel's
                must_wait = self.must_wait(message)
                if bound:
                    self._check_bound(link, must_wait)
                needs_room = not must_wait or self._belongs_to_session(message)
                if (needs_room and self._is_full()) or (self.turns.awaited and not turn.held):
                    await turn.wait(pending)
                    if pending is not None and pending.future.done():  # it timed out in the queue
                        return 0
                    continue
                if not must_wait and (size := self._try_to_send(message)) is not None:
                    if pending is not None:
                        self.requests.was_sent(pending, size)
                    return size
                if not must_wait and bound:
                    raise self.not_sent()
                if self._belongs_to_session(message):
                    return self._wait_encoded(message, pending)
                if not must_wait and message.h is not UNSET:
                    raise self.channel_lost(message.h)
                break
        finally:
            turn.end()
            self.update_clear()
        await self._wait_for_next(message, pending, bound)
        return 0

    def _check_bound(self, link: Link | None, must_wait: bool) -> None:
        """Refuse a message that is bound to ``link`` if that has ended or begins nothing new."""
        if self.broken or self.detached or self.link is not link:
            raise self.not_sent()
        if must_wait and self.silent:
            raise self._drained()

    def _try_to_send(self, message: Event | Request | Raw) -> int | None:
        """Hand a message to the transport. Return its size, or None if the connection has just ended."""
        if isinstance(message, Raw):
            return len(message.payload) if self.hand_over(message) else None
        payload = self.terms.encode(message)
        return len(payload) if self.send(payload) else None

    def must_wait(self, message: Event | Request | Raw) -> bool:
        """Return whether a message has to wait for a connection.

        Raises:
            ConnectionLost: ``"not_sent"``, no connection will come.
            ChannelClosed: it is for an anonymous channel that has ended.
        """
        link = self.link
        if message.h is not UNSET and not self._listener.has_channel(message.h):
            raise self.channel_lost(message.h)  # an anonymous channel ends with its session
        if self.clear:
            return False
        if self.detached:
            return True
        if message.h is not UNSET:
            return False
        if link is not None and link.state is LinkState.OPEN:
            return link.silent and not self._listener.is_awaited(CURRENT.get(None)) and self._must_wait_for_another()
        if link is not None and link.state is LinkState.OPENING:
            # `open` and `on_reconnect` handlers send first. A server's peer has no queue that could be overtaken.
            return self.keeps_offline and not self.in_open_handler()
        if self.keeps_offline and not self.user_closed:
            return True
        raise self.not_sent()

    def _must_wait_for_another(self) -> bool:
        if not self.keeps_offline:
            raise self._drained()
        return True

    def let_wait(self, message: Event | Raw, offline: Offline | None) -> None:
        """Let a message wait with its session, for another connection, or for the `open` handlers.

        Raises:
            ConnectionLost: ``"not_sent"``, it may not wait.
            ChannelClosed: it is for an anonymous channel.
            QueueFull: too much waits already.
        """
        bound = message.h is UNSET and self.fails(offline)
        if bound and (self.broken or self.detached):
            raise self.not_sent()
        if self._belongs_to_session(message):
            if self.link is not None and self.link.session.full:
                self.check_cap(b"" if isinstance(message, Raw) else self.terms.encode(message))
            self._wait_encoded(message, None)
            return
        if message.h is not UNSET:
            raise self.channel_lost(message.h)
        if bound and self.silent:
            raise self._drained()
        self._keep(message, bound=bound)

    # ------------------------------------------------------------ waiting with the session

    def _belongs_to_session(self, message: Event | Request | Raw) -> bool:
        """Return whether a message ends with its session, if it cannot be sent. The class says which messages do."""
        link = self.link
        return (link is not None and link.session.resumable) and (
            message.h is not UNSET or not self.keeps_offline or self.in_open_handler()
        )

    def _wait_encoded(self, message: Event | Request | Raw, pending: Pending | None) -> int:
        """Let a message wait with the session, encoded as was agreed in it. Return its size in bytes.

        Raises:
            MessageTooBig: the remote peer would not accept it.
        """
        assert self.link is not None
        if isinstance(message, Raw):
            payload, text = message.payload, message.text
        else:
            payload = self.terms.encode(message)
            text = payload[0] == BRACE if self.terms.text is None else self.terms.text
        if (refusal := self.refusal(payload, raw=isinstance(message, Raw))) is not None:
            raise refusal
        waiting = Waiting(payload, text)
        if pending is not None:
            waiting.told, pending.waiting = self.requests.told(pending), waiting
        self.link.session.wait(waiting)
        return len(payload)

    # ------------------------------------------------------------ waiting for the next connection

    async def _wait_for_next(self, message: Event | Request | Raw, pending: Pending | None, bound: bool) -> None:
        if pending is not None:
            pending.waiting = self._keep(message, self.requests.told(pending), bound=pending.bound)
        elif bound:
            session = None if self.link is None else self.link.session
            await self.offline_queue().keep_and_wait(message, session, self.loop)
        else:
            self._keep(message)

    def _keep(self, message: Event | Request | Raw, told: Told | None = None, *, bound: bool = False) -> Waiting:
        """Keep a message that outlives the session, which has it if it has opened and waits for a connection."""
        link = self.link
        at_once = link is not None and self.detached and link.state is LinkState.OPEN and not link.silent
        session = None if link is None else link.session
        return self.offline_queue().keep(message, session, told, bound=bound, at_once=at_once)

    def fails(self, offline: Offline | None) -> bool:
        """Return whether a message with that option is bound to the present connection."""
        return self.fails_offline if offline is None else offline == "fail"

    def in_open_handler(self) -> bool:
        """Return whether an `open` or `on_reconnect` handler of the present connection runs, or a task that it made."""
        context = CURRENT.get(None)
        return context is not None and self.link is not None and context in self.link.contexts

    async def wait_written(self) -> None:
        """Wait until all callers that wait for room have sent. Cancelling is safe."""
        turn = Turn(self.turns)
        try:
            await turn.wait()
        finally:
            turn.end()
            self.update_clear()

    def not_sent(self) -> ConnectionLost:
        """Return the error for a message that no connection will take."""
        reason = self.ending.reason or ("closed on this side" if self.ending.user_closed else "")
        return ConnectionLost(self.ending.code, reason, "not_sent")

    def _drained(self) -> ConnectionLost:
        return ConnectionLost(CloseCode.SERVICE_RESTART, "the other side is draining", "not_sent")

    def channel_lost(self, h: int) -> ChannelClosed:
        """Return the error for a message on an anonymous channel that has ended."""
        return ChannelClosed(str(h), self.not_sent())
