"""`Server`: accepts connections, gives each a peer, and emits to all of them."""

from __future__ import annotations

import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .._base.logs import OF_ONE_SERVER, LogBudget, logger
from .._base.misuse import check_flag, check_number, no_parentheses, refusing
from .._base.names import Profile, Redact, check_name
from .._base.scheduler import Scheduler
from .._base.state import PeerState
from .._conversion.convert import DecHook, EncHook
from .._entrance.entrance import Entrance
from .._entrance.origins import Origins
from .._handlers.registration import Declarer, RawRegistrar, Router, include
from .._handlers.registry import HandlerContext, Registry, accepted
from .._peer.peer import Peer
from .._protocol.codecs import Codec, enc_hook_of
from .._protocol.settings import Settings, make_settings
from .._raw.connection import RawConnection
from .._raw.serving import RawFunction, RawServing
from .._sending.slow_readers import Slow, check_slow
from .._transports.health import Health
from .._transports.listener import Listener, check_place, listen
from .._transports.websocket import WebSocketTransport
from ..errors import ChannelClosed, ConnectionLost
from ..handshake import Handshake, HandshakeFunction
from ..limits import Limits
from ..stats import ServerStats
from ..transport import Transport
from .broadcast import Audience, Broadcaster, RawBroadcaster
from .description import offer_description
from .hosting import Hosting
from .lifetime import Lifetime
from .listening import Listening, Opened, Port
from .membership import Host, Joining, can_be_joined
from .peers import ServedPeer
from .program import run
from .rooms import Allow, ClusterRoomMembers, Room, RoomFrom, RoomMembers, Rooms
from .sessions import RESUME_HEADER, FirstMessage

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from .._cluster.cluster import Cluster

__all__ = ["Server", "ServerChannel", "accept_of", "settings_of"]

H = TypeVar("H", bound=HandshakeFunction)
J = TypeVar("J", bound=Callable[[Peer, str], Any])
R = TypeVar("R", bound=RawFunction)
S = TypeVar("S", bound=Callable[..., Any])


class ServerChannel(Declarer, Broadcaster):
    """Named channel of a server: handlers for all peers, and emitting to all peers."""

    def __init__(self, name: str, registry: Registry, audience: Audience, on_close: Callable[[str], object]) -> None:
        self._channel_name = self._name = name
        self._registry = registry
        self._audience = audience
        self._on_close = on_close
        self._closed = False
        self._reason: object = None

    @property
    def name(self) -> str:
        """The channel's name."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def close_reason(self) -> Any:
        """The argument of `close`."""
        return self._reason

    def close(self, reason: object = None) -> None:
        """Remove the channel's handlers and middleware. Local: nothing is sent. Idempotent."""
        if not self._closed:
            self._closed = True
            self._reason = reason
            self._on_close(self._name)

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed(self._name, self._reason)

    def __repr__(self) -> str:
        return f"<ServerChannel {self._name!r}{' closed' if self._closed else ''}>"


