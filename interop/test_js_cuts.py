"""Drops and returns between Python and JavaScript: what becomes of what comes late.

JavaScript's `bind()` keeps requests, handlers and channels of before, and lets them go on with the new socket. Here
they all do so, and must neither reach anybody on Python's side nor be reached from there.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from interop.agents import Agent
from interop.peers import DIALERS, Agents
from wsrpc import Client, ConnectionLost, Reconnect
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEYS = itertools.count(1)
"""For JavaScript's `wait` handlers, of which each has one of its own."""
SPEAK_4 = ["plain-4", *(name for name in DIALERS if name == "ws-wrapper-4")]


@dataclass(eq=False)
class Line:
    """A client in Python, and the agent, which binds each connection to the same wrapper."""

    agent: Agent
    proxy: FaultProxy
    client: Client
    js: int = -1
    opened: asyncio.Queue[Any] = field(default_factory=asyncio.Queue[Any])

    async def call(self, command: str, **fields: Any) -> Any:
        return await self.agent.call(command, **{"peer": self.js, **fields})

    @asynccontextmanager
    async def down(self) -> AsyncGenerator[None]:
        """The connection is cut, which JavaScript has seen in the block. After it they are connected again."""
        async with self.proxy.cut():
            await self.call("events", kind="close", at_least=1)
            yield
        await self.opened.get()


@pytest_asyncio.fixture(loop_scope="session", params=dict.fromkeys([*DIALERS, *SPEAK_4]))
async def line(request: pytest.FixtureRequest, agents: Agents) -> AsyncGenerator[Line]:
    agent, _ = await agents.get(request.param)
    await agent.call("set", middleware=None, error_props=False, messages=True)
    await agent.call("events")
    agent.logs.clear()
    async with FaultProxy((await agent.call("listen", path="/ws", keep=True))["url"]) as proxy:
        client = Client(proxy.url, reconnect=Reconnect(initial=0.005, max=0.02), proxy=None)
        made = Line(agent, proxy, client)
        client.on("open", made.opened.put_nowait)
        async with client:
            await made.opened.get()
            made.js = (await agent.call("state"))["peers"] - 1
            yield made
    await agent.call("set", messages=False)
    assert agent.logs == []
    assert (client.peer.pending, client.peer.active, client.peer.anonymous_channels) == (0, 0, 0)


async def test_answers_that_come_late(line: Line) -> None:
    """Hundreds of JavaScript's handlers answer requests of before, among hundreds of new ones. No id is used twice."""
    other = "channel" if line.agent.library in SPEAK_4 else "value"

    async def ask_all(*kinds: str) -> tuple[list[int], list[asyncio.Task[Any]]]:
        keys = list(itertools.islice(KEYS, len(kinds)))
        ask = line.client.request
        pairs = zip(keys, kinds, strict=True)
        tasks = [asyncio.create_task(ask("wait", key, kind, timeout=None)) for key, kind in pairs]
        await line.call("events", kind="started", at_least=len(keys))
        return keys, tasks

    old, tasks = await ask_all(*[other] * 50, *["value"] * 150, *[other] * 50, *["value"] * 150)
    async with line.down():
        for lost in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(lost, ConnectionLost) and (lost.code, lost.outcome) == (1006, "unknown")
        await line.call("answer", keys=old[:100])  # JavaScript keeps it for the next socket
        await line.call("answer", keys=old[100:200], fail=True)
    keys, tasks = await ask_all(*["value"] * 400)
    await line.call("answer", keys=old[200:300])
    await line.call("answer", keys=old[300:], fail=True)
    await line.client.request("echo", "what JavaScript sent before this answer has arrived")
    assert line.client.peer.ignored["response to no request"] == 400
    assert line.client.peer.pending == len(keys)
    assert not any(task.done() for task in tasks)
    await line.call("answer", keys=keys[::-1])
    assert await asyncio.gather(*tasks) == keys
    # Channels among the late answers are ignored like the rest: JavaScript keeps them until it says something there.
    assert (await line.call("state"))["channels"] == (100 if other == "channel" else 0)
    messages = [json.loads(entry["data"]) for entry in await line.call("events", kind="message")]
    ids = [message["i"] for message in messages if "a" in message]
    assert len(ids) == len(set(ids)) == 801
    assert min(ids) >= 2**30 and {number % 2 for number in ids} == {1}


@pytest.mark.parametrize("line", SPEAK_4, indirect=True)
async def test_a_stream_that_python_reads(line: Line) -> None:
    keys = list(itertools.islice(KEYS, 4))
    async with line.client.stream("steps", keys, returns=int) as stream:
        first = asyncio.create_task(anext(stream))
        await line.call("answer", keys=keys[:1])
        assert await first == keys[0]
        async with line.down():
            with pytest.raises(ConnectionLost):
                await anext(stream)
    await line.call("answer", keys=keys[1:2])
    await line.client.request("echo", "the item has arrived")
    await line.client.request("echo", "and so has the abort")
    messages = [json.loads(entry["data"]) for entry in await line.call("events", kind="message")]
    assert await line.call("events", kind="stream_ended", at_least=0) == []
    assert ["does not exist" in message["x"]["message"] for message in messages if "x" in message] == [True]
    await line.call("answer", keys=keys[2:3])
    (ended,) = await line.call("events", kind="stream_ended", at_least=1)
    assert ended["sent"] == 3
