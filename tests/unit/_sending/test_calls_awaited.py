"""Whatever is wrong with a request or an emit is raised when it is awaited, never at the call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Driven
from leftovers import nothing_left as nothing_left
from stream_sides import requested

from wsrpc import AnonymousChannel, ChannelClosed, Client, Context, Retry, Server, WsrpcError
from wsrpc.errors import ChannelNotReady
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "nothing": (("event",), {}),
    "send": (("event",), {"send": [1]}),
    "no text": ((7,), {}),
    "an argument that cannot be encoded": (("event", object()), {}),
    "a keyword": (("event",), {"colour": "red"}),
    "offline": (("event",), {"offline": "maybe"}),
    "retry": (("event",), {"retry": 3}),
    "retry and send": (("event",), {"retry": Retry(), "send": [1]}),
    "idempotent": (("event",), {"idempotent": True}),
    "timeout": (("event",), {"timeout": -1}),
    "returns": (("event",), {"returns": set[list[int]]}),
    "what is sent": (("event",), {"send": 3}),
}


async def each_raises(caller: Any, wrong: dict[str, Any], error: type[Exception] | tuple[type[Exception], ...]) -> None:
    for args, options in wrong.values():
        calls = [caller.request(*args, **options), caller.open_channel(*args, **options)]
        if not options or "colour" in options:
            calls.append(caller.emit(*args, **options))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, error) for result in results), (args, options, results)


async def test_on_a_channel_that_is_over() -> None:
    channel = await requested(Driven(dialer=True))
    channel.close("enough")
    few = {name: WRONG[name] for name in ("nothing", "a keyword")}
    await each_raises(channel, few, (ChannelClosed, TypeError))
    with pytest.raises(ChannelClosed) as caught:
        await channel.request("a", send=[1])
    assert caught.value.reason == "enough"
    with pytest.raises(ChannelClosed):
        channel.emit_nowait("event")


async def test_on_a_channel_that_is_not_delivered() -> None:
    d = Driven()
    results: list[Any] = []

    async def handler(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        calls = [channel.request("a"), channel.emit("a"), channel.open_channel("a"), channel.request("a", send=[1])]
        results.extend(await asyncio.gather(*calls, return_exceptions=True))
        with pytest.raises(ChannelNotReady):
            channel.emit_nowait("event")
        return channel

    d.peer.on("c", handler)
    assert await d.fed({"i": 5, "a": ["c"]}) == [{"i": 5, "h": 1}]
    assert [type(result) for result in results] == [ChannelNotReady] * 4
    await d.fed({"h": 5, "x": "bye"})


async def test_on_a_named_channel_that_was_closed() -> None:
    d = Driven()
    channel = d.peer.of("room")
    channel.close("enough")
    await each_raises(channel, {"nothing": WRONG["nothing"], "send": WRONG["send"]}, (ChannelClosed, TypeError))
    with pytest.raises(ChannelClosed):
        channel.emit_nowait("event")


@pytest.mark.parametrize("state", ["open", "closed"])
async def test_on_a_peer_a_client_and_a_named_channel(state: str) -> None:
    async with connect(Server(), client=Client()) as client:
        if state == "closed":
            await client.close()
        callers = [client, client.peer, client.of("room")]
        wrong = {name: given for name, given in WRONG.items() if name not in ("nothing", "send")}
        for caller in callers:
            await each_raises(caller, wrong, (TypeError, ValueError, WsrpcError))
