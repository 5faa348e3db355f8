"""Requests of one side: what is refused at once, cancelling, and responses that do not fit.

How a request ends at each place where its message can be has a table of its own, in `test_calls`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import ABORTED, Driven, rejection

from wsrpc import Context
from wsrpc.errors import UnexpectedChannel

# ---------------------------------------------------------------- two things in one turn of the event loop


@pytest.mark.parametrize(
    ("steps", "ends"),
    [
        (["answer", "cancel"], asyncio.CancelledError),
        (["answer", "expire"], "in time"),
        (["answer", "drop"], "in time"),
        (["drop", "cancel"], asyncio.CancelledError),
    ],
    ids=str,
)
async def test_a_cancellation_wins_and_otherwise_what_came_first(steps: list[str], ends: Any) -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q", timeout=1)
    for step in steps:
        match step:
            case "answer":
                d.feed({"i": i, "d": "in time"})
            case "cancel":
                task.cancel()
            case "expire":
                d.clock.advance(2)
            case _:
                d.transport.lose()
    outcome: Any = (await asyncio.gather(task, return_exceptions=True))[0]
    assert outcome == ends or type(outcome) is ends
    d.expect()
    d.assert_empty()


# ---------------------------------------------------------------- cancelling


@pytest.mark.parametrize(
    ("kind", "middleware"),
    [("async def", False), ("async def", True), ("def", False), ("def", True), ("stream", False)],
)
async def test_a_request_that_is_cancelled_in_the_same_read(kind: str, middleware: bool) -> None:
    """No page said that its handler does not begin on Python 3.11, where its task begins a turn later."""
    begins = sys.version_info >= (3, 12) or (kind, middleware) == ("def", False)
    d, began = Driven(), list[str]()

    async def waits() -> None:
        began.append(kind)

    async def yields() -> AsyncIterator[int]:
        began.append(kind)
        yield 1

    async def around(ctx: Context, call_next: Any) -> Any:
        began.append("middleware")
        return await call_next(ctx)

    d.peer.on("e", {"async def": waits, "def": lambda: began.append(kind), "stream": yields}[kind])
    if middleware:
        d.peer.use(around)
    sent = await d.fed({"i": 1, "a": ["e"]}, {"i": 1, "x": ABORTED, "_": 1})
    assert began == (["middleware"] * middleware + [kind] * (kind != "stream")) * begins
    answer: dict[str, Any] = {"i": 1, "h": 1} if kind == "stream" else {"i": 1, "d": None}
    assert sent == [answer if begins else {"i": 1, "e": ABORTED, "_": 1}]
    if kind == "stream" and begins:  # and goes on: the cancellation came after the answer
        await d.fed({"h": 1, "x": ABORTED})
    d.assert_empty()


# ---------------------------------------------------------------- limits of time


# ---------------------------------------------------------------- what is refused at once


async def test_an_empty_name_is_one_as_in_javascript() -> None:
    d = Driven(dialer=True)
    await d.peer.emit("", 1)
    d.expect({"a": ["", 1]})
    assert "No event listener for ''" in rejection(await d.fed({"i": 3, "a": [""]}), 3)["message"]
    d.peer.once("", lambda a, /: a)
    assert rejection(await d.fed({"i": 6, "a": [""]}), 6)["code"] == "wsrpc.bad_arguments"
    assert await d.fed({"i": 5, "a": ["", 2]}) == [{"i": 5, "d": 2}], "a handler that did not run is not used up"
    with pytest.raises(TypeError, match="a channel's name is a non-empty string"):
        d.peer.of("")


# ---------------------------------------------------------------- responses that do not fit


async def test_a_channel_that_nobody_asked_for_is_aborted_and_none_where_none_will_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    d = Driven(dialer=True)
    for options in ({}, {"returns": int | None}, {"returns": int}):
        task, i = await d.asks("q", **options)
        [abort] = await d.fed({"i": i, "h": 1})
        assert abort["h"] == i and abort["_"] == 1 and "x" in abort
        if options.get("returns") is int:
            with pytest.raises(UnexpectedChannel):
                await task
        else:
            assert await task is None
    assert len(caplog.records) == 1  # once a name
    d.assert_empty()
