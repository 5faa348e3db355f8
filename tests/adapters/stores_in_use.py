"""Stores under test, by one interface. To test another store, add it to `STORES`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from engine_servers import EngineServer, PostgresServer, RedisClusterServers, Started, redis_server

from wsrpc.store import MemoryStore, SqliteStore, Store
from wsrpc.testing._store_tools import Connect, add, add_own, end, entries_of, listed, new_log, page_of, state_of
from wsrpc.testing._store_tools import until as eventually
from wsrpc_adapters import _broker_connection, _postgres_connections, _redis_store
from wsrpc_adapters.postgres import PostgresStore
from wsrpc_adapters.redis import RedisStore

__all__ = [
    "STORES",
    "Connect",
    "add",
    "add_own",
    "connect",
    "end",
    "entries_of",
    "eventually",
    "listed",
    "new_log",
    "next_entries",
    "page_of",
    "patient",
    "state_of",
]

NUMBERS = count()


def connect_in_memory(_: str) -> Connect:
    stores: list[Store] = []

    def connect(**options: Any) -> Store:
        if not stores:
            stores.append(MemoryStore(**options))
        return stores[0]

    return connect


def connect_to_file(folder: str) -> Connect:
    stores: list[Store] = []

    def connect(**options: Any) -> Store:
        if not stores:
            stores.append(SqliteStore(Path(folder, "store.db"), **options))
        return stores[0]

    return connect


def connect_to_redis(url: str) -> Connect:
    name = f"test-{next(NUMBERS)}"
    return lambda **options: RedisStore(url, name=name, **options)


def connect_to_postgres(url: str) -> Connect:
    schema = f"test_{next(NUMBERS)}"
    return lambda **options: PostgresStore(url, schema=schema, **options)


STORES: dict[str, tuple[Callable[[], EngineServer] | None, Callable[[str], Connect]]] = {
    "memory": (None, connect_in_memory),
    "file": (None, connect_to_file),
    "redis": (redis_server, connect_to_redis),
    "redis cluster": (RedisClusterServers, connect_to_redis),
    "postgres": (PostgresServer, connect_to_postgres),
}
"""How to start the server of each kind of store, and to connect to an empty store on it, given its URL, or a
folder."""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a minute for answers: in less, a server on a busy machine says nothing of what uses it."""
    monkeypatch.setattr(_postgres_connections, "STEP_TIMEOUT", 60.0)
    for module in (_redis_store, _broker_connection):
        monkeypatch.setattr(module, "RESPONSE_TIMEOUT", 60.0)


@pytest.fixture(params=STORES)
async def connect(request: pytest.FixtureRequest, servers: Started, tmp_path: Path) -> AsyncGenerator[Connect]:
    """Connects to the store of the test, as each process does. The options are those of the first call."""
    connect = STORES[request.param][1](servers.url(request.param) or str(tmp_path))
    made: list[Store] = []

    def noted(**options: Any) -> Store:
        made.append(connect(**options))
        return made[-1]

    yield noted
    for store in made:
        await store.close()


async def next_entries(store: Store, after: int, key: str = "k") -> list[bytes]:
    """Wait for entries. A read may return earlier without any."""
    while True:
        page = await page_of(store, after, key, wait=3000)
        if page.entries or page.state.end is not None:
            return list(page.entries)
