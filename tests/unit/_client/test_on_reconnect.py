"""`on_reconnect` handlers: they run while the connection opens, after `open` and before the offline queue leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from client_driver import LIMITS, World, world
from core_driver import said_in, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ReconnectInfo

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
async def w(request: pytest.FixtureRequest) -> AsyncGenerator[World]:
    """A client that waits for its second connection. The server hears notes, and `ask` is a note with an answer."""
    async with world(connect=False, url=None, limits=getattr(request, "param", LIMITS)) as made:

        def ask(what: Any) -> Any:
            made.received.put_nowait(what)
            return what

        made.server.on("ask", ask)
        (await made.bind()).abort()
        await turns_until(lambda: not made.client.connected and not made.server.peers)
        yield made


async def test_open_then_on_reconnect_one_after_another_then_what_waited(w: World) -> None:
    steps: list[str] = []

    @w.client.on("connect")
    async def opened() -> None:
        await asyncio.sleep(0)
        await w.client.emit("note", "open")

    @w.client.on_reconnect
    async def first(info: ReconnectInfo) -> None:
        await w.client.wait_connected()  # it is connected, as far as this handler is concerned
        steps.append(await w.client.request("ask", "first asks"))
        w.client.emit_nowait("note", "first emits")

    @w.client.on_reconnect
    def second() -> None:
        steps.append("second")
        w.client.emit_nowait("note", "second", offline="fail")
        w.client.on_reconnect(lambda: steps.append("next time"))

    await w.client.emit("note", "waited")
    waiting = asyncio.create_task(w.client.request("ask", "waited, too"))
    await asyncio.sleep(0)
    transport = await w.bind()
    assert await waiting == "waited, too"
    await w.hears("open", "first asks", "first emits", "second", "waited", "waited, too")
    assert steps == ["first asks", "second"]
    transport.abort()
    await turns_until(lambda: not w.client.connected)
    await w.bind()
    assert steps[2:] == [*steps[:2], "next time"]


async def test_what_others_send_and_events_that_arrive_wait_for_them_and_requests_do_not(w: World) -> None:
    entered, may_end = asyncio.Event(), asyncio.Event()
    notified: list[str] = []
    w.client.on("tell", notified.append)
    w.client.on("name", lambda: "Ada")

    @w.client.on_reconnect
    async def subscribe() -> None:
        entered.set()
        await may_end.wait()
        await w.client.request("ask", "subscribed")
        notified.append("returns")

    binding = asyncio.create_task(w.bind())
    await entered.wait()
    await turns_until(lambda: w.server.peers)
    await w.peer.emit("tell", "news")
    assert await w.peer.request("name") == "Ada"
    w.client.emit_nowait("note", "one")
    others = [asyncio.create_task(w.client.request("ask", "two")), asyncio.create_task(w.client.wait_connected())]
    await turns()
    assert (w.client.state, w.client.connected) == ("opening", True)
    assert w.received.empty() and notified == [] and not any(task.done() for task in (binding, *others))
    may_end.set()
    await asyncio.gather(binding, *others)
    assert w.client.state == "connected"
    await w.hears("subscribed", "one", "two")
    await turns_until(lambda: notified == ["returns", "news"])


@pytest.mark.parametrize("w", [LIMITS.replace(open_timeout=0.2)], indirect=True, ids=["impatient"])
async def test_one_that_takes_too_long_is_named_and_the_queue_leaves(
    w: World, caplog: pytest.LogCaptureFixture
) -> None:
    """As is an `open` handler before it: each of the two stages has its own time."""
    goes_on = asyncio.Event()
    w.client.on("connect", goes_on.wait)

    @w.client.on_reconnect
    async def reads_on() -> None:
        await goes_on.wait()
        await w.client.emit("note", "went on")

    await w.client.emit("note", "waited")
    await w.bind()
    await w.hears("waited")
    late = "has not finished within 0.2 s: messages no longer wait for it"
    assert [said_in(record) for record in caplog.records if "the handler of" in record.getMessage()] == [
        f"the handler of 'connect' Event.wait {late}",
        f"the handler of 'on_reconnect' {reads_on.__qualname__} {late}",
    ]
    goes_on.set()
    await w.hears("went on")


@pytest.mark.parametrize("wrong", [lambda info, more: None, "again", None])
def test_what_cannot_be_called_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"on_reconnect(:| takes).*\(info\)"):
        Client().on_reconnect(wrong)
