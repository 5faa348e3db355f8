"""The transport contract: the other side reads slowly, or not at all."""

from __future__ import annotations

import asyncio

import pytest
from core_driver import turns
from flavours import Flavour, OverSockets, kinds, kinds_over_sockets
from raw_websocket import PING, PONG, TEXT
from recorder import PIECE, Recorder, fill
from waiting import until

from wsrpc import Limits

LIMITS = Limits(high_water_bytes=16 * 1024, close_timeout=0.3, ping_interval=None)


@kinds
async def test_a_full_connection_pauses_and_drain_waits_for_room(flavour: Flavour) -> None:
    async with flavour.stalled(LIMITS) as (transport, go_on):
        recorder = Recorder.of(transport)
        await transport.drain()  # at once, while there is room
        await fill(transport, recorder)
        draining = [asyncio.create_task(transport.drain()) for _ in range(3)]
        await turns(20)
        pauses = recorder.log.count("pause_sending")
        if "written together" not in flavour.cannot:  # there each message may fill the line for a turn
            assert pauses == 1
        assert recorder.paused and transport.unsent > LIMITS.high_water_bytes
        assert not any(each.done() for each in draining)
        draining[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining[0]
        go_on()
        await asyncio.gather(*draining[1:])
        await until(lambda: not recorder.paused)
        assert recorder.log.count("pause_sending") == recorder.log.count("resume_sending") == pauses
        assert transport.unsent <= LIMITS.high_water_bytes
        transport.send(b"it still works")
        assert recorder.wrong == []


@kinds_over_sockets
@pytest.mark.parametrize("how", ["reset", "close", "abort while closing"])
async def test_a_full_connection_ends_and_drain_with_it(flavour: OverSockets, how: str) -> None:
    """`drain` does not raise: its caller looks at the connection afterwards."""
    # Where it is aborted nothing waits for `close_timeout`: it is far longer than the time limit of a test.
    limits = LIMITS if how == "close" else LIMITS.replace(close_timeout=1000.0)
    async with flavour.raw(limits, receive_buffer=4096) as (transport, raw):
        recorder = Recorder.of(transport)
        await fill(transport, recorder)
        waiting = [asyncio.create_task(transport.drain())]
        if "clos" in how:
            waiting.append(asyncio.create_task(transport.close(1001, "going")))
        await turns(20)
        assert how == "close" or not any(each.done() for each in waiting)
        if "abort" in how:
            transport.abort()
        elif how == "reset":
            raw.reset()
        await asyncio.gather(*waiting)
        await transport.drain()
        assert not (await recorder.end()).was_clean
        if how != "reset":
            await raw.read_to_end()


@kinds_over_sockets
async def test_a_full_connection_goes_on_reading_and_drops_nothing(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS, receive_buffer=4096) as (transport, raw):
        recorder = Recorder.of(transport)
        sent = await fill(transport, recorder) + 5
        for number in range(sent - 5, sent):  # it says so, and takes some more
            transport.send(b"%04d" % number + PIECE)
        await raw.send(raw.frame(TEXT, "do you hear me"), raw.frame(PING, b"and answer"))
        await recorder.count(1)
        assert recorder.texts == ["do you hear me"]
        frames = [await raw.next_frame() for _ in range(sent + 1)]
        assert [frame.payload for frame in frames if frame.opcode == PONG] == [b"and answer"]
        texts = [frame.payload for frame in frames if frame.opcode == TEXT]
        assert texts == [b"%04d" % number + PIECE for number in range(sent)] and not recorder.paused


@kinds
async def test_a_pause_from_before_start_is_told_in_it(flavour: Flavour) -> None:
    async with flavour.stalled(LIMITS) as (transport, go_on):
        for _ in range(2000):  # how much the system takes differs
            transport.send(PIECE)
            await asyncio.sleep(0)
            if transport.unsent > LIMITS.high_water_bytes:
                break
        recorder = Recorder.of(transport)
        assert recorder.paused
        go_on()
        await until(lambda: not recorder.paused)
        assert recorder.wrong == []
