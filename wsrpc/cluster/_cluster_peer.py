"""`ClusterPeer`: calls a peer that may be connected to any node."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, overload

from msgspec import UNSET
from msgspec.structs import replace

from .._base.misuse import refused, shown_as
from .._base.names import check_channel
from .._core.api import calls
from .._core.api.caller import Caller
from .._core.api.options import AwayOptions, SubmitOptions, changed, check_key
from .._core.sending.checks import check_sending
from .._core.wire.messages import NO_OPTIONS
from .._server.joined_cluster import HasAddress
from ._away.away_calls import AwayCalls
from ._away.submitted_call import SubmittedCall, WaitingCall
from ._cluster_sender import AwaySender, ClusterSender, SubmitSender, in_time
from ._membership import ClusterMembership

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    T = TypeVar("T", default=Any)


class AwayCaller(Caller):
    """The methods of `Caller`, with ``deliver_within`` for requests."""

    __slots__ = ()
    address: str
    _sender: ClusterSender  # pyright: ignore[reportIncompatibleVariableOverride]

    @overload
    async def request(self, event: str, /, *args: Any, **options: Unpack[AwayOptions]) -> Any: ...

    @overload
    async def request(self, event: str, /, *args: Any, returns: TypeForm[T], **options: Unpack[AwayOptions]) -> T: ...

    def request(  # pyright: ignore[reportIncompatibleMethodOverride]  # it has one more option
        self, event: str, /, *args: Any, returns: Any = UNSET, **options: Unpack[AwayOptions]
    ) -> Any:
        """Send a request, and return its response.

        Args:
            returns: as for `Caller.request`, and so are ``timeout``, ``send``, ``retry``, ``idempotent``, ``offline``,
                ``metadata`` and ``key``.
            deliver_within: the number of seconds for which the request waits for a peer that is away. It needs a
                ``key``, and a handler with ``keep=``, and takes no ``send``, ``retry`` and ``offline``. The request
                waits in the ``store`` of the `Server` or `ClusterClient`, and is made when the peer connects to any
                process. If the connection is lost before the response, it is made again when the peer is back; the
                handler does not run again. ``timeout`` is the maximum time until the response, from each moment when
                the request is handed over. If the peer is connected when it is over, the request fails with a
                `RequestTimeout` whose ``outcome`` is ``"unknown"``; otherwise it is made again.
                Requests with the same key and arguments, from any process, share one response, which is kept for
                another ``deliver_within`` seconds, at least 60. If the peer did not respond, the key is free: the next
                request with it tries again, and joins a handler that runs. If this process ends, and the processes have
                a common store, the one to which the peer connects makes the request. Cancelling stops only the waiting.

        Raises:
            PeerNotFound: with ``deliver_within``: the peer has not connected in time. Nothing was sent.
            ConnectionLost: with ``deliver_within``: the peer is not back in time; or the process that made the request,
                or this one, has ended.
            KeyReused: the request with this key has other arguments.
            WsrpcError: as for `Caller.request`.
        """
        caller: Any = self
        if (within := options.pop("deliver_within", None)) is not None:
            if any(options.get(name) is not None for name in ("send", "retry", "offline")):
                return refused(TypeError("deliver_within= repeats a request itself: leave out send=, retry=, offline="))
            caller = copy(self)
            caller._sender = AwaySender(caller._sender, within)
        call: Any = Caller.request  # the type checkers know it as coroutine functions
        return call(caller, event, *args, returns=returns, **options)

    @shown_as("submit")
    async def submit(self, event: str, /, *args: Any, deliver_within: float, **options: Unpack[SubmitOptions]) -> None:
        """Submit a request, and return when it is stored. It is made as by `request` with ``deliver_within``.

        This process may end then. If the peer is connected to another process, that one makes the request; otherwise
        the process to which it connects. `submitted` says what has become of the request. To wait for the response,
        call `request` with the same event, arguments and key, and ``deliver_within``: it returns the response, or
        raises the error with which the request has failed. Both are kept for another ``deliver_within`` seconds, at
        least 60, and a failure is logged, too. Until then, a second `submit` with the same key does nothing, and also
        raises this error: to try again, use another key. If the ``outcome`` of the error is ``"unknown"``, the handler
        may run twice then. The options are as for `request`, such as ``timeout``, and ``key`` must be given. `waiting`
        lists what has not ended, and `withdraw` cancels what was not handed over.

        While the store does not answer, `submit` fails after 10 to 12 seconds, or after ``timeout`` if it is given.

        The first `submit` of a `ClusterClient` asks the servers whether they have its ``store``. If no server is known,
        the request waits, since one may be about to start, and a warning is logged, once.

        Raises:
            ValueError: there is no ``key``; this `Server` or `ClusterClient` has no ``store``; or the servers have
                another one, or none.
            KeyReused: the request with this key has other arguments.
            Overloaded, RequestTimeout: the store has no room, or does not answer. If the ``outcome`` is ``"unknown"``,
                it may have the request, and another process may have made it. `submit` again with the same key.
            EngineLost: this process has not joined the cluster.
            WsrpcError: the request with this key has failed.
            TypeError: an option is not valid, or an argument cannot be encoded.
        """
        chosen = changed(NO_OPTIONS, options, SubmitOptions, self.submit, event)
        sender = SubmitSender(self._sender, deliver_within, chosen.timeout)
        # A handler's deadline does not limit what others do later.
        later = partial(calls.request, sender, (self._channel_name, event, args), replace(chosen, timeout=None))
        await in_time(event, chosen.timeout, later)

    @shown_as("submitted")
    async def submitted(self, event: str, /, *, key: str, timeout: float | None = None) -> SubmittedCall:
        """Return the state of the call with a key that any process has submitted, or made with ``deliver_within``.

        It reads the store once, waits for no peer, and does not change the call.

        Raises:
            TypeError, ValueError: ``key`` is not valid; or this `Server` or `ClusterClient` has no ``store``.
            Overloaded: the store has not answered within 10 seconds.
            RequestTimeout: it has not answered within ``timeout`` seconds.
            EngineLost: this process has not joined the cluster.
        """
        find = partial(self._stored(event).find, self.address, self._channel_name, event, check_key(key))
        return await in_time(event, timeout, find)

    @shown_as("withdraw")
    async def withdraw(self, event: str, /, *, key: str, timeout: float | None = None) -> SubmittedCall:
        """Withdraw the call with a key, unless it was handed over, and return its state.

        If the state is ``"withdrawn"``, the call was not handed over, and never is: who waits for its response gets a
        `WsrpcError` whose ``outcome`` is ``"not_sent"``, and so do later calls with the key, as long as it is kept.
        With any other state, nothing has changed. The store decides, so this holds also if a process is about to hand
        the call over, unless the store loses data. After an error, or if this is cancelled, the call may be withdrawn
        or not: call it again.

        Raises:
            TypeError, ValueError, Overloaded, RequestTimeout, EngineLost: as for `submitted`.
        """
        withdraw = partial(self._stored(event).withdraw, self.address, self._channel_name, event, check_key(key))
        return await in_time(event, timeout, withdraw)

    def _stored(self, event: str) -> AwayCalls:
        check_sending(self._channel_name, event, None)
        return self._sender.joined().away.lasting()


class ClusterPeer(AwayCaller, HasAddress):
    """Peer with an address, connected to any process of the cluster. `Cluster.peer` returns it.

    It has the methods of `Peer` that send messages. Each method looks up the process to which the peer is connected at
    that moment. If the peer is connected to this process, the message is sent directly. Otherwise, the message is sent
    through the other process. The peer's handlers run in the same way in both cases. You cannot read from a
    `ClusterPeer`, because a peer sends messages only to the server to which the peer is connected. Register handlers on
    that server.

    The methods raise the same exceptions as those of `Peer`, and also:

    - `PeerNotFound`: no process has a peer with this address. Nothing was sent.
    - `EngineLost`: the peer may be connected to another process, and the engine cannot be reached. Nothing was sent.
    - `ConnectionLost` with ``outcome="unknown"``: during the call, the peer's process ended or could not be reached for
      5 seconds.

    While the peer's connection is down and its session is kept, requests wait for it. With ``offline="fail"``, they
    raise `ConnectionLost` immediately. The outcome of a `RequestTimeout` is ``"not_sent"`` if the request was not sent
    to the peer. If the peer's process cannot say that within half a second, it is ``"unknown"``. `emit` and
    `emit_nowait` do not accept ``offline=``.

    `emit` returns when the event is accepted for sending to the other process. Events that one process sends to one
    peer arrive in order. An event is lost if the peer leaves before the event arrives. If a peer reads too slowly, its
    connection is closed with 4408 when `Limits.hard_cap_bytes` bytes are queued for the peer.
    """

    __slots__ = ("_channel_name", "_close", "_sender", "address")

    def __init__(self, address: str, joined: Callable[[], ClusterMembership]) -> None:
        self.address = address
        """The peer's address, which is its `Handshake.address`."""
        self._channel_name = None
        self._sender = ClusterSender(address, joined)
        self._close = self._sender.close

    def of(self, name: str) -> ClusterPeerChannel:
        """Return a named channel of the peer.

        Raises:
            TypeError, ValueError: ``name`` is not a valid channel name.
        """
        check_channel(name)
        return ClusterPeerChannel(name, self.address, self._sender)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection of the peer, whichever process has it, and return when the connection has ended.

        A detached peer is closed, too; see `Peer.close`. Cancelling is safe: the closing handshake continues.

        Args:
            code: the close code. With None, the Close frame has no code, and the peer sees 1005.
            reason: the close reason, at most 123 bytes in UTF-8.

        Raises:
            PeerNotFound: no process has a peer with this address.
            EngineLost: the peer may be connected to another process, and the engine cannot be reached.
            RequestTimeout: the other process has not answered within `Limits.request_timeout`.
            ValueError: ``code`` is not allowed in a Close frame, ``reason`` has more than 123 bytes, or ``reason`` is
                given without a code.
        """
        await self._close(code, reason)

    async def waiting(self, *, timeout: float | None = None) -> list[WaitingCall]:
        """Return the calls to this peer that have not ended, on all channels, the oldest first.

        These are the calls that any process has submitted, or made with ``deliver_within``. `withdraw` cancels one that
        waits. It reads the store once, and does not change the calls.

        Raises:
            ValueError: this `Server` or `ClusterClient` has no ``store``.
            Overloaded: the store has not answered within 10 seconds.
            RequestTimeout: it has not answered within ``timeout`` seconds.
            EngineLost: this process has not joined the cluster.
        """
        return await in_time("waiting", timeout, partial(self._sender.joined().away.lasting().waiting, self.address))

    def __repr__(self) -> str:
        return f"<ClusterPeer {self.address!r}>"


class ClusterPeerChannel(AwayCaller):
    """Named channel of a `ClusterPeer`. `ClusterPeer.of` returns it."""

    __slots__ = ("_channel_name", "_sender", "address")

    def __init__(self, name: str, address: str, sender: ClusterSender) -> None:
        self.address = address
        """The peer's address."""
        self._channel_name = name
        self._sender = sender

    @property
    def name(self) -> str:
        """The channel's name."""
        return str(self._channel_name)

    def __repr__(self) -> str:
        return f"<ClusterPeerChannel {self.name!r} of {self.address!r}>"
