"""Conversations over anonymous channels between Python and plain JavaScript, opened by either side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interop.peers import Link, closed_with, until
from wsrpc import (
    AnonymousChannel,
    ChannelClosed,
    Context,
    RemoteError,
    RpcError,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

REASONS = ["bored", {"why": [1, None]}, 7]


class Chat:
    """A handler whose body is the conversation, and what it saw."""

    def __init__(self, link: Link) -> None:
        self.channels: asyncio.Queue[AnonymousChannel] = asyncio.Queue()
        self.ended: asyncio.Queue[Any] = asyncio.Queue()
        """Why each conversation ended: what cancelled it, or "left" by the line ``bye``."""
        for place in (link.app, link.app.of("math")):
            place.on("chat", self.chat)

    async def chat(self, room: str, channel: AnonymousChannel) -> None:
        self.channels.put_nowait(channel)
        channel.on("count", lambda: len(room))
        channel.on("add", lambda a, b: a + b)
        try:
            async for line in channel.events("line", returns=str):
                if line == "bye":
                    self.ended.put_nowait("left")
                    return
                await channel.emit("log", room, line.upper())
        except asyncio.CancelledError as exc:
            self.ended.put_nowait(exc.args[0] if exc.args else None)
            raise


@pytest.fixture
def chat(link_4: Link) -> Chat:
    return Chat(link_4)


# ---------------------------------------------------------------- JavaScript opens


async def test_javascript_aborts_its_conversation(link_4: Link, chat: Chat) -> None:
    for reason in REASONS:
        theirs = await link_4.ask("chat", "lobby")
        ours = await chat.channels.get()
        await link_4.call("abort_channel", channel=theirs, reason=reason)
        assert await chat.ended.get() == ours.close_reason == reason
        await closed_with(link_4)
    await link_4.agent.call("set", error_props=True)
    for given, message, code in [
        ({"reason": {"$error": {"message": "bored", "code": "E_BORED"}}}, "bored", "E_BORED"),
        ({}, "Request aborted", None),
    ]:
        theirs = await link_4.ask("chat", "lobby")
        ours = await chat.channels.get()
        await link_4.call("abort_channel", channel=theirs, **given)
        ended = await chat.ended.get()
        assert isinstance(ended, RemoteError)
        assert (ended.message, ended.code) == (message, code)
        assert ours.close_reason is ended


async def test_python_aborts_a_conversation_of_javascript(link_4: Link, chat: Chat) -> None:
    for given, value, message, props in [
        *((reason, reason, None, {}) for reason in REASONS),
        (RpcError("bored", code=7, data=[1]), None, "bored", {"code": 7, "data": [1]}),
        (ValueError("no longer"), None, "no longer", {}),
        (None, None, "Request aborted", {}),
    ]:
        await link_4.ask("chat", "lobby")
        ours = await chat.channels.get()
        await ours.abort(given)
        assert await chat.ended.get() == ours.close_reason == given or given is None
        got = await closed_with(link_4)
        assert (got["value"], got["message"], got["props"]) == (value, message, props)
        with pytest.raises(ChannelClosed):
            await ours.emit("log", "too late")


async def test_what_javascript_waits_for_when_the_channel_ends(link_4: Link, chat: Chat) -> None:
    """In JavaScript, closing a channel does not settle the requests on it, so it would wait without a limit."""
    theirs = await link_4.ask("chat", "lobby")
    ours = await chat.channels.get()
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.get_running_loop().create_future()

    ours.on("hang", hang)
    _, asked = link_4.start_asking("hang", channel=theirs)
    await started.wait()
    await ours.abort("bored")
    assert (await asked)["rejected"]["message"] == "Request aborted"
    await closed_with(link_4)
    assert await chat.ended.get() == "bored"


async def test_the_form_of_ws_wrapper(link_4: Link) -> None:
    """The handler registers on the channel, and returns it."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    made: asyncio.Queue[AnonymousChannel] = asyncio.Queue()

    @link_4.app.on("open_it")
    def open_it(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        channel.on("line", heard.put_nowait)
        channel.on("upper", lambda text: text.upper())
        made.put_nowait(channel)
        return channel

    theirs = await link_4.ask("open_it")
    ours = await made.get()
    assert (link_4.peer.anonymous_channels, link_4.peer.active) == (1, 0)
    await link_4.tell("line", "hi", channel=theirs)
    assert await heard.get() == "hi"
    assert await link_4.ask("upper", "hi", channel=theirs) == "HI"
    assert await ours.request("add", 1, 2) == 3
    await link_4.call("abort_channel", channel=theirs, reason="bored")
    await ours.wait_closed()
    assert ours.close_reason == "bored"


async def test_javascript_closes_without_telling(link_4: Link, chat: Chat) -> None:
    """Python learns it from the answer to the next message."""
    theirs = await link_4.ask("chat", "lobby")
    ours = await chat.channels.get()
    await link_4.call("close_channel", channel=theirs)
    await ours.emit("log", "are you there?")
    ended = await chat.ended.get()
    assert isinstance(ended, RemoteError)
    assert "does not exist" in ended.message


# ---------------------------------------------------------------- Python opens


async def test_events_that_come_with_the_channel(link_4: Link) -> None:
    """JavaScript emits in the turn in which it answers; Python has not even the channel yet."""
    for n in (1, 5, 100):
        channel = await link_4.peer.open_channel("channel_talk", n)
        assert await link_4.peer.request("echo", "all is here") == "all is here"
        lines = channel.events("line", returns=int)
        assert [await anext(lines) for _ in range(n)] == list(range(n))
        await channel.abort()

    heard: asyncio.Queue[int] = asyncio.Queue()
    channel = await link_4.peer.open_channel("channel_talk", 5)
    assert await link_4.peer.request("echo", "all is here") == "all is here"
    channel.on("line", heard.put_nowait)
    assert [await heard.get() for _ in range(5)] == list(range(5))
    await channel.abort()


async def test_python_closes_without_telling(link_4: Link) -> None:
    channel = await link_4.peer.open_channel("channel_make")
    (made,) = await link_4.journal("channel")
    channel.close()
    await link_4.tell("line", "are you there?", channel=made["channel"])
    assert "does not exist" in (await closed_with(link_4))["message"]


# ---------------------------------------------------------------- both at once


async def test_many_channels_of_both_sides(link_4: Link, chat: Chat) -> None:
    """Ids of the two directions never meet, though JavaScript keeps one table for both."""
    n = 100
    theirs, ours = await asyncio.gather(
        asyncio.gather(*(link_4.ask("chat", "lobby") for _ in range(n))),
        asyncio.gather(*(link_4.peer.open_channel("channel_make") for _ in range(n))),
    )
    assert link_4.peer.anonymous_channels == 2 * n
    sums = asyncio.gather(*(channel.request("add", k, 1) for k, channel in enumerate(ours)))
    counts = asyncio.gather(*(link_4.ask("count", channel=channel) for channel in theirs))
    assert await sums == list(range(1, n + 1))
    assert await counts == [5] * n
    await asyncio.gather(*(channel.abort(k) for k, channel in enumerate(ours)))
    await asyncio.gather(*(link_4.call("abort_channel", channel=theirs[k], reason=k) for k in range(n)))
    closed = await link_4.journal("channel_closed", at_least=2 * n)
    assert sorted(entry["reason"]["value"] for entry in closed) == sorted([*range(n), *range(n)])
    assert sorted([await chat.ended.get() for _ in range(n)]) == list(range(n))
    await until(lambda: link_4.peer.anonymous_channels == 0)
