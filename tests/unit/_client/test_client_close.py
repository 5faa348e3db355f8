"""`Client.close`: what both sides are told, what still leaves, what it cancels and waits for."""

from __future__ import annotations

import asyncio

import pytest
from client_driver import leap, lost, world
from core_driver import Blocked, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

pytestmark = pytest.mark.usefixtures("nothing_left")


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
