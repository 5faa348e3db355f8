"""The classes whose objects handlers get as parameters, by annotation."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

from msgspec import Struct

from .invocation import Invocation


class Injection(Struct, frozen=True):
    """How a parameter gets an object that does not come from the wire."""

    get: Callable[[Invocation], Any]
    """Returns the object. It runs in each call of the handler, so it should be a function written in C if possible."""
    conversation: bool = False
    """The object is a channel, and the handler's body runs while that channel is open."""
    blocking: bool = False
    """The class is for threads: its methods wait instead of being awaited."""


injections: dict[type[Any], Injection] = {Invocation: Injection(lambda invocation: invocation)}
"""How a parameter annotated with a class, or with ``Cls | None``, gets its value. Higher layers add their classes.

A subclass of such a class is not injected, because the object may be any instance of the class.
"""

stream_annotations: set[Any] = {AsyncIterator, AsyncIterable}
"""Annotations of a parameter that reads what the caller sends with ``send=``. A higher layer adds `Stream`."""
