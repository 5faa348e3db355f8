"""What users tie into a circle through a call (an exception in an argument, say) is freed by the garbage collector."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left

from wsrpc import Context, Limits, MessageTooBig, RemoteError
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")

CALLS = 20


class Thing:
    """Something of a user's that can be watched."""

    def __init__(self, watched: list[weakref.ref[Thing]], **attributes: Any) -> None:
        self.__dict__.update(attributes)
        watched.append(weakref.ref(self))


@pytest.fixture(autouse=True)
def _no_log(caplog: pytest.LogCaptureFixture) -> None:
    """pytest would keep the exceptions of what it shows."""
    caplog.set_level(logging.CRITICAL + 1, "wsrpc")


async def freed(watched: list[weakref.ref[Thing]]) -> None:
    """Assert that all of them existed and that none is left, while the connection goes on."""
    await turns()
    gc.collect()
    assert len(watched) == CALLS
    assert sum(ref() is not None for ref in watched) == 0


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_context_in_its_own_arguments(kind: str, observed: bool) -> None:
    watched: list[weakref.ref[Thing]] = []
    async with pair() as (a, b):

        @b.use
        async def inject(ctx: Context, call_next: Any) -> Any:
            ctx.args = (Thing(watched, ctx=ctx), *ctx.args)
            return await call_next(ctx)

        async def later(thing: Any, value: int) -> int:
            return value

        b.on("echo", (lambda thing, value: value) if kind == "plain" else later)
        if observed:
            b.on("message", lambda: None)
        for number in range(CALLS):
            assert await a.request("echo", number) == number
        await freed(watched)


@pytest.mark.parametrize("event", [False, True], ids=["request", "event"])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_an_exception_in_an_argument_of_the_call_that_it_ends(kind: str, event: bool) -> None:
    watched: list[weakref.ref[Thing]] = []
    async with pair() as (a, b):

        def fail(job: Any) -> None:
            try:
                raise ValueError(Thing(watched))
            except ValueError as exc:
                job["error"] = exc
                raise

        async def fail_later(job: Any) -> None:
            fail(job)

        b.on("fail", fail if kind == "plain" else fail_later)
        for _ in range(CALLS):
            if event:
                await a.emit("fail", {})
            else:
                with pytest.raises(RemoteError):
                    await a.request("fail", {})
        await freed(watched)


async def test_an_exception_in_an_argument_of_the_call_that_raised_it() -> None:
    watched: list[weakref.ref[Thing]] = []
    async with pair(limits=Limits(message=1000)) as (a, b):
        b.on("echo", lambda value: value)
        await a.request("echo", 1)

        async def send(way: Any) -> None:
            job: dict[str, Any] = {"data": "x" * 1000}
            try:
                await way("echo", job)
            except MessageTooBig as exc:
                job["error"] = exc
                exc.thing = Thing(watched)  # type: ignore[attr-defined]
            else:
                pytest.fail("it is too big")

        for _ in range(CALLS // 2):
            await send(a.emit)
            await send(a.request)
        await freed(watched)


async def test_an_exception_in_an_item_of_the_stream_that_it_ends() -> None:
    watched: list[weakref.ref[Thing]] = []
    async with pair() as (a, b):

        @b.on("items")
        async def items() -> AsyncIterator[dict[str, Any]]:
            item: dict[str, Any] = {}
            yield item
            try:
                raise ValueError(Thing(watched))
            except ValueError as exc:
                item["error"] = exc
                raise

        for _ in range(CALLS):
            with pytest.raises(RemoteError):
                [item async for item in a.stream("items")]
        await freed(watched)
