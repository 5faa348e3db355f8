"""The contract of `wsrpc.store`, for each store, on real servers. `test_stores_lost` has what goes wrong."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from engine_servers import Started
from stores_in_use import STORES, Connect, add
from stores_in_use import connect as connect

from wsrpc.testing import STORE_CHECKS


@pytest.fixture(scope="session")
def servers() -> Generator[Started]:
    started = Started({kind: start for kind, (start, _) in STORES.items()})
    yield started
    started.kill()


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: Any, connect: Connect) -> None:
    await check(connect)


async def test_of_many_writers_the_first_are_forgotten(connect: Connect) -> None:
    """Each process that emits once is a writer: 5,000 of them made each step of Redis take 34 ms."""
    store = connect()
    for number in range(400):
        await add(store, f"w{number}", 1, b"x")
        if number % 100 == 0:
            lasting = (await add(store, "lasting", number + 1, b"x")).number
    assert (await add(store, "lasting", 301, b"x")).number == lasting
    assert (await add(store, "w0", 1, b"x")).number == 405
