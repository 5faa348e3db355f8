"""Every place where a server runs: a server whose host has ended is served again, by another one."""

from __future__ import annotations

import pytest
from hosts import Host
from served import LIMITS, echo_server, hosts

from wsrpc import Client


@hosts
async def test_a_server_is_served_again(host: Host) -> None:
    server = echo_server()
    ids: set[str] = set()
    for _ in range(3):
        async with host.serving(server) as url:
            async with Client(url, limits=LIMITS, reconnect=None) as client:
                assert await client.request("echo", "x") == "x"
                assert server.healthy and server.stats().accepted == 1
                [peer] = server.peers
                ids.add(peer.id)
                assert (await server.emit("news")).sent == 1
        assert not server.healthy and server.peers == ()
    assert len(ids) == 3


@hosts
async def test_each_end_closes_the_connections_that_are_left(host: Host) -> None:
    server = echo_server()
    for _ in range(2):
        client: Client | None = None
        async with host.serving(server) as url:
            client = Client(url, limits=LIMITS, reconnect=None)
            await client.connect()
        await client.peer.wait_closed()
        assert server.peers == () and sum(server.stats().closed.values()) == 1
        await client.close()


@hosts
async def test_a_host_that_fails_closes_the_server_and_the_next_one_serves(host: Host) -> None:
    server = echo_server()
    with pytest.raises(ZeroDivisionError):
        async with host.serving(server) as url, Client(url, limits=LIMITS, reconnect=None):
            raise ZeroDivisionError
    async with host.serving(server) as url, Client(url, limits=LIMITS, reconnect=None) as client:
        assert await client.request("echo", "x") == "x"
