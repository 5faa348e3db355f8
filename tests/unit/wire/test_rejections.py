"""Errors and reasons, to the wire and back."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET

from wsrpc import BadArguments, HandlerFailed, Overloaded, RemoteError, RpcError, UnknownEvent
from wsrpc._core.wire.rejections import error_from_wire, error_to_wire, reason_from_wire
from wsrpc.errors import Draining


@pytest.mark.parametrize(
    ("error", "e"),
    [
        (RpcError("no"), {"message": "no"}),
        (RpcError("no", 0, False), {"message": "no", "code": 0, "data": False}),
        (RpcError("no", fields={"k": 1}), {"message": "no", "k": 1}),
        (RemoteError("real", "C", 1, {"message": "fake", "code": 1}), {"message": "real", "code": "C", "data": 1}),
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
        *((code, RemoteError) for code in ("wsrpc.other", 5, None)),
    ],
)
def test_only_wsrpcs_own_codes_choose_a_class(code: Any, cls: type[RemoteError]) -> None:
    error = error_from_wire({"message": "m", "code": code}, 1)
    assert type(error) is cls and error.message == "m"
    assert type(error_from_wire({"message": "m", "code": code}, UNSET)) is RemoteError


@pytest.mark.parametrize(
    ("code", "message", "text"), [([1], None, ""), (True, 404.5, "404.5"), (1.5, ["no"], "['no']")]
)
def test_an_odd_code_is_an_ordinary_field_and_an_odd_message_becomes_text(code: Any, message: Any, text: str) -> None:
    error = error_from_wire({"message": message, "code": code}, 1)
    assert error.code is None and error.fields == {"code": code} and error.message == text


def test_any_true_flag_makes_an_object_an_error_and_without_one_it_is_a_plain_value() -> None:
    flag: Any
    for flag in (1, True, "x", [1]):
        assert error_from_wire({"message": "m"}, flag).message == "m"
    for flag in (UNSET, None, 0, False, "", []):
        error = error_from_wire({"message": "m"}, flag)
        assert error.plain and error.data == {"message": "m"}
        assert reason_from_wire({"message": "m"}, flag) == {"message": "m"}
