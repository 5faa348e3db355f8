"""Counting of the values in an encoded message, without decoding it.

A message of 4 MiB can hold four million empty arrays, which take more than a second and 290 MB to decode. Therefore
the values of a large message are counted first. Two kinds of value take far longer than others, and are counted, too:
in JSON, floats at the ends of their range; in MessagePack, keys whose hashes the sender can choose. The time of
counting is proportional to the size of the message. Counting ends early if there are too many values.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from itertools import accumulate
from sys import getsizeof, maxsize
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

SMALL = 4096
"""Bytes of the largest message that is decoded without counting."""

SHARE = 4
"""One value in four may be an array or an object. An array takes 3 to 15 times as long to decode as a number, and ten
times the memory."""

SLOW_FLOATS = 4096
"""Maximum number of slow floats in JSON text. msgspec takes 100 to 300 times as long for a slow float as for other
floats. The 580,000 slow floats that fit into 4 MiB take seconds, and 4,096 take a fraction of a second."""

NUMBER_KEYS = 8192
"""Maximum number of keys of one map, in MessagePack, that are numbers, booleans or nil. Python's hash of a number is
the same in all processes, so a sender can choose keys that collide in the dict: 171,000 such keys, 504 KB, take 8 s,
and 8,192 take 30 ms. The time grows with the square of the number. So the sum of the squares is limited, and several
maps may hold more keys in total."""

ARRAY_KEYS = 256
"""Maximum number of arrays and extensions, in MessagePack, that are keys of maps with more than 15 entries, or parts of
such keys. An array counts once more for each 16 values in it. (The only extension that can be a key is a timestamp.)
Many arrays can have the same hash, and are then compared one by one: 10,000 arrays, 140 KB, take 1.5 s."""


def decode_any(decode: Callable[[bytes | bytearray], T], payload: bytes | bytearray) -> T:
    """Decode a payload. During the decoding of a large payload, the garbage collector is off, because it would find
    nothing.

    262,144 arrays then take 20 ms. With garbage collections, they take 90 ms.
    """
    if len(payload) <= SMALL or not gc.isenabled():
        return decode(payload)
    gc.disable()
    try:
        return decode(payload)
    finally:
        gc.enable()


def memory_of(values: list[Any]) -> int:
    """Return about how many bytes decoded values take. A list of empty objects takes 24 times its encoded size.

    100,000 objects take 8 ms.
    """
    size = 0
    keys: set[int] = set()
    """The identities of the counted keys: msgspec decodes equal short keys of JSON to the same string."""
    todo: list[Any] = [values]
    while todo:
        value = todo.pop()
        kind = value.__class__
        if value is None or kind is bool or (kind is int and -5 <= value <= 256):
            continue  # Python has one object for each of these values
        size += getsizeof(value)
        if kind is list:
            todo.extend(value)
        elif kind is dict:
            todo.extend(value.values())
            new = [key for key in value if id(key) not in keys]
            keys.update(map(id, new))
            todo.extend(new)
    return size


def _too_many(values: int) -> str:
    return f"more than {values} values, or than {values // SHARE} arrays and objects (Limits.values)"


# ---------------------------------------------------------------- JSON

_CHUNK = 32 * 1024
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _all_but(kept: bytes) -> bytes:
    return bytes(set(range(256)) - set(kept))


_NOT_STRUCTURE = _all_but(b'",:[{')
_NOT_BRACKETS = _all_but(b'"' + bytes(_STEP))
_SQUARE = bytes.maketrans(b"{}", b"[]")
_LEVELS = 8
"""Levels of brackets that are removed one by one. Few honest messages have more."""

LONG = 4096
"""Bytes of the shortest JSON text for which `_outside_few_texts` saves time."""
_FEW = 32
"""Limit of the strings or values in a message that consists mostly of long text or bytes."""
_BACKSLASH = ord("\\")


def _outside_few_texts(payload: bytes | bytearray) -> bytes | None:
    """Return the JSON text outside of its strings. Return None if there are many strings, or escaped quotes.

    The fast path before `_outside_texts`, for messages that are mostly long text. It skips all characters inside of
    strings: up to Python 3.12, the search for a quote is 30 times as fast as counting a character.
    """
    outside: list[bytes | bytearray] = []
    position = 0
    for _ in range(_FEW):
        opening = payload.find(b'"', position)
        if opening < 0:
            outside.append(payload[position:])
            return b"".join(outside)
        closing = payload.find(b'"', opening + 1)
        if closing < 0 or payload[closing - 1] == _BACKSLASH or (opening and payload[opening - 1] == _BACKSLASH):
            return None
        outside.append(payload[position:opening])
        position = closing + 1
    return None


def _outside_texts(payload: bytes | bytearray, dropped: bytes) -> Iterator[bytes]:
    """Yield the JSON text outside of its strings, without the characters of ``dropped``, piece by piece.

    A regular expression would take 0.5 s for a million strings. This function takes at most 60 ms for any 4 MiB.
    """
    if b"\\" in payload:
        payload = payload.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two adjacent quotes can be removed: this does not change whether a later character is inside of a string.
    rest = payload.translate(None, dropped).replace(b'""', b"")
    within = 0
    for start in range(0, len(rest), _CHUNK):  # one list of all parts would take longer than the split
        parts = rest[start : start + _CHUNK].split(b'"')
        yield b"".join(parts[within::2])
        within ^= (len(parts) - 1) & 1


def json_objection(payload: bytes | bytearray, values: int) -> str | None:
    """Return why JSON text must not be decoded: more than ``values``, or too many slow floats. None if it may be."""
    if len(payload) > SLOW_FLOATS * _SHORTEST_SLOW_FLOAT:
        payload = _outside_few_texts(payload) or payload
    if len(payload) > SLOW_FLOATS * _SHORTEST_SLOW_FLOAT and _has_slow_floats(payload):
        return f"more than {SLOW_FLOATS} floats that take long to read, such as 5e-324"
    if len(payload) <= values // SHARE:
        return None
    # Each value, except the first of an array, follows a comma or a colon.
    structure = payload.translate(None, _NOT_STRUCTURE)  # takes little longer than one count
    openings = structure.count(b"[") + structure.count(b"{")
    if openings * SHARE <= values and len(structure) - structure.count(b'"') <= values:
        return None
    # Some of these characters may be inside of strings.
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


_SHORTEST_SLOW_FLOAT = len("9e307,")
_EXPONENTS = bytes.maketrans(b"E123456789", b"e000000000")
_NOT_FLOATS = _all_but(b'",:[]{}eE+-.0123456789')
_SLOW_FLOAT = re.compile(
    # Near 2.2e-308 and 1.8e308, the ends; or more than 19 digits, which may be halfway between two floats.
    rb"[eE](?:[-+]?0*(?:2[89]\d|[3-9]\d\d|\d{4,})|(?<=[\d.]{20}[eE])[-+]?0*(?:[3-9]\d|\d{3,}))"
)


def _has_slow_floats(payload: bytes | bytearray) -> bool:
    """Return whether JSON text holds more than `SLOW_FLOATS` floats that msgspec reads slowly."""
    # First the letters are counted, then the digits followed by an "e", which takes twice as long. Few messages have
    # so many of either.
    if _count(payload, b"e") <= SLOW_FLOATS // 2 and _count(payload, b"E") <= SLOW_FLOATS // 2:
        return False
    if payload.translate(_EXPONENTS).count(b"0e") <= SLOW_FLOATS:
        return False
    found = 0  # without those inside of strings, such as hexadecimal digits
    for outside in _outside_texts(payload, _NOT_FLOATS):
        found += len(_SLOW_FLOAT.findall(outside))
        if found > SLOW_FLOATS:
            return True
    return False


def _count(payload: bytes | bytearray, character: bytes) -> int:
    # The search is 30 times as fast as the count, up to Python 3.12, and most messages have no "E".
    return payload.count(character) if character in payload else 0


def json_nests_deeper(payload: bytes | bytearray, depth: int) -> bool:
    """Return whether JSON text has arrays and objects nested more than ``depth`` deep."""
    # Nearly all messages have fewer brackets, and are not examined further.
    if len(payload) <= LONG:
        if payload.count(b"[") + payload.count(b"{") <= depth:
            return False
    elif not _has_openings(payload, depth):
        return False
    elif (outside := _outside_few_texts(payload)) is not None:
        payload = outside
        if not _has_openings(payload, depth):
            return False
    brackets = b"".join(_outside_texts(payload, _NOT_BRACKETS))
    if _closes_within(brackets, min(depth, _LEVELS)):
        return False
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > depth


def _has_openings(payload: bytes | bytearray, most: int) -> bool:
    """Return whether JSON text has more than ``most`` opening brackets, including brackets in strings."""
    for opening in (b"[", b"{"):  # see `_count`: a few searches take far less time than a count
        position = payload.find(opening)
        while position >= 0:
            most -= 1
            if most < 0:
                return True
            position = payload.find(opening, position + 1)
    return False


def _closes_within(brackets: bytes, levels: int) -> bool:
    """Return whether the brackets are balanced and nested at most ``levels`` deep.

    The fast path before the exact depth, which takes 20 times as long.
    """
    left = brackets.translate(_SQUARE)
    for _ in range(levels):
        left = left.replace(b"[]", b"")  # the innermost level
        if not left:
            return True
    return False


# ---------------------------------------------------------------- MessagePack


def _steps() -> tuple[int, ...]:
    """Return the length of a value by its first byte; 0 if the first byte does not determine it."""
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
    # First byte: bytes of the length, and further bytes before the contents (the type of an extension).
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0),
    0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),
}  # fmt: skip
_STEPPING = {1: 1, 2: 16, 4: 256}
"""The number of arrays for which a text counts, by the number of bytes in which its length is encoded."""
_SHORTEST = {1: 0, 2: 1 << 8, 4: 1 << 16}
"""The shortest contents for which encoders use a length of this number of bytes. A text with at least so long contents
counts for only one array: honest messages must not be refused, and only few such texts fit into a message."""
_COUNTS = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_ARRAYS = frozenset({*range(0x90, 0xA0), 0xDC, 0xDD})
_MAPS = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})
_TEXTS = frozenset({*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB, 0xC4, 0xC5, 0xC6})
"""First bytes of text and bytes, whose hashes are unpredictable in Python."""
_ARRAYS_AND_EXTENSIONS = _ARRAYS | {0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8}
_OTHERS = _all_but(bytes(_ARRAYS_AND_EXTENSIONS))
_NO_CONTAINERS = _all_but(bytes(_ARRAYS | _MAPS))


def msgpack_objection(payload: bytes | bytearray, values: int) -> str | None:
    """Return why MessagePack must not be decoded: more than ``values``, or too many keys that may collide."""
    suspect = b"\xde" in payload or b"\xdf" in payload
    if not suspect and len(payload) <= values // SHARE:
        return None
    # The fast path for messages that are mostly long text or bytes, with few values and no large map. It skips the
    # quick check, which is slow for random bytes.
    exceeds, squares = _walk(payload, values, min(values, _FEW))
    if not (exceeds or squares):
        return None
    suspect = suspect and _may_collide(payload)
    if not suspect and len(payload) <= values // SHARE:
        return None
    exceeds, squares = _walk(payload, values)
    if exceeds:
        return _too_many(values)
    if squares > NUMBER_KEYS**2 or (suspect and squares):
        return _walk_levels(payload)
    return None


_LONG_ARRAYS = 16
"""Maximum number of keys that are arrays with more than 15 values. They take at most 100 ms, even if they fill the
message."""


_skip = msgspec.msgpack.Decoder(msgspec.Raw).decode
_MOST_CANDIDATES = 4096
"""Maximum number of bytes that may begin a large map. The quick check examines them in 1 ms."""


def _may_collide(payload: bytes | bytearray) -> bool:
    """Return False if a quick check shows that there are not more keys than `ARRAY_KEYS` or `NUMBER_KEYS` allow.

    A byte that begins a large map may also be part of a number. In a complete payload, the byte does not begin a map if
    there is no room for the entries, which have at least two bytes each.
    """
    candidates, first, squares = 0, len(payload), 0
    for head, width in ((b"\xde", 2), (b"\xdf", 4)):
        pos = payload.find(head)
        while pos >= 0:
            candidates += 1
            start = pos + 1 + width
            entries = int.from_bytes(payload[pos + 1 : start], "big")
            if 2 * entries <= len(payload) - start:
                first = min(first, pos)
                squares += entries * entries
            if candidates > _MOST_CANDIDATES or squares > NUMBER_KEYS**2:
                return True
            pos = payload.find(head, pos + 1)
    heads = payload[first:].translate(None, _OTHERS)
    if len(heads) > ARRAY_KEYS or heads.count(b"\xdc") + heads.count(b"\xdd") > _LONG_ARRAYS:
        return True
    try:
        _skip(payload)  # the decoder would also read the keys of a map that is cut off
    except (ValueError, RecursionError):
        return True
    return False


def _walk(
    payload: bytes | bytearray, values: int, visits: int | None = None, most: int | None = None
) -> tuple[bool, int]:
    """Return whether there are more than ``values``, and the sum of the squares of the sizes of large maps.

    Large maps have their size in two or four bytes. A value that claims to be longer than the payload ends the walk,
    because it will end the decoding, too.

    Args:
        visits: after this number of values, the walk ends as if there were too many.
        most: maximum number of values that are containers or long. The default is a share of ``values``.
    """
    steps, most = _STEPS, values // SHARE if most is None else most
    pos = visited = claimed = squares = 0
    slices = len(payload)  # bytes that may be compared in all, so that the walk stays linear
    try:
        for _ in range((values if visits is None else visits) + 1):
            first = payload[pos]
            step = steps[first]
            if step:
                pos += step
                continue
            if 0x80 <= first < 0xA0:
                pos += 1
                visited += 1
                claimed += first & 15 if first >= 0x90 else 2 * (first & 15)
            elif first == 0xD9 or first == 0xC4:  # most values with a length
                pos += 2 + payload[pos + 1]
                visited += 1
            elif (width := _COUNTS.get(first)) is None:
                width, more = _LENGTHS[first]
                start = pos + 1 + width
                size = int.from_bytes(payload[pos + 1 : start], "big")
                pos = start + more + size
                visited += 1 if size >= _SHORTEST[width] else _STEPPING[width]
            else:
                start = pos + 1 + width
                count = int.from_bytes(payload[pos + 1 : start], "big")
                pos = start
                visited += 1
                if first >= 0xDE:
                    squares += count * count
                    count *= 2
                elif (step := steps[payload[pos]]) and count <= slices:
                    # Most large arrays hold one kind of number: step over all of the numbers at once.
                    slices -= count
                    if payload[pos : pos + count * step : step] == payload[pos : pos + 1] * count:
                        pos += count * step
                claimed += count
            if visited > most or claimed > values:
                return True, squares
        payload[pos]
    except IndexError:
        return False, squares
    return True, squares


def may_nest_deeper(payload: bytes | bytearray, depth: int) -> bool:
    """Return False if a quick check shows that MessagePack does not nest deeper than ``depth``.

    The check counts the bytes that can begin an array or a map. If there are few values, long text and bytes, and long
    arrays of one kind of number, are skipped.
    """
    unsure = len(payload) > depth and (len(payload) <= LONG or _walk(payload, maxsize, _FEW, depth)[0])
    return unsure and len(payload.translate(None, _NO_CONTAINERS)) > depth


def msgpack_nests_deeper(payload: bytes | bytearray, depth: int) -> bool:
    """Return whether MessagePack has arrays and maps nested more than ``depth`` deep. Reads until it is malformed."""
    return may_nest_deeper(payload, depth) and _walk_levels(payload, depth) == _NESTED


_UNCOUNTED = -1
_PART_OF_KEY = -2
_NESTED = "values that are nested too deep"


def _walk_levels(payload: bytes | bytearray, depth: int = maxsize) -> str | None:
    """Return why MessagePack must not be decoded: too many keys of some kind in maps with more than 15 entries, or
    `_NESTED`. None if nothing is wrong."""
    steps = _STEPS
    outer: list[tuple[int, int]] = []
    # The remaining values of the present container, and how many of its keys were numbers (if they are counted).
    left, numbers = 1, _UNCOUNTED
    pos = squares = arrays = 0
    try:
        while True:
            while not left:
                if not outer:
                    return None
                left, numbers = outer.pop()
            first = payload[pos]
            step = steps[first]
            if step and (numbers == _UNCOUNTED or (numbers >= 0 and (left & 1 or 0xA0 <= first < 0xC0))):
                pos += step  # nearly all values: short text as a key, and values that are not keys
                left -= 1
                continue
            in_key = numbers == _PART_OF_KEY
            if numbers >= 0 and not left & 1 and first not in _TEXTS:
                in_key = first in _ARRAYS_AND_EXTENSIONS
                if not in_key:
                    squares += 2 * numbers + 1
                    numbers += 1
                    if squares > NUMBER_KEYS**2:
                        return f"more than {NUMBER_KEYS} numbers as keys of a map"
            arrays += in_key and first in _ARRAYS_AND_EXTENSIONS
            left -= 1
            if step:
                pos += step
            elif first in _LENGTHS:
                width, more = _LENGTHS[first]
                start = pos + 1 + width
                pos = start + more + int.from_bytes(payload[pos + 1 : start], "big")
            else:
                outer.append((left, numbers))
                if len(outer) > depth:
                    return _NESTED
                size = _COUNTS.get(first, 0)
                left = int.from_bytes(payload[pos + 1 : pos + 1 + size], "big") if size else first & 15
                pos += 1 + size
                if first in _MAPS:
                    left *= 2
                    numbers = 0 if size else _UNCOUNTED
                elif in_key:
                    arrays += left // 16
                    numbers = _PART_OF_KEY
                else:
                    numbers = _UNCOUNTED
            if arrays > ARRAY_KEYS:
                return f"more than {ARRAY_KEYS} arrays or timestamps as keys of large maps"
    except IndexError:
        return None
