"""What each side sees of the troubles of a `FaultProxy`, byte by byte, and that the line is whole afterwards."""

from __future__ import annotations

import asyncio
import os

import pytest
from bare import DIRECTIONS, Bench, Direction, bench, check_passes, some_turns
from leftovers import turns_until

from wsrpc.testing import FaultProxy

RESET = (b"", "reset")


async def check_new_line(b: Bench) -> None:
    await check_passes(*await b.line())


# ---------------------------------------------------------------- drop, cut, refuse


async def test_drop_resets_both_sides_once() -> None:
    async with bench() as b:
        lines = [await b.line() for _ in range(3)]
        for line in lines:
            await check_passes(*line)
        b.proxy.drop()
        for client, server in lines:
            assert await client.to_end() == RESET
            assert await server.to_end() == RESET
        await check_new_line(b)


@pytest.mark.parametrize("turns", range(8))
async def test_drop_may_come_before_the_server_is_reached(turns: int) -> None:
    async with bench() as b:
        client = await b.dial()
        await turns_until(lambda: b.proxy.connections)
        await some_turns(turns)
        b.proxy.drop()
        assert b.proxy.connections == 0
        assert await client.to_end() == RESET


@pytest.mark.parametrize("trouble", ["refuse", "cut"])
async def test_nobody_is_let_in_and_the_present_stay_or_are_cut(trouble: str) -> None:
    async with bench() as b:
        line = await b.line()
        await check_passes(*line)
        port = b.proxy.port
        async with b.proxy.refuse(), b.proxy.cut() if trouble == "cut" else b.proxy.refuse():
            for _ in range(3):
                with pytest.raises(ConnectionRefusedError):
                    await b.dial()
            if trouble == "cut":
                assert [await side.to_end() for side in line] == [RESET, RESET]
            else:
                await check_passes(*line)
        assert b.proxy.port == port
        await check_new_line(b)
        async with b.proxy.refuse():
            async with b.proxy.cut():
                pass
            with pytest.raises(ConnectionRefusedError):
                await b.dial()
        await check_new_line(b)


# ---------------------------------------------------------------- cut_after


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("count", [0, 1, 7, 100_000, 3_000_000])
async def test_cut_after_lets_exactly_so_many_bytes_through(count: int, direction: Direction) -> None:
    data = os.urandom(count + 1000)
    async with bench(receive_buffer=8192) as b:
        sender, receiver = b.directed(direction, *await b.line())
        await check_passes(sender, receiver)
        async with b.proxy.cut_after(count, direction):
            if count:
                await check_passes(receiver, sender, back=False)
                sending = asyncio.create_task(sender.send(data))
            got, ending = await receiver.to_end()
            assert ending == "reset" and len(got) == count and got == data[:count]
            if count:
                await asyncio.wait([sending])
                sending.exception()  # or none: the last bytes may have left before
            assert (await sender.to_end())[1] == "reset"
            if not count:
                assert [await side.to_end() for side in await b.line()] == [RESET, RESET]
        await check_new_line(b)


async def test_cut_after_counts_for_each_connection_and_each_block() -> None:
    """A connection that got less far goes on, and of nested cuts the nearest counts."""
    async with bench() as b:
        lines = [await b.line() for _ in range(2)]
        async with b.proxy.cut_after(20, "up"):
            async with b.proxy.cut_after(10, "up"):
                lines.append(await b.line())
                for client, server in lines:
                    await client.send(b"x" * 9)
                    assert await server.receive(9) == b"x" * 9
                first, *others = lines
                await first[0].send(b"yz")
                assert await first[1].to_end() == (b"y", "reset")
            for client, server in others:
                await client.send(b"x" * 20)
                assert await server.to_end() == (b"x" * 11, "reset")
        client, server = await b.line()
        async with b.proxy.cut_after(10, "up"):
            await client.send(b"x" * 9)
            await server.receive(9)
        await client.send(b"y" * 100)
        assert await server.receive(100) == b"y" * 100


# ---------------------------------------------------------------- silence


async def test_silence_loses_what_is_sent_one_way_without_an_error() -> None:
    async with bench() as b:
        client, server = await b.line()
        async with b.proxy.silence():
            pass
        await check_passes(client, server)  # nothing was lost
        up = b.proxy.bytes_up
        async with b.proxy.silence("up"):
            async with b.proxy.silence("up"):
                hearing = asyncio.create_task(server.to_end())
                await client.send(b"lost")
            await client.send(b"lost")
            await server.send(b"arrives")
            assert await client.receive(7) == b"arrives"
            client.fin()
            await server.send(b"this, too")
            assert await client.receive(9) == b"this, too"
            assert not hearing.done()
            assert b.proxy.bytes_up == up
        assert await hearing == RESET
        assert await client.to_end() == RESET
        await check_new_line(b)


async def test_silence_hides_that_the_other_side_is_gone() -> None:
    async with bench() as b:
        client, server = await b.line()
        await check_passes(client, server)
        async with b.proxy.silence():
            hearing = asyncio.create_task(server.to_end())
            client.sock.close()
            again, over_there = await b.line()  # by the time it is there, the end of the first was noticed
            await over_there.send(b"lost")
            await server.send(b"to nobody")
            await some_turns()
            assert b.proxy.connections == 2
            assert not hearing.done()
        assert await hearing == RESET
        assert await again.to_end() == RESET
        await turns_until(lambda: b.proxy.connections == 0)


