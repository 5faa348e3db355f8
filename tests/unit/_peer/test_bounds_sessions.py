"""Bounds of sessions that may go on over another connection, played by a peer that does not keep to what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from beside import AMPLE, beside
from core_driver import start
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import RawPeer, raw_client

from wsrpc import Peer, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

SMALLEST = 128 * 1024
PIECE = "x" * 10_000


def control(**fields: Any) -> str:
    return json.dumps({"ws-wrapper": False, "wsrpc": fields})


async def say(raw: RawPeer, **fields: Any) -> None:
    await raw.send(raw.frame(0x1, control(**fields)))


async def hear(raw: RawPeer, kind: str) -> Any:
    """Return the next control message of that kind."""
    while True:
        said = json.loads((await raw.next_of(0x1)).payload)
        if "wsrpc" in said and said["wsrpc"]["t"] == kind:
            return said["wsrpc"]


async def begin(raw: RawPeer) -> Any:
    """Begin a session that may go on over another connection; returns the welcome."""
    await say(raw, t="hello", v=1, features=["resume", "credit"], limits={})
    welcome = await hear(raw, "welcome")
    await say(raw, t="ack", n=0, bytes=0)
    return welcome


@pytest.mark.parametrize(
    ("piece", "most"), [(PIECE, SMALLEST // len(PIECE) + 1), ("", 512)], ids=["replay", "replay_messages"]
)
async def test_what_is_not_acknowledged_is_bounded_and_acknowledging_nothing_is_stalling(piece: str, most: int) -> None:
    limits = AMPLE.replace(replay=SMALLEST, stall=0.5, close_timeout=0.1)
    async with beside(limits) as world, raw_client(world.port) as raw:
        peer = await world.newest()
        await begin(raw)
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(3 * most):
                await peer.emit("n", piece)
                sent += 1

        sending = start(send())
        seen = 0
        while seen < most:  # all of it is read, and so it arrives
            seen += b'"n"' in (await raw.next_of(0x1)).payload
        await turns_until(lambda: sent == most)
        await world.goes_on()
        assert sent == most and peer.stats().slow and peer.transport is not None and peer.transport.unsent == 0
        await say(raw, t="ack", n=seen, bytes=peer.stats().kept)
        for _ in range(most):
            await raw.next_of(0x1)
        await turns_until(lambda: sent == 2 * most)
        info = await world.ends(4408)
        assert "acknowledged" in info.reason
        sending.cancel()


async def test_a_session_without_a_connection_ends_in_time() -> None:
    async with beside(AMPLE, Server(limits=AMPLE, detached=0.2)) as world, raw_client(world.port) as raw:
        peer: Peer = await world.newest()
        assert (await begin(raw))["ttl"] == 0.2
        await turns_until(lambda: peer.stats().messages_in == 2)
        raw.drop()
        await turns_until(lambda: peer.detached)
        assert peer in world.server.peers
        await world.goes_on()
        await world.ends(1006)
        assert not peer.detached and peer not in world.server.peers
