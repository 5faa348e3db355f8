"""Credit at the consumer: a window is granted, topped up at half, and never exceeded, and items may come together."""

from __future__ import annotations

from typing import Any

import pytest
from core_driver import Driven, turns
from leftovers import nothing_left as nothing_left
from peers_inside import unread_at
from stream_driver import WINDOW, collect, credit, done, emptied, item, welcome
from stream_driver import both as both
from stream_sides import WINDOW_BYTES, consuming, entered, granted

from wsrpc import Limits, Stream, StreamOverflow
from wsrpc._core.inboxes.credit import SMALLEST_SHARE
from wsrpc.codecs import JsonCodec

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_it_tops_up_when_half_is_read() -> None:
    d, stream, h = await consuming()
    d.expect(credit(h, WINDOW, SMALLEST_SHARE), {"h": h, "a": ["start"]})
    d.feed(*(item(h, n) for n in range(WINDOW)))
    await turns()
    d.expect()  # nothing was read
    for n in range(WINDOW // 2 - 1):
        assert await anext(stream) == n
    d.expect()
    assert await anext(stream) == WINDOW // 2 - 1
    [(n, size)] = granted(d.take(), h)
    assert n == WINDOW // 2 + WINDOW
    assert size > WINDOW_BYTES
    for n in range(WINDOW // 2, WINDOW):
        assert await anext(stream) == n
    [(n, _)] = granted(d.take(), h)
    assert n == 2 * WINDOW
    await stream.aclose()


@pytest.mark.parametrize("together", [False, True])
async def test_it_tops_up_when_half_of_the_bytes_are_read(together: bool) -> None:
    d, stream, h = await reading(Limits(stream_window=8))
    assert d.take()[0] == credit(h, 8, 4096)
    d.feed(*([batch(h, *["x" * 1100] * 3)] if together else [item(h, "x" * 1100)] * 3))
    await anext(stream)
    d.expect()
    await anext(stream)
    [(n, size)] = granted(d.take(), h)
    assert n == 2 + 8 and 4096 + 2200 < size < 4096 + 2400
    await stream.aclose()


async def all_granted(d: Driven, stream: Stream[Any], h: int) -> int:
    """Send and read one item that takes half of the first window, and return how many bytes the consumer then grants
    beyond it."""
    payload = JsonCodec().encode(item(h, "x" * (SMALLEST_SHARE // 2)))
    d.raw(payload)
    await anext(stream)
    [(_, size)] = granted(d.take(), h)
    await stream.aclose()
    return size - len(payload)


@pytest.mark.parametrize("end", ["last item", "abort", "left"])
async def test_streams_that_are_over_leave_the_whole_window_to_the_next_one(end: str) -> None:
    d, stream, h = await consuming()
    for _ in range(WINDOW_BYTES // SMALLEST_SHARE):
        if end == "last item":
            d.feed(done(h))
        elif end == "abort":
            d.feed({"h": h, "x": "bye"})
        else:
            await stream.aclose()
        await turns()
        stream, h = await entered(d)
    d.take()
    assert await all_granted(d, stream, h) == WINDOW_BYTES


async def test_streams_that_are_read_share_the_window() -> None:
    d, stream, h = await consuming()
    others = [(await entered(d))[0] for _ in range(3)]
    d.take()
    assert await all_granted(d, stream, h) == WINDOW_BYTES // 4
    for other in others:
        await other.aclose()


@pytest.mark.parametrize("end", ["the end", "leaving"])
async def test_nothing_is_granted_after_the_end_or_after_leaving(end: str) -> None:
    d, stream, h = await consuming()
    d.take()
    d.feed(*(item(h, n) for n in range(WINDOW)), *([done(h)] if end == "the end" else []))
    if end == "the end":
        assert len(await collect(stream)) == WINDOW
    await stream.aclose()
    assert [message.keys() for message in d.take()] == ([] if end == "the end" else [{"h", "x", "_"}])


# ---------------------------------------------------------------- several items in a message


def batch(h: int, *values: Any) -> dict[str, Any]:
    return {"h": h, "a": ["next", list(values)]}


async def reading(limits: Limits) -> tuple[Driven, Stream[Any], int]:
    """A peer that has agreed to several items in a message, a stream that it has entered, and its channel's id."""
    d = Driven(dialer=True, limits=limits, extensions=True)
    await d.fed(welcome("batches", "credit"))
    return d, *await entered(d)


@pytest.mark.parametrize("unread_bytes", [Limits().unread_bytes, 1], ids=["decoded", "encoded"])
@pytest.mark.parametrize(
    "batches",
    [[[]], [[None, {"value": 1}, [1], "x"]], [[*range(100)], [*range(100)]]],
    ids=lambda batches: str([len(each) for each in batches]),
)
async def test_a_batch_is_read_like_its_items(batches: list[list[Any]], unread_bytes: int) -> None:
    read: list[list[Any]] = []
    for messages in (
        [batch(0, *values) for values in batches],
        [item(0, value) for values in batches for value in values],
    ):
        d, stream, h = await reading(Limits(unread_bytes=unread_bytes))
        d.feed(*({**message, "h": h} for message in messages), done(h))
        await turns()
        read.append(await collect(stream))
        assert unread_at(d.peer) == 0
        await emptied(d.peer)
    assert read[0] == read[1]


@pytest.mark.parametrize("unread_bytes", [Limits().unread_bytes, 1], ids=["decoded", "encoded"])
async def test_an_array_in_a_request_is_one_item(unread_bytes: int) -> None:
    d, stream, h = await reading(Limits(unread_bytes=unread_bytes))
    d.feed({**batch(h, 1, 2, 3), "i": 7}, item(h, 4), done(h))
    await turns()
    assert await collect(stream) == [None, 4], "it has no value, as any item that is no object"
    assert unread_at(d.peer) == 0
    await emptied(d.peer)


@pytest.mark.parametrize(("first", "then"), [([1, 2], [3, 4, 5]), (["x" * 5000], [1, 2, 3])], ids=["items", "bytes"])
async def test_more_than_was_granted_ends_the_stream(first: list[Any], then: list[Any]) -> None:
    d, stream, h = await reading(Limits(stream_window=4))
    d.feed(batch(h, *first), batch(h, *then))
    got: list[Any] = []
    with pytest.raises(StreamOverflow, match="3 items came at once"):
        await collect(stream, got)
    assert got == first
    await emptied(d.peer)
