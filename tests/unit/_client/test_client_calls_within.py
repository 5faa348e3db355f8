"""`close` and `bind` in functions that a client calls as it dials, opens and drops: no connection is left over.

With each task factory: an eager one, for instance, takes a task's first step before its maker has the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from client_driver import LIMITS, World, world
from leftovers import nothing_left as nothing_left
from task_factories import FACTORIES

from wsrpc import ConnectionLost, Limits, Reconnect, Server
from wsrpc.testing import memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")

AFTER_DROP = ("on_reconnect", "close", "retry", "retry with a session")


@pytest.mark.parametrize(
    "place",
    [
        *("url", "auth", "auth that goes on", "auth that fails", "open", "on_reconnect", "close"),
        *("retry", "retry with a session", "event"),
    ],
)
@pytest.mark.parametrize("call", ["close", "close the peer", "bind"])
@pytest.mark.parametrize("factory", FACTORIES)
async def test_the_last_call_decides_also_where_it_is_made_within(place: str, call: str, factory: Any) -> None:
    asyncio.get_running_loop().set_task_factory(factory)
    acted, done = asyncio.Event(), asyncio.Event()
    begun: list[asyncio.Future[Any]] = []
    w: World

    async with world(connect=False) as other:
        ours, theirs = memory_transports(limits=LIMITS)

        def begin() -> Coroutine[Any, Any, None]:
            if call == "bind":
                begun.append(asyncio.ensure_future(other.server.accept(theirs)))
                return w.client.bind(ours)
            return (w.client if call == "close" else w.client.peer).close(4000, "enough")

        async def act() -> None:
            try:
                await begin()
            finally:
                done.set()

        def plain(*_: Any) -> bool:
            if (place.startswith("retry") or place == "event") and not acted.is_set():
                acted.set()
                done.set()
                with suppress(StopIteration):
                    (coroutine := begin()).send(None)  # the first step, which an eager task takes at once
                coroutine.close()
            return True

        def at(where: str, result: Any) -> Callable[[], Awaitable[Any]]:
            async def function() -> Any:
                if where == place and not acted.is_set():
                    acted.set()
                    await act()
                return result

            return function

        async def stubborn() -> str:
            if not acted.is_set():
                acted.set()
                begun.append(asyncio.ensure_future(act()))
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
                if place == "auth that fails":
                    raise OSError("no token")
            return "token"

        auth: Any = stubborn if place.startswith("auth that") else at("auth", "token")
        limits = LIMITS if place != "retry with a session" else Limits(close_timeout=2.0)
        server = Server(limits=limits, detached_timeout=10)
        if place == "event":  # it waits for the `open` handler of the client
            server.on("open", lambda peer: peer.emit_nowait("note"))
        reconnect = Reconnect(initial=0.001, max=0.001, retry=plain)
        url = at("url", "ws://server/")
        async with world(connect=False, server=server, limits=limits, url=url, auth=auth, reconnect=reconnect) as w:
            w.client.on("connect", at("open", None))
            w.client.on("note", plain)
            w.client.on_reconnect(at("on_reconnect", None))
            w.client.on("disconnect", at("close", None))
            try:
                await w.client.connect()
            except (ConnectionLost, asyncio.CancelledError):
                assert place not in AFTER_DROP
            if place in AFTER_DROP:
                assert await w.client.request("echo", 1) == 1
                w.drop()
            await done.wait()
            await asyncio.gather(*begun, return_exceptions=True)
            if call != "bind":
                await asyncio.sleep(11)
                assert not w.client.connected and not w.server.peers
                await w.client.connect()  # it can be used again
                assert len(w.server.peers) == 1
            else:
                await w.client.wait_connected()
                assert await w.client.request("echo", 1) == 1
                await asyncio.sleep(11)  # a session that was left over ends
                assert not w.server.peers and len(other.server.peers) == 1
            await w.client.close()
            await asyncio.sleep(11)
            assert not w.server.peers and not other.server.peers
