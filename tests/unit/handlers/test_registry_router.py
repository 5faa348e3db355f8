"""Registering handlers: names, refusals, routers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import pytest
from core_driver import turns

from wsrpc import CallNext, Client, Context, Router, Server
from wsrpc._core.handlers.lookup import find
from wsrpc._core.handlers.registry import Registry
from wsrpc.testing import connect


def add(a: int, b: int) -> int:
    return a + b


async def pass_on(ctx: Context, call_next: CallNext) -> Any:
    return await call_next(ctx)


CHANGES: dict[str, Callable[[Registry], object]] = {
    "handler": lambda registry: registry.add(None, "e", lambda: 1),
    "handler of a channel": lambda registry: registry.add("room", "e", lambda: 2),
    "handler of another event": lambda registry: registry.add(None, "other", lambda: 3),
    "once": lambda registry: registry.add(None, "e", lambda: 4, once=True),
    "handler removed": lambda registry: registry.add(None, "e", None),
    "once removed": lambda registry: registry.add(None, "e", None, once=True),
    "middleware": lambda registry: registry.use(None, pass_on),
    "middleware of a channel": lambda registry: registry.use("room", pass_on),
    "channel removed": lambda registry: registry.remove_scope("room"),
}


@pytest.mark.parametrize("first", CHANGES)
@pytest.mark.parametrize("of_server", [False, True])
def test_a_change_shows_in_each_route_that_was_made_before(first: str, of_server: bool) -> None:
    for others in permutations(CHANGES, 1):
        server, own = Registry(), Registry()
        own.inherit(server, None)
        own.for_channel().add(5, "e", lambda: 5)  # makes `own` an heir with routes of its own
        own.add(None, "own", lambda: 6)
        changed = server if of_server else own
        for change in (first, *others):
            CHANGES[change](changed)
            for channel, event in product((None, "room"), ("e", "other", "own", "nobody")):
                found = find(own, channel, event)
                if found.handler:
                    found.handler.release()
                handler, _ = own.acquire(channel, event)
                assert found.handler is handler, (first, others)
                scopes = [each.scopes.get(at) for each in (server, own) for at in (None, channel)]
                layered = any(scope and scope.middleware for scope in scopes)
                if handler:
                    handler.release()
                    assert (found.call is handler.call) is not layered


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
        await turns(20)
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
