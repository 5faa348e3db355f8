"""The items of a named channel: ws-wrapper's ``start`` and ``next`` without an anonymous channel, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from typing import Any

import pytest
from core_driver import Driven, idle, redialing, start, turns
from hypothesis import given
from hypothesis import strategies as st
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from stream_driver import WINDOW, Both, agreed, collect
from stream_driver import both as both

from wsrpc import (
    BadResult,
    ChannelClosed,
    Client,
    ConnectionLost,
    Context,
    Limits,
    Peer,
    Reconnect,
    RemoteError,
    Router,
    RpcError,
    Server,
    Service,
    StreamOverflow,
    method,
)
from wsrpc.testing import connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")

START = {"a": ["start"], "c": "feed"}


def following(value: Any, i: int | None = None) -> dict[str, Any]:
    message: dict[str, Any] = {"a": ["next", {"value": value, "done": False}], "c": "feed"}
    return message if i is None else {"i": i, **message}


def end(i: int | None = None, **fields: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"a": ["next", {"done": True, **fields}], "c": "feed"}
    return message if i is None else {"i": i, **message}


def nothing_read(d: Driven) -> bool:
    return (
        not d.peer._life.readers.channels
        and not d.peer._core.dispatcher.admission.needs_checks
        and d.peer._core.channels.unread.used == 0
    )


# ---------------------------------------------------------------- consuming


async def test_the_first_read_says_start_and_done_ends_it() -> None:
    d = Driven()
    items = aiter(d.peer.of("feed"))
    d.assert_empty()
    reading = start(collect(items))
    await turns()
    d.expect(START)
    await d.fed(following(1), following(None), {"a": ["next"], "c": "feed"}, end())
    assert await reading == [1, None, None]
    assert nothing_read(d)
    again = start(collect(d.peer.of("feed").items(returns=int)))
    assert await d.fed() == [START]
    await d.fed(following(7), end())
    assert await again == [7] and not d.peer.ignored


async def test_items_that_are_requests_are_answered_as_there_is_room() -> None:
    d = Driven(limits=Limits(stream_window=2))
    items = d.peer.of("feed").items()
    first = start(anext(items))
    await turns()
    d.expect(START)
    sent = await d.fed(following(0, 1))
    assert sent == [{"i": 1, "d": None}] and await first == 0
    assert await d.fed(following(1, 3), following(2, 5)) == [{"i": 3, "d": None}, {"i": 5, "d": None}]
    assert await d.fed(following(3, 7)) == []  # it waits for the reader
    assert [await anext(items) for _ in range(3)] == [1, 2, 3]
    d.expect({"i": 7, "d": None})
    assert await d.fed(end(9)) == [{"i": 9, "d": None}]
    assert await collect(items) == []
    assert nothing_read(d)


async def test_an_item_that_does_not_fit_is_a_bad_result_and_reading_goes_on() -> None:
    d = Driven()
    items = d.peer.of("feed").items(returns=int)
    first = start(anext(items))
    await d.fed()
    await d.fed(following("one"), following(2), end())
    with pytest.raises(BadResult, match="an item of 'feed'"):
        await first
    assert await collect(items) == [2]


async def test_leaving_sends_nothing_to_a_plain_peer_whose_next_item_is_rejected() -> None:
    d = Driven()
    d.peer.of("feed")
    async with d.peer.of("feed").items() as items:
        first = start(anext(items))
        await d.fed()
        await d.fed(following(1, 1))
        assert await first == 1
    d.take()
    [rejection] = await d.fed(following(2, 3))
    assert rejection["i"] == 3 and rejection["e"]["message"] == "No event listener for 'next' on channel 'feed'"
    assert nothing_read(d)


async def test_too_much_at_once_overflows_after_what_was_kept() -> None:
    d = Driven(limits=Limits(stream_queue=10_000))
    items = d.peer.of("feed").items()
    first = start(anext(items))
    await d.fed()
    d.feed(*(following(n) for n in range(1000)))
    got = [await first]
    with pytest.raises(StreamOverflow, match="stream_queue"):
        await collect(items, got)
    assert got == list(range(len(got))) and 100 < len(got) < 300
    assert nothing_read(d) and d.peer.connected


async def test_a_request_that_is_too_much_is_rejected_so_that_its_producer_does_not_wait() -> None:
    d = Driven(limits=Limits(stream_queue=10_000, stream_window=1))
    items = d.peer.of("feed").items()
    first = start(anext(items))
    await d.fed()
    sent = await d.fed(*(following("x" * 3000, 2 * n + 1) for n in range(5)))
    assert await first == "x" * 3000
    assert [message["i"] for message in sent if "e" in message] == [7, 9]
    with pytest.raises(StreamOverflow):
        await collect(items)
    answered = {message["i"] for message in sent + d.take()}
    assert answered == {1, 3, 5, 7, 9}


async def test_items_that_overflowed_on_one_connection_are_not_answered_on_the_next_one() -> None:
    d = redialing(limits=Limits(stream_queue=10_000, stream_window=1))
    others = d.peer.of("feed").events("other")  # keeps the channel from one connection to the next
    items = d.peer.of("feed").items()
    first = start(anext(items))
    await d.fed()
    sent = await d.fed(*(following("x" * 3000, 2 * n + 1) for n in range(5)))
    assert await first == "x" * 3000
    d.transport.lose()
    d.rebind()
    again = start(anext(d.peer.of("feed").items()))
    assert await d.fed() == [START]
    with pytest.raises(StreamOverflow):
        await collect(items)
    assert d.take() == []
    assert {message["i"] for message in sent} == {1, 3, 5, 7, 9}
    assert await d.fed(following(1, 1)) == [{"i": 1, "d": None}] and await again == 1
    await others.aclose()
    await d.peer.close()


async def test_one_reader_of_items_beside_which_other_events_are_read_and_handled() -> None:
    d = Driven()
    feed = d.peer.of("feed")
    handled: list[int] = []
    feed.on("said", handled.append)
    items, said = feed.items(), feed.events("said")
    with pytest.raises(RuntimeError, match="are being read already"):
        feed.items()
    with pytest.raises(RuntimeError, match="'next' cannot be read as events there"):
        feed.events("next")
    first = start(anext(items))
    await d.fed()
    await d.fed({"a": ["said", 1], "c": "feed"}, following(2))
    assert (await first, await anext(said), handled) == (2, 1, [1])
    await items.aclose()
    await said.aclose()
    nexts = feed.events("next")
    with pytest.raises(RuntimeError, match="are being read already"):
        feed.items()
    await nexts.aclose()


@pytest.mark.parametrize("how", ["close", "drop"])
async def test_the_channel_or_the_connection_ends_it(how: str) -> None:
    d = Driven(keeps_offline=True)  # as a client's
    feed = d.peer.of("feed")
    items = feed.items()
    first = start(anext(items))
    await d.fed()
    await d.fed(following(1, 1), following(2, 3))
    assert await first == 1
    if how == "close":
        feed.close("enough")
    else:
        d.transport.lose()
    assert await anext(items) == 2
    with pytest.raises(ChannelClosed if how == "close" else ConnectionLost):
        await anext(items)
    assert not d.peer._life.readers.channels


@pytest.mark.parametrize("how", ["close", "drop"])
async def test_items_that_ended_before_the_first_read_ask_for_nothing(how: str) -> None:
    d = Driven(keeps_offline=True)  # as a client's
    feed = d.peer.of("feed")
    items = feed.items()
    if how == "close":
        feed.close("enough")
    else:
        d.transport.lose()
        d.rebind()
    with pytest.raises(ChannelClosed if how == "close" else ConnectionLost):
        await anext(items)
    assert await d.fed() == [] and nothing_read(d)


@pytest.mark.parametrize("left_by", ["leaving", "closing", "overflowing"])
async def test_a_wsrpc_producer_is_told_to_stop_and_what_it_sent_before_its_answer_is_not_read(left_by: str) -> None:
    d = Driven(extensions=True, limits=Limits(stream_queue=1000))
    await agreed(d, "stop")
    items = d.peer.of("feed").items()
    first = start(anext(items))
    assert await d.fed() == [START]
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
    assert stop == {"i": stop["i"], "a": ["stop"], "c": "feed"}
    again = start(collect(d.peer.of("feed")))
    assert await d.fed() == [START]
    sent = await d.fed(
        following("old", 3), following("old"), end(), {"a": ["next", {"done": True, "e": "old"}], "c": "feed"}
    )
    assert [(message["i"], message["e"]["code"]) for message in sent] == [(3, "wsrpc.unknown_event")]
    await d.fed({"i": stop["i"], "d": None}, following("new"), end())
    assert await again == ["new"]
    await d.fed(following("late"))  # an event that crosses the end, as before
    await items.aclose()
    assert nothing_read(d) and not d.peer.ignored and d.peer.pending == 0 and d.take() == []


@pytest.mark.parametrize("answer", [{"e": {"message": "no"}, "_": 1}, {"d": 7}, {"h": 1}])
async def test_any_answer_to_stop_will_do(answer: dict[str, Any]) -> None:
    d = Driven(extensions=True)
    await agreed(d, "stop")
    async with d.peer.of("feed").items() as items:
        first = start(anext(items))
        await d.fed()
        await d.fed(following(1))
        await first
    stop = d.take()[-1]
    again = start(collect(d.peer.of("feed")))
    await d.fed()
    await d.fed(following("old"), {"i": stop["i"], **answer}, following("new"), end())
    assert await again == ["new"]


async def test_a_wsrpc_producer_that_does_not_answer_stop_is_sent_an_event() -> None:
    d = Driven(extensions=True)
    await agreed(d)
    items = d.peer.of("feed").items()
    first = start(anext(items))
    await d.fed()
    await d.fed(following(1))
    await first
    await items.aclose()
    d.expect({"a": ["stop"], "c": "feed"})


# ---------------------------------------------------------------- producing


class Producer:
    """Handlers for ``start``, and how they ended."""

    def __init__(self, peer: Any) -> None:
        self.gate = asyncio.Event()
        self.ended = 0
        self.made = 0
        peer.of("feed").on("start", self.numbers)
        peer.of("listed").on("start", lambda: iter([1, 2]))
        peer.of("plain").on("start", self.plain)
        peer.of("failing").on("start", self.failing)

    async def numbers(self, n: int = 3) -> AsyncIterator[int]:
        try:
            for k in range(n):
                self.made += 1
                yield k
            if n == 0:
                await self.gate.wait()
        finally:
            self.ended += 1

    def plain(self) -> Iterator[str]:
        yield from "ab"

    async def failing(self, kind: str = "rpc") -> AsyncIterator[int]:
        yield 1
        if kind == "rpc":
            raise RpcError("it failed", code="E")
        raise ValueError("secret")


async def test_a_handler_of_start_that_yields_sends_one_item_for_each_answer() -> None:
    d = Driven()
    made = Producer(d.peer)
    sent = await d.fed({"a": ["start", 2], "c": "feed"})
    for value in range(2):
        [request] = sent
        i = request.pop("i")
        assert request == following(value)
        sent = await d.fed({"i": i})
    assert sent == [end()]
    assert made.ended == 1 and nothing_read(d) and not d.peer.ignored and d.peer.active == 0
    for channel, first in (("listed", 1), ("plain", "a")):
        [request] = await d.fed({"a": ["start"], "c": channel})
        assert request["a"][1]["value"] == first
        await d.fed({"i": request["i"], "e": {"message": "no more"}, "_": 1})
    assert d.peer.active == 0


async def test_a_consumer_that_rejects_an_item_has_left() -> None:
    d = Driven()
    made = Producer(d.peer)
    [request] = await d.fed({"a": ["start", 100], "c": "feed"})
    assert await d.fed({"i": request["i"], "e": {"message": "No event listener for 'next'"}, "_": 1}) == []
    assert (made.made, made.ended, d.peer.active) == (1, 1, 0) and nothing_read(d)


async def test_a_consumer_that_says_stop_is_heard_while_the_next_item_is_awaited() -> None:
    d = Driven()
    made = Producer(d.peer)
    assert await d.fed({"a": ["start", 0], "c": "feed"}) == []
    assert await d.fed({"a": ["stop"], "c": "feed"}) == []
    assert made.ended == 1 and d.peer.active == 0 and nothing_read(d) and not d.peer.ignored


@pytest.mark.parametrize("producing", [True, False])
async def test_stop_is_answered_whether_something_is_produced_or_not(producing: bool) -> None:
    d = Driven()
    made = Producer(d.peer)
    if producing:
        assert await d.fed({"a": ["start", 0], "c": "feed"}) == []
    [answer] = await d.fed({"i": 9, "a": ["stop"], "c": "feed"})
    assert answer == {"i": 9, "d": None} if producing else answer["e"]["code"] == "wsrpc.unknown_event"
    assert made.ended == producing and d.peer.active == 0 and nothing_read(d) and not d.peer.ignored


@pytest.mark.parametrize("stopped_by", ["stop", "start"])
@pytest.mark.parametrize("then", ["end", "item", "error"])
async def test_a_generator_that_outlives_its_stop_sends_nothing_more(
    then: str, stopped_by: str, caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()
    starts = 0

    @d.peer.of("feed").on("start")
    async def feed() -> AsyncIterator[str]:
        nonlocal starts
        starts += 1
        if starts > 1:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if then == "item":
                yield "late"
            if then == "error":
                raise ValueError("in the cleanup") from None

    assert await d.fed(START) == []
    if stopped_by == "stop":
        assert await d.fed({"i": 9, "a": ["stop"], "c": "feed"}) == [{"i": 9, "d": None}]
    else:
        assert await d.fed(START) == [end()]  # of the second one
    assert d.peer.active == 0 and nothing_read(d) and not d.peer.ignored
    assert ("in the cleanup" in caplog.text) is (then == "error")


async def test_a_second_start_begins_anew() -> None:
    d = Driven()
    made = Producer(d.peer)
    assert await d.fed({"a": ["start", 0], "c": "feed"}) == []
    [request] = await d.fed({"a": ["start", 1], "c": "feed"})
    assert made.ended == 1 and d.peer.active == 1
    assert await d.fed({"i": request["i"]}) == [end()]
    assert made.ended == 2 and d.peer.active == 0 and nothing_read(d)


async def test_with_ordered_handlers_too() -> None:
    d = Driven()
    d.peer.of("feed", ordered=True)
    made = Producer(d.peer)
    d.peer.of("feed").on("note", lambda value: value)
    assert await d.fed({"a": ["start", 0], "c": "feed"}) == []
    assert await d.fed({"a": ["note", 1], "c": "feed", "i": 7}) == [{"i": 7, "d": 1}]
    [request] = await d.fed({"a": ["start", 1], "c": "feed"})
    assert made.ended == 1 and d.peer.active == 1
    assert await d.fed({"i": request["i"]}) == [end()]
    assert made.ended == 2 and d.peer.active == 0 and nothing_read(d)


async def test_an_error_travels_with_the_end(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    Producer(d.peer)
    for kind, message in (("rpc", "it failed"), ("internal", "internal error")):
        [request] = await d.fed({"a": ["start", kind], "c": "failing"})
        [last] = await d.fed({"i": request["i"]})
        assert last["a"][1]["done"] is True and last["a"][1]["e"]["message"] == message
    assert "secret" in caplog.text and caplog.text.count("ERROR") == 1
    assert d.peer.active == 0


@pytest.mark.parametrize("keeps_offline", [True, False])
async def test_the_connection_ends_what_is_produced(keeps_offline: bool, caplog: pytest.LogCaptureFixture) -> None:
    d = Driven(keeps_offline=keeps_offline)
    made = Producer(d.peer)
    assert await d.fed({"a": ["start", 0], "c": "feed"}) == []
    [_] = await d.fed({"a": ["start"], "c": "listed"})
    d.transport.lose()
    await turns()
    assert made.ended == 1 and d.peer.active == 0 and not d.peer._life.readers.channels
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("waits", ["for room", "in its lane", "in the handler"])
async def test_a_start_of_one_connection_produces_nothing_on_the_next_one(waits: str) -> None:
    d = redialing(limits=Limits(running=2 if waits == "in its lane" else 1))
    go = asyncio.Event()
    seen: list[str] = []
    closed = 0

    async def numbers() -> AsyncIterator[int]:
        nonlocal closed
        try:
            yield 1
        finally:
            closed += 1

    async def feed() -> AsyncIterator[int]:
        seen.append("start")
        if waits == "in the handler":
            await go.wait()
        return numbers()

    async def busy() -> None:
        await go.wait()
        seen.append("busy")

    channel = d.peer.of("feed", ordered=waits == "in its lane")
    channel.on("start", feed)
    channel.on("busy", busy)
    d.feed(*([] if waits == "in the handler" else [{"a": ["busy"], "c": "feed"}]), START)
    await turns()
    d.transport.lose()
    d.rebind()
    go.set()
    assert await d.fed() == [] and not closed
    assert seen[-1] == "start", "the handler of an event runs, although its session is over"
    await idle(d)
    assert nothing_read(d) and not d.peer.ignored
    await d.peer.close()


async def test_a_request_start_is_a_stream_as_on_any_channel(both: Both) -> None:
    left, right = both
    Producer(right)
    assert await collect(left.of("feed").stream("start", 2)) == [0, 1]


async def test_all_kinds_of_handlers_produce_and_middleware_is_around_the_whole_of_it() -> None:
    server, router = Server(), Router()
    around: list[str] = []

    @server.use
    async def note(ctx: Context, call_next: Any) -> Any:
        around.append(f"{ctx.channel_name} begins")
        await call_next(ctx)
        around.append(f"{ctx.channel_name} is over")

    @router.of("routed").on("start")
    async def routed(peer: Peer, ctx: Context) -> AsyncIterator[str]:
        assert ctx.peer is peer
        yield "routed"

    @server.of("threaded").on("start", thread=True)
    def threaded() -> Iterator[str]:
        yield "threaded"

    @server.of("returned").on("start")
    async def returned() -> Iterator[str]:
        return iter(["returned"])

    class Served(Service):
        @method
        async def start(self) -> AsyncIterator[str]:
            assert self.peer.connected
            yield "served"

    server.include(router)
    server.add_service(Served, channel="served")
    async with connect(server) as client:
        for name in ("routed", "threaded", "returned", "served"):
            assert await collect(client.of(name)) == [name]
        [peer] = server.peers
        await turns_until(lambda: not peer.active)
        assert around == [
            f"{name} {what}" for name in ("routed", "threaded", "returned", "served") for what in ("begins", "is over")
        ]
        assert not peer.ignored and not client.peer.ignored


async def test_an_event_start_elsewhere_is_dropped_as_before(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    d.peer.on("start", lambda: iter([1]))
    assert await d.fed({"a": ["start"]}) == []
    assert d.peer.ignored == {"wrong arguments": 1} and "has to be requested" in caplog.text


# ---------------------------------------------------------------- both


async def test_between_two_python_peers(both: Both) -> None:
    left, right = both
    made = Producer(right)
    feed = left.of("feed")
    for _ in range(2):
        assert await collect(feed) == [0, 1, 2]
    assert [item async for item in left.of("listed").items(returns=int)] == [1, 2]
    with pytest.raises(RemoteError, match="it failed") as caught:
        await collect(left.of("failing"))
    assert caught.value.code == "E"
    async for item in feed:
        if item == 1:
            break
    await turns_until(lambda: made.ended == 3 and not right.active)
    assert not left._life.readers.channels and not right._life.readers.channels


PAUSES = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@given(producing=PAUSES, reading=PAUSES, between=PAUSES, wanted=st.lists(st.integers(1, 5), min_size=2, max_size=6))
async def test_no_loop_gets_an_item_of_an_earlier_one(
    producing: list[int], reading: list[int], between: list[int], wanted: list[int]
) -> None:
    starts = 0
    working, looking, waiting = cycle(producing), cycle(reading), cycle(between)

    async def feed() -> AsyncIterator[list[int]]:
        nonlocal starts
        starts += 1
        mine = starts
        for number in range(4):
            await turns(next(working))
            yield [mine, number]

    async with pair() as (left, right):
        right.of("feed").on("start", feed)
        await turns_until(lambda: not left._core.out.terms.plain)
        for loop, count in enumerate(wanted, 1):
            got: list[Any] = []
            async with left.of("feed").items() as items:
                async for item in items:
                    got.append(item)
                    if len(got) == count:
                        break
                    await turns(next(looking))
            assert got == [[loop, number] for number in range(min(count, 4))]
            await turns(2 * next(waiting))
        await turns_until(lambda: not (left.pending or right.pending or right.active))
        assert not left._life.readers.channels and not right._life.readers.channels


async def test_leaving_tells_a_wsrpc_producer_at_once() -> None:
    server = Server()
    stopped = asyncio.Event()

    @server.of("feed").on("start")
    async def feed() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with connect(server) as client:
        await turns_until(lambda: client.peer._core.out.terms.credit)
        async with client.of("feed").items() as items:
            assert await anext(items) == 1
        await stopped.wait()
        [peer] = server.peers
        await turns_until(lambda: not peer.active)
        assert not peer.ignored and not client.peer.ignored


@pytest.mark.parametrize("layered", [False, True])
async def test_leaving_as_the_producer_ends_is_no_unknown_event(layered: bool) -> None:
    server = Server()

    async def around(ctx: Context, call_next: Any) -> Any:
        return await call_next(ctx)

    if layered:
        server.use(around)

    @server.of("feed").on("start")
    async def produce() -> AsyncIterator[int]:
        yield 1
        yield 2

    async with connect(server) as client:
        [peer] = server.peers
        async with client.of("feed").items() as items:
            assert [await anext(items), await anext(items)] == [1, 2]
        await turns_until(lambda: not peer.active)
        await turns()
        assert not peer.ignored and not client.peer.ignored
        await client.of("elsewhere").emit("stop")
        await peer.of("elsewhere").emit("next")
        await turns_until(lambda: peer.ignored and client.peer.ignored)
        assert peer.ignored == client.peer.ignored == {"unknown event": 1}


async def test_a_slow_reader_holds_its_producer_back(both: Both) -> None:
    left, right = both
    made = Producer(right)
    right.of("feed").on("start", lambda: made.numbers(10_000))
    async with left.of("feed").items(returns=int) as items:
        assert await anext(items) == 0
        await turns(1000)
        assert made.made <= WINDOW + 6  # Limits.stream_window, and one that is on its way
        assert [await anext(items) for _ in range(3 * WINDOW)] == list(range(1, 3 * WINDOW + 1))
    await turns_until(lambda: not right.active and not left.pending)


async def test_a_client_reads_anew_after_a_drop() -> None:
    server = Server()
    opened: asyncio.Queue[Peer] = asyncio.Queue()
    server.on("open", opened.put_nowait)

    @server.of("feed").on("start")
    async def feed(peer: Peer) -> AsyncIterator[int]:
        yield 1
        await peer.close(1012)

    async with asyncio.timeout(20), server.listen("127.0.0.1", 0) as listener:
        async with Client(listener.url, reconnect=Reconnect(initial=0.001, max=0.001)) as client:
            for _ in range(2):
                items = client.of("feed").items()
                assert await anext(items) == 1
                with pytest.raises(ConnectionLost):
                    await anext(items)
                await opened.get()
