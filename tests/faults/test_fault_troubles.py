"""What each side sees of the troubles of a `FaultProxy`, byte by byte, and that the line is whole afterwards."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from bare import Bench, Side, bench, check_passes, some_turns
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
        for _ in range(turns):
            await asyncio.sleep(0)
        b.proxy.drop()
        assert b.proxy.connections == 0
        assert await client.to_end() == RESET


async def test_cut_resets_and_lets_nobody_in() -> None:
    async with bench() as b:
        client, server = await b.line()
        await check_passes(client, server)
        async with b.proxy.cut():
            assert await client.to_end() == RESET
            assert await server.to_end() == RESET
            with pytest.raises(ConnectionRefusedError):
                await b.dial()
        await check_new_line(b)


async def test_refuse_lets_nobody_in_and_leaves_the_present() -> None:
    async with bench() as b:
        line = await b.line()
        port = b.proxy.port
        async with b.proxy.refuse():
            for _ in range(3):
                with pytest.raises(ConnectionRefusedError):
                    await b.dial()
            await check_passes(*line)
        assert b.proxy.port == port
        await check_new_line(b)
        await check_passes(*line)


async def test_blocks_that_refuse_can_be_nested() -> None:
    async with bench() as b:
        async with b.proxy.refuse():
            async with b.proxy.cut():
                pass
            with pytest.raises(ConnectionRefusedError):
                await b.dial()
        await check_new_line(b)


async def test_the_proxy_may_end_while_it_refuses() -> None:
    async with bench() as b:
        inner = FaultProxy(b.server.url)
        async with inner:
            refusing = inner.refuse()
            await refusing.__aenter__()
        await refusing.__aexit__(None, None, None)
        with pytest.raises(ConnectionRefusedError):
            await Bench(b.server, inner, b.clients).dial()


# ---------------------------------------------------------------- cut_after


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("count", [1, 7, 100_000, 3_000_000])
async def test_cut_after_lets_exactly_so_many_bytes_through(count: int, up: bool) -> None:
    data = os.urandom(count + 1000)
    async with bench(receive_buffer=8192) as b:
        client, server = await b.line()
        sender, receiver = (client, server) if up else (server, client)
        await check_passes(client, server)
        async with b.proxy.cut_after(count, "up" if up else "down"):
            await receiver.send(b"against it")
            assert await sender.receive(10) == b"against it"
            sending = asyncio.create_task(sender.send(data))
            got, ending = await receiver.to_end()
            assert ending == "reset" and len(got) == count and got == data[:count]
            await asyncio.wait([sending])
            sending.exception()  # or none: the last bytes may have left before
            assert (await sender.to_end())[1] == "reset"
        await check_new_line(b)


async def test_cut_after_none_is_at_once() -> None:
    async with bench() as b:
        client, server = await b.line()
        await check_passes(client, server)
        async with b.proxy.cut_after(0, "up"):
            assert await client.to_end() == RESET
            assert await server.to_end() == RESET
            client, server = await b.line()
            assert await client.to_end() == RESET
            assert await server.to_end() == RESET
        await check_new_line(b)


async def test_cut_after_counts_for_each_connection() -> None:
    async with bench() as b:
        lines = [await b.line() for _ in range(2)]
        for line in lines:
            await check_passes(*line)
        async with b.proxy.cut_after(10, "up"):
            lines.append(await b.line())
            for client, server in lines:
                await client.send(b"x" * 9)
                assert await server.receive(9) == b"x" * 9
            for client, server in lines:
                await client.send(b"yz")
                assert await server.to_end() == (b"y", "reset")


async def test_a_connection_that_got_less_far_goes_on() -> None:
    async with bench() as b:
        client, server = await b.line()
        async with b.proxy.cut_after(10, "up"):
            await client.send(b"x" * 9)
            await server.receive(9)
        await client.send(b"y" * 100)
        assert await server.receive(100) == b"y" * 100
        async with b.proxy.cut_after(10, "up"):  # counts anew
            await client.send(b"z" * 11)
            assert await server.to_end() == (b"z" * 10, "reset")


async def test_of_nested_cuts_the_nearest_counts() -> None:
    async with bench() as b:
        client, server = await b.line()
        async with b.proxy.cut_after(20, "up"):
            async with b.proxy.cut_after(10, "up"):
                await client.send(b"x" * 9)
                await server.receive(9)
            await client.send(b"x" * 20)
            assert await server.to_end() == (b"x" * 11, "reset")


async def test_many_connections_cut_at_random() -> None:
    """Each gets exactly its bytes, whatever pieces they come in."""
    dice = random.Random(1)
    async with bench() as b:
        for _ in range(100):
            count = dice.randrange(1, 2000)
            data = dice.randbytes(count + dice.randrange(1, 1000))
            async with b.proxy.cut_after(count, "up"):
                client, server = await b.line()
                at = 0
                try:
                    while at < len(data):
                        size = dice.randrange(1, 500)
                        await client.send(data[at : at + size])
                        at += size
                except ConnectionError:
                    pass
                assert await server.to_end() == (data[:count], "reset")
        assert b.proxy.connections == 0


# ---------------------------------------------------------------- silence


async def test_silence_loses_what_is_sent_one_way_without_an_error() -> None:
    async with bench() as b:
        client, server = await b.line()
        async with b.proxy.silence("up"):
            hearing = asyncio.create_task(server.to_end())
            await client.send(b"lost")
            await server.send(b"arrives")
            assert await client.receive(7) == b"arrives"
            client.fin()
            await server.send(b"this, too")
            assert await client.receive(9) == b"this, too"
            assert not hearing.done()
            assert b.proxy.bytes_up == 0
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


async def test_silence_leaves_whole_what_lost_nothing() -> None:
    async with bench() as b:
        line = await b.line()
        async with b.proxy.silence():
            pass
        await check_passes(*line)


async def test_silences_can_be_nested() -> None:
    async with bench() as b:
        client, server = await b.line()
        async with b.proxy.silence("up"):
            async with b.proxy.silence("up"):
                await client.send(b"lost")
            await client.send(b"lost")
            await server.send(b"arrives")
            assert await client.receive(7) == b"arrives"
        assert await server.to_end() == RESET


# ---------------------------------------------------------------- stall


@pytest.mark.parametrize("up", [True, False])
async def test_a_stall_fills_the_senders_buffers_and_loses_nothing(up: bool) -> None:
    data = os.urandom(1 << 20) * 32
    async with bench() as b:
        client, server = await b.line()
        sender, receiver = (client, server) if up else (server, client)
        async with b.proxy.stall("up" if up else "down"):
            sending = asyncio.create_task(sender.send(data))
            receiving = asyncio.create_task(receiver.receive(len(data)))
            await receiver.send(b"against it")
            assert await sender.receive(10) == b"against it"
            await sender.stuck()
            assert (b.proxy.bytes_up if up else b.proxy.bytes_down) == 0
        assert await receiving == data
        await sending
        await check_passes(client, server)


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


async def arrival(side: Side, count: int) -> float:
    await side.receive(count)
    return asyncio.get_running_loop().time()


async def test_a_delay_is_at_least_that_long_and_keeps_the_order() -> None:
    data = os.urandom(1000)
    async with bench() as b:
        client, server = await b.line()
        began = asyncio.get_running_loop().time()
        async with b.proxy.delay(0.05, jitter=0.02):
            receiving = asyncio.create_task(server.receive(1000))
            for at in range(0, 1000, 100):
                await client.send(data[at : at + 100])
                await asyncio.sleep(0)
            assert await receiving == data
            assert asyncio.get_running_loop().time() - began >= 0.05
            await server.send(b"down")
            assert await arrival(client, 4) - began >= 0.1


async def test_what_is_on_its_way_arrives_when_the_delay_ends() -> None:
    async with bench() as b:
        client, server = await b.line()
        await check_passes(client, server)
        async with b.proxy.delay(3600):
            await client.send(b"late")
            client.fin()
            await some_turns()
            assert b.proxy.bytes_up == 8
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


async def test_after_the_inner_of_two_delays_the_outer_holds() -> None:
    async with bench() as b:
        client, server = await b.line()
        began = asyncio.get_running_loop().time()
        async with b.proxy.delay(0.1):
            async with b.proxy.delay(3600):
                await client.send(b"late")
                await some_turns()
            assert await arrival(server, 4) - began >= 0.1


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
        await check_passes(client, server)


async def test_what_waits_on_a_slow_connection_arrives_when_it_is_fast_again() -> None:
    async with bench() as b:
        client, server = await b.line()
        async with b.proxy.slow(10):
            await client.send(b"x" * 100_000)
            await server.receive(1)
        assert await server.receive(99_999) == b"x" * 99_999


async def test_a_slow_connection_may_be_far_away_and_cut() -> None:
    async with bench() as b:
        client, server = await b.line()
        async with b.proxy.delay(0.01), b.proxy.slow(100_000), b.proxy.cut_after(1500, "up"):
            await client.send(b"x" * 2000)
            assert await server.to_end() == (b"x" * 1500, "reset")


# ---------------------------------------------------------------- half_close


@pytest.mark.parametrize("up", [True, False])
async def test_half_close_ends_one_direction(up: bool) -> None:
    async with bench() as b:
        client, server = await b.line()
        sender, receiver = (client, server) if up else (server, client)
        await sender.send(b"last words")
        assert await receiver.receive(10) == b"last words"
        async with b.proxy.half_close("up" if up else "down"):
            assert await receiver.to_end() == (b"", "fin")
            for _ in range(8):
                await sender.send(bytes(1 << 20))  # is lost, and does not fill anything
            await receiver.send(b"the other way")
            assert await sender.receive(13) == b"the other way"
            await check_new_line(b)
            assert b.proxy.connections == 2
        assert await sender.to_end() == RESET
        assert b.proxy.connections == 1
        await check_new_line(b)


async def test_after_a_half_close_the_other_side_may_end_the_rest() -> None:
    async with bench() as b:
        client, server = await b.line()
        await check_passes(client, server)
        async with b.proxy.half_close("down"):
            assert await client.to_end() == (b"", "fin")
            client.fin()
            assert await server.to_end() == (b"", "fin")
            await turns_until(lambda: b.proxy.connections == 0)
