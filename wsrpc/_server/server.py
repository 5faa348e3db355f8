"""`Server`: accepts connections, gives each a peer, and speaks to all of them."""

from __future__ import annotations

import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .._base.logs import OF_ONE_SERVER, LogBudget, logger
from .._base.misuse import check_flag, check_number, no_parentheses, refusing
from .._base.names import Profile, Redact, check_name
from .._base.scheduler import Scheduler
from .._base.state import PeerState
from .._conversion.convert import DecHook, EncHook
from .._handlers.registration import RawRegistrar, Registrar, Router, include
from .._handlers.registry import HandlerContext, Registry, accepted
from .._peer.peer import Peer
from .._peer.slow_readers import Slow, check_slow
from .._protocol.codecs import Codec
from .._protocol.settings import make_settings
from .._raw.connection import RawConnection
from .._raw.serving import RawFunction, RawServing
from .._transports.health import Health
from .._transports.listener import Listener, check_place, listen
from .._transports.websocket import WebSocketTransport
from ..errors import ConnectionLost
from ..handshake import Handshake, HandshakeFunction
from ..limits import Limits
from ..stats import ServerStats
from ..transport import Transport
from .broadcast import RawBroadcaster
from .channel import ServerChannel
from .entrance import Entrance
from .hosting import Hosting
from .listening import Listening, run
from .origins import Origins
from .ports import Port
from .rooms import Allow, Membership, Room, RoomFrom, Rooms
from .running import Run

__all__ = ["Server", "ServerChannel"]

H = TypeVar("H", bound=HandshakeFunction)
J = TypeVar("J", bound=Callable[[Peer, str], Any])
R = TypeVar("R", bound=RawFunction)
S = TypeVar("S", bound=Callable[..., Any])


