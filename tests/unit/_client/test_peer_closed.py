"""After `Peer.close` a client gives up, also while it has no connection or is about to get one."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from client_driver import lost
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import SMALL, story
from tenacity import wait_fixed

from wsrpc import CloseInfo, ConnectFailed, ConnectionLost, Limits, Peer, Reconnect
from wsrpc.testing import memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")

HANDLER_CLOSES = ["the session ends", "the session is refused", "another connection is bound"]


@pytest.mark.parametrize("after_events", [False, True], ids=["at once", "after events"])
@pytest.mark.parametrize("why", HANDLER_CLOSES)
async def test_a_close_handler_closes_the_peer(why: str, after_events: bool) -> None:
    async with story() as s:
        calls: list[CloseInfo] = []
        go = asyncio.Event()

        @s.client.on("disconnect")
        def close_now(peer: Peer, info: CloseInfo) -> None:
            calls.append(info)
            if len(calls) == 1:
                with suppress(StopIteration):
                    peer.close(4000, "enough").send(None)  # the first step, which an eager task takes at once

        s.client.on("note", go.wait, ordered=True)
        if after_events:
            for _ in range(2):
                s.peer.emit_nowait("note")
            await s.settled()
        if why == "another connection is bound":
            ours, theirs = memory_transports()
            with pytest.raises(ConnectionLost) as raised:
                await s.client.bind(ours)
            assert raised.value.code == 4000
            await turns_until(lambda: "closed" in repr(theirs))
        elif why == "the session ends":
            await s.peer.close(1001, "moving")
        else:
            await s.cut()
            await s.peer.close()
            s.line.down = False
        assert (await lost(s.client.wait_connected(), "not_sent")).code == 4000
        assert s.client.state == "closed"
        assert [info.user_closed for info in calls] == [False]
        go.set()
        await turns_until(lambda: not s.server.peers)
        await s.client.connect()  # it can be used again
        assert len(s.server.peers) == 1 and len(calls) == 1


@pytest.mark.parametrize("state", ["connecting", "waiting", "detached", "resuming"])
async def test_the_peer_is_closed_while_the_client_dials(state: str) -> None:
    dials = asyncio.Event()
    dials.set()

    async def auth() -> str:
        await dials.wait()
        return "token"

    survives = state in ("detached", "resuming")
    reconnect = Reconnect(wait=wait_fixed(0.001 if state in ("connecting", "resuming") else 1000.0))
    async with story(server=Limits(replay_bytes=SMALL if survives else 0), auth=auth, reconnect=reconnect) as s:
        dials.clear()
        s.line.cut()
        waiting = asyncio.ensure_future(s.client.wait_connected())
        await turns_until(lambda: s.client.state == state)
        await s.client.peer.close(4000, "enough")
        assert s.client.state == "closed"
        assert (await lost(waiting, "not_sent")).code == 4000
        dials.set()
        await turns(50)
        assert s.client.state == "closed"
        assert [info.user_closed for info in s.closed] == [survives]
        await s.client.connect()


async def test_close_handlers_that_run_late_know_that_this_side_has_closed_meanwhile() -> None:
    async with story(server=Limits(replay_bytes=0), reconnect=None) as s:
        go = asyncio.Event()
        s.client.on("note", go.wait, ordered=True)
        for _ in range(2):
            s.peer.emit_nowait("note")
        await s.settled()
        s.line.down = True
        s.line.cut()
        await turns_until(lambda: s.client.state == "closed")
        closing = asyncio.ensure_future(s.client.close(4000, "enough"))
        await turns(1)
        with pytest.raises(ConnectFailed):
            await s.client.connect()
        assert s.closed == []
        go.set()
        await closing
        await turns_until(lambda: s.closed)
        assert [info.user_closed for info in s.closed] == [True]
