"""What is particular about listening with picows."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import tracemalloc

import pytest
from flavours import on_uvloop
from leftovers import turns_until
from raw_websocket import ask, asking, handshake, raw_client
from recorder import Recorder
from served import LIMITS, echo_server, tls

from wsrpc import Client, Handshake, HandshakeRejected, Server, dial
from wsrpc._net.loop_budget import READ
from wsrpc.types import RawConnection
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
        assert seen[0].secure and (on_uvloop() or seen[0].remote is not None)


async def test_over_tls_reading_goes_on_after_a_pause() -> None:
    """What was received, but not yet decrypted, waited for the next packet."""
    context, trusting = tls()
    server = Server(limits=LIMITS)
    texts = [f"{number:1000}" for number in range(400)]
    got: list[str | bytes] = []

    @server.serve_raw
    async def reads(connection: RawConnection) -> None:
        async for message in connection:
            got.append(message)
            await asyncio.sleep(0)

    async with picows.listen(server, "localhost", ssl=context) as listener:
        transport = await dial(f"wss://localhost:{listener.port}/", ssl=trusting, limits=LIMITS)
        Recorder.of(transport)
        for text in texts:
            transport.send(text.encode())
        transport.flush()
        await turns_until(lambda: len(got) == len(texts))
        assert got == texts
        await transport.close()


async def test_over_tls_a_flood_is_handled_in_parts() -> None:
    context, trusting = tls()
    server = Server(limits=LIMITS)
    came: list[int] = []
    server.on("n", came.append)
    message = b'{"a":["n",1]}'
    async with picows.listen(server, "localhost", ssl=context) as listener:
        transport = await dial(f"wss://localhost:{listener.port}/", ssl=trusting, limits=LIMITS)
        Recorder.of(transport)
        events = 16 * READ // len(message)
        for _ in range(events):
            transport.send(message)
        transport.flush()
        most = 0
        async with asyncio.timeout(8):
            while len(came) < events:
                before = len(came)
                await asyncio.sleep(0)
                most = max(most, len(came) - before)
        assert most <= 2 * READ // len(message)  # two reads, because the first is handled while the next one waits
        await transport.close()


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
async def test_what_has_ended_holds_no_messages_without_the_collector(secure: bool, end: str) -> None:
    context, trusting = tls() if secure else (None, None)
    server = echo_server()
    gc.collect()
    gc.disable()
    try:
        async with picows.listen(server, "localhost", ssl=context) as listener:
            url = f"{'wss' if secure else 'ws'}://localhost:{listener.port}/"
            tracemalloc.start(1)
            client = Client(url, dial=picows.dial, ssl=trusting, limits=LIMITS, reconnect=None)
            await client.connect()
            assert len(await client.request("echo", "x" * 1_000_000)) == 1_000_000
            if end == "abort":
                client.peer.info.underlying.underlying_transport.abort()
                await turns_until(lambda: not server.peers)
            await client.close()
            await turns_until(
                lambda: not any(trace.size > 200_000 for trace in tracemalloc.take_snapshot().traces), patience=2
            )
    finally:
        tracemalloc.stop()
        gc.enable()


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
