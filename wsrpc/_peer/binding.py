"""The connections of one peer, one after the other: each bound, opening, open, closing, lost."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import PeerLog
from .._base.scheduler import Scheduler
from .._channels.readers import Readers
from .._channels.table import Channels
from .._handlers.context import Invocation, in_context
from .._handlers.lifecycle import OpenPhase, Reporter, Stage, State, Unfinished, abandon, fire, move
from .._protocol.messages import Inbound
from .._protocol.settings import Settings
from .._sending.outbound import Outbound
from .._sending.session import Session
from ..errors import ConnectionLost, ProtocolError, closed_here
from ..transport import ConnectionInfo, Traffic, Transport
from .dispatch import Calls
from .inbound import Intake
from .negotiation import Agreement
from .payload_log import PayloadLog
from .slow_readers import Behind
from .waiting import Hold

__all__ = ["Binding", "Services"]


class Services(Protocol):
    """The services of one peer: see `Service`."""

    def opened(self) -> list[Unfinished]: ...

    def ended(self, info: CloseInfo, /) -> Coroutine[Any, Any, None]: ...


class Owner(Protocol):
    """What this needs of the peer that it is for, besides its parts."""

    _services: Services | None


class Binding:
    """Binds one peer to its transports, and tells all its parts of each connection's beginning and end.

    ``session`` is the present connection's, ``state`` says how far that is, ``limits`` are its bounds.
    """

    __slots__ = (
        "_agreement",
        "_calls",
        "_channels",
        "_dialer",
        "_ended",
        "_intake",
        "_log",
        "_loop",
        "_out",
        "_passed",
        "_payloads",
        "_peer",
        "_readers",
        "_reporter",
        "_settings",
        "_since",
        "behind",
        "info",
        "limits",
        "on_lost",
        "on_opened",
        "on_return",
        "opening",
        "session",
        "state",
    )

    def __init__(
        self,
        peer: Owner,
        settings: Settings,
        loop: Scheduler,
        *,
        dialer: bool,
        out: Outbound,
        calls: Calls,
        channels: Channels,
        readers: Readers,
        agreement: Agreement,
        intake: Intake,
        reporter: Reporter,
        log: PeerLog,
    ) -> None:
        self._peer: Any = peer  # for contexts, which name its class
        self._settings = settings
        self._loop = loop
        self._dialer = dialer
        self._out = out
        self._calls = calls
        self._channels = channels
        self._readers = readers
        self._agreement = agreement
        self._intake = intake
        self._reporter = reporter
        self._log = log
        self.limits = settings.limits
        self.session: Session | None = None
        self.info: ConnectionInfo | None = None
        """Of the connection that is there, or about to be, or was the last."""
        self.state = State.DISCONNECTED
        self.opening: OpenPhase | None = None
        self.behind: Behind | None = None
        self.on_lost: Callable[[CloseInfo, bool], CloseInfo] | None = None
        """The owner's: told first of a connection's end, and whether another replaces it. It may add what it knows."""
        self.on_opened: Callable[[], None] | None = None
        """The owner's: told when a connection is open and the handlers of that are done."""
        self.on_return: Callable[[], list[Unfinished]] | None = None
        """The owner's: gives what `on_reconnect` handlers have to do, when the `open` handlers are done."""
        self._payloads: PayloadLog | None = None
        if settings.log_payloads is not False:
            redact = None if settings.log_payloads is True else settings.log_payloads
            codecs = (settings.codec,) if settings.binary is None else (settings.codec, settings.binary)
            self._payloads = PayloadLog(codecs, settings.limits.values, redact, log)
        self._since = 0.0
        self._passed: Traffic | None = None
        """On the connections before the present one."""
        self._ended: asyncio.Future[None] | None = None

    @property
    def uptime(self) -> float:
        """Seconds since the present connection was made; 0 if there is none."""
        return 0.0 if self.session is None else self._loop.time() - self._since

    def traffic(self) -> Traffic | None:
        """What has passed over all connections, as far as their transports count it."""
        present: Traffic | None = None if self.session is None else getattr(self.session.transport, "traffic", None)
        if present is None or self._passed is None:
            return present or self._passed
        return self._passed + present

    # ------------------------------------------------------------ the beginning

    def session_for(self, transport: Transport) -> Session:
        """Joins ``transport`` to this peer, not yet bound.

        Raises:
            TypeError, ValueError: this is no transport, or the one that is bound.
        """
        if self.session is not None and self.session.transport is transport:
            raise ValueError("this transport is bound already")
        try:
            session = Session(
                transport,
                receive=self._intake.entry,
                read_ended=self._calls.read_ended,
                pause_sending=self._pause_sending,
                resume_sending=self._resume_sending,
                connection_lost=self.lose,
            )
        except AttributeError as exc:
            raise TypeError(f"bind() takes a transport (see wsrpc.Transport), got {transport!r}: {exc}") from None
        if self._payloads is not None:
            self._payloads.join(session)
        return session

    def make_way(self, session: Session) -> None:
        """End the present connection, if there is one, because of ``session``.

        Raises:
            ConnectionLost: a `close` handler has bound another one meanwhile, or closed. ``session`` is closed, too.
        """
        present = self.session
        if present is None:
            return
        replaced = CloseInfo(CloseCode.GOING_AWAY, "another connection was bound")
        ending = self._out.ending if self.state is State.CLOSING else replaced
        self._out.user_closed = False
        self.lose(ending, replaced=True)
        self._reporter.spawn(present.transport.close(ending.code, ending.reason))
        # Where an async handler's first step runs at once, a `close` handler may be the last to say what is to be.
        if self.session is not None or self._out.user_closed:
            last = replaced if self.session is not None else self._out.ending
            self._reporter.spawn(session.transport.close(last.code, last.reason))
            raise ConnectionLost(last.code, last.reason, "not_sent")

    def attach(self, session: Session) -> None:
        """Make ``session`` the present connection, and call the `open` handlers, then those of `on_reconnect`."""
        self._out.user_closed = False
        self.session = session
        self._since = self._loop.time()
        self.info = session.transport.info
        self._log.remote = self.info.remote
        self._become(State.OPENING)
        self._readers.begin()
        self.limits = self._settings.limits
        self._agreement.connection_made()
        where = "to" if self._dialer else "from"
        self._log(
            logging.INFO, "peer %s connected %s %s, path %s", self._log.id, where, self._log.place, self.info.path
        )
        # Requests must pass on one side, or two Python ends would wait for each other's `open` handlers.
        self._calls.admission.hold(Hold.EVENTS if self._dialer else Hold.ALL)
        self._calls.use_context(contextvars.copy_context())
        self._out.opening = Invocation(self._peer, Inbound(a=["open"]))
        self._out.returning = None
        context = in_context(self._out.opening)
        unfinished = fire(self._reporter.registries, ("open", "connect"), (self._peer,), self._reporter.failed, context)
        if self.session is not session:  # a handler has bound another one, whose opening goes on by itself
            abandon(unfinished)
            return
        if self._peer._services is not None:
            unfinished += self._peer._services.opened()
        stage: Stage | None = None
        if unfinished:
            stage = context, unfinished
        else:
            stage = self._return()
        if stage is not None:
            opening = self.opening = OpenPhase(
                stage,
                self._return,
                loop=self._loop,
                patience=self.limits.open_handlers,
                keep=self._reporter.keep,
                done=self._opened,
                overdue=self._open_overdue,
                raised=self._reporter.failed,
            )
            opening.start()
        if self.session is session:  # a handler may have closed or bound again
            session.start()
            if self.opening is None:
                self._opened()

    def _return(self) -> Stage | None:
        """What `on_reconnect` handlers have to do, after the `open` handlers; None if there is nothing."""
        if self.state is not State.OPENING or self._out.returning is not None or self.on_return is None:
            return None
        unfinished = self.on_return()
        if not unfinished:
            return None
        self._out.returning = Invocation(self._peer, Inbound(a=["on_reconnect"]))
        return in_context(self._out.returning), unfinished

    async def wait_opened(self) -> None:
        """Wait until `open` and `on_reconnect` handlers are done or overdue, or the connection is gone.

        Cancelling is safe.
        """
        if self.opening is not None:
            await self.opening.wait()
        if self.state is State.OPENING and self.opening is None:
            await self.wait_closed()  # it has ended before what waited was sent, and is about to say so

    def _opened(self) -> None:
        self.opening = None
        if self.state is not State.OPENING:
            return
        try:
            if not self._out.silent:
                self._out.flush_offline()
        except ConnectionLost:
            return  # it has ended, and `connection_lost` is about to come; what was not sent stays queued
        self._out.opening = self._out.returning = None
        self._become(State.OPEN)
        self._calls.admission.hold(Hold.NONE)
        self._agreement.opened()
        if self.on_opened is not None:
            self.on_opened()

    def _open_overdue(self, event: str, handlers: str) -> None:
        self._log(
            logging.WARNING,
            "the handler of %r %s has not finished within %g s: what waited for it is let through",
            event,
            handlers,
            self.limits.open_handlers,
        )

    # ------------------------------------------------------------ while it lasts

    def drain(self, until: float) -> None:
        """Go on with what was begun, refuse what is new and not called for by that; ``until`` is for the other side."""
        self._agreement.drain(until)
        self._calls.admission.drain(self._refuses_new)

    def _refuses_new(self) -> bool:
        # While this side waits for the other, a request may be part of what it waits for.
        return self._agreement.quiet and not (self._out.requests or self._channels.some_are_ours)

    def silenced(self, silent: bool) -> None:
        """The other side is about to close the connection, or that is over."""
        self._calls.run_in_tasks(silent)
        if silent:
            self._log(logging.INFO, "the other side is about to close: what is new waits for another connection")

    def _pause_sending(self) -> None:
        """The transport holds more unsent bytes than its high-water mark."""
        self._out.line.full = True
        self._out.update_clear()
        self._calls.admission.set_line_full(True)

    def _resume_sending(self) -> None:
        """The transport has drained."""
        self._out.line.full = False
        if self.behind is not None:
            self.behind.flush()
            if self._out.line.full:  # again, by what waited
                return
        self._out.line.overdue = False
        self._calls.admission.set_line_full(False)
        self._out.line.wake()
        self._out.update_clear()

    # ------------------------------------------------------------ the end

    def begin_close(self, code: int, reason: str) -> Session | None:
        """Accept nothing more; returns the session whose transport is to be closed now."""
        self._out.user_closed = True
        if self._out.silent:  # what asks would get no answer any more
            self._out.kept.discard_requests(CloseInfo(code, reason))
        if self.state is State.OPENING or self._out.silent:
            with suppress(ConnectionLost):
                self._out.flush_offline()
        if self.state is not State.CLOSING:
            self._out.ending = CloseInfo(code, reason, user_closed=True)
            if self.behind is not None:
                self.behind.flush(everything=True)
        if self.session is None:
            self._out.kept.discard(self._out.ending)
        elif self.state is not State.CLOSING:
            self._become(State.CLOSING)
        return self.session

    def fail(self, code: int, reason: str) -> None:
        """End the connection because of what the other side did; what it still sends is not looked at."""
        session = self.session
        if session is None or self.state is State.CLOSING:
            return
        self._log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self._out.ending = CloseInfo(code, reason)
        self._become(State.CLOSING)
        session.stop_receiving()
        self._reporter.tell("error", ProtocolError(reason))
        self._reporter.spawn(session.transport.close(code, reason))

    def refuse(self, code: int, reason: str) -> None:
        """Close while the connection opens, and look at nothing that has come."""
        session = self.begin_close(code, reason)
        if session is not None:
            session.stop_receiving()
            self._calls.admission.discard()
            self._reporter.spawn(session.transport.close(code, reason))

    def lose(self, info: CloseInfo, replaced: bool = False) -> None:
        """The connection is over; ``replaced``: another one is there already."""
        session = self.session
        if session is None:
            return
        session.detach()
        self._passed = self.traffic()
        self.session = None
        self.info = msgspec.structs.replace(session.transport.info, underlying=None)  # which may be gone
        # `close` may have been overtaken by what brings a new connection, and this one still ends by it.
        by_user = self._out.user_closed or (self.state is State.CLOSING and self._out.ending.user_closed)
        self._become(State.DISCONNECTED)
        info = msgspec.structs.replace(info, user_closed=by_user)
        if self.on_lost is not None:
            info = self.on_lost(info, replaced)
        self._out.ending = info
        self._log(
            logging.INFO, "peer %s at %s disconnected: %d %s", self._log.id, self._log.place, info.code, info.reason
        )
        if self.opening is not None:
            self.opening.connection_lost(user_closed=info.user_closed)
            self.opening = None
        self._agreement.connection_lost()
        self._intake.connection_lost()
        if self.behind is not None:
            self.behind.clear()
        self._out.connection_lost(info)
        lost = ConnectionLost(info.code, info.reason)
        if by_user:
            closed_here(lost)
        self._calls.connection_lost(lost)
        self._readers.connection_lost(lost)
        self._channels.connection_lost(lost)
        self._reporter.tell("close", info, "disconnect")
        if self._peer._services is not None:
            self._reporter.call("close", self._peer._services.ended, info)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        self._ended = None

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        if self.session is None:
            return
        if self._ended is None:
            self._ended = self._loop.create_future()
        await asyncio.shield(self._ended)

    def _become(self, condition: State) -> None:
        self.state = move(self.state, condition)
        self._out.move(condition, self.session)
