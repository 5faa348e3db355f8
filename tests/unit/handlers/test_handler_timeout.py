"""`on(timeout=)` and `Limits.handler_timeout`: a handler that takes too long is cancelled, and its caller is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from core_driver import Driven, rejection, said_in
from leftovers import nothing_left as nothing_left
from waiting import settled

import wsrpc
from wsrpc import AnonymousChannel, Context, HandlerTimeout, Limits, RemoteError, Router, Server, Service
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


async def hangs() -> None:
    await asyncio.Event().wait()


async def advanced(driven: Driven, seconds: float) -> list[Any]:
    """What is sent within so many seconds."""
    await settled(seconds)
    return driven.take()


# ---------------------------------------------------------------- what everybody sees


async def test_the_caller_gets_the_error_and_the_handler_is_cancelled_with_the_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driven = Driven()
    ended: list[Any] = []

    async def slow(ctx: Context) -> None:
        try:
            await hangs()
        except asyncio.CancelledError as cancelled:
            ended.extend([cancelled.args[0], ctx.cancel_reason])
            raise

    driven.peer.on("slow", slow, timeout=5)
    assert await driven.fed({"i": 1, "a": ["slow"]}) == []
    assert await advanced(driven, 4.9) == [] and not ended
    error = rejection(await advanced(driven, 0.2), 1)
    assert error == {"message": "'slow' took longer than 5 s and was cancelled", "code": "wsrpc.handler_timeout"}
    reason = ended[0]
    assert ended == [reason] * 2 and isinstance(reason, HandlerTimeout) and str(reason) == error["message"]
    [record] = caplog.records
    assert said_in(record).endswith("slow #1, was cancelled: it took longer than 5 s (timeout=)")
    assert record.levelno == logging.WARNING and record.exc_info is None
    driven.assert_empty()


async def test_the_caller_gets_a_class_of_its_own_however_a_handler_is_registered() -> None:
    class Slow(Service):
        @wsrpc.method(timeout=0.001)
        async def method(self) -> None:
            await hangs()

    server, router = Server(limits=Limits(handler_timeout=0.002)), Router()
    router.on("own", hangs, timeout=0.001)
    router.on("default", hangs)
    server.include(router)
    server.add_service(Slow)
    async with asyncio.timeout(0.1), connect(server) as client:
        assert server.on("decorated", timeout=0.001)(hangs) is hangs
        server.once("once", hangs, timeout=0.001)
        server.peers[0].on("of a peer", hangs, timeout=0.001)
        for event in ("decorated", "once", "of a peer", "own", "method", "default"):
            with pytest.raises(HandlerTimeout, match=rf"0\.00{1 + (event == 'default')} s"):
                await client.request(event, timeout=None)
    assert issubclass(HandlerTimeout, RemoteError) and not issubclass(HandlerTimeout, TimeoutError)


# ---------------------------------------------------------------- what counts, and what does not


async def test_the_default_is_for_handlers_without_a_limit_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    driven = Driven(limits=Limits(handler_timeout=3))
    gate = asyncio.Event()
    driven.peer.on("default", hangs)
    driven.peer.on("plain", lambda: hangs())
    for event, handler, seconds in (("shorter", hangs, 1), ("longer", hangs, 10), ("none", gate.wait, None)):
        driven.peer.on(event, handler, timeout=seconds)
    events = ("default", "shorter", "longer", "none", "plain")
    await driven.fed(*({"i": i, "a": [event]} for i, event in enumerate(events, 1)))
    answered = [sorted(answer["i"] for answer in await advanced(driven, 1.0)) for _ in range(12)]
    assert "(Limits.handler_timeout)" in caplog.text
    assert answered == [[2], [], [1, 5], [], [], [], [], [], [], [3], [], []]
    gate.set()


async def test_the_default_is_not_for_what_lasts_as_long_as_its_reader_wants() -> None:
    driven = Driven(limits=Limits(handler_timeout=1, unread_timeout=100.0))

    async def streams() -> AsyncIterator[int]:
        await hangs()
        yield 1

    async def talks(channel: AnonymousChannel) -> None:
        await hangs()

    async def gives_a_channel(ctx: Context) -> AnonymousChannel:
        return ctx.channel()

    handlers: list[Callable[..., Any]] = [streams, talks, gives_a_channel]
    for number, handler in enumerate(handlers):
        driven.peer.on(handler.__name__, handler)
        sent = await driven.fed({"i": number + 1, "a": [handler.__name__]})
        assert sent[0] == {"i": number + 1, "h": 1}
    assert await advanced(driven, 50.0) == [] and driven.peer.anonymous_channels == 3
    await driven.fed(*({"h": number, "x": None} for number in range(1, 4)))


async def test_waiting_for_its_turn_and_middleware_are_not_the_handler_s_time() -> None:
    driven = Driven()
    gates = {name: asyncio.Event() for name in ("before", "first", "second", "after")}

    async def middleware(ctx: Context, call_next: Any) -> Any:
        await gates["before"].wait()
        result = await call_next(ctx)
        await gates["after"].wait()
        return result

    async def slow(name: str) -> str:
        await gates[name].wait()
        return name

    driven.peer.use(middleware)
    driven.peer.on("slow", slow, timeout=5, ordered=True)
    await driven.fed({"i": 1, "a": ["slow", "first"]}, {"i": 2, "a": ["slow", "second"]})
    for gate in gates.values():
        assert await advanced(driven, 4.0) == []
        gate.set()
        await settled()
    assert sorted(driven.take(), key=lambda answer: answer["i"]) == [{"i": 1, "d": "first"}, {"i": 2, "d": "second"}]
    assert await advanced(driven, 100.0) == []
    driven.assert_empty()


# ---------------------------------------------------------------- refused at registration


async def stream() -> AsyncIterator[int]:
    yield 1


ASYNC_ONLY = "timeout= is for an `async def` that gives one result: "
LASTS = "this one lasts as long as its stream or channel, so use `async with asyncio.timeout()` in its body"


@pytest.mark.parametrize(
    ("handler", "options", "why"),
    [
        (print, {}, "a plain function cannot be cancelled, so make it an `async def`"),
        (print, {"thread": True}, "a thread cannot be stopped, so check the time in the function itself"),
        (stream, {}, LASTS),
    ],
)
def test_what_cannot_have_a_limit_is_refused(handler: Any, options: dict[str, Any], why: str) -> None:
    server = Server()
    with pytest.raises(TypeError) as caught:
        server.on("x", handler, timeout=5, **options)
    text = str(caught.value)
    assert text.startswith("handler ") and text.endswith(f": {ASYNC_ONLY}{why}")
    server.on("x", handler, timeout=None, **options)  # which is true of it
