"""`Server.listen`, `run` and `accept`: where connections come from, and which are refused."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote

import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import CLOSE, TEXT, ask, handshake, raw_client
from websockets.asyncio.client import unix_connect

from wsrpc import Client, ConnectionLost, HandshakeRejected, Limits, Peer, Server, dial
from wsrpc.testing import memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)

PEM = Path(__file__).parents[2] / "adapters" / "localhost.pem"


def echo_server(**options: object) -> Server:
    server = Server(**{"limits": LIMITS} | options)  # type: ignore[arg-type]
    server.on("echo", lambda value: value)
    return server


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_port_0_picks_one_and_says_which() -> None:
    async with echo_server().listen("127.0.0.1", 0, path="/ws") as listener:
        assert listener.port > 0
        assert listener.url == f"ws://127.0.0.1:{listener.port}/ws"
        async with Client(listener.url, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1


async def test_a_given_port_can_be_used_again_at_once() -> None:
    async with echo_server().listen() as listener:
        port = listener.port
        async with Client(listener.url, limits=LIMITS) as client:
            await client.request("echo", 1)
    async with echo_server().listen("127.0.0.1", port) as listener:
        assert listener.port == port


async def test_a_port_in_use_is_an_os_error() -> None:
    async with echo_server().listen() as listener:
        with pytest.raises(OSError):
            async with echo_server().listen(port=listener.port):
                pytest.fail("both listen")


async def test_without_a_path_any_is_accepted() -> None:
    server = echo_server()
    async with server.listen() as listener:
        assert listener.url == f"ws://127.0.0.1:{listener.port}/"
        for path in ("", "a", "a/b?c=d&c=e&f="):
            async with Client(listener.url + path, limits=LIMITS) as client:
                await client.request("echo", 1)
                (peer,) = server.peers
                assert peer.info.path == "/" + path.split("?")[0]
                assert set(peer.info.query) == ({"c", "f"} if "?" in path else set())


@pytest.mark.parametrize("path", ["/café", "/a b", "/caf%C3%A9", "/a+b"])
async def test_a_path_may_need_to_be_encoded(path: str) -> None:
    server = echo_server()
    async with server.listen(path=path) as listener:
        assert listener.url.isascii()
        async with Client(listener.url, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            assert server.peers[0].info.path == unquote(path)
        with pytest.raises(HandshakeRejected):
            await dial(listener.url + "x", limits=LIMITS)
    with pytest.raises(ValueError, match="path= is a path without a query, got '/a\\?b'"):
        async with server.listen(path="/a?b"):
            pytest.fail("it listens")


async def test_with_a_path_others_get_404() -> None:
    async with echo_server().listen(path="/ws") as listener:
        async with Client(f"{listener.url}?token=x", limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
        base = f"ws://127.0.0.1:{listener.port}"
        for path in ("/", "/other", "/ws/", "/ws2", "/WS", "/x/ws"):
            with pytest.raises(HandshakeRejected) as caught:
                await dial(base + path, limits=LIMITS)
            assert caught.value.status == 404
            assert "/ws" in caught.value.body
        assert status(await ask(listener.port, handshake("//host/ws"))) == 404


async def test_ipv6() -> None:
    # Needs the loopback interface to have ::1, as it has unless IPv6 was switched off.
    async with echo_server().listen("::1") as listener:
        assert listener.url == f"ws://[::1]:{listener.port}/"
        async with Client(listener.url, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", None])
async def test_all_addresses_has_a_url_that_works_here(host: str | None) -> None:
    async with echo_server().listen(host) as listener:
        async with Client(listener.url, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1


async def test_a_socket_of_one_s_own() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    async with echo_server().listen(sock=sock) as listener:
        assert listener.port == sock.getsockname()[1]
        async with Client(listener.url, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1


@pytest.mark.parametrize("own", [True, False])
async def test_small_messages_are_not_held_back_until_the_one_before_is_acknowledged(own: bool) -> None:
    """Also on a socket of the user's own, of which asyncio does not see that it is TCP."""
    where = {"sock": socket.create_server(("127.0.0.1", 0))} if own else {"host": "127.0.0.1", "port": 0}
    server = echo_server()
    async with server.listen(**where) as listener, Client(listener.url, limits=LIMITS) as client:
        await client.request("echo", 1)
        (peer,) = server.peers
        for end in (peer, client.peer):
            sock = end.info.underlying.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_unix_socket() -> None:
    server = echo_server()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        async with server.listen(unix=path) as listener:
            assert listener.port == 0
            assert listener.url.startswith("ws://")
            async with unix_connect(path) as raw:
                await raw.send('{"i":1,"a":["echo","over unix"]}')
                assert await raw.recv() == '{"i":1,"d":"over unix"}'
                (peer,) = server.peers
                assert peer.info.remote is None
                assert repr(peer)


