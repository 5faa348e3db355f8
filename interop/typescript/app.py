"""A server whose events are declared for TypeScript, and then called from there. It has one of everything."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Protocol, TypedDict
from uuid import UUID

import msgspec

from wsrpc import AnonymousChannel, Context, Conversation, Peer, Router, Server, Service, method

server = Server()


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Cup(msgspec.Struct):
    """What one drinks from.

    It says */ in its docstring.
    """

    drink: str
    size: Size = Size.SMALL
    sugar: int | msgspec.UnsetType = msgspec.UNSET


class Order(msgspec.Struct, rename="camel"):
    cups: list[Cup]
    for_table: int = 0
    follows: Order | None = None


class Cat(msgspec.Struct, tag=True):
    lives: int = 9


class Dog(msgspec.Struct, tag=True):
    name: str


@dataclass
class Point:
    x: float
    y: float = 0.0
    tags: list[str] = field(default_factory=list)


class Pair(NamedTuple):
    left: int
    right: str = ""


class Options(TypedDict):
    depth: int
    follow: NotRequired[bool]


class Times(msgspec.Struct):
    at: datetime
    day: date
    took: timedelta
    price: Decimal
    id: UUID


@server.on("add")
def add(a: int, b: int = 1, *more: float) -> float:
    """Add numbers."""
    return a + b + sum(more)


@server.on("nothing")
async def nothing(peer: Peer, ctx: Context) -> None: ...


@server.on("order")
async def order(order: Order) -> Order:
    return order


@server.on("adopt")
def adopt(pet: Cat | Dog | None) -> list[Cat | Dog]:
    return [] if pet is None else [pet, Cat()]


@server.on("move")
def move(point: Point, by: tuple[float, float] = (1, 1)) -> Point:
    return Point(point.x + by[0], point.y + by[1])


@server.on("echo_point")
def echo_point(point: Point) -> Point:
    return point


@server.on("swap")
def swap(pair: Pair) -> tuple[str, int]:
    return pair.right, pair.left


@server.on("search")
def search(text: str, options: Options | None = None, mode: Literal["fast", "full", 3] = "fast") -> Options:
    return options or {"depth": len(text)}


@server.on("reverse")
def reverse(data: bytes) -> bytes:
    return data[::-1]


@server.on("levels")
def levels(least: Annotated[Level, msgspec.Meta(description="The lowest one wanted.")]) -> dict[int, Level]:
    return {level.value: level for level in Level if level >= least}


@server.on("times")
def times() -> Times:
    return Times(datetime(2026, 5, 4, 12, tzinfo=UTC), date(2026, 5, 4), timedelta(2), Decimal("1.50"), UUID(int=1))


@server.on("set-name")
def set_name(name: Any) -> Any:
    return {"name": name}


@server.on("count")
def count(stop: int) -> Iterator[Cup]:
    for number in range(stop):
        yield Cup(str(number))


@server.on("total")
async def total(start: int, numbers: AsyncIterator[int]) -> int:
    return start + sum([number async for number in numbers])


@server.on("doubled")
async def doubled(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
    async for number in numbers:
        yield number * 2


class Asks(Protocol):
    async def upper(self, text: str) -> str: ...


@server.on("talk")
async def talk(channel: Annotated[AnonymousChannel, Conversation(handles=Asks)]) -> None:
    channel.on("upper", lambda text: text.upper())
    await channel.wait_closed()


files = Router()


@files.on("read")
def read(name: str) -> bytes:
    return name.encode()


server.include(files, channel="files")


@server.add_service
class Clock(Service):
    @method("tick")
    async def count_ticks(self, by: int = 1) -> int:
        """Moves on."""
        self.ticks = getattr(self, "ticks", 0) + by
        return self.ticks


class Bell(Protocol):
    async def rang(self, at: datetime, times: int = 1) -> None:
        """Somebody is at the door."""

    async def let_in(self, *names: str) -> None: ...


class News(Protocol):
    bell: Bell

    def news(self, title: str) -> None: ...

    @method("cup-served")
    async def served(self, cup: Cup, warm: bool = True, *, icon: bytes = b"") -> None: ...


server.declare(News)


@server.on("ring")
async def ring(peer: Peer) -> None:
    """Emits all that is declared."""
    bell = peer.of("bell").emitter(Bell)
    await bell.rang(datetime(2026, 5, 4, 12, tzinfo=UTC))
    await bell.let_in("Ada", "Bob")
    await peer.emitter(News).served(Cup("tea"), icon=b"abc")
    peer.emitter(News).news("all")


@server.on_join
def may_join(peer: Peer, room: str) -> bool:
    return room == "lobby"


async def serve() -> None:
    """Serve until stdin is closed."""
    async with server.listen() as listener:
        print(listener.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
