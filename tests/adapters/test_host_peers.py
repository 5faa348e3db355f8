"""Every place where a server runs: services, rooms, and what is counted."""

from __future__ import annotations

import asyncio

from hosts import Host
from leftovers import turns_until
from served import LIMITS, echo_server, hosts

import wsrpc
from wsrpc import Client, CloseInfo, Peer, Server


@hosts
async def test_a_service_has_an_object_for_each_connection(host: Host) -> None:
    server = Server(limits=LIMITS)
    log: list[str] = []

    @server.add_service
    class Counter(wsrpc.Service):
        def __init__(self) -> None:
            self.count = 0

        async def on_open(self) -> None:
            await asyncio.sleep(0)
            log.append("open")

        async def on_close(self, info: CloseInfo) -> None:
            log.append("close")

        @wsrpc.method
        def add(self, number: int) -> int:
            self.count += number
            return self.count

    async with host.serving(server) as url:
        async with Client(url, limits=LIMITS) as one, Client(url, limits=LIMITS) as two:
            assert [await one.request("add", 1), await one.request("add", 2), await two.request("add", 5)] == [1, 3, 5]
            assert log == ["open", "open"]
        await turns_until(lambda: log == ["open", "open", "close", "close"])


@hosts
async def test_rooms(host: Host) -> None:
    server = Server(limits=LIMITS)

    @server.on("enter")
    def enter(peer: Peer) -> None:
        server.room("lobby").add(peer)

    @server.on("say")
    async def say(peer: Peer, text: str) -> int:
        return (await server.room("lobby").emit("said", text, skip=peer)).sent

    async with host.serving(server) as url:
        clients = [Client(url, limits=LIMITS, reconnect=None) for _ in range(4)]
        heard: list[asyncio.Queue[str]] = [asyncio.Queue() for _ in clients]
        for client, queue in zip(clients, heard, strict=True):
            client.on("said", queue.put_nowait)
            await client.connect()
        for client in clients[:3]:
            await client.request("enter")
        assert await clients[0].request("say", "hello") == 2
        assert [await queue.get() for queue in heard[1:3]] == ["hello", "hello"]
        await clients[1].close()
        await turns_until(lambda: len(server.room("lobby")) == 2)
        assert await clients[0].request("say", "bye") == 1
        assert await heard[2].get() == "bye"
        assert heard[0].empty() and heard[3].empty()
        for client in clients:
            await client.close()


@hosts
async def test_what_is_counted(host: Host) -> None:
    server = echo_server()
    async with host.serving(server) as url:
        async with Client(url, limits=LIMITS) as client:
            for number in range(10):
                await client.request("echo", "x" * 1000 + str(number))
            stats = server.peers[0].stats()
            assert stats.messages_in is not None and 10 <= stats.messages_in <= 12
            assert stats.messages_out is not None and 10 <= stats.messages_out <= 12
            if "bytes" in host.cannot:
                assert stats.bytes_in is stats.bytes_out is None
            else:
                assert stats.bytes_in is not None and 10_000 < stats.bytes_in < 20_000
                assert stats.bytes_out is not None and 10_000 < stats.bytes_out < 20_000
        await turns_until(lambda: not server.peers)
        total = server.stats()
        assert (total.accepted, total.peers, total.unsent) == (1, 0, 0)
        assert 10 <= total.messages_in <= 13
        assert total.bytes_out == 0 if "bytes" in host.cannot else total.bytes_out > 10_000
