"""What a handler streams and what a caller sends: each kind of source, in each use, and what its errors become."""

from __future__ import annotations

import asyncio
import inspect
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import AsyncIterator, Callable, Iterator
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from core_driver import messages, start
from leftovers import nothing_left as nothing_left
from stream_driver import Both, Feed, Log, collect, emptied, total
from stream_driver import both as both
from waiting import settled

from wsrpc import (
    BadArguments,
    BadResult,
    HandlerFailed,
    Limits,
    Peer,
    RemoteError,
    RequestTimeout,
    RpcError,
    UnknownEvent,
    current_context,
)
from wsrpc._core.channels.source import iterate
from wsrpc.codecs import JsonCodec, MsgpackCodec
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- kinds of sources


class AsyncIteratorOnly:
    """What is neither a generator nor can be closed."""

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


async def as_stream(left: Peer, right: Peer, make: Any, n: int) -> list[Any]:
    right.on("s", make if inspect.isfunction(make) else lambda n: make(n))
    async with left.stream("s", n, returns=int) as numbers:
        first = await collect(numbers)
    assert first == await collect(left.stream("s", n)), "a bare loop reads the same"
    return first


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


USES = [as_stream, as_upload, as_two_way_stream, as_relayed_stream]
Use = Callable[[Peer, Peer, Any, int], Any]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
async def test_all_items_arrive_in_order_and_once(both: Both, use: Use) -> None:
    for make, n in ((async_generator, 600), (generator, 0), (generator, 600), (iterator, 40), (AsyncIteratorOnly, 600)):
        assert await use(*both, make, n) == list(range(n)), make


def one_row(n: int) -> Iterator[Any]:
    row: dict[Any, Any] = {"id": 0, "at": datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), "of": b"\x00"}
    for row["id"] in range(n):
        yield row


def one_list_in_a_list(n: int) -> Iterator[Any]:
    inner = [0]
    for inner[0] in range(n):
        yield [inner]


def one_buffer(n: int) -> Iterator[Any]:
    buffer = bytearray(1)
    for buffer[0] in range(n):
        yield buffer


async def one_row_asynchronously(n: int) -> AsyncIterator[Any]:
    for row in one_row(n):
        yield row


async def as_plain_stream(left: Peer, right: Peer, make: Any, n: int) -> list[Any]:
    right.on("s", lambda: make(n))
    return await collect(left.stream("s"))


class Reversed(JsonCodec):
    """A codec of a user's, of which a part of a message is not encoded like a message."""

    def __init__(self) -> None:
        super().__init__()
        encode, decode = self.encode, self.decode
        self.encode = lambda message: b"{" + encode(message)[::-1]
        self.decode = lambda payload: decode(bytes(payload)[:0:-1])


CHANGING: list[Any] = [one_row, one_list_in_a_list, one_buffer, one_row_asynchronously]
ENCODINGS: dict[str, dict[str, Any]] = {
    "negotiated": {},
    "JSON": {"extensions": False},
    "MessagePack": {"codec": MsgpackCodec()},
    "own codec": {"codec": Reversed()},
}


@pytest.mark.parametrize(
    ("use", "encoding", "make"),
    [
        *((as_plain_stream, name, make) for name in ENCODINGS for make in CHANGING),
        *((use, name, one_row) for use in USES[1:] for name in ("negotiated", "JSON")),
    ],
    ids=lambda part: part if isinstance(part, str) else part.__name__,
)
async def test_an_item_is_sent_as_it_was_when_its_source_yielded_it(make: Any, use: Use, encoding: str) -> None:
    """Items of one message were encoded together, so a generator that filled one row sent its last row many times."""
    copies = [deepcopy(value) async for value in iterate(make(40))]
    async with pair(**ENCODINGS[encoding]) as peers:
        got = await use(*peers, make, 40)
        assert got == await use(*peers, lambda n: iter(copies), 40) and len(got) == 40 and got[0] != got[1]
        await emptied(*peers)


async def test_collections_may_be_sent_and_what_is_not_meant_as_items_is_refused(both: Both) -> None:
    left, right = both
    right.on("total", total)
    for send in ([1, 2], (1, 2), range(3)):
        assert await left.request("total", send=send, returns=int) == 3
    wrong: Any
    for wrong in ("text", b"bytes", {"a": 1}, 5, generator):
        with pytest.raises(TypeError, match="send="):
            await left.request("total", send=wrong)
        with pytest.raises(TypeError, match="send="):
            await anext(left.stream("total", send=wrong))
    for value, arrives in ((UserList([1]), [1]), (UserDict({"a": 1}), {"a": 1}), (ChainMap({"a": 1}, {}), {"a": 1})):
        right.on("value", lambda value=value: value)
        assert await left.request("value") == arrives, "a collection of another class is a value, not a stream"


async def test_a_hook_of_the_users_own_decides_on_classes_of_the_users_own() -> None:
    class Recent(deque[int]): ...

    async with pair(codec=JsonCodec(enc_hook=lambda value: {"recent": list(value)})) as (left, right):
        right.on("recent", lambda: [Recent([1]), deque([2])])
        assert await left.request("recent") == [{"recent": [1]}, [2]]


# ---------------------------------------------------------------- errors


