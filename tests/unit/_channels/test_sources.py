"""What a handler streams and what a caller sends: each kind of source, in each use, and each way to end it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, cast

import pytest
from core_driver import messages, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from stream_driver import WINDOW, Both, Source, collect, emptied, total
from stream_driver import both as both

from wsrpc import ConnectionLost, Peer, RemoteError, RpcError, Server, Stream, current_context
from wsrpc.testing import connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- kinds of sources


class Iterable:
    """An async iterable that is neither generator nor iterator, and cannot be closed."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __aiter__(self) -> AsyncIterator[int]:
        return AsyncIteratorOnly(self.n)


class AsyncIteratorOnly:
    def __init__(self, n: int) -> None:
        self.left = iter(range(n))

    def __aiter__(self) -> AsyncIteratorOnly:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0)
        for number in self.left:
            return number
        raise StopAsyncIteration


async def async_generator(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


def generator(n: int) -> Iterator[int]:
    yield from range(n)


def iterator(n: int) -> Iterator[int]:
    return map(int, range(n))


def passes_on(n: int) -> AsyncIterator[int]:
    return async_generator(n)


SOURCES: list[Callable[[int], Any]] = [async_generator, generator, iterator, passes_on, Iterable, AsyncIteratorOnly]


async def as_stream(left: Peer, right: Peer, make: Any, n: int) -> list[Any]:
    right.on("s", make if inspect.isfunction(make) else lambda n: make(n))
    async with left.stream("s", n, returns=int) as numbers:
        first = await collect(numbers)
    assert first == await collect(left.stream("s", n)), "a bare loop reads the same"
    return first


async def as_returned_stream(left: Peer, right: Peer, make: Any, n: int) -> list[Any]:
    async def opens() -> Any:
        await asyncio.sleep(0)
        return make(n)

    right.on("s", opens)
    return await collect(left.stream("s"))


async def as_upload(left: Peer, right: Peer, make: Any, n: int) -> list[Any]:
    async def listing(name: str, items: AsyncIterator[Any]) -> list[Any]:
        return [name, [item async for item in items]]

    right.on("listing", listing)
    name, got = await left.request("listing", "a.bin", send=make(n))
    assert name == "a.bin"
    return list(got)


async def as_two_way_stream(left: Peer, right: Peer, make: Any, n: int) -> list[Any]:
    async def echo(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item

    right.on("echo", echo)
    return await collect(left.stream("echo", send=make(n)))


async def as_relayed_stream(left: Peer, right: Peer, make: Any, n: int) -> list[Any]:
    async with pair() as (middle, origin):
        origin.on("s", lambda: make(n))
        right.on("relay", lambda: middle.stream("s"))
        return await collect(left.stream("relay"))


async def as_relayed_upload(left: Peer, right: Peer, make: Any, n: int) -> list[Any]:
    right.on("s", lambda: make(n))
    return await as_upload(left, right, lambda n: left.stream("s"), n)


USES = [as_stream, as_returned_stream, as_upload, as_two_way_stream, as_relayed_stream, as_relayed_upload]
Use = Callable[[Peer, Peer, Any, int], Any]


@pytest.mark.parametrize("n", [0, 600])
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
async def test_all_items_arrive_in_order_and_once(both: Both, make: Any, use: Use, n: int) -> None:
    assert await use(*both, make, n) == list(range(n))


@pytest.mark.parametrize("use", USES[1:], ids=lambda use: use.__name__)
async def test_nothing_and_odd_values_are_items_like_any_other(both: Both, use: Use) -> None:
    items: list[Any] = [None, 0, "", False, [], {}, {"done": True}, {"value": 1, "done": True}, None]
    assert await use(*both, lambda n: iter(items), 0) == items


@pytest.mark.parametrize("send", [list(range(10)), tuple(range(10)), range(10)], ids=lambda send: type(send).__name__)
async def test_collections_may_be_sent(both: Both, send: Any) -> None:
    both[1].on("total", total)
    assert await both[0].request("total", send=send, returns=int) == 45


@pytest.mark.parametrize(
    "send",
    ["text", b"bytes", bytearray(b"x"), {"a": 1}, 5, Source.items],
    ids=["text", "bytes", "bytearray", "mapping", "number", "function"],
)
async def test_what_is_not_meant_as_items_is_refused_and_nothing_sent(both: Both, send: Any) -> None:
    with pytest.raises(TypeError, match="send="):
        await both[0].request("total", send=send)
    with pytest.raises(TypeError, match="send="):
        async with both[0].stream("total", send=send):
            pass


@pytest.mark.parametrize(
    "value", [UserList([1]), UserDict({"a": 1}), ChainMap({"a": 1}, {})], ids=lambda v: type(v).__name__
)
async def test_a_collection_of_another_class_is_a_value_not_a_stream(both: Both, value: Any) -> None:
    both[1].on("value", lambda: value)
    assert await both[0].request("value") == ([1] if isinstance(value, UserList) else {"a": 1})


async def test_a_hook_of_the_users_own_decides_on_classes_of_the_users_own() -> None:
    class Recent(deque[int]): ...

    server = Server(enc_hook=lambda value: {"recent": list(value)})
    server.on("recent", lambda: [Recent([1]), deque([2])])
    async with connect(server) as client:
        assert await client.request("recent") == [{"recent": [1]}, [2]]


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize("ends", ["read to the end", "left", "fails"])
async def test_a_generator_in_a_thread_may_block(both: Both, ends: str) -> None:
    left, right = both
    go, finished = threading.Semaphore(0), threading.Event()
    threads: set[int] = set()

    def blocking() -> Iterator[int]:
        try:
            for number in range(5):
                if number:
                    go.acquire()
                threads.add(threading.get_ident())
                assert current_context().event == "block"
                yield number
            if ends == "fails":
                raise ValueError("secret")
        finally:
            finished.set()

    right.on("block", blocking, thread=True)
    right.on("ping", lambda: "pong")
    got: list[Any] = []
    async with left.stream("block") as numbers:
        got.append(await anext(numbers))
        assert await left.request("ping") == "pong", "the loop is free while the generator blocks"
        if ends != "left":
            go.release(4)
            reading = start(collect(numbers, got))
            await asyncio.wait([reading])
            assert (reading.exception() is not None) is (ends == "fails")
            assert "secret" not in str(reading.exception()) and got == [0, 1, 2, 3, 4]
    if ends == "left":
        await turns_until(lambda: not (left.channels or right.active))
        assert not finished.is_set(), "what runs in a thread cannot be stopped there"
        go.release()
    await turns_until(finished.is_set)
    await turns_until(lambda: not right.active)
    assert threading.get_ident() not in threads


# ---------------------------------------------------------------- ends


def said(exc: BaseException, reason: Any = None) -> str:
    """What somebody has got, as a text."""
    if isinstance(exc, asyncio.CancelledError | GeneratorExit):
        return f"stopped: {said(reason) if isinstance(reason, ConnectionLost) else reason or exc}"
    if isinstance(exc, ConnectionLost):
        return f"ConnectionLost {exc.code}"
    code = f" ({exc.code}, {exc.data})" if isinstance(exc, RpcError) and exc.code == "E" else ""
    return f"{type(exc).__name__}: {exc}{code}"


class Call:
    """A stream, an upload or a two-way stream, what its source has done, and what its caller and its handler get.

    Who reads the items reads three, or as many as it takes, and rests until ``go`` is set.
    """

    def __init__(self, both: Both, use: str, source: Source) -> None:
        self.left, self.right = both
        self.use = use
        self.source = source
        self.reader_takes = self.handler_takes = -1
        self.fails = False
        self.read: list[int] = []
        self.go = asyncio.Event()
        self.stream: Stream[Any] | None = None
        self.handler = ""
        self.right.on("stream", self.streams)
        self.right.on("two ways", self.translates)
        self.right.on("upload", self.takes_upload)

    async def read_all(self, items: AsyncIterator[int]) -> None:
        async for item in items:
            self.read.append(item)
            if len(self.read) == self.reader_takes:
                break
            if len(self.read) == 3:
                await self.go.wait()

    async def streams(self) -> AsyncIterator[int]:
        with self.handling():
            async with aclosing(cast("AsyncGenerator[int]", self.source.items())) as items:
                async for item in items:
                    yield item

    async def translates(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        with self.handling():
            async for item in items:
                yield item
                if item + 1 == self.handler_takes:
                    break

    async def takes_upload(self, items: AsyncIterator[int]) -> str:
        with self.handling():
            await self.read_all(items)
        return "result"

    @contextmanager
    def handling(self) -> Iterator[None]:
        try:
            yield
            if self.fails:
                raise RpcError("disk full", code="E", data=[1])
            self.handler = "returns"
        except BaseException as exc:
            self.handler = said(exc, current_context().cancel_reason)
            raise

    async def run(self) -> str:
        """Make the call, and return what its caller gets."""
        try:
            if self.use == "upload":
                return str(await self.left.request("upload", send=self.source.items(), timeout=None))
            send = self.source.items() if self.use == "two ways" else None
            async with self.left.stream(self.use, send=send) as self.stream:
                await self.read_all(self.stream)
            return "left" if len(self.read) == self.reader_takes else "the end"
        except BaseException as exc:
            return said(exc)

    async def end(self, task: asyncio.Task[str], how: str) -> None:
        what, _, side = how.partition(" ")
        peer = self.right if side == "right" else self.left
        if what == "cancel":
            task.cancel("bored")
        elif what == "aclose" and self.stream is not None:
            await self.stream.aclose()
        elif what == "drop" and peer.transport is not None:
            peer.transport.abort()
        elif what == "close":
            await peer.close(1001, "bye")


ALL = ["stream", "upload", "two ways"]
ENDS = [
    # how           uses                     the caller gets                   the handler gets
    ("cancel", ALL, "stopped: bored", "stopped: bored"),
    ("aclose", ["stream", "two ways"], "the end", "stopped: Request aborted"),
    ("leave", ["stream", "two ways"], "left", "stopped: Request aborted"),
    ("drop left", ALL, "ConnectionLost 1006", "stopped: ConnectionLost 1006"),
    ("drop right", ALL, "ConnectionLost 1006", "stopped: ConnectionLost 1006"),
    ("close left", ALL, "ConnectionLost 1001", "stopped: ConnectionLost 1001"),
    ("close right", ALL, "ConnectionLost 1001", "stopped: ConnectionLost 1001"),
    ("return", ["upload"], "result", "returns"),
    ("return", ["two ways"], "the end", "returns"),
    ("fail", ["upload", "two ways"], "RemoteError: disk full (E, [1])", "RpcError: disk full (E, [1])"),
]


STATES = ["waits for a value", "waits for its reader", "is over"]


@pytest.mark.parametrize(
    ("use", "how", "state", "caller", "handler"),
    [
        pytest.param(use, how, state, *gets, id=f"{use}, {how}, {state}")
        for how, uses, *gets in ENDS
        for use in uses
        for state in STATES[: 3 if use == "upload" else 2]  # who reads at its own pace finds the end only then
    ],
)
async def test_however_it_ends_both_sides_learn_it_and_the_source_is_closed(
    both: Both, use: str, how: str, state: str, caller: str, handler: str
) -> None:
    source = Source(3 if state == "is over" else 1_000_000, gate=3 if state == "waits for a value" else None)
    call = Call(both, use, source)
    if how in ("return", "fail") and use == "two ways":
        call.handler_takes = 3
    elif how in ("leave", "return", "fail"):
        call.reader_takes = 3
    call.fails = how == "fail"
    task = start(call.run())
    await turns_until(lambda: len(call.read) == 3)
    await turns(20)
    await call.end(task, how)
    await turns(20)
    call.go.set()
    await asyncio.wait([task])
    await emptied(*both)
    assert (task.result(), call.handler) == (caller, handler)
    assert source.closed and source.made <= 3 + 2 * WINDOW + 1


INTERNAL = "HandlerFailed: internal error [id]"
FAILED = "stopped: what was sent failed at its source"
CANCELLED = "the source was cancelled"
HANDLER, CALLER = ["stream"], ["upload", "two ways"]
TAPE = RpcError("no tape", code="E", data=[1])
ERRORS: list[tuple[Any, list[str], str, str]] = [
    # what it raises or yields, uses, what the caller gets, what the handler gets
    (TAPE, HANDLER, "RemoteError: no tape (E, [1])", "RpcError: no tape (E, [1])"),
    (ValueError("secret"), HANDLER, INTERNAL, "ValueError: secret"),
    (asyncio.CancelledError(), HANDLER, INTERNAL, "stopped: "),
    (object(), HANDLER, INTERNAL, "stopped: "),
    (TAPE, CALLER, "RpcError: no tape (E, [1])", "stopped: no tape"),
    (ValueError("secret"), CALLER, "ValueError: secret", FAILED),
    (RemoteError("of a call that it makes"), CALLER, "RemoteError: of a call that it makes", FAILED),
    (object(), CALLER, "TypeError: object cannot be encoded without an enc_hook", FAILED),
    (asyncio.CancelledError(), ["upload"], f"stopped: {CANCELLED}", f"stopped: {CANCELLED}"),
    (asyncio.CancelledError(), ["two ways"], f"RuntimeError: {CANCELLED}", FAILED),
]


class Fails(Source):
    """A source of 0, 1 and an error, or what is not encodable."""

    def __init__(self, last: Any) -> None:
        super().__init__(2)
        self.last = last

    async def items(self) -> AsyncIterator[Any]:
        async for item in super().items():
            yield item
        if isinstance(self.last, BaseException):
            raise self.last
        yield self.last


@pytest.mark.parametrize(
    ("use", "last", "caller", "handler"),
    [
        pytest.param(use, last, *gets, id=f"{use}, {type(last).__name__}")
        for last, uses, *gets in ERRORS
        for use in uses
    ],
)
async def test_an_error_of_the_source_comes_after_its_items(
    both: Both, use: str, last: Any, caller: str, handler: str, caplog: pytest.LogCaptureFixture
) -> None:
    call = Call(both, use, Fails(last))
    call.go.set()
    got = await call.run()
    await emptied(*both)
    if caller == INTERNAL:
        error_id = got[-9:-1]
        got = got.replace(error_id, "id")
        assert error_id in messages(caplog)[0]
    assert (got, call.handler, call.read) == (caller, handler, [0, 1])
