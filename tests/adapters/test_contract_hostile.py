"""The transport contract: the other side breaks the rules."""

from __future__ import annotations

import asyncio

import pytest
from flavours import OVER_SOCKETS, OverSockets, able, unable
from raw_websocket import BINARY, CLOSE, CONT, PING, PONG, TEXT, RawPeer, build_frame
from recorder import Recorder

from wsrpc import Limits

HASTY = Limits(close_timeout=0.02, ping_interval=None, message=1000)

over_sockets = pytest.mark.parametrize("flavour", OVER_SOCKETS, ids=repr)


def wrong_mask(raw: RawPeer) -> bytes:
    return build_frame(TEXT, b"x", masked=not raw.client)


VIOLATIONS = {
    "mask": wrong_mask,
    "reserved opcode 3": lambda raw: raw.frame(0x3, "x"),
    "reserved opcode 11": lambda raw: raw.frame(0xB, "x"),
    "reserved bit 1": lambda raw: raw.frame(TEXT, "x", rsv=4),
    "reserved bit 3": lambda raw: raw.frame(TEXT, "x", rsv=1),
    "ping in fragments": lambda raw: raw.frame(PING, "x", fin=False),
    "long ping": lambda raw: raw.frame(PING, "x" * 126),
    "long close": lambda raw: raw.close_frame(1000, "x" * 124),
    "continuation of nothing": lambda raw: raw.frame(CONT, "x"),
    "message in a message": lambda raw: raw.frame(TEXT, "x", fin=False) + raw.frame(BINARY, "y"),
    "close frame of one byte": lambda raw: raw.frame(CLOSE, b"\x03"),
    "close code 1005": lambda raw: raw.close_frame(1005),
    "close code 999": lambda raw: raw.close_frame(999),
    "garbage": lambda raw: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


@able("violation")
@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
async def test_a_violation_ends_the_connection(flavour: OverSockets, violation: object) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        assert callable(violation)
        await raw.send(raw.frame(TEXT, "in order"))
        await recorder.count(1)
        await raw.send(violation(raw), raw.frame(TEXT, "not looked at"))
        frame = await raw.next_of(CLOSE)
        assert frame.code in (1002, 1007), frame
        # The raw peer does nothing more; that must not keep the connection.
        assert (await recorder.end()).code == frame.code
        assert recorder.texts == ["in order"]


@able("before a violation")
async def test_messages_that_come_together_with_a_violation(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "in order"), raw.frame(0x3, "x"), raw.frame(TEXT, "not looked at"))
        await recorder.end()
        assert recorder.texts == ["in order"]


@unable("before a violation")
async def test_messages_that_come_together_with_a_violation_may_be_lost(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "in order"), raw.frame(0x3, "x"))
        assert (await raw.next_of(CLOSE)).code == 1002
        assert (await recorder.end()).code == 1002
        assert recorder.texts in ([], ["in order"])


@unable("violation")
@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
async def test_a_violation_drops_the_connection(flavour: OverSockets, violation: object) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        assert callable(violation)
        await raw.send(raw.frame(TEXT, "in order"), violation(raw), raw.frame(TEXT, "not looked at"))
        info = await recorder.end()
        assert (info.code, info.was_clean) == (1006, False)
        assert recorder.texts == ["in order"]
        await raw.read_to_end()


@over_sockets
async def test_a_close_reason_that_is_not_utf_8(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(CLOSE, b"\x03\xe8\xff\xff"))
        if "violation" not in flavour.cannot:
            assert (await raw.next_of(CLOSE)).code in (1002, 1007)
        assert (await recorder.end()).code in ((1006,) if "violation" in flavour.cannot else (1002, 1007))


@over_sockets
async def test_a_message_of_exactly_the_limit_passes(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "x" * 1000), raw.frame(BINARY, "x" * 400, fin=False))
        await raw.send(raw.frame(CONT, "y" * 600), raw.frame(TEXT, ""))
        await recorder.count(3)
        assert [len(payload) for payload, _ in recorder.messages] == [1000, 1000, 0]


