"""Pydantic models: every type arrives as it was sent, by each encoding."""

from __future__ import annotations

import json
import re
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


BASE64 = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Inner(pydantic.BaseModel):
    model_config = BASE64
    data: bytes
    when: datetime | None = None


class StrictInner(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, **BASE64)
    data: bytes
    key: UUID


class Node(pydantic.BaseModel):
    model_config = BASE64
    data: bytes
    next: Optional[Node] = None  # noqa: UP045 - as many write it


class Aliased(pydantic.BaseModel):
    model_config = BASE64
    user_data: bytes = pydantic.Field(alias="userData")


class Hex(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")
    data: bytes


class Cat(pydantic.BaseModel):
    model_config = BASE64
    kind: Literal["cat"] = "cat"
    fur: bytes


class Dog(pydantic.BaseModel):
    model_config = BASE64
    kind: Literal["dog"] = "dog"
    bone: bytes


class Pair(NamedTuple):
    data: bytes
    number: int = 0


FIELDS: list[tuple[Any, Any]] = [
    (bytes, BLOB),
    (bytes, b"AQID"),  # base64 itself
    (Annotated[bytes, pydantic.Field(min_length=3, max_length=3)], b"\xff\xfe\xfd"),
    (Sequence[Sequence[bytes] | None] | None, [[BLOB], None]),
    (set[bytes], {BLOB}),
    (Sequence[bytes], [BLOB]),
    (Mapping[str, bytes], {"a": BLOB}),
    (dict[bytes, int], {b"\xff\x00": 1}),
    (tuple[bytes, int], (BLOB, 1)),
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
    return pydantic.create_model("Made", __config__=pydantic.ConfigDict(strict=strict, **BASE64), value=(tp, ...))


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


class Text(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_bytes="utf8", val_json_bytes="utf8")
    data: bytes
    inner: Inner


class Signed(pydantic.BaseModel):
    key: Annotated[bytes, pydantic.PlainSerializer(bytes.hex), pydantic.BeforeValidator(lambda key: bytes.fromhex(key))]


WHITE = {"data": "_w==", "when": None}


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (Hex(data=b"\xff\x01"), {"data": "ff01"}),
        (Text(data="grün".encode(), inner=Inner(data=b"\xff")), {"data": "grün", "inner": WHITE}),
        (Signed.model_construct(key=b"\x01\x02"), {"key": "0102"}),
    ],
    ids=["hex", "utf8", "serializer"],
)
def test_the_models_own_config_or_serializer_decides_how_bytes_are_written(value: Any, encoded: Any) -> None:
    assert as_json(value) == encoded
    assert converter(type(value))(encoded) == value


def test_a_model_that_does_not_say_how_bytes_are_written_is_not_sent() -> None:
    """tests/unit/_values/test_validation.py has the other direction."""

    class Half(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(val_json_bytes="base64")
        parts: list[dict[str, bytes]] | None = None

    with pytest.raises(TypeError, match="Half holds bytes, which pydantic takes for UTF-8 text"):
        as_json(Half())


class Login(pydantic.BaseModel):
    """How a password arrives: nothing is sent in its place."""

    password: pydantic.SecretStr


class Told(pydantic.BaseModel):
    password: pydantic.SecretStr
    token: pydantic.SecretBytes = pydantic.Field(default=pydantic.SecretBytes(b""), exclude=True)

    @pydantic.field_serializer("password")
    def reveal(self, password: pydantic.SecretStr) -> str:
        return password.get_secret_value()


class Holder(pydantic.BaseModel):
    logins: list[Login | None] | None = None
    born: pydantic.Secret[date] | None = None


class Area(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    width: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def square(self) -> int:
        return self.width**2


class Plan(pydantic.BaseModel):
    areas: dict[str, Area]


class Open(Area):
    model_config = pydantic.ConfigDict(extra="ignore")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Login(password=pydantic.SecretStr("x")), "Login cannot be sent: pydantic masks Login.password, a secret"),
        (Holder(logins=[None]), "Holder cannot be sent: pydantic masks Login.password, a secret"),
        (Area(width=2), "Area cannot be sent: Area.square is computed, and extra='forbid' refuses it"),
        (Plan(areas={"a": Area(width=2)}), "Plan cannot be sent: Area.square is computed"),
    ],
)
def test_a_model_that_would_not_read_what_pydantic_writes_is_not_sent(value: Any, text: str) -> None:
    """A secret arrived as asterisks. Others may send it: a handler reads it."""
    with pytest.raises(TypeError, match=f"^{re.escape(text)}"):
        as_json(value)


def test_secrets_and_computed_fields_that_a_model_reads() -> None:
    assert converter(Login)({"password": "tea"}).password.get_secret_value() == "tea"
    assert as_json(Told(password=pydantic.SecretStr("tea"))) == {"password": "tea"}
    assert as_json(Open(width=2)) == {"width": 2, "square": 4}
    assert converter(Open)({"width": 2, "square": 4}) == Open(width=2)
    with pytest.raises(TypeError, match="SecretStr cannot be sent: pydantic masks SecretStr, a secret"):
        as_json({"password": pydantic.SecretStr("tea")})


def test_base64_is_read_in_both_its_alphabets() -> None:
    inner = Inner(data=b"\xff\xfe\xfb")
    assert converter(Inner)({"data": "//77"}) == converter(Inner)({"data": "__77"}) == inner


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
    (of(list[bytes]), {"value": ["!"] * 500}, r"^value\.0: Data should be valid base64"),
    (of(dict[str, int]), {"value": {str(number): "a" for number in range(500)}}, rf"^value\.0: {INTEGER}"),
    (Form, {"numbers": ["a"] * 5}, r"numbers\.1: .*; and 2 more$"),  # the user may ask for all errors
    (Closed, {str(number): 1 for number in range(1000)}, r"^1000 errors$"),  # more than anybody reads
]


@pytest.mark.parametrize(("model", "value", "text"), MANY, ids=[text for _, _, text in MANY])
def test_validation_stops_at_the_first_wrong_item(model: Any, value: Any, text: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=text):
        converter(model)(value)
