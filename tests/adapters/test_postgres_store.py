"""`PostgresStore`, whose server crashes or hangs. `test_stores` has the rest of the contract."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Generator
from typing import Any

import asyncpg
import pytest
from engine_servers import PostgresServer
from leftovers import open_sockets
from stores_in_use import add, add_own, entries_of, eventually, new_log, next_entries

from wsrpc.store import FORMAT, StoreLost
from wsrpc_adapters import _postgres_connections
from wsrpc_adapters.postgres import PostgresStore


@pytest.fixture(scope="module")
def server() -> Generator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.kill()


@pytest.fixture
async def store(server: PostgresServer, request: pytest.FixtureRequest) -> AsyncGenerator[PostgresStore]:
    store = PostgresStore(server.url, schema=request.node.name, lease=60)
    yield store
    await store.close()


@pytest.mark.parametrize(("url", "schema"), [("postgresql://u:pw@h:x/db", "wsrpc"), ("postgresql://h/db", 'a"; DROP')])
def test_options_that_are_not_valid(url: str, schema: str) -> None:
    with pytest.raises(ValueError, match=r"not a valid URL|schema= has small letters") as raised:
        PostgresStore(url, schema=schema)
    assert "pw" not in str(raised.value)


def test_one_store_in_two_event_loops(server: PostgresServer) -> None:
    store = PostgresStore(server.url, schema="loops")

    async def use(number: int) -> None:
        await asyncio.gather(*(store.open(f"{number}.{key}", new_log("a")) for key in range(20)))
        await store.close()

    for number in range(2):
        asyncio.run(use(number))


async def calls_fail(store: PostgresStore) -> None:
    calls = (
        *(store.open("k2", new_log("b")), add_own(store, 2, b"x"), add(store, "w", 1, b"x", key="room")),
        *(store.read("k", 0), store.read("k", 1, wait=30), store.hold("p", {"k": "a"}, {"k": 1})),
        *(store.adopt("k", "a", "p"), store.pending("t", 0), store.topics(0), store.release({"k": "a"})),
    )
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [result for result in results if not isinstance(result, StoreLost)] == []


async def test_logs_of_another_format_are_left_alone(server: PostgresServer, store: PostgresStore) -> None:
    await store.open("k", new_log("a"))
    await store.close()
    db = await asyncpg.connect(server.url)
    await db.execute("UPDATE test_logs_of_another_format_are_left_alone.format SET version = version + 1")
    await db.close()
    with pytest.raises(StoreLost, match=f"has the format {FORMAT + 1}, and this version of wsrpc {FORMAT}"):
        await store.open("k", new_log("b"))
    await calls_fail(store)


async def test_a_server_that_crashes_has_all_that_it_acknowledged(server: PostgresServer, store: PostgresStore) -> None:
    sockets = open_sockets()
    await store.open("k", new_log("a"))
    await add_own(store, 1, b"1")

    async def read_on() -> None:
        while True:  # a read may be woken while the process of its connection has not ended yet
            await store.read("k", 1, wait=30)

    reader = asyncio.create_task(read_on())
    await store.read("k", 1, wait=0.1)
    await asyncio.to_thread(server.crash)
    with pytest.raises(StoreLost):
        await reader
    await calls_fail(store)
    await asyncio.to_thread(server.start)
    assert await entries_of(store) == [b"1"]
    again = asyncio.create_task(next_entries(store, 1))
    await store.read("k", 1, wait=0.1)
    await add_own(store, 2, b"2")
    assert await again == [b"2"]
    await store.close()
    assert open_sockets() == sockets


async def test_a_server_that_does_not_answer(
    server: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = open_sockets()
    await store.open("k", new_log("a"))
    await add_own(store, 1, b"1")
    other: Any = await asyncpg.connect(server.url)
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE test_a_server_that_does_not_answer.log")
            monkeypatch.setattr(_postgres_connections, "STEP_TIMEOUT", 1.0)
            await calls_fail(store)
            monkeypatch.setattr(_postgres_connections, "STEP_TIMEOUT", 60.0)
            cancelled = asyncio.create_task(store.read("k", 0))
            await asyncio.wait((cancelled,), timeout=0.5)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
    finally:
        await other.close()
    assert await eventually(lambda: entries_of(store), bool) == [b"1"]
    await add_own(store, 2, b"2")
    await store.close()
    assert open_sockets() == sockets


async def test_a_store_that_closes_while_calls_are_cancelled(server: PostgresServer) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    for turns in range(0, 60, 3):
        store = PostgresStore(server.url, schema="cancelled")
        calls = [asyncio.create_task(store.read("k", 0)) for _ in range(6)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await store.close()
        del calls
        gc.collect(1)
    assert complaints == []


async def test_a_call_that_is_cancelled_again_as_it_ends(server: PostgresServer, store: PostgresStore) -> None:
    await store.open("k", new_log("a"))
    other: Any = await asyncpg.connect(server.url)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    try:
        for turns in range(0, 10, 2):
            async with other.transaction():
                await other.execute("LOCK TABLE test_a_call_that_is_cancelled_again_as_it_ends.log")
                cancelled = asyncio.create_task(store.read("k", 0))
                await eventually(lambda: other.fetchval(waits), bool)
                cancelled.cancel()
                for _ in range(turns):
                    await asyncio.sleep(0)
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
    finally:
        await other.close()
    await add_own(store, 1, b"1")
    assert await entries_of(store) == [b"1"]


async def test_processes_that_start_together_make_the_tables_once(server: PostgresServer) -> None:
    stores = [PostgresStore(server.url, schema="together") for _ in range(8)]
    for state in await asyncio.gather(*(store.open("k", new_log("a")) for store in stores)):
        assert (state.id, state.last) == ("a", 0)
    for store in stores:
        await store.close()
