"""A port accepts a request in one piece or in many, at once if nothing has to be awaited, and in order."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
import socket
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from attacks import opening
from core_driver import start
from leftovers import nothing_left as nothing_left
from raw_websocket import CLOSE as CLOSE_FRAME
from raw_websocket import TEXT, ask, build_frame, raw_client
from waiting import until
from websockets.utils import accept_key

from wsrpc import Handshake, Limits, Peer, Server
from wsrpc._net.loop_budget import TURN_BUDGET
from wsrpc._net.serving.listener import listen
from wsrpc._net.serving.port_connections import HANDSHAKE
from wsrpc.types import WebSocketTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=60.0, ping_interval=None)

REQUEST = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MESSAGE = b'{"a":["echo",7],"i":1}'
FRAME = bytes((0x81, 0x80 | len(MESSAGE))) + bytes(4) + MESSAGE
"""A request, masked with zeros."""
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"


async def answers(port: int, pieces: list[bytes], *, until: bytes) -> bytes:
    """Send ``pieces``, each by itself, and a Close frame when ``until`` has come; return all that was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            for _ in range(3):
                await asyncio.sleep(0)
        answer = await reader.readuntil(until)
        writer.write(CLOSE)
        return answer + await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "pieces",
    [
        [REQUEST, FRAME],
        [REQUEST + FRAME],
        [REQUEST[:-1], REQUEST[-1:] + FRAME],
        [bytes([byte]) for byte in REQUEST + FRAME],
        [REQUEST.replace(b"Host: ", b"Host:  "), FRAME],
        [REQUEST.replace(b"Connection: Upgrade", b"Connection: Upgrade, keep-alive"), FRAME],
    ],
    ids=["two", "one", "late", "bytes", "not-plain", "not-plain-answer"],
)
@pytest.mark.parametrize("path", ["at-once", "awaited"])
async def test_however_a_request_comes_it_is_answered_in_the_same_way(pieces: list[bytes], path: str) -> None:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    if path == "awaited":

        @server.on_handshake
        async def gate(handshake: Handshake) -> None:
            await asyncio.sleep(0)

    async with server.listen() as listener:
        answer = await answers(listener.port, pieces, until=b"}")
        await until(lambda: not server.peers)
        assert server.stats().bytes_in == len(b"".join(pieces)) + len(CLOSE)
    dated = re.sub(rb"Date: [^\r]*", b"Date: now", answer)
    assert dated == (
        b"HTTP/1.1 101 Switching Protocols\r\nDate: now\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key("AAECAwQFBgcICQoLDA0ODw==").encode() + b"\r\n\r\n"
        b'\x81\x0d{"i":1,"d":7}\x88\x02\x03\xe8'
    )


async def test_what_on_handshake_sets_is_seen_by_the_handlers_of_that_connection_alone() -> None:
    """Of a crowd that asks at once, too: most of it is answered in one callback of a later turn."""
    server = Server(limits=LIMITS)
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user")
    before: set[str | None] = set()
    seen: dict[str, str | None] = {}

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        before.add(user.get(None))
        user.set(handshake.query["room"])

    @server.on("open")
    def opened(peer: Peer) -> None:
        seen[peer.info.query["room"]] = user.get(None)

    async with server.listen() as listener:
        asking = [
            start(answers(listener.port, [REQUEST.replace(b"room=1", b"room=%d" % number)], until=b"\r\n\r\n"))
            for number in range(60)
        ]
        await asyncio.gather(*asking)
    assert before == {None}
    assert seen == {str(number): str(number) for number in range(60)}


async def sends_and_reads(accept: Callable[[WebSocketTransport, Handshake], Any], data: bytes) -> None:
    """Connect to a listener with ``accept``, send ``data``, and read until the connection ends."""
    listener = await listen(accept, "127.0.0.1", 0, limits=LIMITS)
    with suppress(ConnectionError):  # a reset
        await ask(listener.port, data)
    listener.stop()
    await listener.wait_closed()


async def test_what_comes_with_a_request_is_not_read_before_the_transport_is_started() -> None:
    """Compressed messages would take a thousand times as much memory while they are kept."""
    read: list[Any] = []

    def accept(transport: WebSocketTransport, handshake: Handshake) -> None:
        read.append(transport.traffic.messages_in)
        transport.abort()

    await sends_and_reads(accept, REQUEST + FRAME)
    assert read == [0]


