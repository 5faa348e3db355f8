"""`Server`: accepts connections, gives each a peer, and emits to all of them."""

from __future__ import annotations

import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from .._base.logs import OF_ONE_SERVER, LogBudget
from .._base.misuse import check_flag, check_number, no_parentheses, refusing
from .._base.names import F, Profile, Redact, check_channel
from .._base.rooms import Present
from .._base.state import PeerState
from .._core.api.context import Context as Context  # middleware gets one, also if the program names no such class
from .._core.api.outgoing import OutgoingRegistrar
from .._core.api.peer import Peer
from .._core.api.registration import Declarer, Router, include
from .._core.handlers.accepted import accepted
from .._core.handlers.registry import Registry
from .._core.sending.draining import DRAIN_TIMEOUT
from .._core.sending.slow_readers import Slow, check_slow
from .._core.wire.codecs import Codec, enc_hook_of
from .._core.wire.settings import Settings, make_settings
from .._http.http_frames import TRANSPORT
from .._keyed.keeper import Keeper, Owners
from .._keyed.runs import Runs
from .._log.contract import Store
from .._net.serving.handshake_checks import HandshakeChecks
from .._net.serving.health import Health
from .._net.serving.listener import check_place, listen
from .._net.serving.origins import Origins
from .._raw.raw_connection import RawConnection
from .._raw.raw_serving import RawFunction
from .._schema.description import ServedContract
from .._values.convert import DecHook
from ..errors import ChannelClosed, HandshakeRejected
from ..handshake import Handshake
from ..limits import Limits
from ..quotas import Quotas
from ..stats import ServerStats
from ..transport import Transport
from .accepting import Accepting
from .broadcast import BroadcastGroup, BroadcastMethods, RawBroadcastMethods
from .decider import Allow, check_decider
from .joined_cluster import join_of
from .operating.description_pages import offer_description
from .operating.operator_requests import Admin, OperatorRequests
from .ports import Listening, OpenPort, Port
from .quotas.quotas import QuotaBook, checked
from .rooms.room import Room
from .rooms.room_options import RoomOptions
from .rooms.rooms import Rooms
from .server_core import ServerCore, ServerParts
from .server_program import run
from .services.service_registry import ServiceRegistry

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from ..cluster._cluster import Cluster


R = TypeVar("R", bound=RawFunction)
S = TypeVar("S", bound=Callable[..., Any])
T = TypeVar("T")


class ServerChannel(Declarer, BroadcastMethods):
    """Named channel of a server. Its handlers run for all peers, and events go to all peers. `Server.of` returns it."""

    def __init__(self, name: str, registry: Registry, group: BroadcastGroup, on_close: Callable[[str], object]) -> None:
        self._channel_name = name
        self._registry = registry
        self._group = group
        self._on_close = on_close
        self._closed = False
        self._reason: object = None

    @property
    def name(self) -> str:
        """The channel's name."""
        return str(self._channel_name)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def close_reason(self) -> Any:
        """The ``reason`` that was passed to `close`. None before `close` is called."""
        return self._reason

    def close(self, reason: object = None) -> None:
        """Remove the channel's handlers and middleware.

        Nothing is sent to the peers. Calling `close` again has no effect.
        """
        if not self._closed:
            self._closed = True
            self._reason = reason
            self._on_close(self.name)

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed(self.name, self._reason)

    def __repr__(self) -> str:
        return f"<ServerChannel {self.name!r}{' closed' if self._closed else ''}>"


