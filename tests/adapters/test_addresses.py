"""Where adapters listen: TLS, Unix sockets, IPv6, two servers in one application; and paths as they come."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial
from pathlib import Path

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from asgi_servers import SERVERS, Uvicorn
from dialings import DIALINGS, Dialing
from leftovers import turns_until
from raw_websocket import raw_client
from served import LIMITS, echo_server

import wsrpc_adapters.aiohttp
from wsrpc import Client, Peer, Server
from wsrpc_adapters import picows
from wsrpc_adapters.aiohttp import aiohttp_handler
from wsrpc_adapters.asgi import asgi

PEM = Path(__file__).parent / "localhost.pem"
ODD = "/a%2Fb%20%C3%BC?x=%C3%BC&y=1+2&z"


async def only_peer(server: Server) -> Peer:
    await turns_until(lambda: len(server.peers) == 1)
    return server.peers[0]


def is_odd(peer: Peer) -> None:
    assert peer.info.target == ODD
    assert (peer.info.path, dict(peer.info.query)) == ("/a/b ü", {"x": "ü", "y": "1 2", "z": ""})


async def running(**servers: Server) -> web.AppRunner:
    """An aiohttp application with a route for each of ``servers``, which it closes."""
    app = web.Application()
    for name, server in servers.items():
        app.router.add_get(f"/{name}", aiohttp_handler(server))

    async def close(app: web.Application) -> None:
        await asyncio.gather(*(server.close() for server in servers.values()))

    app.on_shutdown.append(close)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    return runner


@pytest.mark.parametrize("dialing", DIALINGS, ids=repr)
async def test_aiohttp_over_tls(dialing: Dialing) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    trusting = ssl.create_default_context(cafile=str(PEM))
    server = echo_server()
    runner = await running(ws=server)
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"wss://localhost:{runner.addresses[0][1]}/ws"
    async with Client(url, ssl=trusting, dial=dialing.dial, limits=LIMITS) as client:
        assert await client.request("echo", "x" * 3_000_000) == "x" * 3_000_000
        remote = server.peers[0].info.remote
        assert remote is not None and remote[0] == "127.0.0.1"
    await runner.cleanup()


async def test_aiohttp_on_a_unix_socket(tmp_path: Path) -> None:
    server = echo_server()
    runner = await running(ws=server)
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "socket"))) as session:
        dial = partial(wsrpc_adapters.aiohttp.dial, session=session)
        async with Client("ws://localhost/ws?a=b", dial=dial, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            info = (await only_peer(server)).info
            assert (info.path, dict(info.query), info.remote, info.local) == ("/ws", {"a": "b"}, None, None)
    await runner.cleanup()


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
async def test_uvicorn_on_a_unix_socket(tmp_path: Path, ws: str) -> None:
    server = echo_server()
    path = str(tmp_path / "socket")
    server_of_asgi = Uvicorn(uvicorn.Config(asgi(server), uds=path, log_config=None, ws=ws))
    serving = asyncio.create_task(server_of_asgi.serve())
    await turns_until(lambda: server_of_asgi.started)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        dial = partial(wsrpc_adapters.aiohttp.dial, session=session)
        async with Client("ws://localhost" + ODD, dial=dial, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            peer = await only_peer(server)
            assert (peer.info.remote, peer.info.local) == (None, None)
            is_odd(peer)
    server_of_asgi.should_exit = True
    await serving


@pytest.mark.parametrize("run", SERVERS)
async def test_a_path_is_as_it_came_under_every_asgi_server(run: str) -> None:
    server = echo_server()
    async with SERVERS[run](asgi(server)) as port, raw_client(port, ODD) as raw:
        is_odd(await only_peer(server))
        raw.drop()
        await server.close()


async def test_picows_over_ipv6() -> None:
    server = echo_server()
    async with picows.listen(server, "::1") as listener:
        async with Client(listener.url + ODD[1:], dial=picows.dial, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            peer = await only_peer(server)
            is_odd(peer)
            assert peer.info.remote is not None and peer.info.local == ("::1", listener.port)


async def test_two_servers_in_one_application() -> None:
    one, two = echo_server(), echo_server()
    runner = await running(one=one, two=two)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"ws://127.0.0.1:{runner.addresses[0][1]}/"
    async with Client(url + "one", reconnect=None) as first, Client(url + "two") as second:
        assert await first.request("echo", 1) == await second.request("echo", 1) == 1
        await one.close()
        assert await second.request("echo", 2) == 2
        assert (len(one.peers), len(two.peers)) == (0, 1)
    await runner.cleanup()
