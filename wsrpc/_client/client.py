"""`Client`: dials a server, and comes back after a drop."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import ssl as ssl_module
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Self

import msgspec

from .._base.closing import CloseCode, CloseInfo, check_close
from .._base.misuse import no_parentheses, refusing
from .._base.names import F, Offline, Profile, Redact, StrPath, check_offline, check_timeout
from .._base.scheduler import LoopScheduler, Timer, spawn_later
from .._conversion.convert import DecHook, EncHook
from .._handlers.lifecycle import Closers, Unfinished
from .._handlers.registration import RawRegistrar, Registrar, Router, include
from .._handlers.registry import Registry
from .._peer.core import PeerOwner
from .._peer.peer import Peer, core_of
from .._protocol.codecs import Codec
from .._protocol.settings import make_settings
from .._sending.caller import RawCaller
from .._sending.channel import Channel
from .._sending.checks import check_thread
from .._sending.link import Link
from .._transports.dial import Dial, Dialer, PerAttempt, dial
from ..errors import ConnectionLost
from ..limits import Limits
from ..transport import Transport
from .backoff import DEFAULT_RECONNECT, Reconnect, Schedule
from .dialing import NOT_CONNECTED, OPENING, Dialing
from .reconnection import ReconnectInfo, Returns
from .sleep import WakeWatch
from .states import ClientState, Input, after
from .waiters import News

__all__ = ["Client", "ReconnectInfo"]


class _Owner(PeerOwner):
    """What a client's peer reports to it."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def queued(self) -> None:
        self._client._queued()

    def reconnect_handlers(self) -> list[Unfinished]:
        return self._client._returns.handlers()

    def opened(self) -> None:
        self._client._opened()

    def lost(self, info: CloseInfo, replaced: bool) -> CloseInfo:
        return self._client._lost(info, replaced)


