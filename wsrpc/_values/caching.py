"""Cache for functions of types, some of which cannot be keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

_R = TypeVar("_R")


def memoized(function: Callable[..., _R]) -> Callable[..., _R]:
    """Cache results as `lru_cache` does, but do not cache calls with unhashable arguments.

    The cache is for handlers that are registered again and again, for example on each new channel. Annotations may be
    unhashable: ``Annotated[int, []]``.
    """
    cached = lru_cache(maxsize=1024)(function)

    def call(*args: Any) -> _R:
        try:
            hash(args)
        except TypeError:
            return function(*args)
        return cached(*args)

    return call
