"""JavaScript in the rooms of a Python server: joining, being refused, hearing what is emitted there, leaving."""

from __future__ import annotations

import pytest

from interop.peers import DIALERS, Agents, text_of
from wsrpc import Peer, Server
from wsrpc.types import EmitReport

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("library", DIALERS)
async def test_javascript_joins_hears_and_leaves(agents: Agents, library: str) -> None:
    async with agents.link(library, "python-serves") as link:
        server = link.app
        assert isinstance(server, Server)
        home = server.room("/ws")
        home.add(link.peer)
        prices = server.room("prices", allow=lambda peer: True)

        @server.on_join
        async def may(peer: Peer, room: str) -> bool:
            raise PermissionError("the password is secret")

        assert await link.ask("join", "prices", channel="rooms") is None
        assert text_of(await link.ask_in_vain("join", "private", channel="rooms")) == "not allowed"
        assert link.peer.rooms == (home, prices)
        assert await prices.emit("log", "main") == EmitReport(1)
        assert await prices.of("math").emit("log", "math") == EmitReport(1)
        assert await home.emit("log", "home") == EmitReport(1)
        assert await server.room("private").emit("log", "private") == EmitReport(0)
        entries = await link.journal("event", at_least=3)
        assert [(entry["channel"], entry["args"]) for entry in entries] == [
            (None, ["main"]),
            ("math", ["math"]),
            (None, ["home"]),
        ]
        assert await link.ask("leave", "prices", channel="rooms") is None
        assert text_of(await link.ask_in_vain("leave", "/ws", channel="rooms")) == "not allowed"
        assert len(prices) == 0
