"""`close` and `bind` called from the functions that a client asks while it dials: no connection is left over.

With each task factory of asyncio: an eager one takes a task's first step before its maker has the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost, Limits, Reconnect, Server, dial

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)

# Python 3.12 and later have an eager one.
FACTORIES = [None, *filter(None, [getattr(asyncio, "eager_task_factory", None)])]

PLACES = ["url", "headers", "auth", "sync auth", "open", "on_reconnect"]


class Scene:
    """A client that does something once, in one of the functions that are asked while it dials."""

    def __init__(self, url: str, place: str, act: Callable[[Client], Awaitable[Any]]) -> None:
        self.url = url
        self.place = place
        self.act = act
        self.acted = False
        self.done = asyncio.Event()
        self.begun: list[asyncio.Future[Any]] = []
        functions: dict[str, Any] = {"url": self.at("url", url), "headers": self.at("headers", {})}
        functions["auth"] = self.act_in_task if place == "sync auth" else self.at("auth", "token")
        self.client = Client(**functions, reconnect=AT_ONCE, limits=LIMITS)
        self.client.on("open", self.at("open", None))
        self.client.on_reconnect(self.at("on_reconnect", None))

    def at(self, place: str, result: Any) -> Callable[[], Awaitable[Any]]:
        async def function() -> Any:
            if place == self.place and not self.acted:
                self.acted = True
                await self.do()
            return result

        return function

    def act_in_task(self) -> str:
        if not self.acted:
            self.acted = True
            self.begun.append(asyncio.ensure_future(self.do()))
        return "token"

    async def do(self) -> None:
        try:
            await self.act(self.client)
        finally:
            self.done.set()

    async def play(self, server: Server) -> None:
        try:
            await self.client.connect()
        except (ConnectionLost, asyncio.CancelledError):
            if self.place == "on_reconnect":
                raise
        if self.place == "on_reconnect":
            await turns_until(lambda: server.peers)
            transport = server.peers[0].transport
            assert transport is not None
            transport.abort()
        await self.done.wait()
        await asyncio.gather(*self.begun, return_exceptions=True)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: "eager" if factory else "default")
async def test_close(place: str, factory: Any) -> None:
    asyncio.get_running_loop().set_task_factory(factory)
    server = Server(limits=LIMITS)
    async with asyncio.timeout(8), server.listen() as listener:
        scene = Scene(listener.url, place, lambda client: client.close())
        await scene.play(server)
        await turns_until(lambda: scene.client.state == "closed")
        async with Client(listener.url, limits=LIMITS):
            pass  # an attempt that was left over would be through before this one
        await turns_until(lambda: not server.peers)
        assert not scene.client.connected
        await scene.client.connect()  # it can be used again
        assert scene.client.state == "connected"
        await turns_until(lambda: len(server.peers) == 1)
        await scene.client.close()
        await turns_until(lambda: not server.peers)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: "eager" if factory else "default")
async def test_bind(place: str, factory: Any) -> None:
    asyncio.get_running_loop().set_task_factory(factory)
    server, other = Server(limits=LIMITS), Server(limits=LIMITS)
    other.on("who", lambda: "other")
    async with asyncio.timeout(8), server.listen() as listener, other.listen() as elsewhere:

        async def bind(client: Client) -> None:
            await client.bind(await dial(elsewhere.url, limits=LIMITS))

        scene = Scene(listener.url, place, bind)
        await scene.play(server)
        await scene.client.wait_connected()
        assert await scene.client.request("who") == "other"
        await turns_until(lambda: not server.peers)
        assert len(other.peers) == 1
        await scene.client.close()
        await turns_until(lambda: not other.peers)