@over_sockets
async def test_a_larger_message_closes_with_1009(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "small"), raw.frame(TEXT, "x" * 1001))
        assert (await raw.next_of(CLOSE)).code == 1009
        assert (await recorder.end()).code == 1009
        assert recorder.texts == ["small"]


@able("too large")
async def test_fragments_that_add_up_to_too_much_close_with_1009(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "x" * 600, fin=False))
        await raw.send(raw.frame(CONT, "x" * 401, fin=False))
        assert (await raw.next_of(CLOSE)).code == 1009
        assert (await recorder.end()).code == 1009
        assert recorder.messages == []


@able("too large")
async def test_a_frame_that_claims_to_be_huge_closes_before_it_comes(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(build_frame(BINARY, b"", masked=raw.client, size=2**62)[:14])
        assert (await raw.next_of(CLOSE)).code == 1009
        assert (await recorder.end()).code == 1009


@unable("too large")
async def test_fragments_that_add_up_to_too_much_close_with_1009_at_the_last(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "x" * 600, fin=False), raw.frame(CONT, "x" * 401))
        assert (await raw.next_of(CLOSE)).code == 1009
        assert (await recorder.end()).code == 1009
        assert recorder.messages == []


@unable("too large")
async def test_a_frame_that_claims_to_be_huge_closes_at_the_server_s_own_limit(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        data = build_frame(BINARY, b"", masked=raw.client, size=2**62)[:14] + bytes(17_000_000)
        sending = asyncio.create_task(raw.send(data))
        assert (await raw.next_of(CLOSE)).code == 1009
        sending.cancel()
        await asyncio.wait([sending])
        raw.drop()
        await recorder.end()
        assert recorder.messages == []


@over_sockets
async def test_too_large_a_message_is_refused_by_the_side_that_receives_it(flavour: OverSockets) -> None:
    async with flavour.pair(HASTY, HASTY.replace(message=5000)) as (ours, theirs):
        mine, other = Recorder.of(ours), Recorder.of(theirs)
        ours.send(b"x" * 3000)
        await other.count(1)
        theirs.send(b"x" * 3000)
        assert (await mine.end()).code == 1009
        assert (await other.end()).code == 1009
        assert mine.messages == []


@over_sockets
async def test_a_flood_of_pings_is_survived(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        ping = raw.frame(PING, "x" * 125)
        for _ in range(20):
            await raw.send(ping * 100)
        await raw.send(raw.frame(TEXT, "still there"), raw.frame(PING, "last"))
        await recorder.count(1)
        while (await raw.next_of(PONG)).payload != b"last":
            pass
        assert recorder.texts == ["still there"]


@able("heartbeat")
async def test_a_ping_that_nobody_answers_ends_the_connection(flavour: OverSockets) -> None:
    limits = HASTY.replace(ping_interval=0.05, ping_timeout=0.05)
    async with flavour.raw(limits) as (transport, raw):
        recorder = Recorder.of(transport)
        assert (await raw.next_frame()).opcode == PING
        frame = await raw.next_of(CLOSE)
        assert frame.code == 1011
        info = await recorder.end()
        assert (info.code, info.was_clean) == (1011, False)


@able("heartbeat")
async def test_a_ping_that_is_answered_keeps_the_connection(flavour: OverSockets) -> None:
    limits = HASTY.replace(ping_interval=0.02, ping_timeout=15.0)
    async with flavour.raw(limits) as (transport, raw):
        recorder = Recorder.of(transport)
        for _ in range(5):
            ping = await raw.next_frame()
            assert ping.opcode == PING
            await raw.send(raw.frame(PONG, ping.payload))
        await raw.send(raw.frame(TEXT, "here"))
        await recorder.count(1)
        assert recorder.lost is None


@over_sockets
async def test_a_close_frame_in_the_middle_of_a_message_gives_the_message_up(flavour: OverSockets) -> None:
    """RFC 6455, 5.4: a control frame may come there. `websockets` by itself answers 1002, the others the code."""
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "in order"))
        await recorder.count(1)
        await raw.send(raw.frame(TEXT, "x", fin=False), raw.close_frame(1000))
        if "violation" not in flavour.cannot:
            assert (await raw.next_of(CLOSE)).code in (1000, 1002)
        await recorder.end()
        assert recorder.texts == ["in order"]
