"""A message that takes a fast path has the same effect as one that takes the general path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from core_driver import Driven, start
from peers_inside import out_of
from waiting import settled

from wsrpc import AnonymousChannel, CallNext, Context, Limits, RpcError, current_context
from wsrpc.codecs import JsonCodec

MESSAGES: list[dict[str, Any]] = [
    {"a": ["say", 1]},
    *({"i": i, "a": ["say", 1]} for i in (1, 2**53 - 1, True, 1.0, None)),
    *({"i": 1, "a": [name]} for name in ("say", "nobody", "open")),
    *({"i": 1, "a": ["say", 1], **to} for to in ({"c": None, "h": None}, {"c": "named"}, {"h": 7})),
    *({"i": 1, "a": a} for a in ([5, 1], ["n" * 256], ["n" * 257], ["é" * 129], ["say", *range(65)])),
]


UNREACHED = 10**9
"""A rate that no test reaches: messages are counted, and nothing else changes."""


class OwnCodec(JsonCodec):
    """A codec of a user's, which has no strict decoder: all its messages are received as unusual ones."""

    def __init__(self) -> None:
        super().__init__()
        decode = self.decode
        self.decode = lambda payload: decode(payload)


@pytest.mark.parametrize("message", MESSAGES, ids=str)
async def test_an_event_or_a_request_is_received_alike(message: dict[str, Any]) -> None:
    async def effect(reads: bool = False, rate: int | None = None, codec: OwnCodec | None = None) -> list[Any]:
        d = Driven(limits=Limits(rate=rate), codec=codec)
        if reads:  # so that messages may be for readers, and all are checked for that
            await readers.enter_async_context(d.peer.of("other").events("never"))
        ran: list[Any] = []

        def say(number: int) -> int:
            ran.append(number)
            return number

        d.peer.on("say", say)
        d.peer.of("named").on("say", lambda *arguments: ran.append(arguments))
        return [await d.fed(message), ran, d.ignored, d.close_code]

    async with AsyncExitStack() as readers:
        usual = await effect()
        assert usual == await effect(reads=True) == await effect(reads=True, codec=OwnCodec())
        assert usual == await effect(rate=UNREACHED)


ASKED = 2**30 + 1

ANSWERS: list[dict[str, Any]] = [
    *({"i": ASKED, **answer} for answer in ({"d": 3}, {}, {"e": "no"}, {"e": {"message": "no"}, "_": 1}, {"x": "no"})),
    *({"i": ASKED, **answer} for answer in ({"h": 1}, {"h": 0, "d": 3}, {"h": 1, "e": "no"})),
    *({"i": i, "d": 3} for i in (ASKED + 2, float(ASKED), str(ASKED), None)),
    {"h": ASKED, "x": "no"},
]


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("message", ANSWERS, ids=str)
async def test_an_answer_is_received_alike(
    message: dict[str, Any], cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.randrange", lambda most: 0)  # so that the first id is `ASKED`

    async def effect(general: bool) -> list[Any]:
        d = Driven(dialer=True, codec=OwnCodec() if general else None)
        requests = out_of(d.peer).requests
        task = start(d.peer.request("add", 1, 2))
        await settled()
        if cancelled:
            task.cancel()
            await settled()
        sent, flight = await d.fed(message), requests.flight
        outcome = repr(await asyncio.gather(task, return_exceptions=True)) if task.done() else ""
        task.cancel()
        return [outcome, sent, d.ignored, d.close_code, len(requests), flight.requests, flight.bytes]

    assert await effect(general=False) == await effect(general=True)


# ---------------------------------------------------------------- handlers


async def read(d: Driven, *messages: Any) -> list[Any]:
    """One read that brings ``messages``, in a callback of the event loop, as from a socket. Return what was sent."""
    asyncio.get_running_loop().call_soon(lambda: d.feed(*messages))
    await settled()
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


async def outcome(do: Callable[[], Any], kind: str, how: str = "at once") -> list[Any]:
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
    answered = await read(d, *before, {"i": 3, "a": ["do"]})
    happened = await read(d, *before, {"a": ["do"]})
    return [answered, happened, d.ignored, d.peer.active, d.peer.anonymous_channels]


@pytest.mark.parametrize("do", RETURNS)
async def test_a_plain_function_gives_the_same_whichever_way_it_is_called(do: Callable[[], Any]) -> None:
    expected = await outcome(do, "plain")
    assert await outcome(do, "plain", "in a task") == expected
    assert await outcome(do, "plain", "layered") == expected
    assert await outcome(do, "coroutine") == expected


@pytest.mark.parametrize("kind", ["coroutine", "waits"])
@pytest.mark.parametrize("do", IN_A_COROUTINE)
async def test_a_coroutine_gives_the_same_whichever_way_it_is_called(do: Callable[[], Any], kind: str) -> None:
    expected = await outcome(do, kind)
    assert await outcome(do, kind, "with a call") == expected
    assert await outcome(do, kind, "layered") == expected
