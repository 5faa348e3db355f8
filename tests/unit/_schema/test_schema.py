"""`wsrpc.schema.describe`: what is registered, as data."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import pytest

from wsrpc import AnonymousChannel, Client, Context, Peer, Router, Server, Service, Stream, method
from wsrpc.schema import Description, EventSchema, describe
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


def as_json(description: Description) -> Any:
    return json.loads(msgspec.json.encode(description))


def test_a_function() -> None:
    def add(a: int, peer: Peer, b: int = 1, *more: float, ctx: Context) -> str:
        """Add numbers."""
        return ""

    server = Server()
    server.on("add", add)
    assert as_json(describe(server)) == {
        "events": [
            {
                "event": "add",
                "kind": "value",
                "doc": "Add numbers.",
                "parameters": [
                    {"name": "a", "schema": INTEGER},
                    {"name": "b", "schema": {**INTEGER, "default": 1}, "optional": True},
                    {"name": "more", "schema": {"type": "number"}, "rest": True},
                ],
                "result": STRING,
            }
        ],
        "emits": [],
        "$defs": {},
    }


def test_the_order_is_that_of_names() -> None:
    first, second = Server(), Server()
    places = [("b", "x"), (None, "z"), ("a", "x"), (None, "y"), ("b", "w")]
    for server, order in ((first, places), (second, places[::-1])):
        for channel, event in order:
            (server if channel is None else server.of(channel)).on(event, lambda value: value)
    events = describe(first).events
    assert [(event.channel, event.event) for event in events] == [
        (None, "y"),
        (None, "z"),
        ("a", "x"),
        ("b", "w"),
        ("b", "x"),
    ]
    assert describe(second) == describe(first)


def test_routers_services_and_what_is_once() -> None:
    class Clock(Service):
        @method("tick")
        def count(self, by: int) -> int:
            """Moves on."""
            return by

    router = Router()
    router.on("say", lambda text: text)
    server = Server()
    server.include(router, channel="chat")
    server.add_service(Clock)
    server.once("hello", lambda: None)
    server.on("open", lambda peer: None)  # not an event that anybody calls
    server.on_raw(lambda peer, message: None)
    assert [(event.channel, event.event) for event in describe(server).events] == [
        (None, "hello"),
        (None, "tick"),
        ("chat", "say"),
    ]
    tick = describe(server).events[1]
    assert [parameter.name for parameter in tick.parameters] == ["by"] and tick.doc == "Moves on."
    assert [event.event for event in describe(router).events] == ["say"]


def test_hidden_handlers_are_in_no_description() -> None:
    class Clock(Service):
        @method("tick")
        def count(self, by: int) -> int:
            return by

        @method(hidden=True)
        def reset(self) -> None: ...

    class Doors(Protocol):
        async def unlock(self) -> None: ...
        async def lock(self) -> None: ...

    class Lock:
        @method(hidden=True)
        def unlock(self) -> None: ...

        async def lock(self) -> None: ...

    router = Router()
    router.on("say", lambda text: text)
    router.on("spy", lambda text: text, hidden=True)
    server = Server()
    server.include(router, channel="chat")
    server.add_service(Clock)
    server.of("doors").implement(Doors, Lock())
    server.once("first", lambda: None, hidden=True)

    @server.on("debug", hidden=True)
    def debug(secret: Silent) -> Silent:
        return secret

    description = describe(server)
    assert [(event.channel, event.event) for event in description.events] == [
        (None, "tick"),
        ("chat", "say"),
        ("doors", "lock"),
    ]
    assert description.definitions == {}
    assert [event.event for event in describe(router).events] == ["say"]


async def test_a_hidden_handler_is_called_like_any_other() -> None:
    server = Server()
    server.on("shown", lambda: 1)
    server.on("hidden", lambda: 2, hidden=True)
    server.on("replaced", lambda: 3, hidden=True)
    server.on("replaced", lambda: 4)
    async with connect(server) as client:
        assert await client.request("hidden") == 2
    assert [event.event for event in describe(server).events] == ["replaced", "shown"]


@pytest.mark.parametrize("wrong", [1, None, "yes"])
def test_hidden_is_true_or_false(wrong: Any) -> None:
    for call in (
        lambda: Server().on("x", list, hidden=wrong),
        lambda: Router().once("x", list, hidden=wrong),
        lambda: method(hidden=wrong),
    ):
        with pytest.raises(TypeError, match="hidden= is True or False, got "):
            call()


def test_what_is_never_described_cannot_be_hidden() -> None:
    with pytest.raises(TypeError, match=r"'open' reports on the connection: .* and hidden= do not apply"):
        Server().on("open", lambda peer: None, hidden=True)

    class Contract(Protocol):
        @method(hidden=True)
        async def secret(self) -> None: ...

    with pytest.raises(TypeError, match="options belong to the method that implements it"):
        Server().of("x").implement(Contract, object())


def test_rooms_that_clients_may_join() -> None:
    server = Server()
    server.on_join(lambda peer, room: True)
    assert [(event.channel, event.event) for event in describe(server).events] == [
        ("rooms", "join"),
        ("rooms", "leave"),
    ]


def test_a_client_has_handlers_too() -> None:
    client = Client("ws://127.0.0.1:1")
    client.on("getName", lambda: "Ada")
    assert [event.event for event in describe(client).events] == ["getName"]


@pytest.mark.parametrize("other", [None, "server", Server().of("chat"), Server])
def test_nothing_else_can_be_described(other: Any) -> None:
    with pytest.raises(TypeError, match=r"describe\(\) takes a Server, a Client or a Router, got"):
        describe(other)


# ---------------------------------------------------------------- what is given


async def coroutine() -> int:
    return 1


def awaitable() -> Awaitable[int]:
    return coroutine()


def nested() -> Annotated[Coroutine[Any, Any, int], "in a task"]:
    return coroutine()


@pytest.mark.parametrize("function", [coroutine, awaitable, nested, functools.partial(coroutine)])
def test_a_value(function: Any) -> None:
    event = described(function)
    assert (event.kind, event.result) == ("value", INTEGER)


async def yields() -> AsyncIterator[int]:
    yield 1


def yields_plainly() -> Iterable[int]:
    yield 1


def gives_an_iterator() -> Iterator[int]:
    return iter([1])


async def gives_an_iterable() -> AsyncIterable[int]:
    return yields()


@pytest.mark.parametrize("function", [yields, yields_plainly, gives_an_iterator, gives_an_iterable])
def test_a_stream(function: Any) -> None:
    event = described(function)
    assert (event.kind, event.items, event.result) == ("stream", INTEGER, None)


def test_a_generator_without_annotation_is_a_stream_of_anything() -> None:
    def letters(text):  # type: ignore[no-untyped-def]
        yield from text

    event = described(letters)
    assert (event.kind, event.items) == ("stream", {})
    assert event.parameters[0].schema == {}


async def upload(name: str, pieces: AsyncIterator[int]) -> str:
    return name


async def exchange(pieces: Stream[int]) -> AsyncIterator[str]:
    yield ""


async def converse(room: str, channel: AnonymousChannel) -> None: ...


def open_channel(room: str, ctx: Context) -> AnonymousChannel:
    return ctx.channel()


def test_items_that_are_sent() -> None:
    event = described(upload)
    assert (event.kind, event.sends, event.items, event.result) == ("upload", INTEGER, None, STRING)
    assert [parameter.name for parameter in event.parameters] == ["name"]
    event = described(exchange)
    assert (event.kind, event.sends, event.items, event.result) == ("exchange", INTEGER, STRING, None)


@pytest.mark.parametrize("function", [converse, open_channel])
def test_a_conversation(function: Any) -> None:
    event = described(function)
    assert (event.kind, event.result) == ("conversation", None)
    assert [parameter.name for parameter in event.parameters] == ["room"]


@dataclass
class Point:
    """A place."""

    x: int


def test_a_class_gives_its_objects() -> None:
    event = described(Point)
    assert event.result == {"$ref": "#/$defs/Point"} and event.doc == "A place."


class Silent(msgspec.Struct):
    x: int


@dataclass
class Quiet:
    x: int


class Callable:
    """An object's class."""

    def __call__(self, x: int) -> int:
        """Called like a function."""
        return x


