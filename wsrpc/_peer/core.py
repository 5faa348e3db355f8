"""`PeerCore`: the inside of a peer, which outlives its sessions and their links."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import msgspec

from .._base.closing import CloseCode, CloseInfo
from .._base.names import Redact
from .._base.scheduler import Scheduler
from .._channels.channel_requests import ChannelRequests
from .._channels.core import ChannelTable
from .._channels.readers import Readers
from .._handlers.invocation import Invocation
from .._handlers.lifecycle import Closers, OpenPhase, Reporter, Stage
from .._handlers.registry import Registry
from .._protocol.codecs import NegotiatedCodec
from .._protocol.control import Announced, Credit, Drain
from .._protocol.messages import MAX_ID, WireMessage
from .._protocol.settings import Settings
from .._sending.draining import Draining
from .._sending.link import Link, LinkState
from .._sending.outbound import Outbound
from .._sending.pending import Pending
from .._sending.slow_readers import Slow, SlowReaderQueue
from .._session.client import ClientSession
from .._session.connection import Connection, Receive
from .._session.sessions import ServerSession
from .._session.states import SessionInput
from ..errors import ChannelClosed, ConnectionLost, ProtocolError, SessionLost, closed_here
from ..limits import Limits
from ..transport import ConnectionInfo, Traffic
from .answers import Answers
from .dispatch import Dispatcher
from .inbound import Inbound
from .owner import PeerOwner
from .payload_log import PayloadLog
from .session import Session
from .waiting import Hold

__all__ = ["PeerCore", "PeerOptions"]

MESSAGE = 192
"""Bytes that a message which waits takes besides its payload, about."""
WORK = 4 * 1024
"""Bytes that a running handler, an open channel or a pending request takes besides its message, about."""


class PeerOptions(msgspec.Struct, frozen=True):
    """Options of a peer. They never change."""

    settings: Settings
    dialer: bool
    """Whether this side dials. Its requests have odd ids, and it says hello first."""
    own: Registry
    """Handlers of this peer alone."""
    shared: Registry
    """Handlers of the server, for all its peers."""
    keeps_offline: bool = False
    """Whether messages that are sent without a connection wait for the next one."""
    fails_offline: bool = False
    """Whether a message without ``offline=`` fails instead of waiting for the next connection."""
    resumes: bool = False
    """Whether sessions can go on over another connection: a client dials again, a server finds them."""


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


class PeerCore:
    """The inside of a `Peer`, the same for the side that dialed and the side that accepted.

    It has one session at a time, and the session has one link or none. It is synchronous: a message comes in, handlers
    start, futures are settled, messages go out. It has no socket and no clock: ``loop`` gives time, timers and tasks.

    Args:
        peer: the object that users hold.
    """

    def __init__(self, peer: Any, options: PeerOptions, loop: Scheduler, owner: PeerOwner) -> None:
        settings, own, shared = options.settings, options.own, options.shared
        limits = settings.limits
        self.id = secrets.token_hex(8)
        self.peer = peer
        self.owner = owner
        self.options = options
        self.history = ConnectionHistory()
        self.ignored: Counter[str] = Counter()
        self.log = log = owner.log_for(self.id)
        if settings.between_nodes:
            log.quieten()  # nodes log themselves who comes and goes
        self.reporter = Reporter(peer, (shared, own), loop, log)
        fail = self.fail  # one bound method, however many objects hold it
        self.out = Outbound(
            settings,
            loop,
            self,
            odd=options.dialer,
            keeps_offline=options.keeps_offline,
            fails_offline=options.fails_offline,
        )
        answers = Answers(self.out, self.reporter, self.ignored, expose_errors=settings.expose_errors, fail=fail)
        self.readers = Readers(
            self.out,
            limits,
            (own, shared),
            count=answers.count,
            reject=answers.reject,
            warn=log.warn,
            survives=options.keeps_offline,
        )
        self.sender = ChannelRequests(
            self.out, limits, own, readers=self.readers, warn=log.warn, keep=self.reporter.keep
        )
        self.dispatcher = Dispatcher(
            peer,
            own,
            shared,
            limits=limits,
            requester=self.sender,
            answers=answers,
            readers=self.readers,
            reporter=self.reporter,
            fail=fail,
        )
        self.session = self._begin_session()
        """The present session, or the last one."""
        self._inbound: Inbound | None = None
        """Receives the messages of the present session."""

    # ------------------------------------------------------------ what its parts report and ask

    def request_expired(self, pending: Pending) -> None:
        """End a request whose deadline is over."""
        self.sender.expired(pending)

    def message_queued(self) -> None:
        """Tell the owner that a message begins to wait for a connection."""
        self.owner.queued()

    def has_channel(self, h: int) -> bool:
        """Return whether an anonymous channel is open."""
        return self.session.channels.find(h) is not None

    def is_awaited(self, ctx: Invocation | None) -> bool:
        """Return whether the remote peer waits for the handler that this context belongs to."""
        return self.dispatcher.is_awaited(ctx)

    # ------------------------------------------------------------ state

    @property
    def link(self) -> Link | None:
        """The present connection."""
        return self.session.link

    @property
    def connection(self) -> Connection | None:
        """The present connection."""
        link = self.session.link
        return None if link is None else link.session.connection

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent."""
        link = self.session.link
        return link is not None and link.works and link.session.connection is not None

    @property
    def detached(self) -> bool:
        """Whether there is no connection, but the session may go on over another one."""
        link = self.session.link
        return link is not None and link.session.detached

    @property
    def state(self) -> str:
        """State of the present session and its connection, or ``"disconnected"``."""
        link = self.session.link
        if link is None:
            return "disconnected"
        return link.session.state.value if link.session.detached else link.state.value

    @property
    def uptime(self) -> float:
        """Seconds since the present connection was made; 0 if there is none."""
        return 0.0 if self.connection is None else self.history.uptime(self.out.loop.time())

    def traffic(self) -> Traffic | None:
        """Return the traffic of all connections, as far as their transports count it."""
        return self.history.traffic(self.connection)

    @property
    def limits(self) -> Limits:
        """Limits of the session; without one, those that the next one begins with."""
        link = self.out.link
        return self.options.settings.limits if link is None else link.session.limits

    def binary_is_free(self) -> bool:
        """Return whether a binary message that is sent now, or waits for a connection, is a raw one."""
        link, settings = self.out.link, self.options.settings
        if link is None:  # a side that dials offers MessagePack in its next session
            return not self.options.dialer or settings.binary is None or self.takes_raw()
        return link.session.binary_is_free()

    # ------------------------------------------------------------ the beginning

    def expect(self, info: ConnectionInfo) -> None:
        """Let `Peer.info` and the log tell of a connection that is about to be attached."""
        self.history.expect(info)
        self.log.remote = info.remote

    def check_new(self, connection: Connection) -> Connection:
        """Return ``connection``.

        Raises:
            ValueError: its transport is bound already.
        """
        present = self.connection
        if present is not None and present.transport is connection.transport:
            raise ValueError("this transport is bound already")
        return connection

    def link_for(self, connection: Connection) -> Link:
        """Return a new session on ``connection``."""
        settings, loop = self.options.settings, self.out.loop
        resumes = self.options.resumes and self.owner.in_origin and settings.limits.replay > 0
        session: ClientSession | ServerSession
        if self.options.dialer:
            session = ClientSession(connection, settings, loop, self, resumes=resumes)
        else:
            owner = self.owner
            session = ServerSession(
                connection, settings, loop, self, resumes=resumes, sessions=owner.sessions, host=owner
            )
        return Link(session, Draining(session, loop, self.ignored, self._fall_silent, dialer=self.options.dialer))

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task."""
        self.reporter.spawn(coroutine)

    def takes_raw(self) -> bool:
        """Return whether this side has a function for raw messages."""
        return self.options.own.takes_raw or self.options.shared.takes_raw

    def _begin_session(self) -> Session:
        channels = ChannelTable(
            self.out,
            self.options.own,
            self.options.settings.limits,
            self.readers.unread,
            sender=self.sender,
            listener=self.dispatcher,
            warn=self.log.warn,
        )
        self.out.requests.avoid(channels.opened)  # JavaScript would confuse the two
        session = Session(channels)
        self.dispatcher.begin(session)
        return session

    def make_way(self, link: Link) -> None:
        """End the present connection, if there is one, because ``link`` replaces it.

        Raises:
            ConnectionLost: a `close` handler has bound another transport meanwhile, or has closed the peer. ``link`` is
                closed, too.
        """
        self.dispatcher.after_events(None)
        present = self.session.link
        if present is None:
            return
        replaced = CloseInfo(CloseCode.GOING_AWAY, "another connection was bound")
        if present.session.detached:
            self.out.reopen()
            self.end_session(replaced.reason, replaced=True)
        else:
            present.send_kept_back()
            ending = self.out.ending if present.state is LinkState.CLOSING else replaced
            self.leave(ending, replaced=True)
        self.dispatcher.after_events(None)
        # A `close` handler may have said what is to be: with eager tasks the first step of a coroutine runs at once.
        if self.session.link is not None or self.out.user_closed:
            last = replaced if self.session.link is not None else self.out.ending
            self.reporter.spawn(link.session.close(last.code, last.reason))
            raise ConnectionLost(last.code, last.reason, "not_sent")

    def attach(self, link: Link) -> None:
        """Make ``link`` the present connection, and call the `open` handlers, then those of `on_reconnect`."""
        out = self.out
        out.reopen()
        if self.session.over:
            self.session = self._begin_session()
        else:
            self.readers.reopen()
        session = self.session
        session.begin(link)
        info, dialer = link.session.info, self.options.dialer
        self.history.begin(info, out.loop.time())
        self.log.remote = info.remote
        receive = self._receiver(link)
        out.use(link)
        link.session.begin()
        if self.log.shows(logging.INFO):
            where = "to" if dialer else "from"
            path = info.target.partition("?")[0]
            self.log(logging.INFO, "peer %s connected %s %s, path %s", self.id, where, self.log.place, path)
        # One side lets requests in meanwhile. Otherwise two Python ends would wait for each other's handlers.
        self.dispatcher.admission.hold(Hold.EVENTS if dialer else Hold.ALL)
        self._open(link)
        if session.link is link:  # a handler may have closed, or bound another one
            link.session.start(receive, self.dispatcher.read_ended)
            if link.opening is None:
                self._opened(link)

    def _receiver(self, link: Link) -> Receive:
        options, settings = self.options, self.options.settings
        self._inbound = inbound = Inbound(
            settings.codec,
            settings.limits,
            options.own,
            options.shared,
            dispatcher=self.dispatcher,
            out=self.out,
            channels=self.session.channels,
            control=link.session.control if settings.extensions else None,
            reporter=self.reporter,
            fail=self.fail,
        )
        receive = inbound.receive_raw if options.shared.raw_only else inbound.receive
        shown = settings.log_payloads
        return receive if shown is False else self._log_payloads(link, receive, None if shown is True else shown)

    def _log_payloads(self, link: Link, receive: Receive, redact: Redact | None) -> Receive:
        settings = self.options.settings
        codecs = (settings.codec,) if settings.binary is None else (settings.codec, settings.binary)
        log = PayloadLog(codecs, settings.limits.values, redact, self.log)
        link.session.wrap_sending(log.sending)
        return log.receiving(receive)

    def _open(self, link: Link) -> None:
        """Call the `open` handlers. Those that take time run on in ``link.opening``."""
        opening = Invocation(self.peer, WireMessage(a=["open"]))
        link.enter(opening)
        session = self.session
        first = Stage(opening, partial(self._handler_failed, session))
        first.fire(self.reporter.registries, "open", (self.peer,))
        if session.link is not link:  # a handler has bound another one, whose opening goes on by itself
            first.abandon()
            return
        first.unfinished.extend(self.owner.open_handlers())
        stage = first if first.unfinished else self._reconnected(link)
        if stage is None:
            return
        link.open_slowly(
            OpenPhase(
                stage,
                lambda: None if session.over else self._reconnected(link),
                reporter=self.reporter,
                patience=self.limits.open_handlers,
                done=lambda: None if session.over else self._opened(link),
                overdue=self._open_overdue,
            )
        )

    def _reconnected(self, link: Link) -> Stage | None:
        """Call the `on_reconnect` handlers, after the `open` handlers. Return None if all are finished."""
        if link.state is not LinkState.OPENING or not link.works or len(link.contexts) > 1:
            return None
        unfinished = self.owner.reconnect_handlers()
        if not unfinished:
            return None
        invocation = Invocation(self.peer, WireMessage(a=["on_reconnect"]))
        link.enter(invocation)
        return Stage(invocation, partial(self._handler_failed, self.session), unfinished)

    def _handler_failed(self, session: Session, event: str, name: str, exc: BaseException) -> None:
        """Log that an `open` or `on_reconnect` handler has raised ``exc``."""
        link = session.link
        has_ended = session.over if link is None else not link.works
        if has_ended and _tells_of_the_end(exc):
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
        link = self.session.link
        if link is not None and link.opening is not None:
            # They may run on without a connection.
            await link.opening.wait(self.session.gone(self.out.loop))
            link = self.session.link
        if link is not None and link.session.connection is None and not link.session.detached:
            await self.wait_closed()  # the end of its connection is reported later

    def _opened(self, link: Link) -> None:
        """Let everything pass: the handlers of the opening are done or overdue."""
        link.opening = None
        if link.state is LinkState.OPENING and not link.silent:
            try:
                self.out.flush_offline()
            except ConnectionLost:  # its end is reported later, and unsent messages stay in the queue
                link.session.refuse()
        if link.state is LinkState.CLOSING:
            return
        link.opened()
        self.dispatcher.admission.hold(Hold.NONE)
        self.out.update_clear()
        link.draining.opened()
        if link.session.connection is not None:  # else the session goes on later, or its end is reported
            self.owner.opened()

    def _open_overdue(self, event: str, handlers: str) -> None:
        self.log(
            logging.WARNING,
            "the handler of %r %s has not finished within %g s: messages no longer wait for it",
            event,
            handlers,
            self.limits.open_handlers,
        )

    # ------------------------------------------------------------ while it lasts

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> None:
        """Use what both sides support from now on."""
        self.out.agree(announced, codec, common)
        assert self._inbound is not None
        self._inbound.agree(codec)
        if self.session.link is not None:
            self.session.link.draining.agreed()

    def control(self, message: Credit | Drain) -> None:
        """Take a control message that is not about the session."""
        channels = self.session.channels
        if isinstance(message, Drain):
            if self.session.link is not None:
                self.session.link.draining.received(message)
        elif (channel := channels.find(message.h)) is None:
            if not channels.expects_credit(message.h):
                self.ignored["credit for no channel"] += 1
        elif 0 <= message.n <= MAX_ID and 0 <= message.bytes <= MAX_ID:
            channel.credited(message.n, message.bytes)
        else:
            self.ignored["credit that makes no sense"] += 1

    def hold_broadcast(self, link: Link, payload: bytes, text: bool, slow: Slow, key: Hashable) -> bool:
        """Let a broadcast wait until ``link`` has room. Return False if the policy drops it."""
        queue = link.hold_broadcasts(
            lambda: SlowReaderQueue(
                lambda payload, text: link.session.send(payload, text),
                lambda: link.session.full,
                self.limits.behind,
                self.log.warn,
                self.history.left_out,
            )
        )
        waits = queue.add(payload, text, slow, key)
        self.out.recount()
        return waits

    def drain(self, until: float) -> None:
        """Finish the calls that have begun, and refuse new ones that they do not need, until the time ``until``."""
        link = self.session.link
        if link is not None:
            link.draining.drain(until)
            self.dispatcher.admission.drain(partial(self._refuses_new, link))

    def _refuses_new(self, link: Link) -> bool:
        # While a request of this side is pending, a new request may be part of its handler's work.
        return link.draining.quiet and not (self.out.requests or self.session.channels.opened)

    def _fall_silent(self) -> bool:
        """Begin nothing new, because the remote peer is about to close. Return whether `open` handlers still run."""
        self.out.fall_silent()
        self.dispatcher.run_in_tasks(True)
        self.log(logging.INFO, "the remote peer is about to close: new messages wait for another connection")
        assert self.session.link is not None
        return bool(self.session.link.contexts)

    def room_changed(self) -> None:
        """Note that the session has become full, or has room again, or has another connection or none."""
        link = self.session.link
        if link is not None and not link.room_changed():
            return
        self.dispatcher.admission.room_changed()
        self.out.turns.wake()
        self.out.update_clear()

    # ------------------------------------------------------------ the end

    def begin_close(self, code: int, reason: str) -> Link | None:
        """Accept nothing more, and return the link whose transport the caller closes now."""
        out, link = self.out, self.session.link
        if link is not None:
            link.send_kept_back()
        out.close(CloseInfo(code, reason))
        detached = link is not None and link.session.detached
        if link is not None and not detached and (link.state is LinkState.OPENING or link.silent):
            with suppress(ConnectionLost):
                out.flush_offline()
        closing = link is not None and link.state is LinkState.CLOSING
        if not closing:
            out.will_end(CloseInfo(code, reason, user_closed=True))
            if link is not None and link.slow_reader is not None and not detached:
                link.slow_reader.flush(everything=True)
        if link is None:
            out.discard_offline(out.ending)
        elif detached:
            self.session.pause(self.out.loop)  # no handler starts after this side has closed
            self.end_session(f"closed on this side: {reason}" if reason else "closed on this side", SessionInput.CLOSED)
        elif not closing:
            self._stop(link)
        return link

    def _stop(self, link: Link) -> None:
        """Let nothing in and no handler start from now on: this side closes, and the session ends."""
        link.session.close_soon()
        link.move(LinkState.CLOSING)
        self.out.update_clear()
        self._pause(link)

    def _pause(self, link: Link) -> None:
        """Let nothing in and no handler start: a Close frame is queued, and the client may ignore it."""
        link.session.stop_receiving()
        self.session.pause(self.out.loop)
        self.dispatcher.admission.update()

    def fail(self, code: int, reason: str) -> None:
        """Close the connection because of what the remote peer did, and ignore whatever else it sends."""
        link = self.session.link
        if link is None or link.state is LinkState.CLOSING:
            return
        if link.session.detached:
            self.end_session(reason, SessionInput.OVERFLOWED)
            return
        self.log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self.out.will_end(CloseInfo(code, reason))
        self._stop(link)
        self.reporter.tell("error", ProtocolError(reason))
        self.reporter.spawn(link.session.close(code, reason))

    def refuse(self, code: int, reason: str) -> None:
        """Close the connection while it opens, and ignore the messages that have arrived."""
        link = self.begin_close(code, reason)
        if link is not None:
            self.reporter.spawn(link.session.close(code, reason))

    def leave(self, info: CloseInfo, replaced: bool = False) -> None:
        """End the present session now, and close its connection.

        Args:
            replaced: another one takes its place.
        """
        link = self.session.link
        assert link is not None
        if link.state is not LinkState.CLOSING:
            link.session.close_soon()
        if replaced:
            self.out.reopen()
        left = link.session.end()
        self._over(link, info, ConnectionLost(info.code, info.reason), replaced)
        if left is not None:
            self.reporter.spawn(left.transport.close(info.code, info.reason))

    def end_session(self, why: str, happened: SessionInput = SessionInput.ENDED, *, replaced: bool = False) -> None:
        """End a session that has no connection."""
        link, info = self.session.link, self.out.ending
        assert link is not None
        link.session.end(happened)
        self._over(link, info, SessionLost(info.code, why), replaced)

    def close_for_another(self, code: int, reason: str) -> None:
        """Close the connection, but not the session, which goes on over another one if it can.

        What arrives meanwhile is not counted, so that the client sends it again on that one.
        """
        link = self.session.link
        if link is not None and link.session.connection is not None and link.state is not LinkState.CLOSING:
            self._pause(link)
            self.reporter.spawn(link.session.close(code, reason))

    def _over(self, link: Link, info: CloseInfo, lost: ConnectionLost, replaced: bool = False) -> None:
        """End everything that belongs to the session of ``link``, which is over, and call the `close` handlers.

        Args:
            info: how its last connection has ended.
            lost: what calls in flight get.
            replaced: whether another session takes its place.
        """
        out, session = self.out, self.session
        # After the user's `close`, a call that brings another connection may have come. This one still ends by `close`.
        by_user = out.user_closed or (link.state is LinkState.CLOSING and out.ending.user_closed)
        link.move(LinkState.LOST)
        out.unlink()
        session.end()
        info = msgspec.structs.replace(info, user_closed=by_user)
        if isinstance(lost, SessionLost):
            info = self.owner.lost(info, replaced, lost)
            if link.session.asking is not None:
                self.owner.asked_in_vain()
            self.log(logging.INFO, "the session of peer %s at %s is over: %s", self.id, self.log.place, lost.reason)
        else:
            info = self.owner.lost(info, replaced)
            text = "peer %s at %s disconnected: %d %s"
            self.log(logging.INFO, text, self.id, self.log.place, info.code, info.reason)
        if link.opening is not None:
            link.opening.connection_lost(user_closed=by_user)
        link.draining.session_over()
        if link.silent:
            self.dispatcher.run_in_tasks(False)
        out.end_waiting(link, lost)
        out.end_session(info, lost)
        if by_user:
            closed_here(lost)
        session.orphan_calls(lost)
        self.dispatcher.admission.end_session()
        self.readers.connection_lost(lost)
        session.channels.end(lost)
        self.dispatcher.after_events(partial(self._call_close_handlers, info))
        session.end_reported()  # at once: a handler that goes before the `close` handlers may wait for it
        self.owner.ended()

    def _call_close_handlers(self, info: CloseInfo) -> None:
        self.reporter.tell("close", info)
        close_handler = self.owner.close_handler()
        if close_handler is not None:
            self.reporter.call("close", close_handler, info)

    # ------------------------------------------------------------ what the session reports

    @property
    def resumable(self) -> bool:
        """Whether another connection may go on with the session, be there one at present or not."""
        return self.session.link is not None and self.session.link.session.resumable

    def resume(self, connection: Connection) -> None:
        """Ask the server to go on with the session on ``connection``."""
        assert self.session.link is not None
        session = self.session.link.session
        assert isinstance(session, ClientSession)
        session.ask(connection)

    def disconnected(self, connection: Connection) -> None:
        """End the statistics of a connection."""
        self.history.end(connection)

    def session_detached(self, info: CloseInfo, dropped: bool) -> None:
        """Keep the session without a connection, if the owner wants that."""
        link = self.session.link
        assert link is not None
        if dropped:
            self.out.will_end(info)
            self.out.detach()
            link.overdue = False
            self.session.end_reported()
            text = "peer %s at %s lost its connection: %d %s; its session is kept for %g s"
            self.log(logging.INFO, text, self.id, self.log.place, info.code, info.reason, link.session.ttl)
            link.session.look_for_room()
            self.room_changed()
        if not self.owner.detached(info) and link.session.detached:
            self.out.will_end(info)
            self.end_session(info.reason)

    def session_connected(self, connection: Connection, limits: Announced) -> None:
        """Let handlers start, and begin the statistics of another connection, over which the session goes on."""
        link, info = self.session.link, connection.transport.info
        assert link is not None
        self.session.unpause()
        self.history.begin(info, self.out.loop.time())
        self.log.remote = info.remote
        self.out.use(link)
        self.out.agree_limits(limits)
        self.out.check_waiting()

    def session_resumed(self) -> None:
        """Tell the owner that the session goes on over another connection."""
        self.log(logging.INFO, "peer %s at %s goes on with its session", self.id, self.log.place)
        self.owner.resumed()

    def session_over(self, info: CloseInfo, lost: ConnectionLost) -> None:
        """End everything that belongs to the session."""
        assert self.session.link is not None
        self._over(self.session.link, info, lost)

    def session_refused(self, connection: Connection, first: tuple[bytes | bytearray, bool] | None) -> None:
        """Tell the client that ``connection`` can begin a new session."""
        self.owner.not_resumed(connection, first)

    def memory(self) -> int:
        """Return the bytes that the session takes here, about: what was received, and what is being worked on."""
        dispatcher, link = self.dispatcher, self.session.link
        calls, room, unread = dispatcher.running.calls, dispatcher.admission.room, self.readers.memory
        broadcasts = None if link is None else link.slow_reader
        return (
            (0 if broadcasts is None else broadcasts.size)
            + sum(call.memory for call in calls)
            + room.size
            + (0 if unread is None else unread.used)
            + MESSAGE * len(room)
            + WORK * (len(calls) + len(self.session.channels) + len(self.out.requests))
        )

    # ------------------------------------------------------------ its tasks

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        link = self.session.link
        if link is not None and not link.session.detached:
            await self.session.wait_gone(self.out.loop)

    def any_task(self) -> asyncio.Future[Any] | None:
        """Return a task of this peer that is not done yet, or the thread that it has left behind. None if all ended."""
        calls = ((call.task, call.thread) for call in self.dispatcher.running.calls)
        unfinished = (each for call in calls for each in call if each is not None and not each.done())
        return next(unfinished, None) or next(iter(self.reporter.running), None)

    async def join(self, patience: float, closers: Closers, still: Callable[[], bool] = lambda: True) -> None:
        """Wait for the handlers and other tasks of this peer, except for ``closers``, which wait for this themselves.

        After ``patience`` seconds cancel them. Cancelling this call only stops the waiting. So does ``still()`` when it
        returns False.
        """
        self.dispatcher.end_conversations()
        deadline = self.out.loop.time() + patience
        while still():
            tasks = self.reporter.tasks(closers) | self.dispatcher.running.tasks(closers)
            if not tasks:
                if self.dispatcher.running.then is None:
                    break
                self.dispatcher.after_events(None)  # only handlers that wait for this close are left
                continue
            # A handler that ends makes room for one that waits, so look again.
            late = await closers.wait_besides(tasks, max(0.0, deadline - self.out.loop.time()))
            if late and still():
                self.dispatcher.admission.discard()
                for task in late:
                    task.cancel()
                stubborn = await closers.wait_besides(late, patience)
                if count := len(stubborn) + self.dispatcher.running.threads_left:
                    self.log(logging.WARNING, "%d handlers do not end although they were cancelled", count)
                if stubborn:
                    break
        if still():
            self.out.requests.stop()
            self.readers.end_late()


def _tells_of_the_end(exc: BaseException) -> bool:
    """Return whether an exception, or each one of a group, only says that a connection has ended."""
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return all(map(_tells_of_the_end, group.exceptions))
    return isinstance(exc, (ConnectionLost, ChannelClosed))
