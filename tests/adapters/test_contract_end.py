"""The transport contract: how a connection ends."""

from __future__ import annotations

import asyncio

import pytest
from core_driver import turns
from flavours import Flavour, OverSockets, flavours, kinds, kinds_over_sockets, over_sockets
from raw_websocket import CLOSE, PING, PONG, TEXT
from recorder import Recorder, fill

from wsrpc import CloseInfo, ConnectionLost, Limits
from wsrpc.transport import Transport

LIMITS = Limits(close_timeout=1000.0, ping_interval=None)
"""Nothing here waits for ``close_timeout``: it is far longer than the time limit of a test."""

UNSENDABLE = [(1005, ""), (999, ""), (5000, ""), (1000, "x" * 124), (None, "why")]

End = tuple[int, str, bool]
"""Code, reason, and whether it was clean."""


def end(info: CloseInfo) -> End:
    assert not info.user_closed and not info.will_reconnect
    return info.code, info.reason, info.was_clean


def told(flavour: Flavour, code: int, reason: str = "") -> End:
    """How an end with the other side's Close frame looks from here."""
    return (1006, "", False) if "close code" in flavour.cannot else (code, reason, True)


def refuses(transport: Transport) -> None:
    with pytest.raises(ConnectionLost) as caught:
        transport.send(b"too late")
    assert caught.value.outcome == "not_sent"


@flavours
@pytest.mark.parametrize(("code", "reason"), [(4999, "ü" * 61), (None, "")])
@pytest.mark.parametrize("who", ["ours", "theirs"])
async def test_both_sides_learn_code_and_reason(flavour: Flavour, code: int | None, reason: str, who: str) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        closes = ours if who == "ours" else theirs
        for wrong in UNSENDABLE:
            with pytest.raises(ValueError):
                await closes.close(*wrong)
        await asyncio.gather(closes.close(code, reason), closes.close(4000, "later"))
        expected = code or (1000 if who == "ours" and "no code" in flavour.cannot else 1005)
        ending = (expected, reason, True)
        assert end(await mine.end()) == (ending if who == "ours" else told(flavour, expected, reason))
        assert end(await other.end()) == ending
        ours.abort()
        await theirs.close()
        assert ours.unsent == 0


