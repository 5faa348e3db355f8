"""A server whose handlers have types of most kinds, on several channels, for tests of what is generated of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol

import msgspec
import pydantic
from chat_contract import Chat, ChatImplementation
from type_table import Animal, Cat, Dog, Movie, Pair, Size

from wsrpc import Server


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


class Odd(msgspec.Struct):
    """Names on the wire that are not names in Python, or that hide builtins and imports."""

    a: str = msgspec.field(default="d", name="1")
    b: int = msgspec.field(default=1, name="class")
    c: int | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="a-b")
    d: list[int] = msgspec.field(default_factory=list, name="list")
    e: date | None = msgspec.field(default=None, name="date")
    f: list[datetime] = msgspec.field(default_factory=list, name="dt")


class Host(pydantic.BaseModel):
    """A machine."""

    name: str = pydantic.Field(min_length=1, pattern="^[a-z]+$", description="Its name, in small letters.")
    port: int = pydantic.Field(443, gt=0, lt=65536)
    size: Size = Size.SMALL
    seen: datetime | None = None


class ChatEvents(Protocol):
    async def said(self, who: str, text: str, *, urgent: bool = False) -> None:
        """Somebody has said something."""


server = Server()


@server.on("brew")
@server.on("cook", deprecated="use 'brew'")
def brew(cups: list[Cup], strong: bool = False, size: Size = Size.LARGE) -> list[Cup]:
    """Brew some cups."""
    return cups


@server.on("tree")
def tree(node: Node, pair: Pair, movie: Movie, odd: Odd) -> Node:
    return node


@server.on("pets")
def pets(pets: list[Cat | Dog], animal: Animal) -> Cat | Dog:
    return pets[0]


@server.on("host")
def host(host: Host, names: set[str], *more: Host) -> Host:
    return host


server.of("chat").implement(Chat, ChatImplementation())
server.of("chat").declare(ChatEvents)
