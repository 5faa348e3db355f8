"""The life of a connection between Python and JavaScript: drops, closing, coming back, foreign messages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interop.peers import DIALERS, LIBRARIES, Agents, Link, serve, text_of, until
from wsrpc import Client, ConnectionLost, Limits, Server, dial

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG_REASON = "ü" * 61 + "!"  # 123 bytes


async def busy(link: Link) -> tuple[list[asyncio.Task[Any]], list[asyncio.Task[Any]]]:
    """Requests that nobody will answer: three of Python's, then three of JavaScript's."""
    ours = [asyncio.create_task(link.peer.request("hang", timeout=None)) for _ in range(3)]
    theirs = [link.start_asking("hang", k)[1] for k in range(3)]
    await link.journal("started", at_least=3)
    assert [await link.seen.started.get() for _ in range(3)] == [0, 1, 2]
    assert (link.peer.pending, link.peer.active) == (3, 3)
    return ours, theirs


async def check_ended(
    link: Link, work: tuple[list[asyncio.Task[Any]], list[asyncio.Task[Any]]], code: int, reason: str = ""
) -> None:
    """Python's requests fail, its handlers are cancelled, nothing is left."""
    ours, theirs = work
    for task in ours:
        with pytest.raises(ConnectionLost) as raised:
            await task
        assert (raised.value.code, raised.value.reason, raised.value.outcome) == (code, reason, "unknown")
    for _ in theirs:
        argument, cancel_reason = await link.seen.cancelled.get()
        assert isinstance(cancel_reason, ConnectionLost)
        assert argument is cancel_reason
        assert (cancel_reason.code, cancel_reason.reason) == (code, reason)
    await until(lambda: link.peer.active == 0)
    assert link.peer.pending == 0
    assert not link.peer.connected
    with pytest.raises(ConnectionLost) as raised:
        await link.peer.request("add", 1, 2)
    assert raised.value.outcome == "not_sent"
    with pytest.raises(ConnectionLost):
        await link.peer.emit("log")
    # JavaScript never ends its own pending requests (ws-server-wrapper rejects them), so nothing waits for them here.
    for task in theirs:
        task.cancel()
    await asyncio.wait(theirs)


@pytest.mark.parametrize("who", ["javascript", "python"])
async def test_an_abrupt_drop(link: Link, who: str) -> None:
    work = await busy(link)
    if who == "javascript":
        await link.call("terminate")
    else:
        link.transport.abort()
    info = await link.closed
    assert (info.code, info.was_clean, info.user_closed, info.will_reconnect) == (1006, False, False, False)
    await check_ended(link, work, 1006, info.reason)
    (closed,) = await link.journal("close")
    assert (closed["code"], closed["clean"]) == (1006, False)


async def test_python_closes_without_a_code(link: Link) -> None:
    """With codes and reasons: test_matrix_connection.py."""
    work = await busy(link)
    closing = asyncio.create_task(link.close(None))
    info = await link.closed
    assert (info.code, info.reason, info.was_clean) == (1005, "", True)
    assert (info.user_closed, info.will_reconnect) == (True, False)
    await check_ended(link, work, 1005)
    await closing
    (closed,) = await link.journal("close")
    assert (closed["code"], closed["reason"], closed["clean"]) == (1005, "", True)


async def test_javascript_closes_without_a_code(link: Link) -> None:
    work = await busy(link)
    await link.call("close")
    info = await link.closed
    assert (info.code, info.reason, info.was_clean) == (1005, "", True)
    assert (info.user_closed, info.will_reconnect) == (False, False)
    await check_ended(link, work, 1005)


async def test_what_javascript_may_send_never_closes_the_connection(link: Link) -> None:
    half = "\ud83d"  # an emoji that `slice` has cut; the command travels as an escape, too
    for number in range(15):
        await link.tell("log", half)
        await link.tell("log", *range(65))
        await link.tell(half)
        await link.tell("n" * 300)
        await link.call("send_raw", data='{"type":"ping"}')  # a heartbeat of the application's own
        await link.call("send_raw", data=f'{{"c":{number},"a":"b"}}')
    refused = await link.ask_in_vain("echo", half)
    assert "does not decode" in text_of(refused)
    refused = await link.ask_in_vain("args", *range(65))
    assert "at most 64" in text_of(refused)
    await link.quiet()
    counted = {kind: link.peer.ignored[kind] for kind in ("too many arguments", "name too long", "foreign")}
    assert counted == {"too many arguments": 15, "name too long": 15, "foreign": 30}
    assert link.peer.ignored["unreadable"] == 31
    assert link.peer.ignored["malformed"] == 0
    assert link.seen.events.empty()


@pytest.mark.parametrize("library", LIBRARIES)
async def test_binding_another_connection(agents: Agents, library: str) -> None:
    """A client over connections of one's own: the new one ends the old one, handlers stay."""
    agent, url = await agents.get(library)
    client = Client()
    serve(client)
    async with client:
        await client.bind(await dial(url, limits=Limits(), proxy=None))
        first = (await agent.call("state"))["peers"] - 1
        pending = asyncio.create_task(client.request("hang"))
        await agent.call("events", kind="started", peer=first, at_least=1)
        await client.bind(await dial(url, limits=Limits(), proxy=None))
        with pytest.raises(ConnectionLost) as raised:
            await pending
        assert (raised.value.code, raised.value.outcome) == (1001, "unknown")
        (closed,) = await agent.call("events", kind="close", peer=first, at_least=1)
        assert (closed["code"], closed["clean"]) == (1001, True)
        assert await client.request("ask", "add", 1, 2) == 3
        answer = await agent.call("request", peer=first + 1, event="add", args=[1, 2])
        assert answer["resolved"] == 3


@pytest.mark.parametrize("library", DIALERS)
@pytest.mark.parametrize(
    ("offered", "chosen"), [([], ""), (["v2", "v1"], "v2"), (["bearer.hidden", "v1"], "v1"), (["v1", "bearer.x"], "v1")]
)
async def test_subprotocols_that_javascript_offers(
    agents: Agents, library: str, offered: list[str], chosen: str
) -> None:
    """A browser and `ws` end the connection if they offer some and get none."""
    agent, _ = await agents.get(library)
    async with Server().listen("127.0.0.1", 0, path="/ws") as listener:
        connected = await agent.call("connect", url=listener.url, protocols=offered)
        assert connected["protocol"] == chosen
        await agent.call("close", peer=connected["peer"])
        await agent.call("events", kind="close", peer=connected["peer"], at_least=1)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("extensions", [True, False])
async def test_a_message_listener_sees_hello(agents: Agents, library: str, extensions: bool) -> None:
    agent, _ = await agents.get(library)
    await agent.call("set", messages=True)
    try:
        async with agents.link(library, "js-serves", extensions=extensions) as link:
            await link.peer.emit("log")
            first, *_ = await link.journal("message", 1)
            assert ('"ws-wrapper":false' in str(first)) == extensions
    finally:
        await agent.call("set", messages=False)
