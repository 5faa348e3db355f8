"""The transport contract: how a connection ends."""

from __future__ import annotations

import asyncio

import pytest
from core_driver import turns
from flavours import FLAVOURS, OVER_SOCKETS, Flavour, OverSockets
from raw_websocket import CLOSE, PING, PONG, TEXT
from recorder import Recorder

from wsrpc import ConnectionLost, Limits
from wsrpc.transport import Transport

LIMITS = Limits(close_timeout=5.0, ping_interval=None)
HASTY = LIMITS.replace(close_timeout=0.1)

CODES = [(1000, ""), (1000, "bye"), (1001, "going"), (3000, "mine"), (4999, "ü" * 61), (4408, "x" * 123)]

UNSENDABLE = [(1005, ""), (1006, ""), (1015, ""), (999, ""), (5000, ""), (0, ""), (1000, "x" * 124), (None, "why")]

flavours = pytest.mark.parametrize("flavour", FLAVOURS, ids=repr)
over_sockets = pytest.mark.parametrize("flavour", OVER_SOCKETS, ids=repr)


def told(flavour: Flavour, code: int, reason: str = "") -> tuple[int, str, bool]:
    """How an end with the other side's Close frame looks from here."""
    return (1006, "", False) if "close code" in flavour.cannot else (code, reason, True)


def refuses(transport: Transport) -> None:
    with pytest.raises(ConnectionLost) as caught:
        transport.send(b"too late")
    assert caught.value.outcome == "not_sent"


@flavours
@pytest.mark.parametrize(("code", "reason"), CODES)
@pytest.mark.parametrize("who", ["ours", "theirs"])
async def test_both_sides_learn_code_and_reason(flavour: Flavour, code: int, reason: str, who: str) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        async with asyncio.timeout(8):
            await (ours if who == "ours" else theirs).close(code, reason)
        for recorder in (mine, other):
            info = await recorder.end()
            heard = recorder is mine and who == "theirs"
            expected = told(flavour, code, reason) if heard else (code, reason, True)
            assert (info.code, info.reason, info.was_clean) == expected
            assert not info.user_closed and not info.will_reconnect


