"""A message that takes a fast path has the same effect as one that takes the general path."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Driven, start, turns

from wsrpc import AnonymousChannel, CallNext, Context, Limits, RpcError
from wsrpc._handlers.registry import Registry
from wsrpc.codecs import Codec, JsonCodec

LARGEST = 2**53 - 1

MESSAGES: list[dict[str, Any]] = [
    {"a": ["say", 1]},
    {"i": 1, "a": ["say", 1]},
    {"i": LARGEST, "a": ["say", 1]},
    {"i": LARGEST + 1, "a": ["say", 1]},
    {"i": 0, "a": ["say", 1]},
    {"i": True, "a": ["say", 1]},
    {"i": 1.0, "a": ["say", 1]},
    {"i": None, "a": ["say", 1]},
    {"i": 1, "a": ["say"]},
    {"i": 1, "a": ["say", "one"]},
    {"i": 1, "a": ["nobody"]},
    {"a": ["nobody"]},
    {"i": 1, "a": ["open"]},
    {"a": ["close"]},
    {"i": 1, "a": ["say", 1], "c": None, "h": None},
    {"i": 1, "a": ["say", 1], "c": "named"},
    {"i": 1, "a": ["say", 1], "c": ""},
    {"i": 1, "a": ["say", 1], "c": 5},
    {"i": 1, "a": ["say", 1], "h": 7},
    {"a": ["say", 1], "h": "7"},
    {"i": 1, "a": [5, 1]},
    {"a": [None]},
    {"i": 1, "a": ["n" * 4]},
    {"i": 1, "a": ["n" * 5]},
    {"i": 1, "a": ["n" * 16]},
    {"i": 1, "a": ["n" * 17]},
    {"i": 1, "a": ["é" * 9]},
    {"i": 1, "a": ["say", *range(64)]},
    {"i": 1, "a": ["say", *range(65)]},
    {"a": ["say", *range(65)]},
]


UNREACHED = 10**9
"""A rate that no test reaches: all messages take another way, to the same effect."""


class OwnCodec(JsonCodec):
    """A codec of a user's, which has no strict decoder: all its messages are received as unusual ones."""

    def __init__(self) -> None:
        super().__init__()
        decode = self.decode
        self.decode = lambda payload: decode(payload)


def receiving(
    rate: int | None = None, *, handlers: str = "peer", codec: Codec | None = None
) -> tuple[Driven, list[Any]]:
    """Return a peer and what its handlers got. The handlers are those of the ``"peer"`` or of its ``"server"``."""
    shared = Registry()
    d = Driven(limits=Limits(name=16, rate=rate), shared=shared, codec=codec)
    ran: list[Any] = []

    def say(number: int) -> int:
        ran.append(number)
        return number

    assert d.peer._core._inbound is not None
    registry = shared if handlers == "server" else d.peer._core._inbound._own
    registry.add(None, "say", say)
    registry.add("named", "say", lambda *arguments: ran.append(arguments))
    return d, ran


@pytest.mark.parametrize("handlers", ["server", "peer"])
@pytest.mark.parametrize("rate", [None, UNREACHED])
@pytest.mark.parametrize("message", MESSAGES, ids=str)
async def test_an_event_or_a_request_is_received_alike(
    message: dict[str, Any], rate: int | None, handlers: str
) -> None:
    fast, fast_ran = receiving(handlers=handlers)
    general, general_ran = receiving(rate, codec=OwnCodec())
    fast.feed(message)
    general.feed(message)
    await turns()
    assert fast.take() == general.take()
    assert fast_ran == general_ran
    assert fast.ignored == general.ignored
    assert fast.close_code == general.close_code


ASKED = 2**30 + 1

ANSWERS: list[dict[str, Any]] = [
    {"i": ASKED, "d": 3},
    {"i": ASKED},
    {"i": ASKED, "e": "no"},
    {"i": ASKED, "e": {"message": "no"}, "_": 1},
    {"i": ASKED, "h": 1},
    {"i": ASKED, "h": 0, "d": 3},
    {"i": ASKED, "h": None, "d": 3},
    {"i": ASKED, "h": 1, "e": "no"},
    {"i": ASKED, "x": "no"},
    {"i": ASKED, "d": 3, "x": None},
    {"i": ASKED + 2, "d": 3},
    {"i": ASKED + 2, "h": 1},
    {"i": float(ASKED), "d": 3},
    {"i": str(ASKED), "d": 3},
    {"i": [ASKED], "d": 3},
    {"i": None, "d": 3},
    {"i": -1, "d": None},
    {"d": 3},
    {"h": ASKED, "x": "no"},
]


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("message", ANSWERS, ids=str)
async def test_an_answer_is_received_alike(message: dict[str, Any], cancelled: bool) -> None:
    async def effect(general: bool) -> list[Any]:
        d = Driven(dialer=True, codec=OwnCodec() if general else None)
        requests = d.peer._core.out.requests
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


