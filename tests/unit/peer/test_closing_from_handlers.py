"""Closing from inside handlers, and what still runs at the end: nothing hangs and nothing starts too late.

`close_timeout` is longer here than the tests may take, so that a close which waits for it fails.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from core_driver import messages
from leftovers import nothing_left as nothing_left
from waiting import settled

from wsrpc import Client, ConnectFailed, ConnectionLost, Limits, Reconnect, Server, current_peer
from wsrpc.testing import Line, connect

pytestmark = pytest.mark.usefixtures("nothing_left")

PATIENT = Limits(close_timeout=20.0, replay_bytes=0)  # sessions end with their connections
HASTY = Limits(close_timeout=0.05, replay_bytes=0)
TARGETS = ["client", "server", "peer"]
WHERE = ["request", "event", "open", "close"]
URL = "ws://server/"
AT_ONCE = Reconnect(initial=0.001, max=0.001)

# ---------------------------------------------------------------- the one that closes is a handler


@pytest.mark.parametrize("by_task", [False, True], ids=["itself", "by a task"])
@pytest.mark.parametrize(("target", "where"), [*product(TARGETS, WHERE), ("client", "on_reconnect")])
async def test_a_handler_closes_without_waiting_for_itself(
    target: str, where: str, by_task: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(limits=PATIENT)
    left, after = asyncio.Event(), asyncio.Event()

    async def stop(*_: Any) -> None:
        closes: Any = {"client": client, "server": server, "peer": current_peer()}[target]
        try:
            if by_task:
                async with asyncio.TaskGroup() as group:  # as asyncio.wait_for() has one, on Python 3.11
                    group.create_task(closes.close())
            else:
                await closes.close()
            after.set()
        finally:  # the handler of a request is cancelled when its connection ends
            left.set()

    line = Line(server)
    async with asyncio.timeout(0.3):
        serving = asyncio.create_task(server.serve_forever())
        client = Client(URL, dial=line.dial, limits=PATIENT, reconnect=AT_ONCE if where == "on_reconnect" else None)
        here: Any = client if target == "client" else server
        if where == "on_reconnect":
            client.on_reconnect(stop)
        else:
            here.on("now" if where in ("request", "event") else where, stop)
        with suppress(ConnectionLost, ConnectFailed):  # `open` closes it, perhaps before it is open
            await client.connect()
        if where in ("request", "event"):
            caller: Any = server.peers[0] if target == "client" else client
            with suppress(ConnectionLost):
                await (caller.request if where == "request" else caller.emit)("now")
        elif where in ("close", "on_reconnect"):
            line.cut()
        await left.wait()
        assert after.is_set() or where == "request"
        if target == "server":
            await serving
        await client.close()
        assert client.state == "closed"
        await server.close()
        await serving
        assert server.peers == ()
    assert [text for text in messages(caplog) if "connection ended" not in text] == []


# ---------------------------------------------------------------- handlers that outstay


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_handler_that_will_not_stop_holds_up_closing_only_so_long(
    side: str, caplog: pytest.LogCaptureFixture
) -> None:
    server, go, started = Server(limits=HASTY), asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        while not go.is_set():
            started.set()
            with suppress(asyncio.CancelledError):
                await go.wait()

    async with asyncio.timeout(0.3):
        async with Client(URL, dial=Line(server).dial, limits=HASTY, reconnect=None) as client:
            target, caller = (client, server.peers[0]) if side == "client" else (server, client)
            target.on("stubborn", stubborn)
            await caller.emit("stubborn")
            await started.wait()
            serving = asyncio.create_task(server.serve_forever())
            await target.close()
            await server.close()
            await serving
    assert any("do not end" in text for text in messages(caplog))
    go.set()


# ---------------------------------------------------------------- `close` handlers


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("by", ["other code", "another peer's handler"])
@pytest.mark.parametrize("target", ["client", "server", "client's peer", "server's peer"])
async def test_close_returns_when_the_close_handlers_have(target: str, by: str, times: int) -> None:
    """That of a peer returned while `close` handlers that were `async def` ran on."""
    server, log = Server(limits=PATIENT), list[str]()
    begun, go, returned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        begun.set()
        await go.wait()
        log.append("event")

    async def close() -> None:
        closing = [asyncio.ensure_future(closes.close()) for _ in range(times)]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*closing)
        log.append("returned")
        returned.set()

    line = Line(server)
    async with asyncio.timeout(0.3), Client(URL, dial=line.dial, limits=PATIENT) as client:
        [peer] = server.peers
        closes: Any = {"client": client, "server": server, "client's peer": client.peer, "server's peer": peer}[target]
        end: Any = client if target.startswith("client") else peer

        async def closed(*_: Any) -> None:
            await settled()
            log.append("closed")

        end.on("close", closed)
        end.on("slow", slow)
        server.on("kick", close)
        async with Client(URL, dial=line.dial, limits=PATIENT) as other:
            await (peer if end is client else client).emit("slow")
            await begun.wait()
            if by == "other code":
                await close()
            else:
                await other.emit("kick")
                await returned.wait()
    assert log == ["event", "closed", "returned"]


@pytest.mark.parametrize("waits_for", ["event", "close"])
async def test_a_peer_s_close_waits_for_close_handlers_only_so_long(waits_for: str) -> None:
    server, go, begun = Server(limits=HASTY), asyncio.Event(), asyncio.Event()

    @server.on(waits_for)
    async def stubborn(*_: Any) -> None:
        begun.set()
        await go.wait()

    async with asyncio.timeout(0.3), connect(server) as client:
        if waits_for == "event":
            await client.emit("event")
            await begun.wait()
        await server.peers[0].close()
        assert begun.is_set() and server.peers == ()
        go.set()
