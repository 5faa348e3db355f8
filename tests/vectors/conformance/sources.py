"""What recorded handlers stream, in Python."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any, Protocol

from wsrpc import RpcError

from .values import raised_by, to_python

NOT_ITERABLE = "iterableHandler: handler must return a sync or async iterable"
"""The recorded handlers are made by a helper of ws-wrapper's, which checks; in Python the program does."""


class Stage(Protocol):
    """What sources need of the mirror that they are for."""

    def log(self, kind: str, **fields: Any) -> None: ...

    def gate(self, name: str) -> asyncio.Semaphore: ...

    @property
    def errors_with_props(self) -> bool: ...


def make_source(handler: dict[str, Any], stage: Stage) -> Any:
    """What the handler of kind ``iterable`` returns: a list's iterator, a generator.

    Raises:
        what the handler is recorded to throw; RpcError: it has nothing to iterate.
    """
    spec = handler["iterable"]
    items = to_python(spec.get("items", []))

    def ended() -> None:
        if "then_throw" in spec:
            raise raised_by(spec["then_throw"], with_props=stage.errors_with_props)

    def plain() -> Generator[Any]:
        try:
            yield from items
            ended()
        finally:
            stage.log("generator_finalized", handler=handler["id"])

    async def gated() -> AsyncGenerator[Any]:
        try:
            for position, item in enumerate(items):
                if position and "gate" in spec:
                    await stage.gate(spec["gate"]).acquire()
                yield item
            if "gate" in spec:
                await stage.gate(spec["gate"]).acquire()
            ended()
        finally:
            stage.log("generator_finalized", handler=handler["id"])

    match spec["kind"]:
        case "list":
            return iter(items)  # a list itself would be one result
        case "sync_generator":
            return plain()
        case "async_generator":
            return gated()
        case "value":
            raise RpcError(NOT_ITERABLE)
        case "throw":
            raise raised_by(spec["value"], with_props=stage.errors_with_props)
        case kind:
            raise AssertionError(f"unknown kind of iterable: {kind}")
