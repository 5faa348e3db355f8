"""Handlers, middleware, reserved events and rooms as users have them: two ends in memory, and public names only.

The rules behind them are tested one by one on the core, in other files.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import (
    AnonymousChannel,
    Client,
    Context,
    Peer,
    RemoteError,
    RpcError,
    Server,
    UnknownEvent,
    current_context,
    current_peer,
)
from wsrpc.errors import ReservedEvent
from wsrpc.testing import connect
from wsrpc.types import RESERVED_EVENTS, Message

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_the_peer_s_handlers_go_before_the_server_s_and_once_before_on() -> None:
    server = Server()
    server.on("who", lambda: "server on")
    server.once("who", lambda: "server once")
    async with connect(server) as client, connect(server) as other:
        [peer, _] = server.peers
        peer.on("who", lambda: "an earlier one")
        peer.on("who", lambda: "peer on")
        peer.once("who", lambda: "peer once")
        assert [await client.request("who") for _ in range(3)] == ["peer once", "peer on", "peer on"]
        peer.on("who", None)
        assert [await client.request("who") for _ in range(2)] == ["server once", "server on"]
        assert await other.request("who") == "server on"  # once is once, for all peers of a server
        server.on("who", None)
        with pytest.raises(UnknownEvent):
            await client.request("who")


async def test_tasks_that_a_handler_starts_know_whose_they_are() -> None:
    server = Server()

    async def later() -> str:
        return f"{current_peer().id} {current_context().event}"

    @server.on("ask")
    async def ask(peer: Peer, ctx: Context) -> str:
        assert (peer, ctx) == (current_peer(), current_context())
        return await asyncio.create_task(later())

    async with connect(server) as client:
        assert await client.request("ask") == f"{server.peers[0].id} ask"


@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "kept"])
@pytest.mark.parametrize("waits", [False, True], ids=["plain", "async"])
async def test_a_task_finds_the_arguments_after_its_handler_only_if_the_context_was_kept(
    waits: bool, kept: bool
) -> None:
    server, go = Server(), asyncio.Event()
    tasks: list[asyncio.Task[tuple[str, tuple[Any, ...]]]] = []

    async def later(ctx: Context | None) -> tuple[str, tuple[Any, ...]]:
        await go.wait()
        assert ctx in (None, current_context())
        return current_context().event, current_context().args

    def plain(value: str) -> None:
        tasks.append(asyncio.create_task(later(current_context() if kept else None)))

    async def handler(value: str) -> None:
        await asyncio.sleep(0)
        plain(value)

    server.on("ask", handler if waits else plain)
    async with connect(server) as client:
        await client.request("ask", "x")
        go.set()
        assert await tasks[0] == ("ask", ("x",) if kept else ())


async def test_middleware_of_server_peer_and_channels_is_around_their_handlers() -> None:
    server = Server()

    def layer(name: str) -> Any:
        async def middleware(ctx: Context, call_next: Any) -> Any:
            ctx.args = [*ctx.args, name]
            return await call_next(ctx)

        return middleware

    for scope, name in ((server, "server"), (server.of("room"), "room")):
        scope.use(layer(name))
        scope.on("say", lambda *args: list(args))
    async with connect(server) as client:
        server.peers[0].use(layer("peer"))
        assert await client.request("say", 1) == [1, "server", "peer"]
        assert await client.of("room").request("say", 1) == [1, "server", "room", "peer"]


async def test_reserved_names_are_ordinary_on_channels_and_nowhere_else() -> None:
    server = Server()
    server.of("door").on("open", lambda: "it is open")
    async with connect(server) as client:
        assert await client.of("door").request("open") == "it is open"
        assert set(RESERVED_EVENTS) == {"open", "close", "connect", "disconnect", "error", "message"}
        for name in RESERVED_EVENTS:
            for side in (client, server):
                with pytest.raises(ReservedEvent, match=f"'{name}' is reserved on the main channel"):
                    await side.emit(name)
            with pytest.raises(ReservedEvent):
                await client.request(name)


async def test_a_message_handler_sees_responses_cancellations_and_aborts() -> None:
    server, client = Server(), Client()
    seen: list[Message] = []
    server.on("message", lambda peer, message: seen.append(message))
    server.on("wait", asyncio.Event().wait)
    client.on("add", lambda a, b: a + b)

    @client.on("fail")
    def fail() -> None:
        raise RpcError("no tea", code="teapot", data=[1])

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        await channel.wait_closed()

    async with connect(server, client=client):
        [peer] = server.peers
        assert await peer.request("add", 1, 2) == 3
        with pytest.raises(RpcError, match="no tea"):
            await peer.request("fail")
        waiting = asyncio.create_task(client.request("wait"))
        await turns_until(lambda: peer.active)
        waiting.cancel("enough")
        await asyncio.wait({waiting})
        await (await client.open_channel("talk")).abort(RpcError("bye", code=7))
        await turns_until(lambda: len(seen) == 6)
    result, error, wait, cancellation, talk_message, abort = seen
    assert (result.result, result.error, result.event, result.cancel_reason) == (3, None, None, None)
    assert isinstance(error.error, RemoteError) and isinstance(abort.cancel_reason, RemoteError)
    assert (str(error.error), error.error.code, error.error.data, error.result) == ("no tea", "teapot", [1], None)
    assert (wait.event, wait.channel_id, wait.result) == ("wait", None, None)
    assert (cancellation.id, cancellation.cancel_reason, cancellation.event) == (wait.id, "enough", None)
    assert (str(abort.cancel_reason), abort.cancel_reason.code, abort.id) == ("bye", 7, None)
    assert abort.channel_id == talk_message.id
    names = ["result #", "error #", "request #", "cancellation #", "request #", "abort of channel "]
    assert [str(message).startswith(name) for message, name in zip(seen, names, strict=True)] == [True] * 6
