"""`PeerCore`: the inside of a peer, which outlives its sessions and their links."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any, cast

import msgspec

from .._base.closing import GOES_ON, CloseCode, CloseInfo
from .._base.names import Redact
from .._base.scheduler import Scheduler
from .._channels.channel_requests import ChannelRequests
from .._channels.core import ChannelTable
from .._channels.readers import Readers
from .._handlers.invocation import Invocation
from .._handlers.lifecycle import Closers, OpenPhase, Reporter, Stage
from .._handlers.registry import Registry
from .._protocol.codecs import NegotiatedCodec
from .._protocol.control import Ack, Announced, Welcome, write_control
from .._protocol.messages import WireMessage
from .._protocol.settings import Settings
from .._sending.link import Link, LinkState
from .._sending.negotiation import Negotiation
from .._sending.outbound import Outbound
from .._sending.pending import Pending
from .._sending.slow_readers import Slow, SlowReaderQueue
from ..errors import ChannelClosed, ConnectionLost, ProtocolError, SessionLost, closed_here
from ..limits import Limits
from ..transport import ConnectionInfo, Traffic, Transport
from .answers import Answers
from .dispatch import Dispatcher
from .inbound import Inbound
from .owner import PeerOwner
from .payload_log import PayloadLog
from .resumption import Resumption, SessionName
from .session import Session, SessionInput, SessionState
from .waiting import Hold

__all__ = ["PeerCore", "PeerOptions"]

SESSION = 16 * 1024
"""Bytes that a session without a connection takes besides all that is counted, about."""
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

    def end(self, link: Link) -> None:
        """Note that the present connection has ended."""
        self._passed = self.traffic(link)
        self.info = msgspec.structs.replace(link.transport.info, underlying=None)  # the object may be gone

    def uptime(self, now: float) -> float:
        """Return the seconds since the present connection was made."""
        return now - self._since

    def traffic(self, link: Link | None) -> Traffic | None:
        """Return the traffic of all connections with that of ``link``, as far as their transports count it."""
        present = None if link is None else link.traffic
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
        self.resumption: Resumption | None = None
        """How that session goes on over another connection. None until both sides have said that it can."""
        self._inbound: Inbound | None = None
        """Receives the messages of the present connection."""

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
    def transport(self) -> Transport | None:
        """The transport of the present connection."""
        link = self.session.link
        return None if link is None else link.transport

    @property
    def state(self) -> str:
        """State of the present connection, or ``"disconnected"``."""
        link, session = self.session.link, self.session
        if link is None:
            return session.state.value if session.detached else "disconnected"
        return link.state.value

    @property
    def uptime(self) -> float:
        """Seconds since the present connection was made; 0 if there is none."""
        return 0.0 if self.session.link is None else self.history.uptime(self.out.loop.time())

    def traffic(self) -> Traffic | None:
        """Return the traffic of all connections, as far as their transports count it."""
        return self.history.traffic(self.session.link)

    @property
    def detached(self) -> bool:
        """Whether there is no connection, but the session may go on over another one."""
        return self.resumption is not None and self.session.detached

    @property
    def limits(self) -> Limits:
        """Limits of the session; without one, those that the next one begins with."""
        link = self.out.link
        return self.options.settings.limits if link is None else link.negotiation.limits

    def change_limits(self, limits: Limits) -> None:
        """Accept inbound messages of another size from now on, in this session. See `Peer.limits`."""
        link = self.out.link
        assert link is not None
        transport = link.transport
        transport.largest = limits.message
        link.negotiation.change(limits)

    def binary_is_free(self) -> bool:
        """Return whether a binary message that is sent now, or waits for a connection, is a raw one."""
        link = self.out.link
        negotiation = self._negotiation() if link is None else link.negotiation
        return negotiation.binary_is_free()

    # ------------------------------------------------------------ the beginning

    def expect(self, info: ConnectionInfo) -> None:
        """Let `Peer.info` and the log tell of a connection that is about to be attached."""
        self.history.expect(info)
        self.log.remote = info.remote

    def link_for(self, transport: Transport) -> Link:
        """Return a new link over ``transport``.

        Raises:
            TypeError: ``transport`` is not a transport.
            ValueError: it is bound already.
        """
        present = self.session.link
        if present is not None and present.transport is transport:
            raise ValueError("this transport is bound already")
        try:
            link = Link(transport, self._negotiation(), self)
        except AttributeError as exc:
            wanted = "bind() takes a transport (see wsrpc.transport.Transport)"
            raise TypeError(f"{wanted}, got {transport!r}: {exc}") from None
        return link

    def _negotiation(self) -> Negotiation:
        return Negotiation(self.options.settings, self.out.loop, self, dialer=self.options.dialer)

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
        replaced = CloseInfo(CloseCode.GOING_AWAY, "another connection was bound")
        if self.resumption is not None and self.session.detached:
            self.out.reopen()
            self.session_lost(SessionInput.ENDED, self.out.ending, replaced.reason, replaced=True)
        elif present is None:
            return
        else:
            ending = replaced
            present.send_kept_back()
            if present.state is LinkState.CLOSING:
                ending = self.out.ending
            else:
                self.say_closed()
            self.out.reopen()
            self.lose(ending, replaced=True)
            self.reporter.spawn(present.transport.close(ending.code, ending.reason))
        self.dispatcher.after_events(None)
        # A `close` handler may have said what is to be: with eager tasks the first step of a coroutine runs at once.
        if self.session.link is not None or self.out.user_closed:
            last = replaced if self.session.link is not None else self.out.ending
            self.reporter.spawn(link.transport.close(last.code, last.reason))
            raise ConnectionLost(last.code, last.reason, "not_sent")

    def attach(self, link: Link) -> None:
        """Make ``link`` the present connection, and call the `open` handlers, then those of `on_reconnect`."""
        out = self.out
        out.reopen()
        if self.session.state is SessionState.OVER:
            self.session, self.resumption = self._begin_session(), None
        else:
            self.readers.reopen()
        session = self.session
        session.attach(link)
        info, dialer = link.transport.info, self.options.dialer
        self.history.begin(info, out.loop.time())
        self.log.remote = info.remote
        self._inbound = self._receiver(link)
        receive = self.receiver_of(link)
        out.use(link)
        asked = link.state is LinkState.RESUMING
        if asked:  # that was its hello
            link.move(LinkState.OPENING)
        else:
            link.negotiation.begin()
        if self.log.shows(logging.INFO):
            where = "to" if dialer else "from"
            path = info.target.partition("?")[0]
            self.log(logging.INFO, "peer %s connected %s %s, path %s", self.id, where, self.log.place, path)
        # One side lets requests in meanwhile. Otherwise two Python ends would wait for each other's handlers.
        self.dispatcher.admission.hold(Hold.EVENTS if dialer else Hold.ALL)
        self._open(link)
        if session.link is link:  # a handler may have closed, or bound another one
            if asked:
                link.go_on(receive, self.dispatcher.read_ended)
            else:
                link.start(receive, self.dispatcher.read_ended)
            if link.opening is None:
                self._opened(link)

    def _receiver(self, link: Link) -> Inbound:
        options, settings = self.options, self.options.settings
        return Inbound(
            settings.codec,
            settings.limits,
            options.own,
            options.shared,
            dispatcher=self.dispatcher,
            out=self.out,
            channels=self.session.channels,
            negotiation=link.negotiation if settings.extensions else None,
            reporter=self.reporter,
            fail=self.fail,
        )

    def _log_payloads(
        self, link: Link, receive: Callable[[bytes | bytearray, bool], None], redact: Redact | None
    ) -> Callable[[bytes | bytearray, bool], None]:
        settings = self.options.settings
        codecs = (settings.codec,) if settings.binary is None else (settings.codec, settings.binary)
        log = PayloadLog(codecs, settings.limits.values, redact, self.log)
        link.wrap_sending(log.sending)
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
                lambda: None if (link := self._opening_of(session)) is None else self._reconnected(link),
                reporter=self.reporter,
                patience=self.limits.open_handlers,
                done=lambda: None if (link := self._opening_of(session)) is None else self._opened(link),
                overdue=self._open_overdue,
            )
        )

    def _opening_of(self, session: Session) -> Link | None:
        """Return the present link of ``session``, which opens: it may have another one than when it began to."""
        return self.out.link if session is self.session and not session.over else None

    def _reconnected(self, link: Link) -> Stage | None:
        """Call the `on_reconnect` handlers, after the `open` handlers. Return None if all are finished."""
        state = link.state
        works = state is LinkState.OPENING or state is LinkState.DETACHED
        if not (works or (state is LinkState.BROKEN and self.resumable)) or len(link.contexts) > 1:
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
        has_ended = session.over if link is None else not (link.works or self.resumable)
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
        if link is not None and link.state is LinkState.BROKEN:
            await self.wait_closed()  # that is reported later

    def _opened(self, link: Link) -> None:
        """Let everything pass: the handlers of the opening are done or overdue."""
        link.opening = None
        if link.state is LinkState.OPENING and not link.negotiation.silent:
            try:
                self.out.flush_offline()
            except ConnectionLost:  # its end is reported later, and unsent messages stay in the queue
                link.move(LinkState.BROKEN)
        if link.state is LinkState.CLOSING:
            return
        link.opened()
        self.dispatcher.admission.hold(Hold.NONE)
        if link.state is not LinkState.OPEN:  # what the handlers have sent waits, too, and leaves first
            if self.out.queued:
                self.out.offline_queue().put_session_first()
            return
        self.out.update_clear()
        link.negotiation.opened()
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

    def say(self, control: bytes) -> None:
        """Send a control message."""
        self.out.say(control)

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str]) -> None:
        """Use what both sides support from now on."""
        self.out.agree(announced, codec, common)
        assert self._inbound is not None
        self._inbound.agree(codec)

    def hold_broadcast(self, link: Link, payload: bytes, text: bool, slow: Slow, key: Hashable) -> bool:
        """Let a broadcast wait until ``link`` has room. Return False if the policy drops it."""
        queue = link.hold_broadcasts(
            lambda: SlowReaderQueue(
                self._send_on_link, self._is_full, self.limits.behind, self.log.warn, self.history.left_out
            )
        )
        waits = queue.add(payload, text, slow, key)
        self.out.recount()
        return waits

    # A session's queue of broadcasts goes from link to link.

    def _send_on_link(self, payload: bytes, text: bool) -> None:
        assert self.out.link is not None
        try:
            self.out.link.send(payload, text)
        except ConnectionLost:
            if not self.out.wait_with_session(payload, text):
                raise

    def _is_full(self) -> bool:
        return self.out.link is not None and self.out.link.full

    def drain(self, until: float) -> None:
        """Finish the calls that have begun, and refuse new ones that they do not need, until the time ``until``."""
        link = self.session.link
        if link is not None:
            link.negotiation.drain(until)
            self.dispatcher.admission.drain(partial(self._refuses_new, link))

    def _refuses_new(self, link: Link) -> bool:
        # While a request of this side is pending, a new request may be part of its handler's work.
        return link.negotiation.quiet and not (self.out.requests or self.session.channels.opened)

    def fall_silent(self) -> bool:
        """Begin nothing new, because the remote peer is about to close. Return whether `open` handlers still run."""
        self.out.fall_silent()
        self.dispatcher.run_in_tasks(True)
        self.log(logging.INFO, "the remote peer is about to close: new messages wait for another connection")
        assert self.session.link is not None
        return bool(self.session.link.contexts)

    def room_changed(self) -> None:
        """Note that the connection has become full, or has room again."""
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
        if link is not None and (link.state is LinkState.OPENING or link.negotiation.silent):
            with suppress(ConnectionLost):
                out.flush_offline()
        closing = link is not None and link.state is LinkState.CLOSING
        if not closing:
            out.will_end(CloseInfo(code, reason, user_closed=True))
            if link is not None and link.slow_reader is not None:
                link.slow_reader.flush(everything=True)
        if self.session.detached:
            why = f"closed on this side: {reason}" if reason else "closed on this side"
            self.session_lost(SessionInput.CLOSED, out.ending, why, by_user=True)
        elif link is None:
            out.discard_offline(out.ending)
        elif not closing:
            self._stop(link)
        return link

    def _stop(self, link: Link) -> None:
        """Let nothing in and no handler start from now on: this side closes, and the session ends with ``link``."""
        self.say_closed()
        link.move(LinkState.CLOSING)
        self.out.update_clear()
        self._pause(link)

    def _pause(self, link: Link) -> None:
        """Let nothing in and no handler start: the Close frame of ``link`` is queued, and the client may ignore it."""
        link.stop_receiving()
        self.session.pause(self.out.loop)
        self.dispatcher.admission.update()

    def fail(self, code: int, reason: str) -> None:
        """Close the connection because of what the remote peer did, and ignore whatever else it sends."""
        link = self.session.link
        if self.session.detached:
            self.session_lost(SessionInput.OVERFLOWED, self.out.ending, reason)
            return
        if link is None or link.state is LinkState.CLOSING:
            return
        self.log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self.out.will_end(CloseInfo(code, reason))
        self._stop(link)
        self.reporter.tell("error", ProtocolError(reason))
        self.reporter.spawn(link.transport.close(code, reason))

    def refuse(self, code: int, reason: str) -> None:
        """Close the connection while it opens, and ignore the messages that have arrived."""
        link = self.begin_close(code, reason)
        if link is not None:
            self.reporter.spawn(link.transport.close(code, reason))

    def link_lost(self, link: Link, info: CloseInfo) -> None:
        """Handle the end of the connection of ``link``."""
        if self.session.link is link:
            self.lose(info)
        elif self.resumption is not None and self.resumption.asking is link:
            self.resumption.failed(link, info)

    def lose(self, info: CloseInfo, replaced: bool = False) -> None:
        """Handle the end of the present connection, which another one has ``replaced`` or not."""
        out, session = self.out, self.session
        link = session.link
        if link is None:
            return
        # After the user's `close`, a call that brings another connection may have come. This one still ends by `close`.
        by_user = out.user_closed or (link.state is LinkState.CLOSING and out.ending.user_closed)
        can_go_on = (
            self.resumption is not None and not (replaced or by_user) and info.code in GOES_ON and self.resumable
        )
        self.disconnected(link)
        if can_go_on:
            self._detach(link, info)
            return
        out.unlink()
        session.end(SessionInput.ENDED)
        if self.resumption is not None:
            self.resumption.stop()
        info = self.owner.lost(msgspec.structs.replace(info, user_closed=by_user), replaced)
        if self.log.shows(logging.INFO):
            self.log(logging.INFO, "peer %s at %s disconnected: %d %s", self.id, self.log.place, info.code, info.reason)
        if link.opening is not None:
            link.opening.connection_lost(user_closed=info.user_closed)
        link.negotiation.connection_lost()
        if link.negotiation.silent:
            self.dispatcher.run_in_tasks(False)
        self._end(session, info, ConnectionLost(info.code, info.reason), by_user)

    def _detach(self, link: Link, info: CloseInfo) -> None:
        """Let the session go on without a connection."""
        resumption = self.resumption
        assert resumption is not None
        resumption.detach(link, info)
        self.log(
            logging.INFO,
            "peer %s at %s lost its connection: %d %s; its session is kept for %g s",
            self.id,
            self.log.place,
            info.code,
            info.reason,
            resumption.name.ttl,
        )
        self.session_detached(info)

    def memory(self) -> int:
        """Return the bytes that the session takes at present, about: what is sent, received and being worked on."""
        out, dispatcher = self.out, self.dispatcher
        running, room, unread = dispatcher.running, dispatcher.admission.room, self.readers.memory
        broadcasts = None if out.link is None else out.link.slow_reader
        return (
            SESSION
            + out.kept
            + (0 if broadcasts is None else broadcasts.size)
            + running.held
            + running.held_by_channels
            + room.size
            + (0 if unread is None else unread.used)
            + MESSAGE * (out.kept_messages + len(room))
            + WORK * (len(running.calls) + len(self.session.channels) + len(out.requests))
        )

    def end_session(self, why: str) -> None:
        """End a session that has no connection: it cannot be kept any longer."""
        self.session_lost(SessionInput.ENDED, self.out.ending, why)

    def close_for_another(self, code: int, reason: str) -> None:
        """Close the connection, but not the session, which goes on over another one if it can.

        What arrives meanwhile is not counted, so that the client sends it again on that one.
        """
        link = self.session.link
        if link is not None and link.state is not LinkState.CLOSING:
            self._pause(link)
            self.close_transport(link, code, reason)

    def _end(self, session: Session, info: CloseInfo, lost: ConnectionLost, by_user: bool) -> None:
        """End everything that belongs to ``session``, which is over, and call the `close` handlers."""
        self.out.end_session(info, lost)
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

    # ------------------------------------------------------------ sessions that go on over another connection

    def say_closed(self) -> None:
        """Tell the server that the session ends with the connection, before the Close frame.

        Some ASGI servers do not tell it of Close frames, and it would keep the session for a client that has left.
        """
        if self.options.dialer and self.resumption is not None:
            self.resumption.say_closed()

    def end_with_connection(self) -> None:
        """Let the session end with its connection: the client is about to close it."""
        if self.resumption is not None:
            self.resumption.give_up()

    def can_resume(self) -> bool:
        """Return whether sessions of this side can go on over another connection."""
        return self.options.resumes and self.owner.in_origin and self.options.settings.limits.replay > 0

    @property
    def resumable(self) -> bool:
        """Whether another connection may go on with the session, be there one at present or not."""
        session, link, resumption = self.session, self.session.link, self.resumption
        if link is None:
            return session.detached
        if resumption is None or resumption.given_up:
            return False
        return resumption.complete and link.state is not LinkState.CLOSING

    def name_session(self, welcome: Welcome) -> bool:
        """Put the name of the session into a welcome. Return False if it cannot resume."""
        name = self.owner.name_session()
        if name is None:
            return False
        welcome.sid, welcome.token, welcome.ttl = name
        self._make_resumption(name._replace(token=""))  # this side keeps a hash of it, for all its sessions
        return True

    def session_named(self, welcome: Welcome) -> None:
        """Count in both directions from now on: the remote peer has named the session."""
        resumption = self._make_resumption(SessionName(welcome.sid, welcome.token, welcome.ttl))
        self.say(write_control(Ack(0, 0)))
        resumption.count_sent()
        resumption.count_received()

    def _make_resumption(self, name: SessionName) -> Resumption:
        self.resumption = Resumption(name, self.session, self.out, self.options.settings.limits, self)
        return self.resumption

    def count_sent(self) -> None:
        """Count what is sent from now on in this session."""
        assert self.resumption is not None
        self.resumption.count_sent()

    def acknowledged(self, ack: Ack, size: int) -> bool:
        """Take an acknowledgement of ``size`` bytes. Return False if this side counts nothing."""
        return self.resumption is not None and self.resumption.acknowledged(ack, size)

    def uncounted(self, size: int) -> None:
        """Take back the counting of a control message of ``size`` bytes that is being received."""
        if self.resumption is not None:
            self.resumption.uncounted(size)

    def resume(self, link: Link) -> None:
        """Ask the server to go on with the session on ``link``."""
        assert self.resumption is not None
        self.resumption.ask(link)

    # ------------------------------------------------------------ what the resumption reports

    def recount(self) -> None:
        """Tell the owner that a session without a connection takes more memory, or less."""
        self.owner.recount()

    def receiver_of(self, link: Link) -> Callable[[bytes | bytearray, bool], None]:
        """Return what receives the messages of ``link``."""
        assert self._inbound is not None
        receive = self._inbound.receive_raw if self.options.shared.raw_only else self._inbound.receive
        if (shown := self.options.settings.log_payloads) is not False:
            receive = self._log_payloads(link, receive, None if shown is True else shown)
        return receive

    def connected(self, link: Link) -> None:
        """Let handlers start, and begin the statistics of ``link``, which is the present connection."""
        self.session.unpause()
        transport = link.transport
        transport.largest = link.negotiation.limits.message  # `Peer.limits` may have changed
        self.history.begin(transport.info, self.out.loop.time())
        self.log.remote = transport.info.remote

    def disconnected(self, link: Link) -> None:
        """Let nothing through that ``link`` still delivers, and end its statistics."""
        link.end()
        self.history.end(link)

    def close_transport(self, link: Link, code: int, reason: str = "") -> None:
        """Begin to close the transport of ``link``."""
        self.reporter.spawn(link.transport.close(code, reason))

    def session_resumed(self, link: Link, receive: Callable[[bytes | bytearray, bool], None], asked: bool) -> None:
        """Let the messages of ``link`` in: the session goes on over it."""
        self.log(logging.INFO, "peer %s at %s goes on with its session", self.id, self.log.place)
        if asked:
            link.go_on(receive, self.dispatcher.read_ended)
        else:
            link.start(receive, self.dispatcher.read_ended)
        self.owner.resumed()

    def session_detached(self, info: CloseInfo) -> None:
        """Keep the session without a connection, if its owner wants that."""
        if not self.owner.detached(info) and self.session.detached:
            self.session_lost(SessionInput.ENDED, info, info.reason)

    def session_refused(self, link: Link, why: str, first: tuple[bytes | bytearray, bool] | None) -> None:
        """End the session, and tell the client that ``link`` can begin a new one."""
        self.session_lost(SessionInput.REFUSED, self.out.ending, why)
        self.owner.not_resumed(link, first)

    def session_lost(
        self, happened: SessionInput, info: CloseInfo, why: str, *, by_user: bool = False, replaced: bool = False
    ) -> None:
        """End a session that has no connection."""
        session, out, resumption = self.session, self.out, self.resumption
        assert resumption is not None
        stand_in = out.link
        assert stand_in is not None
        session.end(happened)
        out.unlink()
        resumption.end(stand_in)
        if stand_in.opening is not None:
            stand_in.opening.connection_lost(user_closed=by_user)
        lost = SessionLost(info.code, why)
        info = self.owner.lost(msgspec.structs.replace(info, user_closed=by_user), replaced, lost)
        self.log(logging.INFO, "the session of peer %s at %s is over: %s", self.id, self.log.place, why)
        self._end(session, info, lost, by_user)

    # ------------------------------------------------------------ its tasks

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        if self.session.link is not None:
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
