"""Uploads by a caller that speaks ws-wrapper by hand, well or badly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import done, item
from stream_sides import reading

from wsrpc import ChannelClosed, Limits

pytestmark = pytest.mark.usefixtures("nothing_left")


async def uploading(handler: Any) -> Driven:
    d = Driven()
    d.peer.on("up", handler)
    assert (await d.fed({"i": 5, "a": ["up"]}))[0] == {"i": 5, "h": 1}
    return d


async def listing(chunks: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in chunks]


async def test_an_upload_by_hand() -> None:
    d = Driven()
    d.peer.on("up", listing)
    assert await d.fed({"i": 5, "a": ["up"]}) == [{"i": 5, "h": 1}, {"h": 5, "a": ["start"]}]
    assert await d.fed(item(5, 1), item(5, 2, 7)) == [{"i": 7, "d": None}]
    assert await d.fed(done(5, 9)) == [{"i": 9, "d": [1, 2]}]
    d.assert_empty()
    assert d.peer.channels == 0


async def test_the_end_said_twice_and_as_an_event() -> None:
    d = await uploading(listing)
    sent = await d.fed(done(5, 7), done(5, 9))
    assert {"i": 7, "d": []} in sent and 9 in {message.get("i") for message in sent}
    d.assert_empty()
    d = await uploading(listing)
    sent = await d.fed(item(5, 1), done(5))
    assert [message.keys() for message in sent] == [{"h", "x", "_"}], "nobody waits for the result: it just ends"
    d.assert_empty()


async def test_a_caller_that_does_not_stop_when_told() -> None:
    async def first(chunks: AsyncIterator[int]) -> int:
        return await anext(chunks)

    d = await uploading(first)
    assert await d.fed(item(5, 1)) == [{"h": 5, "a": ["stop"]}]
    assert await d.fed(*(item(5, n) for n in range(50))) == []
    # JavaScript may not have heard the first `stop` (see `Upload`), so a request has it said again.
    assert await d.fed(item(5, 2, 7)) == [{"i": 7, "d": None}, {"h": 5, "a": ["stop"]}]
    assert await d.fed(done(5, 9)) == [{"i": 9, "d": 1}]
    d.assert_empty()
    d = await uploading(first)
    await d.fed(item(5, 1))
    d.clock.advance(Limits().unread)
    await turns()
    assert [message["h"] for message in d.take() if "x" in message] == [5], "nor for ever"
    assert d.peer.channels == 0
    d.assert_empty()


async def test_reading_from_a_closed_channel() -> None:
    d, stream, h = await reading()
    waiting = start(anext(stream))
    await turns()
    d.feed({"h": str(h), "x": {"message": "closed", "code": "wsrpc.closed"}, "_": 1})
    with pytest.raises(StopAsyncIteration):
        await waiting
    opening = start(d.peer.open_channel("c"))
    await turns()
    i = d.take()[-1]["i"]
    d.feed({"i": i, "h": 1})
    channel = await opening
    channel.close("mine")
    with pytest.raises(ChannelClosed, match="mine"):
        channel.__aiter__()
