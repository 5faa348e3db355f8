"""`Client`: dials a server, and comes back after a drop."""

from __future__ import annotations

import asyncio
import inspect
import logging
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from threading import get_ident
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, TypeVar

import msgspec

from ._backoff import Reconnect, attempts
from ._caller import StreamCaller
from ._close import CloseInfo, check_close
from ._codec import Codec
from ._convert import DecHook, EncHook
from ._lifecycle import Closers
from ._outbound import check_thread
from ._registry import Registry
from ._scheduler import LoopScheduler
from ._settings import make_settings
from ._types import F, Offline, check_offline
from ._url import check_url
from .channel import Channel
from .errors import ConnectFailed, ConnectionLost
from .limits import Limits
from .peer import Peer
from .router import Registrar, Router
from .transport import Transport
from .websocket import dial

__all__ = ["Client", "ClientState", "ReconnectInfo"]

logger = logging.getLogger("wsrpc")

T = TypeVar("T")
PerAttempt: TypeAlias = T | Callable[[], T] | Callable[[], Awaitable[T]]
"""A value, or a function (sync or async) that is asked for it at each attempt to connect."""

ClientState = Literal["idle", "connecting", "connected", "waiting", "closed"]


DEFAULT_RECONNECT = Reconnect()


class ReconnectInfo(msgspec.Struct, frozen=True):
    """What `on_reconnect` handlers get.

    ``downtime`` is in seconds; ``attempts`` counts those that it took to dial, 0 after `Client.bind`.
    """

    resumed: bool
    attempts: int
    downtime: float


