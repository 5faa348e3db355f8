"""Reading events: `events` and `wait_for`, on a client, a peer and named channels."""

from __future__ import annotations

import asyncio
import gc
import sys
import typing
from typing import Annotated, Any

import pytest
from core_driver import Driven, start
from leftovers import nothing_left as nothing_left
from peers_inside import reads_nothing, unread_at
from stream_driver import collect
from tenacity import stop_after_delay
from waiting import settled, until

from wsrpc import ChannelClosed, Client, ConnectFailed, ConnectionLost, Limits, Peer, Reconnect, RequestTimeout, Server
from wsrpc.errors import ReservedEvent
from wsrpc.testing import Line, ScriptedTransport, connect

pytestmark = pytest.mark.usefixtures("nothing_left")

ALIASES: list[tuple[Any, list[list[Any]], None]] = []
if sys.version_info >= (3, 12):  # `type Pair = tuple[str, int]`
    ALIASES.append((typing.TypeAliasType("Pair", tuple[str, int]), [["one", 1], ["two", 2]], None))


# ---------------------------------------------------------------- what a reader gets


@pytest.mark.parametrize("where", ["client", "peer", "channel of the client", "channel of the peer"])
async def test_events_are_read_where_they_arrive(where: str) -> None:
    async with connect(server := Server()) as client:
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
        await settled()
        await there.emit("ready", 3)
        assert await waiting == 3


