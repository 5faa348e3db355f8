"""`FrameWriter`: frames as RFC 6455, section 5.2, has them, and when they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wsrpc._net.frames import MASKS, FrameWriter


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
        self.written.append(self.pop_frames())


def build(writer: Writer, payload: bytes, text: bool) -> bytes:
    writer.add(payload, text)
    writer.flush()
    return writer.written.pop()


def test_every_frame_has_a_mask_of_its_own() -> None:
    # Also where the stock of random bytes ends and the next one begins, and of two connections.
    writer = Writer(masked=True)
    masks = [build(writer, b"", True)[2:6] for _ in range(MASKS * 3 + 1)]
    masks += [build(Writer(masked=True), b"", True)[2:6] for _ in range(50)]
    assert all(len(mask) == 4 for mask in masks)
    # Four random bytes each: a few may meet by chance, not many (200 of 4,000,000,000).
    assert len(set(masks)) > len(masks) - 5


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
