"""`PeerLife`: the inside of a peer. `PeerCore`: the inside of one of its sessions."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

import msgspec

from .._base.closing import CloseCode, CloseInfo
from .._base.names import Redact
from .._base.scheduler import Scheduler
from .._channels.readers import Readers
from .._handlers.invocation import CURRENT, WORK, Invocation
from .._handlers.lifecycle import Closers, OpenPhase, Reporter, Stage
from .._protocol.codecs import NegotiatedCodec
from .._protocol.control import Announced, Credit, Drain
from .._protocol.messages import MAX_ID, WireMessage
from .._sending.answers import Answers
from .._sending.draining import Draining
from .._sending.outbound import Outbound
from .._sending.outbox import Outbox
from .._session.client import ClientSession
from .._session.connection import Connection, Receive
from .._session.session import MESSAGE, NOT_CONNECTED
from .._session.sessions import ServerSession
from .._session.states import SessionInput
from ..errors import ChannelClosed, ConnectionLost, ProtocolError, SessionLost, closed_here
from ..handshake import Handshake
from ..limits import Limits
from ..transport import ConnectionInfo, Traffic
from .dispatch import Dispatcher
from .inbound import Inbound
from .owner import PeerOptions, PeerOwner
from .payload_log import PayloadLog
from .requests import Requester
from .waiting import Hold
from .work import Work


class ConnectionHistory:
    """Statistics of one peer's connections, the present one and those before it."""

    __slots__ = ("_passed", "_since", "dropped", "info")

    def __init__(self) -> None:
        self.info: ConnectionInfo | None = None
        """Of the present connection, or of the one that is being made, or of the last one."""
        self.dropped = 0
        """Number of broadcasts that were left out because the remote peer reads too slowly."""
        self._since = 0.0
        self._passed: Traffic | None = None
        """Traffic of the connections before the present one."""

    def expect(self, info: ConnectionInfo) -> None:
        """Note that a connection is being made."""
        self.info = info

    def begin(self, info: ConnectionInfo, now: float) -> None:
        """Note that a connection was made, at the time ``now``."""
        self.info = info
        self._since = now

    def end(self, connection: Connection) -> None:
        """Note that the present connection has ended."""
        self._passed = self.traffic(connection)
        self.info = msgspec.structs.replace(connection.transport.info, underlying=None)  # the object may be gone

    def uptime(self, now: float) -> float:
        """Return the seconds since the present connection was made."""
        return now - self._since

    def traffic(self, connection: Connection | None) -> Traffic | None:
        """Return the traffic of all connections with that of the present one, as far as their transports count it."""
        present = None if connection is None else connection.traffic
        if present is None or self._passed is None:
            return present or self._passed
        return self._passed + present

    def left_out(self, broadcasts: int) -> None:
        """Count broadcasts that were not sent."""
        self.dropped += broadcasts


