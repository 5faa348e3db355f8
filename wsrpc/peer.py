"""The symmetric core: one end of a connection, whichever side dialed.

Here the halves are joined: `Intake` for what arrives, `Calls` for the handlers that it starts, `Outbound` for what
leaves. Synchronous inside: text in → handlers started, futures settled, text out. There is no socket, no await on
the network and no clock of its own; the event loop's services come in from outside. So a peer can be driven by a
transcript, and a message that needs no task gets none.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import msgspec

from ._admission import Hold
from ._agreement import Agreement
from ._asking import Asker
from ._behind import Behind, Slow
from ._caller import Caller, Sender
from ._calls import Calls
from ._channels import Channels
from ._close import CloseCode, CloseInfo, check_close
from ._context import CURRENT, Context, current_context, in_context
from ._intake import Intake
from ._key import Key, PeerState
from ._lifecycle import Closers, Opening, State, Unfinished, call_handler, finish_all, fire, move
from ._log import address_text, for_log
from ._messages import Inbound
from ._opening import Opener
from ._outbound import Outbound
from ._payloads import PayloadLog
from ._registry import Registry
from ._scheduler import Scheduler
from ._session import Session
from ._settings import Settings
from ._signature import injectable
from ._types import Offline, check_name, check_offline
from .channel import Channel
from .errors import ConnectionLost, ProtocolError, QueueFull
from .limits import Limits
from .router import RawRegistrar, Registrar
from .stats import PeerStats
from .transport import ConnectionInfo, Traffic, Transport

if TYPE_CHECKING:
    from .rooms import Membership, Room

__all__ = ["Peer", "current_peer"]

T = TypeVar("T")

logger = logging.getLogger("wsrpc")


class Services(Protocol):
    """The services of one peer: see `Service`."""

    def opened(self) -> Coroutine[Any, Any, None] | None: ...

    def ended(self, info: CloseInfo, /) -> Coroutine[Any, Any, None]: ...


@injectable("ctx.peer")
class Peer(Registrar, RawRegistrar, Caller):
    """One end of a connection. A server's handlers get one for each client; a client has one of its own.

    ``id`` names it, also in logs; ``state`` is the application's own mapping (see `Key`), on a server the one that
    `on_handshake` filled; ``principal`` is who it is, as that said. ``ignored`` counts what the protocol says to
    ignore, by kind.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        dialer: bool,
        registry: Registry | None = None,
        shared: Registry | None = None,
        loop: Scheduler,
        keeps_offline: bool = False,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.state = PeerState()
        self.principal: object = None
        self.ignored: Counter[str] = Counter()
        self._settings = settings
        self._limits = limits = settings.limits
        codec = settings.codec
        self._dialer = dialer
        self._registry = Registry() if registry is None else registry
        self._shared = Registry() if shared is None else shared
        self._registries = (self._shared, self._registry)
        self._channel_name = None
        self._channels: dict[str, Channel] = {}
        self._loop = loop
        self._session: Session | None = None
        self._coming: Transport | None = None
        """What is about to be bound, for those who look at its handshake before."""
        self._services: Services | None = None
        self._payloads: PayloadLog | None = None
        if settings.log_payloads is not False:
            redact = None if settings.log_payloads is True else settings.log_payloads
            codecs = (codec,) if settings.binary is None else (codec, settings.binary)
            self._payloads = PayloadLog(codecs, redact, self._log)
        self._since = 0.0
        self._remote: tuple[str, int] | None = None
        self._passed: Traffic | None = None
        """On the connections before the present one."""
        self._errors = 0
        self._condition = State.DISCONNECTED
        self._opening: Opening | None = None
        self._background: dict[asyncio.Task[None], Context | None] = {}
        self._ended: asyncio.Future[None] | None = None
        self._on_lost: Callable[[CloseInfo, bool], CloseInfo] | None = None
        """The owner's: told first of a connection's end, and whether another replaces it. It may add what it knows."""
        self._on_opened: Callable[[], None] | None = None
        """The owner's: told when a connection is open and the `open` handlers are done."""
        self._membership: Membership | None = None
        self._behind: Behind | None = None
        log, fail = self._log, self._fail  # one bound method each, however many have it
        warn = partial(log, logging.WARNING)
        self._out = Outbound(
            codec,
            limits,
            loop,
            odd=dialer,
            keeps_offline=keeps_offline,
            ignored=self.ignored,
            fail=fail,
            warn=warn,
        )
        self._asker = Asker(self._out, limits, self._registry, warn)
        self._anonymous = Channels(self._out, self._registry, loop, limits, warn)
        self._calls = Calls(
            self,
            self._registry,
            self._shared,
            limits=limits,
            loop=loop,
            expose_errors=settings.expose_errors,
            fail=fail,
            channels=self._anonymous,
            asker=self._asker,
        )
        self._sender: Sender = Opener(self._asker, self._anonymous, self._keep)
        self._anonymous.sender = self._sender
        self._anonymous.converter = self._asker.converter
        self._anonymous.handlers = self._calls
        self._anonymous.reject = self._calls.reject
        self._out.is_open = self._anonymous.has
        self._out.is_awaited = self._calls.is_awaited
        self._out.requests.is_taken = self._anonymous.is_ours
        self._agreement = Agreement(
            settings, dialer=dialer, out=self._out, channels=self._anonymous, ignored=self.ignored
        )
        self._intake = Intake(
            codec,
            limits,
            self._registry,
            self._shared,
            loop,
            calls=self._calls,
            asker=self._asker,
            channels=self._anonymous,
            agreement=self._agreement if settings.extensions else None,
            ignored=self.ignored,
            fail=fail,
            fire=self._tell,
            log=log,
        )
        self._agreement.reader = self._intake
        self._agreement.takes_raw = lambda: self._registry.takes_raw or self._shared.takes_raw
        self._agreement.silenced = self._silenced

    # ------------------------------------------------------------ what users see

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent."""
        return self._condition is State.OPEN or self._condition is State.OPENING

    @property
    def info(self) -> ConnectionInfo:
        """What the opening handshake told: path, headers, remote address and so on.

        Raises:
            ConnectionLost: if there is no connection.
        """
        transport = self._coming if self._session is None else self._session.transport
        if transport is None:
            raise ConnectionLost(self._out.ending.code, self._out.ending.reason, "not_sent")
        return transport.info

    @property
    def transport(self) -> Transport | None:
        """The transport of the connection; None if there is none."""
        return None if self._session is None else self._session.transport

    @property
    def pending(self) -> int:
        """Requests sent from here that await their answer."""
        return len(self._out.requests)

    @property
    def active(self) -> int:
        """Handlers that are running for the other side, those that stream or converse included."""
        return self._calls.unfinished

    @property
    def channels(self) -> int:
        """Anonymous channels that are open, streams included, whichever side opened them."""
        return len(self._anonymous)

    def stats(self) -> PeerStats:
        """What this peer has done and is doing, for operators: a snapshot, made at the call."""
        session, passed = self._session, self._traffic()
        return PeerStats(
            id=self.id,
            uptime=0.0 if session is None else self._loop.time() - self._since,
            messages_in=None if passed is None else passed.messages_in,
            messages_out=None if passed is None else passed.messages_out,
            bytes_in=None if passed is None else passed.bytes_in,
            bytes_out=None if passed is None else passed.bytes_out,
            unsent=0 if session is None else session.transport.unsent,
            slow=self._out.line.full,
            dropped=self.dropped,
            pending=self.pending,
            active=self.active,
            waiting=len(self._calls.admission.room),
            channels=self.channels,
            errors=self._errors,
            ignored=dict(self.ignored),
        )

    def _traffic(self) -> Traffic | None:
        present: Traffic | None = None if self._session is None else getattr(self._session.transport, "traffic", None)
        if present is None or self._passed is None:
            return present or self._passed
        return self._passed + present

    @property
    def limits(self) -> Limits:
        """The bounds of the connection.

        ``peer.limits = peer.limits.replace(message=4096)`` takes inbound messages of that size from now on, in an
        `open` handler for instance; a wsrpc peer is told, and raises `MessageTooBig` for larger ones. What it has sent
        before may still be too large, and close with 1009. It holds for this connection; all other bounds are settled
        by its opening handshake, see `Handshake.limits`.

        Raises:
            ConnectionLost: on assigning, if there is no connection.
            TypeError, ValueError: on assigning anything but bounds that differ in ``message`` alone.
        """
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        given: Any = limits
        if not isinstance(given, Limits):
            raise TypeError(f"peer.limits is a wsrpc.Limits, got {given!r}")
        if given.replace(message=self._limits.message) != self._limits:
            raise ValueError("of peer.limits only message= may change while connected; on_handshake sets the others")
        if self._session is None:
            raise ConnectionLost(self._out.ending.code, self._out.ending.reason, "not_sent")
        self._limits = given
        self._session.transport.largest = given.message
        self._agreement.change(given)

    @property
    def dropped(self) -> int:
        """Broadcasts that were left out because this peer reads too slowly; see `Server` for the policies."""
        return 0 if self._behind is None else self._behind.dropped

    @property
    def rooms(self) -> tuple[Room, ...]:
        """The rooms of the server that this peer is in; when the connection is gone, those it was in at the end."""
        return () if self._membership is None else tuple(self._membership.rooms)

    @property
    def home_room(self) -> Room:
        """The room that ``Server(room_from=)`` gave to this peer.

        Raises:
            RuntimeError: it gave none.
        """
        if self._membership is None or self._membership.home is None:
            raise RuntimeError("this peer has no home room: give one by Server(room_from=...)")
        return self._membership.home

    @overload
    def get(self, key: Key[T], default: None = None) -> T | None: ...
    @overload
    def get(self, key: Key[T], default: T) -> T: ...
    @overload
    def get(self, key: str, default: Any = None) -> Any: ...

    def get(self, key: Any, default: Any = None) -> Any:
        """``state.get``, by the name that ws-wrapper gives it."""
        return self.state.get(key, default)

    @overload
    def set(self, key: Key[T], value: T) -> None: ...
    @overload
    def set(self, key: str, value: Any) -> None: ...

    def set(self, key: Any, value: Any) -> None:
        """``state[key] = value``, by the name that ws-wrapper gives it."""
        self.state[key] = value

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """The named channel, on this peer alone; the same object each time until it is closed.

        ``ordered``: handlers registered on it from now on run one after another.
        """
        check_name("a channel's name", name)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, self._sender, self._registry, self._forget_channel)
        self._registry.scope(name)
        if ordered:
            self._registry.order(name)
        return channel

    async def send_raw(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Send a message that is not protocol, str as text, bytes as binary, in order with everything else.

        It waits as `emit` does, for room in the line and for a connection, with the same ``offline=``. The other side's
        `on_raw` function gets it, or whatever reads there; if it looks like a protocol message, it is one. Cancelling
        is safe: then it is not sent.

        Raises:
            ConnectionLost: ``outcome="not_sent"``, there is no connection, or the other side is draining, and it may
                not wait for another.
            QueueFull: too much waits for a connection already.
            MessageTooBig: the other side has said that it takes less.
            TypeError: it is neither str nor bytes.
            ValueError: binary, where binary messages are MessagePack: between two wsrpc peers neither of which had an
                `on_raw` function when they connected.
            RuntimeError: in another thread than the event loop's.
        """
        if offline is not None:
            check_offline(offline)
        await self._out.send_raw(message, offline)

    def send_raw_nowait(self, message: str | bytes, *, offline: Offline | None = None) -> None:
        """Like `send_raw`, for plain functions in the event loop's thread; it never waits.

        Raises:
            QueueFull: at the hard cap of unsent bytes; nothing is sent.
            ConnectionLost, MessageTooBig, TypeError, ValueError, RuntimeError: as for `send_raw`.
        """
        if offline is not None:
            check_offline(offline)
        self._out.send_raw_nowait(message, offline)

    def _forget_channel(self, name: str) -> None:
        self._channels.pop(name, None)
        self._registry.remove_scope(name)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection: what was accepted is written, then the Close frame; returns when it is over.

        Cancelling is safe, the closing goes on.

        Raises:
            ValueError: if the code may not be sent or the reason has more than 123 bytes.
        """
        check_close(code, reason)
        session = self._begin_close(code, reason)
        if session is not None:
            await session.transport.close(code, reason)

    def _begin_close(self, code: int, reason: str) -> Session | None:
        """Accept nothing more; returns the session whose transport is to be closed now."""
        self._out.user_closed = True
        if self._out.silent:  # what asks would get no answer any more
            self._out.discard_requests(CloseInfo(code, reason))
        if self._condition is State.OPENING or self._out.silent:
            with suppress(ConnectionLost):
                self._out.flush_offline()
        if self._condition is not State.CLOSING:
            self._out.ending = CloseInfo(code, reason, user_closed=True)
            if self._behind is not None:
                self._behind.flush(everything=True)
        if self._session is None:
            self._out.discard(self._out.ending)
        elif self._condition is not State.CLOSING:
            self._become(State.CLOSING)
        return self._session

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        if self._session is None:
            return
        if self._ended is None:
            self._ended = self._loop.create_future()
        await asyncio.shield(self._ended)

    def __repr__(self) -> str:
        remote = None if self._session is None else self._session.transport.info.remote
        where = "" if remote is None else f" remote={remote[0]}:{remote[1]}"
        return f"<Peer {self.id} {self._condition.value}{where} pending={self.pending} active={self.active}>"

    # ------------------------------------------------------------ a connection comes and goes

    def bind(self, transport: Transport) -> None:
        """Take ``transport`` as the connection; a live one is closed with 1001 and what was pending fails.

        `open` handlers are called here; those that are coroutines run on, see `wait_opened`.
        """
        session = self._session_for(transport)
        self._make_way(session)
        self._attach(session)

    def _session_for(self, transport: Transport) -> Session:
        """Joins ``transport`` to this peer, not yet bound.

        Raises:
            TypeError, ValueError: this is no transport, or the one that is bound.
        """
        if self._session is not None and self._session.transport is transport:
            raise ValueError("this transport is bound already")
        try:
            session = Session(
                transport,
                receive=self._intake.receive_raw if self._shared.raw_only else self._intake.receive,
                read_ended=self._calls.read_ended,
                pause_sending=self._pause_sending,
                resume_sending=self._resume_sending,
                connection_lost=self._lose,
            )
        except AttributeError as exc:
            raise TypeError(f"bind() takes a transport (see wsrpc.Transport), got {transport!r}: {exc}") from None
        if self._payloads is not None:
            self._payloads.join(session)
        return session

    def _make_way(self, session: Session) -> None:
        """End the present connection, if there is one, because of ``session``.

        Raises:
            ConnectionLost: a `close` handler has bound another one meanwhile, or closed. ``session`` is closed, too.
        """
        present = self._session
        if present is None:
            return
        replaced = CloseInfo(CloseCode.GOING_AWAY, "another connection was bound")
        ending = self._out.ending if self._condition is State.CLOSING else replaced
        self._out.user_closed = False
        self._lose(ending, replaced=True)
        self._in_background(present.transport.close(ending.code, ending.reason))
        # Where an async handler's first step runs at once, a `close` handler may be the last to say what is to be.
        if self._session is not None or self._out.user_closed:
            last = replaced if self._session is not None else self._out.ending
            self._in_background(session.transport.close(last.code, last.reason))
            raise ConnectionLost(last.code, last.reason, "not_sent")

    def _attach(self, session: Session) -> None:
        self._out.user_closed = False
        self._session = session
        self._since = self._loop.time()
        self._remote = session.transport.info.remote
        self._become(State.OPENING)
        self._limits = self._settings.limits
        self._agreement.connection_made()
        self._log(logging.INFO, "connected")
        # Requests must pass on one side, or two Python ends would wait for each other's `open` handlers.
        self._calls.admission.hold(Hold.EVENTS if self._dialer else Hold.ALL)
        self._calls.use_context(contextvars.copy_context())
        self._out.opening = Context(self, Inbound(a=["open"]))
        context = in_context(self._out.opening)
        unfinished = fire(self._registries, ("open", "connect"), (self,), self._handler_raised, context)
        if self._services is not None:
            unfinished += call_handler("open", self._services.opened, (), self._handler_raised, context)
        if unfinished:
            opening = self._opening = Opening(
                unfinished,
                loop=self._loop,
                patience=self._limits.open_handlers,
                done=self._opened,
                overdue=self._open_overdue,
                raised=self._handler_raised,
            )
            context.run(opening.start)
            context.run(self._keep, opening.task)
        if self._session is session:  # a handler may have closed or bound again
            session.start()
            if self._opening is None:
                self._opened()

    async def wait_opened(self) -> None:
        """Wait until `open` handlers are done or overdue, or the connection is gone. Cancelling is safe."""
        if self._opening is not None:
            await self._opening.wait()
        if self._condition is State.OPENING and self._opening is None:
            await self.wait_closed()  # it has ended before what waited was sent, and is about to say so

    def _opened(self) -> None:
        self._opening = None
        if self._condition is not State.OPENING:
            return
        try:
            if not self._out.silent:
                self._out.flush_offline()
        except ConnectionLost:
            return  # it has ended, and `connection_lost` is about to come; what was not sent stays queued
        self._out.opening = None
        self._become(State.OPEN)
        self._calls.admission.hold(Hold.NONE)
        self._agreement.opened()
        if self._on_opened is not None:
            self._on_opened()

    def _drain(self, until: float) -> None:
        """Go on with what was begun, refuse what is new and not called for by that; ``until`` is for the other side."""
        self._agreement.drain(until)
        self._calls.admission.drain(self._refuses_new)

    def _refuses_new(self) -> bool:
        # While this side waits for the other, a request may be part of what it waits for.
        return self._agreement.quiet and not (self._out.requests or self._anonymous.some_are_ours)

    def _silenced(self, silent: bool) -> None:
        self._calls.run_in_tasks(silent)
        if silent:
            self._log(logging.INFO, "the other side is about to close: what is new waits for another connection")

    def _open_overdue(self, handlers: str) -> None:
        self._log(
            logging.WARNING,
            "the handler of 'open' %s has not finished within %g s: what waited for it is let through",
            handlers,
            self._limits.open_handlers,
        )

    def _pause_sending(self) -> None:
        """The transport holds more unsent bytes than its high-water mark."""
        self._out.line.full = True
        self._out.update_clear()
        self._calls.admission.set_line_full(True)

    def _resume_sending(self) -> None:
        """The transport has drained."""
        self._out.line.full = False
        if self._behind is not None:
            self._behind.flush()
            if self._out.line.full:  # again, by what waited
                return
        self._out.line.overdue = False
        self._calls.admission.set_line_full(False)
        self._out.line.wake()
        self._out.update_clear()

    def _lose(self, info: CloseInfo, replaced: bool = False) -> None:
        """The connection is over; ``replaced``: another one is there already."""
        session = self._session
        if session is None:
            return
        session.detach()
        self._passed = self._traffic()
        self._session = None
        # `close` may have been overtaken by what brings a new connection, and this one still ends by it.
        by_user = self._out.user_closed or (self._condition is State.CLOSING and self._out.ending.user_closed)
        self._become(State.DISCONNECTED)
        info = msgspec.structs.replace(info, user_closed=by_user)
        if self._on_lost is not None:
            info = self._on_lost(info, replaced)
        self._out.ending = info
        self._log(logging.INFO, "disconnected: %d %s", info.code, info.reason)
        if self._opening is not None:
            self._opening.connection_lost(user_closed=info.user_closed)
            self._opening = None
        self._agreement.connection_lost()
        self._intake.connection_lost()
        if self._behind is not None:
            self._behind.clear()
        self._out.connection_lost(info)
        lost = ConnectionLost(info.code, info.reason)
        self._calls.connection_lost(lost)
        self._anonymous.connection_lost(lost)
        self._tell("close", info, "disconnect")
        if self._services is not None:
            self._run_in_background("close", self._services.ended, info)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        self._ended = None

    async def _join(self, patience: float, closers: Closers, still: Callable[[], bool] = lambda: True) -> None:
        """Wait for handlers and whatever else this peer started, besides those that wait for this themselves.

        After ``patience`` seconds they are cancelled. Cancelling this stops waiting and leaves everything running, and
        so does ``still()`` when it is no longer true.
        """
        deadline = self._loop.time() + patience
        while still():
            tasks = {task for task, ctx in self._background.items() if not closers.cover(task, ctx)}
            tasks |= self._calls.tasks(closers)
            if not tasks:
                break
            # What ends makes room for others, so look again.
            late = await closers.wait_besides(tasks, max(0.0, deadline - self._loop.time()))
            if late and still():
                self._calls.admission.discard()
                for task in late:
                    task.cancel()
                if stubborn := await closers.wait_besides(late, patience):
                    self._log(logging.WARNING, "%d handlers do not end although they were cancelled", len(stubborn))
                    break
        if still():
            self._out.requests.stop()
            self._anonymous.stop()

    def _fail(self, code: int, reason: str) -> None:
        """End the connection because of what the other side did; what it still sends is not looked at."""
        session = self._session
        if session is None or self._condition is State.CLOSING:
            return
        self._log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self._out.ending = CloseInfo(code, reason)
        self._become(State.CLOSING)
        session.stop_receiving()
        self._tell("error", ProtocolError(reason))
        self._in_background(session.transport.close(code, reason))

    def _refuse(self, code: int, reason: str) -> None:
        """Close while the connection opens, and look at nothing that has come."""
        session = self._begin_close(code, reason)
        if session is not None:
            session.stop_receiving()
            self._calls.admission.discard()
            self._in_background(session.transport.close(code, reason))

    def _deliver(self, payload: bytes, text: bool, slow: Slow, key: Hashable) -> bool:
        """Send what was encoded for many peers; False if it is left out, as ``slow`` says.

        Raises:
            ConnectionLost: there is no connection.
            MessageTooBig: the other side would not take it.
            QueueFull: this peer is at its hard cap, and is closed with 4408, as ``slow`` says.
        """
        out, session = self._out, self._session
        if session is None or out.broken:
            raise out._not_sent()
        if len(payload) > out.largest:
            raise out._too_big(payload)
        if out.line.full:
            if slow != "close":
                if self._behind is None:
                    self._behind = Behind(out, self._limits.behind, partial(self._log, logging.WARNING))
                return self._behind.put(payload, text, slow, key, session.send)
            if self._behind:
                self._behind.flush(everything=True)  # this one can neither be dropped nor overtake
            if out._over_cap(session, len(payload)):
                self._fail(CloseCode.SLOW_CONSUMER, "slow consumer")
                raise QueueFull(f"{session.transport.unsent} bytes were unsent: it was closed with 4408")
        session.send(payload, text)
        return True

    def _run_in_background(self, event: str, function: Callable[..., Any], /, *args: object) -> None:
        """Call a user's function, sync or async; what it raises goes to the log."""
        context = self._reporting(event)
        self._finish(call_handler(event, function, args, self._handler_raised, context), context)

    # ------------------------------------------------------------ housekeeping

    def _become(self, condition: State) -> None:
        self._condition = move(self._condition, condition)
        self._out.move(condition, self._session)

    def _tell(self, event: str, argument: object, alias: str | None = None) -> None:
        """Call the handlers of a lifecycle event; those that are coroutines go on in the background."""
        names = (event,) if alias is None else (event, alias)
        context = self._reporting(event)
        self._finish(fire(self._registries, names, (self, argument), self._handler_raised, context), context)

    def _reporting(self, event: str) -> contextvars.Context:
        """A context of its own for the handlers of a lifecycle event."""
        return in_context(Context(self, Inbound(a=[event])))

    def _finish(self, unfinished: list[Unfinished], context: contextvars.Context) -> None:
        if unfinished:
            context.run(self._in_background, finish_all(unfinished, self._handler_raised))

    def _handler_raised(self, event: str, name: str, exc: BaseException) -> None:
        self._log(logging.ERROR, "the handler of %r, %s, failed", event, name, exc_info=exc)

    def _in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._keep(self._loop.spawn(coroutine))

    def _keep(self, task: asyncio.Task[None]) -> None:
        if not task.done():
            self._background[task] = CURRENT.get(None)
            task.add_done_callback(lambda task: self._background.pop(task, None))

    def _log(self, level: int, text: str, /, *args: object, exc_info: BaseException | None = None) -> None:
        """A line in the log ``wsrpc``, with this peer's id in ``extra``, and where the other side is (or was)."""
        if level >= logging.ERROR:
            self._errors += 1
        if logger.isEnabledFor(level):
            about = {"peer": self.id, "remote": address_text(self._remote)}
            logger.log(level, for_log(text), *map(for_log, args), exc_info=exc_info, extra=about, stacklevel=2)


def current_peer() -> Peer:
    """The peer whose message the running handler handles, also in tasks that it started.

    Raises:
        RuntimeError: outside of a handler.
    """
    return current_context().peer
