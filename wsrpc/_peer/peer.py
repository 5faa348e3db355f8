"""The symmetric core: one end of a connection, whichever side dialed.

Here the parts are joined: `Intake` for what arrives, `Calls` for the handlers that it starts, `Outbound` for what
leaves, `Binding` for the connections that come and go, `Reporter` for who is told of them. Synchronous inside: text in
→ handlers started, futures settled, text out. There is no socket, no await on the network and no clock of its own; the
event loop's services come in from outside. So a peer can be driven by a transcript, and a message that needs no task
gets none.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .._base.closing import check_close
from .._base.logs import PeerLog, address_text
from .._base.misuse import check_flag
from .._base.names import check_name
from .._base.scheduler import Scheduler
from .._base.state import Key, PeerState
from .._channels.opening import Opener
from .._channels.readers import Readers
from .._channels.table import Channels
from .._handlers.context import CURRENT
from .._handlers.introspection import injectable
from .._handlers.lifecycle import Closers, Reporter, State
from .._handlers.registration import RawRegistrar, Registrar
from .._handlers.registry import Registry
from .._protocol.settings import Settings
from .._sending.caller import Sender
from .._sending.channel import Channel
from .._sending.checks import check_thread, check_thread_of_plain
from .._sending.outbound import Outbound
from .._sending.raw_caller import RawCaller
from .._sending.requests import Asker
from ..errors import ChannelClosed, ConnectionLost
from ..limits import Limits
from ..stats import PeerStats
from ..transport import ConnectionInfo, Transport
from .binding import Binding, Services
from .dispatch import Calls
from .inbound import Intake
from .negotiation import Agreement

if TYPE_CHECKING:
    from .._server.rooms import Membership, Room
    from .._server.server import Server

__all__ = ["Peer", "current_peer"]

T = TypeVar("T")


@injectable(attrgetter("peer"))
class Peer(Registrar, RawRegistrar, RawCaller):
    """One end of a connection. A server's handlers get one for each client; a client has one of its own.

    ``id`` names it, also in logs; ``state`` is the application's own mapping (see `Key`), on a server the one that
    `on_handshake` filled; ``principal`` is who it is, as that said. ``ignored`` counts what the protocol says to
    ignore and events that reach no handler, by kind.
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
        limits, codec = settings.limits, settings.codec
        self._registry = own = Registry() if registry is None else registry
        shared = Registry() if shared is None else shared
        self._channel_name = None
        self._channels: dict[str, Channel] = {}
        self._loop = loop
        self._services: Services | None = None
        self._membership: Membership | None = None
        self._log = log = PeerLog(self.id)
        self._reporter = Reporter(self, (shared, own), loop, log)
        fail = self._fail  # one bound method, however many have it
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
        self._asker = Asker(self._out, limits, own, warn)
        self._anonymous = Channels(self._out, own, loop, limits, warn)
        self._readers = Readers(self._out, self._anonymous, survives=keeps_offline)
        self._calls = Calls(
            self,
            own,
            shared,
            limits=limits,
            loop=loop,
            expose_errors=settings.expose_errors,
            fail=fail,
            channels=self._anonymous,
            asker=self._asker,
            readers=self._readers,
        )
        self._sender: Sender = Opener(self._asker, self._anonymous, self._readers, self._reporter.keep)
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
            own,
            shared,
            loop,
            calls=self._calls,
            asker=self._asker,
            channels=self._anonymous,
            agreement=self._agreement if settings.extensions else None,
            ignored=self.ignored,
            fail=fail,
            fire=self._reporter.tell,
            log=log,
        )
        self._binding = Binding(
            self,
            settings,
            loop,
            dialer=dialer,
            out=self._out,
            calls=self._calls,
            channels=self._anonymous,
            readers=self._readers,
            agreement=self._agreement,
            intake=self._intake,
            reporter=self._reporter,
            log=log,
        )
        self._agreement.reader = self._intake
        self._agreement.takes_raw = lambda: own.takes_raw or shared.takes_raw
        self._agreement.silenced = self._binding.silenced
        self._out.binary_is_free = self._agreement.binary_is_free

    def _fail(self, code: int, reason: str) -> None:
        self._binding.fail(code, reason)

    # ------------------------------------------------------------ what users see

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent."""
        return self._binding.state in (State.OPEN, State.OPENING)

    @property
    def info(self) -> ConnectionInfo:
        """What the opening handshake told: path, headers, remote address and so on.

        When the connection has ended it is still that of the last one, without ``underlying``, so that `close` handlers
        can say who left.

        Raises:
            ConnectionLost: if there has been no connection yet.
        """
        info = self._binding.info
        if info is None:
            raise ConnectionLost(self._out.ending.code, self._out.ending.reason, "not_sent")
        return info

    @property
    def transport(self) -> Transport | None:
        """The transport of the connection; None if there is none."""
        session = self._binding.session
        return None if session is None else session.transport

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
        transport, passed = self.transport, self._binding.traffic()
        return PeerStats(
            id=self.id,
            uptime=self._binding.uptime,
            messages_in=None if passed is None else passed.messages_in,
            messages_out=None if passed is None else passed.messages_out,
            bytes_in=None if passed is None else passed.bytes_in,
            bytes_out=None if passed is None else passed.bytes_out,
            unsent=0 if transport is None else transport.unsent,
            slow=self._out.line.full,
            dropped=self.dropped,
            pending=self.pending,
            active=self.active,
            waiting=len(self._calls.admission.room),
            channels=self.channels,
            errors=self._log.errors,
            ignored=dict(self.ignored),
        )

    @property
    def limits(self) -> Limits:
        """The bounds of the connection.

        ``peer.limits = peer.limits.replace(message=4096)`` takes inbound messages of that size from now on, in an
        `open` handler for instance; a wsrpc peer is told, and raises `MessageTooBig` for larger ones. What it has sent
        before may still be too large, and close with 1009. It holds for this connection; all other bounds are settled
        by its opening handshake, see `Handshake.limits`.

        Raises:
            ConnectionLost: on assigning, if there is no connection.
            RuntimeError: on assigning, in another thread than the event loop's.
            TypeError, ValueError: on assigning anything but bounds that differ in ``message`` alone.
        """
        return self._binding.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        given: Any = limits
        if not isinstance(given, Limits):
            raise TypeError(f"peer.limits is a wsrpc.Limits, got {given!r}")
        if given.replace(message=self.limits.message) != self.limits:
            raise ValueError("of peer.limits only message= may change while connected; on_handshake sets the others")
        transport = self.transport
        if transport is None:
            raise ConnectionLost(self._out.ending.code, self._out.ending.reason, "not_sent")
        check_thread_of_plain(self._out.thread, "setattr, peer, 'limits'")
        self._binding.limits = given
        transport.largest = given.message
        self._agreement.change(given)

    @property
    def dropped(self) -> int:
        """Broadcasts that were left out because this peer reads too slowly; see `Server` for the policies."""
        behind = self._binding.behind
        return 0 if behind is None else behind.dropped

    @property
    def server(self) -> Server:
        """The server that this peer is connected to, also after its connection has ended; see `Server.state`.

        Raises:
            RuntimeError: it is no server's peer, but a client's.
        """
        if self._membership is None:
            raise RuntimeError("this peer has no server: it is a client's, and only a server's peers have one")
        return self._membership.server

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
        check_flag("ordered", ordered)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, self._sender, self._registry, self._forget_channel)
        self._registry.scope(name)
        if ordered:
            self._registry.order(name)
        return channel

    def _forget_channel(self, name: str, reason: object) -> None:
        self._channels.pop(name, None)
        self._readers.end(partial(ChannelClosed, name, reason), name)
        self._registry.remove_scope(name)

    def bind(self, transport: Transport) -> None:
        """Take ``transport`` as the connection; a live one is closed with 1001 and what was pending fails.

        `open` handlers are called here; those that are coroutines run on, see `wait_opened`.
        """
        if self._binding.session is not None:
            check_thread_of_plain(self._out.thread, "peer.bind")
        session = self._binding.session_for(transport)
        self._binding.make_way(session)
        self._binding.attach(session)

    async def wait_opened(self) -> None:
        """Wait until `open` handlers are done or overdue, or the connection is gone. Cancelling is safe."""
        self._check_thread("peer.wait_opened()")
        await self._binding.wait_opened()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """End the connection: what was accepted is written, then the Close frame; returns when it is over.

        With None as code the Close frame has none, and the other side is told 1005. Cancelling is safe, the closing
        goes on.

        Raises:
            ValueError: if the code may not be sent, or the reason has more than 123 bytes or comes without a code.
            RuntimeError: in another thread than the event loop's.
        """
        told = check_close(code, reason)
        self._check_thread("peer.close()")
        session = self._binding.begin_close(told, reason)
        if session is not None:
            await session.transport.close(code, reason)

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe."""
        self._check_thread("peer.wait_closed()")
        await self._binding.wait_closed()

    def _check_thread(self, call: str) -> None:
        """Refuse a call from another thread than that of the connection."""
        if self._binding.session is not None:
            check_thread(self._out.thread, call)

    def __repr__(self) -> str:
        remote = None if self.transport is None else self.transport.info.remote
        where = "" if remote is None else f" remote={address_text(remote)}"
        return f"<Peer {self.id} {self._binding.state.value}{where} pending={self.pending} active={self.active}>"

    async def _join(self, patience: float, closers: Closers, still: Callable[[], bool] = lambda: True) -> None:
        """Wait for handlers and whatever else this peer started, besides those that wait for this themselves.

        After ``patience`` seconds they are cancelled. Cancelling this stops waiting and leaves everything running, and
        so does ``still()`` when it is no longer true.
        """
        self._calls.end_conversations()
        deadline = self._loop.time() + patience
        while still():
            tasks = self._reporter.tasks(closers) | self._calls.tasks(closers)
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


def current_peer() -> Peer:
    """The peer whose message the running handler handles, also in tasks that it started.

    Raises:
        RuntimeError: outside of a handler.
    """
    ctx = CURRENT.get(None)
    if ctx is None:
        raise RuntimeError("no handler is running here: current_peer() works inside handlers")
    return ctx.peer
