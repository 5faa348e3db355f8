"""Several processes behind one port, with sticky clients: `python examples/workers.py` (not on Windows).

A worker listens on a port of its own, and knows only its own connections. The balancer sends the clients that name the
same room to the same worker, so that a room is in one place. Clients without a room are sorted by their address. In
production nginx, HAProxy or an ingress does that (docs/how-to/deploy.md has the lines). Here it is a few lines of
asyncio.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import signal
import sys
from contextlib import suppress

from wsrpc import Client, Peer, Reconnect, Retry, Room, Server

WORKERS = 3
ROOM = re.compile(rb"^GET \S*[?&]room=([^&\s]+)")


# ---------------------------------------------------------------- a worker: this file with a number


async def work(number: int) -> None:
    server = Server()
    server.on("where", lambda: number)

    def room_of(peer: Peer) -> Room:
        return server.room(peer.info.query["room"])

    @server.on("open")
    def enter(peer: Peer) -> None:
        room_of(peer).add(peer)

    @server.on("say")
    async def say(peer: Peer, text: str) -> int:
        return (await room_of(peer).emit("said", text)).sent

    closing: list[asyncio.Task[None]] = []  # server.run() would do this, but does not tell its port
    loop = asyncio.get_running_loop()
    async with server.listen("127.0.0.1", 0) as listener:
        drain = lambda: closing.append(loop.create_task(server.close(drain_timeout=10)))  # noqa: E731
        loop.add_signal_handler(signal.SIGTERM, drain)
        print(listener.port, flush=True)
        await server.serve_forever()


# ---------------------------------------------------------------- the balancer


class Balancer:
    """Connects each client to its worker, one of those on ``ports``."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports

    def in_turn(self, key: bytes) -> list[int]:
        """The workers for clients with ``key``, the best first. When a worker ends, only its own clients move."""
        return sorted(self.ports, key=lambda port: hashlib.sha256(b"%d %b" % (port, key)).digest())

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                request = await reader.readuntil(b"\r\n\r\n")
                found = ROOM.match(request)
                there = await self.connect(found[1] if found else str(writer.get_extra_info("peername")[0]).encode())
            there[1].write(request)
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(copy(reader, there[1]))
                both_ways.create_task(copy(there[0], writer))
        except* (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # a drop, something that is not a request, or no worker: hang up
        finally:
            writer.close()

    async def connect(self, key: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for port in self.in_turn(key):
            with suppress(OSError):  # it drains or has ended: try the next one
                return await asyncio.open_connection("127.0.0.1", port)
        raise ConnectionRefusedError("no worker")


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


# ---------------------------------------------------------------- a run of it


async def main() -> None:
    logging.getLogger("wsrpc").setLevel(logging.ERROR)  # drops are warnings, and expected here
    processes: list[asyncio.subprocess.Process] = [
        await asyncio.create_subprocess_exec(sys.executable, __file__, str(number), stdout=asyncio.subprocess.PIPE)
        for number in range(WORKERS)
    ]
    try:
        ports = [int(await process.stdout.readline()) for process in processes if process.stdout]
        balancer = await asyncio.start_server(Balancer(ports).connected, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{balancer.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(30), balancer:
            await look(url, processes)
    finally:
        for process in processes:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def look(url: str, processes: list[asyncio.subprocess.Process]) -> None:
    rooms = ("kitchen", "garden", "attic", "cellar")
    soon = Reconnect(initial=0.1, max=0.1)
    clients = {(room, n): Client(f"{url}/?room={room}", reconnect=soon) for room in rooms for n in (1, 2)}
    heard: asyncio.Queue[str] = asyncio.Queue()
    clients["attic", 2].on("said", heard.put_nowait)
    for client in clients.values():
        await client.connect()
    places = {key: await client.request("where") for key, client in clients.items()}
    for room in rooms:
        assert places[room, 1] == places[room, 2]
    print(f"{len(clients)} clients of {len(rooms)} rooms, those of one room at one worker")
    assert await clients["attic", 1].request("say", "hello") == 2
    print(f"the attic hears: {await heard.get()}")

    leaving = processes[int(places["attic", 1])]
    leaving.terminate()  # a deployment: it drains
    await leaving.wait()
    again = Retry(initial=0.1)  # a client may not know yet that its worker has ended
    after = {key: await client.request("where", retry=again, idempotent=True) for key, client in clients.items()}
    assert after["attic", 1] == after["attic", 2] != places["attic", 1]
    assert all(after[key] == place for key, place in places.items() if place != places["attic", 1])
    assert await clients["attic", 1].request("say", "still here") == 2
    print(f"one worker went, its rooms are together elsewhere: {await heard.get()}")
    for client in clients.values():
        await client.close()


if __name__ == "__main__":
    asyncio.run(work(int(sys.argv[1])) if len(sys.argv) > 1 else main())
