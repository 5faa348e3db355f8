"""Bad networks: slow, far, with queues, and with connections that do not last. Each use of wsrpc ends right on each.

``make soak`` plays all pairs of networks, with the sizes and rates that people have. The short form plays some of them,
ten times as fast and with less to send.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from bad_networks import COMES_TO, FASTER, LARGE, MANY, PINGS, UPLOAD, play
from core_driver import turns
from effort import SOAK
from session_story import Story

from wsrpc import Client, Reconnect, Retry

Use = Callable[[Client], Awaitable[Any]]


async def first_call(client: Client) -> int:
    return await client.request("add", -1, 1, returns=int, timeout=None)


async def small_calls(client: Client) -> list[int]:
    return [await client.request("add", number, 1, returns=int, timeout=None) for number in range(MANY // 5)]


async def large_result(client: Client) -> int:
    return len(await client.request("get", LARGE, returns=str, timeout=None))


async def large_argument(client: Client) -> int:
    return await client.request("take", "x" * LARGE, returns=int, timeout=None)


async def upload(client: Client) -> int:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(UPLOAD // 10_000):
            yield bytes(10_000)

    return await client.request("store", send=pieces(), returns=int, timeout=None)


async def stream(client: Client, key: str | None = None) -> list[int]:
    return [int(row.split()[0]) async for row in client.stream("rows", MANY, key=key, returns=str)]


async def events(client: Client, heard: str = "told", sent: str = "tell") -> list[int]:
    told, complete = list[int](), asyncio.Event()

    def hear(number: int) -> None:
        told.append(number)
        if len(told) >= MANY:
            complete.set()

    client.on(heard, hear)
    for number in range(MANY):
        await client.emit(sent, number)
    await complete.wait()
    await first_call(client)  # what was doubled has arrived before the answer
    return told


async def keyed_stream(client: Client) -> list[int]:
    return await stream(client, key="k")


async def room(client: Client) -> list[int]:
    await client.room("lobby").join()
    return sorted(await events(client, "said", "say"))  # the handlers of `say` run at the same time


USES: list[Use] = [first_call, small_calls, large_result, large_argument, upload]
USES += [stream, events, keyed_stream, room]


async def play_in_python(urls: dict[str, str], greets: bool) -> dict[str, tuple[Any, float]]:
    async def one(use: Use) -> tuple[str, tuple[Any, float]]:
        retries = Reconnect(initial=0.2 / FASTER, max=1.0 / FASTER)
        client = Client(urls[use.__name__], limits=PINGS, reconnect=retries, connect_timeout=None)
        began = time.monotonic()
        async with client:
            if greets:
                await client.request("greet", retry=Retry(), idempotent=True, timeout=None)
            return use.__name__, (await use(client), time.monotonic() - began)

    return dict(await asyncio.gather(*map(one, USES)))


@pytest.mark.timeout(3500 if SOAK else 90)
async def test_each_use_ends_right() -> None:
    assert [use.__name__ for use in USES] == [*COMES_TO]
    await play(play_in_python, UPLOAD)


@pytest.mark.parametrize("half_open", [False, True])
async def test_the_first_call_survives_a_drop_in_any_turn_or_is_told(half_open: bool) -> None:
    """Once the welcome has arrived, the session resumes. Before, nobody can: a call that was sent ends as unknown."""
    ends, ran = list[tuple[bool, str, int]](), Counter[int]()

    async def run(number: int) -> str:
        ran[number] += 1
        await turns(5)
        return "answered"

    for moment in range(20):
        s = Story()
        s.server.on("run", run)
        connecting = asyncio.create_task(s.client.connect())
        call = asyncio.create_task(s.client.request("run", moment, timeout=None))
        while not s.line.connections:
            await turns(1)
        await turns(moment)
        s.line.cut(half_open=half_open)
        await asyncio.wait([call, connecting])
        assert await s.client.request("run", -1, timeout=None) == "answered", "the client goes on"
        await s.settled()
        lost: Any = call.exception()
        ends.append((s.back[0].resumed, lost.outcome if lost else call.result(), ran[moment]))
        await s.client.close()
        await s.server.close()
    assert ends == sorted(ends) and {*ends} == {(False, "unknown", 0), (False, "unknown", 1), (True, "answered", 1)}
