"""`Client.close`: what both sides are told, what still leaves, what it cancels and waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from client_driver import World, lost, world
from core_driver import Blocked, start
from leftovers import nothing_left as nothing_left
from waiting import settled, until

from wsrpc import AnonymousChannel, Client, CloseInfo, ConnectionLost, Limits, Peer, Server
from wsrpc.errors import Draining
from wsrpc.testing import Line, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize(("code", "reason", "notified"), [(4321, "enough", 4321), (None, "", 1005)])
async def test_both_sides_learn_code_and_reason(code: int | None, reason: str, notified: int) -> None:
    async with world() as w:
        ended: asyncio.Queue[CloseInfo] = asyncio.Queue()
        w.server.on("close", lambda peer, info: ended.put_nowait(info))
        await asyncio.gather(w.client.close(code, reason), w.client.close(4002, "the first one decides"))
        assert w.closed == [CloseInfo(notified, reason, was_clean=True, user_closed=True)]
        assert await ended.get() == CloseInfo(notified, reason, was_clean=True)
        assert (await lost(w.client.request("echo", 1), "not_sent")).code == notified
        assert (await lost(w.client.wait_connected(), "not_sent")).code == notified


async def test_what_was_accepted_leaves_before_the_close_frame_and_handlers_are_cancelled() -> None:
    async with world() as w:
        w.server.on("close", lambda peer, info: w.received.put_nowait(info.code))
        handler = Blocked()
        w.client.on("run", handler)
        await w.peer.emit("run")
        await settled()
        w.client.emit_nowait("note", 1)
        sending = asyncio.create_task(w.client.emit("note", 2))
        request = asyncio.create_task(w.client.request("park"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(w.client.close())
        await w.hears(1, 2, 1000)
        await sending
        await lost(request, "unknown")
        await asyncio.sleep(1.9)
        assert w.parked.is_set() and not handler.cancelled and not closing.done()
        await closing
        assert handler.cancelled


HANDLER_CLOSES = ["the session ends", "the session is refused", "another connection is bound"]


@pytest.mark.parametrize("after_events", [False, True], ids=["at once", "after events"])
@pytest.mark.parametrize("why", HANDLER_CLOSES)
async def test_a_close_handler_closes_the_peer(why: str, after_events: bool) -> None:
    async with world(server=Server(), limits=None) as w:
        calls: list[CloseInfo] = []
        go = asyncio.Event()

        @w.client.on("disconnect")
        def close_now(peer: Peer, info: CloseInfo) -> None:
            calls.append(info)
            if len(calls) == 1:
                with suppress(StopIteration):
                    peer.close(4000, "enough").send(None)  # the first step, which an eager task takes at once

        w.client.on("note", go.wait, ordered=True)
        if after_events:
            for _ in range(2):
                w.peer.emit_nowait("note")
            await settled()
        if why == "another connection is bound":
            ours, theirs = memory_transports()
            with pytest.raises(ConnectionLost) as raised:
                await w.client.bind(ours)
            assert raised.value.code == 4000
            await settled()
            assert "closed" in repr(theirs)
        elif why == "the session ends":
            await w.peer.close(1001, "moving")
        else:
            w.line.down = True
            w.drop()
            await settled()
            await w.peer.close()
            w.line.down = False
        assert (await lost(w.client.wait_connected(), "not_sent")).code == 4000
        assert w.client.state == "closed"
        assert [info.user_closed for info in calls] == [False]
        go.set()
        await settled()
        assert not w.server.peers
        await w.client.connect()  # it can be used again
        assert len(w.server.peers) == 1 and len(calls) == 1


# ---------------------------------------------------------------- drain_timeout=

LONG = 50.0
"""Longer than anything here takes, and less than the time of a request."""


class Leaving:
    """A client and its server, whose handlers wait for a word. The session outlives its connection."""

    def __init__(self, w: World) -> None:
        self.w, self.go, self.heard = w, asyncio.Event(), list[str]()
        for side in (w.client, w.server):
            side.on("work", self.work)
            side.on("count", self.count)
        w.client.on("command", self.work, keep=60)
        w.client.on("talk", self.talk)
        w.client.on("hear", self.hear)

    async def work(self) -> str:
        await self.go.wait()
        return "done"

    async def count(self) -> AsyncIterator[str]:
        yield "begun"
        await self.go.wait()
        yield "done"

    async def talk(self, channel: AnonymousChannel) -> None:
        channel.on("ask", self.work)
        await self.go.wait()
        await channel.wait_closed()

    async def hear(self) -> None:
        await self.go.wait()
        self.heard.append("done")

    async def talks(self) -> str:
        async with await self.w.peer.open_channel("talk") as channel:
            return await channel.request("ask", returns=str)

    async def hears(self) -> str:
        await self.w.peer.emit("hear")
        await until(lambda: self.heard, LONG)
        return self.heard.pop()


async def last_of(items: AsyncIterator[str]) -> str:
    return [each async for each in items][-1]


ACTIVE: dict[str, Callable[[Leaving], Coroutine[Any, Any, str]]] = {
    "a request": lambda it: it.w.peer.request("work"),
    "a run": lambda it: it.w.peer.request("command", key="k"),
    "a request of the client": lambda it: it.w.client.request("work"),
    "a stream from the client": lambda it: last_of(it.w.peer.stream("count")),
    "a stream to the client": lambda it: last_of(it.w.client.stream("count")),
    "a conversation": Leaving.talks,
    "an event": Leaving.hears,
}


@asynccontextmanager
async def leaving() -> AsyncGenerator[Leaving]:
    async with world(server=Server(), limits=None) as w:
        yield Leaving(w)


async def refused(it: Leaving) -> None:
    for ask in (it.w.peer.request("work"), it.w.peer.request("command", key="other"), it.w.peer.open_channel("talk")):
        with pytest.raises(Draining) as raised:
            await ask
        assert raised.value.outcome == "not_run"


@pytest.mark.parametrize("drops", [False, True], ids=["connected", "after a drop"])
@pytest.mark.parametrize("active", ACTIVE.values(), ids=ACTIVE)
async def test_a_drain_lets_end_what_is_active_and_refuses_new_requests(
    active: Callable[[Leaving], Coroutine[Any, Any, str]], drops: bool
) -> None:
    async with leaving() as it:
        begun = start(active(it))
        await settled()
        closing = start(it.w.client.close(4321, "enough", drain_timeout=LONG))
        await settled()
        await refused(it)
        if drops:
            it.w.line.down = True
            await it.w.dropped()
            it.go.set()
            await settled(1)
            assert not closing.done() or active is Leaving.hears
            it.w.line.down = False
        it.go.set()
        assert await begun == "done"
        await closing
        assert it.w.client.state == "closed" and it.w.closed[0].code == 4321
        await it.w.client.connect()
        assert await it.w.peer.request("command", key="other") == "done"


ENDS_A_DRAIN: dict[str, Callable[[World], Awaitable[object]]] = {
    "the time is over": lambda w: asyncio.sleep(LONG),
    "close()": lambda w: w.client.close(),
    "a shorter drain": lambda w: w.client.close(drain_timeout=1),
    "the client gives up": lambda w: w.peer.close(1008),
}


@pytest.mark.parametrize("cancelled", [False, True], ids=["", "cancelled"])
@pytest.mark.parametrize("ends", ENDS_A_DRAIN.values(), ids=ENDS_A_DRAIN)
async def test_a_drain_ends_when_its_time_is_over_or_sooner(
    ends: Callable[[World], Awaitable[object]], cancelled: bool
) -> None:
    async with leaving() as it:
        begun = start(it.w.peer.request("work"))
        await settled()
        closing = start(it.w.client.close(drain_timeout=LONG))
        await settled(LONG - 5)
        assert not begun.done()
        if cancelled:
            closing.cancel()
        await ends(it.w)
        await until(lambda: it.w.client.state == "closed", 10)
        await lost(begun, "unknown")
        if not cancelled:
            await closing


async def test_a_client_without_anything_to_finish_closes_at_once() -> None:
    async with world(connect=False, server=Server()) as w:
        w.line.down = True
        w.client.start()
        async with asyncio.timeout(1):
            await w.client.close(drain_timeout=LONG)


async def test_what_waits_for_a_connection_leaves_first() -> None:
    async with world(connect=False, server=Server()) as w:
        w.line.down = True
        w.client.start()
        w.client.emit_nowait("note", 1)
        closing = start(w.client.close(drain_timeout=LONG))
        await settled(1)
        w.line.down = False
        await w.hears(1)
        await closing


async def test_bind_takes_a_drain_back() -> None:
    async with leaving() as it:
        closing = start(it.w.client.close(drain_timeout=LONG))
        await settled()
        await it.w.bind()
        begun = start(it.w.server.peers[-1].request("command", key="k"))
        await settled()
        it.go.set()
        await closing
        assert await begun == "done" and it.w.client.connected


@pytest.mark.parametrize("seconds", [-1, "soon"])
async def test_a_wrong_drain_timeout_changes_nothing(seconds: Any) -> None:
    async with leaving() as it:
        with pytest.raises((TypeError, ValueError), match="drain_timeout="):
            await it.w.client.close(drain_timeout=seconds)
        assert it.w.client.connected


# ---------------------------------------------------------------- what has not started


@pytest.mark.parametrize("is_client", [True, False], ids=["a client", "a server"])
@pytest.mark.parametrize(("event", "runs"), [("in turn", 1), ("work", 2)])
async def test_a_close_refuses_requests_whose_handlers_have_not_started(event: str, runs: int, is_client: bool) -> None:
    """They wait for their turn, or for room. Their callers got `ConnectionLost`, with "unknown"."""
    limits = Limits(running=2)
    server = Server(limits=limits)
    client = Client("ws://server/", dial=Line(server).dial, limits=limits)
    closing, work = (client if is_client else server), Blocked()
    closing.on("in turn", work, ordered=True)
    closing.on("work", work)
    async with client:
        caller = server.peers[0] if is_client else client
        asked = [start(caller.request(event)) for _ in range(runs + 1)]
        await settled(0.5)
        assert len(work.started) == runs
        await closing.close()
        for number, call in enumerate(asked):
            with pytest.raises(ConnectionLost if number < runs else Draining) as raised:
                await call
            assert raised.value.outcome == ("unknown" if number < runs else "not_run")
        await settled(2)
        assert len(work.started) == runs
    await server.close()
