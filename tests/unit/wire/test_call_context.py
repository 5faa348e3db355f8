"""What travels with a call besides its arguments: metadata and the remaining time, in the key ``ctx``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from core_driver import Driven, redialing, start
from leftovers import nothing_left as nothing_left
from stream_driver import decoded, hello, welcome
from waiting import pause, settled

from wsrpc import Context, HandlerTimeout, Limits, RequestTimeout, Server, WsrpcError
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

TENANT = {"tenant": "acme"}


async def greeted(*features: str, **options: Any) -> Driven:
    d = Driven(dialer=True, extensions=True, **options)
    await d.fed(welcome(*features))
    return d


# ---------------------------------------------------------------- what is sent

CALLS: dict[str, Callable[[Any], Any]] = {
    "request": lambda peer: peer.request("q", metadata=TENANT),
    "emit": lambda peer: peer.emit("q", metadata=TENANT),
    "conversation": lambda peer: peer.open_channel("q", metadata=TENANT),
    "upload": lambda peer: peer.request("q", send=[1], metadata=TENANT),
    "stream": lambda peer: peer.stream("q", metadata=TENANT).__aenter__(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("features", [(), ("credit",), ("context",)], ids=repr)
async def test_only_a_peer_that_accepts_a_context_gets_it(features: tuple[str, ...], call: str) -> None:
    d = await greeted(*features)
    calling = start(CALLS[call](d.peer))
    await settled()
    [sent] = decoded(d.take())
    context = {"metadata": TENANT, **({"upload": True} if call == "upload" else {})}
    assert sent.get("ctx") == (context if "context" in features else None)
    assert d.peer.stats().metadata_not_sent == ("context" not in features)
    calling.cancel()
    await asyncio.wait({calling})


# ---------------------------------------------------------------- before the greeting


@pytest.mark.parametrize("dialer", [True, False], ids=["dialer", "acceptor"])
async def test_what_travels_leaves_at_once_however_late_the_greeting_is(dialer: bool) -> None:
    d = Driven(dialer=dialer, extensions=True)
    d.take()
    await asyncio.sleep(3)
    await d.peer.emit("emit", metadata=TENANT)
    call = start(d.peer.request("request", metadata=TENANT, timeout=5))
    await settled()
    event, request = d.take()
    assert event == {"a": ["emit"], "ctx": {"metadata": TENANT}}
    assert request["ctx"] == {"metadata": TENANT, "remaining_ms": 5000}
    await d.fed(welcome("context") if dialer else hello("context"), {"i": request["i"], "d": 1})
    assert await call == 1
    assert d.peer.stats().metadata_not_sent == 0


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


@pytest.mark.parametrize("queued", [False, True], ids=["connected", "queued"])
async def test_a_call_with_a_key_waits_for_the_greeting_and_nothing_else_does(queued: bool) -> None:
    d = redialing(extensions=True, bind=not queued)
    pays = start(d.peer.request("pay", key="k", timeout=20))
    await settled()
    if queued:
        d.peer.bind(d.transport)
    else:
        asks, _ = await d.asks("asks")
        asks.cancel()
        await settled()
    d.take()
    await asyncio.sleep(9)
    d.expect()
    [paid] = [message for message in decoded(await d.fed(welcome("context"))) if "a" in message]
    assert (paid["a"], paid["ctx"]) == (["pay"], {"key": "k", "remaining_ms": pytest.approx(11_000, abs=50)})
    await d.fed({"i": paid["i"], "d": 1})
    assert await pays == 1


async def test_no_event_overtakes_a_request_because_calls_with_keys_have_waited_for_the_greeting() -> None:
    d = Driven(extensions=True)
    calls = [start(d.peer.request("pay", n, key=f"k{n}")) for n in range(5)]
    await settled()
    d.take()
    d.feed(hello("context"))
    calls.append(start(d.peer.request("ask")))
    for n in range(3):
        await asyncio.sleep(0)
        await d.peer.emit("note", n)
    await settled()
    sent = [message["a"] for message in decoded(d.take()) if "a" in message]
    assert sorted(a for a in sent if a[0] == "pay") == [["pay", n] for n in range(5)]
    assert [a for a in sent if a[0] != "pay"] == [["ask"], ["note", 0], ["note", 1], ["note", 2]]
    for call in calls:
        call.cancel()


@pytest.mark.parametrize(("dialer", "queued"), [(True, False), (False, False), (True, True)])
async def test_a_call_with_a_key_fails_when_the_remote_peer_does_not_say_in_time_whether_it_knows_keys(
    dialer: bool, queued: bool
) -> None:
    options: dict[str, Any] = {"extensions": True, "limits": Limits(open_timeout=4)}
    d = redialing(bind=not queued, **options) if dialer else Driven(**options)
    calls = [start(d.peer.request("pay", n, key="k")) for n in range(2)]
    if queued:
        d.peer.bind(d.transport)
    await asyncio.sleep(3.9)
    assert not any(call.done() for call in calls)
    await asyncio.sleep(0.2)
    calls.append(start(d.peer.request("pay", 3, key="k")))
    await settled()
    for call in calls:
        error = call.exception()
        assert isinstance(error, WsrpcError) and error.outcome == "not_sent"
        assert "the remote peer has not said within 4 s if it knows keys (Limits.open_timeout)" in str(error)
    assert not [message for message in d.take() if "a" in message]
    d.assert_empty()


# ---------------------------------------------------------------- bounds

WRONG: list[tuple[Any, type[Exception]]] = [
    *((each, TypeError) for each in (7, {"a": 1}, {1: "a"})),
    *(({name: "a"}, ValueError) for name in ("", "a b", "a\n", "é", "a" * 65)),
    *((each, ValueError) for each in ({"a": "x" * 4096}, {"a": "\ud800"}, {str(n): "" for n in range(33)})),
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
    *(7, []),
    *({"metadata": each} for each in (7, {"a": 1}, {"a b": ""}, {"a": "x" * 5000}, {str(n): "" for n in range(33)})),
    *({"remaining_ms": each} for each in (-1, 1.5, 2**31, True, "1", None)),
    {"upload": 1},
    *({"at": each} for each in ("lobby", ["lobby"], ["lobby", 7], ["lobby", "1", "2"])),
    *({"at": each} for each in (["", "1"], ["x" * 257, "1"], ["lobby", "1" * 65])),
]


@pytest.mark.parametrize("ctx", HOSTILE, ids=lambda value: repr(value)[:40])
async def test_a_wrong_context_is_refused_with_a_reason_and_the_handler_does_not_run(ctx: Any) -> None:
    d = Driven(extensions=True)
    runs: list[int] = []
    d.peer.on("q", lambda: runs.append(1))
    _, *answers = await d.fed(hello("context"), {"i": 7, "a": ["q"], "ctx": ctx}, {"a": ["q"], "ctx": ctx})
    [answer] = answers
    assert answer["e"]["code"] == "wsrpc.bad_arguments" and "context" in answer["e"]["message"]
    assert not runs and d.ignored["wrong arguments"] == 1


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


# ---------------------------------------------------------------- deadlines


async def test_only_a_timeout_that_the_caller_has_set_travels() -> None:
    d = await greeted("context")
    given: list[dict[str, Any]] = [{"timeout": 1.5}, {}, {"timeout": None}, {"timeout": 3e9}, {"timeout": 0.0001}]
    calls = [start(d.peer.request("q", **options)) for options in given]
    await settled()
    said = [message.get("ctx", {}).get("remaining_ms") for message in decoded(d.take()) if "a" in message]
    assert said == [1500, None, None, None, 1]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_request_that_waits_for_capacity_says_less() -> None:
    d = Driven(dialer=True, extensions=True)
    await d.fed(welcome("context", running=1, waiting=9, waiting_bytes=300))
    names = ["a", "b" * 200, "c" * 200]
    calls = [start(d.peer.request(name, timeout=5)) for name in names]
    await settled()
    first, second = decoded(d.take())
    await asyncio.sleep(1)
    sent = [*await d.fed({"i": first["i"]}), *await d.fed({"i": second["i"]})]
    assert [(each["a"], each["ctx"]) for each in sent] == [([names[2]], {"remaining_ms": pytest.approx(4000, abs=50)})]
    calls[2].cancel()
    await asyncio.wait(calls)


async def test_an_expired_request_is_not_begun_and_is_counted() -> None:
    d = Driven(extensions=True, limits=Limits(running=1))
    runs: list[str] = []
    done = asyncio.Event()
    d.peer.on("wait", done.wait)
    d.peer.on("q", lambda: runs.append("q"))
    _, *answers = await d.fed(
        hello("context"),
        {"i": 5, "a": ["q"], "ctx": {"remaining_ms": 0}},
        {"i": 7, "a": ["wait"]},
        {"i": 9, "a": ["q"], "ctx": {"remaining_ms": 1000}},
    )
    assert [answer["e"]["code"] for answer in answers] == ["wsrpc.overloaded"]
    await asyncio.sleep(1)
    done.set()
    await settled()
    late = decoded(d.take())
    assert late[0] == {"i": 7, "d": True} and late[1]["i"] == 9 and late[1]["e"]["code"] == "wsrpc.overloaded"
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
    await asyncio.sleep(1.001)
    assert [answer["i"] for answer in decoded(d.take())] == [9], "it has the smaller of the two limits"
    await asyncio.sleep(1.001)
    [answer] = decoded(d.take())
    assert answer["e"]["code"] == "wsrpc.handler_timeout" and "caller" in answer["e"]["message"]
    assert [remaining for remaining, _ in ends] == pytest.approx([2.0, 0.0], abs=0.05) and "caller" in ends[1][1]


async def test_a_rejection_after_the_deadline_is_a_timeout() -> None:
    """The remote peer may be the first to notice that the time is over."""
    d = await greeted("context")
    late, in_time = start(d.peer.request("q", timeout=1)), start(d.peer.request("q", timeout=9))
    await settled()
    pause(1.0)  # the timers have not run yet
    rejection = {"message": "too late", "code": "wsrpc.handler_timeout"}
    await d.fed(*({"i": message["i"], "e": rejection, "_": 1} for message in decoded(d.take())))
    with pytest.raises(RequestTimeout):
        await late
    with pytest.raises(HandlerTimeout):
        await in_time


async def test_nested_calls_inherit_the_time_that_is_left() -> None:
    server = Server()

    @server.on("nest")
    async def nest(ctx: Context) -> list[Any]:
        return [
            await ctx.peer.request("left"),
            await ctx.peer.request("left", timeout=60),
            await ctx.peer.request("left", timeout=1),
            await ctx.peer.request("left", timeout=None),
            *await asyncio.gather(ctx.peer.request("left")),
        ]

    async with connect(server) as client:

        @client.on("left")
        async def left(ctx: Context) -> float | None:
            return ctx.remaining

        for timeout, expected in ((5, [5, 5, 1, None, None]), (None, [None, 60, 1, None, None])):
            found = await client.request("nest", timeout=timeout)
            assert [each and round(each) for each in found] == expected