async def test_several_listeners_for_one_server() -> None:
    server = echo_server()
    async with server.listen(path="/one") as one:
        async with server.listen(path="/two") as two:
            async with Client(one.url, limits=LIMITS) as first, Client(two.url, limits=LIMITS) as second:
                assert await first.request("echo", 1) == await second.request("echo", 1) == 1
                assert len(server.peers) == 2
                assert {peer.info.path for peer in server.peers} == {"/one", "/two"}


async def test_before_and_after_listening_the_address_is_a_clear_error_or_known() -> None:
    server = echo_server()
    listening = server.listen()
    with pytest.raises(RuntimeError, match="async with"):
        _ = listening.url
    async with listening as listener:
        port = listener.port
    assert listener.port == port
    assert listener.url == f"ws://127.0.0.1:{port}/"


async def test_serve_forever_ends_with_the_server() -> None:
    server = echo_server()
    async with server.listen():
        serving = [asyncio.create_task(server.serve_forever()) for _ in range(2)]
        leaves = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        assert not any(task.done() for task in serving)
        await server.close()
        await asyncio.gather(*serving)
    await server.serve_forever()


# ---------------------------------------------------------------- origins


async def test_the_origin_of_the_host_itself_is_allowed() -> None:
    async with echo_server().listen() as listener:
        host = f"127.0.0.1:{listener.port}"
        for origin in (f"http://{host}", f"https://{host}"):
            async with Client(listener.url, headers={"Origin": origin}, limits=LIMITS) as client:
                assert await client.request("echo", 1) == 1
        for head in (f"Origin: http://{host.upper()}", "X-Nothing: here"):
            async with raw_client(listener.port, "/", head) as raw:
                await raw.send(raw.frame(TEXT, '{"i":1,"a":["echo",1]}'))
                assert (await raw.next_frame()).payload == b'{"i":1,"d":1}'


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://127.0.0.1",
        "null",
        "",
        "http://127.0.0.1.evil.example",
        "http://[",
        "garbage",
        "file://",
    ],
)
async def test_another_origin_is_refused_and_the_log_has_the_line_to_paste(
    origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = echo_server()
    async with server.listen() as listener:
        answer = await ask(listener.port, handshake("/", f"Origin: {origin}", host=f"127.0.0.1:{listener.port}"))
        assert status(answer) == 403
        assert server.peers == ()
    malformed = origin in ("", "http://[", "garbage")
    hint = "it is malformed" if malformed else f"to allow it: Server(origins=[{origin!r}])"
    lines = [record for record in caplog.records if f"refused the origin {origin!r}; {hint}" in record.getMessage()]
    assert [(record.name, record.levelno) for record in lines] == [("wsrpc", logging.WARNING)]


async def test_origins_that_are_listed_may_come() -> None:
    server = echo_server(origins=["https://app.example", "http://localhost:3000"])
    async with server.listen() as listener:
        for origin in ("https://app.example", "http://localhost:3000"):
            async with Client(listener.url, headers={"Origin": origin}, limits=LIMITS) as client:
                assert await client.request("echo", 1) == 1
                (peer,) = server.peers
                assert peer.info.origin == origin
        for origin in ("http://app.example", "https://app.example:8443", "https://sub.app.example"):
            with pytest.raises(HandshakeRejected) as caught:
                await dial(listener.url, limits=LIMITS, headers={"Origin": origin})
            assert caught.value.status == 403


# ---------------------------------------------------------------- no handshake


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n",
        b"GET " + b"/x" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    ],
    ids=["plain get", "post", "tls", "long line", "nothing", "many headers"],
)
async def test_what_is_no_handshake_harms_nobody(request_bytes: bytes) -> None:
    server = echo_server()
    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS) as client:
            await ask(listener.port, request_bytes)
            assert await client.request("echo", 1) == 1
            assert len(server.peers) == 1


async def test_a_handshake_that_never_ends_is_dropped() -> None:
    server = echo_server(limits=LIMITS.replace(open_timeout=0.05))
    async with server.listen() as listener:
        assert await ask(listener.port, b"GET / HTTP/1.1\r\nHost: x\r\n") is not None


