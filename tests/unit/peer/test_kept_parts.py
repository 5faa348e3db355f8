"""What a user keeps of a peer whose connection has ended, without the peer itself, works as before."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import AnonymousChannel, ChannelClosed, ConnectionLost, Peer, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


async def begun(items: Any) -> Any:
    """Return a stream of which one item was read."""
    assert await anext(items) == 0
    return items


async def left_alone(stream: Any) -> None:
    """Let go of a stream that was not closed. The caller holds it no more after this call."""


async def read(stream: Any) -> None:
    with suppress(ConnectionLost, ChannelClosed):
        async for _ in stream:
            pass
    with suppress(StopAsyncIteration, ConnectionLost, ChannelClosed):
        await anext(stream)


async def talk(channel: Any) -> None:
    for call in (channel.emit("say", 1), channel.request("say", 1)):
        with pytest.raises((ConnectionLost, ChannelClosed)):
            await call
    with pytest.raises((ConnectionLost, ChannelClosed)):
        channel.emit_nowait("say", 1)
    await read(channel.events("say"))


async def talk_and_close(channel: Any) -> None:
    await talk(channel)
    channel.close()


KEPT: dict[str, Callable[[Peer], Awaitable[Any]]] = {
    "a stream": lambda peer: begun(peer.stream("numbers")),
    "events": lambda peer: begun(peer.events("news")),
    "events of a channel": lambda peer: begun(peer.of("desk").events("news")),
    "items of a channel": lambda peer: begun(peer.of("desk").items()),
    "a channel": lambda peer: peer.open_channel("talks"),
}
USES: dict[str, tuple[list[str], Callable[[Any], Awaitable[None]]]] = {
    "left alone": ([*KEPT], left_alone),
    "read": (["a stream", "events", "events of a channel", "items of a channel"], read),
    "used": (["a channel"], talk_and_close),
}


@pytest.mark.parametrize(("what", "use"), [(what, use) for use, (kinds, _) in USES.items() for what in kinds])
async def test_a_part_that_is_kept_works_after_the_end(what: str, use: str) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    server = Server()

    async def numbers() -> AsyncIterator[int]:
        yield 0
        await asyncio.Event().wait()

    async def talks(channel: AnonymousChannel) -> None:
        async with channel.events("say") as said:
            await anext(said, None)

    async with connect(server) as client:
        client.on("numbers", numbers)
        client.on("talks", talks)
        (peer,) = server.peers
        beginning = asyncio.ensure_future(KEPT[what](peer))
        if what != "a channel":
            await turns()
            await client.emit("news", 0)
            await client.of("desk").emit("news", 0)
            await client.of("desk").emit("next", {"value": 0})
        kept = await beginning
        del beginning
    watched = weakref.ref(peer)
    del peer, client
    await turns_until(lambda: gc.collect() >= 0 and watched() is None)
    await USES[use][1](kept)
    del kept
    await turns()
    assert not problems


async def test_a_peer_that_is_kept_goes_on_telling_of_its_connection() -> None:
    server = Server()
    async with connect(server) as client:
        (peer,) = server.peers
        info = client.peer.info
    await turns_until(lambda: not server.peers)
    assert (peer.info.path, peer.connected, peer.server, peer.rooms) == (info.path, False, server, ())
    await peer.close()
    with pytest.raises(ConnectionLost):
        await peer.request("add", 1)