TOO_LARGE = {
    "cookie": [REQUEST[:-2] + b"Cookie: " + b"x" * 9000 + b"\r\n\r\n"],
    "unfinished cookie": [REQUEST[:-2] + b"Cookie: ", *[b"x" * 1000] * 9],
    "many headers": [REQUEST[:-2] + b"X: 1\r\n" * 200 + b"\r\n"],
    "url": [b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n"],
}


@pytest.mark.parametrize("case", TOO_LARGE)
async def test_a_request_that_is_too_large_is_answered_and_one_warning_says_what_to_do(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing was in the log, not even at DEBUG."""
    async with Server(limits=LIMITS).listen() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        for piece in TOO_LARGE[case]:
            writer.write(piece)
        assert (await reader.readline()).startswith(b"HTTP/1.1 4")
        port = writer.get_extra_info("sockname")[1]
        writer.close()
        await ask(listener.port, b"neither HTTP nor large\r\n\r\n")
    [warning] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.startswith(f"refused a connection from 127.0.0.1:{port}, whose URL or headers, ")
    assert warning.endswith(
        "; to raise the limit, set WEBSOCKETS_MAX_LINE_LENGTH, ..._NUM_HEADERS or ..._BODY_SIZE in the environment"
    )


CROWD = 100


@contextmanager
def crowd(port: int) -> Iterator[list[socket.socket]]:
    """All connect before the event loop has another turn."""
    with ExitStack() as stack:
        connect = socket.create_connection
        yield [stack.enter_context(connect(("127.0.0.1", port), timeout=60.0)) for _ in range(CROWD)]


async def most_in_a_turn(count: Callable[[], int]) -> int:
    """Return by how many ``count`` grew in one turn of the event loop at most, until it counts the crowd."""
    most = 0
    while (before := count()) < CROWD:
        await asyncio.sleep(0)
        most = max(most, count() - before)
    return most


async def test_a_crowd_that_asks_at_once_is_let_in_a_few_at_a_time() -> None:
    server = Server(limits=Limits(close_timeout=2.0))
    asked: list[Handshake] = []
    server.on_handshake(asked.append)
    async with server.listen() as listener:
        request = opening(listener.port)
        with crowd(listener.port) as sockets:
            for each in sockets:
                each.sendall(request[:-2])
            for _ in range(10 * CROWD):  # all are accepted, and have sent what they have
                await asyncio.sleep(0)
            for each in sockets:
                each.sendall(request[-2:])
            assert await most_in_a_turn(lambda: len(asked)) <= round(TURN_BUDGET / HANDSHAKE)
            await until(lambda: len(server.peers) == CROWD)
        await until(lambda: not server.peers)


@pytest.mark.asyncio_loop
async def test_an_opening_handshake_that_takes_too_long_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    real_time = loop.time
    async with Server(limits=Limits(open_timeout=0.1)).listen() as listener:
        with socket.socket() as slow, socket.socket() as later:
            for connecting, sent in ((slow, b""), (later, b"GET / HTTP/1.1\r\nHost:")):
                began = loop.time()
                connecting.setblocking(False)
                await loop.sock_connect(connecting, ("127.0.0.1", listener.port))
                await loop.sock_sendall(connecting, sent)
                await ask(listener.port, b"no handshake\r\n\r\n")
                monkeypatch.setattr(loop, "time", lambda: real_time() + 0.05)  # the time of the other one begins later
            for connecting in (slow, later):
                while await loop.sock_recv(connecting, 1000):
                    pass
            assert loop.time() - began > 0.099, "each has its whole time"


squeeze = zlib.compressobj(wbits=-15)
SQUEEZED = (squeeze.compress(b"x" * 2000) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.parametrize(("compression", "code"), [(True, 1009), (False, 1002)])
async def test_a_compressed_message_counts_with_what_it_becomes_and_is_refused_by_default(
    compression: bool, code: int
) -> None:
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    limits = LIMITS.replace(message_bytes=1000)
    async with (Server(limits=limits, compression=True) if compression else Server(limits=limits)).listen() as listener:
        async with raw_client(listener.port, "/", offer) as raw:
            await raw.send(build_frame(TEXT, SQUEEZED, masked=True, rsv=4))
            assert (await raw.next_of(CLOSE_FRAME)).code == code
            raw.drop()


@pytest.mark.asyncio_loop
async def test_a_crowd_that_connects_at_once_is_accepted_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: list[object] = []
    real = socket.socket.accept

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        accepted.append(result := real(self))
        return result

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with Server(limits=Limits(open_timeout=0.5)).listen() as listener:
        with crowd(listener.port):
            assert await most_in_a_turn(lambda: len(accepted)) <= 8
    accepted.clear()


@pytest.mark.parametrize("awaited", [False, True])
async def test_a_connection_that_cannot_be_accepted_is_dropped_and_logged(
    awaited: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_later() -> None:
        raise ValueError("no")

    def accept(transport: WebSocketTransport, handshake: Handshake) -> Awaitable[None] | None:
        if awaited:
            return fail_later()
        raise ValueError("no")

    await sends_and_reads(accept, REQUEST)
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == "accepting a connection failed"