@pytest.mark.parametrize(
    ("returns", "arguments", "values"),
    [
        (..., [[], ["one"], ["one", 2], [["one", 2]], [None]], [None, "one", ("one", 2), ["one", 2], None]),
        (str, [["one"], [], ["one", 2], [1], [["one"]], ["two"]], ["one", "two"]),
        (tuple[str, int], [["one", 1], ["one"], [["one", 1]], ["one", 1, 2], [1, "one"], ["two", 2]], None),
        (Annotated[tuple[str, int], "both"], [["one", 1], ["two", 2]], None),
        *ALIASES,
        (tuple[int, ...], [[[1, 2]], [1, 2], [[]]], [(1, 2), ()]),
        (tuple[()], [[], [1], []], [(), ()]),
    ],
    ids=str,
)
async def test_a_tuple_of_fixed_length_takes_all_arguments_and_any_other_type_exactly_one(
    returns: Any, arguments: list[list[Any]], values: list[Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()
    stream = d.peer.events("said") if returns is ... else d.peer.events("said", returns=returns)
    d.feed(*({"a": ["said", *each]} for each in arguments))
    values = [("one", 1), ("two", 2)] if values is None else values
    d.transport.lose()
    got: list[Any] = []
    with pytest.raises(ConnectionLost):
        await collect(stream, got)
    assert got == values
    # What does not fit is dropped as by a handler: counted, with one line in the log.
    assert d.peer.ignored["wrong arguments"] == len(arguments) - len(values)
    assert ("event 'said' was dropped: " in caplog.text) == (len(arguments) > len(values))


async def test_it_observes_beside_the_handler_and_each_reader_has_values_of_its_own() -> None:
    d = Driven()
    first, second = d.peer.events("said"), d.peer.events("said")
    [rejection] = await d.fed({"a": ["said", 1], "i": 7})
    assert rejection["e"]["message"] == "No event listener for 'said'", "requests are not read"
    handled: list[Any] = []

    @d.peer.on("said")
    def handle(words: list[str]) -> int:
        words.append("changed")
        handled.append(words)
        return len(words)

    assert await d.fed({"a": ["said", ["a"]]}, {"a": ["said", ["b"]], "i": 9}) == [{"i": 9, "d": 2}]
    (await anext(first)).append("changed, too")
    assert await anext(second) == ["a"] and handled == [["a", "changed"], ["b", "changed"]]
    await first.aclose()
    d.feed({"a": ["said", ["c"]]})
    assert await anext(second) == ["c"] and await collect(first) == []
    await second.aclose()
    assert reads_nothing(d.peer)


async def test_an_event_that_only_a_reader_has_is_not_unknown(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    said = d.peer.events("said")
    await d.fed({"a": ["said", 1]}, {"a": ["said", 2], "c": "chat"})
    assert d.peer.ignored == {"unknown event": 1}
    assert "Channel 'chat' does not exist" in caplog.text
    await said.aclose()
    await d.fed({"a": ["said", 3]})
    assert d.peer.ignored == {"unknown event": 2}


async def test_middleware_sees_it_once() -> None:
    d = Driven()
    seen: list[Any] = []

    @d.peer.use
    async def note(ctx: Any, call_next: Any) -> Any:
        seen.append(ctx.args)
        return await call_next(ctx)

    first, second = d.peer.events("said"), d.peer.events("said")
    await d.fed({"a": ["said", 1]})
    assert [await anext(first), await anext(second)] == [1, 1]
    assert seen == [(1,)] and not d.peer.ignored


# ---------------------------------------------------------------- bounds


async def test_of_the_newest_only_one_is_kept_in_memory() -> None:
    d = Driven()
    latest = d.peer.events("n", keep="newest")
    d.feed({"a": ["n", 10, "x" * 1000]})
    before = unread_at(d.peer)
    d.feed(*({"a": ["n", n, "x" * 1000]} for n in range(11, 100)))
    assert unread_at(d.peer) == before > 0
    assert await anext(latest) == (99, "x" * 1000)
    d.feed({"a": ["n", 100]})
    assert await anext(latest) == 100
    await latest.aclose()
    assert reads_nothing(d.peer)


@pytest.mark.parametrize("how", ["break", "garbage", "aclose", "cancelled"])
async def test_a_reader_that_was_left_counts_no_more(how: str, caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    async def read() -> None:
        stream = d.peer.of("chat").events("n")
        if how == "break":
            async for _ in stream:
                break
        elif how == "cancelled":
            async with stream:
                await collect(stream)
        else:
            await anext(stream)
            if how == "aclose":
                await stream.aclose()

    task = start(read())
    await settled()
    assert not reads_nothing(d.peer)
    await d.fed(*[{"a": ["n", ["x"] * 1000], "c": "chat"}] * 20)
    task.cancel()
    await asyncio.wait([task])
    gc.collect()
    await settled()
    assert reads_nothing(d.peer) and caplog.text == ""


# ---------------------------------------------------------------- what is refused


async def test_what_cannot_be_meant_is_refused() -> None:
    d = Driven()
    for event in ("open", "connect", "close", "disconnect", "error", "message"):
        with pytest.raises(ReservedEvent, match="reserved on the main channel"):
            d.peer.events(event)
        with pytest.raises(ReservedEvent):
            await d.peer.wait_for(event)
        said = d.peer.of("chat").events(event)
        d.feed({"a": [event, 1], "c": "chat"})
        assert await anext(said) == 1
        await said.aclose()
    wrong: Any
    for wrong, kind in (({"keep": "last"}, ValueError), ({"returns": 3}, TypeError)):
        with pytest.raises(kind):
            d.peer.events("n", **wrong)
    for wrong, kind in ((-1, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(kind, match="timeout= is a number of seconds"):
            await d.peer.wait_for("n", timeout=wrong)
    assert reads_nothing(d.peer)


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
    with pytest.raises(ChannelClosed):
        chat.events("n")
    with pytest.raises(ChannelClosed):
        chat.items()
    d.feed({"a": ["n", 2], "c": "other"}, {"a": ["n", 3]})
    assert [await anext(other), await anext(main)] == [2, 3]


async def test_of_a_servers_peer_it_ends_with_the_connection() -> None:
    async with connect(server := Server()) as client:
        [peer] = server.peers
        stream, waiting = peer.events("n"), start(peer.wait_for("never"))
        await client.emit("n", 1)
        await settled()
    await until(lambda: not peer.connected)
    assert await anext(stream) == 1
    for end in (anext(stream), anext(peer.events("late")), waiting):
        with pytest.raises(ConnectionLost) as caught:
            await end
        assert caught.value.code == 1000


async def test_of_a_client_it_survives_reconnects_and_ends_at_close() -> None:
    client = Client(extensions=False)
    numbers, others = client.events("n", returns=int), client.of("chat").events("n", returns=int)
    waiting = start(client.wait_for("never"))
    for n in range(3):
        await client.bind(transport := ScriptedTransport())
        transport.feed({"a": ["n", n]}, {"a": ["n", 10 + n], "c": "chat"})
        assert [await anext(numbers), await anext(others)] == [n, 10 + n]
        transport.lose()
    await client.close()
    assert await collect(numbers) == await collect(others) == await collect(client.events("n")) == []
    for ended in (waiting, client.wait_for("n")):
        with pytest.raises(ConnectionLost):
            await ended
    await client.bind(transport := ScriptedTransport())  # as new
    numbers = client.events("n", returns=int)
    transport.feed({"a": ["n", 7]})
    assert await anext(numbers) == 7
    await client.close()


async def test_a_client_that_gives_up_ends_it_with_the_reason() -> None:
    line = Line(Server())
    line.down = True
    nowhere = Client("ws://server/", dial=line.dial, reconnect=Reconnect(stop=stop_after_delay(60)))
    numbers = nowhere.events("n")
    for waits in (nowhere.connect, lambda: anext(numbers)):
        with pytest.raises(ConnectFailed):
            await waits()


# ---------------------------------------------------------------- wait_for


async def test_wait_for_begins_at_the_call_and_its_timeout_at_the_await() -> None:
    async with connect(server := Server()) as client:
        [peer] = server.peers
        waiting = peer.wait_for("n", returns=int, timeout=5)
        for value in ("text", 1, 2):
            await client.emit("n", value)
        await settled()
        assert await waiting == 1
        assert reads_nothing(peer) and peer.ignored["wrong arguments"] == 1
        waiting = peer.wait_for("n", returns=int, timeout=5)
        await asyncio.sleep(60)
        began = asyncio.get_running_loop().time()
        task = start(waiting)
        await settled()
        await client.emit("n", "text")  # it does not fit, so it does not count
        with pytest.raises(RequestTimeout, match=r"^no event 'n' within 5 s$"):
            await task
        assert asyncio.get_running_loop().time() - began == pytest.approx(5)
        assert reads_nothing(peer)


async def test_wait_for_that_is_cancelled_or_never_awaited_leaves_nothing() -> None:
    d = Driven()
    task = start(d.peer.wait_for("ready"))
    await settled()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and reads_nothing(d.peer)
    waiting = d.peer.wait_for("ready")
    waiting.close()
    del waiting
    await settled()
    assert reads_nothing(d.peer)
    waiting = d.peer.wait_for("ready")
    with pytest.warns(RuntimeWarning, match=r"^coroutine 'wait_for' was never awaited"):
        del waiting
    await settled()
    assert reads_nothing(d.peer)


# ---------------------------------------------------------------- in handlers


@pytest.mark.parametrize("side", ["client", "server"])
async def test_an_open_handler_reads_what_is_held_back_from_handlers_meanwhile(side: str) -> None:
    server, client, over = Server(), Client(), asyncio.Event()
    here, there = (client, server) if side == "client" else (server, client)
    got, handled = list[Any](), list[Any]()

    @there.on("open")
    def say(peer: Peer) -> None:
        for value in (1, 2, "not a number", 3):
            peer.emit_nowait("count", value)
        peer.emit_nowait("both", 4)

    @here.on("open")
    async def opened(peer: Peer) -> None:
        await settled()
        got.extend([await peer.wait_for("count", returns=int) for _ in range(3)])
        peer.on("both", handled.append)
        got.append(await anext(peer.events("both")))
        over.set()

    async with connect(server, client=client):
        await over.wait()
        await settled()
        [peer] = [client.peer] if side == "client" else server.peers
        assert (got, handled) == ([1, 2, 3, 4], [4])
        assert peer.ignored == {"wrong arguments": 1} and reads_nothing(peer)


@pytest.mark.parametrize("handled", [False, True])
async def test_an_open_handler_that_waits_already_gets_each_event_once(handled: bool) -> None:
    """Those that came in the same read were dropped, and where there was a handler, the first one came again."""
    d, waits = Driven(bind=False), asyncio.Event()
    got, ran = list[Any](), list[Any]()

    @d.peer.on("open")
    async def opened(peer: Peer) -> None:
        for _ in range(3):
            waits.set()
            got.append(await peer.wait_for("count", returns=int))

    if handled:
        d.peer.on("count", ran.append)
    d.peer.bind(d.transport)
    await waits.wait()
    await d.fed(*[{"a": ["count", value]} for value in (1, "not a number", 2, 3, 4)])
    assert got == [1, 2, 3]
    assert ran == ([1, "not a number", 2, 3, 4] if handled else [])
    assert d.peer.ignored == {"wrong arguments": 1} | ({} if handled else {"unknown event": 1})


async def test_a_handler_that_has_the_only_place_may_wait_for_an_event() -> None:
    d = Driven(limits=Limits(running=1))
    handled: list[int] = []
    d.peer.on("ask", lambda: d.peer.wait_for("answer"))
    d.peer.on("answer", handled.append)
    await d.fed({"i": 1, "a": ["ask"]})
    assert await d.fed({"a": ["answer", 7]}) == [{"i": 1, "d": 7}]
    assert handled == [7]
