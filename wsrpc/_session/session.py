"""`Session`: a transport that survives drops."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import cache, partial
from typing import Any, Protocol

import msgspec

from .._base.closing import GOES_ON, CloseCode, CloseInfo
from .._base.logs import PeerLog
from .._base.scheduler import Scheduler, Timer
from .._protocol.codecs import NegotiatedCodec
from .._protocol.control import (
    BATCHES,
    CREDIT,
    DRAIN,
    MSGPACK,
    RESUME,
    STOP,
    UNCOUNTED,
    Ack,
    Announced,
    Changed,
    Control,
    Credit,
    Drain,
    Hello,
    Welcome,
    announce,
    is_control,
    read_control,
    write_control,
)
from .._protocol.settings import Settings
from ..errors import ConnectionLost, SessionLost
from ..handshake import Handshake
from ..limits import Limits
from ..transport import Transport
from .connection import Connection, Receive, ignore_end, ignore_message
from .ledger import Acknowledger, Mismatch, ReplayBuffer, Send
from .queue import Entry, SendQueue
from .states import SessionInput, SessionState, after

NOT_CONNECTED = CloseInfo(CloseCode.ABNORMAL, "not connected")
VERSION = 1
SESSION = 16 * 1024
"""Bytes that a session without a connection takes besides all that is counted, about."""
MESSAGE = 192
"""Bytes that a message which waits takes besides its payload, about."""


class SessionReceiver(Protocol):
    """What a session reports to.

    `PeerCore` of ``_peer`` implements it, and so do tests that have two sessions without peers. A session tells it so
    much that a function for each report would be longer, and take more memory in each session.
    """

    ignored: Counter[str]
    """Counts control messages that make no sense."""
    log: PeerLog

    @property
    def peer(self) -> Any:
        """The `Peer`. On a server, it has the client's principal, and the info of its last connection."""

    def takes_raw(self) -> bool:
        """Return whether this side wants raw messages, binary ones among them."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None], /) -> None:
        """Run a coroutine in a task."""

    def fail(self, code: int, reason: str, /) -> None:
        """End the connection because of the remote peer."""

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str], /) -> None:
        """Use what both sides support. See `Terms.agreed`."""

    def take_credit_or_drain(self, message: Credit | Drain, /) -> None:
        """Take a control message that is not about the session."""

    def room_changed(self) -> None:
        """The session has become full, or has room again, or has another connection or none."""

    def connection_ended(self, connection: Connection, /) -> None:
        """The connection is the session's no more."""

    def session_detached(self, info: CloseInfo, dropped: bool, /) -> None:
        """The session waits for another connection.

        Args:
            dropped: its connection has ended. Else an attempt to resume it has failed.
        """

    @property
    def user_may_send(self) -> bool:
        """Whether the user's messages leave. Else they wait for the `open` handlers, or for another session."""
        ...

    def objection(self, payload: bytes, raw: bool, /) -> Exception | None:
        """Return the error for an encoded message that the remote peer would not accept. None if it may be sent."""

    def session_reattached(self, connection: Connection, limits: Announced, /) -> None:
        """The session has another connection. What the remote peer has missed was sent again, what waits was not."""

    def session_resumed(self) -> None:
        """The session has resumed: what has waited was sent, and messages are let in."""

    def use_handshake(self, handshake: Handshake, /) -> None:
        """On a server: the connection on which the session is about to resume was made by ``handshake``."""

    def session_over(self) -> None:
        """The session is over; see `Session.end_reason`. Called once, unless this side has ended it."""

    def session_refused(self, connection: Connection, first: tuple[bytes | bytearray, bool] | None, /) -> None:
        """The server does not resume the session, which is over, but a new one can begin on ``connection``.

        Args:
            first: the message that has told so, which belongs to the new session. None if it was a `Gone`.
        """

    def memory(self) -> int:
        """Return the bytes that the session takes above, about: what was received, and what is being worked on."""
        ...

    def drop_rest(self) -> None:
        """Drop what is still read or worked on, although the session is over."""


