"""The agent against itself, JavaScript to JavaScript: what the other interop tests stand on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from interop.agents import Agent, AgentError
from interop.node import available_libraries, find_node

LIBRARIES = [name for name, _ in available_libraries()]
# Each library serves; one that can dial dials itself, and 3.x dials for the one that cannot.
PAIRS = [(name, "ws-wrapper" if name == "ws-server-wrapper" else name) for name in LIBRARIES]
# The program that plays 4.x speaks with itself and, where 4.x is to be had, with that.
SPEAK_4 = ["plain-4", *(["ws-wrapper-4"] if "ws-wrapper-4" in LIBRARIES else [])]
PAIRS_4 = list(itertools.product(SPEAK_4, SPEAK_4))


@dataclass
class Pair:
    server: Agent
    client: Agent

    def both_ways(self) -> list[tuple[Agent, Agent]]:
        """(who speaks, who is spoken to), in either role."""
        return [(self.client, self.server), (self.server, self.client)]


@asynccontextmanager
async def connected(served: str, dialed: str) -> AsyncGenerator[Pair]:
    async with AsyncExitStack() as stack:
        server, client = await asyncio.gather(
            stack.enter_async_context(Agent.start(served)),
            stack.enter_async_context(Agent.start(dialed)),
        )
        url = (await server.call("listen", path="/ws"))["url"]
        await client.call("connect", url=url)
        await server.call("events", kind="open", at_least=1)
        yield Pair(server, client)
        assert server.logs == []
        assert client.logs == []


@pytest_asyncio.fixture(params=PAIRS, ids=[f"{served}<-{dialed}" for served, dialed in PAIRS])
async def pair(request: pytest.FixtureRequest) -> AsyncGenerator[Pair]:
    async with connected(*request.param) as made:
        yield made


async def ask(agent: Agent, event: str, *args: Any, **fields: Any) -> Any:
    return await agent.call("request", event=event, args=list(args), **fields)


async def test_libraries_are_what_they_say() -> None:
    for name, version in available_libraries():
        async with Agent.start(name) as agent:
            assert (agent.library, agent.version) == (name, version)
            assert (await agent.call("state"))["peers"] == 0


async def test_requests(pair: Pair) -> None:
    for caller, _ in pair.both_ways():
        for channel in (None, "math"):
            answer = await ask(caller, "add", 1, 2, channel=channel)
            assert answer == {"resolved": 3, "undefined": False}
        value = [{"a": [1, None]}, "ünï\u2028\U0001f600", 0, False]
        assert (await ask(caller, "args", *value))["resolved"] == value
        assert (await ask(caller, "slow", 1))["resolved"] == 1
        assert len((await ask(caller, "blob", 1_000_000))["resolved"]) == 1_000_000
        assert (await ask(caller, "size", "x" * 1_000_000))["resolved"] == 1_000_000


async def test_requests_from_inside_a_handler(pair: Pair) -> None:
    for caller, _ in pair.both_ways():
        for channel in (None, "math"):
            assert (await ask(caller, "ask", "add", 20, 1, channel=channel))["resolved"] == 21
            assert (await ask(caller, "ask", "ask", "add", 2, 3, channel=channel))["resolved"] == 5
            sums = (await ask(caller, "askMany", "add", 50, channel=channel))["resolved"]
            assert sums == list(range(1, 51))


async def test_undefined_and_null(pair: Pair) -> None:
    for caller, _ in pair.both_ways():
        assert await ask(caller, "nothing") == {"resolved": None, "undefined": True}
        for null in (await ask(caller, "nil"), await ask(caller, "echo", None)):
            if caller.library == "ws-wrapper-4":
                # Its handlers answer null with an anonymous channel, by mistake.
                assert set(null["resolved"]) == {"$channel"}
            else:
                assert null == {"resolved": None, "undefined": False}


async def test_errors(pair: Pair) -> None:
    for caller, handler in pair.both_ways():
        plain: dict[str, Any] = {
            "is_error": True,
            "name": "Error",
            "message": "it failed",
            "value": None,
            "props": {},
        }
        assert await ask(caller, "fail", "error") == {"rejected": plain}
        await handler.call("set", error_props=True)
        told = (await ask(caller, "fail", "error"))["rejected"]
        assert told["props"] == {"code": "E_FAIL", "detail": {"attempt": 1}}
        assert (await ask(caller, "fail", "type"))["rejected"]["message"] == "wrong type"
        assert (await ask(caller, "fail", "async"))["rejected"]["message"] == "failed later"
        thrown = (await ask(caller, "fail", "object"))["rejected"]
        assert (thrown["is_error"], thrown["value"]) == (False, {"reason": "because", "attempt": 1})
        text = (await ask(caller, "fail", "string"))["rejected"]
        # Up to 3.x a text becomes an Error on the way in; 4.x leaves it as it is.
        assert (text["message"] or text["value"]) == "just text"
        missing = (await ask(caller, "no such event"))["rejected"]
        assert missing["message"] == "No event listener for 'no such event'"
        assert (await ask(caller, "fail", "null"))["rejected"]["is_error"] is (caller.library == "ws-wrapper-4")


async def test_events_reach_the_journal_in_order(pair: Pair) -> None:
    for sender, receiver in pair.both_ways():
        await receiver.call("record", event="news", channel="math")
        for k in range(20):
            await sender.call("emit", event="log", args=[k, {"k": k}])
        await sender.call("emit", event="news", args=["hot"], channel="math")
        entries = await receiver.call("events", kind="event", at_least=21)
        assert [entry["args"] for entry in entries[:20]] == [[k, {"k": k}] for k in range(20)]
        assert entries[20] == {
            "kind": "event",
            "peer": 0,
            "channel": "math",
            "event": "news",
            "args": ["hot"],
        }
        assert await receiver.call("events", kind="event") == []


async def test_burst_of_a_thousand(pair: Pair) -> None:
    for caller, _ in pair.both_ways():
        counts = {"right": 1000, "wrong": 0, "failed": 0, "first_error": None}
        assert await caller.call("burst", n=1000) == counts
        assert await caller.call("burst", n=1000, event="echo", channel="math", concurrency=50) == counts
        wrong = await caller.call("burst", n=3, event="size")
        assert (wrong["wrong"], wrong["failed"]) == (3, 0)
        failed = await caller.call("burst", n=3, event="no such event")
        assert failed["failed"] == 3
        assert failed["first_error"]["message"] == "No event listener for 'no such event'"


async def test_middleware(pair: Pair) -> None:
    for caller, handler in pair.both_ways():
        await handler.call("set", middleware="append")
        for channel in (None, "math"):
            assert (await ask(caller, "args", 1, channel=channel))["resolved"] == [1, "appended"]
        await handler.call("set", middleware="refuse")
        assert (await ask(caller, "add", 1, 2))["rejected"]["message"] == "middleware refused 'add'"
        await handler.call("set", middleware=None)
        assert (await ask(caller, "add", 1, 2))["resolved"] == 3
        with pytest.raises(AgentError, match="no setting 'colour'"):
            await handler.call("set", colour="red")


async def test_timeout(pair: Pair) -> None:
    for caller, handler in pair.both_ways():
        late = await ask(caller, "hang", timeout_ms=20)
        assert late["rejected"]["message"] == "Request timed out"
        started = await handler.call("events", kind="started", at_least=1)
        assert started == [{"kind": "started", "peer": 0, "channel": None, "event": "hang"}]


async def test_foreign_messages_are_ignored(pair: Pair) -> None:
    for sender, handler in pair.both_ways():
        for data in ("hello", '{"ws-wrapper":false,"a":["log","no"]}'):
            await sender.call("send_raw", data=data)
        await sender.call("send_raw", data='{"a":["log","yes"]}')
        entries = await handler.call("events", kind="event", at_least=1)
        assert [entry["args"] for entry in entries] == [["yes"]]


@pytest.mark.parametrize("who", ["server", "client"])
async def test_close_with_code_and_reason(pair: Pair, who: str) -> None:
    await (pair.server if who == "server" else pair.client).call("close", code=4001, reason="enough")
    for agent in (pair.server, pair.client):
        closed = await agent.call("events", kind="close", at_least=1)
        assert closed == [{"kind": "close", "peer": 0, "code": 4001, "reason": "enough", "clean": True}]


@pytest.mark.parametrize("who", ["server", "client"])
async def test_abrupt_drop(pair: Pair, who: str) -> None:
    """A drop is seen as 1006 on both sides, and a wrapper bound again goes on with its handlers."""
    left = asyncio.create_task(ask(pair.client, "hang", timeout_ms=200))
    await pair.server.call("events", kind="started", at_least=1)
    await (pair.server if who == "server" else pair.client).call("terminate")
    for agent in (pair.server, pair.client):
        (closed,) = await agent.call("events", kind="close", at_least=1)
        assert (closed["code"], closed["clean"]) == (1006, False)
        assert (await agent.call("state"))["connected"] is False
    url = (await pair.server.call("listen"))["url"]
    assert (await pair.client.call("connect", url=url, peer=0))["peer"] == 0
    await pair.server.call("events", kind="open", at_least=1)
    assert (await ask(pair.server, "add", 1, 2))["resolved"] == 3
    assert (await ask(pair.client, "add", 1, 2))["resolved"] == 3
    # This library rejects nothing when its socket closes.
    assert (await left)["rejected"]["message"] == "Request timed out"


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


@pytest_asyncio.fixture(params=PAIRS_4, ids=[f"{served}<-{dialed}" for served, dialed in PAIRS_4])
async def pair_4(request: pytest.FixtureRequest) -> AsyncGenerator[Pair]:
    async with connected(*request.param) as made:
        yield made


async def test_cancel(pair_4: Pair) -> None:
    for caller, handler in pair_4.both_ways():
        for reason, expected in [
            ({"$error": {"message": "bored"}}, ("bored", None)),
            ("just text", (None, "just text")),
            ({"why": 1}, (None, {"why": 1})),
        ]:
            asked = asyncio.create_task(ask(caller, "hang", ref="r"))
            await handler.call("events", kind="started", at_least=1)
            assert (await handler.call("state"))["active"] == 1
            assert (await caller.call("state"))["pending"] == 1
            await caller.call("cancel", ref="r", reason=reason)
            (aborted,) = await handler.call("events", kind="aborted", at_least=1)
            assert (aborted["reason"]["message"], aborted["reason"]["value"]) == expected
            assert (await asked)["rejected"]["name"] == "RequestAbortedError"
        with pytest.raises(AgentError, match="no request under way with ref r"):
            await caller.call("cancel", ref="r")


async def test_anonymous_channel(pair_4: Pair) -> None:
    for caller, handler in pair_4.both_ways():
        await handler.call("events")  # what the other way round left behind
        await handler.call("record", event="line", anonymous=True)
        ours = (await ask(caller, "channel_make"))["resolved"]
        (made,) = await handler.call("events", kind="channel")
        theirs = made["channel"]
        assert (await ask(caller, "add", 1, 2, channel=ours))["resolved"] == 3
        assert (await ask(handler, "ask", "add", 1, 2, channel=theirs))["resolved"] == 3
        await caller.call("emit", event="line", args=["hi"], channel=ours)
        (entry,) = await handler.call("events", kind="event", at_least=1)
        assert (entry["channel"], entry["event"], entry["args"]) == (theirs, "line", ["hi"])
        await caller.call("abort_channel", channel=ours, reason={"$error": {"message": "bored"}})
        for agent in (caller, handler):
            (closed,) = await agent.call("events", kind="channel_closed", at_least=1)
            assert closed["reason"]["message"] == "bored"
        late = await ask(caller, "add", 1, 2, channel=ours)
        assert late["rejected"]["message"] == "Cannot send request on a closed channel"


async def test_streams(pair_4: Pair) -> None:
    for caller, handler in pair_4.both_ways():
        # A longer stream that never waits may overflow this library's own iterator.
        assert await caller.call("iterate", event="count", args=[0]) == {"items": []}
        assert await handler.call("events", kind="stream_ended", at_least=1) == [
            {"kind": "stream_ended", "peer": 0, "sent": 0}
        ]
        # One item is what it surely delivers, however fast the rest comes.
        assert await caller.call("iterate", event="ticks", args=[1], take=1) == {"items": [0]}
        await handler.call("events", kind="stream_ended", at_least=1)
        failed = await caller.call("iterate", event="count_then_fail", args=[0])
        assert failed["items"] == []
        assert failed["rejected"]["message"] == "channel closed before iteration completed"
