"""Messages without a connection: those that wait for the next one, and those with ``offline="fail"``, which do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from core_driver import start, turns

from wsrpc import (
    Client,
    ConnectionLost,
    Peer,
    Server,
)
from wsrpc.testing import connect


async def read(caller: Any, **options: Any) -> None:
    async with caller.stream("s", **options):
        pytest.fail("opened")


async def emit_nowait(caller: Any, **options: Any) -> None:
    caller.emit_nowait("e", **options)


CALLS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "emit": lambda caller, **options: caller.emit("e", **options),
    "emit_nowait": emit_nowait,
    "request": lambda caller, **options: caller.request("r", **options),
    "upload": lambda caller, **options: caller.request("u", send=[1], **options),
    "open_channel": lambda caller, **options: caller.open_channel("c", **options),
    "stream": read,
}


def assert_not_sent(error: BaseException | None, *codes: int) -> None:
    assert isinstance(error, ConnectionLost)
    assert error.code in codes and error.outcome == "not_sent"


# ---------------------------------------------------------------- what fails at once: places × calls


@asynccontextmanager
async def never_connected() -> AsyncGenerator[tuple[Client, int]]:
    client = Client(offline="fail")
    yield client, 1006
    await client.close(4000, "bye")
    with pytest.raises(ConnectionLost, match="4000"):
        await client.emit("e")


@asynccontextmanager
async def closing() -> AsyncGenerator[tuple[Client, int]]:
    """While the Close frame is on its way."""
    server = Server()
    async with connect(server, client=Client(offline="fail")) as client:
        ending = start(client.peer.close())
        await turns(1)
        yield client, 1000
        await ending
    await server.close()


@asynccontextmanager
async def the_other_side_drains() -> AsyncGenerator[tuple[Client, int]]:
    async with connect(server := Server(), client=Client(offline="fail")) as client:
        may_end = asyncio.Event()
        server.on("work", may_end.wait)
        await client.emit("work")  # of which the client does not know how long it takes
        await turns()
        ending = start(server.close(drain_timeout=60))
        await turns()
        yield client, 1012
        assert not ending.done()
        may_end.set()
        await ending


@asynccontextmanager
async def a_server_s_peer() -> AsyncGenerator[tuple[Peer, int]]:
    """It has no next connection, whatever is asked for."""
    server = Server()
    async with connect(server):
        [peer] = server.peers
    yield peer, 1000
    await server.close()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("place", [never_connected, closing, the_other_side_drains, a_server_s_peer])
async def test_it_fails_at_once_and_nothing_is_left(
    place: Callable[[], AbstractAsyncContextManager[tuple[Client | Peer, int]]], name: str
) -> None:
    async with asyncio.timeout(8), place() as (caller, code):
        pending = caller.pending if isinstance(caller, Peer) else caller.peer.pending
        with pytest.raises(ConnectionLost) as caught:
            await CALLS[name](caller)
        assert_not_sent(caught.value, code)
        assert (caller.pending if isinstance(caller, Peer) else caller.peer.pending) == pending
