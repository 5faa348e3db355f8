"""The transport contract: messages in and out, complete and in order."""

from __future__ import annotations

import asyncio

import pytest
from flavours import FLAVOURS, OVER_SOCKETS, Flavour, OverSockets
from raw_websocket import BINARY, CONT, PING, PONG, TEXT, RawPeer
from recorder import Recorder

from wsrpc import Limits
from wsrpc.transport import Traffic, Transport

LIMITS = Limits(close_timeout=2.0)

MiB = 1024 * 1024
FEW = 80
"""Messages of four bytes that are less than what a client writes before a turn or a read ends."""
SIZES = [0, 1, 125, 126, 127, 1000, 65535, 65536, 65537, 300_000]

flavours = pytest.mark.parametrize("flavour", FLAVOURS, ids=repr)
over_sockets = pytest.mark.parametrize("flavour", OVER_SOCKETS, ids=repr)


def pattern(size: int) -> bytes:
    """ASCII bytes of which no two neighbouring pieces are the same."""
    return b"".join(b"%07x\n" % i for i in range(size // 8 + 1))[:size]


@flavours
async def test_messages_arrive_complete_and_in_order_both_ways(flavour: Flavour) -> None:
    messages = [(pattern(size), text) for size in SIZES for text in (True, False)]
    async with flavour.pair(LIMITS) as (ours, theirs):
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            recorder = Recorder.of(receiver)
            for payload, text in messages:
                sender.send(payload, text)
            await recorder.count(len(messages))
            assert recorder.messages == messages
            assert recorder.wrong == []


@over_sockets
async def test_what_is_counted_as_written_is_what_arrives(flavour: OverSockets) -> None:
    """Large messages may be written in another way than small ones."""
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder.of(theirs)
        ours.start(Recorder())
        before = traffic(ours), traffic(theirs)
        for size in SIZES:
            ours.send(pattern(size), True)
        await recorder.count(len(SIZES))
        after = traffic(ours), traffic(theirs)
        assert after[0].messages_out - before[0].messages_out == len(SIZES)
        assert after[1].messages_in - before[1].messages_in == len(SIZES)
        if after[0].bytes_out is not None and after[1].bytes_in is not None:
            assert before[0].bytes_out is not None and before[1].bytes_in is not None
            assert after[0].bytes_out - before[0].bytes_out == after[1].bytes_in - before[1].bytes_in > sum(SIZES)


def traffic(transport: Transport) -> Traffic:
    counted: Traffic = getattr(transport, "traffic")  # noqa: B009  (it is not part of the Protocol)
    return counted


@flavours
async def test_text_is_the_default(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder.of(theirs)
        ours.start(Recorder())
        ours.send("grüße".encode())
        await recorder.count(1)
        assert recorder.messages == [("grüße".encode(), True)]


@flavours
@pytest.mark.parametrize("text", [True, False])
async def test_an_empty_message_is_a_message(flavour: Flavour, text: bool) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder.of(theirs)
        ours.start(Recorder())
        ours.send(b"", text)
        await recorder.count(1)
        assert recorder.messages == [(b"", text)]


@flavours
async def test_an_empty_answer_is_sent_from_within_receive(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder.of(theirs)
        ours.start(Recorder(lambda _: ours.send(b"")))
        theirs.send(b"ask")
        await recorder.count(1)
        assert recorder.messages == [(b"", True)]


@flavours
async def test_the_largest_message_passes(flavour: Flavour) -> None:
    payload = pattern(4 * MiB)
    async with flavour.pair(LIMITS) as (ours, theirs):
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            recorder = Recorder.of(receiver)
            sender.send(payload, False)
            sender.send(b"next")
            await recorder.count(2)
            assert recorder.messages == [(payload, False), (b"next", True)]


@flavours
async def test_what_many_tasks_send_stays_whole_and_each_one_s_in_order(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder.of(theirs)
        ours.start(Recorder())

        async def send(who: int) -> None:
            for number in range(50):
                ours.send(b"%d %d %s" % (who, number, b"x" * (number * 37)))
                if number % 7 == who % 7:
                    await asyncio.sleep(0)

        await asyncio.gather(*(send(who) for who in range(10)))
        await recorder.count(500)
        for who in range(10):
            mine = [text for text in recorder.texts if text.startswith(f"{who} ")]
            assert mine == [f"{who} {number} {'x' * (number * 37)}" for number in range(50)]


@flavours
async def test_what_was_sent_before_the_other_side_starts_is_kept(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        answers = Recorder.of(theirs)
        theirs.send(b"1")
        theirs.send(b"2", False)
        recorder = Recorder(lambda payload: ours.send(b"got " + payload))
        ours.start(recorder)
        theirs.send(b"3")
        await recorder.count(3)
        assert recorder.messages == [(b"1", True), (b"2", False), (b"3", True)]
        await answers.count(3)
        assert answers.texts == ["got 1", "got 2", "got 3"]


@over_sockets
async def test_what_arrived_before_start_is_delivered_in_it(flavour: OverSockets) -> None:
    early = [(TEXT, b"1"), (BINARY, b"2"), (TEXT, b"")]
    together = "early" not in flavour.cannot
    async with flavour.raw(LIMITS, early=early if together else ()) as (transport, raw):
        if not together:
            await raw.send(*(raw.frame(opcode, payload) for opcode, payload in early), raw.frame(PING))
            await raw.next_of(PONG)  # it has read them
        await some_turns()  # by now the frames were looked at, unless reading was paused
        recorder = Recorder.of(transport)
        assert recorder.messages == [(b"1", True), (b"2", False), (b"", True)]
        assert recorder.log[-1] == "read_ended"
        await raw.send(raw.frame(TEXT, "4"))
        await recorder.count(4)
        assert recorder.messages[-1] == (b"4", True)


async def some_turns() -> None:
    """Let a few turns pass; not more, because a transport may stop reading until it is started."""
    for _ in range(20):
        await asyncio.sleep(0)


@over_sockets
async def test_much_that_arrived_before_start_is_kept(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        payloads = [pattern(100_000 + number) for number in range(20)]
        sending = asyncio.create_task(raw.send(*(raw.frame(TEXT, payload) for payload in payloads)))
        await some_turns()
        recorder = Recorder.of(transport)
        await sending
        await recorder.count(20)
        assert [payload for payload, _ in recorder.messages] == payloads


@over_sockets
async def test_fragments_are_put_together(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        word = "grüße".encode()
        # The cut goes through a character of two bytes, and some fragments are empty.
        await raw.send(
            raw.frame(TEXT, word[:3], fin=False),
            raw.frame(CONT, b"", fin=False),
            raw.frame(CONT, word[3:], fin=True),
            raw.frame(BINARY, b"", fin=False),
            raw.frame(CONT, b"\xff\xfe", fin=False),
            raw.frame(CONT, b"", fin=True),
            raw.frame(TEXT, "whole"),
            raw.frame(TEXT, b"", fin=False),
            raw.frame(CONT, b"", fin=True),
        )
        await recorder.count(4)
        assert recorder.messages == [(word, True), (b"\xff\xfe", False), (b"whole", True), (b"", True)]


@over_sockets
async def test_fragments_that_come_one_by_one_with_pings_between(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        payload = pattern(20_000)
        await raw.send(raw.frame(BINARY, payload[:100], fin=False))
        for start in range(100, 19_900, 1980):
            await raw.send(raw.frame(PING, b"%d" % start))
            assert (await raw.next_of(PONG)).payload == b"%d" % start
            await raw.send(raw.frame(CONT, payload[start : start + 1980], fin=False))
        await raw.send(raw.frame(CONT, payload[19_900:]), raw.frame(TEXT, "next"))
        await recorder.count(2)
        assert recorder.messages == [(payload, False), (b"next", True)]


@over_sockets
async def test_frames_that_come_byte_by_byte(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder.of(transport)
        data = (
            raw.frame(TEXT, "a" * 130) + raw.frame(BINARY, b"") + raw.frame(TEXT, "z", fin=False) + raw.frame(CONT, "")
        )
        for byte in data:
            await raw.send(bytes([byte]))
            await asyncio.sleep(0)
        await recorder.count(3)
        assert recorder.messages == [(b"a" * 130, True), (b"", False), (b"z", True)]


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


@flavours
async def test_read_ended_follows_the_messages(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder.of(ours)
        theirs.start(Recorder())
        for number in range(50):
            theirs.send(b"%d" % number)
        await recorder.count(50)
        await recorder.until(lambda: recorder.log[-1] == "read_ended")
        # They were sent in one turn, so they came in few reads: one, unless the network cut it.
        assert 1 <= recorder.log.count("read_ended") <= (50 if "read together" in flavour.cannot else 5)


@over_sockets
async def test_what_one_turn_sends_is_written_together(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        transport.start(Recorder())
        for number in range(FEW):
            transport.send(b"%04d" % number)
        await all_at_once(flavour, raw)


async def all_at_once(flavour: OverSockets, raw: RawPeer) -> None:
    """Read ``FEW`` messages of four bytes that the code under test sends: in one read, if it can."""
    size = FEW * (6 if raw.client else 10)
    data = await raw.read()
    if "written together" in flavour.cannot:
        while len(data) < size:
            data += await raw.read()
    assert len(data) == size


@over_sockets
async def test_what_several_tasks_send_in_one_turn_is_written_together(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        transport.start(Recorder())

        async def send() -> None:
            transport.send(b"1234")

        tasks = [asyncio.create_task(send()) for _ in range(FEW)]
        await all_at_once(flavour, raw)
        await asyncio.gather(*tasks)


@over_sockets
async def test_what_one_read_causes_is_written_together(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        transport.start(Recorder(transport.send))
        await raw.send(*(raw.frame(TEXT, "abcd") for _ in range(FEW)))
        await all_at_once(flavour, raw)


@over_sockets
async def test_frames_on_the_wire_are_as_the_rfc_wants_them(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        transport.start(Recorder())
        for size in SIZES:
            transport.send(pattern(size), size % 2 == 0)
        masks = set()
        for size in SIZES:
            frame = await raw.next_frame()
            assert frame.payload == pattern(size)
            assert frame.opcode == (TEXT if size % 2 == 0 else BINARY)
            assert frame.fin
            assert frame.masked is not raw.client
            masks.add(frame.masked)
        assert len(masks) == 1


@over_sockets
async def test_pings_are_answered_while_messages_go_both_ways(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = Recorder(transport.send)
        transport.start(recorder)
        frames = []
        for number in range(50):
            frames += [raw.frame(TEXT, f"{number}"), raw.frame(PING, b"p%d" % number), raw.frame(PONG, b"unasked")]
        await raw.send(*frames)
        texts: list[bytes] = []
        pongs: list[bytes] = []
        while len(texts) < 50 or len(pongs) < 50:
            frame = await raw.next_frame()
            (texts if frame.opcode == TEXT else pongs).append(frame.payload)
        assert texts == [b"%d" % number for number in range(50)]
        # RFC 6455, section 5.5.3: only the latest of several pings must be answered; whoever answers all keeps order.
        assert pongs[-1] == b"p49"
        assert pongs == sorted(pongs, key=lambda payload: int(payload[1:]))


@flavours
async def test_info_and_repr_and_unsent_before_anything_happened(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        for transport in (ours, theirs):
            assert transport.unsent == 0
            assert transport.info.path == "/"
            assert transport.info.query == {}
            assert transport.info.subprotocol is None
            assert transport.info.origin is None
            assert all(name == name.lower() for name in transport.info.headers)
            assert repr(transport)


@over_sockets
async def test_info_knows_the_addresses(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        assert transport.info.remote == raw.sock.getsockname()
        assert transport.info.local == raw.sock.getpeername()
        assert transport.info.headers["upgrade"] == "websocket"
        assert transport.info.underlying is not None


@flavours
async def test_the_attributes_that_the_contract_names(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, _):
        typed: Transport = ours
        for name in ("info", "unsent", "start", "send", "drain", "close", "abort"):
            assert hasattr(typed, name)
