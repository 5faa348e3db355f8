"""The other side of a WebSocket, frame by frame on a bare socket, for tests.

It does what the test says and nothing else: it answers no Close frame and no ping, reads only when told, and
sends whatever bytes it is given. What it shares with the code under test is RFC 6455.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

PATIENCE = 60.0
"""Seconds after which a test that waits for bytes fails. Nothing passes because of it."""


def build_frame(
    opcode: int, payload: bytes = b"", *, masked: bool, fin: bool = True, rsv: int = 0, size: int | None = None
) -> bytes:
    """One frame; ``size`` claims another length than that of the payload."""
    length = len(payload) if size is None else size
    first = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if masked else 0
    if length < 126:
        head = first + bytes([bit | length])
    elif length < 65536:
        head = first + bytes([bit | 126]) + struct.pack("!H", length)
    else:
        head = first + bytes([bit | 127]) + struct.pack("!Q", length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + _masked(payload, mask)


def _masked(payload: bytes, mask: bytes) -> bytes:
    repeated = mask * (len(payload) // 4 + 1)
    number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[: len(payload)], "big")
    return number.to_bytes(len(payload), "big")


@dataclass(frozen=True)
class RawFrame:
    """One frame that the code under test sent; the payload is unmasked."""

    opcode: int
    payload: bytes
    fin: bool
    masked: bool

    @property
    def code(self) -> int:
        """The code of a Close frame, 1005 if there was none."""
        assert self.opcode == CLOSE, self
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else 1005

    @property
    def reason(self) -> str:
        """The reason of a Close frame."""
        return self.payload[2:].decode()


class RawPeer:
    """One end, after the opening handshake; ``client`` says which."""

    def __init__(self, sock: socket.socket, *, client: bool, request: bytes, received: bytes = b"") -> None:
        self.sock = sock
        self.client = client
        self.request = request
        self._buffer = bytearray(received)

    # Out.

    def frame(self, opcode: int, payload: bytes | str = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
        """A frame as this side has to build it."""
        data = payload.encode() if isinstance(payload, str) else payload
        return build_frame(opcode, data, masked=self.client, fin=fin, rsv=rsv)

    def close_frame(self, code: int | None = 1000, reason: str = "") -> bytes:
        """A Close frame, also with codes that may not be sent."""
        return self.frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())

    async def send(self, *frames: bytes) -> None:
        """Send in one write."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(frames))

    # In.

    async def read(self) -> bytes:
        """What one read from the socket brings; empty at the end. What was left over from frames comes first."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        return await _received(self.sock)

    async def exactly(self, count: int) -> bytes:
        """Read this many bytes."""
        while len(self._buffer) < count:
            if not (data := await _received(self.sock)):
                raise EOFError(f"the connection ended, with {bytes(self._buffer[:100])!r} unread")
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def next_frame(self) -> RawFrame:
        """Read one frame."""
        first, second = await self.exactly(2)
        size = second & 0x7F
        if size == 126:
            size = struct.unpack("!H", await self.exactly(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", await self.exactly(8))[0]
        mask = await self.exactly(4) if second & 0x80 else b""
        payload = await self.exactly(size)
        return RawFrame(first & 0x0F, _masked(payload, mask) if mask else payload, bool(first & 0x80), bool(mask))

    async def next_of(self, opcode: int) -> RawFrame:
        """Read until a frame of this kind."""
        while True:
            frame = await self.next_frame()
            if frame.opcode == opcode:
                return frame

    async def read_to_end(self) -> bytes:
        """Everything until the other side ends the TCP connection, in whatever way."""
        data = bytearray()
        with suppress(ConnectionError):
            while piece := await self.read():
                data += piece
        return bytes(data)

    # The end.

    def drop(self) -> None:
        """End the TCP connection in good order, without a Close frame."""
        self.sock.close()

    def reset(self) -> None:
        """Break the TCP connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


async def _received(sock: socket.socket) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.get_running_loop().sock_recv(sock, 1 << 20)


