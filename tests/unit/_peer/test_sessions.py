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
    ChannelClosed,
    Client,
    ConnectionLost,
    Handshake,
    Limits,
    MessageTooBig,
    Peer,
    QueueFull,
    Reconnect,
    ReconnectInfo,
    RequestTimeout,
    Server,
    SessionLost,
)
from wsrpc._client.client import core_of
from wsrpc.testing import Clock, Line, MemoryTransport, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- what rides through


async def test_requests_channels_streams_and_uploads_go_on() -> None:
    async with story() as s:
        go_on = asyncio.Event()
        heard: list[Any] = []

        async def slow(n: int) -> int:
            await go_on.wait()
            return n + 1

        async def numbers() -> AsyncIterator[int]:
            for n in range(6):
                if n == 3:
                    await go_on.wait()
                yield n

        async def talk(channel: AnonymousChannel) -> None:
            async for word in channel.events("word"):
                await channel.emit("echo", word)
                if word == "bye":
                    return

        async def total(items: AsyncIterator[int]) -> int:
            return sum([n async for n in items])

        async def source() -> AsyncIterator[int]:
            for n in range(4):
                if n == 2:
                    await go_on.wait()
                yield n

        for side in (s.client, s.server):
            side.on("slow", slow)
            side.on("said", heard.append)
        s.server.on("numbers", numbers)
        s.server.on("talk", talk)
        s.server.on("total", total)
        peer = s.peer
        asked = [asyncio.create_task(s.client.request("slow", 1)), asyncio.create_task(peer.request("slow", 1))]
        uploading = asyncio.create_task(s.client.request("total", send=source()))
        channel = await s.client.open_channel("talk")
        echoes = channel.events("echo")
        await channel.emit("word", "hello")
        assert await anext(echoes) == "hello"
        async with s.client.stream("numbers") as stream:
            assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
            await s.cut()
            # While there is no connection, both sides go on, and what they send is kept in order.
            go_on.set()
            await s.client.emit("said", "by the client")
            await peer.emit("said", "by the server")
            await channel.emit("word", "again")
            late = asyncio.create_task(s.client.request("slow", 10))
            await turns(20)
            assert not any(task.done() for task in (*asked, late, uploading)) and heard == []
            await s.repair()
            assert await asyncio.gather(*asked, late, uploading) == [2, 2, 11, 6]
            assert sorted(heard) == ["by the client", "by the server"]
            assert [n async for n in stream] == [3, 4, 5]
        assert await anext(echoes) == "again"
        await channel.emit("word", "bye")
        assert await anext(echoes) == "bye"
        assert (s.peer is peer and s.told == ["client opened", "server opened"]) or s.told == [
            "server opened",
            "client opened",
        ]
        assert [(info.resumed, info.attempts > 0, info.lost) for info in s.back] == [(True, True, None)]


@pytest.mark.parametrize("lost", ["the request", "the answer", "nothing"])
async def test_what_was_written_and_did_not_arrive_is_sent_again_once(lost: str) -> None:
    async with story() as s:
        runs: list[int] = []

        @s.server.on("count")
        def count(n: int) -> int:
            runs.append(n)
            return n

        ours, theirs = s.ends
        if lost == "the request":
            ours.hold()
        elif lost == "the answer":
            theirs.hold()
        asked = [asyncio.create_task(s.client.request("count", n)) for n in range(5)]
        await turns(20)
        assert len(runs) == (0 if lost == "the request" else 5)
        await s.cut()
        await s.repair()
        assert await asyncio.gather(*asked) == [0, 1, 2, 3, 4]
        assert runs == [0, 1, 2, 3, 4]


async def test_broadcasts_raw_messages_and_rooms_ride_through() -> None:
    async with story() as s:
        heard: list[Any] = []
        s.client.on("news", heard.append)
        s.client.on_raw(lambda peer, message: heard.append(f"raw {message}"))
        room = s.server.room("all")
        room.add(s.peer)
        s.ends[1].hold()
        assert (await room.emit("news", 1)).sent == 1
        await s.peer.send_raw("one")
        await s.cut()
        assert s.peer in room and s.peer.detached and not s.peer.connected
        assert (await s.server.emit("news", 2)).sent == 1
        assert s.server.of("x") is not None
        await s.peer.send_raw("two")
        assert room.emit_nowait("news", 3).sent == 1
        await s.repair()
        await turns_until(lambda: len(heard) == 5)
        assert heard == [1, "raw one", 2, "raw two", 3]
        assert s.peer in room


