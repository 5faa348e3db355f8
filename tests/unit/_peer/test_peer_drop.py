"""Promise 4: what happens when the connection ends."""

from __future__ import annotations

import asyncio
from typing import Any

from core_driver import Blocked, Driven, turns
from leftovers import turns_until

from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Server, current_context
from wsrpc.testing import connect


async def test_pending_requests_fail_at_once_each_with_an_error_of_its_own_and_close_may_bind() -> None:
    d = Driven(dialer=True)
    d.peer.on("close", lambda: d.rebind())
    asked = [await d.asks("q", timeout=None) for _ in range(20)]
    d.transport.lose(CloseInfo(4001, "gone", was_clean=True))
    assert d.peer.pending == 0  # inside the call already
    errors: list[Any] = await asyncio.gather(*(task for task, _ in asked), return_exceptions=True)
    assert {(e.code, e.reason, e.outcome) for e in errors} == {(4001, "gone", "unknown")}
    assert len({id(error) for error in errors}) == 20  # each has a traceback of its own
    task, i = await d.asks("q")
    d.feed({"i": i, "d": 1})
    assert await task == 1


async def test_running_request_handlers_are_cancelled_with_the_reason_and_events_finish() -> None:
    d = Driven()
    request, event = Blocked(), Blocked()
    reasons: list[object] = []

    async def noting() -> None:
        try:
            await request()
        finally:
            reasons.append(current_context().cancel_reason)

    d.peer.on("request", noting)
    d.peer.on("event", event)
    await d.fed({"i": 1, "a": ["request"]}, {"a": ["event"]})
    d.transport.lose(CloseInfo(1006, "dropped"))
    await turns()
    [reason] = request.cancelled
    assert reasons == [reason]
    assert isinstance(reason, ConnectionLost)
    assert (reason.code, reason.reason) == (1006, "dropped")
    assert event.cancelled == [] and d.peer.active == 1
    event.go.set()
    await turns()
    assert event.finished == [()]
    d.expect()
    d.assert_empty()


async def test_close_is_called_once_with_code_reason_and_who_closed() -> None:
    d = Driven()
    told: list[tuple[str, CloseInfo]] = []
    d.peer.on("close", lambda peer, info: told.append(("close", info)))
    d.peer.on("disconnect", lambda peer, info: told.append(("disconnect", info)))
    d.transport.lose(CloseInfo(1001, "away", was_clean=True))
    d.transport.lose()
    assert told == [(name, CloseInfo(1001, "away", was_clean=True)) for name in ("close", "disconnect")]
    told.clear()
    d.rebind()
    await d.peer.close(4000, "enough")
    assert [(info.code, info.reason, info.user_closed) for _, info in told] == [(4000, "enough", True)] * 2


async def test_close_comes_after_events_that_run_in_order() -> None:
    log: list[str] = []
    go_on = asyncio.Event()
    server, client = Server(), Client(limits=Limits(replay=0), reconnect=None)

    @server.on("say", ordered=True)
    async def say(text: str) -> None:
        log.append(text)
        await go_on.wait()

    server.on("close", lambda: log.append("close"))
    async with connect(server, client=client):
        for text in ("a", "b"):
            await client.emit("say", text)
        await turns_until(lambda: log)
        await client.peer.close()  # the side that closes itself starts no handler any more
        await turns_until(lambda: not server.peers)
        assert log == ["a"]
        go_on.set()
        await turns_until(lambda: "close" in log)
    await server.close()
    assert log == ["a", "b", "close"]


async def test_nothing_of_an_old_connection_reaches_the_peer() -> None:
    d = Driven()
    ran: list[int] = []
    d.peer.on("n", ran.append)
    old = d.transport
    d.rebind()
    old.feed({"a": ["n", 1]})
    old.pause()
    old.lose()
    await turns()
    assert ran == [] and d.peer.connected
    await d.peer.emit("still", "clear")
    d.expect({"a": ["still", "clear"]})
