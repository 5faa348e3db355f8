"""The life of a connection between Python and Go: closing, drops, coming back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interop.golang import available_libraries
from interop.peers import Agents, Counterpart, Link, serve, until
from wsrpc import Client, ConnectionLost, Limits, Peer, dial

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def busy(link: Link) -> tuple[asyncio.Task[Any], asyncio.Task[Any]]:
    """A request of each side that nobody will answer."""
    ours = asyncio.create_task(link.peer.request("hang", timeout=None))
    _, theirs = link.start_asking("hang")
    await link.journal("started")
    await link.seen.started.get()
    return ours, theirs


async def check_ended(link: Link, work: tuple[asyncio.Task[Any], asyncio.Task[Any]]) -> None:
    """Whatever was in the air has ended, on both sides, and so have the handlers."""
    ours, theirs = work
    with pytest.raises(ConnectionLost) as raised:
        await ours
    assert raised.value.outcome == "unknown"
    assert "rejected" in await theirs
    _, reason = await link.seen.cancelled.get()
    assert isinstance(reason, ConnectionLost)
    await link.journal("aborted")
    await until(lambda: link.peer.active == 0)


@pytest.mark.parametrize("who", ["theirs", "ours"])
async def test_a_drop(go_link: Link, who: str) -> None:
    channel = await go_link.peer.open_channel("channel_make")
    work = await busy(go_link)
    if who == "theirs":
        await go_link.call("terminate")
    else:
        go_link.transport.abort()
    info = await go_link.closed
    assert (info.code, info.was_clean, info.will_reconnect) == (1006, False, False)
    await check_ended(go_link, work)
    assert channel.closed
    (closed,) = await go_link.journal("close")
    assert (closed["code"], closed["by_user"]) == (1011, False)
    await go_link.journal("channel_closed")


async def test_go_closes(gopher: Counterpart, agents: Agents) -> None:
    """The code arrives, or the connection was dropped before; a code or a reason that cannot be sent is always that."""
    for code, reason, codes in [
        (4001, "enough", {4001, 1006}),
        (1000, "x" * 123, {1000, 1006}),
        (1000, "x" * 124, {1006, 1011}),
        (999, "", {1006, 1011, 1002}),
    ]:
        async with agents.link(*gopher, profile="go") as link:
            work = await busy(link)
            await link.call("close", code=code, reason=reason)
            info = await link.closed
            assert info.code in codes
            assert info.reason == reason or info.code not in (code, 1000)
            await check_ended(link, work)
            (closed,) = await link.journal("close")
            assert (closed["code"], closed["reason"], closed["by_user"]) == (code, reason, True)


async def test_go_binds_another_connection(agents: Agents) -> None:
    """Its client keeps its handlers, and ends the connection that it had."""
    for library in available_libraries():
        async with agents.link(library, "python-serves", profile="go") as link:
            # A handler that still runs would have the new connection closed, by answering with the old one's context.
            _, theirs = link.start_asking("hang")
            await link.seen.started.get()
            arrived: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
            link.app.once("open", arrived.set_result)
            again = await link.agent.call("connect", url=link.url, peer=link.js)
            assert again["peer"] == link.js
            assert (await link.closed).code in (1001, 1006)
            await link.seen.cancelled.get()
            assert (await theirs)["rejected"]["message"].endswith("client bound to new connection")
            peer = await arrived
            assert await peer.request("ask", "add", 1, 2) == 3
            assert await link.ask("add", 3, 4, channel="math") == 7
            assert (peer.pending, peer.active) == (0, 0)


async def test_python_binds_another_connection(agents: Agents) -> None:
    for library in available_libraries():
        agent, url = await agents.get(library, 0)
        client = Client(profile="go")
        serve(client)
        async with client:
            await client.bind(await dial(url, limits=Limits(), proxy=None))
            assert await client.request("echo", 1) == 1  # then the agent, too, counts this connection
            first = (await agent.call("state"))["peers"] - 1
            pending = asyncio.create_task(client.request("hang"))
            await agent.call("events", kind="started", peer=first, at_least=1)
            await client.bind(await dial(url, limits=Limits(), proxy=None))
            with pytest.raises(ConnectionLost) as raised:
                await pending
            assert (raised.value.code, raised.value.outcome) == (1001, "unknown")
            (closed,) = await agent.call("events", kind="close", peer=first, at_least=1)
            assert "another connection was bound" in closed["reason"]
            assert await client.request("ask", "add", 1, 2) == 3
            answer = await agent.call("request", peer=first + 1, event="add", args=[1, 2])
            assert answer["resolved"] == 3
