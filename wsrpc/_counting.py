"""How many values an encoded message holds, counted without decoding it.

A message of 4 MiB can hold four million empty arrays: decoding them takes more than a second and 290 MB. So the values
of a large message are counted first. Counting takes time in proportion to the message and ends early where there are
too many.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TypeVar

__all__ = ["ARRAY_KEYS", "SHARE", "SMALL", "decode_any", "json_nests_deeper", "json_objection", "msgpack_objection"]

T = TypeVar("T")

SMALL = 4096
"""Bytes of the largest message that is decoded without a look."""

SHARE = 4
"""One in so many values may be an array or an object. (Decoding one takes 10 to 30 times the time of a number, and ten
times the memory. Honest ones hold values: pairs of floats take 19 bytes and more, so that 4 MiB have 220,000.)"""

ARRAY_KEYS = 256
"""Arrays that may be keys of maps with more than 15 entries, in MessagePack. Python's hash of a tuple of numbers is the
same in every process, so that a sender can choose 10,000 keys of the same hash: decoding them, 140 KB, takes 1.5 s, and
ten times as many a hundred times as long."""


def decode_any(decode: Callable[[bytes | bytearray], T], payload: bytes | bytearray) -> T:
    """Decode; a large message without collections of garbage meanwhile: nothing that is new can be garbage yet.

    262,144 arrays take 20 ms so, and 90 ms with the collections that they would cause.
    """
    if len(payload) <= SMALL or not gc.isenabled():
        return decode(payload)
    gc.disable()
    try:
        return decode(payload)
    finally:
        gc.enable()


def _too_many(values: int) -> str:
    return f"more than {values} values, or than {values // SHARE} arrays and objects (Limits.values)"


# ---------------------------------------------------------------- JSON

_CHUNK = 32 * 1024
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _all_but(kept: bytes) -> bytes:
    return bytes(set(range(256)) - set(kept))


_NOT_STRUCTURE = _all_but(b'",:[{')
_NOT_BRACKETS = _all_but(b'"' + bytes(_STEP))


def _outside_texts(payload: bytes | bytearray, dropped: bytes) -> Iterator[bytes]:
    """What JSON text has outside of its texts, without the characters of ``dropped``, piece by piece.

    A regular expression takes 0.5 s for a million texts. This takes 60 ms at most for 4 MiB, whatever they hold.
    """
    if b"\\" in payload:
        payload = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes with nothing between them change nothing for what is behind them.
    rest = payload.translate(None, dropped).replace(b'""', b"")
    within = 0
    for start in range(0, len(rest), _CHUNK):  # a list of all parts at once would cost more than the splitting
        parts = rest[start : start + _CHUNK].split(b'"')
        yield b"".join(parts[within::2])
        within ^= (len(parts) - 1) & 1


def json_objection(payload: bytes | bytearray, values: int) -> str | None:
    """Why JSON text is not to be decoded: it holds more than ``values``. None if it does not."""
    if len(payload) <= values // SHARE:
        return None
    # Each value but the first of an array comes after a comma or a colon.
    openings = payload.count(b"[") + payload.count(b"{")
    if openings * SHARE <= values and openings + payload.count(b",") + payload.count(b":") <= values:
        return None
    # Those may be characters of texts.
    return _too_many(values) if _exceeds_outside_texts(payload, values) else None


def _exceeds_outside_texts(payload: bytes | bytearray, values: int) -> bool:
    openings = others = 0
    for outside in _outside_texts(payload, _NOT_STRUCTURE):
        found = outside.count(b"[") + outside.count(b"{")
        openings += found
        others += len(outside) - found
        if openings * SHARE > values or openings + others > values:
            return True
    return False


def json_nests_deeper(payload: bytes | bytearray, depth: int) -> bool:
    """Whether JSON text has arrays and objects nested more than ``depth`` deep."""
    # Nearly every message has fewer brackets than that, and counting them is all it costs.
    if payload.count(b"[") + payload.count(b"{") <= depth:
        return False
    brackets = b"".join(_outside_texts(payload, _NOT_BRACKETS))
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > depth


# ---------------------------------------------------------------- MessagePack


def _steps() -> tuple[int, ...]:
    """By a value's first byte: how many bytes it has, 0 where that is not all to know."""
    steps = [1] * 256
    for count in range(16):
        steps[0x80 + count] = steps[0x90 + count] = 0
    for size in range(32):
        steps[0xA0 + size] = 1 + size
    for first in (0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF):
        steps[first] = 0
    for first, size in ((0xCC, 2), (0xCD, 3), (0xCE, 5), (0xCF, 9), (0xD0, 2), (0xD1, 3), (0xD2, 5), (0xD3, 9)):
        steps[first] = size
    for first, size in ((0xCA, 5), (0xCB, 9), (0xD4, 3), (0xD5, 4), (0xD6, 6), (0xD7, 10), (0xD8, 18)):
        steps[first] = size
    return tuple(steps)


