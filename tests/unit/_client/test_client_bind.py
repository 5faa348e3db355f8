"""`Client.bind`: connections that somebody else made, also over one another."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from client_driver import LIMITS, lost, world
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import current_context
from wsrpc._client.client import core_of
from wsrpc.testing import memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")

BY_HAND: dict[str, Any] = {"connect": False, "url": None}


async def test_what_cannot_be_bound_changes_nothing() -> None:
    async with world(**BY_HAND) as w:
        given: Any
        for given, said in ((await w.bind(), "bound already"), (object(), "takes a transport")):
            with pytest.raises((TypeError, ValueError), match=said):
                await w.client.bind(given)
        assert w.client.state == "connected" and await w.client.request("echo", 1) == 1


@pytest.mark.parametrize("when", ["before", "as what waited is sent"])
async def test_bind_of_a_connection_that_is_over(when: str) -> None:
    async with world(**BY_HAND) as w:
        ours, _ = memory_transports()
        if when == "before":
            ours.abort()
            await ours.close()
            await w.client.bind(ours)
            await w.expect("open", "close")
            assert w.closed[0].code == 1006
        else:
            waiting = asyncio.create_task(w.client.wait_connected())
            await w.client.emit("waits")
            ours.close_soon(4000, "gone")
            assert (await lost(w.client.bind(ours))).code == 4000
            assert w.client.state == "idle" and not waiting.done()
            await w.client.close()
            await lost(waiting)


@pytest.mark.parametrize("closed", [False, True])
async def test_close_handlers_that_wait_for_an_event_hear_what_was_called_meanwhile(closed: bool) -> None:
    """They were told that no other connection follows, as it was when the first one ended."""
    async with world(**BY_HAND) as w:
        began, goes_on = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            began.set()
            await goes_on.wait()

        w.client.on("hold", hold, ordered=True)
        transport = await w.bind()
        await w.expect("open")
        await w.peer.emit("hold")
        await began.wait()
        transport.abort()
        await turns_until(lambda: w.client.state == "idle")
        closing = asyncio.create_task(w.client.close()) if closed else None
        await turns()
        assert not w.closed
        await w.bind()
        assert [(info.user_closed, info.will_reconnect) for info in w.closed] == [(closed, True)]
        goes_on.set()
        if closing is not None:
            await closing


# ---------------------------------------------------------------- memory


async def test_what_a_user_keeps_from_one_session_keeps_no_later_ones() -> None:
    async with world(**BY_HAND, limits=LIMITS.replace(close_timeout=0.01)) as w:
        w.server.on("conversation", lambda: current_context().channel())
        kept: list[Any] = []
        for _ in range(10):
            transport = await w.bind()
            if not kept:
                kept += [w.client.events("news"), await w.client.open_channel("conversation")]
            (w.client.peer.transport or transport).abort()
            await turns_until(lambda: not w.client.connected and not w.server.peers)
        core = core_of(w.client)
        gc.collect()
        sessions = [found for found in gc.get_objects() if type(found) is type(core.peer_session)]
        assert 1 <= sum(found.host is core.peer_core.host for found in sessions) <= 2, "the latest, and that of `kept`"
        del kept, sessions
