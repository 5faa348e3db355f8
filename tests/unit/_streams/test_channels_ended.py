"""What came before the end of a channel is read before the end is noticed: by handlers, readers and bodies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Blocked, Driven, messages, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import CLOSED, Both, emptied, item
from stream_driver import both as both
from stream_sides import requested, start_opening

from wsrpc import (
    AnonymousChannel,
    ChannelClosed,
    Client,
    ConnectionLost,
    Context,
    Limits,
    RemoteError,
    Server,
    WsrpcError,
)
from wsrpc._api.anonymous import core_of

pytestmark = pytest.mark.usefixtures("nothing_left")

UNREAD = Limits().unread

ENDS = ["good", "abort", "drop", "own close", "own abort", "own good"]
LISTENERS = ["on", "async on", "stream", "items"]
MOMENTS = ["before listening", "in the same turn", "after one turn", "later"]


def end(d: Driven, channel: AnonymousChannel, how: str) -> None:
    if how == "good":
        d.feed({"h": channel.id, "x": CLOSED, "_": 1})
    elif how == "abort":
        d.feed({"h": channel.id, "x": {"message": "bored"}, "_": 1})
    elif how == "drop":
        d.transport.abort()
    elif how == "own close":
        channel.close("enough")
    elif how == "own abort":
        core_of(channel).abort("enough")
    else:
        core_of(channel).finish()


ERRORS = {
    "good": "",
    "abort": "RemoteError",
    "drop": "ConnectionLost",
    "own close": "ChannelClosed",
    "own abort": "ChannelClosed",
    "own good": "",
}


class Listener:
    """Listens in one of the ways; ``got`` is what it has been given, ``error`` the name of what its reader raised."""

    def __init__(self, channel: AnonymousChannel, how: str) -> None:
        self.got: list[Any] = []
        self.error = ""
        self.stream = channel.events("e") if how == "stream" else channel.__aiter__() if how == "items" else None
        if how == "on":
            channel.on("e", self.got.append)
        elif how == "async on":
            channel.on("e", self.handle)

    async def handle(self, value: int) -> None:
        await asyncio.sleep(0)
        self.got.append(value)

    async def read(self) -> None:
        await turns()
        if self.stream is None:
            return
        try:
            async for value in self.stream:
                self.got.append(value)
        except WsrpcError as exc:
            self.error = type(exc).__name__


@pytest.mark.parametrize("listens", LISTENERS)
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_every_listener_gets_all_that_came_before_the_end(moment: str, ends: str, listens: str) -> None:
    d = Driven(dialer=True)
    name = "next" if listens == "items" else "e"
    sent = [item(0, n) if listens == "items" else {"a": [name, n]} for n in range(3)]
    channel = await requested(d, *sent[:2])
    d.feed({**sent[2], "h": channel.id})
    if moment == "before listening":
        end(d, channel, ends)
        if ends.startswith("own"):  # who has ended it wants nothing more of it
            with pytest.raises(ChannelClosed):
                channel.events("e")
            return
        await turns(1)
        listener = Listener(channel, listens)
    else:
        listener = Listener(channel, listens)
        await turns(MOMENTS.index(moment) - 1 if moment != "later" else 10)
        end(d, channel, ends)
    await listener.read()
    assert listener.error == (ERRORS[ends] if listener.stream is not None else "")
    if moment == "in the same turn" and ends.startswith("own") and listener.stream is None:
        assert listener.got == [], "no handler runs on a channel that this side has ended"
    else:
        assert listener.got == [0, 1, 2]
    assert channel.closed
    assert d.peer._core.channels.unread.used == 0
    d.assert_empty()


async def say(count: int, size: int, channel: AnonymousChannel) -> None:
    """A body that emits and returns at once."""
    for number in range(count):
        await channel.emit("data", number, "x" * size)


class Collector:
    """A handler that keeps the first argument of each event."""

    def __init__(self, into: list[Any]) -> None:
        self.into = into

    def __call__(self, first: int, *rest: Any) -> None:
        self.into.append(first)


@pytest.mark.parametrize("count", [1, 17, 100])
async def test_what_a_body_emits_before_it_returns_arrives(both: Both, count: int) -> None:
    left, right = both
    right.on("say", say)
    for _ in range(5):
        channel = await left.open_channel("say", count, 1000)
        got: list[Any] = []
        channel.on("data", Collector(got))
        await channel.wait_closed()
        await turns()
        assert got == list(range(count))
        async with await left.open_channel("say", count, 1000) as channel:
            assert [n async for n, _ in channel.events("data")] == list(range(count))


async def test_on_real_connections_too() -> None:
    server = Server()
    server.on("say", say)
    async with server.listen("127.0.0.1", 0) as listening, Client(listening.url) as client:
        for count in (1, 16, 17, 40):
            for _ in range(10):
                async with await client.open_channel("say", count, 1000) as channel:
                    assert [n async for n, _ in channel.events("data")] == list(range(count))


async def test_a_hundred_that_ended_before_their_openers_had_a_turn() -> None:
    d = Driven(dialer=True)
    opening = [await start_opening(d) for _ in range(100)]
    d.feed(
        *(
            message
            for _, i in opening
            for message in ({"i": i, "h": 1}, {"h": i, "a": ["e", i]}, {"h": i, "x": CLOSED, "_": 1})
        )
    )
    for task, i in opening:
        channel: AnonymousChannel = await task
        assert [value async for value in channel.events("e")] == [i]


async def test_a_drop_right_after_the_channel_was_opened() -> None:
    d = Driven(dialer=True)
    task, i = await start_opening(d)
    d.feed({"i": i, "h": 1}, {"h": i, "a": ["e", 1]})
    d.transport.abort()
    channel: AnonymousChannel = await task
    stream = channel.events("e")
    assert await anext(stream) == 1
    with pytest.raises(ConnectionLost):
        await anext(stream)


async def test_the_next_channel_of_that_id_gets_nothing_of_the_one_before() -> None:
    d = Driven()
    got: list[tuple[int, Any]] = []
    made: list[AnonymousChannel] = []

    def opens(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        number = len(made)
        made.append(channel)
        if number:
            channel.on("e", lambda value: got.append((number, value)))
        return channel

    d.peer.on("c", opens)
    d.feed({"i": 5, "a": ["c"]}, {"h": 5, "a": ["e", "old"]})
    made[0].on("e", lambda value: got.append((0, value)))
    d.feed({"h": 5, "x": CLOSED, "_": 1}, {"i": 5, "a": ["c"]}, {"h": 5, "a": ["e", "new"]})
    await turns()
    assert sorted(got) == [(0, "old"), (1, "new")]
    made[1].close()


@pytest.mark.parametrize("by", ["a handler", "a body"])
async def test_events_that_wait_for_a_place_run_after_the_end_and_requests_do_not(by: str) -> None:
    d = Driven(limits=Limits(running=1))
    blocked = Blocked()
    got: list[Any] = []

    async def note(value: Any) -> None:
        got.append(value)

    def opens(ctx: Context) -> AnonymousChannel:
        ctx.channel().on("e", note)
        return ctx.channel()

    async def talks(channel: AnonymousChannel) -> None:
        channel.on("e", note)
        await asyncio.Event().wait()

    d.peer.on("c", opens if by == "a handler" else talks)
    d.peer.on("blocked", blocked)
    await d.fed({"i": 5, "a": ["c"]})
    await d.fed({"a": ["blocked"]})
    await d.fed({"h": 5, "a": ["e", 1]}, {"i": 7, "h": 5, "a": ["e", 2]}, {"h": 5, "a": ["e", 3]})
    await d.fed({"h": 5, "x": CLOSED, "_": 1})
    assert got == []
    blocked.go.set()
    await turns(20)
    assert got == [1, 3], "nobody waits for what was requested on a channel that is over"
    await emptied(d.peer)


# ---------------------------------------------------------------- bodies


class Reader:
    """A body that reads lines, and works on each until ``go`` is set."""

    def __init__(self, *, works: bool = False) -> None:
        self.got: list[Any] = []
        self.go = asyncio.Event()
        if not works:
            self.go.set()

    async def __call__(self, channel: AnonymousChannel) -> None:
        try:
            async for line in channel.events("line"):
                await self.go.wait()
                self.got.append(line)
            self.got.append("went on")
        except asyncio.CancelledError:
            self.got.append("cancelled")
            raise


def leave(d: Driven, how: str) -> None:
    if how == "drop":
        d.transport.abort()
    else:
        d.feed({"h": 5, "x": CLOSED if how == "good" else {"message": "bored"}, "_": 1})


LINES = [{"h": 5, "a": ["line", letter]} for letter in "abc"]
OTHERS = pytest.mark.parametrize("how", ["good", "abort", "drop"])


@OTHERS
@pytest.mark.parametrize("after", [1, 2, 10])
@pytest.mark.parametrize("together", [True, False])
async def test_a_body_reads_what_came_before_the_end_and_is_cancelled_when_it_asks_for_more(
    how: str, after: int, together: bool
) -> None:
    d = Driven()
    body = Reader()
    d.peer.on("talk", body)
    d.feed({"i": 5, "a": ["talk"]})
    await turns(after)
    if together:
        d.feed(*LINES)
    else:
        for line in LINES:
            d.feed(line)
            await turns(1)
    leave(d, how)
    await turns(20)
    assert body.got == ["a", "b", "c", "cancelled"]
    await emptied(d.peer)
    assert d.clock.next_deadline is None


@OTHERS
async def test_a_body_that_is_left_by_a_block(both: Both, how: str) -> None:
    left, right = both
    body = Reader()
    right.on("talk", body)
    channel = await left.open_channel("talk")
    for letter in "abc":
        await channel.emit("line", letter)
    if how == "good":
        core_of(channel).finish()
    elif how == "abort":
        await channel.abort("bored")
    else:
        await turns()  # a drop takes with it what is on its way
        assert left.transport is not None
        left.transport.abort()
    await emptied(left, right)
    assert body.got == ["a", "b", "c", "cancelled"]


@OTHERS
async def test_a_body_is_not_interrupted_while_it_works_on_what_it_has_read(how: str) -> None:
    d = Driven()
    body = Reader(works=True)
    d.peer.on("talk", body)
    await d.fed({"i": 5, "a": ["talk"]})
    await d.fed(LINES[0])
    leave(d, how)
    await turns(20)
    assert body.got == []
    body.go.set()
    await turns(20)
    assert body.got == ["a", "cancelled"]
    assert d.clock.next_deadline is None


async def test_a_body_that_does_not_come_back_for_more_is_cancelled_in_the_end() -> None:
    d = Driven()
    body = Reader(works=True)
    d.peer.on("talk", body)
    await d.fed({"i": 5, "a": ["talk"]})
    await d.fed(*LINES)
    leave(d, "good")
    d.clock.advance(UNREAD - 1)
    await turns()
    assert body.got == []
    d.clock.advance(1)
    await turns()
    assert body.got == ["cancelled"]
    await emptied(d.peer)


@OTHERS
async def test_a_body_that_reads_nothing_is_cancelled_at_once_but_after_its_handlers(how: str) -> None:
    d = Driven()
    got: list[Any] = []

    loaded = asyncio.Event()

    async def talk(channel: AnonymousChannel) -> None:
        await loaded.wait()
        channel.on("line", got.append)
        leave(d, how)  # in the turn in which it has begun to listen
        try:
            await asyncio.Event().wait()
        finally:
            got.append("cancelled")

    d.peer.on("talk", talk)
    await d.fed({"i": 5, "a": ["talk"]})
    await d.fed(*LINES)
    loaded.set()
    await turns()
    assert got == ["a", "b", "c", "cancelled"]
    await emptied(d.peer)


@OTHERS
async def test_a_body_that_has_stopped_reading_is_cancelled_at_once(how: str) -> None:
    d = Driven()
    blocked = Blocked()
    got: list[Any] = []

    async def talk(channel: AnonymousChannel) -> None:
        got.append(await anext(channel.events("line")))
        lines = channel.events("line")
        got.append(await anext(lines))
        await lines.aclose()
        await blocked()

    d.peer.on("talk", talk)
    await d.fed({"i": 5, "a": ["talk"]})
    await d.fed(LINES[0])
    await d.fed(*LINES[1:])
    assert blocked.started
    leave(d, how)
    await turns()
    assert len(blocked.cancelled) == 1
    await emptied(d.peer)


@OTHERS
@pytest.mark.parametrize("sends", [False, True])
async def test_a_body_that_has_yet_to_begin_to_read_gets_all(how: str, sends: bool) -> None:
    d = Driven()
    body = Reader()
    loaded = asyncio.Event()

    async def talk(channel: AnonymousChannel) -> None:
        if sends:
            await channel.emit("hello")
        await loaded.wait()
        await body(channel)

    d.peer.on("talk", talk)
    await d.fed({"i": 5, "a": ["talk"]})
    await d.fed(*LINES)
    leave(d, how)
    await turns()
    loaded.set()
    await turns(20)
    assert body.got == ["a", "b", "c", "cancelled"]
    await emptied(d.peer)
    assert d.clock.next_deadline is None


async def test_a_body_asks_first_and_then_reads_what_came_with_the_answer() -> None:
    server, got, asked, over = Server(), list[str](), asyncio.Event(), asyncio.Event()

    def name() -> str:
        asked.set()
        return "Ada"

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        try:
            got.append(await channel.request("name"))
            async for line in channel.events("line"):
                got.append(line)
        finally:
            over.set()

    async with server.listen("127.0.0.1", 0) as listening, Client(listening.url) as client:
        async with await client.open_channel("talk") as channel:
            channel.on("name", name)
            await asked.wait()
            for line in "abc":
                await channel.emit("line", line)
            # The block is left at once, so that the answer, the lines and the end come together.
        await over.wait()
    assert got == ["Ada", "a", "b", "c"]


async def test_a_body_that_only_sends_is_cancelled_in_the_end() -> None:
    d = Driven()
    blocked = Blocked()

    async def talk(channel: AnonymousChannel) -> None:
        await channel.emit("tick")
        await blocked()

    d.peer.on("talk", talk)
    await d.fed({"i": 5, "a": ["talk"]})
    await d.fed(*LINES)
    leave(d, "drop")
    await turns()
    assert blocked.cancelled == [], "it may still read them"
    d.clock.advance(UNREAD)
    await turns()
    assert len(blocked.cancelled) == 1
    await emptied(d.peer)
    assert d.clock.next_deadline is None


async def test_a_body_with_two_readers_reads_both_to_the_end() -> None:
    d = Driven()
    got: list[Any] = []

    async def talk(channel: AnonymousChannel) -> None:
        lines, others = channel.events("line"), channel.events("other")
        got.append(await anext(lines))
        try:
            async for line in lines:
                got.append(line)
            async for other in others:
                got.append(other)
            got.append("went on")
        except asyncio.CancelledError:
            got.append("cancelled")
            raise

    d.peer.on("talk", talk)
    await d.fed({"i": 5, "a": ["talk"]})
    d.feed({"h": 5, "a": ["other", "x"]}, *LINES, {"h": 5, "a": ["other", "y"]}, {"h": 5, "x": CLOSED, "_": 1})
    await turns(20)
    assert got == ["a", "b", "c", "x", "y", "cancelled"]
    await emptied(d.peer)


async def test_a_body_whose_tasks_read_is_cancelled_when_the_last_of_them_has_read_all() -> None:
    d = Driven()
    got: list[Any] = []

    async def read(channel: AnonymousChannel, name: str) -> None:
        async for value in channel.events(name):
            await asyncio.sleep(0)
            got.append(value)

    async def talk(channel: AnonymousChannel) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for name in ("line", "other"):
                    group.create_task(read(channel, name))
                await asyncio.Event().wait()
        finally:
            got.append("cancelled")

    d.peer.on("talk", talk)
    await d.fed({"i": 5, "a": ["talk"]})
    d.feed(*LINES, {"h": 5, "a": ["other", "x"]}, {"h": 5, "x": CLOSED, "_": 1})
    await turns(30)
    assert sorted(got[:-1]) == ["a", "b", "c", "x"] and got[-1] == "cancelled"
    await emptied(d.peer)


@OTHERS
async def test_a_body_that_answers_after_the_end_has_not_failed(how: str, caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    got: list[Any] = []

    async def echo(channel: AnonymousChannel) -> None:
        async for line in channel.events("line"):
            got.append(line)
            await channel.emit("line", line)

    d.peer.on("echo", echo)
    await d.fed({"i": 5, "a": ["echo"]})
    d.feed(*LINES)
    leave(d, how)
    await turns(20)
    assert got == ["a"]
    assert messages(caplog) == []
    await emptied(d.peer)


async def test_a_body_that_the_server_closes_under_is_given_its_time_and_no_more() -> None:
    server = Server(limits=Limits(close_timeout=0.05))
    body = Reader(works=True)
    server.on("talk", body)
    async with server.listen("127.0.0.1", 0) as listening, Client(listening.url) as client:
        channel = await client.open_channel("talk")
        await channel.request("line", "a")
        await server.close()
    assert body.got == ["cancelled"]


@pytest.mark.parametrize("by", ["the opener", "a body"])
async def test_waiting_for_the_end_is_waiting_for_the_handlers_of_what_came_before(by: str) -> None:
    got: list[str] = []
    if by == "the opener":
        d = Driven(dialer=True)
        channel = await requested(d)
        d.feed(*({**line, "h": channel.id} for line in LINES))
        leave_it = {"h": channel.id, "x": CLOSED, "_": 1}
        d.feed(leave_it)
        async with channel:
            channel.on("line", got.append)
            await channel.wait_closed()
    else:
        d, loaded = Driven(), asyncio.Event()

        async def talk(channel: AnonymousChannel) -> None:
            await loaded.wait()
            channel.on("line", got.append)
            await channel.wait_closed()

        d.peer.on("talk", talk)
        await d.fed({"i": 5, "a": ["talk"]})
        await d.fed(*LINES)
        leave(d, "good")
        loaded.set()
        await turns()
    assert got == ["a", "b", "c"]
    await emptied(d.peer)


@pytest.mark.parametrize("first", ["server", "client"])
async def test_closing_waits_for_no_body_that_works_on_what_it_has_read(first: str) -> None:
    server, got = Server(limits=Limits(close_timeout=3600)), list[str]()
    took = asyncio.Event()

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        try:
            async for line in channel.events("line"):
                got.append(line)
                took.set()
                await asyncio.Event().wait()
        finally:
            got.append("over")

    async with server.listen("127.0.0.1", 0) as listening:
        client = Client(listening.url)
        await client.connect()
        channel = await client.open_channel("talk")
        await channel.emit("line", "a")
        await channel.emit("line", "b")
        await took.wait()
        await (server if first == "server" else client).close()
        await server.close()
        await client.close()
    assert got == ["a", "over"]


async def test_an_end_of_its_own_cancels_a_body_at_once() -> None:
    d = Driven()
    body = Reader(works=True)

    async def talk(channel: AnonymousChannel) -> None:
        channel.on("stop", channel.close)
        await body(channel)

    d.peer.on("talk", talk)
    await d.fed({"i": 5, "a": ["talk"]})
    await d.fed(*LINES, {"h": 5, "a": ["stop"]})
    assert body.got == ["cancelled"]
    await emptied(d.peer)


async def test_a_stream_that_the_opener_reads_ends_as_ever() -> None:
    d = Driven(dialer=True)
    channel = await requested(d, {"a": ["e", 1]})
    reading = start(anext(channel.events("e")))
    end(d, channel, "abort")
    assert await reading == 1
    with pytest.raises(ChannelClosed):
        channel.events("e")
    assert isinstance(channel.close_reason, RemoteError)
