"""Handlers: which one runs, what is around it, and what its caller gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from core_driver import Blocked, Driven, messages, rejection
from leftovers import nothing_left as nothing_left
from waiting import pause, settled

from wsrpc import Context, RpcError
from wsrpc.types import Message


async def pass_on(ctx: Context, call_next: Any) -> Any:
    return await call_next(ctx)


# ---------------------------------------------------------------- which one runs


async def test_the_last_registration_wins_and_one_from_elsewhere_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    for n in range(3):
        d.peer.on("same place", lambda n=n: n)
    assert caplog.records == []

    one: Any = lambda: 1  # noqa: E731
    two: Any = lambda: 2  # noqa: E731
    assert d.peer.of("room").on("e", one) is one, "so that it is a decorator"
    d.peer.of("room").on("e")(two)
    [text] = messages(caplog)
    places = [f"{__file__}:{function.__code__.co_firstlineno}" for function in (one, two)]
    assert "room:e" in text and text.index(places[0]) < text.index(places[1])
    assert await d.fed({"i": 1, "c": "room", "a": ["e"]}) == [{"i": 1, "d": 2}]


# ---------------------------------------------------------------- arguments and results


# ---------------------------------------------------------------- errors


class Mute(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")


def breaks(exc: BaseException) -> bool:
    raise LookupError("broken predicate")


@pytest.mark.parametrize(
    ("expose", "error", "expected"),
    [
        (True, ValueError("plain text"), {"message": "plain text"}),
        (lambda exc: isinstance(exc, LookupError), KeyError("secret"), {"message": "'secret'"}),
        (lambda exc: isinstance(exc, LookupError), ValueError("secret"), "wsrpc.internal"),
        (breaks, ValueError("secret"), "wsrpc.internal"),
        (True, Mute(), "wsrpc.internal"),
    ],
)
async def test_expose_errors_sends_the_text(expose: Any, error: Exception, expected: Any) -> None:
    def fail() -> None:
        raise error

    d = Driven(expose_errors=expose)
    d.peer.on("fail", fail)
    rejected = rejection(await d.fed({"i": 1, "a": ["fail"]}), 1)
    assert (rejected if isinstance(expected, dict) else rejected["code"]) == expected
    d.assert_empty()


# ---------------------------------------------------------------- slow ones


@pytest.mark.usefixtures("slow_handlers_are_named")
@pytest.mark.parametrize(("seconds", "said"), [(0.2, 1), (0.09, 0)])
@pytest.mark.parametrize("way", ["inline", "middleware", "ordered"])
async def test_a_sync_handler_that_holds_the_loop_is_named(
    way: str, seconds: float, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()
    d.peer.on("sluggish", lambda: pause(seconds), ordered=way == "ordered")
    if way == "middleware":
        d.peer.use(pass_on)
    await d.fed({"i": 1, "a": ["sluggish"]})
    await settled(5)  # the time between reads does not count
    await d.fed({"i": 2, "a": ["nobody"]})
    texts = [text for text in messages(caplog) if "nobody" not in text]
    assert len(texts) == said
    assert all("lambda" in text and "held the event loop for 200 ms" in text for text in texts)


# ---------------------------------------------------------------- around handlers


async def test_a_middleware_that_goes_on_twice_fails_and_the_handler_runs_once() -> None:
    d = Driven()
    ran: list[int] = []
    kept: list[Callable[[], Any]] = []

    @d.peer.use
    async def twice(ctx: Context, call_next: Any) -> Any:
        kept.append(lambda: call_next(ctx))
        await call_next(ctx)
        return await call_next(ctx)

    d.peer.use(pass_on)
    d.peer.on("e", ran.append)
    assert rejection(await d.fed({"i": 1, "a": ["e", 1]}), 1)["code"] == "wsrpc.internal"
    with pytest.raises(RuntimeError, match="call_next twice"):  # nor may it keep it for later
        await kept[0]()
    assert ran == [1]


async def test_a_middleware_that_forgets_to_return_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    @d.peer.use
    async def forgetful(ctx: Context, call_next: Any) -> None:
        await call_next(ctx)

    d.peer.on("e", lambda n: n)
    sent = await d.fed({"a": ["e", 1]}, *({"i": i, "a": ["e", n]} for i, n in enumerate((None, 2, 3), 1)))
    assert sent == [{"i": i, "d": None} for i in (1, 2, 3)]
    [record] = caplog.records
    assert record.levelname == "WARNING" and "forgetful returned None in place of" in record.getMessage()


# ---------------------------------------------------------------- message handlers


@pytest.mark.parametrize("way", ["runs", "cancelled", "unknown", "middleware", "dropped"])
async def test_processed_ends_when_the_handler_is_done(way: str) -> None:
    d, seen, blocked = Driven(), list[Message](), Blocked()
    d.peer.on("message", lambda peer, message: seen.append(message))

    if way == "middleware":
        d.peer.use(pass_on)
    d.peer.on("h", blocked)
    d.feed({"i": 1, "a": ["nobody" if way == "unknown" else "h"]})
    done = asyncio.ensure_future(seen[0].processed())
    await settled()
    assert done.done() == (way == "unknown")
    if way == "cancelled":
        d.feed({"i": 1, "x": 0})
    elif way == "dropped":
        d.transport.lose()
    else:
        blocked.go.set()
    await done


@pytest.mark.parametrize("how", ["class", "assigned"])
async def test_a_reserved_code_does_not_get_out_by_a_side_door(how: str, caplog: pytest.LogCaptureFixture) -> None:
    class Busy(RpcError):
        code = "wsrpc.overloaded"

    d = Driven()

    def fail() -> None:
        error = Busy("later") if how == "class" else RpcError("later")
        error.code = "wsrpc.overloaded"
        raise error

    d.peer.on("fail", fail)
    assert rejection(await d.fed({"i": 1, "a": ["fail"]}), 1)["code"] == "wsrpc.internal"
    assert "reserved, got 'wsrpc.overloaded'" in caplog.text
