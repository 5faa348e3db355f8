"""Promise 4: what happens when the connection ends."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from core_driver import Blocked, Driven, Stubborn, idle, start, turns
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


async def test_requests_that_wait_for_a_place_are_forgotten_and_events_still_run() -> None:
    d = Driven(limits=Limits(running=1))
    blocked, ran = Blocked(), list[str]()
    d.peer.on("h", blocked)
    d.peer.on("note", ran.append)
    await d.fed({"a": ["h"]}, {"i": 1, "a": ["note", "request"]}, {"a": ["note", "event"]})
    assert ran == []
    d.transport.lose()
    blocked.go.set()
    await turns()
    assert ran == ["event"]
    d.assert_empty()


async def test_a_handler_that_will_not_stop_counts_until_it_exits_and_answers_nobody() -> None:
    d = Driven()
    stubborn = Stubborn()
    d.peer.on("h", stubborn)
    await d.fed({"i": 1, "a": ["h"]})
    d.transport.lose()
    await turns()
    assert len(stubborn.cancelled) == 1 and d.peer.active == 1
    new = d.rebind()
    stubborn.go.set()
    await turns()
    assert new.take() == []  # an answer of the old connection would settle a stranger's request here
    d.assert_empty()


async def test_the_same_id_works_on_the_next_connection_while_the_old_handler_still_runs() -> None:
    d = Driven()
    stubborn = Stubborn()
    d.peer.on("h", stubborn)
    d.peer.on("quick", lambda: "new")
    await d.fed({"i": 1, "a": ["h"]})
    d.transport.lose()
    d.rebind()
    assert await d.fed({"i": 1, "a": ["quick"]}) == [{"i": 1, "d": "new"}]
    assert await d.fed({"i": 1, "a": ["h", 2]}) == []
    assert await d.fed({"i": 1, "x": "stop"}) == []
    assert stubborn.cancelled[-1] == "stop"
    stubborn.go.set()
    await turns()
    assert [m["i"] for m in d.take()] == [1]
    d.assert_empty()


async def test_a_thread_goes_on_counting_after_a_drop_until_it_ends() -> None:
    d = Driven()
    entered, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(entered.set)
        gate.wait(10)

    d.peer.on("work", work, thread=True)
    d.feed({"i": 1, "a": ["work"]})
    await entered.wait()
    d.transport.lose()
    await turns()
    assert d.peer.active == 1
    gate.set()
    await idle(d)
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


@pytest.mark.parametrize("side", ["client", "server"])
async def test_close_comes_after_events_that_run_in_order(side: str) -> None:
    log: list[str] = []
    go_on = asyncio.Event()
    server, client = Server(), Client(limits=Limits(replay=0), reconnect=None)
    hears = client if side == "client" else server

    @hears.on("say", ordered=True)
    async def say(text: str) -> None:
        log.append(text)
        await go_on.wait()

    hears.on("close", lambda: log.append("close"))
    async with connect(server, client=client):
        [peer] = server.peers
        speaks = peer if side == "client" else client.peer
        for text in ("a", "b"):
            await speaks.emit("say", text)
        await turns_until(lambda: log)
        await speaks.close()  # the side that closes itself starts no handler any more
        await turns_until(lambda: not server.peers)
        assert log == ["a"]
        go_on.set()
        await turns_until(lambda: "close" in log)
    await server.close()
    assert log == ["a", "b", "close"]


async def test_close_comes_before_the_open_of_the_next_connection() -> None:
    d = Driven(bind=False)
    log: list[str] = []
    go_on = asyncio.Event()

    @d.peer.on("say", ordered=True)
    async def say(text: str) -> None:
        await go_on.wait()
        log.append(text)

    d.peer.on("open", lambda: log.append("open"))
    d.peer.on("close", lambda: log.append("close"))
    d.peer.bind(d.transport)
    await d.fed({"a": ["say", "a"]}, {"a": ["say", "b"]})
    d.transport.lose()
    await turns()
    assert log == ["open"]
    d.rebind()
    go_on.set()
    await turns()
    assert log == ["open", "close", "open", "a", "b"]


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


async def test_wait_closed_returns_for_everybody_and_at_once_when_there_is_no_connection() -> None:
    d = Driven()
    waiting = [start(d.peer.wait_closed()) for _ in range(3)]
    await turns()
    waiting[0].cancel()
    d.transport.lose()
    await turns()
    assert [task.done() for task in waiting] == [True] * 3
    assert waiting[0].cancelled() and not waiting[1].cancelled()
    await d.peer.wait_closed()
