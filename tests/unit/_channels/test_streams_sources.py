"""Every kind of source that a handler may stream from."""

from __future__ import annotations

import asyncio
import threading
from collections import ChainMap, OrderedDict, UserDict, UserList, deque
from collections.abc import AsyncIterator, Iterator
from types import MappingProxyType
from typing import Any

import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from stream_driver import Both, collect, emptied
from stream_driver import both as both

from wsrpc import Server, current_context
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


class Counting:
    """An async iterable that is neither generator nor iterator, and cannot be closed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __aiter__(self) -> AsyncIterator[int]:
        return CountingIterator(self.limit)


class CountingIterator:
    def __init__(self, limit: int) -> None:
        self.left = list(range(limit))

    def __aiter__(self) -> CountingIterator:
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        await asyncio.sleep(0)
        return self.left.pop(0)


async def async_generator(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


def generator(n: int) -> Iterator[int]:
    yield from range(n)


def returns_async_generator(n: int) -> AsyncIterator[int]:
    return async_generator(n)


async def coroutine_returning_an_async_iterator(n: int) -> AsyncIterator[int]:
    await asyncio.sleep(0)
    return async_generator(n)


async def coroutine_returning_an_async_iterable(n: int) -> Counting:
    return Counting(n)


def returns_an_async_iterable(n: int) -> Counting:
    return Counting(n)


def returns_an_iterator(n: int) -> Iterator[int]:
    return iter(range(n))


async def coroutine_returning_an_iterator(n: int) -> Iterator[int]:
    return map(int, range(n))


SOURCES = [
    async_generator,
    generator,
    returns_async_generator,
    coroutine_returning_an_async_iterator,
    coroutine_returning_an_async_iterable,
    returns_an_async_iterable,
    returns_an_iterator,
    coroutine_returning_an_iterator,
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
@pytest.mark.parametrize("n", [0, 1, 200])
async def test_each_kind_of_source_streams(both: Both, source: Any, n: int) -> None:
    left, right = both
    right.on("count", source)
    async with left.stream("count", n, returns=int) as numbers:
        assert await collect(numbers) == list(range(n))
    assert [number async for number in left.stream("count", n)] == list(range(n))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
async def test_each_kind_may_be_left_early(both: Both, source: Any) -> None:
    left, right = both
    right.on("count", source)
    async with left.stream("count", 500) as numbers:
        assert await anext(numbers) == 0


COLLECTIONS: list[Any] = [
    [0, 1, 2],
    (0, 1, 2),
    {0, 1, 2},
    frozenset({0, 1, 2}),
    range(3),
    deque([0, 1, 2]),
    UserList([0, 1, 2]),
    {0: "a", 1: "b", 2: "c"}.keys(),
    {"a": 0, "b": 1, "c": 2}.values(),
    OrderedDict({"a": 0, "b": 1, "c": 2}).values(),
]
MAPPINGS: list[Any] = [{"a": 1}, MappingProxyType({"a": 1}), ChainMap({"a": 1}, {}), UserDict({"a": 1})]


@pytest.mark.parametrize("value", COLLECTIONS + MAPPINGS, ids=lambda value: type(value).__name__)
async def test_collections_are_values_on_every_way(both: Both, value: Any) -> None:
    left, right = both
    expected = {"a": 1} if value in MAPPINGS else [0, 1, 2]
    seen: list[Any] = []

    async def coroutine() -> Any:
        return value

    async def generator() -> AsyncIterator[Any]:
        yield value

    async def upload(items: AsyncIterator[Any]) -> Any:
        return [item async for item in items]

    right.on("plain", lambda: value)
    right.on("coroutine", coroutine)
    right.on("thread", lambda: value, thread=True)
    right.on("items", generator)
    right.on("nested", lambda: {"in": [value]})
    right.on("echo", lambda given: given)
    right.on("note", seen.append)
    right.on("upload", upload)
    for event in ("plain", "coroutine", "thread"):
        assert await left.request(event) == expected
    assert await left.request("nested") == {"in": [expected]}
    assert await left.request("echo", value) == expected
    assert await left.request("upload", send=[value]) == [expected]
    assert await collect(left.stream("items")) == [expected]
    await left.emit("note", value)
    await left.request("plain")
    assert seen == [expected]
    await emptied(right)


async def test_a_hook_of_the_users_own_decides_on_classes_of_the_users_own() -> None:
    class Recent(deque[int]): ...

    server = Server(enc_hook=lambda value: {"recent": list(value)})
    server.on("recent", lambda: [Recent([1]), deque([2])])
    async with connect(server) as client:
        assert await client.request("recent") == [{"recent": [1]}, [2]]


async def test_a_generator_in_a_thread_may_block(both: Both) -> None:
    left, right = both
    go = threading.Semaphore(0)
    threads: set[int] = set()
    finished = threading.Event()

    def blocking(n: int) -> Iterator[int]:
        try:
            for number in range(n):
                go.acquire()
                threads.add(threading.get_ident())
                assert current_context().event == "block"
                yield number
        finally:
            finished.set()

    right.on("block", blocking, thread=True)
    right.on("ping", lambda: "pong")
    async with left.stream("block", 5) as numbers:
        reading = start(collect(numbers))
        assert await left.request("ping") == "pong", "the loop is free while the generator blocks"
        go.release(5)
        assert await reading == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in threads
    assert finished.is_set()


async def test_leaving_closes_a_generator_that_blocks_in_its_thread(both: Both) -> None:
    left, right = both
    go = threading.Event()
    finished = threading.Event()

    def blocking() -> Iterator[int]:
        try:
            yield 0
            go.wait()
            yield 1
        finally:
            finished.set()

    right.on("block", blocking, thread=True)
    async with left.stream("block") as numbers:
        assert await anext(numbers) == 0
    await emptied(left, right)
    assert not finished.is_set(), "what runs in a thread cannot be stopped there"
    go.set()
    await turns_until(finished.is_set)
    await turns()


async def test_nothing_is_an_item_like_any_other(both: Both) -> None:
    left, right = both
    items: list[Any] = [None, 0, "", False, [], {}, {"done": True}, {"value": 1, "done": True}, None]

    async def odd() -> AsyncIterator[Any]:
        for value in items:
            yield value

    right.on("odd", odd)
    assert await collect(left.stream("odd")) == items
