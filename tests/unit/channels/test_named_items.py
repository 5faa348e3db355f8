"""The items of a named channel: ws-wrapper's ``start`` and ``next`` without an anonymous channel, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count, cycle
from typing import Any

import pytest
from core_driver import Driven, redialing, rejection, start
from hypothesis import given
from hypothesis import strategies as st
from leftovers import nothing_left as nothing_left
from peers_inside import out_of, reads_nothing
from stream_driver import PLAIN, WINDOW, WSRPC, Both, Log, agreed, collect
from stream_driver import both as both
from waiting import settled, until

from wsrpc import BadResult, ChannelClosed, ConnectionLost, Limits, Peer, RemoteError, RpcError, Stream, StreamOverflow
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")

START = {"a": ["start"], "c": "feed"}
STOP = {"a": ["stop"], "c": "feed"}


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


@pytest.mark.parametrize("features", [*PLAIN, WSRPC], ids=repr)
async def test_leaving_says_nothing_to_a_producer_that_does_not_answer_stop(features: tuple[str, ...] | None) -> None:
    d = Driven(extensions=True)
    if features is not None:
        await agreed(d, *features)
    items, first = await begun(d)
    async with items:
        await d.fed(following(1, 1))
        assert await first == 1
    assert d.take() == []
    assert rejection(await d.fed(following(2, 3)), 3)["message"] == "No event listener for 'next' on channel 'feed'"
    assert reads_nothing(d.peer)


@pytest.mark.parametrize(
    ("left_by", "answer"),
    [("leaving", {"d": None}), ("closing", {"e": {"message": "no"}, "_": 1}), ("overflowing", {"h": 1})],
)
async def test_what_a_producer_sent_before_it_answered_stop_is_not_read(left_by: str, answer: dict[str, Any]) -> None:
    d = Driven(extensions=True, limits=Limits(hard_cap_bytes=16_000))
    await agreed(d, "stop")
    items, first = await begun(d)
    await d.fed(following(1, 1))
    assert await first == 1
    d.take()
    if left_by == "leaving":
        await items.aclose()
    elif left_by == "closing":
        d.peer.of("feed").close()
    else:
        d.feed(following("x" * 800), following("x" * 800))
    [stop] = d.take()
    assert stop == {"i": stop["i"], **STOP}
    again = start(collect(d.peer.of("feed")))
    assert await d.fed() == [START]
    [rejected] = await d.fed(following("old", 3), following("old"), end(e="old"))
    assert (rejected["i"], rejected["e"]["code"]) == (3, "wsrpc.unknown_event")
    await d.fed({"i": stop["i"], **answer}, following("new"), end())
    assert await again == ["new"]
    await d.fed(following("late"))  # an event that crosses the end
    await items.aclose()
    assert reads_nothing(d.peer) and not d.peer.ignored and d.peer.pending == 0


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


@pytest.mark.parametrize("producing", [True, False])
@pytest.mark.parametrize("i", [{}, {"i": 9}], ids=["event", "request"])
async def test_stop_is_heard_while_the_next_item_is_awaited(producing: bool, i: dict[str, int]) -> None:
    made = Producer()
    if producing:
        assert await made.starts(0) == []
    sent = await made.d.fed({**i, **STOP})
    if i and not producing:
        assert rejection(sent, 9)["code"] == "wsrpc.unknown_event"
    else:
        assert sent == [{**each, "d": None} for each in (i,) if each]
    made.assert_over(producing)


@pytest.mark.parametrize("stopped_by", ["stop", "start"])
@pytest.mark.parametrize("then", ["item", "error"])
async def test_a_generator_that_outlives_its_stop_is_silent(then: str, stopped_by: str, caplog: Log) -> None:
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
    if stopped_by == "stop":
        assert await d.fed({"i": 9, **STOP}) == [{"i": 9, "d": None}]
    else:
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


async def test_a_loop_that_was_left_does_not_start_a_producer_in_the_next_session() -> None:
    """The next loop got the first item of that producer, and then those of its own."""
    d = redialing()
    d.transport.lose()
    async with d.peer.of("feed").items() as items:
        reading = start(anext(items))
        await settled()
        reading.cancel()
    again = start(collect(d.peer.of("feed").items()))
    await settled()
    d.rebind()
    assert await d.fed() == [START]
    await d.fed(following(1), end())
    assert await again == [1]
    await d.peer.close()


# ---------------------------------------------------------------- both


PAUSES = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@given(producing=PAUSES, reading=PAUSES, wanted=st.lists(st.integers(1, 5), min_size=2, max_size=6))
async def test_no_loop_gets_items_of_earlier_ones(producing: list[int], reading: list[int], wanted: list[int]) -> None:
    working, looking, starts = cycle(producing), cycle(reading), count(1)

    async def feed() -> AsyncIterator[list[int]]:
        mine = next(starts)
        for number in range(4):
            await asyncio.sleep(next(working))
            yield [mine, number]

    async with pair() as (left, right):
        right.of("feed").on("start", feed)
        await until(lambda: not out_of(left).terms.plain)
        for loop, most in enumerate(wanted, 1):
            got: list[Any] = []
            async with left.of("feed").items() as items:
                async for item in items:
                    got.append(item)
                    if len(got) == most:
                        break
                    await asyncio.sleep(next(looking))
            assert got == [[loop, number] for number in range(min(most, 4))]
            await asyncio.sleep(2 * next(looking))
        await until(lambda: not (left.pending or right.pending or right.active))
        assert reads_nothing(left) and reads_nothing(right)


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
