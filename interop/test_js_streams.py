"""Streams between Python and plain JavaScript: 4.x's iterator and generators, and listeners of `next`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from interop.peers import (
    COMBINATIONS,
    Agents,
    Link,
    Role,
    named,
    nothing_open,
    until,
)
from wsrpc import Limits

pytestmark = pytest.mark.asyncio(loop_scope="session")

CLOSED = "channel closed before iteration completed"
"""What JavaScript's iterator says of any end that is no good one; the reason stands in ``closeSignal``."""


OLD = [(library, role) for library, role in COMBINATIONS if library != "ws-wrapper-4"]


@pytest.mark.parametrize(("library", "role"), OLD, ids=named(OLD))
async def test_a_version_without_streams_requests_one(agents: Agents, library: str, role: Role) -> None:
    async with agents.link(library, role, limits=Limits(unread_timeout=0.1)) as link:
        link.app.on("numbers", lambda n: iter(range(n)))
        for _ in range(3):
            assert await link.call("request", event="numbers", args=[3]) == {"resolved": None, "undefined": True}
        await until(lambda: link.peer.anonymous_channels == 0)


# ---------------------------------------------------------------- Python produces


async def test_a_body_that_awaits_a_request_where_each_message_has_a_turn_of_its_own(agents: Agents) -> None:
    """As in browsers. The answer is on its way before JavaScript has asked for the next item but one."""
    async with agents.link("plain-4", "python-serves") as link:
        link.app.on("numbers", lambda n: iter(range(n)))
        connected = await link.agent.call("connect", url=link.url, sync=False)
        got = await link.agent.call("iterate", event="numbers", args=[300], ask="add", peer=connected["peer"])
        assert got == {"items": list(range(300))}
        await link.agent.call("close", peer=connected["peer"], code=1000, reason="")


# ---------------------------------------------------------------- a listener of `next` in JavaScript


async def test_a_listener_gets_the_next_item_when_it_has_handled_the_one_before(link_4: Link) -> None:
    made: list[int] = []

    @link_4.app.on("three")
    def produce() -> Iterator[int]:
        for k in range(3):
            made.append(k)
            yield k

    got = asyncio.create_task(link_4.call("read", event="three", hold="body"))
    for k in range(3):
        (held,) = await link_4.journal("held")
        await link_4.quiet()
        assert (held["item"], made) == (k, list(range(k + 1)))
        await link_4.call("release", hold="body")
    assert await got == {"items": [0, 1, 2]}
    await nothing_open(link_4)


# ---------------------------------------------------------------- JavaScript produces


# ---------------------------------------------------------------- on a named channel


@pytest.mark.parametrize("n", [0, 300])
async def test_javascript_iterates_a_named_channel(link_4: Link, n: int) -> None:
    """``for await (const item of socket.of("feed"))``: what Python produces there is a handler of ``start``."""
    ended: asyncio.Queue[int] = asyncio.Queue()

    async def numbers() -> AsyncIterator[int]:
        try:
            for k in range(n):
                yield k
        finally:
            ended.put_nowait(n)

    link_4.app.of("feed").on("start", numbers)
    for _ in range(2):
        assert await link_4.call("iterate", channel="feed") == {"items": list(range(n))}
        assert await ended.get() == n
    await nothing_open(link_4)


@pytest.mark.parametrize(("library", "role"), COMBINATIONS, ids=named(COMBINATIONS))
async def test_python_reads_the_items_and_events_of_any_version(agents: Agents, library: str, role: Role) -> None:
    """Older versions have no iterator; their ``next`` events by hand are the same."""
    async with agents.link(library, role) as link:
        for n, name in ((0, "feed"), (1000, "math")):
            await link.call("produce", channel=name, n=n)
            assert [item async for item in link.peer.of(name)] == list(range(n))
            assert [item async for item in link.peer.of(name).items(returns=int)] == list(range(n))
        async with link.peer.events("called_out", returns=tuple[str, int]) as events:
            waiting = asyncio.create_task(link.peer.of("math").wait_for("ready", timeout=10))
            await asyncio.sleep(0)
            await link.tell("called_out", "one", 1)
            await link.tell("ready", 7, channel="math")
            assert await anext(events) == ("one", 1)
            assert await waiting == 7
