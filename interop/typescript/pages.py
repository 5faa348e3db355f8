"""The server of app.py with what only pages have: it calls them, too, and takes files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime
from typing import Protocol

from interop.typescript.app import Cup, serve, server
from wsrpc import AnonymousChannel, Context, Keep, Peer, Stream


class Page(Protocol):
    """What the server calls on a page."""

    async def name(self, full: bool = False) -> str: ...
    async def cup(self, drink: str) -> Cup | None: ...
    def count(self, stop: int) -> Stream[int]: ...
    async def join(self, words: AsyncIterable[str], between: str) -> str: ...
    async def chat(self, topic: str) -> AnonymousChannel: ...


class Screen(Protocol):
    """What the server emits to a page."""

    async def shown(self, at: datetime, cup: Cup) -> None: ...


server.declare(Page)
server.declare(Screen)


@server.on("ask")
async def ask(peer: Peer) -> list[str]:
    """Calls all of it."""
    page = peer.proxy(Page)
    cup = await page.cup("tea")
    assert cup is not None
    await peer.emitter(Screen).shown(datetime(2026, 5, 4, 12, tzinfo=UTC), cup)
    async with page.count(3) as numbers:
        counted = [number async for number in numbers]

    async def words() -> AsyncIterator[str]:
        for word in ("a", "b", "c"):
            yield word

    joined = await page.join(words(), "-")
    async with await page.chat("tea") as channel:
        said = await channel.request("say", "hi", returns=str)
    return [await page.name(), await page.name(True), cup.size.value, str(counted), joined, said]


@server.on("store")
async def store(name: str, parts: AsyncIterator[bytes]) -> str:
    return f"{name}: {b''.join([part async for part in parts])!r}"


@server.on("trip", keep=Keep(60, inbox=bool, scope=lambda *_: ""))
async def trip(ctx: Context) -> bool:
    """Returns what it is told."""
    return (await anext(ctx.inbox(bool))).value


@server.on("parts")
async def parts(data: bytes) -> AsyncIterator[bytes]:
    for byte in data:
        yield bytes([byte])


if __name__ == "__main__":
    asyncio.run(serve())
