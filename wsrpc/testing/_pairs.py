"""Clients, servers and peers that are connected in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from .._codec import Codec
from .._lifecycle import Closers
from .._scheduler import LoopScheduler, Scheduler
from .._settings import make_settings
from ..client import Client
from ..handshake import Handshake
from ..limits import Limits
from ..peer import Peer
from ..server import Server
from ._clock import Clock
from ._memory import memory_transports

__all__ = ["connect", "pair"]


@asynccontextmanager
async def pair(
    *,
    codec: Codec | None = None,
    limits: Limits | None = None,
    clock: Clock | None = None,
    extensions: bool = True,
) -> AsyncGenerator[tuple[Peer, Peer]]:
    """Two peers that are connected in memory, the dialing one first; leaving the block closes them.

    Register handlers inside the block, before anything is sent. ``extensions=False`` makes plain ws-wrapper peers
    of them.
    """
    settings = make_settings(limits, codec, None, extensions=extensions)
    scheduler: Scheduler = clock or LoopScheduler()
    left = Peer(settings, dialer=True, loop=scheduler)
    right = Peer(settings, dialer=False, loop=scheduler)
    ends = memory_transports(limits=settings.limits)
    left.bind(ends[0])
    right.bind(ends[1])
    try:
        yield left, right
    finally:
        await left.close()
        for peer in (left, right):
            await peer._join(settings.limits.close_timeout, Closers())


@asynccontextmanager
async def connect(
    server: Server, *, path: str = "/", headers: Mapping[str, str] | None = None, client: Client | None = None
) -> AsyncGenerator[Client]:
    """A client that is connected to ``server`` in memory; leaving the block closes it.

    Pass a ``client`` that has handlers already, or register them on what you get. One with a URL would dial that
    after a drop, so pass one without.

    Raises:
        HandshakeRejected: the server's `on_handshake`, or its check of the origin, has it so.
    """
    if client is None:
        client = Client(codec=server._settings.codec)
    asked = Handshake(path, headers or {}, limits=server._limits)
    await server.handshake(asked)
    ours, theirs = memory_transports(path=path, headers=headers, limits=client._limits, other=asked.limits)
    ours.info = theirs.info = asked.connection_info()
    accepting = asyncio.get_running_loop().create_task(server.accept(theirs, asked))
    try:
        await client.bind(ours)
        peer = await accepting
        try:
            yield client
        finally:
            await client.close()
            if isinstance(peer, Peer):
                await peer._join(server._limits.close_timeout, Closers())
    finally:
        if not accepting.done():
            accepting.cancel()