INTERNAL = "HandlerFailed: internal error"
FAILED = "what was sent failed at its source"
CANCELLED = "the source was cancelled"
TAPE = RpcError("no tape", code="E")
ERRORS: list[tuple[str, Any, str, str]] = [
    # the call, what its source raises or yields, what the caller gets, and what stops a handler that reads
    ("stream", TAPE, "RemoteError: no tape", ""),
    ("stream", ExceptionGroup("tasks", [TAPE]), "RemoteError: no tape", ""),
    ("stream", ValueError("secret"), INTERNAL, ""),
    ("stream", asyncio.CancelledError(), INTERNAL, ""),
    ("stream", object(), INTERNAL, ""),
    ("upload", TAPE, "RpcError: no tape", "no tape"),
    ("upload", ExceptionGroup("tasks", [TAPE]), "ExceptionGroup: tasks", "no tape"),
    ("upload", ValueError("secret"), "ValueError: secret", FAILED),
    ("upload", RemoteError("of a call that it makes"), "RemoteError: of a call that it makes", FAILED),
    ("upload", object(), "TypeError: object cannot be encoded without an enc_hook that converts it", FAILED),
    ("upload", asyncio.CancelledError(), f"CancelledError: {CANCELLED}", CANCELLED),
    ("two ways", asyncio.CancelledError(), f"RuntimeError: {CANCELLED}", FAILED),
]


@pytest.mark.parametrize(
    ("call", "last", "caller", "handler"),
    [pytest.param(*row, id=f"{row[0]}, {type(row[1]).__name__}") for row in ERRORS],
)
async def test_an_error_comes_after_items(
    both: Both, call: str, last: Any, caller: str, handler: str, caplog: Log
) -> None:
    left, right = both
    read: list[int] = []
    reasons: list[str] = []

    async def source() -> AsyncIterator[Any]:
        for number in range(2):
            yield number
        if isinstance(last, BaseException):
            raise last
        yield last

    async def upload(items: AsyncIterator[int]) -> None:
        try:
            await collect(items, read)
        except asyncio.CancelledError:
            reasons.append(str(current_context().cancel_reason))
            raise

    async def two_ways(items: AsyncIterator[int]) -> AsyncIterator[int]:
        await upload(items)
        yield 0

    for name, handles in (("stream", source), ("upload", upload), ("two ways", two_ways)):
        right.on(name, handles)
    send = None if call == "stream" else source()
    calling = left.request(call, send=send) if call == "upload" else collect(left.stream(call, send=send), read)
    with pytest.raises(BaseException) as caught:
        await calling
    await emptied(left, right)
    assert f"{type(caught.value).__name__}: {caught.value}".startswith(caller) and read == [0, 1]
    assert reasons == ([handler] if handler else [])
    if send is not None and isinstance(caught.value, RpcError):
        assert caught.value.outcome == "unknown", "the handler has got items"
    if isinstance(caught.value, HandlerFailed):
        assert str(caught.value.error_id) in messages(caplog)[0]


# ---------------------------------------------------------------- mistakes


async def reads_nothing(items: AsyncIterator[int]) -> str:
    return "not interested"


async def doubled(items: AsyncIterator[int]) -> AsyncIterator[int]:
    async for item in items:
        yield 2 * item


MISTAKES: list[tuple[str, tuple[Any, ...], Any, type[Exception], str]] = [
    # what is called, with which arguments, what is sent ("request": not as a stream), error, its text
    ("total", (), None, BadResult, "'total' reads items that its caller sends: give send="),
    ("total", (), [1, 2], BadResult, r"^(?=.*'total').*send="),
    ("value", (), None, BadResult, "not a channel but int.*streams"),
    ("value", (), "request", BadResult, "the response to 'value' is not a channel but int.*reads what is sent"),
    ("nobody", (), None, UnknownEvent, "nobody"),
    ("total", ("too", "many"), "request", BadArguments, "total"),
    ("reads_nothing", (), "request", BadResult, "'reads_nothing'.*`int`"),
    ("yields", (), "request", RemoteError, "'yields' yields items: it is opened with stream()"),
    ("doubled", (), "request", RemoteError, "'doubled' yields items: it is opened with stream()"),
]


@pytest.mark.parametrize(
    ("event", "args", "send", "error", "text"), [pytest.param(*row, id=f"{row[0]}, {row[2]}") for row in MISTAKES]
)
async def test_a_mistaken_call_fails(
    request: pytest.FixtureRequest, both: Both, event: str, args: Any, send: Any, error: Any, text: str
) -> None:
    left, right = both
    right.on("value", lambda: 5)
    right.on("total", total)
    right.on("reads_nothing", reads_nothing)
    right.on("yields", Feed())
    right.on("doubled", doubled)
    if "yields items" in text and not request.node.callspec.params["both"]:  # plain peers wait for each other
        error, text = RequestTimeout, "no response"
    source, began = Feed(), asyncio.get_running_loop().time()
    if send == "request":
        items = source()
        await anext(items)  # it has begun, so there is something to close
        with pytest.raises(error, match=text):
            await left.request(event, *args, send=items, returns=int)
        assert source.finished.is_set() and source.made <= 2
        assert error is RequestTimeout or asyncio.get_running_loop().time() - began < 1
    else:
        with pytest.raises((error, RemoteError) if send else error, match=text):
            await collect(left.stream(event, *args, send=send))


async def test_an_upload_takes_no_place_that_a_request_needs() -> None:
    async def waits(items: AsyncIterator[int]) -> int:
        result = await total(items)
        await go.wait()
        return result

    go = asyncio.Event()
    async with pair(limits=Limits(running=1, waiting=0)) as (left, right):
        right.on("waits", waits)
        right.on("go", go.set)
        uploading = start(left.request("waits", send=[1, 2, 3]))
        await settled()
        await left.request("go")
        assert await uploading == 6
        await emptied(left, right)