class PeerLife:
    """The inside of a `Peer` from its making to its end, and what it keeps from one session to the next.

    ``core`` is the inside of the present session. It is that of the last session until the next one begins.

    Args:
        peer: the object that users hold.
    """

    __slots__ = (
        "core",
        "history",
        "id",
        "ignored",
        "log",
        "loop",
        "options",
        "outbox",
        "owner",
        "peer",
        "readers",
        "reporter",
        "sender",
        "work",
    )

    def __init__(self, peer: Any, options: PeerOptions, loop: Scheduler, owner: PeerOwner) -> None:
        settings, own, shared = options.settings, options.own, options.shared
        limits = settings.limits
        self.id = secrets.token_hex(8)
        self.peer = peer
        self.owner = owner
        self.options = options
        self.loop = loop
        self.history = ConnectionHistory()
        self.ignored: Counter[str] = Counter()
        self.log = log = owner.log_for(self.id)
        if settings.between_nodes:
            log.quieten()  # nodes log themselves who comes and goes
        self.reporter = Reporter(peer, (shared, own), loop, log)
        self.outbox = Outbox(
            settings,
            loop,
            odd=options.dialer,
            keeps_offline=options.keeps_offline,
            fails_offline=options.fails_offline,
            expired=lambda pending: self.sender.expired(pending),
            queued=owner.queued,
            warn=log.warn,
        )
        self.readers = Readers(
            limits, (own, shared), self.outbox, count=self.count, warn=log.warn, survives=options.keeps_offline
        )
        self.work = self.readers.listener = Work(limits, loop, self.readers)
        self.sender = Requester(
            self.outbox, settings, own, readers=self.readers, warn=log.warn, keep=self.reporter.keep
        )
        own.inherit(shared, limits.handler)
        self.core: PeerCore
        """The inside of the present session, of the first one, or of the last one."""
        self._use(PeerCore(self, NOT_CONNECTED))

    def _use(self, core: PeerCore) -> None:
        self.core = core
        self.outbox.out = core.out
        self.work.begin_session(core.dispatcher)

    # ------------------------------------------------------------ sessions

    def expect(self, info: ConnectionInfo) -> None:
        """Let `Peer.info` and the log tell of a connection that is about to be bound."""
        self.history.expect(info)
        self.log.remote = info.remote

    def check_new(self, connection: Connection) -> Connection:
        """Return ``connection``.

        Raises:
            ValueError: its transport is bound already.
        """
        present = self.core.session.connection
        if present is not None and present.transport is connection.transport:
            raise ValueError("this transport is bound already")
        return connection

    def make_way(self, connection: Connection) -> PeerCore:
        """End the present session, if there is one, because ``connection`` begins another. Return the core of that.

        Raises:
            ConnectionLost: a `close` handler has bound another transport meanwhile, or has closed the peer.
                ``connection`` is closed, too.
        """
        self._tell_the_end()
        if self.core.session.lives:
            replaced = CloseInfo(CloseCode.GOING_AWAY, "another connection was bound")
            self.core.replace(replaced)
            self._tell_the_end()
            # A `close` handler may have said what is to be. (With eager tasks its first step runs at once.)
            session = self.core.session
            if session.lives or self.outbox.user_closed:
                last = replaced if session.lives else session.ending
                self.reporter.spawn(connection.close(last.code, last.reason))
                raise ConnectionLost(last.code, last.reason, "not_sent")
        if self.core.over:
            self._use(PeerCore(self, self.core.session.ending))
        return self.core

    def _tell_the_end(self) -> None:
        """Call the `close` handlers of the last session now, if they wait for anything."""
        self.work.after_events(None)
        self.reporter.flush_turns()

    def bind(self, connection: Connection) -> None:
        """Begin a session on ``connection``; see `Peer.bind`."""
        self.make_way(self.check_new(connection)).begin(connection)

    # ------------------------------------------------------------ what it counts

    def count(self, kind: str, text: object, times: int = 1, /) -> None:
        """Count events that do not reach a handler as they came. The first of a kind is worth a line."""
        if times and not self.ignored[kind]:
            self.log(logging.WARNING, "%s (further ones are only counted in peer.ignored)", text)
        self.ignored[kind] += times

    # ------------------------------------------------------------ its tasks

    def any_task(self) -> asyncio.Future[Any] | None:
        """Return a task of this peer that is not done yet, or the thread that it has left behind. None if all ended."""
        calls = ((each.task, each.thread) for each in self.work.invocations)
        unfinished = (each for call in calls for each in call if each is not None and not each.done())
        return next(unfinished, None) or next(iter(self.reporter.running), None)

    async def join(self, patience: float, closers: Closers, still: Callable[[], bool] = lambda: True) -> None:
        """Wait for the handlers and other tasks of this peer, except for ``closers``, which wait for this themselves.

        After ``patience`` seconds cancel them. Cancelling this call only stops the waiting. So does ``still()`` when it
        returns False.
        """
        work = self.work
        work.end_conversations()
        deadline = self.loop.time() + patience
        while still():
            tasks = self.reporter.tasks(closers) | work.tasks(closers)
            if not tasks:
                if work.then is None and len(self.reporter.turns) < 2:
                    break
                self._tell_the_end()  # only handlers that wait for this close are left
                continue
            # A handler that ends makes room for one that waits, so look again.
            late = await closers.wait_besides(tasks, max(0.0, deadline - self.loop.time()))
            if late and still():
                work.drop_all()
                for task in late:
                    task.cancel()
                stubborn = await closers.wait_besides(late, patience)
                if count := len(stubborn) + work.threads_left:
                    self.log(logging.WARNING, "%d handlers do not end although they were cancelled", count)
                if stubborn:
                    break
        if still():
            self.outbox.requests.stop()
            self.readers.unread().leave_late()  # the peer ends, and nobody reads them any more


