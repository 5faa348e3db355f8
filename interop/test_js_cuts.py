"""Drops and returns between Python and JavaScript: what becomes of what was in the air, and of what comes late.

JavaScript's `bind()` keeps requests, handlers and channels of before, and lets them go on with the new socket. Here
they all do so, and must neither reach anybody on Python's side nor be reached from there.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from interop.cuts import CUTTABLE_4, EVERY, SPEAK_4, Cuttable, How, cuttable
from interop.peers import DIALERS, Agents, link_as_server, text_of
from wsrpc import AnonymousChannel, Client, ConnectionLost, Context, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

KEYS = itertools.count(1)
"""For JavaScript's `wait` handlers, of which each has one of its own."""


def names(combinations: list[tuple[str, Any]]) -> list[str]:
    return [f"{library}:{way}" for library, way in combinations]


@pytest_asyncio.fixture(loop_scope="session", params=EVERY, ids=names(EVERY))
async def line(request: pytest.FixtureRequest, agents: Agents) -> AsyncGenerator[Cuttable]:
    """Each library, in each way to come back."""
    async with cuttable(agents, *request.param) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session", params=CUTTABLE_4, ids=names(CUTTABLE_4))
async def line_4(request: pytest.FixtureRequest, agents: Agents) -> AsyncGenerator[Cuttable]:
    """What has cancellation, anonymous channels and streams."""
    async with cuttable(agents, *request.param) as made:
        yield made


def check_lost(results: list[Any]) -> None:
    for result in results:
        assert isinstance(result, ConnectionLost), result
        assert (result.code, result.outcome) == (1006, "unknown")


def check_prefix(numbers: list[int]) -> None:
    """What arrived before a cut: in order, once, and nothing is missing before the last."""
    assert numbers == list(range(len(numbers)))


async def leave(tasks: list[asyncio.Task[Any]]) -> None:
    """JavaScript would wait without a limit, so the test does not wait for it."""
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


# ---------------------------------------------------------------- requests and events


@pytest.mark.parametrize("how", ["proxy", "javascript", "python"])
async def test_requests_and_events(line: Cuttable, how: How) -> None:
    ours = [asyncio.create_task(line.caller.request("hang", timeout=None)) for _ in range(3)]
    theirs = [line.start_asking("hang", k) for k in range(3)]
    await line.journal("started", at_least=3)
    assert [await line.seen.started.get() for _ in theirs] == [0, 1, 2]
    for k in range(10):
        await line.caller.emit("log", k)
    await asyncio.gather(*(line.call("emit", event="log", args=[k]) for k in range(10)))
    before, ended = line.js, line.peer

    async def when_back(k: int) -> Any:
        await line.caller.emit("log", k)
        return await line.caller.request("tally", k)

    queued: list[asyncio.Task[Any]] = []
    async with line.down(how) as info:
        assert (info.was_clean, info.will_reconnect) == (False, isinstance(line.app, Client))
        check_lost(await asyncio.gather(*ours, return_exceptions=True))
        for _ in theirs:
            argument, reason = await line.seen.cancelled.get()
            assert isinstance(reason, ConnectionLost)
            assert argument is reason
        assert (ended.pending, ended.active) == (0, 0)
        check_prefix([args[0] for _, args in (line.seen.events.get_nowait() for _ in range(line.seen.events.qsize()))])
        check_prefix([entry["args"][0] for entry in await line.journal("event", 0)])
        if isinstance(line.app, Client):
            queued = [asyncio.create_task(when_back(k)) for k in range(10)]
        else:
            with pytest.raises(ConnectionLost) as raised:
                await line.caller.request("add", 1, 2)
            assert raised.value.outcome == "not_sent"
    assert await asyncio.gather(*queued) == list(range(len(queued)))
    entries = [entry for entry in await line.call("events") if entry["kind"] in ("event", "tallied")]
    assert [(entry["kind"], entry.get("item", entry.get("args"))) for entry in entries] == [
        pair for k in range(len(queued)) for pair in (("event", [k]), ("tallied", k))
    ]
    for channel in (None, "math"):
        assert await line.ask("ask", "add", 3, 4, channel=channel) == 7
    assert await line.caller.of("math").request("ask", "add", 3, 4) == 7
    if line.agent.library == "ws-server-wrapper":
        for answer in await asyncio.gather(*theirs):
            assert text_of(answer["rejected"]) == "Request was aborted"
    else:
        assert await line.pending_there(before) in (3, None)
        await leave(theirs)


