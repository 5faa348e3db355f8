"""wsrpc's client and server with a `FaultProxy` between them: what users see of trouble on the line."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from leftovers import turns_until

from wsrpc import Client, CloseInfo, ConnectFailed, ConnectionLost, Limits, Reconnect, Server
from wsrpc.testing import FaultProxy

LIMITS = Limits(close_timeout=1.0, ping_interval=None, replay=0)  # sessions end with their connections
SOON = Reconnect(initial=0.005, max=0.02)
Direction = Literal["up", "down"]
PEM = Path(__file__).parent.parent / "adapters" / "localhost.pem"


class Story:
    """A server, the proxy, a client behind it, and what happened to them."""

    def __init__(self, server: Server, proxy: FaultProxy, client: Client) -> None:
        self.server, self.proxy, self.client = server, proxy, client
        self.closed: list[CloseInfo] = []
        self.noted: list[int] = []
        self.parked = asyncio.Event()
        client.on("close", lambda peer, info: self.closed.append(info))
        server.on("echo", lambda value: value)
        server.on("note", self.noted.append)
        server.on("park", self._park)

    async def _park(self) -> None:
        self.parked.set()
        await asyncio.Event().wait()

    async def check_back(self) -> None:
        """The client has another connection, and calls go through it."""
        await turns_until(lambda: self.closed and self.client.connected)
        assert await self.client.request("echo", "back") == "back"


@asynccontextmanager
async def story(*, limits: Limits = LIMITS, server_limits: Limits = LIMITS) -> AsyncGenerator[Story]:
    server = Server(limits=server_limits)
    async with server.listen(path="/ws") as listener, FaultProxy(listener.url) as proxy:
        client = Client(proxy.url, limits=limits, reconnect=SOON)
        told = Story(server, proxy, client)
        async with client:
            await client.request("echo", "hello")  # what the two have to say to each other at first is said
            yield told


async def lost(request: Awaitable[Any]) -> ConnectionLost:
    with pytest.raises(ConnectionLost) as caught:
        await request
    return caught.value


async def test_a_client_that_is_refused_says_so() -> None:
    async with story() as s:
        async with s.proxy.refuse():
            newcomer = Client(s.proxy.url, limits=LIMITS, reconnect=SOON, connect_timeout=0.05)
            with pytest.raises(ConnectFailed) as caught:
                await newcomer.connect()
            assert isinstance(caught.value.last_error, ConnectionRefusedError)
            await newcomer.close()
            assert await s.client.request("echo", 1) == 1


@pytest.mark.parametrize(("direction", "ran"), [("up", []), ("down", [1])])
async def test_half_a_request_does_not_run_and_half_an_answer_is_none(direction: Direction, ran: list[int]) -> None:
    async with story() as s:
        async with s.proxy.mid_frame(direction):
            error = await lost(s.client.request("note", 1))
            assert (error.code, error.outcome) == (1006, "unknown")
        await s.check_back()
        assert s.noted == ran
        assert [(info.code, info.was_clean, info.user_closed) for info in s.closed] == [(1006, False, False)]


async def test_after_a_half_close_the_client_comes_back_on_a_new_connection() -> None:
    async with story() as s:
        request = asyncio.create_task(s.client.request("park"))
        await s.parked.wait()
        async with s.proxy.half_close("down"):
            assert (await lost(request)).outcome == "unknown"
            await s.check_back()
        assert await s.client.request("echo", 1) == 1
        assert len(s.closed) == 1


async def test_order_holds_on_a_bad_connection() -> None:
    async with story() as s:
        async with s.proxy.delay(0.005, jitter=0.01), s.proxy.slow(200_000):
            for number in range(200):
                await s.client.emit("note", number)
                if number % 20 == 0:
                    await asyncio.sleep(0)  # so that they leave in several pieces
            assert await s.client.request("echo", 1) == 1
        assert s.noted == list(range(200))
        assert s.closed == []


async def test_who_emits_into_a_stalled_connection_waits_and_nothing_is_lost() -> None:
    async with story() as s:
        sent: list[int] = []

        async def emit() -> None:
            for number in range(400):
                await s.client.emit("pad", "x" * 65536)
                await s.client.emit("note", number)
                sent.append(number)

        async with s.proxy.stall("up"):
            emitting = asyncio.create_task(emit())
            await turns_until(lambda: s.client.peer.transport and s.client.peer.transport.unsent > LIMITS.high_water)
            before = len(sent)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(sent) == before < 400 and s.noted == []
        await emitting
        await turns_until(lambda: len(s.noted) == 400)
        assert s.noted == sent == list(range(400))
        assert s.closed == []


async def test_a_stall_that_lasts_drops_the_connection() -> None:
    limits = Limits(stall=0.1, close_timeout=0.1, ping_interval=None, replay=0)
    async with story(limits=limits) as s:
        async with s.proxy.stall("up"):

            async def flood() -> None:
                while True:
                    await s.client.emit("note", "x" * 65536)

            flooding = asyncio.create_task(flood())
            await turns_until(lambda: s.closed)
            flooding.cancel()
            await asyncio.wait([flooding])
        await s.check_back()
        assert s.closed[0].code == 1006


async def test_tls_passes_through_and_is_cut() -> None:
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.load_cert_chain(PEM)
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    async with server.listen(ssl=accepting) as listener:
        async with FaultProxy(listener.url.replace("127.0.0.1", "localhost")) as proxy:
            trusting = ssl.create_default_context(cafile=str(PEM))
            async with Client(proxy.url, ssl=trusting, limits=LIMITS, reconnect=SOON) as client:
                assert await client.request("echo", 1) == 1
                closed = asyncio.Event()
                client.on("close", lambda peer, info: closed.set())
                async with proxy.cut_after(5, "up"):
                    error = await lost(client.request("echo", 2))
                    assert (error.code, error.outcome) == (1006, "unknown")
                await client.wait_connected()
                assert await client.request("echo", 3) == 3