async def test_a_handshake_that_never_ends_does_not_hold_up_closing() -> None:
    server = echo_server(limits=LIMITS.replace(open_timeout=1000.0, close_timeout=0.1))
    with socket.socket() as sock:
        async with server.listen() as listener:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", listener.port))
            await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.1\r\nHost:")
            async with Client(listener.url, limits=LIMITS) as client:  # by now the first one was accepted, too
                await client.request("echo", 1)
            async with asyncio.timeout(8):
                await server.close()


async def test_a_tls_handshake_that_never_ends_does_not_hold_up_closing() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    server = echo_server(limits=LIMITS.replace(open_timeout=1000.0, close_timeout=0.1))
    with socket.socket() as sock:
        async with server.listen(ssl=context) as listener:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", listener.port))
            trusting = ssl.create_default_context(cafile=str(PEM))
            async with Client(listener.url, ssl=trusting, limits=LIMITS) as client:
                await client.request("echo", 1)
            async with asyncio.timeout(8):
                await server.close()


# ---------------------------------------------------------------- accept


async def test_accept_takes_any_transport() -> None:
    server = echo_server()
    opened: list[Peer] = []
    server.on("open", opened.append)
    ours, theirs = memory_transports(path="/x?y=z", headers={"X-Name": "Ada"})
    async with Client(transport=ours, limits=LIMITS) as client:
        peer = await server.accept(theirs)
        assert opened == [peer] == list(server.peers)
        assert (peer.info.path, dict(peer.info.query), peer.info.headers["x-name"]) == ("/x", {"y": "z"}, "Ada")
        assert await client.request("echo", 1) == 1
    await peer.wait_closed()
    assert server.peers == ()
    await server.close()


async def test_accept_refuses_after_close() -> None:
    server = echo_server()
    await server.close()
    ours, theirs = memory_transports()
    ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    client = Client(limits=LIMITS)
    client.on("close", lambda peer, info: ended.set_result(info))
    await client.bind(ours)
    with pytest.raises(ConnectionLost) as caught:
        await server.accept(theirs)
    assert (caught.value.code, caught.value.outcome) == (1012, "not_sent")
    assert (await ended).code == 1012  # type: ignore[attr-defined]
    assert server.peers == ()
    await client.close()


async def test_an_open_handler_that_raises_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    server = echo_server()

    @server.on("open")
    def opened(peer: Peer) -> None:
        if "bad" in peer.info.query:
            raise RuntimeError("went wrong in open")

    @server.on("connect")
    async def connected(peer: Peer) -> None:
        if "bad" in peer.info.query:
            raise RuntimeError("went wrong in connect")

    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS) as good, Client(listener.url + "?bad", limits=LIMITS):
            assert await good.request("echo", 1) == 1
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert {(record.name, str(record.exc_info[1])) for record in errors if record.exc_info} == {
        ("wsrpc", "went wrong in open"),
        ("wsrpc", "went wrong in connect"),
    }


async def test_an_open_handler_that_closes_the_connection() -> None:
    server = echo_server()
    server.on("open", lambda peer: peer.close(4001, "not you"))
    async with server.listen() as listener:
        async with raw_client(listener.port) as raw:
            frame = await raw.next_of(CLOSE)
            assert (frame.code, frame.reason) == (4001, "not you")


# ---------------------------------------------------------------- a whole program

PROGRAM = """
import logging, sys
from wsrpc import Server
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(message)s")
server = Server()
server.on("echo", lambda value: value)
server.run("127.0.0.1", 0, path="/ws")
print("the end")
"""


async def test_run_as_a_program_ended_by_sigint() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-X", "dev", "-c", PROGRAM),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        assert process.stdout is not None
        url = ""
        async for line in process.stdout:
            if line.startswith(b"wsrpc listening on "):
                url = line.decode().split()[-1]
                break
        assert url.endswith("/ws")
        ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        client = Client(url, reconnect=None, limits=LIMITS)
        client.on("close", lambda peer, info: ended.set_result(info))
        await client.connect()
        assert await client.request("echo", "hello") == "hello"
        process.send_signal(signal.SIGINT)
        info = await ended
        assert (info.code, info.was_clean) == (1012, True)  # type: ignore[attr-defined]
        await client.close()
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        assert b"the end" in out
        assert err == b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
