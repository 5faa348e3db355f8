"""`Operations`: what operators can do with running servers, such as to list the peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

from msgspec import to_builtins
from msgspec.structs import asdict

from ..._base.logs import address_text, logger
from ..._core.api.caller import Caller
from ..._core.api.peer import Peer, core_of
from ..._core.sending.sender import Sender
from ..._core.wire.nodes import error_to_node
from ...errors import PeerNotFound, RpcError, WsrpcError, made_here
from ...stats import shown_principal
from ..peers import Peers
from .rebalancing import Rebalancing

NO_CLUSTER = "calls wait only for the peers of a cluster, and this server is in none"

Row = dict[str, Any]
"""What operators see of one peer, or of one server."""


class WaitingRequest(NamedTuple):
    """A call to a peer that an operator submits, with ``within`` as ``deliver_within``. Without ``args``: withdraws."""

    address: str
    channel: str | None
    event: str
    key: str
    args: list[Any] | None = None
    within: float = 0.0


class Operations(Protocol):
    """What an operator can do: see peers and statistics, close a peer, and call a peer.

    Operators name a peer by its `Peer.address` or its `Peer.id`. If both are possible, the address counts.
    """

    def rows(self, what: str, *asked: Any) -> AsyncGenerator[Row]:
        """Yield rows.

        Args:
            what, asked: ``"peers"`` for a row for each peer. ``"stats"`` for a row for each server with its statistics.
                ``"rebalance"`` with the numbers ``most`` and ``down_to``: each server begins to move at most ``most``
                idle peers, as long as it has more than ``down_to``, and its row has the numbers of its connected
                ``peers``, and of those that it has ``moved``. ``"waiting"`` for a row for each address to which calls
                wait, or with an address, for each of its calls.
        """
        ...

    async def away(self, call: WaitingRequest) -> Row:
        """Submit or withdraw a call to a peer. Return its state; see `SubmittedCall`."""
        ...

    async def kick(self, named: str, code: int, reason: str) -> int:
        """Close the named peers, and return their number; see `ClusterPeer.close`."""
        ...

    async def call(self, named: str, channel: str | None, event: str, args: list[Any], **options: Any) -> Any:
        """Send a request to the named peer, and return its response. ``options`` are `CallOptions`."""


class Target(Caller):
    """A peer that an operator has named."""

    __slots__ = ("_channel_name", "_sender", "close")

    def __init__(self, sender: Sender, channel: str | None, close: Callable[[int, str], Awaitable[None]]) -> None:
        self._sender = sender
        self._channel_name = channel
        self.close = close


class DirectOperations(Operations):
    """Operations in a process that can send to the peers."""

    async def find(self, named: str, channel: str | None = None) -> list[Target]:
        """Return the named peers, at least one, to call them on a channel. The latest one is the last.

        Raises:
            EngineLost, PeerNotFound: as for `ClusterPeer`.
        """
        raise NotImplementedError

    async def away(self, call: WaitingRequest) -> Row:
        raise made_here(RpcError(NO_CLUSTER))

    async def kick(self, named: str, code: int, reason: str) -> int:
        targets = await self.find(named)
        await asyncio.gather(*[target.close(code, reason) for target in targets])
        return len(targets)

    async def call(self, named: str, channel: str | None, event: str, args: list[Any], **options: Any) -> Any:
        return await (await self.find(named, channel))[-1].request(event, *args, **options)


class ServerOperations(DirectOperations):
    """The operations on the peers of one server."""

    def __init__(self, server: Any) -> None:
        self._server = server

    async def rows(self, what: str, *asked: Any) -> AsyncGenerator[Row]:
        server = self._server
        if what == "waiting":
            raise made_here(RpcError(NO_CLUSTER))
        if what == "rebalance":
            peers, moved = _rebalancing_of(server).move(*asked)
            if moved:
                logger.info("%d of %d peers move to other processes, as an operator has asked", moved, peers)
            yield {"peers": peers, "moved": moved}
            return
        if what == "stats":
            yield to_builtins(await asyncio.wrap_future(server.collect_stats()), str_keys=True)
            return
        for id in _peers_of(server).ids():  # not the peers: a slow reader would keep those that have ended
            if (peer := server.peer(id)) is not None:
                yield _row_of(peer)

    async def find(self, named: str, channel: str | None = None) -> list[Target]:
        found = [served.peer for served in _peers_of(self._server) if served.address == named]
        if not found and (peer := self._server.peer(named)) is not None:
            found.append(peer)
        if not found:
            raise PeerNotFound(named)
        return [Target(core_of(peer).requester, channel, peer.close) for peer in found]


async def answered(operation: Awaitable[Any]) -> Any:
    """Return the result of an operation. Its errors reach the operator as a node of a cluster would send them."""
    try:
        return await operation
    except WsrpcError as exc:
        raise error_to_node(exc) from None
    except (TypeError, ValueError) as exc:
        raise made_here(RpcError(str(exc))) from exc


operations_of: Callable[[Any], Operations] = attrgetter("_operations")
"""The operations of a `Cluster` or `ClusterClient` that was joined."""

_peers_of: Callable[[Any], Peers] = attrgetter("_core.peers")
"""The peers of a `Server`."""

_rebalancing_of: Callable[[Any], Rebalancing] = attrgetter("_core.rebalancing")


def _row_of(peer: Peer) -> Row:
    core = core_of(peer)
    row = {"id": peer.id, "address": peer.address, "remote": address_text(core.log.remote)}
    if peer.principal is not None:
        row["principal"] = shown_principal(peer.principal)
    return {**row, "state": core.current.writer.state, "rooms": len(peer.rooms), **asdict(peer.stats())}
