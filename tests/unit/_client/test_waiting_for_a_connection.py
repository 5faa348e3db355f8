"""A caller that waits for a connection learns that it is there, or that none will come."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from client_driver import AT_ONCE, LIMITS, begun, never
from core_driver import messages
from leftovers import nothing_left as nothing_left

from wsrpc import Client, ConnectionLost, RequestTimeout, Server
from wsrpc.testing import Line, memory_transports

NOBODY = "ws://127.0.0.1:1/"


def test_one_client_in_several_runs_of_asyncio() -> None:
    """Each with its connection, also after a run that was left in the middle, with callers that waited."""
    lines: list[Line] = []

    async def dial(url: str, **options: Any) -> Any:
        return await (lines[-1].dial(url, **options) if lines else never())

    client = Client("ws://server/", dial=dial, limits=LIMITS, reconnect=AT_ONCE)
    first = asyncio.new_event_loop()
    left: list[asyncio.Task[None]] = []

    async def leave() -> None:
        left.append(asyncio.create_task(client.wait_connected()))
        connecting = await begun(client, client.connect(), "connecting")
        connecting.cancel()
        await asyncio.wait([connecting])

    async def use(number: int) -> None:
        server = Server(limits=LIMITS)
        server.on("echo", lambda value: value)
        lines.append(Line(server))
        async with client:
            assert await client.request("echo", number) == number
            lines[-1].cut()
            await client.peer.wait_closed()
            assert await client.request("echo", "again") == "again"
        await server.close()

    first.run_until_complete(leave())
    for number in range(2):
        asyncio.run(use(number))
    for task in asyncio.all_tasks(first):
        task.cancel()
    first.run_until_complete(asyncio.sleep(0))
    first.close()


def test_a_client_that_was_connected_when_its_loop_ended_says_so() -> None:
    client = Client(NOBODY)

    async def leave_connected() -> None:
        await client.bind(memory_transports()[0])

    async def use_again() -> None:
        for use in (client.connect, client.close, client.wait_connected, client.__aenter__):
            with pytest.raises(RuntimeError, match="event loop ended"):
                await use()
            assert client.state == "connected"

    asyncio.run(leave_connected())
    asyncio.run(use_again())
    gc.collect()


@pytest.mark.usefixtures("nothing_left")
async def test_after_close_the_same_error_is_raised_again_and_again_with_the_same_traceback() -> None:
    client = Client(NOBODY)
    await client.close()
    depths: set[int] = set()
    for _ in range(3):
        with pytest.raises(ConnectionLost, match="the client was closed") as caught:
            await client.wait_connected()
        depths.add(len(caught.traceback))
    assert len(depths) == 1
    with pytest.raises(ConnectionLost, match=r"no connection \(1000 closed on this side\); nothing was sent"):
        await client.request("add")


async def test_a_call_on_a_client_that_was_never_connected_warns_once_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Client(NOBODY)
    for _ in range(2):
        with pytest.raises(RequestTimeout, match="nothing was sent"):
            await client.request("add", timeout=0.001)
    [text] = messages(caplog)
    assert "for a connection, but this client is not connecting: call connect()" in text
    await client.close()
