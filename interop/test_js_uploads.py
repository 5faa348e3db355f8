"""Uploads between Python and plain JavaScript, which sends and takes items by hand: js/by_hand.mjs shows how."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from interop.peers import COMBINATIONS_4, Agents, Link, Role, closed_with, named, nothing_open
from wsrpc import Limits, RemoteError, RpcError

pytestmark = pytest.mark.asyncio(loop_scope="session")

N = 1000
"""Items of an upload that is not meant to be read to its end."""


class Uploads:
    """Handlers that read what they are sent, and what became of them."""

    def __init__(self, link: Link) -> None:
        self.started: asyncio.Queue[str] = asyncio.Queue()
        self.ended: asyncio.Queue[Any] = asyncio.Queue()
        """For each: None where it came to its end, else what cancelled it."""
        self.gate = asyncio.Event()
        for place in (link.app, link.app.of("math")):
            for function in (self.upload, self.some, self.none, self.failing, self.waiting, self.doubled):
                place.on(function.__name__, function)

    async def upload(self, name: str, chunks: AsyncIterator[int]) -> int:
        self.started.put_nowait(name)
        try:
            total = 0
            async for chunk in chunks:
                total += chunk
        except asyncio.CancelledError as exc:
            self.ended.put_nowait(exc.args[0] if exc.args else None)
            raise
        self.ended.put_nowait(None)
        return total

    async def some(self, n: int, chunks: AsyncIterator[int]) -> list[int]:
        return [await anext(chunks) for _ in range(n)]

    async def none(self, chunks: AsyncIterator[int]) -> str:
        return "no, thanks"

    async def failing(self, n: int, chunks: AsyncIterator[int]) -> int:
        for _ in range(n):
            await anext(chunks)
        raise RpcError("it failed", code="E_FAIL", data={"attempt": 1})

    async def waiting(self, fails: bool, chunks: AsyncIterator[int]) -> int:
        self.started.put_nowait("waiting")
        await self.gate.wait()
        if fails:
            raise RpcError("it failed")
        return sum([chunk async for chunk in chunks])

    async def doubled(self, chunks: AsyncIterator[int]) -> AsyncIterator[int]:
        async for chunk in chunks:
            yield 2 * chunk


@pytest.fixture
def uploads(link_4: Link) -> Uploads:
    return Uploads(link_4)


class Source:
    """Items to send, and whether their generator was closed."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = asyncio.Event()

    async def items(self, n: int | None = None) -> AsyncIterator[int]:
        try:
            for k in itertools.count() if n is None else range(n):
                self.made += 1
                yield k
        finally:
            self.closed.set()

    async def failing(self, n: int, error: Exception) -> AsyncIterator[int]:
        async for k in self.items(n):
            yield k
        raise error


# ---------------------------------------------------------------- JavaScript sends


@pytest.mark.parametrize("n", [0, 1, 1000])
async def test_javascript_uploads(link_4: Link, uploads: Uploads, n: int) -> None:
    for channel in (None, "math"):
        got = await link_4.call("upload", event="upload", args=["numbers"], n=n, channel=channel)
        assert got == {"resolved": sum(range(n)), "sent": n}
        assert await uploads.started.get() == "numbers"
        assert await uploads.ended.get() is None


async def test_a_python_handler_that_wants_no_more(link_4: Link, uploads: Uploads) -> None:
    """It says ``stop``; what it returned answers the end that JavaScript then sends."""
    for event, args, result in [("some", [3], [0, 1, 2]), ("none", [], "no, thanks")]:
        got = await link_4.call("upload", event=event, args=args, n=N)
        assert got["resolved"] == result
        assert got["sent"] < N


async def test_javascript_that_does_not_listen_for_stop(link_4: Link, uploads: Uploads) -> None:
    channel = await link_4.ask("some", 1)
    for k in range(200):
        assert await link_4.ask("next", {"value": k, "done": False}, channel=channel) is None
    assert await link_4.ask("next", {"done": True}, channel=channel) == [0]
    await link_4.call("close_channel", channel=channel)


async def test_items_as_events(link_4: Link, uploads: Uploads) -> None:
    """Without back-pressure, but no less right; only the end must be a request, or there is nothing to answer."""
    channel = await link_4.ask("upload", "numbers")
    for k in range(10):
        await link_4.tell("next", {"value": k, "done": False}, channel=channel)
    assert await link_4.ask("next", {"done": True}, channel=channel) == 45
    await link_4.call("close_channel", channel=channel)


async def test_items_that_do_not_fit(link_4: Link, uploads: Uploads) -> None:
    channel = await link_4.ask("upload", "numbers")
    await link_4.ask("next", {"value": 1, "done": False}, channel=channel)
    await link_4.tell("next", {"value": "two", "done": False}, channel=channel)
    thrown = await link_4.ask_in_vain("next", {"done": True}, channel=channel)
    assert thrown["props"]["code"] == "wsrpc.bad_item"
    await link_4.call("close_channel", channel=channel)


