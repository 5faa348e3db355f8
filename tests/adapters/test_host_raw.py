"""Every place where a server runs: `Server.serve_raw`, whole connections without protocol."""

from __future__ import annotations

import asyncio

import pytest
from hosts import Host
from leftovers import turns_until
from raw_websocket import BINARY, CLOSE, CONT, TEXT
from served import LIMITS, hosts, raw

from wsrpc import CloseInfo, ConnectionLost, MessageTooBig, Server
from wsrpc.types import RawConnection


@hosts
async def test_echo_in_order_and_of_every_size(host: Host) -> None:
    server = Server(limits=LIMITS.replace(message=6_000_000))

    @server.serve_raw
    async def echo(connection: RawConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with host.serving(server) as url, raw(url) as peer:
        for size in (0, 1, 125, 126, 65_536, 5_000_000):
            await asyncio.gather(
                peer.send(peer.frame(TEXT, "x" * size), peer.frame(BINARY, b"\xff" * size)),
                expect(peer, (TEXT, b"x" * size), (BINARY, b"\xff" * size)),
            )
        frames = [peer.frame(TEXT if number % 2 else BINARY, b"%d" % number) for number in range(2000)]
        await asyncio.gather(
            peer.send(*frames), expect(peer, *((TEXT if n % 2 else BINARY, b"%d" % n) for n in range(2000)))
        )


async def expect(peer: object, *messages: tuple[int, bytes]) -> None:
    for opcode, payload in messages:
        frame = await peer.next_frame()  # type: ignore[attr-defined]
        assert (frame.opcode, frame.payload, frame.fin) == (opcode, payload, True)


@hosts
async def test_pieces_in(host: Host) -> None:
    server = Server(limits=LIMITS.replace(message=100_000))
    got: asyncio.Queue[str | bytes] = asyncio.Queue()

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        async for piece in connection.pieces():
            got.put_nowait(piece)
        async for piece in connection.pieces():
            got.put_nowait(piece)

    async with host.serving(server) as url, raw(url) as peer:
        await peer.send(peer.frame(TEXT, "grü".encode()[:3], fin=False))
        if "pieces in" not in host.cannot:
            assert await got.get() == "gr"
        await peer.send(peer.frame(CONT, "grüße".encode()[3:]))
        assert await got.get() == ("grüße" if "pieces in" in host.cannot else "üße")
        # The whole is larger than any message may be, where it need not be kept.
        parts = [bytes([number]) * 60_000 for number in range(1 if "pieces in" in host.cannot else 5)]
        for number, part in enumerate(parts):
            fin = number == len(parts) - 1
            await peer.send(peer.frame(CONT if number else BINARY, part, fin=fin))
        seen = b""
        while len(seen) < 60_000 * len(parts):
            piece = await got.get()
            assert isinstance(piece, bytes)
            seen += piece
        assert seen == b"".join(parts)
        assert (await peer.next_of(CLOSE)).code == 1000


@hosts
async def test_pieces_out(host: Host) -> None:
    server = Server(limits=LIMITS)

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        await connection.send(str(number) for number in range(5))
        await connection.send(b"whole")

    async with host.serving(server) as url, raw(url) as peer:
        frames = [await peer.next_frame()]
        while not frames[-1].fin:
            frames.append(await peer.next_frame())
        assert b"".join(frame.payload for frame in frames) == b"01234"
        assert len(frames) == (1 if "pieces out" in host.cannot else 6)
        await expect(peer, (BINARY, b"whole"))
        assert (await peer.next_of(CLOSE)).code == 1000


@hosts
async def test_a_message_over_max_size_is_thrown_away_and_one_over_the_limit_closes(host: Host) -> None:
    server = Server(limits=LIMITS.replace(message=1000))
    ended: asyncio.Future[ConnectionLost] = asyncio.get_running_loop().create_future()

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        with pytest.raises(MessageTooBig):
            await connection.receive(max_size=10)
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
@pytest.mark.parametrize("who", ["server", "client", "return", "raise", "drop"])
async def test_how_it_ends(host: Host, who: str, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)
    infos: asyncio.Queue[CloseInfo] = asyncio.Queue()

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        try:
            await connection.receive()
            if who == "server":
                await connection.close(4001, "enough")
            elif who == "raise":
                raise LookupError("a mistake")
            elif who != "return":
                await connection.receive()
        finally:
            if connection.closed:
                infos.put_nowait(await connection.wait_closed())

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
            assert frame.code == {"server": 4001, "return": 1000, "raise": 1011}[who]
            await peer.send(peer.close_frame(frame.code))
    assert ("a mistake" in caplog.text) is (who == "raise")


@hosts
async def test_a_slow_function_slows_the_sender_and_loses_nothing(host: Host) -> None:
    server = Server(limits=LIMITS)
    go = asyncio.Event()
    got: list[int] = []

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        await go.wait()
        async for message in connection:
            assert isinstance(message, bytes)
            got.append(int(message[:4]))

    async with host.serving(server) as url, raw(url) as peer:
        frames = [peer.frame(BINARY, b"%04d" % number + b"x" * 60_000) for number in range(300)]
        sending = asyncio.create_task(peer.send(*frames))
        for _ in range(300):
            await asyncio.sleep(0)
        assert not sending.done()
        go.set()
        await sending
        await turns_until(lambda: got == list(range(300)))


@hosts
async def test_closing_the_server_closes_with_1012(host: Host) -> None:
    server = Server(limits=LIMITS)

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        async for _ in connection:
            pass

    async with host.serving(server) as url, raw(url) as peer:
        await peer.send(peer.frame(TEXT, "x"))
        closing = asyncio.create_task(server.close())
        assert (await peer.next_of(CLOSE)).code == 1012
        await peer.send(peer.close_frame(1012))
        peer.drop()
        await closing
