"""`PeerLife`: the inside of a peer. `PeerCore`: the inside of one of its sessions."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import PeerLog
from .._base.scheduler import Scheduler
from .._channels.readers import Readers
from .._channels.table import ChannelTable
from .._handlers.invocation import CURRENT, WORK, Invocation
from .._handlers.lifecycle import Closers, Reporter
from .._handlers.opening import Opening
from .._protocol.codecs import NegotiatedCodec
from .._protocol.control import Announced, Credit, Drain
from .._protocol.messages import MAX_ID, WireMessage
from .._sending.answers import Answers
from .._sending.outbound import Outbound
from .._sending.outbox import Outbox
from .._sending.pending import SENT
from .._session.client import ClientSession
from .._session.connection import Connection
from .._session.ending import SessionEnd
from .._session.server import ServerSession
from .._session.session import MESSAGE, NOT_CONNECTED, Session
from .._session.states import SessionInput, SessionState
from ..errors import ConnectionLost, ProtocolError, SessionLost
from ..transport import ConnectionInfo, Traffic
from .dispatch import Dispatcher
from .host import PeerHost
from .inbound import Inbound
from .owner import Home, PeerOptions, PeerOwner
from .payload_log import PayloadLog
from .requests import Requester
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


class PeerLife:
    """The inside of a `Peer` from its making to its end, and what it keeps from one session to the next.

    ``core`` is the inside of the present session. It is that of the last session until the next one begins.

    Args:
        peer: the object that users hold.
        owner: what it reports to.
        home: what it has on a server. None on a client.
        log: its log, which has its id.
    """

    __slots__ = (
        "__weakref__",
        "core",
        "history",
        "home",
        "host",
        "log",
        "loop",
        "options",
        "outbox",
        "owner",
        "readers",
        "reporter",
        "sender",
        "work",
    )

    def __init__(
        self, peer: Any, options: PeerOptions, loop: Scheduler, owner: PeerOwner, home: Home | None, log: PeerLog
    ) -> None:
        settings, own, shared = options.settings, options.own, options.shared
        self.owner = owner
        self.home = home
        self.options = options
        self.loop = loop
        self.history = ConnectionHistory()
        self.log = log
        if settings.between_nodes:
            log.quieten()  # nodes log themselves who comes and goes
        self.reporter = Reporter(peer, (shared, own), loop, log)
        self.host = host = PeerHost(options, loop, log, self.reporter)
        self.outbox = Outbox(
            host,
            odd=options.dialer,
            expects_session=options.keeps_offline,
            fails_offline=options.fails_offline,
        )
        self.readers = Readers(host, (own, shared), self.outbox, survives=options.keeps_offline)
        self.work = self.readers.listener = Work(host, self.readers)
        self.sender = Requester(self.outbox, host, own, self.readers)
        own.inherit(shared, settings.limits.handler)
        self.core: PeerCore
        """The inside of the present session, of the first one, or of the last one."""
        self._use(PeerCore(self, NOT_CONNECTED))

    @property
    def peer(self) -> Any:
        """The object that users hold."""
        return self.reporter.peer()

    @property
    def ignored(self) -> Counter[str]:
        """Numbers of messages that were not handled, by kind."""
        return self.host.ignored

    def _use(self, core: PeerCore) -> None:
        self.core = core
        self.host.enter(self, core)
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
        present = self.core.session.usable
        if present is not None and present.transport is connection.transport:
            raise ValueError("this transport is bound already")
        return connection

    def make_way(self, connection: Connection) -> PeerCore:
        """End the present session, if there is one, because ``connection`` begins another. Return the core of that.

        Raises:
            ConnectionLost: a `close` handler has bound another transport meanwhile, or has closed the peer.
                ``connection`` is closed, too.
        """
        before = self.core
        closed_before = before.session.closed_since
        replaced = CloseInfo(CloseCode.GOING_AWAY, "another connection was bound")
        self._tell_the_end()
        if self.core is before and before.session.state.lives:
            before.replace(replaced)
            self._tell_the_end()
        # A `close` handler may have said what is to be. (With eager tasks its first step runs at once.)
        session = self.core.session
        if session.state.lives or (before.session.closed_since and not closed_before):
            last = replaced if session.state.lives else session.ending
            self.reporter.spawn(connection.close(last.code, last.reason))
            raise ConnectionLost(last.code, last.reason, "not_sent")
        if session.over:
            self._use(PeerCore(self, self.core.session.ending))
        return self.core

    def _tell_the_end(self) -> None:
        """Call the `close` handlers of the last session now, if they wait for anything."""
        self.work.after_events(None)
        self.reporter.flush_turns()

    def bind(self, connection: Connection) -> None:
        """Begin a session on ``connection``; see `Peer.bind`."""
        self.make_way(self.check_new(connection)).begin(connection)

    # ------------------------------------------------------------ its tasks

    @property
    def busy(self) -> bool:
        """Whether something runs for the peer, or waits to be told."""
        return bool(self.work.invocations or self.reporter.running or self.reporter.turns)

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

    __slots__ = ("__weakref__", "_gone", "_inbound", "channels", "dispatcher", "host", "life", "out", "session")

    def __init__(self, life: PeerLife, ending: CloseInfo) -> None:
        self.life = life
        self.host = host = life.host
        self.session: ClientSession | ServerSession
        if life.options.dialer:
            self.session = ClientSession(host, life.outbox.queue, ending=ending)
        else:
            self.session = ServerSession(host, life.outbox.queue, home=life.home, ending=ending)
        opening = Opening(self.session, host, host.reporter)
        self.out = Outbound(self.session, host, opening, life.outbox.requests, life.outbox.gate)
        answers = Answers(self.out, host)
        self.channels = ChannelTable(
            self.out, life.outbox, life.options.own, life.readers, sender=life.sender, answers=answers
        )
        self.dispatcher = self.channels.dispatcher = Dispatcher(
            host, work=life.work, out=self.out, answers=answers, channels=self.channels
        )
        life.outbox.requests.avoid(self.channels.opened)  # JavaScript would confuse the two
        self._inbound = Inbound(host, self.dispatcher)
        self._gone: asyncio.Future[None] | None = None
        """Done once the session is over or has no connection. None unless something waits for that."""

    def __repr__(self) -> str:
        return f"<PeerCore {self.out.state} active={len(self.dispatcher.active)} channels={len(self.channels)}>"

    # ------------------------------------------------------------ what its parts ask

    def has_channel(self, h: int) -> bool:
        """Return whether an anonymous channel is open."""
        return self.channels.find(h) is not None

    # ------------------------------------------------------------ the beginning

    def begin(self, connection: Connection, *, in_origin: bool = True) -> None:
        """Begin the session on ``connection``, and call the `open` handlers, then those of `on_reconnect`.

        Args:
            in_origin: False if a redirect to another origin led to the connection. The session then ends with it.
        """
        life, out, session, info = self.life, self.out, self.session, connection.transport.info
        settings, dialer = self.host.settings, life.options.dialer
        life.outbox.expects_session = life.options.keeps_offline
        life.readers.reopen()
        life.history.begin(info, out.loop.time())
        self.life.log.remote = info.remote
        opening = Invocation(self.host.peer, WireMessage(a=["open"]))
        self.dispatcher.context = contextvars.copy_context()  # of the code that has connected
        # That may be a handler, which would be kept, and its session with it.
        self.dispatcher.context.run(CURRENT.set, opening)
        receive = self._inbound.receive_raw if life.options.shared.raw_only else self._inbound.receive
        payloads = None if settings.log_payloads is False else PayloadLog(self.host)
        if payloads is not None:
            receive = payloads.receiving(receive)
        out.begin()
        can_resume = life.options.can_resume and in_origin and settings.limits.replay > 0
        session.begin(connection, can_resume=can_resume, wrap=None if payloads is None else payloads.sending)
        log = life.log
        if log.shows(logging.INFO):
            where = "to" if dialer else "from"
            path = info.target.partition("?")[0]
            log(logging.INFO, "peer %s connected %s %s, path %s", log.id, where, log.place, path)
        out.opening.begin(opening)
        if session.over:  # a handler has bound another transport
            return
        life.work.update()
        session.start(receive, self.dispatcher.read_ended)
        if out.opening.running is None:
            self.opened()

    async def wait_opened(self) -> None:
        """Wait until `open` and `on_reconnect` handlers are done or overdue, or the connection is gone.

        Cancelling is safe.
        """
        if self.out.opening.running is not None:
            # They may run on without a connection.
            await self.out.opening.wait(self._until_gone())
        if self.session.state.connection == "dead":
            await self.wait_closed()

    def opened(self) -> None:
        """Let everything pass: the handlers of the opening are done or overdue."""
        out, session = self.out, self.session
        if session.over:
            return
        if not (session.state is SessionState.CLOSING or out.silent):
            session.send_queued(users=True)
        if session.state is SessionState.CLOSING:
            return
        out.opening.finish()
        out.update_clear()
        out.draining.opened()
        self.life.work.start_waiting()
        if session.usable is not None:  # else the session resumes later, or its end is reported
            self.life.owner.opened()

    # ------------------------------------------------------------ while it lasts

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
                self.host.ignore("credit for no channel")
        elif 0 <= message.n <= MAX_ID and 0 <= message.bytes <= MAX_ID:
            channel.credited(message.n, message.bytes)
        else:
            self.host.ignore("credit that makes no sense")

    def in_progress(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """Return a function that waits for the requests, handlers and channels that there are now. None if none are."""
        requests = [pending for pending in self.out.requests.all() if pending.state is SENT]
        handlers = [each.task for each in self.dispatcher.active.values() if each.task is not None]
        channels = self.channels.all()

        async def finish() -> None:
            waits: list[asyncio.Future[Any]] = [*(pending.future for pending in requests), *handlers]
            for future in waits:
                await asyncio.wait({future})
            for channel in channels + [pending.channel for pending in requests if pending.channel is not None]:
                await channel.wait_closed()

        return finish if requests or handlers or channels else None

    def room_changed(self) -> None:
        """Note that the session has become full, or has room again, or has another connection or none."""
        # Broadcasts have waited longest. Handlers come before callers, as their answers free the remote peer. At last,
        # what is sent needs no longer wait for all these.
        self.out.flush_broadcasts()
        self.life.work.start_waiting()
        self.life.outbox.gate.wake()
        self.out.update_clear()

    # ------------------------------------------------------------ the end

    def discard_unsent(self, info: CloseInfo) -> None:
        """Fail what waits for a session, because none will come: with ``info``, unless a connection is still ending."""
        if not self.session.state.lives:
            self.session.note_ending(info)
        self.life.outbox.discard(self.session.ending)

    def begin_close(self, code: int, reason: str) -> None:
        """Accept nothing more. The caller closes the session now."""
        out, outbox, session = self.out, self.life.outbox, self.session
        ending = CloseInfo(code, reason, user_closed=True)
        outbox.expects_session = False
        if not session.state.lives:
            session.note_ending(ending)
            outbox.discard(ending)
            return
        session.send_kept_back()
        if out.silent:  # what is asked now would not be answered any more
            outbox.discard_requests(ending)
        if session.state.away:
            self.dispatcher.admission.pause()  # no handler starts after this side has closed
            why = f"closed on this side: {reason}" if reason else "closed on this side"
            session.end(SessionInput.CLOSED, why, info=ending)
            return
        closing = session.state is SessionState.CLOSING
        if out.silent or not (out.opening.over or closing):
            session.send_queued(users=True)
        if not closing:
            if out.slow_reader is not None:
                out.slow_reader.flush(everything=True)
            self._close_soon(ending)
        elif not session.ending.user_closed:  # this side closes because of the remote peer
            session.note_ending(ending)

    def _close_soon(self, ending: CloseInfo) -> None:
        """Let nothing in and no handler start from now on: this side closes, and the session ends."""
        self.session.close_soon(ending)
        self.out.update_clear()
        self.dispatcher.admission.pause()

    def fail(self, code: int, reason: str) -> None:
        """Close the connection because of what the remote peer did, see `Session.fail`."""
        self.life.log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self._close_soon(CloseInfo(code, reason))
        self.life.reporter.tell("error", ProtocolError(reason))
        self.host.spawn(self.session.close(code, reason))

    def refuse(self, code: int, reason: str) -> None:
        """Close the connection while it opens, and ignore the messages that have arrived."""
        self.begin_close(code, reason)
        self.host.spawn(self.session.close(code, reason))

    def replace(self, replaced: CloseInfo) -> None:
        """End the session now, because another one takes its place."""
        session = self.session
        session.send_kept_back()
        session.end(SessionInput.REPLACED, replaced.reason, info=replaced)

    def close_for_another(self, code: int, reason: str) -> None:
        """Close the connection, but not the session, which resumes on another one if it can.

        What arrives meanwhile is not counted, so that the client sends it again on that one.
        """
        connection = self.session.connection
        if connection is not None and self.session.state.sends:
            connection.ignore()
            self.dispatcher.admission.pause()  # a Close frame is queued, and the client may ignore it
            # Not `session.close`: before the task runs, the session may resume on the other connection.
            self.host.spawn(connection.close(code, reason))

    def session_over(self, end: SessionEnd) -> None:
        """End everything that belongs to the session, which is over, and call the `close` handlers."""
        life, session, out, lost = self.life, self.session, self.out, end.lost
        out.end_session()  # first: what is sent from now on, by whatever is told of the end, waits for the next session
        life.owner.session_over(end)
        self._log_end(end)
        out.opening.end_session()
        out.draining.end_waits()  # what waits for the work of this session
        life.outbox.end_session(lost)  # fails what this side has sent or would send
        self.dispatcher.end_session(lost)  # before the channels: events that wait start handlers, which may read one
        life.readers.end_session(lost)  # the streams of named channels end
        self.channels.end_session(lost)  # and the anonymous channels, with their readers and producers
        life.work.update()
        # The application. `wait_closed` returns now: a handler that goes before the `close` handlers may wait in it.
        tell = partial(life.reporter.take_turn, "close", partial(self._call_close_handlers, end.info))
        life.work.after_events(tell)
        self._end_wait()
        life.owner.all_ended()
        # What readers still hold counts on, and what handlers hold that were not cancelled.
        if isinstance(session, ServerSession) and self.memory():
            life.readers.unread().less = session.recount
            session.hold()
        self.let_go()

    def let_go(self) -> None:
        """Once nothing is left of the session, and no other one is expected, only users keep the peer alive.

        Here the circle of the parts of a peer is cut: see `PeerHost`.
        """
        life = self.life
        if self.session.over and not (life.busy or life.outbox.expects_session or self.out.requests or self.memory()):
            life.owner.let_go()
            self.dispatcher.let_go()
            life.work.let_go()
            self.host.let_go()
            self.life = self.host.life

    def drop_rest(self, session: Session) -> None:
        """Drop what readers and handlers still hold of a session that is over: all ended ones hold too much."""
        life, why = self.life, "what ended sessions hold exceeds Server(detached_bytes=)"
        if session is self.session:  # else the handlers and readers are of another session, too
            text = "what peer %s at %s has left behind is dropped: %s"
            life.log(logging.WARNING, text, life.log.id, life.log.place, why)
            life.work.drop_all()
            for invocation in list(life.work.invocations):
                invocation.orphan(why)
            life.readers.unread().drop_all(why)

    def _log_end(self, end: SessionEnd) -> None:
        log, info = self.life.log, end.info
        if isinstance(end.lost, SessionLost):
            log(logging.INFO, "the session of peer %s at %s is over: %s", log.id, log.place, end.lost.reason)
        else:
            log(logging.INFO, "peer %s at %s disconnected: %d %s", log.id, log.place, info.code, info.reason)

    def _call_close_handlers(self, info: CloseInfo) -> None:
        if self.session.closed_since:  # while events had to be handled first
            info = msgspec.structs.replace(info, user_closed=True)
        info = self._told(info)
        reporter = self.life.reporter
        reporter.tell("close", info)
        close_handler = self.life.owner.close_handler()
        if close_handler is not None:
            reporter.call("close", close_handler, info)

    def _told(self, info: CloseInfo) -> CloseInfo:
        """Return what handlers are told now of the end of a connection."""
        return msgspec.structs.replace(info, will_reconnect=self.life.owner.comes_back())

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
            text, log = "peer %s at %s lost its connection: %d %s; its session is kept for %g s", self.life.log
            log(logging.INFO, text, log.id, log.place, info.code, info.reason, self.session.ttl)
            self.out.update_clear()
        if not self.life.owner.session_detached(info) and self.session.state.away:
            self.session.end(SessionInput.ENDED, info.reason, info=info)
        elif dropped and self.session.state.away:
            dialer, peer = self.life.options.dialer, self.host.peer
            args = (self._told(info),) if dialer else (peer, info)
            self.life.reporter.tell_hooks("on_detach", args, self.out.opening.running)

    def session_reattached(self, connection: Connection, limits: Announced) -> None:
        """Let handlers start, and begin the statistics of another connection of the session."""
        info = connection.transport.info
        self.life.work.stop_measuring()  # from now on, measuring each message would be in vain
        self.dispatcher.admission.unpause()
        self.life.history.begin(info, self.out.loop.time())
        self.life.log.remote = info.remote
        self.out.reattach(limits)

    @property
    def user_may_send(self) -> bool:
        """Whether the user's messages leave now."""
        return self.out.opening.over and not self.out.silent

    def objection(self, payload: bytes, raw: bool) -> Exception | None:
        """Return the error for an encoded message that the remote peer would not accept. None if it may be sent."""
        return self.out.refusal(payload, raw)

    def session_resumed(self) -> None:
        """Tell the owner that the session has resumed."""
        life = self.life
        life.log(logging.INFO, "peer %s at %s goes on with its session", life.log.id, life.log.place)
        life.owner.resumed()
        if not life.options.dialer:
            life.reporter.tell_hooks("on_resume", (self.host.peer,))

    def memory(self) -> int:
        """Return the bytes that the session takes here, about: what was received, and what is being worked on."""
        work, broadcasts, unread = self.life.work, self.out.slow_reader, self.life.readers.memory
        room = work.waiting_room
        requests = 0 if self.session.over else len(self.out.requests)  # those that have waited fail in the next turn
        return (
            (0 if broadcasts is None else broadcasts.size)
            + work.memory()
            + room.size
            + (0 if unread is None else unread.used)
            + MESSAGE * len(room)
            + WORK * (len(self.channels) + requests)
        )

    # ------------------------------------------------------------ waiting for its end

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        if self.session.state.lives and not self.session.state.away:
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
