"""`FaultProxy.mid_frame`: where WebSocket frames are in a flow of bytes, and cuts in the middle of them."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from bare import Bench, Side, bench
from hypothesis import given
from hypothesis import strategies as st
from raw_websocket import BINARY, CLOSE, PING, TEXT, accept_response, build_frame, handshake

from wsrpc.testing._frame_boundaries import FrameBoundaries

REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 70000\r\n\r\n"


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


SIZES = st.one_of(st.integers(0, 130), st.sampled_from([65535, 65536, 70000]))


@given(
    upwards=st.booleans(),
    sizes=st.lists(SIZES, max_size=6),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=12),
)
def test_the_middles_of_frames_are_found_in_whatever_pieces_they_come(
    upwards: bool, sizes: list[int], cuts: list[int]
) -> None:
    data = handshake() if upwards else accept_response(handshake())
    ends: dict[int, int] = {}  # of headers, with the middle of what follows
    for size in sizes:
        frame = build_frame(BINARY, bytes(size), masked=upwards)
        header = len(data) + len(frame) - size
        if size:
            ends[header] = header + size // 2
        data += frame
    boundaries = FrameBoundaries()
    at = 0
    for piece in in_pieces(data, cuts):
        expected = [middle - at for end, middle in ends.items() if at < end <= at + len(piece)]
        assert boundaries.feed(piece) == (expected[0] if expected else None)
        at += len(piece)


@pytest.mark.parametrize("head", [REFUSAL, REFUSAL + b"body", b"x" * 70_000])
def test_what_is_no_websocket_has_no_frames(head: bytes) -> None:
    boundaries = FrameBoundaries()
    frames = build_frame(BINARY, b"x" * 100, masked=False) * 3
    assert [boundaries.feed(piece) for piece in (head, frames, frames)] == [None] * 3


# ---------------------------------------------------------------- over sockets


async def opened(b: Bench) -> tuple[Side, Side]:
    """A connection after the opening handshake."""
    client, server = await b.line()
    request = handshake()
    await client.send(request)
    assert await server.receive(len(request)) == request
    answer = accept_response(request)
    await server.send(answer)
    assert await client.receive(len(answer)) == answer
    return client, server


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("size", [1, 2, 125, 126, 65_536, 1_000_000])
async def test_the_next_frame_is_cut_in_the_middle(size: int, up: bool) -> None:
    async with bench() as b:
        client, server = await opened(b)
        sender, receiver = (client, server) if up else (server, client)
        before = build_frame(TEXT, b"x" * 300, masked=up)
        await sender.send(before)
        assert await receiver.receive(len(before)) == before
        async with b.proxy.mid_frame("up" if up else "down"):
            empty = build_frame(PING, masked=up)
            await sender.send(empty)
            assert await receiver.receive(len(empty)) == empty
            frame = build_frame(BINARY, os.urandom(size), masked=up)
            await sender.send(frame + b"what follows"[: 12 if size < 1000 else 0])
            assert await receiver.to_end() == (frame[: len(frame) - size + size // 2], "reset")


async def test_a_frame_that_was_half_through_is_let_go() -> None:
    async with bench() as b:
        client, server = await opened(b)
        first, second = build_frame(TEXT, b"x" * 100, masked=True), build_frame(CLOSE, b"\x03\xe8bye!", masked=True)
        await client.send(first[:50])
        await server.receive(50)
        async with b.proxy.mid_frame("up"):
            await client.send(first[50:] + second)
            assert await server.to_end() == (first[50:] + second[:-3], "reset")


async def test_a_new_connection_is_opened_and_then_cut() -> None:
    async with bench() as b:
        async with b.proxy.mid_frame("down"):
            for _ in range(2):
                client, server = await opened(b)
                await server.send(build_frame(TEXT, b"abcd", masked=False))
                assert await client.to_end() == (b"\x81\x04ab", "reset")


async def test_what_was_not_cut_goes_on() -> None:
    async with bench() as b:
        client, server = await opened(b)
        frame = build_frame(TEXT, b"x" * 1000, masked=True)
        async with b.proxy.mid_frame("up"), b.proxy.mid_frame("up"):
            await client.send(frame[:100])
            await server.receive(100)
        await client.send(frame[100:] + frame)
        assert await server.receive(1908 + 8) == frame[100:] + frame