def test_docstrings_are_the_handlers_own() -> None:
    assert described(Silent).doc == described(Quiet).doc == described(lambda: 1).doc == ""
    assert described(Callable()).doc == "Called like a function."
    assert described(functools.partial(Callable())).doc == "Called like a function."


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


def test_a_docstring_that_is_no_unicode_can_be_written() -> None:
    server = Server()

    def odd() -> None: ...

    class Odd: ...

    for number, handler in enumerate((odd, Odd)):
        handler.__doc__ = "half \ud800 of it"
        server.on(f"odd {number}", handler)
    assert [event.doc for event in describe(server).events] == ["half ? of it"] * 2


def test_types_that_only_hooks_know() -> None:
    event = described(own, dec_hook=lambda tp, value: tp())
    comment = {"$comment": f"{__name__}.Own has no JSON Schema"}
    assert [parameter.schema for parameter in event.parameters] == [
        comment,
        {"type": "string", "format": "own"},
        {"type": "array", "items": comment},
    ]
    assert event.notes == (
        f"parameter 'value': {__name__}.Own has no JSON Schema",
        f"parameter 'many': {__name__}.Own has no JSON Schema",
        f"result: {__name__}.Own has no JSON Schema",
    )


@pytest.mark.parametrize(
    ("tp", "schema"),
    [
        (object, {}),
        (dict[str, object], {"type": "object", "additionalProperties": {}}),
        (list[object], {"type": "array", "items": {}}),
        (Annotated[list[object], msgspec.Meta(max_length=2)], {"type": "array", "items": {}, "maxItems": 2}),
    ],
)
def test_an_object_is_any_value(tp: Any, schema: Any) -> None:
    def handler(value: Any) -> Any: ...

    handler.__annotations__ = {"value": tp, "return": tp}
    event = described(handler)
    assert (event.parameters[0].schema, event.result, event.notes) == (schema, schema, ())


def test_a_result_that_cannot_be_described_spoils_nothing_else() -> None:
    server = Server()
    for function in (mixed, hidden, coroutine):
        server.on(function.__name__, function)
    fine, name, enum = describe(server).events
    assert (fine.result, fine.notes) == (INTEGER, ())
    why = "the annotation of its result cannot be resolved: name 'Decimal' is not defined"
    assert name.result == {} and name.notes == (why,)
    assert enum.result == {} and enum.notes[0].startswith(f"result: {__name__}.Mixed has no JSON Schema: Enums must")
    assert [parameter.schema for parameter in enum.parameters] == [INTEGER]
