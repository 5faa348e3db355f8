"""References that keep nothing alive."""

from __future__ import annotations

from typing import Any, TypeVar
from weakref import ProxyTypes, proxy

T = TypeVar("T")

READ = "_read_ready_cb"
"""Attribute of asyncio's transports, the method that reads."""


def weakly(target: T) -> T:
    """Return a proxy of ``target``, which does not keep it alive; ``target`` itself if it is a proxy."""
    found: Any = target if isinstance(target, ProxyTypes) else proxy(target)
    return found  # type: ignore[no-any-return]


def release_transport(transport: Any) -> None:
    """Let an asyncio transport be freed that has ended: it refers to itself by its method that reads."""
    if hasattr(transport, READ):  # uvloop's has none
        delattr(transport, READ)
