"""`FaultProxy`: what both sides see of each trouble, byte by byte, and that the line is whole afterwards."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any, Literal

import pytest
from core_driver import turns
from leftovers import open_sockets, other_tasks
from raw_websocket import RawPeer, RawServer, raw_server
from waiting import until

from wsrpc.testing import FaultProxy

Direction = Literal["up", "down"]
RESET = (b"", "reset")
MANY = 32 * 1024 * 1024
"""Bytes that no buffers on the way can hold."""
both_ways = pytest.mark.parametrize("direction", ["up", "down"])


class Side(RawPeer):
    """One end of a proxied connection, for bytes that are no frames."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, client=True, request=b"")

    async def to_end(self) -> tuple[bytes, str]:
        """All that comes, and how it ends: ``"fin"`` or ``"reset"``."""
        data = bytearray()
        with suppress(ConnectionResetError):
            while piece := await self.read():
                data += piece
            return bytes(data), "fin"
        return bytes(data), "reset"

    async def fill(self) -> bytes:
        """Send until nothing more is taken for a while of turns. Returns what was taken."""
        sent, turns = bytearray(), 0
        while turns < 50 and len(sent) < MANY:
            piece = os.urandom(1 << 14)
            try:
                sent += piece[: self.sock.send(piece)]
                turns = 0
            except BlockingIOError:
                turns += 1
            await asyncio.sleep(0)
        return bytes(sent)

    def fin(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)


class Bench:
    """A server that only listens, and the proxy in front of it."""

    def __init__(self, server: RawServer, proxy: FaultProxy) -> None:
        self.server = server
        self.proxy = proxy

    async def dial(self) -> Side:
        self.server.peers.append(sock := socket.socket())
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.proxy.port))
        return Side(sock)

    async def line(self, direction: str = "up") -> tuple[Side, Side]:
        """A new connection: who sends in a direction, and who receives."""
        client, server = await self.dial(), Side(await self.server.accept_tcp())
        await passes(client, server)
        await passes(server, client)
        return (client, server) if direction == "up" else (server, client)


@asynccontextmanager
async def bench() -> AsyncGenerator[Bench]:
    async with raw_server() as server, FaultProxy(server.url) as proxy:
        yield Bench(server, proxy)


async def passes(sender: Side, receiver: Side, data: bytes = b"there") -> None:
    _, received = await asyncio.gather(sender.send(data), receiver.exactly(len(data)))
    assert received == data


# ---------------------------------------------------------------- without trouble


@both_ways
async def test_bytes_and_both_kinds_of_end_pass_as_they_are(direction: Direction) -> None:
    data, back = os.urandom(3_000_000), os.urandom(2_000_000)
    async with bench() as b:
        sender, receiver = await b.line(direction)
        before = b.proxy.bytes_up, b.proxy.bytes_down
        sending = asyncio.gather(sender.send(data), receiver.send(back))
        assert [*await asyncio.gather(receiver.exactly(len(data)), sender.exactly(len(back)))] == [data, back]
        await sending
        passed = b.proxy.bytes_up - before[0], b.proxy.bytes_down - before[1]
        assert passed == ((len(data), len(back)) if direction == "up" else (len(back), len(data)))
        sender.fin()
        assert await receiver.to_end() == (b"", "fin")
        await passes(receiver, sender)
        receiver.fin()
        assert await sender.to_end() == (b"", "fin")
        await until(lambda: b.proxy.connections == 0)
        sender, receiver = await b.line(direction)
        sender.reset()
        assert await receiver.to_end() == RESET
        await until(lambda: b.proxy.connections == 0)
        b.server.sock.close()
        assert await (await b.dial()).to_end() == RESET, "the server is not there"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("wss://localhost:1234/ws?a=b", "wss://localhost:{port}/ws?a=b"),
        ("wss://user:secret@example.com/ws", "wss://user:secret@127.0.0.1:{port}/ws"),
        ("ws://[::1]:1234", "ws://127.0.0.1:{port}"),
    ],
)
async def test_its_url_is_that_of_the_target_at_its_own_port(target: str, expected: str) -> None:
    async with FaultProxy(target) as proxy:
        assert proxy.url == expected.format(port=proxy.port)


# ---------------------------------------------------------------- misuse, and the end


TROUBLES: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("cut", "refuse", "silence", "stall")},
    "cut_after": {"count": 100, "direction": "up"},
    "slow": {"latency": 1_000, "rate": 1},
    "time_out": {"idle": 60, "life": 60},
}


