"""`Server.close`, `peers`, and crowds that come and go."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, handshake, raw_client

from wsrpc import Client, Limits, Server
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
HASTY = LIMITS.replace(close_timeout=0.1)


async def test_close_is_idempotent_also_at_once() -> None:
    await Server().close()  # without ever listening
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=None):
            await asyncio.gather(server.close(), server.close())
            await server.close()
    # Registrations do nothing, but whoever registers is not answered with an HTTP status.
    server.on("add", lambda a, b: a + b)
    server.use(lambda ctx, call_next: call_next(ctx))


async def test_cancelling_close_lets_it_be_called_again() -> None:
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        async with raw_client(listener.port) as mute:
            await turns_until(lambda: server.peers)
            closing = asyncio.create_task(server.close())
            assert (await mute.next_of(CLOSE)).code == 1012
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            await mute.send(mute.close_frame(1012))
            mute.drop()
            await server.close()
            assert server.peers == ()


@pytest.mark.parametrize("turns", range(2, 6))
async def test_a_connection_that_comes_while_it_closes_is_no_error(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At whichever turn of its handshake."""
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(handshake())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.create_task(server.close())
        with suppress(OSError):
            await reader.read(1)
        writer.transport.abort()
        await closing
        with suppress(OSError):
            await writer.wait_closed()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("drain", [0, 0.05])
async def test_a_socket_that_is_accepted_as_the_port_closes_is_closed_too(turns: int, drain: float) -> None:
    """At whichever turn of its making."""
    server = Server(limits=LIMITS)
    async with server.listen(healthz=None) as listener:
        sockets = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(LIMITS.close_timeout):  # nor does one that says nothing hold up the end
            await server.close(drain)
    gc.collect()  # of a socket that nobody closed Python warns, and a warning is an error here
    for each in sockets:
        each.close()


async def test_the_event_loop_is_idle_while_a_thread_outlives_its_connection() -> None:
    server = Server()
    loop: Any = asyncio.get_running_loop()
    entered, gate = asyncio.Event(), threading.Event()

    @server.on("work", thread=True)
    def work() -> None:
        loop.call_soon_threadsafe(entered.set)
        gate.wait(10)

    transport = ScriptedTransport()
    await server.accept(transport)
    transport.feed({"a": ["work"], "i": 1})
    await entered.wait()
    transport.lose()
    try:
        await turns(20)
        assert not getattr(loop, "_ready", ())  # nothing waits for the next turn
    finally:
        gate.set()
        await server.close()
