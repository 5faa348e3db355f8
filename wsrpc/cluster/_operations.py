"""`ClusterOperations`: what operators can do with the servers of a cluster, from any of its processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from .._core.wire.nodes import ID
from .._server.operations import DirectOperations, Row, Target
from ..errors import EngineLost, PeerNotFound, WsrpcError
from ._addresses import HAS_ID
from ._calls import ClusterSender
from ._membership import ROWS, ClusterMembership


class ClusterOperations(DirectOperations):
    """The operations on the peers of all nodes."""

    def __init__(self, membership: ClusterMembership) -> None:
        self._membership = membership

    async def rows(self, what: str, most: int = 0, down_to: int = 0) -> AsyncGenerator[Row]:
        """Yield the rows of all nodes. A node that does not answer has a row with only its names and an ``error``."""
        membership = self._membership
        for node in membership.directory.nodes:
            names = {"node": node, "process": membership.directory.processes.get(node)}
            if node == membership.node.id:
                rows = membership.own_rows(what, most, down_to)
            else:
                rows = self._rows_of(node, what, most, down_to)
            try:
                async with aclosing(rows):
                    async for row in rows:
                        yield {**names, **row}
            except WsrpcError as exc:
                yield {**names, "error": str(exc)}

    async def _rows_of(self, node: str, *asked: object) -> AsyncGenerator[Row]:
        membership = self._membership
        if not membership.connected:
            raise EngineLost("not connected")
        peer = await membership.links.reach(node)
        async with peer.stream(ROWS, *asked, timeout=membership.timeout) as rows:
            async for row in rows:
                yield row

    async def find(self, named: str, channel: str | None = None) -> list[Target]:
        membership = self._membership
        if membership.directory.claims.locate(named) is not None:
            sender = ClusterSender(named, lambda: membership)
        else:
            node = membership.node.id if membership.addresses.has_id(named) else await self._node_of(named)
            sender = ClusterSender(f"{ID}{named}", lambda: membership, node)
        return [Target(sender, channel, sender.close)]

    async def _node_of(self, id: str) -> str:
        """Return the other node to which the peer with this id is connected."""
        if not self._membership.connected:
            raise EngineLost("not connected")
        nodes = self._membership.directory.nodes[1:]
        answers = await self._membership.links.ask_all(nodes, HAS_ID, id, bool)
        for node, has in zip(nodes, answers, strict=True):
            if has:
                return node
        raise PeerNotFound(id)