async def test_items_of_a_stream_are_received_alike() -> None:
    async def read(general: bool, rate: int | None = None) -> tuple[list[Any], list[Any], dict[str, int]]:
        d = Driven(dialer=True, limits=Limits(rate=rate), codec=OwnCodec() if general else None)
        d.peer._out.requests._next = 7
        items: list[Any] = []

        async def consume() -> None:
            async with d.peer.stream("count") as stream:
                items.extend([item async for item in stream])

        task = start(consume())
        await turns(2)
        d.feed({"i": 7, "h": 1})
        await turns()
        for message in (
            {"h": 7, "a": ["next", {"value": 1, "done": False}]},
            {"h": "7", "a": ["next", {"value": 2, "done": False}]},
            {"h": 7, "c": "ignored", "a": ["next", {"value": 3, "done": False}]},
            {"h": 7, "a": ["other"]},
            {"h": 8, "a": ["next", {"value": 4, "done": False}]},
            {"h": 7, "a": ["next", {"done": True}]},
        ):
            d.feed(message)
            await turns()
        await task
        return items, d.take(), d.ignored

    fast = await read(general=False)
    assert fast == await read(general=True) == await read(general=True, rate=UNREACHED)
    assert fast == await read(general=False, rate=UNREACHED)
    assert fast[0] == [1, 2, 3]


# ---------------------------------------------------------------- handlers


class Unfit:
    """A value that no codec can encode."""


def register(d: Driven, plain: bool) -> None:
    def value(number: int) -> int:
        return number

    def refuse() -> None:
        raise RpcError("no", "refused")

    def fail() -> None:
        raise ValueError("a bug")

    def unfit() -> Any:
        return Unfit()

    def channel(ctx: Context) -> AnonymousChannel:
        return ctx.channel()

    def channel_for_nothing(ctx: Context) -> str:
        ctx.channel()
        return "no channel"

    for function in (value, refuse, fail, unfit, channel, channel_for_nothing):
        d.peer.on(function.__name__, function if plain else in_coroutine(function))


def in_coroutine(function: Any) -> Any:
    """Return an ``async def`` handler with the parameters of ``function``."""
    if function.__name__ == "value":

        async def with_number(number: int) -> Any:
            return function(number)

        return with_number
    if "channel" in function.__name__:

        async def with_context(ctx: Context) -> Any:
            return function(ctx)

        return with_context

    async def without() -> Any:
        return function()

    return without


CALLS: list[list[Any]] = [
    ["value", 5],
    ["value", "five"],
    ["value"],
    ["value", 5, 6],
    ["refuse"],
    ["fail"],
    ["unfit"],
    ["channel"],
    ["channel_for_nothing"],
    ["nobody"],
]


async def answers(d: Driven, a: list[Any]) -> tuple[list[Any], list[Any], dict[str, int]]:
    """Return what is sent for a request, what for the event of the same name, and what is counted."""
    return await d.fed({"i": 3, "a": a}), await d.fed({"a": a}), d.ignored


async def through(ctx: Context, call_next: CallNext) -> Any:
    return await call_next(ctx)


@pytest.mark.parametrize("a", CALLS, ids=str)
async def test_a_handler_gives_the_same_whichever_way_it_is_called(a: list[Any]) -> None:
    """In place, in a task, with middleware around it, as a coroutine, and as one with middleware around it."""
    outcomes = []
    for plain, layered, in_task in ((1, 0, 0), (1, 0, 1), (1, 1, 0), (0, 0, 0), (0, 1, 0)):
        d = Driven(expose_errors=True)
        register(d, bool(plain))
        if layered:
            d.peer.use(through)
        d.peer._life.running.run_in_tasks(bool(in_task))
        outcomes.append(await answers(d, a))
    assert all(outcome == outcomes[0] for outcome in outcomes)