@pytest.mark.parametrize("n", [0, 3])
async def test_a_python_handler_that_fails(link_4: Link, uploads: Uploads, n: int) -> None:
    got = await link_4.call("upload", event="failing", args=[n], n=N)
    assert got["sent"] < N
    assert (got["rejected"]["message"], got["rejected"]["props"]) == (
        "it failed",
        {"code": "E_FAIL", "data": {"attempt": 1}},
    )


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("library", "role"), COMBINATIONS_4, ids=named(COMBINATIONS_4))
async def test_a_slow_python_handler_holds_javascript_back(
    agents: Agents, library: str, role: Role, fails: bool
) -> None:
    async with agents.link(library, role, limits=Limits(stream_window=4)) as link:
        uploads = Uploads(link)
        uploading = asyncio.create_task(link.call("upload", event="waiting", args=[fails], n=100))
        await uploads.started.get()
        await link.journal("sent", at_least=5)
        await link.quiet()  # an answer to the fifth would have come before this
        assert await link.journal("sent", at_least=0) == []
        uploads.gate.set()
        got = await uploading
        if fails:
            assert got["rejected"]["message"] == "it failed"
            assert got["sent"] <= 6  # the next one was taken from its source, and not sent
        else:
            assert got == {"resolved": sum(range(100)), "sent": 100}
        await nothing_open(link)


async def test_javascript_aborts_its_upload(link_4: Link, uploads: Uploads) -> None:
    for reason in ("bored", {"why": 1}):
        channel = await link_4.ask("upload", "numbers")
        assert await link_4.ask("next", {"value": 1, "done": False}, channel=channel) is None
        await link_4.call("abort_channel", channel=channel, reason=reason)
        assert await uploads.ended.get() == reason


async def test_javascript_sends_and_reads(link_4: Link, uploads: Uploads) -> None:
    for n in (0, 1, 500):
        got = await link_4.call("exchange", event="doubled", n=n)
        assert got == {"items": [2 * k for k in range(n)]}


# ---------------------------------------------------------------- Python sends


@pytest.mark.parametrize("n", [0, 1, 1000])
async def test_python_uploads(link_4: Link, n: int) -> None:
    source = Source()
    for caller in (link_4.peer, link_4.peer.of("math")):
        assert await caller.request("total", send=range(n), returns=int) == sum(range(n))
        assert await caller.request("total", send=source.items(n), returns=int) == sum(range(n))
        assert source.closed.is_set()
    taken = await link_4.journal("taken", at_least=4 * n)
    assert [entry["item"] for entry in taken] == list(range(n)) * 4


async def test_a_javascript_handler_that_wants_no_more(link_4: Link) -> None:
    source = Source()
    assert await link_4.peer.request("total", {"enough": 10}, send=source.items(), returns=int) == 10
    assert source.closed.is_set()
    assert source.made in (5, 6)  # one may have been on its way


async def test_a_javascript_handler_that_fails(link_4: Link) -> None:
    source = Source()
    with pytest.raises(RemoteError, match=r"^the sum is wrong$"):
        await link_4.peer.request("total", {"wrong": 3}, send=source.items())
    assert (source.closed.is_set(), source.made) == (True, 4)
    await closed_with(link_4)


async def test_a_javascript_handler_that_aborts(link_4: Link) -> None:
    source = Source()
    with pytest.raises(RemoteError, match=r"^the sum is wrong$"):
        await link_4.peer.request("total", {"wrong": 3, "abort": True}, send=source.items())
    assert source.closed.is_set()


async def test_a_source_that_fails(link_4: Link) -> None:
    for error, message in [
        (ValueError("the password is secret"), "what was sent failed at its source"),
        (RpcError("the disk is broken", code="E_DISK"), "the disk is broken"),
    ]:
        source = Source()
        with pytest.raises(type(error), match=str(error)):
            await link_4.peer.request("total", send=source.failing(3, error))
        assert source.closed.is_set()
        assert (await closed_with(link_4))["message"] == message


async def test_python_cancels_its_upload(link_4: Link) -> None:
    source = Source()
    sending = asyncio.create_task(link_4.peer.request("total", send=source.items()))
    await link_4.journal("taken", at_least=3)
    sending.cancel("bored")
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert source.closed.is_set()
    assert (await closed_with(link_4))["value"] == "bored"


async def test_python_sends_and_reads(link_4: Link) -> None:
    for n in (0, 1, 500):
        async with link_4.peer.stream("doubled", send=range(n), returns=int) as items:
            assert [item async for item in items] == [2 * k for k in range(n)]


async def test_python_stops_reading_while_it_sends(link_4: Link) -> None:
    source = Source()
    async with link_4.peer.stream("doubled", send=source.items()) as items:
        assert [await anext(items) for _ in range(3)] == [0, 2, 4]
    await source.closed.wait()
    await closed_with(link_4)
