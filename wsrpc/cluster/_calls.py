"""`ClusterPeer`: calls a peer that may be connected to any node. `ClusterSender`: the inside of a `ClusterPeer`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Unpack, overload

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from .._base.closing import check_close
from .._base.misuse import check_number, refused, shown_as
from .._base.names import ChannelRef, Offline, check_channel, check_timeout
from .._base.retry import ask_again
from .._core.api import calls
from .._core.api.caller import Caller
from .._core.api.options import AwayOptions, SubmitOptions, changed, check_key
from .._core.api.peer import core_of, current_of
from .._core.channels.channel_core import ChannelCore
from .._core.inboxes.inbox import Inbox
from .._core.peer.requester import Requester, convert_answer
from .._core.sending.checks import check_sending
from .._core.sending.sender import Sender
from .._core.wire.messages import EVENT_OPTIONS, NO_OPTIONS, RequestOptions
from .._core.wire.nodes import place
from .._server.joined_cluster import HasAddress
from ..errors import EngineLost, PeerNotFound, RequestTimeout
from ._addresses import CLOSE_PEER, MAKE
from ._deliverer import Ask, AwayCall
from ._membership import ClusterMembership
from ._submitted_call import SubmittedCall, WaitingCall
from .engine import RESPONSE_TIMEOUT

if TYPE_CHECKING:
    from typing_extensions import TypeForm, TypeVar

    T = TypeVar("T", default=Any)


class ClusterSender:
    """Sends to the peer with an address: directly if the peer is connected to this node, otherwise through its node.

    Args:
        address: the address; or `ID` and the id of a peer that is connected to ``node``.
        joined: a function that returns the membership of this process in the cluster.
        node: the node to send through. None to look up the node that has the address.
    """

    def __init__(self, address: str, joined: Callable[[], ClusterMembership], node: str | None = None) -> None:
        self._address = address
        self._joined = joined
        self._fixed_node = node

    # ------------------------------------------------------------ where the peer is

    def _locate(self) -> str | None:
        return self._joined().directory.claims.locate(self._address)

    def _node(self, membership: ClusterMembership) -> str:
        """Return the node of a peer that is not connected to this node.

        Raises:
            EngineLost: no node can be reached, and the peer may have moved to another node.
            PeerNotFound: no node has the peer.
        """
        if not membership.connected:
            raise EngineLost("not connected")
        node = self._fixed_node or self._locate()
        if node is None:
            raise PeerNotFound(self._address)
        return node

    async def _find(
        self, channel: ChannelRef, event: str, options: RequestOptions
    ) -> tuple[Requester, ChannelRef, RequestOptions]:
        """Return the sender for the peer, the channel to send on, and the options with the remaining time.

        Raises:
            RequestTimeout: the peer's node has not connected in time.
        """
        membership = self._joined()
        if (here := membership.addresses.find(self._address)) is not None:
            return core_of(here).requester, channel, options
        assert not isinstance(channel, int)
        node = self._node(membership)
        peer = membership.links.peer(node)
        if peer is None:
            began = membership.scheduler.time()
            timeout = None if options.timeout is UNSET else options.timeout
            try:
                async with asyncio.timeout(timeout):
                    peer = await membership.links.reach(node)
            except TimeoutError:
                assert timeout is not None
                raise RequestTimeout(event, timeout, "not_sent") from None
            options = _shortened(options, membership.scheduler.time() - began)
        return core_of(peer).requester, place(self._address, channel, wants_channel=options.wants_channel), options

    async def _ask(
        self,
        method: Callable[[Sender], Ask],
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        options: RequestOptions,
    ) -> Any:
        """Make a request by a method of `Sender`, and once more if the peer has moved before the request came."""
        check_sending(channel, event, None)
        membership = self._joined()
        if options.timeout is UNSET:
            options = replace(options, timeout=membership.timeout)
        check_timeout(options.timeout)
        began, where = membership.scheduler.time(), self._locate()
        moved = False
        while True:
            try:
                sender, on, left = await self._find(channel, event, options)
                answer = await method(sender)(on, event, args, left)
                if isinstance(answer, ChannelCore) and sender.outgoing is not self.outgoing:
                    answer.sender = sender.for_cluster(self)
                return answer
            except PeerNotFound:
                if moved or options.send is not None or self._locate() in (None, where):
                    raise  # the source of items is closed by now
            moved = True
            options = _shortened(options, membership.scheduler.time() - began)

    # ------------------------------------------------------------ the methods of `Sender`

    @property
    def request_timeout(self) -> float | None:
        return self._joined().timeout

    @property
    def outgoing(self) -> Sequence[Any]:
        try:
            return self._joined().registry.outgoing
        except EngineLost:  # nothing leaves, and the call raises this error where it is awaited
            return ()

    def target(self) -> tuple[None, str]:
        return None, self._address

    async def send_event(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions = EVENT_OPTIONS, /
    ) -> None:
        _refuse_offline(options.offline)
        check_sending(channel, event, None)
        sender, on, _ = await self._find(channel, event, NO_OPTIONS)
        await sender.send_event(on, event, args, options)

    def send_event_nowait(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions = EVENT_OPTIONS, /
    ) -> None:
        _refuse_offline(options.offline)
        check_sending(channel, event, None)
        membership = self._joined()
        if (here := membership.addresses.find(self._address)) is not None:
            core_of(here).requester.send_event_nowait(channel, event, args, options)
            return
        assert not isinstance(channel, int)
        node = membership.links.at_once(self._node(membership))
        core_of(node).requester.send_event_nowait(place(self._address, channel), event, args, options)

    def send_request(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Any]:
        return self._ask(lambda to: to.send_request, channel, event, args, options)

    @shown_as("request")
    async def request_again(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Any:
        assert options.retry is not None
        membership = self._joined()
        return await ask_again(
            lambda left: self.send_request(channel, event, args, replace(options, timeout=left)),
            options.retry,
            idempotent=options.idempotent,
            event=event,
            timeout=membership.timeout if options.timeout is UNSET else options.timeout,
            loop=membership.scheduler,
            expects_connection=lambda: True,
        )

    def upload(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Any]:
        return self._ask(lambda to: to.upload, channel, event, args, replace(options, wants_channel=True))

    def open_stream(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Inbox]:
        return self._ask(lambda to: to.open_stream, channel, event, args, replace(options, wants_channel=True))

    async def close(self, code: int | None, reason: str) -> None:
        """Close the peer; see `ClusterPeer.close`."""
        check_close(code, reason)
        membership = self._joined()
        if (here := membership.addresses.find(self._address)) is not None:
            await here.close(code, reason)
        else:
            node = await membership.links.reach(self._node(membership))
            await node.request(CLOSE_PEER, self._address, code, reason, timeout=membership.timeout)

    @property
    def is_here(self) -> bool:
        return self._joined().addresses.find(self._address) is not None

    @property
    def elsewhere(self) -> str | None:
        membership = self._joined()
        node = self._locate()
        return node if membership.connected and node != membership.node.id else None

    def connection(self) -> object:
        here = self._joined().addresses.find(self._address)
        if here is None:
            return self.elsewhere
        return here if current_of(here).writer.terms.known and not here.detached else None

    def deliver(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Any]:
        return calls.pass_on(self._joined().registry.passing_on, self, (channel, event, args), options)

    async def make_at(self, node: str, id: str, payload: bytes, *, waits: bool) -> Any:
        other = await self._joined().links.reach(node)
        timeout = None if waits else RESPONSE_TIMEOUT
        returns: Any = tuple[bool, bytes] if waits else bytes
        return await other.request(MAKE, self._address, id, payload, waits, timeout=timeout, returns=returns)

    async def submitted(self, channel: ChannelRef, event: str, key: str) -> SubmittedCall:
        """Return the state of a submitted call; see `ClusterPeer.submitted`."""
        check_sending(channel, event, None)
        return await self._joined().away.lasting().find(self._address, channel, event, check_key(key))

    async def withdraw(self, channel: ChannelRef, event: str, key: str) -> SubmittedCall:
        """Withdraw a call unless it was handed over; see `ClusterPeer.withdraw`."""
        check_sending(channel, event, None)
        return await self._joined().away.lasting().withdraw(self._address, channel, event, check_key(key))

    async def waiting(self) -> list[WaitingCall]:
        """Return the calls that have not ended; see `ClusterPeer.waiting`."""
        return await self._joined().away.lasting().waiting(self._address)

    def converter(self, returns: Any, /) -> Callable[[Any], Any]:
        return self._joined().registry.converter(returns)


def _shortened(options: RequestOptions, seconds: float) -> RequestOptions:
    """Return the options of a request for which its caller has waited already."""
    if options.timeout is None or options.timeout is UNSET:
        return options
    return replace(options, timeout=max(0.0, options.timeout - seconds))


def _refuse_offline(offline: Offline | None) -> None:
    if offline is not None:
        raise ValueError(
            "offline= is for requests: an event for a peer of the cluster is sent without learning whether the peer is "
            "connected; make a request if you must know"
        )


class AwaySender(ClusterSender):
    """Sends requests to a peer that may be away. Each request waits in the store until the peer is connected.

    Args:
        sender: the sender for the peer.
        within: the maximum seconds until a request is handed over to the peer.
    """

    def __init__(self, sender: ClusterSender, within: float) -> None:
        super().__init__(sender._address, sender._joined)
        self._within = within

    @shown_as("request")
    async def send_request(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Any:
        call = self._call(channel, event, args, options)
        convert = None if options.returns is UNSET else self.converter(options.returns)
        answer = await self._joined().away.request(self._address, call)
        return answer if convert is None else convert_answer(convert, answer, event, None)

    def _call(self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions) -> AwayCall:
        """Return a request as it waits in the store."""
        check_number("deliver_within= is a number of seconds, more than 0", self._within, 0.001)
        if not options.has_key:
            raise ValueError("deliver_within= needs key=: the peer knows by it that it gets a call again")
        assert options.context is not None and not isinstance(channel, int)
        check_sending(channel, event, None)
        timeout = self._joined().timeout if options.timeout is UNSET else options.timeout
        within = min(self._within, 1e11)  # JSON has no infinity
        return AwayCall(channel, event, [*args], options.context, within, timeout)


class SubmitSender(AwaySender):
    """Lets requests wait in the store, and does not wait for their responses.

    Args:
        timeout: seconds for which the response to a request is awaited. That which the options have is for the store.
    """

    def __init__(self, sender: ClusterSender, within: float, timeout: float | UnsetType | None) -> None:
        super().__init__(sender, within)
        self._timeout = timeout

    @shown_as("submit")
    async def send_request(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> None:
        call = self._call(channel, event, args, replace(options, timeout=self._timeout))
        call.submitted = True
        membership = self._joined()
        away = membership.away.lasting()
        payload = away.encode(call)
        await membership.store_check.check()
        await away.submit(self._address, payload)


class AwayCaller(Caller):
    """The methods of `Caller`, with ``deliver_within`` for requests."""

    __slots__ = ()

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

        The first `submit` of a `ClusterClient` asks the servers whether they have its ``store``. If no server is known,
        the request waits, since one may be about to start, and a warning is logged, once.

        Raises:
            ValueError: there is no ``key``; this `Server` or `ClusterClient` has no ``store``; or the servers have
                another one, or none.
            KeyReused: the request with this key has other arguments.
            Overloaded: the store has no room, or does not answer. If the ``outcome`` is ``"unknown"``, it may have the
                request, and another process may have made it.
            EngineLost: this process has not joined the cluster.
            WsrpcError: the request with this key has failed.
            TypeError: an option is not valid, or an argument cannot be encoded.
        """
        caller: Any = self
        chosen = changed(NO_OPTIONS, options, SubmitOptions, self.submit, event)
        sender = SubmitSender(caller._sender, deliver_within, chosen.timeout)
        # A handler's deadline does not limit what others do later.
        await calls.request(sender, (self._channel_name, event, args), replace(chosen, timeout=None))

    @shown_as("submitted")
    async def submitted(self, event: str, /, *, key: str) -> SubmittedCall:
        """Return the state of the call with a key that any process has submitted, or made with ``deliver_within``.

        It reads the store once, waits for no peer, and does not change the call.

        Raises:
            TypeError, ValueError: ``key`` is not valid; or this `Server` or `ClusterClient` has no ``store``.
            Overloaded: the store has not answered within 10 seconds.
            EngineLost: this process has not joined the cluster.
        """
        caller: Any = self
        sender: ClusterSender = caller._sender
        return await sender.submitted(self._channel_name, event, key)

    @shown_as("withdraw")
    async def withdraw(self, event: str, /, *, key: str) -> SubmittedCall:
        """Withdraw the call with a key, unless it was handed over, and return its state.

        If the state is ``"withdrawn"``, the call was not handed over, and never is: who waits for its response gets a
        `WsrpcError` whose ``outcome`` is ``"not_sent"``, and so do later calls with the key, as long as it is kept.
        With any other state, nothing has changed. The store decides, so this holds also if a process is about to hand
        the call over, unless the store loses data. After an error, or if this is cancelled, the call may be withdrawn
        or not: call it again.

        Raises:
            TypeError, ValueError, Overloaded, EngineLost: as for `submitted`.
        """
        caller: Any = self
        sender: ClusterSender = caller._sender
        return await sender.withdraw(self._channel_name, event, key)


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

    async def waiting(self) -> list[WaitingCall]:
        """Return the calls to this peer that have not ended, on all channels, the oldest first.

        These are the calls that any process has submitted, or made with ``deliver_within``. `withdraw` cancels one that
        waits. It reads the store once, and does not change the calls.

        Raises:
            ValueError: this `Server` or `ClusterClient` has no ``store``.
            Overloaded: the store has not answered within 10 seconds.
            EngineLost: this process has not joined the cluster.
        """
        caller: Any = self
        sender: ClusterSender = caller._sender
        return await sender.waiting()

    def __repr__(self) -> str:
        return f"<ClusterPeer {self.address!r}>"


class ClusterPeerChannel(AwayCaller):
    """Named channel of a `ClusterPeer`. `ClusterPeer.of` returns it."""

    __slots__ = ("_channel_name", "_sender", "address")

    def __init__(self, name: str, address: str, sender: Sender) -> None:
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