async def test_silence_goes_on_reading() -> None:
    """More than all buffers on the way could hold."""
    async with bench() as b:
        client, _ = await b.line()
        async with b.proxy.silence("up"):
            for _ in range(32):
                await client.send(bytes(1 << 20))
        assert (await client.to_end())[1] == "reset"


# ---------------------------------------------------------------- stall


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_a_stall_fills_the_senders_buffers_and_loses_nothing(direction: Direction) -> None:
    data = os.urandom(1 << 20) * 32
    async with bench() as b:
        sender, receiver = b.directed(direction, *await b.line())
        async with b.proxy.stall(direction):
            sending = asyncio.create_task(sender.send(data))
            receiving = asyncio.create_task(receiver.receive(len(data)))
            await check_passes(receiver, sender, back=False)
            await sender.stuck()
            assert (b.proxy.bytes_up if direction == "up" else b.proxy.bytes_down) == 0
        assert await receiving == data
        await sending
        await check_passes(sender, receiver)


async def test_a_stall_holds_the_end_back_and_new_connections_too() -> None:
    async with bench() as b:
        async with b.proxy.stall():
            client, server = await b.line()
            hearing = asyncio.create_task(server.to_end())
            await client.send(b"bye")
            client.fin()
            await b.line()
            assert not hearing.done()
        assert await hearing == (b"bye", "fin")


# ---------------------------------------------------------------- delay, slow


async def test_a_delay_is_at_least_that_long_and_keeps_the_order() -> None:
    data = os.urandom(1000)
    now = asyncio.get_running_loop().time
    async with bench() as b:
        client, server = await b.line()
        began = now()
        async with b.proxy.delay(0.05, jitter=0.02):
            receiving = asyncio.create_task(server.receive(1000))
            for at in range(0, 1000, 100):
                await client.send(data[at : at + 100])
                await asyncio.sleep(0)
            assert await receiving == data
            assert now() - began >= 0.05
            await server.send(b"down")
            await client.receive(4)
            assert now() - began >= 0.1
        began = now()
        async with b.proxy.delay(0.1):
            async with b.proxy.delay(3600):
                await client.send(b"late")
                await some_turns()
            await server.receive(4)
            assert now() - began >= 0.1, "after the inner of two delays the outer holds"


async def test_what_is_on_its_way_arrives_when_the_delay_ends() -> None:
    async with bench() as b:
        client, server = await b.line()
        await check_passes(client, server)
        async with b.proxy.delay(3600):
            await client.send(b"late")
            client.fin()
            await some_turns()
            assert b.proxy.bytes_up == 5
        assert await server.to_end() == (b"late", "fin")


async def test_a_delay_bounds_what_is_on_its_way() -> None:
    data = os.urandom(1 << 20) * 32
    async with bench() as b:
        client, server = await b.line()
        async with b.proxy.delay(3600):
            sending = asyncio.create_task(client.send(data))
            await client.stuck()
            assert not sending.done()
        assert await server.receive(len(data)) == data
        await sending


def test_the_same_seed_draws_the_same_jitter() -> None:
    drawn: list[list[float]] = []
    for seed in (1, 1, 2):
        troubles = FaultProxy("ws://127.0.0.1/", seed=seed)._troubles["up"]
        troubles.delays.append((1.0, 0.5))
        drawn.append([troubles.draw_delay() for _ in range(5)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(1.0 <= delay <= 1.5 for delay in drawn[0]) and len(set(drawn[0])) == 5


async def test_a_slow_connection_takes_its_time_in_each_direction() -> None:
    data = os.urandom(2000)
    async with bench() as b:
        client, server = await b.line()
        began = asyncio.get_running_loop().time()
        async with b.proxy.slow(20_000), b.proxy.slow(1e9):
            await asyncio.gather(client.send(data), server.send(data))
            first = await server.receive(1)  # it comes bit by bit
            assert b.proxy.bytes_up < 2000
            assert [first + await server.receive(1999), await client.receive(2000)] == [data, data]
            assert asyncio.get_running_loop().time() - began >= 0.1
        async with b.proxy.slow(10):
            await client.send(b"x" * 100_000)
            await server.receive(1)
        assert await server.receive(99_999) == b"x" * 99_999, "what waits arrives when it is fast again"
        await check_passes(client, server)


# ---------------------------------------------------------------- half_close


@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_half_close_ends_one_direction(direction: Direction) -> None:
    async with bench() as b:
        sender, receiver = b.directed(direction, *await b.line())
        await check_passes(sender, receiver)
        async with b.proxy.half_close(direction):
            assert await receiver.to_end() == (b"", "fin")
            for _ in range(8):
                await sender.send(bytes(1 << 20))  # is lost, and does not fill anything
            await check_passes(receiver, sender, back=False)
            await check_new_line(b)
            assert b.proxy.connections == 2
        assert await sender.to_end() == RESET
        assert b.proxy.connections == 1
        line = b.directed(direction, *await b.line())
        async with b.proxy.half_close(direction):
            assert await line[1].to_end() == (b"", "fin")
            line[1].fin()
            assert await line[0].to_end() == (b"", "fin"), "the other side may end the rest"
