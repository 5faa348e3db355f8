"""Reading events: `events` and `wait_for`, on a client, a peer and named channels."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from stream_driver import collect

from wsrpc import (
    AnonymousChannel,
    ChannelClosed,
    Client,
    ConnectFailed,
    ConnectionLost,
    Context,
    Limits,
    Peer,
    Reconnect,
    RemoteError,
    RequestTimeout,
    Server,
    StreamOverflow,
)
from wsrpc.errors import ReservedEvent
from wsrpc.testing import Clock, ScriptedTransport, connect

if sys.version_info >= (3, 12):
    from typing import TypeAliasType

pytestmark = pytest.mark.usefixtures("nothing_left")

ALIASES: list[tuple[Any, list[list[Any]], None]] = []
if sys.version_info >= (3, 12):  # `type Pair = tuple[str, int]`
    ALIASES.append((TypeAliasType("Pair", tuple[str, int]), [["one", 1], ["two", 2]], None))

AT_ONCE = Reconnect(initial=0.001, max=0.001)


def nobody_reads(d: Driven) -> bool:
    """Whether nothing of a reading is left, and messages go the short way again."""
    return (
        not d.peer._life.readers.channels
        and not d.peer._core.dispatcher.admission.needs_checks
        and d.peer._core.channels.unread.used == 0
    )


# ---------------------------------------------------------------- what a reader gets


@pytest.mark.parametrize("where", ["client", "peer", "channel of the client", "channel of the peer"])
async def test_events_are_read_where_they_arrive(where: str) -> None:
    server = Server()
    async with connect(server) as client:
        [peer] = server.peers
        here: Any = client if "client" in where else peer
        there: Any = peer if "client" in where else client
        if "channel" in where:
            here, there = here.of("chat"), there.of("chat")
        async with here.events("said", returns=str) as said:
            for text in ("one", "two"):
                await there.emit("said", text)
            assert [await anext(said), await anext(said)] == ["one", "two"]
        waiting = start(here.wait_for("ready", timeout=5))
        await turns()
        await there.emit("ready", 3)
        assert await waiting == 3


async def test_reading_begins_at_the_call() -> None:
    d = Driven()
    d.feed({"a": ["said", 1]})
    said, others = d.peer.events("said"), d.peer.of("chat").events("said")
    d.feed({"a": ["said", 2]}, {"a": ["said", 3], "c": "chat"}, {"a": ["other", 4]})
    assert await anext(said) == 2
    assert await anext(others) == 3
    d.peer._life.readers.end(lambda: None)
    assert await collect(said) == await collect(others) == []


@pytest.mark.parametrize(
    ("returns", "arguments", "values"),
    [
        (..., [[], ["one"], ["one", 2], [["one", 2]], [None]], [None, "one", ("one", 2), ["one", 2], None]),
        (str, [["one"], [], ["one", 2], [1], [["one"]], ["two"]], ["one", "two"]),
        (tuple[str, int], [["one", 1], ["one"], [["one", 1]], ["one", 1, 2], [1, "one"], ["two", 2]], None),
        (Annotated[tuple[str, int], "both"], [["one", 1], ["two", 2]], None),
        *ALIASES,
        (tuple[int, ...], [[[1, 2]], [1, 2], [[]]], [(1, 2), ()]),
        (list[int], [[[1, 2]], [1, 2], [[]]], [[1, 2], []]),
        (tuple[str], [["one"], [], ["two"]], [("one",), ("two",)]),
        (tuple[()], [[], [1], []], [(), ()]),
        (Any, [["one"], [None], []], ["one", None]),
    ],
    ids=str,
)
async def test_a_tuple_of_fixed_length_takes_all_arguments_and_any_other_type_exactly_one(
    returns: Any, arguments: list[list[Any]], values: list[Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()
    stream = d.peer.events("said") if returns is ... else d.peer.events("said", returns=returns)
    d.feed(*({"a": ["said", *each]} for each in arguments))
    d.peer._life.readers.end(lambda: None)
    values = [("one", 1), ("two", 2)] if values is None else values
    assert await collect(stream) == values
    # What does not fit is dropped as by a handler: counted, with one line in the log.
    assert d.peer.ignored["wrong arguments"] == len(arguments) - len(values)
    assert ("event 'said' was dropped: " in caplog.text) == (len(arguments) > len(values))


async def test_it_observes_beside_the_handler_and_each_reader_has_values_of_its_own() -> None:
    d = Driven()
    handled: list[Any] = []

    def handle(words: list[str]) -> None:
        words.append("changed")
        handled.append(words)

    d.peer.on("said", handle)
    first, second = d.peer.events("said"), d.peer.events("said")
    d.feed({"a": ["said", ["a"]]})
    words = await anext(first)
    words.append("changed, too")
    assert await anext(second) == ["a"] and handled == [["a", "changed"]]
    await first.aclose()
    d.feed({"a": ["said", ["b"]]})
    assert await anext(second) == ["b"] and await collect(first) == []
    await second.aclose()
    d.feed({"a": ["said", ["c"]]})
    assert [words[0] for words in handled] == ["a", "b", "c"]
    assert nobody_reads(d)


async def test_a_once_handler_of_a_server_runs_as_well() -> None:
    server = Server()
    handled: list[int] = []
    server.once("n", handled.append)
    async with connect(server) as client:
        [peer] = server.peers
        numbers = peer.events("n", returns=int)
        for n in range(3):
            await client.emit("n", n)
        assert [await anext(numbers) for _ in range(3)] == [0, 1, 2]
        assert handled == [0]


async def test_requests_are_not_read() -> None:
    d = Driven()
    said = d.peer.events("said")
    sent = await d.fed({"a": ["said", 1], "i": 7})
    assert sent[0]["e"]["message"] == "No event listener for 'said'"
    d.peer.on("said", lambda n: n + 1)
    assert await d.fed({"a": ["said", 1], "i": 9}) == [{"i": 9, "d": 2}]
    d.feed({"a": ["said", 2]})
    assert await anext(said) == 2


async def test_an_event_that_only_a_reader_has_is_not_unknown(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    said = d.peer.events("said")
    await d.fed({"a": ["said", 1]}, {"a": ["said", 2], "c": "chat"})
    assert d.peer.ignored == {"unknown event": 1}
    assert "Channel 'chat' does not exist" in caplog.text
    await said.aclose()
    await d.fed({"a": ["said", 3]})
    assert d.peer.ignored == {"unknown event": 2}


@pytest.mark.parametrize("handler", [True, False])
async def test_middleware_sees_it_once(handler: bool) -> None:
    d = Driven()
    seen: list[Any] = []
    handled: list[int] = []

    @d.peer.use
    async def note(ctx: Context, call_next: Any) -> Any:
        seen.append(ctx.args)
        return await call_next(ctx)

    if handler:
        d.peer.on("said", handled.append)
    first, second = d.peer.events("said"), d.peer.events("said")
    await d.fed({"a": ["said", 1]})
    assert [await anext(first), await anext(second)] == [1, 1]
    assert seen == [(1,)] and handled == [1] * handler and not d.peer.ignored


async def test_messages_of_all_kinds_pass_while_somebody_reads() -> None:
    d = Driven()
    d.peer.on("add", lambda a, b: a + b)
    said = d.peer.events("said")
    await d.fed({"a": ["said", 1]})
    assert await d.fed({"a": ["add", 1, 2], "i": 7}) == [{"i": 7, "d": 3}]
    assert await d.fed({"a": ["add", 1, 2], "c": "x", "i": 9}) != []
    asked = start(d.peer.request("who"))
    await turns()
    [request] = d.take()
    d.feed({"i": request["i"], "d": "me"})
    assert await asked == "me" and await anext(said) == 1


# ---------------------------------------------------------------- bounds


async def test_the_newest_only() -> None:
    d = Driven()
    latest, every = d.peer.events("n", keep="newest"), d.peer.events("n")
    d.feed(*({"a": ["n", n, "x" * 1000]} for n in range(100)))
    assert await anext(latest) == (99, "x" * 1000)
    d.feed({"a": ["n", 100]})
    assert await anext(latest) == 100
    assert len([await anext(every) for _ in range(101)]) == 101
    await latest.aclose()
    await every.aclose()
    assert nobody_reads(d)


async def test_events_that_the_newest_one_has_replaced_take_no_memory() -> None:
    d = Driven()
    latest = d.peer.events("n", keep="newest")
    d.feed({"a": ["n", 10, "x" * 1000]})
    unread = d.peer._core.channels.unread
    before = unread.used
    d.feed(*({"a": ["n", n, "x" * 1000]} for n in range(11, 100)))
    assert unread.used == before > 0
    assert await anext(latest) == (99, "x" * 1000)
    await latest.aclose()
    assert nobody_reads(d)


async def test_a_reader_that_falls_behind_gets_an_error_after_what_was_kept_and_nobody_else_does() -> None:
    d = Driven(limits=Limits(stream_queue=10_000))
    slow, quick = d.peer.events("n"), d.peer.events("n")
    read: list[int] = []
    for n in range(20):
        d.feed({"a": ["n", n, "x" * 1000]})
        read.append((await anext(quick))[0])
    assert read == list(range(20))
    kept: list[Any] = []
    with pytest.raises(StreamOverflow, match="stream_queue"):
        await collect(slow, kept)
    got = [n for n, _ in kept]
    assert got == list(range(len(got))) and 8 <= len(got) <= 10
    assert await collect(slow) == []
    await quick.aclose()
    assert nobody_reads(d) and d.peer.connected


async def test_many_small_events_are_bounded_by_the_memory_that_they_take() -> None:
    d = Driven(limits=Limits(unread_bytes=100_000))
    readers = [d.peer.events("n") for _ in range(3)]
    for _ in range(1000):
        d.feed({"a": ["n"]})
    assert d.peer._core.channels.unread.used <= 100_000 + 3 * 4096
    kept: list[Any] = []
    for reader in readers:
        with pytest.raises(StreamOverflow, match="unread_bytes"):
            await collect(reader, kept)
    assert len(kept) < 1000
    assert nobody_reads(d)


@pytest.mark.parametrize("how", ["break", "garbage", "aclose", "async with", "cancelled"])
async def test_a_reader_that_was_left_counts_no_more(how: str, caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    async def read() -> None:
        if how == "break":
            async for _ in d.peer.events("n"):
                break
        elif how == "garbage":
            await anext(d.peer.events("n"))
        elif how == "aclose":
            stream = d.peer.events("n")
            await anext(stream)
            await stream.aclose()
        else:
            async with d.peer.events("n") as stream:
                await anext(stream)
                if how == "cancelled":
                    await asyncio.Event().wait()

    task = start(read())
    await turns()
    d.feed(*({"a": ["n", n, ["x"] * 1000]} for n in range(20)))
    await turns()
    task.cancel()
    await asyncio.wait([task])
    gc.collect()
    await turns()
    assert nobody_reads(d) and caplog.text == ""


async def test_nothing_is_looked_up_while_nobody_reads() -> None:
    d = Driven()
    admission = d.peer._core.dispatcher.admission
    assert not admission.needs_checks
    first, second = d.peer.events("a"), d.peer.of("chat").events("b")
    assert admission.needs_checks
    await first.aclose()
    assert admission.needs_checks
    await second.aclose()
    assert not admission.needs_checks


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("event", ["open", "connect", "close", "disconnect", "error", "message"])
async def test_reserved_events_are_refused_on_the_main_channel(event: str) -> None:
    d = Driven()
    with pytest.raises(ReservedEvent, match="reserved on the main channel"):
        d.peer.events(event)
    with pytest.raises(ReservedEvent):
        await d.peer.wait_for(event)
    said = d.peer.of("chat").events(event)
    d.feed({"a": [event, 1], "c": "chat"})
    assert await anext(said) == 1


async def test_what_cannot_be_meant_is_refused() -> None:
    d = Driven()
    refused: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: d.peer.events(3), TypeError, "an event's name is a string"),  # type: ignore[arg-type]
        (lambda: d.peer.events("n", keep="last"), ValueError, 'keep= is "all"'),  # type: ignore[arg-type]
        (lambda: d.peer.events("n", returns=3), TypeError, "3"),  # type: ignore[arg-type]
    ]
    for call, kind, text in refused:
        with pytest.raises(kind, match=text):
            call()
    for timeout, kind in ((-1, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        wrong: Any = timeout
        with pytest.raises(kind, match="timeout= is a number of seconds"):
            await d.peer.wait_for("n", timeout=wrong)
    assert nobody_reads(d)


# ---------------------------------------------------------------- the end


async def test_a_named_channel_that_is_closed_ends_its_readers_and_no_others() -> None:
    d = Driven()
    chat = d.peer.of("chat")
    closed, other, main = chat.events("n"), d.peer.of("other").events("n"), d.peer.events("n")
    d.feed({"a": ["n", 1], "c": "chat"})
    chat.close("enough")
    assert await anext(closed) == 1
    with pytest.raises(ChannelClosed, match="'chat' is closed: 'enough'"):
        await anext(closed)
    calls: list[Callable[[], object]] = [lambda: chat.events("n"), chat.items]
    for call in calls:
        with pytest.raises(ChannelClosed):
            call()
    d.feed({"a": ["n", 2], "c": "other"}, {"a": ["n", 3]})
    assert [await anext(other), await anext(main)] == [2, 3]


async def test_of_a_servers_peer_it_ends_with_the_connection() -> None:
    server = Server()
    arrived = asyncio.get_running_loop().create_future()
    server.on("open", arrived.set_result)
    async with connect(server) as client:
        peer: Peer = await arrived
        streams = [peer.events("n"), peer.of("chat").events("n")]
        waiting = start(peer.wait_for("never"))
        await client.emit("n", 1)
        await turns()
    await turns_until(lambda: not peer.connected)
    assert await anext(streams[0]) == 1
    for stream in (*streams, peer.events("late")):
        with pytest.raises(ConnectionLost) as caught:
            await anext(stream)
        assert caught.value.code == 1000
    with pytest.raises(ConnectionLost):
        await waiting


async def test_of_a_client_it_survives_reconnects_and_ends_at_close() -> None:
    server = Server()
    opened: asyncio.Queue[Peer] = asyncio.Queue()
    server.on("open", opened.put_nowait)
    got: list[int] = []

    async def read(stream: Any) -> str:
        async for n in stream:
            got.append(n)
        return "ended"

    async with asyncio.timeout(20), server.listen("127.0.0.1", 0) as listener:
        client = Client(listener.url, reconnect=AT_ONCE)
        reading = [start(read(client.events("n", returns=int))), start(read(client.of("chat").events("n")))]
        waiting = start(client.wait_for("never"))
        async with client:
            for n in range(3):
                peer = await opened.get()
                await peer.emit("n", n)
                await peer.of("chat").emit("n", 10 + n)

                def has_both(n: int = n) -> bool:
                    return len(got) == 2 * n + 2

                await turns_until(has_both)
                await peer.close(1012)
            await opened.get()
        assert [await each for each in reading] == ["ended", "ended"]
        assert sorted(got) == [0, 1, 2, 10, 11, 12]
        with pytest.raises(ConnectionLost, match="closed by this side"):
            await waiting
        assert await collect(client.events("n")) == []
        with pytest.raises(ConnectionLost):
            await client.wait_for("n")
        await client.connect()  # as new
        numbers = client.events("n")
        await (await opened.get()).emit("n", 7)
        assert await anext(numbers) == 7
        await client.close()


async def test_a_client_that_gives_up_ends_it_with_the_reason() -> None:
    server = Server()
    async with asyncio.timeout(20), server.listen("127.0.0.1", 0) as listener:
        client = Client(listener.url, reconnect=None)
        numbers = client.events("n")
        async with client:
            [peer] = server.peers
            await peer.close(4000, "go")
            with pytest.raises(ConnectionLost) as caught:
                await anext(numbers)
            assert caught.value.code == 4000
    nowhere = Client("ws://127.0.0.1:1/", connect_timeout=0.01, reconnect=AT_ONCE)
    numbers = nowhere.events("n")
    with pytest.raises(ConnectFailed):
        await nowhere.connect()
    with pytest.raises(ConnectFailed):
        await anext(numbers)


def test_reading_begins_before_there_is_an_event_loop_and_does_not_go_on_in_another_one() -> None:
    transport = ScriptedTransport()
    client = Client(transport=transport)
    streams = [client.events("n")]

    async def first() -> None:
        await client.connect()
        transport.feed({"a": ["n", 1]})
        assert await anext(streams[0]) == 1
        transport.lose()  # the program ends without close(), as programs do that are interrupted
        streams.append(client.events("n"))
        start(anext(streams[1]))
        await turns()

    async def second() -> None:
        transport = ScriptedTransport()
        await client.bind(transport)
        numbers = client.events("n")
        transport.feed({"a": ["n", 2]})
        assert await anext(numbers) == 2
        assert [await collect(stream) for stream in streams] == [[], []]
        await client.close()

    asyncio.run(first())
    asyncio.run(second())


# ---------------------------------------------------------------- wait_for


async def test_wait_for_begins_at_the_call_and_takes_the_first_that_fits() -> None:
    d = Driven()
    waiting = d.peer.wait_for("n", returns=int, timeout=5)
    d.feed({"a": ["n", "text"]}, {"a": ["n", 1]}, {"a": ["n", 2]})
    assert await waiting == 1
    assert nobody_reads(d) and d.peer.ignored["wrong arguments"] == 1


async def test_wait_for_that_takes_too_long() -> None:
    d = Driven()
    waiting = start(d.peer.wait_for("ready", returns=int, timeout=5))
    await turns()
    d.feed({"a": ["ready", "text"]})  # it does not fit, so it does not count
    d.clock.advance(4.9)
    await turns()
    assert not waiting.done()
    d.clock.advance(0.1)
    with pytest.raises(RequestTimeout, match=r"^no event 'ready' within 5 s$") as caught:
        await waiting
    assert isinstance(caught.value, TimeoutError)
    assert nobody_reads(d)
    with pytest.raises(TimeoutError) as outer:  # somebody else's is somebody else's
        async with asyncio.timeout(0.01):
            await d.peer.wait_for("ready", timeout=60)
    assert not isinstance(outer.value, RequestTimeout)
    assert nobody_reads(d) and d.clock.next_deadline is None


async def test_wait_for_counts_from_the_await_and_takes_what_came_before_the_end() -> None:
    d = Driven()
    waiting = d.peer.wait_for("n", timeout=5)
    d.clock.advance(60)
    task = start(waiting)
    await turns()
    assert not task.done()
    d.feed({"a": ["n", 1]})
    d.clock.advance(5)
    assert await task == 1


async def test_wait_for_goes_by_the_clock_of_connect() -> None:
    clock = Clock()
    async with connect(Server(), clock=clock) as client:
        waiting = start(client.wait_for("ready", timeout=60))
        await turns()
        clock.advance(60)
        with pytest.raises(RequestTimeout):
            await waiting


async def test_a_conversation_that_waits_too_long() -> None:
    clock = Clock()
    server = Server()

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        await channel.emit("hello")
        await channel.wait_closed()

    async with connect(server, clock=clock) as client, await client.open_channel("talk") as channel:
        await channel.wait_for("hello", timeout=60)
        waiting = start(channel.wait_for("more", timeout=60))
        await turns()
        clock.advance(60)
        with pytest.raises(RequestTimeout, match=r"^no event 'more' within 60 s$"):
            await waiting
        assert not channel.closed


async def test_wait_for_that_is_not_awaited_is_named_in_the_warning() -> None:
    d = Driven()
    waiting = d.peer.wait_for("ready")
    with pytest.warns(RuntimeWarning, match=r"^coroutine 'wait_for' was never awaited"):
        del waiting
    await turns()
    assert nobody_reads(d)


async def test_wait_for_that_is_cancelled_or_never_awaited_leaves_nothing() -> None:
    d = Driven()
    task = start(d.peer.wait_for("ready"))
    await turns()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and nobody_reads(d)
    d.peer.wait_for("ready").close()
    await turns()
    assert nobody_reads(d)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_an_open_handler_may_wait_for_an_event(side: str) -> None:
    """Events are held back for handlers meanwhile, and not for who waits for them."""
    server, client = Server(), Client(limits=Limits(open_handlers=5))
    got: list[Any] = []
    here, there = (client, server) if side == "client" else (server, client)
    there.on("open", lambda peer: peer.emit_nowait("ready", "go"))

    @here.on("open")
    async def opened(peer: Peer) -> None:
        got.append(await peer.wait_for("ready", timeout=4))

    async with connect(server, client=client):
        await turns_until(lambda: got)
        assert got == ["go"]
        [peer] = server.peers
        assert not client.peer.ignored and not peer.ignored


async def test_a_reader_that_begins_in_an_open_handler_gets_what_was_held_back() -> None:
    server = Server()
    got: list[Any] = []
    handled: list[Any] = []

    @server.on("open")
    async def opened(peer: Peer) -> None:
        await turns()
        assert peer.stats().waiting == 3
        reader = peer.events("hello")
        got.extend([await peer.wait_for("hello"), await anext(reader), await anext(reader)])
        peer.on("both", handled.append)
        got.append(await peer.wait_for("both"))

    client = Client()

    @client.on("open")
    def say(peer: Peer) -> None:
        for name, value in (("hello", 1), ("hello", 2), ("both", 3)):
            peer.emit_nowait(name, value)

    async with connect(server, client=client):
        await turns_until(lambda: handled)
        assert got == [1, 1, 2, 3] and handled == [3]
        [peer] = server.peers
        assert not peer.ignored


async def test_what_was_held_back_may_be_too_much_for_a_reader() -> None:
    server = Server(limits=Limits(stream_queue=100))
    got: list[Any] = []

    @server.on("open")
    async def opened(peer: Peer) -> None:
        await turns()
        reader = peer.events("big")
        got.append(await anext(reader))
        with pytest.raises(StreamOverflow):
            await anext(reader)
        got.append(await peer.wait_for("big"))

    client = Client()

    @client.on("open")
    def say(peer: Peer) -> None:
        for value in "abc":
            peer.emit_nowait("big", value * 70)

    async with connect(server, client=client):
        await turns_until(lambda: len(got) == 2)
        assert [value[0] for value in got] == ["a", "b"]


async def test_each_wait_for_in_an_open_handler_gets_the_next_event() -> None:
    server = Server()
    got: list[Any] = []
    held: list[int] = []

    @server.on("open")
    async def opened(peer: Peer) -> None:
        await turns()
        got.extend([await peer.wait_for("count", returns=int) for _ in range(3)])
        held.append(peer.stats().waiting)  # what nobody else wants is not looked at again

    client = Client()

    @client.on("open")
    def say(peer: Peer) -> None:
        for value in (1, 2, "not a number", 3):
            peer.emit_nowait("count", value)

    async with connect(server, client=client) as client:
        [peer] = server.peers
        await turns_until(lambda: len(got) == 3)
        assert got == [1, 2, 3] and held == [2]
        assert peer.ignored == {"wrong arguments": 1} and not peer._life.readers.channels


async def test_a_handler_may_wait_for_an_event_where_no_other_handler_may_run() -> None:
    server = Server(limits=Limits(running=1))

    @server.on("order")
    async def order(peer: Peer) -> str:
        await peer.emit("sure?")
        return await peer.wait_for("confirm", returns=str, timeout=5)

    async with connect(server) as client:
        client.on("sure?", lambda: client.emit_nowait("confirm", "yes"))
        assert await client.request("order") == "yes"


async def test_two_tasks_cannot_read_one_stream() -> None:
    d = Driven()
    numbers = d.peer.events("n")
    first = start(anext(numbers))
    await turns()
    with pytest.raises(RuntimeError, match="two tasks read the same stream"):
        await anext(numbers)
    d.feed({"a": ["n", 1]})
    assert await first == 1


async def test_the_next_one_is_not_lost_when_a_read_is_cancelled() -> None:
    d = Driven()
    numbers = d.peer.events("n")
    task = start(anext(numbers))
    await turns()
    d.feed({"a": ["n", 1]})
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and await anext(numbers) == 1


async def test_remote_errors_are_no_business_of_readers() -> None:
    server = Server()
    async with connect(server) as client:
        numbers = client.events("n")
        with pytest.raises(RemoteError):
            await client.request("nonesuch")
        await next(iter(server.peers)).emit("n", 1)
        assert await anext(numbers) == 1
