"""The shapes that travel: what is written, and how what arrives is told apart."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from wsrpc._protocol.messages import (
    MAX_ID,
    WireMessage,
    channel_id,
    id_from_wire,
    is_id,
)

FIELDS = ("a", "i", "d", "e", "x", "flag", "ours")


def test_absent_is_not_null() -> None:
    nothing = msgspec.json.decode(b"{}", type=WireMessage)
    assert all(getattr(nothing, name) is UNSET for name in FIELDS)
    nulls = msgspec.json.decode(
        b'{"a":null,"i":null,"d":null,"e":null,"x":null,"_":null,"ws-wrapper":null,"c":null,"h":null}', type=WireMessage
    )
    assert all(getattr(nulls, name) is None for name in FIELDS)
    # For these two absent and null mean the same: the main channel.
    assert nothing.c is None and nulls.c is None and nothing.h is None and nulls.h is None


def test_a_wrong_type_in_any_key_does_not_make_a_message_unreadable() -> None:
    values: list[Any] = [1, "x", [], {}, True, 1.5, None]
    for value in values:
        for key in ("a", "i", "c", "h", "d", "e", "x", "_", "ws-wrapper", "unknown"):
            msgspec.json.decode(msgspec.json.encode({key: value}), type=WireMessage)


@pytest.mark.parametrize("value", [1, 2, 2**31, MAX_ID])
def test_ids(value: int) -> None:
    assert is_id(value) and channel_id(value) == value and channel_id(str(value)) == value


NO_IDS: list[Any] = [0, -1, 0.0, -1.0, 1.5, 2.0**53, 1e300, MAX_ID + 1, True, False, None, UNSET, [], {}, b"1"]


@pytest.mark.parametrize("value", [*NO_IDS, float("nan"), float("inf")])
def test_what_is_no_id(value: object) -> None:
    assert not is_id(id_from_wire(value)) and channel_id(value) is None


@pytest.mark.parametrize("value", [1.0, 2.0**31, float(MAX_ID)])
def test_whole_floats_are_ids_as_in_javascript(value: float) -> None:
    assert is_id(id_from_wire(value)) and channel_id(value) == value and type(channel_id(value)) is int


def test_null_is_as_if_there_were_no_id() -> None:
    assert id_from_wire(None) is UNSET and id_from_wire(UNSET) is UNSET


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.0", "1e3", " 1", "1 ", "+1", "x", "٣", "²", "9" * 17, "9" * 100_000, "1_0"]
)
def test_text_that_is_no_channel_id(text: str) -> None:
    assert not is_id(text) and channel_id(text) is None
