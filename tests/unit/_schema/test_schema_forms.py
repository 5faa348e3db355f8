"""Types in two forms: as a value may be sent, and as it comes back. And what the definitions are called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

import msgspec
import pydantic
import pytest

from wsrpc import Server
from wsrpc.schema import describe

T = TypeVar("T")


class Struct(msgspec.Struct):
    a: int
    b: int = 1
    c: list[int] = []
    d: int | msgspec.UnsetType = msgspec.UNSET


class Sparse(msgspec.Struct, omit_defaults=True):
    a: int
    b: int = 1


class Unset(msgspec.Struct):
    a: int | msgspec.UnsetType


class Row(msgspec.Struct, array_like=True):
    a: int
    b: int = 1


@dataclass
class Plain:
    a: int
    b: int = 1
    c: list[int] = field(default_factory=list)


class Options(TypedDict):
    a: int
    b: NotRequired[int]


class Model(pydantic.BaseModel):
    a: int
    b: int = 1
    c: int = pydantic.Field(3, exclude=True)


def both_forms(tp: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    def handler(value: Any) -> Any: ...

    handler.__annotations__ = {"value": tp, "return": tp}
    server = Server()
    server.on("event", handler)
    description = describe(server)
    [event] = description.events
    assert event.result is not None and event.notes == ()
    names = [schema["$ref"].removeprefix("#/$defs/") for schema in (event.parameters[0].schema, event.result)]
    sent, given = (description.definitions[name] for name in names)
    if sent == given:
        assert names[0] == names[1] == tp.__name__
    else:
        assert names == [f"{tp.__name__}Input", tp.__name__]
    return sent, given


FORMS: list[tuple[Any, Any, Any]] = [
    *((Struct, ["a"], ["a", "b", "c"]), (Sparse, ["a"], ["a"]), (Unset, ["a"], []), (Plain, ["a"], ["a", "c"])),
    *((Options, ["a"], ["a"]), (Model, ["a"], ["a", "b"]), (Row, 1, 2)),
]


@pytest.mark.parametrize(("tp", "sent", "given"), FORMS)
def test_what_has_a_default_may_be_left_out_and_comes_back(tp: Any, sent: Any, given: Any) -> None:
    schemas = both_forms(tp)
    assert [schema.get("required", schema.get("minItems")) for schema in schemas] == [sent, given]
    if tp in (Struct, Sparse, Plain):  # that is what msgspec does
        assert sorted(msgspec.json.decode(msgspec.json.encode(msgspec.convert({"a": 1}, tp)))) == given


class Leaf(msgspec.Struct):
    size: int = 0


class Tree(msgspec.Struct):
    leaves: list[Leaf]
    branches: list[Tree]


class Bare(msgspec.Struct):
    inner: Bare | None


def test_what_holds_a_type_of_two_forms_has_two_forms() -> None:
    sent, given = both_forms(Tree)
    assert sent["properties"]["leaves"]["items"] == {"$ref": "#/$defs/LeafInput"}
    assert sent["properties"]["branches"]["items"] == {"$ref": "#/$defs/TreeInput"}
    assert given["properties"]["branches"]["items"] == {"$ref": "#/$defs/Tree"}
    sent, given = both_forms(Bare)
    assert sent is given


def definitions(*handlers: Any) -> list[str]:
    server = Server()
    for number, handler in enumerate(handlers):
        server.on(f"event{number}", handler)
    return list(describe(server).definitions)


class Elsewhere:
    class Leaf(msgspec.Struct):
        other: str


class Box(msgspec.Struct, Generic[T]):
    value: T


def test_names_of_definitions() -> None:
    def take(value: Leaf) -> int: ...  # type: ignore[empty-body]
    def give() -> Leaf: ...  # type: ignore[empty-body]
    def several(first: Leaf, second: Elsewhere.Leaf, third: Box[int], fourth: Box[list[str]]) -> None: ...
    def in_one_place(value: Any) -> Any: ...
    def beside_models(leaves: Leaves, leaf: Leaf) -> tuple[Leaves, Leaf]: ...  # type: ignore[empty-body]

    first, second = (msgspec.defstruct("Made", [("value", tp)], module="made") for tp in (int, str))
    in_one_place.__annotations__ = {"value": first, "return": second}
    assert definitions(take) == definitions(give) == ["Leaf"], "one form needs one name"
    here = f"{__name__}.Leaf"
    assert definitions(several) == ["Box_int", "Box_list_str", f"{__name__}.Elsewhere.Leaf", here]
    assert definitions(in_one_place) == ["made.Made", "made.Made_2"]
    models = ["Leaf", "LeafInput", "LeafInput_2", "Leaf_2", "Leaves", "LeavesInput"]
    assert definitions(beside_models) == models


class Models:
    class Leaf(pydantic.BaseModel):
        size: int = 0


class Leaves(pydantic.BaseModel):
    leaf: Models.Leaf
    rest: Leaves | None = None


class Odd(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    thing: Elsewhere


def test_models_that_pydantic_cannot_describe() -> None:
    def handler(odd: Odd, model: Model) -> None: ...

    server = Server()
    server.on("event", handler)
    [event] = describe(server).events
    assert event.parameters[0].schema == {} and "Odd has no JSON Schema" in event.notes[0]
    assert event.parameters[1].schema == {"$ref": "#/$defs/Model"}
