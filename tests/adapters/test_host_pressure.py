"""Every place where a server runs: the other side does not read, or is gone without a word."""

from __future__ import annotations

import asyncio
import json

import pytest
from hosts import Host
from leftovers import turns_until
from raw_websocket import CLOSE, PING, PONG, TEXT
from served import LIMITS, Endings, echo_server, hosts, keeps_working, raw

from wsrpc import ConnectionLost, QueueFull

TIGHT = LIMITS.replace(high_water=16 * 1024, hard_cap=2_000_000, close_timeout=0.2, ping_interval=None, stall=60.0)
PIECE = "x" * 16_000


@hosts
async def test_awaiting_senders_wait_for_a_reader_that_is_stuck(host: Host) -> None:
    server = echo_server(limits=TIGHT)
    async with host.serving(server) as url, keeps_working(url), raw(url, receive_buffer=4096) as peer:
        await turns_until(lambda: len(server.peers) == 2)
        stuck = server.peers[-1]
        sent = 0

        async def send_on() -> None:
            nonlocal sent
            for number in range(2000):
                await stuck.emit("n", number, PIECE)
                sent += 1

        sending = asyncio.create_task(send_on())
        transport = stuck.transport
        assert transport is not None
        # Where each message is a write of its own, a line that is full may keep no more than one of them.
        least = len(PIECE) if "written together" in host.cannot else TIGHT.high_water
        await turns_until(lambda: transport.unsent > least)
        settled = -1
        while settled != sent:  # until nothing moves any more
            settled = sent
            for _ in range(50):
                await asyncio.sleep(0)
        assert not sending.done() and transport.unsent < TIGHT.high_water + 4 * len(PIECE)
        for number in range(2000):
            assert json.loads((await peer.next_of(TEXT)).payload)["a"][1] == number
        await sending


@hosts
async def test_at_the_hard_cap_the_connection_closes_with_4408(host: Host) -> None:
    server = echo_server(limits=TIGHT)
    endings = Endings(server)
    go, started = asyncio.Event(), asyncio.Semaphore(0)

    @server.on("large")
    async def large() -> str:
        started.release()
        await go.wait()
        return "x" * 100_000

    async with host.serving(server) as url, keeps_working(url), raw(url, receive_buffer=4096) as peer:
        await peer.send(*(peer.frame(TEXT, json.dumps({"i": n, "a": ["large"]})) for n in range(1, 101)))
        for _ in range(100):
            await started.acquire()
        go.set()
        assert (await endings.next()).code == 4408


@hosts
async def test_emit_nowait_is_refused_at_the_hard_cap(host: Host) -> None:
    server = echo_server(limits=TIGHT)
    async with host.serving(server) as url, raw(url, receive_buffer=4096):
        await turns_until(lambda: len(server.peers) == 1)
        [stuck] = server.peers

        async def emit_on() -> None:
            for _ in range(10_000):
                stuck.emit_nowait("n", PIECE)
                await asyncio.sleep(0)

        with pytest.raises(QueueFull):
            await emit_on()
        transport = stuck.transport
        assert transport is not None and transport.unsent <= TIGHT.hard_cap + 2 * len(PIECE)


@hosts
async def test_a_reader_that_stays_stuck_is_dropped(host: Host) -> None:
    server = echo_server(limits=TIGHT.replace(stall=0.2))
    endings = Endings(server)
    async with host.serving(server) as url, keeps_working(url), raw(url, receive_buffer=4096):
        await turns_until(lambda: len(server.peers) == 2)
        stuck = server.peers[-1]

        async def emit_on() -> None:
            while True:
                await stuck.emit("n", PIECE)

        with pytest.raises(ConnectionLost):
            await emit_on()
        info = await endings.next()
        assert (info.code, info.was_clean) == (1006, False)


@hosts
async def test_a_client_that_answers_no_ping_is_dropped(host: Host) -> None:
    server = echo_server(limits=LIMITS.replace(ping_interval=0.1, ping_timeout=0.2))
    endings = Endings(server)
    async with host.serving(server) as url, keeps_working(url), raw(url) as peer:
        if "heartbeat" in host.cannot:
            peer.drop()
            assert (await endings.next()).code == 1006
            return
        first = await peer.next_of(PING)
        await peer.send(peer.frame(PONG, first.payload))
        await peer.next_of(PING)
        info = await endings.next()
        assert (info.code, info.was_clean) == (1011, False)


@hosts
async def test_a_flood_of_requests_is_answered_in_full(host: Host) -> None:
    server = echo_server()
    async with host.serving(server) as url, raw(url) as peer:
        numbers = range(1, 5001)
        requests = [peer.frame(TEXT, json.dumps({"i": n, "a": ["echo", "x" * 100]})) for n in numbers]
        sending = asyncio.create_task(peer.send(*requests))
        for n in numbers:
            assert json.loads((await peer.next_of(TEXT)).payload)["i"] == n
        await sending


@hosts
async def test_closing_does_not_wait_for_a_reader_that_is_stuck(host: Host) -> None:
    server = echo_server(limits=TIGHT)
    endings = Endings(server)
    async with host.serving(server) as url, raw(url, receive_buffer=4096) as peer:
        await turns_until(lambda: len(server.peers) == 1)
        [stuck] = server.peers
        for _ in range(100):
            stuck.emit_nowait("n", PIECE)
        async with asyncio.timeout(8):
            await server.close()
        assert (await endings.next()).was_clean is ("answered close" in host.cannot)
        if "answered close" in host.cannot:
            assert (await peer.next_of(CLOSE)).code == 1012
        else:
            assert await peer.read_to_end()


@hosts
async def test_a_message_in_pieces(host: Host) -> None:
    server = echo_server()
    async with host.serving(server) as url, raw(url) as peer:
        await turns_until(lambda: len(server.peers) == 1)
        transport = server.peers[0].transport
        assert transport is not None
        pieces = [b'{"a":["s', b"ay", b'"]}']
        for number, piece in enumerate(pieces):
            transport.send_piece(piece, True, number == 2)
        transport.flush()
        first = await peer.next_of(TEXT)
        if "pieces out" in host.cannot:
            assert (first.payload, first.fin) == (b"".join(pieces), True)
        else:
            others = [await peer.next_frame() for _ in pieces[1:]]
            assert [(frame.payload, frame.fin) for frame in (first, *others)] == [
                (b'{"a":["s', False),
                (b"ay", False),
                (b'"]}', True),
            ]


@hosts
async def test_reading_can_pause(host: Host) -> None:
    server = echo_server()
    got: list[int] = []
    server.on("n", lambda number, _: got.append(number))
    async with host.serving(server) as url, raw(url) as peer:
        await turns_until(lambda: len(server.peers) == 1)
        transport = server.peers[0].transport
        assert transport is not None
        transport.pause_receiving()
        frames = [peer.frame(TEXT, json.dumps({"a": ["n", n, "x" * 60_000]})) for n in range(300)]
        sending = asyncio.create_task(peer.send(*frames))
        async with keeps_working(url):
            pass
        if "pause" not in host.cannot:
            assert not sending.done() and len(got) < 300
        transport.resume_receiving()
        await sending
        await turns_until(lambda: got == list(range(300)))
