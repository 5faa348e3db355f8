"""Closing from inside handlers, and what still runs at the end: nothing hangs and nothing starts too late.

`close_timeout` is longer here than the tests may take, so that a close which waits for it fails.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

import pytest
from core_driver import messages
from leftovers import nothing_left as nothing_left
from leftovers import other_tasks, turns_until

from wsrpc import Client, ConnectionLost, Limits, Peer, Reconnect, Server
from wsrpc.testing import connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")

PATIENT = Limits(close_timeout=20.0, replay=0)  # sessions end with their connections
HASTY = Limits(close_timeout=0.05, replay=0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)
PLACES = ["request", "event", "open", "close"]


def register(target: Server | Client, where: str, function: Any) -> None:
    target.on({"request": "now", "event": "now"}.get(where, where), function)


# ---------------------------------------------------------------- the one that closes is a handler


@pytest.mark.parametrize("where", PLACES)
async def test_a_handler_closes_the_server_and_serve_returns(where: str) -> None:
    server = Server(limits=PATIENT)
    left = asyncio.Event()

    async def stop() -> None:
        try:
            await server.close()
        finally:  # the handler of a request is cancelled when its connection ends
            left.set()

    register(server, where, stop)
    async with asyncio.timeout(8):
        async with server.listen() as listener:
            serving = asyncio.create_task(server.serve_forever())
            client = Client(listener.url, limits=PATIENT, reconnect=None)
            await asyncio.gather(
                client.connect(), return_exceptions=True
            )  # `open` closes it, perhaps before it is open
            if where == "request":
                with pytest.raises(ConnectionLost):
                    await client.request("now")
            elif where == "event":
                await client.emit("now")
            elif where == "close":
                await client.close()
            await left.wait()
            await serving
            assert server.peers == ()
            await client.close()
        await server.close()


@pytest.mark.parametrize("where", ["event", "close"])
async def test_what_follows_the_close_in_such_a_handler_runs(where: str) -> None:
    server = Server(limits=PATIENT)
    after = asyncio.Event()

    async def stop() -> None:
        await server.close()
        after.set()

    register(server, where, stop)
    async with asyncio.timeout(8):
        async with server.listen() as listener, Client(listener.url, limits=PATIENT, reconnect=None) as client:
            if where == "event":
                await client.emit("now")
            else:
                await client.close()
            await after.wait()


@pytest.mark.parametrize("where", [*PLACES, "message", "on_reconnect"])
async def test_a_handler_closes_the_client_without_waiting_for_itself(where: str) -> None:
    server = Server(limits=PATIENT)
    async with asyncio.timeout(8):
        async with server.listen() as listener:
            client = Client(listener.url, limits=PATIENT, reconnect=AT_ONCE)
            left = asyncio.Event()

            async def stop(*_: Any) -> None:
                try:
                    await client.close()
                finally:
                    left.set()

            if where == "on_reconnect":
                client.on_reconnect(stop)
            else:
                register(client, where, stop)
            await asyncio.gather(client.connect(), return_exceptions=True)
            if where in ("request", "event", "message"):
                (peer,) = server.peers
                if where == "request":
                    with pytest.raises(ConnectionLost):
                        await peer.request("now")
                else:
                    await peer.emit("now")
            elif where in ("close", "on_reconnect"):
                client.peer.info.underlying.transport.abort()
            await left.wait()
            await client.close()
            assert client.state == "closed"


@pytest.mark.parametrize("where", ["event", "open", "close"])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_task_of_a_handler_closes(side: str, where: str) -> None:
    server = Server(limits=PATIENT)
    after = asyncio.Event()
    async with asyncio.timeout(8):
        async with server.listen() as listener:
            client = Client(listener.url, limits=PATIENT, reconnect=None)
            target: Client | Server = client if side == "client" else server

            async def stop() -> None:
                async with asyncio.TaskGroup() as group:  # as asyncio.wait_for() has one, on Python 3.11
                    group.create_task(target.close())
                after.set()

            register(target, where, stop)
            await asyncio.gather(client.connect(), return_exceptions=True)
            if where == "event":
                (peer,) = server.peers
                await (peer if side == "client" else client).emit("now")
            elif where == "close":
                client.peer.info.underlying.transport.abort()
            await after.wait()
            await client.close()


async def test_two_handlers_that_close_the_client_do_not_wait_for_each_other() -> None:
    server = Server(limits=PATIENT)
    async with asyncio.timeout(8):
        async with server.listen() as listener:
            client = Client(listener.url, limits=PATIENT)
            ended: asyncio.Queue[str] = asyncio.Queue()
            both = asyncio.Barrier(2)  # after the first close no handler starts

            @client.on("bye")
            async def bye() -> None:
                await both.wait()
                await client.close()
                ended.put_nowait("in order")

            await client.connect()
            (peer,) = server.peers
            await peer.emit("bye")
            await peer.emit("bye")
            assert [await ended.get(), await ended.get()] == ["in order", "in order"]


async def test_an_open_and_a_close_handler_that_both_close_the_client() -> None:
    server = Server(limits=PATIENT)
    async with asyncio.timeout(8):
        async with server.listen() as listener:
            client = Client(listener.url, limits=PATIENT)
            ended: asyncio.Queue[str] = asyncio.Queue()

            @client.on("open")
            async def opened() -> None:
                await client.close()
                ended.put_nowait("open")

            @client.on("close")
            async def closed() -> None:
                await client.close()
                ended.put_nowait("close")

            with pytest.raises(ConnectionLost):
                await client.connect()
            assert {await ended.get(), await ended.get()} == {"open", "close"}


async def test_handlers_of_two_peers_that_both_close_the_server() -> None:
    server = Server(limits=PATIENT)
    ended: asyncio.Queue[str] = asyncio.Queue()

    @server.on("stop")
    async def stop() -> None:
        await server.close()
        ended.put_nowait("in order")

    async with asyncio.timeout(8):
        async with connect(server) as one, connect(server) as two:
            await asyncio.gather(one.emit("stop"), two.emit("stop"))
            assert [await ended.get(), await ended.get()] == ["in order", "in order"]


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_handler_that_closes_while_a_close_waits_for_it(side: str) -> None:
    server = Server(limits=PATIENT)
    started, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(8):
        async with server.listen() as listener, Client(listener.url, limits=PATIENT, reconnect=None) as client:
            target: Client | Server = client if side == "client" else server

            @target.on("last words")
            async def last_words() -> None:
                started.set()
                await go_on.wait()
                await target.close()  # what cleans up may not know that somebody else is closing already
                ended.set()

            (peer,) = server.peers
            await (peer if side == "client" else client).emit("last words")
            await started.wait()
            closing = asyncio.create_task(target.close())
            await peer.wait_closed()
            await client.peer.wait_closed()
            for _ in range(20):  # by now the close waits for handlers
                await asyncio.sleep(0)
            go_on.set()
            await closing
            assert ended.is_set()


async def test_a_handler_that_closes_its_own_peer_of_a_server() -> None:
    server = Server(limits=PATIENT)
    ended = asyncio.Event()

    @server.on("kick me")
    async def kick(peer: Peer) -> None:
        await peer.close(4000, "as you wish")
        ended.set()

    async with asyncio.timeout(8):
        async with server.listen() as listener, Client(listener.url, limits=PATIENT, reconnect=None) as client:
            await client.emit("kick me")
            await ended.wait()
            await client.peer.wait_closed()


# ---------------------------------------------------------------- what waits for a place


async def test_what_waits_for_a_place_runs_before_close_returns_or_never() -> None:
    server = Server(limits=PATIENT)
    story: list[tuple[str, int]] = []
    started, go_on = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(8):
        async with server.listen() as listener:
            client = Client(listener.url, limits=PATIENT.replace(running=1), reconnect=None)

            @client.on("e")
            async def e(n: int) -> None:
                story.append(("start", n))
                started.set()
                await go_on.wait()
                story.append(("end", n))

            await client.connect()
            (peer,) = server.peers
            for n in range(5):
                await peer.emit("e", n)
            await started.wait()
            last = asyncio.create_task(peer.wait_closed())
            closing = asyncio.create_task(client.close())
            await last
            assert not closing.done()
            go_on.set()
            await closing
            seen = list(story)
            assert seen == [(what, n) for n in range(len(seen) // 2) for what in ("start", "end")]
            for _ in range(50):
                await asyncio.sleep(0)
            assert story == seen
            assert client.peer.active == 0


async def test_what_waits_for_a_place_is_dropped_when_patience_ends() -> None:
    async with asyncio.timeout(8):
        async with pair(limits=HASTY.replace(running=1)) as (left, right):
            started: list[int] = []

            @right.on("e")
            async def e(n: int) -> None:
                started.append(n)
                await asyncio.Event().wait()

            for n in range(4):
                await left.emit("e", n)
            await turns_until(lambda: started)
    assert started == [0]
    assert right.ignored["dropped at the end"] == 3
    assert right.active == 0


# ---------------------------------------------------------------- handlers that outstay


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_handler_that_will_not_stop_does_not_hold_up_closing_for_ever(
    side: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(limits=HASTY)
    started, go_on = asyncio.Event(), asyncio.Event()
    try:
        async with asyncio.timeout(8):
            async with server.listen() as listener, Client(listener.url, limits=HASTY, reconnect=None) as client:
                target: Client | Server = client if side == "client" else server

                @target.on("stubborn")
                async def stubborn() -> None:
                    started.set()
                    while not go_on.is_set():
                        try:
                            await go_on.wait()
                        except asyncio.CancelledError:
                            continue

                (peer,) = server.peers
                await (peer if side == "client" else client).emit("stubborn")
                await started.wait()
                serving = asyncio.create_task(server.serve_forever())
                await target.close()
                await server.close()
                await serving
        assert any("do not end" in text for text in messages(caplog))
    finally:
        go_on.set()


async def test_handlers_of_peers_that_have_left_are_waited_for() -> None:
    server = Server(limits=PATIENT)
    started, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @server.on("work")
    async def work() -> None:
        started.set()
        await go_on.wait()
        ended.set()

    async with asyncio.timeout(8):
        async with server.listen() as listener:
            async with Client(listener.url, limits=PATIENT) as client:
                await client.emit("work")
                await started.wait()
            await turns_until(lambda: not server.peers)
            closing = asyncio.create_task(server.close())
            for _ in range(50):
                await asyncio.sleep(0)
            assert not closing.done()
            go_on.set()
            await closing
            assert ended.is_set()


@pytest.mark.parametrize("what", ["event", "close"])
async def test_handlers_of_peers_that_have_left_are_cancelled_when_patience_ends(what: str) -> None:
    server = Server(limits=HASTY)
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def for_ever() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    server.on("work" if what == "event" else "close", for_ever)
    async with asyncio.timeout(8):
        async with server.listen() as listener:
            before = other_tasks()
            async with Client(listener.url, limits=HASTY) as client:
                if what == "event":
                    await client.emit("work")
                    await started.wait()
            await started.wait()
            await turns_until(lambda: not server.peers)
            await server.close()
            assert cancelled.is_set()
            assert not other_tasks() - before


async def test_200_that_leave_with_handlers_running_leave_nothing_once_the_server_is_closed() -> None:
    server = Server(limits=HASTY)
    started = 0
    everybody = asyncio.Event()

    @server.on("for ever")
    async def for_ever() -> None:
        nonlocal started
        started += 1
        if started == 200:
            everybody.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(20):
        clients = [Client() for _ in range(200)]
        before = other_tasks()
        async with AsyncExitStack() as stack:
            for client in clients:
                await stack.enter_async_context(connect(server, client=client))
                await client.emit("for ever")
            await everybody.wait()
            assert len(server.peers) == 200
            await server.close()
        assert server.peers == ()
        assert not other_tasks() - before


async def test_the_log_of_a_close_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = Server(limits=PATIENT)

    @server.on("stop")
    async def stop() -> None:
        await server.close()

    async with asyncio.timeout(8):
        async with server.listen() as listener, Client(listener.url, limits=PATIENT, reconnect=None) as client:
            with pytest.raises(ConnectionLost):
                await client.request("stop")
            await server.serve_forever()
    assert messages(caplog) == []
