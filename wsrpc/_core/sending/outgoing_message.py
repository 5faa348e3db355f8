"""`Outgoing`: an event or a request on its way."""

from __future__ import annotations

from msgspec import UNSET

from ..._base.closing import CloseCode
from ...errors import ChannelClosed, ConnectionLost, SessionLost, WsrpcError
from ..inboxes.inbox import ReadableChannel
from ..session.offline_queue import Encoded
from ..session.peer_host import PeerHost
from ..wire.messages import Event, Request
from ..wire.terms import Terms
from .gate import Waiter
from .pending import Pending
from .phase import Phase
from .places import Scope
from .session_writer import SessionWriter


class Outgoing(Encoded, kw_only=True):
    """An event or a request on its way, from `Outbox.post` until the transport has it: the same record everywhere.

    Most messages need no record, because they are sent at once.
    """

    message: Event | Request
    host: PeerHost
    scope: Scope
    writer: SessionWriter
    """The writer of the session in which the message was made. When this session ends, the message fails, unless
    ``scope`` is `Scope.PEER`."""
    channel: ReadableChannel | None
    """The anonymous channel of the message. None without one, and if the channel had ended already."""
    fails_offline: bool
    """Whether the message fails if it would have to wait for a connection."""
    pending: Pending | None
    """The request that the message makes. None for events."""
    waiter: Waiter | None
    """The place of its caller in a line. None if the caller does not wait, as that of `emit_nowait`."""
    terms: Terms
    """The terms by which ``payload`` is encoded, for the place where the message goes."""
    waiting_bytes: int = 0
    """Bytes of a request that will wait for a handler at the remote peer."""
    encoded_late: bool = False
    """Whether the message is encoded again as it leaves the queue."""

    @property
    def has_key(self) -> bool:
        """Whether it is a call with a key."""
        return self.pending is not None and self.pending.options.has_key

    @property
    def over(self) -> bool:
        """Whether the session of the message is over, or its anonymous channel."""
        if self.scope is Scope.PEER:
            return False
        if self.message.h is not UNSET and (self.channel is None or self.channel.over):
            return True
        return self.writer is not self.host.current.writer

    # ------------------------------------------------------------ encoding

    def encode(self) -> bytes:
        """Encode the message by ``terms``, once, unless it says how much time is left. Return the payload."""
        if not self.payload or (self.pending is not None and self.message.ctx is not UNSET):
            self.payload = self._encode_by(self.terms)
            self.text = self.terms.is_text(self.payload)
        return self.payload

    def _encode_by(self, terms: Terms) -> bytes:
        if self.pending is not None and self.message.ctx is not UNSET:
            self.message.ctx.remaining_ms = self.pending.remaining_ms(self.writer.loop.time())
        return terms.encode_call(self.message)

    def copy_arguments(self) -> None:
        """Copy the arguments before the message waits, because the caller may change them.

        Raises what encoding them raises.
        """
        # Before the greeting, the payload is JSON, in which bytes are text.
        self.message.a = self.writer.settings.copied(self.message.a, self.payload if self.terms.known else b"")

    def check_context(self) -> None:
        """Refuse a call whose key the remote peer might ignore, and count metadata that it does not get.

        Raises:
            ValueError: the remote peer ignores keys.
            WsrpcError: the remote peer has not said in time whether it knows keys.
        """
        writer, ctx = self.host.current.writer, self.message.ctx
        terms = writer.terms
        if ctx is UNSET or (terms.known and terms.context):
            return
        if self.pending is not None and self.has_key:
            not_sent = f"{self.pending.event!r} was not sent: the remote peer"
            if terms.known:
                raise ValueError(f"{not_sent} does not speak wsrpc, and ignores key=")
            seconds = writer.settings.limits.open_timeout
            raise WsrpcError(f"{not_sent} has not said within {seconds:g} s if it knows keys (Limits.open_timeout)")
        if terms.known and ctx.metadata is not UNSET:
            writer.count_metadata()

    # ------------------------------------------------------------ in the queue

    def encoded(self) -> tuple[bytes, bool] | None:
        payload, text, writer = self.payload, self.text, self.host.current.writer
        if self.encoded_late:
            if self.host.current.outbox.expects_session and writer.awaits_greeting(len(payload), has_key=self.has_key):
                return None
            self.check_context()
            payload = self._encode_by(writer.terms)
            text = writer.terms.is_text(payload)
        if not self.of_session:
            writer.terms.check(payload)
        return payload, text

    def was_sent(self) -> None:
        if self.pending is not None:
            self.writer.requests.queued_was_sent(self.pending)

    def was_refused(self, error: Exception) -> bool:
        if self.pending is None:
            return False
        self.writer.requests.fail(self.pending, error)
        return True

    # ------------------------------------------------------------ failing

    def error(self, state: Phase) -> ConnectionLost | ChannelClosed:
        """Return the error for the message, which can neither be sent nor wait."""
        session, h, channel, waiter = self.writer.session, self.message.h, self.channel, self.waiter
        if state is Phase.DRAINING and self.scope is not Scope.STARTED:
            return ConnectionLost(CloseCode.SERVICE_RESTART, "the other side is draining", "not_sent")
        if channel is not None and channel.over and not session.over:
            return channel.closed_error()
        lost = self.writer.not_sent()
        if isinstance(session.end_error, SessionLost) and waiter is not None and waiter.is_waiting:
            lost = session.end_error.for_outcome("not_sent")  # it was lost while the caller waited
        return lost if h is UNSET else ChannelClosed(str(h), lost)
