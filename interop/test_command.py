"""The command `wsrpc` against servers in JavaScript and Go, which know nothing of wsrpc."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from typing import Any

import pytest

from interop import golang
from interop.agents import Agent
from interop.peers import COMBINATIONS, COMBINATIONS_4, Agents

pytestmark = pytest.mark.asyncio(loop_scope="session")

OLD = [library for library, role in COMBINATIONS if role == "js-serves" and library != "ws-wrapper-4"]
WITH_STREAMS = [*(library for library, role in COMBINATIONS_4 if role == "js-serves"), *golang.available_libraries()]
ALL = [OLD[0], WITH_STREAMS[0], WITH_STREAMS[-1]]


def options(library: str) -> list[str]:
    return ["--profile", "go"] if golang.plays(library) else []


async def start(command: str, url: str, *arguments: str) -> Process:
    words = [sys.executable, "-W", "error", "-m", "wsrpc", command, url, *arguments]
    return await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def run(command: str, url: str, *arguments: str, given: bytes = b"") -> tuple[int | None, str, str]:
    """The exit code, and what it prints to stdout and stderr."""
    process = await start(command, url, *arguments)
    out, err = await process.communicate(given)
    return process.returncode, out.decode(), err.decode()


async def next_peer(agent: Agent) -> int:
    """The agent's name for the next connection."""
    count: int = (await agent.call("state"))["peers"]
    return count


async def journal(agent: Agent, peer: int, kind: str) -> list[dict[str, Any]]:
    """What happened on a connection, once there is something."""
    entries: list[dict[str, Any]] = await agent.call("events", peer=peer, kind=kind, at_least=1)
    return entries


@pytest.mark.parametrize("library", ALL)
async def test_calls(agents: Agents, library: str) -> None:
    agent, url = await agents.get(library, read_limit=0)
    await agent.call("set", middleware=None, error_props=False)
    more = options(library)
    assert await run("call", url, "add", "2", "3", *more) == (0, "5\n", "")
    assert await run("call", url, "echo", '{"a": [1, null, "ä"]}', "--channel", "math", *more) == (
        0,
        '{"a":[1,null,"ä"]}\n',
        "",
    )
    assert await run("call", url, "fail", '"error"', *more) == (1, "", "wsrpc: it failed\n")
    code, out, err = await run("call", url, "nonesuch", *more)
    assert (code, out) == (1, "") and "nonesuch" in err


@pytest.mark.parametrize("library", ALL)
async def test_events_both_ways(agents: Agents, library: str) -> None:
    agent, url = await agents.get(library, read_limit=0)
    peer = await next_peer(agent)
    assert await run("emit", url, "log", "1", '"two"', *options(library)) == (0, "", "")
    [entry] = await journal(agent, peer, "event")
    assert entry["args"] == [1, "two"]
    listener = await start("listen", url, "--take", "2", *options(library))
    await journal(agent, peer + 1, "open")
    await agent.call("emit", peer=peer + 1, event="said", args=["hi", 1])
    await agent.call("emit", peer=peer + 1, event="left", args=[], channel="math")
    out, err = await listener.communicate()
    assert (listener.returncode, err) == (0, b"")
    lines = [json.loads(line) for line in out.splitlines()]
    found = {(line["channel"], line["event"], *line["args"]) for line in lines}
    assert found == {(None, "said", "hi", 1), ("math", "left")}


@pytest.mark.parametrize("library", ALL[1:])
async def test_streams_and_uploads(agents: Agents, library: str) -> None:
    agent, url = await agents.get(library, read_limit=0)
    more = options(library)
    assert await run("stream", url, "count", "3", *more) == (0, "0\n1\n2\n", "")
    peer = await next_peer(agent)
    assert await run("stream", url, "ticks", "1", "--take", "2", *more) == (0, "0\n1\n", "")
    await journal(agent, peer, "stream_ended")
    assert await run("upload", url, "total", "{}", "-", *more, given=b"1\n2\n3\n") == (0, "6\n", "")
