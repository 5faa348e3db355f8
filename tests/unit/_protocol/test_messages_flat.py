"""The fast path that sees that a message in MessagePack is not nested deep."""

from __future__ import annotations

import itertools
from typing import Any

from wsrpc._protocol.messages import FLAT_LEVELS, WireMessage, is_flat
from wsrpc.codecs import MsgpackCodec


def levels(value: Any) -> int:
    """How many arrays and objects are within each other."""
    if isinstance(value, dict):
        return 1 + max(map(levels, [*value, *value.values()]), default=0)
    return 1 + max(map(levels, value), default=0) if isinstance(value, (list, tuple)) else 0


def test_the_fast_path_for_flat_messagepack_and_the_walk_agree() -> None:
    parts: list[Any] = [1, b"x" * 100, [], {}, [1, None], {"value": b"x"}, {"value": [1]}, {"done": {}}, [[1]]]
    parts += [{"value": {"deep": [1]}}, {(1, 2): 3}, [1, 2, 3, 4, [5]], dict(enumerate("abcdef"))]
    flat = 0
    for chosen in itertools.product(parts, repeat=2):
        for fields in ({"a": ["e", *chosen]}, {"a": ["e"], "d": chosen[0]}, {"a": ["e", chosen[0]], "x": chosen[1]}):
            message = WireMessage(**fields)
            deepest = 1 + max(map(levels, fields.values()))
            for depth in (1, 2, 3, 4, 5, 64):
                assert MsgpackCodec().nests_deeper(b"", message, depth) is (deepest > depth), (fields, depth)
            if is_flat(message):
                flat += 1
                assert deepest <= FLAT_LEVELS
    assert flat > len(parts)
    assert is_flat(WireMessage(["next", {"value": b"x"}], h=5))
