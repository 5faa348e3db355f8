"""`FaultProxy` without trouble: what passes, what it says of itself, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
from bare import Bench, Side, bench, check_passes, some_turns
from leftovers import open_sockets, other_tasks, turns_until
from raw_websocket import raw_server

from wsrpc.testing import FaultProxy

TARGET = "ws://127.0.0.1:9/"


# ---------------------------------------------------------------- what passes


async def test_bytes_pass_both_ways_as_they_are() -> None:
    up, down = os.urandom(3_000_000), os.urandom(2_000_000)
    async with bench() as b:
        client, server = await b.line()
        sending = asyncio.gather(client.send(up), server.send(down))
        assert [*await asyncio.gather(server.receive(len(up)), client.receive(len(down)))] == [up, down]
        await sending
        assert (b.proxy.bytes_up, b.proxy.bytes_down) == (len(up), len(down))


@pytest.mark.parametrize("first", [0, 1])
async def test_each_side_may_end_before_the_other(first: int) -> None:
    async with bench() as b:
        sides = await b.line()
        sides[first].fin()
        assert await sides[1 - first].to_end() == (b"", "fin")
        await check_passes(sides[1 - first], sides[first], back=False)
        sides[1 - first].fin()
        assert await sides[first].to_end() == (b"", "fin")
        await turns_until(lambda: b.proxy.connections == 0)


@pytest.mark.parametrize("first", [0, 1])
async def test_a_reset_is_passed_on(first: int) -> None:
    async with bench() as b:
        sides = await b.line()
        await check_passes(*sides)
        sides[first].sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sides[first].sock.close()
        assert await sides[1 - first].to_end() == (b"", "reset")
        await turns_until(lambda: b.proxy.connections == 0)


async def test_a_server_that_is_not_there_resets() -> None:
    async with raw_server() as gone:
        gone.sock.close()
        async with FaultProxy(gone.url) as proxy:
            client = await Bench(gone, proxy, []).dial()
            assert await client.to_end() == (b"", "reset")
            await turns_until(lambda: proxy.connections == 0)
            client.sock.close()


async def test_a_slow_reader_slows_the_sender() -> None:
    """What is between the two stays within what the kernel's buffers hold, whatever is sent."""
    data = os.urandom(1 << 20) * 32
    async with bench(receive_buffer=4096) as b:
        client, server = await b.line()
        sending = asyncio.create_task(client.send(data))
        received = bytearray()
        lead = 0
        while len(received) < len(data):
            received += await server.receive(min(len(data) - len(received), 4096 if not sending.done() else 1 << 16))
            lead = max(lead, b.proxy.bytes_up - len(received))
            await asyncio.sleep(0)
        await sending
        assert received == data
        assert lead < 12 << 20


async def test_a_slow_reader_gets_the_rest_after_both_have_ended() -> None:
    async with bench(receive_buffer=4096) as b:
        client, server = await b.line()
        server.fin()
        assert await client.to_end() == (b"", "fin")
        [connection] = b.proxy._connections
        assert connection.server.transport is not None
        data = b""
        while not connection.server.transport.get_write_buffer_size():  # until the kernel takes no more
            piece = os.urandom(16384)
            data += piece
            await client.send(piece)
            await some_turns()
        client.fin()
        await some_turns()
        assert await server.to_end() == (data, "fin")


# ---------------------------------------------------------------- what it says


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("ws://127.0.0.1:1234/ws?a=b", "ws://127.0.0.1:{port}/ws?a=b"),
        ("wss://localhost:1234/", "wss://localhost:{port}/"),
        ("wss://user:secret@example.com/ws", "wss://user:secret@127.0.0.1:{port}/ws"),
        ("ws://[::1]:1234", "ws://127.0.0.1:{port}"),
        *((wrong, None) for wrong in ("127.0.0.1:80", "http://127.0.0.1/", "ws://", "ws://:80")),
    ],
)
async def test_its_url_is_that_of_the_target_at_its_own_port(target: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="names"):
            FaultProxy(target)
        return
    async with FaultProxy(target) as proxy:
        assert proxy.url == expected.format(port=proxy.port)


async def test_it_counts_connections() -> None:
    async with bench() as b:
        assert b.proxy.connections == 0
        await b.line()
        client, _ = await b.line()
        assert b.proxy.connections == 2
        assert repr(b.proxy) == f"<FaultProxy open to 127.0.0.1:{b.server.port}, 2 connections>"
        b.proxy.drop()
        assert b.proxy.connections == 0
        assert await client.to_end() == (b"", "reset")