class Client(Registrar, RawRegistrar, RawCaller):
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
        compression: offer permessage-deflate; the server may take it or leave it.
        unix: a Unix socket's path, to connect to it instead of the URL's host and port; see `wsrpc.dial`.
        dial: what opens the connection, such as an adapter's function; the default is `wsrpc.dial`.
        limits: bounds of the connection and of the queue while there is none.
        reconnect: how long to wait between attempts, and when to stop. None: `connect` makes one attempt, and a drop
            ends the client.
        offline: what becomes of calls while there is no connection: ``"queue"`` lets them wait, within
            `Limits.offline`, ``"fail"`` raises `ConnectionLost` at once. Each call may say otherwise.
        connect_timeout: seconds that `connect` takes at most, for all attempts and for the `open` handlers; None for no
            limit.
        transport: a connection to begin with, instead of a URL.
        codec: the encoding; the default is JSON with ``enc_hook``.
        dec_hook, enc_hook: msgspec's hooks for types that it does not know.
        lax: convert leniently, both arguments of handlers and ``returns=``.
        expose_errors: send the text of unexpected exceptions to the other side (or ask a predicate for each).
        extensions: find out whether the server is wsrpc, too, for flow control and binary messages; plain ws-wrapper
            peers ignore the one message that this takes. False says nothing but ws-wrapper's own messages.
        log_payloads: write each message into the log, as one bounded line at DEBUG. A function ``redact(direction,
            event, args)`` gives what is shown in place of ``args``, a list: direction is ``"in"`` or ``"out"``; event
            is the name (``"channel:name"`` on a named channel) of the event or request, also for its answer, which is a
            list of one, and for what is said on the anonymous channel that it opened.
        profile: ``"go"`` where the other side is ws-server-wrapper-go, which closes the connection for what others
            ignore: it is refused here, before it is sent. Messages have at most 32 KiB, unless `Limits.sent_message`
            says otherwise; there are no raw messages, no extensions and no other codec. See docs/go.md.

    Raises:
        TypeError, ValueError: an option is of another kind, or out of its range; the URL is none.
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
        compression: bool = False,
        unix: StrPath | None = None,
        dial: Dial = dial,
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
        log_payloads: bool | Redact = False,
        profile: Profile | None = None,
    ) -> None:
        if url is not None and transport is not None:
            raise ValueError("give a url or a transport, not both")
        if unix is not None and url is None:
            raise ValueError("unix= goes with a url, for its host and path: Client('ws://localhost/', unix=path)")
        check_timeout(connect_timeout, "connect_timeout", more_than_0=True)
        settings = make_settings(limits, codec, enc_hook, expose_errors, extensions, log_payloads, profile)
        self._limits = settings.limits
        self._registry = Registry(dec_hook=dec_hook, lax=lax)
        self._channel_name = None
        self._scheduler = LoopScheduler()
        check_offline(offline)
        self._peer = Peer(
            settings,
            dialer=True,
            registry=self._registry,
            loop=self._scheduler,
            keeps_offline=True,
            fails_offline=offline == "fail",
            owner=_Owner(self),
        )
        self._core = core_of(self._peer)
        self._out = self._core.out
        self._sender = self._core.sender
        self._warned_of_queue = False
        self._schedule = Schedule(reconnect, lambda: self._scheduler.time())
        self._dialer = Dialer(
            url,
            headers=headers,
            auth=auth,
            subprotocols=subprotocols,
            ssl=ssl,
            proxy=proxy,
            compression=compression,
            unix=unix,
            limits=self._limits,
            dial=dial,
        )
        self._dialing: Dialing | None = None
        if url is not None:
            self._dialing = Dialing(self._dialer, self._schedule, connect_timeout, self)
        self._connect_timeout = connect_timeout
        self._patience: Timer | None = None  # ends a first connection that takes longer than that to open
        self._reconnects = reconnect is not None
        self._transport = transport
        self._watch = WakeWatch(self._scheduler, self._woke)
        self._state: ClientState = "idle"
        self._orders = 0
        """How often the user said connect, bind or close: the last one decides."""
        self._news = News()
        self._returns = Returns(lambda: self._peer.connected)
        self._asleep = False
        self._context = contextvars.copy_context()
        self._closing: asyncio.Task[None] | None = None
        self._closers = Closers()

    # ------------------------------------------------------------ what users see

    @property
    def peer(self) -> Peer:
        """The peer; it stays the same over all connections."""
        return self._peer

    @property
    def state(self) -> ClientState:
        """One of ``"idle"``, ``"connecting"``, ``"waiting"`` (between two attempts), ``"opening"`` (`open` and then
        `on_reconnect` handlers run), ``"connected"``, ``"closing"`` and ``"closed"`` (by `close`, or it gave up)."""
        return self._state

    @property
    def connected(self) -> bool:
        """Whether there is a connection, also while it opens."""
        return self._peer.connected

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """A named channel; see `Peer.of`."""
        return self._peer.of(name, ordered=ordered)

    def include(self, router: Router, *, channel: str | None = None) -> None:
        """Take over the registrations of ``router``, those of its main channel under ``channel``; see `Router`.

        Raises:
            ValueError: a router that has channels of its own cannot be put under one.
        """
        include(router, self._registry, channel)

    @no_parentheses("@client.on_reconnect")
    def on_reconnect(self, function: F, /) -> F:
        """Call ``function(info)``, sync or async, on each connection but the first; works as a decorator.

        Subscribe again here: the functions run after the `open` handlers, one after another, and what they send goes
        out before what waited for a connection. That waits until they return, at most `Limits.open_handlers` seconds,
        so start long work in a task. If the connection ends meanwhile they are cancelled. What they raise is logged.

        ``info`` is a `ReconnectInfo`; a function may also take no argument.

        Raises:
            TypeError: it is no function, or needs more arguments.
        """
        self._returns.add(function)
        return function

    if not TYPE_CHECKING:
        __enter__ = __exit__ = refusing("a client dials and closes asynchronously: use `async with client:`")

    async def __aenter__(self) -> Self:
        if self._dialing is not None or self._transport is not None:
            try:
                await self.connect()
            except BaseException:
                await self.close()  # `async with` does not, when entering fails
                raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # What each of these does in which state is the table of `_client.states`.

    async def connect(self) -> None:
        """Dial, and return when the connection is open and the `open` and `on_reconnect` handlers are done.

        Attempts that fail are repeated until ``connect_timeout``, and so are those whose connection ends before the
        `open` handlers are done. Cancelling stops dialing, unless somebody else waits. A client that is on its way back
        after a drop, or that `bind` was called on, goes on, whether this is cancelled or takes too long.

        Raises:
            ConnectFailed: it took longer than ``connect_timeout``, or ``Reconnect(stop=)`` says that it is enough, or
                the one attempt of ``reconnect=None`` failed.
            HandshakeRejected, ssl.SSLError, ValueError: the server refuses, TLS fails or the URL is not valid, in a way
                that another attempt would not change.
            ConnectionLost: `close` was called meanwhile; or the connection ended while its `open` handlers ran, and is
                not dialed again.
        """
        if self._transport is not None:
            transport, self._transport = self._transport, None
            await self.bind(transport)
            return
        if self._dialing is None:
            raise ValueError("this client has no url to dial: give Client(url), or bind() a connection")
        self._enter_loop()
        if self._state in ("idle", "closing", "closed"):
            self._begin(Input.CONNECT)
            self._dialing.begin(None, self._context.copy())
        orders = self._orders
        limit = asyncio.timeout(self._connect_timeout)
        try:
            async with limit:
                await self.wait_connected()
            return
        except TimeoutError:
            if not limit.expired():
                raise
        except asyncio.CancelledError:
            alone = self._news.listeners == 0 and orders == self._orders and self._dialing.first
            if alone and self._state in ("connecting", "waiting"):
                self._move(Input.CANCELLED)
                if dials := self._dialing.stop():
                    await asyncio.wait(dials)
            raise
        await self._overtime(self._dialing, limit.when())

    async def _overtime(self, dialing: Dialing, ends_at: float | None) -> None:
        """Raise `ConnectFailed` for a `connect` whose time is over, unless something else was decided by then."""
        # In the turn of the loop in which the time ended the connection may have come, or the client may have stopped.
        decided = self._state in ("connected", "closing", "closed")
        # Where it dials for its first connection, the client gives up at this moment, and says why.
        gives_up = ends_at is not None and dialing.deadline is not None and dialing.deadline <= ends_at
        if decided or gives_up:
            await self.wait_connected()
            return
        failure = dialing.failure(OPENING if self._state == "opening" else NOT_CONNECTED)
        raise failure from failure.__cause__

    async def wait_connected(self) -> None:
        """Wait until there is a connection, and its `open` and `on_reconnect` handlers are done. Cancelling is safe.

        A client that is ``"idle"`` waits for somebody to connect or bind.

        Raises:
            RuntimeError: its event loop runs in another thread.
            ConnectionLost: there will be none, because the client was closed, or the last one is not dialed again.
            ConnectFailed, HandshakeRejected, ssl.SSLError, ValueError: as for `connect`, also on the way back.
        """
        self._check_thread()
        while True:
            if self._peer.connected:
                if self._out.in_open_handler():  # which would wait for itself
                    return
                await self._peer.wait_opened()
                if self._peer.connected:
                    return
            await self._news.wait()

    async def bind(self, transport: Transport) -> None:
        """Use a connection of your own, from now on; returns when the `open` and `on_reconnect` handlers are done.

        Handlers survive. A connection that is bound already is closed with 1001, what was pending on it fails; one that
        is being dialed is given up. When this one drops, a client with a URL dials, and one without waits for the next
        `bind`. Cancelling is safe; the connection stays bound.

        Raises:
            ConnectionLost: it ended before the `open` handlers were done; with 1001 if another one was bound instead.
            TypeError, ValueError: this is no transport, or the one that is bound already; nothing has changed.
        """
        link = self._core.link_for(transport)
        self._enter_loop()
        self._begin(Input.BIND)
        self._take(link, 0)
        if self._peer.transport is transport:  # else a handler has bound another one in its first step
            await self._peer.wait_opened()
        if self._peer.transport is not transport:
            ending = self._out.ending
            raise ConnectionLost(ending.code, ending.reason)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """End the connection and do not dial again. What was accepted is written before the Close frame.

        With None as code the Close frame has none, and the other side is told 1005.

        Request handlers that still run are cancelled, as at any end of a connection; handlers of events get
        `Limits.close_timeout` seconds to finish. Cancelling is safe, the closing goes on.

        Raises:
            ValueError: if the code may not be sent, or the reason has more than 123 bytes or comes without a code.
        """
        told = check_close(code, reason)
        self._enter_loop()
        # Remembered because a handler may be the one that calls this, and ends by it.
        self._closers.add_current()
        if self._state != "closing" or self._closing is None or self._closing.done():
            self._orders += 1
            self._move(Input.CLOSE)
            dials: set[asyncio.Task[None]] = set() if self._dialing is None else self._dialing.stop()
            link = self._core.begin_close(told, reason)
            self._core.readers.end(lambda: None)
            self._news.tell(self._news.failure or ConnectionLost(told, reason or "the client was closed", "not_sent"))
            self._closing = spawn_later(self._close(self._orders, dials, link, code, reason))
            self._returns.again = False
        await asyncio.shield(self._closing)

    async def _close(
        self, order: int, dials: set[asyncio.Task[None]], link: Link | None, code: int | None, reason: str
    ) -> None:
        if dials:
            await asyncio.wait(dials)
        if link is not None:
            await link.transport.close(code, reason)
        # Somebody may have said connect or bind since, and what runs then is none of this.
        await self._core.join(self._limits.close_timeout, self._closers, lambda: order == self._orders)
        if order == self._orders:
            self._move(Input.CLOSED)
            self._closers = Closers()

    def __repr__(self) -> str:
        return f"<Client {self.state} {self._peer!r}>"

    # ------------------------------------------------------------ the state

    def _binary_is_free(self) -> bool:
        return self._core.binary_is_free()

    def _move(self, happened: Input) -> None:
        self._state = after(self._state, happened)
        if self._patience is not None and self._state != "opening":
            self._patience.cancel()
            self._patience = None
        if self._state in ("idle", "closed"):
            self._watch.stop()

    def _enter_loop(self) -> None:
        """Make sure that nothing is left of another event loop than the one that runs.

        Raises:
            RuntimeError: a connection is, or that one goes on in another thread; nothing has changed.
        """
        self._check_thread()
        if self._scheduler.is_elsewhere and self._peer.transport is not None:
            raise RuntimeError(
                "this client was connected when its event loop ended: close() it there, or make a new Client"
            )
        moves = self._scheduler.is_elsewhere
        if not self._scheduler.renew():
            return
        if self._state != "closed":
            self._state = "idle"
        self._out.requests.stop()
        self._out.thread = get_ident()
        if moves:
            self._core.readers.leave_loop()
        self._closing = None
        if self._dialing is not None:
            self._dialing.forget()
        self._watch.stop()
        self._news.enter_loop()

    def _check_thread(self) -> None:
        """Refuse a call while the client's event loop runs in another thread."""
        if self._scheduler.is_elsewhere and self._scheduler.is_running:
            check_thread(self._out.thread, "client.method()")

    def _begin(self, happened: Input) -> None:
        """The user said connect or bind."""
        self._orders += 1
        if self._dialing is not None:
            self._dialing.stop()
        self._move(happened)
        self._news.failure = None
        self._out.user_closed = False
        self._out.keeps_offline = True
        self._core.readers.reopen()
        self._schedule.begin()
        self._context = contextvars.copy_context()
        if self._dialing is not None and self._reconnects:
            self._watch.start()

    def _take(self, link: Link, attempts: int) -> None:
        now = self._scheduler.time()
        downtime = 0.0 if self._peer.transport is not None else self._returns.downtime(now)
        self._core.make_way(link)
        self._schedule.opened()
        self._returns.bound(attempts, downtime)
        self._core.attach(link)

    def _opened(self) -> None:
        self._move(Input.OPENED)
        if self._dialing is not None:
            self._dialing.opened()
        self._news.tell(None)

    def _lost(self, info: CloseInfo, replaced: bool) -> CloseInfo:
        """The connection is gone; says whether another one will come."""
        self._returns.lost(self._scheduler.time())
        lost = ConnectionLost(info.code, info.reason, "not_sent")
        comes_back = True
        if replaced or self._state not in ("opening", "connected"):
            # Not either, if what had overtaken a close has given up meanwhile.
            comes_back = self._state not in ("idle", "closing", "closed")
        elif info.user_closed:
            comes_back = False
            self._give_up(lost)
        elif self._dialing is None:
            comes_back = False
            self._move(Input.LEFT)
        else:
            comes_back = self._come_back(self._dialing, lost)
        return msgspec.structs.replace(info, will_reconnect=comes_back)

    def _come_back(self, dialing: Dialing, lost: ConnectionLost) -> bool:
        try:
            delay = self._schedule.dropped(lost)
        except Exception as exc:  # of a strategy that the user gave
            self._give_up(exc)
            return False
        if delay is None:
            if self._reconnects:
                text = "the client gives up: the connection ended (%d %s), which Reconnect(%s=) does not come back from"
                option = "stop" if self._schedule.stopped else "retry"
                self._core.log(logging.ERROR, text, lost.code, lost.reason, option)
            self._give_up(lost)
            return False
        if self._asleep:
            delay = 0.0
        dialing.dropped(lost)
        self._move(Input.DROPPED)
        self._failed(f"the connection ended ({lost.code} {lost.reason})", delay)
        dialing.begin(delay, self._context.copy())
        return True

    def _woke(self, seconds: float) -> None:
        """This machine was asleep: what it waits for is long over, and its connection most likely gone."""
        self._schedule.begin()
        interval, timeout = self._limits.ping_interval, self._limits.ping_timeout
        transport = self._peer.transport
        if self._state == "waiting" and self._dialing is not None:
            self._dialing.hurry()
        elif transport is None or interval is None or timeout is None or seconds < interval + timeout:
            return  # the other side still has patience
        elif self._state in ("opening", "connected"):
            self._asleep = True
            self._core.lose(CloseInfo(CloseCode.ABNORMAL, f"this machine was asleep for {seconds:.0f} s"))
            self._asleep = False
            transport.abort()

    def _give_up(self, failure: Exception) -> None:
        """No connection will come any more, unless somebody connects or binds."""
        self._move(Input.GAVE_UP)
        self._out.keeps_offline = False
        self._core.readers.end(lambda: failure)
        raised = self._dialing is not None and self._dialing.first  # by `connect`
        if self._returns.again and not raised and not isinstance(failure, ConnectionLost):
            self._core.log(logging.ERROR, "the client gives up: %s", failure)
        self._news.tell(failure)

    # ------------------------------------------------------------ what dialing tells

    def _dialed(self, transport: Transport, attempts: int) -> None:
        self._move(Input.DIALED)
        if self._dialing is not None and self._dialing.deadline is not None:
            self._patience = self._scheduler.call_at(self._dialing.deadline, self._overdue)
        with suppress(ConnectionLost):  # a `close` handler of the one before has bound another meanwhile, or closed
            self._take(self._core.link_for(transport), attempts)

    def _overdue(self) -> None:
        """The time for the first connection is over, while its `open` handlers run."""
        assert self._dialing is not None
        self._stopped(self._dialing.failure(OPENING))

    def _stopped(self, failure: Exception) -> None:
        opening = self._peer.transport if self._state == "opening" else None
        self._give_up(failure)
        if opening is not None:
            self._core.lose(CloseInfo(CloseCode.GOING_AWAY, "the client gave up"))
            self._core.reporter.spawn(opening.close(CloseCode.GOING_AWAY))
        if self._peer.transport is None:  # or one is closing, which ends as it was told to
            self._out.ending = CloseInfo(CloseCode.ABNORMAL, f"the client gave up: {failure}")
        self._out.discard_offline(self._out.ending)
        if self._dialing is not None and not self._dialing.first:  # else `connect` raises it
            self._core.reporter.tell("error", failure)

    def _failed(self, what: str, delay: float) -> None:
        self._core.log(logging.WARNING, "%s; next attempt in %.1f s", what, delay)

    def _queued(self) -> None:
        if self._state == "idle" and not self._warned_of_queue:
            self._warned_of_queue = True
            self._core.log(
                logging.WARNING,
                "a message waits for a connection, but this client is not connecting: "
                "use `async with client`, connect() or bind()",
            )
