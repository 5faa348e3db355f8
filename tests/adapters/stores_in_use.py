"""Stores under test, by one interface: in memory and Redis. To test another store, add it to `STORES`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from itertools import count
from typing import Any, Protocol, TypeVar

import pytest
from engine_servers import ServerProcess, redis_server

from wsrpc.store import Added, MemoryStore, NewRun, Page, RunState, Store
from wsrpc_adapters.redis import RedisStore

T = TypeVar("T")
NUMBERS = count()


class Connect(Protocol):
    def __call__(self, **options: Any) -> Store: ...


def connect_in_memory(_: str) -> Connect:
    stores: list[Store] = []

    def connect(**options: Any) -> Store:
        if not stores:
            stores.append(MemoryStore(**options))
        return stores[0]

    return connect


def connect_to_redis(url: str) -> Connect:
    name = f"test-{next(NUMBERS)}"
    return lambda **options: RedisStore(url, name=name, **options)


STORES: dict[str, tuple[Callable[[], ServerProcess] | None, Callable[[str], Connect]]] = {
    "memory": (None, connect_in_memory),
    "redis": (redis_server, connect_to_redis),
}
"""How to start the server of each kind of store, and to connect to an empty store on it, given its URL."""


@pytest.fixture(params=STORES)
async def connect(request: pytest.FixtureRequest, servers: Callable[[str], str]) -> AsyncGenerator[Connect]:
    """Connects to the store of the test, as each process does. The options are those of the first call."""
    connect = STORES[request.param][1](servers(request.param))
    made: list[Store] = []

    def noted(**options: Any) -> Store:
        made.append(connect(**options))
        return made[-1]

    yield noted
    for store in made:
        await store.close()


def new_run(id: str, **fields: Any) -> NewRun:
    defaults: dict[str, Any] = {"arguments": "[1]", "payer": "ann", "keep": 60.0}
    return NewRun(id=id, **(defaults | fields))


async def add(
    store: Store, writer: str, sequence: int, *items: bytes, key: str = "k", payer: str = "ann", keep: float = 60.0
) -> Added:
    log = NewRun(id=f"log-{writer}", arguments="", payer=payer, keep=keep)
    return await store.add(key, log, writer, sequence, items)


async def until(ask: Callable[[], Awaitable[T]], condition: Callable[[T], object]) -> T:
    """Ask again and again, and return the answer for which the condition holds."""
    async with asyncio.timeout(30):
        while True:
            answer = await ask()
            if condition(answer):
                return answer
            await asyncio.sleep(0.002)


async def state_of(store: Store, key: str = "k") -> RunState | None:
    page = await store.read(key, 2**53 - 1)
    return None if page is None else page.state


async def page_of(store: Store, after: int = 0, key: str = "k", **options: Any) -> Page:
    page = await store.read(key, after, **options)
    assert page is not None
    return page


async def items_of(store: Store, after: int = 0, key: str = "k") -> list[bytes]:
    """Read all items that are there, page by page."""
    items: list[bytes] = []
    while (page := await page_of(store, after, key)).items:
        assert page.number == after + 1
        after += len(page.items)
        items += page.items
    return items


async def next_items(store: Store, after: int, key: str = "k", reader: str = "") -> list[bytes]:
    """Wait for items. A read may return earlier without any."""
    async with asyncio.timeout(30):
        while True:
            page = await page_of(store, after, key, reader=reader, wait=30)
            if page.items or page.state.end is not None:
                return list(page.items)
