"""`Client`: dials a server, and dials again after a drop."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Self

from .._base.misuse import no_parentheses, refusing
from .._base.names import F, Offline, Profile, Redact, StrPath, check_offline, check_timeout
from .._conversion.convert import DecHook, EncHook
from .._handlers.registration import RawRegistrar, Registrar, Router, include
from .._handlers.registry import Registry
from .._peer.peer import Peer
from .._protocol.codecs import Codec
from .._protocol.settings import make_settings
from .._sending.caller import RawCaller
from .._sending.channel import Channel
from .._transports.dial import Dial, Dialer, PerAttempt, dial
from ..limits import Limits
from ..transport import Transport
from .backoff import DEFAULT_RECONNECT, Reconnect
from .core import ClientCore
from .dialing import DialPlan
from .reconnection import ReconnectInfo
from .states import ClientState

__all__ = ["Client", "ReconnectInfo", "core_of"]


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
        self._registry = registry = Registry(dec_hook=dec_hook, lax=lax)
        self._channel_name = None
        check_offline(offline)
        dialer = Dialer(
            url,
            headers=headers,
            auth=auth,
            subprotocols=subprotocols,
            ssl=ssl,
            proxy=proxy,
            compression=compression,
            unix=unix,
            limits=settings.limits,
            dial=dial,
        )
        plan = DialPlan(dialer, url is not None, reconnect, connect_timeout)
        self._core = core = ClientCore(settings, registry, plan, fails_offline=offline == "fail", transport=transport)
        self._out = core.peer_core.out
        self._sender = core.peer_core.sender

    # ------------------------------------------------------------ what users see

    @property
    def peer(self) -> Peer:
        """The peer; it stays the same over all connections."""
        return self._core.peer

    @property
    def state(self) -> ClientState:
        """One of ``"idle"``, ``"connecting"``, ``"waiting"`` (between two attempts), ``"opening"`` (`open` and then
        `on_reconnect` handlers run), ``"connected"``, ``"closing"`` and ``"closed"`` (by `close`, or it gave up)."""
        return self._core.state

    @property
    def connected(self) -> bool:
        """Whether there is a connection, also while it opens."""
        return self._core.peer.connected

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """A named channel; see `Peer.of`."""
        return self._core.peer.of(name, ordered=ordered)

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
        self._core.hooks.add(function)
        return function

    if not TYPE_CHECKING:
        __enter__ = __exit__ = refusing("a client dials and closes asynchronously: use `async with client:`")

    async def __aenter__(self) -> Self:
        if self._core.begins_by_itself:
            try:
                await self.connect()
            except BaseException:
                await self.close()  # `async with` does not, when entering fails
                raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

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
        await self._core.connect()

    async def wait_connected(self) -> None:
        """Wait until there is a connection, and its `open` and `on_reconnect` handlers are done. Cancelling is safe.

        A client that is ``"idle"`` waits for somebody to connect or bind.

        Raises:
            RuntimeError: its event loop runs in another thread.
            ConnectionLost: there will be none, because the client was closed, or the last one is not dialed again.
            ConnectFailed, HandshakeRejected, ssl.SSLError, ValueError: as for `connect`, also on the way back.
        """
        await self._core.wait_connected()

    async def bind(self, transport: Transport) -> None:
        """Use a connection of your own, from now on; returns when the `open` and `on_reconnect` handlers are done.

        Handlers survive. A connection that is bound already is closed with 1001, what was pending on it fails; one that
        is being dialed is given up. When this one drops, a client with a URL dials, and one without waits for the next
        `bind`. Cancelling is safe; the connection stays bound.

        Raises:
            ConnectionLost: it ended before the `open` handlers were done; with 1001 if another one was bound instead.
            TypeError, ValueError: this is no transport, or the one that is bound already; nothing has changed.
        """
        await self._core.bind(transport)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """End the connection and do not dial again. What was accepted is written before the Close frame.

        With None as code the Close frame has none, and the other side is told 1005.

        Request handlers that still run are cancelled, as at any end of a connection; handlers of events get
        `Limits.close_timeout` seconds to finish. Cancelling is safe, the closing goes on.

        Raises:
            ValueError: if the code may not be sent, or the reason has more than 123 bytes or comes without a code.
        """
        await self._core.close(code, reason)

    def _binary_is_free(self) -> bool:
        return self._core.peer_core.binary_is_free()

    def __repr__(self) -> str:
        return f"<Client {self.state} {self.peer!r}>"


core_of: Callable[[Client], ClientCore] = attrgetter("_core")
"""The inside of a client, for the modules of this package. Public classes have no public name for it."""
