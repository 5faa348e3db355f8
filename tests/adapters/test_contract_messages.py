"""The transport contract: messages in and out, complete and in order."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import pytest
from core_driver import turns
from flavours import Flavour, OverSockets, flavours, kinds_over_sockets, over_sockets
from raw_websocket import BINARY, CONT, PING, PONG, TEXT
from recorder import Recorder
from waiting import until

from wsrpc import Limits
from wsrpc.transport import Transport

LIMITS = Limits(close_timeout=60.0)

FEW = 80
"""Messages of four bytes that are less than what a client writes before a turn or a read ends."""
SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1_000_000]


@cache
def pattern(size: int) -> bytes:
    """ASCII bytes of which no two neighbouring pieces are the same."""
    return b"".join(b"%07x\n" % i for i in range(size // 8 + 1))[:size]


def traffic(transport: Transport) -> Any:
    return getattr(transport, "traffic", None)  # it is not part of the Protocol


@flavours
async def test_messages_arrive_complete_and_in_order_both_ways(flavour: Flavour) -> None:
    """What is counted as written is what arrives, although large messages may be written in another way."""
    messages = [(pattern(size), text) for size in SIZES for text in (True, False)]
    async with flavour.pair(LIMITS) as (ours, theirs):
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            recorder = Recorder.of(receiver)
            out, into = traffic(sender), traffic(receiver)
            for payload, text in messages:
                sender.send(payload, text)
            sender.send("grüße".encode())  # text is the default
            await recorder.count(len(messages) + 1)
            assert recorder.messages == [*messages, ("grüße".encode(), True)]
            await until(lambda recorder=recorder: recorder.log[-1] == "read_ended")  # type: ignore[misc]
            assert recorder.wrong == []
            if out is None or into is None:  # it is not over sockets
                continue
            sent, came = traffic(sender), traffic(receiver)
            assert sent.messages_out - out.messages_out == len(recorder.messages)
            assert came.messages_in - into.messages_in == len(recorder.messages)
            if "bytes" in flavour.cannot:
                assert traffic(ours).bytes_out is traffic(ours).bytes_in is None
            else:
                assert sent.bytes_out - out.bytes_out == came.bytes_in - into.bytes_in > 2 * sum(SIZES)


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


@kinds_over_sockets
async def test_fragments_are_put_together(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        word = "grüße".encode()
        # The cut goes through a character of two bytes, and some fragments are empty.
        parts = [(TEXT, word[:3], False), (PING, b"1", True), (CONT, b"", False), (CONT, word[3:], True)]
        parts += [(BINARY, b"", False), (CONT, b"\xff\xfe", False), (CONT, b"", True), (TEXT, b"whole", True)]
        parts += [(TEXT, b"", False), (PING, b"2", True), (CONT, b"", True)]
        frames = [raw.frame(opcode, payload, fin=fin) for opcode, payload, fin in parts]
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


@kinds_over_sockets
async def test_read_ended_is_called_once_a_read(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        before = recorder.reads
        await raw.send(*(raw.frame(TEXT, str(number)) for number in range(50)))
        if "read together" in flavour.cannot:
            await recorder.count(50)
            await until(lambda: recorder.log[-1] == "read_ended")
            assert recorder.reads <= before + 50
            return
        await until(lambda: recorder.reads > before)
        assert len(recorder.messages) == 50
        assert recorder.log[-51:] == ["receive"] * 50 + ["read_ended"]
        assert recorder.reads == before + 1


@kinds_over_sockets
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
