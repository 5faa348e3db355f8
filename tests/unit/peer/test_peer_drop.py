"""What happens when the connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from core_driver import Blocked, Driven, redialing, turns

from wsrpc import CloseInfo, ConnectionLost, Limits


async def test_pending_requests_fail_each_with_an_error_of_its_own_and_a_close_handler_may_bind() -> None:
    d = Driven(dialer=True)
    d.peer.on("close", lambda: d.rebind())
    asked = [(await d.asks("q", timeout=None))[0] for _ in range(3)]
    d.transport.lose(CloseInfo(4001, "gone", was_clean=True))
    assert d.peer.pending == 0  # inside the call already
    errors: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
    assert {(e.code, e.reason, e.outcome) for e in errors} == {(4001, "gone", "unknown")}
    assert len({id(error) for error in errors}) == 3  # each has a traceback of its own
    task, i = await d.asks("q")
    d.feed({"i": i, "d": 1})
    assert await task == 1


async def test_handlers_of_requests_are_cancelled_and_close_comes_after_those_of_events() -> None:
    d = Driven()
    request, event, log = Blocked(), Blocked(), list[str]()
    d.peer.on("request", request)
    d.peer.on("event", event, ordered=True)
    d.peer.on("close", lambda: log.append(f"closed after {len(event.finished)}"))
    await d.fed({"i": 1, "a": ["request"]}, {"a": ["event", 1]}, {"a": ["event", 2]})
    d.transport.lose(CloseInfo(1006, "dropped"))
    await turns()
    [reason] = request.cancelled
    assert isinstance(reason, ConnectionLost) and (reason.code, reason.reason) == (1006, "dropped")
    assert event.cancelled == [] and event.started == [(1,)] and log == []
    event.go.set()
    await turns()
    assert event.finished == [(1,), (2,)] and log == ["closed after 2"]
    d.assert_empty()


async def test_close_comes_when_the_handlers_of_events_have_begun() -> None:
    """Before Python 3.12, their tasks have not begun when the connection ends in the same read."""
    d = Driven()
    event, log = Blocked(), list[str]()
    d.peer.on("event", event)
    d.peer.on("close", lambda: log.append(f"closed after {len(event.started)}"))
    d.feed({"a": ["event", 1]}, {"a": ["event", 2]})
    d.transport.lose()
    await turns()
    assert log == ["closed after 2"] and event.finished == []
    event.go.set()
    await turns()
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


async def test_what_has_waited_is_handled_in_the_session_in_which_it_came() -> None:
    """A consumer has asked for items, and its session ends before the producer begins. The next session gets none."""
    d = redialing(limits=Limits(running=1))
    event, begun = Blocked(), list[str]()

    async def numbers() -> AsyncIterator[int]:
        begun.append("numbers")
        yield 1

    d.peer.on("event", event)
    d.peer.of("numbers").on("start", numbers)
    await d.fed({"a": ["event"]}, {"c": "numbers", "a": ["start"]})
    d.transport.lose()
    d.rebind()
    await turns()
    event.go.set()
    await turns()
    assert d.take() == [] and begun == []
    await d.fed({"c": "numbers", "a": ["start"]})
    assert begun == ["numbers"]
    d.transport.lose()
    await turns()
    d.assert_empty()