async def test_misuse_is_refused_at_once() -> None:
    proxy = FaultProxy("ws://127.0.0.1:9/")
    for inside in (False, True, False):
        async with proxy if inside else nullcontext():
            for name, options in {"drop": {}, **TROUBLES}.items():
                with nullcontext() if inside else pytest.raises(RuntimeError, match="async with FaultProxy"):
                    getattr(proxy, name)(**options)
    with pytest.raises(RuntimeError, match="entered once"):
        await proxy.__aenter__()
    for target in ("http://127.0.0.1/", "ws://", "ws://:80"):
        with pytest.raises(ValueError, match="names"):
            FaultProxy(target)
    wrong: list[tuple[str, dict[str, Any]]] = [(name, {"direction": "up?"}) for name in ("silence", "stall", "slow")]
    wrong += [("cut_after", {"count": -1, "direction": "up"}), ("time_out", {"idle": -1}), ("slow", {"rate": 0})]
    wrong += [("slow", {name: -1}) for name in ("rate", "latency", "jitter", "buffer")]
    async with FaultProxy("ws://127.0.0.1:9/") as proxy:
        for name, options in wrong:
            with pytest.raises(ValueError):
                getattr(proxy, name)(**options)


@pytest.mark.parametrize(("name", "later"), [*((name, 0) for name in TROUBLES), *(("drop", n) for n in range(8))])
async def test_its_end_resets_what_is_left_and_leaves_nothing(name: str, later: int) -> None:
    """In each trouble, for which nobody waits, and while a connection comes."""
    async with raw_server() as server:
        tasks, sockets = other_tasks(), open_sockets()
        async with FaultProxy(server.url) as proxy:
            b = Bench(server, proxy)
            if name == "drop":
                client = await b.dial()
                await turns(later)
            else:
                client, _ = await b.line()
                async with getattr(proxy, name)(**TROUBLES[name]):
                    if name not in ("cut", "refuse"):
                        await client.send(b"late")
                    if name == "slow":
                        client.fin()
                    await turns(20)
                    await proxy.__aexit__()
        assert other_tasks() == tasks
        for sock in server.peers:
            assert (await Side(sock).to_end())[1] == "reset"
            sock.close()
        server.peers.clear()
        assert open_sockets() == sockets
        with pytest.raises(ConnectionRefusedError):
            await b.dial()


# ---------------------------------------------------------------- the troubles


@pytest.mark.parametrize("trouble", ["drop", "cut", "refuse"])
async def test_connections_are_reset_or_nobody_is_let_in(trouble: str) -> None:
    async with bench() as b:
        lines = [await b.line() for _ in range(3)]
        assert b.proxy.connections == 3 and "3 connections" in repr(b.proxy)
        if trouble == "drop":
            b.proxy.drop()
            assert b.proxy.connections == 0
        else:
            async with b.proxy.refuse():
                async with b.proxy.cut() if trouble == "cut" else b.proxy.refuse():
                    pass
                with pytest.raises(ConnectionRefusedError):
                    await b.dial()
        for line in lines:
            if trouble == "refuse":
                await passes(*line)
            else:
                assert [await side.to_end() for side in line] == [RESET, RESET]
        await b.line()


@both_ways
@pytest.mark.parametrize("count", [0, 1, 100_000, 3_000_000])
async def test_cut_after_lets_exactly_so_many_bytes_through(count: int, direction: Direction) -> None:
    data = os.urandom(count + 1000)
    async with bench() as b:
        sender, receiver = await b.line(direction)
        async with b.proxy.cut_after(count, direction):
            if count:
                await passes(receiver, sender)
                sending = asyncio.create_task(sender.send(data))
            assert await receiver.to_end() == (data[:count], "reset")
            if count:
                await asyncio.wait([sending])
                sending.exception()  # or none: the last bytes may have left before
            assert (await sender.to_end())[1] == "reset"
        await b.line()


async def test_silence_loses_what_is_sent_one_way_and_hides_the_end() -> None:
    async with bench() as b:
        whole, (client, server) = await b.line(), await b.line()
        up = b.proxy.bytes_up
        async with b.proxy.silence("up"):
            hearing = asyncio.create_task(server.to_end())
            await client.send(bytes(MANY))
            client.fin()
            await passes(server, client)
            again = await b.dial()  # by the time it is there, the end of the first was noticed
            later = asyncio.create_task(Side(await b.server.accept_tcp()).to_end())
            await again.send(b"lost")
            await turns(20)
            assert not hearing.done() and b.proxy.bytes_up == up and b.proxy.connections == 3
        assert [await hearing, await client.to_end(), await later] == [RESET] * 3
        await passes(*whole)  # it has lost nothing


