"""`wsrpc.schema.describe`: what is registered, as data."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

from wsrpc import AnonymousChannel, Router, Server, Service, Stream, method
from wsrpc.schema import EventSchema, describe
from wsrpc.testing import connect

if TYPE_CHECKING:
    from decimal import Decimal

INTEGER = {"type": "integer"}
STRING = {"type": "string"}


def described(handler: Any, **options: Any) -> EventSchema:
    server = Server(**options)
    server.on("event", handler)
    [event] = describe(server).events
    return event


class Clock(Service):
    @method("tick")
    def count(self, by: int) -> int:
        """Moves on."""
        return by

    @method(hidden=True)
    def reset(self) -> None: ...


def test_a_deprecated_event_says_what_to_use() -> None:
    server = Server()
    server.on("new", lambda: None)
    server.on("old", lambda: None, deprecated="use 'new'")
    assert [(event.event, event.deprecated) for event in describe(server).events] == [("new", ""), ("old", "use 'new'")]


async def test_hidden_handlers_are_in_no_description() -> None:
    router = Router()
    router.on("spy", lambda text: text, hidden=True)
    server = Server()
    server.include(router, channel="chat")
    server.add_service(Clock)
    server.once("hidden once", lambda: None, hidden=True)
    server.on_join(lambda peer, room: True)  # rooms that clients may join
    server.on("open", lambda peer: None)  # not an event that anybody calls

    @server.on("debug", hidden=True)
    def debug(secret: Silent) -> Silent:
        return secret

    description = describe(server)
    places = [(event.channel, event.event) for event in description.events]
    assert places == [(None, "tick"), ("rooms", "join"), ("rooms", "leave")]
    tick = description.events[0]
    assert [parameter.name for parameter in tick.parameters] == ["by"] and tick.doc == "Moves on."
    assert description.definitions.keys() == {"JoinOptions", "Joined"}
    assert "debug" not in str(description)
    async with connect(server) as client:  # a hidden one is called like any other
        assert await client.request("debug", {"x": 1}) == {"x": 1}


@pytest.mark.parametrize("other", [None, "server", Server().of("chat"), Server])
def test_nothing_else_can_be_described(other: Any) -> None:
    with pytest.raises(TypeError, match=r"describe\(\) takes a Server, a Client or a Router, got"):
        describe(other)


# ---------------------------------------------------------------- what is given


def nested() -> Annotated[Coroutine[Any, Any, int], "in a task"]: ...  # type: ignore[empty-body]


async def yields() -> AsyncIterator[int]:
    yield 1


def yields_plainly() -> Iterable[int]:
    yield 1


async def gives_an_iterable() -> AsyncIterable[int]: ...  # type: ignore[empty-body]


def letters(text):  # type: ignore[no-untyped-def]
    yield from text


async def upload(name: str, pieces: AsyncIterator[int]) -> str:
    return name


async def exchange(pieces: Stream[int]) -> AsyncIterator[str]:
    yield ""


async def converse(room: str, channel: AnonymousChannel) -> None: ...


@dataclass
class Point:
    """A place."""

    x: int


@pytest.mark.parametrize(
    ("function", "kind", "parameters"),
    [
        (nested, ("value", None, INTEGER, None), []),
        *((function, ("stream", INTEGER, None, None), []) for function in (yields, yields_plainly, gives_an_iterable)),
        (letters, ("stream", {}, None, None), ["text"]),
        (upload, ("upload", None, STRING, INTEGER), ["name"]),
        (exchange, ("exchange", STRING, None, INTEGER), []),
        (converse, ("conversation", None, None, None), ["room"]),
        (Point, ("value", None, {"$ref": "#/$defs/Point"}, None), ["x"]),
    ],
)
def test_what_a_handler_gives_and_takes(function: Any, kind: tuple[Any, ...], parameters: list[str]) -> None:
    event = described(function)
    assert (event.kind, event.items, event.result, event.sends) == kind
    assert [parameter.name for parameter in event.parameters] == parameters


class Silent(msgspec.Struct):
    x: int


def odd() -> None: ...


odd.__doc__ = "half \ud800 of it"


# ---------------------------------------------------------------- what has no schema


class Own:
    """Known to hooks only."""


class Mixed(Enum):
    NUMBER = 1
    TEXT = "text"


Told = Annotated[Own, msgspec.Meta(extra_json_schema={"type": "string", "format": "own"})]


def own(value: Own, told: Told, many: list[Own]) -> Own:
    return value


def mixed(value: int) -> Mixed:
    return Mixed(value)


def hidden(value: int) -> Decimal:
    raise NotImplementedError


def test_types_that_only_hooks_know() -> None:
    event = described(own, dec_hook=lambda tp, value: tp())
    comment = {"$comment": f"{__name__}.Own has no JSON Schema"}
    schemas = [comment, {"type": "string", "format": "own"}, {"type": "array", "items": comment}]
    assert [parameter.schema for parameter in event.parameters] == schemas
    places = ("parameter 'value'", "parameter 'many'", "result")
    assert event.notes == tuple(f"{place}: {__name__}.Own has no JSON Schema" for place in places)


def test_a_result_that_cannot_be_described_spoils_nothing_else() -> None:
    server = Server()
    for function in (mixed, hidden, nested):
        server.on(function.__name__, function)
    name, enum, fine = describe(server).events
    assert (fine.result, fine.notes) == (INTEGER, ())
    why = "the annotation of its result cannot be resolved: name 'Decimal' is not defined"
    assert name.result == {} and name.notes == (why,)
    assert enum.result == {} and enum.notes[0].startswith(f"result: {__name__}.Mixed has no JSON Schema: Enums must")
    assert [parameter.schema for parameter in enum.parameters] == [INTEGER]
