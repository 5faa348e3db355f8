"""A client of several URLs: which it dials, in which order, what it says of that, and what becomes of its session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from client_driver import AT_ONCE, LIMITS, lost
from core_driver import messages
from leftovers import nothing_left as nothing_left

from wsrpc import Client, HandshakeRejected, Limits, Server, SessionLost
from wsrpc.handshake import RESUME_HEADER
from wsrpc.testing import Line, MemoryTransport

pytestmark = pytest.mark.usefixtures("nothing_left")


class Net:
    """Three servers in memory, and a `Dial` function that writes down which URL is dialed, and what it says of that."""

    def __init__(self) -> None:
        self.servers = {f"ws://{name}/": Server(limits=Limits(close_timeout=2.0)) for name in "abc"}
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
        return Client(self.urls, **given | options)

    def sizes(self) -> list[int]:
        return [len(server.peers) for server in self.servers.values()]


@pytest.fixture
async def net() -> AsyncGenerator[Net]:
    net = Net()
    yield net
    for server in net.servers.values():
        await server.close()


# ---------------------------------------------------------------- spreading


async def test_clients_spread_and_stay_spread_in_a_rolling_restart(net: Net) -> None:
    """All devices ended on one server. (The chance that this fails although the order is random is below 1e-7.)"""
    clients = [net.client() for _ in range(60)]
    await asyncio.gather(*(client.connect() for client in clients))
    assert max(net.sizes()) < 43, "a third each"
    for server in net.servers.values():
        await server.close()
        await server.open()
        await asyncio.gather(*(client.wait_connected() for client in clients))
        assert server.peers == (), "the server that has restarted comes last"
    # Five eighths of the clients are now at the first server, and three eighths at the second one.
    assert sum(net.sizes()) == 60 and max(net.sizes()) < 58
    await asyncio.gather(*(client.close() for client in clients))


# ---------------------------------------------------------------- failures


async def test_a_dead_server_is_passed_over_in_the_same_attempt(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    net.failures = {"ws://a/": OSError("gone"), "ws://b/": HandshakeRejected(503, "busy")}
    async with net.client(reconnect=None) as client:  # one attempt
        assert client.state == "connected" and net.dialed[-1] == "ws://c/"
        lines = [record.getMessage() for record in caplog.records if "could not" in record.getMessage()]
        says = {"ws://a/": "OSError: gone", "ws://b/": "HandshakeRejected: .*HTTP 503: busy"}
        assert len(lines) == len(net.dialed) - 1
        for url, line in zip(net.dialed, lines, strict=False):
            assert line.startswith(f"could not connect: {says[url].partition('.*')[0]}") and f" at {url})" in line
    assert messages(caplog, logging.WARNING) == []


async def test_a_failure_that_is_not_transient_counts_if_no_url_opens(
    net: Net, caplog: pytest.LogCaptureFixture
) -> None:
    """One server that is misconfigured would end some of the clients for good: which ones is a matter of chance."""
    refused, *others = net.urls
    net.failures = {refused: HandshakeRejected(401, "who are you?")}
    for _ in range(20):
        async with net.client():
            pass
    net.failures |= dict.fromkeys(others, OSError("nobody there"))
    net.dialed.clear()
    client = net.client()
    client.start()
    with pytest.raises(
        HandshakeRejected, match=f"the server at '{refused}' refused the connection with HTTP 401"
    ) as caught:
        await client.wait_connected()
    assert repr(caught.value) == f"HandshakeRejected(401, url='{refused}')"
    assert len(net.dialed) == 3
    [error] = messages(caplog, logging.ERROR)
    order = ", ".join(map(repr, net.dialed))
    assert "the client gives up: " in error and error.endswith(f"dialed in this order: {order}")
    assert {getattr(record, "url", "") for record in caplog.records if "gives up" in record.message} == {refused}


# ---------------------------------------------------------------- sessions


async def test_a_session_whose_server_does_not_answer_ends_at_another_one_in_the_same_attempt(net: Net) -> None:
    parked = asyncio.Event()

    async def park() -> None:
        parked.set()
        await asyncio.Event().wait()

    for url, server in net.servers.items():
        server.on("park", park)
        server.on("who", lambda url=url: url)
    async with net.client(limits=Limits(close_timeout=2.0)) as client:
        own = await client.request("who", returns=str)
        call = asyncio.create_task(client.request("park", returns=str))
        await parked.wait()
        infos: asyncio.Queue[Any] = asyncio.Queue()
        client.on_reconnect(infos.put_nowait)
        net.failures[own] = ConnectionRefusedError("down")
        net.lines[own].cut()
        assert isinstance(await lost(call, "unknown"), SessionLost)
        info = await infos.get()
        assert (info.resumed, info.attempts, isinstance(info.lost, SessionLost)) == (False, 1, True)
        other = await client.request("who", returns=str)
        assert net.dialed[1:] == [own, other] and other != own
        assert [RESUME_HEADER in headers for headers in net.offered] == [False, True, True]
        # The next session is at home there.
        net.failures.clear()
        net.lines[other].cut()
        assert (await infos.get()).resumed and net.dialed[3:] == [other]
