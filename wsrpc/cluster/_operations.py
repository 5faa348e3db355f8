"""`ClusterOperations`: what operators can do with the servers of a cluster, from any of its processes."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from msgspec.structs import asdict

from .._base.names import check_address
from .._core.wire.nodes import ID, as_raised
from .._server.operating.operations import DirectOperations, Row, Rows, ServerOperations, StoredCall, Target, answered
from ..errors import EngineLost, KeyReused, Overloaded, PeerNotFound, RemoteError, RpcError, WsrpcError, made_here
from ._addresses import HAS_ID
from ._cluster_peer import ClusterPeer
from ._cluster_sender import ClusterSender
from ._membership import ClusterMembership

ROWS = "rows"
"""Request for the rows of a node, with the name and the arguments of a method of `Operations`."""
CHANGE_CALL = "away"
"""Request to a node to submit a call, or without ``args`` to withdraw it. None if the node has no server."""


class ClusterOperations(DirectOperations):
    """The operations on the peers of all nodes.

    Args:
        server: the server of this node. None for a program without a server.
    """

    def __init__(self, membership: ClusterMembership, server: object = None) -> None:
        self._membership = membership
        self._server = None if server is None else ServerOperations(server, self._stored)
        membership.links.on(ROWS, self._own_rows)
        membership.links.on(CHANGE_CALL, self._own_away)

    # ------------------------------------------------------------ this node

    async def _own_rows(self, what: str, *asked: Any) -> Rows:
        if self._server is None:
            return
        async with aclosing(self._server.readers[what](*asked)) as rows:
            async for row in rows:
                yield row

    async def _stored(self, address: str) -> Rows:
        try:
            away = self._membership.away.lasting()
        except ValueError as exc:
            raise made_here(RpcError(str(exc))) from None
        if address:
            for call in await away.waiting(address):
                yield asdict(call)
        else:
            async for each in away.addresses():
                yield asdict(each)

    async def _own_away(self, *asked: Any) -> Row | None:
        return None if self._server is None else await answered(self._change(*asked))

    async def _change(
        self, address: str, channel: str | None, event: str, key: str, args: list[Any] | None, within: float
    ) -> Row:
        check_address("an address", address)
        peer = ClusterPeer(address, lambda: self._membership)
        caller = peer if channel is None else peer.of(channel)
        if args is None:
            found = await caller.withdraw(event, key=key)
        else:
            try:
                await caller.submit(event, *args, key=key, deliver_within=within)
            except (EngineLost, KeyReused, Overloaded):
                raise
            except WsrpcError:  # the call with the key has failed, which its state says
                pass
            found = await caller.submitted(event, key=key)
        return {"state": found.state, "value": found.value, "error": found.error and str(found.error)}

    # ------------------------------------------------------------ all nodes

    async def _rows(self, what: str, *asked: Any) -> Rows:
        """Yield the rows of all nodes. A node that does not answer has a row with only its names and an ``error``.

        All nodes have the same store, so the first one with rows of what waits has all of them.
        """
        membership, of_store = self._membership, what == "waiting"
        for node in membership.directory.nodes:
            done, names = False, {"node": node, "process": membership.directory.processes.get(node)}
            rows = self._own_rows(what, *asked) if node == membership.node.id else self._rows_of(node, what, *asked)
            try:
                async with aclosing(rows):
                    async for row in rows:
                        yield row if of_store else {**names, **row}
                        done = of_store
            except WsrpcError as exc:
                yield {**names, "error": str(exc)}
            if done:
                return

    async def _rows_of(self, node: str, *asked: Any) -> Rows:
        membership = self._membership
        if not membership.connected:
            raise EngineLost("not connected")
        peer = await membership.links.reach(node)
        async with peer.stream(ROWS, *asked, timeout=membership.timeout) as rows:
            async for row in rows:
                yield row

    async def submit(self, call: StoredCall, args: list[Any], within: float) -> Row:
        return await self._change_at_a_server(call, args, within)

    async def withdraw(self, call: StoredCall) -> Row:
        return await self._change_at_a_server(call, None, 0.0)

    async def _change_at_a_server(self, call: StoredCall, args: list[Any] | None, within: float) -> Row:
        if (row := await self._own_away(*call, args, within)) is not None:
            return row
        for node in self._membership.directory.nodes[1:]:
            try:
                other = await self._membership.links.reach(node)
                row = await other.request(CHANGE_CALL, *call, args, within)
            except RemoteError as exc:
                raise as_raised(exc) from exc
            if row is not None:
                found: Row = row
                return found
        raise PeerNotFound(call.address)

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
