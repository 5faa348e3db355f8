"""What happens when the connection ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

from core_driver import Blocked, Driven, redialing, turns

from wsrpc import Limits


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
