"""`ClusterSender`: sends to a peer that may be connected to any node. The inside of a `ClusterPeer`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from .._base.closing import check_close
from .._base.misuse import check_number, shown_as
from .._base.names import ChannelRef, Offline, check_timeout
from .._base.retry import ask_again
from .._core.api.peer import core_of
from .._core.channels.channel_core import ChannelCore
from .._core.inboxes.inbox import Inbox
from .._core.peer.requester import Requester, convert_answer
from .._core.sending.checks import check_sending
from .._core.sending.sender import Sender
from .._core.wire.messages import EVENT_OPTIONS, NO_OPTIONS, RequestOptions
from .._core.wire.nodes import place
from ..errors import EngineLost, PeerNotFound, RequestTimeout
from ._addresses import CLOSE_PEER
from ._away.deliverer import AwayCall
from ._membership import ClusterMembership

T = TypeVar("T")

SendMethod = Callable[[ChannelRef, str, tuple[Any, ...], RequestOptions], Coroutine[Any, Any, Any]]
"""A method of `Sender` that makes a request."""


class ClusterSender:
    """Sends to the peer with an address: directly if the peer is connected to this node, otherwise through its node.

    Args:
        address: the address; or `ID` and the id of a peer that is connected to ``node``.
        joined: a function that returns the membership of this process in the cluster.
        node: the node to send through. None to look up the node that has the address.
    """

    def __init__(self, address: str, joined: Callable[[], ClusterMembership], node: str | None = None) -> None:
        self._address = address
        self.joined = joined
        self._fixed_node = node

    # ------------------------------------------------------------ where the peer is

    def _locate(self) -> str | None:
        return self.joined().directory.claims.locate(self._address)

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
        membership = self.joined()
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
        method: Callable[[Sender], SendMethod],
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        options: RequestOptions,
    ) -> Any:
        """Make a request by a method of `Sender`, and once more if the peer has moved before the request came."""
        check_sending(channel, event, None)
        membership = self.joined()
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
        return self.joined().timeout

    @property
    def outgoing(self) -> Sequence[Any]:
        try:
            return self.joined().registry.outgoing
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
        membership = self.joined()
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
        membership = self.joined()
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
        membership = self.joined()
        if (here := membership.addresses.find(self._address)) is not None:
            await here.close(code, reason)
        else:
            node = await membership.links.reach(self._node(membership))
            await node.request(CLOSE_PEER, self._address, code, reason, timeout=membership.timeout)

    def converter(self, returns: Any, /) -> Callable[[Any], Any]:
        return self.joined().registry.converter(returns)


async def in_time(event: str, timeout: float | UnsetType | None, call: Callable[[], Awaitable[T]]) -> T:
    """Await a call that may wait for the store or the engine, for at most ``timeout`` seconds, if that is a number.

    Raises:
        RequestTimeout: the time is over. What was asked for may be done, now or later.
    """
    check_timeout(timeout)
    limit = asyncio.timeout(None if timeout is UNSET else timeout)
    try:
        async with limit:
            return await call()
    except TimeoutError:
        if timeout is None or timeout is UNSET or not limit.expired():
            raise
        error = RequestTimeout(event, timeout)
        error.add_note("the store, or the engine of the cluster, has not answered")
        raise error from None


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
        super().__init__(sender._address, sender.joined)
        self._within = within

    @shown_as("request")
    async def send_request(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Any:
        call = self._call(channel, event, args, options)
        convert = None if options.returns is UNSET else self.converter(options.returns)
        answer = await self.joined().away.request(self._address, call)
        return answer if convert is None else convert_answer(convert, answer, event, None)

    def _call(self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions) -> AwayCall:
        """Return a request as it waits in the store."""
        check_number("deliver_within= is a number of seconds, more than 0", self._within, 0.001)
        if not options.has_key:
            raise ValueError("deliver_within= needs key=: the peer knows by it that it gets a call again")
        assert options.context is not None and not isinstance(channel, int)
        check_sending(channel, event, None)
        timeout = self.joined().timeout if options.timeout is UNSET else options.timeout
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
        membership = self.joined()
        away = membership.away.lasting()
        payload = away.encode(call)
        await membership.store_check.check()
        await away.submit(self._address, payload)
