"""The attackers: ``python tests/attacks.py NAME PORT MOST`` floods until its stdin ends.

All on bare sockets of 127.0.0.1, with a number of connections that is bounded, by ``MOST``, too. They run at the lowest
priority: the attackers of a real server do not share a core with its clients.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

SLOW = 1000
"""Connections of those that say little."""
EAGER = 4
"""Connections of those that say much."""
AT_ONCE = 50
MiB = 2**20

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def opening(port: int, *extra: str) -> bytes:
    lines = [
        "GET / HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version: 13",
        *extra,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def frame(text: str) -> bytes:
    """A client's text frame, with a mask of zeros."""
    payload = text.encode()
    if len(payload) < 126:
        size = bytes([0x80 | len(payload)])
    elif len(payload) < 65536:
        size = b"\xfe" + len(payload).to_bytes(2, "big")
    else:
        size = b"\xff" + len(payload).to_bytes(8, "big")
    return b"\x81" + size + b"\0\0\0\0" + payload


async def opened(port: int) -> Streams:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(opening(port))
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


# ---------------------------------------------------------------- those that say little


async def silent(port: int, began: Callable[[], None]) -> None:
    """A handshake that stops in the middle; again when it is dropped."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(opening(port)[:60])
        began()
        with suppress(OSError):
            await reader.read()
        writer.close()


async def dripping(port: int, began: Callable[[], None]) -> None:
    """A handshake of which one byte comes each second."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began()
        for byte in opening(port):
            writer.write(bytes([byte]))
            await asyncio.sleep(1)
            if reader.at_eof() or writer.is_closing():
                break
        writer.close()


# ---------------------------------------------------------------- those that say much


async def handshakes(port: int, began: Callable[[], None]) -> None:
    """Opens, and breaks off."""
    while True:
        _, writer = await opened(port)
        began()
        writer.transport.abort()


async def refusals(port: int, began: Callable[[], None]) -> None:
    """Asks for what is refused, and logged."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(opening(port, "Origin: https://elsewhere.example"))
        with suppress(OSError):
            await reader.read()
        began()
        writer.close()


async def pour(port: int, began: Callable[[], None], pieces: Callable[[], bytes]) -> None:
    """Writes ``pieces`` one after another on one connection, and reads what is answered."""
    while True:
        reader, writer = await opened(port)

        async def discard(reader: asyncio.StreamReader = reader) -> None:
            with suppress(OSError):
                while await reader.read(MiB):
                    pass

        reading = asyncio.ensure_future(discard())
        began()
        with suppress(OSError):
            while not reading.done():
                writer.write(pieces())
                await writer.drain()
                await asyncio.sleep(0)
        writer.transport.abort()
        await reading


async def cancels(port: int, began: Callable[[], None]) -> None:
    number = 0

    def pieces() -> bytes:
        nonlocal number
        number += 1000
        return b"".join(
            frame(f'{{"i":{i},"a":["wait"]}}') + frame(f'{{"i":{i},"x":"no"}}') for i in range(number - 999, number + 1)
        )

    await pour(port, began, pieces)


async def joins(port: int, began: Callable[[], None]) -> None:
    number = 0

    def pieces() -> bytes:
        nonlocal number
        number += 1000
        return b"".join(frame(f'{{"i":{i},"c":"rooms","a":["join","{i}"]}}') for i in range(number - 999, number + 1))

    await pour(port, began, pieces)


async def unknown_events(port: int, began: Callable[[], None]) -> None:
    piece = frame('{"a":["nobody",1]}') * 4000
    await pour(port, began, lambda: piece)


async def unknown_requests(port: int, began: Callable[[], None]) -> None:
    piece = frame('{"i":7,"a":["nobody",1]}') * 4000
    await pour(port, began, lambda: piece)


async def large_messages(port: int, began: Callable[[], None]) -> None:
    piece = frame('{"i":7,"a":["echo","' + "x" * (MiB - 30) + '"]}')
    await pour(port, began, lambda: piece)


ATTACKS: dict[str, tuple[Callable[[int, Callable[[], None]], Awaitable[None]], int]] = {
    "silent": (silent, SLOW),
    "dripping": (dripping, SLOW),
    "handshakes": (handshakes, AT_ONCE),
    "refusals": (refusals, AT_ONCE),
    "cancels": (cancels, EAGER),
    "joins": (joins, EAGER),
    "unknown events": (unknown_events, EAGER),
    "unknown requests": (unknown_requests, EAGER),
    "large messages": (large_messages, EAGER),
}


async def main(name: str, port: int, most: int) -> None:
    attack, count = ATTACKS[name]
    count = min(count, most)
    loop = asyncio.get_running_loop()
    begun = 0

    def began() -> None:
        nonlocal begun
        begun += 1
        if begun == count:
            print("ready", flush=True)

    async def one(number: int) -> None:
        await asyncio.sleep(number / 1000)  # the queue of connections that wait to be accepted is not what is flooded
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await attack(port, began)
            await asyncio.sleep(0.01)

    tasks = [loop.create_task(one(number)) for number in range(count)]
    await loop.run_in_executor(None, sys.stdin.readline)
    print(begun, flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


if __name__ == "__main__":
    name, port, most = sys.argv[1:]
    os.nice(19)
    asyncio.run(main(name, int(port), int(most)))
