"""What is particular about listening with picows."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl

import pytest
from leftovers import turns_until
from raw_websocket import TEXT, ask, asking, handshake, raw_client
from served import LIMITS, echo_server, port_of, tls

from wsrpc import Client, Handshake, HandshakeRejected, Server, current_peer, dial
from wsrpc_adapters import picows


async def test_one_server_may_listen_with_several_libraries() -> None:
    server = echo_server()
    server.on("from", lambda: current_peer().info.remote)
    async with server.listen(path="/ws") as first, picows.listen(server, path="/ws") as second:
        assert second.url == f"ws://127.0.0.1:{second.port}/ws" and second.port not in (0, first.port)
        async with Client(first.url) as one, Client(second.url) as two:
            assert await one.request("echo", 1) == await two.request("echo", 1) == 1
            assert len(server.peers) == 2
            assert tuple(await two.request("from")) == two.peer.info.local


async def test_over_ipv6() -> None:
    server = echo_server()
    async with picows.listen(server, "::1") as listener:
        async with Client(listener.url + "a%2Fb?x=1", dial=picows.dial, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            info = server.peers[0].info
            assert (info.target, info.path, info.local) == ("/a%2Fb?x=1", "/a/b", ("::1", listener.port))
            assert info.remote is not None


async def test_over_tls() -> None:
    context, trusting = tls()
    server = echo_server()
    seen: list[Handshake] = []
    server.on_handshake(seen.append)
    async with picows.listen(server, "localhost", ssl=context) as listener:
        url = f"wss://localhost:{listener.port}/"
        assert listener.url.startswith("wss://")
        async with Client(url, ssl=trusting, dial=picows.dial) as ours, Client(url, ssl=trusting) as other:
            for client in (ours, other):
                assert await client.request("echo", "x" * 1_000_000) == "x" * 1_000_000
        assert [given.secure for given in seen] == [True, True]
        assert all(given.remote is not None for given in seen)
        with pytest.raises(ssl.SSLError):
            await picows.dial(url)


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


@pytest.mark.parametrize("late", [False, True])
async def test_an_async_on_handshake_is_refused(late: bool, caplog: pytest.LogCaptureFixture) -> None:
    server = Server()

    async def gate(given: Handshake) -> None: ...

    if not late:
        server.on_handshake(gate)
        with pytest.raises(TypeError, match="make it a plain function, or use"):
            picows.listen(server)
        return
    async with picows.listen(server) as listener:
        server.on_handshake(gate)
        with pytest.raises(HandshakeRejected) as caught:
            await dial(listener.url)
        assert (caught.value.status, caught.value.body) == (500, "internal error\n")
    assert "make it a plain function" in caplog.text


async def test_limits_can_only_be_lowered(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)

    @server.on_handshake
    def gate(given: Handshake) -> None:
        given.limits = LIMITS.replace(message=LIMITS.message + 1)

    async with picows.listen(server) as listener:
        with pytest.raises(HandshakeRejected) as caught:
            await dial(listener.url)
        assert caught.value.status == 500
    assert "only lower limits.message" in caplog.text


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


async def test_closing_the_server_does_not_wait_for_whoever_says_nothing() -> None:
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


async def test_what_the_other_side_does_wrong_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with picows.listen(echo_server()) as listener:
        async with raw_client(port_of(listener.url)) as peer:
            await peer.send(peer.frame(0x3, "x"), peer.frame(TEXT, "x"))
            await peer.read_to_end()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
