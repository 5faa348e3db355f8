"""`Server.close`, `peers`, and crowds that come and go."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
import weakref
from contextlib import suppress
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import open_sockets, other_tasks, turns_until
from raw_websocket import CLOSE, TEXT, handshake, raw_client

from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Peer, RemoteError, Server
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
HASTY = LIMITS.replace(close_timeout=0.1)


async def test_connections_are_closed_with_1012() -> None:
    server = Server(limits=LIMITS)
    infos: asyncio.Queue[CloseInfo] = asyncio.Queue()
    async with server.listen() as listener:
        clients = [Client(listener.url, limits=LIMITS, reconnect=None) for _ in range(3)]
        for client in clients:
            client.on("close", lambda peer, info: infos.put_nowait(info))
            await client.connect()
        await server.close()
        assert server.peers == ()
        for _ in clients:
            info = await infos.get()
            assert (info.code, info.was_clean, info.user_closed) == (1012, True, False)
        for client in clients:
            await client.close()


async def test_close_is_idempotent_also_at_once() -> None:
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=None):
            await asyncio.gather(server.close(), server.close())
            await server.close()
    await server.close()
    assert "closed" in repr(server)


async def test_close_without_ever_listening() -> None:
    await Server().close()


async def test_nobody_new_is_accepted() -> None:
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        port = listener.port
        await server.close()
        with pytest.raises(OSError):
            async with raw_client(port):
                pytest.fail("accepted")


async def test_handlers_that_end_in_time_end_by_themselves() -> None:
    server = Server(limits=LIMITS)
    started, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @server.on("work")
    async def work() -> None:
        started.set()
        await go_on.wait()
        ended.set()

    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
            await client.emit("work")  # an event's handler goes on when the connection is gone
            await started.wait()
            closing = asyncio.create_task(server.close())
            await client.peer.wait_closed()
            assert not closing.done()
            go_on.set()
            await closing
            assert ended.is_set()


async def test_handlers_that_do_not_end_are_cancelled() -> None:
    server = Server(limits=HASTY)
    started: asyncio.Queue[None] = asyncio.Queue()
    cancelled = 0

    @server.on("for ever")
    async def for_ever() -> None:
        nonlocal cancelled
        started.put_nowait(None)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
            await client.emit("for ever")
            request = asyncio.create_task(client.request("for ever"))
            await started.get()
            await started.get()
            async with asyncio.timeout(8):
                await server.close()
            assert cancelled == 2
            with pytest.raises((ConnectionLost, RemoteError)):
                await request


async def test_close_from_within_a_handler() -> None:
    server = Server(limits=HASTY)
    done = asyncio.Event()

    @server.on("stop")
    async def stop() -> None:
        try:
            await server.close()
        finally:
            done.set()

    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
            await client.emit("stop")
            async with asyncio.timeout(8):
                await done.wait()
                await server.serve_forever()


async def test_somebody_who_never_answers_does_not_hold_up_closing() -> None:
    server = Server(limits=HASTY)
    async with server.listen() as listener:
        async with raw_client(listener.port) as mute:
            await turns_until(lambda: server.peers)
            async with asyncio.timeout(8):
                await server.close()
            assert (await mute.next_of(CLOSE)).code == 1012


async def test_leaving_the_block_closes_also_after_an_exception() -> None:
    server = Server(limits=LIMITS)
    async with server.listen() as other:
        client = Client(other.url, limits=LIMITS, reconnect=None)
        await client.connect()
        with pytest.raises(RuntimeError, match="mine"):
            async with server.listen():
                raise RuntimeError("mine")
        await client.peer.wait_closed()
        await client.close()


async def test_peers_come_and_go_in_order() -> None:
    server = Server(limits=LIMITS)
    opened: asyncio.Queue[Peer] = asyncio.Queue()
    closed: asyncio.Queue[tuple[Peer, CloseInfo]] = asyncio.Queue()
    server.on("open", opened.put_nowait)
    server.on("close", lambda peer, info: closed.put_nowait((peer, info)))
    async with server.listen() as listener:
        clients = [Client(listener.url, limits=LIMITS) for _ in range(3)]
        peers = []
        for client in clients:
            await client.connect()
            peers.append(await opened.get())
        assert list(server.peers) == peers
        assert len({peer.id for peer in peers}) == 3
        assert all(peer.connected for peer in peers)
        await clients[1].close(4001, "off")
        peer, info = await closed.get()
        assert peer is peers[1]
        assert (info.code, info.reason, info.user_closed) == (4001, "off", False)
        assert list(server.peers) == [peers[0], peers[2]]
        assert not peer.connected
        with pytest.raises(ConnectionLost):
            await peer.emit("x")
        await peers[0].close(4002, "you too")
        assert (await closed.get())[1].user_closed
        assert list(server.peers) == [peers[2]]
        for client in clients:
            await client.close()


async def test_state_belongs_to_one_peer() -> None:
    server = Server(limits=LIMITS)

    @server.on("set")
    def set_(peer: Peer, value: int) -> None:
        peer.state["value"] = value

    server.on("get", lambda: None)

    @server.on("read")
    async def read(peer: Peer) -> int | None:
        value: int | None = peer.get("value")
        return value

    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS) as one, Client(listener.url, limits=LIMITS) as two:
            await one.request("set", 1)
            await two.request("set", 2)
            assert (await one.request("read"), await two.request("read")) == (1, 2)


@pytest.mark.timeout(120)  # 200 opening handshakes at once, on a machine that may be busy
async def test_200_at_once_that_come_and_go() -> None:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    refs: list[weakref.ref[Peer]] = []
    server.on("open", lambda peer: refs.append(weakref.ref(peer)))
    async with server.listen() as listener:
        tasks, sockets = other_tasks(), open_sockets()
        everybody_is_here = asyncio.Event()

        async def come_and_go(number: int) -> None:
            client = Client(listener.url, limits=LIMITS, reconnect=None)
            await client.connect()
            assert await client.request("echo", number) == number
            if len(server.peers) == 200:
                everybody_is_here.set()
            await everybody_is_here.wait()
            if number % 3 == 0:
                client.peer.info.underlying.transport.abort()
                await client.peer.wait_closed()
            elif number % 3 == 1:
                pending = asyncio.create_task(client.request("echo", "x"))
                await asyncio.sleep(0)
                await client.close()
                await asyncio.gather(pending, return_exceptions=True)
            await client.close()

        await asyncio.gather(*(come_and_go(number) for number in range(200)))
        await turns_until(lambda: not (server.peers or other_tasks() - tasks or open_sockets() - sockets))
        assert len(refs) == 200
        gc.collect()
        assert [ref() for ref in refs if ref() is not None] == []


async def test_one_that_floods_and_breaks_off_does_not_harm_the_others() -> None:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS) as client:
            for how in range(3):
                async with raw_client(listener.port) as raw:
                    await raw.send(*(raw.frame(TEXT, f'{{"i":{i},"a":["echo",{i}]}}') for i in range(1, 2000)))
                    if how == 0:
                        raw.reset()
                    elif how == 1:
                        await raw.send(b"\xff" * 100)
            assert await client.request("echo", "fine") == "fine"


async def test_a_text_message_that_is_not_utf_8_closes_with_1007() -> None:
    server = Server(limits=HASTY)
    async with server.listen() as listener:
        async with raw_client(listener.port) as raw:
            await raw.send(raw.frame(TEXT, b'{"a":["x\xff"]}'))
            assert (await raw.next_of(CLOSE)).code == 1007
        async with raw_client(listener.port) as raw:
            await raw.send(raw.frame(TEXT, b"\xc3", fin=False), raw.frame(0, b"\x28"))
            assert (await raw.next_of(CLOSE)).code == 1007


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


async def test_a_closed_server_still_takes_registrations() -> None:
    # They do nothing; but whoever registers is not answered with an HTTP status.
    server = Server()
    await server.close()
    server.on("add", lambda a, b: a + b)
    server.use(lambda ctx, call_next: call_next(ctx))


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