class Server(Registrar, RawRegistrar, RawBroadcaster):
    """Accepts connections. Its handlers serve every peer that has none of its own for an event.

    ``state`` is the application's own mapping (see `Key`), such as for a database. Handlers find it as
    ``peer.server.state`` or ``ctx.server.state``. It stays when the server is closed and opened again.

    Args:
        limits: bounds of each connection.
        origins: further values of a browser's ``Origin`` that may connect; the server's own host always may. Or a
            function of the `Handshake` that says whether, or `ANY_ORIGIN`.
        trusted_proxies: addresses and networks, such as ``"10.0.0.0/8"``, whose ``X-Forwarded-For``, ``-Proto`` and
            ``-Host`` count; ``"unix"`` is whatever connects over a Unix socket. Nobody's do otherwise.
        compression: offer permessage-deflate to every connection; `on_handshake` may say otherwise for one.
        codec, dec_hook, enc_hook, lax, expose_errors, extensions, log_payloads, profile: as for `Client`.
        handler_context: ``fn(ctx)`` gives an async context manager to run around each handler, for instance
            a transaction. (For a time limit there is ``on(timeout=)``, and `Limits.handler`.)
        slow: what becomes of what is emitted to many, for a peer whose line is full: ``"close"`` lets it wait, up to
            `Limits.hard_cap`, where the peer is closed with 4408. The others keep at most `Limits.behind` bytes
            and leave out the rest: ``"drop_newest"``, ``"drop_oldest"``, or all but the latest of a kind,
            ``KeepLatest(key)``. `Peer.dropped` counts what was left out.
        room_from: a function of a connection's `ConnectionInfo` that names the room for its peer, `Peer.home_room`.
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
    ) -> None:
        check_slow(slow)
        check_flag("compression", compression)
        self._budget = LogBudget(*OF_ONE_SERVER)
        self._entrance = Entrance(origins, trusted_proxies, self._budget)
        self._compression = compression
        self._settings = make_settings(limits, codec, enc_hook, expose_errors, extensions, log_payloads, profile)
        self._limits = self._settings.limits
        self._registry = Registry(dec_hook=dec_hook, lax=lax)
        self._channel_name = None
        self.state = PeerState()
        self._channels: dict[str, ServerChannel] = {}
        self._raw = RawServing()
        self._hosting = Hosting(self._registry, self._raw)
        self._rooms = Rooms(self._registry, self._settings.codec, slow, room_from)
        self._audience = self._rooms.everybody
        self._run = self._new_run()
        self._warned = False
        if handler_context is not None:
            self.handler_context = handler_context

    def _new_run(self) -> Run:
        return Run(self._rooms, self._budget, self._limits.close_timeout)

    # ------------------------------------------------------------ registering

    def of(self, name: str, *, ordered: bool = False) -> ServerChannel:
        """A named channel, for all peers. ``ordered`` as in `Peer.of`."""
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
        """Take over the registrations of ``router``, those of its main channel under ``channel``; see `Router`.

        Raises:
            ValueError: a router that has channels of its own cannot be put under one.
        """
        include(router, self._registry, channel)

    @property
    def handler_context(self) -> HandlerContext | None:
        """Runs around each handler; assign to change it."""
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
        """Listen: ``async with server.listen(...) as listener``, which has ``url`` and ``port``.

        Port 0 picks a free one; ``path=None`` accepts any path; ``sock`` or ``unix`` replace host and port.
        Leaving the block closes the server. Entering such a block again opens it anew, see `open`.

        ``healthz``: a path on which plain HTTP is answered by 200 while `healthy`, and by 503 while the server drains:
        so the port stays open until that is over, and refuses clients with 503 meanwhile. None: nothing is answered
        there, and the port closes as soon as the server begins to drain.
        ``reuse_port``: let several processes listen on one port, where the system knows how; it spreads clients over
        them as it likes, and `peers`, rooms and `emit` are of one process. Then, too, a port closes at once, so that
        the other processes get who comes.

        Raises:
            TypeError, ValueError: an option is wrong, or options do not go together.
        """
        check_place(host, port, path, ssl, sock, unix, reuse_port)
        health = None if healthz is None else Health(healthz, lambda: self.healthy)
        if reuse_port and not self._warned:
            self._warned = True
            logger.warning(
                "reuse_port=True: each process knows only its own connections, so rooms, peers and server.emit are per "
                "worker, and a client that comes back may come to another one"
            )

        async def accept(transport: WebSocketTransport, handshake: Handshake) -> None:
            with suppress(ConnectionLost):  # the server closes, and the connection is closed by now, too
                await self.accept(transport, handshake)

        async def begin() -> Listener:
            return await listen(
                accept,
                host,
                port,
                limits=self._limits,
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
        """For adapters that open a port by themselves: what `listen` gives, around a port that ``begin()`` opens.

        The port is closed with the server, also at the beginning of a drain; it has ``url``, ``port``, ``stop()`` and
        ``wait_closed()``, see `Port`.
        """

        return self._listening(begin, stays_for_drain=False)

    def _listening(self, begin: Callable[[], Awaitable[Port]], *, stays_for_drain: bool) -> Listening:
        async def begin_and_keep() -> tuple[Port, Callable[[], Awaitable[None]]]:
            await self.open()
            run = self._run
            run.check_thread("your_coroutine()")
            port = await begin()
            if run.closing:
                port.stop()
                await port.wait_closed()
                raise RuntimeError("the server was closed before it listened")
            run.enter_loop()
            self._entrance.begin()
            run.add_port(port, stays_for_drain=stays_for_drain)
            return port, partial(run.close, 0.0)  # and not one that was opened since

        return Listening(begin_and_keep)

    async def open(self) -> None:
        """Open the server anew, if it was closed. `listen`, `run` and the adapters' ``lifespan`` do so by themselves.

        For frameworks that call a function when they start, as `close` is for their shutdown. Handlers, services,
        rooms that were made with options, and all other settings stay, and so does `state`. Peers, members of rooms and
        the numbers of `stats` begin anew. A server that is open stays as it is.

        Raises:
            RuntimeError: a `close` still goes on.
        """
        if self._run.over:
            self._run.discard()
            self._run = self._new_run()
        elif self._run.closing:
            raise RuntimeError("this server is still closing: await server.close() before it is opened again")

    async def serve_forever(self) -> None:
        """Wait until the server is closed, and drained before that if it drains. Cancelling is safe.

        Raises:
            RuntimeError: in another thread than the event loop's, as for `close`.
        """
        self._run.check_thread("server.serve_forever()")
        await self._run.wait_over()

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
        """Serve until interrupted: a whole program in one line. Ctrl-C closes every connection with 1012.

        SIGTERM drains for at most `Limits.drain` seconds, see `close`; Ctrl-C or another SIGTERM meanwhile closes at
        once. Either way this returns, so that the program may end with status 0. In a thread that is not the main one
        signals are left alone. Says on stderr where it listens, unless the log does.

        ``lifespan(server)`` gives an async context manager, for what lives as long as the program: background tasks, a
        database in `state`. It is entered before the port is opened, and left when the last connection is closed and
        the handlers have ended. What it raises ends the program; a signal that comes before it listens cancels it.

        Raises:
            RuntimeError: inside a running event loop.
            TypeError: ``lifespan`` is no such function.
        """
        listening = self.listen(host, port, path=path, ssl=ssl, unix=unix, healthz=healthz, reuse_port=reuse_port)
        run(self, listening, self._limits.drain, lifespan)

    @no_parentheses("@server.on_handshake")
    def on_handshake(self, function: H, /) -> H:
        """Call ``function(handshake)``, sync or async, before a connection is accepted; works as a decorator.

        It may refuse with ``handshake.reject(...)``, and say what the connection is to be; see `Handshake`. Whatever
        else it raises is logged, and refuses with 500; so does what it leaves that cannot be sent. It runs after the
        check of the origin, and has `Limits.open_timeout` to finish: then 503, and a line in the log. What it returns
        does not matter, but for False, which is taken for such a mistake. There is one for a server: another one
        replaces it, with a warning.

        Raises:
            TypeError: this is no function of a handshake.
        """
        if not accepted("on_handshake", ("handshake",), function):
            raise TypeError(f"on_handshake takes a function of the handshake, but {function!r} takes no argument")
        self._entrance.use(function)
        return function

    @no_parentheses("@server.serve_raw")
    def serve_raw(self, function: R, /) -> R:
        """Hand each connection to ``async def function(connection)``, without any protocol; works as a decorator.

        It gets a `RawConnection`, after `on_handshake` as ever. When it returns, the connection is closed with 1000;
        when it raises, with 1011, and the log has the traceback (with 1008 and its text for an `RpcError`). This goes
        for all connections of the server; handlers are not called.

        Raises:
            TypeError: this is no async function.
            ValueError: there is one already, or a service.
        """
        if self._hosting.entries:
            name = self._hosting.entries[0].cls.__qualname__
            raise ValueError(f"serve_raw takes every connection whole, and {name} is to have them: use another Server")
        self._raw.use(function)
        return function

    def add_service(self, service: S, factory: Callable[..., Any] | None = None, /, *, channel: str | None = None) -> S:
        """Make an object of a `Service` class for each connection; works as a decorator.

        ``service`` is the class, or a function that makes the object and is annotated with the class that it returns;
        ``factory`` such a function without annotation, beside the class. They may take the peer (the `RawConnection`
        for a class with ``serve``), and may be async. A factory that raises refuses the connection: it is closed with
        1011, and the log has the traceback (with 1008 and its text for an `RpcError`). One that waits, for a peer, has
        `Limits.open_handlers` seconds.

        The class's methods are compiled here, once, as handlers of the main channel, or of ``channel``.

        Raises:
            TypeError: this is no service, it does nothing, or a method's signature cannot work; the text names the
                parameter.
            ValueError: an event has a handler already, or another service has the whole connection.
        """
        self._hosting.add(service, factory, channel)
        return service

    @property
    def raw_connections(self) -> tuple[RawConnection, ...]:
        """The connections that `serve_raw` functions have, in the order in which they came."""
        return self._run.raw.all

    async def handshake(self, handshake: Handshake) -> None:
        """For adapters: judge a request, before the upgrade. Then make its transport and `accept` that.

        Cancelling is safe, and cancels the `on_handshake` function: nothing is kept of the request.

        Raises:
            HandshakeRejected: answer with its ``status``, ``body`` and ``headers``. 503 when the server is closing.
        """
        waiting = self._admit(handshake)
        if waiting is not None:
            await waiting

    def _admit(self, handshake: Handshake) -> Awaitable[None] | None:
        return self._entrance.check(handshake, self._run.gate)

    def handshake_nowait(self, handshake: Handshake) -> None:
        """The same, for libraries that cannot wait here; see `handshakes_wait`.

        Raises:
            HandshakeRejected: as `handshake` does.
            TypeError: the `on_handshake` function is async.
        """
        if self.handshakes_wait:
            raise TypeError("this transport's library cannot wait for an async on_handshake: make it a plain function")
        self._entrance.check_nowait(handshake, self._run.gate)

    @property
    def limits(self) -> Limits:
        """Bounds of each connection, unless its `Handshake` says otherwise."""
        return self._limits

    @property
    def compression(self) -> bool:
        """Whether permessage-deflate is offered, unless a connection's `Handshake` says otherwise."""
        return self._compression

    @property
    def handshakes_wait(self) -> bool:
        """Whether the `on_handshake` function is async, so that `handshake_nowait` would refuse."""
        return self._entrance.is_async

    async def accept(self, transport: Transport, handshake: Handshake | None = None) -> Peer | RawConnection:
        """Give a connection, of whatever library, a peer; returns when its `open` handlers are done.

        With `serve_raw` it is given to that function, which goes on when this returns. ``handshake`` is the one that
        `Server.handshake` let pass. Cancelling leaves the connection with its peer, or drops it while a service's
        factory runs.

        Raises:
            ConnectionLost: the server is closed, ``room_from`` failed, or a service's factory refused; the connection
                is closed, too.
            TypeError: this is no transport.
            RuntimeError: the server listens, or has connections, in another thread.
        """
        return await self._accept(transport, handshake)

    async def _accept(
        self, transport: Transport, handshake: Handshake | None, clock: Scheduler | None = None
    ) -> Peer | RawConnection:
        run = self._run
        if run.closing:
            raise await run.turned_away(transport)
        run.check_thread("server.accept(...)")
        run.enter_loop()
        loop = clock or run.scheduler
        settings = self._settings
        if handshake is not None and handshake.limits is not self._limits:
            settings = msgspec.structs.replace(settings, limits=handshake.limits)
        if self._raw.function is not None:
            state = PeerState() if handshake is None else handshake.state
            connection = RawConnection(transport, settings.limits, state, loop, self)
            run.raw.begin(connection, self._raw)
            return connection
        peer = Peer(settings, dialer=False, shared=self._registry, loop=loop)
        peer._membership = Membership(self)
        peer._log.on_error = run.tally.failed
        peer._log.budget = self._budget
        if handshake is not None:
            peer.state = handshake.state
            peer.principal = handshake.principal
        if self._hosting.entries:
            try:
                await self._hosting.attach(peer, transport, run.gate)
            except ConnectionLost as exc:
                run.roster.turned_away(peer, exc.code)
                raise
            if run.closing:
                raise await run.turned_away(transport)
        await run.roster.admit(peer, transport)
        return peer

    async def close(self, drain: float = 0.0) -> None:
        """Accept nothing more, close every connection with 1012 and wait for handlers to end. Idempotent.

        The server can be opened again afterwards: by `listen`, `run`, `open` or an adapter.

        ``drain``: for at most so many seconds what was begun goes on, in both directions (handlers, requests, streams,
        channels), and each connection is closed as soon as that is over. Meanwhile a wsrpc client keeps what is new for
        its next connection; new requests of other peers are rejected as `Draining`. Another call with a smaller
        ``drain``, or none, ends that sooner.

        Then request handlers that still run are cancelled, as at any end of a connection; handlers of events get
        `Limits.close_timeout` seconds to finish. Cancelling is safe, the closing goes on.

        Raises:
            TypeError, ValueError: ``drain`` is no number, or negative.
            RuntimeError: in another thread than the event loop's.
        """
        check_number("drain= is a number of seconds, 0 or more", drain, 0)
        self._run.check_thread("server.close()")
        await self._run.close(drain)

    # ------------------------------------------------------------ for operators

    @property
    def healthy(self) -> bool:
        """Whether connections are accepted, by whatever listens: True until `close` is called. What a balancer asks."""
        return not self._run.closing

    def stats(self) -> ServerStats:
        """What this server has done and is doing: a snapshot, summed at the call, in microseconds for each peer."""
        return self._run.stats()

    # ------------------------------------------------------------ everybody

    @property
    def peers(self) -> tuple[Peer, ...]:
        """The connected peers, in the order in which they came."""
        return tuple(self._run.roster)

    def peer(self, id: str, /) -> Peer | None:
        """The connected peer with this `Peer.id`; None if there is none, any more."""
        return self._run.roster.get(id)

    # ------------------------------------------------------------ rooms

    def room(self, name: str, *, allow: Allow | None = None, slow: Slow | None = None) -> Room:
        """The room of that name; without options one that is empty does not stay. See `Room`.

        Args:
            allow: ``allow(peer)``, sync or async, says whether a client may join by itself; see `on_join`.
            slow: the policy for members that read too slowly, instead of the server's; see `Server`.

        Raises:
            TypeError: ``name`` is not text, or empty; ``allow`` is no function.
            ValueError: it has another ``allow`` or ``slow`` already, or channel "rooms" has handlers of yours.
        """
        return self._rooms.declare(name, allow, slow)

    @property
    def rooms(self) -> tuple[Room, ...]:
        """The rooms that have members, and those that were made with options."""
        return self._rooms.all()

    @no_parentheses("@server.on_join")
    def on_join(self, function: J, /) -> J:
        """Ask ``function(peer, room)``, sync or async, whether a client may join a room of that name; a decorator.

        It is asked for rooms without ``allow=``. Once there is one of the two, clients join and leave by requests on
        channel "rooms", ``join`` and ``leave`` with the name, and no other handlers can be registered there. Who is
        refused is told "not allowed" and nothing else; what the function raised is in the log.

        Raises:
            TypeError: this is no function.
            ValueError: channel "rooms" has handlers of yours.
        """
        self._rooms.ask(function)
        return function

    if not TYPE_CHECKING:
        __enter__ = __exit__ = __aenter__ = __aexit__ = refusing(
            "a server is no context manager: use `async with server.listen(...) as listener:`, or server.run()"
        )

    def __repr__(self) -> str:
        state = f"{len(self._run.roster)} peers"
        if self._run.closing:
            state = f"draining, {state}" if self._run.draining else "closed"
        return f"<Server {state}>"
