"""What only the adapter for aiohttp has: an application around the server, a session around the client."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from leftovers import turns_until
from raw_websocket import ask, handshake, head_of
from served import LIMITS, Observed, echo_server

from wsrpc import Client, Handshake, HandshakeRejected, Server, current_peer
from wsrpc.adapting import ServerUpgrade
from wsrpc_adapters.aiohttp import aiohttp_handler, dial, serve

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def running(app: web.Application, **options: float) -> AsyncGenerator[str]:
    """The URL of an application's ``/ws``; at the end it is shut down."""
    runner = web.AppRunner(app, access_log=None, **options)  # type: ignore[arg-type]
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/ws"
    finally:
        await runner.cleanup()


def closes(app: web.Application, server: Server, drain: float = 0.0) -> None:
    async def close(app: web.Application) -> None:
        await server.close(drain)

    app.on_shutdown.append(close)


async def test_a_signal_leaves_out_the_server_header() -> None:
    async def without_server_header(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.pop("Server", None)

    server = echo_server()
    server.on_handshake(lambda given: given.reject(401, "no") if "no" in given.query else None)
    app = web.Application()
    app.router.add_get("/ws", aiohttp_handler(server))
    app.on_response_prepare.append(without_server_header)
    closes(app, server)
    async with running(app) as url:
        port = urlsplit(url).port or 0
        accepted, refused = [await head_of(port, handshake(path)) for path in ("/ws", "/ws?no")]
    assert accepted.startswith(b"HTTP/1.1 101 ") and refused.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nserver:" not in (accepted + refused).lower()


async def test_other_routes_go_on() -> None:
    server = echo_server()
    app = web.Application()
    app.router.add_get("/ws", aiohttp_handler(server))

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=f"{len(server.peers)} are here")

    app.router.add_get("/", hello)
    closes(app, server)
    async with running(app) as url, Client(url, limits=LIMITS) as client, aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(url.replace("/ws", "/")) as response:
                assert await response.text() == "1 are here"
            assert await client.request("echo", 1) == 1
        async with session.get(url) as response:
            assert (response.status, response.headers["Upgrade"]) == (426, "websocket")
            assert "WebSocket" in await response.text()
        async with session.head(url) as response:
            assert response.status == 400


async def test_a_handler_of_one_s_own_gives_state() -> None:
    server = Server(limits=LIMITS)
    server.on("who", lambda: current_peer().state["user"])

    @server.on_handshake
    def gate(given: object) -> None:
        assert given.state["user"] != "eve"  # type: ignore[attr-defined]

    async def handler(request: web.Request) -> web.StreamResponse:
        if "user" not in request.query:
            raise web.HTTPUnauthorized(text="who are you?")
        return await serve(server, request, state={"user": request.query["user"]})

    app = web.Application()
    app.router.add_get("/ws", handler)
    closes(app, server)
    async with running(app) as url:
        async with Client(url + "?user=ada", limits=LIMITS) as client:
            assert await client.request("who") == "ada"
        for query, status in (("", 401), ("?user=eve", 500)):
            with pytest.raises(HandshakeRejected) as caught:
                await dial(url + query, limits=LIMITS)
            assert caught.value.status == status


