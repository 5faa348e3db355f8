"""Weak references, so that memory is freed without the garbage collector."""

from __future__ import annotations

from typing import Any, TypeVar
from weakref import ProxyTypes, proxy

T = TypeVar("T")


def weakly(target: T) -> T:
    """Return a weak proxy of ``target``, or ``target`` itself if it is a weak proxy."""
    found: Any = target if isinstance(target, ProxyTypes) else proxy(target)
    return found  # type: ignore[no-any-return]
