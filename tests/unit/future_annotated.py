"""Handlers as users write them in a module of their own, where every annotation is text.

The tests register them from elsewhere, so names must be found here and not there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


class User(Struct):
    name: str
    tags: list[str] = []
    friend: User | None = None  # refers to itself


@dataclass
class Point:
    x: int
    y: int = 0
    path: list[Point] = field(default_factory=list)


@dataclass
class Labelled(Point):
    label: str = ""


class Broken(Struct):
    value: DefinedNowhere  # type: ignore[name-defined]  # noqa: F821


def rename(user: User, name: str | None = None) -> User:
    return User(name or user.name.upper(), user.tags)


def later(thing: DefinedLater) -> str:
    return thing.word


def broken_return(a: int, b: int) -> DefinedNowhere:  # type: ignore[name-defined]  # noqa: F821
    return a + b


def unresolvable(fine: int, thing: DefinedNowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Only the second parameter is wrong."""


def only_for_checkers(price: OnlyForCheckers) -> None:
    """The name exists for type checkers only."""


def not_a_type(value: len) -> None:  # type: ignore[valid-type]
    """A function is not a type."""


def broken_inside(value: Broken) -> None:
    """The annotation resolves, a field of it does not."""


class Store:
    def __init__(self) -> None:
        self.users: list[User] = []

    def add(self, user: User) -> int:
        self.users.append(user)
        return len(self.users)

    @classmethod
    def kind(cls, user: User) -> tuple[str, str]:
        return cls.__name__, user.name

    def __call__(self, user: User) -> str:
        return f"called with {user.name}"


class DefinedLater(Struct):
    word: str


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return "logged", function(*args, **kwargs)

    return wrapper
