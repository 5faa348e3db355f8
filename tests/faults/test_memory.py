"""Memory of a server's process: sessions without a connection take what `Server(detached_bytes=)` says, not a multiple
of it. What one connection sends to slow handlers takes no more than its limits say. That what has ended takes nothing
is in ``tests/unit/peer/test_cycles.py``, and on each host in ``tests/adapters/test_host_endings.py``.

``WSRPC_SOAK=1`` measures more than fits an ordinary test run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from engine_servers import redis_server
from measured import ITEM
from programs import listening, start
from raw_websocket import TEXT, raw_client
from redis import Redis
from served import HELLO, control

from wsrpc import Client, Limits, RemoteError

PROGRAM = [sys.executable, "-W", "error", str(Path(__file__).with_name("measured.py"))]
MIB = 1024 * 1024
BOUND = 64 * MIB

soak = pytest.mark.soak


class Measured:
    """A server in a process of its own, and a client that asks it for its memory."""

    def __init__(self, client: Client, url: str) -> None:
        self.client = client
        self.url = url
        self.port = urlsplit(url).port or 0

    async def state(self) -> tuple[int, int, int]:
        """Return its memory, and the numbers of sessions without a connection, and with one."""
        return await self.client.request("state", returns=tuple[int, int, int])

    async def served_during(self, flood: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Wait for all of a flood. The client is served meanwhile."""
        flooding, self.served = asyncio.gather(*flood), 0
        while not flooding.done():
            self.served += 1
            size = self.served % 100
            assert await self.client.request("kept", size, key=f"{size}") == "x" * size
        await flooding

    async def leave_after(self, *messages: object) -> int:
        """Begin a session, send messages that the server handles, and drop the connection.

        Returns how many sessions have no connection then.
        """
        async with raw_client(self.port) as raw:
            await raw.send(control(raw, HELLO, {"t": "ack", "n": 0, "bytes": 0}))
            for message in (*messages, {"i": 1, "a": ["state"]}):
                await raw.send(raw.frame(TEXT, json.dumps(message)))
            while json.loads((await raw.next_of(TEXT)).payload).get("i") != 1:
                pass
            raw.drop()
        while (found := await self.state())[2] != 1:
            pass
        return found[1]


@asynccontextmanager
async def measured(bound: int = BOUND, *options: str) -> AsyncGenerator[Measured]:
    async with listening(await start(*PROGRAM, str(bound), *options)) as url:
        async with Client(url) as client:
            yield Measured(client, url)


@soak
@pytest.mark.parametrize(
    ("count", "value"),
    [
        pytest.param(10, "x" * MIB, id="long texts"),
        pytest.param(5, [{}] * 20_000, id="what takes more once it is decoded"),
        pytest.param(5, {f"k{number}": 1.5 for number in range(100_000)}, id="what has many different keys"),
        pytest.param(1000, "", id="what takes little but its handler"),
    ],
)
async def test_what_handlers_of_sessions_without_a_connection_keep_counts(count: int, value: object) -> None:
    async with measured() as server:
        idle, before = (await server.state())[0], 0
        while (
            detached := await server.leave_after(*[{"i": i + 2, "a": ["work", value]} for i in range(count)])
        ) > before:
            before = detached
        assert BOUND / 2 < (await server.state())[0] - idle < BOUND * 2


@soak
async def test_small_messages_that_wait_count_with_what_keeps_them() -> None:
    async with measured() as server:
        idle = (await server.state())[0]
        for session in range(50):
            assert await server.leave_after({"a": ["join"]}) == session + 1
        grown = await server.client.request("broadcast", returns=int, timeout=None) - idle
        assert BOUND / 2 < grown < BOUND * 2


