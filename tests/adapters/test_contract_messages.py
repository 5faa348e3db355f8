"""The transport contract: messages in and out, complete and in order."""

from __future__ import annotations

import asyncio
from functools import cache

import pytest
from core_driver import turns
from flavours import FLAVOURS, OVER_SOCKETS, Flavour, OverSockets
from raw_websocket import BINARY, CONT, PING, PONG, TEXT
from recorder import Recorder

from wsrpc import Limits
from wsrpc.transport import Traffic, Transport

LIMITS = Limits(close_timeout=2.0)

FEW = 80
"""Messages of four bytes that are less than what a client writes before a turn or a read ends."""
SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1_000_000]

flavours = pytest.mark.parametrize("flavour", FLAVOURS, ids=repr)
over_sockets = pytest.mark.parametrize("flavour", OVER_SOCKETS, ids=repr)


@cache
def pattern(size: int) -> bytes:
    """ASCII bytes of which no two neighbouring pieces are the same."""
    return b"".join(b"%07x\n" % i for i in range(size // 8 + 1))[:size]


def traffic(transport: Transport) -> Traffic:
    counted: Traffic = getattr(transport, "traffic")  # noqa: B009  (it is not part of the Protocol)
    return counted


@flavours
async def test_messages_arrive_complete_and_in_order_both_ways(flavour: Flavour) -> None:
    messages = [(pattern(size), text) for size in SIZES for text in (True, False)]
    async with flavour.pair(LIMITS) as (ours, theirs):
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            recorder = Recorder.of(receiver)
            for payload, text in messages:
                sender.send(payload, text)
            sender.send("grüße".encode())  # text is the default
            await recorder.count(len(messages) + 1)
            assert recorder.messages == [*messages, ("grüße".encode(), True)]
            await recorder.until(lambda recorder=recorder: recorder.log[-1] == "read_ended")  # type: ignore[misc]
            assert recorder.wrong == []


@over_sockets
async def test_what_is_counted_as_written_is_what_arrives(flavour: OverSockets) -> None:
    """Large messages may be written in another way than small ones."""
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder.of(theirs)
        ours.start(Recorder())
        out, into = traffic(ours), traffic(theirs)
        for size in SIZES:
            ours.send(pattern(size), True)
        await recorder.count(len(SIZES))
        assert traffic(ours).messages_out - out.messages_out == len(SIZES)
        assert traffic(theirs).messages_in - into.messages_in == len(SIZES)
        sent, came = traffic(ours).bytes_out, traffic(theirs).bytes_in
        if "bytes" in flavour.cannot:
            assert sent is out.bytes_out is None
        else:
            assert None not in (sent, came, out.bytes_out, into.bytes_in)
            assert sent - out.bytes_out == came - into.bytes_in > sum(SIZES)  # type: ignore[operator]


@over_sockets
async def test_what_arrived_before_start_is_delivered_in_it(flavour: OverSockets) -> None:
    early = [(TEXT, b"1"), (BINARY, b"2"), (TEXT, b"")]
    together = "early" not in flavour.cannot
    async with flavour.raw(LIMITS, early=early if together else ()) as (transport, raw):
        assert (transport.info.remote, transport.info.local) == (raw.sock.getsockname(), raw.sock.getpeername())
        assert transport.info.headers["upgrade"] == "websocket" and transport.info.underlying is not None
        if not together:
            await raw.send(*(raw.frame(opcode, payload) for opcode, payload in early), raw.frame(PING))
            await raw.next_of(PONG)  # it has read them
        await turns(20)  # by now the frames were looked at, unless reading was paused
        recorder = Recorder.of(transport)
        assert recorder.messages == [(b"1", True), (b"2", False), (b"", True)]
        assert recorder.log[-1] == "read_ended"
        await raw.send(raw.frame(TEXT, "4"))
        await recorder.count(4)
        assert recorder.messages[-1] == (b"4", True)


@over_sockets
async def test_fragments_are_put_together(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        word = "grüße".encode()
        # The cut goes through a character of two bytes, and some fragments are empty.
        frames = [
            raw.frame(TEXT, word[:3], fin=False),
            raw.frame(PING, b"1"),
            raw.frame(CONT, b"", fin=False),
            raw.frame(CONT, word[3:], fin=True),
            raw.frame(BINARY, b"", fin=False),
            raw.frame(CONT, b"\xff\xfe", fin=False),
            raw.frame(CONT, b"", fin=True),
            raw.frame(TEXT, "whole"),
            raw.frame(TEXT, b"", fin=False),
            raw.frame(PING, b"2"),
            raw.frame(CONT, b"", fin=True),
        ]
        expected = [(word, True), (b"\xff\xfe", False), (b"whole", True), (b"", True)]
        await raw.send(*frames)
        await recorder.count(4)
        for byte in b"".join(frames):
            await raw.send(bytes([byte]))
            await asyncio.sleep(0)
        await recorder.count(8)
        assert recorder.messages == expected * 2
        while (await raw.next_of(PONG)).payload != b"2":
            pass  # RFC 6455, section 5.5.3: only the latest of several pings must be answered


@over_sockets
async def test_read_ended_is_called_once_a_read(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        before = recorder.reads
        await raw.send(*(raw.frame(TEXT, str(number)) for number in range(50)))
        if "read together" in flavour.cannot:
            await recorder.count(50)
            await recorder.until(lambda: recorder.log[-1] == "read_ended")
            assert recorder.reads <= before + 50
            return
        await recorder.until(lambda: recorder.reads > before)
        assert len(recorder.messages) == 50
        assert recorder.log[-51:] == ["receive"] * 50 + ["read_ended"]
        assert recorder.reads == before + 1


@over_sockets
@pytest.mark.parametrize("what", ["several tasks", "one read"])
async def test_what_one_turn_sends_or_one_read_causes_is_written_together(flavour: OverSockets, what: str) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        transport.start(Recorder(transport.send))

        async def send() -> None:
            transport.send(b"1234")

        tasks = []
        if what == "one read":
            await raw.send(*(raw.frame(TEXT, "abcd") for _ in range(FEW)))
        else:
            tasks = [asyncio.create_task(send()) for _ in range(FEW)]
        size = FEW * (6 if raw.client else 10)
        data = await raw.read()
        while "written together" in flavour.cannot and len(data) < size:
            data += await raw.read()
        assert len(data) == size
        await asyncio.gather(*tasks)
