"""Names for types that several modules speak of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["RESERVED_EVENTS", "F"]

F = TypeVar("F", bound=Callable[..., Any])
"""A handler; decorators return it unchanged, so that it keeps its own signature."""

RESERVED_EVENTS = frozenset({"open", "connect", "message", "error", "close", "disconnect"})
"""Names that report on the connection; on the main channel they never travel (API.md of ws-wrapper)."""
