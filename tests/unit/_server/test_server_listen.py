"""`Server.listen` and `accept`: where connections come from, and how servers are closed, and opened again."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from core_driver import turns
from leftovers import turns_until
from raw_websocket import PATIENCE, ask, handshake

from wsrpc import Client, HandshakeRejected, Limits, Server, dial
from wsrpc.testing import ScriptedTransport

LIMITS = Limits(close_timeout=2.0)

PEM = Path(__file__).parents[2] / "adapters" / "localhost.pem"


TRUSTING = ssl.create_default_context(cafile=str(PEM))


def echo_server(**options: Any) -> Server:
    server = Server(**{"limits": LIMITS} | options)
    server.on("echo", lambda value: value)
    return server


def certified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


@pytest.mark.parametrize(
    ("where", "host"),
    [
        ({}, "127.0.0.1"),
        ({"host": "::1"}, "[::1]"),  # the loopback interface has it, unless IPv6 was switched off
        ({"host": "0.0.0.0"}, "127.0.0.1"),
        ({"host": None}, "127.0.0.1|[::1]"),
        ({"sock": ("127.0.0.1", 0)}, "127.0.0.1"),  # of which asyncio does not see that it is TCP
    ],
)
async def test_its_url_works_here(where: dict[str, Any], host: str) -> None:
    """Small messages are not held back until the one before is acknowledged."""
    if "sock" in where:
        where = {"sock": socket.create_server(where["sock"])}
    server = echo_server()
    async with server.listen(**where) as listener, Client(listener.url, limits=LIMITS) as client:
        assert listener.url in [f"ws://{each}:{listener.port}/" for each in host.split("|")]
        assert await client.request("echo", 1) == 1
        for end in (server.peers[0], client.peer):
            sock = end.info.underlying.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("path", ["/café", "/a+b"])
async def test_with_a_path_others_get_404(path: str) -> None:
    """It may need to be encoded."""
    server = echo_server()
    async with server.listen(path=path) as listener:
        assert listener.url.isascii()
        async with Client(f"{listener.url}?token=x", limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            assert server.peers[0].info.path == unquote(path)
        own = urlsplit(listener.url).path
        for other in ("/", "/WS", f"{own}/", f"{own}2", f"/x{own}"):
            with pytest.raises(HandshakeRejected) as caught:
                await dial(f"ws://127.0.0.1:{listener.port}{other}", limits=LIMITS)
            assert caught.value.status == 404 and unquote(path) in unquote(caught.value.body)
        assert b" 404 " in (await ask(listener.port, handshake("//host/ws"))).split(b"\r\n")[0]


# ---------------------------------------------------------------- a handshake that never ends


async def test_who_is_refused_over_tls_and_does_not_leave_is_dropped() -> None:
    """The connection stayed for 30 s, which is asyncio's own limit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    server = echo_server(limits=LIMITS.replace(close_timeout=0.1))

    def stay(port: int) -> bytes:
        """Return the answer, once the connection has ended. TLS is not ended from this side."""
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as tcp:
            secure = TRUSTING.wrap_socket(tcp, server_hostname="localhost")
            secure.sendall(handshake("/elsewhere"))
            answer = b"".join(iter(lambda: secure.recv(1000), b""))
            with socket.socket(fileno=secure.detach()) as below, suppress(ConnectionResetError):
                below.settimeout(PATIENCE)
                assert below.recv(1) == b""
            return answer

    async with server.listen(path="/ws", ssl=certified()) as listener:
        assert (await asyncio.to_thread(stay, listener.port)).startswith(b"HTTP/1.1 404")


# ---------------------------------------------------------------- how servers are closed, and opened again


@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_that_comes_while_it_closes_is_no_error(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At whichever turn of its making or of its handshake. Nor do those that say nothing hold up the end."""
    server = Server(limits=LIMITS)
    async with server.listen(healthz=None) as listener:
        with ExitStack() as stack:
            connect = socket.create_connection
            sockets = [stack.enter_context(connect(("127.0.0.1", listener.port))) for _ in range(4)]
            for each in sockets[:2]:
                each.sendall(handshake())
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(LIMITS.close_timeout):
                closing = asyncio.create_task(server.close())
                await asyncio.sleep(0)
                sockets[0].close()
                sockets[1].shutdown(socket.SHUT_RDWR)
                await closing
    gc.collect(1)  # of a socket that nobody closed Python warns, and a warning is an error here
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_the_event_loop_is_idle_while_a_thread_outlives_its_connection() -> None:
    server, gate, entered = Server(), threading.Event(), threading.Event()
    loop: Any = asyncio.get_running_loop()

    @server.on("work", thread=True)
    def work() -> None:
        entered.set()
        gate.wait(10)

    await server.accept(transport := ScriptedTransport())
    transport.feed({"a": ["work"], "i": 1})
    await turns_until(entered.is_set)
    transport.lose()
    try:
        await turns(20)
        assert not getattr(loop, "_ready", ())  # nothing waits for the next turn
    finally:
        gate.set()
        await server.close()
