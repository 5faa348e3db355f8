"""Messages that wait for a session, and the callers that are told when they leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .._base.scheduler import Scheduler
from .._protocol.codecs import Codec
from .._protocol.messages import Event, Raw, Request
from .._session.session import Session
from .._session.waiting import Told, WaitingMessage, WaitingQueue
from ..errors import ConnectionLost, MessageTooBig, QueueFull
from ..limits import Limits

Refusal = Callable[[bytes, bool], MessageTooBig | None]
"""`Outbound.refusal`: says why the remote peer would not accept a message, which is raw or not."""


class OfflineQueue(WaitingQueue):
    """Queue of the messages that a client sends in its next session, or after the `open` handlers of this one.

    A message is encoded when it is kept, because nothing is negotiated in that session yet. A ``bound`` message is
    sent on the present connection or not at all.

    While there is a session that has no connection, such messages wait in it, so that they leave in order with what
    belongs to the session. They count in the bounds of this queue there, too, and come back if the session ends.

    Args:
        queued: called when a message begins to wait.
        warn: writes a line into the log, about events whose senders were told that they wait.
    """

    __slots__ = ("_codec", "_limits", "_queued", "_warn")

    def __init__(self, codec: Codec, limits: Limits, queued: Callable[[], None], warn: Callable[..., None]) -> None:
        super().__init__()
        self._codec = codec
        self._limits = limits
        self._queued = queued
        self._warn = warn

    # ------------------------------------------------------------ messages that come

    def keep(
        self,
        message: Event | Request | Raw,
        session: Session,
        told: Told | None = None,
        *,
        bound: bool = False,
        at_once: bool = False,
    ) -> WaitingMessage:
        """Keep a message.

        Args:
            session: the present one.
            at_once: the message waits in the session.

        Raises:
            QueueFull: too much is kept already.
        """
        if isinstance(message, Raw):
            payload, text = message.payload, message.text
        else:
            payload, text = self._codec.encode(message), self._codec.text
        self._check_room(len(payload), session.waiting)
        waiting = WaitingMessage(payload, text, told, outlives=True, raw=isinstance(message, Raw), bound=bound)
        if at_once:
            session.wait(waiting)
        else:
            self.add(waiting)
        self._queued()
        return waiting

    def _check_room(self, size: int, in_session: WaitingQueue | None) -> None:
        count, total = len(self), self.size
        if in_session is not None:
            count += in_session.outliving
            total += in_session.outliving_size
        limits = self._limits
        if count >= limits.offline or total + size > limits.offline_bytes:
            raise QueueFull(
                f"not connected, and {count} messages ({total} bytes) wait already "
                f"(Limits.offline={limits.offline}, Limits.offline_bytes={limits.offline_bytes})"
            )

    async def keep_and_wait(self, message: Event | Request | Raw, session: Session, loop: Scheduler) -> None:
        """Wait until an event is sent, after the `open` handlers of the present connection. Cancelling is safe.

        Raises:
            ConnectionLost: ``"not_sent"``, the connection has ended before.
            QueueFull: too much is kept already.
        """
        sent: asyncio.Future[Exception | None] = loop.create_future()

        def told(error: Exception | None) -> None:
            if not sent.done():
                sent.set_result(error)

        waiting = self.keep(message, session, told, bound=True)
        try:
            error = await sent
        except asyncio.CancelledError:
            waiting.take_back()  # unless it was sent in this very turn of the event loop
            raise
        if error is not None:
            raise error

    # ------------------------------------------------------------ messages that leave

    def flush(self, session: Session, unchecked: int, refusal: Refusal) -> None:
        """Send everything, oldest first, except for messages that the remote peer would not accept.

        What the session cannot send waits in it.

        Args:
            unchecked: `Terms.unchecked`.

        Raises:
            ConnectionLost: the session cannot go on. That message and those behind it stay.
        """
        self.refuse_too_big(self, unchecked, refusal)
        for waiting in self.all():
            if waiting.queue is self:
                ticket: WaitingMessage | None = session.send(waiting.payload, waiting.text)
                if ticket is None:
                    waiting.was_sent()
                else:
                    ticket.take_back()
                    self.remove(waiting)
                    session.wait(waiting)

    def refuse_too_big(self, queue: WaitingQueue, unchecked: int, refusal: Refusal) -> None:
        """Drop the messages in ``queue`` that outlive their session and that the remote peer would not accept."""
        if queue.outliving_size > unchecked:
            for waiting in queue.all():
                if (
                    waiting.outlives
                    and len(waiting.payload) > unchecked
                    and (error := refusal(waiting.payload, waiting.raw)) is not None
                ):
                    self._refuse(waiting, error, "an event that waited for a connection was not sent: %s")

    def refuse_bound(self, why: ConnectionLost) -> None:
        """Drop the messages that are bound to the present connection: they will not be sent on it."""
        for waiting in self.all():
            if waiting.bound:
                error = ConnectionLost(why.code, why.reason, "not_sent")  # a new one for each caller that raises it
                self._refuse(waiting, error, "an event that waited for the `open` handlers was not sent: %s")

    def _refuse(self, waiting: WaitingMessage, error: Exception, text: str) -> None:
        waiting.take_back()
        if waiting.told is None:
            self._warn(text, error)
        else:
            waiting.told(error)

    def put_first(self, messages: list[WaitingMessage]) -> None:
        """Put messages before all others: their session is over, and they wait for the next one."""
        later = self.all()
        for waiting in later:
            self.remove(waiting)
        for waiting in (*messages, *later):
            self.add(waiting)

    def discard(self) -> None:
        """Drop all events, because no connection will come. The requests must have been taken out before."""
        lost = self.all()
        for waiting in lost:
            waiting.take_back()
        if lost:
            events, were = ("event", "was") if len(lost) == 1 else ("events", "were")
            self._warn("%d %s that waited for a connection %s not sent", len(lost), events, were)
