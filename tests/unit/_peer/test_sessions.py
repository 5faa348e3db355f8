"""Sessions that go on over another connection: what rides through a drop, what is sent again, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import SMALL, SOON, story
from tenacity import wait_fixed

from wsrpc import (
    AnonymousChannel,
    Client,
    Handshake,
    Limits,
    Peer,
    QueueFull,
    Reconnect,
    Server,
    SessionLost,
)
from wsrpc._client.client import core_of
from wsrpc.testing import Clock, Line, MemoryTransport, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- what rides through


async def test_open_handlers_of_the_server_run_on() -> None:
    server = Server()
    line = Line(server)
    ready = asyncio.Event()
    began: list[Peer] = []

    @server.on("open")
    async def opened(peer: Peer) -> None:
        began.append(peer)
        await ready.wait()

    server.on("add", lambda a, b: a + b)
    async with asyncio.timeout(20), Client("ws://server/", dial=line.dial, reconnect=SOON) as client:
        asked = asyncio.create_task(client.request("add", 1, 2))
        await turns(20)
        line.cut()
        await client.peer.wait_closed()
        await client.wait_connected()
        ready.set()
        assert await asked == 3
        assert began == list(server.peers)
    await server.close()


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize("who", ["client", "server"])
async def test_closing_without_a_connection(who: str) -> None:
    async with story() as s:
        s.server.on("park", asyncio.Event().wait)
        asked = asyncio.create_task(s.client.request("park"))
        await turns(10)
        await s.cut()
        peer = s.peer
        if who == "client":
            await s.client.close()
            with pytest.raises(SessionLost):
                await asked
            assert peer.detached, "nobody could tell the server"
            await peer.close()
        else:
            await s.server.close()
            asked.cancel()
        await turns_until(lambda: peer.active == 0)
        assert s.told.count("server closed") == 1
        await asyncio.gather(asked, return_exceptions=True)


@pytest.mark.parametrize("how", ["close", "bind"])
async def test_a_session_that_ends_while_it_resumes_waits_for_no_answer(how: str) -> None:
    clock, server, heard = Clock(), Server(), list[int]()
    line = Line(server)
    server.on("n", heard.append)

    async def dial(url: str, **options: Any) -> MemoryTransport:
        transport = await line.dial(url, **options)
        if len(line.connections) == 2:
            line.connections[-1][1].hold()  # the answer to the resume does not come
        return transport

    client = Client("ws://server/", dial=dial, reconnect=SOON)
    core_of(client).scheduler.use(clock)
    async with asyncio.timeout(20), client:
        await turns(20)
        line.cut()
        await client.peer.wait_closed()
        while len(line.connections) < 2:  # it dials again after a delay
            clock.advance(0.001)
            await turns(5)
        await turns_until(lambda: client.state == "resuming")
        if how == "close":
            await client.close()
            clock.advance(6.0)
            assert client.state == "closed"
            await client.connect()
        else:
            ours, theirs = memory_transports()
            await asyncio.gather(server.accept(theirs), client.bind(ours))
            clock.advance(6.0)
        assert client.state == "connected"
        await client.emit("n", 1)
        await turns_until(lambda: heard == [1])
    await server.close()


# ---------------------------------------------------------------- bounds


async def test_senders_wait_when_much_is_kept_and_go_on_when_it_arrives() -> None:
    async with story(client=Limits(replay=SMALL)) as s:
        heard: list[int] = []
        s.server.on("n", lambda n, filling: heard.append(n))
        s.ends[1].hold()  # its acknowledgements among other things
        sent: list[int] = []

        async def send() -> None:
            for n in range(50):
                await s.client.emit("n", n, "x" * 16_000)
                sent.append(n)

        sending = asyncio.create_task(send())
        await turns(200)
        assert 8 <= len(sent) <= 9 and s.client.peer.stats().slow
        s.ends[1].release()
        await sending
        await turns_until(lambda: heard == list(range(50)))


async def test_senders_wait_while_there_is_no_connection() -> None:
    async with story(server=Limits(replay=SMALL)) as s:
        heard: list[int] = []
        s.client.on("n", lambda n, filling: heard.append(n))
        await s.cut()
        peer, sent = s.peer, list[int]()

        async def send() -> None:
            for n in range(50):
                await peer.emit("n", n, "x" * 16_000)
                sent.append(n)

        sending = asyncio.create_task(send())
        await turns(200)
        assert 8 <= len(sent) <= 9
        await s.repair()
        await sending
        await turns_until(lambda: heard == list(range(50)))


async def test_items_of_an_upload_take_no_room_from_the_users_messages() -> None:
    async with story(client=Limits(offline=3)) as s:
        go_on = asyncio.Event()
        heard: list[int] = []
        produced: list[int] = []

        @s.server.on("total")
        async def total(items: AsyncIterator[int]) -> int:
            return sum([n async for n in items])

        async def source() -> AsyncIterator[int]:
            for n in range(500):
                if n == 1:
                    await go_on.wait()
                produced.append(n)
                yield n

        s.server.on("n", heard.append)
        s.server.on("add", lambda a, b: a + b)
        uploading = asyncio.create_task(s.client.request("total", send=source()))
        await turns_until(lambda: s.peer.active == 1 and s.client.peer.channels == 1)
        await s.cut()
        go_on.set()
        await turns_until(lambda: len(produced) > 100)
        adding = asyncio.create_task(s.client.request("add", 2, 3))
        await turns()
        for n in range(2):
            await s.client.emit("n", n)
        with pytest.raises(QueueFull, match=r"not connected, and 3 messages \(\d\d bytes\) wait already"):
            await s.client.emit("n", 2)
        await s.repair()
        assert await adding == 5 and await uploading == sum(range(500))
        assert heard == [0, 1]
        await s.cut()
        for n in range(3):
            await s.client.emit("n", n)
        await s.repair()
        await turns_until(lambda: heard == [0, 1, 0, 1, 2])


async def test_the_users_messages_take_no_room_from_the_session() -> None:
    """An answer for which there was no room would end the session."""
    limits = Limits(replay=SMALL, hard_cap=200_000)
    async with story(client=limits) as s:
        go_on = asyncio.Event()
        heard: list[int] = []

        @s.client.on("slow")
        async def slow() -> str:
            await go_on.wait()
            return "x" * 1000

        s.server.on("n", lambda n, filling: heard.append(n))
        asked = [asyncio.create_task(s.peer.request("slow")) for _ in range(2)]
        await turns_until(lambda: s.client.peer.active == 2)
        await s.cut()
        for n in range(20):
            s.client.emit_nowait("n", n, "x" * 16_000)
        assert not s.client.peer.stats().slow
        go_on.set()
        await turns_until(lambda: s.client.peer.active == 0)
        await s.repair()
        assert s.back[0].resumed and [len(await each) for each in asked] == [1000, 1000]
        await turns_until(lambda: heard == list(range(20)))


async def test_what_cannot_wait_ends_a_session_without_a_connection() -> None:
    limits = Limits(replay=SMALL, hard_cap=200_000)
    async with story(server=limits) as s:
        await s.cut()
        peer = s.peer

        def emit_on() -> None:
            for _ in range(100):
                peer.emit_nowait("n", "x" * 16_000)

        with pytest.raises(QueueFull):
            emit_on()
        assert peer.detached
        report = await s.server.emit("n", "x" * 400_000)
        assert report.sent == 0 and not peer.detached and s.server.peers == ()
        await s.repair()
        assert not s.back[0].resumed


async def test_sessions_without_a_connection_are_bounded_together() -> None:
    server = Server(detached_bytes=200_000)
    line = Line(server)
    async with asyncio.timeout(20):
        clients = [Client("ws://server/", dial=line.dial, reconnect=SOON) for _ in range(20)]
        for client in clients:
            await client.connect()
        await turns(20)
        peers = server.peers
        assert len(peers) == 20
        line.down = True
        line.cut()
        await turns_until(lambda: not any(peer.connected for peer in peers))
        left = server.peers
        assert 8 <= len(left) <= 12, "each counts 16 KiB"
        assert left == peers[-len(left) :], "of sessions that take as much the oldest end"
        await left[-1].emit("n", "x" * 30_000)
        assert server.peers == left[:-1], "then the largest"
        for client in clients:
            await client.close()
        await server.close()


async def test_broadcasts_that_wait_in_a_session_without_a_connection_count() -> None:
    server = Server(detached_bytes=1024 * 1024, slow="drop_oldest", limits=Limits(replay=128 * 1024))
    line = Line(server)
    async with (
        asyncio.timeout(20),
        Client("ws://server/", dial=line.dial, reconnect=SOON),
        Client("ws://server/", dial=line.dial, reconnect=SOON),
    ):
        await turns(20)
        quiet, busy = server.peers
        server.room("news").add(busy)
        line.down = True
        line.cut()
        await turns_until(lambda: quiet.detached and busy.detached)
        for _ in range(9):
            report = await server.room("news").emit("n", "x" * 100_000)
            assert (report.sent, report.dropped) == (1, 0) and busy.detached
        for _ in range(2):
            await server.room("news").emit("n", "x" * 100_000)
        assert not busy.detached and server.peers == (quiet,), "the policy still has room for it, but all together not"
        line.down = False
    await server.close()


async def test_a_conversation_that_ends_its_own_session_as_it_begins_is_cancelled() -> None:
    server = Server(detached_bytes=1024 * 1024, slow="drop_oldest", limits=Limits(replay=128 * 1024, running=1))
    line = Line(server)
    go_on, cancelled = asyncio.Event(), asyncio.Event()

    async def talk(channel: AnonymousChannel, peer: Peer) -> None:
        assert peer.detached
        for _ in range(12):
            server.room("news").emit_nowait("n", "x" * 100_000)
        assert not peer.detached and not peer.connected
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    server.on("first", go_on.wait)
    server.on("talk", talk)
    async with asyncio.timeout(20), Client("ws://server/", dial=line.dial, reconnect=SOON) as client:
        await turns(20)
        server.room("news").add(server.peers[0])
        asking = [asyncio.create_task(client.request("first")), asyncio.create_task(client.open_channel("talk"))]
        await turns(20)
        line.down = True
        line.cut()
        await turns_until(lambda: server.peers[0].detached)
        go_on.set()
        await cancelled.wait()
        line.down = False
        for each in asking:
            with pytest.raises(SessionLost):
                await each
    await server.close()


async def test_what_handlers_have_done_with_counts_no_more() -> None:
    """A client whose handlers have ended costs neither itself nor another client a session."""
    server = Server(detached_bytes=1024 * 1024)
    go_on = asyncio.Event()

    @server.on_handshake
    def name(handshake: Handshake) -> None:
        handshake.principal = handshake.query["user"]

    @server.on("work")
    async def work(data: str) -> None:
        await go_on.wait()

    line = Line(server)

    async def leave(user: str, size: int) -> Peer:
        """Lose a connection while a handler works on ``size`` bytes."""
        never = Reconnect(wait=wait_fixed(3600))
        client = Client(f"ws://server/?user={user}", dial=line.dial, reconnect=never)
        clients.append(client)
        await client.connect()
        peer = server.peers[-1]
        await client.emit("work", "x" * size)
        await turns_until(lambda: peer.active == 1)
        line.connections[-1][0].abort()
        await turns_until(lambda: not peer.connected)
        return peer

    clients: list[Client] = []
    async with asyncio.timeout(20):
        ada = [await leave("ada", 300_000), await leave("ada", 200_000)]
        go_on.set()
        await turns_until(lambda: not any(peer.active for peer in ada))
        go_on.clear()
        bob = [await leave("bob", 300_000), await leave("bob", 310_000)]
        assert server.peers == (*ada, *bob), "they take less than the limit"
        last = await leave("bob", 400_000)
        assert server.peers == (*ada, *bob) and not last.detached, "the largest of the client that takes most"
        go_on.set()
        for client in clients:
            await client.close()
        await server.close()
