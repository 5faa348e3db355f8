"""``python -m benchmarks.idle.clients PORT COUNT WITH``: opens so many connections, says how many pings came.

It answers each line with that. WITH is what the connections have: see the server.

On bare sockets, so that the clients of ten thousand connections cost little. Each says hello as wsrpc clients do, and
answers pings.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import zlib
from typing import Any

from ..servers.handlers import CERTIFICATES

PING = 0x9
AT_ONCE = 50
HELLO = json.dumps(
    {
        "ws-wrapper": False,
        "wsrpc": {"t": "hello", "v": 1, "features": ["credit", "drain"], "limits": {"message": 2**22}},
    }
).encode()


COMPRESSED = 0x40
"""The bit of a frame that says so."""


def deflated(payload: bytes) -> bytes:
    compress = zlib.compressobj(wbits=-12)
    return (compress.compress(payload) + compress.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame of at most 64 KiB; with a mask of zeros, which leaves the payload as it is."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + b"\0\0\0\0" + payload


class Idle(asyncio.Protocol):
    """One connection."""

    pings = lost = 0

    def __init__(self, port: int, compressed: bool) -> None:
        self._port = port
        self._compressed = compressed
        self._head = b""
        self._rest = b""
        self.open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        lines = [
            "GET / HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version: 13",
        ]
        if self._compressed:
            lines.append("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
        transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self.open.done():
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            if self._compressed:
                assert b"permessage-deflate" in head, head
                self._transport.write(frame(COMPRESSED | 0x1, deflated(HELLO)))
            else:
                self._transport.write(frame(0x1, HELLO))
            self.open.set_result(None)
        while len(data) >= 2:
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            if len(data) < start + size:
                break
            if data[0] & 0x0F == PING:
                Idle.pings += 1
                self._transport.write(frame(0xA, data[start : start + size]))
            data = data[start + size :]
        self._rest = data

    def connection_lost(self, exc: Exception | None) -> None:
        Idle.lost += 1
        if not self.open.done():
            self.open.set_exception(exc or ConnectionError("refused"))


async def main(port: int, count: int, having: str) -> None:
    context = None
    if having == "tls":
        context = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
        context.check_hostname = False
    loop = asyncio.get_running_loop()
    turn = asyncio.Semaphore(AT_ONCE)

    async def one() -> Any:
        async with turn:
            transport, protocol = await loop.create_connection(
                lambda: Idle(port, having == "compression"), "127.0.0.1", port, ssl=context
            )
            await protocol.open
            return transport

    kept = await asyncio.gather(*(one() for _ in range(count)))
    print("ready", flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps({"pings": Idle.pings, "lost": Idle.lost}), flush=True)
    for transport in kept:
        transport.abort()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
