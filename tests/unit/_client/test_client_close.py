"""`Client.close`: what both sides are told, what still leaves, what it cancels and waits for."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from client_driver import leap, lost, world
from core_driver import Blocked, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import story

from wsrpc import CloseInfo, ConnectionLost, Peer
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


@pytest.mark.asyncio_loop
async def test_what_was_accepted_leaves_before_the_close_frame_and_handlers_are_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as w:
        w.server.on("close", lambda peer, info: w.received.put_nowait(info.code))
        handler = Blocked()
        w.client.on("run", handler)
        await w.peer.emit("run")
        await turns_until(lambda: handler.started)
        w.client.emit_nowait("note", 1)
        sending = asyncio.create_task(w.client.emit("note", 2))
        request = asyncio.create_task(w.client.request("park"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(w.client.close())
        await w.hears(1, 2, 1000)
        await sending
        await lost(request, "unknown")
        await turns()
        assert w.parked.is_set() and not handler.cancelled and not closing.done()
        leap(monkeypatch, 3.0)
        await closing
        assert handler.cancelled


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
