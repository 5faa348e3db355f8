"""`PeerSession`: the inside of one session of a peer."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET

from ..._base.closing import CloseInfo, check_close
from ...errors import MessageTooBig, ProtocolError, RpcError, SessionLost
from ..channels.channel_table import ChannelTable
from ..handlers.invocation import BYTES_PER_CALL, CURRENT, EXITED, Invocation
from ..handlers.opening import Opening
from ..sending.answers import Answers
from ..sending.pending import SENT
from ..sending.phase import Phase, phase_of
from ..sending.session_writer import SessionWriter
from ..session.client_session import ClientSession
from ..session.connection import Connection, Receive
from ..session.peer_host import PeerHost
from ..session.session import Session
from ..session.session_end import Decision, SessionEnd
from ..session.session_states import SessionInput, SessionState
from ..session.sessions import Home, ServerSession
from ..wire.codecs import BRACE, NegotiatedCodec
from ..wire.control import Announced, CreditMessage, Drain
from ..wire.messages import MAX_ID, Event, WireMessage
from ..wire.nodes import LOST
from ..wire.terms import UNLIMITED
from .admission import Admission
from .dispatcher import Dispatcher
from .payload_log import PayloadLog
from .receiver import Receiver
from .requester import Requester


class PeerSession:
    """The inside of one session of a peer, the same for the side that dialed and the side that accepted.

    It is made before the session starts, and dropped when the session has ended. A callback that runs too late still
    has the inside of a session that is over, and can see that. All methods that receive messages are synchronous: they
    start handlers, resolve futures and send messages. There is no socket. Time, timers and tasks come from
    ``host.loop``, which a test can replace.

    Args:
        requester: sends requests, and has the outbox, from one session to the next.
        admission: counts the handlers, and has the readers, from one session to the next.
        home: what the peer has on a server.
        last_close: how the session before ended, or why there was none.
    """

    __slots__ = (
        "__weakref__",
        "_close_handlers",
        "_disconnected",
        "_ending",
        "_receiver",
        "admission",
        "channels",
        "dispatcher",
        "host",
        "named_channels",
        "opening",
        "outbox",
        "session",
        "writer",
    )

    def __init__(
        self, host: PeerHost, requester: Requester, admission: Admission, home: Home | None, last_close: CloseInfo
    ) -> None:
        self.host = host
        self.outbox = outbox = requester.outbox
        self.admission = admission
        self.named_channels = admission.named_channels
        self.session: ClientSession | ServerSession
        if host.options.dialer:
            self.session = ClientSession(host, outbox.offline_queue, last_close=last_close)
        else:
            self.session = ServerSession(host, outbox.offline_queue, home=home, last_close=last_close)
        self.opening = Opening(self.session, host)
        self.writer = SessionWriter(self.session, host, self.opening, outbox.requests, outbox.room_gate)
        answers = Answers(self.writer, host)
        self.channels = channels = ChannelTable(
            self.writer, outbox, admission.named_channels, sender=requester, answers=answers
        )
        self.dispatcher = channels.dispatcher = Dispatcher(
            host, admission=admission, writer=self.writer, answers=answers, channels=channels
        )
        outbox.requests.avoid(channels.opened)  # JavaScript would confuse the two
        self._receiver = Receiver(host, self.dispatcher)
        self._disconnected: asyncio.Future[None] | None = None
        """Done when the session is over or has no connection. None if nothing waits for this."""
        self._close_handlers: set[asyncio.Task[None]] | None = None
        """The tasks of the `close` handlers that take time. None until the handlers are called."""
        self._ending: asyncio.Future[None] | None = None
        """Done when the `close` handlers are called. None if nothing waits for this."""

    def __repr__(self) -> str:
        return f"<PeerSession {self.writer.state} active={len(self.dispatcher.active)} channels={len(self.channels)}>"

    # ------------------------------------------------------------ the start

    def start(self, connection: Connection) -> None:
        """Start the session on ``connection``, and call the `open` handlers, then the `on_reconnect` handlers."""
        host, session, info = self.host, self.session, connection.transport.info
        settings, options, log = host.settings, host.options, host.log
        self.outbox.expects_session = options.keeps_offline
        self.named_channels.reopen()
        host.connection_started(info)
        opening = Invocation(host.peer, WireMessage(a=["open"]))
        self.dispatcher.context = contextvars.copy_context()  # of the code that has connected
        # Otherwise a handler that has connected would be kept in memory, and its session, too.
        self.dispatcher.context.run(CURRENT.set, opening)
        receive = self._receiver.receive
        payloads = None if settings.log_payloads is False else PayloadLog(host)
        if payloads is not None:
            receive = payloads.receiving(receive)
        self.writer.start()
        can_resume = options.can_resume and settings.limits.replay_bytes > 0
        session.start_on(connection, can_resume=can_resume, wrap=None if payloads is None else payloads.sending)
        if log.shows(logging.INFO):
            where = "to" if options.dialer else "from"
            path = info.target.partition("?")[0]
            log(logging.INFO, "peer %s connected %s %s, path %s", log.id, where, log.place, path)
        self.opening.start(opening)
        if session.over:  # a handler has bound another transport
            return
        self.admission.update()
        if not self.writer.terms.known:
            receive = partial(self._receive_early, receive)
        session.start_receiving(receive, self.dispatcher.slow.check if host.meter is None else self._read_ended)
        if self.opening.running is None:
            self.finish_opening()

    def _read_ended(self) -> None:
        self.dispatcher.slow.check()
        connection, host = self.session.live_connection, self.host
        if connection is not None and host.meter is not None:
            host.meter(connection.transport, host.traffic(connection))

    def _receive_early(self, receive: Receive, payload: bytes | bytearray, text: bool, /) -> None:
        """Receive a message before it is known whether the remote peer is a wsrpc peer.

        The greeting of a client is its first message. A server sends its welcome before it answers a request, and may
        send other messages before.
        """
        session, flight = self.session, self.outbox.requests.flight
        asked = flight.requests
        session.set_receive(receive)  # before the message is received, because a welcome changes this again
        receive(payload, text)
        if self.writer.terms.known or session.state.connection in (None, "closing"):
            return
        if flight.requests < asked or not session.negotiation.dialer:
            self.agree(UNLIMITED, None, frozenset())
        else:
            session.set_receive(partial(self._receive_early, receive))

    async def wait_opened(self) -> None:
        """Wait until the `open` and `on_reconnect` handlers are done or overdue, or the connection has ended.

        Cancelling is safe.
        """
        if (running := self.opening.running) is not None:
            # The handlers may run on without a connection.
            await asyncio.wait((running, self._until_disconnected()), return_when=asyncio.FIRST_COMPLETED)
        if self.session.state.connection == "dead":
            await self.wait_closed()

    def finish_opening(self) -> None:
        """Send and handle all messages from now on: the handlers of the opening are done or overdue."""
        writer, session = self.writer, self.session
        if session.over:
            return
        if not (session.state is SessionState.CLOSING or writer.draining.silent):
            session.send_queued(include_user_messages=True)
        if session.state is SessionState.CLOSING:
            return
        self.opening.finish()
        writer.draining.answer_if_due()
        if session.live_connection is not None:  # otherwise the session resumes later, or its end is reported
            self.host.owner.opened()
        self.admission.start_waiting()

    # ------------------------------------------------------------ during the session

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> None:
        """Apply what both sides support, which is nothing if the remote peer is a plain peer. See `Terms.agreed`."""
        self._receiver.agree(codec)
        self.writer.terms = self.host.settings.agreed(announced, codec, common)
        self.writer.draining.ask_to_drain()
        self.greeting_changed()
        self.host.owner.greeted()

    def greeting_changed(self) -> None:
        """Send the messages that need not wait any longer for the greeting of the remote peer."""
        self.writer.stop_greeting_timer()
        if self.opening.done and self.session.state.sends and not self.writer.draining.silent:
            self.session.send_queued(include_user_messages=True)
        self.update()
        self.outbox.greeting_gate.wake_all()
        self.outbox.wake()

    def control_received(self, message: CreditMessage | Drain) -> None:
        """Handle a control message for a channel, or about draining."""
        channels = self.channels
        if isinstance(message, Drain):
            self.writer.draining.received(message)
        elif (channel := channels.find(message.h)) is None:
            if not channels.expects_credit(message.h):
                self.host.ignore("credit for no channel")
        elif 0 <= message.n <= MAX_ID and 0 <= message.bytes <= MAX_ID:
            channel.credit_received(message.n, message.bytes)
        else:
            self.host.ignore("invalid credit")

    @property
    def has_calls(self) -> bool:
        """Whether requests wait for their responses, or anonymous channels are open."""
        return bool(self.writer.requests) or len(self.channels) > 0

    def in_progress(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """Return a function that waits for the present requests, handlers and channels. None if there are none."""
        requests = [pending for pending in self.writer.requests.all() if pending.state is SENT]
        handlers = [each.task for each in self.dispatcher.active.values() if each.task is not None]
        channels = self.channels.all()

        async def finish() -> None:
            waits: list[asyncio.Future[Any]] = [*(pending.future for pending in requests), *handlers]
            for future in waits:
                await asyncio.wait({future})
            for channel in channels + [pending.channel for pending in requests if pending.channel is not None]:
                await channel.wait_closed()

        return finish if requests or handlers or channels else None

    def update(self) -> None:
        """Compute again which messages may be sent, because something has changed on which this depends.

        That is the state of the session or of its opening, how far it drains, what the remote peer is known to accept,
        whether the session is full, and whether messages or callers wait. Each of these reports its changes here.
        """
        writer, session = self.writer, self.session
        writer.phase = phase = phase_of(session, self.opening, writer.draining, terms_known=writer.terms.known)
        writer.may_send = phase is Phase.OPEN and not (session.full or writer.room_gate.has_callers)

    def room_changed(self) -> None:
        """The session has become full, or has room again, or has another connection or none."""
        # Broadcasts have waited longest. Handlers come before callers, because their answers free the remote peer. New
        # messages come last.
        self.writer.flush_broadcasts()
        self.admission.start_waiting_soon()
        self.outbox.wake()
        self.update()

    # ------------------------------------------------------------ the end

    def drop_waiting(self, info: CloseInfo) -> None:
        """Fail the messages that wait, because there will be no session.

        Args:
            info: the reason, unless a connection is still ending.
        """
        if not self.session.state.lives:
            self.session.last_close = info
        self.outbox.drop_waiting(self.session.last_close)

    async def close(self, code: int | None, reason: str) -> None:
        """Close the session for the user, without waiting for its handlers; see `Peer.close`."""
        self.start_close(check_close(code, reason), reason)
        await self.session.close(code, reason)

    def start_close(self, code: int, reason: str, *, user_closed: bool = True) -> None:
        """Accept no more messages. The caller then closes the session."""
        writer, outbox, session = self.writer, self.outbox, self.session
        ending = CloseInfo(code, reason, user_closed=user_closed)
        self.host.close_calls += 1
        outbox.expects_session = False
        if not session.state.lives:
            session.last_close = ending
            outbox.drop_waiting(ending)
            self.host.owner.closed_between_sessions(ending)
            return
        if session.state.sends:
            self.dispatcher.refuse_waiting()
        session.send_held_back()
        if writer.draining.silent:  # these requests would not be answered any more
            outbox.fail_unsent(ending)
        if session.state.away:
            self.dispatcher.pause()  # no handler starts after this side has closed
            # Between nodes, a caller gets this text, and the reason is enough.
            why = reason if self.host.settings.between_nodes else f"closed on this side: {reason}".removesuffix(": ")
            session.end(SessionInput.CLOSED, why, info=ending)
            return
        closing = session.state is SessionState.CLOSING
        if writer.draining.silent or not closing:
            session.send_queued(include_user_messages=True)
        if not closing:
            if writer.slow_reader is not None:
                writer.slow_reader.flush(everything=True)
            self._close_soon(ending)
        elif not session.last_close.user_closed:  # this side closes because of the remote peer
            session.last_close = ending

    def _close_soon(self, ending: CloseInfo) -> None:
        """Receive no more messages and start no more handlers: this side closes, and the session ends."""
        self.session.start_closing(ending)
        self.dispatcher.pause()

    def fail(self, code: int, reason: str) -> None:
        """Close the connection because the remote peer broke the protocol, see `Session.fail`."""
        self.host.log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self._close_soon(CloseInfo(code, reason))
        self.host.reporter.notify("error", ProtocolError(reason))
        self.host.spawn(self.session.close(code, reason))

    def refuse(self, code: int, reason: str) -> None:
        """Close the connection while it opens, and ignore the messages that have arrived: a service has refused it."""
        self.start_close(code, reason, user_closed=False)
        self.host.spawn(self.session.close(code, reason))

    def replace(self, replaced: CloseInfo) -> None:
        """End the session now, because another one takes its place."""
        session = self.session
        session.send_held_back()
        session.end(SessionInput.REPLACED, replaced.reason, info=replaced)

    def close_for_another(self, code: int, reason: str) -> None:
        """Close the connection, but not the session, which resumes on another connection if it can.

        Messages that arrive until then are not counted, so that the client sends them again on the other connection.
        """
        connection = self.session.connection
        if connection is not None and self.session.state.sends:
            connection.stop_receiving()
            self.dispatcher.pause()  # a Close frame is queued, and the client may ignore the answers
            # Not `session.close`: before the task runs, the session may resume on the other connection.
            self.host.spawn(connection.close(code, reason))

    def session_over(self, end: SessionEnd) -> None:
        """End everything that belongs to the session, which is over, step by step, and call the `close` handlers."""
        lost = end.error
        # First, so that whatever is sent because of the next steps is encoded for the next session.
        self.writer.reset()
        self.opening.end_session()
        self.writer.draining.stop_waiting()
        self.host.owner.session_over(end)
        self._log_end(end)
        self.outbox.fail_session(lost)
        self.dispatcher.cancel_requests(lost)
        self.admission.end_session()
        self.named_channels.end_session(lost)
        self.channels.end_session(lost)
        self._wake_wait_closed()  # a handler that runs before the `close` handlers may wait for this
        # Functions of users are called last. They may bind another transport.
        call = partial(self._call_close_handlers, end.info, self.host.close_calls)
        self.admission.when_events_done(partial(self.host.reporter.notify_in_order, "close", call))
        self.admission.start_waiting()
        self.admission.notify_if_events_done()
        self.host.core.session_ended(self)

    def _log_end(self, end: SessionEnd) -> None:
        log, info = self.host.log, end.info
        if isinstance(end.error, SessionLost):
            log(logging.INFO, "the session of peer %s at %s is over: %s", log.id, log.place, end.error.reason)
        else:
            log(logging.INFO, "peer %s at %s disconnected: %d %s", log.id, log.place, info.code, info.reason)

    def _call_close_handlers(self, info: CloseInfo, close_calls: int) -> None:
        if self.host.close_calls != close_calls:  # this side has closed while events had to be handled first
            info = msgspec.structs.replace(info, user_closed=True)
        info = self._with_will_reconnect(info)
        reporter = self.host.reporter
        running = [reporter.notify("close", info)]
        close_handler = self.host.owner.close_handler()
        if close_handler is not None:
            running.append(reporter.call("close", close_handler, info))
        self._close_handlers = {task for task in running if task is not None}
        if self._ending is not None:
            self._ending.set_result(None)

    def _with_will_reconnect(self, info: CloseInfo) -> CloseInfo:
        """Return ``info`` with the present value of ``will_reconnect``."""
        return msgspec.structs.replace(info, will_reconnect=self.host.owner.will_reconnect())

    # ------------------------------------------------------------ what the session reports

    # Functions of users are called last in each of these, when the session has its new state.

    def session_detached(self, info: CloseInfo, decision: Decision) -> None:
        """The session is kept without a connection."""
        self.host.owner.session_detached(decision)
        self.outbox.wake_all()
        self.writer.overdue = False
        self._wake_wait_closed()
        text, log = "peer %s at %s lost its connection: %d %s; its session is kept for %g s", self.host.log
        log(logging.INFO, text, log.id, log.place, info.code, info.reason, self.session.ttl)
        dialer, peer = self.host.options.dialer, self.host.peer
        args = (self._with_will_reconnect(info),) if dialer else (peer, info)
        self.host.reporter.notify_hooks("on_detach", args, self.opening.running)

    def session_resuming(self, connection: Connection, limits: Announced) -> bool:
        """Continue on another connection. Return whether messages of the user may be sent."""
        self.admission.calls.stop_measuring()  # the memory counts only while there is no connection
        self.dispatcher.unpause()
        self.host.connection_started(connection.transport.info)
        self.writer.reattach(limits)
        return self.writer.phase is Phase.OPEN

    def give_up(self, payload: bytes) -> tuple[bytes, bool]:
        """Fail the call of a message to another node that will not arrive. Return the message to send in its place."""
        error = MessageTooBig(
            f"a message of {len(payload)} bytes was given up, because it was lost again and again together with the "
            "engine (see client-output-buffer-limit of Redis, max_pending of NATS): send less at once, as a stream"
        )
        self.host.log.warn("%s", error)
        ours, requests = self.host.settings, self.writer.requests
        message = (ours.codec if payload[0] == BRACE else ours.binary or ours.codec).outline(payload) or WireMessage()
        if (pending := requests.find(message.i)) is not None:
            requests.fail(pending, error)
        elif (channel := self.channels.find(message.h)) is not None:
            error.outcome = "unknown"  # the handler has begun
            channel.abort(RpcError(str(error)), error)
        elif message.i is not UNSET:
            self.dispatcher.answers.reject(message.i, RpcError(str(error)))
        return (instead := self.writer.terms.encode(Event((LOST,)))), self.writer.terms.is_text(instead)

    def session_resumed(self) -> None:
        """The session has resumed on another connection."""
        log = self.host.log
        log(logging.INFO, "peer %s at %s resumed its session", log.id, log.place)
        self.host.owner.resumed()
        if not self.host.options.dialer:
            self.host.reporter.notify_hooks("on_resume", (self.host.peer,))

    # ------------------------------------------------------------ memory

    def backlog(self) -> int:
        """Return about how many bytes channels, requests, handlers, and messages that wait or are unread, take."""
        # When the session is over, its last requests fail in the next turn of the event loop.
        requests = 0 if self.session.over else len(self.writer.requests)
        broadcasts = 0 if self.writer.slow_reader is None else self.writer.slow_reader.size
        return broadcasts + self.admission.backlog() + BYTES_PER_CALL * (len(self.channels) + requests)

    def drop_backlog(self, session: Session) -> None:
        """Drop the messages and handlers that ``session`` has left, because all ended sessions hold too much."""
        if session is self.session:  # otherwise another session also has these handlers and readers
            log, why = self.host.log, "what ended sessions hold exceeds Server(detached_bytes=)"
            log(logging.WARNING, "what peer %s at %s has left behind is dropped: %s", log.id, log.place, why)
            self.admission.drop_backlog(why)

    # ------------------------------------------------------------ waiting for the end

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        if self.session.state.lives and not self.session.state.away:
            await asyncio.shield(self._until_disconnected())

    async def wait_close_handlers(self) -> None:
        """Wait until the `close` handlers have ended, for at most `Limits.close_timeout`. Cancelling is safe.

        A handler of this peer does not wait: the `close` handlers may wait for it, and it may be one of them.
        """
        invocation = CURRENT.get(None)
        within = invocation is not None and invocation.peer is self.host.peer and invocation.state is not EXITED
        if within or not self.session.over:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self.host.settings.limits.close_timeout):
                if self._close_handlers is None:
                    self._ending = self._ending or self.writer.loop.create_future()
                    await asyncio.shield(self._ending)
                if self._close_handlers:
                    await asyncio.wait(self._close_handlers)

    def _until_disconnected(self) -> asyncio.Future[None]:
        """Return the future that is done when there is no connection. Do not cancel this future."""
        if self._disconnected is None:
            self._disconnected = self.writer.loop.create_future()
        return self._disconnected

    def _wake_wait_closed(self) -> None:
        """Let `wait_closed` return."""
        future, self._disconnected = self._disconnected, None
        if future is not None and not future.done():
            future.set_result(None)