class Server(Declarer, OutgoingRegistrar, RawBroadcastMethods):
    """Server that accepts connections, and creates a `Peer` for each of them.

    Handlers that you register on the server run for every peer. If you also register a handler for the same event on a
    peer, only the peer's handler runs for that peer. For lifecycle events (see `on`), both handlers run.

    The attribute ``state`` is a mapping in which the application can store objects, such as a database connection; see
    `Key`. Handlers access it as ``peer.server.state`` or ``ctx.server.state``. The mapping keeps its values when the
    server is closed and opened again.

    Args:
        limits: the limits of each connection.
        origins: the origins of web pages that can connect, in addition to the server's own host. Browsers send the
            origin of a page in the ``Origin`` header. If pages are loaded without TLS from a name other than
            ``localhost``, such as ``"http://app.lan"``, list this origin, too: any website could let its own name
            resolve to this server (DNS rebinding). You can also pass `ANY_ORIGIN`, or a function that takes the
            `Handshake` and returns whether the origin may connect.
        trusted_proxies: the addresses and networks of the proxies that you trust, for example ``"10.0.0.0/8"``.
            ``"unix"`` trusts connections over Unix sockets. The server uses the headers ``X-Forwarded-For``,
            ``X-Forwarded-Proto`` and ``X-Forwarded-Host`` only from these proxies. By default, no proxy is trusted.
        compression: whether to use permessage-deflate with clients that offer it. An `on_handshake` function can change
            this for one connection.
        codec: as for `Client`.
        dec_hook: as for `Client`.
        expose_errors: as for `Client`.
        extensions: as for `Client`.
        log_payloads: as for `Client`.
        profile: as for `Client`.
        program: as for `Client`. With it, starting the server takes about 1 ms longer for each handler that has a class
            of its own.
        slow: the policy for broadcasts to slow readers, which are peers whose connection is full; see `PeerStats.slow`.
            With ``"close"``, the messages are queued, and the connection of a peer whose unsent bytes reach
            `Limits.hard_cap_bytes` is closed with 4408. The other policies queue at most `Limits.behind_bytes` bytes of
            messages for each peer. Beyond this limit, ``"drop_newest"`` drops new messages, and ``"drop_oldest"`` and
            ``KeepLatest(key)`` drop the oldest messages. ``KeepLatest(key)`` also keeps only the latest message of each
            key. `Peer.skipped_broadcasts` counts the dropped messages. A client with a slow handler is no slow reader:
            see `KeepLatest`.
        detached_timeout: the maximum time, in seconds, that the session of a client whose connection has dropped is
            kept. (The default of Socket.IO is 2 minutes, if this feature is turned on, and that of SignalR is 30 s.)
        detached_bytes: the approximate maximum memory, in bytes, for the sessions of all clients whose connections have
            dropped, and for what handlers and readers still hold of sessions that have ended. When it is exceeded, the
            client whose sessions take most loses the largest one.
        admin: a function ``admin(peer, action)``, sync or async, that returns whether a client may act as an operator,
            for example by the command `wsrpc kick`. ``action`` is ``"peers"`` (list the peers), ``"stats"`` (read the
            statistics), ``"kick"`` (close a peer), ``"call"`` (send a request to a peer), ``"rebalance"`` (move idle
            peers), ``"waiting"`` (list the calls that wait for peers), ``"submit"`` or ``"withdraw"`` (such a call). In
            a cluster, the client then reaches the peers of all processes. A client that is refused gets only the error
            message "not allowed". If the function raises an exception, the client is refused, and the exception is
            logged. Without a function, all clients are refused.
        cluster: the cluster that this process joins. Rooms and `Cluster.peer` then reach the peers of all processes in
            the cluster. See `Cluster`.
        store: keeps the results and items of calls with a key, for handlers with ``keep=`` (see `on`). The default is a
            `MemoryStore`. Several processes can share a `RedisStore`, from which they read also after one has ended.
        quotas: what each user may do on all connections together: `Quotas`, or several of them, which all apply.
        max_connection_age: the age of a connection, in seconds, give or take 10 %, after which an idle wsrpc client is
            asked to connect again, and may reach another process. A client is idle when no call, stream or channel is
            in flight in either direction; until then it stays. Each process moves at most 10 clients per second. None
            for no limit.

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
        expose_errors: bool | Callable[[BaseException], bool] = False,
        extensions: bool = True,
        log_payloads: bool | Redact = False,
        profile: Profile | None = None,
        program: str | None = None,
        slow: Slow = "close",
        detached_timeout: float = 60.0,
        detached_bytes: int = 256 * 1024 * 1024,
        admin: Admin | None = None,
        cluster: Cluster | None = None,
        store: Store | None = None,
        quotas: Quotas | Iterable[Quotas] = (),
        max_connection_age: float | None = None,
    ) -> None:
        check_slow(slow)
        check_number("detached_timeout= is a number of seconds, 0.001 or more", detached_timeout, 0.001)
        check_number("detached_bytes= is a number of bytes, 0 or more", detached_bytes, 0)
        check_flag("compression", compression)
        if max_connection_age is not None:
            check_number("max_connection_age= is a number of seconds, 0.001 or more", max_connection_age, 0.001)
        budget = LogBudget(*OF_ONE_SERVER)
        self._handshake_checks = HandshakeChecks(origins, trusted_proxies, budget)
        self._compression = compression
        self._registry = Registry(dec_hook=dec_hook)
        contract = ServedContract(self._registry, None if codec is None else enc_hook_of(codec))
        self._settings = make_settings(
            limits, codec, expose_errors, extensions, log_payloads, profile, program, contract
        )
        keeper = Keeper(store, self._settings.codec, Owners(), self._absent_peer)
        self._registry.keeper = keeper.keep
        self._channel_name = None
        self.state = PeerState()
        self._channels: dict[str, ServerChannel] = {}
        self._rooms = Rooms(
            self,
            self._registry,
            self._settings.codec,
            slow,
            keeper.runs.link,
            in_cluster=cluster is not None,
            extensions=self._settings.extensions,
        )
        self._group = self._rooms.everybody
        found, end_detached = checked(quotas), None if cluster is None else self._end_detached
        self._quotas = QuotaBook(found, keeper.runs.link, budget, end_detached) if found else None
        if admin is not None:
            OperatorRequests(self, cluster, admin).offer(self._registry)
        self._services = ServiceRegistry(self._registry)
        self._cluster = cluster
        joining = (self._settings, self._registry, self._rooms, keeper.runs)
        self._parts = ServerParts(
            rooms=self._rooms,
            runs=keeper.runs,
            quotas=self._quotas,
            join=None if cluster is None else partial(join_of(cluster), *joining),
            on_drain=[],
            budget=budget,
            patience=self.limits.close_timeout,
            detached_timeout=detached_timeout,
            detached_bytes=detached_bytes,
            max_age=max_connection_age,
        )
        made_of = self, self._settings, self._registry, self._services, self._rooms, self._quotas
        self._accepting = Accepting(*made_of, in_cluster=cluster is not None)
        self._core = ServerCore(self._parts)

    # ------------------------------------------------------------ registering

    def of(self, name: str, *, ordered: bool = False) -> ServerChannel:
        """Return a named channel that reaches all peers.

        Calls with the same name return the same object until the channel is closed.

        Args:
            ordered: whether handlers that you register on the channel from now on handle the messages of each peer one
                at a time.

        Raises:
            TypeError, ValueError: ``name`` is not a valid channel name.
        """
        check_channel(name)
        check_flag("ordered", ordered)
        channel = self._channels.get(name)
        if channel is None:
            channel = ServerChannel(name, self._registry, self._group, self._remove_channel)
            self._channels[name] = channel
        self._registry.scope(name)
        if ordered:
            self._registry.order(name)
        return channel

    def _remove_channel(self, name: str) -> None:
        self._channels.pop(name, None)
        self._registry.remove_scope(name)

    def include(self, router: Router, *, channel: str | None = None) -> None:
        """Register the handlers and middleware of ``router`` on this server; see `Router`.

        Args:
            channel: the named channel on which to register the handlers of the router's main channel. None for the main
                channel.

        Raises:
            TypeError: ``router`` is not a `Router`.
            ValueError: ``channel`` is given, but the router itself has named channels.
        """
        include(router, self._registry, channel)

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
        """Listen for connections inside a block: ``async with server.listen(...) as listener``.

        The listener has the properties ``url`` and ``port``; see `Listening`. Entering the block opens the port. If the
        server was closed, entering the block also opens the server; see `open`. Leaving the block closes the server.

        Args:
            host: the address to listen on. None for all addresses.
            port: the port to listen on. 0 picks a free port.
            path: the URL path that clients must use. None accepts any path.
            ssl: the TLS context. None for no TLS.
            sock: a bound socket, instead of host and port.
            unix: the path of a Unix socket, instead of host and port. asyncio has none on Windows.
            healthz: the URL path for health checks, which are plain HTTP requests. The response is 200 while the server
                is `healthy`, and 503 while it drains (see `close`). To respond to health checks, the port stays open
                while the server drains, and new connections get 503. With None, health checks are not possible, and the
                port closes when the server begins to drain.
            reuse_port: whether several processes can listen on the same port, if the operating system supports this.
                The operating system distributes new connections among the processes. `peers` and `emit` cover only the
                clients of this process. Without a `Cluster`, rooms also cover only these clients. The port closes when
                the server begins to drain, so that new connections go to the other processes.

        Raises:
            TypeError, ValueError: an option is not valid, or options cannot be combined.
        """
        check_place(host, path, ssl, sock, unix, reuse_port)
        health = None if healthz is None else Health(healthz, lambda: self.healthy, lambda: self._core.degraded)
        start = partial(
            listen,
            self._accept_at_once,
            host,
            port,
            limits=self.limits,
            path=path,
            admit=self._admit,
            leave=self._leave,
            compression=self._compression,
            health=health,
            reuse_port=reuse_port,
            ssl=ssl,
            sock=sock,
            unix=unix,
        )
        return self._listening(start, stays_for_drain=health is not None and not reuse_port)

    def listening(self, start: Callable[[], Awaitable[Port]]) -> Listening:
        """Return a `Listening` object like `listen`, but for a port that the function ``start`` opens. For adapters.

        The port stops accepting connections when the server is closed or begins to drain; see `wsrpc.adapting.Port`.
        """
        return self._listening(start, stays_for_drain=False)

    def _listening(self, start: Callable[[], Awaitable[Port]], *, stays_for_drain: bool) -> Listening:
        async def open_port() -> OpenPort:
            was_joined = self._core.joiner.cluster is not None
            try:
                await self.open()
                core = self._core
                core.check_thread("your_coroutine()")
                port = await start()
            except BaseException:
                if self._core.joiner.cluster is not None and not was_joined:  # nobody would close it
                    await self._core.close(0.0)
                raise
            if not core.lifetime.accepts:
                port.stop()
                await port.wait_closed()
                raise RuntimeError("the server was closed before it could listen")
            core.enter_loop()
            self._handshake_checks.warn_of_any_origin()
            core.ports[port] = stays_for_drain
            return OpenPort(port, partial(core.close, 0.0))  # of this core: the server may be opened again

        return Listening(open_port)

    async def open(self) -> None:
        """Open the server again if it was closed. If the server is open, nothing happens.

        `listen`, `run` and the ``lifespan`` of adapters call this method. Call it yourself in a framework that has
        startup and shutdown functions: `open` in the startup function, and `close` in the shutdown function.

        The server keeps its handlers, its services, rooms that were created with options, all other settings, and
        ``state``. The peers, the members of rooms, and the `stats` are reset.

        In a cluster, this method also waits until the engine is reached, but at most 1.5 seconds: without its engine,
        the server serves its own clients. Cancelling is safe: the server stays open.

        Raises:
            RuntimeError: the server is still closing; or another process of its cluster has another
                `wsrpc.store.FORMAT`.
        """
        core = self._core
        if core.lifetime.over:
            self._renew_core()
        elif not core.lifetime.accepts:
            raise RuntimeError("this server is still closing: await server.close() before you open it again")
        self._settings.contract()  # made now, because making it would delay the first greeting
        await self._core.join_and_wait()

    def _renew_core(self) -> ServerCore:
        self._core.abandon()
        self._core = ServerCore(self._parts)
        return self._core

    def _accepting_core(self) -> ServerCore:
        """Return the core that accepts a connection: a new one, if the event loop of the last one was closed."""
        core = self._core
        return self._renew_core() if core.scheduler.has_ended and core.lifetime.state == "abandoned" else core

    async def serve_forever(self) -> None:
        """Wait until the server is closed. Cancelling is safe.

        If the server drains before it closes, this method also waits for the drain to finish.

        Raises:
            RuntimeError: called in a thread other than that of the server's event loop.
        """
        self._core.check_thread("server.serve_forever()")
        await self._core.lifetime.wait_ended()

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
        drain_timeout: float = 20.0,
    ) -> None:
        """Run the server in a new event loop, until the process receives a signal.

        The options other than ``lifespan`` and ``drain_timeout`` are the same as for `listen`. Ctrl-C closes every
        connection with 1012. SIGTERM drains the server; see `close`. While the server drains, Ctrl-C or another SIGTERM
        closes all connections immediately. After any of these signals, `run` returns, so that the program can exit with
        status 0. Outside the main thread, `run` does not handle signals.

        The server's URL is logged. If logging is not configured to show the URL, it is written to stderr.

        Args:
            lifespan: a function ``lifespan(server)`` that returns an async context manager, for resources of the whole
                program, such as background tasks or a database in ``state``. The context manager is entered before the
                port opens. It is exited after every connection is closed and the handlers have ended. If it raises an
                exception, the program ends. A signal that arrives while the context manager is being entered cancels
                it.
            drain_timeout: the maximum time that active work has to finish after SIGTERM, in seconds. (Kubernetes kills
                a process after 30 s.)

        Raises:
            RuntimeError: called inside a running event loop.
            TypeError, ValueError: ``lifespan``, ``drain_timeout`` or an option of `listen` is not valid.
        """
        listening = self.listen(host, port, path=path, ssl=ssl, unix=unix, healthz=healthz, reuse_port=reuse_port)
        check_number(DRAIN_TIMEOUT, drain_timeout, 0)
        run(self, listening, self.serve_forever, self.close, drain_timeout=drain_timeout, lifespan=lifespan)

    @no_parentheses("@server.on_handshake")
    def on_handshake(self, function: Callable[[Handshake], T], /) -> Callable[[Handshake], T]:
        """Register ``function(handshake)``, sync or async, to check each new connection. Works as a decorator.

        The function gets a `Handshake`, before the connection is accepted. It can refuse the connection with
        ``handshake.reject(...)``, or change the settings of the connection. If the function raises any other exception,
        the exception is logged, and the connection is refused with 500. The same happens if a setting is not valid,
        such as a header that cannot be sent, or if the function returns anything but None, which is probably a mistake.

        The function is called after the origin check. If the function takes more than `Limits.open_timeout` seconds,
        this is logged, and the connection is refused with 503. A server has only one such function. Registering another
        function replaces the first, and logs a warning.

        Raises:
            TypeError: ``function`` cannot be called with a handshake.
        """
        if not accepted("on_handshake", ("handshake",), function):
            raise TypeError(f"on_handshake takes a function of the handshake, but {function!r} takes no argument")
        self._handshake_checks.use(function)
        return function

    @no_parentheses("@server.on_drain")
    def on_drain(self, function: Callable[[], T], /) -> Callable[[], T]:
        """Register ``function()``, sync or async, to be called when the server begins to drain. Works as a decorator.

        Use the function to end work that would not end by itself, such as a stream without an end; the drain would
        otherwise wait for it until its time is over. When the function is called, `draining` is true, and peers that
        are idle are still connected, also for the tasks that it starts at once, as with `asyncio.gather`. The drain
        also waits for async functions, and cancels them when its time is over.
        Exceptions are logged. The function is called once for each `close` that drains. A `close` without
        ``drain_timeout`` does not call it, because handlers are then cancelled at once.

        Raises:
            TypeError: ``function`` is not a function, or requires an argument.
        """
        accepted("on_drain", (), function)
        self._parts.on_drain.append(function)
        return function

    @no_parentheses("@server.on_detach")
    def on_detach(self, function: F, /) -> F:
        """Register ``function(peer, info)``, sync or async, for peers that lose their connection. Works as a decorator.

        The function is called when the connection of a peer has dropped, and the session of the peer is kept, so that
        the client can resume it: the peer is detached; see `Peer.detached`. ``info`` is the `CloseInfo` of the
        connection. Then either the functions of `on_resume` are called, or the `close` handlers. If a session ends
        together with its connection, only the `close` handlers are called. A client may resume its session before the
        server has noticed the drop. Then ``info.code`` is 4409, and the functions of `on_resume` are called right
        after.

        You can register several functions. The functions of one peer run one after another, in the order in which
        things happened: the `open` handlers, the functions of `on_detach` and `on_resume`, and the `close` handlers.
        After `Limits.open_timeout` seconds, a function no longer holds up the later ones, and this is logged. If a
        connection drops again before the functions of `on_resume` were called for it, neither the resume nor this drop
        calls functions. Exceptions are logged.

        Raises:
            TypeError: ``function`` is not a function, or requires more than these two arguments.
            ValueError: all connections are raw connections.
        """
        self._registry.add_hook("on_detach", ("peer", "info"), function)
        return function

    @no_parentheses("@server.on_resume")
    def on_resume(self, function: F, /) -> F:
        """Register ``function(peer)``, sync or async, for peers that have a connection again. Works as a decorator.

        The function is called when a session that was detached has resumed on another connection. `Peer.info`,
        `Peer.address` and `Peer.state` are those of the new connection. See `on_detach`.

        Raises:
            TypeError: ``function`` is not a function, or requires more than one argument.
            ValueError: all connections are raw connections.
        """
        self._registry.add_hook("on_resume", ("peer",), function)
        return function

    @no_parentheses("@server.serve_raw")
    def serve_raw(self, function: R, /) -> R:
        """Serve each connection as a raw connection, with ``async def function(connection)``. Works as a decorator.

        The function is called with a `RawConnection`, after the `on_handshake` function. When ``function`` returns, the
        connection is closed with 1000. If it raises an `RpcError`, the connection is closed with 1008, and the reason
        is the text of the error. For any other exception, the close code is 1011, and the traceback is logged. The
        function serves all connections of the server, so the server can have no handlers. To use the connection in
        other tasks, end ``function`` with ``await connection.wait_closed()``.

        Raises:
            TypeError: ``function`` is not an async function.
            ValueError: the server already has such a function, a service or handlers.
            RuntimeError: the server has connections.
        """
        self._core.check_unused("serve_raw")
        self._services.serve_raw(function)
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
        """Create an instance of a `Service` class for each connection. Works as a decorator.

        The methods that are decorated with `method` become handlers on the main channel, or on ``channel``. Their
        signatures are read once, when you call `add_service`.

        The factory can return an object of a subclass that overrides methods. It must not add handlers, or change the
        options of a handler or whether a method is async: the connection would be refused.

        The class or the factory can take one argument: the `Peer` or, if the class has a method ``serve``, ``on_json``
        or ``on_message``, the `RawConnection`. Such a class serves all connections of the server, without the protocol:
        it has no handlers, and the server has no other services or handlers. The factory can be async. A factory for a
        peer may take at most `Limits.open_timeout` seconds.
        If the class or the factory raises an `RpcError`, the connection is closed with 1008, and the reason is the text
        of the error. For any other exception, the close code is 1011, and the traceback is logged.

        Args:
            service: the class; or a factory whose return annotation is the class.
            factory: a function that creates the instance, if ``service`` is the class.
            channel: the named channel for the handlers of the class. None for the main channel.
            implements: a contract that the class implements. The methods of the contract become handlers, and do not
                need the decorator `method`. They are checked in the same way as with `implement`.

        Raises:
            TypeError: ``service`` is not a service class, it has no handlers, it has handlers and a method that gets
                every message, or the signature of a method is not valid. The error message names the parameter.
            ValueError: an event already has a handler; or a class or function gets every message, so that others would
                get none.
            RuntimeError: the server has connections, for which there would be no instance.
        """
        self._core.check_unused("add_service")
        self._services.add(service, factory, channel, implements)
        return service

    @property
    def raw_connections(self) -> tuple[RawConnection, ...]:
        """The connections that a `serve_raw` function, or a `Service` without the protocol, serves, oldest first."""
        return self._core.raw.all

    async def handshake(self, handshake: Handshake) -> None:
        """Check a request before its connection becomes a WebSocket. For adapters.

        After this check, an adapter passes the transport of the connection to `accept`. Cancelling is safe: the
        `on_handshake` function is cancelled, too, and the server keeps no data about the request.

        Raises:
            HandshakeRejected: the connection is refused. Send a response with the ``status``, ``body`` and ``headers``
                of this exception. While the server is closing, the status is 503.
        """
        if not self._settings.extensions and handshake.asks_to_resume and TRANSPORT in handshake.headers:
            # The client has a WebSocket, on which nothing has arrived, because this server has not greeted it.
            raise HandshakeRejected(404, "this server has no sessions, which could move to HTTP\n")
        if (waiting := self._admit(handshake)) is not None:
            await waiting

    def _admit(self, handshake: Handshake) -> Awaitable[None] | None:
        acceptance = self._accepting_core().acceptance
        waiting = self._handshake_checks.check(handshake, acceptance)
        if self._quotas is None or self._accepting.may_resume(handshake):  # it is counted while it is accepted
            return waiting
        return self._quotas.admit(handshake, acceptance, waiting)

    def _leave(self, handshake: Handshake) -> None:
        if self._quotas is not None:
            self._quotas.leave(handshake)

    @property
    def limits(self) -> Limits:
        """The limits of connections. An `on_handshake` function can change ``Handshake.limits`` for one connection."""
        return self._settings.limits

    @property
    def compression(self) -> bool:
        """Whether permessage-deflate is used with clients that offer it.

        An `on_handshake` function can change this for one connection; see `Handshake.compression`.
        """
        return self._compression

    async def accept(self, transport: Transport, handshake: Handshake | None = None) -> Peer | RawConnection:
        """Create a peer for a connection from any WebSocket library.

        This method returns the peer after its ``open`` handlers have finished.

        If the server has a `serve_raw` function or a `Service` without the protocol, that serves the connection.
        `accept` then returns a `RawConnection`, while the function may still be running. If `accept` is cancelled, the
        peer keeps the connection. But if `accept` is cancelled while the factory of a service runs, the connection is
        dropped.

        In a cluster, the session of the client may belong to another process. The session then resumes there, and this
        method passes the messages on until the connection has ended. If it is cancelled, the connection is dropped.

        Args:
            handshake: the `Handshake` that the method `handshake` has checked.

        Raises:
            ConnectionLost: the server is closed, or the factory of a service failed or refused
                the connection, or the session has resumed in another process. The connection is closed.
            TypeError: ``transport`` is not a transport.
            RuntimeError: the server listens, or has connections, in another thread.
        """
        return await self._accept(transport, handshake)

    def _accept_at_once(self, transport: Transport, handshake: Handshake) -> Awaitable[None] | None:
        return self._accepting.accept_at_once(self._core, transport, handshake)

    def _accept(
        self, transport: Transport, handshake: Handshake | None, local: bool = False
    ) -> Coroutine[Any, Any, Peer | RawConnection]:
        core = self._accepting_core() if handshake is None else self._core  # else `_admit` has chosen it
        return self._accepting.accept(core, transport, handshake, local)

    async def _end_detached(self, address: str, principal: str | None) -> bool:
        cluster = self._core.joiner.cluster
        return cluster is not None and await cluster.end_detached(address, principal)

    def _absent_peer(self, principal: object) -> Peer:
        """Return a peer that was never connected, for a run that outlives its caller."""
        handshake = Handshake("/", {})
        handshake.principal = principal
        return self._accepting.new_peer(self._core, self._settings, handshake).peer

    async def close(self, drain_timeout: float = 0.0) -> None:
        """Close every connection with 1012, and wait until the handlers have ended.

        New connections are refused. You can open the server again afterwards, with `listen`, `run`, `open` or an
        adapter. Calling `close` again has no effect, except that it can end a drain sooner.

        Request handlers that are still running are cancelled, as at the end of any connection. Handlers of events have
        `Limits.close_timeout` seconds to finish, and messages that were sent before have as long to leave. Cancelling
        is safe: the closing continues.

        Args:
            drain_timeout: the maximum time, in seconds, to wait for active work in both directions: handlers, requests,
                streams and channels. Each connection is closed as soon as it has no active work. A wsrpc client queues
                new messages for its next connection when its earlier calls are answered. New requests from other
                clients are rejected with `Draining`. Calling `close` again with a smaller ``drain_timeout``, or without
                ``drain_timeout``, ends the drain sooner.

        Raises:
            TypeError, ValueError: ``drain_timeout`` is not a number, or is negative.
            RuntimeError: called in a thread other than that of the server's event loop.
        """
        check_number(DRAIN_TIMEOUT, drain_timeout, 0)
        self._core.check_thread("server.close()")
        await self._core.close(drain_timeout)

    # ------------------------------------------------------------ for operators

    @property
    def healthy(self) -> bool:
        """Whether the server accepts connections. True until `close` is called. For load balancers."""
        return self._core.lifetime.accepts

    @property
    def draining(self) -> bool:
        """Whether the server drains, that is, `close` waits for active work. See `on_drain`."""
        return self._core.lifetime.state == "draining"

    @property
    def degraded(self) -> bool:
        """Whether the engine of the server's cluster cannot be reached, or the ``store=`` does not answer.

        The server still serves its own clients. `ServerStats.store_answers` and `ClusterStats.connected` tell which one
        it is.
        """
        return self._core.degraded

    def stats(self) -> ServerStats:
        """Return a snapshot of the server's counters. This takes a few microseconds per peer."""
        return self._core.stats()

    def collect_stats(self) -> Future[ServerStats]:
        """Return a future of what `stats` returns. May be called in any thread.

        The event loop adds up the peers a few at a time, so that other work is not held up, even with 10,000 peers. In
        a thread, wait with ``server.collect_stats().result(timeout=2)``. In the event loop, use ``await
        asyncio.wrap_future(server.collect_stats())``. If the server has few peers, the future is done at once there.
        """
        return self._core.collect_stats()

    # ------------------------------------------------------------ everybody

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The peers, oldest first. Those whose sessions wait for another connection are among them."""
        return self._core.peers.users()

    def peer(self, id: str, /) -> Peer | None:
        """Return the peer with this `Peer.id`, or None if there is no such peer. See `peers`."""
        return self._core.peers.get(id)

    # ------------------------------------------------------------ the cluster and rooms

    @property
    def cluster(self) -> Cluster:
        """The cluster of this server.

        Raises:
            RuntimeError: the server was created without ``cluster=``.
        """
        if self._cluster is None:
            raise RuntimeError(
                "this server is in no cluster: give it one, Server(cluster=Cluster(engine, name='shop'))"
            )
        return self._cluster

    def room(
        self,
        name: str,
        *,
        allow: Allow | None = None,
        slow: Slow | None = None,
        keep: float | None = None,
        presence: float | None = None,
        state: Callable[[Peer], object] | None = None,
    ) -> Room:
        """Return the room with this name; see `Room`. The server forgets a room without options when the room is empty.

        Args:
            allow: a function ``allow(peer)``, sync or async, that returns whether a client may join the room; see
                `on_join`.
            slow: the policy for slow readers in this room, instead of the server's policy; see `Server`.
            keep: seconds. The room then keeps its events in the server's ``store``, in the order in which the store got
                them, until so long after the last event and after the last member has left. (If they take more than the
                store allows for one run, the oldest are dropped.) New members can get them: see `Room.join`. A member
                that reads too slowly gets all events later. Each event has a position: see `Context.position`. If a
                cluster or several processes share the room, all must have the same ``store`` and ``keep``. The room
                takes no raw messages, and no ``emit_nowait``.
            presence: seconds. The room then knows its users, in all processes of a cluster: see `Room.present` and
                `on_presence`. A user whose connections have all dropped or ended is away for this time, and then
                offline. A user who leaves the room is offline at once. Members get the event ``presence`` on the
                channel "rooms". In a cluster, create the room in each process.
            state: a function ``state(peer)``, sync or async, for a room with ``keep``. It returns the state of the room
                for a new member, which gets it before all events that are not contained in it: a `RoomState`, or a
                value for one without a position. A member that has missed events gets the state again. The function has
                5 seconds. If it fails, the member is told that it has missed events.

        Raises:
            TypeError: ``name`` is not a string, or is empty; or ``allow`` does not take one argument.
            ValueError: the room already has a different value of an option, ``slow`` is not a policy, or you have
                registered handlers on the channel "rooms". Or the room has ``keep``, and has ``slow``, has members
                already, is in a cluster without a ``store``, or the server has no extensions; or it has ``state``, and
                no ``keep``.
        """
        return self._rooms.configure(name, RoomOptions(allow, slow, keep, presence, state))

    @property
    def rooms(self) -> tuple[Room, ...]:
        """The rooms that have members, and the rooms that were created with options."""
        return self._rooms.all()

    @no_parentheses("@server.on_join")
    def on_join(self, function: Callable[[Peer, str], T], /) -> Callable[[Peer, str], T]:
        """Register ``function(peer, room)``, which decides whether a client may join a room. Works as a decorator.

        The function can be sync or async. ``room`` is the name of the room. The function is called for rooms without
        ``allow=``. Once a server has such a function, or a room has ``allow=``, clients can join and leave rooms
        themselves. They send the requests ``join`` and ``leave`` on the channel "rooms", with the name of the room as
        the argument. You cannot register handlers on that channel. A client that is refused gets only the error message
        "not allowed". If the function raises an exception, the client is refused, and the exception is logged.

        Raises:
            TypeError: ``function`` does not take these two arguments.
            ValueError: you have registered handlers on the channel "rooms".
        """
        self._rooms.use_on_join(function)
        return function

    @no_parentheses("@server.on_presence")
    def on_presence(self, function: Callable[[Room, Present], T], /) -> Callable[[Room, Present], T]:
        """Register ``function(room, present)``, sync or async, for changes of presence. Works as a decorator.

        The function is called when a user is online, away or offline, or what the connections of the user say about
        themselves has changed, in a room with ``presence=``; see `Present`. Changes within 50 ms count as one.

        In a cluster, it is called at least once for each change that lasts, in a process which has a connection of the
        user, or had one in the last seconds. Several processes may call it for one change. Of all calls for a user, the
        last one has the true state. So store the state with the user as the key, and do not count calls: a call that
        repeats a state then changes nothing. If a process has ended, one of the others reports its users. (If none of
        the others knew a user yet, nobody does.) A process that cannot reach the engine of its cluster does not know
        what is true: it calls the function for the latest state of each user once it is back.

        The functions of one room run one after another in each process. If a function is slow, later changes of one
        user count as one. Exceptions are logged.

        Raises:
            TypeError: ``function`` does not take these two arguments.
        """
        check_decider("on_presence", ("room", "present"), function)
        self._rooms.presences.functions.append(function)
        return function

    def offer_description(self, *, allow: Allow | None = None) -> None:
        """Let clients in any language ask which events this server has handlers for, and which events it emits.

        Clients send the request ``describe`` on the channel "wsrpc". You cannot register handlers on that channel. The
        responses contain the description that `wsrpc.schema.describe` returns, split into pages. The reference page
        "Protocol" specifies their format. The description includes handlers that are registered later. It does not
        include handlers with ``hidden=True`` or handlers that are registered with `once`.

        Args:
            allow: a function ``allow(peer)``, sync or async, that returns whether a client gets the description. With
                None, every client gets it. A client that is refused gets only the error message "not allowed". If the
                function raises an exception, the client is refused, and the exception is logged.

        Raises:
            TypeError: ``allow`` does not take one argument.
            ValueError: the description is already offered, or you have registered handlers on the channel "wsrpc".
        """
        offer_description(self._registry, enc_hook_of(self._settings.codec), allow)

    if not TYPE_CHECKING:
        __enter__ = __exit__ = __aenter__ = __aexit__ = refusing(
            "a Server is not a context manager: use `async with server.listen(...) as listener:`, or server.run()"
        )

    def __repr__(self) -> str:
        state = self._core.lifetime.state
        return f"<Server {state}{'' if state == 'closed' else f', {len(self._core.peers)} peers'}>"


def refuse_request(server: Server, handshake: Handshake, exc: BaseException, by: str) -> HandshakeRejected:
    """Count and log a request that ``by`` refuses. Return the refusal. For adapters.

    Args:
        exc: a `HandshakeRejected`, whose first line is the reason. Another exception is a failure, with the status 500.
    """
    own = server._handshake_checks, server._core.acceptance  # pyright: ignore[reportPrivateUsage]  # of this module
    checks, acceptance = own
    return checks.refusal(handshake, acceptance, exc, by)


def leave(server: Server, handshake: Handshake) -> None:
    """Say that a connection that `Server.handshake` has let in is over before it was passed to `Server.accept`.

    Otherwise, it counts in `Quotas` until Python collects the handshake. No effect after `Server.accept`. For adapters.
    """
    server._leave(handshake)  # pyright: ignore[reportPrivateUsage]  # of the same module


def accept_at_once(server: Server, transport: Transport, handshake: Handshake) -> Awaitable[None] | None:
    """Do what `Server.accept` does, but do not wait for the ``open`` handlers.

    Most connections are accepted within this call. If something else has to be awaited, such as the factory of a
    `Service`, the function returns an awaitable. Await it while ``transport`` receives messages. If the server refuses
    the connection, it closes ``transport``, and nothing is raised.

    Raises:
        TypeError: ``transport`` is not a transport.
        RuntimeError: the server listens, or has connections, in another thread.
    """
    return server._accept_at_once(transport, handshake)  # pyright: ignore[reportPrivateUsage]  # of the same module


settings_of: Callable[[Server], Settings] = attrgetter("_settings")
"""The settings of a server, for the modules of this package. Public classes have no public name for them."""

accept_of: Callable[[Server], Callable[..., Coroutine[Any, Any, Peer | RawConnection]]] = attrgetter("_accept")
"""`Server.accept` of a server, with `Settings.local`."""

runs_of: Callable[[Server], Runs] = attrgetter("_parts.runs")
"""The runs of a server."""
