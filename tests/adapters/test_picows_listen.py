"""What is particular about listening with picows."""

from __future__ import annotations

import asyncio
import resource
import socket

import pytest
from leftovers import turns_until
from raw_websocket import ask, asking, handshake, raw_client
from served import LIMITS, echo_server, tls

from wsrpc import Client, Handshake, HandshakeRejected, Server, dial
from wsrpc_adapters import picows


async def test_over_tls() -> None:
    context, trusting = tls()
    server = echo_server()
    seen: list[Handshake] = []
    server.on_handshake(seen.append)
    async with picows.listen(server, "localhost", ssl=context) as listener:
        url = f"wss://localhost:{listener.port}/"
        assert listener.url.startswith("wss://")
        async with Client(url, ssl=trusting) as client:
            assert await client.request("echo", "x" * 1_000_000) == "x" * 1_000_000
        assert seen[0].secure and seen[0].remote is not None


async def test_its_path_and_the_connection_header_of_firefox() -> None:
    with pytest.raises(ValueError, match="begins with a slash"):
        picows.listen(Server(), path="ws")
    server = echo_server()
    async with picows.listen(server, path="/café 1") as listener:
        async with Client(listener.url, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
        answer = await ask(listener.port, handshake("/other"))
        assert answer.startswith(b"HTTP/1.1 404") and "nothing here, the WebSocket is at /café 1\n".encode() in answer
        request = handshake("/caf%C3%A9%201").replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade")
        async with asking(listener.port, request) as (head, _):
            assert head.startswith(b"HTTP/1.1 101 ")
            await turns_until(lambda: server.peers)
            assert server.peers[0].info.headers["connection"] == "keep-alive, Upgrade"
            assert server.peers[0].info.path == "/café 1"


async def test_an_async_on_handshake_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()

    async def gate(given: Handshake) -> None: ...

    async with picows.listen(server) as listener:
        server.on_handshake(gate)
        with pytest.raises(HandshakeRejected) as caught:
            await dial(listener.url)
        assert (caught.value.status, caught.value.body) == (500, "internal error\n")
    assert "make it a plain function" in caplog.text
    with pytest.raises(TypeError, match="make it a plain function, or use"):
        picows.listen(server)


async def test_when_no_more_files_can_be_opened_it_goes_on_later(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    async with picows.listen(echo_server()) as listener, Client(listener.url) as client:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as sock:
            sock.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno(), before[1]))
            try:
                await loop.sock_connect(sock, ("127.0.0.1", listener.port))
                await turns_until(lambda: "cannot accept connections" in caplog.text)
                assert await client.request("echo", 1) == 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            async with Client(listener.url) as later:
                assert await later.request("echo", 2) == 2


async def test_closing_the_server_does_not_wait_for_a_client_that_says_nothing() -> None:
    server = Server(limits=LIMITS.replace(open_timeout=1000.0))
    async with picows.listen(server) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"GET / HTTP/1.1\r\n")
        async with raw_client(listener.port) as raw:  # by now the first one is accepted, too
            raw.drop()
            async with asyncio.timeout(8):
                await server.close()
                assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
