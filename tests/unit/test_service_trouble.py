"""`Service`: what must not get past a factory or `on_open`, and who else may have the messages."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest
from core_driver import messages
from leftovers import nothing_left as nothing_left
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

import wsrpc
from wsrpc import CloseInfo, Peer, Server, Service

pytestmark = pytest.mark.usefixtures("nothing_left")


class Vault(Service):
    """Guarded, or so it is hoped, by `on_open`."""

    reached = 0
    ended: list[CloseInfo]

    def __init__(self) -> None:
        self.ended = []

    @wsrpc.method
    def take(self) -> None:
        type(self).reached += 1

    def on_close(self, info: CloseInfo) -> None:
        self.ended.append(info)


async def cancelled() -> None:
    """What waits for a task that somebody else has cancelled."""
    waiting = asyncio.get_running_loop().create_future()
    waiting.cancel()
    await waiting


@pytest.mark.parametrize("where", ["factory", "on_open"])
async def test_a_guard_that_fails_by_a_cancelled_error_lets_nobody_in(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Vault] = []

    class Guarded(Vault):
        async def on_open(self) -> None:
            if where == "on_open":
                await cancelled()

    async def make(peer: Peer) -> Guarded:
        if where == "factory":
            await cancelled()
        made.append(Guarded())
        return made[-1]

    server = Server()
    server.add_service(Guarded, make)
    async with server.listen() as listener, open_websocket(listener.url) as websocket:
        with suppress(ConnectionClosed):  # so soon
            await websocket.send('{"a":["take"],"i":1}')
        await websocket.wait_closed()
        assert (websocket.close_code, websocket.close_reason) == (1011, "internal error")
    assert Guarded.reached == 0
    assert [len(vault.ended) for vault in made] == ([1] if where == "on_open" else [])
    [text] = messages(caplog, logging.ERROR)
    assert "failed" in text and where in text
