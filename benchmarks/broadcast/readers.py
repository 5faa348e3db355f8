"""``python -m benchmarks.broadcast.readers PORT COUNT STUCK``: so many that read, and so many that never do.

Says ``ready``; each line ``MESSAGES SIZE`` says how much comes now; the answer is when all had all of it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from typing import Any

from ..floods.attacks import AT_ONCE, opening

PATIENCE = 120.0


class Reader(asyncio.Protocol):
    """Counts bytes: of frames that are all alike it is enough to know how many came."""

    wanted = 0
    finished = 0
    all_finished: asyncio.Event
    readers = 0

    def __init__(self, port: int) -> None:
        self._port = port
        self._head = b""
        self._received = 0
        self.open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        transport.write(opening(self._port))

    def data_received(self, data: bytes) -> None:
        if not self.open.done():
            self._head += data
            _, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self.open.set_result(None)
        before = self._received
        self._received += len(data)
        if before < Reader.wanted <= self._received:
            Reader.finished += 1
            if Reader.finished == Reader.readers:
                Reader.all_finished.set()

    def start(self) -> None:
        self._received = 0


def expected(messages: int, size: int) -> int:
    """Bytes that arrive at each reader."""
    total = 0
    for number in range(messages):
        payload = len(json.dumps({"a": ["n", number, "x" * size]}, separators=(",", ":")))
        total += payload + (2 if payload < 126 else 4 if payload < 65536 else 10)
    return total


def stuck(port: int) -> socket.socket:
    """A connection that opens and then reads nothing, with a small buffer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(opening(port))
    while b"\r\n\r\n" not in sock.recv(4096, socket.MSG_PEEK):
        pass
    return sock


async def main(port: int, count: int, stuck_ones: int) -> None:
    loop = asyncio.get_running_loop()
    turn = asyncio.Semaphore(AT_ONCE)
    Reader.readers, Reader.all_finished = count, asyncio.Event()

    async def one() -> Reader:
        async with turn:
            _, reader = await loop.create_connection(lambda: Reader(port), "127.0.0.1", port)
            await reader.open
            return reader

    readers = await asyncio.gather(*(one() for _ in range(count)))
    silent = [stuck(port) for _ in range(stuck_ones)]
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        for reader in readers:
            reader.start()
        messages, size = map(int, line.split())
        Reader.wanted, Reader.finished = expected(messages, size), 0
        Reader.all_finished.clear()
        print("set", flush=True)
        await asyncio.wait_for(Reader.all_finished.wait(), PATIENCE)
        print(time.monotonic(), flush=True)
    for sock in silent:
        sock.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
