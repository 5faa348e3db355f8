"""The contract of `wsrpc.cluster.engine`, for each engine, on real servers. `test_engines_lost` has what goes wrong."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from engine_servers import Started
from engines_in_use import CONNECT, START

from wsrpc.cluster import MemoryEngine
from wsrpc.testing import ENGINE_CHECKS


@pytest.fixture(scope="session")
def servers() -> Generator[Started]:
    started = Started({"memory": None, **START})
    yield started
    started.kill()


@pytest.mark.parametrize("kind", ["memory", *START])
@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: Any, kind: str, servers: Started) -> None:
    engine = MemoryEngine()
    await check(lambda: engine if kind == "memory" else CONNECT[kind](servers.url(kind)))
