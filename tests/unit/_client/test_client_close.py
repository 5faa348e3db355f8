"""`Client.close`: what both sides are told, what still leaves, what it cancels and waits for."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from client_driver import lost, world
from core_driver import Blocked
from leftovers import nothing_left as nothing_left
from waiting import settled

from wsrpc import CloseInfo, ConnectionLost, Peer, Server
from wsrpc.testing import memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize(("code", "reason", "notified"), [(4321, "enough", 4321), (None, "", 1005)])
async def test_both_sides_learn_code_and_reason(code: int | None, reason: str, notified: int) -> None:
    async with world() as w:
        ended: asyncio.Queue[CloseInfo] = asyncio.Queue()
        w.server.on("close", lambda peer, info: ended.put_nowait(info))
        await asyncio.gather(w.client.close(code, reason), w.client.close(4002, "the first one decides"))
        assert w.closed == [CloseInfo(notified, reason, was_clean=True, user_closed=True)]
        assert await ended.get() == CloseInfo(notified, reason, was_clean=True)
        assert (await lost(w.client.request("echo", 1), "not_sent")).code == notified
        assert (await lost(w.client.wait_connected(), "not_sent")).code == notified


async def test_what_was_accepted_leaves_before_the_close_frame_and_handlers_are_cancelled() -> None:
    async with world() as w:
        w.server.on("close", lambda peer, info: w.received.put_nowait(info.code))
        handler = Blocked()
        w.client.on("run", handler)
        await w.peer.emit("run")
        await settled()
        w.client.emit_nowait("note", 1)
        sending = asyncio.create_task(w.client.emit("note", 2))
        request = asyncio.create_task(w.client.request("park"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(w.client.close())
        await w.hears(1, 2, 1000)
        await sending
        await lost(request, "unknown")
        await asyncio.sleep(1.9)
        assert w.parked.is_set() and not handler.cancelled and not closing.done()
        await closing
        assert handler.cancelled


HANDLER_CLOSES = ["the session ends", "the session is refused", "another connection is bound"]


@pytest.mark.parametrize("after_events", [False, True], ids=["at once", "after events"])
@pytest.mark.parametrize("why", HANDLER_CLOSES)
async def test_a_close_handler_closes_the_peer(why: str, after_events: bool) -> None:
    async with world(server=Server(), limits=None) as w:
        calls: list[CloseInfo] = []
        go = asyncio.Event()

        @w.client.on("disconnect")
        def close_now(peer: Peer, info: CloseInfo) -> None:
            calls.append(info)
            if len(calls) == 1:
                with suppress(StopIteration):
                    peer.close(4000, "enough").send(None)  # the first step, which an eager task takes at once

        w.client.on("note", go.wait, ordered=True)
        if after_events:
            for _ in range(2):
                w.peer.emit_nowait("note")
            await settled()
        if why == "another connection is bound":
            ours, theirs = memory_transports()
            with pytest.raises(ConnectionLost) as raised:
                await w.client.bind(ours)
            assert raised.value.code == 4000
            await settled()
            assert "closed" in repr(theirs)
        elif why == "the session ends":
            await w.peer.close(1001, "moving")
        else:
            w.line.down = True
            w.drop()
            await settled()
            await w.peer.close()
            w.line.down = False
        assert (await lost(w.client.wait_connected(), "not_sent")).code == 4000
        assert w.client.state == "closed"
        assert [info.user_closed for info in calls] == [False]
        go.set()
        await settled()
        assert not w.server.peers
        await w.client.connect()  # it can be used again
        assert len(w.server.peers) == 1 and len(calls) == 1
