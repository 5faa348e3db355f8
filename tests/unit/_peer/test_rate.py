"""`Limits.rate`: requests and events per second from one remote peer. The tests move the clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
from core_driver import Blocked, Driven, messages, redialing, rejection, start, turns

from wsrpc import AnonymousChannel, Client, Context, Limits, Overloaded, Peer, Retry, Server, Service
from wsrpc.testing import Clock, ScriptedTransport, connect, pair
from wsrpc.types import Message

REFUSED = {
    "message": "more than 3 requests and events per second, ask again later",
    "code": "wsrpc.overloaded",
}


def limited(rate: int = 3, **options: Any) -> tuple[Driven, list[Any]]:
    """A peer with that rate, and the arguments with which its handlers of ``say`` have run."""
    d = Driven(limits=Limits(rate=rate), **options)
    ran: list[Any] = []

    def say(number: int) -> int:
        ran.append(number)
        return number

    d.peer.on("say", say)
    d.peer.of("named").on("say", say)
    return d, ran


def above(d: Driven) -> int:
    """How many messages were refused; nothing else was ignored."""
    count = d.ignored.pop("above the rate", 0)
    assert not d.ignored.keys() - {"above the rate"}
    return count


# ------------------------------------------------------------ above the rate


async def test_a_request_is_overloaded_and_an_event_dropped_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    d, ran = limited()
    sent = await d.fed(*({"i": i, "a": ["say", i]} for i in range(1, 6)))
    assert sent[:3] == [{"i": i, "d": i} for i in (1, 2, 3)]
    assert rejection(sent, 4) == rejection(sent, 5) == REFUSED
    assert await d.fed({"a": ["say", 6]}, {"a": ["say", 7]}) == []
    assert ran == [1, 2, 3] and above(d) == 4 and d.peer.stats().ignored == {"above the rate": 4}
    [line] = messages(caplog)
    assert line == (
        "a message was refused: more than 3 requests and events per second (Limits.rate) "
        "(further ones are only counted in peer.ignored)"
    )
    assert caplog.records[-1].levelno == logging.WARNING
    d.assert_empty()


async def test_the_bucket_fills_with_the_peers_clock_and_holds_one_second() -> None:
    d, ran = limited(4)
    for seconds, more in ((0, 4), (0, 0), (0.2, 0), (0.05, 1), (0.5, 2), (1, 4), (3600, 4)):
        d.clock.advance(seconds)
        ran.clear()
        await d.fed(*({"a": ["say", number]} for number in range(10)))
        assert ran == list(range(more)), seconds


async def test_who_keeps_to_the_rate_is_never_refused() -> None:
    d, ran = limited(10)
    for number in range(1000):
        d.feed({"a": ["say", number]})
        d.clock.advance(0.1)
    assert ran == list(range(1000)) and above(d) == 0


async def test_refused_messages_take_nothing_so_that_a_flood_gets_its_rate() -> None:
    d, ran = limited(10)
    for _ in range(50):
        d.feed(*({"a": ["say", 0]} for _ in range(100)))
        d.clock.advance(0.1)
    assert len(ran) == 10 + 49 and above(d) == 5000 - 59


async def test_without_a_rate_nothing_is_looked_at() -> None:
    d = Driven()
    assert not d.peer._core.dispatcher.admission.needs_checks
    d.peer.on("say", lambda number: number)
    assert len(await d.fed(*({"i": i, "a": ["say", i]} for i in range(1, 2000)))) == 1999
    assert not d.peer._core.dispatcher.admission.needs_checks


# ------------------------------------------------------------ there is one rate, and no way around


async def test_all_named_channels_share_it_however_reads_are_cut() -> None:
    d, ran = limited()
    d.feed({"a": ["say", 1]}, {"a": ["say", 2], "c": "named"}, {"a": ["nobody"], "c": "unknown"})
    d.feed({"a": ["say", 4], "c": "named"})
    d.feed({"a": ["say", 5]})
    assert ran == [1, 2] and d.ignored == {"unknown event": 1, "above the rate": 2}


async def test_async_handlers_that_run_and_have_run_change_nothing() -> None:
    d, _ = limited()
    blocked = Blocked()
    d.peer.on("wait", blocked)
    sent = await d.fed(*({"i": i, "a": ["wait", i]} for i in (1, 2, 3, 4)))
    assert rejection(sent, 4) == REFUSED and len(sent) == 1
    blocked.go.set()
    await turns()
    assert d.peer.active == 0 and len(d.take()) == 3
    assert rejection(await d.fed({"i": 5, "a": ["wait", 5]}), 5) == REFUSED
    d.assert_empty()


async def test_the_next_connection_of_a_client_goes_on_with_the_same_bucket() -> None:
    d = redialing(limits=Limits(rate=3))
    ran: list[int] = []
    d.peer.on("say", ran.append)
    d.feed({"a": ["say", 1]}, {"a": ["say", 2]})
    d.rebind()
    d.feed({"a": ["say", 3]}, {"a": ["say", 4]})
    assert ran == [1, 2, 3]
    d.clock.advance(1)
    d.rebind()
    d.feed(*({"a": ["say", number]} for number in range(5, 10)))
    assert ran == [1, 2, 3, 5, 6, 7]


async def test_what_open_handlers_hold_back_counts_when_it_arrives_and_once() -> None:
    d, ran = limited(bind=False)
    blocked = Blocked()
    d.peer.on("open", blocked)
    d.peer.bind(d.transport)
    await d.fed(*({"a": ["say", number]} for number in (1, 2)))
    d.clock.advance(1)
    sent = await d.fed(*({"i": i, "a": ["say", i]} for i in (3, 4, 5, 6)))
    assert rejection(sent, 6) == REFUSED and ran == []
    blocked.go.set()
    await turns()
    assert ran == [1, 2, 3, 4, 5] and above(d) == 1


async def test_events_for_readers_count_with_and_without_a_handler() -> None:
    d, _ = limited(2)
    handled: list[int] = []
    d.peer.on("both", handled.append)
    async with d.peer.events("read") as read, d.peer.of("named").events("both") as both:
        d.feed({"a": ["read", 1]}, {"a": ["both", 2], "c": "named"}, {"a": ["read", 3]}, {"a": ["both", 4]})
        assert (await anext(read), await anext(both)) == (1, 2)
        d.clock.advance(1)
        d.feed({"a": ["read", 5]})
        assert await anext(read) == 5, "the others were dropped"
    assert handled == [] and above(d) == 2


class AsJson(Service):
    got: ClassVar[list[Any]] = []

    def on_json(self, value: Any) -> None:
        self.got.append(value)


class AsItCame(Service):
    got: ClassVar[list[Any]] = []

    def on_message(self, message: str | bytes) -> None:
        self.got.append(message)


@pytest.mark.parametrize("service", [AsJson, AsItCame])
async def test_messages_of_a_services_own_protocol_count_as_events(service: Any) -> None:
    server = Server(limits=Limits(rate=2))
    server.add_service(service)
    service.got.clear()
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    assert isinstance(peer, Peer)
    transport.feed("[1]", "[2]", "[3]")
    await turns()
    assert len(service.got) == 2 and peer.ignored == {"above the rate": 1}
    await server.close()


async def test_raw_messages_count_as_events() -> None:
    server = Server(limits=Limits(rate=2))
    got: list[Any] = []
    server.on_raw(lambda peer, message: got.append(message))
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    assert isinstance(peer, Peer)
    transport.feed("one", b"two", "three")
    assert got == ["one", b"two"] and peer.ignored == {"above the rate": 1}
    await server.close()


async def test_it_is_each_connections_own_and_on_handshake_may_set_it() -> None:
    clock = Clock()
    server = Server()
    server.on("add", lambda a, b: a + b)

    @server.on_handshake
    def gate(handshake: Any) -> None:
        if handshake.bearer_token is None:
            handshake.limits = handshake.limits.replace(rate=2)

    async with connect(server, clock=clock) as strange, connect(server, clock=clock) as other:
        async with connect(server, clock=clock, client=Client(auth="token")) as known:
            for client in (strange, other):
                assert [await client.request("add", 1, n) for n in (1, 2)] == [2, 3]
                with pytest.raises(Overloaded, match="more than 2 requests and events per second, ask again later"):
                    await client.request("add", 1, 3)
            assert [await known.request("add", 1, n) for n in range(100)] == list(range(1, 101))
    await server.close()


# ------------------------------------------------------------ anonymous channels


async def conversing(rate: int, **options: Any) -> tuple[Driven, AnonymousChannel]:
    """A peer with that rate that talks with its caller on channel 1, which took one of them."""
    d = Driven(limits=Limits(rate=rate), **options)
    made: list[AnonymousChannel] = []

    @d.peer.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        made.append(channel)
        await channel.wait_closed()

    assert await d.fed({"i": 1, "a": ["talk"]}) == [{"i": 1, "h": 1}]
    return d, made[0]


@pytest.mark.parametrize("name", ["say", "next", "start", "stop", "pull"])
async def test_events_and_requests_for_handlers_on_a_channel_count(name: str) -> None:
    d, channel = await conversing(3)
    ran: list[int] = []
    channel.on(name, ran.append)
    await turns()
    sent = await d.fed(*({"h": 1, "a": [name, 1]}, {"h": 1, "i": 2, "a": [name, 2]}, {"h": 1, "i": 3, "a": [name, 3]}))
    assert rejection(sent, 3) == REFUSED and sent[0] == {"i": 2, "d": None}
    await d.fed({"h": 1, "a": [name, 4]})
    assert ran == [1, 2] and above(d) == 2
    assert not channel.closed


async def test_events_for_readers_on_a_channel_count() -> None:
    d, channel = await conversing(3)
    read = channel.events("line")
    await turns()
    await d.fed(*({"h": 1, "a": ["line", number]} for number in range(5)))
    d.clock.advance(1)
    await d.fed({"h": 1, "a": ["line", "later"]})
    assert [await anext(read) for _ in range(3)] == [0, 1, "later"] and above(d) == 3


@pytest.mark.parametrize("name", ["line", "next"])
async def test_what_arrives_before_anything_listens_on_a_channel_counts(name: str) -> None:
    d, channel = await conversing(3)
    await d.fed(*({"h": 1, "a": [name, number]} for number in range(5)))
    ran: list[int] = []
    channel.on(name, ran.append)
    await turns()
    assert ran == [0, 1] and above(d) == 3


async def test_a_channel_that_this_side_opened_counts_for_the_other_side() -> None:
    clock = Clock()
    async with pair(limits=Limits(rate=3), clock=clock) as (left, right):

        @right.on("talk")
        async def talk(channel: AnonymousChannel) -> None:
            for number in range(5):
                await channel.emit("line", number)
            await channel.wait_closed()

        async with await left.open_channel("talk") as channel:
            lines = channel.events("line", returns=int)
            await turns(20)
            assert [await anext(lines) for _ in range(3)] == [0, 1, 2]
        assert left.ignored == {"above the rate": 2} and not right.ignored


# ------------------------------------------------------------ what does not count


@pytest.mark.parametrize("extensions", [True, False])
async def test_streams_count_once_in_each_direction(extensions: bool) -> None:
    async with pair(limits=Limits(rate=2), clock=Clock(), extensions=extensions) as (left, right):
        right.on("count", lambda stop: iter(range(stop)))

        @right.on("total")
        async def total(numbers: AsyncIterator[int]) -> int:
            return sum([number async for number in numbers])

        async with left.stream("count", 300, returns=int) as numbers:
            assert [number async for number in numbers] == list(range(300))
        assert await left.request("total", send=range(300)) == sum(range(300))
        assert not left.ignored and not right.ignored
        with pytest.raises(Overloaded):
            await left.request("total", send=[])


async def test_items_on_a_named_channel_do_not_count_but_their_start_does() -> None:
    async with pair(limits=Limits(rate=2), clock=Clock()) as (left, right):
        left.of("feed").on("start", lambda: iter(range(100)))
        async with right.of("feed").items(returns=int) as numbers:
            assert [number async for number in numbers] == list(range(100))
        async with right.of("feed").items(returns=int) as numbers:
            assert [await anext(numbers) for _ in range(10)] == list(range(10))  # and leaves, with `stop`
        await turns()
        assert "above the rate" not in left.ignored + right.ignored
        await right.of("feed").emit("start")
        await turns()
        assert left.ignored["above the rate"] == 1


async def test_who_pulls_pulls_as_often_as_it_likes() -> None:
    d = Driven(limits=Limits(rate=1))
    d.peer.on("count", lambda: iter(range(100)))
    await d.fed({"i": 1, "a": ["count"]})
    for i in range(2, 52):
        [answer] = await d.fed({"i": i, "h": 1, "a": ["pull", 2]})
        assert answer["d"]["values"] == [2 * i - 4, 2 * i - 3]
    assert above(d) == 0


async def test_items_that_come_before_they_are_read_do_not_count() -> None:
    d, channel = await conversing(1)
    await d.fed(*({"h": 1, "a": ["next", {"value": number, "done": False}]} for number in range(50)))
    items = channel.items(returns=int)
    assert [await anext(items) for _ in range(50)] == list(range(50)) and above(d) == 0


async def test_answers_cancellations_aborts_and_control_messages_do_not_count() -> None:
    d = Driven(limits=Limits(rate=1), extensions=True)
    blocked = Blocked()
    d.peer.on("wait", blocked)
    d.raw(b'{"ws-wrapper":false,"wsrpc":{"t":"hello","v":1,"features":[],"limits":{}}}')
    await turns()
    assert len(d.take()) == 1, "a welcome"
    for _ in range(20):
        task, i = await d.asks("there")
        d.feed({"i": i, "d": "yes"})
        assert await task == "yes"
    await d.fed({"i": 1, "a": ["wait"]})
    [answer] = await d.fed({"i": 1, "x": "never mind"})
    assert answer["i"] == 1 and blocked.cancelled == ["never mind"]
    await d.fed({"h": 5, "x": 0}, {"i": 5, "x": 0}, {"i": 6, "d": 0})
    assert "above the rate" not in d.ignored
    assert rejection(await d.fed({"i": 2, "a": ["wait"]}), 2)["code"] == "wsrpc.overloaded"


async def test_what_cannot_reach_a_handler_does_not_count() -> None:
    d, ran = limited(1)
    await d.fed({"i": 1, "a": ["x" * 300]}, {"i": 2, "a": ["say", *range(70)]}, {"a": ["say", 0], "h": 7}, {"i": 0})
    await d.fed({"a": ["say", 1]}, {"a": ["say", 2]})
    assert ran == [1]


# ------------------------------------------------------------ what the sender and the log get


async def test_retry_asks_again_until_there_is_room() -> None:
    clock = Clock()
    server = Server(limits=Limits(rate=1))
    server.on("add", lambda a, b: a + b)
    async with connect(server, clock=clock) as client:
        assert await client.request("add", 1, 1) == 2
        task = start(client.request("add", 1, 2, retry=Retry(attempts=20, initial=1, max=1)))
        await turns(30)
        assert not task.done()
        while not task.done():
            clock.advance(0.3)
            await turns(30)
        assert await task == 3 and clock.time() >= 0.9
    await server.close()


async def test_message_handlers_see_what_is_refused_and_need_not_wait_for_it() -> None:
    d, ran = limited(1)
    seen: list[Message] = []

    @d.peer.on("message")
    def observe(peer: Peer, message: Message) -> None:
        seen.append(message)

    await d.fed({"a": ["say", 1]}, {"a": ["say", 2]}, {"i": 3, "a": ["say", 3]})
    assert ran == [1] and [message.args for message in seen] == [(1,), (2,), (3,)]
    for message in seen:
        await message.processed()


async def test_middleware_does_not_see_what_is_refused() -> None:
    d, _ = limited(1)
    seen: list[Any] = []

    @d.peer.use
    async def watch(ctx: Context, call_next: Any) -> Any:
        seen.append(ctx.args)
        return await call_next(ctx)

    await d.fed({"a": ["say", 1]}, {"a": ["say", 2]})
    assert seen == [(1,)]


@pytest.mark.parametrize("asks", [True, False])
async def test_only_the_stop_that_ends_a_stream_on_a_named_channel_does_not_count(asks: bool) -> None:
    d = Driven(limits=Limits(rate=3))
    never, slow = asyncio.Event(), asyncio.Event()
    stopped: list[str] = []

    @d.peer.of("feed").on("start")
    async def feed() -> AsyncIterator[int]:
        try:
            await never.wait()
            yield 1
        finally:
            await slow.wait()

    d.peer.of("feed").on("stop", lambda: stopped.append("stop"))
    assert await d.fed({"c": "feed", "a": ["start"]}) == []  # the first token
    stop = {"c": "feed", "a": ["stop"]}
    # The first one ends the stream, whose generator is slow. The handler gets it, too.
    assert len(await d.fed({"i": 9, **stop} if asks else stop)) == asks
    sent = await d.fed(*({"i": i, **stop} for i in range(1, 5)))
    assert [answer["i"] for answer in sent if "e" not in answer] == [1, 2] and len(stopped) == 3
    assert rejection(sent, 3) == rejection(sent, 4) == REFUSED and above(d) == 2
    await d.fed(*[stop] * 5)
    assert above(d) == 2 + 5
    slow.set()
    await turns()
    assert d.peer.active == 0
