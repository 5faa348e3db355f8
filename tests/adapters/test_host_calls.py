"""Every place where a server runs: requests, streams and channels, both ways."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from hosts import Host
from leftovers import turns_until
from raw_websocket import BINARY, CONT, PING, PONG, TEXT, build_frame, handshake, head_of
from served import LIMITS, echo_server, hosts, port_of, raw

from wsrpc import AnonymousChannel, Client, RemoteError, RpcError, Server, UnknownEvent, current_peer


@hosts
async def test_requests_and_events_both_ways(host: Host) -> None:
    server = echo_server()
    heard: asyncio.Queue[str] = asyncio.Queue()
    server.on("say", heard.put_nowait)
    server.of("math").on("add", lambda a, b: a + b)

    @server.on("ask me")
    async def ask_me() -> object:
        peer = current_peer()
        await peer.emit("told", "psst")
        return await peer.of("client").request("double", 21)

    async with host.serving(server) as url, Client(url, limits=LIMITS) as client:
        told: asyncio.Queue[str] = asyncio.Queue()
        client.on("told", told.put_nowait)
        client.of("client").on("double", lambda number: 2 * number)
        assert await client.request("echo", {"ü": [1, None, "😀"]}) == {"ü": [1, None, "😀"]}
        assert await client.of("math").request("add", 1, 2) == 3
        assert await client.request("ask me") == 42
        assert await told.get() == "psst"
        await client.emit("say", "hello")
        assert await heard.get() == "hello"
        await server.emit("told", "all of you")
        assert await told.get() == "all of you"


@hosts
async def test_errors_have_their_type_code_and_data(host: Host) -> None:
    server = Server(limits=LIMITS)

    @server.on("buy")
    def buy(amount: int) -> None:
        raise RpcError("sold out", code="sold_out", data={"left": 0})

    async with host.serving(server) as url, Client(url, limits=LIMITS) as client:
        with pytest.raises(RemoteError, match="sold out") as caught:
            await client.request("buy", 1)
        assert (caught.value.code, caught.value.data) == ("sold_out", {"left": 0})
        with pytest.raises(RemoteError, match="amount") as caught:
            await client.request("buy", "many")
        assert caught.value.code == "wsrpc.bad_arguments"
        with pytest.raises(UnknownEvent):
            await client.request("sell")
        client.on("pay", buy)
        [peer] = server.peers
        with pytest.raises(RemoteError, match="sold out"):
            await peer.request("pay", 1)


@hosts
async def test_cancelling_a_request_cancels_its_handler(host: Host) -> None:
    server = Server(limits=LIMITS)
    started, reasons = asyncio.Event(), asyncio.Queue[object]()

    @server.on("work")
    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            reasons.put_nowait(str(exc.args[0]))
            raise

    async with host.serving(server) as url, Client(url, limits=LIMITS) as client:
        working = asyncio.create_task(client.request("work"))
        await started.wait()
        working.cancel("bored")
        with pytest.raises(asyncio.CancelledError):
            await working
        assert "bored" in str(await reasons.get())


@hosts
async def test_streams_both_ways_and_leaving_them(host: Host) -> None:
    server = Server(limits=LIMITS)
    left = asyncio.Event()

    @server.on("count")
    async def count(start: int) -> AsyncIterator[int]:
        try:
            while True:
                yield start
                start += 1
        finally:
            left.set()

    @server.on("total")
    async def total(numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    async with host.serving(server) as url, Client(url, limits=LIMITS) as client:
        async with client.stream("count", 5, returns=int) as numbers:
            seen = []
            async for number in numbers:
                seen.append(number)
                if len(seen) == 500:
                    break
        assert seen == list(range(5, 505))
        await left.wait()
        assert await client.request("total", send=iter(range(1000)), returns=int) == 499_500
        client.on("letters", lambda text: iter(text))
        [peer] = server.peers
        assert [letter async for letter in peer.stream("letters", "abc", returns=str)] == ["a", "b", "c"]


@hosts
async def test_an_anonymous_channel(host: Host) -> None:
    server = Server(limits=LIMITS)

    @server.on("room")
    async def room(name: str, channel: AnonymousChannel) -> None:
        async for text in channel.events("say", returns=str):
            await channel.emit("said", f"{name}: {text}")
            if text == "bye":
                return

    async with host.serving(server) as url, Client(url, limits=LIMITS) as client:
        async with await client.open_channel("room", "den") as channel:
            said = channel.events("said", returns=str)
            for text in ("hello", "bye"):
                await channel.emit("say", text)
            assert [text async for text in said] == ["den: hello", "den: bye"]


@hosts
async def test_messages_larger_than_the_buffers(host: Host) -> None:
    server = echo_server()
    async with host.serving(server) as url, Client(url, limits=LIMITS) as client:
        for size in (1, 125, 126, 65_535, 65_536, 300_000, 3_000_000):
            text = "x" * size
            assert await client.request("echo", text) == text
        [peer] = server.peers
        client.on("echo", lambda value: value)
        assert await peer.request("echo", "ü" * 1_000_000) == "ü" * 1_000_000


@hosts
async def test_the_order_of_messages_is_kept(host: Host) -> None:
    server = Server(limits=LIMITS)
    got: list[int] = []
    server.on("n", lambda number, _: got.append(number))
    async with host.serving(server) as url, Client(url, limits=LIMITS) as client:
        for number in range(500):
            await client.emit("n", number, "x" * (number * 37 % 5000))
        await turns_until(lambda: len(got) == 500)
    assert got == list(range(500))


@hosts
async def test_many_connections_at_once(host: Host) -> None:
    server = echo_server()
    async with host.serving(server) as url:
        clients = [Client(url, reconnect=None, limits=LIMITS) for _ in range(60)]
        await asyncio.gather(*(client.connect() for client in clients))
        assert len(server.peers) == len({peer.info.remote for peer in server.peers}) == 60
        answers = await asyncio.gather(*(client.request("echo", n) for n, client in enumerate(clients * 20)))
        assert answers == list(range(60 * 20))
        assert (await server.emit("hello")).sent == 60
        await asyncio.gather(*(client.close() for client in clients[:30]))
        await turns_until(lambda: len(server.peers) == 30)
        assert await clients[-1].request("echo", "still here") == "still here"
        await asyncio.gather(*(client.close() for client in clients))


@hosts
async def test_frames_of_every_kind(host: Host) -> None:
    async with host.serving(echo_server()) as url, raw(url) as peer:
        request = '{"i":%d,"a":["echo","ü"]}'
        await peer.send(peer.frame(TEXT, (request % 1)[:9], fin=False), peer.frame(PING, "there?"))
        assert (await peer.next_of(PONG)).payload == b"there?"
        await peer.send(peer.frame(CONT, (request % 1)[9:12], fin=False), peer.frame(CONT, (request % 1)[12:]))
        assert json.loads((await peer.next_of(TEXT)).payload) == {"i": 1, "d": "ü"}
        await peer.send(peer.frame(PONG, "nobody asked"), peer.frame(TEXT, request % 2), peer.frame(TEXT, request % 3))
        assert [json.loads((await peer.next_of(TEXT)).payload)["i"] for _ in range(2)] == [2, 3]
        await peer.send(peer.frame(BINARY, b"\x00\x01"), peer.frame(TEXT, "no JSON"), peer.frame(TEXT, request % 4))
        assert json.loads((await peer.next_of(TEXT)).payload)["i"] == 4
        for piece in peer.frame(TEXT, request % 5):
            await peer.send(bytes([piece]))
        assert json.loads((await peer.next_of(TEXT)).payload)["i"] == 5


@hosts
async def test_what_comes_together_with_the_handshake(host: Host) -> None:
    frames = [build_frame(TEXT, b'{"i":%d,"a":["echo",1]}' % number, masked=True) for number in range(1, 4)]
    early = b"".join(frames)
    async with host.serving(echo_server()) as url:
        if "400" in host.cannot.get("early", ""):
            assert (await head_of(port_of(url), handshake("/ws") + early)).startswith(b"HTTP/1.1 400 ")
        elif "early" in host.cannot:
            async with raw(url, early=early) as peer:
                await peer.send(peer.frame(TEXT, '{"i":4,"a":["echo",1]}'))
                assert json.loads((await peer.next_of(TEXT)).payload)["i"] == 4
        kept = 0 if "early" in host.cannot else len(early) - 3
        async with raw(url, early=early[:kept]) as peer:
            await peer.send(early[kept:])
            assert [json.loads((await peer.next_of(TEXT)).payload)["i"] for _ in frames] == [1, 2, 3]
