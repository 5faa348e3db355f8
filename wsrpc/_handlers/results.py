"""What a handler gives back, as far as its annotation says. Asked for descriptions only: no call needs it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator, Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from .._base.introspection import (
    CONVERSATIONS,
    STREAMS,
    body_of,
    injection_of,
    layers_of,
    resolve,
    signature_of,
    without_partials,
)

__all__ = ["Given", "given_by"]

_AWAITED = (Awaitable, Coroutine, asyncio.Future, asyncio.Task)
_ITERATORS = (AsyncGenerator, Iterator, Generator)


class Given(NamedTuple):
    """What comes of a call: one value of the type, a stream of such items, or a channel."""

    kind: Literal["value", "stream", "channel"]
    type: Any = Any


def _annotated(function: Any) -> Any:
    called = without_partials(function)
    if isinstance(called, type):  # calling it makes one, whatever its __init__ is annotated with
        return called
    annotation = signature_of(function).return_annotation
    return resolve(annotation, layers_of(function))


def given_by(function: Any) -> Given:
    """What a handler that could be registered gives.

    Raises:
        TypeError: its annotation cannot be resolved.
    """
    body = body_of(function)
    yields = inspect.isasyncgenfunction(body) or inspect.isgeneratorfunction(body)
    try:
        tp = _annotated(function)
    except Exception as exc:  # whatever evaluating an annotation raises
        raise TypeError(f"what it returns cannot be told: {exc}") from exc
    while True:
        origin = get_origin(tp) or tp
        if origin in _AWAITED:
            tp = get_args(tp)[-1] if get_args(tp) else Any
        elif origin is Annotated and (get_origin(get_args(tp)[0]) or get_args(tp)[0]) in _AWAITED:
            tp = get_args(tp)[0]
        else:
            break
    if origin in _ITERATORS or origin in STREAMS or (yields and origin is Iterable):
        item, *_ = (*get_args(tp), Any)
        return Given("stream", item)
    if yields:
        return Given("stream")
    if injection_of(tp) in CONVERSATIONS:
        return Given("channel")
    return Given("value", tp)
