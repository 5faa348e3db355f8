"""Events and requests between Python and JavaScript: both ways, nested, many at once, on channels."""

from __future__ import annotations

import asyncio

import pytest

from interop.peers import Link
from wsrpc import RemoteError, RequestTimeout

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_empty_name_is_one(link: Link) -> None:
    def handle(*args: int) -> str:
        link.seen.events.put_nowait((None, list(args)))
        return "handled"

    link.app.on("", handle)
    await link.tell("", 1)
    assert await link.seen.events.get() == (None, [1])
    assert await link.ask("", 2) == "handled"
    await link.peer.emit("")
    with pytest.raises(RemoteError, match="No event listener for ''"):
        await link.peer.request("")
    assert link.peer.connected


async def test_an_answer_that_comes_too_late_is_ignored(link: Link) -> None:
    thrown = await link.ask_in_vain("gate", "late", timeout_ms=20)
    assert thrown["message"] == "Request timed out"
    with pytest.raises(RequestTimeout):
        # JavaScript's handler waits for Python's, so both answers come after their time.
        await link.peer.request("ask", "gate", "later", timeout=0.02)
    # "late" need not have begun: 4.x cancels it, which may come in one read with the request.
    while await link.seen.started.get() != "later":
        pass
    link.seen.gate.set()
    assert await link.ask("gate", 1) == 1
    assert await link.peer.request("ask", "gate", 2) == 2


async def test_bursts_from_both_sides_at_once(link: Link) -> None:
    calls = [link.peer.of("math").request("add", k, 1) for k in range(5000)]
    counts, *answers = await asyncio.gather(link.call("burst", n=5000, event="later", channel="math"), *calls)
    assert counts == {"right": 5000, "wrong": 0, "failed": 0, "first_error": None}
    assert answers == list(range(1, 5001))
