"""What travels with a call besides its arguments: metadata and the remaining time, in the key ``ctx``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import decoded, hello, welcome

from wsrpc import AnonymousChannel, Client, Context, HandlerTimeout, Limits, RequestTimeout, Server, with_options
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

TENANT = {"tenant": "acme"}


async def greeted(*features: str, **options: Any) -> Driven:
    d = Driven(dialer=True, extensions=True, **options)
    await d.fed(welcome(*features))
    return d


async def passed(d: Driven, seconds: float) -> None:
    d.clock.advance(seconds)
    await turns()


# ---------------------------------------------------------------- what is sent

CALLS: dict[str, Callable[[Any], Any]] = {
    "request": lambda peer: peer.request("q", metadata=TENANT),
    "emit": lambda peer: peer.emit("q", metadata=TENANT),
    "channel": lambda peer: peer.of("c").request("q", metadata=TENANT),
    "conversation": lambda peer: peer.open_channel("q", metadata=TENANT),
    "upload": lambda peer: peer.request("q", send=[1], metadata=TENANT),
    "stream": lambda peer: peer.stream("q", metadata=TENANT).__aenter__(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("features", [(), ("credit",), ("context",)], ids=repr)
async def test_only_a_peer_that_accepts_a_context_gets_it(
    features: tuple[str, ...], call: Callable[[Any], Any]
) -> None:
    d = await greeted(*features)
    calling = start(call(d.peer))
    await turns()
    [sent] = decoded(d.take())
    assert sent.get("ctx") == ({"metadata": TENANT} if "context" in features else None)
    assert d.peer.stats().metadata_not_sent == ("context" not in features)
    calling.cancel()
    await asyncio.wait({calling})


async def test_a_message_with_metadata_waits_for_the_greeting_and_later_messages_wait_behind_it() -> None:
    d = Driven(dialer=True, extensions=True)
    d.take()
    await d.peer.emit("before")
    waits = [start(d.peer.emit("first", metadata=TENANT)), start(d.peer.emit("second"))]
    await turns()
    assert decoded(d.take()) == [{"a": ["before"]}]
    sent = await d.fed(welcome("context"))
    await asyncio.gather(*waits)
    assert sent == [{"a": ["first"], "ctx": {"metadata": TENANT}}, {"a": ["second"]}]


async def test_the_acceptor_waits_for_the_hello() -> None:
    d = Driven(extensions=True)
    waits = start(d.peer.emit("first", metadata=TENANT))
    await turns()
    d.expect()
    _, sent = await d.fed(hello("context"))
    assert sent == {"a": ["first"], "ctx": {"metadata": TENANT}}
    await waits


async def test_a_peer_that_says_nothing_gets_the_message_without_its_metadata_and_it_is_counted() -> None:
    d = Driven(dialer=True, extensions=True)
    d.take()
    waits = start(d.peer.emit("first", metadata=TENANT))
    await turns()
    d.expect()
    await passed(d, 2)
    await waits
    assert decoded(d.take()) == [{"a": ["first"]}]
    assert d.peer.stats().metadata_not_sent == 1


@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
async def test_any_first_message_ends_the_wait(dialer: bool) -> None:
    """The greeting would come first."""
    d = Driven(dialer=dialer, extensions=True)
    d.take()
    waits = start(d.peer.emit("first", metadata=TENANT))
    await turns()
    d.expect()
    assert await d.fed({"a": ["no hello"]}) == [{"a": ["first"]}]
    await waits
    await d.peer.emit("second", metadata=TENANT)
    assert decoded(d.take()) == [{"a": ["second"]}]


async def test_without_extensions_nothing_waits() -> None:
    d = Driven(dialer=True)
    await d.peer.emit("first", metadata=TENANT)
    assert decoded(d.take()) == [{"a": ["first"]}]


async def test_emit_nowait_does_not_wait_for_the_greeting() -> None:
    d = Driven(dialer=True, extensions=True)
    d.take()
    d.peer.emit_nowait("first", metadata=TENANT)
    assert await d.fed(welcome("context")) == [{"a": ["first"]}]
    d.peer.emit_nowait("second", metadata=TENANT)
    assert decoded(d.take()) == [{"a": ["second"], "ctx": {"metadata": TENANT}}]
    assert d.peer.stats().metadata_not_sent == 1


async def test_a_call_that_waited_for_its_first_connection_has_its_metadata() -> None:
    server = Server()
    got: list[Any] = []

    @server.on("note")
    def note(number: int, ctx: Context) -> int:
        got.append((number, dict(ctx.metadata)))
        return len(got)

    async with server.listen() as listener:
        client = Client(listener.url)
        waits = start(client.request("note", 1, metadata=TENANT))
        await turns()
        client.emit_nowait("note", 2, metadata=TENANT)
        client.emit_nowait("note", 3)
        await turns()
        async with client:
            assert await waits == 1
            assert await client.request("note", 4) == 4
    assert got == [(1, TENANT), (2, TENANT), (3, {}), (4, {})]


# ---------------------------------------------------------------- bounds

WRONG: list[tuple[Any, type[Exception]]] = [
    (7, TypeError),
    ({"a": 1}, TypeError),
    ({1: "a"}, TypeError),
    ({"": "a"}, ValueError),
    ({"a b": "c"}, ValueError),
    ({"a\n": "c"}, ValueError),
    ({"é": "c"}, ValueError),
    ({"a" * 65: "c"}, ValueError),
    ({"a": "x" * 4096}, ValueError),
    ({"a": "\ud800"}, ValueError),
    ({str(n): "" for n in range(33)}, ValueError),
]


@pytest.mark.parametrize(("metadata", "error"), WRONG, ids=lambda value: repr(value)[:20])
async def test_wrong_metadata_is_refused_and_nothing_is_sent(metadata: Any, error: type[Exception]) -> None:
    d = await greeted("context")
    for call in (d.peer.request, d.peer.emit, d.peer.open_channel):
        with pytest.raises(error, match="metadata="):
            await call("q", metadata=metadata)
    for plain in (d.peer.emit_nowait, d.peer.stream):
        with pytest.raises(error, match="metadata="):
            plain("q", metadata=metadata)
    d.expect()


HOSTILE: list[Any] = [
    7,
    [],
    {"metadata": 7},
    {"metadata": {"a": 1}},
    {"metadata": {"a b": ""}},
    {"metadata": {"a": "x" * 5000}},
    {"metadata": {str(n): "" for n in range(33)}},
    {"remaining_ms": -1},
    {"remaining_ms": 1.5},
    {"remaining_ms": 2**31},
    {"remaining_ms": 1e400},
    {"remaining_ms": True},
    {"remaining_ms": "1"},
    {"remaining_ms": None},
    {"at": "lobby"},
    {"at": ["lobby"]},
    {"at": ["lobby", 7]},
    {"at": ["lobby", "1", "2"]},
    {"at": ["", "1"]},
    {"at": ["x" * 257, "1"]},
    {"at": ["lobby", "1" * 65]},
]


@pytest.mark.parametrize("ctx", HOSTILE, ids=lambda value: repr(value)[:40])
async def test_a_wrong_context_is_refused_with_a_reason_and_the_handler_does_not_run(ctx: Any) -> None:
    d = Driven(extensions=True)
    runs: list[int] = []
    d.peer.on("q", lambda: runs.append(1))
    _, *answers = await d.fed(hello("context"), {"i": 7, "a": ["q"], "ctx": ctx}, {"a": ["q"], "ctx": ctx})
    if ctx == {"remaining_ms": 1e400}:  # not JSON
        assert not runs
        return
    [answer] = answers
    assert answer["e"]["code"] == "wsrpc.bad_arguments" and "context" in answer["e"]["message"]
    assert not runs and d.ignored["wrong context"] == 1


async def test_unknown_keys_are_ignored() -> None:
    d = Driven(extensions=True)
    d.peer.on("q", _show)
    ctx = {"color": [1, 2], "metadata": TENANT}
    _, answer = await d.fed(hello("context"), {"i": 7, "a": ["q"], "ctx": ctx})
    assert answer == {"i": 7, "d": [TENANT, None]}


@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
async def test_only_a_server_says_where_events_are_in_the_log_of_a_room(dialer: bool) -> None:
    d = Driven(dialer=dialer, extensions=True)
    seen: list[Any] = []

    @d.peer.on("said")
    def said(ctx: Context) -> None:
        seen.append((ctx.room, ctx.position))

    greeting = welcome("context") if dialer else hello("context")
    await d.fed(greeting, {"a": ["said"], "ctx": {"at": ["lobby", "1-w.1"]}}, {"a": ["said"]})
    assert seen == [("lobby", "1-w.1") if dialer else (None, None), (None, None)]


async def test_without_extensions_a_context_is_an_unknown_key() -> None:
    d = Driven()
    d.peer.on("q", _show)
    assert await d.fed({"i": 7, "a": ["q"], "ctx": {"metadata": TENANT}}) == [{"i": 7, "d": [{}, None]}]
    assert await d.fed({"i": 7, "a": ["q"], "ctx": 7}) == [{"i": 7, "d": [{}, None]}]


def _show(ctx: Context) -> tuple[dict[str, str], float | None]:
    return dict(ctx.metadata), ctx.remaining


# ---------------------------------------------------------------- deadlines


async def test_only_a_timeout_that_the_caller_has_set_travels() -> None:
    d = await greeted("context")
    calls = [
        start(d.peer.request("q", **options))
        for options in ({"timeout": 1.5}, {}, {"timeout": None}, {"timeout": 3e9}, {"timeout": 0.0001})
    ]
    await turns()
    assert [message.get("ctx") for message in decoded(d.take())] == [
        {"remaining_ms": 1500},
        None,
        None,
        None,
        {"remaining_ms": 1},
    ]
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


async def test_a_message_that_waited_says_less() -> None:
    d = Driven(dialer=True, extensions=True)
    d.take()
    calling = start(d.peer.request("q", timeout=5, metadata=TENANT))
    await turns()
    await passed(d, 1)
    [sent] = await d.fed(welcome("context"))
    assert sent["ctx"] == {"metadata": TENANT, "remaining_ms": 4000}
    calling.cancel()
    await asyncio.wait({calling})


async def test_a_request_that_waits_for_capacity_says_less() -> None:
    d = Driven(dialer=True, extensions=True)
    await d.fed(welcome("context", running=1, waiting=9, waiting_bytes=300))
    names = ["a", "b" * 200, "c" * 200]
    calls = [start(d.peer.request(name, timeout=5)) for name in names]
    await turns()
    first, second = decoded(d.take())
    await passed(d, 1)
    sent = [*await d.fed({"i": first["i"]}), *await d.fed({"i": second["i"]})]
    assert [(each["a"], each["ctx"]) for each in sent] == [([names[2]], {"remaining_ms": 4000})]
    calls[2].cancel()
    await asyncio.wait(calls)


async def test_a_request_that_waits_on_a_channel_has_less_time() -> None:
    d = Driven(extensions=True)

    channels: list[AnonymousChannel] = []

    @d.peer.on("talk")
    def talk(ctx: Context) -> AnonymousChannel:
        channels.append(ctx.channel())
        return channels[0]

    await d.fed(
        hello("context"),
        {"i": 5, "a": ["talk"]},
        {"i": 7, "h": 5, "a": ["q"], "ctx": {"remaining_ms": 5000}},
        {"i": 9, "h": 5, "a": ["q"], "ctx": {"remaining_ms": 1000}},
    )
    await passed(d, 1)
    channels[0].on("q", _show)
    await turns()
    answer, expired = decoded(d.take())
    assert answer == {"i": 7, "d": [{}, 4.0]} and expired["e"]["code"] == "wsrpc.overloaded"


async def test_queued_metadata_waits_and_received_messages_do_not() -> None:
    d = Driven(dialer=True, extensions=True, keeps_offline=True, bind=False)
    got: list[str] = []
    d.peer.on("event", lambda: got.append("event"))
    await d.peer.emit("queued", metadata=TENANT)
    d.peer.bind(d.transport)
    late = start(d.peer.emit("late"))
    await turns()
    [greeting] = d.take()
    assert greeting["wsrpc"]["t"] == "hello"
    assert await d.fed(welcome("context"), {"a": ["event"]}) == [
        {"a": ["queued"], "ctx": {"metadata": TENANT}},
        {"a": ["late"]},
    ]
    await late
    assert got == ["event"]


async def test_an_expired_request_does_not_use_up_a_handler_of_once() -> None:
    d = Driven(extensions=True)
    d.peer.once("q", lambda: "ran")
    _, first, second = await d.fed(
        hello("context"), {"i": 5, "a": ["q"], "ctx": {"remaining_ms": 0}}, {"i": 7, "a": ["q"]}
    )
    assert first["e"]["code"] == "wsrpc.overloaded" and second == {"i": 7, "d": "ran"}


async def test_an_expired_request_is_not_begun_and_is_counted() -> None:
    d = Driven(extensions=True, limits=Limits(running=1))
    runs: list[str] = []
    done = asyncio.Event()

    async def wait() -> None:
        await done.wait()

    d.peer.on("wait", wait)
    d.peer.on("q", lambda: runs.append("q"))
    _, *answers = await d.fed(
        hello("context"),
        {"i": 5, "a": ["q"], "ctx": {"remaining_ms": 0}},
        {"i": 7, "a": ["wait"]},
        {"i": 9, "a": ["q"], "ctx": {"remaining_ms": 1000}},
    )
    assert [answer["e"]["code"] for answer in answers] == ["wsrpc.overloaded"]
    await passed(d, 1)
    done.set()
    await turns()
    late = decoded(d.take())
    assert late[0] == {"i": 7, "d": None} and late[1]["i"] == 9 and late[1]["e"]["code"] == "wsrpc.overloaded"
    assert not runs and d.ignored["expired before its handler began"] == 2


async def test_a_handler_ends_when_the_time_of_its_caller_is_over() -> None:
    d = Driven(extensions=True)
    ends: list[Any] = []

    async def slow(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ends.append((ctx.remaining, str(ctx.cancel_reason)))

    d.peer.on("slow", slow)
    d.peer.on("limited", slow, timeout=1)
    await d.fed(
        hello("context"),
        {"i": 7, "a": ["slow"], "ctx": {"remaining_ms": 2000}},
        {"i": 9, "a": ["limited"], "ctx": {"remaining_ms": 3000}},
    )
    await passed(d, 1)
    await turns()
    assert [answer["i"] for answer in decoded(d.take())] == [9], "it has the smaller of the two limits"
    await passed(d, 1)
    await turns()
    [answer] = decoded(d.take())
    assert answer["e"]["code"] == "wsrpc.handler_timeout" and "caller" in answer["e"]["message"]
    assert [remaining for remaining, _ in ends] == [2.0, 0.0] and "caller" in ends[1][1]


async def test_a_rejection_after_the_deadline_is_a_timeout() -> None:
    """The remote peer may be the first to notice that the time is over."""
    d = await greeted("context")
    late, in_time = start(d.peer.request("q", timeout=1)), start(d.peer.request("q", timeout=9))
    await turns()
    d.clock._now += 1  # the timers have not run yet
    rejection = {"message": "too late", "code": "wsrpc.handler_timeout"}
    await d.fed(*({"i": message["i"], "e": rejection, "_": 1} for message in decoded(d.take())))
    with pytest.raises(RequestTimeout):
        await late
    with pytest.raises(HandlerTimeout):
        await in_time


async def test_a_stream_may_last_longer_than_the_time_for_its_opening() -> None:
    server = Server()

    @server.on("count")
    async def count(ctx: Context) -> Any:
        for n in range(3):
            yield n, ctx.remaining

    @server.on("talk")
    async def talk(channel: AnonymousChannel, ctx: Context) -> None:
        await channel.emit("remaining", ctx.remaining)

    async with connect(server) as client:
        async with client.stream("count", timeout=5) as items:
            assert [item async for item in items] == [[0, None], [1, None], [2, None]]
        async with await client.open_channel("talk", timeout=5) as channel:
            assert await channel.wait_for("remaining") is None


async def test_nested_calls_inherit_the_time_that_is_left() -> None:
    server = Server()

    @server.on("nest")
    async def nest(ctx: Context) -> list[Any]:
        async def helper() -> Any:
            return await ctx.peer.request("left")

        return [
            await ctx.peer.request("left"),
            await ctx.peer.request("left", timeout=60),
            await ctx.peer.request("left", timeout=1),
            *await asyncio.gather(ctx.peer.request("left")),
            await ctx.peer.request("left", timeout=None),
            await asyncio.create_task(helper()),
        ]

    async with connect(server) as client:

        @client.on("left")
        async def left(ctx: Context) -> float | None:
            return ctx.remaining

        *inherited, gathered, opted_out, of_task = await client.request("nest", timeout=5)
        assert [round(each) for each in inherited] == [5, 5, 1]
        assert gathered is None and opted_out is None and of_task is None
        *without, _, _, _ = await client.request("nest")
        assert [each and round(each) for each in without] == [None, 60, 1]


async def test_a_nested_call_fails_when_the_time_of_the_first_caller_is_over() -> None:
    server, failed = Server(), asyncio.get_running_loop().create_future()

    @server.on("nest")
    async def nest(ctx: Context) -> None:
        try:
            await ctx.peer.request("never")
        except BaseException as exc:
            failed.set_result(exc)
            raise

    async with connect(server) as client:

        @client.on("never")
        async def never() -> None:
            await asyncio.Event().wait()

        with pytest.raises(RequestTimeout):
            await client.request("nest", timeout=0.05)
        assert isinstance(await failed, (RequestTimeout, asyncio.CancelledError))


async def test_options_of_a_proxy_travel_too() -> None:
    from typing import Protocol

    class Api(Protocol):
        async def show(self) -> list[Any]: ...

    server = Server()
    server.on("show", _show)
    async with connect(server) as client:
        api = with_options(client.proxy(Api), metadata=TENANT, timeout=5)
        [metadata, remaining] = await api.show()
        assert metadata == TENANT and round(remaining) == 5
        assert await with_options(api, metadata=None, timeout=None).show() == [{}, None]
