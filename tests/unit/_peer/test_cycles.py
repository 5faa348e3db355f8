"""What users tie into a circle through a call (an exception in an argument, say) is freed by the garbage collector."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left

from wsrpc import Context, RemoteError
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")

CALLS = 20


class Thing:
    """Something of a user's that can be watched."""

    def __init__(self, watched: list[weakref.ref[Thing]], ctx: Context) -> None:
        self.ctx = ctx
        self.error: Exception | None = None
        watched.append(weakref.ref(self))


@pytest.fixture(autouse=True)
def _no_log(caplog: pytest.LogCaptureFixture) -> None:
    """pytest would keep the exceptions of what it shows."""
    caplog.set_level(logging.CRITICAL + 1, "wsrpc")


@pytest.mark.parametrize("event", [False, True], ids=["request", "event"])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_context_and_an_exception_in_the_arguments_of_their_own_call(kind: str, event: bool) -> None:
    watched: list[weakref.ref[Thing]] = []
    async with pair() as (a, b):

        @b.use
        async def inject(ctx: Context, call_next: Any) -> Any:
            ctx.args = (Thing(watched, ctx=ctx),)
            return await call_next(ctx)

        def fail(job: Any) -> None:
            try:
                raise ValueError
            except ValueError as exc:
                job.error = exc
                raise

        async def fail_later(job: Any) -> None:
            fail(job)

        b.on("fail", fail if kind == "plain" else fail_later)
        for _ in range(CALLS):
            if event:
                await a.emit("fail")
            else:
                with pytest.raises(RemoteError):
                    await a.request("fail")
        await turns()
        gc.collect()
        assert len(watched) == CALLS
        assert sum(ref() is not None for ref in watched) == 0
