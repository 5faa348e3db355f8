"""The contract of `wsrpc.store`, for each store, on real servers. `test_stores_lost` has what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from engine_servers import ServerProcess
from stores_in_use import STORES, Connect, add
from stores_in_use import connect as connect

from wsrpc.testing import STORE_CHECKS
from wsrpc_adapters import _redis_store


@pytest.fixture(scope="session")
def servers() -> Generator[Callable[[str], str]]:
    """The URLs of the servers that all tests share, each started when it is first asked for."""
    started: dict[str, ServerProcess] = {}

    def url(kind: str) -> str:
        start = STORES[kind][0]
        if start is not None and kind not in started:
            started[kind] = start()
        return started[kind].url if kind in started else ""

    yield url
    for server in started.values():
        server.kill()


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: Any, connect: Connect) -> None:
    await check(connect)


async def test_writers_are_forgotten_after_a_while(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsrpc._log.memory_store.REMEMBERED", 0.0)
    monkeypatch.setattr("postgres_store.REMEMBERED", 0.0)
    steps = _redis_store.STEPS.replace("REMEMBERED = 600000", "REMEMBERED = -1")
    monkeypatch.setattr(_redis_store, "STEPS", steps)
    store = connect()
    for writer, number in (("w", 1), ("w", 1), ("v", 2), ("w", 3)):
        assert (await add(store, writer, 1, b"x")).number == number
