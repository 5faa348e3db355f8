"""`older_names`: which objects are read with an older name of a field, and which declarations are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple, Protocol, TypedDict, TypeVar

import msgspec
import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import BadArguments, BadResult, RemoteError, Server, older_names
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

T = TypeVar("T")


class Air(msgspec.Struct, omit_defaults=True):
    humidity: Annotated[float | None, older_names("wetness", "wet")] = None


class Closed(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    air_now: Annotated[Air, older_names("air")]


class Cat(msgspec.Struct, tag=True):
    name: Annotated[str, msgspec.Meta(max_length=5), older_names("called")]


class Dog(msgspec.Struct, tag=True):
    called: str


class Row(msgspec.Struct, array_like=True, tag="row"):
    number: Annotated[int, older_names("n")]
    air: Air


class OtherRow(msgspec.Struct, array_like=True, tag="other"):
    wet: dict[str, float]


class Pair(NamedTuple):
    air: Air
    rest: int = 0


class Typed(TypedDict):
    air: Annotated[Air, older_names("a")]


@dataclass
class Chain:
    value: Annotated[int, older_names("v")]
    following: Annotated[Chain | None, older_names("next")] = None


class Box(msgspec.Struct, Generic[T]):
    inside: Annotated[T, older_names("content")]


WET = {"wet": 1.5}
READ: list[tuple[Any, Any, Any]] = [
    (Air, {"wetness": 1.5}, Air(1.5)),
    (Air, {"humidity": 1.5, "other": 1}, Air(1.5)),
    (Air, {}, Air()),
    (Air | None, None, None),
    (Air | list[Air] | str, [WET], [Air(1.5)]),
    (tuple[Air, ...], [WET, {}], (Air(1.5), Air())),
    (tuple[int, Air], [1, WET], (1, Air(1.5))),
    (Mapping[str, list[Air]], {"wet": [WET]}, {"wet": [Air(1.5)]}),
    (dict[int, Air], {"1": WET}, {1: Air(1.5)}),
    (Closed, {"air": WET}, Closed(Air(1.5))),
    (Cat | Dog, {"type": "Cat", "called": "Tom"}, Cat("Tom")),
    (Cat | Dog, {"type": "Dog", "called": "Rex"}, Dog("Rex")),
    (Cat, {"called": "Tom"}, Cat("Tom")),
    (Row | OtherRow, ["row", 1, WET], Row(1, Air(1.5))),
    (Row | OtherRow, ["other", WET], OtherRow(WET)),
    (Pair, [WET], Pair(Air(1.5))),
    (Typed, {"a": WET}, {"air": Air(1.5)}),
    (Chain, {"v": 1, "next": {"value": 2, "next": {"v": 3}}}, Chain(1, Chain(2, Chain(3)))),
    (Box[Air], {"content": WET}, Box(Air(1.5))),
]


@pytest.mark.parametrize(("tp", "sent", "read"), READ, ids=[str(tp) for tp, _, _ in READ])
async def test_an_older_name_is_read_as_the_present_one(tp: Any, sent: Any, read: Any) -> None:
    got: list[Any] = []
    server = Server()

    def take(number: int, value: Any, *more: Any) -> Any:
        got.extend((value, *more))
        return sent

    async def upload(items: AsyncIterator[Any]) -> None:
        got.extend([item async for item in items])

    take.__annotations__ |= {"value": tp, "more": tp}
    upload.__annotations__["items"] = AsyncIterator[tp]
    server.on("take", take)
    server.on("upload", upload)
    async with connect(server) as client:
        assert await client.request("take", 1, sent, sent, returns=tp) == read
        await client.request("upload", send=[sent])
        await client.emit("take", 1, sent)
        await client.request("take", 1, sent)
    assert got == [read] * 5


async def test_two_names_of_one_field_do_not_fit() -> None:
    server = Server()
    server.on("both", lambda: {"humidity": 1, "wet": 1})

    @server.on("take")
    def take(air: Air, *more: list[Cat]) -> None: ...

    @server.on("upload")
    async def upload(items: AsyncIterator[Air]) -> None:
        async for _ in items:
            pass

    both = "an object has 'humidity', 'wet', which name the same field"
    async with connect(server) as client:
        with pytest.raises(BadArguments, match=rf"take\(\): {both}"):
            await client.request("take", {"wet": 1, "humidity": 1})
        with pytest.raises(BadArguments, match="'wetness', 'wet', which"):
            await client.request("take", {"wet": 1, "wetness": 1})
        with pytest.raises(BadArguments, match=r"take\(\): an object has 'name', 'called'"):
            await client.request("take", {}, [{"type": "Cat", "name": "a", "called": "b"}])
        with pytest.raises(RemoteError, match=f"an item of 'items': {both}"):
            await client.request("upload", send=[{"wet": 1, "humidity": 1}])
        with pytest.raises(BadResult, match=both):
            await client.request("both", returns=Air)
        with pytest.raises(BadArguments, match=r"argument 'air'\.humidity: expected float \| null, got str"):
            await client.request("take", {"wet": "much"})


class Weather(Protocol):
    async def report(self, air: Air) -> Air: ...


class Center:
    def report(self, air):  # type: ignore[no-untyped-def]
        return air


async def test_contracts_and_calls_with_a_key() -> None:
    server = Server()
    server.implement(Weather, Center())

    @server.on("keyed", keep=5)
    async def keyed(air: Air) -> Air:
        return air

    async with connect(server) as client:
        assert await client.request("report", WET) == {"humidity": 1.5}
        assert await client.request("keyed", WET, key="k") == {"humidity": 1.5}
        assert await client.request("keyed", {"humidity": 1.5}, key="k") == {"humidity": 1.5}  # equal arguments


class Twice(msgspec.Struct):
    a: Annotated[int, older_names("b")]
    b: int


class Shared(msgspec.Struct):
    a: Annotated[int, older_names("c")]
    b: Annotated[int, older_names("c")]


class Tagged(msgspec.Struct, tag_field="kind", tag="x"):
    a: Annotated[int, older_names("kind")]


class Part(msgspec.Struct):
    a: Annotated[int, older_names("b")] | None = None


@pytest.mark.parametrize(
    ("tp", "text"),
    [
        (Twice, "Twice.a: 'b' is the name of two fields"),
        (Shared, "Shared.b: 'c' is the name of two fields"),
        (list[Tagged], "Tagged.a: 'kind' is the name of two fields"),
        (Part, r"older_names\('b'\) belongs to the whole type of a field: Annotated\[T | None, ...\]"),
        (list[Annotated[int, older_names("b", "c")]], r"older_names\('b', 'c'\) belongs to the whole type"),
    ],
)
def test_what_is_ambiguous_is_refused(tp: Any, text: str) -> None:
    def take(value: Any) -> None: ...

    take.__annotations__["value"] = tp
    with pytest.raises(TypeError, match=text):
        Server().on("take", take)


@pytest.mark.parametrize("names", [(), (1,), (["a"],)])
def test_names_are_text(names: Any) -> None:
    with pytest.raises(TypeError, match=r"older_names\(\) takes names of fields, such as older_names\(\"wetness\"\)"):
        older_names(*names)