class Session:
    """A transport that survives drops: it has one connection after another, or none, and ends once.

    ``send`` sends a message or lets it wait: `_choose_send` shows all cases. It is an attribute, so that a plain peer's
    messages go straight to the method of the transport. It returns None, or for a message that waits a
    `Entry`, with which the message can be taken back. It raises `ConnectionLost` for a message that can
    neither be sent nor wait.

    A control message looks like any other one until it is decoded. So the receiver gives `take_control` those messages
    that are not its own. A plain peer sends none, and nothing here is in the way of its messages.

    It exists before its first connection, with which it begins.

    Args:
        queue: the messages of the peer that wait for a connection.
        ending: why there is no connection so far.
    """

    __slots__ = (
        "_can_resume",
        "_codec",
        "_connection",
        "_expiry_timer",
        "_features",
        "_kept_back",
        "_loop",
        "_queue",
        "_read_ended",
        "_receive",
        "_receiver",
        "_room",
        "_settings",
        "_stall_timer",
        "_wrap",
        "asking",
        "closing",
        "common",
        "complete",
        "end_reason",
        "ending",
        "ends_with_connection",
        "full",
        "limits",
        "negotiated",
        "received",
        "send",
        "sent",
        "sid",
        "state",
        "ttl",
    )

    greeting: type[Hello | Welcome]
    """What the remote peer says first."""

    def __init__(
        self,
        settings: Settings,
        loop: Scheduler,
        receiver: SessionReceiver,
        queue: SendQueue,
        *,
        ending: CloseInfo = NOT_CONNECTED,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._loop = loop
        self._receiver = receiver
        self._can_resume = False
        """Whether this side can resume the session on another connection."""
        self._connection: Connection | None = None
        self._receive: Receive = ignore_message
        self._read_ended: Callable[[], None] = ignore_end
        self._wrap: Callable[[Send], Send] | None = None
        self.state = SessionState.NEW
        self.closing = False
        """Whether this side closes, so that the session ends with its connection."""
        self.ending = ending
        """Why there is no connection: how the last one has ended, or is going to end because this side closes it."""
        self.end_reason: ConnectionLost | None = None
        """Why the session is over: what calls in flight get. None until it is."""
        self.send: Send = self._not_sent
        self._kept_back: tuple[Callable[[], None], ...] = ()
        """The functions that send what is kept back at present, the outermost first. See `precede`."""
        # What is negotiated.
        self.limits = settings.limits
        """The limits of this side, as it has announced them or is about to."""
        self._features: list[str] | None = None
        """The features of this side, as it has said or says next. They never change in a session."""
        self.negotiated = False
        """Whether the remote peer has said what it supports."""
        self.common: frozenset[str] = frozenset()
        """The features that both sides have."""
        self._codec: NegotiatedCodec | None = None
        """The codec that both sides use for binary messages. None if only the codec of this side is used."""
        # What is counted.
        self.sid = ""
        """The name of the session, if it can resume on another connection."""
        self.ttl = 0.0
        """Seconds that it lives without a connection."""
        self.sent: ReplayBuffer | None = None
        self.received: Acknowledger | None = None
        self.complete = False
        """Whether both sides count, so that the session can resume on another connection."""
        self.ends_with_connection = False
        """Whether the session ends with its connection: too much was sent to keep, or the client is about to close."""
        # What waits.
        self.full = False
        """Whether the transport is crowded, or as much is kept or waits as may be. Then senders wait that can."""
        self._room: asyncio.Future[None] | None = None
        """Done when it is full no more, or over. None unless something waits for that."""
        self.asking: Connection | None = None
        """The connection on which a client waits for the answer to its resume."""
        self._stall_timer: Timer | None = None
        """Looks whether anything is acknowledged, while as much is kept as may be."""
        self._expiry_timer: Timer | None = None
        """Ends the session if it has no connection for too long."""

    # ------------------------------------------------------------ state

    @property
    def connection(self) -> Connection | None:
        """The present connection. None without one, or if it is dead."""
        connection = self._connection
        return None if connection is None or connection.dead else connection

    @property
    def has_dead_connection(self) -> bool:
        """Whether the connection has not taken a message, so that it has ended, but has not reported that so far.

        Until it does, there is a ``transport``, but no ``connection``, and the state is `SessionState.ATTACHED`.
        """
        return self._connection is not None and self._connection.dead

    @property
    def transport(self) -> Transport | None:
        """The transport of the present connection, be it dead or not. None without one."""
        return None if self._connection is None else self._connection.transport

    def drop(self, info: CloseInfo) -> None:
        """Drop the connection now, as if its transport had told of the end."""
        connection = self._connection
        if connection is not None:
            connection.connection_lost(info)
            connection.transport.abort()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state is SessionState.OVER

    @property
    def lives(self) -> bool:
        """Whether it has begun, and is not over."""
        return self.state is not SessionState.NEW and self.state is not SessionState.OVER

    @property
    def detached(self) -> bool:
        """Whether it has no connection, but may resume on another one."""
        return self.state is SessionState.DETACHED or self.state is SessionState.RESUMING

    @property
    def resumable(self) -> bool:
        """Whether the session may resume on another connection, be there one at present or not."""
        return self.complete and not (self.ends_with_connection or self.closing or self.over)

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent."""
        return not self.closing and self.connection is not None

    @property
    def awaits_connection(self) -> bool:
        """Whether it has no connection that takes messages, but may get one."""
        return (self.detached or self.has_dead_connection) and self.resumable

    @property
    def takes_messages(self) -> bool:
        """Whether messages can be sent, or wait for its next connection."""
        return self.connected or self.awaits_connection

    def _move(self, happened: SessionInput) -> None:
        self.state = after(self.state, happened)

    # ------------------------------------------------------------ the beginning

    def begin(self, connection: Connection, *, can_resume: bool) -> None:
        """Begin on the first connection. Nothing is let in before `start`.

        Args:
            can_resume: whether this side can resume the session on another connection.
        """
        self._can_resume = can_resume
        self._move(SessionInput.BOUND)
        self._use(connection)
        self._choose_send()

    def _use(self, connection: Connection) -> None:
        """Have ``connection``, on which nothing was sent yet."""
        self._connection = connection
        connection.owner = self
        if self._wrap is not None:
            connection.send = self._wrap(connection.send)

    def start(self, receive: Receive, read_ended: Callable[[], None]) -> None:
        """Let messages in. Those that arrived before are delivered within this call."""
        self._receive, self._read_ended = receive, read_ended
        connection = self._connection
        if connection is None:
            return
        if connection.ended is not None:  # before it belonged to this session
            self._loop.call_soon(partial(self.connection_lost, connection, connection.ended))
        elif self.closing:
            connection.start(ignore_message, ignore_end)
        else:
            connection.start(receive, read_ended)

    def wrap_sending(self, wrap: Callable[[Send], Send]) -> None:
        """Send through ``wrap(send)`` on each connection. Only before the session begins."""
        self._wrap = wrap

    # ------------------------------------------------------------ sending

    def _choose_send(self) -> None:
        """Choose what ``send`` does. Every change of what this depends on is followed by a call."""
        connection = self._connection
        if self._kept_back:
            self.send = self._send_after_kept_back
        elif connection is None:
            self.send = self._wait if self.detached else self._not_sent
        elif connection.dead and self.resumable:
            self.send = self._wait  # later messages do not overtake the one that it has not taken
        elif self.sent is None or self.ends_with_connection:
            self.send = connection.send
        else:
            self.send = self.sent.through(connection.send, self._not_taken)

    def precede(self, first: Callable[[], None]) -> Callable[[], None]:
        """Call ``first`` before each message that is sent from now on. Return a function that ends this.

        For code that runs while something is kept back that has to leave before what that code sends, and before that
        code ends a channel or the session, where `send_kept_back` is called. That code may use it, too, and ends it
        first.
        """
        outer = self._kept_back
        self._kept_back = (*outer, first)
        self._choose_send()

        def end() -> None:
            self._kept_back = outer
            self._choose_send()

        return end

    def send_kept_back(self) -> None:
        """Send what is kept back, see `precede`."""
        if self._kept_back:
            self._after_kept_back(lambda: None)

    def _send_after_kept_back(self, payload: bytes, text: bool = True, /) -> Any:
        return self._after_kept_back(lambda: self.send(payload, text))

    def _after_kept_back(self, then: Callable[[], Any]) -> Any:
        """Send what is kept back, and call ``then``. Meanwhile ``send`` precedes nothing."""
        kept_back, self._kept_back = self._kept_back, ()
        self._choose_send()
        try:
            for first in kept_back:
                first()
            return then()
        finally:
            self._kept_back = kept_back
            self._choose_send()

    @property
    def unsent(self) -> int:
        """Bytes that were sent, and that the connection has not written. Without one, those that are kept or wait."""
        connection = self.connection
        return self.kept if connection is None else connection.transport.unsent

    def flush(self) -> None:
        """Write at once what is waiting to be written."""
        if self._connection is not None:
            self._connection.transport.flush()

    def say(self, message: Control) -> None:
        """Send a control message, which is JSON text whatever the codec is.

        It waits and is counted as other messages are, and is dropped if it can neither be sent nor wait.
        """
        with suppress(ConnectionLost):
            self.send(write_control(message), True)

    def note_dead(self, why: ConnectionLost) -> None:
        """Note that the connection is dead: it has not taken a message. See `has_dead_connection`."""
        connection = self._connection
        if connection is not None and not connection.dead:
            if not self.closing:
                self.ending = CloseInfo(why.code, why.reason)  # until the connection tells more
            connection.dead = True
            self._choose_send()
            self._receiver.room_changed()

    def _not_taken(self, payload: bytes, text: bool, why: ConnectionLost) -> Entry | None:
        self.note_dead(why)
        return self._wait(payload, text) if self.resumable else None

    def _wait(self, payload: bytes, text: bool = True, /) -> Entry:
        entry = Entry(payload, text)
        self.wait(entry)
        return entry

    def _not_sent(self, payload: bytes, text: bool = True, /) -> None:
        raise ConnectionLost(self.ending.code, self.ending.reason, "not_sent")

    def wait(self, entry: Entry) -> None:
        """Let a message that ends with the session wait for another connection. Only while the session may get one."""
        self._queue.add(entry)
        self.queue_changed()

    def queue_changed(self) -> None:
        """Note that more waits with the session, or less."""
        self.recount()
        self.look_for_room()

    def send_queued(self, *, users: bool) -> None:
        """Send what waits, oldest first, as far as the connection takes it.

        Args:
            users: whether the user's messages leave, too.
        """
        for entry in self._queue.all():
            if (connection := self.connection) is None:
                return
            if entry.queue is None or not (users or entry.of_session):
                continue
            if not entry.of_session and (error := self._receiver.objection(entry.payload, entry.raw)) is not None:
                self._queue.refuse(entry, error)
                continue
            try:
                connection.send(entry.payload, entry.text)
            except ConnectionLost as exc:
                self.note_dead(exc)
                return
            entry.was_sent()
            if self.sent is not None and not self.ends_with_connection:
                self.sent.keep(entry.payload, entry.text)

    async def drain(self) -> None:
        """Wait until the session has room, or is over. Cancelling is safe."""
        if self.full:
            if self._room is None:
                self._room = self._loop.create_future()
            await asyncio.shield(self._room)

    def look_for_room(self) -> None:
        """Find out whether there is room, because something that this depends on has changed."""
        connection = self._connection
        full = (
            (connection is not None and connection.crowded)
            or (self.sent is not None and self.sent.full)
            or (self._queue.session_size > 0 and self.kept >= self._settings.limits.replay)
        )
        if full != self.full and not self.over:
            self.full = full
            if not full:
                self._wake()
            self._receiver.room_changed()

    def _wake(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    # ------------------------------------------------------------ what is kept and waits

    @property
    def kept(self) -> int:
        """Bytes of the messages that may have to be sent again, or wait and end with the session."""
        sent, waiting = self.sent, self._queue.session_size
        return waiting if sent is None else waiting + sent.size

    def memory(self) -> int:
        """Return the bytes that the session takes at present, about: what is sent, received and being worked on."""
        messages = len(self._queue) + (0 if self.sent is None else len(self.sent))
        return SESSION + self.kept + self._queue.user_size + MESSAGE * messages + self._receiver.memory()

    def recount(self) -> None:
        """Note that the session takes more memory, or less."""

    # ------------------------------------------------------------ counting

    def _count_sent(self) -> None:
        """Count what is sent from now on, and keep it until it has arrived."""
        connection = self._connection
        assert connection is not None
        self.sent = ReplayBuffer(self._settings.limits, self._sent_full, self._overflowed)
        self._choose_send()
        self.received = Acknowledger(self._loop, self._send_uncounted, self._writes_soon)
        self._survive(connection)

    def _survive(self, connection: Connection) -> None:
        """Tell the transport that a dead connection ends without a Close frame."""
        tell: Callable[[], None] | None = getattr(connection.transport, "session_survives", None)
        if tell is not None:
            tell()

    def _count_received(self) -> None:
        """Count what is received from now on. The remote peer counts it, too."""
        connection = self._connection
        assert connection is not None and self.received is not None
        self.complete = True
        self._choose_send()
        if not self.closing:
            connection.receive = self.received.through(self._receive)

    def _acknowledged(self, ack: Ack) -> bool:
        """Throw away what has arrived. The first `Ack` of a client says that it counts.

        Return False if the message makes no sense.
        """
        if not self.complete:
            if self.sent is None or ack != Ack(0, 0):
                return False
            self._count_received()
        elif self.sent is not None and not self.ends_with_connection:
            try:
                self.sent.acknowledge(ack.n, ack.bytes)
            except Mismatch as exc:
                self._receiver.fail(CloseCode.ACCOUNTING, str(exc))
        return True

    def _send_uncounted(self, control: bytes) -> None:
        """Send a control message that is about the present connection, if there is one."""
        if self._connection is not None:
            with suppress(ConnectionLost):  # the connection reports that itself
                self._connection.send(control, True)

    def _writes_soon(self) -> bool:
        return self._connection is not None and self._connection.transport.unsent > 0

    def _sent_full(self) -> None:
        """Look whether there is room: as much is kept as may be, or no more."""
        self.look_for_room()
        if self._connection is not None:
            self._watch(self.limits.stall)

    def _watch(self, seconds: float) -> None:
        """Close the connection if the most is kept that may be, and nothing is acknowledged for so long."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        sent = self.sent
        if sent is None or not sent.full:
            return
        arrived = sent.arrived

        def look() -> None:
            if sent.arrived == arrived:
                self._receiver.fail(CloseCode.SLOW_CONSUMER, f"nothing was acknowledged for {seconds:g} s")
            else:
                self._watch(seconds)

        self._stall_timer = self._loop.call_at(self._loop.time() + seconds, look)

    def _overflowed(self) -> None:
        """Let the session end with its connection: more is sent that cannot wait than may be kept."""
        if self._connection is not None and self.sent is not None:
            self._receiver.log.warn(
                "has not acknowledged %d bytes (Limits.replay and hard_cap): its session will end with this connection",
                self.sent.size,
            )
            self.end_with_connection()

    def end_with_connection(self) -> None:
        """Let the session end with its connection: from now on what is sent is neither counted nor kept."""
        connection = self._connection
        if connection is not None and self.sent is not None and not self.ends_with_connection:
            self.ends_with_connection = True
            self._choose_send()
            self.sent.forget()
            self.look_for_room()

    # ------------------------------------------------------------ control messages

    def offer(self) -> list[str]:
        """Return the features of this side."""
        if self._features is None:
            # An `on_raw` function that is registered later must not get the other's MessagePack.
            self._features = self._new_offer()
        return self._features

    def _new_offer(self) -> list[str]:
        """Return the features that this side has in a session that begins now."""
        features = [BATCHES, CREDIT, DRAIN, STOP]
        if self._wants_msgpack:
            features.append(MSGPACK)
        if self._can_resume:
            features.append(RESUME)
        return features

    @property
    def _wants_msgpack(self) -> bool:
        # If binary messages are MessagePack, raw ones could not be told from them.
        return self._settings.binary is not None and not self._receiver.takes_raw()

    def binary_is_free(self) -> bool:
        """Return whether a binary message that is sent now, or waits for a connection, is a raw one."""
        return self._codec is None or self.over

    def change_limits(self, limits: Limits) -> None:
        """Use other limits on this side from now on, and announce them."""
        self.limits = limits
        if self._connection is not None:
            self._connection.transport.largest = limits.message
        if self.negotiated:
            self.say(Changed(announce(limits)))

    def take_control(self, payload: bytes | bytearray) -> bool:
        """Take a control message of the remote peer. Return False if ``payload`` is another message."""
        message: Control | None = read_control(payload)
        if message is None:
            if not is_control(payload):
                return False
            self._receiver.ignored["unknown control message"] += 1
            return True
        if self.complete and isinstance(message, UNCOUNTED):
            assert self.received is not None
            self.received.leave_out(len(payload))
        if isinstance(message, (Credit, Drain)):
            self._receiver.take_credit_or_drain(message)
        elif not self._take(message):
            self._receiver.ignored["control message out of place"] += 1
        return True

    def _take(self, message: Control) -> bool:
        """Take a control message that is about the session. Return False if it makes no sense."""
        if isinstance(message, Ack):
            return self._acknowledged(message)
        if isinstance(message, Changed) and self.negotiated:
            if self._accepts(message.limits):
                self._receiver.agree(message.limits, self._codec, self.common)
        elif isinstance(message, (Hello, Welcome)) and message.__class__ is self.greeting and not self.negotiated:
            if isinstance(message, Hello) and message.v < VERSION:
                self._receiver.ignored["hello of another version"] += 1
            elif self._accepts(message.limits):
                self.common = _shared(frozenset(message.features) & {*self.offer()})
                self._greeted(message)
        else:
            return False
        return True

    def _accepts(self, limits: Announced) -> bool:
        """Return whether peers could communicate within these limits. If not, end the connection."""
        why = limits.objection()
        if why is not None:
            self._receiver.fail(CloseCode.INVALID_DATA, why)
        return why is None

    def _greeted(self, message: Any) -> None:
        """Take the `greeting` of the remote peer: both sides know their common features."""
        raise NotImplementedError

    def _agree(self, limits: Announced) -> None:
        self.negotiated = True
        self._codec = self._settings.binary if MSGPACK in self.common else None
        self._receiver.agree(limits, self._codec, self.common)

    # ------------------------------------------------------------ connections come and go

    def connection_lost(self, connection: Connection, info: CloseInfo) -> None:
        """Go on without a connection, or end, because the connection has ended."""
        if connection is self._connection:
            if info.code in GOES_ON and self.resumable:
                self._detach(info)
            else:
                self.end(info, ConnectionLost(info.code, info.reason))
                self._receiver.session_over()

    def _detach(self, info: CloseInfo) -> None:
        """Go on without a connection, until another one comes or the time is over."""
        self._disown_connection()
        self._move(SessionInput.CUT)
        self.ending = info
        self._choose_send()
        self._stop_timers()
        self._expiry_timer = self._loop.call_at(self._loop.time() + self.ttl, self._expired)
        self._receiver.session_detached(info, True)

    def _expired(self) -> None:
        self._end_detached(SessionInput.EXPIRED, "no connection resumed it in time")

    def _disown_connection(self) -> None:
        """Have no connection from now on. Whatever the last one still delivers changes nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disown()
            self._receiver.connection_ended(connection)

    def _reattach(self, connection: Connection, rx: int, size: int, limits: Announced) -> None:
        """Resume on ``connection``, whose remote peer has received ``rx`` messages of ``size`` bytes."""
        sent, received = self.sent, self.received
        assert sent is not None and received is not None
        code, why = CloseCode.INVALID_DATA, limits.objection()
        if why is None:
            try:
                sent.acknowledge(rx, size)
            except Mismatch as exc:
                code, why = CloseCode.ACCOUNTING, str(exc)
        if why is not None:
            self._receiver.log(logging.WARNING, "closing the connection with %d: %s", code, why)
            connection.disown()
            self._receiver.spawn(connection.close(code, why))
            self._end_detached(SessionInput.ENDED, why)
            return
        self._stop_timers()
        self._move(SessionInput.RESUMED)
        received.note_told()
        self.asking = None
        self._use(connection)
        connection.transport.largest = self.limits.message  # `Peer.limits` may have changed
        for payload, text in sent.again():
            with suppress(ConnectionLost):  # another connection gets them
                connection.send(payload, text)
        self._choose_send()  # until now, new messages waited behind those
        self._survive(connection)
        self._receiver.session_reattached(connection, limits)
        self.send_queued(users=self._receiver.user_may_send)
        self._announce_changes()
        self._sent_full()  # as much may be kept as before, and the last connection's timer is stopped
        self._receiver.room_changed()
        if self._connection is connection and not self.closing:
            connection.start(received.through(self._receive), self._read_ended)
        self._receiver.session_resumed()

    def _announce_changes(self) -> None:
        """Announce what has changed while the session had no connection. It follows what has waited."""

    # ------------------------------------------------------------ the end

    def close_soon(self, info: CloseInfo) -> None:
        """Let nothing in from now on: a Close frame is about to be queued, and the session ends with its connection."""
        self.closing = True
        self.ending = info
        self._choose_send()
        self.stop_receiving()

    def stop_receiving(self) -> None:
        """Ignore all further messages of the present connection."""
        if self._connection is not None:
            self._connection.receive = ignore_message

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection, and return when it has ended. Cancelling is safe."""
        if self._connection is not None:
            await self._connection.close(code, reason)

    def _end_detached(self, happened: SessionInput, why: str) -> None:
        """End a session that has no connection."""
        self.end(self.ending, SessionLost(self.ending.code, why), happened)
        self._receiver.session_over()

    def end(
        self, info: CloseInfo, lost: ConnectionLost, happened: SessionInput = SessionInput.ENDED
    ) -> Connection | None:
        """End the session, without a report. What has waited is still in the queue.

        Args:
            info: how its last connection has ended, or is going to end.
            lost: what calls in flight get.

        Returns:
            The connection that it had, which is still open.
        """
        if self.closing and self.ending.user_closed:  # whatever the remote peer has answered
            info = msgspec.structs.replace(info, user_closed=True)
        self.ending, self.end_reason = info, lost
        left = self._connection
        self._disown_connection()
        self._move(happened)
        self._stop_timers()
        self._choose_send()
        if self.sent is not None:
            self.sent.forget()
        self.full = False
        self._wake()
        asking = self.asking
        if asking is not None:
            asking.disown()
            self._receiver.spawn(asking.close(CloseCode.GOING_AWAY))
        return left

    def _stop_timers(self) -> None:
        if self.received is not None:
            self.received.stop()
        for timer in (self._stall_timer, self._expiry_timer):
            if timer is not None:
                timer.cancel()
        self._stall_timer = self._expiry_timer = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.value}{' full' if self.full else ''}>"


@cache
def _shared(features: frozenset[str]) -> frozenset[str]:
    """Return the same object for the same set: each session keeps one, and there are few different ones."""
    return features
