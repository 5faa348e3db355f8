"""Connections that send on and on do not keep the event loop to themselves."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from core_driver import start
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import TEXT, raw_client

from wsrpc import Client, Limits, Server, current_peer
from wsrpc._transports import fairness
from wsrpc._transports.fairness import MUCH, READ, next_read
from wsrpc._transports.frames import FrameReader

pytestmark = pytest.mark.usefixtures("nothing_left")

EVENTS = 40_000
SENDERS = 8


async def test_others_have_their_turn_after_a_bounded_number_of_messages() -> None:
    server = Server(limits=Limits(close_timeout=2.0))
    seen = most = 0

    @server.on("n")
    def count() -> None:
        nonlocal seen
        seen += 1

    async def watch() -> None:
        nonlocal most
        while seen < EVENTS:
            before = seen
            await asyncio.sleep(0)
            most = max(most, seen - before)

    async with server.listen() as listener, raw_client(listener.port) as raw:
        frame = raw.frame(TEXT, '{"a":["n"]}')
        watching = start(watch())
        await raw.send(frame * EVENTS)
        await turns_until(lambda: watching.done())
        await watching
    assert 1 < most <= READ // len(frame) + 1


async def test_those_that_send_on_and_on_have_their_turns_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "AT_ONCE", 1e-9)  # one at a time, however fast this machine is
    server = Server(limits=Limits(close_timeout=2.0))
    came: dict[str, int] = {}
    all_turns: list[int] = []

    @server.on("n")
    def count() -> None:
        peer = current_peer().id
        came[peer] = came.get(peer, 0) + 1

    async def watch() -> None:
        while sum(came.values()) < EVENTS:
            before = dict(came)
            await asyncio.sleep(0)
            all_turns.append(sum(count > before.get(peer, 0) for peer, count in came.items()))

    async with server.listen() as listener, AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(raw_client(listener.port)) for _ in range(SENDERS)]
        watching = start(watch())
        # Each begins once, and may have a last read that is too small to matter.
        await asyncio.gather(*(raw.send(raw.frame(TEXT, '{"a":["n"]}') * (EVENTS // SENDERS)) for raw in raws))
        await turns_until(lambda: watching.done())
        await watching
    assert set(came.values()) == {EVENTS // SENDERS}
    assert sum(seen > 2 for seen in all_turns) <= SENDERS < sum(seen > 0 for seen in all_turns)


async def test_who_sends_little_is_not_behind_all_those_that_send_on_and_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "AT_ONCE", 1e-9)
    server = Server(limits=Limits(close_timeout=2.0))
    seen = most = 0

    @server.on("n")
    def count() -> None:
        nonlocal seen
        seen += 1

    @server.on("echo")
    def echo(value: int) -> int:
        nonlocal most
        most = max(most, seen - before)
        return value

    async with server.listen() as listener, AsyncExitStack() as stack, Client(listener.url) as client:
        raws = [await stack.enter_async_context(raw_client(listener.port)) for _ in range(SENDERS)]
        flood = [start(raw.send(raw.frame(TEXT, '{"a":["n"]}') * EVENTS)) for raw in raws]
        await turns_until(lambda: seen > SENDERS * 1000)
        for number in range(10):
            before = seen
            assert await client.request("echo", number) == number
        assert seen < SENDERS * EVENTS  # they are still at it
        await asyncio.gather(*flood)
    # From there to the answer are a few turns: not in each of them were all dealt with.
    assert most <= SENDERS * (READ // len(raws[0].frame(TEXT, '{"a":["n"]}')) + 1)


async def test_a_read_takes_more_only_while_messages_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(limits=Limits(close_timeout=2.0))
    reads: list[tuple[int, int]] = []
    came = 0

    def take(text: str) -> None:
        nonlocal came
        came += 1

    server.on("take", take)
    server.on("done", lambda: came)
    parse = FrameReader.feed

    def feed(reader: FrameReader, data: bytes, *others: Any) -> None:
        before = reader.messages
        parse(reader, data, *others)
        if not client_side(reader):
            reads.append((len(data), reader.messages - before))

    def client_side(reader: FrameReader) -> bool:
        return not reader._masked

    async with server.listen() as listener, Client(listener.url) as client:
        monkeypatch.setattr(FrameReader, "feed", feed)
        for size, count in ((200_000, 20), (10, 5000), (4096, 300), (10, 5000)):
            for _ in range(count):
                await client.emit("take", "x" * size)
        assert await client.request("done") == came == 10_320
    room = READ
    for size, messages in reads:
        assert size <= room
        if size >= MUCH:
            room = next_read(size, messages)
    assert max(size for size, _ in reads) > READ


@pytest.mark.parametrize("size", [READ - 20, READ, 3 * READ, 1024 * 1024])
async def test_large_messages_among_small_ones_arrive_whole_and_in_order(size: int) -> None:
    server = Server(limits=Limits(close_timeout=2.0))
    lengths: list[int] = []
    server.on("take", lambda text: lengths.append(len(text)))
    server.on("done", lambda: len(lengths))
    async with server.listen() as listener, Client(listener.url) as client:
        for _ in range(4):
            await client.emit("take", "x" * size)
            for number in range(20):
                await client.emit("take", "x" * number)
        assert await client.request("done") == 84
    assert lengths == [size, *range(20)] * 4
