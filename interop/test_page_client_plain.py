"""A page's client with servers that are not wsrpc's: ws-wrapper 2, 3 and 4, and Go. It uses what is there."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from interop import golang, node
from interop.agents import Agent
from interop.page_client import Page, words

OLD = [name for name, _ in node.available_libraries() if name != "ws-wrapper-4"]
NEW = ["plain-4", "plain-server-2", *(name for name, _ in node.available_libraries() if name == "ws-wrapper-4")]
GO = golang.available_libraries()


def ignored(library: str, connections: int) -> dict[str, int]:
    """What a page counts: ws-server-wrapper 1 sends its own event "connection" to the clients."""
    return {"unknown event": connections} if library == "ws-server-wrapper" else {}


@asynccontextmanager
async def connected(library: str, codec: str = "json") -> AsyncGenerator[tuple[Agent, Page]]:
    async with Agent.start(library) as agent:
        url = (await agent.call("listen"))["url"]
        async with Page.start(url, codec=codec, tokens=False, options={"requestTimeout": 20_000}) as page:
            await page.notes.until("open")
            yield agent, page


@pytest.mark.parametrize(("library", "codec"), [*zip([*OLD, *NEW, *GO], itertools.cycle(["json", "msgpack"]))])
async def test_requests_and_events(library: str, codec: str) -> None:
    async with connected(library, codec) as (agent, page):
        assert await page.do("ask", name="add", args=[2, 3]) == 5
        assert await page.do("ask", name="add", args=[2, 3], channel="math") == 5
        value = [{"a": [1, "é😀", None]}, 0.5]
        assert await page.do("ask", name="echo", args=[value]) == value
        assert await page.run("return String(await client.request('nil'))") in ("null", "undefined")
        assert words(await (await page.call("request", name="nobody"))) == "Remote ran"
        assert words(await (await page.call("request", name="nobody", channel="nowhere"))) == "Remote ran"
        failed = await (await page.call("request", name="fail", args=["error"]))
        assert failed["error"]["message"] == "it failed"
        assert words(await (await page.call("request", name="add", args=[2, 3], key="k"))) == "Refused not_sent"
        # The server's requests to the page, while that waits for its answer.
        assert await page.do("ask", name="ask", args=["values", 7]) == 7
        refused = await page.do("ask", name="ask", args=["nobody"])
        assert "No event listener for 'nobody'" in refused["error"]["message"]
        assert await page.run("client.emit('log', 1); client.of('math').emit('log', 2)") is None
        events = await agent.call("events", kind="event", at_least=2)
        assert [(entry["channel"], entry["args"]) for entry in events] == [(None, [1]), ("math", [2])]
        await agent.call("emit", event="event")
        await page.notes.until("began")
        # Those that know cancellation are told; the answer that comes too late is not counted.
        call = await page.call("request", name="hang")
        await agent.call("events", kind="started", at_least=1)
        await page.abort(call, "text")
        assert words(await call) == "Abort unknown"
        if "cancels" in agent.can:
            assert await agent.call("events", kind="aborted", at_least=1)
        assert await page.do("ask", name="add", args=[2, 3]) == 5
        # A connection that drops is lost with its calls, and the next one is made.
        call = await page.call("request", name="hang")
        await agent.call("events", kind="started", at_least=1)
        await agent.call("terminate")
        assert words(await call) == "ConnectionLost 1006 unknown"
        await page.notes.until("open", 2)
        assert await page.do("ask", name="add", args=[2, 3]) == 5
        assert await page.do("ignored") == ignored(library, 2)


THROWN = {
    "string": ("just text", "just text"),
    "object": ("[object Object]", {"reason": "because", "attempt": 1}),
    "null": ("null", None),
    "type": ("wrong type", {"message": "wrong type"}),
    "async": ("failed later", {"message": "failed later"}),
}


@pytest.mark.parametrize("library", [OLD[0], NEW[0]])
async def test_what_javascript_throws(library: str) -> None:
    # 4.3.1 makes an error of null
    thrown = THROWN | ({"null": ("Error", {"message": "Error"})} if library == "plain-4" else {})
    async with connected(library) as (_agent, page):
        for kind, (message, value) in thrown.items():
            told = await (await page.call("request", name="fail", args=[kind]))
            assert (words(told), told["error"]["message"]) == ("Remote ran", message)
            code = f"return await client.request('fail', '{kind}').catch((error) => error.value)"
            assert await page.run(code) == value


ERROR = ".catch((error) => error.message)"
STREAMS: list[tuple[str, Any]] = [
    ("for await (const item of client.stream('count', 100)) note.push(item); return note.length", 100),
    ("for await (const item of client.stream('count', 0)) note.push(item); return note.length", 0),
    ("for await (const item of client.stream('ticks', 1)) if (note.push(item) === 3) break; return note", [0, 1, 2]),
    ("for await (const item of client.stream('count_list', 3)) note.push(item); return note", [0, 1, 2]),
    (
        "try { for await (const item of client.stream('count_then_fail', 2)) note.push(item) }"
        "catch (error) { note.push(error.message) } return note",
        [0, 1, "the stream failed"],
    ),
    (
        "const controller = new AbortController();"
        "try { for await (const item of client.with(controller).stream('ticks', 1)) {"
        "  note.push(item); controller.abort() } }"
        "catch (error) { note.push(error.name, error.outcome) } return note",
        [0, "AbortError", "unknown"],
    ),
    ("return await client.upload('total', [1, 2, 3])", 6),
    ("return await client.upload('total', [])", 0),
    ("return await client.upload('total', [1, 2, 3, 4], { enough: 3 })", 3),
    (f"return await client.upload('total', [1, 2, 3], {{ wrong: 2 }}){ERROR}", "the sum is wrong"),
    (f"return await client.upload('total', [1, 2, 3], {{ wrong: 2, abort: true }}){ERROR}", "the sum is wrong"),
    (
        "const channel = await client.open('channel_make'); const sum = await channel.request('add', 1, 2);"
        "channel.close(); return [sum, await channel.closed === undefined]",
        [3, True],
    ),
    (
        "const channel = await client.open('channel_talk', 3);"
        "await new Promise((done) => channel.on('line', (line) => note.push(line) === 3 && done()));"
        "channel.abort(); return note",
        [0, 1, 2],
    ),
    ("return await client.request('channel_make')", None),
    (f"return await client.open('add', 1, 2){ERROR}", '"add" answers with a value: use request()'),
]


def go_has(code: str) -> bool:
    """Its ``total`` takes all that there is, and it streams no list; see `interop.agents`."""
    return not any(other in code for other in ("count_list", "enough", "wrong", "'total', [])"))


@pytest.mark.parametrize("library", [*NEW, *GO])
async def test_streams_uploads_and_channels(library: str) -> None:
    async with connected(library) as (_agent, page):
        for code, result in STREAMS:
            if library in NEW or go_has(code):
                assert (code, await page.run(f"const note = []; {code}")) == (code, result)
                assert await page.do("ask", name="add", args=[2, 3]) == 5
                assert await page.do("ignored") == {}