@both_ways
async def test_a_stall_fills_the_senders_buffers_and_loses_nothing(direction: Direction) -> None:
    async with bench() as b:
        sender, receiver = await b.line(direction)
        before = b.proxy.bytes_up, b.proxy.bytes_down
        async with b.proxy.stall(direction):
            sent = await sender.fill()
            assert len(sent) < MANY and (b.proxy.bytes_up, b.proxy.bytes_down) == before
            await passes(receiver, sender)
        assert await receiver.exactly(len(sent)) == sent
        async with b.proxy.stall():
            await sender.send(b"bye")
            sender.fin()
            hearing = asyncio.create_task(receiver.to_end())
            await turns(20)
            assert not hearing.done()
        assert await hearing == (b"bye", "fin")


# ---------------------------------------------------------------- slow networks


PIECE = 1448
EARLY = 0.002
"""Seconds by which uvloop's clock, which counts milliseconds, may be behind."""


async def test_bytes_never_pass_faster_than_the_rate() -> None:
    """Those of all connections together, at each moment."""
    rate, each, whole = 1_000_000, 100_000, 0
    loop = asyncio.get_running_loop()
    async with bench() as b:
        lines = [await b.line("down") for _ in range(2)]

        async def receive(side: Side) -> None:
            nonlocal whole
            left = each
            while left:
                piece = await loop.sock_recv(side.sock, left)
                left -= len(piece)
                whole += len(piece)
                assert whole <= rate * (loop.time() - began + EARLY) + PIECE

        async with b.proxy.slow("down", rate=rate):
            began = loop.time()
            await asyncio.gather(*(job for s, r in lines for job in (s.send(bytes(each)), receive(r))))
            assert loop.time() - began >= 2 * each / rate - EARLY
            await passes(*lines[0][::-1], bytes(each))  # the other direction is as fast as ever
        await passes(*lines[0], bytes(10 * each))


@both_ways
async def test_latency_and_jitter_delay_everything_and_keep_the_order(direction: Direction) -> None:
    data = os.urandom(300_000)
    loop = asyncio.get_running_loop()
    async with bench() as b, b.proxy.slow("up", latency=0.03), b.proxy.slow("down", latency=0.01, jitter=0.02):
        began = loop.time()
        client, server = await b.dial(), Side(await b.server.accept_tcp())
        assert loop.time() - began >= 0.04 - EARLY  # a round trip, before the server sees anything
        sender, receiver = (client, server) if direction == "up" else (server, client)
        began = loop.time()
        sending = asyncio.create_task(sender.send(data))
        first = await receiver.exactly(1)
        assert loop.time() - began >= (0.03 if direction == "up" else 0.01) - EARLY
        assert first + await receiver.exactly(len(data) - 1) == data
        await sending
        began = loop.time()
        sender.fin()
        assert await receiver.to_end() == (b"", "fin")
        receiver.reset()
        assert await sender.to_end() == RESET
        assert loop.time() - began >= 0.04 - EARLY


async def test_a_sender_waits_when_the_queue_is_full() -> None:
    async with bench() as b:
        sender, receiver = await b.line()
        sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
        async with b.proxy.slow(rate=1_000, buffer=50_000):
            queued = await sender.fill()
            assert 50_000 < len(queued) < 50_000 + 200_000  # and what the buffers of the sender and of the proxy take
            async with b.proxy.slow(rate=1e9, buffer=MANY):
                queued += (more := await sender.fill())
                assert len(more) < 50_000, "the slowest counts"
        assert await receiver.exactly(len(queued)) == queued  # at once: it would take minutes


# ---------------------------------------------------------------- gateways


@pytest.mark.parametrize("limit", ["idle", "life"])
async def test_connections_time_out(limit: str) -> None:
    seconds, loop = 0.1, asyncio.get_running_loop()
    async with bench() as b:
        old = await b.line()
        async with b.proxy.time_out(life=1_000, idle=1_000):
            await passes(*old)
            async with b.proxy.time_out(life=0):
                assert await old[0].to_end() == RESET, "it is older already"
            began = sent_at = loop.time()
            async with b.proxy.time_out(**{limit: seconds}), b.proxy.time_out():
                client = await b.dial()
                hearing = asyncio.create_task(client.to_end())
                server = Side(await b.server.accept_tcp())
                while not hearing.done():
                    if limit == "life" or loop.time() < began + 3 * seconds:  # bytes of either direction count
                        sent_at, before = loop.time(), sent_at
                        with suppress(ConnectionError):
                            await server.send(b"x")
                    await asyncio.sleep(0.01)
                assert (await hearing)[1] == "reset"
                # The last byte may have come after the reset.
                assert loop.time() - (began if limit == "life" else before) >= seconds - EARLY
        await passes(*await b.line())
