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
from itertools import count, islice

from raw_websocket import TEXT, build_frame, handshake

SLOW = 1000
"""Connections of those that say little."""
EAGER = 4
"""Connections of those that say much."""
AT_ONCE = 50
MiB = 2**20

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Attack = Callable[[int, Callable[[], None]], Awaitable[None]]


def opening(port: int, *extra: str) -> bytes:
    return handshake("/", *extra, host=f"127.0.0.1:{port}")


def frame(text: str) -> bytes:
    return build_frame(TEXT, text.encode(), masked=True)


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


def pouring(*texts: str, times: int = 4000) -> Attack:
    """Sends the texts again and again; with ``%i`` in them, a thousand times with numbers that go on."""

    async def attack(port: int, began: Callable[[], None]) -> None:
        same = b"".join(map(frame, texts)) * times
        numbers = count(1)

        def pieces() -> bytes:
            if "%i" not in texts[0]:
                return same
            return b"".join(frame(text.replace("%i", str(i))) for i in islice(numbers, 1000) for text in texts)

        await pour(port, began, pieces)

    return attack


# ---------------------------------------------------------------- over HTTP


def requesting(head: str, body: bytes = b"", *, leaves: bool = False) -> Attack:
    """Makes the same request again and again on one connection, or leaves as soon as the response begins."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""

    async def attack(port: int, began: Callable[[], None]) -> None:
        request = f"{head}Host: 127.0.0.1:{port}\r\n{length}\r\n".encode() + body
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                while not writer.is_closing():
                    writer.write(request)
                    await writer.drain()
                    await reader.readuntil(b"\r\n\r\n")
                    began()
                    if leaves:
                        break
            writer.transport.abort()

    return attack


def opening_request(how: str) -> str:
    return f"POST /ws HTTP/1.1\r\nWsrpc-Transport: {how}\r\n"


def posting(path: str, *headers: str) -> str:
    return "".join(f"{line}\r\n" for line in (f"POST {path} HTTP/1.1", "Content-Type: application/json", *headers))


HTTP_ATTACKS: dict[str, tuple[Attack, int]] = {
    "streams that nobody reads": (requesting(opening_request("stream"), leaves=True), AT_ONCE),
    "connections that are not polled": (requesting(opening_request("poll")), AT_ONCE),
    "ids that nobody has": (
        requesting(posting("/ws", "Wsrpc-Connection: a.b", "Wsrpc-Number: 1"), bytes(MiB // 4)),
        EAGER,
    ),
    "calls as URLs": (requesting(posting("/api/call/echo"), b'["' + b"x" * 1000 + b'"]'), EAGER),
    "calls that are left": (requesting(posting("/api/call/wait", "Expect: 100-continue"), b"[]", leaves=True), AT_ONCE),
    "runs that are left": (requesting(posting("/api/runs/endless/k"), b"[]", leaves=True), AT_ONCE),
    "rooms that are left": (requesting("GET /api/rooms/lobby HTTP/1.1\r\n", leaves=True), AT_ONCE),
}

PROBE = '{"ws-wrapper":false,"wsrpc":{"t":"probe"}}'
HELLO = '{"ws-wrapper":false,"wsrpc":{"t":"hello","v":1,"features":["probe"],"limits":{}}}'

ATTACKS: dict[str, tuple[Attack, int]] = {
    "silent": (silent, SLOW),
    "handshakes": (handshakes, AT_ONCE),
    "refusals": (refusals, AT_ONCE),
    "cancels": (pouring('{"i":%i,"a":["wait"]}', '{"i":%i,"x":"no"}'), EAGER),
    "joins": (pouring('{"i":%i,"c":"rooms","a":["join","%i"]}'), EAGER),
    "unknown events": (pouring('{"a":["nobody",1]}'), EAGER),
    "unknown requests": (pouring('{"i":7,"a":["nobody",1]}'), EAGER),
    "probes": (pouring(HELLO, *[PROBE] * 100, times=100), EAGER),
    "large messages": (pouring('{"i":7,"a":["echo","' + "x" * (MiB - 30) + '"]}', times=1), EAGER),
}


async def main(name: str, port: int, most: int) -> None:
    attack, size = {**ATTACKS, **HTTP_ATTACKS}[name]
    size = min(size, most)
    loop = asyncio.get_running_loop()
    begun = 0

    def began() -> None:
        nonlocal begun
        begun += 1
        if begun == size:
            print("ready", flush=True)

    async def one(number: int) -> None:
        await asyncio.sleep(number / 1000)  # the queue of connections that wait to be accepted is not what is flooded
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await attack(port, began)
            await asyncio.sleep(0.01)

    tasks = [loop.create_task(one(number)) for number in range(size)]
    await loop.run_in_executor(None, sys.stdin.readline)
    print(begun, flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


if __name__ == "__main__":
    name, port, most = sys.argv[1:]
    os.nice(19)
    asyncio.run(main(name, int(port), int(most)))
