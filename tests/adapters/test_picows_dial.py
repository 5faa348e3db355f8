"""What is particular about dialing with picows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from raw_websocket import raw_server
from served import AT_ONCE, LIMITS, echo_server

from wsrpc import Client, HandshakeRejected, Reconnect, Server, current_peer
from wsrpc_adapters import picows


@asynccontextmanager
async def http_proxy() -> AsyncGenerator[tuple[str, list[str]]]:
    """A proxy that tunnels; gives its URL and the requests that it got."""
    asked: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0])
        host, _, port = asked[-1].split(" ")[1].rpartition(":")
        there, to = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        tasks.append(asyncio.create_task(pump(there, writer)))
        await pump(reader, to)

    server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        await asyncio.gather(*tasks)
        await server.wait_closed()


async def test_a_client_dials_again() -> None:
    server = echo_server()
    async with picows.listen(server) as listener:
        async with Client(listener.url, dial=picows.dial, reconnect=AT_ONCE, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            back: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            client.on_reconnect(lambda info: back.set_result(None))
            server.peers[0].transport.abort()  # type: ignore[union-attr]
            await back
            assert await client.request("echo", 2) == 2


async def test_headers_query_and_subprotocol_arrive() -> None:
    server = Server(limits=LIMITS)

    @server.on_handshake
    def gate(given: object) -> None:
        given.subprotocol = "b"  # type: ignore[attr-defined]

    server.on("who", lambda: [current_peer().info.query["x"], current_peer().info.headers["authorization"]])
    async with server.listen() as listener:
        url = listener.url + "?x=1"
        async with Client(url, dial=picows.dial, auth="ada", subprotocols=["a", "b"], limits=LIMITS) as client:
            assert await client.request("who") == ["1", "Bearer ada"]
            info = client.peer.info
            assert (info.subprotocol, info.query, info.path) == ("b", {"x": "1"}, "/")
            assert info.headers["authorization"] == "Bearer ada"


async def test_a_refusal_has_its_status_and_body() -> None:
    async with raw_server() as server, asyncio.TaskGroup() as group:
        group.create_task(server.refuse("403 Forbidden", "not you", "X-Why: because"))
        with pytest.raises(HandshakeRejected) as caught:
            await picows.dial(server.url)
        assert (caught.value.status, caught.value.body) == (403, "not you")
        assert caught.value.headers["x-why"] == "because"


async def test_nobody_listens() -> None:
    async with raw_server() as server:
        url = server.url
    with pytest.raises(ConnectionRefusedError):
        await picows.dial(url)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9\r\n\r\n", b"HTTP/1.1 101 Fine\r\nUpgrade: cake\r\n\r\n"])
async def test_no_websocket_server_answers(answer: bytes) -> None:
    async with raw_server() as server, asyncio.TaskGroup() as group:

        async def answers() -> None:
            sock = await server.accept_tcp()
            loop = asyncio.get_running_loop()
            await loop.sock_recv(sock, 65536)
            await loop.sock_sendall(sock, answer)
            sock.close()

        group.create_task(answers())
        with pytest.raises(ConnectionError):
            await picows.dial(server.url)


async def test_a_subprotocol_that_nobody_offered() -> None:
    async with raw_server() as server, asyncio.TaskGroup() as group:
        accepting = group.create_task(server.accept("Sec-WebSocket-Protocol: surprise"))
        with pytest.raises(ConnectionError, match="not offered"):
            await picows.dial(server.url)
        assert await (await accepting).read_to_end() == b""


async def test_a_server_that_says_nothing() -> None:
    async with raw_server() as server:
        with pytest.raises(TimeoutError):
            await picows.dial(server.url, limits=LIMITS.replace(open_timeout=0.05))


async def test_cancelling_leaves_nothing() -> None:
    async with raw_server() as server:
        dialing = asyncio.create_task(picows.dial(server.url))
        sock = await server.accept_tcp()
        loop = asyncio.get_running_loop()
        assert (await loop.sock_recv(sock, 65536)).startswith(b"GET / ")
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        assert await loop.sock_recv(sock, 1) == b""


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "ws:///", "127.0.0.1:80"])
async def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError):
        await picows.dial(url)


@pytest.mark.parametrize("environment", [False, True])
async def test_through_a_proxy(environment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_proxy() as (proxy, asked), echo_server().listen() as listener:
        for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        if environment:
            monkeypatch.setenv("http_proxy", proxy)
        options = {"dial": picows.dial, "proxy": True if environment else proxy, "limits": LIMITS}
        async with Client(listener.url, **options) as client:  # type: ignore[arg-type]
            assert await client.request("echo", 1) == 1
        async with Client(listener.url, dial=picows.dial, proxy=None, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
        assert asked == [f"CONNECT 127.0.0.1:{listener.port} HTTP/1.1"]


async def test_a_proxy_that_refuses() -> None:
    async with raw_server() as server, asyncio.TaskGroup() as group:
        group.create_task(server.refuse("407 Proxy Authentication Required"))
        with pytest.raises(ConnectionError):
            await picows.dial("ws://127.0.0.1:9/", proxy=f"http://127.0.0.1:{server.port}")


async def test_a_client_gives_up_at_once_when_refused() -> None:
    async with raw_server() as server, asyncio.TaskGroup() as group:
        group.create_task(server.refuse("401 Unauthorized"))
        with pytest.raises(HandshakeRejected):
            async with Client(server.url, dial=picows.dial, reconnect=Reconnect(initial=0.001)):
                pytest.fail("it is connected")
