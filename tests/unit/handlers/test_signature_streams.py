# No `from __future__ import annotations` here, as in test_signature.py; annotations that are text are tried one by one.
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from core_driver import Driven
from leftovers import nothing_left as nothing_left
from stream_driver import emptied

from wsrpc import Context, Peer, Stream
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")


@dataclass
class Chunk:
    offset: int
    data: bytes


async def by_iterator(name: str, chunks: AsyncIterator[Chunk]) -> list[Any]:
    return [name, [chunk async for chunk in chunks]]


async def keyword_only(peer: Peer, name: str, ctx: Context, *, chunks: Stream[Chunk]) -> list[Any]:
    assert ctx.peer is peer
    return [name, [chunk async for chunk in chunks]]


async def with_more(chunks: "Annotated[AsyncIterable[Chunk], 'the file']", *names: str) -> list[Any]:
    return [*names, [chunk async for chunk in chunks]]


@pytest.mark.parametrize("handler", [by_iterator, keyword_only, with_more])
async def test_a_parameter_that_reads_what_is_sent(handler: Any) -> None:
    async with pair() as (left, right):
        right.on("up", handler)
        chunks = [Chunk(0, b"a"), Chunk(1, b"b")]
        name, got = await left.request("up", "n", send=chunks, returns=tuple[str, list[Chunk]])
        assert (name, got) == ("n", chunks)
        await emptied(left, right)


async def test_an_event_for_a_handler_that_reads_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    ran: list[int] = []

    async def up(chunks: AsyncIterator[int]) -> None:
        ran.append(1)

    d.peer.on("up", up)
    assert await d.fed({"a": ["up"]}) == []
    assert ran == [] and "has to be requested" in caplog.text
    d.assert_empty()