@flavours
async def test_repr_shows_the_state(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        for transport in (ours, theirs):
            assert "Transport open" in repr(transport)
        ours.abort()
        await mine.end()
        await other.end()
        for transport in (ours, theirs):
            assert " closed" in repr(transport)


@flavours
@pytest.mark.parametrize("who", ["ours", "theirs"])
async def test_without_a_code_both_sides_learn_1005(flavour: Flavour, who: str) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        async with asyncio.timeout(8):
            await (ours if who == "ours" else theirs).close(None)
        code = 1000 if who == "ours" and "no code" in flavour.cannot else 1005
        for recorder in (mine, other):
            info = await recorder.end()
            expected = told(flavour, code) if recorder is mine and who == "theirs" else (code, "", True)
            assert (info.code, info.reason, info.was_clean) == expected


@over_sockets
async def test_without_a_code_the_close_frame_is_empty(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        closing = asyncio.create_task(transport.close(None))
        frame = await raw.next_of(CLOSE)
        assert frame.payload == ((1000).to_bytes(2, "big") if "no code" in flavour.cannot else b"")
        await raw.send(raw.frame(CLOSE, frame.payload))
        raw.drop()
        await closing
        assert (await recorder.end()).code == (1000 if "no code" in flavour.cannot else 1005)


@flavours
async def test_both_sides_close_at_once(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        async with asyncio.timeout(8):
            await asyncio.gather(ours.close(1000, "I"), theirs.close(1001, "no, I"))
        assert (await mine.end()).code in (1000, 1001)
        assert (await other.end()).code in (1000, 1001)


@flavours
@pytest.mark.parametrize(("code", "reason"), UNSENDABLE)
async def test_a_close_that_may_not_be_sent_is_a_local_error(flavour: Flavour, code: int | None, reason: str) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder.of(theirs)
        mine = Recorder.of(ours)
        with pytest.raises(ValueError):
            await ours.close(code, reason)
        ours.send(b"still open")
        await recorder.count(1)
        await ours.close(4000, "better")
        assert (await mine.end()).code == (await recorder.end()).code == 4000


@flavours
async def test_close_writes_what_was_sent_before(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        payloads = [b"%d" % number * number for number in range(200)] + [b"z" * 500_000, b""]
        for payload in payloads:
            ours.send(payload)
        async with asyncio.timeout(8):
            await ours.close()
        assert (await other.end()).was_clean
        assert [payload for payload, _ in other.messages] == payloads
        assert (await mine.end()).was_clean


@flavours
async def test_close_from_within_receive(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        other = Recorder.of(theirs)
        tasks: list[asyncio.Task[None]] = []

        def on_message(payload: bytes) -> None:
            ours.send(b"last words")
            tasks.append(asyncio.create_task(ours.close(4001, "enough")))

        mine = Recorder(on_message)
        ours.start(mine)
        theirs.send(b"x")
        assert (await other.end()).code == 4001
        assert other.texts == ["last words"]
        assert (await mine.end()).code == 4001
        await asyncio.gather(*tasks)


@flavours
async def test_send_refuses_once_it_is_closing_and_when_it_is_over(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        closing = asyncio.create_task(ours.close(1000, "bye"))
        for _ in range(3):
            await asyncio.sleep(0)
        refuses(ours)
        await closing
        refuses(ours)
        await mine.end()
        refuses(ours)
        await other.end()
        refuses(theirs)


@flavours
async def test_abort_drops(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        ours.abort()
        assert "connection_lost" not in mine.log, "connection_lost follows soon, not inside the call"
        info = await mine.end()
        assert (info.code, info.was_clean) == (1006, False)
        info = await other.end()
        assert (info.code, info.was_clean) == ((1011, True) if "abort" in flavour.cannot else (1006, False))
        refuses(ours)
        refuses(theirs)


@flavours
async def test_abort_from_within_receive(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        other = Recorder.of(theirs)
        inside: list[bool] = []

        def on_message(payload: bytes) -> None:
            ours.abort()
            inside.append("connection_lost" in mine.log)

        mine = Recorder(on_message)
        ours.start(mine)
        theirs.send(b"1")
        theirs.send(b"2")
        assert (await mine.end()).code == 1006
        assert inside == [False], "nothing is delivered after that"
        assert (await other.end()).code == (1011 if "abort" in flavour.cannot else 1006)


@flavours
async def test_abort_in_one_go_with_sending(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        ours.send(b"perhaps")
        ours.abort()
        ours.abort()
        assert not (await mine.end()).was_clean
        assert (await other.end()).was_clean is ("abort" in flavour.cannot)


@flavours
async def test_close_and_abort_may_be_called_at_any_time(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        async with asyncio.timeout(8):
            await asyncio.gather(ours.close(1000, "one"), ours.close(1001, "two"))
            await ours.close(1002, "three")
            ours.abort()
            await ours.close()
            await theirs.close()
            theirs.abort()
        assert (await mine.end()).reason == "one"
        assert (await other.end()).reason == "one"
        assert ours.unsent == 0


@flavours
async def test_close_before_start(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        other = Recorder.of(theirs)
        async with asyncio.timeout(8):
            await ours.close(1012, "never mind")
        info = await other.end()
        assert (info.code, info.reason) == (1012, "never mind")


@flavours
async def test_an_end_from_before_start_is_told_soon_after_it(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        other = Recorder.of(theirs)
        theirs.abort()
        await other.end()
        async with asyncio.timeout(8):
            await ours.close()
        recorder = Recorder.of(ours)
        assert "connection_lost" not in recorder.log
        await recorder.end()


@flavours
async def test_cancelling_close_is_safe_and_the_closing_goes_on(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        closing = asyncio.create_task(ours.close(4002, "on my way"))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        for recorder in (mine, other):
            info = await recorder.end()
            assert (info.code, info.was_clean) == (4002, True)
        await ours.close()


@over_sockets
async def test_the_code_the_other_side_gives(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "1"), raw.close_frame(4321, "für immer"), raw.frame(TEXT, "not looked at"))
        answer = await raw.next_of(CLOSE)
        assert answer.code == 4321
        raw.drop()
        info = await recorder.end()
        assert (info.code, info.reason, info.was_clean) == told(flavour, 4321, "für immer")
        assert recorder.texts == ["1"]


@over_sockets
async def test_a_close_frame_without_a_code(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.close_frame(None))
        assert (await raw.next_of(CLOSE)).payload == b""
        raw.drop()
        info = await recorder.end()
        assert (info.code, info.reason, info.was_clean) == told(flavour, 1005)


@over_sockets
@pytest.mark.parametrize("how", ["drop", "reset"])
async def test_a_drop(flavour: OverSockets, how: str) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "1"), raw.frame(TEXT, "half a mess", fin=False))
        await recorder.count(1)
        getattr(raw, how)()
        info = await recorder.end()
        assert (info.code, info.was_clean) == (1006, False)
        refuses(transport)


@over_sockets
async def test_a_drop_in_the_middle_of_a_frame(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "whole"), raw.frame(TEXT, "x" * 1000)[:500])
        await recorder.count(1)
        raw.drop()
        assert (await recorder.end()).code == 1006
        assert recorder.texts == ["whole"]


@over_sockets
async def test_messages_then_drop_before_start(flavour: OverSockets) -> None:
    early = [] if "early" in flavour.cannot else [(TEXT, b"1"), (TEXT, b"2")]
    async with flavour.raw(LIMITS, early=early) as (transport, raw):
        if not early:
            await raw.send(raw.frame(TEXT, "1"), raw.frame(TEXT, "2"), raw.frame(PING))
            await raw.next_of(PONG)  # it has read them
        raw.drop()
        recorder = Recorder.of(transport)
        assert (await recorder.end()).code == 1006
        assert recorder.texts == ["1", "2"]


@flavours
async def test_messages_then_a_clean_close_before_start(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        other = Recorder.of(theirs)
        theirs.send(b"1")
        theirs.send(b"2")
        closing = asyncio.create_task(theirs.close(4000, "bye"))
        for _ in range(20):
            await asyncio.sleep(0)
        recorder = Recorder.of(ours)
        async with asyncio.timeout(8):
            await closing
        info = await recorder.end()
        assert (info.code, info.reason, info.was_clean) == told(flavour, 4000, "bye")
        info = await other.end()
        assert (info.code, info.was_clean) == (4000, True)
        assert recorder.texts == ["1", "2"]


@over_sockets
async def test_messages_then_close_before_start(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        await raw.send(raw.frame(TEXT, "1"), raw.close_frame(1001, "gone"))
        assert (await raw.next_of(CLOSE)).code == 1001
        raw.drop()
        recorder = Recorder.of(transport)
        info = await recorder.end()
        assert recorder.texts == ["1"]
        assert (info.code, info.reason, info.was_clean) == told(flavour, 1001, "gone")


@over_sockets
async def test_what_was_sent_leaves_before_the_answer_to_a_close_frame(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        transport.start(Recorder())
        transport.send(b"1")
        await raw.send(raw.close_frame(1000))
        assert (await raw.next_frame()).payload == b"1"
        assert (await raw.next_frame()).opcode == CLOSE


@over_sockets
async def test_close_that_is_never_answered_ends_by_dropping(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        async with asyncio.timeout(8):
            await transport.close(1001, "hello?")
        info = await recorder.end()
        assert info.was_clean is ("answered close" in flavour.cannot)
        frame = await raw.next_of(CLOSE)
        assert (frame.code, frame.reason) == (1001, "hello?")
        if "answered close" not in flavour.cannot:
            await raw.read_to_end()


@over_sockets
async def test_close_that_is_answered_but_the_connection_stays_ends_by_dropping(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        closing = asyncio.create_task(transport.close(1001, "hello?"))
        assert (await raw.next_of(CLOSE)).code == 1001
        await raw.send(raw.close_frame(1001, "yes"))
        async with asyncio.timeout(8):
            await closing
        assert (await recorder.end()).code == 1001


@over_sockets
async def test_their_close_after_which_the_connection_stays_ends_by_dropping(flavour: OverSockets) -> None:
    # Nobody calls close() here: what they began has to come to an end by itself.
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.close_frame(1000))
        info = await recorder.end()
        assert (info.code, info.reason, info.was_clean) == told(flavour, 1000)


@over_sockets
async def test_messages_that_cross_our_close_frame_still_arrive(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        closing = asyncio.create_task(transport.close(1000, "bye"))
        assert (await raw.next_of(CLOSE)).code == 1000
        await raw.send(raw.frame(TEXT, "was on its way"), raw.close_frame(1000))
        raw.drop()
        async with asyncio.timeout(8):
            await closing
        assert (await recorder.end()).was_clean
        assert recorder.texts == ([] if "answered close" in flavour.cannot else ["was on its way"])


@over_sockets
async def test_close_before_start_is_not_held_up_by_messages(flavour: OverSockets) -> None:
    # Nothing here waits for `close_timeout`: it is far longer than the time limit of a test.
    async with flavour.raw(LIMITS.replace(close_timeout=1000.0)) as (transport, raw):
        closing = asyncio.create_task(transport.close(1008, "not you"))
        assert (await raw.next_of(CLOSE)).code == 1008
        await raw.send(raw.frame(TEXT, "was on its way"))
        await turns(50)  # it is read by itself
        await raw.send(raw.frame(TEXT, "and so was this"), raw.close_frame(1008))
        if raw.client:
            await raw.read_to_end()
        raw.drop()
        async with asyncio.timeout(8):
            await closing