async def test_a_call_and_a_stream_that_are_left_meanwhile() -> None:
    async with story() as s:
        endings: list[str] = []

        @s.server.on("park")
        async def park() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                endings.append("handler")

        @s.server.on("count")
        async def count() -> AsyncIterator[int]:
            try:
                for n in range(10**9):
                    yield n
                    await asyncio.sleep(0)
            finally:
                endings.append("stream")

        asked = asyncio.create_task(s.client.request("park"))
        async with s.client.stream("count") as stream:
            assert await anext(stream) == 0
            await s.cut()
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
        await turns(20)
        assert endings == []  # nobody could tell the server yet
        await s.repair()
        await turns_until(lambda: sorted(endings) == ["handler", "stream"])
        await turns_until(lambda: (s.peer.active, s.peer.channels, s.client.peer.pending) == (0, 0, 0))


async def test_timeouts_count_on() -> None:
    async with story() as s:
        s.server.on("park", asyncio.Event().wait)
        asked = asyncio.create_task(s.client.request("park", timeout=0.05))
        await turns(10)
        await s.cut()
        with pytest.raises(RequestTimeout):
            await asked
        await s.repair()
        await turns_until(lambda: s.peer.active == 0)  # it was cancelled


async def test_a_slow_consumer_through_three_cuts() -> None:
    async with story(client=Limits(stream_window=4)) as s:
        made: list[int] = []

        @s.server.on("count")
        async def count() -> AsyncIterator[int]:
            for n in range(40):
                made.append(n)
                yield n

        got: list[int] = []
        async with s.client.stream("count", returns=int) as stream:
            async for n in stream:
                got.append(n)
                if n in (3, 11, 30):
                    await s.cut()
                    await turns(20)
                    assert len(made) - len(got) <= 6, "the credit of before holds"
                    await s.repair()
                await turns(2)
        assert got == list(range(40))


async def test_resuming_with_nothing_sent_and_many_times_in_a_row() -> None:
    async with story() as s:
        peer = s.peer
        for _ in range(10):
            await s.cut()
            await s.repair()
        assert s.peer is peer
        assert [info.resumed for info in s.back] == [True] * 10
        s.server.on("add", lambda a, b: a + b)
        assert await s.client.request("add", 1, 2) == 3


@pytest.mark.parametrize("side", ["client", "server"])
async def test_limits_that_an_open_handler_changes_without_a_connection_hold_on(side: str) -> None:
    async with asyncio.timeout(20):
        server = Server()
        line = Line(server)
        client = Client("ws://server/", dial=line.dial, reconnect=SOON)
        began, gate = asyncio.Event(), asyncio.Event()

        async def opened(peer: Peer) -> None:
            began.set()
            await gate.wait()
            peer.limits = peer.limits.replace(message=4096)

        (client if side == "client" else server).on("open", opened)
        for end in (client, server):
            end.on("size", len)
        connecting = asyncio.create_task(client.connect())
        await began.wait()
        await turns(20)
        line.down = True
        line.cut()
        await turns(5)
        gate.set()
        await turns(5)
        line.down = False
        await connecting
        await client.wait_connected()
        await turns(20)
        peer = server.peers[0] if side == "client" else client.peer
        for _ in range(2):
            assert await peer.request("size", "x" * 1000) == 1000
            with pytest.raises(MessageTooBig):
                await peer.request("size", "x" * 5000)
            line.cut()
            await turns(20)
            await client.wait_connected()
        await client.close()
        await server.close()


async def test_limits_that_were_changed_hold_on() -> None:
    async with story() as s:
        s.client.peer.limits = s.client.peer.limits.replace(message=4096)
        s.peer.limits = s.peer.limits.replace(message=8192)
        await s.settled()
        for _ in range(2):
            for side, most in ((s.peer, 4096), (s.client, 8192)):
                await side.emit("fits", "x" * (most - 100))
                with pytest.raises(MessageTooBig):
                    await side.emit("does not fit", "x" * most)
            assert (s.client.peer.limits.message, s.peer.limits.message) == (4096, 8192)
            await s.cut()
            assert (s.client.peer.limits.message, s.peer.limits.message) == (4096, 8192)
            await s.repair()
            await s.settled()
            assert [end.largest for end in s.ends] == [4096, 8192]


async def test_half_open_connections_are_fenced() -> None:
    async with story() as s:
        s.server.on("add", lambda a, b: a + b)
        peer = s.peer
        for _ in range(10):
            await s.cut(half_open=True)
            assert peer.connected, "the server has not noticed"
            await s.repair()
            assert s.peer is peer and await s.client.request("add", 1, 2) == 3
        for _, theirs in s.line.connections[:-1]:
            theirs.release()
            await turns(5)
            assert "open" not in repr(theirs)
        assert s.told.count("server closed") == 0


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