@kinds
@pytest.mark.parametrize("how", ["within receive", "cancelled"])
async def test_close_writes_what_was_sent_before_and_takes_nothing_more(flavour: Flavour, how: str) -> None:
    payloads = [b"%d" % number * number for number in range(200)] + [b"z" * 500_000, b""]
    closing: list[asyncio.Task[None]] = []

    def close(payload: bytes) -> None:
        for sent in payloads:
            ours.send(sent)
        closing.append(asyncio.create_task(ours.close(4001, "enough")))

    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder(close), Recorder.of(theirs)
        ours.start(mine)
        if how == "within receive":
            theirs.send(b"now")
            await mine.count(1)
        else:
            close(b"")
        await turns(3)
        refuses(ours)
        if how == "cancelled":
            closing[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing[0]
        for recorder in (mine, other):
            assert end(await recorder.end()) == (4001, "enough", True)
        assert [payload for payload, _ in other.messages] == payloads
        refuses(ours)
        refuses(theirs)
        await ours.close()
        await asyncio.gather(*closing, return_exceptions=True)


@kinds
@pytest.mark.parametrize("how", ["alone", "within receive"])
async def test_abort_drops(flavour: Flavour, how: str) -> None:
    inside: list[bool] = []

    def abort(payload: bytes) -> None:
        ours.abort()
        inside.append("connection_lost" in mine.log)

    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder(abort), Recorder.of(theirs)
        ours.start(mine)
        if how == "within receive":
            theirs.send(b"1")
            theirs.send(b"2")
        else:
            ours.send(b"perhaps")
            abort(b"")
            abort(b"")
        assert end(await mine.end())[::2] == (1006, False)
        assert not any(inside), "connection_lost follows soon, not inside the call"
        assert how != "within receive" or len(inside) == 1, "nothing is delivered after that"
        assert end(await other.end())[::2] == ((1011, True) if "abort" in flavour.cannot else (1006, False))
        refuses(ours)
        refuses(theirs)


# ---------------------------------------------------------------- before start


@kinds_over_sockets
async def test_close_before_start_is_not_held_up_by_messages(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        closing = asyncio.create_task(transport.close(1008, "not you"))
        assert (await raw.next_of(CLOSE)).code == 1008
        await raw.send(raw.frame(TEXT, "was on its way"))
        await turns(50)  # it is read by itself
        await raw.send(raw.frame(TEXT, "and so was this"), raw.close_frame(1008))
        if raw.client:
            await raw.read_to_end()
        raw.drop()
        await closing


@kinds
async def test_an_end_from_before_start_is_told_soon_after_it(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        other = Recorder.of(theirs)
        theirs.abort()
        await other.end()
        await ours.close()
        recorder = Recorder.of(ours)
        assert "connection_lost" not in recorder.log
        await recorder.end()


# ---------------------------------------------------------------- what a raw peer does


@kinds_over_sockets
@pytest.mark.parametrize("code", [4321, None])
@pytest.mark.parametrize("before_start", [False, True])
async def test_the_code_the_other_side_gives(flavour: OverSockets, code: int | None, before_start: bool) -> None:
    """What came before it is kept until `start`, what was sent before the answer leaves, and no more is read."""
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder()
        if not before_start:
            transport.start(recorder)
        if in_order := "sent before close" not in flavour.cannot:
            transport.send(b"on its way")
        reason = "" if code is None else "für immer"
        await raw.send(raw.frame(TEXT, "1"), raw.close_frame(code, reason), raw.frame(TEXT, "not looked at"))
        if in_order:
            assert (await raw.next_frame()).payload == b"on its way"
        answer = await raw.next_frame()
        assert answer.opcode == CLOSE and answer.code == (code or 1005)
        raw.drop()
        if before_start:
            transport.start(recorder)
        assert end(await recorder.end()) == told(flavour, code or 1005, reason)
        assert recorder.texts == ["1"]


@kinds_over_sockets
async def test_what_was_sent_leaves_before_a_close_frame_is_answered(flavour: OverSockets) -> None:
    """Also what waits for room, and what answers a message in the same read."""
    async with flavour.raw(LIMITS, receive_buffer=4096) as (transport, raw):
        recorder = Recorder(lambda payload: transport.send(b"re " + payload))
        transport.start(recorder)
        count = await fill(transport, recorder)
        await raw.send(raw.frame(TEXT, "1"), raw.close_frame())
        seen: list[bytes] = []
        while (frame := await raw.next_frame()).opcode != CLOSE:
            seen.append(frame.payload)
        if "sent before close" in flavour.cannot:
            assert len(seen) < count and b"re 1" not in seen
        else:
            assert len(seen) == count + 1 and seen[-1] == b"re 1"
        raw.drop()
        assert (await recorder.end()).was_clean or "sent before close" in flavour.cannot


@over_sockets
@pytest.mark.parametrize("how", ["drop", "reset"])
async def test_a_drop(flavour: OverSockets, how: str) -> None:
    """Before `start`, or in the middle of a frame."""
    async with flavour.raw(LIMITS) as (transport, raw):
        await raw.send(raw.frame(TEXT, "whole"), raw.frame(PING))
        await raw.next_of(PONG)  # it has read them
        if how == "drop":
            raw.drop()
            recorder = Recorder.of(transport)
        else:
            recorder = Recorder.of(transport)
            await recorder.count(1)
            await raw.send(raw.frame(TEXT, "x" * 1000)[:500])
            raw.reset()
        assert end(await recorder.end())[::2] == (1006, False)
        assert recorder.texts == ["whole"]
        refuses(transport)


@kinds_over_sockets
@pytest.mark.parametrize("who", ["ours", "ours, unanswered", "theirs"])
async def test_a_connection_that_stays_after_a_close_frame_is_dropped(flavour: OverSockets, who: str) -> None:
    # An answer must arrive within it.
    async with flavour.raw(LIMITS.replace(close_timeout=2.0 if who == "ours" else 0.1)) as (transport, raw):
        recorder = Recorder.of(transport)
        if who == "theirs":  # Nobody calls close() here: what they began has to come to an end by itself.
            await raw.send(raw.close_frame(1000))
            assert end(await recorder.end()) == told(flavour, 1000)
            return
        closing = asyncio.create_task(transport.close(1001, "hello?"))
        frame = await raw.next_of(CLOSE)
        assert (frame.code, frame.reason) == (1001, "hello?")
        if who == "ours":
            await raw.send(raw.close_frame(1001, "yes"))
        await closing
        info = await recorder.end()
        if who == "ours":
            assert info.code == 1001
        else:
            assert info.was_clean is ("answered close" in flavour.cannot)
            if not info.was_clean:
                await raw.read_to_end()


@kinds_over_sockets
async def test_messages_that_cross_our_close_frame_still_arrive(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        closing = asyncio.create_task(transport.close())
        frame = await raw.next_of(CLOSE)
        await raw.send(raw.frame(TEXT, "was on its way"), raw.frame(CLOSE, frame.payload))
        raw.drop()
        await closing
        assert end(await recorder.end()) == (frame.code, "", True)
        assert recorder.texts == ([] if "answered close" in flavour.cannot else ["was on its way"])
