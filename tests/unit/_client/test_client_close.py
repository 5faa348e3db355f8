"""`Client.close`: what both sides are told, what still leaves, what it cancels and waits for."""

from __future__ import annotations

import asyncio

import pytest
from client_driver import leap, lost, never, world
from leftovers import nothing_left as nothing_left

from wsrpc import CloseInfo

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
@pytest.mark.parametrize("moment", ["connected", "while open handlers run"])
async def test_what_was_accepted_leaves_before_the_close_frame_and_handlers_are_cancelled(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(connect=False) as w:
        w.server.on("close", lambda peer, info: w.received.put_nowait(info.code))
        running, cancelled = asyncio.Event(), asyncio.Event()

        async def handler() -> None:
            running.set()
            try:
                await never()
            finally:
                cancelled.set()

        w.client.on("connect" if moment != "connected" else "run", handler)
        await w.client.emit("note", 1)
        connecting = asyncio.create_task(w.client.connect())
        if moment == "connected":
            await connecting
            await w.peer.emit("run")
        await running.wait()
        await w.client.emit("note", 2)
        w.client.emit_nowait("note", 3)
        sending = asyncio.create_task(w.client.emit("note", 4))
        request = asyncio.create_task(w.client.request("park"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(w.client.close())
        await w.hears(1, 2, 3, 4, 1000)
        await sending
        await lost(request, "unknown")
        assert w.parked.is_set() and not cancelled.is_set() and not closing.done()
        leap(monkeypatch, 3.0)
        await closing
        assert cancelled.is_set()
        if moment != "connected":
            await lost(connecting)
