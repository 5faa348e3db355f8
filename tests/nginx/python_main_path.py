"""The main path of `browser/page_main_path.mjs`, with a Python client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from wsrpc import AnonymousChannel, Client, RemoteError


async def main_path(client: Client, drop: Callable[[], object]) -> dict[str, Any]:
    """Make each kind of call with a client that is not connected yet, and return what it has seen."""
    notes: list[str] = []
    client.on("note", notes.append)
    client.on("name", lambda: "Grace")

    @client.on("letters")
    def letters(text: str) -> Iterator[str]:
        yield from text

    @client.on("sum")
    async def total(numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    @client.on("shout")
    async def shout(channel: AnonymousChannel) -> None:
        async for line in channel.events("line", returns=str):
            await channel.emit("line", line.upper())

    seen: dict[str, Any] = {}
    async with client:
        seen["request"] = await client.request("add", 1, 2)
        seen["named"] = await client.of("math").request("add", 3, 4)
        seen["values"] = await client.request("echo", ["ä€😀", None, True, 1.5, {"a": []}])
        try:
            await client.request("fail")
        except RemoteError as error:
            seen["error"] = [True, error.message, error.code, error.data, error.outcome]

        left = client.wait_for("left")
        hanging = asyncio.create_task(client.request("hang"))
        await client.request("add", 0, 0)  # it hangs already
        hanging.cancel()
        await left
        seen["aborted"] = hanging.cancelled()

        seen["stream"] = len([number async for number in client.stream("count", 1000)])
        left, seen["loop"] = client.wait_for("left"), []
        async with aclosing(client.stream("ticks")) as ticks:
            async for tick in ticks:
                seen["loop"].append(tick)
                if tick == 2:
                    break
        await left

        seen["upload"] = await client.request("total", 500, send=range(1000))
        seen["large"] = await client.request("size", send=[bytes(65_536)] * 80)

        said, room = client.wait_for("said", returns=str), client.room("lobby")
        await room.join()
        await client.request("say", "to all")
        seen["room"] = [await said, True]

        async with await client.open_channel("shout") as channel:
            channel.on("name", lambda: "Ada")
            lines = channel.events("line", returns=str)
            await channel.emit("line", "hello")
            await channel.emit("line", "name")
            seen["conversation"] = [await anext(lines) for _ in range(3)]

        seen["called"] = await client.request("call me")
        seen["notes"] = notes

        seen["dropped"] = 0
        async for number in client.stream("count", 3000):
            assert number == seen["dropped"]
            seen["dropped"] += 1
            if number == 1500:
                drop()
        seen["after"] = await client.request("add", 5, 6)
        seen["transport"] = client.transport
    return seen
