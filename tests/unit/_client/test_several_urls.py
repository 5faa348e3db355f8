"""A client of several URLs: which it dials, in which order, what it says of that, and what becomes of its session."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from client_driver import AT_ONCE, LIMITS, lost, never
from core_driver import messages
from leftovers import nothing_left as nothing_left
from tenacity import stop_after_attempt

import wsrpc
from wsrpc import (
    Client,
    ConnectFailed,
    HandshakeRejected,
    Limits,
    Reconnect,
    Server,
    SessionLost,
)
from wsrpc.handshake import RESUME_HEADER
from wsrpc.testing import Line, MemoryTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

CLOSING = 2.0
LONG = 60.0


class Site:
    """A server that can be restarted at its port, and the requests that it serves."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.url = ""
        self.server = Server(limits=Limits(close_timeout=CLOSING))
        self.server.on("who", lambda: name)
        self.server.on("park", self._park)
        self.parked = asyncio.Event()
        self.go_on = asyncio.Event()
        self._stop: asyncio.Future[float]
        self._serving: asyncio.Task[None] | None = None

    async def _park(self) -> str:
        self.parked.set()
        await self.go_on.wait()
        return self.name

    async def start(self, port: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self._stop, up = loop.create_future(), loop.create_future()

        async def serve() -> None:
            async with self.server.listen(port=port) as listener:
                up.set_result(listener.url)
                await self.server.close(drain_timeout=await self._stop)

        self._serving = loop.create_task(serve())
        self.url = await up

    async def stop(self, drain: float = 0.0) -> None:
        if self._serving is not None:
            self._stop.set_result(drain)
            await self._serving
            self._serving = None

    async def restart(self) -> None:
        port = int(self.url.rstrip("/").rpartition(":")[2])
        await self.stop(LONG)
        await self.start(port)


@asynccontextmanager
async def sites() -> AsyncGenerator[dict[str, Site]]:
    made = {name: Site(name) for name in "abc"}
    for site in made.values():
        await site.start()
    try:
        yield made
    finally:
        for site in made.values():
            await site.stop()


class Net:
    """Three servers in memory, and a `Dial` function that writes down which URL is dialed, and what it says of that."""

    def __init__(self) -> None:
        self.servers = {f"ws://{name}/": Server(limits=LIMITS) for name in "abc"}
        self.lines = {url: Line(server) for url, server in self.servers.items()}
        self.dialed: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.offered: list[dict[str, str]] = []

    @property
    def urls(self) -> list[str]:
        return [*self.lines]

    async def dial(self, url: str, **options: Any) -> MemoryTransport:
        self.dialed.append(url)
        self.offered.append(dict(options["headers"]))
        if url in self.failures:
            raise self.failures[url]
        return await self.lines[url].dial(url, **options)

    def client(self, **options: Any) -> Client:
        given: dict[str, Any] = {"dial": self.dial, "limits": LIMITS, "reconnect": AT_ONCE}
        return Client(options.pop("url", self.urls), **given | options)

    def sizes(self) -> list[int]:
        return [len(server.peers) for server in self.servers.values()]

    async def close(self) -> None:
        for server in self.servers.values():
            await server.close()


# ---------------------------------------------------------------- spreading


async def test_clients_spread_and_stay_spread_in_a_rolling_restart() -> None:
    """200 devices ended on one server. (The chance that this fails although the order is random is below 1e-12.)"""
    net = Net()
    clients = [net.client() for _ in range(200)]
    await asyncio.gather(*(client.connect() for client in clients))
    assert max(net.sizes()) < 140, "a third each"
    for server in net.servers.values():
        await server.close()
        await server.open()
        await asyncio.gather(*(client.wait_connected() for client in clients))
        assert server.peers == (), "the server that has restarted comes last"
    # Five eighths of the clients are now at the first server, and three eighths at the second one.
    assert sum(net.sizes()) == 200 and max(net.sizes()) < 185
    await asyncio.gather(*(client.close() for client in clients))
    await net.close()


async def test_each_attempt_has_an_order_of_its_own() -> None:
    net = Net()
    net.failures = dict.fromkeys(net.urls, OSError("nobody there"))
    client = net.client(reconnect=Reconnect(initial=0, max=0, stop=stop_after_attempt(100)))
    with pytest.raises(ConnectFailed, match="in 100 attempts"):
        await client.connect()
    orders = Counter(tuple(net.dialed[n : n + 3]) for n in range(0, 300, 3))
    assert len(orders) == 6 and all(len(set(order)) == 3 for order in orders)
    await net.close()


@pytest.mark.parametrize("kind", ["function", "coroutine", "tuple", "one of them"])
async def test_a_function_may_return_several(kind: str) -> None:
    net = Net()

    async def later() -> Any:
        return net.urls

    given: Any = {"function": lambda: net.urls, "coroutine": later, "tuple": tuple(net.urls)}
    async with net.client(url=given.get(kind, lambda: random.choice(net.urls))) as client:
        for name in "ab":
            net.failures[f"ws://{name}/"] = OSError("down")
        [server] = [server for server in net.servers.values() if server.peers]
        await server.peers[0].close(1012)
        await client.peer.wait_closed()
        await client.wait_connected()
        assert net.dialed[-1] == "ws://c/"
    await net.close()


# ---------------------------------------------------------------- failures


async def test_a_dead_server_is_passed_over_in_the_same_attempt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    net = Net()
    net.failures = {"ws://a/": OSError("gone"), "ws://b/": HandshakeRejected(503, "busy")}
    async with net.client(reconnect=None) as client:  # one attempt
        assert client.state == "connected" and net.dialed[-1] == "ws://c/"
        lines = [text for text in messages(caplog, logging.INFO) if "could not" in text]
        says = {"ws://a/": "OSError: gone", "ws://b/": "HandshakeRejected: .*HTTP 503: busy"}
        assert len(lines) == len(net.dialed) - 1
        for url, line in zip(net.dialed, lines, strict=False):
            assert line.startswith(f"could not connect to {url!r}: {says[url].partition('.*')[0]}")
    assert messages(caplog, logging.WARNING) == []
    await net.close()


async def test_if_all_fail_it_is_one_attempt_and_names_the_urls(caplog: pytest.LogCaptureFixture) -> None:
    net = Net()
    net.failures = {url: OSError(f"nobody at {url}") for url in net.urls}
    client = net.client(reconnect=Reconnect(initial=0, max=0, stop=stop_after_attempt(2)))
    with pytest.raises(ConnectFailed) as caught:
        await client.connect()
    order = "dialed in this order: " + ", ".join(map(repr, net.dialed[3:]))
    assert caught.value.last_error is net.failures[net.dialed[5]] and order in str(caught.value)
    [warning] = messages(caplog, logging.WARNING)
    assert f"OSError: nobody at {net.dialed[2]}; dialed in this order: {net.dialed[0]!r}" in warning
    await net.close()


async def test_connect_timeout_covers_all_and_the_error_is_that_of_the_last_url_that_failed() -> None:
    net = Net()

    async def dial(url: str, **options: Any) -> MemoryTransport:
        if len(net.dialed) == 2:
            net.dialed.append(url)
            await never()
        return await net.dial(url, **options)

    net.failures = {url: OSError("nobody there") for url in net.urls}
    client = net.client(dial=dial, connect_timeout=0.05)
    with pytest.raises(ConnectFailed, match="in 1 attempt; the last one: OSError: nobody there"):
        await client.connect()
    assert len(net.dialed) == 3
    await net.close()


async def test_a_failure_that_is_not_transient_counts_if_no_url_opens(caplog: pytest.LogCaptureFixture) -> None:
    """One server that is misconfigured would end some of the clients for good: which ones is a matter of chance."""
    net = Net()
    refused, *others = net.urls
    net.failures = {refused: HandshakeRejected(401, "who are you?")}
    for _ in range(20):
        async with net.client():
            pass
    net.failures |= dict.fromkeys(others, OSError("nobody there"))
    net.dialed.clear()
    client = net.client()
    client.start()
    with pytest.raises(HandshakeRejected, match="401"):
        await client.wait_connected()
    assert len(net.dialed) == 3
    [error] = messages(caplog, logging.ERROR)
    order = ", ".join(map(repr, net.dialed))
    assert "the client gives up: " in error and error.endswith(f"dialed in this order: {order}")
    await net.close()


async def test_a_url_that_is_not_valid_is_not_left_to_chance() -> None:
    net = Net()
    for _ in range(20):
        client = net.client(url=lambda: [net.urls[0], "http://typo"])
        with pytest.raises(ValueError, match="a URL begins with ws://"):
            await client.connect()
    assert net.dialed == []
    await net.close()


# ---------------------------------------------------------------- sessions


async def test_a_session_resumes_at_its_own_server() -> None:
    """By chance alone, it would in one of 3 ** 25 runs."""
    async with sites() as made:
        urls = [site.url for site in made.values()]
        async with Client(urls, reconnect=AT_ONCE, limits=Limits(close_timeout=CLOSING)) as client:
            own = made[await client.request("who", returns=str)]
            call = asyncio.create_task(client.request("park"))
            await own.parked.wait()
            resumed: asyncio.Queue[bool] = asyncio.Queue()
            client.on_reconnect(lambda info: resumed.put_nowait(info.resumed))
            for _ in range(25):
                assert client.peer.transport is not None
                client.peer.transport.abort()
                assert await resumed.get()
            assert await client.request("who") == own.name
            own.go_on.set()
            assert await call == own.name


async def test_a_session_whose_server_does_not_answer_ends_at_another_one_in_the_same_attempt() -> None:
    async with sites() as made:
        urls = [site.url for site in made.values()]
        offered: list[tuple[str, bool]] = []
        down: set[str] = set()

        async def dial(url: str, **options: Any) -> Any:
            offered.append((url, RESUME_HEADER in options["headers"]))
            if url in down:
                raise ConnectionRefusedError("down")
            return await wsrpc.dial(url, **options)

        client = Client(urls, reconnect=AT_ONCE, dial=dial, limits=Limits(close_timeout=CLOSING))
        infos: asyncio.Queue[Any] = asyncio.Queue()
        client.on_reconnect(infos.put_nowait)
        async with client:
            assert offered == [(offered[0][0], False)]
            own = made[await client.request("who", returns=str)]
            call = asyncio.create_task(client.request("park"))
            await own.parked.wait()
            down.add(own.url)
            assert client.peer.transport is not None
            client.peer.transport.abort()
            assert isinstance(await lost(call, "unknown"), SessionLost)
            info = await infos.get()
            assert (info.resumed, info.attempts, isinstance(info.lost, SessionLost)) == (False, 1, True)
            assert await client.request("who") != own.name
            assert offered[1:] == [(own.url, True), (offered[2][0], True)]
            # The next session is at home there.
            other = made[await client.request("who", returns=str)]
            down.clear()
            client.peer.transport.abort()
            info = await infos.get()
            assert info.resumed and offered[3:] == [(other.url, True)]
        own.go_on.set()
