"""`Server.healthy`, and `healthz=`: what a balancer is told by plain HTTP."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, Handshake, HandshakeRejected, Limits, Reconnect, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)
PATIENCE = 8


async def ask(port: int, target: str = "/healthz", method: str = "GET", pieces: int = 1) -> tuple[int, str, str]:
    """Status, headers (in lower case) and body of an HTTP request; the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        request = f"{method} {target} HTTP/1.1\r\nHost: here\r\nOrigin: https://elsewhere.example\r\n\r\n".encode()
        size = len(request) // pieces + 1
        for at in range(0, len(request), size):
            writer.write(request[at : at + size])
            await writer.drain()
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    return int(head.split(" ", 2)[1]), head.lower(), body


@pytest.mark.parametrize("path", [None, "/ws"])
async def test_it_says_ok_without_asking_who_asks(path: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server(limits=LIMITS)
    server.on_handshake(lambda handshake: handshake.reject(401))
    async with asyncio.timeout(PATIENCE), server.listen(path=path, healthz="/healthz") as listener:
        for target in ("/healthz", "/healthz?from=balancer"):
            for method, pieces in (("GET", 1), ("GET", 7), ("HEAD", 1)):
                status, headers, body = await ask(listener.port, target, method, pieces)
                assert (status, body) == (200, "ok\n" if method == "GET" else "")
                assert "content-length: 3\r\n" in headers and "cache-control: no-store" in headers
        assert server.stats().refused == {}
        assert [record for record in caplog.records if record.name == "wsrpc"] == []  # it is asked every few seconds


async def test_other_paths_are_no_answer() -> None:
    server = Server(limits=LIMITS)
    async with asyncio.timeout(PATIENCE), server.listen(path="/ws", healthz="/healthz") as listener:
        for target in ("/", "/healthz/", "/healthzz"):
            assert (await ask(listener.port, target))[0] == 404
        assert (await ask(listener.port, "/ws"))[0] == 403  # by its origin
        async with Server(limits=LIMITS).listen(healthz=None) as without:
            assert (await ask(without.port))[0] == 403


async def test_while_the_server_drains_it_says_so_and_clients_are_refused_with_503() -> None:
    server = Server(limits=LIMITS)
    started, release = asyncio.Event(), asyncio.Event()

    @server.on("work")
    async def work() -> str:
        started.set()
        await release.wait()
        return "done"

    async with asyncio.timeout(PATIENCE):
        async with server.listen(healthz="/healthz") as listener:
            async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
                working = asyncio.create_task(client.request("work"))
                await started.wait()
                assert server.healthy
                closing = asyncio.create_task(server.close(drain=PATIENCE))
                await turns_until(lambda: not server.healthy)
                assert not server.stats().healthy
                assert (await ask(listener.port))[::2] == (503, "draining\n")
                assert (await ask(listener.port, method="HEAD"))[::2] == (503, "")
                late = Client(listener.url, limits=LIMITS, reconnect=AT_ONCE, connect_timeout=PATIENCE)
                with pytest.raises(HandshakeRejected) as refused:
                    await server.handshake(Handshake("/", {}))
                assert (refused.value.status, dict(refused.value.headers)) == (503, {"retry-after": "1"})
                connecting = asyncio.create_task(late.connect())
                await turns_until(lambda: server.stats().refused.get(503, 0) > 1)
                release.set()
                assert await working == "done"
                await closing
            with pytest.raises(ConnectionRefusedError):
                await ask(listener.port)
        # Whoever takes its place gets those that were refused.
        following = Server(limits=LIMITS)
        async with following.listen(port=listener.port):
            await connecting
            await late.close()


@pytest.mark.parametrize("options", [{"healthz": None}, {"reuse_port": True}], ids=str)
async def test_without_healthz_or_shared_the_port_is_free_as_soon_as_draining_begins(options: dict[str, Any]) -> None:
    server = Server(limits=LIMITS)
    started, release = asyncio.Event(), asyncio.Event()

    @server.on("work")
    async def work() -> None:
        started.set()
        await release.wait()

    async with asyncio.timeout(PATIENCE), server.listen(**options) as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
            working = asyncio.create_task(client.request("work"))
            await started.wait()
            closing = asyncio.create_task(server.close(drain=PATIENCE))
            await turns_until(lambda: not server.healthy)
            await asyncio.sleep(0)
            with pytest.raises(ConnectionRefusedError):
                await ask(listener.port)
            release.set()
            await asyncio.gather(working, closing)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        *(({"healthz": path}, "healthz= is a path such as") for path in ("healthz", "", "/health z", "/healthz?a")),
        ({"unix": "socket", "reuse_port": True}, "reuse_port= goes with host and port"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Server().listen(**options)


async def test_processes_may_share_a_port_and_the_log_says_once_what_that_means(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = Server(limits=LIMITS), Server(limits=LIMITS)
    async with asyncio.timeout(PATIENCE), first.listen(reuse_port=True) as listener:
        async with second.listen(port=listener.port, reuse_port=True) as beside:
            assert beside.port == listener.port
            async with Client(listener.url, limits=LIMITS):
                assert first.stats().accepted + second.stats().accepted == 1
        first.listen(reuse_port=True)
    warnings = [record.getMessage() for record in caplog.records if "per worker" in record.getMessage()]
    assert len(warnings) == 2  # one for each server
