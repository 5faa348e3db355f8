"""Connections that send on and on do not keep the event loop to themselves."""

from __future__ import annotations

from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Limits, Server
from wsrpc._transports.fairness import MUCH, READ, next_read
from wsrpc._transports.frames import FrameReader

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_read_takes_more_only_while_messages_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(limits=Limits(close_timeout=2.0))
    reads: dict[FrameReader, list[tuple[int, int]]] = {}
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
        reads.setdefault(reader, []).append((len(data), reader.messages - before))

    async with server.listen() as listener, Client(listener.url) as client:
        monkeypatch.setattr(FrameReader, "feed", feed)
        for size, count in ((200_000, 20), (10, 5000), (4096, 300), (10, 5000)):
            for _ in range(count):
                await client.emit("take", "x" * size)
        assert await client.request("done") == came == 10_320
    for one_side in reads.values():
        room = READ
        for size, messages in one_side:
            assert size <= room
            if size >= MUCH:
                room = next_read(size, messages)
    assert max(size for one_side in reads.values() for size, _ in one_side) > READ
