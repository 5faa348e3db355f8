"""Lifecycle events, and what is held back while `open` handlers run."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from core_driver import Blocked, Driven, messages, start, turns

from wsrpc import Client, CloseInfo, Peer, Server
from wsrpc._core.handlers.registry import Registry
from wsrpc.errors import ProtocolError
from wsrpc.testing import connect


def held(*, dialer: bool) -> tuple[Driven, Blocked, list[Any]]:
    """A peer whose open handler waits, and what its handlers saw."""
    d, gate, ran = Driven(dialer=dialer, bind=False), Blocked(), list[Any]()
    d.peer.on("open", gate)
    d.peer.on("n", ran.append)
    d.peer.of("room").on("n", ran.append)
    return d, gate, ran


@pytest.mark.parametrize(
    ("dialer", "while_open", "in_all"),
    [(False, [], [1, 2, 3]), (True, [2, 4], [2, 4, 1, 3])],
    ids=["the accepting side holds requests, too", "the dialing side holds events only"],
)
async def test_what_is_held_runs_in_order_once_open_has_returned(
    dialer: bool, while_open: list[int], in_all: list[int]
) -> None:
    d, gate, ran = held(dialer=dialer)
    d.peer.bind(d.transport)
    await d.fed({"a": ["n", 1]}, {"i": 2, "a": ["n", 2]}, {"c": "room", "a": ["n", 3]}, {"a": ["nobody"]})
    await d.fed({"i": 4, "a": ["n", 4]}, {"i": 4, "x": "a request that is held is taken out"})
    assert ran == while_open
    gate.go.set()
    await turns()
    assert ran == in_all
    d.assert_empty()


async def test_what_belongs_to_a_channel_does_not_wait_for_the_open_handler_which_may_wait_for_it() -> None:
    d, gate, ran = held(dialer=True)
    gate.go.set()

    @d.peer.on("connect")
    async def opened(peer: Peer) -> None:
        async with await peer.open_channel("feed") as channel:
            channel.on("n", ran.append)
            await channel.wait_for("end")

    d.peer.bind(d.transport)
    [sent] = await d.fed()
    await d.fed({"i": sent["i"], "h": 1}, {"a": ["n", "held"]}, {"h": sent["i"], "a": ["n", 1]})
    assert ran == [1]
    await d.fed({"h": sent["i"], "a": ["end"]})
    assert ran == [1, "held"]
    d.assert_empty()


@pytest.mark.parametrize("refused", [False, True], ids=["by a drop", "by the open handler"])
async def test_an_end_while_open_runs_stops_its_handler_and_lets_waiters_go(refused: bool) -> None:
    d, gate, ran = held(dialer=False)
    if refused:
        d.peer.on("connect", lambda peer: peer.close(4001, "not you"))
    d.peer.bind(d.transport)
    opened = start(d.peer.wait_connected())
    await d.fed({"i": 1, "a": ["n", 1]}, {"a": ["n", 2]})
    d.transport.lose()
    await asyncio.wait([opened])
    await turns()
    assert gate.cancelled and d.clock.next_deadline is None
    assert ran == [], "the open handler might have refused the peer"
    assert d.peer.ignored == {"dropped at the end": 2}
    d.assert_empty()


async def test_two_peers_that_ask_each_other_inside_open_do_not_block_each_other() -> None:
    server, client = Server(), Client()
    answers: list[str] = []

    async def ask(peer: Peer) -> None:
        answers.append(await peer.request("name"))

    for end, name in ((server, "server"), (client, "client")):
        end.on("open", ask)
        end.on("name", lambda name=name: name)
    # The accepting side holds the client's question until its own was answered.
    async with connect(server, client=client):
        pass
    assert sorted(answers) == ["client", "server"]


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


async def test_the_error_event_tells_what_goes_wrong_outside_handlers(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    errors: list[Exception] = []

    def note(peer: Peer, error: Exception) -> None:
        assert peer is d.peer
        errors.append(error)
        raise ValueError("an error handler that fails")

    d.peer.on("error", note)
    d.feed("{broken", {"i": -1.5, "a": ["e"]})
    assert len(errors) == 2 and all(isinstance(error, ProtocolError) for error in errors)
    d.feed('{"a":' + "[" * 1000 + "]" * 1000 + "}")
    await turns()
    assert "64 deep" in str(errors[2]) and d.close_code == 1007
    assert len(messages(caplog, logging.ERROR)) == 3


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
