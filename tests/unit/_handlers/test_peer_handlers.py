"""Handlers: which one runs, what is around it, and what its caller gets."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from core_driver import ABORTED, Blocked, Driven, Stubborn, idle, messages, rejection, turns

from wsrpc import (
    AnonymousChannel,
    BadArguments,
    Client,
    Context,
    HandlerFailed,
    Limits,
    Peer,
    RemoteError,
    RpcError,
    Server,
    UnknownEvent,
    current_context,
    current_peer,
)
from wsrpc._handlers.registry import Registry
from wsrpc.testing import connect, pair
from wsrpc.types import Message

# ---------------------------------------------------------------- which one runs


async def test_precedence_and_exactly_one_runs() -> None:
    shared = Registry()
    d = Driven(shared=shared)
    ran: list[str] = []

    def note(name: str) -> Any:
        return lambda: ran.append(name)

    shared.add(None, "e", note("server on"))
    shared.add(None, "e", note("server once"), once=True)
    d.peer.on("e", note("peer on"))
    d.peer.once("e", note("peer once"))
    d.feed({"a": ["e"]}, {"a": ["e"]})
    assert ran == ["peer once", "peer on"]
    d.peer.on("e", None)
    d.feed({"a": ["e"]}, {"a": ["e"]}, {"a": ["e"]})
    assert ran == ["peer once", "peer on", "server once", "server on", "server on"]
    shared.add(None, "e", None)
    assert rejection(await d.fed({"i": 1, "a": ["e"]}), 1)["code"] == "wsrpc.unknown_event"
    assert len(ran) == 5


async def test_precedence_on_a_named_channel() -> None:
    shared = Registry()
    d = Driven(shared=shared)
    shared.add("c", "e", lambda: "server")
    shared.add("c", "only", lambda: "server")
    d.peer.of("c").on("e", lambda: "peer")
    d.peer.on("only", lambda: "main channel")
    sent = await d.fed({"i": 1, "c": "c", "a": ["e"]}, {"i": 2, "c": "c", "a": ["only"]})
    assert [m["d"] for m in sent] == ["peer", "server"]


async def test_the_server_hears_its_handlers_for_every_peer() -> None:
    server = Server()
    server.on("who", lambda peer: type(peer).__name__)

    @server.on("typed")
    async def typed(peer: Peer) -> str:
        name: str = peer.state["name"]
        return name

    async with connect(server) as one, connect(server) as two:
        for peer, name in zip(server.peers, ("one", "two"), strict=True):
            peer.state["name"] = name
        assert await one.request("typed") == "one"
        assert await two.request("typed") == "two"
        server.peers[0].on("typed", lambda: "own")
        assert await one.request("typed") == "own"
        assert await two.request("typed") == "two"


async def test_once_runs_once_for_a_burst() -> None:
    d = Driven()
    ran: list[int] = []
    d.peer.once("n", ran.append)
    sent = await d.fed({"i": 1, "a": ["n", 1]}, {"i": 2, "a": ["n", 2]})
    assert ran == [1]
    assert "d" in sent[0] and sent[1]["e"]["code"] == "wsrpc.unknown_event"


async def test_once_is_free_again_inside_its_own_handler() -> None:
    d = Driven()
    ran: list[str] = []

    def first() -> None:
        ran.append("first")
        d.peer.once("e", lambda: ran.append("second"))

    d.peer.once("e", first)
    d.feed({"a": ["e"]}, {"a": ["e"]}, {"a": ["e"]})
    assert ran == ["first", "second"]


@pytest.mark.parametrize("limit", [None, 5.0])
@pytest.mark.parametrize("kind", ["coroutine", "generator", "async generator"])
async def test_once_stays_if_its_request_is_cancelled_before_the_handler_begins(kind: str, limit: float | None) -> None:
    d = Driven(limits=Limits(handler=limit))
    ran: list[int] = []

    async def coroutine(n: int) -> None:
        ran.append(n)
        await turns(1)

    def generator(n: int) -> Iterator[int]:
        ran.append(n)
        yield n

    async def async_generator(n: int) -> AsyncIterator[int]:
        ran.append(n)
        yield n

    d.peer.once("e", {"coroutine": coroutine, "generator": generator, "async generator": async_generator}[kind])
    await d.fed({"i": 1, "a": ["e", 1]}, {"i": 1, "x": "enough"})
    d.take()
    [answer] = await d.fed({"i": 2, "a": ["e", 2]})
    called_at_once = sys.version_info >= (3, 12)  # in the first step of its task
    assert ("e" in answer) is called_at_once
    assert called_at_once or 1 not in ran
    await d.fed({"h": 2, "x": "enough"})


async def test_the_last_registration_wins_and_one_from_elsewhere_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    def register(n: int) -> None:
        d.peer.on("same place", lambda: n)

    for n in range(3):
        register(n)
    assert caplog.records == []
    assert await d.fed({"i": 1, "a": ["same place"]}) == [{"i": 1, "d": 2}]

    def one() -> int:
        return 1

    def two() -> int:
        return 2

    d.peer.of("room").on("e", one)
    d.peer.of("room").on("e", two)
    [record] = caplog.records
    text = record.getMessage()
    lines = [function.__code__.co_firstlineno for function in (one, two)]
    assert record.levelno == logging.WARNING and "room:e" in text
    assert text.index(f"{__file__}:{lines[0]}") < text.index(f"{__file__}:{lines[1]}")
    assert await d.fed({"i": 1, "c": "room", "a": ["e"]}) == [{"i": 1, "d": 2}]


async def test_none_removes_and_removing_nothing_is_fine() -> None:
    d = Driven()
    d.peer.on("e", None)
    d.peer.of("nowhere").on("e", None)
    d.peer.once("e", lambda: 1)
    d.peer.on("e", None)  # not that one
    d.peer.once("e", None)
    d.peer.once("e", None)
    assert "e" in rejection(await d.fed({"i": 1, "a": ["e"]}), 1)["message"]


async def test_decorators_return_the_function() -> None:
    d = Driven()

    @d.peer.on("add")
    def add(a: int, b: int) -> int:
        return a + b

    @d.peer.once("sub")
    def sub(a: int, b: int) -> int:
        return a - b

    assert (add(1, 2), sub(3, 1)) == (3, 2)
    assert d.peer.on("x", add) is add


async def test_closing_a_channel_removes_its_handlers() -> None:
    d = Driven()
    channel = d.peer.of("room")
    channel.on("e", lambda: 1)
    assert d.peer.of("room") is channel
    channel.close("bored")
    channel.close("again")
    assert channel.closed and channel.close_reason == "bored"
    error = rejection(await d.fed({"i": 1, "c": "room", "a": ["e"]}), 1)
    assert error == {"message": "Channel 'room' does not exist", "code": "wsrpc.unknown_event"}
    assert d.peer.of("room") is not channel


# ---------------------------------------------------------------- reserved names


@pytest.mark.parametrize("name", ["open", "connect", "message", "error", "close", "disconnect"])
async def test_reserved_names_are_refused_inbound_on_main_and_ordinary_elsewhere(name: str) -> None:
    d = Driven(bind=False)
    ran: list[str] = []
    d.peer.on(name, lambda: ran.append("lifecycle"))
    d.peer.of("room").on(name, lambda x: ran.append(x))
    d.peer.bind(d.transport)
    await turns()
    before = list(ran)
    assert await d.fed({"a": [name, 1]}, {"a": [name], "c": None}, {"a": [name], "c": ""}) == []
    for message in ({"i": 1, "a": [name]}, {"i": 1, "a": [name], "c": ""}, {"i": 1, "a": [name], "c": None}):
        error = rejection(await d.fed(message), 1)
        assert error["code"] == "wsrpc.unknown_event" and f"'{name}' is reserved" in error["message"]
    if name != "message":  # that one sees the messages themselves
        assert ran == before
    assert d.ignored == {"reserved event": 3}
    assert await d.fed({"i": 2, "c": "room", "a": [name, "hello"]}) == [{"i": 2, "d": None}]
    assert "hello" in ran


# ---------------------------------------------------------------- arguments and results


async def test_arguments_are_converted_and_what_does_not_fit_never_runs() -> None:
    d = Driven()
    ran: list[Any] = []

    async def add(a: int, b: int = 5, *rest: str) -> int:
        ran.append((a, b, rest))
        return a + b

    d.peer.on("add", add)
    assert await d.fed({"i": 1, "a": ["add", 1]}) == [{"i": 1, "d": 6}]
    unfit: list[list[Any]] = [[], ["x"], [1, None], [1, 2, 3], [True], [1.5]]
    for i, args in enumerate(unfit, 2):
        error = rejection(await d.fed({"i": i, "a": ["add", *args]}), i)
        assert error["code"] == "wsrpc.bad_arguments", args
    assert ran == [(1, 5, ())]
    d.assert_empty()


async def test_an_event_whose_arguments_do_not_fit_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    def take(n: int) -> None:
        raise AssertionError

    d.peer.on("take", take)
    assert await d.fed({"a": ["take", "x"]}) == []
    [text] = messages(caplog)
    assert text.startswith("event 'take' was dropped: ") and "argument 'n'" in text
    assert d.peer.connected


@pytest.mark.parametrize("result", [0, "", False, None, [], {}, [None], 0.0, "x"])
async def test_every_result_is_answered_with_its_value(result: Any) -> None:
    d = Driven()

    async def later() -> Any:
        return result

    d.peer.on("now", lambda: result)
    d.peer.on("later", later)
    assert await d.fed({"i": 1, "a": ["now"]}, {"i": 2, "a": ["later"]}) == [
        {"i": 1, "d": result},
        {"i": 2, "d": result},
    ]


async def test_an_event_is_not_answered_whatever_becomes_of_it() -> None:
    d = Driven()

    async def fail() -> None:
        raise RpcError("no")

    d.peer.on("ok", lambda: 5)
    d.peer.on("fail", fail)
    assert await d.fed({"a": ["ok"]}, {"a": ["fail"]}, {"a": ["nobody"]}, {"a": ["ok", 1, 2]}) == []
    assert d.ignored == {"unknown event": 1, "surplus arguments": 1}
    d.assert_empty()


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_result_that_cannot_be_encoded_becomes_a_rejection(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()
    loop: list[Any] = []
    loop.append(loop)
    results = [object(), "\ud800", loop, {1j: 2}, [b"x", {"k": "\udfff"}]]

    def give(n: int) -> Any:
        return results[n]

    async def give_later(n: int) -> Any:
        return results[n]

    d.peer.on("give", give_later if is_async else give)
    for n in range(len(results)):
        error = rejection(await d.fed({"i": n + 1, "a": ["give", n]}), n + 1)
        assert error["code"] == "wsrpc.internal"
    assert len(messages(caplog, logging.ERROR)) == len(results)
    d.assert_empty()


async def test_a_plain_function_may_return_an_awaitable() -> None:
    d = Driven()

    async def later(x: int) -> int:
        return x + 1

    d.peer.on("coroutine", lambda x: later(x))
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    d.peer.on("future", lambda: future)
    assert await d.fed({"i": 1, "a": ["coroutine", 1]}, {"i": 2, "a": ["future"]}) == [{"i": 1, "d": 2}]
    future.set_result("done")
    await turns()
    d.expect({"i": 2, "d": "done"})
    # Cancelled before its first step, the coroutine must not be left behind without a word to Python.
    d.feed({"i": 3, "a": ["coroutine", 1]}, {"i": 3, "x": "no"})
    await turns()
    assert [m["i"] for m in d.take()] == [3]
    d.assert_empty()


# ---------------------------------------------------------------- errors


async def test_an_rpc_error_reaches_the_caller_as_it_is() -> None:
    async with pair() as (a, b):

        def fail() -> None:
            raise RpcError("no such room", "room.unknown", {"room": "x"})

        async def fail_plainly() -> None:
            raise RpcError.of_value("just text")

        b.on("fail", fail)
        b.on("plain", fail_plainly)
        with pytest.raises(RemoteError) as caught:
            await a.request("fail")
        error = caught.value
        assert type(error) is RemoteError
        assert (error.message, error.code, error.data) == ("no such room", "room.unknown", {"room": "x"})
        assert not error.fields
        with pytest.raises(RemoteError) as caught:
            await a.request("plain")
        assert (str(caught.value), caught.value.data, caught.value.plain) == ("just text", "just text", True)


async def test_further_fields_of_an_rpc_error_reach_the_caller() -> None:
    fields = {"retry_after": 5, "details": [{"field": "name"}], "": None}
    async with pair() as (a, b):

        def fail() -> None:
            raise RpcError("no", "E", 1, fields)

        async def pass_on() -> None:
            try:
                await b.request("fail")
            except RemoteError as error:
                raise RpcError(error.message, fields=error.fields) from None

        b.on("fail", fail)
        a.on("fail", fail)
        b.on("pass_on", pass_on)
        for event, rest in (("fail", ("E", 1)), ("pass_on", (None, None))):
            with pytest.raises(RemoteError) as caught:
                await a.request(event)
            error = caught.value
            assert (error.message, (error.code, error.data), error.fields) == ("no", rest, fields)


async def test_an_error_whose_fields_cannot_be_encoded_still_answers(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as (a, b):

        def fail() -> None:
            raise RpcError("no", fields={"thing": object()})

        b.on("fail", fail)
        with pytest.raises(HandlerFailed) as caught:
            await a.request("fail")
        assert caught.value.error_id and caught.value.error_id in caplog.text


@pytest.mark.parametrize("kind", ["request", "stream", "conversation", "upload"])
async def test_data_that_cannot_be_encoded_is_a_failure_of_every_kind_of_handler(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RpcError("the sensor fell off", code="sensor", data={"at": object()})

    async def numbers() -> AsyncIterator[int]:
        yield 1
        fail()

    async def talk(channel: AnonymousChannel) -> None:
        await channel.emit("n", 1)
        fail()

    async def add(items: AsyncIterator[int]) -> None:
        async for _ in items:
            fail()

    async with pair() as (a, b):
        b.on("request", fail)
        b.on("stream", numbers)
        b.on("conversation", talk)
        b.on("upload", add)

        async def call() -> None:
            if kind == "stream":
                async for _ in a.stream("stream"):
                    pass
            elif kind == "conversation":
                channel = await a.open_channel("conversation")
                async for _ in channel.events("n"):
                    pass
            elif kind == "upload":
                await a.request("upload", send=[1])
            else:
                await a.request("request")

        with pytest.raises(HandlerFailed, match="internal error") as caught:
            await call()
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert caught.value.error_id and caught.value.error_id in record.getMessage()
    assert record.exc_info is not None and "object" in str(record.exc_info[1])


async def test_a_reason_without_the_data_that_cannot_be_encoded(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as (a, b):
        reasons: asyncio.Queue[Any] = asyncio.Queue()

        async def talk(channel: AnonymousChannel) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                reasons.put_nowait(channel.close_reason)

        b.on("talk", talk)
        for message, said in (("bored", "bored (data and fields left out: they cannot be encoded)"), ("\ud800", None)):
            channel = await a.open_channel("talk")
            caplog.clear()
            await channel.abort(RpcError(message, code="E", data=object()))
            reason = await reasons.get()
            assert isinstance(reason, RemoteError)
            assert (reason.message, reason.code) == ((said, "E") if said else ("Request aborted", None))
            [record] = caplog.records
            assert record.levelno == logging.WARNING and record.exc_info is not None


async def test_fields_of_a_reason_arrive_with_it() -> None:
    async with pair() as (a, b):
        reasons: asyncio.Queue[object] = asyncio.Queue()

        async def talk(channel: AnonymousChannel) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                reasons.put_nowait(channel.close_reason)

        b.on("talk", talk)
        channel = await a.open_channel("talk")
        await channel.abort(RpcError("bored", fields={"minutes": 3}))
        reason = await reasons.get()
        assert isinstance(reason, RemoteError) and reason.fields == {"minutes": 3}


@pytest.mark.parametrize("is_async", [False, True])
async def test_any_other_exception_is_internal_with_an_id_that_the_log_has_too(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair() as (a, b):

        def fail() -> None:
            raise ValueError("the password is 1234")

        async def fail_later() -> None:
            fail()

        b.on("fail", fail_later if is_async else fail)
        with pytest.raises(HandlerFailed) as caught:
            await a.request("fail")
        error_id = caught.value.error_id
        assert error_id and caught.value.message == "internal error" and error_id in str(caught.value)
        assert "1234" not in repr(caught.value) and "1234" not in str(dict(caught.value.fields))
        [record] = caplog.records
        assert record.levelno == logging.ERROR and error_id in record.getMessage()
        assert "fail" in record.getMessage()
        assert record.exc_info is not None and isinstance(record.exc_info[1], ValueError)
        assert record.__dict__["peer"] == b.id


async def test_a_nested_remote_error_is_internal_not_the_callers_fault() -> None:
    async with pair() as (a, b):

        async def ask_back(peer: Peer, event: str) -> Any:
            return await peer.request(event)

        def strict(n: int) -> None: ...

        b.on("ask back", ask_back)
        a.on("strict", strict)
        for event in ("nobody", "strict"):
            with pytest.raises(HandlerFailed, match="internal error"):
                await a.request("ask back", event)


async def test_what_wsrpc_says_itself_cannot_be_said_by_users() -> None:
    with pytest.raises(ValueError, match="reserved"):
        RpcError("x", "wsrpc.overloaded")
    d = Driven()

    def forge() -> None:
        raise BadArguments("you did it wrong", "wsrpc.bad_arguments")

    d.peer.on("forge", forge)
    assert rejection(await d.fed({"i": 1, "a": ["forge"]}), 1)["code"] == "wsrpc.internal"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("layered", [False, True])
async def test_an_rpc_error_that_forgot_its_parents_init_is_still_answered(is_async: bool, layered: bool) -> None:
    class Careless(RpcError):
        def __init__(self) -> None:
            pass

    d = Driven()

    def fail() -> None:
        raise Careless

    async def fail_later() -> None:
        raise Careless

    async def pass_on(ctx: Context, call_next: Any) -> Any:
        return await call_next(ctx)

    if layered:
        d.peer.use(pass_on)
    d.peer.on("fail", fail_later if is_async else fail)
    rejection(await d.fed({"i": 1, "a": ["fail"]}), 1)
    d.assert_empty()


async def test_an_rpc_error_whose_data_cannot_be_encoded_is_internal() -> None:
    d = Driven()
    bad: list[Any] = [object(), "\ud800"]

    def fail(n: int) -> None:
        raise RpcError("no", "code", bad[n])

    d.peer.on("fail", fail)
    for n in range(2):
        assert rejection(await d.fed({"i": n + 1, "a": ["fail", n]}), n + 1)["code"] == "wsrpc.internal"


async def test_expose_errors_sends_the_text() -> None:
    d = Driven(expose_errors=True)

    def fail() -> None:
        raise ValueError("plain text")

    d.peer.on("fail", fail)
    assert rejection(await d.fed({"i": 1, "a": ["fail"]}), 1) == {"message": "plain text"}


async def test_expose_errors_by_predicate() -> None:
    d = Driven(expose_errors=lambda exc: isinstance(exc, LookupError))

    def fail(which: str) -> None:
        raise {"key": KeyError, "value": ValueError}[which]("secret")

    d.peer.on("fail", fail)
    assert rejection(await d.fed({"i": 1, "a": ["fail", "key"]}), 1) == {"message": "'secret'"}
    assert rejection(await d.fed({"i": 2, "a": ["fail", "value"]}), 2)["code"] == "wsrpc.internal"


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("broken", ["predicate", "text", "surrogate"])
async def test_exposing_that_fails_itself_is_still_answered(
    is_async: bool, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    # A lone surrogate in the log could not be handed on by what runs tests in several processes.
    caplog.set_level(logging.CRITICAL, "wsrpc")

    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyError("no text")

    def predicate(exc: BaseException) -> bool:
        raise LookupError("broken predicate")

    d = Driven(expose_errors=predicate if broken == "predicate" else True)

    def fail() -> None:
        raise ValueError("\ud800") if broken == "surrogate" else Mute

    async def fail_later() -> None:
        fail()

    d.peer.on("fail", fail_later if is_async else fail)
    rejection(await d.fed({"i": 1, "a": ["fail"]}), 1)
    d.assert_empty()


async def test_a_handler_that_raises_cancelled_error_on_its_own_has_failed() -> None:
    d = Driven()

    def cancel_now() -> None:
        raise asyncio.CancelledError

    async def cancel_later() -> None:
        raise asyncio.CancelledError

    d.peer.on("now", cancel_now)
    d.peer.on("later", cancel_later)
    sent = await d.fed({"i": 1, "a": ["now"]}, {"i": 2, "a": ["later"]})
    assert [rejection(sent, i)["code"] for i in (1, 2)] == ["wsrpc.internal"] * 2
    d.assert_empty()


async def test_errors_of_events_are_in_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    async def fail(kind: str) -> None:
        raise RpcError("refused") if kind == "rpc" else ValueError("broken")

    d.peer.on("fail", fail)
    assert await d.fed({"a": ["fail", "rpc"]}, {"a": ["fail", "value"]}) == []
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


# ---------------------------------------------------------------- cancelling


@pytest.mark.parametrize(
    ("x", "flag", "expected"),
    [("bored", None, "bored"), (0, None, 0), ("", None, ""), (False, None, False), ([1], None, [1])],
)
async def test_the_reason_reaches_the_handler(x: Any, flag: Any, expected: object) -> None:
    d = Driven()
    blocked = Blocked()
    seen: list[object] = []

    async def handler(ctx: Context) -> None:
        try:
            await blocked()
        finally:
            seen.append(ctx.cancel_reason)

    d.peer.on("h", handler)
    await d.fed({"i": 1, "a": ["h"]})
    sent = await d.fed({"i": 1, "x": x})
    assert blocked.cancelled == [expected] and seen == [expected]
    assert type(seen[0]) is type(expected)
    assert rejection(sent, 1) == ABORTED
    d.assert_empty()


async def test_an_error_as_the_reason_is_a_remote_error_and_null_is_none() -> None:
    d = Driven()
    blocked = Blocked()
    d.peer.on("h", blocked)
    await d.fed({"i": 1, "a": ["h"]}, {"i": 2, "a": ["h"]})
    await d.fed({"i": 1, "x": {"message": "too slow", "code": 3}, "_": 1}, {"i": 2, "x": None})
    first, second = blocked.cancelled
    assert isinstance(first, RemoteError) and (str(first), first.code) == ("too slow", 3)
    assert second is None


async def test_cancelled_in_the_read_that_brought_it_goes_no_further_and_is_answered_once() -> None:
    d = Driven()
    blocked = Blocked()
    d.peer.on("h", blocked)
    d.feed({"i": 1, "a": ["h"]}, {"i": 1, "x": "no"}, {"i": 1, "x": "again"})
    # It has begun where a coroutine's first step is taken at once; elsewhere it never begins.
    begun = list(blocked.started)
    await turns()
    assert blocked.started == begun and blocked.finished == []
    assert blocked.cancelled == ["no"] * len(begun)
    assert rejection(d.take(), 1) == ABORTED
    d.assert_empty()


async def test_a_handler_that_answers_in_spite_of_the_cancellation_answers_once() -> None:
    d = Driven()
    stubborn = Stubborn()
    d.peer.on("h", stubborn)
    await d.fed({"i": 1, "a": ["h"]})
    await d.fed({"i": 1, "x": "first"}, {"i": 1, "x": "second"})
    assert stubborn.cancelled == ["first"]  # the second time there is nothing new to say
    stubborn.go.set()
    await turns()
    assert len([m for m in d.take() if m["i"] == 1]) == 1
    d.assert_empty()


async def test_cancelling_reaches_a_request_made_inside() -> None:
    async with pair() as (a, b):
        inner, middle = Blocked(), asyncio.Event()

        async def outer(peer: Peer) -> Any:
            middle.set()
            return await peer.request("inner")

        a.on("inner", inner)
        b.on("outer", outer)
        task = asyncio.ensure_future(a.request("outer"))
        await middle.wait()
        await turns()
        task.cancel("bored")
        await turns(20)
        assert task.cancelled() and inner.cancelled == ["bored"]
        assert (a.pending, a.active, b.pending, b.active) == (0, 0, 0, 0)


# ---------------------------------------------------------------- threads, slow ones


async def test_a_thread_runs_outside_the_loop_with_the_context_copied() -> None:
    d = Driven()
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def set_variable(ctx: Context, call_next: Any) -> Any:
        variable.set("set")
        return await call_next(ctx)

    def work(peer: Peer, n: int) -> list[Any]:
        try:
            return [
                threading.current_thread() is threading.main_thread(),
                variable.get(),
                current_peer() is peer,
                current_context().id,
                n,
            ]
        finally:
            loop.call_soon_threadsafe(done.set)

    d.peer.use(set_variable)
    d.peer.on("work", work, thread=True)
    d.feed({"i": 9, "a": ["work", 5]})
    await done.wait()
    await idle(d)
    d.expect({"i": 9, "d": [False, "set", True, 9, 5]})
    assert variable.get() == "unset"


async def test_what_a_thread_raises_is_handled_like_any_other() -> None:
    d = Driven()

    def work(kind: str) -> None:
        if kind == "rpc":
            raise RpcError("no", 5)
        raise ValueError(kind)

    d.peer.on("work", work, thread=True)
    d.feed({"i": 1, "a": ["work", "rpc"]}, {"i": 2, "a": ["work", "value"]}, {"i": 3, "a": ["work"]})
    await asyncio.wait(d.peer._core.dispatcher.running.tasks())
    sent = d.take()
    assert rejection(sent, 1) == {"message": "no", "code": 5}
    assert rejection(sent, 2)["code"] == "wsrpc.internal"
    assert rejection(sent, 3)["code"] == "wsrpc.bad_arguments"
    await turns()
    d.assert_empty()


@pytest.mark.parametrize("way", ["inline", "behind an async one", "middleware", "ordered", "waiting"])
async def test_a_sync_handler_that_holds_the_loop_is_named(way: str, caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    def sluggish() -> None:
        d.clock.advance(0.2)

    async def quick() -> None: ...

    async def pass_on(ctx: Context, call_next: Any) -> Any:
        return await call_next(ctx)

    d.peer.on("sluggish", sluggish, ordered=way == "ordered")
    d.peer.on("quick", quick)
    if way == "middleware":
        d.peer.use(pass_on)
    if way == "behind an async one":
        d.feed({"a": ["quick"]})
    if way == "waiting":
        d.transport.pause()
    d.feed({"i": 1, "a": ["sluggish"]})
    if way == "waiting":
        d.transport.resume()
    await turns()
    [text] = messages(caplog)
    assert "sluggish held the event loop for 200 ms" in text and "thread=True" in text


@pytest.mark.parametrize("way", ["waited", "kept by its channel"])
async def test_the_time_since_a_handler_that_no_read_caused_does_not_count(
    caplog: pytest.LogCaptureFixture, way: str
) -> None:
    d = Driven()
    d.peer.on("quick", lambda: None)
    if way == "waited":
        d.transport.pause()
        d.feed({"a": ["quick"]})
        d.transport.resume()
    else:
        kept = asyncio.Event()
        heard: list[str] = []

        async def listen(channel: AnonymousChannel) -> None:
            await kept.wait()
            channel.on("say", heard.append)
            await channel.wait_closed()

        d.peer.on("listen", listen)
        d.feed({"i": 1, "a": ["listen"]})
        await turns()
        d.feed({"h": 1, "a": ["say", "hello"]})
        kept.set()
        await turns()
        assert heard == ["hello"]
    d.clock.advance(5)
    d.feed({"i": 3, "a": ["quick"]})
    assert messages(caplog) == []


async def test_quick_handlers_and_those_that_only_wait_are_not_named(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    blocked = Blocked()
    d.peer.on("wait", blocked)
    d.peer.on("quick", lambda: d.clock.advance(0.09))
    d.feed(*[{"a": ["quick"]}] * 5, {"a": ["wait"]})
    await turns()
    d.clock.advance(5)
    blocked.go.set()
    await turns()
    d.feed({"a": ["quick"]})
    assert messages(caplog) == []


# ---------------------------------------------------------------- around handlers


async def test_middleware_runs_from_the_server_inwards_and_may_change_arguments_and_results() -> None:
    shared = Registry()
    d = Driven(shared=shared)
    log: list[str] = []

    def layer(name: str) -> Any:
        async def middleware(ctx: Context, call_next: Any) -> Any:
            log.append(f"> {name}")
            ctx.args = [*ctx.args, name]
            result = await call_next(ctx)
            log.append(f"< {name}")
            return [*result, name]

        return middleware

    shared.use(None, layer("server"))
    shared.use("room", layer("server room"))
    d.peer.use(layer("peer"))
    d.peer.of("room").use(layer("peer room"))
    d.peer.of("other").use(layer("other"))
    d.peer.of("room").on("e", lambda *args: list(args))
    d.peer.on("e", lambda *args: list(args))
    names = ["server", "server room", "peer", "peer room"]
    [answer] = await d.fed({"i": 1, "c": "room", "a": ["e", 0]})
    assert answer["d"] == [0, *names, *reversed(names)]
    assert log == [f"> {n}" for n in names] + [f"< {n}" for n in reversed(names)]
    [answer] = await d.fed({"i": 2, "a": ["e", 0]})
    assert answer["d"] == [0, "server", "peer", "peer", "server"]


async def test_middleware_may_refuse_and_sees_unknown_events_and_bad_arguments() -> None:
    d = Driven()
    seen: list[tuple[str, str | None, str]] = []
    ran: list[int] = []

    @d.peer.use
    async def guard(ctx: Context, call_next: Any) -> Any:
        if ctx.event == "forbidden":
            raise RpcError("not for you", 403)
        try:
            result = await call_next(ctx)
        except RpcError as exc:
            seen.append((ctx.event, ctx.channel_name, type(exc).__name__))
            raise
        return ["wrapped", result]

    def strict(n: int) -> int:
        ran.append(n)
        return n

    d.peer.on("strict", strict)
    d.peer.on("forbidden", strict)
    sent = await d.fed(
        {"i": 1, "a": ["forbidden", 1]},
        {"i": 2, "a": ["nobody"]},
        {"i": 3, "a": ["strict", "x"]},
        {"i": 4, "a": ["strict", 4]},
        {"i": 5, "c": "nowhere", "a": ["e"]},
        {"a": ["nobody"]},
    )
    assert rejection(sent, 1) == {"message": "not for you", "code": 403}
    assert rejection(sent, 2)["code"] == "wsrpc.unknown_event"
    assert rejection(sent, 3)["code"] == "wsrpc.bad_arguments"
    assert {"i": 4, "d": ["wrapped", 4]} in sent and len(sent) == 5
    assert rejection(sent, 5)["message"] == "Channel 'nowhere' does not exist"
    assert ran == [4]
    assert sorted(seen, key=str) == sorted(
        [
            ("nobody", None, "UnknownEvent"),
            ("strict", None, "BadArguments"),
            ("e", "nowhere", "UnknownEvent"),
            ("nobody", None, "UnknownEvent"),
        ],
        key=str,
    )
    assert d.ignored == {"unknown event": 1}
    d.assert_empty()


async def test_middleware_may_answer_by_itself() -> None:
    d = Driven()

    @d.peer.use
    async def cache(ctx: Context, call_next: Any) -> Any:
        return f"cached {ctx.event}"

    assert await d.fed({"i": 1, "a": ["anything"]}) == [{"i": 1, "d": "cached anything"}]


async def test_middleware_that_is_no_coroutine_function_is_an_internal_error() -> None:
    d = Driven()
    d.peer.use(lambda ctx, call_next: 5)  # type: ignore[type-var]
    d.peer.on("e", lambda: 1)
    assert rejection(await d.fed({"i": 1, "a": ["e"]}), 1)["code"] == "wsrpc.internal"
    with pytest.raises(TypeError, match=r"^use takes a function of \(ctx, call_next\), got 5$"):
        d.peer.use(5)  # type: ignore[type-var]
    d.assert_empty()


async def test_handler_context_is_around_each_handler() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def around(ctx: Context) -> AsyncIterator[None]:
        log.append(f"enter {ctx.event}")
        try:
            yield
        finally:
            log.append(f"exit {ctx.event}")

    server = Server(handler_context=around)
    server.on("sync", lambda: log.append("sync"))

    @server.on("fail")
    async def fail() -> None:
        raise RpcError("no")

    async with connect(server) as client:
        await client.request("sync")
        with pytest.raises(RemoteError):
            await client.request("fail")
        with pytest.raises(UnknownEvent):
            await client.request("nobody")
    assert log == ["enter sync", "sync", "exit sync", "enter fail", "exit fail"]


def test_a_handler_context_that_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="handler_context= is a function of the context, got 5"):
        Server(handler_context=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="handler_context="):
        Server().handler_context = "soon"  # type: ignore[assignment]


async def test_handler_context_can_be_a_timeout() -> None:
    scopes: list[asyncio.Timeout] = []
    loop = asyncio.get_running_loop()

    def limited(ctx: Context) -> asyncio.Timeout:
        scopes.append(asyncio.timeout(None))
        return scopes[-1]

    server = Server(handler_context=limited)
    blocked = Blocked()
    server.on("slow", blocked)
    async with connect(server) as client:
        task = asyncio.ensure_future(client.request("slow"))
        await turns()
        scopes[0].reschedule(loop.time())
        with pytest.raises(HandlerFailed):
            await task
        assert len(blocked.cancelled) == 1
        # And a cancellation by the caller still is one.
        blocked.started.clear()
        task = asyncio.ensure_future(client.request("slow"))
        await turns()
        task.cancel("bored")
        await turns()
        assert blocked.cancelled[-1] == "bored"
        assert server.peers[0].active == 0


# ---------------------------------------------------------------- where am I


async def test_the_current_context_is_there_in_handlers_and_tasks_they_start() -> None:
    d = Driven()
    seen: list[Any] = []
    tasks: list[asyncio.Task[None]] = []

    async def look() -> None:
        await turns(3)
        seen.append((current_peer() is d.peer, current_context().event))

    async def handler(ctx: Context) -> None:
        assert current_context() is ctx
        tasks.append(asyncio.ensure_future(look()))
        await look()

    def inline(ctx: Context) -> None:
        assert current_context() is ctx and current_peer() is d.peer
        tasks.append(asyncio.ensure_future(look()))

    d.peer.on("async", handler)
    d.peer.on("inline", inline)
    await d.fed({"i": 1, "a": ["inline"]}, {"i": 2, "a": ["async"]})
    await asyncio.gather(*tasks)
    assert sorted(seen) == [(True, "async"), (True, "async"), (True, "inline")]
    for ask in (current_context, current_peer):
        with pytest.raises(RuntimeError, match="no handler is running here"):
            ask()


async def test_the_context_after_an_inline_handler_is_that_of_before_even_if_it_fails() -> None:
    d = Driven()

    def fail() -> None:
        raise ValueError

    d.peer.on("fail", fail)
    d.feed({"i": 1, "a": ["fail"]})
    with pytest.raises(RuntimeError):
        current_context()


# ---------------------------------------------------------------- message handlers


async def test_message_handlers_see_everything_that_arrives() -> None:
    d = Driven()
    seen: list[Message] = []
    d.peer.on("message", lambda peer, message: seen.append(message))
    d.peer.on("e", lambda *args: None)
    d.feed(
        {"i": 4, "c": "room", "a": ["e", 1, "x"]}, {"i": 9, "d": 1}, "hello", b"\x00", "{broken", {"ws-wrapper": False}
    )
    assert [m.event for m in seen] == ["e", None, None, None, None, None]
    assert (seen[0].id, seen[0].channel_name, seen[0].args) == (4, "room", (1, "x"))
    assert (seen[1].id, seen[1].args) == (9, ())
    assert [m.payload for m in seen[2:5]] == [b"hello", b"\x00", b"{broken"]
    assert [m.text for m in seen] == [True, True, True, False, True, True]
    await turns()
    for message in seen:
        await message.processed()


async def test_message_handlers_cannot_change_what_handlers_get() -> None:
    d = Driven()

    def meddle(peer: Peer, message: Message) -> None:
        if message.args:
            message.args[0].append("changed")

    d.peer.on("message", meddle)
    d.peer.on("echo", lambda value: value)
    assert await d.fed({"i": 1, "a": ["echo", ["original"]]}) == [{"i": 1, "d": ["original"]}]


@pytest.mark.parametrize("way", ["runs", "fails", "cancelled", "waits", "refused", "unknown", "middleware", "dropped"])
async def test_processed_ends_when_the_handler_is_done(way: str) -> None:
    d = Driven()
    seen: list[Message] = []
    d.peer.on("message", lambda peer, message: seen.append(message))
    blocked = Blocked()

    async def handler() -> None:
        await blocked()
        if way == "fails":
            raise ValueError

    async def pass_on(ctx: Context, call_next: Any) -> Any:
        return await call_next(ctx)

    if way == "middleware":
        d.peer.use(pass_on)
    if way == "waits":
        d.transport.pause()
    d.peer.on("h", handler)
    d.feed({"i": 1, "a": ["nobody" if way == "unknown" else "h", *([1] if way == "refused" else [])]})
    done = asyncio.ensure_future(seen[0].processed())
    await turns()
    assert done.done() == (way in ("unknown", "refused"))
    if way == "waits":
        d.transport.resume()
        await turns()
        assert not done.done()
    if way == "cancelled":
        d.feed({"i": 1, "x": 0})
    elif way == "dropped":
        d.transport.lose()
    else:
        blocked.go.set()
    await done
    await seen[0].processed()


async def test_a_message_handler_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    def fail(peer: Peer, message: Message) -> None:
        raise ValueError

    async def fail_later(peer: Peer, message: Message) -> None:
        raise ValueError

    d.peer.once("message", fail)
    d.peer.on("message", fail_later)
    d.peer.on("e", lambda: 1)
    assert await d.fed({"i": 1, "a": ["e"]}, {"i": 2, "a": ["e"]}) == [{"i": 1, "d": 1}, {"i": 2, "d": 1}]
    assert len(messages(caplog, logging.ERROR)) == 2


async def test_servers_and_clients_observe_too() -> None:
    server = Server()
    seen: list[tuple[str, str | None]] = []
    server.on("message", lambda peer, message: seen.append(("server", message.event)))
    server.on("hi", lambda: 1)
    client = Client()
    client.on("message", lambda peer, message: seen.append(("client", message.event)))
    async with connect(server, client=client):
        await client.request("hi")
    assert seen == [("server", "hi"), ("client", None)]


# ---------------------------------------------------------------- more arguments than a handler takes


def takes(shape: str, ran: list[Any]) -> Any:
    """A handler that notes what it was called with; all but the last take at most two arguments."""

    def typed(a: int, b: int = 7) -> None:
        ran.append((a, b))

    def converted(a: float, b: list[int]) -> None:
        ran.append((a, b))

    def untyped(a: Any, b: Any) -> None:
        ran.append((a, b))

    def injected(a: int, ctx: Context, b: int = 7) -> None:
        ran.append((a, b))

    async def later(a: int, b: int) -> None:
        await asyncio.sleep(0)
        ran.append((a, b))

    def rest(*args: Any) -> None:
        ran.append(args)

    return locals()[shape]


SHAPES: dict[str, list[Any]] = {
    "typed": [1, 2, "x", {}],
    "converted": [1, [2], "x"],
    "untyped": [None, "b", 3],
    "injected": [1, 2, 3],
    "later": [1, 2, 3],
}


WAYS = ["plain", "thread", "ordered", "middleware", "named"]


@pytest.mark.parametrize(
    ("shape", "how"),
    [(shape, how) for shape in SHAPES for how in WAYS if (shape, how) != ("later", "thread")],
)
async def test_an_event_with_too_many_arguments_reaches_its_handler_without_them(
    shape: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()
    ran: list[Any] = []
    place = d.peer.of("chat") if how == "named" else d.peer
    options: dict[str, Any] = {how: True} if how in ("thread", "ordered") else {}
    place.on("e", takes(shape, ran), **options)
    seen: list[Any] = []
    if how == "middleware":

        @d.peer.use
        async def note(ctx: Context, call_next: Any) -> Any:
            seen.append(list(ctx.args))
            return await call_next(ctx)

    sent = SHAPES[shape]
    channel = {"c": "chat"} if how == "named" else {}
    await d.fed({"a": ["e", *sent], **channel}, {"a": ["e", *sent], **channel})
    await idle(d)
    assert ran == [tuple(sent[:2])] * 2
    assert d.ignored == {"surplus arguments": 2}
    assert seen == ([sent] * 2 if how == "middleware" else []), "middleware sees what came"
    [line] = messages(caplog, logging.WARNING)
    assert f"came with {len(sent)} arguments and its handler takes 2" in line

    d.feed({"i": 1, "a": ["e", *sent], **channel})
    await idle(d)
    [rejected] = d.take()
    assert "expected at most 2 arguments" in rejected["e"]["message"], "who requests is told"
    assert len(ran) == 2 and d.ignored == {"surplus arguments": 2}


async def test_all_arguments_reach_a_handler_that_takes_any_number() -> None:
    d = Driven()
    ran: list[Any] = []
    d.peer.on("e", takes("rest", ran))
    await d.fed({"a": ["e", 1, 2, 3]})
    assert ran == [(1, 2, 3)] and d.ignored == {}


async def test_an_event_whose_first_arguments_do_not_fit_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    ran: list[Any] = []
    d.peer.on("e", takes("typed", ran))
    await d.fed({"a": ["e", "x", 2, 3]})
    assert ran == []
    assert "argument 'a'" in messages(caplog, logging.WARNING)[-1]


async def test_two_wsrpc_peers_treat_surplus_arguments_alike() -> None:
    async with pair() as (a, b):
        ran: list[Any] = []
        b.on("e", takes("typed", ran))
        await a.emit("e", 1, 2, 3)
        with pytest.raises(BadArguments, match="expected at most 2 arguments, got 3"):
            await a.request("e", 1, 2, 3)
        assert ran == [(1, 2)]
