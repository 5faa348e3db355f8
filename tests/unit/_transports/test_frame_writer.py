"""`FrameWriter`: frames as RFC 6455, section 5.2, has them, and when they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wsrpc._transports.frames import FIRST_OF_CLIENT, FIRST_PIECE, LARGEST_PIECE, MASKS, FrameWriter

SIZES = [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 65535, 65536, 65537, 200_000]


def header(size: int) -> bytes:
    """Length and extended length, without the mask bit."""
    if size <= 125:
        return bytes([size])
    if size <= 0xFFFF:
        return bytes([126]) + size.to_bytes(2, "big")
    return bytes([127]) + size.to_bytes(8, "big")


class Loop:
    """An event loop that runs callbacks when the test says so."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class Writer(FrameWriter):
    def __init__(self, *, masked: bool) -> None:
        self.loop = Loop()
        self.written: list[bytes] = []
        super().__init__(self.loop, masked=masked)

    def write(self) -> None:
        self.written.append(self.take())


def build(writer: Writer, payload: bytes, text: bool) -> bytes:
    writer.add(payload, text)
    writer.flush()
    return writer.written.pop()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_frame(size: int, text: bool, masked: bool) -> None:
    payload = bytes(number % 251 for number in range(size))
    length = header(size)
    start = bytes([0x81 if text else 0x82, length[0] | (0x80 if masked else 0)]) + length[1:]
    frame = build(Writer(masked=masked), payload, text)
    assert frame.startswith(start)
    if not masked:
        assert frame[len(start) :] == payload
        return
    mask, rest = frame[len(start) :][:4], frame[len(start) + 4 :]
    assert len(mask) == 4 and bytes(byte ^ mask[position % 4] for position, byte in enumerate(rest)) == payload


@pytest.mark.parametrize("masked", [True, False])
def test_what_is_diverted_gets_no_frame(masked: bool) -> None:
    class Diverting(Writer):
        def divert(self, payload: bytes, text: bool) -> None:
            diverted.append((payload, text))

    diverted: list[tuple[bytes, bool]] = []
    writer = Diverting(masked=masked)
    writer.diverts = True
    writer.add(b"one", True)
    writer.add(b"two", False)
    writer.flush()
    writer.loop.turn()
    assert diverted == [(b"one", True), (b"two", False)]
    assert writer.written == [] and writer.sent == writer.unwritten == 0
    writer.diverts = False
    assert build(writer, b"three", True).endswith(b"three") is not masked


def test_every_frame_has_a_mask_of_its_own() -> None:
    # Also where the stock of random bytes ends and the next one begins, and of two connections.
    writer = Writer(masked=True)
    masks = [build(writer, b"", True)[2:6] for _ in range(MASKS * 3 + 1)]
    masks += [build(Writer(masked=True), b"", True)[2:6] for _ in range(50)]
    assert all(len(mask) == 4 for mask in masks)
    # Four random bytes each: a few may meet by chance, not many (200 of 4,000,000,000).
    assert len(set(masks)) > len(masks) - 5


def test_what_one_turn_adds_is_written_together_at_its_end() -> None:
    writer = Writer(masked=False)
    writer.add(b"a", True)
    writer.add(b"", False)
    assert (writer.written, writer.unwritten, writer.sent) == ([], 5, 2)
    writer.loop.turn()
    assert (writer.written, writer.unwritten, writer.sent) == ([b"\x81\x01a\x82\x00"], 0, 2)
    writer.loop.turn()
    assert len(writer.written) == 1


def test_a_client_begins_with_a_smaller_piece() -> None:
    for masked, first in ((False, FIRST_PIECE), (True, FIRST_OF_CLIENT)):
        writer = Writer(masked=masked)
        for _ in range(FIRST_PIECE // 64 + 1):
            writer.add(b"x" * 62, True)  # with what an empty message counts for, 64
        assert len(writer.written[0]) // len(build(Writer(masked=masked), b"x" * 62, True)) * 64 == first


def test_pieces_of_a_burst_grow_up_to_a_bound() -> None:
    writer = Writer(masked=False)
    message = b"x" * 510  # with what an empty message counts for, 512
    writer.held = True
    for _ in range(300):
        writer.add(message, True)
    sizes = [len(piece) // len(b"____" + message) * 512 for piece in writer.written]
    assert sizes[0] == FIRST_PIECE
    assert sizes[: sizes.index(LARGEST_PIECE)] == [FIRST_PIECE << n for n in range(sizes.index(LARGEST_PIECE))]
    assert set(sizes[sizes.index(LARGEST_PIECE) :]) == {LARGEST_PIECE}
    writer.release(in_burst=True)
    writer.written.clear()
    for _ in range(3):
        writer.add(message, True)
    assert writer.written == []
    writer.loop.turn()
    for _ in range(2):
        writer.add(message, True)
    assert len(writer.written) == 2, "after the turn the next burst begins with a small piece"


def test_only_frames_that_end_a_message_count_as_messages() -> None:
    writer = Writer(masked=False)
    for first in (0x89, 0x01, 0x00, 0x80):  # a ping, and a message of three fragments
        writer.add_frame(first, b"x")
    assert (writer.unwritten, writer.sent) == (12, 1)
    writer.loop.turn()
    assert (writer.written, writer.sent) == ([b"\x89\x01x\x01\x01x\x00\x01x\x80\x01x"], 1)


class Crowd:
    """Writers that share an event loop, and what they wrote, in order."""

    def __init__(self, count: int) -> None:
        self.loop = Loop()
        self.written: list[tuple[int, bytes]] = []
        self.writers = [Member(self, number) for number in range(count)]


class Member(FrameWriter):
    def __init__(self, crowd: Crowd, number: int) -> None:
        super().__init__(crowd.loop, masked=False)
        self.crowd = crowd
        self.number = number

    def write(self) -> None:
        data = self.take()
        if b"raise" in data:
            raise OSError("broken")
        if b"again" in data:
            self.crowd.writers[0].add(b"next turn", True)
        self.crowd.written.append((self.number, data[2:]))


def test_what_is_added_at_the_end_of_a_turn_is_written_at_the_end_of_the_next_one() -> None:
    crowd = Crowd(2)
    for writer in crowd.writers:
        writer.add(b"again", True)
    crowd.loop.turn()
    assert crowd.written == [(0, b"again"), (1, b"again")]
    crowd.loop.turn()
    assert crowd.written[2:] == [(0, b"next turn\x81\tnext turn")]
    assert not crowd.loop.soon


def test_a_writer_that_fails_does_not_keep_the_others_from_writing() -> None:
    crowd = Crowd(3)
    for writer, text in zip(crowd.writers, (b"a", b"raise", b"c"), strict=True):
        writer.add(text, True)
    with pytest.raises(OSError, match="broken"):
        crowd.loop.turn()
    crowd.loop.turn()
    assert crowd.written == [(0, b"a"), (2, b"c")]
    assert not crowd.loop.soon