class Client(Registrar, StreamCaller):
    """One end of a connection that this side dials, and dials again when it drops.

    Handlers are registered first, then ``async with client:`` (or `connect` and `close`) dials. Handlers stay
    for all connections. What is sent while there is none waits, within `Limits.offline`.

    Args:
        url: ``ws://`` or ``wss://``; it, ``headers`` and ``auth`` may be functions, sync or async, that are asked
            at each attempt. Without a URL, `bind` connections of your own.
        headers: for the opening handshake.
        auth: a token, sent as ``Authorization: Bearer <token>``.
        subprotocols: offered to the server, best first.
        ssl: a TLS context for ``wss://``; the default one verifies as browsers do.
        proxy: a proxy's URL, True for the one that the environment names, None for none.
        limits: bounds of the connection and of the queue while there is none.
        reconnect: how long to wait between attempts; None does not dial again after a drop.
        offline: what becomes of calls while there is no connection: ``"queue"`` lets them wait, within
            `Limits.offline`, ``"fail"`` raises `ConnectionLost` at once. Each call may say otherwise.
        connect_timeout: seconds for the first connection, all attempts; None tries for ever.
        transport: a connection to begin with, instead of a URL.
        codec: the encoding; the default is JSON with ``enc_hook``.
        dec_hook, enc_hook: msgspec's hooks for types that it does not know.
        lax: convert leniently, both arguments of handlers and ``returns=``.
        expose_errors: send the text of unexpected exceptions to the other side (or ask a predicate for each).
        extensions: find out whether the server is wsrpc, too, for flow control and binary messages; plain ws-wrapper
            peers ignore the one message that this takes. False says nothing but ws-wrapper's own messages.
    """

    def __init__(
        self,
        url: PerAttempt[str] | None = None,
        *,
        headers: PerAttempt[Mapping[str, str]] | None = None,
        auth: PerAttempt[str] | None = None,
        subprotocols: Sequence[str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | bool | None = True,
        reconnect: Reconnect | None = DEFAULT_RECONNECT,
        offline: Offline = "queue",
        connect_timeout: float | None = 30.0,
        transport: Transport | None = None,
        limits: Limits | None = None,
        codec: Codec | None = None,
        dec_hook: DecHook | None = None,
        enc_hook: EncHook | None = None,
        lax: bool = False,
        expose_errors: bool | Callable[[BaseException], bool] = False,
        extensions: bool = True,
    ) -> None:
        if isinstance(url, str):
            check_url(url, tls=ssl is not None)
        elif url is not None and not callable(url):
            raise TypeError(f"a url is text, or a function that returns it, got {url!r}")
        if url is not None and transport is not None:
            raise ValueError("give a url or a transport, not both")
        self._url = url
        self._headers = headers
        self._auth = auth
        self._subprotocols = subprotocols
        self._ssl = ssl
        self._proxy = proxy
        self._reconnect = reconnect
        self._connect_timeout = connect_timeout
        self._transport = transport
        policy: Any = reconnect
        if policy is not None and not isinstance(policy, Reconnect):
            raise TypeError(f"reconnect= takes a wsrpc.Reconnect or None, got {reconnect!r}")
        settings = make_settings(limits, codec, enc_hook, expose_errors, extensions)
        self._limits = settings.limits
        self._registry = Registry(dec_hook=dec_hook, lax=lax)
        self._channel_name = None
        self._scheduler = LoopScheduler()
        self._peer = Peer(settings, dialer=True, registry=self._registry, loop=self._scheduler, keeps_offline=True)
        check_offline(offline)
        self._peer._out.fails_offline = offline == "fail"
        self._peer._on_lost = self._lost
        self._peer._on_opened = lambda: self._announce(None)
        self._peer._out.on_queued = self._queued
        self._sender = self._peer._sender
        self._state: ClientState = "idle"
        self._supervisor: asyncio.Task[None] | None = None
        self._connected_event: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._on_reconnect: list[Callable[[ReconnectInfo], Any]] = []
        self._lost_at = 0.0
        self._connecting = 0
        self._bound = False
        self._closing: asyncio.Task[None] | None = None
        self._closers = Closers()

    # ------------------------------------------------------------ what users see

    @property
    def peer(self) -> Peer:
        """The peer; it stays the same over all connections."""
        return self._peer

    @property
    def state(self) -> ClientState:
        """``"waiting"`` is between two attempts; ``"closed"`` is after `close`, or after giving up."""
        return "connected" if self._peer.connected else self._state

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._peer.connected

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """A named channel; see `Peer.of`."""
        return self._peer.of(name, ordered=ordered)

    def include(self, router: Router, *, channel: str | None = None) -> None:
        """Take over the registrations of ``router``, those of its main channel under ``channel``; see `Router`.

        Raises:
            ValueError: a router that has channels of its own cannot be put under one.
        """
        router._include_in(self._registry, channel)

    def on_reconnect(self, function: F, /) -> F:
        """Call ``function(info)``, sync or async, after each connection but the first; works as a decorator."""
        self._on_reconnect.append(function)
        return function

    async def __aenter__(self) -> Self:
        if self._url is not None or self._transport is not None:
            try:
                await self.connect()
            except BaseException:
                await self.close()  # `async with` does not, when entering fails
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Dial, and return when the connection is open and the `open` handlers are done.

        Attempts that fail are repeated until ``connect_timeout``. Cancelling stops dialing.

        Raises:
            ConnectFailed: no attempt succeeded in time.
            HandshakeRejected, ssl.SSLError, ValueError: the server refuses, TLS fails or the URL is none, in a way that
                another attempt would not change.
        """
        if self._transport is not None:
            transport, self._transport = self._transport, None
            await self.bind(transport)
            return
        if self._url is None:
            raise ValueError("this client has no url to dial: give Client(url), or bind() a connection")
        if self._supervisor is None or self._supervisor.done():
            self._begin()
            self._supervisor = asyncio.get_running_loop().create_task(self._supervise())
        self._connecting += 1
        try:
            await self.wait_connected()
        except asyncio.CancelledError:
            if self._connecting == 1 and not self._peer.connected:  # nobody else waits for it
                await self._stop_dialing()
                self._state = "idle"
            raise
        finally:
            self._connecting -= 1

    async def wait_connected(self) -> None:
        """Wait until there is a connection. Cancelling is safe.

        Raises:
            ConnectFailed, HandshakeRejected, ConnectionLost: there will be none.
        """
        if self._peer.connected:
            if not self._peer._out.in_open_handler():  # which would wait for itself
                await self._peer.wait_opened()
            return
        if self._failure is not None:
            raise self._failure
        if self._state == "closed":
            raise ConnectionLost(1000, "the client was closed", "not_sent")
        if self._connected_event is None:
            self._connected_event = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._connected_event)
        if self._failure is not None:
            raise self._failure

    async def bind(self, transport: Transport) -> None:
        """Use a connection of your own, from now on; returns when the `open` handlers are done.

        Handlers survive. A connection that is bound already is closed with 1001, what was pending on it fails.
        A client with a URL dials again when this one has dropped. Cancelling is safe; the connection stays bound.
        """
        self._begin()
        now = self._scheduler.time()
        again = self._bound
        downtime = 0.0 if self._peer.connected else now - self._lost_at
        self._bind(transport)
        await self._peer.wait_opened()
        if again:
            self._tell_reconnected(ReconnectInfo(False, 0, downtime))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the connection and do not dial again. What was accepted is written before the Close frame.

        Request handlers that still run are cancelled, as at any end of a connection; handlers of events get
        `Limits.close_timeout` seconds to finish. Cancelling is safe, the closing goes on.

        Raises:
            ValueError: if the code may not be sent or the reason has more than 123 bytes.
        """
        check_close(code, reason)
        if self._peer.connected:
            check_thread(self._peer._out.thread, "client.close()")
        self._state = "closed"
        self._peer._out.user_closed = True
        if self._failure is None:
            self._announce(ConnectionLost(code, reason or "the client was closed", "not_sent"))
        # In a task of its own, because a handler may be the one that calls this, and ends by it.
        self._closers.add_current()
        if self._closing is None or self._closing.done():
            self._closing = asyncio.get_running_loop().create_task(self._close(code, reason))
        await asyncio.shield(self._closing)

    async def _close(self, code: int, reason: str) -> None:
        await self._stop_dialing()
        await self._peer.close(code, reason)
        await self._peer._join(self._limits.close_timeout, self._closers)
        self._closers = Closers()

    def __repr__(self) -> str:
        return f"<Client {self.state} {self._peer!r}>"

    # ------------------------------------------------------------ dialing

    def _bind(self, transport: Transport) -> None:
        self._peer.bind(transport)
        self._bound = True

    def _begin(self) -> None:
        if self._scheduler.renew():  # another event loop than before
            if self._peer.transport is not None:
                raise RuntimeError(
                    "this client was connected when its event loop ended: close() it there, or make a new Client"
                )
            self._peer._out.requests.stop()
            self._peer._out.thread = get_ident()
        self._failure = None
        self._state = "connecting"
        self._peer._out.user_closed = False
        self._peer._out.keeps_offline = True
        event = self._connected_event
        if event is not None and event.get_loop() is not asyncio.get_running_loop():
            self._connected_event = None  # of a loop that was left in the middle; nobody waits there any more

    async def _stop_dialing(self) -> None:
        supervisor = self._supervisor
        if supervisor is None or supervisor is asyncio.current_task():
            return
        supervisor.cancel()
        await asyncio.wait([supervisor])

    async def _supervise(self) -> None:
        """Keep a connection until the client is closed or gives up."""
        lost: ConnectionLost | None = None
        try:
            while True:
                transport, count = await self._dial(lost)
                if self._peer.connected:
                    await transport.close(1000, "another connection was bound meanwhile")
                else:
                    self._bind(transport)
                    await self._peer.wait_opened()
                    if lost is not None:
                        self._tell_reconnected(ReconnectInfo(False, count, self._scheduler.time() - self._lost_at))
                while self._peer.transport is not None:  # somebody may bind another connection meanwhile
                    await self._peer.wait_closed()
                if self._supervisor is not asyncio.current_task():
                    return  # `_lost` has seen that this was the last connection
                ending = self._peer._out.ending
                lost = ConnectionLost(ending.code, ending.reason)
        except Exception as exc:
            self._peer._out.discard(self._peer._out.ending)
            self._end(exc)

    async def _dial(self, lost: ConnectionLost | None) -> tuple[Transport, int]:
        """One connection, and how many attempts it took. A drop counts as a failed attempt."""
        count = 0
        last_error: BaseException | None = None

        def failed(number: int, error: BaseException, delay: float) -> None:
            nonlocal last_error
            last_error = error
            self._state = "waiting"
            logger.warning(
                "%s; next attempt in %.1f s",
                f"the connection ended ({lost.code} {lost.reason})"
                if lost is not None and error is lost
                else f"could not connect: {type(error).__name__}: {error}",
                delay,
                extra={"peer": self._peer.id},
            )

        try:
            async with asyncio.timeout(self._connect_timeout if lost is None else None):
                async for attempt in attempts(self._reconnect or Reconnect(), failed, asyncio.sleep):
                    with attempt:
                        if lost is not None and attempt.retry_state.attempt_number == 1:
                            raise lost
                        count += 1
                        self._state = "connecting"
                        return await self._attempt(), count
        except TimeoutError as exc:
            late = TimeoutError(f"no connection within connect_timeout={self._connect_timeout} s")
            raise ConnectFailed(count, last_error or late) from last_error or exc
        raise AssertionError("the series of attempts is endless")

    async def _attempt(self) -> Transport:
        url, given, token = [await _evaluate(option) for option in (self._url, self._headers, self._auth)]
        headers = dict(given or {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        assert url is not None
        return await dial(
            url,
            limits=self._limits,
            headers=headers,
            subprotocols=self._subprotocols,
            ssl=self._ssl,
            proxy=self._proxy,
        )

    def _queued(self) -> None:
        if self._state == "idle":
            logger.warning(
                "a message waits for a connection, but this client is not connecting: "
                "use `async with client`, connect() or bind()",
                extra={"peer": self._peer.id},
            )
            self._peer._out.on_queued = None

    def _lost(self, info: CloseInfo) -> CloseInfo:
        """The connection is gone; says whether another one will be dialed."""
        self._lost_at = self._scheduler.time()
        dialing = self._supervisor is not None and not self._supervisor.done()
        will = dialing and self._reconnect is not None and not info.user_closed
        if not dialing:
            self._state = "closed" if info.user_closed else "idle"
        elif not will:
            # Here and not in the supervisor, a turn later: a `close` handler may connect again at once.
            self._supervisor = None
            self._end(ConnectionLost(info.code, info.reason, "not_sent"))
        return msgspec.structs.replace(info, will_reconnect=will)

    def _end(self, failure: Exception) -> None:
        """No connection will come any more, unless somebody connects or binds."""
        self._state = "closed"
        self._peer._out.keeps_offline = False
        if self._lost_at and not isinstance(failure, ConnectionLost):
            logger.error("the client gives up: %s", failure, extra={"peer": self._peer.id})
        self._announce(failure)

    def _announce(self, failure: Exception | None) -> None:
        self._failure = failure
        event, self._connected_event = self._connected_event, None
        if event is not None and not event.done():
            event.set_result(None)

    def _tell_reconnected(self, info: ReconnectInfo) -> None:
        for function in list(self._on_reconnect):  # one may register another
            self._peer._run_in_background("on_reconnect", function, info)


async def _evaluate(given: Any) -> Any:
    value = given() if callable(given) else given
    try:
        return await value if inspect.isawaitable(value) else value
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Something inside was cancelled, not the dialing: an attempt that failed.
        raise RuntimeError(f"{given!r} was cancelled") from exc
