"""Lifecycle events, and what is held back while `open` handlers run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Blocked, Driven, redialing, start
from waiting import settled

from wsrpc import CloseInfo, Limits, Server
from wsrpc._core.handlers.registry import Registry


def held() -> tuple[Driven, Blocked, list[Any]]:
    """A peer whose open handler waits, and what its handlers saw."""
    d, gate, ran = Driven(bind=False), Blocked(), list[Any]()
    d.peer.on("open", gate)
    d.peer.on("n", ran.append)
    d.peer.of("room").on("n", ran.append)
    return d, gate, ran


async def test_what_is_held_runs_in_order_once_open_has_returned() -> None:
    d, gate, ran = held()
    d.peer.bind(d.transport)
    await d.fed({"a": ["n", 1]}, {"i": 2, "a": ["n", 2]}, {"c": "room", "a": ["n", 3]}, {"a": ["nobody"]})
    await d.fed({"i": 4, "a": ["n", 4]}, {"i": 4, "x": "a request that is held is taken out"})
    assert ran == []
    gate.go.set()
    await settled()
    assert ran == [1, 2, 3]
    d.assert_empty()


@pytest.mark.parametrize("refused", [False, True], ids=["by a drop", "by the open handler"])
async def test_an_end_while_open_runs_stops_its_handler_and_lets_waiters_go(refused: bool) -> None:
    d, gate, ran = held()
    if refused:
        d.peer.on("connect", lambda peer: peer.close(4001, "not you"))
    d.peer.bind(d.transport)
    opened = start(d.peer.wait_connected())
    await d.fed({"i": 1, "a": ["n", 1]}, {"a": ["n", 2]})
    d.transport.lose()
    await asyncio.wait([opened])
    await settled()
    assert gate.cancelled
    assert ran == [], "the open handler might have refused the peer"
    assert d.peer.ignored == {"dropped at the end": 2}
    d.assert_empty()


async def test_open_is_fired_on_each_bind_with_its_alias_the_servers_first() -> None:
    shared = Registry()
    d = Driven(shared=shared, bind=False)
    log: list[str] = []
    d.peer.on("connect", lambda: log.append("peer connect"))
    d.peer.on("open", lambda peer: log.append("peer open"))
    d.peer.once("open", lambda peer: log.append("peer open once"))
    shared.add(None, "connect", lambda peer: log.append("server connect"))
    shared.add(None, "open", lambda: log.append("server open"))
    d.peer.bind(d.transport)
    assert log == ["server open", "peer open once", "server connect", "peer connect"]
    log.clear()
    d.transport.lose()
    d.rebind()
    assert log == ["server open", "peer open", "server connect", "peer connect"]
    d.peer.on("open", None)
    log.clear()
    d.rebind()
    assert log == ["server open", "server connect", "peer connect"]


async def test_a_handler_of_values_is_not_taken_for_a_lifecycle_handler() -> None:
    """A user who does not know that `message` is a lifecycle event would get a peer as the text."""
    server = Server()

    def message(text: str) -> None: ...

    with pytest.raises(TypeError, match=r"'message' is a lifecycle event .* use another name or a named channel"):
        server.on("message", message)
    server.of("chat").on("message", message)


async def test_a_lifecycle_handler_takes_as_many_arguments_as_it_likes() -> None:
    d = Driven()
    seen: list[tuple[Any, ...]] = []
    for handler in (lambda: seen.append(()), lambda peer: seen.append((peer,)), lambda *args: seen.append(args)):
        d.peer.once("close", handler)
        d.transport.lose()
        d.rebind()
    info = CloseInfo(1006, "dropped")
    assert seen == [(), (d.peer,), (d.peer, info)]
    with pytest.raises(TypeError, match=r"on\('close'\): the function is called with \(peer, info\)"):
        d.peer.on("close", lambda a, b, c: None)
    with pytest.raises(TypeError, match=r"on\('open'\) takes a function of \(peer\), got 5"):
        d.peer.on("open", 5)  # type: ignore[call-overload]


async def test_nothing_of_an_old_connection_reaches_the_peer() -> None:
    d = Driven()
    ran: list[int] = []
    d.peer.on("n", ran.append)
    old = d.transport
    d.rebind()
    old.feed({"a": ["n", 1]})
    old.pause()
    old.lose()
    await settled()
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
    await settled()
    event.go.set()
    await settled()
    assert d.take() == [] and begun == []
    await d.fed({"c": "numbers", "a": ["start"]})
    assert begun == ["numbers"]
    d.transport.lose()
    await settled()
    d.assert_empty()
