"""The agent against itself, JavaScript to JavaScript: what the other interop tests stand on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interop.agents import Agent, AgentError
from interop.node import available_libraries, find_node

LIBRARIES = [name for name, _ in available_libraries()]
# Each library serves; one that can dial dials itself, and 3.x dials for the one that cannot.
# The program that plays 4.x speaks with itself and, where 4.x is to be had, with that.


async def test_libraries_are_what_they_say() -> None:
    for name, version in available_libraries():
        async with Agent.start(name) as agent:
            assert (agent.library, agent.version) == (name, version)
            assert (await agent.call("state"))["peers"] == 0


async def test_several_connections() -> None:
    async with Agent.start("ws-wrapper") as server, Agent.start("ws-wrapper") as client:
        url = (await server.call("listen"))["url"]
        for k in range(3):
            assert (await client.call("connect", url=url))["peer"] == k
            await server.call("events", kind="open", at_least=1)
        await server.call("emit", event="log", args=["newest"])
        await server.call("emit", event="log", args=["first"], peer=0)
        entries = await client.call("events", kind="event", at_least=2)
        assert sorted((entry["peer"], *entry["args"]) for entry in entries) == [(0, "first"), (2, "newest")]
        assert (await server.call("state", peer=0))["peers"] == 3


async def test_what_cannot_be_done_says_so() -> None:
    async with Agent.start("ws-wrapper") as agent, Agent.start("ws-server-wrapper") as server:
        with pytest.raises(AgentError, match="no command 'dance'"):
            await agent.call("dance")
        with pytest.raises(AgentError, match="no connection yet"):
            await agent.call("emit", event="log")
        with pytest.raises(AgentError, match="cannot cancel"):
            await agent.call("cancel", ref="r")
        with pytest.raises(AgentError, match="only serves"):
            await server.call("connect", url="ws://127.0.0.1:1/")
        port = (await server.call("listen"))["port"]
        with pytest.raises(AgentError, match="EADDRINUSE"):
            await agent.call("listen", port=port)


async def test_the_end_of_the_agent_ends_its_calls() -> None:
    async with Agent.start("ws-wrapper") as agent:
        waiting = asyncio.create_task(agent.call("events", at_least=1))
        await agent.call("exit")
        with pytest.raises(AgentError, match="ended with status 0"):
            await waiting
        with pytest.raises(AgentError, match="ended with status 0"):
            await agent.call("state")
    with pytest.raises(AgentError, match="unknown library 'nonesuch'"):
        async with Agent.start("nonesuch"):
            raise AssertionError("it must not come up")


def test_missing_pieces_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("WS_WRAPPER_4", str(tmp_path))
    with pytest.raises(RuntimeError, match="no JavaScript package"):
        available_libraries()
    monkeypatch.setattr("interop.node.JS", tmp_path)
    with pytest.raises(RuntimeError, match="npm install"):
        available_libraries()
    find_node.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("interop.node._wheel_node", lambda: None)
    with pytest.raises(RuntimeError, match="install Node >= 18 or run `make test`"):
        find_node()
