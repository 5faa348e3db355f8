"""Errors and reasons, to the wire and back."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from wsrpc import BadArguments, HandlerFailed, Overloaded, RemoteError, RpcError, UnknownEvent
from wsrpc._core.wire.rejections import error_from_wire, error_to_wire, reason_from_wire, reason_to_wire
from wsrpc.errors import Draining


@pytest.mark.parametrize(
    ("error", "e"),
    [
        (RpcError("no"), {"message": "no"}),
        (RpcError("no", 0, False), {"message": "no", "code": 0, "data": False}),
        (RpcError("no", "E", {"k": 1}), {"message": "no", "code": "E", "data": {"k": 1}}),
        (RpcError("no", fields={"k": 1}), {"message": "no", "k": 1}),
        (RemoteError("no", None, None, {"name": "TypeError"}), {"message": "no", "name": "TypeError"}),
        (
            RemoteError("real", "C", 1, {"message": "fake", "code": 1, "data": 2}),
            {"message": "real", "code": "C", "data": 1},
        ),
        (RpcError.of_value(None), {"message": "Error"}),
    ],
)
def test_errors_become_flagged_objects(error: RpcError, e: dict[str, Any]) -> None:
    assert error_to_wire(error) == (e, 1)


@pytest.mark.parametrize("value", ["text", "", 0, False, [1], {"message": "not an error object"}])
def test_plain_values_travel_without_a_flag(value: Any) -> None:
    error = RpcError.of_value(value)
    assert error_to_wire(error) == (value, UNSET)
    back = error_from_wire(value, UNSET)
    assert (back.data, back.plain) == (value, True) and type(back) is RemoteError
    assert str(back) == (value if isinstance(value, str) else f"rejected with {value!r}")


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        ("wsrpc.bad_arguments", BadArguments),
        ("wsrpc.unknown_event", UnknownEvent),
        ("wsrpc.overloaded", Overloaded),
        ("wsrpc.draining", Draining),
        ("wsrpc.internal", HandlerFailed),
        ("wsrpc.other", RemoteError),
        (5, RemoteError),
        (None, RemoteError),
    ],
)
def test_only_wsrpcs_own_codes_choose_a_class(code: Any, cls: type[RemoteError]) -> None:
    error = error_from_wire({"message": "m", "code": code}, 1)
    assert type(error) is cls and error.message == "m"
    assert type(error_from_wire({"message": "m", "code": code}, UNSET)) is RemoteError


@pytest.mark.parametrize("code", [[1], True, 1.5, None])
def test_a_code_that_is_not_a_code_is_an_ordinary_field(code: Any) -> None:
    error = error_from_wire({"message": "m", "code": code}, 1)
    assert error.code is None and error.fields == {"code": code}


@pytest.mark.parametrize(("message", "text"), [(None, ""), (404.5, "404.5"), (["no", 1], "['no', 1]")])
def test_a_message_that_is_no_text_becomes_text(message: Any, text: str) -> None:
    error = error_from_wire({"message": message}, 1)
    assert error.message == text and not error.fields


def test_any_true_flag_makes_an_object_an_error_and_without_one_it_is_a_plain_value() -> None:
    flag: Any
    for flag in (1, True, "x", [1]):
        assert error_from_wire({"message": "m"}, flag).message == "m"
    for flag in (UNSET, None, 0, False, "", []):
        error = error_from_wire({"message": "m"}, flag)
        assert error.plain and error.data == {"message": "m"}
        assert reason_from_wire({"message": "m"}, flag) == {"message": "m"}


def test_no_text_is_lost_where_the_flag_stands_on_no_object() -> None:
    assert str(error_from_wire("text", 1)) == "text"
    assert error_from_wire([7], 1).data == [7]
    assert error_from_wire(None, 1).message == "Error"


def test_reasons() -> None:
    default = ({"message": "Request aborted"}, 1)
    assert reason_to_wire(None) == default
    assert reason_to_wire("bored") == ("bored", UNSET)
    assert reason_to_wire(0) == (0, UNSET)
    assert reason_to_wire(RpcError("no", 5)) == ({"message": "no", "code": 5}, 1)
    assert reason_to_wire(ValueError("broken")) == ({"message": "broken"}, 1)
    assert reason_to_wire(ValueError()) == ({"message": "ValueError"}, 1)
    assert reason_from_wire("bored", UNSET) == "bored"
    assert reason_from_wire(None, UNSET) is None
    error = reason_from_wire({"message": "no", "code": 5}, 1)
    assert isinstance(error, RemoteError) and (error.message, error.code) == ("no", 5)
    assert reason_from_wire("bored", 1) == "bored"
