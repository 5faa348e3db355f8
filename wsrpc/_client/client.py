"""`Client`: dials a server, and dials again after a drop."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Self

from .._base.misuse import no_parentheses, refusing
from .._base.names import F, Offline, Profile, Redact, StrPath, check_offline, check_timeout
from .._calling.caller import RawCaller
from .._calling.channel import Channel
from .._conversion.convert import DecHook, EncHook
from .._handlers.registration import Declarer, RawRegistrar, Router, include
from .._handlers.registry import Registry
from .._peer.peer import Peer
from .._protocol.codecs import Codec
from .._protocol.settings import make_settings
from .._transports.dial import Dial, Dialer, PerAttempt, dial
from ..limits import Limits
from ..transport import Transport
from .backoff import DEFAULT_RECONNECT, Reconnect
from .core import ClientCore
from .dialing import DialPlan
from .reconnection import ReconnectInfo
from .states import ClientState

__all__ = ["Client", "ReconnectInfo", "core_of"]


class Client(Declarer, RawRegistrar, RawCaller):
    """End of a connection that this side dials, and dials again when it drops.

    Register handlers first. Then ``async with client:`` dials, or call `connect` and `close`. Handlers stay registered
    for all connections. What is sent without a connection waits for the next one, within `Limits.offline`.

    Args:
        url: ``ws://`` or ``wss://``. The URL, ``headers`` and ``auth`` may be functions, sync or async, that are called
            for each attempt. Without a URL, `bind` connections of your own.
        headers: of the opening handshake.
        auth: a token, sent as ``Authorization: Bearer <token>``.
        subprotocols: offered to the server, best first.
        ssl: the TLS context for ``wss://``. The default one verifies as browsers do.
        proxy: a proxy's URL, True for the proxy that the environment names, None for no proxy.
        compression: offer permessage-deflate to the server, which may accept it.
        unix: the path of a Unix socket to connect to, in place of the URL's host and port; see `wsrpc.dial`.
        dial: the function that opens a connection, such as that of an adapter. The default is `wsrpc.dial`.
        limits: bounds of the connection, and of the queue while there is none.
        reconnect: the delays between attempts, and when to stop. With None, `connect` makes one attempt, and a drop
            ends the client.
        offline: whether calls without a connection wait for one (``"queue"``), within `Limits.offline`, or raise
            `ConnectionLost` at once (``"fail"``). Each call has an ``offline=`` of its own, too.
        connect_timeout: the most seconds that `connect` takes, for all attempts and for the `open` handlers. None for
            no limit.
        transport: the first connection, in place of a URL.
        codec: the encoding; the default is JSON with ``enc_hook``.
        dec_hook: msgspec's hook that makes values of types that it does not know.
        enc_hook: msgspec's hook that encodes values of such types.
        lax: convert leniently, both the arguments of handlers and ``returns=``.
        expose_errors: send the text of unexpected exceptions to the remote peer; or a function that decides for each
            exception.
        extensions: find out whether the server is wsrpc, too, for flow control and binary messages. This takes one
            message, which plain ws-wrapper peers ignore. With False, only ws-wrapper's own messages are sent.
        log_payloads: write each message into the log, as one bounded line at DEBUG. A function ``redact(direction,
            event, args)`` returns what the log shows in place of ``args``, a list. ``direction`` is ``"in"`` or
            ``"out"``. ``event`` is the name of the event or request (``"channel:name"`` on a named channel), also for
            its answer, which is a list of one, and for messages of the anonymous channel that it opened.
        profile: ``"go"`` if the server is ws-server-wrapper-go, which closes the connection where others ignore a
            message. Such messages are refused here, before they are sent. Messages have at most 32 KiB, unless
            `Limits.sent_message` says otherwise, and there are no raw messages, no extensions and no other codec. See
            docs/how-to/go.md.

    Raises:
        TypeError, ValueError: an option, or the URL, is not valid.
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
            url=url,
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
        plan = DialPlan(dialer, reconnect, connect_timeout)
        self._core = core = ClientCore(settings, registry, plan, fails_offline=offline == "fail", transport=transport)
        self._out = core.peer_core.out
        self._sender = core.peer_core.sender

    # ------------------------------------------------------------ what users see

    @property
    def peer(self) -> Peer:
        """The peer. It stays the same for all connections."""
        return self._core.peer

    @property
    def state(self) -> ClientState:
        """``"idle"``, ``"connecting"``, ``"waiting"`` (between two attempts), ``"opening"`` (`open` and then
        `on_reconnect` handlers run), ``"connected"``, ``"detached"`` and ``"resuming"`` (between two attempts and
        during one, while the session is kept), ``"closing"``, or ``"closed"`` (by `close`, or it gave up)."""
        return self._core.state

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent, also while it opens.

        False as soon as the connection has refused a message, while `state` is still ``"connected"`` or ``"opening"``:
        it changes when the end of the connection is reported. That takes at most `Limits.close_timeout`.
        """
        return self._core.peer.connected

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """Return a named channel; see `Peer.of`."""
        return self._core.peer.of(name, ordered=ordered)

    def include(self, router: Router, *, channel: str | None = None) -> None:
        """Repeat the registrations of ``router``, those of its main channel on ``channel``; see `Router`.

        Raises:
            TypeError: it is not a router.
            ValueError: a router that has channels of its own cannot be included on a channel.
        """
        include(router, self._registry, channel)

    @no_parentheses("@client.on_reconnect")
    def on_reconnect(self, function: F, /) -> F:
        """Call ``function(info)``, sync or async, on each connection but the first; works as a decorator.

        ``info`` is a `ReconnectInfo`. A function may also take no argument. If ``info.resumed``, the session goes on,
        and nothing waits for the functions. If not, subscribe again here: the functions run one after another, after
        the `open` handlers, and what they send leaves before messages that waited for the connection. Those messages
        wait until the functions return, at most `Limits.open_handlers` seconds, so start long work in a task. The
        functions are cancelled if the connection ends. Exceptions go to the log.

        Raises:
            TypeError: it is not a function, or needs more arguments.
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

        Attempts that fail are repeated until ``connect_timeout``. An attempt has failed, too, if its session ends
        before the `open` handlers are done. Cancelling stops dialing, unless another caller waits for the connection. A
        client that dials again after a drop, or that `bind` was called on, goes on when this is cancelled or takes too
        long.

        Raises:
            ConnectFailed: it took longer than ``connect_timeout``, or ``Reconnect(stop=)`` ended it, or the one attempt
                of ``reconnect=None`` failed.
            HandshakeRejected, ssl.SSLError, ValueError: the server refuses, TLS fails or the URL is not valid, in a way
                that another attempt would not change.
            ConnectionLost: `close` was called, or the connection ended while its `open` handlers ran, and the client
                does not dial again.
        """
        await self._core.connect()

    async def wait_connected(self) -> None:
        """Wait until there is a connection, and its `open` and `on_reconnect` handlers are done. Cancelling is safe.

        While the client is ``"idle"``, this waits for a call of `connect` or `bind`.

        Raises:
            RuntimeError: the client's event loop runs in another thread.
            ConnectionLost: there will be no connection, because the client was closed, or does not dial again.
            ConnectFailed, HandshakeRejected, ssl.SSLError, ValueError: as for `connect`, also after a drop.
        """
        await self._core.wait_connected()

    async def bind(self, transport: Transport) -> None:
        """Use a connection of your own, and return when its `open` and `on_reconnect` handlers are done.

        Handlers stay registered. A connection that is bound already is closed with 1001, and requests in flight on it
        fail. Dialing stops. When the new connection drops, a client with a URL dials, and one without waits for the
        next `bind`. Cancelling is safe: the connection stays bound.

        Raises:
            ConnectionLost: it ended before the `open` handlers were done; with 1001 if another one was bound.
            TypeError, ValueError: it is not a transport, or it is bound already. Nothing has changed.
        """
        await self._core.bind(transport)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection and do not dial again. What was accepted is written before the Close frame.

        With None as code the Close frame has no code, and the remote peer gets 1005.

        Request handlers that still run are cancelled, as at any end of a connection. Handlers of events have
        `Limits.close_timeout` seconds to finish. Cancelling is safe: the closing goes on.

        There is no ``drain=``. To let request handlers finish, wait until ``client.peer.active`` and
        ``client.peer.channels`` are 0 and the client is connected, then close. See "Shut a client down without losing
        its work" in the guide "Start and stop a server".

        Raises:
            ValueError: the code may not be sent, or the reason has more than 123 bytes or comes without a code.
        """
        await self._core.close(code, reason)

    def _binary_is_free(self) -> bool:
        return self._core.peer_core.binary_is_free()

    def __repr__(self) -> str:
        return f"<Client {self.state} {self.peer!r}>"


core_of: Callable[[Client], ClientCore] = attrgetter("_core")
"""The inside of a client, for the modules of this package. Public classes have no public name for it."""
