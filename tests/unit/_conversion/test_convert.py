from __future__ import annotations

import enum
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from wsrpc._conversion.convert import converter, make_dec_hook, make_enc_hook


class User(msgspec.Struct):
    name: str
    age: int = 0


@dataclass
class Point:
    x: int
    y: int


class Unresolvable(msgspec.Struct):
    value: DefinedNowhere  # type: ignore[name-defined]  # noqa: F821


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Options(TypedDict, total=False):
    depth: int


class Model(pydantic.BaseModel):
    id: int
    when: datetime | None = None


class Aliased(pydantic.BaseModel):
    user_name: str = pydantic.Field(alias="userName")


class Opaque:
    def __init__(self, value: Any) -> None:
        self.value = value


def opaque_hook(tp: type[Any], value: Any) -> Any:
    if tp is Opaque:
        return Opaque(value)
    if tp is Fraction:
        return Fraction(value)
    raise NotImplementedError(tp)


SAME = "00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize(
    ("tp", "value", "expected"),
    [
        (Any, {"a": [1]}, {"a": [1]}),
        (int, 3, 3),
        (int, 2**70, 2**70),
        (float, 3, 3.0),
        (float, 2.5, 2.5),
        (str, "x", "x"),
        (bool, True, True),
        (None, None, None),
        (bytes, "YQ==", b"a"),
        (bytes, b"a", b"a"),
        (int | None, None, None),
        (int | str, "x", "x"),
        (list[int], [1, 2], [1, 2]),
        (set[int], [1, 1], {1}),
        (frozenset[str], ["a"], frozenset({"a"})),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict[int, int], {"1": 1}, {1: 1}),
        (dict[int, int], {1: 1}, {1: 1}),
        (list[dict[Level, str]], [{"1": "x"}], [{Level.LOW: "x"}]),
        (dict[Literal[1, 2], str], {"1": "x"}, {1: "x"}),
        (dict[UUID, int], {SAME: 1}, {UUID(SAME): 1}),
        (dict[Color, int], {"red": 1}, {Color.RED: 1}),
        (User, {"name": "Ada"}, User("Ada")),
        (Point, {"x": 1, "y": 2}, Point(1, 2)),
        (list[Point], [{"x": 1, "y": 2}], [Point(1, 2)]),
        (Options, {"depth": 1}, {"depth": 1}),
        (Color, "red", Color.RED),
        (Literal["a", "b"], "b", "b"),
        (datetime, "2024-01-02T03:04:05Z", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (UUID, SAME, UUID(SAME)),
        (Decimal, "1.50", Decimal("1.50")),
        (Annotated[int, msgspec.Meta(ge=1)], 1, 1),
        (Annotated[int, ["unhashable"]], 1, 1),
        (
            Model,
            {"id": 1, "when": "2024-01-02T03:04:05Z"},
            Model(id=1, when=datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ),
        (list[Model], [{"id": 1}], [Model(id=1)]),
        (dict[str, Model | None], {"a": None, "b": {"id": 2}}, {"a": None, "b": Model(id=2)}),
    ],
)
def test_converts(tp: Any, value: Any, expected: Any) -> None:
    result = converter(tp)(value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("tp", "value", "text"),
    [
        (int, "3", "Expected `int`, got `str`"),
        (int, True, "Expected `int`, got `bool`"),
        (int, 3.0, "Expected `int`, got `float`"),
        (str, None, "Expected `str`, got `null`"),
        (list[int], [1, "x"], "Expected `int`, got `str` - at `$[1]`"),
        (list[list[int]], [[0], ["x"]], "Expected `int`, got `str` - at `$[1][0]`"),
        (User, {"name": 1}, "Expected `str`, got `int` - at `$.name`"),
        (User, {}, "Object missing required field `name`"),
        (dict[str, User], {"$[0]": {"name": 1}}, "Expected `str`, got `int` - at `$[...].name`"),
        (dict[int, int], {"x": 1}, "Expected `int`, got `str` - at `key` in `$`"),
        (Annotated[int, msgspec.Meta(ge=1)], 0, "Expected `int` >= 1"),
        (Model, {"id": "x"}, "id: Input should be a valid integer, unable to parse string as an integer"),
        (list[Model], [{}], "id: Field required - at `$[0]`"),
    ],
)
def test_says_what_does_not_fit(tp: Any, value: Any, text: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        converter(tp)(value)
    assert str(caught.value) == text


def test_lax_takes_numeric_text_and_integral_floats() -> None:
    assert converter(int, lax=True)("3") == 3
    assert converter(list[int], lax=True)(["3", 4.0]) == [3, 4]
    with pytest.raises(msgspec.ValidationError):
        converter(int)("3")


def test_the_same_converter_is_given_out_again() -> None:
    assert converter(list[int]) is converter(list[int])
    assert converter(list[int]) is not converter(list[int], lax=True)
    assert converter(list[int]) is not converter(list[str])


def test_the_users_hook_converts_what_nobody_else_knows() -> None:
    result = converter(list[Opaque], dec_hook=opaque_hook)([1, "x"])
    assert [item.value for item in result] == [1, "x"]


def test_the_hooks_error_becomes_a_validation_error_with_a_path() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"Invalid literal for Fraction: 'x' - at `\$\[1\]`"):
        converter(list[Fraction], dec_hook=opaque_hook)(["1/2", "x"])


