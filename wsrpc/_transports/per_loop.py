"""Objects that all connections of one event loop share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, proxy

T = TypeVar("T")

_of_loops: WeakKeyDictionary[Any, dict[object, Any]] = WeakKeyDictionary()


def shared(loop: Any, create: Callable[..., T], *arguments: object) -> T:
    """Return ``create(loop, *arguments)``: always the same object for the same event loop and the same arguments."""
    objects = _of_loops.setdefault(loop, {})
    found: T | None = objects.get((create, arguments))
    if found is None:
        # A reference would keep the loop alive.
        found = objects[create, arguments] = create(proxy(loop), *arguments)
    return found
