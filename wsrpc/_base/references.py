"""Weak references, and the release of references, so that memory is freed without the garbage collector."""

from __future__ import annotations

from typing import Any, TypeVar
from weakref import ProxyTypes, proxy

T = TypeVar("T")

READ_METHOD = "_read_ready_cb"
"""Attribute of asyncio's transports, the method that reads."""


def weakly(target: T) -> T:
    """Return a weak proxy of ``target``, or ``target`` itself if it is a weak proxy."""
    found: Any = target if isinstance(target, ProxyTypes) else proxy(target)
    return found  # type: ignore[no-any-return]


def release_transport(transport: Any) -> None:
    """Cut the circle of references in an asyncio transport that has ended. (It refers to itself by a method.)"""
    if hasattr(transport, READ_METHOD):  # uvloop's has none
        delattr(transport, READ_METHOD)
