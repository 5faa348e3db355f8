"""`Client.bind`: connections that somebody else made, also over one another."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from client_driver import LIMITS, world
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import current_context
from wsrpc._client.client import core_of

pytestmark = pytest.mark.usefixtures("nothing_left")

BY_HAND: dict[str, Any] = {"connect": False, "url": None}


async def test_what_cannot_be_bound_changes_nothing() -> None:
    async with world(**BY_HAND) as w:
        given: Any
        for given, said in ((await w.bind(), "bound already"), (object(), "takes a transport")):
            with pytest.raises((TypeError, ValueError), match=said):
                await w.client.bind(given)
        assert w.client.state == "connected" and await w.client.request("echo", 1) == 1


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
