"""Bad networks: slow, far, with queues, and with connections that do not last. Each use of wsrpc ends right on each.

``make soak`` plays all pairs of networks, with the sizes and rates that people have. The short form plays some of them,
ten times as fast and with less to send.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from bad_networks import COMES_TO, FASTER, LARGE, MANY, PINGS, UPLOAD, play
from effort import SEED, SOAK

from wsrpc import Client, ConnectionLost, Reconnect, ReconnectInfo, Retry, Server
from wsrpc.testing import FaultProxy

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


MOMENTS, AT_ONCE, FARTHEST = (1_000, 50, 1.5) if SOAK else (40, 40, 0.1)
"""Drops, how many clients there are at the same time, and the longest round trip, in seconds."""


class FirstCalls:
    """A server, and clients whose first connection drops at a random moment after its handshake.

    ``ends`` counts how many calls have ended so: dropped before or after the welcome, how, and how often they have run.
    """

    def __init__(self) -> None:
        self.server = server = Server()
        self.accepted = [asyncio.Event() for _ in range(MOMENTS)]
        self.ran, self.sessions, self.ends = Counter[int](), Counter[int](), Counter[tuple[str, str, int]]()
        server.on_handshake(lambda handshake: self.accepted[self.number(handshake)].set())
        server.on("open", lambda peer: self.sessions.update([self.number(peer.info)]))

        @server.on("run")
        async def run(number: int, seconds: float) -> int:
            self.ran[number] += 1
            await asyncio.sleep(seconds)
            return number

    def number(self, handshake: Any) -> int:
        return int(handshake.query["number"])

    async def drop(self, url: str, number: int) -> None:
        dice = random.Random(f"{SEED} {number}")
        round_trip = FARTHEST * dice.random() * dice.choice((0, 0.1, 1))
        seconds = dice.choice((0, round_trip, 2 * round_trip))
        back, dropped = list[ReconnectInfo](), asyncio.Event()
        async with FaultProxy(url) as proxy, proxy.slow(latency=round_trip / 2):
            client = Client(f"{proxy.url}?number={number}", reconnect=Reconnect(initial=0.001, max=0.01))
            client.on_reconnect(back.append)

            async def call() -> str:
                async with client:
                    try:
                        assert await client.request("run", number, seconds, timeout=None) == number
                        end = "answered"
                    except ConnectionLost as exc:
                        end = exc.outcome
                    await dropped.wait()
                    await client.request("greet", retry=Retry(), timeout=None)  # the client goes on
                    return end

            async with asyncio.TaskGroup() as tasks:
                called = tasks.create_task(call())
                await self.accepted[number].wait()
                await asyncio.sleep(dice.random() * (2 * round_trip + seconds + 0.005))
                welcome = client.peer.stats().messages_in
                proxy.drop()
                dropped.set()
        end, ran, sessions = called.result(), self.ran[number], self.sessions[number]
        assert ran in {"answered": (1,), "unknown": (0, 1), "not_sent": (0,)}[end], (number, end, ran)
        if welcome:
            assert (end, sessions, [info.resumed for info in back]) == ("answered", 1, [True]), number
        self.ends["after the welcome" if welcome else "before", end, ran] += 1


@pytest.mark.timeout(600 if SOAK else 90)
async def test_the_first_call_survives_a_drop_or_is_told() -> None:
    """Once the welcome has arrived, the session resumes. Before, nobody can: a call that was sent ends as unknown."""
    first = FirstCalls()
    first.server.on("greet", lambda: None)
    numbers = iter(range(MOMENTS))

    async def drop_some(url: str) -> None:
        for number in numbers:
            await first.drop(url, number)

    async with first.server.listen() as listener, asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(drop_some(listener.url))
    print(dict(first.ends))
    assert first.ends.total() == MOMENTS
