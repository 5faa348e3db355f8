"""`Server.serve_raw`: a connection's whole life."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref
from typing import Any

import pytest
from core_driver import Blocked, messages, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_driver import raw_serving
from raw_websocket import CLOSE, TEXT

from wsrpc import CloseInfo, ConnectionLost, Handshake, Limits, RpcError, Server
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


async def echo(connection: RawConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_credentials_that_expire_close_the_connection() -> None:
    server = Server()
    ended: list[CloseInfo | None] = []

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.expires = time.time() + 0.1
        handshake.state["user"] = "ada"

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        assert connection.state == {"user": "ada"}
        assert server.raw_connections == (connection,) and server.peers == ()
        await echo(connection)
        ended.append(connection.ended)
        with pytest.raises(ConnectionLost, match="the credentials have expired"):
            await connection.send("late")

    async with raw_serving(server=server) as (_, raw):
        frame = await raw.next_frame()
        assert (frame.code, frame.reason) == (4411, "the credentials have expired")
        await raw.send(raw.frame(TEXT, "late"), raw.close_frame(4411))
        assert await raw.read_to_end() == b""
        raw.drop()
        await turns_until(lambda: server.raw_connections == ())
        assert [(info.code, info.user_closed) for info in ended if info] == [(4411, False)]


async def test_a_connection_that_has_ended_is_not_kept_until_its_credentials_expire() -> None:
    server = Server()
    seen: list[weakref.ref[RawConnection]] = []
    server.on_handshake(lambda handshake: setattr(handshake, "expires", time.time() + 3600))

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        seen.append(weakref.ref(connection))

    async with raw_serving(server=server) as (_, raw):
        await raw.next_of(CLOSE)
        await raw.send(raw.close_frame())
        raw.drop()
        await turns_until(lambda: server.raw_connections == ())
        await turns_until(lambda: gc.collect() >= 0 and seen[0]() is None)


# ---------------------------------------------------------------- how the function ends


async def closes_twice(connection: RawConnection) -> None:
    await connection.close(4001, "mine")
    await connection.close(4002, "mine, too")


async def fails(connection: RawConnection) -> None:
    raise KeyError("secret")


async def refuses(connection: RawConnection) -> None:
    raise RpcError("\ud800" + "ü" * 100)


async def refuses_in_a_group(connection: RawConnection) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(refuses(connection))
        await connection.receive()


async def loses_another(connection: RawConnection) -> None:
    raise ConnectionLost(1006, "elsewhere")


@pytest.mark.parametrize(
    ("function", "code", "reason", "logged"),
    [
        (closes_twice, 4001, "mine", None),
        (fails, 1011, "internal error", "secret"),
        (refuses, 1008, "?" + "ü" * 61, None),
        (refuses_in_a_group, 1008, "?" + "ü" * 61, None),
        (loses_another, 1011, "internal error", "elsewhere"),
    ],
)
async def test_how_the_function_ends_closes_the_connection(
    function: Any, code: int, reason: str, logged: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw_serving(function) as (server, raw):
        frame = await raw.next_frame()
        assert (frame.code, frame.reason) == (code, reason)
        await raw.send(raw.close_frame(code))
        raw.drop()
        await turns_until(lambda: server.raw_connections == ())
    assert len(messages(caplog, logging.WARNING)) == (logged is not None)
    for record in caplog.records:
        assert record.exc_info is not None and str(logged) in str(record.exc_info[1])


@pytest.mark.parametrize("closed", [False, True])
async def test_that_the_connection_has_ended_is_no_failure(closed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Closing what is over does not change how it ended."""
    infos: list[CloseInfo | None] = []

    async def read(connection: RawConnection) -> None:
        await connection.wait_closed()
        await connection.close(4000, "mine")
        infos.append(connection.ended)
        async with asyncio.TaskGroup() as group:
            group.create_task(connection.send("a"))
            group.create_task(connection.receive())

    async with raw_serving(read) as (server, raw):
        await turns_until(lambda: server.raw_connections)
        if closed:
            await raw.send(raw.close_frame(4001, "theirs"))
            await raw.next_of(CLOSE)
        raw.reset()
        await turns_until(lambda: infos and server.raw_connections == ())
    assert [(info.code, info.user_closed) for info in infos if info] == [(4001 if closed else 1006, False)]
    assert messages(caplog) == []


# ---------------------------------------------------------------- how the server ends


@pytest.mark.parametrize(
    ("drain", "then", "code"),
    [
        (0, "goes on", 1012),
        (60, "ends", 1000),
        (0, "closes the server", 1012),
    ],
)
async def test_closing_the_server(drain: float, then: str, code: int) -> None:
    """It waits for the functions, for `close_timeout`, and a drain lets them finish."""
    work = Blocked()

    async def serve(connection: RawConnection) -> None:
        await work()
        if then == "closes the server":
            await server.close(drain)
        await turns(20)

    async with raw_serving(serve, limits=Limits(close_timeout=0.05 if then == "goes on" else 8.0)) as (server, raw):
        await turns_until(lambda: work.started)
        closing = asyncio.create_task(server.serve_forever() if "closes" in then else server.close(drain))
        await turns()
        assert not closing.done()
        if then != "goes on":
            work.go.set()
        assert (await raw.next_of(CLOSE)).code == code
        await raw.send(raw.close_frame(code))
        raw.drop()
        await closing
        assert (len(work.finished), len(work.cancelled)) == ((0, 1) if then == "goes on" else (1, 0))
        await turns_until(lambda: server.raw_connections == ())


@pytest.mark.parametrize("function", [None, lambda connection: None])
def test_it_takes_an_async_function(function: Any) -> None:
    with pytest.raises(TypeError, match="serve_raw takes an async function"):
        Server().serve_raw(function)
