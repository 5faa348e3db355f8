"""Handlers, middleware, reserved events and rooms as users have them: two ends in memory, and public names only.

The rules behind them are tested one by one on the core, in other files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Protocol

import msgspec
import pytest
from core_driver import Driven
from leftovers import nothing_left as nothing_left
from task_factories import FACTORIES
from waiting import settled, until

from wsrpc import AnonymousChannel, Client, Context, RemoteError, Retry, RpcError, Server, Stream, current_context
from wsrpc.testing import connect
from wsrpc.types import Message

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_the_peer_s_handlers_go_before_the_server_s_and_once_before_on() -> None:
    server = Server()
    server.on("who", lambda: "server on")
    server.once("who", lambda: "server once")
    async with connect(server) as client, connect(server) as other:
        [peer, _] = server.peers
        peer.on("who", lambda: "peer on")
        peer.once("who", lambda: "peer once")
        assert [await client.request("who") for _ in range(3)] == ["peer once", "peer on", "peer on"]
        peer.on("who", None)
        assert [await client.request("who") for _ in range(2)] == ["server once", "server on"]
        assert await other.request("who") == "server on"  # once is once, for all peers of a server


@pytest.mark.parametrize("kept", [False, True], ids=["dropped", "kept"])
async def test_a_task_finds_the_arguments_after_its_handler_only_if_the_context_was_kept(kept: bool) -> None:
    server, go = Server(), asyncio.Event()
    tasks: list[asyncio.Task[tuple[Any, ...]]] = []

    async def later(ctx: Context | None) -> tuple[Any, ...]:
        await go.wait()
        assert ctx in (None, current_context())
        return current_context().event, current_context().args

    @server.on("ask")
    async def ask(value: str) -> None:
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(later(current_context() if kept else None)))

    async with connect(server) as client:
        await client.request("ask", "x")
        go.set()
        assert await tasks[0] == ("ask", ("x",) if kept else ())


@pytest.mark.parametrize("factory", FACTORIES)
async def test_handlers_answer_and_are_cancelled_with_each_task_factory(factory: Any) -> None:
    """With one that awaits the coroutine within another, no `async def` handler answered on Python 3.11."""
    asyncio.get_running_loop().set_task_factory(factory)
    server, left, heard = Server(), asyncio.Event(), asyncio.Event()

    @server.on("double")
    async def double(x: int) -> int:
        return 2 * x

    @server.on("echo")
    async def echo(items: Stream[int]) -> AsyncGenerator[int, None]:
        async for item in items:
            yield item

    @server.on("heard")
    async def note() -> None:
        heard.set()

    @server.on("wait")
    async def wait() -> None:
        try:
            heard.set()
            await asyncio.Event().wait()
        finally:
            left.set()

    async with asyncio.timeout(0.1), connect(server) as client:
        assert await client.request("double", 21) == 42
        assert [item async for item in client.stream("echo", send=[1, 2, 3])] == [1, 2, 3]
        await client.emit("heard")
        await heard.wait()
        heard.clear()
        waiting = asyncio.create_task(client.request("wait"))
        await heard.wait()
        waiting.cancel()
        await left.wait()


async def test_a_message_handler_sees_responses_cancellations_and_aborts() -> None:
    server, client = Server(), Client()
    seen: list[Message] = []
    server.on("message", lambda peer, message: seen.append(message))
    server.on("wait", asyncio.Event().wait)
    server.on("talk", lambda: current_context().channel())
    client.on("add", lambda a, b: a + b)

    @client.on("fail")
    def fail() -> None:
        raise RpcError("no tea", code="teapot", data=[1])

    async with connect(server, client=client):
        [peer] = server.peers
        assert await peer.request("add", 1, 2) == 3
        with pytest.raises(RpcError, match="no tea"):
            await peer.request("fail")
        waiting = asyncio.create_task(client.request("wait"))
        await until(lambda: peer.active)
        waiting.cancel("enough")
        await asyncio.wait({waiting})
        await (await client.open_channel("talk")).abort(RpcError("bye", code=7))
        await until(lambda: len(seen) == 6)
    result, error, wait, cancellation, talk_message, abort = seen
    assert (result.result, result.error, result.event, result.cancel_reason) == (3, None, None, None)
    assert isinstance(error.error, RemoteError) and isinstance(abort.cancel_reason, RemoteError)
    assert (error.error.code, error.error.data, error.result) == ("teapot", [1], None)
    assert (wait.event, wait.channel_id, wait.result) == ("wait", None, None)
    assert (cancellation.id, cancellation.cancel_reason, cancellation.event) == (wait.id, "enough", None)
    assert (str(abort.cancel_reason), abort.cancel_reason.code, abort.id) == ("bye", 7, None)
    assert abort.channel_id == talk_message.id
    names = ["result #", "error #", "request #", "cancellation #", "request #", "abort of channel "]
    assert [str(message).startswith(name) for message, name in zip(seen, names, strict=True)] == [True] * 6


# ---------------------------------------------------------------- messages


async def observed(*payloads: bytes | dict[str, Any]) -> list[Message]:
    """What an observer gets of these messages."""
    d = Driven()
    seen: list[Message] = []
    d.peer.on("message", lambda peer, message: seen.append(message))
    for payload in payloads:
        d.raw(payload if isinstance(payload, bytes) else msgspec.json.encode(payload))
    await settled()
    return seen


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"a": ["say", 1], "i": 7, "c": "room"}, "request #7 room: say(1)"),
        ({"a": None, "i": True}, "malformed message, 19 bytes"),
        ({"i": 7}, "result #7, 7 bytes"),
        ({"i": 7, "h": 1}, "channel #7, 13 bytes"),
    ],
)
async def test_a_message_in_words(message: Any, words: str) -> None:
    [seen] = await observed(message)
    assert str(seen) == words and repr(seen) == f"<Message {words}>"


async def test_a_message_in_the_log_is_one_line() -> None:
    hostile = "x\n2024-01-01 ERROR forged\r\x1b[31m"
    for a in (["say", hostile], [hostile], ["e", [hostile]], ["say"]):
        [message] = await observed({"a": a} if a != ["say"] else {"a": a, "c": hostile})
        assert str(message).isprintable() and repr(message).isprintable()


async def test_long_arguments_are_cut_and_secrets_can_be_left_out() -> None:
    [message] = await observed({"a": ["login", "ada", "x" * 1_000_000, ["y" * 1000]]})
    assert len(str(message)) < 300 and str(message).endswith("…)")
    assert len(message.describe(limit=20)) < 60
    assert message.describe(redact=lambda event, args: (*args[:1], "***")) == "event login('ada', '***')"
    assert message.args[1] == "x" * 1_000_000


class Sums(Protocol):
    async def add(self, a: int, b: int) -> int: ...


async def test_an_anonymous_channel_has_the_calls_of_a_peer_without_the_options_that_outlive_a_session() -> None:
    server = Server()

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        channel.on("add", lambda a, b: a + b)
        channel.on("count", lambda n: iter(range(n)))
        await channel.wait_closed()

    async with connect(server) as client, await client.open_channel("talk") as channel:
        assert [number async for number in channel.stream("count", 3, returns=int)] == [0, 1, 2]
        assert await channel.proxy(Sums).add(1, 2) == 3
        assert await channel.request("add", 1, 2, retry=Retry()) == 3
        for call in (channel.emit("add", offline="queue"), channel.request("add", key="k")):
            with pytest.raises(TypeError, match=r"got (offline|key) as keyword argument"):
                await call
        with pytest.raises(TypeError, match="got key as keyword argument"):
            channel.stream("count", key="k")
