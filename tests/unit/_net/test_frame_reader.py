"""Frames are taken apart as the library builds them. test_frame_rules.py cuts them in any place."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from wsrpc._net.frames import FrameReader

Messages = list[tuple[bytes, bool]]


class Collector:
    """Takes the messages, and in place of the transport the other frames."""

    def __init__(self) -> None:
        self.messages: Messages = []
        self.frames: list[tuple[int, bytes]] = []
        self.refused: list[int] = []

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        self.messages.append((bytes(payload), text))

    def frame(self, first: int, payload: bytes, /) -> None:
        self.frames.append((first, payload))

    def finish(self, code: int, reason: str, /) -> None:
        self.refused.append(code)

    def too_big(self, size: int, /) -> None:
        self.refused.append(1009)


def reader(masked: bool, largest: int = sys.maxsize) -> FrameReader:
    made = FrameReader(masked=masked)
    made.largest = largest
    return made


def frame(payload: bytes, text: bool, masked: bool) -> bytes:
    return Frame(Opcode.TEXT if text else Opcode.BINARY, payload).serialize(mask=masked)


def told(frames: FrameReader, data: bytes) -> tuple[Messages, list[tuple[int, bytes]], list[int], int]:
    """Read ``data``. Returns the messages, the other frames, what was refused, how many were counted."""
    collector = Collector()
    frames.feed(data, collector, collector)
    return collector.messages, collector.frames, collector.refused, frames.messages


OTHERS = [Frame(Opcode.PING, b"hello"), Frame(Opcode.TEXT, b"part", fin=False), Frame(Opcode.CONT, b"part")]
short = st.tuples(st.binary(max_size=130), st.booleans())


@given(
    st.one_of(
        st.tuples(st.lists(short, max_size=2), st.booleans()).map(
            lambda given: b"".join(frame(payload, text, given[1]) for payload, text in given[0])
        ),
        st.sampled_from([each.serialize(mask=mask) for each in OTHERS for mask in (True, False)]),
        st.binary(min_size=1, max_size=8),
    ),
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from([b"", b"\x81"]),
    st.sampled_from([3, sys.maxsize]),
)
def test_a_message_that_came_alone_is_taken_as_among_others(
    data: bytes, masked: bool, cut_off: int, rest: bytes, largest: int
) -> None:
    data = data[: len(data) - cut_off]
    if not data:
        return
    expected, short_cut = (reader(masked, largest) for _ in range(2))
    for frames in (expected, short_cut):
        frames.feed(rest, Collector(), Collector())
    general = told(expected, data)
    alone = short_cut.only_message(data)
    if alone is not None:
        assert ([(alone, data[0] == 0x81)], [], [], short_cut.messages) == general
    else:
        assert told(short_cut, data) == general, "what is refused is not touched"


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_short_message_that_came_alone_needs_no_loop(size: int, text: bool, masked: bool) -> None:
    frames = reader(masked, 125)
    assert frames.only_message(frame(bytes(size), text, masked)) == bytes(size)
    assert frames.messages == 1