_STEPS = _steps()
_LENGTHS = {
    # First byte: bytes of the length, what comes before the contents besides (the type of an extension).
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0),
    0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),
}  # fmt: skip
_STEPPING = {1: 1, 2: 16, 4: 256}
"""By the bytes of its length: for how many arrays a text counts, since it takes as long as one to step over. (Encoders
use two bytes from 256 bytes of contents on, and four from 64 KiB on, so that no honest message is refused for it.)"""
_COUNTS = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_ARRAYS = frozenset({*range(0x90, 0xA0), 0xDC, 0xDD})
_MAPS = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})
_NOT_ARRAYS = _all_but(bytes(_ARRAYS))


def msgpack_objection(payload: bytes | bytearray, values: int) -> str | None:
    """Why MessagePack is not to be decoded: it holds more than ``values``, or too many arrays as keys."""
    suspect = (b"\xde" in payload or b"\xdf" in payload) and len(payload.translate(None, _NOT_ARRAYS)) > ARRAY_KEYS
    if not suspect and len(payload) <= values // SHARE:
        return None
    exceeds, large_maps = _walk(payload, values)
    if exceeds:
        return _too_many(values)
    if suspect and large_maps and _has_array_keys(payload):
        return f"more than {ARRAY_KEYS} arrays as keys of large maps"
    return None


def _walk(payload: bytes | bytearray, values: int) -> tuple[bool, bool]:
    """Whether there are more than ``values``, and whether any of them is a map with more than 15 entries.

    What claims to be longer than the payload ends the walk, as it will end the decoding.
    """
    steps, most = _STEPS, values // SHARE
    large_maps = False
    pos = looked = claimed = 0
    slices = len(payload)  # bytes that may be compared in all, so that a walk stays linear
    try:
        for _ in range(values + 1):
            first = payload[pos]
            step = steps[first]
            if step:
                pos += step
                continue
            if 0x80 <= first < 0xA0:
                pos += 1
                looked += 1
                claimed += first & 15 if first >= 0x90 else 2 * (first & 15)
            elif first == 0xD9 or first == 0xC4:  # most of those with a length
                pos += 2 + payload[pos + 1]
                looked += 1
            elif (width := _COUNTS.get(first)) is None:
                width, more = _LENGTHS[first]
                start = pos + 1 + width
                pos = start + more + int.from_bytes(payload[pos + 1 : start], "big")
                looked += _STEPPING[width]
            else:
                start = pos + 1 + width
                count = int.from_bytes(payload[pos + 1 : start], "big")
                pos = start
                looked += 1
                if first >= 0xDE:
                    large_maps = True
                    count *= 2
                elif (step := steps[payload[pos]]) and count <= slices:
                    # Most large arrays are of one kind of number: step over all of them at once.
                    slices -= count
                    if payload[pos : pos + count * step : step] == payload[pos : pos + 1] * count:
                        pos += count * step
                claimed += count
            if looked > most or claimed > values:
                return True, large_maps
        payload[pos]
    except IndexError:
        return False, large_maps
    return True, large_maps


def _has_array_keys(payload: bytes | bytearray) -> bool:
    """Whether more than `ARRAY_KEYS` arrays are keys of maps with more than 15 entries."""
    steps = _STEPS
    outer: list[tuple[int, bool]] = []
    left, keyed = 1, False
    pos = found = 0
    try:
        while True:
            while not left:
                if not outer:
                    return False
                left, keyed = outer.pop()
            first = payload[pos]
            if keyed and not left & 1 and first in _ARRAYS:
                found += 1
                if found > ARRAY_KEYS:
                    return True
            left -= 1
            if step := steps[first]:
                pos += step
            elif first in _LENGTHS:
                width, more = _LENGTHS[first]
                start = pos + 1 + width
                pos = start + more + int.from_bytes(payload[pos + 1 : start], "big")
            else:
                outer.append((left, keyed))
                size = _COUNTS.get(first, 0)
                left = int.from_bytes(payload[pos + 1 : pos + 1 + size], "big") if size else first & 15
                pos += 1 + size
                keyed = size > 0 and first in _MAPS
                if first in _MAPS:
                    left *= 2
    except IndexError:
        return False
