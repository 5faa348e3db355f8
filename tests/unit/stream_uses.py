"""Everything that one peer may do with channels and streams of another, for as long as it is let."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from stream_driver import Feed, collect

from wsrpc import AnonymousChannel, Peer


async def download(peer: Peer) -> None:
    async with peer.stream("feed") as stream:
        await collect(stream)


async def bare_loop(peer: Peer) -> None:
    stream = peer.stream("feed")
    try:
        async for _ in stream:
            pass
    finally:
        await stream.aclose()


async def slow_feed(peer: Peer) -> None:
    async with peer.stream("gated") as stream:
        await collect(stream)


async def upload(peer: Peer) -> None:
    await peer.request("total", send=Feed()(), timeout=None)


async def quiet_upload(peer: Peer) -> None:
    await peer.request("total", send=Feed(gate=3)(), timeout=None)


async def both_ways(peer: Peer) -> None:
    async with peer.stream("double", send=Feed()()) as stream:
        await collect(stream)


async def talking(peer: Peer) -> None:
    async with await peer.open_channel("talk") as channel:
        lines = channel.events("line")
        while True:
            await channel.emit("line", 1)
            await anext(lines)


async def asking(peer: Peer) -> None:
    async with await peer.open_channel("talk") as channel:
        await channel.request("never", timeout=None)


async def pulling(peer: Peer) -> None:
    channel = await peer.open_channel("feed")
    async with channel:
        while True:
            await channel.request("pull", 7)


async def nested(peer: Peer) -> None:
    async with await peer.open_channel("talk") as channel:
        async with await channel.open_channel("inner") as inner:
            await inner.request("never", timeout=None)


async def opened_by_the_other_side(peer: Peer) -> None:
    await peer.request("call back", timeout=None)


USES = [
    download,
    bare_loop,
    slow_feed,
    upload,
    quiet_upload,
    both_ways,
    talking,
    asking,
    pulling,
    nested,
    opened_by_the_other_side,
]


def serve(peer: Peer) -> None:
    """Register what `USES` use."""

    async def never() -> None:
        await asyncio.Event().wait()

    async def total(chunks: AsyncIterator[int]) -> int:
        return sum([chunk async for chunk in chunks])

    async def double(chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        async for chunk in chunks:
            yield 2 * chunk

    async def inner(channel: AnonymousChannel) -> None:
        channel.on("never", never)
        await asyncio.Event().wait()

    async def talk(channel: AnonymousChannel) -> None:
        channel.on("never", never)
        channel.on("inner", inner)
        async for line in channel.events("line"):
            await channel.emit("line", line)

    async def call_back(peer: Peer) -> None:
        async with peer.stream("feed") as stream:
            await collect(stream)

    peer.on("feed", Feed().__call__)
    peer.on("gated", Feed(gate=10).__call__)
    peer.on("total", total)
    peer.on("double", double)
    peer.on("talk", talk)
    peer.on("call back", call_back)
