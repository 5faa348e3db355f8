"""A client belongs to one event loop; one of threads has its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from client_driver import begun, lost, never, world
from leftovers import nothing_left as nothing_left
from session_story import SOON

from wsrpc import Server, blocking
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


async def test_a_client_of_threads_is_told_of_drops_and_resumes() -> None:
    server, loop = Server(), asyncio.get_running_loop()
    server.on("echo", lambda value: value)

    def main(url: str) -> list[Any]:
        notified: list[Any] = []
        with blocking.Client(url, reconnect=SOON) as client:
            client.on_detach(lambda info: notified.append(int(info.code)))
            client.on_reconnect(lambda info: notified.append(info.resumed))
            client.request("echo", 1)  # now the session can go on
            [transport] = [peer.transport for peer in server.peers]
            assert transport is not None
            loop.call_soon_threadsafe(transport.abort)
            while len(notified) < 2:
                time.sleep(0.001)
        return notified

    async with server.listen() as listener:
        assert await asyncio.to_thread(main, listener.url) == [1006, True]
