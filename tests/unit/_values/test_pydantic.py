"""Pydantic models: every type arrives as it was sent, by each encoding."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, NamedTuple, Optional
from uuid import UUID

import msgspec
import pydantic
import pytest

from wsrpc import Client, Server
from wsrpc._values.convert import converter, make_enc_hook
from wsrpc.codecs import MsgpackCodec
from wsrpc.testing import connect

BLOB = bytes(range(256)) + b"\xff\xfe\xfb"  # no UTF-8, and base64 with "+" and "/"
SAME = UUID("00000000-0000-0000-0000-00000000000a")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"  # base64 of something


class Inner(pydantic.BaseModel):
    data: bytes
    when: datetime | None = None


class StrictInner(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    data: bytes
    key: UUID


class Node(pydantic.BaseModel):
    data: bytes
    next: Optional[Node] = None  # noqa: UP045 - as many write it


class Aliased(pydantic.BaseModel):
    user_data: bytes = pydantic.Field(alias="userData")


class Hex(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")
    data: bytes


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    fur: bytes


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    bone: bytes


class Pair(NamedTuple):
    data: bytes
    number: int = 0


def through(value: Any, handler: pydantic.SerializerFunctionWrapHandler) -> Any:
    return handler(value)


FIELDS: list[tuple[Any, Any]] = [
    (bytes, BLOB),
    (bytes, b"AQID"),  # base64 itself
    (Annotated[bytes, pydantic.Field(min_length=3, max_length=3)], b"\xff\xfe\xfd"),
    (Sequence[Sequence[bytes] | None] | None, [[BLOB], None]),
    (set[bytes], {BLOB}),
    (Sequence[bytes], [BLOB]),
    (Mapping[str, bytes], {"a": BLOB}),
    (Annotated[bytes, pydantic.WrapSerializer(through)], BLOB),
    (Annotated[list[bytes], pydantic.WrapSerializer(through)], [BLOB]),
    (Annotated[bytes | int, pydantic.WrapSerializer(through)], BLOB),
    (dict[bytes, int], {b"\xff\x00": 1}),
    (tuple[bytes, int], (BLOB, 1)),
    (int | bytes, b"\xd7m\xf8"),  # its base64 is "1234"
    (bytes | UUID, SAME),
    (bytes | Color, Color.BLUE),
    (list[bytes] | bytes, [BLOB]),
    (bytes | str, "blue"),
    (pydantic.Base64Bytes, b"Zm9v"),
    (Inner, Inner(data=BLOB, when=datetime(2026, 1, 2, tzinfo=UTC))),
    (StrictInner, StrictInner(data=BLOB, key=SAME)),
    (Node, Node(data=BLOB, next=Node(data=b"\xff"))),
    (Hex, Hex(data=BLOB)),
    (Pair, Pair(BLOB)),
    (Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], Dog(bone=BLOB)),
    (dict[date, bytes], {date(2026, 1, 2): BLOB}),
]


def model_of(tp: Any, strict: bool) -> Any:
    return pydantic.create_model("Made", __config__=pydantic.ConfigDict(strict=strict), value=(tp, ...))


OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "json": ({}, {"extensions": False}),
    "messagepack": ({}, {}),  # on which two wsrpc peers agree
    "messagepack throughout": ({"codec": MsgpackCodec()}, {"codec": MsgpackCodec()}),
}


@pytest.mark.parametrize("encoding", OPTIONS)
@pytest.mark.parametrize("strict", [False, True], ids=["lax", "strict"])
async def test_every_type_of_field_arrives_as_it_was(encoding: str, strict: bool) -> None:
    """As an argument and as an answer. tests/property/test_contracts.py has all other places of a value."""
    of_server, of_client = OPTIONS[encoding]
    server = Server(**of_server)
    seen: list[Any] = []

    def echo(given: Any) -> Any:
        seen.append(given)
        return given

    server.on("sync", lambda: None)
    models = [(model_of(tp, strict), value) for tp, value in FIELDS]
    async with connect(server, client=Client(**of_client)) as client:
        await client.request("sync")  # what they agree on is agreed now
        alone = [(Aliased, Aliased(userData=BLOB)), (list[Inner], [Inner(data=BLOB)])]
        for tp, value in [*((model, model(value=value)) for model, value in models), *alone]:
            echo.__annotations__["given"] = tp
            server.on("echo", echo)
            assert await client.request("echo", value, returns=tp) == value
            assert seen.pop() == value


def as_json(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value, enc_hook=make_enc_hook(None)))


def there_and_back(value: Any) -> Any:
    return converter(type(value))(as_json(value))


def test_the_models_own_config_decides() -> None:
    assert as_json(Hex(data=b"\xff\x01")) == {"data": "ff01"}

    class Text(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(val_json_bytes="utf8")
        data: bytes
        inner: Inner

    text = Text(data="grün".encode(), inner=Inner(data=b"\xff"))
    assert as_json(text)["data"] == "grün" and as_json(text)["inner"]["data"] == "/w=="
    assert there_and_back(text) == text

    for config in (pydantic.ConfigDict(ser_json_bytes="base64"), pydantic.ConfigDict(val_json_bytes="hex")):
        half = pydantic.create_model("Half", __config__=config, data=(bytes, ...))
        assert there_and_back(half(data=BLOB)) == half(data=BLOB)


def test_a_serializer_of_the_users_own_decides() -> None:
    class Signed(pydantic.BaseModel):
        key: bytes
        rest: bytes

        @pydantic.field_serializer("key", when_used="json")
        def _hex(self, key: bytes) -> str:
            return key.hex()

        @pydantic.field_validator("key", mode="before")
        @classmethod
        def _from_hex(cls, key: Any) -> Any:
            return bytes.fromhex(key) if isinstance(key, str) else key

    signed = Signed(key=b"\x01\x02", rest=b"\x03")
    assert as_json(signed) == {"key": "0102", "rest": "Aw=="}
    assert there_and_back(signed) == signed, "its validator gives bytes, which need no base64 any more"

    class Whole(pydantic.BaseModel):
        data: bytes

        @pydantic.model_serializer
        def _all(self) -> dict[str, Any]:
            return {"data": self.data}

    assert there_and_back(Whole(data=BLOB)) == Whole(data=BLOB)


def test_the_handler_of_a_wrap_serializer_gives_base64() -> None:
    class Tagged(pydantic.BaseModel):
        data: bytes
        anything: Any

        @pydantic.field_serializer("data", "anything", mode="wrap")
        def _tag(self, value: Any, handler: pydantic.SerializerFunctionWrapHandler) -> list[Any]:
            return ["tag", handler(value), value]

    data = b"\xff\xfe\xfb"
    expected = ["tag", "//77", "//77"]
    assert as_json(Tagged(data=data, anything=data)) == {"data": expected, "anything": expected}


def test_bytes_where_no_type_is_declared_are_standard_base64_too() -> None:
    class Loose(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        anything: Any = None
        inner: pydantic.SerializeAsAny[pydantic.BaseModel] | None = None

    data = b"\xff\xfe\xfb"
    loose = Loose.model_validate({"anything": [{"k": data}, Cat(fur=data)], "inner": Cat(fur=data), "more": data})
    cat = {"kind": "cat", "fur": "//77"}
    assert as_json(loose) == {"anything": [{"k": "//77"}, cat], "inner": cat, "more": "//77"}


def test_the_order_of_a_union_is_kept_where_the_user_says_that_it_counts() -> None:
    class Ordered(pydantic.BaseModel):
        value: bytes | str = pydantic.Field(union_mode="left_to_right")

    assert there_and_back(Ordered(value=BLOB)) == Ordered(value=BLOB)


def test_what_else_a_model_may_hold_and_do() -> None:
    class Struct(msgspec.Struct):
        data: bytes

    class Sparse(Aliased):
        model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
        inner: Struct = pydantic.Field(alias="theInner")

        def model_dump(self, **options: Any) -> Any:
            return super().model_dump(exclude={"user_data"}, **options)

    sparse = Sparse(userData=b"", theInner=Struct(b"\x01"))
    assert as_json(sparse) == {"theInner": {"data": "AQ=="}}, "its own methods are used"


def test_base64_is_standard_in_both_its_alphabets_and_the_users_class_is_left_as_it_was() -> None:
    inner = Inner(data=b"\xff\xfe\xfb")
    assert converter(Inner)({"data": "//77"}) == converter(Inner)({"data": "__77"}) == inner
    assert as_json(inner) == {"data": "//77", "when": None}
    assert Inner.model_validate_json('{"data":"//77"}').data == b"//77"
    assert Inner(data=b"abc").model_dump_json() == '{"data":"abc","when":null}'


class Form(pydantic.BaseModel):
    numbers: Annotated[list[int], pydantic.FailFast(False)]


class Closed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


def of(tp: Any) -> Any:
    return model_of(tp, False)


INTEGER = "Input should be a valid integer, unable to parse string as an integer$"
MANY: list[tuple[Any, Any, str]] = [
    (of(list[int]), {"value": ["a"] * 500}, rf"^value\.0: {INTEGER}"),
    (of(set[int]), {"value": [str(-number) + "a" for number in range(500)]}, rf"^value\.0: {INTEGER}"),
    (of(list[bytes]), {"value": ["!"] * 500}, r"^value\.0: Value error, invalid base64 text$"),
    (of(dict[str, int]), {"value": {str(number): "a" for number in range(500)}}, rf"^value\.0: {INTEGER}"),
    (Form, {"numbers": ["a"] * 5}, r"numbers\.1: .*; and 2 more$"),  # the user may ask for all errors
    (Closed, {str(number): 1 for number in range(1000)}, r"^1000 errors$"),  # more than anybody reads
]


@pytest.mark.parametrize(("model", "value", "text"), MANY, ids=[text for _, _, text in MANY])
def test_validation_stops_at_the_first_wrong_item(model: Any, value: Any, text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=text):
        converter(model)(value)
