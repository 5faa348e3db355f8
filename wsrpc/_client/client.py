"""`Client`: dials a server, and dials again after a drop."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from .._base.misuse import check_number, no_parentheses, refusing
from .._base.names import F, Offline, Profile, Redact, check_name, check_offline, check_timeout
from .._core.api.channel import Channel
from .._core.api.context import Context as Context  # middleware gets one, also if the program names no such class
from .._core.api.outgoing import OutgoingRegistrar
from .._core.api.peer import Peer
from .._core.api.reading_caller import ReadingCaller
from .._core.api.registration import Declarer, Router, include
from .._core.handlers.registry import Registry
from .._core.sending.draining import DRAIN_TIMEOUT
from .._core.wire.codecs import Codec, enc_hook_of
from .._core.wire.settings import make_settings
from .._http.chosen_transport import ChosenTransport, TransportName
from .._http.http_transport import HttpTransport
from .._keyed.keeper import Keeper, OneOwner
from .._log.contract import Store
from .._net.dialing.dial import Dial, Dialer, PerAttempt
from .._schema.description import ServedContract
from .._values.convert import DecHook
from ..limits import Limits
from ..transport import Transport
from .client_core import ClientCore
from .client_room import ClientRoom
from .client_states import ClientState
from .dialing import DialPlan
from .reconnect_hooks import ReconnectInfo
from .reconnect_policy import DEFAULT_RECONNECT, Reconnect

T = TypeVar("T")


class Client(Declarer, OutgoingRegistrar, ReadingCaller):
    """Client that connects to a server, and connects again after a drop.

    Register handlers first; they stay registered for all connections. Then use ``async with client:``, which connects,
    and closes the client at the end of the block. You can also call `connect` and `close` yourself. While there is no
    connection, messages wait for the next one by default, up to `Limits.offline` messages.

    Args:
        url: a ``ws://`` or ``wss://`` URL, or a sequence of them. Each attempt to connect dials the URLs in a random
            order, without delays, until one opens; but a session that can be resumed is resumed at its own URL, if that
            answers. The URL, ``headers`` and ``auth`` may be functions, sync or async, that are called for each
            attempt. Without a URL, pass your own connections to `bind`.
        headers: headers of the opening handshake.
        auth: a token, which is sent as ``Authorization: Bearer <token>``.
        subprotocols: subprotocols to offer to the server, in order of preference.
        ssl: the TLS context for ``wss://``. The default context verifies certificates, like a browser.
        proxy: the URL of a proxy; True for the proxy that the environment specifies; None for no proxy.
        compression: whether to offer permessage-deflate to the server, which may accept or decline it.
        transports: the transports that may carry a connection. By default, they are ``["websocket", "http"]``, or only
            ``["websocket"]`` if the library aiohttp is not installed. HTTP is used where a proxy does not pass
            WebSocket on. WebSocket is then tried again from time to time, and takes over. The session resumes, so calls
            and streams go on.
        dial: the function that opens a connection, for example the function of an adapter, in place of the functions
            for ``transports``. To connect to a Unix socket, pass ``functools.partial(wsrpc.dial, unix=path)``.
        limits: limits of the connection, and of the queue for messages that wait for a connection.
        reconnect: the delays between attempts, and when to stop. With None, `connect` makes one attempt, and the client
            does not connect again after a drop.
        offline: what to do with messages while there is no connection. With ``"queue"``, they wait for the next
            connection, within `Limits.offline`. With ``"fail"``, sending immediately raises `ConnectionLost`. The
            ``offline`` argument of a method such as `emit` overrides this option.
        connect_timeout: the maximum time that `connect` takes, in seconds, for all attempts and for the `open`
            handlers. None for no limit.
        codec: the codec that encodes and decodes messages. The default is `JsonCodec`. To convert values that
            msgspec cannot encode, pass ``JsonCodec(enc_hook=function)``; see `EncHook`.
        dec_hook: function that converts decoded values to types that msgspec does not support; see `DecHook`.
        expose_errors: whether to send the text of unexpected exceptions to the remote peer, or a function that decides
            this for each exception.
        extensions: whether to ask the server if it also uses wsrpc. If it does, the connection has flow control and
            binary messages. Asking takes one message, which plain ws-wrapper servers ignore. With False, the client
            sends only messages that ws-wrapper defines.
        log_payloads: whether to log each message as one line of limited length, at DEBUG level. Instead of True,
            you can pass a function ``redact(direction, event, args)``. The function returns the text or value that the
            log shows instead of the list ``args``. ``direction`` is ``"in"`` or ``"out"``. ``event`` is the name of the
            event or request (``"channel:name"`` on a named channel). For a response, ``event`` is the name of the
            request, and ``args`` has one item. For messages of an anonymous channel, ``event`` is the name of the
            request that opened the channel.
        profile: ``"go"`` if the server uses ws-server-wrapper-go, the Go implementation of the protocol. Such a server
            closes the connection when it receives certain messages that other servers ignore. The client raises an
            exception instead of sending such a message. Outbound messages can be at most 32 KiB, unless
            `Limits.sent_message_bytes` is set. Extensions and other codecs are not available. See the
            guide "Talk to Go programs".
        program: what this side runs, such as ``"station/2.3.0"``: at most 64 printable ASCII characters. The remote
            peer finds it in `Peer.program`, and a fingerprint of what this side handles and emits in `Peer.contract`.
        store: as for `Server`. Give it to let the results outlive the program.
        key_owner: the name of this client in the ``store``, such as its address. Clients with the same name share the
            keys of calls to them: they get each other's results.

    Raises:
        TypeError, ValueError: an option, or the URL, is not valid.
    """

    def __init__(
        self,
        url: PerAttempt[str | Sequence[str]] | None = None,
        *,
        headers: PerAttempt[Mapping[str, str]] | None = None,
        auth: PerAttempt[str] | None = None,
        subprotocols: Sequence[str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | bool | None = True,
        compression: bool = False,
        transports: Sequence[TransportName] | None = None,
        dial: Dial | None = None,
        reconnect: Reconnect | None = DEFAULT_RECONNECT,
        offline: Offline = "queue",
        connect_timeout: float | None = 30.0,
        limits: Limits | None = None,
        codec: Codec | None = None,
        dec_hook: DecHook | None = None,
        expose_errors: bool | Callable[[BaseException], bool] = False,
        extensions: bool = True,
        log_payloads: bool | Redact = False,
        profile: Profile | None = None,
        program: str | None = None,
        store: Store | None = None,
        key_owner: str | None = None,
    ) -> None:
        if (store is None) is not (key_owner is None):
            raise TypeError("store= and key_owner= go together: key_owner= names this client in the store")
        if key_owner is not None:
            check_name("key_owner=", key_owner)
        if transports is not None and dial is not None:
            raise TypeError("give transports= or dial=, not both: dial= opens each connection itself")
        check_timeout(connect_timeout, "connect_timeout", more_than_0=True)
        self._registry = registry = Registry(dec_hook=dec_hook)
        contract = ServedContract(registry, None if codec is None else enc_hook_of(codec))
        settings = make_settings(limits, codec, expose_errors, extensions, log_payloads, profile, program, contract)
        keeper = Keeper(store, settings.codec, OneOwner(key_owner or ""))
        registry.keeper, self._runs = keeper.keep, keeper.runs
        self._channel_name = None
        check_offline(offline)
        chosen = ChosenTransport(transports)
        dialer = Dialer(
            url=url,
            headers=headers,
            auth=auth,
            subprotocols=subprotocols,
            ssl=ssl,
            proxy=proxy,
            compression=compression,
            limits=settings.limits,
            dial=chosen if dial is None else dial,
        )
        plan = DialPlan(dialer, reconnect, connect_timeout)
        self._core = core = ClientCore(settings, registry, plan, self._runs, fails_offline=offline == "fail")
        chosen.ask, chosen.redials, chosen.may_move = dialer.ask, reconnect is not None, lambda: core.may_move
        chosen.is_first = lambda: core.is_first
        self._sender = core.peer_core.requester

    # ------------------------------------------------------------ what users see

    @property
    def peer(self) -> Peer:
        """The client's peer, which stays the same for all connections."""
        return self._core.peer

    @property
    def state(self) -> ClientState:
        """The state of the client; see `ClientState`."""
        return self._core.state

    @property
    def connected(self) -> bool:
        """Whether there is a connection over which messages can be sent.

        Also true while the `open` handlers are running. False as soon as sending a message has failed, even if `state`
        is still ``"connected"`` or ``"opening"``. The state changes when the end of the connection is reported; see
        `Limits.close_timeout`.
        """
        return self._core.peer.connected

    @property
    def transport(self) -> TransportName | None:
        """What carries the present connection, or None if there is none. (`Peer.transport` is the connection itself.)

        The log has the reason for HTTP.
        """
        found = self._core.peer.transport
        return None if not self.connected else "http" if isinstance(found, HttpTransport) else "websocket"

    @property
    def closes_in(self) -> float | None:
        """Seconds until the server closes the connection at the latest. None if the server does not drain.

        Requests and events are sent to that server while calls are in progress that began before it drained, and at
        least a second is left. Otherwise, they wait for the next connection.
        """
        current = self._core.peer_session
        at = current.writer.draining.closes_at
        return None if at is None or current.session.over else max(0.0, at - self._core.scheduler.time())

    def of(self, name: str, *, ordered: bool = False) -> Channel:
        """Return a named channel; see `Peer.of`."""
        return self._core.peer.of(name, ordered=ordered)

    def room(self, name: str) -> ClientRoom:
        """Return a room of the server, to join it. Each call with the same name returns the same object.

        From the first call on, the channel "rooms" is reserved. See the guide "Rooms".

        Raises:
            TypeError, ValueError: ``name`` cannot name a room.
            ValueError: the client has handlers on the channel "rooms", or ``extensions=False``.
        """
        return self._core.rooms.get(name)

    def include(self, router: Router, *, channel: str | None = None) -> None:
        """Register the handlers and middleware of ``router`` on this client; see `Router`.

        Args:
            channel: the named channel on which to register the handlers of the router's main channel. None for the main
                channel.

        Raises:
            TypeError: ``router`` is not a `Router`.
            ValueError: ``channel`` is given, but the router itself has named channels.
        """
        include(router, self._registry, channel)

    # Pyright infers the parameter of a lambda only from the first two forms. Mypy takes a lambda with defaults only in
    # the last form.
    @overload
    def on_reconnect(self, function: Callable[[], T], /) -> Callable[[], T]: ...

    @overload
    def on_reconnect(self, function: Callable[[ReconnectInfo], T], /) -> Callable[[ReconnectInfo], T]: ...

    @overload
    def on_reconnect(self, function: F, /) -> F: ...

    @no_parentheses("@client.on_reconnect")
    def on_reconnect(self, function: Any, /) -> Any:
        """Register ``function(info)``, sync or async, for each connection except the first. Works as a decorator.

        ``info`` is a `ReconnectInfo`. The function may also take no argument. If ``info.resumed`` is true, the session
        has resumed, and messages do not wait for the functions. If ``info.resumed`` is false, use the function to renew
        subscriptions.

        In a new session, the functions run one after another, after the `open` handlers. Messages that the functions
        send are sent first. Messages that were queued while the client was offline are sent when the functions have
        returned, or after `Limits.open_timeout` seconds. Run anything that takes longer in a task. The functions are
        cancelled if the session ends. Exceptions are logged.

        Raises:
            TypeError: ``function`` is not a function, or requires more than one argument.
        """
        self._registry.add_hook("on_reconnect", ("info",), function)
        return function

    @no_parentheses("@client.on_detach")
    def on_detach(self, function: F, /) -> F:
        """Register ``function(info)``, sync or async, for drops after which the session is kept. Works as a decorator.

        ``info`` is the `CloseInfo` of the connection that has dropped. The function may also take no argument. While
        the session is kept, the client is ``"detached"`` and dials. When the session resumes, the functions of
        `on_reconnect` are called, and ``info.resumed`` is true. If the session ends instead, the `close` handlers are
        called. A drop that ends the session at once calls only the `close` handlers.

        The functions of one session run one after another, in the order in which things happened: these functions,
        those of `on_reconnect` after a resume, and the `close` handlers. They run after the `open` handlers of the
        session. If the connection drops again before the functions of `on_reconnect` were called, neither the resume
        nor this drop calls functions. Exceptions are logged.

        Raises:
            TypeError: ``function`` is not a function, or requires more than one argument.
        """
        self._registry.add_hook("on_detach", ("info",), function)
        return function

    if not TYPE_CHECKING:
        __enter__ = __exit__ = refusing("a client dials and closes asynchronously: use `async with client:`")

    async def __aenter__(self) -> Self:
        if self._core.plan.dials:
            try:
                await self.connect()
            except BaseException:
                await self.close()  # `async with` does not, when entering fails
                raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connect, and return when the connection is open and the `open` and `on_reconnect` handlers have finished.

        Failed attempts are repeated until ``connect_timeout`` is reached. An attempt also counts as failed if its
        session ends before the `open` handlers have finished.

        Cancelling stops dialing, unless another caller is waiting for the connection. After a drop, or after `bind`,
        the client continues to dial even if this call is cancelled or reaches ``connect_timeout``.

        Raises:
            ConnectFailed: ``connect_timeout`` was reached, ``Reconnect(stop=)`` ended the attempts, or, with
                ``reconnect=None``, the only attempt got no response.
            HandshakeRejected, ssl.SSLError, OSError, ValueError: the server or a proxy refused, TLS failed, the
                response is too large, or the URL is not valid; another attempt would fail in the same way, or
                ``reconnect=None`` allows none.
            ConnectionLost: `close` was called; or the connection ended while its `open` handlers were running, and the
                client does not dial again.
        """
        await self._core.connect()

    def start(self) -> None:
        """Begin to connect, and return without waiting. Messages wait for the connection, as after a drop.

        Use this method if the server may not be there yet. ``connect_timeout`` does not apply. If the client gives up,
        this is logged, `wait_connected` raises the reason, and the `error` handlers get it. If the client is already
        connecting or connected, nothing happens.

        Raises:
            ValueError: the client has no URL.
            RuntimeError: no event loop is running, or the client's event loop runs in another thread.
        """
        self._core.start()

    async def wait_connected(self) -> None:
        """Wait until there is a connection, and its `open` and `on_reconnect` handlers have finished.

        While the client is ``"idle"``, this method waits until `connect`, `start` or `bind` is called. Cancelling
        is safe.

        Raises:
            RuntimeError: called in a thread other than that of the client's event loop, or the client was connected
                when that loop ended.
            ConnectionLost: there will be no connection, because the client was closed or does not dial again.
            ConnectFailed, HandshakeRejected, ssl.SSLError, OSError, ValueError: as for `connect`. If one of these is
                raised after a drop, the client has stopped reconnecting because of it.
        """
        await self._core.wait_connected()

    async def bind(self, transport: Transport) -> None:
        """Use a connection of your own, and return when its `open` and `on_reconnect` handlers have finished.

        The current connection, if there is one, is closed with 1001, and the requests in flight on it fail. The client
        stops dialing. Handlers stay registered. When the new connection drops, a client with a URL reconnects to that
        URL, and a client without a URL waits for the next `bind`, or is closed, with ``reconnect=None``. Cancelling is
        safe: the connection stays bound.

        Raises:
            ConnectionLost: the connection ended before the `open` handlers had finished. ``code`` is 1001 if another
                connection was bound.
            TypeError, ValueError: ``transport`` is not a transport, or is already bound. The client is unchanged.
        """
        await self._core.bind(transport)

    async def close(self, code: int | None = 1000, reason: str = "", *, drain_timeout: float = 0.0) -> None:
        """Close the connection, and do not dial again.

        Messages that were accepted for sending are sent first, then the Close frame. If the connection drops before
        they have left, a warning is logged; see `Limits.close_timeout`. Request handlers that are still running are
        cancelled, as at the end of any session. Handlers of events have `Limits.close_timeout` seconds to
        finish. Cancelling is safe: the client continues to close.

        Args:
            code: the close code. With None, the Close frame has no code, and the remote peer sees 1005.
            reason: the close reason, at most 123 bytes in UTF-8.
            drain_timeout: the maximum time, in seconds, to wait for active work in both directions: handlers, requests,
                streams and channels, and runs of calls with a key. From the call on, requests to this client whose
                handlers have not started, and new ones, are rejected with `Draining`, also those that a handler of the
                server makes for a request of this client; events are still handled. After a drop, the client connects
                again to send the answers that are ready.
                Calling `close` again with a smaller ``drain_timeout``, or without it, ends the drain sooner.

        Raises:
            TypeError, ValueError: ``drain_timeout`` is not a number, or is negative.
            ValueError: ``code`` is not allowed in a Close frame, ``reason`` has more than 123 bytes, or ``reason`` is
                given without a code.
        """
        check_number(DRAIN_TIMEOUT, drain_timeout, 0)
        await self._core.close(code, reason, drain_timeout)
        if self.state == "closed":  # else it was opened again meanwhile
            await self._runs.close(self.peer.limits.close_timeout)

    def __repr__(self) -> str:
        return f"<Client {self.state} {self.peer!r}>"


core_of: Callable[[Client], ClientCore] = attrgetter("_core")
"""The inside of a client, for the modules of this package. Public classes have no public name for it."""
