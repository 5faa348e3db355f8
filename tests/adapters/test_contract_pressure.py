"""The transport contract: the other side reads slowly, or not at all."""

from __future__ import annotations

import asyncio

import pytest
from core_driver import turns
from flavours import FLAVOURS, OVER_SOCKETS, Discard, Flavour, OverSockets
from raw_websocket import PING, PONG, TEXT
from recorder import Recorder

from wsrpc import Limits
from wsrpc.transport import Transport

LIMITS = Limits(high_water=16 * 1024, close_timeout=0.3, ping_interval=None)

PIECE = b"x" * 60_000

flavours = pytest.mark.parametrize("flavour", FLAVOURS, ids=repr)
over_sockets = pytest.mark.parametrize("flavour", OVER_SOCKETS, ids=repr)


async def fill(transport: Transport, recorder: Recorder) -> int:
    """Send until the transport says stop, and then some more; returns how many messages that were."""
    count = 0
    while not recorder.paused:
        transport.send(PIECE)
        count += 1
        assert count < 2000, "nobody reads, and the transport still has not paused"
        await asyncio.sleep(0)
    for _ in range(5):
        transport.send(PIECE)
    return count + 5


@flavours
async def test_pause_and_resume(flavour: Flavour) -> None:
    async with flavour.stalled(LIMITS) as (transport, go_on):
        recorder = Recorder.of(transport)
        await fill(transport, recorder)
        pauses = recorder.log.count("pause_sending")
        if "written together" not in flavour.cannot:  # there each message may fill the line for a turn
            assert pauses == 1
        assert recorder.paused and transport.unsent > LIMITS.high_water
        go_on()
        await recorder.until(lambda: not recorder.paused)
        assert recorder.log.count("pause_sending") == recorder.log.count("resume_sending") == pauses
        assert transport.unsent <= LIMITS.high_water
        assert recorder.wrong == []


@flavours
async def test_drain_waits_for_it(flavour: Flavour) -> None:
    async with flavour.stalled(LIMITS) as (transport, go_on):
        recorder = Recorder.of(transport)
        await fill(transport, recorder)
        draining = [asyncio.create_task(transport.drain()) for _ in range(3)]
        await turns(20)
        assert not any(each.done() for each in draining)
        go_on()
        async with asyncio.timeout(8):
            await asyncio.gather(*draining)
        assert transport.unsent <= LIMITS.high_water


@flavours
async def test_drain_returns_at_once_while_there_is_room(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        ours.start(Recorder())
        theirs.start(Recorder())
        ours.send(b"x")
        async with asyncio.timeout(5):
            await ours.drain()


@flavours
async def test_cancelling_drain_is_safe(flavour: Flavour) -> None:
    async with flavour.stalled(LIMITS) as (transport, go_on):
        recorder = Recorder.of(transport)
        await fill(transport, recorder)
        stays = asyncio.create_task(transport.drain())
        leaves = asyncio.create_task(transport.drain())
        await turns(20)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        go_on()
        async with asyncio.timeout(8):
            await stays
            await transport.drain()
        transport.send(b"it still works")
        assert recorder.wrong == []


@flavours
async def test_drain_ends_with_the_connection(flavour: Flavour) -> None:
    async with flavour.stalled(LIMITS) as (transport, _):
        recorder = Recorder.of(transport)
        await fill(transport, recorder)
        draining = asyncio.create_task(transport.drain())
        await turns(20)
        transport.abort()
        async with asyncio.timeout(8):
            await draining
        info = await recorder.end()
        assert not info.was_clean
        await transport.drain()


@over_sockets
async def test_drain_does_not_raise_when_the_connection_breaks(flavour: OverSockets) -> None:
    # Whoever waits looks at the connection afterwards; `drain` has nothing else to say.
    async with flavour.raw(LIMITS, receive_buffer=4096) as (transport, raw):
        recorder = Recorder.of(transport)
        await fill(transport, recorder)
        draining = asyncio.create_task(transport.drain())
        await turns(20)
        raw.reset()
        async with asyncio.timeout(8):
            await draining
        await recorder.end()


@over_sockets
async def test_nothing_is_dropped_while_the_connection_is_full(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS, receive_buffer=4096) as (transport, raw):
        recorder = Recorder.of(transport)
        sent = 0
        while not recorder.paused:
            transport.send(b"%d " % sent + PIECE)
            sent += 1
            await asyncio.sleep(0)
        for number in range(sent, sent + 20):
            transport.send(b"%d " % number + PIECE)
        for number in range(sent + 20):
            frame = await raw.next_of(TEXT)
            assert frame.payload == b"%d " % number + PIECE
        assert not recorder.paused


@over_sockets
async def test_a_full_connection_does_not_stop_reading(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS, receive_buffer=4096) as (transport, raw):
        recorder = Recorder.of(transport)
        sent = await fill(transport, recorder)
        await raw.send(raw.frame(TEXT, "do you hear me"), raw.frame(PING, b"and answer"))
        await recorder.count(1)
        assert recorder.texts == ["do you hear me"]
        received = 0
        while received < sent:
            frame = await raw.next_frame()
            if frame.opcode == TEXT:
                received += 1
            else:
                assert (frame.opcode, frame.payload) == (PONG, b"and answer")
                break


@flavours
async def test_a_pause_from_before_start_is_told_in_it(flavour: Flavour) -> None:
    async with flavour.stalled(LIMITS) as (transport, go_on):
        for _ in range(300):
            transport.send(PIECE)
            await asyncio.sleep(0)
        recorder = Recorder.of(transport)
        assert recorder.paused
        go_on()
        await recorder.until(lambda: not recorder.paused)
        assert recorder.wrong == []


@over_sockets
async def test_close_ends_by_dropping_when_the_connection_is_full(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS, receive_buffer=4096) as (transport, _):
        recorder = Recorder.of(transport)
        await fill(transport, recorder)
        async with asyncio.timeout(8):
            await transport.close(1001, "going")
        info = await recorder.end()
        assert not info.was_clean


@over_sockets
async def test_abort_ends_at_once_when_the_connection_is_full(flavour: OverSockets) -> None:
    # Nothing here waits for `close_timeout`: it is far longer than the time limit of a test.
    limits = LIMITS.replace(close_timeout=1000.0)
    async with flavour.raw(limits, receive_buffer=4096) as (transport, raw):
        recorder = Recorder.of(transport)
        await fill(transport, recorder)
        closing = asyncio.create_task(transport.close())
        await turns(20)
        assert not closing.done()
        transport.abort()
        async with asyncio.timeout(8):
            await closing
        assert not (await recorder.end()).was_clean
        await raw.read_to_end()


@flavours
async def test_what_is_unsent_is_counted_before_it_is_written(flavour: Flavour) -> None:
    async with flavour.stalled(LIMITS) as (transport, _):
        transport.start(Discard())
        transport.send(b"x" * 500)
        assert transport.unsent >= 500
