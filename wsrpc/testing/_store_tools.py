"""What the checks of `STORE_CHECKS` have in common: calls of a store with defaults, and waiting for an answer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from ..store import Appended, LogState, NewLog, Page, Store

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

SOON = 0.05
"""Seconds after which something should have happened."""
LATER = 0.5
"""Seconds in which something should not happen, also on a busy machine."""
AN_HOUR = 3600.0
LARGEST_NUMBER = 2**53 - 1
"""The largest number of an entry."""


class Connect(Protocol):
    """Connects to a store as each process does. All connections of one check reach the same store, empty at first.

    The options of the first call count: ``lease``, ``log_bytes``, ``payer_bytes``, ``payer_logs`` and ``waiting``,
    which mean what they mean for a `MemoryStore`.
    """

    def __call__(self, **options: Any) -> Store: ...


@contextmanager
def raises(error: type[E]) -> Generator[list[E]]:
    """Check that the block raises this error, which is then in the list."""
    caught = list[E]()
    try:
        yield caught
    except error as exc:
        caught.append(exc)
        return
    raise AssertionError(f"{error.__name__} was not raised")


def new_log(id: str, **fields: Any) -> NewLog:
    """Return a log with an owner."""
    defaults: dict[str, Any] = {"arguments": "[1]", "payer": "ann", "keep": 60.0, "owned": True}
    return NewLog(id=id, **(defaults | fields))


def listed(id: str, topic: str = "t", **fields: Any) -> NewLog:
    """Return a log that stands in a list."""
    return new_log(id, **({"topic": topic, "within": AN_HOUR} | fields))


async def add_own(
    store: Store, number: int, *entries: bytes, id: str = "a", key: str = "k", **options: Any
) -> LogState:
    """Add entries to a log, or end it, as its owner does."""
    return (await store.append(key, id, id, number, entries, **options)).state


async def end(store: Store, end: bytes, id: str = "a", key: str = "k", **options: Any) -> LogState:
    """End a log, as any process may."""
    return (await store.append(key, id, "other", 1, [], end=end, **options)).state


async def add(
    store: Store, writer: str, sequence: int, *entries: bytes, key: str = "k", payer: str = "ann", keep: float = 60.0
) -> Appended:
    """Add entries to a log without an owner."""
    log = NewLog(id=f"log-{writer}", payer=payer, keep=keep)
    return await store.append(key, log, writer, sequence, entries)


async def until(ask: Callable[[], Awaitable[T]], condition: Callable[[T], object]) -> T:
    """Ask again and again, and return the answer for which the condition holds."""
    async with asyncio.timeout(60):
        while True:
            answer = await ask()
            if condition(answer):
                return answer
            await asyncio.sleep(0.002)


async def state_of(store: Store, key: str = "k") -> LogState | None:
    page = await store.read(key, 2**53 - 1)
    return None if page is None else page.state


async def page_of(store: Store, after: int = 0, key: str = "k", **options: Any) -> Page:
    page = await store.read(key, after, **options)
    assert page is not None
    return page


async def entries_of(store: Store, after: int = 0, key: str = "k") -> list[bytes]:
    """Read all entries that are there, page by page."""
    entries: list[bytes] = []
    while (page := await page_of(store, after, key)).entries:
        assert page.number == after + 1
        after += len(page.entries)
        entries += page.entries
    return entries


Check = Callable[[Connect], Awaitable[None]]
"""Check of a store. Its name states what must hold."""


def checks_in(module: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return the public coroutine functions of a module whose only parameter is ``connect``, in their order."""
    public = [each for name, each in module.items() if not name.startswith("_") and inspect.iscoroutinefunction(each)]
    return tuple(each for each in public if [*inspect.signature(each).parameters] == ["connect"])
