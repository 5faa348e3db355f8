"""How a stream ends: the table `STREAM_ENDS`, row by row, as the reader, the handler and the connection see it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from typing import Any

import msgspec
import pytest
from core_driver import Driven, messages, start
from leftovers import nothing_left as nothing_left
from stream_driver import WINDOW, collect, emptied, item
from stream_ends import AT_YIELD, BEGINS_LATE, DONE, NOTHING, OVERFLOWS, REJECTS, STREAM_ENDS
from stream_sides import reading, serving
from waiting import settled

from wsrpc import Context, HandlerFailed, Limits, Peer, RemoteError, RpcError, StreamOverflow
from wsrpc._core.api.peer import current_of
from wsrpc._core.channels.channel_core import ChannelCore
from wsrpc._core.channels.channel_states import ChannelState
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")

ROWS = {row.how: row for row in STREAM_ENDS}


class Oops(RpcError):
    """An error of the application, for the caller."""


def named(exc: BaseException) -> str:
    """What a cell says of an exception."""
    if isinstance(exc, Oops):
        return "its error"
    return "`RemoteError`" if isinstance(exc, RemoteError) else f"`{type(exc).__name__}`"


def ends_in(sent: list[Any], to: str) -> list[str]:
    """What a cell says of those of the messages ``sent`` that tell of an end."""
    last = [each for each in sent if each.get("a", [""])[0] == "next" and each["a"][1:] == [{"done": True}]]
    return [DONE if each in last else f"`{{h, x}}` to {to}" for each in sent if each in last or "x" in each]


def channel_of(peer: Peer) -> ChannelCore:
    [channel] = current_of(peer).channels.all()
    return channel


Within = tuple[Callable[[], AbstractAsyncContextManager[Any]], ...]

WITHIN: dict[str, Within] = {
    "nothing": (),
    "a task group": (asyncio.TaskGroup,),
    "a timeout and task groups": (lambda: asyncio.timeout(3600), asyncio.TaskGroup, asyncio.TaskGroup),
}
"""What may be around a `yield`. A task group raises what ends its body in a group, also the end of the generator."""


class Stage:
    """A handler that streams one item and then waits, and its reader.

    Args:
        within: context managers around the body of the handler.
    """

    def __init__(self, within: Within = ()) -> None:
        self._within = within
        loop = asyncio.get_running_loop()
        self.handler_saw = self.middleware_saw = self.reader_saw = NOTHING
        self.made = 0
        self.handler_ends: asyncio.Future[None] = loop.create_future()
        """Lets the handler return, or raise, after its first item."""
        self.reader_leaves: asyncio.Future[None] | None = None
        """Lets the reader leave its loop, or raise. Without it, the reader waits for the second item."""
        self.handler: asyncio.Task[Any] | None = None
        self.reader: asyncio.Task[Any] | None = None

    async def items(self, count: int = 1) -> AsyncIterator[int]:
        self.handler = asyncio.current_task()
        async with AsyncExitStack() as stack:
            for enter in self._within:
                await stack.enter_async_context(enter())
            try:
                for self.made in range(1, 1 + count):
                    yield self.made
                await self.handler_ends
            except BaseException as exc:
                self.handler_saw = named(exc)
                raise

    async def middleware(self, ctx: Context, call_next: Any) -> Any:
        try:
            return await call_next(ctx)
        except BaseException as exc:
            self.middleware_saw = named(exc)
            raise

    async def read(self, peer: Peer, *args: int, in_block: bool = True) -> None:
        self.reader = asyncio.current_task()
        stream = peer.stream("s", *args)
        try:
            async with stream if in_block else nullcontext():
                async for _ in stream:
                    if self.reader_leaves is not None:
                        return await self.reader_leaves
            self.reader_saw = "the end of its loop"
        except BaseException as exc:
            self.reader_saw = named(exc)


# ---------------------------------------------------------------- between two wsrpc peers

Play = Callable[[Stage, Peer, Peer], object]


def raise_in_handler(s: Stage, left: Peer, right: Peer) -> None:
    s.handler_ends.set_exception(Oops("oops"))


def leave(s: Stage, left: Peer, right: Peer) -> None:
    assert s.reader_leaves is not None
    s.reader_leaves.set_result(None)


def raise_in_block(s: Stage, left: Peer, right: Peer) -> None:
    assert s.reader_leaves is not None
    s.reader_leaves.set_exception(Oops("oops"))


def drop(s: Stage, left: Peer, right: Peer) -> None:
    assert left.transport is not None
    left.transport.abort()


BETWEEN_TWO: list[tuple[str, Play]] = [
    ("the handler returns", lambda s, left, right: s.handler_ends.set_result(None)),
    ("the handler raises", raise_in_handler),
    ("the application cancels the handler's task", lambda s, left, right: s.handler and s.handler.cancel()),
    ("the reader leaves its `async with` block", leave),
    (AT_YIELD, leave),
    ("the reader's block raises", raise_in_block),
    ("the reader's task is cancelled", lambda s, left, right: s.reader and s.reader.cancel()),
    ("Python collects a stream that was not closed", leave),
    ("either side closes the connection", lambda s, left, right: start(left.close())),
    ("either side closes the connection", lambda s, left, right: start(right.close())),
    ("a drop ends the session", drop),
]


@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize(("how", "play"), [pytest.param(*each, id=each[0]) for each in BETWEEN_TWO])
async def test_between_two_wsrpc_peers(how: str, play: Play, within: str, caplog: pytest.LogCaptureFixture) -> None:
    """That a reader left at a `yield` in a task group was logged as an error."""
    s, wire = Stage(WITHIN[within]), list[str]()

    def note(payload: bytes, to: str) -> None:
        decode = msgspec.json.decode if payload.startswith(b"{") else msgspec.msgpack.decode
        wire.extend(ends_in([decode(payload)], to))

    async with pair() as (left, right):
        right.on("s", s.items)
        right.use(s.middleware)
        left.on("message", lambda _, message: note(message.payload, "the reader"))
        right.on("message", lambda _, message: note(message.payload, "the handler's side"))
        if play in (leave, raise_in_block):
            s.reader_leaves = asyncio.get_running_loop().create_future()
        count = [2 * WINDOW] if how == AT_YIELD else []
        reading = start(s.read(left, *count, in_block="Python collects" not in how))
        await settled()
        assert s.made == (WINDOW if count else 1)
        sides = {"reader": channel_of(left), "handler": channel_of(right)}
        ends: dict[str, ChannelState] = {}
        play(s, left, right)
        for _ in range(20):
            await asyncio.sleep(0)
            ends |= {side: channel.state for side, channel in sides.items() if channel.over and side not in ends}
        await reading
        await emptied(left, right)
    saw = (s.reader_saw, s.handler_saw, s.middleware_saw)
    assert (*saw, *(wire or [NOTHING]), ends["reader"], ends["handler"]) == ROWS[how][1:]
    assert messages(caplog, logging.ERROR) == []


@pytest.mark.parametrize("defect", ["in `finally`", "in a task", "an item"])
async def test_a_defect_in_a_generator_that_is_left_is_logged(defect: str, caplog: pytest.LogCaptureFixture) -> None:
    """Besides the end of the generator, which its task group puts into a group, too."""

    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError("secret")

    async def items() -> AsyncIterator[object]:
        async with asyncio.TaskGroup() as group:
            if defect == "in a task":
                group.create_task(fail())
            try:
                for number in range(2 * WINDOW):
                    yield object() if defect == "an item" and number == 1 else number
            finally:
                if defect == "in `finally`":
                    raise KeyError("secret")

    async with pair() as (left, right):
        right.on("s", items)
        stream = left.stream("s")
        with suppress(HandlerFailed):
            async with stream:
                assert [await anext(stream) for _ in range(2)] == [0, 1]
                await settled()
        await emptied(left, right)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    logged = "".join(traceback.format_exception(record.exc_info[1]))
    assert ("TypeError: object cannot be encoded" if defect == "an item" else "KeyError: 'secret'") in logged


# ---------------------------------------------------------------- with JavaScript, which the test plays


async def begin(d: Driven) -> int:
    """JavaScript begins its loop. Return the id of its first item, which is a request."""
    [sent] = await d.fed({"h": 5, "a": ["start"]})
    i: int = sent["i"]
    return i


async def abort(d: Driven) -> list[str]:
    await d.fed({"i": await begin(d)})
    abort = {"h": 5, "x": "bye"}
    return ends_in([abort], "the handler's side") + ends_in(await d.fed(abort), "the reader")


async def reject(d: Driven) -> list[str]:
    return ends_in(await d.fed({"i": await begin(d), "e": "left"}), "the reader")


async def stop(d: Driven) -> list[str]:
    answer = {"i": await begin(d)}
    return ends_in(await d.fed({"h": 5, "a": ["stop"]}, answer), "the reader")


async def begin_late(d: Driven) -> list[str]:
    await settled(Limits().unread_timeout + 1)
    d.expect()
    return ends_in(await d.fed({"h": 5, "a": ["start"]}), "the reader")


WITH_JAVASCRIPT = {
    "JavaScript aborts the channel": abort,
    REJECTS: reject,
    "JavaScript sends `stop`": stop,
    BEGINS_LATE: begin_late,
}


@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize("how", WITH_JAVASCRIPT)
async def test_a_stream_that_javascript_reads(how: str, within: str, caplog: pytest.LogCaptureFixture) -> None:
    row, s = ROWS[how], Stage(WITHIN[within])
    d = await serving(s.items, 5, s.middleware)
    channel = channel_of(d.peer)
    wire = await WITH_JAVASCRIPT[how](d)
    seen = (s.handler_saw, s.middleware_saw, wire, channel.state)
    assert seen == (row.handler, row.middleware, [row.wire], row.handler_side)
    assert messages(caplog, logging.ERROR) == []
    d.assert_empty()


async def test_a_stream_that_javascript_sends() -> None:
    row = ROWS[OVERFLOWS]
    d, stream, h = await reading(limits=Limits(hard_cap_bytes=160_000))
    channel = channel_of(d.peer)
    sent = await d.fed(*[item(h, "x" * 1000)] * 20)
    assert channel.state is row.reader_side
    with pytest.raises(StreamOverflow) as raised:
        await collect(stream)
    assert (named(raised.value), ends_in(sent, "the handler's side")) == (row.reader, [row.wire])
    d.assert_empty()


def test_every_row_is_played() -> None:
    played = {how for how, _ in BETWEEN_TWO} | {*WITH_JAVASCRIPT, OVERFLOWS}
    assert played == {*ROWS}
