"""Converting to a type: what comes out, what does not fit, and hooks."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime
from fractions import Fraction
from math import nan
from pathlib import PurePath
from typing import Any

import msgspec
import pydantic
import pytest

from wsrpc._values.convert import converter, make_dec_hook, make_enc_hook
from wsrpc.codecs import JsonCodec


class User(msgspec.Struct):
    name: str
    age: int = 0


class Model(pydantic.BaseModel):
    id: int


class Picky(pydantic.BaseModel):
    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Any:
        raise ValueError("never good enough")


class Opaque:
    def __init__(self, value: Any) -> None:
        self.value = value


class Later:
    def __await__(self) -> Generator[Any, None, Any]:
        yield


def opaque_hook(tp: type[Any], value: Any) -> Any:
    if tp is Opaque:
        return Opaque(value)
    if tp is Fraction:
        return Fraction(value)
    raise NotImplementedError(tp)


@pytest.mark.parametrize(
    ("tp", "value", "text"),
    [
        (dict[str, User], {"$[0]": {"name": 1}}, "Expected `str`, got `int` - at `$[...].name`"),
        (int, True, "Expected `int`, got `bool`"),
        (dict[int, int], {"x": 1}, "Expected `int`, got `str` - at `key` in `$`"),
        (list[Model], [{}], "id: Field required - at `$[0]`"),
        (list[Picky], [{}], "never good enough - at `$[0]`"),
        (list[Fraction], ["1/2", "x"], "Invalid literal for Fraction: 'x' - at `$[1]`"),
    ],
)
def test_says_what_does_not_fit(tp: Any, value: Any, text: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        converter(tp, dec_hook=opaque_hook)(value)
    assert str(caught.value) == text


def test_the_users_hook_converts_what_nobody_else_knows() -> None:
    assert [item.value for item in converter(list[Opaque], dec_hook=opaque_hook)([1, "x"])] == [1, "x"]
    assert make_dec_hook(opaque_hook)(Model, {"id": 1}) == Model(id=1), "pydantic comes first"
    with pytest.raises(ZeroDivisionError):
        converter(Fraction, dec_hook=opaque_hook)("1/0")
    with pytest.raises(TypeError, match=r"nothing can be converted to test_convert\.Opaque without a dec_hook"):
        make_dec_hook(None)(Opaque, 1)


def test_the_summary_of_a_pydantic_error_is_short_and_without_values() -> None:
    fields: dict[str, Any] = dict.fromkeys("abcde", (int, ...))
    wide: Any = pydantic.create_model("Wide", **fields)
    secret = "s3cret" * 1000
    with pytest.raises(ValueError) as caught:
        make_dec_hook(None)(wide, dict.fromkeys("abcde", secret))
    text = str(caught.value)
    assert text.startswith("a: Input should be a valid integer") and text.endswith("; and 2 more")
    assert "s3cret" not in text and "\n" not in text


class Holder(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    inner: Opaque


def test_what_the_users_hook_knows_is_encoded_in_models_too() -> None:
    """tests/unit/test_values.py has the other places."""
    value = [Opaque(1), Holder(inner=Opaque(2))]
    assert msgspec.json.encode(value, enc_hook=make_enc_hook(lambda opaque: opaque.value)) == b'[1,{"inner":2}]'
    with pytest.raises(TypeError, match="Opaque cannot be encoded without an enc_hook"):
        msgspec.json.encode(Opaque(1), enc_hook=make_enc_hook(None))


@pytest.mark.parametrize(
    ("value", "hook", "text"),
    [
        (Opaque(1), lambda value: value, "Opaque cannot be encoded without an enc_hook that converts it"),
        *(({key: 1}, None, "cannot be a key of a mapping: use text or a number") for key in (None, True, (1, 2))),
        ([int], None, "type cannot be encoded: to give the type of a response, use returns="),
        (Later(), None, "Later cannot be encoded: `await` it first"),
    ],
)
def test_what_cannot_be_encoded_says_why(value: Any, hook: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        JsonCodec(enc_hook=hook).encode([value])


class Celsius(float): ...


class Safe(str):
    """Text that returns itself as text, like Django's SafeString."""

    def __str__(self) -> str:
        return self


class NotATime(datetime):
    """A datetime without a year, like pandas' NaT."""

    year = nan  # type: ignore[assignment]


def only_paths(value: Any) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{value!r} is not a path")


@pytest.mark.parametrize(
    ("value", "hook", "encoded"),
    [
        (Celsius(1.5), lambda value: {"celsius": value + 0}, b'{"celsius":1.5}'),
        (Celsius(1.5), only_paths, b"1.5"),
        (Safe("a"), str, b'"a"'),
        ([PurePath("a"), Safe("b")], only_paths, b'["a","b"]'),
    ],
)
def test_the_hook_comes_before_the_base_of_a_subclass(value: Any, hook: Any, encoded: bytes) -> None:
    assert msgspec.json.encode(value, enc_hook=make_enc_hook(hook)) == encoded


@pytest.mark.parametrize("hook", [None, only_paths])
def test_a_datetime_without_a_year_is_not_the_year_1(hook: Any) -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode(NotATime(1, 1, 1), enc_hook=make_enc_hook(hook))
