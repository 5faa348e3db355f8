"""Plain frames are taken apart as the library takes them apart, however they are cut; the rest is left to it."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from wsrpc._transports.frames import COPIED, FrameReader

Messages = list[tuple[bytes, bool]]

payloads = st.one_of(
    st.binary(max_size=200),
    st.integers(0, 5).flatmap(lambda n: st.sampled_from([125, 126, 127, COPIED - 1, COPIED, 65535, 65536])).map(bytes),
)
plain = st.tuples(payloads, st.booleans())
OTHERS = {
    "ping": (Frame(Opcode.PING, b"hello"), 0),
    "close": (Frame(Opcode.CLOSE, b"\x03\xe8"), 0),
    "first fragment": (Frame(Opcode.TEXT, b"part", fin=False), 0),
    "last fragment": (Frame(Opcode.CONT, b"part"), 0),
    "compressed": (Frame(Opcode.BINARY, b"part"), 0x40),
}
"""Frames, and the bits of extensions."""


class Collector:
    def __init__(self) -> None:
        self.messages: Messages = []

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        self.messages.append((bytes(payload), text))

    def __getattr__(self, name: str) -> Any:  # the rest of a receiver is not needed
        raise AssertionError(name)


def frame(payload: bytes, text: bool, masked: bool) -> bytes:
    return Frame(Opcode.TEXT if text else Opcode.BINARY, payload).serialize(mask=masked)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


@given(st.lists(plain, max_size=8), st.booleans(), st.lists(st.integers(0, 2**20), max_size=6))
def test_messages_arrive_whole_and_in_order_however_they_are_cut(
    messages: Messages, masked: bool, cuts: list[int]
) -> None:
    collector = Collector()
    frames = FrameReader(masked=masked, largest=sys.maxsize)
    for piece in cut(b"".join(frame(payload, text, masked) for payload, text in messages), cuts):
        assert frames.feed(piece, collector) == b""
    assert collector.messages == messages
    assert frames.take_rest() == b""


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("step", [1, 700, COPIED + 100])
def test_a_large_message_that_comes_in_many_reads_is_parsed_once(masked: bool, step: int) -> None:
    collector = Collector()
    frames = FrameReader(masked=masked, largest=sys.maxsize)
    large = bytes(range(256)) * (COPIED // 64)
    data = frame(large, False, masked) + frame(b"next", True, masked)
    for start in range(0, len(data), step):
        assert frames.feed(data[start : start + step], collector) == b""
    assert collector.messages == [(large, False), (b"next", True)]
    assert (frames.messages, frames.missing) == (2, 0)


def test_what_is_kept_of_a_message_goes_to_the_library_with_what_follows() -> None:
    collector = Collector()
    frames = FrameReader(masked=True, largest=sys.maxsize)
    data = frame(bytes(10_000), False, True)
    assert frames.feed(data[:6000], collector) == b""
    assert frames.feed(data[6000:7000], collector) == b""
    assert frames.missing == 10_000 + 8 - 7000
    assert frames.take_rest() == data[:7000]
    assert frames.missing == 0 and frames.take_rest() == b""


@pytest.mark.parametrize("kind", OTHERS)
@given(st.lists(plain, max_size=4), st.booleans(), st.integers(0, 2**20))
def test_everything_from_the_first_other_frame_on_is_left_to_the_library(
    kind: str, messages: Messages, masked: bool, place: int
) -> None:
    collector = Collector()
    frames = FrameReader(masked=masked, largest=sys.maxsize)
    before = b"".join(frame(payload, text, masked) for payload, text in messages)
    other, bits = OTHERS[kind]
    first, *rest = other.serialize(mask=masked)
    after = bytes([first | bits, *rest]) + frame(b"more", True, masked)
    begin, end = before[: place % (len(before) + 1)], before[place % (len(before) + 1) :] + after
    assert frames.feed(begin, collector) == b""
    assert frames.feed(end, collector) == after
    assert collector.messages == messages
    assert frames.take_rest() == b""


@given(plain, st.booleans())
def test_a_frame_whose_mask_bit_is_wrong_is_left_to_the_library(message: tuple[bytes, bool], masked: bool) -> None:
    collector = Collector()
    data = frame(*message, masked=not masked)
    frames = FrameReader(masked=masked, largest=sys.maxsize)
    left = frames.feed(data, collector)
    assert left == data or (left == b"" and frames.take_rest() == data)  # too short to tell
    assert collector.messages == []


@pytest.mark.parametrize("size", [100, 126, 65536])
@pytest.mark.parametrize("masked", [False, True])
def test_a_message_that_is_too_large_is_left_to_the_library_as_soon_as_its_size_is_known(
    size: int, masked: bool
) -> None:
    collector = Collector()
    data = frame(bytes(size), False, masked)
    assert FrameReader(masked=masked, largest=size).feed(data, collector) == b""
    assert collector.messages == [(bytes(size), False)]
    head = data[:14] if masked else data[:10]
    assert FrameReader(masked=masked, largest=size - 1).feed(head, collector) == head


def told(frames: FrameReader, data: bytes) -> tuple[bytes, Messages, bytes, int]:
    """Read ``data``. Returns what is left to the library, the messages, what is kept, how many were counted."""
    collector = Collector()
    left = bytes(frames.feed(data, collector))
    return left, collector.messages, bytes(frames.take_rest()), frames.messages


short = st.tuples(st.binary(max_size=130), st.booleans())


@given(
    st.one_of(
        st.tuples(st.lists(short, max_size=2), st.booleans()).map(
            lambda given: b"".join(frame(payload, text, given[1]) for payload, text in given[0])
        ),
        st.sampled_from([frame.serialize(mask=mask) for frame, _ in OTHERS.values() for mask in (True, False)]),
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
    expected, short_cut = (FrameReader(masked=masked, largest=largest) for _ in range(2))
    for frames in (expected, short_cut):
        frames.feed(rest, Collector())
    general = told(expected, data)
    alone = short_cut.only_message(data)
    if alone is not None:
        assert (b"", [(alone, data[0] == 0x81)], b"", short_cut.messages) == general
    else:
        assert told(short_cut, data) == general, "what is refused is not touched"


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_short_message_that_came_alone_needs_no_loop(size: int, text: bool, masked: bool) -> None:
    frames = FrameReader(masked=masked, largest=125)
    assert frames.only_message(frame(bytes(size), text, masked)) == bytes(size)
    assert frames.messages == 1
