"""What handlers are told of a session that is detached and resumes, and in which order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import Story, story

from wsrpc import CloseInfo, Limits, Peer, ReconnectInfo, Server, blocking
from wsrpc.testing import Clock

pytestmark = pytest.mark.usefixtures("nothing_left")


class Told:
    """Calls of the handlers of both sides. Slow handlers record their call when ``gate`` is open."""

    def __init__(self, s: Story) -> None:
        self.there: list[Any] = []
        self.here: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        s.server.on_detach(self.detached_there)
        s.server.on_resume(lambda peer: self.note(self.there, "resume"))
        s.server.on("disconnect", lambda peer, info: self.note(self.there, "close"))
        s.client.on_detach(self.detached_here)
        s.client.on_reconnect(self.back_here)
        s.client.on("disconnect", lambda peer, info: self.note(self.here, "close"))

    async def note(self, notified: list[Any], what: Any) -> None:
        await self.gate.wait()
        notified.append(what)

    async def detached_there(self, peer: Peer, info: CloseInfo) -> None:
        await self.note(self.there, int(info.code))

    async def detached_here(self, info: CloseInfo) -> None:
        assert info.will_reconnect
        await self.note(self.here, int(info.code))

    async def back_here(self, info: ReconnectInfo) -> None:
        await self.note(self.here, "resume" if info.resumed else "new")


@pytest.fixture
async def s() -> AsyncGenerator[Story]:
    async with story() as s:
        yield s


@pytest.fixture
def notified(s: Story) -> Told:
    return Told(s)


async def test_each_drop_and_each_resume_is_told_in_order_and_then_the_end(s: Story, notified: Told) -> None:
    for number in (1, 2):
        await s.cut()
        await turns_until(lambda: notified.there[-1:] == [1006])
        assert notified.there == [1006, "resume"] * (number - 1) + [1006]
        await s.repair()
        await turns(20)
        assert notified.there == notified.here == [1006, "resume"] * number
    await s.client.close()
    await turns_until(lambda: notified.there[4:] == ["close"])
    assert notified.here == notified.there


async def test_a_function_that_never_returns_holds_up_the_others_for_a_while_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The `close` handlers of a peer would not run before the server closes, however many of them there are."""
    clock = Clock()
    async with story(server=Limits(open_timeout=5.0), clock=clock) as s:
        never, closed = asyncio.Event(), asyncio.Event()
        s.server.on_detach(never.wait)
        s.server.on("close", closed.set)
        await s.cut()
        await turns_until(lambda: s.peer.detached)
        closing = asyncio.create_task(s.peer.close())
        await turns(20)
        assert not closed.is_set()
        clock.advance(5.0)
        await turns(20)
        assert closed.is_set()
        assert "'on_detach' have not finished within Limits.open_timeout=5 s" in caplog.text
        never.set()
        await closing


async def test_a_client_of_threads_is_told_too() -> None:
    server = Server()
    async with server.listen() as listener:

        def main() -> list[Any]:
            notified: list[Any] = []
            with blocking.Client(listener.url) as client:
                client.on_detach(lambda info: notified.append(int(info.code)))
                client.on_reconnect(lambda info: notified.append(info.resumed))
                client.request("cut", returns=None)
                while len(notified) < 2:
                    time.sleep(0.001)
            return notified

        @server.on("cut")
        async def cut(peer: Peer) -> None:
            asyncio.get_running_loop().call_later(0.05, peer.transport.abort)  # type: ignore[union-attr]

        assert await asyncio.to_thread(main) == [1006, True]
