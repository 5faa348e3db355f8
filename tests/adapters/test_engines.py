"""The contract of `wsrpc.cluster.engine`, for each engine, on real servers. `test_engines_lost` has what goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from engine_servers import EngineServer
from engines_in_use import CONNECT, KINDS, START

from wsrpc.cluster import MemoryEngine
from wsrpc.testing import ENGINE_CHECKS


@pytest.fixture(scope="session")
def servers() -> Generator[Callable[[str], EngineServer]]:
    """The servers that all tests share, each started when it is first asked for."""
    started: dict[str, EngineServer] = {}

    def server(kind: str) -> EngineServer:
        if kind not in started:
            started[kind] = START[kind]()
        return started[kind]

    yield server
    for process in started.values():
        process.kill()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda check: check.__name__)
async def test_the_contract(check: Any, kind: str, servers: Callable[[str], EngineServer]) -> None:
    engine = MemoryEngine()
    await check(lambda: engine if kind == "memory" else CONNECT[kind](servers(kind).url))
