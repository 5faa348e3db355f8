"""What a raw connection's life leaves in the log: one line for each thing, and who it is about."""

from __future__ import annotations

import asyncio
import logging

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from websockets.asyncio.client import connect as open_websocket

from wsrpc import RpcError, Server, Service
from wsrpc.transport import ConnectionInfo
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")

FAKE = "x\nERROR everything is lost"


def check(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """Levels and texts, each of one line that says where the other side is."""
    records = [record for record in caplog.records if record.name == "wsrpc"]
    for record in records:
        assert record.getMessage().isprintable(), record.getMessage()
        extra = vars(record)
        assert extra["peer"] and extra["remote"].startswith("127.0.0.1:"), record.getMessage()
    return [(record.levelno, record.getMessage()) for record in records]


async def test_neither_a_close_reason_nor_an_error_can_write_lines_of_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server()

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        async for message in connection:
            if message == "refused":
                raise RpcError(FAKE)
            if message == "not mine":
                waiting = asyncio.get_running_loop().create_future()
                waiting.cancel()
                await waiting
            raise ValueError(message)

    codes: list[int | None] = []
    async with server.listen() as listener:
        async with open_websocket(listener.url) as websocket:
            await websocket.close(4000, FAKE)
        for message in ("refused", FAKE, "not mine"):
            async with open_websocket(listener.url) as websocket:
                await websocket.send(message)
                await websocket.wait_closed()
                codes.append(websocket.close_code)
        await turns_until(lambda: not server.raw_connections)
    assert codes == [1008, 1011, 1011]
    lines = check(caplog)
    assert any(
        level == logging.INFO and text.endswith(r" disconnected: 4000 x\nERROR everything is lost")
        for level, text in lines
    )
    failed = [(level, text) for level, text in lines if "failed" in text]
    assert [level for level, _ in failed] == [logging.INFO, logging.ERROR, logging.ERROR]


@pytest.mark.parametrize("where", ["room_from", "factory"])
async def test_a_connection_that_is_refused_after_its_handshake_is_named(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    def name(info: ConnectionInfo) -> str:
        if where == "room_from":
            raise ValueError("no room")
        return "room"

    class Desk(Service):
        def on_open(self) -> None:
            raise AssertionError("it was refused")

        def __init__(self) -> None:
            if where == "factory":
                raise ValueError("no desk")

    server = Server(room_from=name)
    server.add_service(Desk)
    async with server.listen() as listener, open_websocket(listener.url) as websocket:
        await websocket.wait_closed()
        assert websocket.close_code == 1011
    [(level, text)] = check(caplog)
    assert level == logging.ERROR and where in text
