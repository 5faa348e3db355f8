"""`Server.listen` and `accept`: where connections come from, and how servers are closed, and opened again."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import ssl
import tempfile
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from core_driver import Blocked
from leftovers import nothing_left as nothing_left
from raw_websocket import ask, handshake
from waiting import until

from wsrpc import ANY_ORIGIN, Client, HandshakeRejected, Limits, Server, dial
from wsrpc.store import MemoryStore
from wsrpc.testing import FaultProxy, connect

pytestmark = pytest.mark.usefixtures("nothing_left")

PEM = Path(__file__).parents[2] / "adapters" / "localhost.pem"


def echo_server(**options: Any) -> Server:
    server = Server(**options)
    server.on("echo", lambda value: value)
    return server


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
    async with server.listen(**where) as listener, Client(listener.url) as client:
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
        async with Client(f"{listener.url}?token=x") as client:
            assert await client.request("echo", 1) == 1
            assert server.peers[0].info.path == unquote(path)
        own = urlsplit(listener.url).path
        for other in ("/", "/WS", f"{own}/", f"{own}2", f"/x{own}"):
            with pytest.raises(HandshakeRejected) as caught:
                await dial(f"ws://127.0.0.1:{listener.port}{other}")
            assert caught.value.status == 404 and unquote(path) in unquote(caught.value.body)
        assert b" 404 " in (await ask(listener.port, handshake("//host/ws"))).split(b"\r\n")[0]


# ---------------------------------------------------------------- ends


async def test_who_is_refused_over_tls_and_does_not_leave_is_dropped() -> None:
    """The connection stayed for 30 s, which is asyncio's own limit."""
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(PEM))
    context.load_cert_chain(PEM)
    server = echo_server(limits=Limits(close_timeout=0.1))

    def stay(port: int) -> float:
        """Return for how long it lasted after the answer. TLS is not ended from this side."""
        with socket.create_connection(("127.0.0.1", port), 60) as tcp:
            secure = trusting.wrap_socket(tcp, server_hostname="localhost")
            secure.sendall(handshake("/elsewhere"))
            assert b"".join(iter(lambda: secure.recv(1000), b"")).startswith(b"HTTP/1.1 404")
            began = time.monotonic()
            with socket.socket(fileno=secure.detach()) as below, suppress(ConnectionResetError):
                below.settimeout(60)
                assert below.recv(1) == b""
            return time.monotonic() - began

    async with server.listen(path="/ws", ssl=context) as listener:
        assert await asyncio.to_thread(stay, listener.port) < 20


@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_that_comes_while_it_closes_is_no_error(
    turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At whichever turn of its making or of its handshake. Nor do those that say nothing hold up the end."""
    server = Server(limits=Limits(close_timeout=3600.0, open_timeout=3600.0))
    async with server.listen(healthz=None) as listener:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", listener.port))) for _ in range(4)]
            for each in sockets[:2]:
                each.sendall(handshake())
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(60):
                closing = asyncio.create_task(server.close())
                await asyncio.sleep(0)
                sockets[0].close()
                sockets[1].shutdown(socket.SHUT_RDWR)
                await closing
    gc.collect(1)  # of a socket that nobody closed Python warns, and a warning is an error here
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_server_that_closes_lets_nobody_in_about_whom_it_is_asking() -> None:
    server, stuck = Server(limits=Limits(open_timeout=3600.0)), Blocked()
    server.on_handshake(stuck)
    async with server.listen() as listener:
        waiting = asyncio.create_task(ask(listener.port, handshake()))
        await until(lambda: stuck.started)
        await server.close()
    assert stuck.cancelled and not (await waiting).startswith(b"HTTP/1.1 101")


async def test_a_log_is_read_from_its_end_after_the_last_member_has_left_while_an_event_was_sent() -> None:
    """New members got all that had happened since."""
    store, heard = MemoryStore(), asyncio.Queue[Any]()
    servers = [Server(store=store, limits=Limits(close_timeout=1.0)) for _ in range(2)]
    here, there = [each.room("lobby", keep=60, allow=lambda peer: True) for each in servers]
    async with servers[0].listen() as listening, FaultProxy(listening.url) as proxy:
        async with Client(proxy.url) as leaving:
            await leaving.room("lobby").join()
            async with proxy.stall("up"):
                closing = asyncio.ensure_future(next(iter(here)).close(4000, "kicked"))
                for _ in range(10):
                    await asyncio.sleep(0)
                assert len(here) == 1  # until its client has answered
                await there.emit("said", 0)
                await until(lambda: not len(here))
            await closing
        for number in range(1, 4):
            await there.emit("said", number)
        async with connect(servers[0]) as one:
            one.on("said", heard.put_nowait)
            await one.room("lobby").join()
            await there.emit("said", "now")
            assert await heard.get() == "now"
    await servers[1].close()


# ---------------------------------------------------------------- who may connect


async def test_any_origin_warns_once_when_listening_begins(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(origins=ANY_ORIGIN)
    async with server.listen() as listener, server.listen():
        assert caplog.text.count("ANY_ORIGIN") == 1
        for origin in ("https://evil.example", "garbage"):
            async with Client(listener.url, headers={"Origin": origin}, proxy=None):
                assert server.peers[0].info.origin == origin
    assert caplog.text.count("ANY_ORIGIN") == 1
    server = Server(origins=ANY_ORIGIN)  # nobody listens: at the first handshake
    for _ in range(2):
        async with connect(server, headers={"Origin": "https://evil.example"}):
            assert caplog.text.count("ANY_ORIGIN") == 2


@pytest.mark.parametrize(("trusted", "remote"), [(["unix"], ("1.2.3.4", 0)), (["0.0.0.0/0", "::/0"], None)])
async def test_what_has_no_address_is_trusted_by_its_name(trusted: list[str], remote: object) -> None:
    """A unix socket, and a connection in memory."""
    server = Server(trusted_proxies=trusted)
    headers = {"X-Forwarded-For": "1.2.3.4"}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        client = Client("ws://here", dial=partial(dial, unix=path), headers=headers)
        async with server.listen(unix=path) as listener, client:
            assert (listener.port, listener.url) == (0, "ws://localhost/")
            async with connect(server, headers=headers):
                assert [peer.info.remote for peer in server.peers] == [remote] * 2
