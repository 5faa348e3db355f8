"""`Server.healthy`, and `healthz=`: what a balancer is told by plain HTTP."""

from __future__ import annotations

import asyncio
import logging
from contextlib import closing, suppress
from typing import Any

import pytest
from core_driver import Blocked
from leftovers import nothing_left as nothing_left
from waiting import until

from wsrpc import Client, HandshakeRejected, Limits, Server, dial

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=60.0)


async def is_open(port: int) -> bool:
    """Whether a port takes connections. The last one perhaps gets no answer."""
    with suppress(ConnectionRefusedError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


async def ask(
    port: int, target: str = "/healthz", method: str = "GET", pieces: int = 1, http: str = "1.1"
) -> tuple[int, str, str]:
    """Status, headers (in lower case) and body of an HTTP request; the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"{method} {target} HTTP/{http}\r\nHost: here\r\nOrigin: https://elsewhere.example\r\n\r\n".encode()
    size = len(request) // pieces + 1
    with closing(writer):
        for at in range(0, len(request), size):
            writer.write(request[at : at + size])
            await writer.drain()
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    return int(head.split(" ", 2)[1]), head.lower(), body


@pytest.mark.parametrize("path", [None, "/ws"])
async def test_it_says_ok_without_asking_who_asks(path: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server(limits=LIMITS)
    server.on_handshake(lambda handshake: handshake.reject(401))
    async with server.listen(path=path, healthz="/healthz") as listener:
        for target in ("/healthz", "/healthz?from=balancer"):
            for method, pieces in (("GET", 1), ("GET", 7), ("HEAD", 1)):
                status, headers, body = await ask(listener.port, target, method, pieces)
                assert (status, body) == (200, "ok\n" if method == "GET" else "")
                assert "content-length: 3\r\n" in headers and "cache-control: no-store" in headers
                if pieces == 1:  # as some load balancers ask
                    assert await ask(listener.port, target, method, http="1.0") == (status, headers, body)
        assert server.stats().refused == {}
        assert [record for record in caplog.records if record.name == "wsrpc"] == []  # it is asked every few seconds
        assert (await ask(listener.port, "/healthzz"))[0] == (404 if path else 403)  # by its origin


@pytest.mark.parametrize(
    ("options", "listens"),
    [({"healthz": "/healthz"}, True), ({"healthz": None}, False), ({"reuse_port": True}, False)],
    ids=str,
)
async def test_while_the_server_drains_it_says_so_and_refuses(options: dict[str, Any], listens: bool) -> None:
    """Without ``healthz``, or with a port that is shared, the port is free as soon as draining begins."""
    server, work = Server(limits=LIMITS), Blocked()
    server.on("work", work)
    async with server.listen(**options) as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
            working = asyncio.create_task(client.request("work"))
            await until(lambda: work.started)
            assert server.healthy
            ending = asyncio.create_task(server.close(drain_timeout=60))
            await until(lambda: not server.healthy)
            assert not server.stats().healthy
            if listens:
                assert (await ask(listener.port))[::2] == (503, "draining\n")
                assert (await ask(listener.port, method="HEAD"))[::2] == (503, "")
                with pytest.raises(HandshakeRejected) as refused:
                    await dial(listener.url, limits=LIMITS)
                assert (refused.value.status, refused.value.headers["retry-after"]) == (503, "1")
            else:
                while await is_open(listener.port):  # it stops listening in a task
                    pass
            work.go.set()
            await asyncio.gather(working, ending)
        with pytest.raises(ConnectionRefusedError):
            await ask(listener.port)


async def test_processes_may_share_a_port() -> None:
    first, second = Server(limits=LIMITS), Server(limits=LIMITS)
    async with first.listen(reuse_port=True) as listener, second.listen(port=listener.port, reuse_port=True) as beside:
        assert beside.port == listener.port
        async with Client(listener.url, limits=LIMITS):
            assert first.stats().accepted + second.stats().accepted == 1
