"""Registering handlers: names, refusals, routers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import permutations
from typing import Any

import pytest
from core_driver import Driven, rejection

from wsrpc import CallNext, Client, Context, Router, Server
from wsrpc._handlers.lookup import find
from wsrpc._handlers.registry import Registry
from wsrpc.testing import connect

NO_CALL: Any = None
"""These handlers need nothing of the call."""


@pytest.mark.parametrize("event", [None, 5, b"x", ("a",)])
def test_an_events_name_is_text(event: Any) -> None:
    for registrar in (Server(), Client(), Client().of("room"), Server().of("room"), Router(), Router().of("room")):
        with pytest.raises(TypeError, match="an event's name is a string"):
            registrar.on(event, lambda: None)
        with pytest.raises(TypeError):
            registrar.once(event, lambda: None)


@pytest.mark.parametrize("name", ["", None, 5, b"x"])
def test_a_channels_name_is_text(name: Any) -> None:
    for maker in (Server(), Client(), Router()):
        with pytest.raises(TypeError, match="a channel's name is a non-empty string"):
            maker.of(name)


def test_what_is_no_handler_is_refused_when_it_is_registered() -> None:
    def keyword_only(*args: int, n: int) -> None: ...

    for registrar in (Server(), Client(), Router(), Router().of("room")):
        with pytest.raises(TypeError):
            registrar.on("e", 5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="parameter 'n'"):
            registrar.on("e", keyword_only)
        with pytest.raises(TypeError, match="parameter 'n'"):
            registrar.once("e")(keyword_only)


def test_a_refused_registration_leaves_the_old_one() -> None:
    registry = Registry()
    registry.add(None, "e", lambda: 1)

    def bad(*args: int, n: int) -> None: ...

    with pytest.raises(TypeError):
        registry.add(None, "e", bad)
    assert find(registry, None, "e").call(NO_CALL, ["e"]) == 1


async def pass_on(ctx: Context, call_next: CallNext) -> Any:
    return await call_next(ctx)


@asynccontextmanager
async def around(ctx: Context) -> AsyncIterator[None]:
    yield


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
    "context": lambda registry: registry.set_handler_context(around),
    "no context": lambda registry: registry.set_handler_context(None),
}


@pytest.mark.parametrize("first", CHANGES)
@pytest.mark.parametrize("of_server", [False, True])
def test_a_change_shows_in_each_route_that_was_made_before(first: str, of_server: bool) -> None:
    for others in permutations(CHANGES, 2):
        server, own = Registry(), Registry()
        own.inherit(server, None)
        own.for_channel().add(5, "e", lambda: 5)  # makes `own` an heir with routes of its own
        own.add(None, "own", lambda: 6)
        changed = server if of_server else own
        for change in (first, *others):
            CHANGES[change](changed)
            for channel in (None, "room"):
                for event in ("e", "other", "own", "nobody"):
                    found = find(own, channel, event)
                    if found.handler is not None:
                        found.handler.put_back()
                    handler, _ = own.take(channel, event)
                    if handler is not None:
                        handler.put_back()
                    assert found.handler is handler, (first, others)
                    layered = any(
                        each.scopes[at].middleware
                        for each in (server, own)
                        for at in {None, channel}
                        if at in each.scopes
                    ) or (handler is not None and changed.handler_context is not None)
                    assert (handler is not None and found.call is handler.call) is (handler is not None and not layered)


def test_taking_once_goes_first_and_only_once() -> None:
    registry = Registry()
    registry.add("room", "e", lambda: "on")
    registry.add("room", "e", lambda: "once", once=True)
    results = []
    for _ in range(3):
        results.append(find(registry, "room", "e").call(NO_CALL, ["e"]))
    assert results == ["once", "on", "on"]
    assert find(registry, None, "e").handler is None and find(registry, "nowhere", "e").handler is None


async def test_a_router_brings_its_registrations() -> None:
    router = Router()

    @router.on("add")
    def add(a: int, b: int) -> int:
        return a + b

    @router.of("io").on("read")
    async def read(name: str) -> str:
        return f"content of {name}"

    router.once("first", lambda: "once")
    seen: list[str] = []

    @router.use
    async def log(ctx: Context, call_next: Any) -> Any:
        seen.append(ctx.event)
        return await call_next(ctx)

    assert add(1, 2) == 3
    server = Server()
    server.include(router)
    async with connect(server) as client:
        assert await client.request("add", 1, 2) == 3
        assert await client.of("io").request("read", "x") == "content of x"
        assert await client.request("first") == "once"
    assert seen == ["add", "read", "first"]


async def test_a_router_under_a_channel_keeps_its_middleware_there() -> None:
    router = Router()
    seen: list[str] = []

    @router.use
    async def log(ctx: Context, call_next: Any) -> Any:
        seen.append(f"{ctx.channel_name}:{ctx.event}")
        return await call_next(ctx)

    router.on("say", lambda text: text.upper())
    router.on("open", lambda text: "an ordinary name there")
    server = Server()
    server.on("say", lambda text: "main")
    server.include(router, channel="chat")
    async with connect(server) as client:
        assert await client.of("chat").request("say", "hi") == "HI"
        assert await client.request("say", "hi") == "main"
    assert seen == ["chat:say"]


async def test_a_router_may_bring_lifecycle_handlers() -> None:
    opened: list[Any] = []
    router = Router(lax=True)
    router.on("open", opened.append)
    router.once("connect", opened.append)
    server = Server()
    server.include(router)
    async with connect(server):
        assert len(opened) == 2


async def test_one_router_may_be_included_twice() -> None:
    router = Router()
    router.on("e", lambda: 1)
    server, client = Server(), Client()
    server.include(router)
    client.include(router)
    server.include(router, channel="room")
    async with connect(server, client=client):
        assert await client.request("e") == 1
        assert await client.of("room").request("e") == 1
        assert await server.peers[0].request("e") == 1


def test_what_comes_after_include_is_refused_because_it_would_be_lost() -> None:
    router = Router()
    room = router.of("room")
    Server().include(router)
    for call in (
        lambda: router.on("e", lambda: 1),
        lambda: router.once("e", lambda: 1),
        lambda: router.use(lambda ctx, call_next: call_next(ctx)),
        lambda: room.on("e", lambda: 1),
    ):
        with pytest.raises(RuntimeError, match="included already"):
            call()


def test_a_router_with_channels_cannot_be_put_under_one() -> None:
    router = Router()
    router.of("a").on("e", lambda: 1)
    with pytest.raises(ValueError, match=r"channels of its own \('a'\)"):
        Server().include(router, channel="room")


async def test_lax_conversion_by_handler_router_and_server() -> None:
    def double(n: int) -> int:
        return n * 2

    router = Router(lax=True)
    router.on("lax router", double)
    router.on("strict in it", double, lax=False)
    server = Server(lax=True)
    server.on("lax server", double)
    strict = Server()
    strict.include(router)
    strict.on("lax handler", double, lax=True)
    strict.on("strict", double)
    async with connect(server) as client:
        assert await client.request("lax server", "4") == 8
    async with connect(strict) as client:
        assert await client.request("lax router", "4") == 8
        assert await client.request("lax handler", "4") == 8
        for event in ("strict", "strict in it"):
            with pytest.raises(Exception, match="argument 'n'"):
                await client.request(event, "4")


async def test_closing_a_servers_channel_removes_its_handlers_for_every_peer() -> None:
    server = Server()
    channel = server.of("room")
    channel.on("e", lambda: 1)
    async with connect(server) as client:
        assert await client.of("room").request("e") == 1
        channel.close()
        with pytest.raises(Exception, match="Channel 'room' does not exist"):
            await client.of("room").request("e")
        server.of("room").on("e", lambda: 2)
        assert await client.of("room").request("e") == 2


async def test_a_channel_that_was_used_but_has_no_handler_says_so() -> None:
    d = Driven()
    d.peer.of("room")
    error = rejection(await d.fed({"i": 1, "c": "room", "a": ["e"]}), 1)
    assert error == {"message": "No event listener for 'e' on channel 'room'", "code": "wsrpc.unknown_event"}
    error = rejection(await d.fed({"i": 1, "c": "other", "a": ["e"]}), 1)
    assert error == {"message": "Channel 'other' does not exist", "code": "wsrpc.unknown_event"}
