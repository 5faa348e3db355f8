"""Lines on which nobody reads, answers or ends, on real connections: each is over in its time, and hurts no other."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from beside import AMPLE, beside, closed, request
from core_driver import Blocked, start
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from peers_inside import out_of
from raw_websocket import CLOSE, raw_client, raw_server

from wsrpc import Client, ConnectFailed, QueueFull, Reconnect, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

LONG = 60.0
"""Longer than a test may take."""
PIECE = "x" * 100_000
SMALL = 4096


async def test_above_the_high_water_mark_senders_wait_until_it_is_read() -> None:
    async with beside(AMPLE.replace(high_water=10_000)) as world, raw_client(world.port, receive_buffer=SMALL) as raw:
        peer = await world.newest()
        assert peer.transport is not None
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(150):
                await peer.emit("n", PIECE)
                sent += 1

        sending = start(send())
        await turns_until(lambda: out_of(peer).session.full)
        for _ in range(5):
            await world.goes_on()
        assert not sending.done() and peer.transport.unsent <= 10_000 + len(PIECE) + 100
        before = sent
        for _ in range(150):
            await raw.next_frame()
        await sending
        assert before < sent == 150


async def test_at_the_hard_cap_emit_nowait_raises_and_an_answer_closes_with_4408() -> None:
    limits = AMPLE.replace(high_water=10_000, hard_cap=200_000, close_timeout=0.05)
    async with beside(limits) as world, raw_client(world.port, receive_buffer=SMALL) as raw:
        peer = await world.newest()
        assert peer.transport is not None

        def fill() -> None:
            for _ in range(1000):
                peer.emit_nowait("n", PIECE)

        with pytest.raises(QueueFull):
            fill()
        assert peer.transport.unsent <= 200_000 + 100
        await world.goes_on()
        world.server.on("much", lambda: PIECE)
        # Above the high-water mark no handler starts; an answer that is made here anyway goes as far as the cap.
        await raw.send(raw.frame(0x1, '{"i":1,"c":"' + "c" * 300 + '","a":["x"]}') * 1200)
        info = await world.ends(4408)
        assert info.reason == "slow consumer"


async def test_broadcasts_that_a_slow_reader_has_not_got_are_dropped_as_the_policy_says() -> None:
    server = Server(limits=AMPLE.replace(high_water=10_000, behind=300_000), slow="drop_newest")
    async with beside(AMPLE, server) as world, raw_client(world.port, receive_buffer=SMALL) as raw:
        peer = await world.newest()
        emitted = 0
        while True:
            report = await server.emit("n", PIECE)
            assert not report.errors
            if report.dropped:
                break
            emitted += 1
        assert report.dropped == 1 and peer.transport is not None
        assert peer.transport.unsent <= 10_000 + len(PIECE) + 100
        await world.goes_on()
        for _ in range(emitted):  # all that came before, whole
            assert len((await raw.next_frame()).payload) > len(PIECE)


async def test_a_full_connection_that_does_not_move_is_dropped() -> None:
    limits = AMPLE.replace(high_water=10_000, stall=0.2, ping_interval=None)
    async with beside(limits) as world, raw_client(world.port, receive_buffer=SMALL):
        peer = await world.newest()
        while not out_of(peer).session.full:
            peer.emit_nowait("n", PIECE)
        await world.goes_on()
        info = await world.ends(1006)
        assert "nothing could be written for 0.2 s" in info.reason


async def test_a_ping_without_an_answer_ends_with_1011() -> None:
    async with beside(AMPLE.replace(ping_interval=0.2, ping_timeout=0.3)) as world, raw_client(world.port) as raw:
        info = await world.ends(1011)
        assert info.reason == "no response to a ping within 0.3 s"
        assert (await raw.next_of(CLOSE)).code == 1011


async def test_an_opening_handshake_that_takes_too_long_is_dropped() -> None:
    async with beside(AMPLE.replace(open_timeout=0.1)) as world:
        with socket.socket() as silent, socket.socket() as slow:
            loop = asyncio.get_running_loop()
            for sock in (silent, slow):
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", world.port))
            await loop.sock_sendall(slow, b"GET / HTTP/1.1\r\nHost:")
            await world.goes_on()
            for sock in (silent, slow):
                while await loop.sock_recv(sock, 1000):
                    pass
        assert len(world.server.peers) == 1


async def test_a_closing_handshake_that_takes_too_long_is_cut_off() -> None:
    async with beside(AMPLE.replace(close_timeout=0.1)) as world, raw_client(world.port) as raw:
        peer = await world.newest()
        await peer.close(1000, "bye")
        assert (await raw.next_of(CLOSE)).code == 1000
        await world.ends(1000)
        assert await raw.read_to_end() == b""


async def test_what_drains_for_too_long_is_closed_with_1012() -> None:
    leaving = Server(limits=AMPLE.replace(close_timeout=0.1))
    work = Blocked()
    leaving.on("work", work)
    async with beside(AMPLE) as world, leaving.listen() as listener:
        async with raw_client(listener.port) as busy, raw_client(listener.port) as idle:
            await busy.send(request(busy, 1, "work"))
            await turns_until(lambda: work.started)
            closing = start(leaving.close(drain=0.2))
            await closed(idle, 1012)
            await world.goes_on()
            await closed(busy, 1012)
            await closing
            assert len(work.cancelled) == 1


# ---------------------------------------------------------------- a client


async def test_a_first_connection_that_takes_too_long_fails() -> None:
    async with beside(AMPLE) as world, raw_server() as deaf:
        client = Client(deaf.url, limits=AMPLE, connect_timeout=0.2, proxy=None)
        with pytest.raises(ConnectFailed):
            await client.connect()
        await client.close()
        await world.goes_on()


async def test_one_attempt_to_connect_that_takes_too_long_is_given_up() -> None:
    async with beside(AMPLE) as world, raw_server() as deaf:
        urls = iter([deaf.url, world.url])
        limits = AMPLE.replace(open_timeout=0.1)
        fast = Reconnect(initial=0.001, max=0.001)
        async with Client(lambda: next(urls), limits=limits, reconnect=fast, proxy=None) as client:
            assert await client.request("echo", 1) == [1]
            await world.goes_on()


@pytest.mark.parametrize(("offline", "text"), [(2, ""), (256, "x" * 400_000)], ids=["messages", "bytes"])
async def test_more_than_may_wait_while_not_connected_is_refused(offline: int, text: str) -> None:
    async with beside(AMPLE) as world:
        seen: list[int] = []
        world.server.on("log", lambda number, text: seen.append(number))
        client = Client(world.url, limits=AMPLE.replace(offline=offline))
        await client.emit("log", 1, text)
        await client.emit("log", 2, text)
        with pytest.raises(QueueFull):
            await client.emit("log", 3, text)
        await world.goes_on()
        async with client:
            await client.emit("log", 4, text)
            await turns_until(lambda: len(seen) == 3)
        assert seen == [1, 2, 4]


async def test_a_client_that_is_cut_waits_as_its_policy_says() -> None:
    async with beside(AMPLE) as world:
        began = time.monotonic()
        back: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        async with Client(world.url, limits=AMPLE, reconnect=Reconnect(initial=0.3, max=0.3)) as client:
            client.on_reconnect(lambda info: back.set_result(info.downtime))
            peer = await world.newest()
            assert peer.transport is not None
            peer.transport.abort()
            await world.ends(1006)
            downtime = await back
            assert downtime <= time.monotonic() - began, "uniform between 0 and 0.3 s"
            assert await client.request("echo", 1) == [1]
