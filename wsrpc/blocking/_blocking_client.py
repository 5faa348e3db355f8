"""`Client` for programs without an event loop. `Root`: base class of what users make and close."""

from __future__ import annotations

import ssl as ssl_module
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from .._base.misuse import no_parentheses
from .._base.names import F, Offline, Profile, Redact
from .._client.client import Client as AsyncClient
from .._client.client import core_of
from .._client.client_states import ClientState
from .._client.reconnect_hooks import ReconnectInfo
from .._client.reconnect_policy import DEFAULT_RECONNECT, Reconnect
from .._core.handlers.callables import is_async
from .._core.wire.codecs import Codec
from .._http.chosen_transport import TransportName
from .._net.dialing.dial import Dial, PerAttempt
from .._values.convert import DecHook
from ..errors import ConnectionLost
from ..limits import Limits
from ._blocking_peer import Endpoint, Peer
from ._delegate import BRIDGES, Delegate, SameAttribute
from ._handlers import check_plain, in_a_thread
from ._loop_thread import CallBridge

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")


class Root(Delegate):
    """Base class of what users make themselves, and close."""

    def __init__(self, inner: Any, bridge: CallBridge) -> None:
        super().__init__(inner, bridge)
        weakref.finalize(self, bridge.abandon).atexit = False  # `close_all` closes it then

    def _enter(self, method: Callable[[], Awaitable[Any]]) -> None:
        self._bridge.open()
        try:
            self._await(method)
        except Exception:
            self._bridge.close()  # the next attempt has a loop of its own, and must not meet this one
            raise
        except BaseException:
            self._bridge.close_soon()
            raise

    def _close(self, closing: Callable[[], Any]) -> None:
        if self._bridge.forked:  # what a child raises in the parent's `with` block, such as SystemExit, goes on
            return
        self._bridge.check()
        try:
            self._bridge.finish(closing)
        except (TypeError, ValueError):  # nothing was closed
            raise
        except BaseException:
            self._bridge.close_soon()
            raise
        self._bridge.close()


class Client(Endpoint, Root):
    """Client that connects to a server, and connects again after a drop.

    Its methods and options are those of `wsrpc.Client`, without what belongs to an event loop: middleware, routers
    and ``bind()``. Each method blocks until its result has arrived. Handlers are plain functions, and
    run in threads.

    Register handlers first; they stay registered for all connections. Then use ``with client:``, which connects, and
    closes the client at the end of the block. You can also call `connect` and `close` yourself.

    ``url``, ``headers`` and ``auth`` may be plain functions, which are called in a thread for each attempt to connect.
    """

    _inner: AsyncClient

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
    ) -> None:
        inner = AsyncClient(
            _per_attempt(url),
            headers=_per_attempt(headers),
            auth=_per_attempt(auth),
            subprotocols=subprotocols,
            ssl=ssl,
            proxy=proxy,
            compression=compression,
            transports=transports,
            dial=dial,
            reconnect=reconnect,
            offline=offline,
            connect_timeout=connect_timeout,
            limits=limits,
            codec=codec,
            dec_hook=dec_hook,
            expose_errors=expose_errors,
            extensions=extensions,
            log_payloads=log_payloads,
            profile=profile,
            program=program,
        )

        def over() -> Exception:
            return ConnectionLost(1000, "the client was closed", "not_sent")

        async def closing() -> None:
            if inner.state not in ("idle", "closed"):
                await inner.close()

        # Calls that come before `connect` belong to the loop of this thread, too.
        bridge = CallBridge("Client", "wsrpc.Client", closing, over, first=core_of(inner).enter_loop)
        BRIDGES[inner.peer] = weakref.ref(bridge)  # it refers to the peer, which must not keep it alive
        super().__init__(inner, bridge)

    @property
    def peer(self) -> Peer:
        """The client's peer, which stays the same for all connections."""
        return Peer(self._inner.peer, self._bridge)

    state: SameAttribute[ClientState] = SameAttribute()
    """The state of the client; see `ClientState`."""
    transport: SameAttribute[TransportName | None] = SameAttribute()
    """What carries the present connection; see `wsrpc.Client.transport`."""
    closes_in: SameAttribute[float | None] = SameAttribute()
    """Seconds until a server that drains closes the connection at the latest; see `wsrpc.Client.closes_in`."""

    def declare(self, contract: TypeForm[Any], /, *, requests: bool = False) -> None:
        """Declare which events this side emits; see `wsrpc.Client.declare`."""
        self._apply(self._inner.declare, contract, requests=requests)

    @overload
    def on_reconnect(self, function: Callable[[], T], /) -> Callable[[], T]: ...

    @overload
    def on_reconnect(self, function: Callable[[ReconnectInfo], T], /) -> Callable[[ReconnectInfo], T]: ...

    @overload
    def on_reconnect(self, function: F, /) -> F: ...

    @no_parentheses("@client.on_reconnect")
    def on_reconnect(self, function: Any, /) -> Any:
        """Call ``function(info)`` in a thread on each connection except the first; see `wsrpc.Client.on_reconnect`.

        If the session ends, a function that is running continues to its end, and the remaining functions are not
        called.
        """
        check_plain(function, "a function of on_reconnect")
        self._apply(self._inner.on_reconnect, in_a_thread(function))
        return function

    @no_parentheses("@client.on_detach")
    def on_detach(self, function: F, /) -> F:
        """Call ``function(info)`` in a thread for each drop after which the session is kept.

        See `wsrpc.Client.on_detach`.
        """
        check_plain(function, "a function of on_detach")
        self._apply(self._inner.on_detach, in_a_thread(function))
        return function

    def __enter__(self) -> Self:
        self._enter(self._inner.__aenter__)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, and return when the connection is open and its handlers have finished; see `wsrpc.Client.connect`.

        Ctrl-C stops dialing, unless another thread is waiting for the connection.
        """
        self._bridge.open()
        self._await(self._inner.connect)

    def start(self) -> None:
        """Begin to connect, and return without waiting; see `wsrpc.Client.start`."""
        self._bridge.open()
        self._call(self._inner.start)

    def wait_connected(self) -> None:
        """Wait until there is a connection, and its handlers have finished; see `wsrpc.Client.wait_connected`."""
        self._await(self._inner.wait_connected)

    def close(self, code: int | None = 1000, reason: str = "", *, drain_timeout: float = 0.0) -> None:
        """Close the connection, and do not dial again; see `wsrpc.Client.close`.

        Threads cannot be stopped, so a handler that is still running continues to its end. This method waits at most
        `Limits.close_timeout` seconds for handlers of events, and does not wait for request handlers, whose results are
        dropped: ``drain_timeout`` lets them finish.
        """
        self._close(partial(self._inner.close, code, reason, drain_timeout=drain_timeout))


def _per_attempt(option: Any) -> Any:
    """Return an option of `Client` that may be a function for each attempt. A plain function runs in a thread."""
    return in_a_thread(option) if callable(option) and not is_async(option) else option
