"""Cache for functions of types, some of which cannot be keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

_R = TypeVar("_R")


def memoized(function: Callable[..., _R]) -> Callable[..., _R]:
    """Cache results as `lru_cache` does, but leave calls with unhashable arguments uncached.

    Annotations may be unhashable (``Annotated[int, []]``), and a handler that is registered again and again (on each
    new channel, for instance) should not be introspected each time.
    """
    cached = lru_cache(maxsize=1024)(function)

    def call(*args: Any) -> _R:
        try:
            hash(args)
        except TypeError:
            return function(*args)
        return cached(*args)

    return call
