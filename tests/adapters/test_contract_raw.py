"""The transport contract: messages by pieces, and a reader that takes its time."""

from __future__ import annotations

import asyncio

import pytest
from client_driver import leap
from core_driver import turns
from flavours import Flavour, OverSockets, able, flavours, kinds, kinds_over_sockets
from raw_websocket import BINARY, CLOSE, CONT, PING, PONG, TEXT
from recorder import Recorder
from waiting import until

from wsrpc import Limits
from wsrpc.transport import Traffic

LIMITS = Limits(close_timeout=60.0)


class PieceRecorder(Recorder):
    """Takes pieces, too."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[tuple[bytes, bool, bool]] = []

    def receive_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        assert isinstance(payload, bytes), "who takes pieces keeps them"
        self.pieces.append((payload, text, last))
        self._note("receive_piece")

    def whole(self) -> list[tuple[bytes, bool]]:
        """The messages that came, whether in pieces or not."""
        found, parts = list(self.messages), b""
        for payload, text, last in self.pieces:
            parts += payload
            if last:
                found.append((parts, text))
                parts = b""
        return found


# ---------------------------------------------------------------- out


@kinds_over_sockets
async def test_pieces_leave_as_frames_of_one_message(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        transport.start(Recorder())
        expected = [(BINARY, b"one ", False), (CONT, b"two", False), (CONT, b"", True), (TEXT, b"next", True)]
        if "pieces out" in flavour.cannot:
            expected = [(BINARY, b"one two", True), (TEXT, b"next", True)]
        transport.send_piece(b"one ", False, False)
        frames = [] if "pieces out" in flavour.cannot else [await raw.next_frame()]  # it does not wait for the rest
        transport.send_piece(b"two", False, False)
        transport.send_piece(b"", False, True)
        transport.send(b"next")
        frames += [await raw.next_frame() for _ in expected[len(frames) :]]
        assert [(frame.opcode, frame.payload, frame.fin) for frame in frames] == expected
        traffic: Traffic = getattr(transport, "traffic")  # noqa: B009  (it is not part of the Protocol)
        assert traffic.messages_out == 2


@kinds
async def test_pieces_count_as_unsent_and_fill_the_connection(flavour: Flavour) -> None:
    async with flavour.stalled(LIMITS) as (transport, go_on):
        recorder = Recorder.of(transport)
        if "pieces out" in flavour.cannot:  # what cannot leave yet must not fill the line: it would hold up the rest
            for _ in range(100):
                transport.send_piece(b"x" * 65536, False, False)
            assert not recorder.paused and not transport.unsent
            transport.send_piece(b"x" * 65536, False, True)
        while not recorder.paused:
            transport.send_piece(b"x" * 65536, False, False)
        assert transport.unsent > LIMITS.high_water_bytes
        if "pieces out" not in flavour.cannot:
            transport.send_piece(b"", False, True)
        go_on()
        await until(lambda: not recorder.paused)


# ---------------------------------------------------------------- in


@kinds_over_sockets
async def test_frames_are_handed_on_as_they_come(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        recorder = PieceRecorder()
        transport.start(recorder)
        await raw.send(raw.frame(TEXT, "whole"), raw.frame(TEXT, "gr\u00fc".encode()[:3], fin=False))
        if "pieces in" not in flavour.cannot:
            await until(lambda: recorder.pieces != [])
            assert recorder.pieces == [("gr\u00fc".encode()[:3], True, False)]
        await raw.send(raw.frame(PING, b"now?"), raw.frame(CONT, "gr\u00fc".encode()[3:], fin=False))
        assert (await raw.next_of(PONG)).payload == b"now?"
        await raw.send(raw.frame(CONT), raw.frame(BINARY, b"next"))
        await until(lambda: (b"next", False) in recorder.messages)
        assert recorder.whole().count(("gr\u00fc".encode(), True)) == 1
        if "pieces in" not in flavour.cannot:
            assert recorder.pieces[1:] == [("gr\u00fc".encode()[3:], True, False), (b"", True, True)]
            assert recorder.messages == [(b"whole", True), (b"next", False)]


@kinds_over_sockets
async def test_a_message_that_began_before_start_is_handed_on_from_there(flavour: OverSockets) -> None:
    async with flavour.raw(LIMITS) as (transport, raw):
        # The ping is answered when what came before it has been read.
        await raw.send(raw.frame(BINARY, b"one ", fin=False), raw.frame(PING), raw.frame(CONT, b"two ", fin=False))
        await raw.next_of(PONG)
        recorder = PieceRecorder()
        transport.start(recorder)
        await raw.send(raw.frame(CONT, b"three"))
        await until(lambda: recorder.whole() != [])
        assert recorder.whole() == [(b"one two three", False)]


@kinds_over_sockets
async def test_for_whom_takes_pieces_only_a_frame_is_bounded(flavour: OverSockets) -> None:
    """Where a library passes on only whole messages, they are."""
    frames, whole = (1, 1000) if "pieces in" in flavour.cannot else (10, 10_000)
    async with flavour.raw(LIMITS.replace(message_bytes=1000)) as (transport, raw):
        recorder = PieceRecorder()
        transport.start(recorder)
        await raw.send(raw.frame(BINARY, b"x" * 1000, fin=False))
        for _ in range(frames - 1):
            await raw.send(raw.frame(CONT, b"x" * 1000, fin=False))
        await raw.send(raw.frame(CONT))
        await until(lambda: recorder.whole() != [])
        assert recorder.whole() == [(b"x" * whole, False)]
        await raw.send(raw.frame(BINARY, b"x", fin=False), raw.frame(CONT, b"x" * (1001 if frames > 1 else 1000)))
        assert (await raw.next_of(CLOSE)).code == 1009
        raw.drop()
        assert (await recorder.end()).code == 1009


@kinds
async def test_the_largest_message_may_be_changed(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder.of(ours)
        theirs.start(Recorder())
        theirs.send(b"x" * 1001)
        await recorder.count(1)
        ours.largest = 1000
        assert ours.largest == 1000
        theirs.send(b"x" * 1000)
        theirs.send(b"x" * 1001)
        assert (await recorder.end()).code == 1009
        assert [len(payload) for payload, _ in recorder.messages] == [1001, 1000]


# ---------------------------------------------------------------- a reader that takes its time


@flavours
async def test_a_peer_that_pauses_slows_the_other_side_down(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder, sender = Recorder.of(ours), Recorder.of(theirs)
        ours.pause_receiving()
        sent = 0
        while not (sender.paused and theirs.unsent > 10 * 65536):
            theirs.send(b"%07d" % sent + b"x" * 65529, False)
            sent += 1
            if sent % 16 == 0:
                await asyncio.sleep(0)
        assert len(recorder.messages) < sent
        ours.resume_receiving()
        await recorder.count(sent)
        assert [int(payload[:7]) for payload, _ in recorder.messages] == list(range(sent))
        await until(lambda: not sender.paused)


@kinds
async def test_a_receiver_may_pause_at_a_message(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder(lambda payload: ours.pause_receiving() if payload == b"pause" else None)
        ours.start(recorder)
        theirs.start(Recorder())
        theirs.send(b"pause")
        await recorder.count(1)
        theirs.send(b"later")
        await turns(100)
        assert recorder.messages == [(b"pause", True)] or "pause" in flavour.cannot
        ours.resume_receiving()
        await recorder.count(2)


@kinds
async def test_a_receiver_that_pauses_at_each_message_gets_all_before_the_close(flavour: Flavour) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):

        def pause(payload: bytes) -> None:
            ours.pause_receiving()
            asyncio.get_running_loop().call_soon(ours.resume_receiving)

        recorder, sent = Recorder(pause), [str(number) for number in range(10)]
        ours.start(recorder)
        theirs.start(Recorder())
        for text in sent:
            theirs.send(text.encode())
        closing = asyncio.create_task(theirs.close(4000, "enough"))
        await recorder.end()
        assert recorder.texts == sent
        await closing


@pytest.mark.asyncio_loop
@able("heartbeat")
async def test_a_paused_connection_is_not_taken_for_a_dead_one(
    flavour: OverSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with flavour.raw(LIMITS.replace(ping_interval=20.0, ping_timeout=20.0)) as (transport, raw):
        recorder = Recorder.of(transport)
        leap(monkeypatch, 20.0)
        ping = await raw.next_of(PING)
        transport.pause_receiving()
        await raw.send(raw.frame(PONG, ping.payload))
        leap(monkeypatch, 100.0)
        await turns(20)
        assert recorder.lost is None
        transport.resume_receiving()
        leap(monkeypatch, 21.0)
        await raw.next_of(PING)  # it goes on from there, and finds what is dead
        for _ in range(2):  # at first, what was read after the pause counts
            leap(monkeypatch, 20.0)
            await turns(20)
        assert (await recorder.end()).code == 1011


@able("heartbeat")
@pytest.mark.parametrize("how", ["drop", "reset"])
async def test_a_paused_connection_that_has_dropped_ends(flavour: OverSockets, how: str) -> None:
    """A connection whose user did not read was never found to be over: nothing was written, either."""
    async with flavour.raw(LIMITS.replace(ping_interval=0.02)) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.next_of(PING)
        transport.pause_receiving()
        await raw.send(raw.frame(TEXT, "not read"))
        raw.drop() if how == "drop" else raw.reset()
        assert (await recorder.end()).code == 1006
        assert recorder.messages == []