FILLING = "x" * (MIB // 4)


@pytest.mark.parametrize("features", [["credit"], pytest.param([], marks=soak)], ids=["wsrpc", "plain"])
@pytest.mark.parametrize("busy", [True, pytest.param(False, marks=soak)], ids=["unread", "in the hands of handlers"])
async def test_what_is_uploaded_to_slow_handlers_is_bounded(features: list[str], busy: bool) -> None:
    """The last item within the credit could be as large as `Limits.message_bytes`, on each channel."""
    small, large = ({"value": value, "done": False} for value in ("", "x" * 3 * MIB))
    async with measured() as server, raw_client(server.port) as raw:

        async def answers(count: int) -> list[dict[str, object]]:
            found = [json.loads((await raw.next_of(TEXT)).payload) for _ in range(count)]
            return [message for message in found if "x" in message]

        await raw.send(control(raw, HELLO | {"features": features}))
        await answers(1)
        idle = (await server.state())[0]
        for h in range(2, 26):
            await raw.send(raw.frame(TEXT, json.dumps({"i": h, "a": ["keep"]})))
            await answers(3 if features else 2)  # the channel, credit and `start`
        for h in range(2, 26):
            for item in (small, large) if busy else (large,):
                await raw.send(raw.frame(TEXT, json.dumps({"h": h, "a": ["next", item]})))
        await raw.send(raw.frame(TEXT, json.dumps({"i": 1, "a": ["state"]})))
        aborts = list[str]()
        while (message := json.loads((await raw.next_of(TEXT)).payload)).get("i") != 1:
            aborts += [message["x"]["message"]] if "x" in message else []
        assert len(aborts) == 19 and all("Limits.unread_bytes" in text for text in aborts)
        assert message["d"][0] - idle < 48 * MIB


@asynccontextmanager
async def stored(store: str) -> AsyncGenerator[tuple[str, Measured]]:
    """The URL of a Redis, and a server, which keeps results there or in its memory."""
    redis = redis_server()
    try:
        async with measured(BOUND, *[redis.url] * (store == "redis")) as server:
            yield redis.url, server
    finally:
        redis.kill()


async def read_one(eve: Client, key: str, items: tuple[int, int], stack: AsyncExitStack) -> None:
    """Read the first of a number of items of a size. Its handler runs on, and the stream stays open."""
    await anext(await stack.enter_async_context(eve.stream("kept download", *items, "", key=key)))


async def read_and_leave(eve: Client, key: str, items: tuple[int, int], more: str = "") -> None:
    async with eve.stream("kept download", *items, more, key=key) as stream:
        await anext(stream)


FLOODS: dict[str, tuple[int, Callable[[Client, str, AsyncExitStack], Awaitable[object]]]] = {
    "keys": (1500, lambda eve, key, stack: read_and_leave(eve, key, (1, 1))),
    "arguments": (80, lambda eve, key, stack: read_and_leave(eve, key, (1, 1), FILLING * 12)),
    # 20 at once fit within `Limits.hard_cap_bytes`: above that, an answer closes the connection.
    "results": (400, lambda eve, key, stack: eve.request("kept", MIB // 2, key=key)),
    "items": (400, lambda eve, key, stack: read_and_leave(eve, key, (13, ITEM))),
    "readers of small items": (1000, lambda eve, key, stack: read_one(eve, "k", (900, 1000), stack)),
    "readers of large items": (300, lambda eve, key, stack: read_one(eve, "k", (1, 900_000), stack)),
}


@soak
@pytest.mark.parametrize("store", ["memory", "redis"])
@pytest.mark.parametrize("flood", FLOODS)
async def test_calls_with_keys_of_one_client_take_no_more_than_its_share(flood: str, store: str) -> None:
    """Each key took 3 MiB for its arguments, and each reader of a large item from Redis 2 MiB."""
    count, attempt = FLOODS[flood]
    async with AsyncExitStack() as stack, stored(store) as (redis, server):
        client = Client(server.url, auth="eve", limits=Limits(sent_message_bytes=None))
        eve, streams = await stack.enter_async_context(client), await stack.enter_async_context(AsyncExitStack())
        keys, refused = map(str, range(count)), 0

        async def attempts() -> None:
            nonlocal refused
            for key in keys:
                try:
                    await attempt(eve, key, streams)
                except RemoteError:
                    refused += 1

        await server.client.request("kept", 1, key="first")
        idle = (await server.state())[0]
        await server.served_during(attempts() for _ in range(20))
        assert bool(refused) is not flood.startswith("readers")
        assert (await server.state())[0] - idle < 2 * BOUND
        with Redis.from_url(redis) as found:
            assert found.info("memory")["used_memory"] < 2 * BOUND


@soak
@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_joins_with_old_positions_from_many_connections_of_one_client_are_bounded(store: str) -> None:
    """Each of them makes the server read the log, and send it to a client that reads slowly."""
    async with AsyncExitStack() as stack, stored(store) as (_, server):
        clients = [await stack.enter_async_context(Client(server.url, auth="eve")) for _ in range(50)]

        async def join_and_leave(client: Client, count: int) -> None:
            rooms = client.of("rooms")
            client.on("said", lambda number, filling: None)
            rooms.on("missed", lambda room, position: None)
            for number in itertools.count():
                if number >= count and server.served > 1:  # others are served meanwhile
                    break
                await rooms.request("join", "log", {"after": f"{number}-forged"}, timeout=None)
                await rooms.request("leave", "log", timeout=None)

        await server.client.of("rooms").request("join", "log")
        await server.client.request("say", 900, timeout=None)
        idle = (await server.state())[0]
        await server.served_during(join_and_leave(client, 10) for client in clients)
        assert (await server.state())[0] - idle < 2 * BOUND
