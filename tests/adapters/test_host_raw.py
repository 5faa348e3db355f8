"""Every place where a server runs: `Server.serve_raw`, whole connections without protocol."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from hosts import CA, Host, over_tls
from raw_websocket import CLOSE, TEXT
from served import LIMITS, hosts, raw
from waiting import until

from wsrpc import CloseInfo, Server, dial
from wsrpc.types import RawConnection


@hosts
@pytest.mark.parametrize("who", ["function", "client", "drop"])
async def test_how_it_ends(host: Host, who: str) -> None:
    server = Server(limits=LIMITS)
    infos: asyncio.Queue[CloseInfo] = asyncio.Queue()

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        await connection.send(await connection.receive())
        if who == "function":
            await connection.close(4001, "enough")
        infos.put_nowait(await connection.wait_closed())

    async with host.serving(server) as url, raw(url) as peer:
        await peer.send(peer.frame(TEXT, "begin"))
        assert (await peer.next_frame()).payload == b"begin"
        if who != "drop":
            await peer.send(*([peer.close_frame(4002, "bye")] if who == "client" else []))
            code = (await peer.next_of(CLOSE)).code
            assert code == (4002 if who == "client" else 4001)
            await peer.send(*([peer.close_frame(code)] if who == "function" else []))
        peer.drop()
        info = await infos.get()
        if who == "drop" or (who == "client" and "close code" in host.cannot):
            assert info.code == 1006
        else:
            assert (info.code, info.reason) == ((4001, "enough") if who == "function" else (4002, "bye"))


@hosts
async def test_stats_after_the_end_over_tls(host: Host) -> None:
    """While the function had more to do, `Server.stats` raised AttributeError, and the end was never counted."""
    server = Server(limits=LIMITS)
    ended, released = asyncio.Event(), asyncio.Event()

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        await connection.wait_closed()
        ended.set()
        await released.wait()

    async with over_tls(host, server) as url:
        transport = await dial(url, ssl=ssl.create_default_context(cafile=CA), limits=LIMITS)
        await until(lambda: server.stats().peers)
        transport.abort()
        await ended.wait()
        for _ in range(10):  # the host closes what it takes for its own
            await asyncio.sleep(0)
        assert server.stats().unsent_bytes == 0
        released.set()
        await until(lambda: not server.stats().peers)
        assert sum(server.stats().closed.values()) == 1