async def test_answers_that_come_late(line: Cuttable) -> None:
    """Hundreds of JavaScript's handlers answer requests of before, among hundreds of new ones."""
    keys = list(itertools.islice(KEYS, 400))

    def ask_all(*kinds: str) -> list[asyncio.Task[Any]]:
        ask = line.caller.request
        return [
            asyncio.create_task(ask("wait", key, kind, timeout=None)) for key, kind in zip(keys, kinds, strict=True)
        ]

    other = "channel" if line.agent.library in SPEAK_4 else "value"
    tasks = ask_all(*[other] * 50, *["value"] * 150, *[other] * 50, *["value"] * 150)
    await line.journal("started", at_least=len(keys))
    before = line.js
    async with line.down():
        check_lost(await asyncio.gather(*tasks, return_exceptions=True))
        await line.call("answer", keys=keys[:100])  # JavaScript keeps it for the next socket
        await line.call("answer", keys=keys[100:200], fail=True)
    late, keys = keys[200:], list(itertools.islice(KEYS, 400))
    tasks = ask_all(*["value"] * 400)
    await line.journal("started", at_least=len(keys))
    await line.call("answer", keys=late[:100])
    await line.call("answer", keys=late[100:], fail=True)
    await line.caller.request("echo", "what JavaScript sent before this answer has arrived")
    assert line.peer.ignored["response to no request"] == (0 if line.way == "new-wrapper" else 400)
    assert line.peer.pending == len(keys)
    assert not any(task.done() for task in tasks)
    await line.call("answer", keys=keys[::-1])
    assert await asyncio.gather(*tasks) == keys
    # Channels among the late answers are ignored like the rest: JavaScript keeps them until it says something there.
    assert (await line.agent.call("state", peer=before))["channels"] == (100 if other == "channel" else 0)


async def test_ids_do_not_meet_over_connections(line: Cuttable) -> None:
    """What JavaScript keeps is kept by ids: none of Python's is used for two things."""
    for k in range(4):
        assert await asyncio.gather(*(line.caller.request("echo", n) for n in range(200))) == list(range(200))
        if k < 3:
            async with line.down():
                pass
    entries = await line.agent.call("events", kind="message")
    messages = [json.loads(entry["data"]) for entry in entries]
    ids = [message["i"] for message in messages if "a" in message]
    assert len(ids) == len(set(ids)) == 800
    assert min(ids) >= 2**30
    assert {number % 2 for number in ids} == {0 if isinstance(line.app, Server) else 1}


async def test_what_javascript_still_asks_for_is_not_answered(line_4: Cuttable) -> None:
    """Its requests of before stay pending whatever Python does on the next connection, until it gives them up."""
    line = line_4
    refs = [f"cuts {next(KEYS)}" for _ in range(100)]
    theirs = [line.start_asking("hang", ref=ref) for ref in refs]
    for _ in theirs:
        await line.seen.started.get()
    before = line.js
    async with line.down():
        for _ in theirs:
            await line.seen.cancelled.get()
    for _ in range(100):
        with pytest.raises(TimeoutError):
            await line.caller.request("hang", timeout=0)
    for _ in range(100):
        channel = await line.caller.open_channel("channel_make")
        await channel.abort("enough")
    answers = await asyncio.gather(*(line.ask("echo", k) for k in range(200)))
    assert answers == list(range(200))
    await line.caller.request("echo", "what Python sent before has arrived")
    assert await line.pending_there(before) == len(theirs)
    assert not any(task.done() for task in theirs)
    for ref in refs:
        await line.agent.call("cancel", ref=ref)
    for answer in await asyncio.gather(*theirs):
        assert answer["rejected"]["name"] == "RequestAbortedError"
    assert await line.ask("echo", "the cancellations have arrived") == "the cancellations have arrived"
    assert line.peer.ignored["cancellation of no request"] == (0 if line.way == "new-wrapper" else len(theirs))


# ---------------------------------------------------------------- channels


