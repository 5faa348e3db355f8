"""`wsrpc.schema.describe`: the events that a side emits, as far as it has declared them, and defaults of parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any, Protocol

import msgspec
import pydantic
import pytest

from wsrpc import Client, Conversation, Router, Server, method
from wsrpc.codecs import JsonCodec, MsgpackCodec
from wsrpc.schema import Description, EventSchema, ParameterSchema, describe

STRING = {"type": "string"}


class Cup(msgspec.Struct):
    drink: str
    size: int = 200


class News(Protocol):
    async def said(self, who: str, text: str = "", *tags: str) -> None:
        """Somebody has said something."""

    def served(self, cup: Cup, *, warm: bool = True) -> None: ...

    @method("wire-name")
    async def renamed(self) -> None: ...


class Everything(Protocol):
    news: News

    async def started(self, at: int = 0, *, by: str) -> None: ...


@pytest.mark.parametrize("wrong", [int, Cup, Everything])
def test_what_declares_no_conversation(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"takes a contract|has channels"):
        Conversation(emits=wrong)


NEWS = ["said", "served", "wire-name"]


def test_declared_events_are_described() -> None:
    server = Server()
    server.of("chat").declare(News)
    description = describe(server)
    who = ParameterSchema("who", STRING)
    text = ParameterSchema("text", {**STRING, "default": ""}, optional=True)
    tags = ParameterSchema("tags", STRING, rest=True)
    cup = ParameterSchema("cup", {"$ref": "#/$defs/Cup"})
    warm = ParameterSchema("warm", {"type": "boolean", "default": True}, optional=True)
    assert description.events == ()
    assert description.emits == (
        EventSchema("said", "value", "chat", "Somebody has said something.", (who, text, tags)),
        EventSchema("served", "value", "chat", parameters=(cup, warm)),
        EventSchema("wire-name", "value", "chat"),
    )
    assert msgspec.json.decode(msgspec.json.encode(description), type=Description) == description
    assert "result" not in msgspec.to_builtins(description.emits[0])  # nothing answers an event


class Orders(Protocol):
    @method(deprecated="use 'stop'")
    async def restart(self) -> None: ...


def test_methods_that_return_none_are_requests_if_the_program_says_so() -> None:
    server, router = Server(), Router()
    server.declare(Orders)
    router.of("orders").declare(Orders, requests=True)
    server.include(router)
    found = {each.channel: each for each in describe(server).emits if each.event == "restart"}
    assert {name: each.result for name, each in found.items()} == {None: None, "orders": {"type": "null"}}
    assert {each.deprecated for each in found.values()} == {"use 'stop'"}


def test_declarations_of_channels_routers_and_clients() -> None:
    router = Router()
    router.declare(News)
    server = Server()
    server.include(router, channel="included")
    server.declare(Everything)
    client = Client()
    client.declare(News)
    places = [(None, "started"), *((at, event) for at in ("included", "news") for event in NEWS)]
    assert [(event.channel, event.event) for event in describe(server).emits] == places
    for description in (describe(router), describe(client)):
        assert [(event.channel, event.event) for event in description.emits] == [(None, event) for event in NEWS]
    # `at` is always sent, because `by` follows it.
    assert [(p.name, p.optional) for p in describe(server).emits[0].parameters] == [("at", False), ("by", False)]


# ---------------------------------------------------------------- defaults


class Point(pydantic.BaseModel):
    x: int = 1


@dataclass
class Line:
    ends: list[int] = field(default_factory=lambda: [1, 2])


def default_of(default: Any, **options: Any) -> Any:
    """Return the default that a parameter's description contains, or UNSET if it contains no default."""

    def handler(value: Any = default) -> None: ...

    server = Server(**options)
    server.on("event", handler)
    [event] = describe(server).events
    assert event.parameters[0].optional
    return msgspec.json.decode(msgspec.json.encode(event.parameters[0].schema)).get("default", msgspec.UNSET)


@pytest.mark.parametrize(
    ("default", "written"),
    [
        (None, None),
        ((1, ("a", None)), [1, ["a", None]]),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (Line(), {"ends": [1, 2]}),
        (Point(), {"x": 1}),
    ],
)
def test_a_default_is_written_as_json(default: Any, written: Any) -> None:
    found = default_of(default)
    assert found == written and type(found) is type(written)


def refuse(value: Any) -> Any:
    raise RuntimeError("a hook may raise anything")


@pytest.mark.parametrize("default", [[math.inf], object(), {"\udfff": 1}, ..., msgspec.UNSET])
def test_a_default_that_json_does_not_have_is_left_out(default: Any) -> None:
    assert default_of(default) is msgspec.UNSET
    assert default_of(default, codec=JsonCodec(enc_hook=refuse)) is msgspec.UNSET


@pytest.mark.parametrize("codec", [JsonCodec(enc_hook=str), MsgpackCodec(enc_hook=str)])
def test_the_hook_of_the_codec_encodes_defaults(codec: Any) -> None:
    assert default_of(IPv4Address("10.0.0.1"), codec=codec) == "10.0.0.1"