def test_other_errors_of_the_hook_come_through() -> None:
    with pytest.raises(ZeroDivisionError):
        converter(Fraction, dec_hook=opaque_hook)("1/0")


@pytest.mark.parametrize(
    ("tp", "text"),
    [
        (Opaque, r"values from the wire cannot be converted to test_convert\.Opaque: make it a dataclass.* dec_hook="),
        (list[dict[str, Opaque | None]], r"converted to test_convert\.Opaque"),
        (Unresolvable, "has a field whose type cannot be resolved: name 'DefinedNowhere'"),
        (list[Callable[[int], int]], r"converted to collections\.abc\.Callable"),
        (int | Opaque, "pydantic refuses the type: Unable to generate"),
        (str | datetime, "unions may not contain more than one str-like type"),
        (3, "'3' is not supported"),
    ],
)
def test_a_type_that_cannot_work_is_refused_before_the_first_value(tp: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        converter(tp)


def test_pydantic_comes_before_the_users_hook() -> None:
    assert make_dec_hook(opaque_hook)(Model, {"id": 1}) == Model(id=1)
    assert make_dec_hook(opaque_hook)(Fraction, "1/2") == Fraction(1, 2)


def test_the_summary_of_a_pydantic_error_is_short_and_without_values() -> None:
    class Wide(pydantic.BaseModel):
        a: int
        b: int
        c: int
        d: int
        e: int

    secret = "s3cret" * 1000
    with pytest.raises(ValueError) as caught:
        make_dec_hook(None)(Wide, dict.fromkeys("abcde", secret))
    text = str(caught.value)
    assert text.startswith("a: Input should be a valid integer") and text.endswith("; and 2 more")
    assert "s3cret" not in text and "\n" not in text


def test_a_model_whose_validation_is_the_users_own() -> None:
    class Picky(pydantic.BaseModel):
        @classmethod
        def model_validate(cls, obj: Any, **options: Any) -> Any:
            raise ValueError("never good enough")

    with pytest.raises(msgspec.ValidationError, match=r"never good enough - at `\$\[0\]`"):
        converter(list[Picky])([{}])


def test_without_a_hook_unknown_types_and_values_are_type_errors() -> None:
    with pytest.raises(TypeError, match=r"nothing can be converted to test_convert\.Opaque without a dec_hook"):
        make_dec_hook(None)(Opaque, 1)
    with pytest.raises(TypeError, match="Opaque cannot be encoded without an enc_hook"):
        msgspec.json.encode({"a": Opaque(1)}, enc_hook=make_enc_hook(None))


def test_models_are_encoded_wherever_they_are() -> None:
    when = datetime(2024, 1, 2, tzinfo=UTC)
    text = msgspec.json.encode([{"m": Model(id=1, when=when)}], enc_hook=make_enc_hook(None))
    assert text == b'[{"m":{"id":1,"when":"2024-01-02T00:00:00Z"}}]'


def test_what_a_model_is_encoded_to_makes_the_same_model() -> None:
    model = Aliased(userName="Ada")
    text = msgspec.json.encode(model, enc_hook=make_enc_hook(None))
    assert text == b'{"userName":"Ada"}'
    assert converter(Aliased)(msgspec.json.decode(text)) == model


def test_the_users_enc_hook_encodes_the_rest_also_inside_models() -> None:
    class Holder(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        inner: Opaque

    hook = make_enc_hook(lambda value: value.value)
    assert msgspec.json.encode([Opaque(1), Holder(inner=Opaque(2))], enc_hook=hook) == b'[1,{"inner":2}]'


def test_pydantic_is_not_imported() -> None:
    code = (
        "import sys, wsrpc._conversion.convert as c; c.converter(list[int])([1]); assert 'pydantic' not in sys.modules"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20, cwd=root)


@pytest.mark.parametrize("hook", [None, opaque_hook])
def test_object_means_any(hook: Any) -> None:
    value = {"a": [1, "two", None]}
    assert converter(object, dec_hook=hook)(value) is value
    assert converter(list[object], dec_hook=hook)([value, 1]) == [value, 1]
    assert converter(dict[str, object] | None, dec_hook=hook)(value) == value
