"""`Peer`: one end of a connection, as users hold it."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from ..._base.closing import check_close
from ..._base.logs import PeerLog, address_text
from ..._base.misuse import check_flag, check_limits_change
from ..._base.names import check_channel
from ..._base.scheduler import Scheduler
from ..._base.state import PeerState
from ...errors import ChannelClosed, ConnectionLost
from ...limits import Limits
from ...stats import PeerStats
from ...transport import ConnectionInfo, Transport
from ..handlers.introspection import Injection, injections
from ..handlers.registry import Registry
from ..peer.peer_core import PeerCore
from ..peer.peer_session import PeerSession
from ..sending.checks import check_thread, check_thread_of_plain
from ..session.connection import Connection
from ..session.peer_owner import PeerOptions, PeerOwner
from ..session.sessions import Home
from ..wire.settings import Settings
from .channel import Channel
from .reading_caller import ReadingCaller
from .registration import Registrar

if TYPE_CHECKING:
    from .annotations import Room, Server

T = TypeVar("T")


class Peer(Registrar, ReadingCaller):
    """The other side of a connection. A server has one peer for each client; a client has one peer, for its server.

    Attributes:
        id: the name of the peer in logs.
        state: a mapping for your application's data; see `Key`. On a server, an `on_handshake` function can fill it.
        ignored: a Counter of messages that were not handled, by kind. It includes messages that the protocol says to
            ignore, events without a handler, and messages that exceeded `Limits.rate`.
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
        fails_offline: bool = False,
        can_resume: bool = False,
        owner: PeerOwner | None = None,
        home: Home | None = None,
        log: PeerLog | None = None,
        state: PeerState | None = None,
        principal: object = None,
    ) -> None:
        self._registry = own = Registry() if registry is None else registry
        options = PeerOptions(
            settings, dialer, own, Registry() if shared is None else shared, keeps_offline, fails_offline, can_resume
        )
        log = PeerLog() if log is None else log
        self._core = core = PeerCore(self, options, loop, PeerOwner() if owner is None else owner, home, log)
        self.id = log.id
        self.state = PeerState() if state is None else state
        log.principal = principal
        self.ignored = core.host.ignored
        self._channel_name = None
        self._channels: dict[str, Channel] = {}
        self._sender = core.requester

    @property
    def _current(self) -> PeerSession:
        """The inside of the present session; see `PeerCore.current`."""
        return self._core.current

    # ------------------------------------------------------------ state

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent."""
        return self._current.session.state.sends

    @property
    def detached(self) -> bool:
        """Whether the session is kept without a connection.

        The session continues when another connection resumes it.
        """
        return self._current.session.state.away

    @property
    def info(self) -> ConnectionInfo:
        """Data from the opening handshake, such as the path, the headers and the remote address.

        After a connection has ended, its data stays available for `close` handlers, except for ``underlying``.

        Raises:
            ConnectionLost: there has been no connection yet.
        """
        info = self._core.host.info
        if info is None:
            last = self._current.session.last_close
            raise ConnectionLost(last.code, last.reason, "not_sent")
        return info

    @property
    def transport(self) -> Transport | None:
        """The transport of the connection. None if there is no connection."""
        connection = self._current.session.connection
        return None if connection is None else connection.transport

    @property
    def pending(self) -> int:
        """Number of requests that this side has sent and that have no response yet."""
        return len(self._core.outbox.requests)

    @property
    def active(self) -> int:
        """Number of handlers that are running for the remote peer, including those of streams and conversations."""
        return self._core.calls.running

    @property
    def anonymous_channels(self) -> int:
        """Number of open anonymous channels, including those of streams, whichever side opened them."""
        return len(self._current.channels)

    def stats(self) -> PeerStats:
        """Return a snapshot of the peer's counters, for monitoring."""
        return self._core.stats()

    @property
    def limits(self) -> Limits:
        """The limits of the connection.

        You can change one limit of an existing connection, the maximum size of inbound messages. For example, an `open`
        handler can run ``peer.limits = peer.limits.replace(message_bytes=4096)``. A remote peer that uses wsrpc
        receives the new limit, and then raises `MessageTooBig` instead of sending a larger message. If the remote peer
        has already sent a larger message, the connection is closed with 1009. All other limits are fixed after the
        opening handshake; see `Handshake.limits`.

        Raises:
            ConnectionLost: on assignment, if there is no connection, and no session that waits for another connection.
            RuntimeError: on assignment, in a thread other than the event loop's.
            TypeError, ValueError: on assignment, if the value is not a `Limits`, or differs in more than
                ``message_bytes``.
        """
        return self._current.session.negotiation.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        check_limits_change("peer.limits", self.limits, limits)
        session = self._current.session
        if not session.state.lives:
            raise ConnectionLost(session.last_close.code, session.last_close.reason, "not_sent")
        check_thread_of_plain(self._current.writer.thread, "setattr, peer, 'limits'")
        session.change_limits(limits)

    @property
    def skipped_broadcasts(self) -> int:
        """Number of broadcasts that were not sent to this peer because it reads too slowly.

        See the option ``slow`` of `Server`.
        """
        return self._core.host.skipped_broadcasts

    @property
    def server(self) -> Server:
        """The server that this peer is connected to, or was connected to.

        Handlers can share objects through `Server.state`.

        Raises:
            RuntimeError: the peer belongs to a client.
        """
        if self._core.home is None:
            raise RuntimeError("this peer has no server: it is a client's, and only a server's peers have one")
        server: Server = self._core.home.server
        return server

    @property
    def address(self) -> str | None:
        """The name that the application gave to the client in `Handshake.address`. None if the client has no name."""
        return None if self._core.home is None else self._core.home.address

    @property
    def principal(self) -> object:
        """The user, as set by `on_handshake`. The log shows it, so it must not be a secret such as a token."""
        return self._core.log.principal

    @principal.setter
    def principal(self, principal: object) -> None:
        self._core.log.principal = principal

    @property
    def program(self) -> str | None:
        """What the remote peer says of its program, such as "station/2.3.0". None if it says nothing.

        Do not trust it: it is a text of up to 64 characters that the remote peer chooses. It is known once the remote
        peer has greeted: on a server, when the first message of the client has arrived.
        """
        return self._core.log.program

    @property
    def contract(self) -> str | None:
        """What the remote peer handles and emits, as `Description.fingerprint`, if it also says its `program`.

        Compare it with the ``CONTRACT`` of a generated client. None if the remote peer says nothing. It is known when
        `program` is, and says what was registered at that time, without handlers of `once`. Do not trust it either.
        """
        return self._core.host.contract

    @property
    def rooms(self) -> tuple[Room, ...]:
        """The rooms of which this peer is a member, or was a member when the connection ended."""
        return () if self._core.home is None else tuple(self._core.home.rooms)

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """Return a named channel of this peer.

        Calls with the same name return the same object until the channel is closed.

        Args:
            ordered: whether the handlers that you register on the channel after this call run one at a time.

        Raises:
            TypeError, ValueError: ``name`` is not a valid channel name.
        """
        check_channel(name)
        check_flag("ordered", ordered)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(name, self._core.requester, self._registry, self._remove_channel)
        self._registry.scope(name)
        if ordered:
            self._registry.order(name)
        return channel

    def _remove_channel(self, name: str, reason: object) -> None:
        self._channels.pop(name, None)
        self._core.named_channels.end(partial(ChannelClosed, name, reason), name)
        self._registry.remove_scope(name)

    def bind(self, transport: Transport) -> None:
        """Use ``transport`` as the connection. The current connection is closed with 1001, and requests in flight fail.

        The `open` handlers are called before this method returns. Async handlers may still be running when it returns;
        to wait for them, use `wait_connected`.

        Raises:
            TypeError: ``transport`` is not a transport.
            ValueError: ``transport`` is already bound to this peer.
            ConnectionLost: a `close` handler of the current connection has bound another transport or closed the peer.
            RuntimeError: called in a thread other than the event loop's.
        """
        if self._current.session.state.lives:
            check_thread_of_plain(self._current.writer.thread, "peer.bind")
        self._core.bind(Connection(transport))

    async def wait_connected(self) -> None:
        """Wait until there is a connection, and its `open` handlers have finished.

        This method also returns when `Limits.open_timeout` seconds have passed, or the connection has ended. Cancelling
        is safe.
        """
        self._check_thread("peer.wait_connected()")
        await self._current.wait_opened()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection, and return when it has ended and the `close` handlers have returned.

        Messages that were accepted for sending are sent first, then the Close frame. From the call on, no message that
        arrives is handled, and no handler starts. Cancelling is safe: the closing handshake continues.

        The call waits for `close` handlers for at most `Limits.close_timeout` seconds. In a handler of this peer, or a
        task that it has started, it does not wait for them: they may wait for that handler.

        After this call, a client does not dial again, even if it has no connection.

        If the peer of a server is `detached`, its session ends. If its client then asks to resume the session, within
        the time in which it could have resumed, the new connection is closed with this code and reason; after a
        code such as 1008, a wsrpc client stays away, as if it had been connected. With the code 1000 or None, the
        client gets a new session instead.

        Args:
            code: the close code. With None, the Close frame has no code, and the remote peer sees 1005.
            reason: the close reason, at most 123 bytes in UTF-8.

        Raises:
            ValueError: ``code`` is not allowed in a Close frame, ``reason`` has more than 123 bytes, or ``reason`` is
                given without a code.
            RuntimeError: called in a thread other than the event loop's.
        """
        check_close(code, reason)
        self._check_thread("peer.close()")
        current = self._current
        await current.close(code, reason)
        await current.wait_close_handlers()

    async def wait_closed(self) -> None:
        """Wait until there is no connection. Cancelling is safe.

        `close` handlers may be called later, because they wait for events that have arrived.
        """
        self._check_thread("peer.wait_closed()")
        await self._current.wait_closed()

    def _check_thread(self, call: str) -> None:
        """Refuse a call from another thread than that of the connection, or of the session that waits for one."""
        if self._current.session.state.lives:
            check_thread(self._current.writer.thread, call)

    def __repr__(self) -> str:
        remote = None if self.transport is None else self.transport.info.remote
        where = "" if remote is None else f" remote={address_text(remote)}"
        return f"<Peer {self.id} {self._current.writer.state}{where} pending={self.pending} active={self.active}>"


injections[Peer] = Injection(attrgetter("peer"))


def current_of(peer: Peer) -> PeerSession:
    """Return the inside of the present session of a peer that a user holds; see `PeerCore.current`."""
    return core_of(peer).current


def core_of(peer: Peer) -> PeerCore:
    """Return the object behind a peer that a user holds."""
    return peer._core  # pyright: ignore[reportPrivateUsage]  # of the same module
