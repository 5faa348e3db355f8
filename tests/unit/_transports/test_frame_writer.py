"""`FrameWriter`: frames as RFC 6455, section 5.2, has them, and when they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wsrpc._transports.frames import FIRST_PIECE, LARGEST_PIECE, MASKS, FrameWriter


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
    def __init__(self, *, masked: bool, loop: Loop | None = None) -> None:
        self.loop = loop or Loop()
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
@pytest.mark.parametrize("size", [0, 3, 125, 126, 65535, 65536])
def test_a_frame(size: int, text: bool, masked: bool) -> None:
    payload = bytes(number % 251 for number in range(size))
    form, width = (size, 0) if size <= 125 else (126, 2) if size <= 65535 else (127, 8)
    start = bytes([0x81 if text else 0x82, form + 0x80 * masked]) + (size.to_bytes(width, "big") if width else b"")
    frame = build(Writer(masked=masked), payload, text)
    assert frame.startswith(start)
    if not masked:
        assert frame[len(start) :] == payload
        return
    mask, rest = frame[len(start) :][:4], frame[len(start) + 4 :]
    assert len(mask) == 4 and bytes(byte ^ mask[position % 4] for position, byte in enumerate(rest)) == payload


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


def test_only_frames_that_end_a_message_count_as_messages() -> None:
    writer = Writer(masked=False)
    for first in (0x89, 0x01, 0x00, 0x80):  # a ping, and a message of three fragments
        writer.add_frame(first, b"x")
    assert (writer.written, writer.unwritten, writer.sent) == ([], 12, 1)
    writer.loop.turn()
    assert writer.written == [b"\x89\x01x\x01\x01x\x00\x01x\x80\x01x"]


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


def test_a_writer_that_adds_or_fails_at_the_end_of_a_turn_does_not_keep_the_others_from_writing() -> None:
    class Adds(Writer):
        def write(self) -> None:
            super().write()
            if len(self.written) == 1:
                self.add(b"next turn", True)

    class Fails(Writer):
        def write(self) -> None:
            raise OSError("broken")

    loop = Loop()
    first, broken, last = writers = [made(masked=False, loop=loop) for made in (Adds, Fails, Writer)]
    for writer in writers:
        writer.add(b"a", True)
    with pytest.raises(OSError, match="broken"):
        loop.turn()
    loop.turn()
    assert last.written == [b"\x81\x01a"] == first.written[:1] and not broken.written
    loop.turn()
    assert first.written[1:] == [b"\x81\tnext turn"]