async def test_a_session_that_the_server_has_lost() -> None:
    async with story() as s:
        s.server.on("park", asyncio.Event().wait)
        s.server.on("add", lambda a, b: a + b)
        sent = asyncio.create_task(s.client.request("park"))
        await turns(10)
        await s.cut()
        old = s.peer
        waits = asyncio.create_task(s.client.request("add", 1, 2))
        bound = asyncio.create_task(s.client.request("add", 1, 2, offline="fail"))
        await turns(10)
        await old.close()
        assert s.server.peers == ()
        await s.repair()
        with pytest.raises(SessionLost) as caught:
            await sent
        assert (caught.value.code, caught.value.outcome) == (1006, "unknown")
        assert "no such session any more" in caught.value.reason
        with pytest.raises(ConnectionLost) as not_sent:
            await bound
        assert not_sent.value.outcome == "not_sent"
        assert await waits == 3, "it was never written, so it waits for the next session"
        assert s.peer is not old
        (back,) = s.back
        assert not back.resumed and isinstance(back.lost, SessionLost)
        assert [info.will_reconnect for info in s.closed] == [True]


async def test_another_process_of_the_same_service_does_not_have_the_session() -> None:
    servers = [Server(), Server()]
    for server in servers:
        server.on("park", asyncio.Event().wait)
        server.on("add", lambda a, b: a + b)
    lines = [Line(server) for server in servers]
    there = lines[0]

    async def dial(url: str, **options: Any) -> MemoryTransport:
        return await there.dial(url, **options)  # a balancer that does not know of sessions

    back: list[ReconnectInfo] = []
    async with asyncio.timeout(20), Client("ws://server/", dial=dial, reconnect=SOON) as client:
        client.on_reconnect(back.append)
        sent = asyncio.create_task(client.request("park"))
        await turns(20)
        there = lines[1]
        lines[0].cut()
        with pytest.raises(SessionLost, match="a session of another server process") as caught:
            await sent
        assert caught.value.outcome == "unknown"
        assert await client.request("add", 1, 2) == 3
        assert [info.resumed for info in back] == [False] and back[0].lost is not None
    for server in servers:
        await server.close()


async def test_a_channel_ends_with_its_session() -> None:
    async with story() as s:

        @s.server.on("talk")
        async def talk(channel: AnonymousChannel) -> None:
            await channel.wait_closed()

        channel = await s.client.open_channel("talk")
        await s.cut()
        asked = asyncio.create_task(channel.request("anything"))
        await turns(10)
        assert not asked.done()
        await s.peer.close()
        await s.repair()
        with pytest.raises(SessionLost) as caught:
            await asked
        assert caught.value.outcome == "not_sent" and isinstance(channel.close_reason, SessionLost)
        with pytest.raises(ChannelClosed):
            await channel.emit("anything")


async def test_both_sides_end_it_when_its_time_is_over() -> None:
    clock = Clock()
    server = Server(detached=30.0)
    line = Line(server, clock=clock)
    cancelled: list[object] = []

    @server.on("park")
    async def park() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            cancelled.append(exc.args)
            raise

    async with asyncio.timeout(20), Client("ws://server/", dial=line.dial, reconnect=SOON) as client:
        asked = asyncio.create_task(client.request("park"))
        await turns(20)
        (peer,) = server.peers
        line.down = True
        line.cut()
        await turns_until(lambda: peer.detached)
        clock.advance(29.0)
        await turns(10)
        assert peer.detached and server.peers == (peer,) and not cancelled
        clock.advance(2.0)
        await turns_until(lambda: bool(cancelled))
        assert not peer.detached and server.peers == ()
        line.down = False
        await client.wait_connected()
        with pytest.raises(SessionLost):
            await asked
    await server.close()


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


async def test_a_close_frame_ends_the_session() -> None:
    async with story() as s:
        s.server.on("park", asyncio.Event().wait)
        asked = asyncio.create_task(s.client.request("park"))
        await turns(10)
        await s.peer.close(1012, "restart")
        with pytest.raises(ConnectionLost) as caught:
            await asked
        assert not isinstance(caught.value, SessionLost) and caught.value.code == 1012
        await turns_until(lambda: bool(s.back))
        assert [(info.resumed, info.lost) for info in s.back] == [(False, None)]


async def test_a_plain_peer_is_as_before() -> None:
    async with story(extensions=False) as s:
        s.server.on("park", asyncio.Event().wait)
        asked = asyncio.create_task(s.client.request("park"))
        await turns(10)
        s.line.cut()
        with pytest.raises(ConnectionLost) as caught:
            await asked
        assert not isinstance(caught.value, SessionLost) and caught.value.outcome == "unknown"
        await turns_until(lambda: bool(s.back))
        assert not s.back[0].resumed


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
