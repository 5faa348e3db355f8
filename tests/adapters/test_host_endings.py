"""Every place where a server runs: how connections end, and what comes after."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress

import pytest
from hosts import Host
from leftovers import turns_until
from raw_websocket import CLOSE, TEXT
from served import AT_ONCE, LIMITS, Endings, Observed, echo_server, hosts, keeps_working, raw

from wsrpc import Client, ConnectionLost, Handshake, Peer, Server, dial
from wsrpc.testing import FaultProxy

CODES = [(1000, ""), (1000, "bye"), (1001, "going"), (3000, "mine"), (4321, "für immer"), (4999, "x" * 123)]


@hosts
@pytest.mark.parametrize(("code", "reason"), CODES)
async def test_the_server_closes(host: Host, code: int, reason: str) -> None:
    server = echo_server()
    endings = Endings(server)
    async with host.serving(server) as url, Observed(url) as seen:
        [peer] = server.peers
        await peer.close(code, reason)
        info = await seen.ended
        assert (info.code, info.reason, info.was_clean, info.user_closed) == (code, reason, True, False)
        info = await endings.next()
        assert (info.code, info.reason, info.was_clean, info.user_closed) == (code, reason, True, True)
        await turns_until(lambda: server.peers == ())


@hosts
@pytest.mark.parametrize(("code", "reason"), CODES)
async def test_the_client_closes(host: Host, code: int, reason: str) -> None:
    server = echo_server()
    endings = Endings(server)
    async with host.serving(server) as url, Observed(url) as seen:
        await seen.client.close(code, reason)
        assert (await seen.ended).was_clean
        info = await endings.next()
        if "close code" in host.cannot:
            assert (info.code, info.reason) == (1006, "")
        else:
            assert (info.code, info.reason, info.was_clean, info.user_closed) == (code, reason, True, False)
        await turns_until(lambda: server.peers == ())


@hosts
async def test_the_server_closes_without_a_code(host: Host) -> None:
    server = echo_server()
    endings = Endings(server)
    code = 1000 if "no code" in host.cannot else 1005
    async with host.serving(server) as url, Observed(url) as seen:
        [peer] = server.peers
        await peer.close(None)
        for info, by_us in ((await seen.ended, False), (await endings.next(), True)):
            assert (info.code, info.reason, info.was_clean, info.user_closed) == (code, "", True, by_us)


@hosts
async def test_the_client_closes_without_a_code(host: Host) -> None:
    server = echo_server()
    endings = Endings(server)
    async with host.serving(server) as url, Observed(url) as seen:
        await seen.client.close(None)
        info = await seen.ended
        assert (info.code, info.reason, info.was_clean, info.user_closed) == (1005, "", True, True)
        info = await endings.next()
        assert (info.code, info.was_clean) == ((1006, False) if "close code" in host.cannot else (1005, True))


@hosts
async def test_a_close_frame_without_a_code_is_1005(host: Host) -> None:
    server = echo_server()
    endings = Endings(server)
    async with host.serving(server) as url, raw(url) as peer:
        await peer.send(peer.close_frame(None))
        await peer.next_of(CLOSE)
        peer.drop()
        info = await endings.next()
        assert (info.code, info.was_clean) == ((1006, False) if "close code" in host.cannot else (1005, True))


@hosts
@pytest.mark.parametrize("how", ["drop", "reset"])
async def test_the_end_without_a_close_frame_is_1006(host: Host, how: str) -> None:
    server = echo_server()
    endings = Endings(server)
    async with host.serving(server) as url, keeps_working(url):
        async with raw(url) as peer:
            await peer.send(peer.frame(TEXT, '{"i":1,"a":["echo",1]}'))
            await peer.next_of(TEXT)
            getattr(peer, how)()
            info = await endings.next()
            assert (info.code, info.was_clean) == (1006, False)


@hosts
@pytest.mark.parametrize("fragments", [False, True])
async def test_a_drop_in_the_middle_of_a_message(host: Host, fragments: bool) -> None:
    server = echo_server()
    got: list[object] = []
    server.on("whole", got.append)
    endings = Endings(server)
    async with host.serving(server) as url, keeps_working(url), raw(url) as peer:
        half = peer.frame(TEXT, '{"a":["whole","x', fin=False) if fragments else peer.frame(TEXT, "x" * 1000)[:500]
        await peer.send(peer.frame(TEXT, '{"a":["whole",1]}'), half)
        await turns_until(lambda: got == [1])
        peer.drop()
        info = await endings.next()
        assert not info.was_clean and got == [1]
        assert info.code == 1006


@hosts
async def test_calls_that_wait_fail_at_a_drop_and_handlers_are_cancelled(host: Host) -> None:
    server = echo_server()
    started, cancelled = asyncio.Event(), asyncio.Event()

    @server.on("work")
    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with host.serving(server) as url, keeps_working(url), FaultProxy(url) as proxy, Observed(proxy.url) as seen:
        seen.client.on("slow", asyncio.Event().wait)
        peer = server.peers[-1]
        asking = asyncio.create_task(peer.request("slow"))
        working = asyncio.create_task(seen.client.request("work"))
        await started.wait()
        proxy.drop()
        for waiting in (asking, working):
            with pytest.raises(ConnectionLost) as caught:
                await waiting
            assert caught.value.outcome == "unknown"
        await cancelled.wait()
        assert (await seen.ended).code == 1006


@hosts
async def test_a_client_comes_back_after_a_drop(host: Host) -> None:
    server = echo_server()
    async with host.serving(server) as url, FaultProxy(url) as proxy:
        async with Client(proxy.url, reconnect=AT_ONCE, limits=LIMITS) as client:
            for number in range(3):
                assert await client.request("echo", number) == number
                proxy.drop()
                await turns_until(lambda: not client.connected)
                await client.wait_connected()


@hosts
async def test_a_client_finds_the_server_that_comes_after_this_one(host: Host) -> None:
    addresses: list[str] = []
    first = echo_server()
    client = Client(lambda: addresses[-1], reconnect=AT_ONCE, limits=LIMITS)
    async with host.serving(first) as url:
        addresses.append(url)
        await client.connect()
        assert await client.request("echo", 1) == 1
    async with host.serving(echo_server()) as url:
        addresses.append(url)
        await client.wait_connected()
        assert await client.request("echo", 2) == 2
        await client.close()


@hosts
async def test_a_message_over_the_limit_closes_with_1009(host: Host) -> None:
    server = echo_server(limits=LIMITS.replace(message=10_000))
    endings = Endings(server)
    async with host.serving(server) as url, keeps_working(url):
        async with raw(url) as peer:
            request = '{"i":1,"a":["echo","%s"]}'
            exactly = request % ("x" * (10_000 - len(request) + 2))
            assert len(exactly) == 10_000
            await peer.send(peer.frame(TEXT, exactly))
            assert json.loads((await peer.next_of(TEXT)).payload)["i"] == 1
            await peer.send(peer.frame(TEXT, "x" * 10_001))
            assert (await peer.next_of(CLOSE)).code == 1009
        assert (await endings.next()).code == 1009


@hosts
async def test_closing_the_server_closes_with_1012_and_refuses_who_comes(host: Host) -> None:
    server = echo_server()
    async with host.serving(server) as url, Observed(url) as seen, Observed(url) as other:
        await server.close()
        for each in (seen, other):
            info = await each.ended
            assert (info.code, info.was_clean) == (1012, True)
        assert server.peers == ()
        # Where the HTTP server goes on listening, for what else it serves, it answers 503.
        with pytest.raises(OSError) as caught:
            await dial(url, limits=LIMITS)
        assert getattr(caught.value, "status", 503) == 503


@hosts
@pytest.mark.parametrize("how", ["expires", "peer", "server", "violation"])
async def test_nothing_is_handled_once_a_close_frame_is_sent(host: Host, how: str) -> None:
    server = Server(limits=LIMITS)
    endings = Endings(server)
    ran: list[int] = []
    server.on("note", ran.append)

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.expires = time.time() + 0.1 if how == "expires" else None

    async with host.serving(server) as url, raw(url) as peer:
        if how != "expires":
            await peer.send(peer.frame(TEXT, '{"a":["note",0]}'))
            await turns_until(lambda: ran == [0])
        closing: asyncio.Task[None] | None = None
        if how == "peer":
            closing = asyncio.create_task(server.peers[0].close(4001, "logged out"))
        elif how == "server":
            closing = asyncio.create_task(server.close())
        elif how == "violation":
            await peer.send(*[peer.frame(TEXT, '{"a":["note"') for _ in range(12)])
        code = (await peer.next_of(CLOSE)).code
        assert code == {"expires": 4411, "peer": 4001, "server": 1012, "violation": 1007}[how]
        ran.clear()
        with suppress(ConnectionError):  # some servers end the TCP connection at once
            for number in range(20):  # not in one write: some libraries ignore the rest of a read
                await peer.send(peer.frame(TEXT, f'{{"i":{number + 1},"a":["note",{number}]}}'))
                await asyncio.sleep(0)
            await peer.send(peer.close_frame(code))
        await peer.read_to_end()
        await endings.next()
        if closing is not None:
            await closing
        assert ran == []


@hosts
async def test_draining_loses_nothing(host: Host) -> None:
    server = echo_server()
    go, started = asyncio.Event(), asyncio.Semaphore(0)

    @server.on("work")
    async def work(number: int) -> int:
        started.release()
        await go.wait()
        return number

    async with host.serving(server) as url, Observed(url) as seen, Observed(url) as idle:
        working = [asyncio.create_task(seen.client.request("work", number)) for number in range(50)]
        for _ in working:
            await started.acquire()
        closing = asyncio.create_task(server.close(drain=60))
        assert (await idle.ended).code == 1012, "each as soon as it is idle"
        assert not closing.done() and not seen.ended.done()
        go.set()
        assert await asyncio.gather(*working) == list(range(50))
        info = await seen.ended
        assert (info.code, info.was_clean) == (1012, True)
        await closing


@hosts
async def test_a_handler_may_close_its_own_connection(host: Host) -> None:
    server = echo_server()

    @server.on("leave")
    async def leave(peer: Peer) -> str:
        await peer.close(4002, "as you wish")
        return "never heard"

    server.on("open", lambda peer: peer.close(4003, "not you") if "no" in peer.info.query else None)
    async with host.serving(server) as url, keeps_working(url), Observed(url) as seen:
        with pytest.raises(ConnectionLost):
            await seen.client.request("leave")
        assert (await seen.ended).code == 4002
        async with raw(url + "?no") as peer:
            frame = await peer.next_of(CLOSE)
            assert (frame.code, frame.reason) == (4003, "not you")


@hosts
async def test_a_handler_may_close_the_server(host: Host) -> None:
    server = Server(limits=LIMITS)
    server.on("stop", lambda: server.close())
    async with host.serving(server) as url, Observed(url) as seen:
        with pytest.raises(ConnectionLost):
            await seen.client.request("stop")
        assert (await seen.ended).code == 1012
