"""`Operations`: what operators can do with running servers, such as to list the peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from operator import attrgetter
from typing import Any, NamedTuple

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
"""What operators see of one peer, of one server, or of what waits."""
Rows = AsyncGenerator[Row]


class StoredCall(NamedTuple):
    """What names a call that waits in the store for a peer."""

    address: str
    channel: str | None
    event: str
    key: str


class Operations:
    """What an operator can do: see peers and statistics, close a peer, and call a peer, now or when it connects.

    Operators name a peer by its `Peer.address` or its `Peer.id`. If both are possible, the address counts.
    """

    def peers(self) -> Rows:
        """Yield a row for each peer."""
        return self._rows("peers")

    def stats(self) -> Rows:
        """Yield a row for each server, with its statistics."""
        return self._rows("stats")

    def rebalance(self, most: int, down_to: int) -> Rows:
        """Let each server begin to move at most ``most`` idle peers, as long as it has more than ``down_to``.

        Yield a row for each server, with the numbers of its connected ``peers``, and of those that it has ``moved``.
        """
        return self._rows("rebalance", most, down_to)

    def waiting(self, address: str) -> Rows:
        """Yield a row for each call that waits for an address; or if it is empty, for each address with such calls."""
        return self._rows("waiting", address)

    def _rows(self, what: str, *asked: Any) -> Rows:
        """Yield the rows that one of the methods above asks for."""
        raise NotImplementedError

    async def submit(self, call: StoredCall, args: list[Any], within: float) -> Row:
        """Submit a call to a peer, with ``within`` as ``deliver_within``. Return its state; see `SubmittedCall`."""
        raise made_here(RpcError(NO_CLUSTER))

    async def withdraw(self, call: StoredCall) -> Row:
        """Withdraw a call to a peer, unless it was handed over. Return its state; see `SubmittedCall`."""
        raise made_here(RpcError(NO_CLUSTER))

    async def kick(self, named: str, code: int, reason: str) -> int:
        """Close the named peers, and return their number; see `ClusterPeer.close`."""
        raise NotImplementedError

    async def call(self, named: str, channel: str | None, event: str, args: list[Any], **options: Any) -> Any:
        """Send a request to the named peer, and return its response. ``options`` are `CallOptions`."""
        raise NotImplementedError


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

    async def kick(self, named: str, code: int, reason: str) -> int:
        targets = await self.find(named)
        await asyncio.gather(*[target.close(code, reason) for target in targets])
        return len(targets)

    async def call(self, named: str, channel: str | None, event: str, args: list[Any], **options: Any) -> Any:
        return await (await self.find(named, channel))[-1].request(event, *args, **options)


def no_calls_wait(address: str) -> Rows:
    """Yield what waits at a server without a cluster."""
    raise made_here(RpcError(NO_CLUSTER))


class ServerOperations(DirectOperations):
    """The operations on the peers of one server.

    Args:
        waiting: see `Operations.waiting`.
    """

    def __init__(self, server: Any, waiting: Callable[[str], Rows] = no_calls_wait) -> None:
        self._server = server
        self.readers: dict[str, Callable[..., Rows]] = {
            "peers": self._peers,
            "stats": self._stats,
            "rebalance": self._rebalance,
            "waiting": waiting,
        }
        """What yields the rows of each method of `Operations`, by its name."""

    def _rows(self, what: str, *asked: Any) -> Rows:
        return self.readers[what](*asked)

    async def _peers(self) -> Rows:
        for id in _peers_of(self._server).ids():  # not the peers: a slow reader would keep those that have ended
            if (peer := self._server.peer(id)) is not None:
                yield _row_of(peer)

    async def _stats(self) -> Rows:
        yield to_builtins(await asyncio.wrap_future(self._server.collect_stats()), str_keys=True)

    async def _rebalance(self, most: int, down_to: int) -> Rows:
        peers, moved = rebalancing_of(self._server).move(most, down_to)
        if moved:
            logger.info("%d of %d peers move to other processes, as an operator has asked", moved, peers)
        yield {"peers": peers, "moved": moved}

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

rebalancing_of: Callable[[Any], Rebalancing] = attrgetter("_core.rebalancing")


def _row_of(peer: Peer) -> Row:
    core = core_of(peer)
    row = {"id": peer.id, "address": peer.address, "remote": address_text(core.log.remote)}
    if peer.principal is not None:
        row["principal"] = shown_principal(peer.principal)
    return {**row, "state": core.current.writer.state, "rooms": len(peer.rooms), **asdict(peer.stats())}
