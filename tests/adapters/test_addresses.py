"""Where adapters listen: TLS, Unix sockets, IPv6, two servers in one application; and paths as they come."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import aiohttp
import pytest
import uvicorn
from asgi_servers import Uvicorn
from leftovers import turns_until
from served import LIMITS, echo_server

import wsrpc_adapters.aiohttp
from wsrpc import Client, Peer, Server
from wsrpc_adapters import picows
from wsrpc_adapters.asgi import asgi

PEM = Path(__file__).parent / "localhost.pem"
ODD = "/a%2Fb%20%C3%BC?x=%C3%BC&y=1+2&z"


async def only_peer(server: Server) -> Peer:
    await turns_until(lambda: len(server.peers) == 1)
    return server.peers[0]


def is_odd(peer: Peer) -> None:
    assert peer.info.target == ODD
    assert (peer.info.path, dict(peer.info.query)) == ("/a/b ü", {"x": "ü", "y": "1 2", "z": ""})


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


async def test_picows_over_ipv6() -> None:
    server = echo_server()
    async with picows.listen(server, "::1") as listener:
        async with Client(listener.url + ODD[1:], dial=picows.dial, limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1
            peer = await only_peer(server)
            is_odd(peer)
            assert peer.info.remote is not None and peer.info.local == ("::1", listener.port)
