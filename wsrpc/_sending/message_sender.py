"""`MessageSender`: sends the messages of one session at once, in turn, or on a later connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from .._base.closing import CloseCode
from .._base.misuse import shown_as
from .._base.names import ChannelRef, Offline
from .._handlers.invocation import CURRENT, Invocation
from .._protocol.codecs import BRACE
from .._protocol.messages import Event, Raw, Request, event_on
from .._session.waiting import Told, WaitingMessage
from ..errors import ChannelClosed, ConnectionLost
from .checks import check_sending
from .outbound import Outbound
from .outbox import Outbox
from .pending import Pending
from .turns import Turn


class MessageSender:
    """Sends the events, requests and raw messages of one session: at once, in turn, or on a later connection.

    A message waits for its turn while the connection is full.

    A message that cannot be sent because there is no connection waits, or it fails as ``"not_sent"``:

    - It waits *in its session* while that may go on over another connection.
    - It waits *for the next session* if it has none, or if that ends: events and requests of a client, except
      those that are bound to the present connection by ``offline="fail"``. All other messages end with their session:
      answers, control messages, what is said on an anonymous channel, and what `open` and `on_reconnect` handlers send.
      On a server, whose peers do not come back without their session, everything does.

    Args:
        out: the way out of the session.
        outbox: what outlives the session.
        has_channel: returns whether an anonymous channel is still open.
        is_awaited: returns whether the remote peer waits for the handler that this context belongs to.
        present: returns the message sender of the present session, or of the last one.
    """

    __slots__ = (
        "_has_channel",
        "_is_awaited",
        "_outbox",
        "_present",
        "_requests",
        "_session",
        "_turns",
        "out",
    )

    def __init__(
        self,
        out: Outbound,
        outbox: Outbox,
        *,
        has_channel: Callable[[int], bool],
        is_awaited: Callable[[Invocation | None], bool],
        present: Callable[[], MessageSender],
    ) -> None:
        self.out = out
        self._outbox = outbox
        self._has_channel = has_channel
        self._is_awaited = is_awaited
        self._present = present
        self._session = out.session
        self._requests = outbox.requests
        self._turns = out.turns

    def __repr__(self) -> str:
        return f"<MessageSender {self.out.state} queued={self.queued}>"

    @property
    def _successor(self) -> MessageSender | None:
        """The message sender of the next session, if this session has ended. None while there is no next one."""
        present = self._present() if self._session.over else self
        return None if present is self else present

    # ------------------------------------------------------------ events

    @shown_as("emit")
    async def send_event(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit`."""
        out = self.out
        check_sending(channel, event, out.thread)
        message = event_on(channel, (event, *args))
        if not (out.clear and out.send(out.terms.encode(message))):
            await self.send_in_turn(message, None, self._outbox.bound_by(offline))

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], offline: Offline | None = None, /
    ) -> None:
        """See `Caller.emit_nowait`."""
        out = self.out
        check_sending(channel, event, out.thread)
        message = event_on(channel, (event, *args))
        if self.must_wait(message) or not out.send_nowait(out.terms.encode(message)):
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
        of_session = message.h is not UNSET
        if not of_session and (successor := self._successor) is not None:
            return await successor.send_in_turn(message, pending, bound)  # the session has ended since the call
        if of_session:
            bound = False  # the channel belongs to the session, and ends with it
        turn = Turn(self._turns, bound=bound)
        if pending is not None:
            pending.turn = turn
        try:
            while True:
                must_wait = self.must_wait(message, pending)
                if bound:
                    self._check_bound(must_wait)
                needs_room = not must_wait or self._belongs_to_session(message)
                if (needs_room and self._session.full) or (self._turns.awaited and not turn.held):
                    await turn.wait()
                    if pending is not None and pending.future.done():  # it has timed out in the queue
                        return 0
                    if not (of_session or bound) and (successor := self._successor) is not None:
                        return await successor.send_in_turn(message, pending)
                    continue
                if not must_wait and (size := self._try_to_send(message)) is not None:
                    if pending is not None:
                        self._requests.flight.was_sent(pending, size)
                    return size
                if not must_wait and bound:
                    raise self.out.not_sent()
                if self._belongs_to_session(message):
                    return self._wait_encoded(message, pending)
                if not must_wait and message.h is not UNSET:
                    raise self.channel_lost(message.h)
                break
        finally:
            turn.end()
            if pending is not None:
                pending.turn = None
            self.out.update_clear()
        if bound and pending is None:
            await self._outbox.offline_queue().keep_and_wait(message, self._session, self.out.loop)
        elif pending is None:
            self._keep(message)
        else:
            pending.waiting = self._keep(message, self._requests.told(pending), bound=bound)
        return 0

    def _check_bound(self, must_wait: bool) -> None:
        """Refuse a message that is bound to the connection if that has ended or begins nothing new."""
        if not self._session.connected:
            raise self.out.not_sent()
        if must_wait and self.out.draining.closes_at is not None:
            raise self._drained()

    def _try_to_send(self, message: Event | Request | Raw) -> int | None:
        """Hand a message to the transport. Return its size, or None if the connection has just ended."""
        out = self.out
        if isinstance(message, Raw):
            return len(message.payload) if out.hand_over(message) else None
        payload = out.terms.encode(message)
        return len(payload) if out.send(payload) else None

    def must_wait(self, message: Event | Request | Raw, pending: Pending | None = None) -> bool:
        """Return whether a message has to wait for a connection.

        Raises:
            ConnectionLost: ``"not_sent"``, no connection will come.
            ChannelClosed: it is for an anonymous channel that has ended.
        """
        if message.h is not UNSET and not self._has_channel(message.h):
            raise self.channel_lost(message.h)  # an anonymous channel ends with its session
        out, session = self.out, self._session
        if out.clear:
            return False
        if session.awaits_connection:
            return True
        if message.h is not UNSET:
            return False
        if session.lives and not session.closing:
            if out.is_open:
                # While the remote peer drains, a stream, an upload or a conversation might not end in time.
                lasts = pending is not None and pending.options.wants_channel
                waits = out.silent or (lasts and out.draining.closes_at is not None)
                return waits and not self._is_awaited(CURRENT.get(None)) and self._must_wait_for_another()
            # `open` and `on_reconnect` handlers send first. A server's peer has no queue that could be overtaken.
            return self._outbox.keeps_offline and not out.in_open_handler()
        if self._outbox.expects_session:
            return True
        raise out.not_sent()

    def _must_wait_for_another(self) -> bool:
        if not self._outbox.keeps_offline:
            raise self._drained()
        return True

    def let_wait(self, message: Event | Raw, offline: Offline | None) -> None:
        """Let a message wait with its session, for another connection, or for the `open` handlers.

        Raises:
            ConnectionLost: ``"not_sent"``, it may not wait.
            ChannelClosed: it is for an anonymous channel.
            QueueFull: too much waits already.
        """
        bound = message.h is UNSET and self._outbox.bound_by(offline)
        if bound and not self._session.connected:
            raise self.out.not_sent()
        if self._belongs_to_session(message):
            if self._session.full:
                self.out.check_cap(b"" if isinstance(message, Raw) else self.out.terms.encode(message))
            self._wait_encoded(message, None)
            return
        if message.h is not UNSET:
            raise self.channel_lost(message.h)
        if bound and self.out.silent:
            raise self._drained()
        self._keep(message, bound=bound)

    # ------------------------------------------------------------ waiting with the session

    def _belongs_to_session(self, message: Event | Request | Raw) -> bool:
        """Return whether a message ends with its session, if it cannot be sent. The class says which messages do."""
        return self._session.resumable and (
            message.h is not UNSET or not self._outbox.keeps_offline or self.out.in_open_handler()
        )

    def _wait_encoded(self, message: Event | Request | Raw, pending: Pending | None) -> int:
        """Let a message wait with the session, encoded as was agreed in it. Return its size in bytes.

        Raises:
            MessageTooBig: the remote peer would not accept it.
        """
        if isinstance(message, Raw):
            payload, text = message.payload, message.text
        else:
            terms = self.out.terms
            payload = terms.encode(message)
            text = payload[0] == BRACE if terms.text is None else terms.text
        if (refusal := self.out.refusal(payload, raw=isinstance(message, Raw))) is not None:
            raise refusal
        waiting = WaitingMessage(payload, text)
        if pending is not None:
            waiting.told, pending.waiting = self._requests.told(pending), waiting
        self._session.wait(waiting)
        return len(payload)

    # ------------------------------------------------------------ waiting for the next session

    def _keep(self, message: Event | Request | Raw, told: Told | None = None, *, bound: bool = False) -> WaitingMessage:
        """Let a message wait for the next session, or in this one if that has opened and waits for a connection.

        Args:
            bound: it waits for the present connection to open.

        Raises:
            QueueFull: too much waits already.
        """
        at_once = self.out.is_open and not self.out.silent and self._session.awaits_connection
        return self._outbox.offline_queue().keep(message, self._session, told, bound=bound, at_once=at_once)

    async def wait_written(self) -> None:
        """Wait until all callers that wait for room have sent. Cancelling is safe."""
        turn = Turn(self._turns)
        try:
            await turn.wait()
        finally:
            turn.end()
            self.out.update_clear()

    # ------------------------------------------------------------ what waits and is kept

    @property
    def queued(self) -> int:
        """How many messages wait for a connection."""
        queue, in_session = self._outbox.queue, self._session.waiting
        return (0 if queue is None else len(queue)) + (0 if in_session is None else len(in_session))

    @property
    def kept(self) -> int:
        """Bytes of the messages that wait for a connection, or may have to be sent again on another one."""
        queue, session = self._outbox.queue, self._session
        return (
            (0 if queue is None else queue.size)
            + session.kept
            + (0 if session.waiting is None else session.waiting.outliving_size)
        )

    def flush_offline(self) -> None:
        """Send the messages that waited for a session, in order. If it has no connection, they wait in it."""
        if self._outbox.queue is not None:
            self._outbox.queue.flush(self._session, self.out.terms.unchecked, self.out.refusal)

    # ------------------------------------------------------------ what happens to the session

    def begin_nothing(self) -> None:
        """Fail what is bound to the connection and was not sent so far: the remote peer is about to close."""
        if self._outbox.queue is not None:
            self._outbox.queue.refuse_bound(self._drained())

    def drop_bound(self) -> None:
        """Fail what is bound to the connection, which has ended. The session goes on, and everything else waits."""
        self._outbox.refuse_bound(self.out.not_sent())
        self._turns.drop_bound()

    def end(self, lost: ConnectionLost) -> None:
        """Fail with ``lost`` what belongs to the session, which is over. The rest waits for the next one, if any."""
        outbox, flight = self._outbox, self._requests.flight
        outliving: list[WaitingMessage] = []
        for message in () if self._session.waiting is None else self._session.waiting.all():
            if message.outlives:
                message.take_back()
                outliving.append(message)
            else:
                message.fail(lost)
        if outliving:
            outbox.offline_queue().put_first(outliving)
        outbox.end_session(lost)
        if not outbox.expects_session:
            outbox.discard(self._session.ending)
        self._turns.end_all()
        flight.end()

    # ------------------------------------------------------------ errors

    def _drained(self) -> ConnectionLost:
        return ConnectionLost(CloseCode.SERVICE_RESTART, "the other side is draining", "not_sent")

    def channel_lost(self, h: int) -> ChannelClosed:
        """Return the error for a message on an anonymous channel that has ended."""
        return ChannelClosed(str(h), self.out.not_sent())
