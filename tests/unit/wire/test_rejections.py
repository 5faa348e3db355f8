"""Errors and reasons, to the wire and back."""

from __future__ import annotations

from typing import Any

import pytest
from core_driver import Driven

from wsrpc import BadArguments, HandlerFailed, Overloaded, RemoteError, RpcError, UnknownEvent
from wsrpc.errors import Draining

PLAIN = ["text", "", 0, False, [1], {"message": "not an error object"}]


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (RpcError("no"), {"e": {"message": "no"}, "_": 1}),
        (RpcError("no", 0, False), {"e": {"message": "no", "code": 0, "data": False}, "_": 1}),
        (RpcError("no", fields={"k": 1}), {"e": {"message": "no", "k": 1}, "_": 1}),
        (RpcError.of_value(None), {"e": {"message": "Error"}, "_": 1}),
        *((RpcError.of_value(value), {"e": value}) for value in PLAIN),
    ],
)
async def test_an_error_is_a_flagged_object_and_a_plain_value_has_no_flag(
    error: RpcError, sent: dict[str, Any]
) -> None:
    d = Driven()

    @d.peer.on("fail")
    def fail() -> None:
        raise error

    assert await d.fed({"i": 1, "a": ["fail"]}) == [{"i": 1, **sent}]


async def received(e: Any, **flag: Any) -> RemoteError:
    """What a caller gets whose request is rejected with ``e``."""
    d = Driven()
    asks, i = await d.asks("q")
    await d.fed({"i": i, "e": e, **flag})
    error = asks.exception()
    assert isinstance(error, RemoteError)
    return error


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
async def test_only_wsrpcs_own_codes_choose_a_class(code: Any, cls: type[RemoteError]) -> None:
    error = await received({"message": "m", "code": code}, _=1)
    assert type(error) is cls and error.message == "m"
    assert type(await received({"message": "m", "code": code})) is RemoteError


@pytest.mark.parametrize(
    ("code", "message", "text"), [([1], None, ""), (True, 404.5, "404.5"), (1.5, ["no"], "['no']")]
)
async def test_an_odd_code_is_a_field_and_an_odd_message_becomes_text(code: Any, message: Any, text: str) -> None:
    error = await received({"message": message, "code": code}, _=1)
    assert error.code is None and error.fields == {"code": code} and error.message == text


@pytest.mark.parametrize("value", [*PLAIN, {"message": "m"}])
async def test_any_true_flag_makes_an_object_an_error_and_without_one_it_is_a_plain_value(value: Any) -> None:
    falsy: list[Any] = [None, 0, False, "", []]
    truthy: list[Any] = [1, True, "x", [1]]
    for error in (await received(value), *[await received(value, _=flag) for flag in falsy]):
        assert (error.data, error.plain) == (value, True) and type(error) is RemoteError
        assert str(error) == (value if isinstance(value, str) else f"rejected with {value!r}")
    for flag in truthy:
        assert (await received(value, _=flag)).plain is not isinstance(value, dict)
