"""A client belongs to one event loop."""

from __future__ import annotations

import asyncio

import pytest
from client_driver import begun, lost, never, world
from leftovers import nothing_left as nothing_left

from wsrpc.testing import memory_transports


@pytest.mark.usefixtures("nothing_left")
async def test_in_another_thread_it_is_refused_also_while_it_dials() -> None:
    async with world(connect=False, url=never) as w:
        connecting = await begun(w.client, w.client.connect(), "connecting")
        for call in (w.client.connect(), w.client.close(), w.client.bind(memory_transports()[0])):
            with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
                await asyncio.to_thread(asyncio.run, call)
        assert w.client.state == "connecting" and not connecting.done()
        await w.client.close()
        await lost(connecting)
