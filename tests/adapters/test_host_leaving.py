"""Every place where a server runs: clients that leave at the worst moment, and everybody ending at once."""

from __future__ import annotations

import asyncio
import random

import pytest
from hosts import Host
from leftovers import turns_until
from raw_websocket import CLOSE, TEXT
from served import LIMITS, Endings, echo_server, hosts, keeps_working, raw

from wsrpc import Client, ConnectionLost, Peer

abruptly = pytest.mark.parametrize("how", ["drop", "reset"])


@hosts
@abruptly
async def test_a_client_that_leaves_in_an_open_handler(host: Host, how: str) -> None:
    server = echo_server()
    endings = Endings(server)
    entered, go = asyncio.Event(), asyncio.Event()

    @server.on("open")
    async def opened(peer: Peer) -> None:
        if "waits" in peer.info.query:
            entered.set()
            await go.wait()

    async with host.serving(server) as url, keeps_working(url), raw(url + "?waits") as peer:
        await peer.send(peer.frame(TEXT, '{"i":1,"a":["echo",1]}'))
        await entered.wait()
        getattr(peer, how)()
        await turns_until(lambda: not all(each.connected for each in server.peers) or len(server.peers) == 1)
        go.set()
        assert (await endings.next()).code == 1006
        await turns_until(lambda: len(server.peers) == 1)


@hosts
@abruptly
async def test_a_client_that_leaves_while_much_is_written_to_it(host: Host, how: str) -> None:
    server = echo_server()
    endings = Endings(server)
    async with host.serving(server) as url, keeps_working(url), raw(url, receive_buffer=4096) as peer:
        await turns_until(lambda: len(server.peers) == 2)
        leaving = server.peers[-1]

        async def emit_on() -> None:
            while True:
                await leaving.emit("n", "x" * 100_000)

        emitting = asyncio.create_task(emit_on())
        transport = leaving.transport
        assert transport is not None
        await turns_until(lambda: transport.unsent > 65_536)
        getattr(peer, how)()
        with pytest.raises(ConnectionLost):
            await emitting
        assert (await endings.next()).code == 1006


@hosts
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4999])
async def test_every_code_that_a_client_may_give_is_answered_with_the_same(host: Host, code: int) -> None:
    server = echo_server()
    endings = Endings(server)
    async with host.serving(server) as url, raw(url) as peer:
        await peer.send(peer.close_frame(code, "so it is"))
        assert (await peer.next_of(CLOSE)).code == code
        peer.drop()
        info = await endings.next()
        if "close code" in host.cannot:
            assert (info.code, info.was_clean) == (1006, False)
        else:
            assert (info.code, info.reason, info.was_clean) == (code, "so it is", True)


@hosts
async def test_everybody_ends_at_once_in_every_way(host: Host) -> None:
    server = echo_server()
    chance = random.Random(5)

    @server.on("leave")
    async def leave(peer: Peer, how: int) -> None:
        transport = peer.transport
        assert transport is not None
        if how == 0:
            await peer.close(4000, "bye")
        elif how == 1:
            transport.abort()
        elif how == 2:
            asyncio.get_running_loop().call_soon(transport.abort)
            await peer.close(4001)

    async def visit(number: int) -> None:
        client = Client(url, reconnect=None, limits=LIMITS)
        await client.connect()
        calls = [asyncio.create_task(client.request("echo", "x" * chance.randrange(100_000))) for _ in range(5)]
        calls.append(asyncio.create_task(client.request("leave", number % 4)))
        if number % 3 == 0:
            await asyncio.sleep(0)
        transport = client.peer.transport
        if number % 5 == 0 and transport is not None:
            transport.abort()
        elif number % 5 == 1:
            await client.close()
        for ended in await asyncio.gather(*calls, return_exceptions=True):
            assert not isinstance(ended, BaseException) or isinstance(ended, ConnectionLost), ended
        await client.close()

    async with host.serving(server) as url, keeps_working(url):
        await asyncio.gather(*(visit(number) for number in range(60)))
        await turns_until(lambda: len(server.peers) == 1)
