"""`PeerCore`: the inside of a peer, which outlives its sessions and their links."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, cast

import msgspec

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import PeerLog
from .._base.scheduler import Scheduler
from .._channels.channel_requests import ChannelRequests
from .._channels.core import ChannelCore
from .._channels.readers import Readers
from .._channels.table import ChannelTable
from .._handlers.context import Invocation
from .._handlers.lifecycle import Closers, OpenPhase, Reporter, Stage, Unfinished
from .._handlers.registry import Registry
from .._protocol.codecs import NegotiatedCodec
from .._protocol.control import Announced
from .._protocol.messages import WireMessage
from .._protocol.settings import Settings
from .._sending.link import HoldingTransport, Link, LinkState
from .._sending.negotiation import Negotiation
from .._sending.outbound import Outbound
from .._sending.pending import Pending
from .._sending.requests import Requester
from .._sending.slow_readers import SlowReaderQueue
from .._streams.mailbox import UnreadMessages
from ..errors import ChannelClosed, ConnectionLost, ProtocolError, RpcError, closed_here
from ..limits import Limits
from ..transport import ConnectionInfo, Traffic, Transport
from .dispatch import Dispatcher
from .inbound import Inbound
from .payload_log import PayloadLog
from .session import Session, SessionState
from .waiting import Hold

__all__ = ["PeerCore", "PeerOptions", "PeerOwner"]


class PeerOwner:
    """What a peer reports to the client or the server that it belongs to, and what users read there.

    Each overrides what it needs.
    """

    __slots__ = ("home", "rooms", "server")

    def __init__(self, server: Any = None) -> None:
        self.server = server
        """The `Server` that the peer belongs to. Its class, and that of rooms, lie in a higher layer."""
        self.rooms: dict[Any, bool] = {}
        """The rooms that the peer is in, and whether it joined each by its own request."""
        self.home: Any = None
        """The room that ``room_from`` gave to it."""

    def queued(self) -> None:
        """A message begins to wait for a connection."""

    def open_handlers(self) -> list[Unfinished]:
        """Call what else runs when a connection opens; returns what is not finished."""
        return []

    def reconnect_handlers(self) -> list[Unfinished]:
        """What `on_reconnect` handlers have to do, once the `open` handlers are done."""
        return []

    def opened(self) -> None:
        """A connection is open, and its handlers are done."""

    def lost(self, info: CloseInfo, replaced: bool) -> CloseInfo:
        """A connection has ended; ``replaced``: another one is there already. Returns what `close` handlers get."""
        return info

    def close_handler(self) -> Callable[[CloseInfo], Coroutine[Any, Any, None]] | None:
        """What else is called when a connection has ended."""
        return None


class PeerOptions(msgspec.Struct, frozen=True):
    """What a peer is made with, and what never changes afterwards."""

    settings: Settings
    dialer: bool
    """This side dialed, or will: its requests have odd ids, and it says hello first."""
    own: Registry
    """The handlers of this peer alone."""
    shared: Registry
    """Those of the server, for all its peers."""
    keeps_offline: bool = False
    """What is sent without a connection waits for the next one."""
    fails_offline: bool = False
    """A call that does not say ``offline=`` fails where it would wait for the next connection."""


class ConnectionHistory:
    """What operators ask about the connections of one peer, the present one and those before it."""

    __slots__ = ("_passed", "_since", "dropped", "info")

    def __init__(self) -> None:
        self.info: ConnectionInfo | None = None
        """Of the connection that is there, or about to be, or was the last."""
        self.dropped = 0
        """Broadcasts that were left out because the remote peer reads too slowly."""
        self._since = 0.0
        self._passed: Traffic | None = None
        """What the connections before the present one have carried."""

    def expect(self, info: ConnectionInfo) -> None:
        """There is about to be a connection."""
        self.info = info

    def begin(self, info: ConnectionInfo, now: float) -> None:
        """There is a connection, since the time ``now``."""
        self.info = info
        self._since = now

    def end(self, link: Link) -> None:
        """The present connection is over."""
        self._passed = self.traffic(link)
        self.info = msgspec.structs.replace(link.transport.info, underlying=None)  # which may be gone

    def uptime(self, now: float) -> float:
        """Seconds since the present connection was made."""
        return now - self._since

    def traffic(self, link: Link | None) -> Traffic | None:
        """What all connections have carried, that of ``link`` among them, as far as their transports count it."""
        present = None if link is None else link.traffic
        if present is None or self._passed is None:
            return present or self._passed
        return self._passed + present

    def left_out(self, broadcasts: int) -> None:
        """So many broadcasts were not sent."""
        self.dropped += broadcasts


class PeerCore:
    """One end of its connections, whichever side dialed. It has one session at a time, and that one link or none.

    Synchronous inside: text in, handlers started, futures settled, text out. There is no socket, no await on the
    network and no clock of its own here: ``loop`` gives time, timers and tasks. ``peer`` is what users hold.
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
        self.log = log = PeerLog(self.id)
        self.reporter = Reporter(peer, (shared, own), loop, log)
        self.warn = warn = partial(log, logging.WARNING)
        fail = self.fail  # one bound method, however many have it
        self.out = Outbound(
            settings,
            loop,
            self,
            odd=options.dialer,
            keeps_offline=options.keeps_offline,
            fails_offline=options.fails_offline,
        )
        self._requester = Requester(self.out, limits, own, warn)
        self._unread: UnreadMessages | None = None
        """None until something reads, or an anonymous channel is made."""
        self.readers = Readers(
            self.out,
            self._unread_messages,
            (own, shared),
            converter=self._requester.converter,
            count=self._count,
            reject=self._reject,
            warn=warn,
            survives=options.keeps_offline,
        )
        self.dispatcher = Dispatcher(
            peer,
            own,
            shared,
            limits=limits,
            expose_errors=settings.expose_errors,
            requester=self._requester,
            readers=self.readers,
            reporter=self.reporter,
            ignored=self.ignored,
            fail=fail,
        )
        self.sender = ChannelRequests(
            self._requester, self.readers, limits, open=self._open_channel, keep=self.reporter.keep
        )
        self.session = self._begin_session()
        """The present one, or the last one."""
        self._inbound: Inbound | None = None
        """Receives the present connection's messages."""
        self._ended: asyncio.Future[None] | None = None

    # ------------------------------------------------------------ what parts ask of each other

    def _unread_messages(self) -> UnreadMessages:
        if self._unread is None:
            self._unread = UnreadMessages(self.out.loop, self.options.settings.limits)
        return self._unread

    def request_expired(self, pending: Pending) -> None:
        """End a request whose deadline is over."""
        self._requester.expired(pending)

    def message_queued(self) -> None:
        """Tell the owner that a message begins to wait for a connection."""
        self.owner.queued()

    def has_channel(self, h: int) -> bool:
        """Return whether an anonymous channel is open."""
        return self.session.channels.has(h)

    def is_awaited(self, ctx: Invocation | None) -> bool:
        """Return whether the remote peer waits for the handler that this context belongs to."""
        return self.dispatcher.running.is_awaited(ctx)

    def _count(self, kind: str, text: str) -> None:
        self.dispatcher.count(kind, text)

    def _reject(self, i: int, error: RpcError) -> None:
        self.dispatcher.reject(i, error)

    def _open_channel(self, h: int) -> ChannelCore:
        return self.session.channels.open(h)

    # ------------------------------------------------------------ what its owner sees

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
        """That of the present connection, or ``"disconnected"``."""
        link = self.session.link
        return "disconnected" if link is None else link.state.value

    @property
    def uptime(self) -> float:
        """Seconds since the present connection was made; 0 if there is none."""
        return 0.0 if self.session.link is None else self.history.uptime(self.out.loop.time())

    def traffic(self) -> Traffic | None:
        """What all connections have carried, as far as their transports count it."""
        return self.history.traffic(self.session.link)

    @property
    def limits(self) -> Limits:
        """Those of the present connection, or, without one, those that the next one begins with."""
        link = self.session.link
        return self.options.settings.limits if link is None else link.negotiation.limits

    def change_limits(self, transport: Transport, limits: Limits) -> None:
        """Take inbound messages of another size from now on; see `Peer.limits`."""
        assert self.session.link is not None
        transport.largest = limits.message
        self.session.link.negotiation.change(limits)

    def binary_is_free(self) -> bool:
        """Whether a binary message that is sent now, or waits for a connection, is not one of the protocol's."""
        link = self.session.link
        negotiation = self._negotiation() if link is None else link.negotiation
        return negotiation.binary_is_free()

    # ------------------------------------------------------------ the beginning

    def link_for(self, transport: Transport) -> Link:
        """A link over ``transport``, not bound yet.

        Raises:
            TypeError, ValueError: this is not a transport, or the one that is bound.
        """
        present = self.session.link
        if present is not None and present.transport is transport:
            raise ValueError("this transport is bound already")
        try:
            link = Link(transport, self._negotiation(), self._room_changed, self._lost)
        except AttributeError as exc:
            raise TypeError(f"bind() takes a transport (see wsrpc.Transport), got {transport!r}: {exc}") from None
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
            self._unread_messages,
            sender=self.sender,
            listener=self.dispatcher,
            converter=self._requester.converter,
            warn=self.warn,
        )
        self.out.requests.taken = channels.opened
        session = Session(channels)
        self.dispatcher.begin(session)
        return session

    def make_way(self, link: Link) -> None:
        """End the present connection, if there is one, because of ``link``.

        Raises:
            ConnectionLost: a `close` handler has bound another one meanwhile, or closed. ``link`` is closed, too.
        """
        present = self.session.link
        if present is None:
            return
        replaced = CloseInfo(CloseCode.GOING_AWAY, "another connection was bound")
        ending = self.out.ending if present.state is LinkState.CLOSING else replaced
        self.out.user_closed = False
        self.lose(ending, replaced=True)
        self.reporter.spawn(present.transport.close(ending.code, ending.reason))
        # Where an async handler's first step runs at once, a `close` handler may be the last to say what is to be.
        if self.session.link is not None or self.out.user_closed:
            last = replaced if self.session.link is not None else self.out.ending
            self.reporter.spawn(link.transport.close(last.code, last.reason))
            raise ConnectionLost(last.code, last.reason, "not_sent")

    def attach(self, link: Link) -> None:
        """Make ``link`` the present connection, and call the `open` handlers, then those of `on_reconnect`."""
        out = self.out
        out.user_closed = False
        held = None if out.link is None else out.link.transport
        if self.session.over:
            self.session = self._begin_session()
        else:
            self.readers.reopen()
        session = self.session
        session.attach(link)
        info, dialer = link.transport.info, self.options.dialer
        self.history.begin(info, out.loop.time())
        self.log.remote = info.remote
        self._inbound = inbound = self._receiver(link)
        receive = self._log_payloads(link, inbound.entry)
        out.use(link)
        link.negotiation.begin()
        if self.log.shows(logging.INFO):
            where = "to" if dialer else "from"
            self.log(logging.INFO, "peer %s connected %s %s, path %s", self.id, where, self.log.place, info.path)
        if isinstance(held, HoldingTransport):
            self._resume(link, held)
        else:
            # Requests must pass on one side, or two Python ends would wait for each other's `open` handlers.
            self.dispatcher.admission.hold(Hold.EVENTS if dialer else Hold.ALL)
            self._open(link)
        if session.link is link:  # a handler may have closed, or bound another one
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
        self, link: Link, receive: Callable[[bytes | bytearray, bool], None]
    ) -> Callable[[bytes | bytearray, bool], None]:
        settings = self.options.settings
        if settings.log_payloads is False:
            return receive
        redact = None if settings.log_payloads is True else settings.log_payloads
        codecs = (settings.codec,) if settings.binary is None else (settings.codec, settings.binary)
        log = PayloadLog(codecs, settings.limits.values, redact, self.log)
        link.send = log.sending(link.send)
        return log.receiving(receive)

    def _open(self, link: Link) -> None:
        """Call the `open` handlers. Those that take time run on in ``link.opening``."""
        opening = Invocation(self.peer, WireMessage(a=["open"]))
        link.contexts = (opening,)
        first = Stage(opening, partial(self._handler_failed, link))
        first.fire(self.reporter.registries, "open", (self.peer,))
        if self.session.link is not link:  # a handler has bound another one, whose opening goes on by itself
            first.abandon()
            return
        first.unfinished.extend(self.owner.open_handlers())
        stage = first if first.unfinished else self._reconnected(link)
        if stage is None:
            return
        link.opening = OpenPhase(
            stage,
            partial(self._reconnected, link),
            reporter=self.reporter,
            patience=self.limits.open_handlers,
            done=partial(self._opened, link),
            overdue=self._open_overdue,
        )
        link.opening.start()

    def _reconnected(self, link: Link) -> Stage | None:
        """What `on_reconnect` handlers have to do, after the `open` handlers; None if there is nothing."""
        if link.state is not LinkState.OPENING or len(link.contexts) > 1:
            return None
        unfinished = self.owner.reconnect_handlers()
        if not unfinished:
            return None
        invocation = Invocation(self.peer, WireMessage(a=["on_reconnect"]))
        link.contexts = (*link.contexts, invocation)
        return Stage(invocation, partial(self._handler_failed, link), unfinished)

    def _handler_failed(self, link: Link, event: str, name: str, exc: BaseException) -> None:
        """An `open` or `on_reconnect` handler has raised ``exc``."""
        if not link.works and _tells_of_the_end(exc):
            # It has not failed. A request told it of the connection's end before the handler was cancelled; or the user
            # closes, and then handlers are not cancelled.
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
            await link.opening.wait()
            link = self.session.link
        if link is not None and link.state is LinkState.OPENING and link.opening is None:
            await self.wait_closed()  # the core ended before what waited was sent; the end is reported later

    def _opened(self, link: Link) -> None:
        link.opening = None
        if link.state is not LinkState.OPENING:
            return
        try:
            if not link.silent:
                self.out.flush_offline()
        except ConnectionLost:
            return  # the core has ended; the end is reported later, and what was not sent stays queued
        link.contexts = ()
        link.move(LinkState.OPEN)
        self.out.update_clear()
        self.dispatcher.admission.hold(Hold.NONE)
        link.negotiation.opened()
        self.owner.opened()

    def _open_overdue(self, event: str, handlers: str) -> None:
        self.log(
            logging.WARNING,
            "the handler of %r %s has not finished within %g s: what waited for it is let through",
            event,
            handlers,
            self.limits.open_handlers,
        )

    # ------------------------------------------------------------ while it lasts

    def say(self, control: bytes) -> None:
        """Send a control message."""
        self.out.say(control)

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, credit: bool) -> None:
        """Use what both sides support from now on."""
        self.out.agree(announced, codec, credit)
        assert self._inbound is not None
        self._inbound.agree(codec)

    def slow_reader(self, link: Link) -> SlowReaderQueue:
        """The broadcasts that wait until ``link`` has room."""
        if link.slow_reader is None:
            link.slow_reader = SlowReaderQueue(
                link.send, lambda: link.full, self.limits.behind, self.warn, self.history.left_out
            )
        return link.slow_reader

    def drain(self, until: float) -> None:
        """Go on with what was begun, and refuse what is new and not called for by that, until the time ``until``."""
        link = self.session.link
        if link is not None:
            link.negotiation.drain(until)
            self.dispatcher.admission.drain(partial(self._refuses_new, link))

    def _refuses_new(self, link: Link) -> bool:
        # While this side waits for the remote peer, a request may be part of what it waits for.
        return link.negotiation.quiet and not (self.out.requests or self.session.channels.opened)

    def fall_silent(self) -> bool:
        """Begin nothing new: the remote peer is about to close. Return whether `open` handlers still run."""
        self.out.fall_silent()
        self.dispatcher.run_in_tasks(True)
        self.log(logging.INFO, "the other side is about to close: what is new waits for another connection")
        assert self.session.link is not None
        return bool(self.session.link.contexts)

    def _room_changed(self) -> None:
        """The connection has become full, or has room again."""
        self.dispatcher.admission.room_changed()
        self.out.turns.wake()
        self.out.update_clear()

    # ------------------------------------------------------------ the end

    def begin_close(self, code: int, reason: str) -> Link | None:
        """Accept nothing more; returns the link whose transport is to be closed now."""
        out, link = self.out, self.session.link
        out.user_closed = True
        if out.silent:  # what asks would get no answer any more
            out.discard_offline_requests(CloseInfo(code, reason))
        if link is not None and (link.state is LinkState.OPENING or link.silent):
            with suppress(ConnectionLost):
                out.flush_offline()
        closing = link is not None and link.state is LinkState.CLOSING
        if not closing:
            out.ending = CloseInfo(code, reason, user_closed=True)
            if link is not None and link.slow_reader is not None:
                link.slow_reader.flush(everything=True)
        if self.session.state is SessionState.DETACHED:
            self.session.end()
            out.unlink()
            self._end(self.session, out.ending, True)
        elif link is None:
            out.discard_offline(out.ending)
        elif not closing:
            link.move(LinkState.CLOSING)
            out.update_clear()
        return link

    def fail(self, code: int, reason: str) -> None:
        """End the connection because of what the remote peer did; what it still sends is ignored."""
        link = self.session.link
        if link is None or link.state is LinkState.CLOSING:
            return
        self.log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self.out.ending = CloseInfo(code, reason)
        link.move(LinkState.CLOSING)
        self.out.update_clear()
        link.stop_receiving()
        self.reporter.tell("error", ProtocolError(reason))
        self.reporter.spawn(link.transport.close(code, reason))

    def refuse(self, code: int, reason: str) -> None:
        """Close while the connection opens, and ignore everything that has come."""
        link = self.begin_close(code, reason)
        if link is not None:
            link.stop_receiving()
            self.dispatcher.admission.discard()
            self.reporter.spawn(link.transport.close(code, reason))

    def _lost(self, link: Link, info: CloseInfo) -> None:
        if self.session.link is link:
            self.lose(info)

    def lose(self, info: CloseInfo, replaced: bool = False) -> None:
        """The present connection is over; ``replaced``: another one is there already."""
        out, session = self.out, self.session
        link = session.link
        if link is None:
            return
        # `close` may have been overtaken by what brings a new connection, and this one still ends by it.
        by_user = out.user_closed or (link.state is LinkState.CLOSING and out.ending.user_closed)
        link.end()
        self.history.end(link)
        out.unlink()
        if not replaced and not by_user and self.options.settings.keeps_session(info):
            self._detach(link)
            return
        session.end()
        info = self.owner.lost(msgspec.structs.replace(info, user_closed=by_user), replaced)
        if self.log.shows(logging.INFO):
            self.log(logging.INFO, "peer %s at %s disconnected: %d %s", self.id, self.log.place, info.code, info.reason)
        if link.opening is not None:
            link.opening.connection_lost(user_closed=info.user_closed)
        link.negotiation.connection_lost()
        if link.silent:
            self.dispatcher.run_in_tasks(False)
        self._end(session, info, by_user)

    def _end(self, session: Session, info: CloseInfo, by_user: bool) -> None:
        """End everything that belongs to ``session``, which is over, and call the `close` handlers."""
        out = self.out
        out.ending = info
        out.end_session(info)
        lost = ConnectionLost(info.code, info.reason)
        if by_user:
            closed_here(lost)
        self.dispatcher.end_session(session, lost)
        self.readers.connection_lost(lost)
        if self._unread is not None:
            self._unread.forget_late_requests()
        session.channels.end(lost)
        self.reporter.tell("close", info)
        close_handler = self.owner.close_handler()
        if close_handler is not None:
            self.reporter.call("close", close_handler, info)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        self._ended = None

    def _detach(self, link: Link) -> None:
        """Keep the session without a link: requests, handlers, channels and streams go on when it gets another one."""
        self.session.detach()
        holding = Link(HoldingTransport(link.transport.info), self._negotiation(), self._room_changed, self._lost)
        holding.move(LinkState.OPEN)
        self.out.detach(holding)
        self._room_changed()

    def _resume(self, link: Link, holding: HoldingTransport) -> None:
        """Go on with the session on ``link``: what was sent meanwhile leaves first."""
        for payload, text in holding.held:
            link.send(payload, text)
        link.move(LinkState.OPEN)
        self.out.update_clear()

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        if self.session.link is None:
            return
        if self._ended is None:
            self._ended = self.out.loop.create_future()
        await asyncio.shield(self._ended)

    async def join(self, patience: float, closers: Closers, still: Callable[[], bool] = lambda: True) -> None:
        """Wait for handlers and whatever else this peer started, besides those that wait for this themselves.

        After ``patience`` seconds they are cancelled. Cancelling this stops waiting and leaves everything running, and
        so does ``still()`` when it is no longer true.
        """
        self.dispatcher.end_conversations()
        deadline = self.out.loop.time() + patience
        while still():
            tasks = self.reporter.tasks(closers) | self.dispatcher.running.tasks(closers)
            if not tasks:
                break
            # What ends makes room for others, so look again.
            late = await closers.wait_besides(tasks, max(0.0, deadline - self.out.loop.time()))
            if late and still():
                self.dispatcher.admission.discard()
                for task in late:
                    task.cancel()
                if stubborn := await closers.wait_besides(late, patience):
                    self.log(logging.WARNING, "%d handlers do not end although they were cancelled", len(stubborn))
                    break
        if still():
            self.out.requests.stop()
            if self._unread is not None:
                self._unread.leave_late()


def _tells_of_the_end(exc: BaseException) -> bool:
    """Whether an exception says only that a connection has ended. That of an `asyncio.TaskGroup` holds several."""
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return all(map(_tells_of_the_end, group.exceptions))
    return isinstance(exc, (ConnectionLost, ChannelClosed))
