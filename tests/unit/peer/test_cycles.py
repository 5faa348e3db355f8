"""What has ended holds no messages, even if the garbage collector never comes."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
from leftovers import nothing_left as nothing_left
from session_story import story
from waiting import until

from wsrpc import AnonymousChannel, Client, Peer, RequestTimeout, RpcError, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(autouse=True)
def _no_log(caplog: pytest.LogCaptureFixture) -> None:
    """pytest would keep the exceptions of what it shows."""
    caplog.set_level(logging.CRITICAL + 1, "wsrpc")


# ---------------------------------------------------------------- without the collector

MOST = 700_000
"""Bytes of the largest object that may be left: less than each of `big`, and more than any buffer."""


def big() -> str:
    return "x" * 1_000_000


def memory() -> int:
    """Return the bytes of all that was made since tracing began."""
    return tracemalloc.get_traced_memory()[0]


@pytest.fixture
async def uncollected() -> AsyncGenerator[None]:
    gc.collect()
    gc.disable()
    tracemalloc.start(1)
    yield
    tracemalloc.stop()
    gc.enable()


def serving() -> Server:
    """A server with handlers of all kinds. Those that take long wait for a timer, which is cancelled with them."""
    server = Server()

    def plain(value: str) -> int:
        asyncio.get_running_loop().call_later(3600, print).cancel()  # a library may do that
        return len(value)

    async def awaits(value: str) -> int:
        await asyncio.sleep(0)
        return len(value)

    async def long(value: str) -> None:
        await asyncio.sleep(3600)

    async def fails(value: str) -> None:
        await asyncio.sleep(0)
        raise RpcError("no")

    async def in_group(value: str) -> None:
        await asyncio.sleep(0)
        raise ExceptionGroup("tasks", [RpcError("no")])  # a task group of Python 3.11 would itself make a cycle

    async def items(value: str, slow: bool = False) -> AsyncIterator[str]:
        for number in range(3):
            yield f"{value}{number}"
            if slow:
                await asyncio.sleep(3600)

    async def reads(value: str, given: AsyncIterator[str]) -> int:
        return sum([len(one) async for one in given])

    async def reads_slowly(value: str, given: AsyncIterator[str]) -> None:
        async for _ in given:
            await asyncio.sleep(3600)

    async def talks(value: str, channel: AnonymousChannel) -> None:
        async with channel.events("say") as said:
            await channel.emit("say", await anext(said))

    for handler in (plain, awaits, long, fails, items, reads, reads_slowly, talks):
        server.on(handler.__name__, handler)
    server.of("behind").use(lambda ctx, call_next: call_next(ctx))
    server.of("behind").on("in_group", in_group)
    server.on("in order", awaits, ordered=True)
    server.on("limited", long, timeout=0.01)
    return server


async def caught(call: Awaitable[object]) -> None:
    """Await a call that fails."""
    with pytest.raises((RpcError, RequestTimeout)):
        await call


async def cancelled(call: Awaitable[object], begun: Callable[[], object]) -> None:
    """Cancel a call once that holds."""
    task = asyncio.ensure_future(call)
    await until(begun)
    task.cancel(big())
    await asyncio.wait([task])


async def request(event: str, client: Client, peer: Peer) -> None:
    await client.request(event, big())


async def stream(client: Client, slow: bool, most: int = 9) -> None:
    async with client.stream("items", big(), slow) as items:
        async for _ in items:
            most -= 1
            if not most:
                break


async def talk(client: Client) -> None:
    async with await client.open_channel("talks", big()) as channel, channel.events("say") as said:
        await channel.emit("say", big())
        await anext(said)


async def read_one(client: Client, peer: Peer) -> None:
    async with client.events("news") as news:
        for _ in range(3):
            await peer.emit("news", big())
        await anext(news)


def three() -> list[str]:
    return [big() for _ in range(3)]


Scenario = Callable[[Client, Peer], Awaitable[object]]

ENDED: dict[str, Scenario] = {
    **{f"answered: {event}": partial(request, event) for event in ("plain", "awaits", "in order")},
    "rejected": lambda client, peer: caught(client.request("fails", big())),
    "rejected behind middleware": lambda client, peer: caught(client.of("behind").request("in_group", big())),
    "a handler that takes too long": lambda client, peer: caught(client.request("limited", big())),
    "timed out": lambda client, peer: caught(client.request("long", big(), timeout=0.01)),
    "cancelled": lambda client, peer: cancelled(client.request("long", big()), lambda: peer.active),
    "an event": lambda client, peer: client.emit("awaits", big()),
    "events that are read": read_one,
    "a stream": lambda client, peer: stream(client, False),
    "a stream that is left": lambda client, peer: stream(client, False, 1),
    "an upload": lambda client, peer: client.request("reads", big(), send=three()),
    "an upload that is cancelled": lambda client, peer: cancelled(
        client.request("reads_slowly", big(), send=three()), lambda: peer.anonymous_channels
    ),
    "a conversation": lambda client, peer: talk(client),
}


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("scenario", [pytest.param(scenario, id=name) for name, scenario in ENDED.items()])
async def test_what_has_ended_holds_no_messages(scenario: Scenario) -> None:
    """A cancelled timer kept its context, and so the call with its arguments; errors and frames kept each other."""
    server = serving()
    async with connect(server) as client:
        (peer,) = server.peers
        await scenario(client, peer)
        await until(lambda: not (peer.active or peer.anonymous_channels) and memory() < MOST)


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("who", ["server", "client"])
async def test_a_session_that_is_over_holds_no_messages(who: str) -> None:
    async with story(server=serving()) as s:
        peer = s.peer if who == "server" else s.client.peer
        for end in s.ends:
            end.hold()
        peer.emit_nowait("news", big())  # sent, and not acknowledged
        await s.cut()
        peer.emit_nowait("news", big())  # waits
        assert memory() > 2_000_000  # in parts
        await peer.close()
        await s.client.close()
        await until(lambda: memory() < MOST)
