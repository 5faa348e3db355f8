"""What travels with a call besides its arguments: metadata and the remaining time, in the key ``ctx``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from core_driver import Driven, redialing, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import decoded, hello, welcome

from wsrpc import (
    AnonymousChannel,
    Client,
    Context,
    HandlerTimeout,
    Limits,
    RequestTimeout,
    Server,
    WsrpcError,
    with_options,
)
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


# ---------------------------------------------------------------- before the greeting


@pytest.mark.parametrize("after", [0, 3, 30])
@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
async def test_what_travels_leaves_at_once_however_late_the_greeting_is(dialer: bool, after: float) -> None:
    d = Driven(dialer=dialer, extensions=True)
    d.take()
    await passed(d, after)
    await d.peer.emit("emit", metadata=TENANT)
    d.peer.emit_nowait("emit_nowait", metadata=TENANT)
    call = start(d.peer.request("request", metadata=TENANT, timeout=5))
    await turns()
    *events, request = d.take()
    assert events == [{"a": [name], "ctx": {"metadata": TENANT}} for name in ("emit", "emit_nowait")]
    assert request["ctx"] == {"metadata": TENANT, "remaining_ms": 5000}
    await d.fed(welcome("context") if dialer else hello("context"), {"i": request["i"], "d": 1})
    assert await call == 1
    assert d.peer.stats().metadata_not_sent == 0


async def test_a_server_may_say_something_before_it_has_read_the_hello() -> None:
    """An `open` handler does. The welcome comes before the first answer."""
    d = Driven(dialer=True, extensions=True)
    d.peer.on("q", lambda: 1)
    d.take()
    pays = start(d.peer.request("pay", key="k"))
    assert await d.fed({"a": ["hi"]}, {"i": 8, "a": ["q"]}, {"i": 10, "x": None}) == [{"i": 8, "d": 1}]
    await d.peer.emit("note", metadata=TENANT)
    assert d.take() == [{"a": ["note"], "ctx": {"metadata": TENANT}}]
    [sent] = decoded(await d.fed(welcome("context")))
    assert (sent["a"], sent["ctx"]) == (["pay"], {"key": "k"})
    await d.fed({"i": sent["i"], "d": 1})
    assert await pays == 1 and d.peer.stats().metadata_not_sent == 0


@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
async def test_a_remote_peer_that_answers_and_has_not_greeted_is_a_plain_peer(dialer: bool) -> None:
    d = Driven(dialer=dialer, extensions=True)
    asks, i = await d.asks("q", timeout=5)
    pays = start(d.peer.request("pay", key="k"))
    assert await d.fed({"i": i, "d": 1}) == [] and await asks == 1
    for call in (pays, start(d.peer.request("pay", key="k"))):
        with pytest.raises(ValueError, match="does not speak wsrpc, and ignores key="):
            await call
    await d.peer.emit("note", metadata=TENANT)
    assert d.take() == [{"a": ["note"]}] and d.peer.stats().metadata_not_sent == 1
    d.assert_empty()


async def test_the_first_message_of_a_plain_client_says_that_it_is_one() -> None:
    d = Driven(extensions=True)
    pays = start(d.peer.request("pay", key="k"))
    assert await d.fed({"a": ["no hello"]}) == []
    with pytest.raises(ValueError, match="does not speak wsrpc"):
        await pays


@pytest.mark.parametrize("queued", [False, True], ids=["connected", "queued"])
@pytest.mark.parametrize("after", [0.5, 3, 9])
async def test_a_call_with_a_key_waits_for_the_greeting_and_nothing_else_does(after: float, queued: bool) -> None:
    d = redialing(extensions=True, bind=not queued)
    pays = start(d.peer.request("pay", key="k", timeout=20))
    await turns()
    if queued:
        d.peer.bind(d.transport)
    else:
        streams = start(anext(d.peer.stream("items", key="s")))
        await turns()
        await d.peer.emit("event")
        asks, _ = await d.asks("asks")
        asks.cancel()
        await turns()
    d.take()
    await passed(d, after)
    d.expect()
    paid, *others = [message for message in decoded(await d.fed(welcome("context"))) if "a" in message]
    assert (paid["a"], paid["ctx"]) == (["pay"], {"key": "k", "remaining_ms": (20 - after) * 1000})
    if not queued:
        assert [message["a"] for message in others] == [["items"]]
        streams.cancel()
    await d.fed({"i": paid["i"], "d": 1})
    assert await pays == 1
    await asyncio.wait({streams}) if not queued else None


@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
@pytest.mark.parametrize("queued", [False, True], ids=["connected", "queued"])
async def test_a_call_with_a_key_fails_when_the_remote_peer_does_not_say_in_time_whether_it_knows_keys(
    dialer: bool, queued: bool
) -> None:
    if queued and not dialer:
        return
    options: dict[str, Any] = {"extensions": True, "limits": Limits(open_timeout=4)}
    d = redialing(bind=not queued, **options) if dialer else Driven(**options)
    calls = [start(d.peer.request("pay", n, key="k")) for n in range(2)]
    if queued:
        d.peer.bind(d.transport)
    await passed(d, 3.9)
    assert not any(call.done() for call in calls)
    await passed(d, 0.1)
    calls.append(start(d.peer.request("pay", 3, key="k")))
    await turns()
    for call in calls:
        error = call.exception()
        assert isinstance(error, WsrpcError) and error.outcome == "not_sent"
        assert str(error) == (
            "'pay' was not sent: the remote peer has not said within 4 s if it knows keys (Limits.open_timeout)"
        )
    assert not [message for message in d.take() if "a" in message]
    d.assert_empty()
    [sent] = decoded(await d.fed(welcome("context") if dialer else hello("context")))[not dialer :] or [None]
    assert sent is None
    late = start(d.peer.request("pay", key="k"))
    await turns()
    assert decoded(d.take())[-1]["ctx"] == {"key": "k"}
    late.cancel()
    await asyncio.wait({late})


async def test_without_extensions_nothing_waits() -> None:
    d = Driven(dialer=True)
    await d.peer.emit("first", metadata=TENANT)
    assert decoded(d.take()) == [{"a": ["first"]}]


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
    assert not runs and d.ignored["wrong arguments"] == 1


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
