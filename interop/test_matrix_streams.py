"""Each counterpart in each role: anonymous channels and streams.

The rows are those of docs/reference/compatibility.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from interop.matrix import Cell, behaviour
from interop.peers import Link, nothing_open, text_of
from wsrpc import AnonymousChannel, ChannelClosed, RemoteError, RpcError

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def without_channels(link: Link, cell: Cell) -> bool:
    """Whether the counterpart knows no anonymous channels: then asking for one is an error, and nothing else."""
    if "anonymous" in link.agent.can:
        return False
    with pytest.raises(RpcError):
        await link.peer.open_channel("channel_make")
    with pytest.raises(RpcError):
        async with link.peer.stream("count", 3) as items:
            await anext(items)
    assert await link.peer.request("add", 1, 2) == 3
    assert (link.peer.anonymous_channels, link.peer.pending) == (0, 0)
    cell.lacks()
    return True


@behaviour("anonymous")
async def test_conversations(each_link: Link, cell: Cell) -> None:
    link = each_link
    if await without_channels(link, cell):
        return
    # Python opens.
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with await link.peer.open_channel("channel_make") as channel:
        channel.on("line", heard.put_nowait)
        channel.on("add", lambda a, b: a + b)
        theirs = (await link.journal("channel"))[0]["channel"]
        assert await channel.request("add", 1, 2, returns=int) == 3
        assert await channel.request("ask", "add", 20, 1) == 21
        assert await link.ask("add", 3, 4, channel=theirs) == 7
        await channel.emit("log", "hi")
        assert (await link.journal("event"))[0]["channel"] == theirs
        await link.tell("line", "hello", channel=theirs)
        assert await heard.get() == "hello"
    await link.journal("channel_closed")

    # The other side opens.
    @link.app.on("chat")
    async def chat(room: str, channel: AnonymousChannel) -> None:
        channel.on("count", lambda: len(room))
        async for line in channel.events("line", returns=str):
            if line == "bye":
                return
            assert await channel.request("add", 1, 2) == 3
            await channel.emit("log", room, line.upper())

    theirs = await link.ask("chat", "lobby")
    await link.tell("line", "hi", channel=theirs)
    assert [entry["args"] for entry in await link.journal("event")] == [["lobby", "HI"]]
    assert await link.ask("count", channel=theirs) == 5
    await link.tell("line", "bye", channel=theirs)
    (closed,) = await link.journal("channel_closed")
    assert closed["reason"]["message"] == "closed"
    await nothing_open(link)


@behaviour("aborts")
async def test_aborts(each_link: Link, cell: Cell) -> None:
    link = each_link
    if await without_channels(link, cell):
        return
    channel = await link.peer.open_channel("channel_make")
    await channel.abort("bored")
    (closed,) = await link.journal("channel_closed")
    assert text_of(closed["reason"]) == "bored"
    with pytest.raises(ChannelClosed, match="bored"):
        await channel.request("add", 1, 2)
    await link.journal("channel")

    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @link.app.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as exc:
            ended.set_result(exc.args[0])
            raise

    theirs = await link.ask("talk")
    await link.call("abort_channel", channel=theirs, reason="bored, too")
    assert str(await ended) == "bored, too"
    await nothing_open(link)


@behaviour("read")
async def test_reading_their_streams(each_link: Link, cell: Cell) -> None:
    link = each_link
    if await without_channels(link, cell):
        return
    for n in (0, 1, 3, 1000):
        assert [item async for item in link.peer.stream("count", n, returns=int)] == list(range(n))
    # Leaving ends their generator, which ws-wrapper notices when it makes its next item.
    async with link.peer.stream("ticks", 1, returns=int) as items:
        assert [await anext(items) for _ in range(3)] == [0, 1, 2]
    async with link.peer.stream("count_then_fail", 3, returns=int) as items:
        assert [await anext(items) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(RemoteError):
            await anext(items)
    assert len(await link.journal("stream_ended", at_least=6)) >= 6
    await nothing_open(link)


@behaviour("written")
async def test_their_reading_of_streams(each_link: Link, cell: Cell) -> None:
    link = each_link
    if await without_channels(link, cell):
        return
    ended: asyncio.Queue[int] = asyncio.Queue()

    @link.app.on("numbers")
    async def numbers(n: int, fails: bool = False) -> AsyncIterator[int]:
        made = 0
        try:
            for k in range(n):
                made += 1
                yield k
            if fails:
                raise RpcError("it failed")
        finally:
            ended.put_nowait(made)

    for n in (0, 1, 3, 1000):
        assert await link.call("iterate", event="numbers", args=[n]) == {"items": list(range(n))}
        assert await ended.get() == n
    # Leaving ends Python's generator at once.
    got = await link.call("iterate", event="numbers", args=[10_000], take=3, reason="bored")
    assert got == {"items": [0, 1, 2]}
    assert await ended.get() in (3, 4)  # one may have been on its way
    got = await link.call("iterate", event="numbers", args=[3, True])
    assert got["items"] == [0, 1, 2]
    assert "rejected" in got
    cell.note("items")
    await nothing_open(link)


@behaviour("uploads")
async def test_uploads(each_link: Link, cell: Cell) -> None:
    link = each_link
    if await without_channels(link, cell):
        return

    @link.app.on("sum")
    async def add_up(items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    assert await link.call("upload", event="sum", n=100) == {"sent": 100, "resolved": 4950}

    async def numbers() -> AsyncIterator[int]:
        for k in range(100):
            yield k

    assert await link.peer.request("total", {}, send=numbers(), returns=int) == 4950
    await nothing_open(link)
