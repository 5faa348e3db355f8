"""Every place where a server runs: `Server.serve_raw`, whole connections without protocol."""

from __future__ import annotations

import asyncio

import pytest
from hosts import Host
from raw_websocket import BINARY, CLOSE, CONT, TEXT, RawPeer
from served import LIMITS, hosts, raw

from wsrpc import CloseInfo, ConnectionLost, MessageTooBig, Server
from wsrpc.types import RawConnection


async def expect(peer: RawPeer, *messages: tuple[int, bytes]) -> None:
    for opcode, payload in messages:
        frame = await peer.next_frame()
        assert (frame.opcode, frame.payload, frame.fin) == (opcode, payload, True)


@hosts
async def test_echo_in_order_and_of_every_size(host: Host) -> None:
    server = Server(limits=LIMITS.replace(message=6_000_000))

    @server.serve_raw
    async def echo(connection: RawConnection) -> None:
        async for message in connection:
            await connection.send(message)

    sizes = [0, 1, 125, 126, 65_536, 5_000_000, *range(1000)]
    messages = [message for size in sizes for message in ((TEXT, b"x" * size), (BINARY, b"\xff" * size))]
    async with host.serving(server) as url, raw(url) as peer:
        await asyncio.gather(peer.send(*(peer.frame(*message) for message in messages)), expect(peer, *messages))


@hosts
async def test_a_message_over_max_size_is_thrown_away_and_one_over_the_limit_closes(host: Host) -> None:
    server = Server(limits=LIMITS.replace(message=1000))
    ended: asyncio.Future[ConnectionLost] = asyncio.get_running_loop().create_future()

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        for _ in range(2):
            with pytest.raises(MessageTooBig):
                await connection.receive(max_size=10)
        await connection.send(await connection.receive())
        with pytest.raises(ConnectionLost) as caught:
            await connection.receive()
        ended.set_result(caught.value)

    async with host.serving(server) as url, raw(url) as peer:
        await peer.send(peer.frame(TEXT, "x" * 11))
        await peer.send(peer.frame(BINARY, "x" * 10, fin=False), peer.frame(CONT, "y"), peer.frame(TEXT, "x" * 1000))
        await expect(peer, (TEXT, b"x" * 1000))
        await peer.send(peer.frame(BINARY, "x" * 600, fin=False), peer.frame(CONT, "x" * 401))
        assert (await peer.next_of(CLOSE)).code == 1009
        peer.drop()
        assert (await ended).code == 1009


@hosts
@pytest.mark.parametrize("who", ["function", "server", "client", "return", "raise", "drop"])
async def test_how_it_ends(host: Host, who: str, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)
    infos: asyncio.Queue[CloseInfo] = asyncio.Queue()

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        try:
            await connection.receive()
            if who == "function":
                await connection.close(4001, "enough")
            elif who == "server":
                closing.append(asyncio.create_task(server.close()))
            elif who == "raise":
                raise LookupError("a mistake")
            if who in ("server", "client", "drop"):
                await connection.receive()
        finally:
            if connection.closed:
                infos.put_nowait(await connection.wait_closed())

    closing: list[asyncio.Task[None]] = []
    async with host.serving(server) as url, raw(url) as peer:
        await peer.send(peer.frame(TEXT, "begin"))
        if who == "drop":
            peer.drop()
            assert (await infos.get()).code == 1006
        elif who == "client":
            await peer.send(peer.close_frame(4002, "bye"))
            assert (await peer.next_of(CLOSE)).code == 4002
            peer.drop()
            info = await infos.get()
            assert (info.code, info.reason) == ((1006, "") if "close code" in host.cannot else (4002, "bye"))
        else:
            frame = await peer.next_of(CLOSE)
            assert frame.code == {"function": 4001, "server": 1012, "return": 1000, "raise": 1011}[who]
            await peer.send(peer.close_frame(frame.code))
            peer.drop()
        await asyncio.gather(*closing)
    assert ("a mistake" in caplog.text) is (who == "raise")