class PeerCore:
    """The inside of one session of a peer, the same for the side that dialed and the side that accepted.

    It is made before the session begins, and dropped when the session has ended. A callback that comes late holds the
    core of a session that is over, and can see that. It is synchronous: a message comes in, handlers start, futures are
    settled, messages go out. It has no socket, and time, timers and tasks
    come from ``loop``, which a test can replace.

    Args:
        life: what outlives the session.
        ending: how the session before has ended, or why there was none.
    """

    __slots__ = (
        "_gone",
        "_inbound",
        "channels",
        "dispatcher",
        "ignored",
        "life",
        "log",
        "options",
        "out",
        "owner",
        "peer",
        "reporter",
        "session",
    )

    def __init__(self, life: PeerLife, ending: CloseInfo) -> None:
        options = life.options
        settings, own, shared = options.settings, options.own, options.shared
        loop, owner, fail = life.loop, life.owner, self.fail  # one bound method, however many objects hold it
        self.life = life
        self.owner = owner
        self.options = options
        self.peer = life.peer
        self.log = life.log
        self.ignored = life.ignored
        self.reporter = life.reporter
        self.session: ClientSession | ServerSession
        if options.dialer:
            self.session = ClientSession(settings, loop, self, life.outbox.queue, ending=ending)
        else:
            self.session = ServerSession(
                settings, loop, self, life.outbox.queue, sessions=owner.sessions, ending=ending
            )
        self.out = Outbound(
            self.session,
            settings,
            loop,
            life.outbox.requests,
            life.outbox.gate,
            Draining(self.session, loop, life.ignored, self._work, self._fall_silent, dialer=options.dialer),
            has_channel=self._has_channel,
            ignored=life.ignored,
            left_out=life.history.left_out,
            warn=life.log.warn,
            fail=fail,
        )
        answers = Answers(
            self.out,
            life.reporter,
            life.ignored,
            count=life.count,
            expose_errors=settings.expose_errors,
            fail=fail,
        )
        self.dispatcher = Dispatcher(
            life.peer,
            own,
            shared,
            work=life.work,
            requester=life.sender,
            out=self.out,
            answers=answers,
        )
        self.channels = self.dispatcher.channels
        life.outbox.requests.avoid(self.channels.opened)  # JavaScript would confuse the two
        self._inbound = Inbound(
            settings.codec,
            settings.limits,
            own,
            shared,
            dispatcher=self.dispatcher,
            control=self.session.take_control if settings.extensions else None,
            reporter=life.reporter,
            fail=fail,
        )
        self._gone: asyncio.Future[None] | None = None
        """Done once the session is over or has no connection. None unless something waits for that."""

    def __repr__(self) -> str:
        return f"<PeerCore {self.state} active={len(self.dispatcher.active)} channels={len(self.channels)}>"

    # ------------------------------------------------------------ what its parts ask

    def _has_channel(self, h: int) -> bool:
        """Return whether an anonymous channel is open."""
        return self.channels.find(h) is not None

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task."""
        self.reporter.spawn(coroutine)

    def takes_raw(self) -> bool:
        """Return whether this side has a function for raw messages."""
        return self.options.takes_raw

    # ------------------------------------------------------------ state

    @property
    def over(self) -> bool:
        """Whether the session has ended."""
        return self.session.over

    @property
    def connection(self) -> Connection | None:
        """The present connection."""
        return self.session.connection

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent."""
        return self.session.connected

    @property
    def detached(self) -> bool:
        """Whether there is no connection, but the session may resume on another one."""
        return self.session.detached

    @property
    def state(self) -> str:
        """State of the session and its connection, or ``"disconnected"``."""
        return self.out.state

    @property
    def uptime(self) -> float:
        """Seconds since the present connection was made; 0 if there is none."""
        return 0.0 if self.connection is None else self.life.history.uptime(self.out.loop.time())

    def traffic(self) -> Traffic | None:
        """Return the traffic of all connections of the peer, as far as their transports count it."""
        return self.life.history.traffic(self.connection)

    @property
    def limits(self) -> Limits:
        """Limits of the session."""
        return self.session.limits

    # ------------------------------------------------------------ the beginning

    def begin(self, connection: Connection) -> None:
        """Begin the session on ``connection``, and call the `open` handlers, then those of `on_reconnect`."""
        life, out, session, info = self.life, self.out, self.session, connection.transport.info
        settings, dialer = self.options.settings, self.options.dialer
        life.outbox.user_closed = False
        life.readers.reopen()
        life.history.begin(info, out.loop.time())
        self.log.remote = info.remote
        opening = Invocation(self.peer, WireMessage(a=["open"]))
        self.dispatcher.context = contextvars.copy_context()  # of the code that has connected
        # That may be a handler, which would be kept, and its session with it.
        self.dispatcher.context.run(CURRENT.set, opening)
        receive = self._inbound.receive_raw if self.options.shared.raw_only else self._inbound.receive
        if settings.log_payloads is not False:
            receive = self._log_payloads(receive, None if settings.log_payloads is True else settings.log_payloads)
        out.begin()
        can_resume = self.options.can_resume and self.owner.in_origin and settings.limits.replay > 0
        session.begin(connection, can_resume=can_resume)
        if self.log.shows(logging.INFO):
            where = "to" if dialer else "from"
            path = info.target.partition("?")[0]
            self.log(logging.INFO, "peer %s connected %s %s, path %s", life.id, where, self.log.place, path)
        # One side lets requests in meanwhile. Otherwise two Python ends would wait for each other's handlers.
        self.dispatcher.hold(Hold.EVENTS if dialer else Hold.ALL)
        self._open(opening)
        if not self.over:  # a handler may have bound another transport
            session.start(receive, self.dispatcher.read_ended)
            if out.opening is None:
                self._opened()

    def _log_payloads(self, receive: Receive, redact: Redact | None) -> Receive:
        settings = self.options.settings
        codecs = (settings.codec,) if settings.binary is None else (settings.codec, settings.binary)
        log = PayloadLog(codecs, settings.limits.values, redact, self.log)
        self.session.wrap_sending(log.sending)
        return log.receiving(receive)

    def _open(self, opening: Invocation) -> None:
        """Call the `open` handlers. Those that take time run on in ``out.opening``."""
        self.out.enter(opening)
        first = Stage(opening, self._handler_failed)
        first.fire(self.reporter.registries, "open", (self.peer,))
        if self.over:  # a handler has bound another transport, whose opening goes on by itself
            first.abandon()
            return
        first.unfinished.extend(self.owner.open_handlers())
        stage = first if first.unfinished else self._reconnected()
        if stage is None:
            return
        self.out.open_slowly(
            OpenPhase(
                stage,
                lambda: None if self.over else self._reconnected(),
                reporter=self.reporter,
                patience=self.limits.open_timeout,
                done=lambda: None if self.over else self._opened(),
                overdue=self._open_overdue,
            )
        )

    def _reconnected(self) -> Stage | None:
        """Call the `on_reconnect` handlers, after the `open` handlers. Return None if all are finished."""
        out = self.out
        if not self.session.takes_messages or out.is_open or len(out.opening_invocations) > 1:
            return None
        unfinished = self.owner.reconnect_handlers()
        if not unfinished:
            return None
        invocation = Invocation(self.peer, WireMessage(a=["on_reconnect"]))
        out.enter(invocation)
        return Stage(invocation, self._handler_failed, unfinished)

    def _handler_failed(self, event: str, name: str, exc: BaseException) -> None:
        """Log that an `open` or `on_reconnect` handler has raised ``exc``."""
        if not self.session.takes_messages and _tells_of_the_end(exc):
            # It has not failed. A request of the handler raised because the session has ended, either before the
            # handler was cancelled, or because the user closes: then handlers are not cancelled.
            self.log(
                logging.INFO, "the handler of %r, %s, did not finish, as the connection ended: %s", event, name, exc
            )
        else:
            self.reporter.failed(event, name, exc)

    async def wait_opened(self) -> None:
        """Wait until `open` and `on_reconnect` handlers are done or overdue, or the connection is gone.

        Cancelling is safe.
        """
        if self.out.opening is not None:
            # They may run on without a connection.
            await self.out.opening.wait(self._until_gone())
        if self.session.has_dead_connection:
            await self.wait_closed()

    def _opened(self) -> None:
        """Let everything pass: the handlers of the opening are done or overdue."""
        out, session = self.out, self.session
        out.opening = None
        if not (session.closing or out.silent):
            session.send_queued(users=True)
        if session.closing:
            return
        out.end_opening()
        out.draining.opened()
        self.dispatcher.hold(Hold.NONE)
        if session.connection is not None:  # else the session resumes later, or its end is reported
            self.owner.opened()

    def _open_overdue(self, event: str, handlers: str) -> None:
        self.log(
            logging.WARNING,
            "the handler of %r %s has not finished within %g s: messages no longer wait for it",
            event,
            handlers,
            self.limits.open_timeout,
        )

    # ------------------------------------------------------------ while it lasts

    def ask_to_resume(self, connection: Connection) -> None:
        """Ask the server to resume the session on ``connection``."""
        assert isinstance(self.session, ClientSession)
        self.session.ask_to_resume(connection)

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> None:
        """Use what both sides support from now on."""
        self._inbound.agree(codec)
        self.out.agree(announced, codec, common)
        self.out.draining.agreed()

    def take_credit_or_drain(self, message: Credit | Drain) -> None:
        """Take a control message that is not about the session."""
        channels = self.channels
        if isinstance(message, Drain):
            self.out.draining.received(message)
            self.out.update_clear()
        elif (channel := channels.find(message.h)) is None:
            if not channels.expects_credit(message.h):
                self.ignored["credit for no channel"] += 1
        elif 0 <= message.n <= MAX_ID and 0 <= message.bytes <= MAX_ID:
            channel.credited(message.n, message.bytes)
        else:
            self.ignored["credit that makes no sense"] += 1

    def drain(self, until: float) -> None:
        """Finish the calls that have begun, and refuse new ones that they do not need, until the time ``until``."""
        if self.session.lives:
            self.out.draining.drain(until)
            self.dispatcher.drain(self._refuses_new)

    def _refuses_new(self) -> bool:
        # While a request of this side is pending, a new request may be part of its handler's work.
        return self.out.draining.quiet and not (self.out.requests or self.channels.opened)

    def _work(self) -> Coroutine[Any, Any, None] | None:
        """Return what waits for the end of the requests, handlers and channels of this session, if there are any."""
        requests = [pending for pending in self.out.requests.all() if pending.flight]  # those that were sent
        handlers = [each.task for each in self.dispatcher.active.values() if each.task is not None]
        channels = self.channels.all()

        async def finish() -> None:
            waits: list[asyncio.Future[Any]] = [*(pending.future for pending in requests), *handlers]
            for future in waits:
                await asyncio.wait({future})
            for channel in channels + [pending.channel for pending in requests if pending.channel is not None]:
                await channel.wait_closed()
            self.out.draining.be_silent()

        return finish() if self.out.is_open and (requests or handlers or channels) else None

    def _fall_silent(self) -> bool:
        """Begin nothing new, because the remote peer is about to close. Return whether `open` handlers still run."""
        self.log(logging.INFO, "the remote peer is about to close: new messages wait for another connection")
        return bool(self.out.opening_invocations)

    def room_changed(self) -> None:
        """Note that the session has become full, or has room again, or has another connection or none."""
        if self.out.flush_broadcasts():
            self.life.work.room_changed()
            self.life.outbox.gate.wake()
            self.out.update_clear()

    # ------------------------------------------------------------ the end

    def discard_unsent(self, info: CloseInfo) -> None:
        """Fail what waits for a session, because none will come: with ``info``, unless a connection is still ending."""
        if not self.session.lives:
            self.session.ending = info
        self.life.outbox.discard(self.session.ending)

    def begin_close(self, code: int, reason: str) -> None:
        """Accept nothing more. The caller closes the session now."""
        out, outbox, session = self.out, self.life.outbox, self.session
        ending = CloseInfo(code, reason, user_closed=True)
        outbox.user_closed = True
        if not session.lives:
            session.ending = ending
            outbox.discard(ending)
            return
        session.send_kept_back()
        if out.silent:  # what is asked now would not be answered any more
            outbox.discard_requests(ending)
        if session.detached:
            self.dispatcher.pause()  # no handler starts after this side has closed
            why = f"closed on this side: {reason}" if reason else "closed on this side"
            self.end_detached(why, SessionInput.CLOSED, ending=ending)
            return
        if out.silent or not (out.is_open or session.closing):
            session.send_queued(users=True)
        if not session.closing:
            if out.slow_reader is not None:
                out.slow_reader.flush(everything=True)
            self._close_soon(ending)

    def _close_soon(self, ending: CloseInfo) -> None:
        """Let nothing in and no handler start from now on: this side closes, and the session ends."""
        self.session.close_soon(ending)
        self.out.update_clear()
        self.dispatcher.pause()

    def fail(self, code: int, reason: str) -> None:
        """Close the connection because of what the remote peer did, and ignore whatever else it sends."""
        session = self.session
        if not session.lives or session.closing:
            return
        if session.detached:
            self.end_detached(reason, SessionInput.OVERFLOWED)
            return
        self.log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self._close_soon(CloseInfo(code, reason))
        self.reporter.tell("error", ProtocolError(reason))
        self.reporter.spawn(session.close(code, reason))

    def refuse(self, code: int, reason: str) -> None:
        """Close the connection while it opens, and ignore the messages that have arrived."""
        self.begin_close(code, reason)
        self.reporter.spawn(self.session.close(code, reason))

    def replace(self, replaced: CloseInfo) -> None:
        """End the session now, because another one takes its place."""
        self.life.outbox.user_closed = False
        if self.session.detached:
            self.end_detached(replaced.reason, replaced=True)
        else:
            self.session.send_kept_back()
            self.end_and_close(self.session.ending if self.session.closing else replaced, replaced=True)

    def end_and_close(self, info: CloseInfo, *, replaced: bool = False) -> None:
        """End the session now, and close its connection.

        Args:
            replaced: another one takes its place.
        """
        if not self.session.closing:
            self.session.close_soon(info)
        left = self.session.end(info, ConnectionLost(info.code, info.reason))
        self.session_over(replaced=replaced)
        if left is not None:
            self.reporter.spawn(left.close(info.code, info.reason))

    def end_detached(
        self,
        why: str,
        happened: SessionInput = SessionInput.ENDED,
        *,
        ending: CloseInfo | None = None,
        replaced: bool = False,
    ) -> None:
        """End a session that has no connection.

        Args:
            ending: what `close` handlers get, if not how the last connection has ended.
            replaced: another session takes its place.
        """
        info = self.session.ending if ending is None else ending
        self.session.end(info, SessionLost(info.code, why), happened)
        self.session_over(replaced=replaced)

    def close_for_another(self, code: int, reason: str) -> None:
        """Close the connection, but not the session, which resumes on another one if it can.

        What arrives meanwhile is not counted, so that the client sends it again on that one.
        """
        connection = self.session.connection
        if connection is not None and self.session.connected:
            self.session.stop_receiving()
            self.dispatcher.pause()  # a Close frame is queued, and the client may ignore it
            # Not `session.close`: before the task runs, the session may resume on the other connection.
            self.reporter.spawn(connection.close(code, reason))

    def session_over(self, *, replaced: bool = False) -> None:
        """End everything that belongs to the session, which is over, and call the `close` handlers.

        Args:
            replaced: whether another session takes its place.
        """
        life, session, out, lost = self.life, self.session, self.out, self.session.end_reason
        assert lost is not None
        # Nothing more leaves on this session. What is sent from now on, by whatever is told of the end, waits for the
        # next one, if the owner wants that.
        out.session_over()
        info = session.ending = self._report_end(lost, replaced)
        if info.user_closed:
            closed_here(lost)
        # The opening, and the preparation of the end.
        if out.opening is not None:
            out.opening.end_session(user_closed=info.user_closed)
        out.draining.session_over()
        # What this side has sent, or would send.
        life.outbox.end_session(lost)
        # What it does for the remote peer. The events that wait start their handlers, which may read a channel, so
        # before the channels end.
        self.dispatcher.end(lost)
        # What it reads and produces.
        life.readers.end_session(lost)
        self.channels.end(lost)
        life.work.update()
        # The application. `wait_closed` returns now: a handler that goes before the `close` handlers may wait in it.
        tell = partial(self.reporter.take_turn, "close", partial(self._call_close_handlers, info))
        life.work.after_events(tell)
        self._end_wait()
        self.owner.all_ended()
        # What readers still hold counts on, and what handlers hold that were not cancelled.
        if isinstance(session, ServerSession) and (sessions := self.owner.sessions) is not None and self.memory():
            life.readers.unread().less = session.recount
            sessions.hold(session)

    def drop_rest(self) -> None:
        """Drop what readers and handlers still hold of the session, which is over: all ended ones hold too much."""
        life, why = self.life, "what ended sessions hold exceeds Server(detached_bytes=)"
        if life.core is self:  # else another transport was bound, and the handlers and readers are of its session, too
            self.log(logging.WARNING, "what peer %s at %s has left behind is dropped: %s", life.id, self.log.place, why)
            life.work.drop_all()
            for invocation in list(life.work.invocations):
                invocation.orphan(why)
            life.readers.unread().drop_all(why)

    def _report_end(self, lost: ConnectionLost, replaced: bool) -> CloseInfo:
        """Tell the owner and the log that the session is over. Return what the `close` handlers get."""
        life, session = self.life, self.session
        # After the user's `close`, a call that brings another connection may have come. This session still ends by
        # `close`, which its ending says.
        by_user = life.outbox.user_closed or session.ending.user_closed
        info = msgspec.structs.replace(session.ending, user_closed=by_user)
        if isinstance(lost, SessionLost):
            info = self.owner.session_over(info, replaced, lost)
            if session.asking is not None:
                self.owner.asked_in_vain()
            self.log(logging.INFO, "the session of peer %s at %s is over: %s", life.id, self.log.place, lost.reason)
        else:
            info = self.owner.session_over(info, replaced)
            text = "peer %s at %s disconnected: %d %s"
            self.log(logging.INFO, text, life.id, self.log.place, info.code, info.reason)
        return info

    def _call_close_handlers(self, info: CloseInfo) -> None:
        if info.will_reconnect and self.life.outbox.user_closed:  # `close()` came while events had to be handled first
            info = msgspec.structs.replace(info, user_closed=True, will_reconnect=False)
        self.reporter.tell("close", info)
        close_handler = self.owner.close_handler()
        if close_handler is not None:
            self.reporter.call("close", close_handler, info)

    # ------------------------------------------------------------ what the session reports

    def connection_ended(self, connection: Connection) -> None:
        """End the statistics of a connection."""
        self.life.history.end(connection)

    def session_detached(self, info: CloseInfo, dropped: bool) -> None:
        """Keep the session without a connection, if the owner wants that."""
        if dropped:
            self.life.outbox.end_connection()
            self.out.overdue = False
            self._end_wait()
            text = "peer %s at %s lost its connection: %d %s; its session is kept for %g s"
            self.log(logging.INFO, text, self.life.id, self.log.place, info.code, info.reason, self.session.ttl)
            self.session.look_for_room()
            self.room_changed()
        if not self.owner.keep_session(info) and self.session.detached:
            self.end_detached(info.reason, ending=info)
        elif dropped and self.session.detached:
            args = (msgspec.structs.replace(info, will_reconnect=True),) if self.options.dialer else (self.peer, info)
            self.reporter.tell_hooks("on_detach", args, self.out.opening)

    def session_reattached(self, connection: Connection, limits: Announced) -> None:
        """Let handlers start, and begin the statistics of another connection of the session."""
        info = connection.transport.info
        self.life.work.stop_measuring()  # from now on, measuring each message would be in vain
        self.dispatcher.unpause()
        self.life.history.begin(info, self.out.loop.time())
        self.log.remote = info.remote
        self.out.reattach(limits)

    @property
    def user_may_send(self) -> bool:
        """Whether the user's messages leave now."""
        return self.out.is_open and not self.out.silent

    def objection(self, payload: bytes, raw: bool) -> Exception | None:
        """Return the error for an encoded message that the remote peer would not accept. None if it may be sent."""
        return self.out.refusal(payload, raw)

    def session_resumed(self) -> None:
        """Tell the owner that the session has resumed."""
        self.log(logging.INFO, "peer %s at %s goes on with its session", self.life.id, self.log.place)
        self.owner.resumed()
        if not self.options.dialer and self.session.transport is not None:  # else it has just ended
            self.reporter.tell_hooks("on_resume", (self.peer,))

    def use_handshake(self, handshake: Handshake) -> None:
        """Tell the owner of the handshake of the connection on which the session resumes."""
        self.owner.use_handshake(handshake)

    def session_refused(self, connection: Connection, first: tuple[bytes | bytearray, bool] | None) -> None:
        """Tell the client that ``connection`` can begin a new session."""
        self.owner.not_resumed(connection, first)

    def memory(self) -> int:
        """Return the bytes that the session takes here, about: what was received, and what is being worked on."""
        work, broadcasts, unread = self.life.work, self.out.slow_reader, self.life.readers.memory
        room = work.waiting_room
        return (
            (0 if broadcasts is None else broadcasts.size)
            + work.memory()
            + room.size
            + (0 if unread is None else unread.used)
            + MESSAGE * len(room)
            + WORK * (len(self.channels) + len(self.out.requests))
        )

    # ------------------------------------------------------------ waiting for its end

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        if self.session.lives and not self.session.detached:
            await asyncio.shield(self._until_gone())

    def _until_gone(self) -> asyncio.Future[None]:
        """Return the future that is done when `wait_closed` returns. Do not cancel it."""
        if self._gone is None:
            self._gone = self.out.loop.create_future()
        return self._gone

    def _end_wait(self) -> None:
        """Wake what waits in `wait_closed`."""
        gone, self._gone = self._gone, None
        if gone is not None and not gone.done():
            gone.set_result(None)


def _tells_of_the_end(exc: BaseException) -> bool:
    """Return whether an exception, or each one of a group, only says that a connection has ended."""
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return all(map(_tells_of_the_end, group.exceptions))
    return isinstance(exc, (ConnectionLost, ChannelClosed))
