"""The command `wsrpc` against servers in JavaScript and Go, which know nothing of wsrpc."""

from __future__ import annotations

import pytest
from programs import PYTHON, start

from interop import golang
from interop.peers import COMBINATIONS, COMBINATIONS_4, Agents

pytestmark = pytest.mark.asyncio(loop_scope="session")

OLD = [library for library, role in COMBINATIONS if role == "js-serves" and library != "ws-wrapper-4"]
WITH_STREAMS = [library for library, role in COMBINATIONS_4 if role == "js-serves"] + golang.available_libraries()


async def run(command: str, url: str, *arguments: str) -> tuple[int | None, str, str]:
    """The exit code, and what it prints to stdout and stderr."""
    process = await start(*PYTHON, "-m", "wsrpc", command, url, *arguments)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("library", [OLD[0], WITH_STREAMS[0], WITH_STREAMS[-1]])
async def test_calls(agents: Agents, library: str) -> None:
    agent, url = await agents.get(library, read_limit=0)
    await agent.call("set", middleware=None, error_props=False)
    more = ["--profile", "go"] if golang.plays(library) else []
    assert await run("call", url, "add", "2", "3", *more) == (0, "5\n", "")
    value = '{"a":[1,null,"ä"]}'
    assert await run("call", url, "echo", value, "--channel", "math", *more) == (0, f"{value}\n", "")
    assert await run("call", url, "fail", '"error"', *more) == (1, "", "wsrpc: it failed\n")
    if library in WITH_STREAMS:
        assert await run("stream", url, "count", "3", *more) == (0, "0\n1\n2\n", "")
    code, out, err = await run("call", url, "nonesuch", *more)
    assert (code, out) == (1, "") and "nonesuch" in err
