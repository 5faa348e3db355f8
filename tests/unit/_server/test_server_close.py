"""How servers are closed, and opened again: what was registered stays, what belonged to their connections is gone.

`test_server_states.py` has the table of what may be done in which state.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, handshake, raw_client

from wsrpc import Client, Key, Limits, Server, Service, method
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


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


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_that_comes_while_it_closes_is_no_error(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At whichever turn of its making or of its handshake. Nor do those that say nothing hold up the end."""
    server = Server(limits=LIMITS)
    async with server.listen(healthz=None) as listener:
        with ExitStack() as stack:
            connect = socket.create_connection
            sockets = [stack.enter_context(connect(("127.0.0.1", listener.port))) for _ in range(4)]
            for each in sockets[:2]:
                each.sendall(handshake())
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(LIMITS.close_timeout):
                closing = asyncio.create_task(server.close())
                await asyncio.sleep(0)
                sockets[0].close()
                sockets[1].shutdown(socket.SHUT_RDWR)
                await closing
    gc.collect()  # of a socket that nobody closed Python warns, and a warning is an error here
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


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


NAME = Key[str]("name")


def echo_server(**options: Any) -> Server:
    server = Server(**{"limits": LIMITS} | options)
    server.on("echo", lambda value: value)
    return server


async def test_what_was_registered_stays() -> None:
    server = echo_server()
    server.state[NAME] = "the one"

    class Greeter(Service):
        @method
        def greet(self) -> str:
            return f"Hello, {self.peer.state['name']}"

    server.add_service(Greeter)
    server.on_handshake(lambda handshake: handshake.state.update(handshake.query))
    server.room("prices", allow=lambda peer: True)
    listening = server.listen()
    for turn in range(2):
        async with listening as listener, Client(f"{listener.url}?name=Ada", limits=LIMITS) as client:
            assert await client.request("echo", turn) == turn
            assert await client.request("greet") == "Hello, Ada"
            await client.of("rooms").request("join", "prices")
    assert server.state[NAME] == "the one"


async def test_peers_rooms_and_numbers_are_new() -> None:
    opened = time.monotonic()
    server = echo_server()
    declared = server.room("declared", slow="drop_newest")
    for _ in range(2):
        async with server.listen() as listener:
            assert (server.peers, server.rooms, len(declared)) == ((), (declared,), 0)
            stats = server.stats()
            assert (stats.accepted, stats.closed, stats.refused, stats.messages_in, stats.errors) == (0, {}, {}, 0, 0)
            assert server.healthy and stats.uptime <= time.monotonic() - opened
            async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
                await client.request("echo", 1)
                for room in (server.room("lobby"), declared):
                    room.add(server.peers[0])
                await asyncio.gather(server.close(), client.peer.wait_closed())
        assert not server.healthy and repr(server) == "<Server closed>"
        # Until it is opened again the numbers are those of the end.
        assert (server.stats().accepted, server.stats().closed) == (1, {1012: 1})
        opened = time.monotonic()


async def test_serve_forever_ends_with_the_server_that_is_open_now() -> None:
    server = echo_server()
    for _ in range(2):
        async with server.listen():
            serving, leaves = [asyncio.create_task(server.serve_forever()) for _ in range(2)]
            await asyncio.sleep(0)
            leaves.cancel()
            await asyncio.wait([leaves])
            assert not serving.done()
            await server.close()
            await serving
        await server.serve_forever()  # it has ended