# ---------------------------------------------------------------- misuse


TROUBLES: dict[str, tuple[Any, ...]] = {
    "cut": (),
    "refuse": (),
    "silence": (),
    "stall": (),
    "delay": (60,),
    "slow": (1,),
    "cut_after": (100, "up"),
    "mid_frame": ("up",),
    "half_close": ("down",),
}


@pytest.mark.parametrize(("name", "args"), [("drop", ()), *TROUBLES.items()])
async def test_nothing_works_outside_of_its_block(name: str, args: tuple[Any, ...]) -> None:
    proxy = FaultProxy(TARGET)
    call = getattr(proxy, name)
    with pytest.raises(RuntimeError, match="async with FaultProxy"):
        _ = proxy.url
    with pytest.raises(RuntimeError, match="async with FaultProxy"):
        call(*args)
    async with proxy:
        call(*args)
        url = proxy.url
    with pytest.raises(RuntimeError, match="async with FaultProxy"):
        call(*args)
    assert proxy.url == url
    with pytest.raises(RuntimeError, match="entered once"):
        async with proxy:
            pytest.fail("entered again")


WRONG: list[tuple[str, tuple[Any, ...], type[Exception], str]] = [
    *(
        (name, (wrong,), ValueError, '"up"')
        for name in ("silence", "stall", "mid_frame", "half_close")
        for wrong in ("sideways", "UP", 1)
    ),
    *((name, (None,), ValueError, "None") for name in ("mid_frame", "half_close")),
    ("cut_after", (-1, "up"), ValueError, "got"),
    ("cut_after", (1.5, "up"), TypeError, ""),
    *(("delay", args, ValueError, "got") for args in ((-0.1,), (float("nan"),), (0.1, -0.1))),
    *(("slow", (rate,), ValueError, "got") for rate in (0, -1, float("inf"))),
]


@pytest.mark.parametrize(("name", "args", "error", "text"), WRONG)
async def test_what_makes_no_sense_is_refused_at_once(
    name: str, args: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    async with FaultProxy(TARGET) as proxy:
        with pytest.raises(error, match=text or None):
            getattr(proxy, name)(*args)
    async with FaultProxy("wss://localhost:9/") as proxy:
        with pytest.raises(ValueError, match="TLS"):
            proxy.mid_frame("up")


# ---------------------------------------------------------------- its end


async def test_leaving_the_block_resets_what_is_left() -> None:
    async with bench() as b:
        async with FaultProxy(b.server.url) as proxy:
            inner = Bench(b.server, proxy, b.clients)
            client, server = await inner.line()
            await check_passes(client, server)
        assert await client.to_end() == (b"", "reset")
        assert await server.to_end() == (b"", "reset")
        with pytest.raises(ConnectionRefusedError):
            await inner.dial()


@pytest.mark.parametrize("turns", range(8))
async def test_leaving_it_while_connections_come_leaves_nothing(turns: int) -> None:
    async with raw_server() as server:
        tasks, sockets = other_tasks(), open_sockets()
        ours: list[socket.socket] = []
        async with FaultProxy(server.url) as proxy:
            for _ in range(3):
                ours.append(socket.socket())
                ours[-1].connect(("127.0.0.1", proxy.port))
            await some_turns(turns)
        for sock in ours:
            sock.close()
        assert other_tasks() == tasks
        assert open_sockets() == sockets


@pytest.mark.parametrize(("name", "args"), TROUBLES.items())
async def test_cancelled_in_the_middle_of_a_trouble_leaves_nothing(name: str, args: tuple[Any, ...]) -> None:
    async with raw_server() as server:
        tasks, sockets = other_tasks(), open_sockets()
        inside = asyncio.Event()
        clients: list[socket.socket] = []

        async def work() -> None:
            async with FaultProxy(server.url) as proxy:
                client = await Bench(server, proxy, clients).dial()
                await client.send(b"early")  # before the server is reached
                assert await Side(await server.accept_tcp()).receive(5) == b"early"
                async with getattr(proxy, name)(*args):
                    if name not in ("cut", "refuse"):
                        await client.send(b"x" * 10)
                    inside.set()
                    await asyncio.Event().wait()

        working = asyncio.create_task(work())
        await inside.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert other_tasks() == tasks
        [left] = server.peers
        assert (await Side(left).to_end())[1] == "reset"
        for sock in (left, *clients):
            sock.close()
        assert open_sockets() == sockets
