"""A message that takes a fast path has the same effect as one that takes the general path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from core_driver import Driven, start, turns

from wsrpc import AnonymousChannel, CallNext, Context, Limits, RpcError, current_context
from wsrpc.codecs import JsonCodec

MESSAGES: list[dict[str, Any]] = [
    {"a": ["say", 1]},
    {"i": 1, "a": ["say", 1]},
    {"i": 2**53 - 1, "a": ["say", 1]},
    {"i": True, "a": ["say", 1]},
    {"i": 1.0, "a": ["say", 1]},
    {"i": None, "a": ["say", 1]},
    {"i": 1, "a": ["say"]},
    {"i": 1, "a": ["nobody"]},
    {"a": ["nobody"]},
    {"i": 1, "a": ["open"]},
    {"i": 1, "a": ["say", 1], "c": None, "h": None},
    {"i": 1, "a": ["say", 1], "c": "named"},
    {"i": 1, "a": ["say", 1], "h": 7},
    {"i": 1, "a": [5, 1]},
    {"a": [None]},
    {"i": 1, "a": ["n" * 256]},
    {"i": 1, "a": ["n" * 257]},
    {"i": 1, "a": ["é" * 129]},
    {"i": 1, "a": ["say", *range(65)]},
]


UNREACHED = 10**9
"""A rate that no test reaches: all messages take another way, to the same effect."""


class OwnCodec(JsonCodec):
    """A codec of a user's, which has no strict decoder: all its messages are received as unusual ones."""

    def __init__(self) -> None:
        super().__init__()
        decode = self.decode
        self.decode = lambda payload: decode(payload)


@pytest.mark.parametrize("message", MESSAGES, ids=str)
async def test_an_event_or_a_request_is_received_alike(message: dict[str, Any]) -> None:
    async def effect(**general: Any) -> list[Any]:
        d = Driven(limits=Limits(rate=UNREACHED if general else None), **general)
        ran: list[Any] = []

        def say(number: int) -> int:
            ran.append(number)
            return number

        d.peer.on("say", say)
        d.peer.of("named").on("say", lambda *arguments: ran.append(arguments))
        return [await d.fed(message), ran, d.ignored, d.close_code]

    assert await effect() == await effect(codec=OwnCodec())


ASKED = 2**30 + 1

ANSWERS: list[dict[str, Any]] = [
    {"i": ASKED, "d": 3},
    {"i": ASKED},
    {"i": ASKED, "e": "no"},
    {"i": ASKED, "e": {"message": "no"}, "_": 1},
    {"i": ASKED, "h": 1},
    {"i": ASKED, "h": 0, "d": 3},
    {"i": ASKED, "h": 1, "e": "no"},
    {"i": ASKED, "x": "no"},
    {"i": ASKED + 2, "d": 3},
    {"i": float(ASKED), "d": 3},
    {"i": str(ASKED), "d": 3},
    {"i": None, "d": 3},
    {"d": 3},
    {"h": ASKED, "x": "no"},
]


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("message", ANSWERS, ids=str)
async def test_an_answer_is_received_alike(message: dict[str, Any], cancelled: bool) -> None:
    async def effect(general: bool) -> list[Any]:
        d = Driven(dialer=True, codec=OwnCodec() if general else None)
        requests = d.peer._current.writer.requests
        requests._next = ASKED
        task = start(d.peer.request("add", 1, 2))
        await turns()
        if cancelled:
            task.cancel()
            await turns()
        d.feed(message)
        await turns()
        flight = requests.flight
        settled = [repr(each) for each in (await asyncio.gather(task, return_exceptions=True))] if task.done() else []
        task.cancel()
        return [settled, d.take(), d.ignored, d.close_code, len(requests), flight.requests, flight.bytes]

    assert await effect(general=False) == await effect(general=True)


# ---------------------------------------------------------------- handlers


async def read(d: Driven, *messages: Any, within_task: bool = False) -> list[Any]:
    """One read that brings ``messages``. Let everything happen, and return what was sent.

    They come either in a callback of the event loop, as from a socket, where a coroutine's task takes its first step
    at once, or within another task, where that depends on the version of Python.
    """
    if within_task:
        d.feed(*messages)
    else:
        asyncio.get_running_loop().call_soon(lambda: d.feed(*messages))
    await turns()
    return d.take()


def unfit() -> Any:
    return object()


def refuse() -> None:
    raise RpcError("no", "refused")


def fail() -> None:
    raise ValueError("a bug")


def give_up() -> None:
    raise asyncio.CancelledError


def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def begin() -> None: ...


async def numbers() -> AsyncIterator[int]:
    yield 1


def channel() -> AnonymousChannel:
    return current_context().channel()


def channel_for_nothing() -> str:
    current_context().channel()
    return "no channel"


RETURNS: list[Callable[[], Any]] = [lambda: 5, unfit, refuse, fail, channel, channel_for_nothing]
IN_A_COROUTINE: list[Callable[[], Any]] = [*RETURNS, give_up, cancel_itself, numbers]


async def outcome(do: Callable[[], Any], kind: str, how: str = "at once", within_task: bool = False) -> list[Any]:
    """What is sent for a request and for an event, and what is counted, if a handler does this and is called so."""
    d = Driven(expose_errors=True, limits=Limits(handler_timeout=60.0 if how == "with a call" else None))

    async def coroutine() -> Any:
        if kind == "waits":
            await asyncio.sleep(0)
        return do()

    async def through(ctx: Context, call_next: CallNext) -> Any:
        return await call_next(ctx)

    d.peer.on("do", (lambda: do()) if kind == "plain" else coroutine)
    if how == "layered":
        d.peer.use(through)
    # On Python 3.11, plain functions run in tasks behind a coroutine whose task has not begun.
    before = [{"a": ["begin"]}] if how == "in a task" else []
    d.peer.on("begin", begin)
    answered = await read(d, *before, {"i": 3, "a": ["do"]}, within_task=within_task)
    happened = await read(d, *before, {"a": ["do"]}, within_task=within_task)
    return [answered, happened, d.ignored, d.peer.active, d.peer.anonymous_channels]


@pytest.mark.parametrize("do", RETURNS)
async def test_a_plain_function_gives_the_same_whichever_way_it_is_called(do: Callable[[], Any]) -> None:
    expected = await outcome(do, "plain")
    assert await outcome(do, "plain", "in a task") == expected
    assert await outcome(do, "plain", "layered") == expected
    assert await outcome(do, "coroutine") == expected


@pytest.mark.parametrize("within_task", [False, True])
@pytest.mark.parametrize("kind", ["coroutine", "waits"])
@pytest.mark.parametrize("do", IN_A_COROUTINE)
async def test_a_coroutine_gives_the_same_whichever_way_it_is_called(
    do: Callable[[], Any], kind: str, within_task: bool
) -> None:
    expected = await outcome(do, kind, "at once", within_task)
    assert await outcome(do, kind, "with a call", within_task) == expected
    assert await outcome(do, kind, "layered", within_task) == expected
