"""Peers that read slowly, for the tests of emitting to many."""

from __future__ import annotations

import asyncio

from leftovers import turns_until
from peers_inside import out_of
from raw_websocket import RawPeer

from wsrpc import Limits, Peer, Server

ENTRY = 256
"""What a waiting message counts besides its bytes."""
LIMITS = Limits(high_water=1024, hard_cap=100_000, behind=10 * (ENTRY + 100), close_timeout=0.2, ping_interval=None)


async def filled(server: Server, deaf: RawPeer) -> Peer:
    """The peer of a raw client that reads nothing, when its line is full and all buffers on the way are."""
    await turns_until(lambda: server.peers)
    peer = next(peer for peer in server.peers if peer.info.remote == deaf.sock.getsockname())
    while not out_of(peer).session.full:
        peer.emit_nowait("say", "x" * 10_000)
        await asyncio.sleep(0)
    return peer