class Server(Declarer, RawRegistrar, RawBroadcaster):
    """Accepts connections and gives each a peer. Its handlers serve every peer without a handler of its own.

    ``state`` is the application's own mapping (see `Key`), for a database for instance. Handlers reach it as
    ``peer.server.state`` or ``ctx.server.state``. It stays when the server is closed and opened again.

    Args:
        limits: bounds of each connection.
        origins: values of a browser's ``Origin`` that may connect, besides the server's own host. Or a function of the
            `Handshake` that returns whether the origin may connect, or `ANY_ORIGIN`.
        trusted_proxies: addresses and networks, such as ``"10.0.0.0/8"``, of the proxies whose ``X-Forwarded-For``,
            ``-Proto`` and ``-Host`` are used; ``"unix"`` trusts Unix sockets. No proxy is trusted by default.
        compression: whether permessage-deflate is offered to every connection; `on_handshake` can change it for one.
        codec: as for `Client`.
        dec_hook: as for `Client`.
        enc_hook: as for `Client`.
        lax: as for `Client`.
        expose_errors: as for `Client`.
        extensions: as for `Client`.
        log_payloads: as for `Client`.
        profile: as for `Client`.
        handler_context: ``fn(ctx)`` returns an async context manager that runs around each handler, for instance a
            transaction. (For a time limit there is ``on(timeout=)``, and `Limits.handler`.)
        slow: policy for broadcasts to slow readers, which are peers above `Limits.high_water`. With ``"close"`` the
            messages wait, and a peer that reaches `Limits.hard_cap` is closed with 4408. The other policies keep at
            most `Limits.behind` bytes for a peer and drop the rest: ``"drop_newest"``, ``"drop_oldest"``, or
            ``KeepLatest(key)``, which keeps the latest message of each key. `Peer.dropped` counts what was dropped.
        room_from: a function of a connection's `ConnectionInfo` that returns the name of its peer's room,
            `Peer.home_room`.
        detached_bytes: memory, about, for the sessions of all clients whose connections have dropped, until these come
            back or `Limits.detached` is over. When it is exceeded, the oldest sessions end.
        cluster: makes this process one of several: rooms and `Cluster.peer` then reach the peers of all. See `Cluster`.

    Raises:
        TypeError, ValueError: an option is not valid.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        origins: Origins = (),
        trusted_proxies: Iterable[str] = (),
        compression: bool = False,
        codec: Codec | None = None,
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
        lax: bool = False,
        expose_errors: bool | Callable[[BaseException], bool] = False,
        extensions: bool = True,
        log_payloads: bool | Redact = False,
        profile: Profile | None = None,
        handler_context: HandlerContext | None = None,
        slow: Slow = "close",
        room_from: RoomFrom | None = None,
        detached_bytes: int = 256 * 1024 * 1024,
        cluster: Cluster | None = None,
    ) -> None:
        check_slow(slow)
        check_number("detached_bytes= is a number of bytes, 0 or more", detached_bytes, 0)
        check_flag("compression", compression)
        budget = LogBudget(*OF_ONE_SERVER)
        self._entrance = Entrance(origins, trusted_proxies, budget)
        self._compression = compression
        self._settings = make_settings(limits, codec, enc_hook, expose_errors, extensions, log_payloads, profile)
        self._registry = Registry(dec_hook=dec_hook, lax=lax)
        self._channel_name = None
        self.state = PeerState()
        self._channels: dict[str, ServerChannel] = {}
        self._hosting = Hosting(self._registry, RawServing())
        members = RoomMembers if cluster is None else ClusterRoomMembers
        self._rooms = Rooms(self, self._registry, self._settings.codec, slow, room_from, members)
        self._audience = self._rooms.everybody
        self._cluster = cluster
        joining = None if cluster is None else self._joining(cluster)
        self._new_lifetime = partial(
            Lifetime, self._rooms.leave_all, budget, self.limits.close_timeout, detached_bytes, joining
        )
        self._lifetime = self._new_lifetime()
        self._warned_of_port = False
        if handler_context is not None:
            self.handler_context = handler_context

    def _joining(self, cluster: Any) -> Joining:
        if not can_be_joined(cluster):
            raise TypeError(f"cluster= takes a wsrpc.Cluster, got {cluster!r}")
        rooms = self._rooms
        host = Host(self._settings, self._registry, rooms.deliver, rooms.members_of, rooms.each_with_members)
        return Joining(cluster, host, rooms.use)

    # ------------------------------------------------------------ registering

    def of(self, name: str, *, ordered: bool = False) -> ServerChannel:
        """Return the named channel ``name``, for all peers: the same object each time, until it is closed.

        ``ordered``: handlers that are registered on it from now on run one after another for each peer.

        Raises:
            TypeError, ValueError: ``name`` cannot name a channel.
        """
        check_name("a channel's name", name)
        check_flag("ordered", ordered)
        channel = self._channels.get(name)
        if channel is None:
            channel = ServerChannel(name, self._registry, self._audience, self._forget_channel)
            self._channels[name] = channel
        self._registry.scope(name)
        if ordered:
            self._registry.order(name)
        return channel

    def _forget_channel(self, name: str) -> None:
        self._channels.pop(name, None)
        self._registry.remove_scope(name)

    def include(self, router: Router, *, channel: str | None = None) -> None:
        """Register the handlers of ``router``; those of its main channel on ``channel``. See `Router`.

        Raises:
            ValueError: ``channel`` is given, and the router has channels of its own.
        """
        include(router, self._registry, channel)

    @property
    def handler_context(self) -> HandlerContext | None:
        """The function whose context manager runs around each handler. Assign to change it."""
        return self._registry.handler_context

    @handler_context.setter
    def handler_context(self, handler_context: HandlerContext | None) -> None:
        self._registry.set_handler_context(handler_context)

    # ------------------------------------------------------------ serving

    def listen(
        self,
        host: str | None = "127.0.0.1",
        port: int | None = 0,
        *,
        path: str | None = None,
        ssl: ssl_module.SSLContext | None = None,
        sock: socket.socket | None = None,
        unix: str | None = None,
        healthz: str | None = "/healthz",
        reuse_port: bool = False,
    ) -> Listening:
        """Listen inside a block: ``async with server.listen(...) as listener``, which has ``url`` and ``port``.

        Entering the block opens the port, and the server too if it was closed; see `open`. Leaving it closes the
        server.

        Args:
            host: the address to listen on.
            port: the port; 0 picks a free one.
            path: the only path that is accepted; None accepts any path.
            ssl: a context, for TLS.
            sock: a bound socket, instead of host and port.
            unix: the path of a Unix socket, instead of host and port.
            healthz: a path on which a plain HTTP request gets 200 while the server is `healthy`, and 503 while it
                drains. For that the port stays open while the server drains, and new connections get 503. With None
                there is no such path, and the port closes when the server begins to drain.
            reuse_port: let several processes listen on one port, on systems that can. The system distributes clients
                over them; `peers`, rooms and `emit` are those of one process. The port closes when the server begins to
                drain, so that the other processes get new connections.

        Raises:
            TypeError, ValueError: an option is not valid, or options do not go together.
        """
        check_place(host, port, path, ssl, sock, unix, reuse_port)
        health = None if healthz is None else Health(healthz, lambda: self.healthy, lambda: self._lifetime.degraded)
        if reuse_port and not self._warned_of_port:
            self._warned_of_port = True
            logger.warning(
                "reuse_port=True: each process knows only its own connections, so rooms, peers and server.emit are per "
                "worker, and a client that reconnects may reach another one"
            )

        async def accept_later(transport: WebSocketTransport, handshake: Handshake) -> None:
            with suppress(ConnectionLost):  # it was refused, and is closed
                await self.accept(transport, handshake)

        def accept(transport: WebSocketTransport, handshake: Handshake) -> Awaitable[None] | None:
            return None if self._accept_at_once(transport, handshake) else accept_later(transport, handshake)

        async def begin() -> Listener:
            return await listen(
                accept,
                host,
                port,
                limits=self.limits,
                path=path,
                admit=self._admit,
                compression=self._compression,
                health=health,
                reuse_port=reuse_port,
                ssl=ssl,
                sock=sock,
                unix=unix,
            )

        return self._listening(begin, stays_for_drain=health is not None and not reuse_port)

    def listening(self, begin: Callable[[], Awaitable[Port]]) -> Listening:
        """Return what `listen` returns, for a port that ``begin()`` opens. For adapters.

        The port is stopped when the server is closed or begins to drain; see `Port`.
        """
        return self._listening(begin, stays_for_drain=False)

    def _listening(self, begin: Callable[[], Awaitable[Port]], *, stays_for_drain: bool) -> Listening:
        async def open_port() -> Opened:
            await self.open()
            lifetime = self._lifetime
            lifetime.check_thread("your_coroutine()")
            port = await begin()
            if not lifetime.healthy:
                port.stop()
                await port.wait_closed()
                raise RuntimeError("the server was closed before it could listen")
            lifetime.enter_loop()
            self._entrance.begin()
            lifetime.ports.add(port, stays_for_drain=stays_for_drain)
            return Opened(port, partial(lifetime.close, 0.0))  # of this lifetime: the server may be opened again

        return Listening(open_port)

    async def open(self) -> None:
        """Open the server again if it was closed. `listen`, `run` and the ``lifespan`` of adapters call this.

        It is for frameworks that call a function at startup, as `close` is for their shutdown. Handlers, services,
        rooms that were made with options, all other settings and `state` stay. Peers, members of rooms and `stats`
        begin anew. If the server is open, nothing happens.

        Raises:
            RuntimeError: the server is still closing.
        """
        lifetime = self._lifetime
        if lifetime.over:
            lifetime.forget()
            self._lifetime = self._new_lifetime()
        elif not lifetime.healthy:
            raise RuntimeError("this server is still closing: await server.close() before you open it again")
        if self._cluster is not None:
            self._lifetime.join()

    async def serve_forever(self) -> None:
        """Wait until the server is closed, after it has drained if it does. Cancelling is safe.

        Raises:
            RuntimeError: called in another thread than the event loop's.
        """
        self._lifetime.check_thread("server.serve_forever()")
        await self._lifetime.wait_ended()

    def run(
        self,
        host: str | None = "127.0.0.1",
        port: int | None = 8080,
        *,
        path: str | None = None,
        ssl: ssl_module.SSLContext | None = None,
        unix: str | None = None,
        healthz: str | None = "/healthz",
        reuse_port: bool = False,
        lifespan: Callable[[Server], AbstractAsyncContextManager[object]] | None = None,
    ) -> None:
        """Serve until a signal comes: a whole program in one line. Options are those of `listen`.

        Ctrl-C closes every connection with 1012. SIGTERM drains for at most `Limits.drain` seconds, see `close`; Ctrl-C
        or another SIGTERM during that closes at once. This returns after either, so that the program can exit with
        status 0. Outside the main thread, signals are left alone. The address is logged, or written to
        stderr if the log does not show it.

        Args:
            lifespan: ``lifespan(server)`` returns an async context manager, for what lives as long as the program, such
                as background tasks or a database in `state`. It is entered before the port is opened, and left when
                every connection is closed and the handlers have ended. An error that it raises ends the program. A
                signal that comes before the server listens cancels it.

        Raises:
            RuntimeError: called inside a running event loop.
            TypeError, ValueError: ``lifespan`` or an option of `listen` is not valid.
        """
        listening = self.listen(host, port, path=path, ssl=ssl, unix=unix, healthz=healthz, reuse_port=reuse_port)
        run(self, listening, self.serve_forever, self.close, drain=self.limits.drain, lifespan=lifespan)

    @no_parentheses("@server.on_handshake")
    def on_handshake(self, function: H, /) -> H:
        """Call ``function(handshake)``, sync or async, before a connection is accepted; a decorator.

        It may refuse the connection with ``handshake.reject(...)``, or change what the connection gets; see
        `Handshake`. Any other error is logged and refuses with 500. So does a result that is not valid: a header that
        cannot be sent, for instance, or False as the return value, which is likely a mistake. Other return values are
        ignored.

        The function is called after the check of the origin. If it takes more than `Limits.open_timeout` seconds, that
        is logged, and the connection is refused with 503. A server has one such function: another one replaces it, with
        a warning in the log.

        Raises:
            TypeError: ``function`` is not a function of a handshake.
        """
        if not accepted("on_handshake", ("handshake",), function):
            raise TypeError(f"on_handshake takes a function of the handshake, but {function!r} takes no argument")
        self._entrance.use(function)
        return function

    @no_parentheses("@server.serve_raw")
    def serve_raw(self, function: R, /) -> R:
        """Serve each connection with ``async def function(connection)``, without the protocol; a decorator.

        It gets a `RawConnection`, after `on_handshake`. When it returns, the connection is closed with 1000. When it
        raises, the connection is closed with 1011, and the traceback is logged; for an `RpcError` it is closed with
        1008 and the error's text. The function serves all connections of the server, and no handlers are called.

        Raises:
            TypeError: ``function`` is not an async function.
            ValueError: the server has such a function already, or a service.
        """
        if self._hosting.entries:
            name = self._hosting.entries[0].cls.__qualname__
            raise ValueError(f"serve_raw serves every connection, and {name} serves them already: use another Server")
        self._hosting.raw.use(function)
        return function

    def add_service(
        self,
        service: S,
        factory: Callable[..., Any] | None = None,
        /,
        *,
        channel: str | None = None,
        implements: TypeForm[Any] | None = None,
    ) -> S:
        """Make an object of a `Service` class for each connection; a decorator.

        The class's methods are compiled here, once, as handlers of the main channel, or of ``channel``.

        The class or the factory may take one argument, the peer (the `RawConnection` for a class with ``serve``). A
        factory may be async; for a peer it has `Limits.open_handlers` seconds. If it raises, the connection is refused:
        closed with 1011, and the traceback is logged; for an `RpcError`, closed with 1008 and the error's text.

        Args:
            service: the class, or a factory that is annotated with the class that it returns.
            factory: a function that makes the object, if ``service`` is the class.
            channel: the name of the channel for the class's handlers; None is the main channel.
            implements: a contract that the class implements. Its methods are handlers without `method`, and are checked
                as by `implement`.

        Raises:
            TypeError: ``service`` is not a service, it does nothing, or the signature of a method cannot work; the text
                names the parameter.
            ValueError: an event has a handler already, or another service gets every message.
        """
        self._hosting.add(service, factory, channel, implements)
        return service

    @property
    def raw_connections(self) -> tuple[RawConnection, ...]:
        """The connections that are served without the protocol, in the order in which they came."""
        return self._lifetime.raw.all

    async def handshake(self, handshake: Handshake) -> None:
        """Check a request before the upgrade, for adapters, which `accept` its transport afterwards.

        Cancelling is safe: it cancels the `on_handshake` function, and nothing is kept of the request.

        Raises:
            HandshakeRejected: answer the request with its ``status``, ``body`` and ``headers``. The status is 503 when
                the server is closing.
        """
        waiting = self._admit(handshake)
        if waiting is not None:
            await waiting

    def _admit(self, handshake: Handshake) -> Awaitable[None] | None:
        return self._entrance.check(handshake, self._lifetime.gate)

    def handshake_nowait(self, handshake: Handshake) -> None:
        """Check a request as `handshake` does, for libraries that cannot wait here; see `handshakes_wait`.

        Raises:
            HandshakeRejected: as for `handshake`.
            TypeError: the `on_handshake` function is async.
        """
        if self.handshakes_wait:
            raise TypeError("this transport's library cannot wait for an async on_handshake: make it a plain function")
        self._entrance.check_nowait(handshake, self._lifetime.gate)

    @property
    def limits(self) -> Limits:
        """The bounds of each connection, unless its `Handshake` has others."""
        return self._settings.limits

    @property
    def compression(self) -> bool:
        """Whether permessage-deflate is offered, unless a connection's `Handshake` has another value."""
        return self._compression

    @property
    def handshakes_wait(self) -> bool:
        """Whether the `on_handshake` function is async, so that `handshake_nowait` cannot call it."""
        return self._entrance.is_async

    async def accept(self, transport: Transport, handshake: Handshake | None = None) -> Peer | RawConnection:
        """Give a peer to a connection of any library; return when its `open` handlers are done.

        With `serve_raw`, the connection goes to that function, which may run on when this returns. Cancelling leaves
        the connection to its peer; while a service's factory runs, it drops the connection.

        Args:
            handshake: the request that `handshake` accepted.

        Raises:
            ConnectionLost: the server is closed, ``room_from`` failed, or a service's factory failed or refused. The
                connection is closed.
            TypeError: ``transport`` is not a transport.
            RuntimeError: the server listens, or has connections, in another thread.
        """
        return await self._accept(transport, handshake)

    async def _accept(
        self, transport: Transport, handshake: Handshake | None, clock: Scheduler | None = None
    ) -> Peer | RawConnection:
        lifetime = self._lifetime
        await lifetime.check_open(transport)
        first = None
        if handshake is not None and self._may_resume(handshake):
            first = FirstMessage(lifetime.sessions, transport, handshake)
            resumed = await first.wait(lifetime.gate)
            if resumed is not None:
                peer: Peer = resumed.peer
                return peer
            await lifetime.check_open(transport)
        made = self._begin(lifetime, transport, handshake, clock)
        if isinstance(made, RawConnection):
            return made
        try:
            if self._hosting.entries:
                await self._hosting.attach(made, transport, lifetime.gate)
                await lifetime.check_open(transport)
            await self._rooms.admit(made, transport)
        except ConnectionLost as exc:
            lifetime.peers.refused(made, exc.code)
            raise
        lifetime.peers.admit(made, transport, first)
        await made.core.wait_opened()
        return made.peer

    def _may_resume(self, handshake: Handshake) -> bool:
        """Return whether a session may go on with a connection, so that its first message decides."""
        return (
            handshake.headers.get(RESUME_HEADER) == "1"
            and self._settings.resumes
            and self._hosting.raw.function is None
        )

    def _accept_at_once(self, transport: Transport, handshake: Handshake) -> bool:
        """Do what `accept` does, within this call. Returns False, and does nothing, if something has to be awaited.

        Nothing has to be where there are no services and no ``room_from``, as for most servers. Coroutines and the task
        to run them would cost as much as a third of a peer. Open handlers go on after this call.
        """
        lifetime = self._lifetime
        if self._hosting.entries or self._rooms.homes or not lifetime.healthy or self._may_resume(handshake):
            return False
        made = self._begin(lifetime, transport, handshake)
        if not isinstance(made, RawConnection):
            self._rooms.enter(made)
            lifetime.peers.admit(made, transport)
        return True

    def _begin(
        self, lifetime: Lifetime, transport: Transport, handshake: Handshake | None, clock: Scheduler | None = None
    ) -> ServedPeer | RawConnection:
        """Make the peer of a connection, or begin to serve it without the protocol."""
        lifetime.check_thread("server.accept(...)")
        lifetime.enter_loop()
        loop = clock or lifetime.scheduler
        settings = self._settings
        if handshake is not None and handshake.limits is not self.limits:
            settings = msgspec.structs.replace(settings, limits=handshake.limits)
        if self._hosting.raw.function is not None:
            state = PeerState() if handshake is None else handshake.state
            make = partial(RawConnection, state=state, server=self)
            return lifetime.raw.begin(transport, settings.limits, loop, self._hosting.raw, make)
        served = ServedPeer(self, lifetime.peers, settings, self._registry, loop, handshake)
        if handshake is not None and handshake.expires is not None:
            served.expire_at(handshake.expires)
        return served

    async def close(self, drain: float = 0.0) -> None:
        """Close every connection with 1012 and wait for handlers to end. Idempotent.

        New connections are refused from now on. The server can be opened again afterwards, by `listen`, `run`, `open`
        or an adapter.

        Request handlers that still run are cancelled, as at any end of a connection. Handlers of events have
        `Limits.close_timeout` seconds to finish. Cancelling is safe: the closing goes on.

        Args:
            drain: seconds in which active work may finish, in both directions (handlers, requests, streams, channels).
                Each connection is closed as soon as it has none. Meanwhile a wsrpc client queues new messages for its
                next connection, and new requests of other peers are rejected as `Draining`. Another call with a smaller
                ``drain``, or none, ends the drain sooner.

        Raises:
            TypeError, ValueError: ``drain`` is not a number, or negative.
            RuntimeError: called in another thread than the event loop's.
        """
        check_number("drain= is a number of seconds, 0 or more", drain, 0)
        self._lifetime.check_thread("server.close()")
        await self._lifetime.close(drain)

    # ------------------------------------------------------------ for operators

    @property
    def healthy(self) -> bool:
        """Whether connections are accepted: True until `close` is called. Tells a balancer whether to send clients."""
        return self._lifetime.healthy

    def stats(self) -> ServerStats:
        """Return a snapshot of the server's counts. Summing it takes microseconds for each peer."""
        return self._lifetime.stats()

    # ------------------------------------------------------------ everybody

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The connected peers, in the order in which they came."""
        return self._lifetime.peers.users()

    def peer(self, id: str, /) -> Peer | None:
        """Return the connected peer with this `Peer.id`; None if there is none."""
        return self._lifetime.peers.get(id)

    # ------------------------------------------------------------ the cluster and rooms

    @property
    def cluster(self) -> Cluster:
        """The cluster that this server is part of.

        Raises:
            RuntimeError: it is part of none.
        """
        if self._cluster is None:
            raise RuntimeError(
                "this server is in no cluster: give it one, Server(cluster=Cluster(engine, name='shop'))"
            )
        return self._cluster

    def room(self, name: str, *, allow: Allow | None = None, slow: Slow | None = None) -> Room:
        """Return the room with that name. A room without options is forgotten when it is empty. See `Room`.

        Args:
            allow: ``allow(peer)``, sync or async, returns whether a client may join; see `on_join`.
            slow: the policy for members that are slow readers, instead of the server's; see `Server`.

        Raises:
            TypeError: ``name`` is not text, or empty; ``allow`` is not a function of the peer.
            ValueError: the room has another ``allow`` or ``slow`` already, ``slow`` is not a policy, or you have
                handlers on the channel "rooms".
        """
        return self._rooms.declare(name, allow, slow)

    @property
    def rooms(self) -> tuple[Room, ...]:
        """The rooms that have members, and those that were made with options."""
        return self._rooms.all()

    @no_parentheses("@server.on_join")
    def on_join(self, function: J, /) -> J:
        """Let ``function(peer, room)``, sync or async, decide whether a client may join a room; a decorator.

        It is called with the room's name, for rooms without ``allow=``. Once a server has such a function, or a room
        has ``allow=``, clients join and leave by the requests ``join`` and ``leave`` on the channel "rooms", with the
        name as argument, and you cannot register handlers on that channel. The error of a refused client says "not
        allowed" and nothing else; an error of the function is logged.

        Raises:
            TypeError: ``function`` is not a function of the peer and the name.
            ValueError: you have handlers on the channel "rooms".
        """
        self._rooms.ask(function)
        return function

    def offer_description(self, *, allow: Allow | None = None) -> None:
        """Let clients ask which events this server has handlers for and which it emits, in any language.

        They make the request ``describe`` on the channel "wsrpc", and you cannot register handlers on that channel. The
        answer is what `wsrpc.schema.describe` returns, in pages; docs/reference/protocol.md has its form. Handlers that
        are registered later appear. Those with ``hidden=True`` and those of `once` are left out.

        Args:
            allow: ``allow(peer)``, sync or async, returns whether a client gets the description. With None every client
                gets it. The error of a refused client says "not allowed" and nothing else; an error of the function is
                logged.

        Raises:
            TypeError: ``allow`` is not a function of the peer.
            ValueError: it is offered already, or you have handlers on the channel "wsrpc".
        """
        offer_description(self._registry, enc_hook_of(self._settings.codec), allow)

    if not TYPE_CHECKING:
        __enter__ = __exit__ = __aenter__ = __aexit__ = refusing(
            "a Server is not a context manager: use `async with server.listen(...) as listener:`, or server.run()"
        )

    def __repr__(self) -> str:
        state = self._lifetime.state
        return f"<Server {state}{'' if state == 'closed' else f', {len(self._lifetime.peers)} peers'}>"


settings_of: Callable[[Server], Settings] = attrgetter("_settings")
"""The settings of a server, for the modules of this package. Public classes have no public name for them."""

accept_of: Callable[
    [Server], Callable[[Transport, Handshake, Scheduler | None], Coroutine[Any, Any, Peer | RawConnection]]
]
accept_of = attrgetter("_accept")
"""`Server.accept` of a server, with a clock in place of the event loop's time."""
