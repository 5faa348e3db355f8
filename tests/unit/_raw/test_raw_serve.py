"""`Server.serve_raw`: a connection's whole life."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_driver import raw_serving
from raw_websocket import CLOSE, TEXT, raw_client

from wsrpc import CloseInfo, ConnectionLost, Handshake, Limits, RpcError, Server, Service
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


async def echo(connection: RawConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_an_echo_and_what_is_known_of_the_connection() -> None:
    server = Server()
    seen: list[RawConnection] = []

    @server.on_handshake
    def admit(handshake: Handshake) -> None:
        handshake.state["user"] = "ada"

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        seen.append(connection)
        await echo(connection)

    async with raw_serving(server=server) as (_, raw):
        await raw.send(raw.frame(TEXT, '{"a":["no event"]}'))
        assert (await raw.next_frame()).payload == b'{"a":["no event"]}'
        [connection] = seen
        assert server.raw_connections == (connection,)
        assert server.peers == ()
        assert connection.state == {"user": "ada"}
        assert connection.info.path == "/"
        assert connection.info.underlying is not None
        assert not connection.closed
        assert repr(connection).startswith(f"<RawConnection {connection.id} open remote=127.0.0.1:")
        await raw.send(raw.close_frame(1000))
        assert (await raw.next_of(CLOSE)).code == 1000
        raw.drop()
        await turns_until(lambda: server.raw_connections == ())
        assert repr(connection).startswith(f"<RawConnection {connection.id} closed")


@pytest.mark.parametrize("how", ["function", "service", "factory"])
async def test_credentials_that_expire_close_the_connection(how: str) -> None:
    server = Server()
    ended: list[CloseInfo] = []

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.expires = time.time() + 0.1

    async def serve(connection: RawConnection) -> None:
        await echo(connection)
        assert connection.ended is not None
        ended.append(connection.ended)
        with pytest.raises(ConnectionLost, match="the credentials have expired"):
            await connection.send("late")

    class Echo(Service):
        async def serve(self, connection: RawConnection) -> None:
            await serve(connection)

    async def make(connection: RawConnection) -> Echo:
        if how == "factory":
            await connection.wait_closed()
        return Echo()

    if how == "function":
        server.serve_raw(serve)
    else:
        server.add_service(Echo, make)
    async with raw_serving(server=server) as (_, raw):
        frame = await raw.next_frame()
        assert (frame.code, frame.reason) == (4411, "the credentials have expired")
        await raw.send(raw.frame(TEXT, "late"), raw.close_frame(4411))
        assert await raw.read_to_end() == b""
        raw.drop()
        await turns_until(lambda: server.raw_connections == ())
        assert [(info.code, info.user_closed) for info in ended] == [(4411, False)]


async def test_a_connection_that_has_ended_is_not_kept_until_its_credentials_expire() -> None:
    server = Server()
    seen: list[weakref.ref[RawConnection]] = []

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.expires = time.time() + 3600

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        seen.append(weakref.ref(connection))

    async with raw_serving(server=server) as (_, raw):
        await raw.next_of(CLOSE)
        await raw.send(raw.close_frame())
        raw.drop()
        await turns_until(lambda: server.raw_connections == ())

        def collected() -> bool:
            gc.collect()
            return seen[0]() is None

        await turns_until(collected)


async def test_when_the_function_returns_the_connection_closes_with_1000() -> None:
    async def greet(connection: RawConnection) -> None:
        await connection.send("hello")

    async with raw_serving(greet) as (_, raw):
        assert (await raw.next_frame()).payload == b"hello"
        assert (await raw.next_frame()).code == 1000


async def test_closing_without_a_code() -> None:
    async def leave(connection: RawConnection) -> None:
        await connection.close(None)

    async with raw_serving(leave) as (_, raw):
        assert (await raw.next_of(CLOSE)).payload == b""


async def test_when_it_raises_with_1011_and_the_traceback_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(connection: RawConnection) -> None:
        raise KeyError("secret")

    async with raw_serving(fail) as (_, raw):
        frame = await raw.next_of(CLOSE)
        assert (frame.code, frame.reason) == (1011, "internal error")
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


async def test_an_rpc_error_closes_with_1008_and_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(connection: RawConnection) -> None:
        raise RpcError("not today: " + "ü" * 100)

    async with raw_serving(refuse) as (_, raw):
        frame = await raw.next_of(CLOSE)
        assert (frame.code, frame.reason) == (1008, "not today: " + "ü" * 56)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_that_the_connection_is_lost_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def read(connection: RawConnection) -> None:
        await connection.receive()

    async with raw_serving(read) as (server, raw):
        await turns_until(lambda: server.raw_connections)
        raw.reset()
        await turns_until(lambda: server.raw_connections == ())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_that_another_connection_is_lost_is_one(caplog: pytest.LogCaptureFixture) -> None:
    async def use(connection: RawConnection) -> None:
        raise ConnectionLost(1006, "elsewhere")

    async with raw_serving(use) as (_, raw):
        assert (await raw.next_of(CLOSE)).code == 1011
    assert "elsewhere" in caplog.text


async def test_closing_the_server_closes_with_1012_and_waits_for_the_functions() -> None:
    ended: list[int] = []

    async def serve(connection: RawConnection) -> None:
        try:
            async for _ in connection:
                pass
        finally:
            await turns(20)
            assert connection.ended is not None
            ended.append(connection.ended.code)

    async with raw_serving(serve) as (server, raw):
        await turns_until(lambda: server.raw_connections)
        closing = asyncio.create_task(server.close())
        assert (await raw.next_of(CLOSE)).code == 1012
        await raw.send(raw.close_frame(1012))
        raw.drop()
        await closing
        assert ended == [1012]


async def test_a_function_that_does_not_end_is_cancelled_after_close_timeout() -> None:
    cancelled: list[bool] = []

    async def stay(connection: RawConnection) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with raw_serving(stay, limits=Limits(close_timeout=0.05)) as (server, _):
        await turns_until(lambda: server.raw_connections)
        await server.close()
        assert cancelled == [True]
        assert server.raw_connections == ()


async def test_draining_lets_a_function_finish_and_closes_with_1000() -> None:
    go_on = asyncio.Event()

    async def serve(connection: RawConnection) -> None:
        await go_on.wait()
        await connection.send("done")

    async with raw_serving(serve) as (server, raw):
        await turns_until(lambda: server.raw_connections)
        closing = asyncio.create_task(server.close(drain=60))
        for _ in range(10):
            await asyncio.sleep(0)
        assert "draining" in repr(server)
        assert not closing.done()
        go_on.set()
        assert (await raw.next_frame()).payload == b"done"
        assert (await raw.next_frame()).code == 1000
        raw.drop()
        await closing


async def test_draining_ends_in_time(caplog: pytest.LogCaptureFixture) -> None:
    async with raw_serving(echo) as (server, raw):
        await turns_until(lambda: server.raw_connections)
        closing = asyncio.create_task(server.close(drain=0.05))
        assert (await raw.next_of(CLOSE)).code == 1012
        raw.drop()
        await closing
    assert "closing 1 connections that still have active work" in caplog.text


async def test_the_function_itself_may_close_the_server() -> None:
    async def serve(connection: RawConnection) -> None:
        await connection.receive()
        await server.close(drain=5)

    async with raw_serving(serve) as (server, raw):
        await raw.send(raw.frame(TEXT, "stop"))
        assert (await raw.next_of(CLOSE)).code == 1012
        await raw.send(raw.close_frame(1012))
        raw.drop()
        await server.serve_forever()
        await turns_until(lambda: server.raw_connections == ())


async def test_connections_are_each_their_own() -> None:
    async with raw_serving(echo, limits=Limits(close_timeout=0.05)) as (server, raw):
        port = raw.sock.getpeername()[1]
        async with raw_client(port) as other:
            for each in (raw, other):
                await each.send(each.frame(TEXT, "hi"))
                assert (await each.next_frame()).payload == b"hi"
            first, second = server.raw_connections
            assert first.id != second.id
            await first.close(4001)
            assert not second.closed


@pytest.mark.parametrize("function", [None, 5, lambda connection: None, print])
def test_it_takes_an_async_function(function: Any) -> None:
    with pytest.raises(TypeError, match="serve_raw takes an async function"):
        Server().serve_raw(function)


def test_there_is_one_for_a_server() -> None:
    server = Server()
    server.serve_raw(echo)
    with pytest.raises(ValueError, match="echo"):
        server.serve_raw(echo)


async def test_closing_what_is_over_does_not_change_how_it_ended() -> None:
    ended: asyncio.Future[CloseInfo | None] = asyncio.get_running_loop().create_future()

    async def serve(connection: RawConnection) -> None:
        before = await connection.wait_closed()
        await connection.close(4000, "mine")
        ended.set_result(before if connection.ended == before else None)

    async with raw_serving(serve) as (_, raw):
        await raw.send(raw.close_frame(4001, "theirs"))
        await raw.next_of(CLOSE)
        raw.drop()
        info = await ended
    assert info is not None
    assert (info.code, info.reason, info.user_closed) == (4001, "theirs", False)
