"""Processes of a cluster, in one process: each has a node, sessions with the others, and what these may call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial

from leftovers import turns_until

from wsrpc import Limits, Peer
from wsrpc._api.peer import core_of
from wsrpc._api.registration import Registrar
from wsrpc._cluster.links import NodeLinks
from wsrpc._cluster.node import Node
from wsrpc._cluster.transport import EngineTransport
from wsrpc.engine import Engine

__all__ = ["Process", "is_there", "processes"]


class Process:
    """A process with a node, and what others may call there."""

    def __init__(self, engine: Engine) -> None:
        self.parked = asyncio.Event()
        self.cancelled = 0
        self.lost: list[str] = []
        """Nodes with which a session was lost."""
        self.node = Node(engine, "shop", self)
        self.links = NodeLinks(self.node, Limits(), {}, serve=self.serve, lost=self.lost.append)

    def serve(self, side: Registrar) -> None:
        side.on("park", self.park)
        side.on("negate", lambda number: -number)

    async def park(self) -> None:
        self.parked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1

    def peer(self, other: Process) -> Peer:
        peer = self.links.peer(other.node.id)
        assert peer is not None
        return peer

    def node_came(self, node: str, /) -> None:
        self.links.node_came(node)

    def node_left(self, node: str, silent: bool, /) -> None:
        self.links.node_left(node, silent)

    def rooms_missed(self, node: str, rooms: list[str], /) -> None: ...

    def claim_contested(self, address: str, /) -> None: ...

    def accepted(self, transport: EngineTransport, headers: Mapping[str, str], /) -> None:
        self.links.accepted(transport, headers)

    def engine_lost(self, reason: str, /) -> None: ...

    async def close(self) -> None:
        await self.links.close()
        await self.node.close()


@asynccontextmanager
async def processes(engine: Engine, count: int = 2) -> AsyncGenerator[list[Process]]:
    async with asyncio.timeout(30):
        made = [Process(engine) for _ in range(count)]
        for one in made:
            for other in made:
                if one is not other:
                    await turns_until(partial(is_there, one, other))
        try:
            yield made
        finally:
            for each in made:
                await each.close()


def is_there(one: Process, other: Process) -> bool:
    """Return whether there is a session that survives a drop."""
    peer = one.links.peer(other.node.id)
    return peer is not None and peer.connected and core_of(peer).session.resumable
