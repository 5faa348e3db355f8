"""Each counterpart in each role: how a connection ends, and comes back.

The rows are those of docs/reference/compatibility.md.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interop.matrix import Cell, behaviour
from interop.peers import Agents, Counterpart, Link, until
from wsrpc import Client, ConnectionLost, Peer, Reconnect, ReconnectInfo, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")


@behaviour("closing")
async def test_close_codes(counterpart: Counterpart, agents: Agents, cell: Cell) -> None:
    for code, reason in [(1000, "bye"), (4001, "enough"), (3000, "ü" * 61 + "!")]:
        async with agents.link(*counterpart) as link:
            asked = asyncio.create_task(link.peer.request("hang"))
            await link.journal("started")
            await link.close(code, reason)
            with pytest.raises(ConnectionLost):
                await asked
            (closed,) = await link.journal("close")
            if "codes" in link.agent.can:
                assert (closed["code"], closed["reason"], closed["clean"]) == (code, reason, True)
            else:
                assert (closed["code"], closed["reason"].startswith("read message: ")) == (1011, True)
                assert reason in closed["reason"]
                cell.note("close codes in Go")
        async with agents.link(*counterpart) as link:
            await link.call("close", code=code, reason=reason)
            info = await link.closed
            if "codes" not in link.agent.can and info.code == 1006:
                continue  # the socket was closed before it could be said
            assert (info.code, info.reason, info.was_clean, info.user_closed) == (code, reason, True, False)


async def a_client_comes_back(link: Link) -> Peer:
    """Python dials again."""
    assert isinstance(link.app, Client)
    back: asyncio.Future[ReconnectInfo] = asyncio.get_running_loop().create_future()
    link.app.on_reconnect(back.set_result)
    await link.call("terminate")
    await back
    return link.app.peer


async def a_server_is_dialed_again(link: Link) -> Peer:
    """The other side does, with the handlers that it has."""
    arrived: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
    await link.call("terminate")
    await link.closed
    link.app.once("open", arrived.set_result)
    await link.agent.call("connect", url=link.url, peer=link.js)
    return await arrived


@behaviour("returning")
async def test_a_drop_and_a_return(counterpart: Counterpart, agents: Agents, cell: Cell) -> None:
    _, role = counterpart
    options: dict[str, Any] = {"reconnect": Reconnect(initial=0.01, max=0.1)} if role != "python-serves" else {}
    async with agents.link(*counterpart, **options) as link:
        asked = asyncio.create_task(link.peer.request("hang"))
        await link.journal("started")
        _, theirs = link.start_asking("hang")
        await link.seen.started.get()
        again = await (a_server_is_dialed_again if role == "python-serves" else a_client_comes_back)(link)
        with pytest.raises(ConnectionLost) as raised:
            await asked
        assert raised.value.outcome == "unknown"
        await link.seen.cancelled.get()
        assert await again.request("ask", "add", 1, 2) == 3
        assert await again.of("math").request("add", 3, 4) == 7
        assert (again.pending, again.active) == (0, 0)
        if "drops" in link.agent.can:
            assert "rejected" in await theirs
        else:
            # What the other side asked before the drop is pending there; here nothing is left of it.
            theirs.cancel()
            await asyncio.wait([theirs])
            cell.note("drops")
        if isinstance(link.app, Client):
            await link.app.close()


@behaviour("draining")
async def test_a_server_that_leaves(counterpart: Counterpart, agents: Agents, cell: Cell) -> None:
    if counterpart[1] != "python-serves":
        # Its server ends a connection with 1012, as one that restarts: a client is told, and would come back.
        async with agents.link(*counterpart) as link:
            await link.call("close", code=1012, reason="restarting")
            if "codes" in link.agent.can:
                assert (await link.closed).code == 1012
            else:
                assert (await link.closed).code in (1012, 1006)
                cell.note("close codes in Go")
        return
    async with agents.link(*counterpart) as link:
        go_on = asyncio.Event()

        @link.app.on("question")
        async def question() -> int:
            link.seen.started.put_nowait("question")
            await go_on.wait()
            answer: int = await link.peer.request("add", 1, 2)
            return answer

        _, in_the_air = link.start_asking("question")
        assert await link.seen.started.get() == "question"
        assert isinstance(link.app, Server)
        closing = asyncio.create_task(link.app.close(drain_timeout=60))
        await until(lambda: "draining" in repr(link.app))
        await link.ask_in_vain("add", 1, 2)
        go_on.set()
        assert (await in_the_air)["resolved"] == 3
        await closing
        (closed,) = await link.journal("close")
        if "codes" in link.agent.can:
            assert (closed["code"], closed["clean"]) == (1012, True)
        else:
            assert "the server is closing" in closed["reason"]
            cell.note("close codes in Go")
