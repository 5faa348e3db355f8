"""The items of a named channel: ws-wrapper's ``start`` and ``next`` without an anonymous channel, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, redialing, rejection, start
from leftovers import nothing_left as nothing_left
from peers_inside import reads_nothing
from stream_driver import WINDOW, Both, Log, collect
from stream_driver import both as both
from waiting import settled, until

from wsrpc import BadResult, ChannelClosed, ConnectionLost, Limits, Peer, RemoteError, RpcError, Stream, StreamOverflow

pytestmark = pytest.mark.usefixtures("nothing_left")

START = {"a": ["start"], "c": "feed"}


def following(value: Any, i: int | None = None) -> dict[str, Any]:
    message: dict[str, Any] = {"a": ["next", {"value": value, "done": False}], "c": "feed"}
    return message if i is None else {"i": i, **message}


def end(i: int | None = None, **fields: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"a": ["next", {"done": True, **fields}], "c": "feed"}
    return message if i is None else {"i": i, **message}


async def begun(d: Driven, **options: Any) -> tuple[Stream[Any], asyncio.Task[Any]]:
    """A stream of the items, and the task of its first read."""
    items = d.peer.of("feed").items(**options)
    first = start(anext(items))
    assert await d.fed() == [START]
    return items, first


# ---------------------------------------------------------------- consuming


async def test_the_first_read_says_start_and_done_ends_it() -> None:
    d = Driven()
    items = aiter(d.peer.of("feed"))
    d.assert_empty()
    reading = start(collect(items))
    assert await d.fed() == [START]
    await d.fed(following(1), following(None), {"a": ["next"], "c": "feed"}, end())
    assert await reading == [1, None, None]
    assert reads_nothing(d.peer)
    items, first = await begun(d, returns=int)
    await d.fed(following("one"), following(2), end(e="failed"))
    with pytest.raises(BadResult, match="an item of 'feed'"):
        await first
    assert await anext(items) == 2
    with pytest.raises(RemoteError, match="failed"):
        await anext(items)
    assert not d.peer.ignored


async def test_items_that_are_requests_are_answered_as_there_is_room() -> None:
    d = Driven(limits=Limits(stream_window=2))
    items, first = await begun(d)
    assert await d.fed(following(0, 1)) == [{"i": 1, "d": None}] and await first == 0
    assert await d.fed(following(1, 3), following(2, 5)) == [{"i": 3, "d": None}, {"i": 5, "d": None}]
    assert await d.fed(following(3, 7)) == []  # it waits for the reader
    assert [await anext(items) for _ in range(3)] == [1, 2, 3]
    assert await d.fed(end(9)) == [{"i": 7, "d": None}, {"i": 9, "d": None}]
    assert await collect(items) == []
    assert reads_nothing(d.peer)


async def test_a_request_that_is_too_much_is_rejected_so_that_its_producer_does_not_wait() -> None:
    """Items that overflowed on one connection were answered on the next one."""
    d = redialing(limits=Limits(hard_cap_bytes=160_000, stream_window=1))
    others = d.peer.of("feed").events("other")  # keeps the channel from one connection to the next
    items, first = await begun(d)
    sent = await d.fed(*(following("x" * 3000, 2 * n + 1) for n in range(5)))
    assert await first == "x" * 3000
    assert [message["i"] for message in sent if "e" in message] == [7, 9]
    d.transport.lose()
    d.rebind()
    _, again = await begun(d)
    with pytest.raises(StreamOverflow):
        await collect(items)
    assert d.take() == []
    assert await d.fed(following(1, 1)) == [{"i": 1, "d": None}] and await again == 1
    await others.aclose()
    await d.peer.close()


async def test_one_reader_of_items_beside_which_other_events_are_read_and_handled() -> None:
    d, handled = Driven(), list[int]()
    feed = d.peer.of("feed")
    feed.on("said", handled.append)
    items, first = await begun(d)
    said = feed.events("said")
    with pytest.raises(RuntimeError, match="are being read already"):
        feed.items()
    with pytest.raises(RuntimeError, match="'next' cannot be read as events"):
        feed.events("next")
    await d.fed({"a": ["said", 1], "c": "feed"}, following(2))
    assert (await first, await anext(said), handled) == (2, 1, [1])
    await items.aclose()
    await said.aclose()
    async with feed.events("next"):
        with pytest.raises(RuntimeError, match="are being read already"):
            feed.items()


@pytest.mark.parametrize(("how", "error"), [("close", ChannelClosed), ("drop", ConnectionLost)])
async def test_the_channel_or_the_connection_ends_it(how: str, error: type[Exception]) -> None:
    d = Driven(keeps_offline=True)  # as a client's
    items, first = await begun(d)
    await d.fed(following(1, 1), following(2, 3))
    assert await first == 1
    d.take()
    if how == "close":
        d.peer.of("feed").close("enough")
    else:
        d.transport.lose()
        d.rebind()
    assert await anext(items) == 2
    with pytest.raises(error):
        await anext(items)
    assert await d.fed() == [] and reads_nothing(d.peer)


async def test_a_producer_learns_from_its_next_item_that_nobody_reads() -> None:
    d = Driven()
    items, first = await begun(d)
    await d.fed(following(1, 1), *(following(2, i) for i in (3, 5)))
    assert await first == 1
    d.take()
    await items.aclose()
    assert d.take() == []
    assert "'feed'" in rejection(await d.fed(following(2, 7)), 7)["message"]
    assert d.peer.stats().misfits == {"feed:next: unknown event": 1} and reads_nothing(d.peer)


async def test_requests_that_wait_for_a_reader_are_answered_when_the_channel_is_closed() -> None:
    d = Driven(limits=Limits(stream_window=1))
    items, first = await begun(d)
    await d.fed(following(1, 1), following(2, 3))
    assert [await first, d.take()] == [1, []]
    d.feed(following(3, 5))
    d.peer.of("feed").close()
    assert sorted(each["i"] for each in d.take()) == [3, 5]
    assert [await anext(items), await anext(items)] == [2, 3]


# ---------------------------------------------------------------- producing


class Producer:
    """A peer with handlers for ``start``, and how many have ended."""

    def __init__(self, peer: Peer | None = None, *, ordered: bool = False) -> None:
        self.d = Driven()
        peer = peer or self.d.peer
        self.ended = self.made = 0
        peer.of("feed", ordered=ordered).on("start", self.numbers)
        peer.of("listed").on("start", lambda: iter([1, 2]))
        peer.of("failing").on("start", self.failing)

    async def starts(self, *args: Any, channel: str = "feed") -> list[Any]:
        return await self.d.fed({"a": ["start", *args], "c": channel})

    async def numbers(self, n: int = 3) -> AsyncIterator[int]:
        try:
            for k in range(n):
                self.made += 1
                yield k
            if n == 0:
                await asyncio.Event().wait()
        finally:
            self.ended += 1

    async def failing(self, kind: str = "rpc") -> AsyncIterator[int]:
        yield 1
        raise RpcError("it failed", code="E") if kind == "rpc" else ValueError("secret")

    def assert_over(self, ended: int) -> None:
        assert self.ended == ended and not self.d.peer.ignored and reads_nothing(self.d.peer)
        self.d.assert_empty()


async def test_a_consumer_that_rejects_an_item_has_left() -> None:
    made = Producer()
    for channel, first in (("feed", 0), ("listed", 1)):
        [request] = await made.starts(channel=channel)
        assert request["a"][1]["value"] == first
        rejected = {"i": request["i"], "e": {"message": "No event listener for 'next'"}, "_": 1}
        assert await made.d.fed(rejected) == []
    assert made.made == 1
    made.assert_over(1)


@pytest.mark.parametrize("then", ["item", "error"])
async def test_a_generator_that_outlives_its_stream_is_silent(then: str, caplog: Log) -> None:
    d, starts = Driven(), list[int]()

    @d.peer.of("feed").on("start")
    async def feed() -> AsyncIterator[str]:
        starts.append(1)
        if len(starts) > 1:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if then == "item":
                yield "late"
            raise ValueError("in the cleanup") from None

    assert await d.fed(START) == []
    assert await d.fed(START) == [end()]  # of the second one
    d.assert_empty()
    assert not d.peer.ignored and ("in the cleanup" in caplog.text) is (then == "error")


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_second_start_begins_anew(ordered: bool) -> None:
    made = Producer(ordered=ordered)
    made.d.peer.of("feed").on("note", lambda value: value)
    assert await made.starts(0) == []
    assert await made.d.fed({"a": ["note", 1], "c": "feed", "i": 7}) == [{"i": 7, "d": 1}]
    sent = await made.starts(2)
    assert made.ended == 1 and made.d.peer.active == 1
    for value in range(2):
        [request] = sent
        i = request.pop("i")
        assert request == following(value)
        sent = await made.d.fed({"i": i})
    assert sent == [end()]
    made.assert_over(2)


async def test_an_error_travels_with_the_end(caplog: Log) -> None:
    made = Producer()
    for kind, message in (("rpc", "it failed"), ("internal", "internal error")):
        [request] = await made.starts(kind, channel="failing")
        [last] = await made.d.fed({"i": request["i"]})
        assert last["a"][1]["done"] is True and last["a"][1]["e"]["message"] == message
    assert "secret" in caplog.text and caplog.text.count("ERROR") == 1
    made.assert_over(0)


@pytest.mark.parametrize("raised", [False, True], ids=["the task is cancelled", "the generator raises it"])
@pytest.mark.parametrize("at", ["the generator waits", "an item is sent", "the connection is full"])
async def test_a_cancellation_travels_with_the_end(raised: bool, at: str, caplog: Log) -> None:
    """The consumer was not told, and waited without a limit."""
    d, go, tasks = Driven(), asyncio.Event(), list[Any]()

    @d.peer.of("feed").on("start")
    async def feed() -> AsyncIterator[int]:
        tasks.append(asyncio.current_task())
        if at == "an item is sent":
            yield 1
        await go.wait()
        raise asyncio.CancelledError

    sent = await d.fed(START)
    [task] = tasks
    if not raised:
        task.cancel("not for consumers")
    elif sent:
        d.feed({"i": sent[0]["i"]})
    if at == "the connection is full":
        d.transport.pause()
    go.set()
    await settled()
    assert task.done()
    d.transport.resume()
    *_, last = await d.fed()
    assert last == end(e={"message": "Request aborted"}, _=1)
    assert task.cancelled() is not raised and len(caplog.records) == raised
    d.assert_empty()


async def test_a_start_of_one_connection_produces_nothing_on_the_next_one(caplog: Log) -> None:
    d, go = redialing(), asyncio.Event()
    made = Producer(d.peer)

    @d.peer.of("late").on("start")
    async def feed() -> Any:
        await go.wait()
        return iter([1])

    [_] = await d.fed(START | {"a": ["start", 0]}, START | {"c": "listed"}, START | {"c": "late"})
    d.transport.lose()
    d.rebind()
    go.set()
    assert await d.fed() == []
    assert made.ended == 1 and "ERROR" not in caplog.text
    d.assert_empty()
    await d.peer.close()


async def test_a_loop_that_begins_without_a_session_is_answered_in_the_next_one() -> None:
    """Its items were not: the producer never sent a second one."""
    d = redialing()
    d.transport.lose()
    reading = start(collect(d.peer.of("feed").items()))
    await settled()
    d.rebind()
    assert await d.fed() == [START]
    assert await d.fed(following(1, 7)) == [{"i": 7, "d": None}]
    await d.fed(end())
    assert await reading == [1]
    await d.peer.close()


# ---------------------------------------------------------------- both


async def test_a_loop_that_is_left_ends_its_producer_at_its_next_item(both: Both) -> None:
    left, right = both
    made = Producer(right)
    async with left.of("feed").items() as items:
        assert await anext(items) == 0
    await until(lambda: made.ended == 1 and not (left.pending or right.pending or right.active))
    assert await collect(left.of("feed")) == [0, 1, 2]
    assert made.ended == 2


async def test_a_slow_reader_holds_its_producer_back(both: Both) -> None:
    left, right = both
    made = Producer(right)
    right.of("feed").on("start", lambda: made.numbers(10_000))
    async with left.of("feed").items(returns=int) as items:
        assert await anext(items) == 0
        await settled()
        assert made.made <= WINDOW + 6  # Limits.stream_window, and one that is on its way
        assert [await anext(items) for _ in range(3 * WINDOW)] == list(range(1, 3 * WINDOW + 1))
    await until(lambda: not right.active and not left.pending)
