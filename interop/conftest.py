"""Fixtures of the tests against JavaScript and Go. One event loop serves a whole run, because the agents live in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress

import pytest
import pytest_asyncio
from effort import LEFT_OUT

from interop.agents import Agent
from interop.matrix import Cell, Matrix
from interop.peers import (
    COMBINATIONS,
    COMBINATIONS_4,
    COUNTERPARTS,
    GO_COMBINATIONS,
    Agents,
    Counterpart,
    Link,
    named,
    nothing_open,
)

collect_ignore = LEFT_OUT


def pytest_addoption(parser: pytest.Parser) -> None:
    with suppress(ValueError):  # it is there: tests/browser/conftest.py has this function, too
        parser.addoption("--matrix-write", action="store_true", help="write matrix.json anew")


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin("matrix"):
        config.addinivalue_line("markers", "behaviour(row): fills that row of docs/reference/compatibility.md")
        config.pluginmanager.register(Matrix(config), "matrix")


@pytest.fixture(params=COUNTERPARTS, ids=named(COUNTERPARTS))
def counterpart(request: pytest.FixtureRequest) -> Counterpart:
    """Each column of docs/reference/compatibility.md."""
    found: Counterpart = request.param
    return found


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> Cell:
    """What the test finds out is put there."""
    return Cell(request.node.user_properties)


@pytest_asyncio.fixture(loop_scope="session")
async def each_link(counterpart: Counterpart, agents: Agents) -> AsyncGenerator[Link]:
    """A connection with each counterpart."""
    async with agents.link(*counterpart) as made:
        yield made


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def agents() -> AsyncGenerator[Agents]:
    async with AsyncExitStack() as stack:

        async def start(library: str) -> Agent:
            return await stack.enter_async_context(Agent.start(library))

        yield Agents(start)


@pytest_asyncio.fixture(loop_scope="session", params=COMBINATIONS, ids=named(COMBINATIONS))
async def link(request: pytest.FixtureRequest, agents: Agents) -> AsyncGenerator[Link]:
    """A connection to each library in each role."""
    library, role = request.param
    async with agents.link(library, role) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session", params=COMBINATIONS_4, ids=named(COMBINATIONS_4))
async def link_4(request: pytest.FixtureRequest, agents: Agents) -> AsyncGenerator[Link]:
    """A connection to what speaks as ws-wrapper 4.x, in each role; afterwards neither side has a channel left."""
    library, role = request.param
    async with agents.link(library, role) as made:
        yield made
        await nothing_open(made)


@pytest.fixture(params=GO_COMBINATIONS, ids=named(GO_COMBINATIONS))
def gopher(request: pytest.FixtureRequest) -> Counterpart:
    """Go over each of its WebSocket libraries, in each role."""
    found: Counterpart = request.param
    return found


@pytest_asyncio.fixture(loop_scope="session")
async def go_link(gopher: Counterpart, agents: Agents) -> AsyncGenerator[Link]:
    """A connection to Go as it is by itself, from a Python that knows that it is Go; nothing is left afterwards."""
    async with agents.link(*gopher, read_limit=0, profile="go") as made:
        yield made
        await nothing_open(made)
