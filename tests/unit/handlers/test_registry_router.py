"""Registering handlers: names, refusals, routers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from waiting import settled

from wsrpc import CallNext, Client, Context, Router, Server
from wsrpc.testing import connect


def add(a: int, b: int) -> int:
    return a + b


async def pass_on(ctx: Context, call_next: CallNext) -> Any:
    return await call_next(ctx)


# ---------------------------------------------------------------- routers


@pytest.mark.parametrize("channel", [None, "chat"])
async def test_a_router_brings_its_registrations_and_keeps_its_middleware_in_its_channel(channel: str | None) -> None:
    seen: list[str] = []
    router, server, client = Router(), Server(), Client()

    @router.use
    async def log(ctx: Context, call_next: Any) -> Any:
        seen.append(f"{ctx.channel_name}:{ctx.event}")
        return await call_next(ctx)

    assert router.on("add", add) is add
    router.once("first", lambda: "once")
    router.on("open", lambda *_: seen.append("opened"))
    server.on("other", lambda: "main")
    server.include(router, channel=channel)
    client.include(router, channel=channel)  # one router may be included twice
    async with connect(server, client=client):
        for side in (client, server.peers[0]):
            asked = side.of(channel) if channel else side
            assert (await asked.request("add", 1, 2), await asked.request("first")) == (3, "once")
        assert await client.request("other") == "main"
        if channel:
            assert seen == ["chat:add", "chat:first"] * 2
            await client.of(channel).request("open", "an ordinary name there")
        assert seen.count("opened") == (1 if channel else 2)


async def test_a_channel_of_a_router_can_be_ordered() -> None:
    router, server, begun, go_on = Router(), Server(), list[str](), asyncio.Event()

    @router.of("io", ordered=True).on("read")
    async def read(name: str) -> None:
        begun.append(name)
        await go_on.wait()

    server.include(router)
    async with connect(server) as client:
        both = [asyncio.create_task(client.of("io").request("read", name)) for name in "xy"]
        await settled()
        assert begun == ["x"]
        go_on.set()
        await asyncio.gather(*both)


def test_what_a_router_refuses() -> None:
    router = Router()
    room = router.of("room")
    room.on("e", lambda: 1)
    with pytest.raises(ValueError, match=r"channels of its own \('room'\)"):
        Server().include(router, channel="chat")
    Server().include(router)
    for call in (router.on, router.once, room.on, lambda *_: router.use(pass_on)):  # what comes later would be lost
        with pytest.raises(RuntimeError, match="included already"):
            call("e", print)
