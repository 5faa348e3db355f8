"""Sessions and links: each cell of their tables, and a session that is given a second link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from core_driver import turns

from wsrpc import AnonymousChannel, ConnectionLost, Limits, Peer
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._peer import session as sessions
from wsrpc._peer.peer import core_of
from wsrpc._peer.session import Session, SessionState
from wsrpc._protocol.settings import make_settings
from wsrpc._sending import link as links
from wsrpc._sending.link import Link, LinkState
from wsrpc.testing import MemoryTransport, ScriptedTransport, memory_transports


class Ends:
    """Two peers whose sessions outlive their connections: the policy that makes them is this test's."""

    def __init__(self, **options: Any) -> None:
        settings = msgspec.structs.replace(make_settings(Limits(), None, None, **options), keeps_session=lambda _: True)
        self.left = Peer(settings, dialer=True, loop=LoopScheduler(), keeps_offline=True)
        self.right = Peer(settings, dialer=False, loop=LoopScheduler())
        self.lines: tuple[MemoryTransport, MemoryTransport]
        self.connect()

    def connect(self) -> None:
        self.lines = memory_transports()
        self.left.bind(self.lines[0])
        self.right.bind(self.lines[1])

    async def drop(self) -> None:
        """End the connection when nothing is on its way."""
        await turns(20)
        self.lines[0].abort()
        await turns(20)
        assert not self.left.connected and not self.right.connected
        for peer in (self.left, self.right):
            assert core_of(peer).session.state is SessionState.DETACHED

    async def close(self) -> None:
        await self.left.close()
        await turns(20)
        assert (self.left.pending, self.left.channels, self.right.active, self.right.channels) == (0, 0, 0, 0)


@pytest.mark.parametrize("extensions", [True, False])
async def test_requests_channels_and_streams_go_on_over_a_second_link(extensions: bool) -> None:
    ends = Ends(extensions=extensions)
    left, right = ends.left, ends.right
    told: list[str] = []
    for peer, name in ((left, "left"), (right, "right")):
        peer.on("close", lambda info, name=name: told.append(f"{name} closed"))
        peer.on("open", lambda name=name: told.append(f"{name} opened"))
    go_on = asyncio.Event()
    heard: list[Any] = []

    async def slow(n: int) -> int:
        await go_on.wait()
        return n + 1

    async def numbers() -> AsyncIterator[int]:
        for n in range(6):
            if n == 3:
                await go_on.wait()
            yield n

    async def talk(channel: AnonymousChannel) -> None:
        async for word in channel.events("word"):
            await channel.emit("echo", word)
            if word == "bye":
                return

    for peer in (left, right):
        peer.on("slow", slow)
        peer.on("said", heard.append)
    right.on("numbers", numbers)
    right.on("talk", talk)

    async def total(items: AsyncIterator[int]) -> int:
        return sum([n async for n in items])

    right.on("total", total)

    async def source() -> AsyncIterator[int]:
        for n in range(4):
            if n == 2:
                await go_on.wait()
            yield n

    async with asyncio.timeout(20):
        asked = [asyncio.create_task(peer.request("slow", 1)) for peer in (left, right)]
        uploading = asyncio.create_task(left.request("total", send=source()))
        channel = await left.open_channel("talk")
        echoes = channel.events("echo")
        await channel.emit("word", "hello")
        assert await anext(echoes) == "hello"
        async with left.stream("numbers") as stream:
            assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
            sessions_before = core_of(left).session, core_of(right).session
            await ends.drop()
            # While there is no link, both sides go on, and what they send is kept in order.
            go_on.set()
            await left.emit("said", "by left")
            await right.emit("said", "by right")
            await channel.emit("word", "again")
            late = asyncio.create_task(left.request("slow", 10))
            await turns(20)
            assert not any(task.done() for task in (*asked, late, uploading)) and heard == []
            ends.connect()
            assert await asyncio.gather(*asked, late, uploading) == [2, 2, 11, 6]
            assert heard == ["by left", "by right"] or heard == ["by right", "by left"]
            assert [n async for n in stream] == [3, 4, 5]
        assert await anext(echoes) == "again"
        await channel.emit("word", "bye")
        assert await anext(echoes) == "bye"
        assert (core_of(left).session, core_of(right).session) == sessions_before
        assert told == []  # neither a close nor another open
        await ends.close()


async def test_a_session_that_is_closed_while_it_has_no_link_is_over() -> None:
    ends = Ends()
    ends.right.on("never", asyncio.Event().wait)
    asked = asyncio.create_task(ends.left.request("never"))
    await ends.drop()
    await ends.left.close()
    with pytest.raises(ConnectionLost):
        await asked
    assert core_of(ends.left).session.state is SessionState.OVER
    await ends.right.close()
    await turns()
    assert ends.right.active == 0


# ---------------------------------------------------------------- tables


def bound_link() -> Link:
    peer = Peer(make_settings(None, None, None), dialer=False, loop=LoopScheduler())
    return core_of(peer).link_for(ScriptedTransport())


@pytest.mark.parametrize("before", LinkState)
@pytest.mark.parametrize("after", LinkState)
async def test_a_link_goes_only_where_its_table_allows(before: LinkState, after: LinkState) -> None:
    link = bound_link()
    link.state = before
    if after in links.TRANSITIONS[before]:
        link.move(after)
        assert link.state is after and after.value in repr(link)
    else:
        with pytest.raises(AssertionError, match=f"from {before.value} to {after.value}"):
            link.move(after)
        assert link.state is before
    assert link.works is (link.state in (LinkState.OPENING, LinkState.OPEN))


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize(
    ("act", "after"),
    [(Session.attach, SessionState.LINKED), (Session.detach, SessionState.DETACHED), (Session.end, SessionState.OVER)],
)
async def test_a_session_goes_only_where_its_table_allows(state: SessionState, act: Any, after: SessionState) -> None:
    link = bound_link()
    session = core_of(Peer(make_settings(None, None, None), dialer=False, loop=LoopScheduler())).session
    session.state = state
    arguments = (session, link) if act is Session.attach else (session,)
    if after in sessions.TRANSITIONS[state]:
        act(*arguments)
        assert session.state is after and after.value in repr(session)
        assert session.link is (link if after is SessionState.LINKED else None)
        assert session.over is (after is SessionState.OVER)
    else:
        with pytest.raises(AssertionError, match=f"from {state.value} to {after.value}"):
            act(*arguments)
        assert session.state is state