def _prepare(sock: socket.socket) -> None:
    """For the event loop, and each write leaves at once: Nagle's algorithm holds a second one back for up to 40 ms."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _head(sock: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (piece := await _received(sock)):
            raise EOFError(f"the connection ended in the opening handshake, after {data!r}")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def accept_response(request: bytes, *extra: str) -> bytes:
    """The answer that opens the connection."""
    key = next(
        line.split(b":", 1)[1].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    )
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    return "\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}", *extra, "", ""]).encode()


class RawServer:
    """A listening socket. `accept` takes one connection and opens it; `accept_tcp` leaves that to the test."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.port: int = sock.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}/"
        self.peers: list[socket.socket] = []

    async def accept_tcp(self) -> socket.socket:
        async with asyncio.timeout(PATIENCE):
            sock, _ = await asyncio.get_running_loop().sock_accept(self.sock)
        _prepare(sock)
        self.peers.append(sock)
        return sock

    async def refuse(self, status: str, body: str = "", *extra: str) -> bytes:
        """Answer one attempt to connect with ``status``, such as ``"403 Forbidden"``; ``extra`` are header lines.

        Returns the head of the request.
        """
        sock = await self.accept_tcp()
        request, _ = await _head(sock)
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *extra]
        answer = "\r\n".join(lines) + f"\r\n\r\n{body}"
        await asyncio.get_running_loop().sock_sendall(sock, answer.encode())
        sock.close()
        return request

    async def accept(self, *extra: str, early: Callable[[RawPeer], bytes] | None = None) -> RawPeer:
        """Open one connection; ``extra`` header lines, ``early`` bytes that leave with the answer."""
        sock = await self.accept_tcp()
        request, rest = await _head(sock)
        peer = RawPeer(sock, client=False, request=request, received=rest)
        await peer.send(accept_response(request, *extra), early(peer) if early is not None else b"")
        return peer


@asynccontextmanager
async def raw_server(*, receive_buffer: int | None = None) -> AsyncGenerator[RawServer]:
    """Listen on a free port; everything is closed at the end."""
    with socket.socket() as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        sock.setblocking(False)
        server = RawServer(sock)
        try:
            yield server
        finally:
            for peer in server.peers:
                peer.close()


def handshake(path: str = "/", *headers: str, host: str = "127.0.0.1") -> bytes:
    """A client's opening request."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    return "\r\n".join([*lines, f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", *headers, "", ""]).encode()


@asynccontextmanager
async def asking(
    port: int,
    request: bytes,
    *,
    meanwhile: Callable[[socket.socket], Awaitable[object]] | None = None,
    receive_buffer: int | None = None,
) -> AsyncGenerator[tuple[bytes, RawPeer]]:
    """Connect, send a request, do something ``meanwhile``, and read the head of the response.

    The socket is closed at the end.
    """
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        _prepare(sock)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, request)
        if meanwhile is not None:
            await meanwhile(sock)
        head, rest = await _head(sock)
        yield head, RawPeer(sock, client=True, request=request, received=rest)


@asynccontextmanager
async def raw_client(
    port: int, path: str = "/", *headers: str, early: bytes = b"", receive_buffer: int | None = None
) -> AsyncGenerator[RawPeer]:
    """Connect and open; ``early`` bytes leave with the request. The socket is closed at the end."""
    request = handshake(path, *headers, host=f"127.0.0.1:{port}")
    async with asking(port, request + early, receive_buffer=receive_buffer) as (head, peer):
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(head.split(b"\r\n")[0].decode())
        yield peer


async def ask(port: int, request: bytes) -> bytes:
    """Send a request that is no good and return the whole answer."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        _prepare(sock)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, request)
        return await RawPeer(sock, client=True, request=request).read_to_end()


async def head_of(port: int, request: bytes) -> bytes:
    """Send a request, return the head of the answer and drop the connection."""
    async with asking(port, request) as (head, _):
        return head