def serve_talks(line: Cuttable) -> list[Any]:
    """Python's counterpart of `channel_make`; returns what the channels' handlers will have seen."""
    seen: list[Any] = []

    def talk(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        channel.on("line", seen.append)
        channel.on("echo", lambda value: value)
        return channel

    line.app.on("talk", talk)
    return seen


async def test_many_channels_of_before_and_new_ones(line_4: Cuttable) -> None:
    """JavaScript keeps those of before, in one table for both directions; what is said on the new ones gets there."""
    line = line_4
    serve_talks(line)

    async def open_both() -> tuple[list[AnonymousChannel], list[Any]]:
        ours = [await line.caller.open_channel("channel_make") for _ in range(60)]
        for channel in ours:
            channel.on("echo", lambda value: value)
        return ours, await asyncio.gather(*(line.ask("talk") for _ in range(60)))

    old, _ = await open_both()
    before = line.js
    async with line.down():
        assert all(isinstance(channel.close_reason, ConnectionLost) for channel in old)
    ours, theirs = await open_both()
    made = [entry["channel"] for entry in await line.journal("channel", 0)][-120:]
    for k, channel in enumerate(ours):
        assert await channel.request("echo", ["ours", k]) == ["ours", k]
        await channel.emit("log", k)
    for k, channel in enumerate([*made[:60], *theirs]):
        assert await line.ask("echo", k, channel=channel) == k
    entries = await line.journal("event", 60)
    assert [(entry["channel"], entry["args"]) for entry in entries] == [(made[k], [k]) for k in range(60)]
    for channel in ours:
        await channel.abort("enough")
    await line.caller.request("echo", "what Python sent before has arrived")
    closed = [entry["channel"] for entry in await line.journal("channel_closed", 60)]
    assert closed == made[:60]
    assert (await line.agent.call("state", peer=before))["channels"] == (120 if line.way == "new-wrapper" else 180)
    for channel in theirs:
        await line.call("abort_channel", channel=channel)
    await line.ask("echo", "that has arrived")


# ---------------------------------------------------------------- streams


async def test_a_stream_that_python_reads(line_4: Cuttable) -> None:
    line = line_4
    keys = list(itertools.islice(KEYS, 4))
    async with line.caller.stream("steps", keys, returns=int) as stream:
        first = asyncio.create_task(anext(stream))
        await give(line, keys[0])
        assert await first == keys[0]
        before = line.js
        async with line.down():
            with pytest.raises(ConnectionLost):
                await anext(stream)
    if line.way == "new-wrapper":
        await give(line, keys[1])  # it lands in the old wrapper's queue
        assert line.peer.ignored == {}
        return
    await give(line, keys[1])
    assert await line.ask("echo", "the item has arrived") == "the item has arrived"
    await line.caller.request("echo", "and so has the abort")
    messages = [json.loads(entry["data"]) for entry in await line.journal("message")]
    assert await line.journal("stream_ended", 0) == []
    assert ["does not exist" in message["x"]["message"] for message in messages if "x" in message] == [True]
    await give(line, keys[2])
    (ended,) = await line.agent.call("events", kind="stream_ended", peer=before, at_least=1)
    assert ended["sent"] == 3
    assert line.peer.active == line.peer.anonymous_channels == 0


async def give(line: Cuttable, key: int) -> None:
    """Let JavaScript's generator give its item of that key."""
    await line.agent.call("answer", keys=[key])


# ---------------------------------------------------------------- codes, and other ends


@pytest.mark.parametrize("library", DIALERS)
async def test_another_server_takes_over(agents: Agents, library: str) -> None:
    """JavaScript sees 1012, binds its wrapper to another server, and answers there what the first one asked."""
    agent, _ = await agents.get(library)
    await agent.call("set", middleware=None, error_props=False)
    keys = list(itertools.islice(KEYS, 50))
    async with link_as_server(agent) as first:
        old = [asyncio.create_task(first.peer.request("wait", key, timeout=None)) for key in keys]
        await first.journal("started", at_least=len(keys))
        await first.app.close()
        (closed,) = await first.journal("close")
        assert (closed["code"], closed["reason"], closed["clean"]) == (1012, "the server is closing", True)
        for task in old:
            with pytest.raises(ConnectionLost) as raised:
                await task
            assert (raised.value.code, raised.value.outcome) == (1012, "unknown")
    server = Server()
    server.on("add", lambda a, b: a + b)
    opened: asyncio.Queue[Any] = asyncio.Queue()
    server.on("open", opened.put_nowait)
    async with server.listen("127.0.0.1", 0, path="/ws") as listener:
        await agent.call("connect", url=listener.url, peer=first.js)
        peer = await opened.get()
        await agent.call("answer", keys=keys)
        assert await peer.request("ask", "add", 1, 2) == 3
        assert peer.ignored["response to no request"] == len(keys)


@pytest.mark.parametrize("library", DIALERS)
async def test_bind_while_the_old_connection_lives(agents: Agents, library: str) -> None:
    """JavaScript does not close the old socket, it only stops listening to it: Python has two peers for a while."""
    async with agents.link(library, "python-serves") as link:
        key = next(KEYS)
        arrived: asyncio.Queue[Any] = asyncio.Queue()
        link.app.on("open", arrived.put_nowait)
        asked = asyncio.create_task(link.peer.request("wait", key, timeout=None))
        await link.journal("started")
        await link.agent.call("connect", url=link.url, peer=link.js)
        new = await arrived.get()
        assert link.peer.connected
        await link.agent.call("answer", keys=[key])
        assert await new.request("ask", "add", 1, 2) == 3
        assert new.ignored["response to no request"] == 1
        assert not asked.done()
        await link.peer.close(4000, "replaced")  # nobody answers here any more
        with pytest.raises(ConnectionLost):
            await asked
        assert await new.request("ask", "add", 1, 2) == 3
        assert await link.journal("close", 0) == []  # the wrapper does not hear of the old socket's end
