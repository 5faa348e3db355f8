"""The table of `test_calls`, for a client that blocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from core_driver import start
from leftovers import nothing_left as nothing_left
from test_calls import CODES, ITEMS, SOON, ByClient, places_of, play_all
from waiting import until

from wsrpc import Server, blocking

pytestmark = pytest.mark.usefixtures("nothing_left")


class ByBlocking(ByClient):
    """A client that blocks calls its server from a thread, on a socket."""

    event = threading.Event
    timeout = 0.01  # of the machine's time

    async def time_is_over(self, task: asyncio.Task[Any]) -> None:
        await asyncio.wait([task])

    def prepare(self) -> None:
        self.server = Server(limits=self.far_limits, detached_timeout=self.detached)
        self.serve(self.server)
        self.may_dial = threading.Event()
        self.items = self.blocking_source()
        self.caller = self.client = blocking.Client(self.url, limits=self.limits, reconnect=SOON)
        if self.place == "opening":
            self.client.on("open", lambda: self.opened.wait() and None)

    def url(self) -> str:
        self.may_dial.wait()
        return self.listener.url

    async def reach(self) -> asyncio.Task[Any]:
        self.listener = await self.stack.enter_async_context(self.server.listen("127.0.0.1", 0))
        self.stack.push_async_callback(asyncio.to_thread, self.client.close)
        self.connecting = start(asyncio.to_thread(self.client.connect))
        self.others.append(self.connecting)
        return await super().reach()

    async def connect(self) -> None:
        self.let_dial(True)
        if self.place == "opening":
            await until(lambda: self.client.state == "opening")
        else:
            await self.connecting
        await until(lambda: self.server.peers)
        self.server_peer = self.server.peers[0]

    def let_dial(self, may: bool) -> None:
        if may:
            self.may_dial.set()
        else:
            self.may_dial.clear()

    async def close_near(self) -> None:
        await asyncio.to_thread(self.client.close, CODES["close"], "enough")

    async def leave_channel(self) -> None:
        await asyncio.to_thread(self.channel.abort, "bored")

    async def check_connection(self) -> None:
        assert await asyncio.to_thread(self.caller.request, "noise", "still here") == "still here"

    def blocking_source(self) -> Iterator[int]:
        self.source_runs = True
        try:
            for item in ITEMS:
                self.produced = item
                yield item
                self.source_goes_on.wait()
        finally:
            self.source_runs = False

    async def call(self) -> list[int]:
        return await asyncio.to_thread(self.call_in_thread)

    def call_in_thread(self) -> list[int]:
        """Do what `ByClient.call` does."""
        call: Any = self.caller
        got: list[int] = []
        if self.kind == "request":
            got = call.request("request", returns=list[int], **self.options)
        elif self.kind == "upload":
            got = call.request("upload", send=self.items, returns=list[int], **self.options)
        elif self.kind == "stream":
            with call.stream("stream", returns=int, **self.options) as items:
                for self.arrived in items:
                    got.append(self.arrived)
                    self.read_on.wait()
                    if self.ending == "leave":
                        break
        else:
            with call.open_channel("conversation", **self.options) as self.channel:
                with self.channel.events("line", returns=int) as items:
                    self.channel.emit("go")
                    for self.arrived in items:
                        got.append(self.arrived)
        return got


@pytest.mark.parametrize("place", places_of("blocking"))
async def test_a_call_that_blocks_ends_once_and_leaves_nothing(place: str) -> None:
    await play_all(ByBlocking, place)
