"""Conversations over anonymous channels between Python and plain JavaScript, opened by either side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interop.peers import Link, until
from wsrpc import (
    AnonymousChannel,
    BadResult,
    ChannelClosed,
    ConnectionLost,
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
                if line == "fail":
                    raise RpcError("it failed", code="E_FAIL", data={"attempt": 1})
                if line == "break":
                    raise ValueError("the password is secret")
                await channel.emit("log", room, line.upper())
        except asyncio.CancelledError as exc:
            self.ended.put_nowait(exc.args[0] if exc.args else None)
            raise


@pytest.fixture
def chat(link_4: Link) -> Chat:
    return Chat(link_4)


async def closed_with(link: Link) -> dict[str, Any]:
    """Why a channel ended in JavaScript."""
    (closed,) = await link.journal("channel_closed")
    reason: dict[str, Any] = closed["reason"]
    return reason


# ---------------------------------------------------------------- JavaScript opens


async def test_a_conversation_that_javascript_opens(link_4: Link, chat: Chat) -> None:
    for place in (None, "math"):
        theirs = await link_4.ask("chat", "lobby", channel=place)
        ours = await chat.channels.get()
        for line in ("hi", "ünï \U0001f600"):
            await link_4.tell("line", line, channel=theirs)
        entries = await link_4.journal("event", at_least=2)
        assert [entry["args"] for entry in entries] == [["lobby", "HI"], ["lobby", "ÜNÏ \U0001f600"]]
        assert [entry["channel"] for entry in entries] == [theirs, theirs]
        assert await link_4.ask("count", channel=theirs) == 5
        assert await ours.request("add", 1, 2, returns=int) == 3
        # Each handler asks back on the channel that it is on.
        assert await ours.request("ask", "add", 20, 1) == 21
        assert await ours.request("askMany", "add", 20) == list(range(1, 21))
        thrown = await link_4.ask_in_vain("nonesuch", channel=theirs)
        assert thrown["message"] == f"No event listener for 'nonesuch' on channel '{ours.id}'"
        await link_4.tell("line", "bye", channel=theirs)
        assert await chat.ended.get() == "left"
        assert (await closed_with(link_4))["message"] == "closed"
        assert (ours.closed, ours.close_reason) == (True, None)


async def test_bursts_on_a_channel_both_ways(link_4: Link, chat: Chat) -> None:
    theirs = await link_4.ask("chat", "lobby")
    ours = await chat.channels.get()
    calls = [ours.request("add", k, 1) for k in range(1000)]
    counts, *answers = await asyncio.gather(link_4.call("burst", n=1000, channel=theirs), *calls)
    assert counts == {"right": 1000, "wrong": 0, "failed": 0, "first_error": None}
    assert answers == list(range(1, 1001))
    await link_4.call("abort_channel", channel=theirs)


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
    """Left to itself it would wait for ever: closing a channel does not settle what was requested on it there."""
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


async def test_a_conversation_that_fails(link_4: Link, chat: Chat, caplog: pytest.LogCaptureFixture) -> None:
    theirs = await link_4.ask("chat", "lobby")
    await link_4.tell("line", "fail", channel=theirs)
    got = await closed_with(link_4)
    assert (got["message"], got["props"]) == ("it failed", {"code": "E_FAIL", "data": {"attempt": 1}})
    theirs = await link_4.ask("chat", "lobby")
    await link_4.tell("line", "break", channel=theirs)
    got = await closed_with(link_4)
    assert (got["message"], got["props"]["code"]) == ("internal error", "wsrpc.internal")
    assert "the password is secret" in caplog.text


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
    assert (link_4.peer.channels, link_4.peer.active) == (1, 0)
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


async def test_the_connection_drops_in_a_conversation(link_4: Link, chat: Chat) -> None:
    await link_4.ask("chat", "lobby")
    ours = await chat.channels.get()
    waiting = asyncio.create_task(ours.request("hang"))
    await link_4.journal("started")
    await link_4.call("terminate")
    assert isinstance(await chat.ended.get(), ConnectionLost)
    assert isinstance(ours.close_reason, ConnectionLost)
    with pytest.raises((ConnectionLost, ChannelClosed)):
        await waiting
    await link_4.closed


# ---------------------------------------------------------------- Python opens


async def test_a_conversation_that_python_opens(link_4: Link) -> None:
    for caller in (link_4.peer, link_4.peer.of("math")):
        heard: asyncio.Queue[str] = asyncio.Queue()
        channel = await caller.open_channel("channel_make")
        channel.on("line", heard.put_nowait)
        channel.on("add", lambda a, b: a + b)
        (made,) = await link_4.journal("channel")
        theirs = made["channel"]
        assert await channel.request("add", 1, 2, returns=int) == 3
        assert await link_4.ask("add", 3, 4, channel=theirs) == 7
        assert await channel.request("ask", "add", 20, 1) == 21
        await channel.emit("log", "hi")
        (entry,) = await link_4.journal("event")
        assert (entry["channel"], entry["args"]) == (theirs, ["hi"])
        await link_4.tell("line", "hello", channel=theirs)
        assert await heard.get() == "hello"
        with pytest.raises(RemoteError, match=r"^it failed$"):
            await channel.request("fail", "error")
        await channel.abort("bored")
        assert (await closed_with(link_4))["value"] == "bored"
        with pytest.raises(ChannelClosed, match="bored"):
            await channel.request("add", 1, 2)
        assert link_4.peer.channels == 0


async def test_python_aborts_its_channel(link_4: Link) -> None:
    for given, value, message in [
        *((reason, reason, None) for reason in REASONS),
        (RpcError("bored"), None, "bored"),
        (None, None, "Request aborted"),
    ]:
        channel = await link_4.peer.open_channel("channel_make")
        await channel.abort(given)
        got = await closed_with(link_4)
        assert (got["value"], got["message"]) == (value, message)


async def test_leaving_the_block_of_a_channel(link_4: Link) -> None:
    async with await link_4.peer.open_channel("channel_make") as channel:
        assert await channel.request("add", 1, 2) == 3
    assert (channel.closed, channel.close_reason) == (True, None)
    assert (await closed_with(link_4))["message"] == "closed"


async def test_javascript_aborts_a_channel_of_python(link_4: Link) -> None:
    cases: list[tuple[dict[str, Any], Any, str | None]] = [
        *(({"reason": reason}, reason, None) for reason in REASONS),
        ({"reason": {"$error": {"message": "bored"}}}, None, "bored"),
        ({}, None, "Request aborted"),
    ]
    for given, value, message in cases:
        channel = await link_4.peer.open_channel("channel_make")
        (made,) = await link_4.journal("channel")
        lines = channel.events("line")
        waiting = asyncio.create_task(channel.request("hang"))
        await link_4.journal("started")
        await link_4.call("abort_channel", channel=made["channel"], **given)
        await channel.wait_closed()
        if message is None:
            assert channel.close_reason == value
        else:
            assert channel.close_reason.message == message
        with pytest.raises(ChannelClosed):
            await waiting
        with pytest.raises(RemoteError) as raised:
            await anext(lines)
        assert (raised.value.data, raised.value.plain) == (value, message is None)
        await closed_with(link_4)


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


async def test_an_answer_that_is_no_channel(link_4: Link) -> None:
    with pytest.raises(BadResult):
        await link_4.peer.open_channel("add", 1, 2)
    with pytest.raises(RemoteError, match="nonesuch"):
        await link_4.peer.open_channel("nonesuch")


async def test_opening_is_cancelled(link_4: Link) -> None:
    """JavaScript answers before it could be cancelled: the channel that comes too late is aborted."""
    opening = asyncio.create_task(link_4.peer.open_channel("channel_make"))

    async def cancel() -> None:
        opening.cancel("bored")  # begins after the request was sent, and before its answer can be here

    await asyncio.create_task(cancel())
    with pytest.raises(asyncio.CancelledError):
        await opening
    await closed_with(link_4)
    assert (link_4.peer.channels, link_4.peer.pending) == (0, 0)


async def test_javascript_gives_up_while_python_opens(link_4: Link) -> None:
    """The request is cancelled before its handler has an answer: no channel comes to be."""
    ref, asked = link_4.start_asking("gate")
    await link_4.seen.started.get()
    await link_4.call("cancel", ref=ref, reason="bored")
    assert await link_4.seen.cancelled.get() == ("bored", "bored")
    assert (await asked)["rejected"]["name"] == "RequestAbortedError"
    assert link_4.peer.channels == 0


async def test_the_connection_drops_with_channels_open(link_4: Link) -> None:
    channels = [await link_4.peer.open_channel("channel_make") for _ in range(5)]
    assert link_4.peer.channels == 5
    lines = channels[0].events("line")
    await link_4.call("terminate")
    for channel in channels:
        await channel.wait_closed()
        assert isinstance(channel.close_reason, ConnectionLost)
    with pytest.raises(ConnectionLost):
        await anext(lines)
    await link_4.closed


# ---------------------------------------------------------------- both at once


async def test_many_channels_of_both_sides(link_4: Link, chat: Chat) -> None:
    """Ids of the two directions never meet, though JavaScript keeps one table for both."""
    n = 100
    theirs, ours = await asyncio.gather(
        asyncio.gather(*(link_4.ask("chat", "lobby") for _ in range(n))),
        asyncio.gather(*(link_4.peer.open_channel("channel_make") for _ in range(n))),
    )
    assert link_4.peer.channels == 2 * n
    sums = asyncio.gather(*(channel.request("add", k, 1) for k, channel in enumerate(ours)))
    counts = asyncio.gather(*(link_4.ask("count", channel=channel) for channel in theirs))
    assert await sums == list(range(1, n + 1))
    assert await counts == [5] * n
    await asyncio.gather(*(channel.abort(k) for k, channel in enumerate(ours)))
    await asyncio.gather(*(link_4.call("abort_channel", channel=theirs[k], reason=k) for k in range(n)))
    closed = await link_4.journal("channel_closed", at_least=2 * n)
    assert sorted(entry["reason"]["value"] for entry in closed) == sorted([*range(n), *range(n)])
    assert sorted([await chat.ended.get() for _ in range(n)]) == list(range(n))
    await until(lambda: link_4.peer.channels == 0)
