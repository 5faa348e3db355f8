"""`wsrpc._transports.frames`: frames as RFC 6455, section 5.2, has them."""

from __future__ import annotations

import pytest

from wsrpc._transports.frames import MASKS, Framer

SIZES = [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 65535, 65536, 65537, 200_000]


def header(size: int) -> bytes:
    """Length and extended length, without the mask bit."""
    if size <= 125:
        return bytes([size])
    if size <= 0xFFFF:
        return bytes([126]) + size.to_bytes(2, "big")
    return bytes([127]) + size.to_bytes(8, "big")


def build(framer: Framer, payload: bytes, text: bool) -> bytes:
    out: list[bytes] = [b"before"]
    framer.frame(out, payload, text)
    assert out[0] == b"before"
    return b"".join(out[1:])


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_plain(size: int, text: bool) -> None:
    payload = bytes(number % 251 for number in range(size))
    frame = build(Framer(masked=False), payload, text)
    assert frame == bytes([0x81 if text else 0x82]) + header(size) + payload


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_masked(size: int, text: bool) -> None:
    payload = bytes(number % 251 for number in range(size))
    frame = build(Framer(masked=True), payload, text)
    head = header(size)
    head = bytes([head[0] | 0x80]) + head[1:]
    assert frame[0] == (0x81 if text else 0x82)
    assert frame[1 : 1 + len(head)] == head
    mask, masked = frame[1 + len(head) :][:4], frame[1 + len(head) + 4 :]
    assert len(mask) == 4
    assert bytes(byte ^ mask[position % 4] for position, byte in enumerate(masked)) == payload


def test_every_frame_has_a_mask_of_its_own() -> None:
    # Also where the stock of random bytes ends and the next one begins.
    framer = Framer(masked=True)
    count = MASKS // 4 * 3 + 1
    masks = [build(framer, b"", True)[2:6] for _ in range(count)]
    assert all(len(mask) == 4 for mask in masks)
    # Four random bytes each: a few may meet by chance, not many (3,000 of 4,000,000,000).
    assert len(set(masks)) > count - 5


def test_two_connections_share_no_masks() -> None:
    first = [build(Framer(masked=True), b"", True)[2:6] for _ in range(50)]
    assert len(set(first)) > 45
