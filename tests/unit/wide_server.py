"""A server whose handlers have types of most kinds, on several channels, for tests of what is generated of it."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated, Literal, NamedTuple, NotRequired, Protocol, TypedDict

import msgspec
import pydantic

from wsrpc import AnonymousChannel, Server, Stream


class Size(enum.Enum):
    """How large."""

    SMALL = "s"
    LARGE = "l"


@dataclass(slots=True)
class Cup:
    """What one drinks from.

    It may be warm.
    """

    drink: str
    size: Size = Size.SMALL
    notes: list[str] = field(default_factory=list)


class Node(msgspec.Struct):
    value: int
    children: list[Node] = []
    parent: Node | None = None


class Cat(msgspec.Struct, tag=True):
    name: str
    lives: Annotated[int, msgspec.Meta(ge=0, le=9)] = 9


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Odd(msgspec.Struct):
    """Names on the wire that are not names in Python, or that hide builtins and imports."""

    a: str = msgspec.field(default="d", name="1")
    b: int = msgspec.field(default=1, name="class")
    c: int | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="a-b")
    d: list[int] = msgspec.field(default_factory=list, name="list")
    e: date | None = msgspec.field(default=None, name="date")
    f: list[datetime] = msgspec.field(default_factory=list, name="dt")


class Film(TypedDict):
    title: str
    year: NotRequired[int]


class Pair(NamedTuple):
    x: int
    y: float = 0.5


class Host(pydantic.BaseModel):
    """A machine."""

    name: str = pydantic.Field(min_length=1, pattern="^[a-z]+$", description="Its name, in small letters.")
    port: int = pydantic.Field(443, gt=0, lt=65536)
    size: Size = Size.SMALL
    seen: datetime | None = None


class Lion(pydantic.BaseModel):
    kind: Literal["lion"]
    mane: bool


class Crow(pydantic.BaseModel):
    kind: Literal["crow"] = "crow"
    age: int = 3


class Animal(pydantic.RootModel[Lion | Crow]): ...


class Point(msgspec.Struct, tag=True):
    x: int
    y: int


class Circle(msgspec.Struct, tag=True):
    radius: int


class ChatEvents(Protocol):
    async def said(self, who: str, text: str, *, urgent: bool = False) -> None:
        """Somebody has said something."""


server = Server()
chat = server.of("chat")


@server.on("brew")
@server.on("cook", deprecated="use 'brew'")
def brew(cups: list[Cup], strong: bool = False, size: Size = Size.LARGE) -> list[Cup]:
    """Brew some cups."""
    return cups


@server.on("tree")
def tree(node: Node, pair: Pair, film: Film, odd: Odd) -> Node:
    return node


@server.on("pets")
def pets(pets: list[Cat | Dog], animal: Animal, shape: Point | Circle) -> Point | Circle:
    return shape


@server.on("host")
def host(host: Host, names: set[str], *more: Host) -> Host:
    return host


@chat.on("say")
async def say(text: str, *, urgent: bool = False) -> int:
    return len(text)


@chat.on("history")
def history(since: int = 0) -> Stream[Cup]:  # type: ignore[misc]
    yield Cup("tea")  # pyright: ignore


@chat.on("upload")
async def upload(name: str, chunks: AsyncIterator[bytes], kind: str = "text") -> int:
    return sum([len(chunk) async for chunk in chunks])


@chat.on("shout")
async def shout(items: AsyncIterator[str]) -> AsyncIterator[str]:
    async for item in items:
        yield item.upper()


@chat.on("talk")
async def talk(name: str, channel: AnonymousChannel) -> None:
    await channel.emit("hello", name)


chat.declare(ChatEvents)
