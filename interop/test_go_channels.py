"""Anonymous channels and streams between Python and Go, in both roles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from interop.peers import Agents, Counterpart, Link, until
from wsrpc import ChannelClosed, Limits, RemoteError, Stream, StreamOverflow

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def collect(items: Stream[int], into: list[int], between: Link | None = None) -> None:
    """Reads a stream into a list; ``between`` two items a request goes there and back."""
    async for item in items:
        into.append(item)
        if between is not None:
            await between.quiet()


async def test_what_comes_with_a_channel_is_kept(go_link: Link) -> None:
    for n in (1, 100):
        channel = await go_link.peer.open_channel("channel_talk", n)
        async with channel, channel.events("line", returns=int) as lines:
            assert [await anext(lines) for _ in range(n)] == list(range(n))


async def test_a_channel_that_go_closes_without_a_word(go_link: Link) -> None:
    """The other side hears of it when it next says something."""
    channel = await go_link.peer.open_channel("channel_make")
    (made,) = await go_link.journal("channel")
    waiting = asyncio.create_task(channel.request("hang", timeout=None))
    await go_link.journal("started")
    await go_link.call("close_channel", channel=made["channel"])
    assert not channel.closed
    await channel.emit("log", 1)
    await channel.wait_closed()
    assert isinstance(channel.close_reason, RemoteError)
    assert "not found" in channel.close_reason.message
    with pytest.raises(ChannelClosed):
        await waiting
    with pytest.raises(ChannelClosed):
        await channel.request("add", 1, 2)


async def test_requests_on_a_channel_that_ends(go_link: Link) -> None:
    channel = await go_link.peer.open_channel("channel_make")
    (made,) = await go_link.journal("channel")
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @channel.on("stuck")
    async def stuck() -> None:
        go_link.seen.started.put_nowait("stuck")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as exc:
            ended.set_result(exc.args[0])
            raise

    _, asked = go_link.start_asking("stuck", channel=made["channel"])
    waiting = asyncio.create_task(channel.request("hang"))
    await go_link.journal("started")
    assert await go_link.seen.started.get() == "stuck"
    await go_link.call("abort_channel", channel=made["channel"], reason="enough")
    with pytest.raises(ChannelClosed, match="enough"):
        await waiting
    assert "enough" in str(await ended)
    assert "rejected" in await asked  # since wsrpc answers what it has cancelled
    late = await go_link.ask_in_vain("add", 1, 2, channel=made["channel"])
    assert late["message"].endswith("is closed")


async def test_a_slow_reader_in_python(go_link: Link) -> None:
    """Go does not wait: what is not read yet is kept, up to a bound."""
    async with go_link.peer.stream("count", 2000, returns=int) as items:
        async for k in items:
            if k % 500 == 0:
                await go_link.quiet()
    assert len(await go_link.journal("stream_ended")) == 1


async def test_a_slow_reader_in_go(go_link: Link) -> None:
    """Each item is a request, which Go answers when it has been read: Python's generator waits for it."""
    made: list[int] = []

    @go_link.app.on("numbers")
    async def numbers() -> AsyncIterator[int]:
        for k in range(1000):
            made.append(k)
            yield k

    got = await go_link.call("iterate", event="numbers", take=5, leave="break")
    assert got == {"items": [0, 1, 2, 3, 4]}
    # It was left without a word, and the next item is not taken.
    assert len(made) <= 7
    (channel,) = await go_link.journal("channel")
    await go_link.call("abort_channel", channel=channel["channel"])
    await until(lambda: go_link.peer.anonymous_channels == 0)
    assert len(made) <= 7


async def test_a_stream_that_nobody_can_hold_back(gopher: Counterpart, agents: Agents) -> None:
    limits = Limits(hard_cap_bytes=32_000)
    async with agents.link(*gopher, profile="go", limits=limits) as link:
        read: list[int] = []
        with pytest.raises(StreamOverflow):
            await collect(link.peer.stream("count", 5000, returns=int), read, link)
        assert read == list(range(len(read)))
        await until(lambda: link.peer.anonymous_channels == 0)
