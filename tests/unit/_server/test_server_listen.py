"""`Server.listen` and `accept`: where connections come from."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import PATIENCE, ask, handshake

from wsrpc import Client, HandshakeRejected, Limits, Peer, Server, dial
from wsrpc.testing import memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)

PEM = Path(__file__).parents[2] / "adapters" / "localhost.pem"


def echo_server(**options: Any) -> Server:
    server = Server(**{"limits": LIMITS} | options)
    server.on("echo", lambda value: value)
    return server


async def test_port_0_picks_one_which_can_be_used_again_when_it_is_free() -> None:
    listening = echo_server().listen("127.0.0.1", 0, path="/ws")
    with pytest.raises(RuntimeError, match="async with"):
        _ = listening.url
    async with listening as listener:
        port = listener.port
        assert port > 0 and listener.url == f"ws://127.0.0.1:{port}/ws"
        async with Client(listener.url, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
    assert (listener.port, listener.url) == (port, f"ws://127.0.0.1:{port}/ws")
    async with echo_server().listen("127.0.0.1", port) as listener:
        assert listener.port == port


def own_socket() -> socket.socket:
    """Of which asyncio does not see that it is TCP."""
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("where", "host"),
    [
        ({}, "127.0.0.1"),
        ({"host": "::1"}, "[::1]"),  # the loopback interface has it, unless IPv6 was switched off
        ({"host": "0.0.0.0"}, "127.0.0.1"),
        ({"host": None}, "127.0.0.1|[::1]"),
        ({"sock": own_socket}, "127.0.0.1"),
    ],
)
async def test_its_url_works_here(where: dict[str, Any], host: str) -> None:
    """Small messages are not held back until the one before is acknowledged."""
    options = {name: value() if callable(value) else value for name, value in where.items()}
    server = echo_server()
    async with server.listen(**options) as listener, Client(listener.url, limits=LIMITS) as client:
        assert listener.url in [f"ws://{each}:{listener.port}/" for each in host.split("|")]
        assert await client.request("echo", 1) == 1
        for end in (server.peers[0], client.peer):
            sock = end.info.underlying.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("path", ["/ws", "/café", "/a+b"])
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


async def test_a_handshake_that_never_ends_does_not_hold_up_closing() -> None:
    """Nor does one of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    server = echo_server(limits=LIMITS.replace(open_timeout=1000.0, close_timeout=0.1))
    with socket.socket() as sock:
        async with server.listen(ssl=context) as listener:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", listener.port))
            await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.1\r\nHost:")
            trusting = ssl.create_default_context(cafile=str(PEM))
            async with Client(listener.url, ssl=trusting, limits=LIMITS) as client:  # by now the first was accepted
                await client.request("echo", 1)
            async with asyncio.timeout(8):
                await server.close()


async def test_who_is_refused_over_tls_and_does_not_leave_is_dropped() -> None:
    """The connection stayed for 30 s, which is asyncio's own limit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    trusting = ssl.create_default_context(cafile=str(PEM))
    server = echo_server(limits=LIMITS.replace(close_timeout=0.1))

    def stay(port: int) -> bytes:
        """Return the answer, once the connection has ended. TLS is not ended from this side."""
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as tcp:
            secure = trusting.wrap_socket(tcp, server_hostname="localhost")
            secure.sendall(handshake("/elsewhere"))
            answer = b"".join(iter(lambda: secure.recv(1000), b""))
            with socket.socket(fileno=secure.detach()) as below, suppress(ConnectionResetError):
                below.settimeout(PATIENCE)
                assert below.recv(1) == b""
            return answer

    async with server.listen(path="/ws", ssl=context) as listener:
        assert (await asyncio.to_thread(stay, listener.port)).startswith(b"HTTP/1.1 404")


# ---------------------------------------------------------------- accept


async def test_accept_takes_any_transport() -> None:
    server = echo_server()
    opened: list[Peer] = []
    server.on("open", opened.append)
    ours, theirs = memory_transports(path="/x?y=z", headers={"X-Name": "Ada"})
    async with Client(limits=LIMITS) as client:
        _, peer = await asyncio.gather(client.bind(ours), server.accept(theirs))
        assert opened == [peer] == list(server.peers)
        assert (peer.info.path, dict(peer.info.query), peer.info.headers["x-name"]) == ("/x", {"y": "z"}, "Ada")
        assert await client.request("echo", 1) == 1
    await peer.wait_closed()
    assert server.peers == ()
    await server.close()