async def test_middlewares_and_what_is_added_to_each_response() -> None:
    server = echo_server()
    seen: list[str] = []

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        seen.append("begins")
        response = await handler(request)
        seen.append(str(response.status))
        return response

    app = web.Application(middlewares=[count])
    app.router.add_get("/ws", aiohttp_handler(server))

    async def add_header(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Node"] = "7"

    app.on_response_prepare.append(add_header)
    closes(app, server)
    async with running(app) as url:
        async with Client(url, limits=LIMITS) as client:
            assert client.peer.info.underlying.response.headers["X-Node"] == "7"
            assert seen == ["begins"]
        await turns_until(lambda: seen == ["begins", "101"])


@pytest.mark.parametrize("value", [b"\xe4\xb8\xad", b"\xff"], ids=["utf-8", "bytes"])
@pytest.mark.parametrize("name", [b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Upgrade", b"X-Name"])
async def test_a_header_that_cannot_be_read_is_the_client_s_fault(
    name: bytes, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = echo_server()
    app = web.Application()
    app.router.add_get("/ws", aiohttp_handler(server))
    closes(app, server)
    lines = handshake("/ws", "X-Name: me", "Authorization: Bearer s3cr3t").split(b"\r\n")
    request = b"\r\n".join(name + b": " + value if line.startswith(name) else line for line in lines)
    async with running(app) as url:
        answer = await head_of(urlsplit(url).port or 0, request)
    opened = name == b"X-Name"
    assert answer.split()[1] in ([b"101"] if opened else [b"400", b"426"]), answer
    assert not [record for record in caplog.records if record.exc_info] and "s3cr3t" not in caplog.text


def test_a_header_that_an_http_server_let_pass_is_refused_without_quoting_it() -> None:
    upgrade = ServerUpgrade(Handshake("/ws", {"authorization": "Bearer s3cr3t\x7f"}))
    assert (upgrade.status, upgrade.headers["Connection"]) == (400, "close")
    assert "'authorization'" in upgrade.body and "s3cr3t" not in upgrade.body


async def test_an_application_that_shuts_down_drains() -> None:
    server = Server(limits=LIMITS)
    started, go = asyncio.Event(), asyncio.Event()

    @server.on("work")
    async def work() -> str:
        started.set()
        await go.wait()
        return "done"

    app = web.Application()
    app.router.add_get("/ws", aiohttp_handler(server))
    closes(app, server, drain=60)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with Observed(f"ws://127.0.0.1:{runner.addresses[0][1]}/ws") as seen:
        working = asyncio.create_task(seen.client.request("work"))
        await started.wait()
        ending = asyncio.create_task(runner.cleanup())
        await turns_until(lambda: repr(server) == "<Server draining, 1 peers>")
        go.set()
        assert await working == "done"
        info = await seen.ended
        assert (info.code, info.was_clean) == (1012, True)
        await ending


async def test_an_application_that_never_closes_its_server_ends_all_the_same() -> None:
    server = echo_server()
    app = web.Application()
    app.router.add_get("/ws", aiohttp_handler(server))
    async with running(app, shutdown_timeout=0.05) as url:
        seen = Observed(url)
        await seen.client.connect()
    assert not (await seen.ended).was_clean
    await turns_until(lambda: server.peers == ())
    await seen.client.close()
    await server.close()


@pytest.mark.parametrize("cancels", [False, True])
async def test_a_client_that_leaves_while_on_handshake_waits(cancels: bool) -> None:
    server = echo_server()
    asked, go = asyncio.Event(), asyncio.Event()

    @server.on_handshake
    async def gate(given: object) -> None:
        asked.set()
        await go.wait()

    app = web.Application()
    app.router.add_get("/ws", aiohttp_handler(server))
    closes(app, server)
    async with running(app, handler_cancellation=cancels) as url:
        port = int(url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(handshake("/ws"))
        await asked.wait()
        writer.transport.abort()
        with pytest.raises((OSError, EOFError)):
            await reader.readexactly(1)
        go.set()
        async with Client(url, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            assert len(server.peers) == 1


async def test_http_1_0_and_other_methods_are_refused() -> None:
    server = echo_server()
    app = web.Application()
    app.router.add_route("*", "/ws", aiohttp_handler(server))
    closes(app, server)
    async with running(app) as url:
        port = int(url.split(":")[2].split("/")[0])
        for request in (
            handshake("/ws").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
            handshake("/ws", "Content-Length: 0").replace(b"GET", b"POST", 1),
            handshake("/ws").replace(b"GET", b"HEAD", 1),
            b"HEAD /ws HTTP/1.1\r\nHost: a\r\n\r\n",  # as a check of a route sends it
        ):
            async with asyncio.timeout(10):  # the connection ends; else it would look as if a next request could come
                assert (await ask(port, request)).split(b" ")[1] == b"400"
        assert server.peers == ()


async def test_a_session_of_one_s_own_brings_its_cookies_and_may_be_closed() -> None:
    server = echo_server()
    async with server.listen() as listener:
        async with aiohttp.ClientSession(cookies={"who": "ada"}, headers={"X-Mine": "yes"}) as session:
            client = Client(listener.url, dial=partial(dial, session=session), limits=LIMITS, reconnect=None)
            await client.connect()
            [peer] = server.peers
            assert (peer.info.headers["cookie"], peer.info.headers["x-mine"]) == ("who=ada", "yes")
        assert await client.request("echo", 1) == 1
        await client.close()


async def test_a_redirect_is_followed() -> None:
    server = echo_server()
    app = web.Application()
    app.router.add_get("/ws", aiohttp_handler(server))

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/ws")

    app.router.add_get("/old", elsewhere)
    closes(app, server)
    async with running(app) as url:
        async with Client(url.replace("/ws", "/old"), dial=dial, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1


@pytest.mark.parametrize("who", ["ours", "theirs"])
async def test_compression(who: str) -> None:
    server = echo_server(compression=True)
    app = web.Application()
    app.router.add_get("/ws", aiohttp_handler(server))
    closes(app, server)
    async with running(app) as url:
        if who == "ours":
            async with Client(url, dial=dial, compression=True, limits=LIMITS) as client:
                assert await client.request("echo", "x" * 300_000) == "x" * 300_000
                assert client.peer.info.underlying.response.headers["Sec-WebSocket-Extensions"]
        else:  # aiohttp's own client, which knows nothing of wsrpc
            async with aiohttp.ClientSession() as session, session.ws_connect(url, compress=15) as ws:
                await ws.send_json({"i": 1, "a": ["echo", "x" * 10_000]})
                assert await ws.receive_json() == {"i": 1, "d": "x" * 10_000}
                assert ws.compress


def test_without_aiohttp_the_error_says_what_to_install() -> None:
    program = "import sys; sys.modules['aiohttp'] = None; import wsrpc_adapters; import wsrpc_adapters.aiohttp"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install python-wsrpc[aiohttp]" in ran.stderr
